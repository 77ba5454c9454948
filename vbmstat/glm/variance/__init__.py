"""Estimators of the variance of a contrast."""
