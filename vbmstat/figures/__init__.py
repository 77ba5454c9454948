"""Figures: pure functions from values to a matplotlib Figure (no pyplot, no global state)."""
