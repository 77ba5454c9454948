"""Grids, volumes and resampling; image files and their headers; atomic writes."""
