"""Volumes of atlas regions from modulated maps in template space, made by any program."""
