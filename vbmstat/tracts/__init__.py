"""White-matter tracts of a T1w scan: TractSeg's 72 names, reference masks, a prior in template space."""
