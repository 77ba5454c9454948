"""Corrected inference: p-values, clusters, power, permutations."""
