"""Synthetic T1w images and cohorts with known ground truth, for examples and tests.

`labels`: tissue and intensity of label values; `render`: label map or tissue fractions -> T1w image; `artefacts`:
artefacts of scanner and patient; `atrophy`: the same head with a thinner cortex; `anatomy`: template -> a person's
shape and tissue with a known local effect; `head`: that person on a scan's grid; `cohort`: a BIDS folder of people.
"""

from vbmstat.simulate.anatomy import Sphere, parse_region
from vbmstat.simulate.cohort import Settings, simulate_cohort
from vbmstat.simulate.labels import tissue_labels
from vbmstat.simulate.render import render_t1w

__all__ = ["Settings", "Sphere", "parse_region", "render_t1w", "simulate_cohort", "tissue_labels"]
