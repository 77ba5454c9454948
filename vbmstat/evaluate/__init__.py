"""Engines against the truth and against one another."""
