"""White-matter tracts from T1w images."""
