"""Least squares at every voxel, in the whole sample and in its subsets."""
