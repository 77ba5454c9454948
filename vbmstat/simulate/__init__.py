"""Synthetic T1w images and cohorts whose truth is known: the ground truth of examples and tests.

`labels`: what the values of a whole-head label map are; `render`: label map or tissue fractions -> T1w image;
`anatomy`: a template -> a person (random shape, known local effect); `cohort`: a BIDS folder of such people.
"""

from vbmstat.simulate.labels import tissue_labels
from vbmstat.simulate.render import render_t1w

__all__ = ["render_t1w", "tissue_labels"]
