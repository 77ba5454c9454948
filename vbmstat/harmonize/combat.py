"""ComBat: site effects on mean and variance, estimated by empirical Bayes over voxels, and removed from maps.

The model of a scan of site i at voxel v is Y = α_v + x'β_v + γ_iv + δ_iv ε with ε ~ N(0, σ_v²). After least squares,
Z = (Y - α - x'β) / σ; then γ_iv ~ N(γ̄_i, τ_i²) and δ²_iv ~ inverse gamma(λ_i, θ_i), whose parameters come from moments
over the voxels, give the posterior means γ* and δ²* (Johnson, Li & Rabinovic 2007, section 3.2,
doi:10.1093/biostatistics/kxj037; for images Fortin et al. 2017, doi:10.1016/j.neuroimage.2017.08.047, and 2018,
doi:10.1016/j.neuroimage.2017.11.024). A voxel enters by its coefficients and a sum of squares a site, so that maps are
read once, in voxel chunks, float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vbmstat.errors import DesignError
from vbmstat.maps.store import CHUNK_VOXELS, Maps
from vbmstat.progress import OnProgress

_READ_VOXELS = 16 * CHUNK_VOXELS
_TOLERANCE = 1e-8  # of γ* (in residual standard deviations) and of δ²* (relative)
_MAX_ITERATIONS = 1000
_MIN_VOXELS = 3  # to have a variance over voxels


@dataclass(frozen=True)
class SiteEffects:
    """What ComBat learned, arrays over voxels, float64."""

    sites: tuple[str, ...]  # sorted
    n_scans: np.ndarray  # (S,), int: scans of each site
    centre: np.ndarray  # (p,): means of the preserved covariates, which α refers to
    mean: np.ndarray  # (n_voxels,): α at the covariates' means, the mean of the sites weighted by their scans
    slopes: np.ndarray  # (p, n_voxels): β of the preserved covariates
    sd: np.ndarray  # (n_voxels,): σ: root of the mean squared residual
    # (S, n_voxels): γ* (in units of σ) and δ* squared, each site's
    gamma: np.ndarray
    delta: np.ndarray
    adjusted: np.ndarray  # (n_voxels,), bool: voxels that are harmonised
    # (n_voxels,), bool: voxels that do not vary over all scans, or over those of one site: left alone
    constant: np.ndarray

    def adjust(self, values: np.ndarray, sites: Sequence[str], covariates: np.ndarray) -> np.ndarray:
        """Remove the site effects from maps.

        Parameters
        ----------
        values : ndarray, (n_scans, n_voxels)
            Maps, in any precision; voxels that are not adjusted come back as they are.
        sites : sequence of str
            Site of each scan, one of those learned.
        covariates : ndarray, (n_scans, p)
            The preserved covariates, columns as in learning.

        Returns
        -------
        ndarray, (n_scans, n_voxels)
            α + x'β + σ (Z - γ*) / δ*, in the precision of `values`.

        Raises
        ------
        DesignError
            If a site was not learned.
        """
        unknown = sorted(set(sites) - set(self.sites))
        if unknown:
            known = ", ".join(self.sites)
            msg = f"site {', '.join(unknown)} was not in the scans that were learned from ({known}); learn with it"
            raise DesignError(msg)
        at = self.adjusted
        out = np.array(values)
        for row, site in enumerate(sites):
            i = self.sites.index(site)
            expected = self.mean[at] + (covariates[row] - self.centre) @ self.slopes[:, at]
            residual = values[row, at] - expected - self.sd[at] * self.gamma[i, at]
            out[row, at] = expected + residual / np.sqrt(self.delta[i, at])
        return out


def learn_site_effects(
    maps: Maps,
    sites: Sequence[str],
    covariates: np.ndarray,
    columns: Sequence[str] = (),
    progress: OnProgress | None = None,
) -> SiteEffects:
    """Estimate site effects by parametric empirical Bayes.

    Parameters
    ----------
    maps : Maps
        (n_scans, n_voxels); only voxels of its mask are harmonised.
    sites : sequence of str
        Site of each scan.
    covariates : ndarray, (n_scans, p)
        What is to be preserved, without a constant.
    columns : sequence of str
        Names of the covariates, for messages.
    progress : callable, optional
        Called with (stage, done, total).

    Returns
    -------
    SiteEffects

    Raises
    ------
    DesignError
        If there is one site, one with one scan, covariates cannot be separated from sites, or fewer than 3 voxels vary.

    Notes
    -----
    As in neuroCombat and sva, σ² divides by the number of scans, and moments over voxels by their number less one.
    """
    names, members = np.unique(np.asarray(sites, dtype=object).astype(str), return_inverse=True)
    n_scans = np.bincount(members)
    _check_sites(names, n_scans)
    order = np.argsort(members, kind="stable")
    starts = np.concatenate([[0], np.cumsum(n_scans)[:-1]])
    centre = covariates.mean(axis=0)
    centred = (covariates - centre)[order]
    solve = _least_squares(members[order], centred, names, columns)
    shape = (len(names), maps.n_voxels)
    site_means, squares = np.zeros(shape), np.zeros(shape)
    slopes = np.zeros((covariates.shape[1], maps.n_voxels))
    constant = np.zeros(maps.n_voxels, dtype=bool)
    for start in range(0, maps.n_voxels, _READ_VOXELS):
        at = slice(start, min(start + _READ_VOXELS, maps.n_voxels))
        values = maps.read(at.start, at.stop)[order].astype(np.float64)  # (n, v), scans of a site side by side
        low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
        constant[at] = (low == high).any(axis=0)
        coefficients = solve @ values  # (S + p, v)
        site_means[:, at], slopes[:, at] = np.split(coefficients, [len(names)])
        values -= site_means[:, at].repeat(n_scans, axis=0) + centred @ slopes[:, at]
        squares[:, at] = np.add.reduceat(values**2, starts)
        if progress:
            progress("learning sites", at.stop, maps.n_voxels)
    mean = n_scans @ site_means / n_scans.sum()
    sd = np.sqrt(squares.sum(axis=0) / n_scans.sum())
    adjusted = maps.mask & ~constant & (sd > 0)
    if adjusted.sum() < _MIN_VOXELS:
        msg = f"{int(adjusted.sum())} voxels or columns vary within every site; ComBat needs at least {_MIN_VOXELS}"
        raise DesignError(msg)
    gamma, delta = np.zeros(shape), np.ones(shape)
    for i, n in enumerate(n_scans):
        shift = (site_means[i, adjusted] - mean[adjusted]) / sd[adjusted]  # γ̂: the mean of Z over the site
        spread = squares[i, adjusted] / sd[adjusted] ** 2 / (n - 1)  # δ̂²: the variance of Z over the site
        gamma[i, adjusted], delta[i, adjusted] = shrink(shift, spread, int(n))
    return SiteEffects(tuple(names.tolist()), n_scans, centre, mean, slopes, sd, gamma, delta, adjusted, constant)


def _check_sites(names: np.ndarray, n_scans: np.ndarray) -> None:
    single = [str(name) for name, n in zip(names, n_scans, strict=True) if n == 1]
    if single:
        msg = (
            f"site {', '.join(single)} has one scan, which has no variance to learn from; "
            "leave such scans out or join the site with another of the same scanner"
        )
        raise DesignError(msg)
    if len(names) < 2:
        msg = f"all scans are of the one site {', '.join(names)}; there is nothing to harmonise"
        raise DesignError(msg)


def _least_squares(members: np.ndarray, centred: np.ndarray, names: np.ndarray, columns: Sequence[str]) -> np.ndarray:
    """Rows that give each site's mean and each slope, (S + p, n)."""
    norms = np.linalg.norm(centred, axis=0)
    scale = np.where(norms > 0, norms, 1.0)
    design = np.hstack([np.eye(len(names))[members], centred / scale])
    if np.linalg.matrix_rank(design, tol=1e-9 * np.sqrt(len(members))) < design.shape[1]:
        what = ", ".join(columns) or "the covariates"
        msg = f"site and {what} cannot be separated: a covariate is constant within every site, or a sum of others"
        raise DesignError(msg)
    return np.asarray(np.linalg.pinv(design) / np.concatenate([np.ones(len(names)), scale])[:, None])


