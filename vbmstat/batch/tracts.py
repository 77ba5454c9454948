"""Tracts."""
