"""Finished statistic maps, thresholded and converted after the fact."""
