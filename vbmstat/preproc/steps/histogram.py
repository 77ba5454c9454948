"""Classes of a brain's histogram: how bright CSF, GM and WM are, whatever an atlas says about their places."""

from __future__ import annotations

import torch

_QUANTILES = (0.45, 0.80, 0.05)  # of GM, WM, CSF, the start
_SD_AT_FIRST, _LOG_SD_RANGE = 0.2, (0.03, 0.35)
_N_VALUES, _N_ROUNDS = 50_000, 30


def histogram_classes(log_intensity: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean, standard deviation and share of GM, WM, CSF, (3,) each: three Gaussians fitted to log intensities (n,)."""
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
    return mean, sd, share


def gaussian(values: torch.Tensor, mean: torch.Tensor, sd: torch.Tensor) -> torch.Tensor:
    """Normal density times sqrt(2 pi), at most 6 standard deviations low."""
    return torch.exp(-0.5 * ((values - mean) / sd).clamp(-6, 6) ** 2) / sd


def have_t1w_contrast(image: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether the means of GM, WM, CSF, weighted (3, X, Y, Z), are in the order of a T1-weighted image (X, Y, Z)."""
    gm, wm, csf = (weight * image).sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3)).clamp(min=1e-6)
    return bool(csf < gm < wm)
