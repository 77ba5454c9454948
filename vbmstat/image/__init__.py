"""Images: grids, volumes and resampling; image files, their headers, and writing files whole or not at all."""
