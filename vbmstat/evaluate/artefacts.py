"""Seven artefacts, medium and strong: how much they change an engine's tissues.

The truth is the label map that the image was rendered from, or the engine's own result on the unchanged scan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import pandas as pd
import torch

from vbmstat.errors import VbmstatError
from vbmstat.evaluate.engines import CPU, HeadFile, Row, Trial
from vbmstat.image import io
from vbmstat.image.volume import Volume
from vbmstat.metrics import accuracy
from vbmstat.preproc.engines.classic import Classic
from vbmstat.preproc.pipeline import segment_scan
from vbmstat.preproc.results import Segmented
from vbmstat.simulate import render_t1w, tissue_labels
from vbmstat.simulate.artefacts import ARTEFACTS, CLEAN, STRENGTHS, Artefact, add_artefact
from vbmstat.simulate.labels import is_label_map

MEASURES = ("dice_gm", "dice_wm", "dice_csf", "gm_error_percent", "tiv_error_percent", "seconds")
_CONDITIONS: tuple[tuple[Artefact | None, str], ...] = (
    (None, CLEAN), *((artefact, strength) for artefact in ARTEFACTS for strength in STRENGTHS),
)  # fmt: skip


@dataclass(frozen=True)
class _Truth:
    labels: torch.Tensor  # (1, X, Y, Z): 0, CSF 1, GM 2, WM 3
    gm_ml: float
    tiv_ml: float


class ArtefactHead(HeadFile):
    """A whole-head label map, from which a T1w image is rendered, or a T1w scan; the content of the file decides."""

    kind = "evaluation_artefacts"
    n_images = len(_CONDITIONS)

    def __init__(self, path: Path, seed: int, device: torch.device = CPU) -> None:
        super().__init__(path, seed, device)
        self._own: dict[str, _Truth | VbmstatError] = {}  # by engine

    @cached_property
    def is_labels(self) -> bool:
        """Whether the file is a label map, so that the truth is exact."""
        return is_label_map(self.volume)

    @cached_property
    def clean(self) -> Volume:
        """The image without an artefact."""
        return render_t1w(self.volume, seed=self.seed) if self.is_labels else io.read_scan(self.path)

    def image(self, artefact: Artefact | None, strength: str) -> Volume:
        """The image with an artefact, or without one."""
        return self.clean if artefact is None else add_artefact(self.clean, artefact, strength, self.seed)

    def trials(self) -> Iterator[Trial]:
        """The clean image, then every artefact at both strengths."""
        for artefact, strength in _CONDITIONS:
            name, size = (artefact.name, artefact.strength(strength)) if artefact else (CLEAN, 0.0)
            yield Trial(
                keys={"head": self.name, "artefact": name, "strength": strength},
                origin={"sha256": self.sha256, "seed": self.seed, "artefact": name, "strength": size},
                image=partial(self.image, artefact, strength),
                measure=self._measure if artefact else self._measure_clean,
            )

    def _measure_clean(self, engine: Classic, segmented: Segmented) -> Row:
        """Measures of the clean image; of a scan, its result becomes the truth."""
        if not self.is_labels:
            self._own[engine.label] = _truth(segmented)
        return self._measure(engine, segmented)

    def _measure(self, engine: Classic, segmented: Segmented) -> Row:
        """Dice of each tissue, errors of GM volume and TIV."""
        truth = self._exact if self.is_labels else self._own_truth(engine)
        result = _truth(segmented)
        dice = {t: accuracy.dice(result.labels == v, truth.labels == v) for t, v in accuracy.TISSUES.items()}
        return {
            "truth": "labels" if self.is_labels else "own",
            **{f"dice_{tissue}": round(value, 4) for tissue, value in dice.items()},
            "gm_error_percent": round(100 * (result.gm_ml / truth.gm_ml - 1), 2),
            "tiv_error_percent": round(100 * (result.tiv_ml / truth.tiv_ml - 1), 2),
        }

    @cached_property
    def _exact(self) -> _Truth:
        labels = tissue_labels(self.volume).data
        n_gm, n_brain = int((labels == accuracy.TISSUES["gm"]).sum()), int((labels > 0).sum())
        return _Truth(labels, n_gm * self.volume.grid.voxel_volume_ml, n_brain * self.volume.grid.voxel_volume_ml)

    def _own_truth(self, engine: Classic) -> _Truth:
        """The engine's result on the unchanged scan; computed once, failures included."""
        if engine.label not in self._own:
            try:
                self._own[engine.label] = _truth(segment_scan(self.clean, engine, self.device))
            except VbmstatError as error:
                self._own[engine.label] = VbmstatError(f"the unchanged scan failed too: {error}")
        truth = self._own[engine.label]
        if isinstance(truth, VbmstatError):
            raise truth
        return truth


def captioned_images(path: Path, seed: int) -> list[tuple[str, Volume]]:
    """All fifteen images of a head as engines get them, the clean one first, each with its artefact as a caption."""
    head = ArtefactHead(path, seed)
    images = []
    for artefact, strength in _CONDITIONS:
        caption = f"{artefact.name}, {strength}\n{artefact.strength(strength):g} {artefact.unit}" if artefact else CLEAN
        images.append((caption, head.image(artefact, strength)))
    return images


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Medians over heads: one row per engine, artefact and strength, in the order of the artefacts.

    Parameters
    ----------
    table : DataFrame
        Result of :func:`vbmstat.evaluate.engines.evaluate_heads` for :class:`ArtefactHead`.
    """
    rows = []
    for (engine, artefact, strength), group in table.groupby(["engine", "artefact", "strength"], sort=False):
        scored = group.dropna(subset=["dice_gm"]) if "dice_gm" in group else group.iloc[:0]
        medians = {name: scored[name].astype(float).median() for name in MEASURES if name in scored}
        worst = scored.loc[scored["dice_gm"].astype(float).idxmin()] if len(scored) else {}
        rows.append({
            "engine": engine, "artefact": artefact, "strength": strength, "n_scans": len(scored),
            "n_failed": len(group) - len(scored), **medians,
            "worst_dice_gm": worst.get("dice_gm"), "worst_head": worst.get("head"),
        })  # fmt: skip
    order = {name: at for at, name in enumerate([CLEAN, *(artefact.name for artefact in ARTEFACTS)])}
    return pd.DataFrame(rows).sort_values("artefact", key=lambda column: column.map(order), kind="stable")


def _truth(segmented: Segmented) -> _Truth:
    return _Truth(segmented.label.data.round().cpu(), segmented.volumes_ml[0], sum(segmented.volumes_ml))
