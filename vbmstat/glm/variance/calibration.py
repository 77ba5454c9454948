"""False positives of a test on noise with the design of the model.

Robust variances and effective degrees of freedom are approximations that fail in small or unbalanced designs, each in
its own way. So the estimator is run on a few thousand voxels of noise with the same design and no effect, and a note
gives the share of p < .05 if that is not about 5 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vbmstat.glm.fit.plan import ContrastPlan, Plan
from vbmstat.glm.fit.tile import Fit
from vbmstat.glm.inference.p_values import p_of_f, p_two_sided
from vbmstat.maps.store import Scratch, Space

N_VOXELS = 16384  # of noise: the standard error of a share of 5 % is .17 %
BAND = (0.04, 0.06)  # of null voxels with p < .05 that need no note
REPEATED = (0.0, 0.8)  # correlations of repeated scans that are tried
_LEVEL = 0.05
_SEED = 20250707


@dataclass(frozen=True)
class NoiseMaps:
    """Noise in place of maps: normal errors whose variance is that of the model; the same at every call."""

    scan_ids: tuple[str, ...]  # row names
    scale: np.ndarray  # (n_scans,): standard deviation of each scan
    subjects: np.ndarray  # (n_scans,), int: subject of each scan
    correlation: float = 0.0  # of the scans of one subject; scans of different ones are independent
    n_voxels: int = N_VOXELS  # how many columns
    space: Space | None = None

    @classmethod
    def of_plan(
        cls, plan: Plan, scan_ids: Sequence[str], subjects: Sequence[str] | None = None, correlation: float = 0.0
    ) -> NoiseMaps:
        """Errors with the variances that a plan's weights imply, before its scaling of scans."""
        names = scan_ids if subjects is None else subjects
        codes = np.unique(np.asarray(names, dtype=object).astype(str), return_inverse=True)[1]
        return cls(tuple(scan_ids), 1 / (plan.scan_weights * plan.scan_scale), codes.reshape(-1), correlation)

    @property
    def dtype(self) -> np.dtype:
        """Double precision."""
        return np.dtype(np.float64)

    @property
    def mask(self) -> np.ndarray:
        """All columns."""
        return np.ones(self.n_voxels, dtype=bool)

    def read(self, start: int, stop: int, scratch: Scratch | None = None) -> np.ndarray:
        """Columns ``start`` to ``stop``, (n_scans, stop - start)."""
        rng = np.random.default_rng([_SEED, start])
        noise = rng.standard_normal((len(self.scan_ids), stop - start))
        if self.correlation:
            shared = rng.standard_normal((self.subjects.max() + 1, stop - start))[self.subjects]
            noise = np.sqrt(1 - self.correlation) * noise + np.sqrt(self.correlation) * shared
        return np.asarray(noise * self.scale[:, None])

    def select(self, scan_ids: Sequence[str]) -> NoiseMaps:
        """The rows of these scans; other noise."""
        rows = [self.scan_ids.index(scan) for scan in scan_ids]
        return replace(self, scan_ids=tuple(scan_ids), scale=self.scale[rows], subjects=self.subjects[rows])


def null_shares(fit: Fit, contrasts: Sequence[ContrastPlan]) -> list[float]:
    """Share of a fit's voxels with an uncorrected p below .05, of each contrast."""
    shares = []
    for statistic, df, contrast in zip(fit.statistic, fit.df, contrasts, strict=True):
        p = p_two_sided(statistic, df) if contrast.kind == "t" else p_of_f(statistic, len(contrast.rows), df)
        shares.append(float((p[fit.mask] < _LEVEL).mean()))
    return shares


def calibration_notes(fits: Mapping[float, Fit], contrasts: Sequence[ContrastPlan]) -> tuple[str, ...]:
    """A line on contrasts whose p are too small on noise, and one on those whose p are too large.

    `fits` are fits of :class:`NoiseMaps` by the correlation inside a subject.
    """
    shares = {correlation: null_shares(fit, contrasts) for correlation, fit in fits.items()}
    small, large = {}, {}
    for k, contrast in enumerate(contrasts):
        share = max((of_fit[k] for of_fit in shares.values()), key=lambda one: abs(one - _LEVEL))
        if share < BAND[0]:
            large[contrast.name] = share
        elif share > BAND[1]:
            small[contrast.name] = share
    mildly = large and min(large.values()) >= _LEVEL / 2
    notes = [
        _calibration_note(small, "p are too small", "; take p by permutation"),
        _calibration_note(large, f"p are {'a little ' if mildly else ''}too large", ""),
    ]
    return tuple(filter(None, notes))


def _calibration_note(shares: Mapping[str, float], what: str, advice: str) -> str:
    """The note on contrasts with such shares; empty for none."""
    if not shares:
        return ""
    low, high = (f"{100 * edge:.1f}" for edge in (min(shares.values()), max(shares.values())))
    share = low if low == high else f"{low} to {high}"
    names = f"contrast{'s' if len(shares) > 1 else ''} {', '.join(map(repr, shares))}"
    return f"{names}: {what}: on pure noise {share} % instead of 5 % of voxels reach p < .05{advice}"
