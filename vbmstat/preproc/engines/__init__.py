"""Preprocessing engines: objects with the same methods, chosen once by name."""
