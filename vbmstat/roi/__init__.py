"""Volumes of atlas regions from modulated maps in template space, whoever made the maps."""
