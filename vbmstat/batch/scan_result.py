"""What is written of a scan: its images by kind, and columns that another part of the run knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from vbmstat.files import map_kinds
from vbmstat.image.volume import Volume
from vbmstat.preproc.results import Preprocessed

_N_TISSUES = {"p": 3, "rp": 2, "wp": 2, "m0wp": 3}  # kinds with a number, without those of the modulated maps


@dataclass(frozen=True)
class ScanResult:
    """A preprocessed scan, single or one of a person's time points."""

    made: Preprocessed
    # modulated GM, WM, CSF (and hypointensities, if measured) by longitudinal model, ``""`` for a single scan
    modulated: Mapping[str, Volume]
    smoothed: Mapping[str, Mapping[float, Volume]]  # the same smoothed, by model and FWHM in mm
    columns: Mapping[str, Any] = field(default_factory=dict)  # further columns of the cohort table
    warnings: tuple[str, ...] = ()  # further warnings

    @classmethod
    def of_scan(cls, made: Preprocessed) -> ScanResult:
        """The result of a single scan."""
        return cls(made, {"": made.modulated}, {"": made.smoothed})

    @property
    def models(self) -> tuple[str, ...]:
        """Longitudinal models of a time point; none for a single scan."""
        return tuple(filter(None, self.modulated))

    @property
    def images(self) -> dict[str, Callable[[], Volume]]:
        """How each image is made, by kind; only those that are written are made."""
        made, segmented = self.made, self.made.segmented
        images: dict[str, Callable[[], Volume]] = {
            "p0": lambda: segmented.label, "m": lambda: segmented.corrected, "wm": lambda: made.warped_t1w,
            "wj": lambda: made.jacobian, "y": lambda: made.deformation, "iy": lambda: made.inverse_deformation,
        }  # fmt: skip
        if made.warp.velocity is not None:
            images["velocity"] = partial(_itself, made.warp.velocity)
        channels: dict[str, Callable[[], Volume]] = {
            "p": lambda: segmented.tissues, "rp": lambda: made.affine_tissues,
            "wp": lambda: made.warped, "m0wp": lambda: made.nonlinear_only,
        }  # fmt: skip
        for name, make in channels.items():
            for i in range(_N_TISSUES[name]):
                kind = f"{name}{i + 1}"
                (named,) = map_kinds.kinds_of_time_point(kind, self.models) if self.models else (kind,)
                images[named] = partial(_channel, make, i)
        for model, volume in self.modulated.items():
            numbers = zip(map_kinds.MAP_NUMBER.values(), range(len(volume.data)), strict=False)
            images |= {map_kinds.modulated_kind(number, model): partial(volume.channel, i) for number, i in numbers}
        return images | {kind: partial(_itself, volume) for kind, volume in smoothed_images(self.smoothed).items()}


def smoothed_images(maps: Mapping[str, Mapping[float, Volume]]) -> dict[str, Volume]:
    """Smoothed maps of GM, WM and, if there is a fourth channel, hypointensities, by kind; given by model and width."""
    channels = dict(zip(map_kinds.MAP_NUMBER.values(), range(4), strict=True))
    del channels[map_kinds.TISSUE_NUMBER["csf"]]
    return {
        map_kinds.smoothed_kind(width, number, model): volume.channel(i)
        for model, by_width in maps.items() for width, volume in by_width.items()
        for number, i in channels.items() if i < len(volume.data)
    }  # fmt: skip


def _itself(volume: Volume) -> Volume:
    return volume


def _channel(make: Callable[[], Volume], channel: int) -> Volume:
    return make().channel(channel)
