"""Classes of a brain's histogram: how bright CSF, GM and WM are, whatever an atlas says about their places."""

from __future__ import annotations

import math

import torch

_QUANTILES = (0.45, 0.80, 0.05)  # of GM, WM, CSF, the start
_SD_AT_FIRST, _LOG_SD_RANGE = 0.2, (0.03, 0.35)
_N_VALUES, _N_ROUNDS = 50_000, 30
_DARKEST_GM = 0.45  # of WM; .5 to .8 in T1-weighted scans: below, a fit has split the CSF of an atrophic brain in two
_N_BINS = 64


def histogram_classes(log_intensity: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean, standard deviation and share of GM, WM, CSF, (3,) each: three Gaussians fitted to log intensities (n,).

    Where half the brain is CSF, that is the wide class of log intensities, and two Gaussians may share it. Thresholds
    between classes of linear intensities then tell the three.
    """
    values = log_intensity[:: log_intensity.numel() // _N_VALUES + 1]
    mean = torch.quantile(values, torch.tensor(_QUANTILES).to(values))
    sd, share = torch.full_like(mean, _SD_AT_FIRST), torch.full_like(mean, 1 / 3)
    for _ in range(_N_ROUNDS):
        joint = share[:, None] * gaussian(values, mean[:, None], sd[:, None])
        weight = joint / joint.sum(0).clamp(min=1e-12)
        total = weight.sum(1).clamp(min=1.0)
        mean = (weight @ values) / total
        sd = ((weight * (values - mean[:, None]) ** 2).sum(1) / total).sqrt().clamp(*_LOG_SD_RANGE)
        share = total / total.sum()
    if mean[0] - mean[1] > math.log(_DARKEST_GM):
        return mean, sd, share
    low, high = (x.log() for x in _thresholds(values.exp()))
    parts = [values[(values >= low) & (values < high)], values[values >= high], values[values < low]]
    if not all(map(len, parts)):
        return mean, sd, share
    mean = torch.stack([part.mean() for part in parts])
    sd = torch.stack([part.std(correction=0) for part in parts]).clamp(*_LOG_SD_RANGE)
    return mean, sd, torch.tensor([len(part) / len(values) for part in parts]).to(mean)


def _thresholds(intensity: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The two thresholds with the largest variance between classes (Otsu 1979, doi:10.1109/TSMC.1979.4310076)."""
    least, most = (float(x) for x in torch.quantile(intensity, torch.tensor([0.005, 0.995]).to(intensity)))
    edges = torch.linspace(least, most, _N_BINS + 1).to(intensity)
    counts = torch.histc(intensity, _N_BINS, least, most)
    zero = counts.new_zeros(1)
    n, total = (torch.cat([zero, x.cumsum(0)]) for x in (counts, counts * (edges[:-1] + edges[1:]) / 2))

    def between(start: torch.Tensor, stop: torch.Tensor) -> torch.Tensor:
        """Squared mean of the bins from start to stop times their number of values."""
        return (total[stop] - total[start]) ** 2 / (n[stop] - n[start]).clamp(min=1)

    low, high = torch.triu_indices(_N_BINS - 1, _N_BINS - 1, 1, device=intensity.device) + 1
    of_three = between(torch.zeros_like(low), low) + between(low, high) + between(high, torch.full_like(high, _N_BINS))
    best = of_three.argmax()
    return edges[low[best]], edges[high[best]]


def gaussian(values: torch.Tensor, mean: torch.Tensor, sd: torch.Tensor) -> torch.Tensor:
    """Normal density times sqrt(2 pi), at most 6 standard deviations low."""
    return torch.exp(-0.5 * ((values - mean) / sd).clamp(-6, 6) ** 2) / sd


def have_t1w_contrast(image: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether the means of GM, WM, CSF, weighted (3, X, Y, Z), are in the order of a T1-weighted image (X, Y, Z)."""
    gm, wm, csf = (weight * image).sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3)).clamp(min=1e-6)
    return bool(csf < gm < wm)