def shrink(shift: np.ndarray, spread: np.ndarray, n_scans: int) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means of one site's shift and variance at every voxel.

    Parameters
    ----------
    shift, spread : ndarray, (n_voxels,)
        γ̂ and δ̂² of the site.
    n_scans : int
        Scans of the site.

    Returns
    -------
    gamma, delta : ndarray, (n_voxels,)
        γ* and δ²*, which solve γ* = (n τ² γ̂ + δ²* γ̄) / (n τ² + δ²*) and
        δ²* = (θ + ½ Σ_j (Z_j - γ*)²) / (n/2 + λ - 1), with Σ_j (Z_j - γ*)² = (n - 1) δ̂² + n (γ̂ - γ*)².

    Notes
    -----
    Hyperparameters by moments over voxels: γ̄, τ² of γ̂; with m, s² of δ̂², λ = (m² + 2 s²) / s² and θ = (m³ + m s²) / s².
    """
    middle, width = shift.mean(), shift.var(ddof=1)
    m, s2 = spread.mean(), spread.var(ddof=1)
    if s2 == 0:  # the prior is a point
        return (n_scans * width * shift + m * middle) / (n_scans * width + m), np.full_like(spread, m)
    shape, rate = (m**2 + 2 * s2) / s2, (m**3 + m * s2) / s2
    gamma, delta = shift, spread
    for _ in range(_MAX_ITERATIONS):
        new_gamma = (n_scans * width * shift + delta * middle) / (n_scans * width + delta)
        squares = (n_scans - 1) * spread + n_scans * (shift - new_gamma) ** 2
        new_delta = (rate + squares / 2) / (n_scans / 2 + shape - 1)
        moved = max(np.abs(new_gamma - gamma).max(), (np.abs(new_delta - delta) / new_delta).max())
        gamma, delta = new_gamma, new_delta
        if moved < _TOLERANCE:
            break
    return gamma, delta
