"""Energy of a velocity field: membrane, bending and linear elasticity.

Ashburner 2007, doi:10.1016/j.neuroimage.2007.07.007: ``v'L v / 2``. The operator L is diagonal in 3 × 3 blocks in the
Fourier domain, ``L = a · I + b · k k*`` with the wave k of forward differences, and so are the inverses of L + s · I
(Sherman and Morrison). Fields are periodic, in voxels.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import torch

from vbmstat.image import compiled

_LEAST = 1e-7  # of L: the mean of a field costs next to nothing


@dataclass(frozen=True)
class Regularisation:
    """Weights of the energy of the velocity field, for distances in mm.

    Attributes
    ----------
    membrane, bending : float
        Weights of squared first derivatives, and of the squared Laplacian (mm²).
    shear, divergence : float
        Linear elasticity: mu and lambda of Ashburner 2007.

    Notes
    -----
    Shooting's weights in SPM (1e-3, .2, .05, .2, times the 1.5³ mm³ of a voxel), with elasticity half as stiff again.
    """

    membrane: float = 0.005
    bending: float = 0.75
    shear: float = 0.25
    divergence: float = 1.0

    def times(self, factor: float) -> Regularisation:
        """Stiffer or softer by a factor."""
        return Regularisation(*(factor * weight for weight in astuple(self)))


class Energy:
    """The operator L on fields of a shape, and its inverse.

    First derivatives of a field in voxels are unitless, so membrane and elastic terms hold at every resolution; bending
    has mm².
    """

    def __init__(
        self, shape: torch.Size, spacing_mm: float, weights: Regularisation, device: torch.device | str = "cpu"
    ) -> None:
        self.shape = shape
        frequencies = [torch.fft.fftfreq(n, device=device) for n in shape[:2]]
        frequencies.append(torch.fft.rfftfreq(shape[2], device=device))
        self._waves = [torch.exp(2j * torch.pi * along) - 1 for along in frequencies]
        x, y, z = (wave.abs().square() for wave in self._waves)
        self._squared = x[:, None, None] + y[:, None] + z
        bending = weights.bending / spacing_mm**2
        self._along_all = (weights.membrane + weights.shear) * self._squared + bending * self._squared.square() + _LEAST
        self._along_wave = weights.shear + weights.divergence

    def times(self, field: torch.Tensor) -> torch.Tensor:
        """L v, of a field (3, X, Y, Z)."""
        return self._filtered(field, self._along_all, torch.full_like(self._squared, self._along_wave))

    def inverse(self, stiffness: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Factors of ``(L + stiffness)^-1``, for :meth:`apply`."""
        a = self._along_all + stiffness
        return 1 / a, -self._along_wave / (a * (a + self._along_wave * self._squared))

    def apply(self, inverse: tuple[torch.Tensor, torch.Tensor], field: torch.Tensor) -> torch.Tensor:
        """``(L + stiffness)^-1 f``."""
        return self._filtered(field, *inverse)

    def _filtered(self, field: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """``(a I + b k k*) f`` in the Fourier domain."""
        spectrum = torch.fft.rfftn(field, dim=(1, 2, 3))
        if compiled.takes(field):
            waves = [torch.view_as_real(wave) for wave in self._waves]
            compiled.in_slabs(compiled.filter_field, len(a), a, b, *waves, torch.view_as_real(spectrum))
        else:
            x, y, z = self._waves
            waves = [x[:, None, None], y[:, None], z]
            along = b * sum(wave.conj() * part for wave, part in zip(waves, spectrum, strict=True))
            spectrum = torch.stack([a * part + wave * along for wave, part in zip(waves, spectrum, strict=True)])
        out: torch.Tensor = torch.fft.irfftn(spectrum, s=field.shape[1:], dim=(1, 2, 3))
        return out
