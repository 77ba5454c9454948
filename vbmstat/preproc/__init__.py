"""Preprocessing: each step is a pure function of volumes; only `pipeline` knows their order."""
