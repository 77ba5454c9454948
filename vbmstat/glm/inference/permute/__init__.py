"""Permutation tests: exchangeability blocks, schemes, null distributions, tails."""
