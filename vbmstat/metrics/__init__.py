"""Agreement of maps, accuracy of segmentations and warps, homogeneity of cohorts."""
