"""Seven artefacts, medium and strong: how far the tissues go from the truth, or from those of the scan as it came."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch

from vbmstat.errors import VbmstatError
from vbmstat.evaluate.engines import Head, Row, Trial, find_heads, run_trials
from vbmstat.image import io
from vbmstat.image.volume import Volume
from vbmstat.metrics import accuracy
from vbmstat.preproc.engines.classic import Classic
from vbmstat.preproc.pipeline import Segmented, segment_scan
from vbmstat.progress import OnProgress, ignore
from vbmstat.simulate import render_t1w, tissue_labels
from vbmstat.simulate.artefacts import ARTEFACTS, CLEAN, STRENGTHS, Artefact, add_artefact
from vbmstat.simulate.labels import is_label_map

TABLE = "evaluation_artefacts"
MEASURES = ("dice_gm", "dice_wm", "dice_csf", "gm_error_percent", "tiv_error_percent", "seconds")
N_IMAGES = 1 + len(ARTEFACTS) * len(STRENGTHS)
_KEYS = ["engine", "artefact", "strength"]


@dataclass(frozen=True)
class _Truth:
    labels: torch.Tensor  # (1, X, Y, Z): 0, CSF 1, GM 2, WM 3
    gm_ml: float
    tiv_ml: float


class _Subject(Head):
    """A head with its image, and with the truth about it."""

    def __init__(self, path: Path, seed: int, device: torch.device) -> None:
        super().__init__(path, seed)
        self._device = device
        self._own: dict[str, _Truth | VbmstatError] = {}

    @cached_property
    def is_labels(self) -> bool:
        return is_label_map(self.volume)

    @cached_property
    def clean(self) -> Volume:
        """The image without an artefact."""
        return render_t1w(self.volume, seed=self.seed) if self.is_labels else io.read_scan(self.path)

    def image(self, artefact: Artefact | None, strength: str) -> Volume:
        return self.clean if artefact is None else add_artefact(self.clean, artefact, strength, self.seed)

    @cached_property
    def _exact(self) -> _Truth:
        labels = tissue_labels(self.volume)
        n_gm, n_brain = int((labels.data == accuracy.TISSUES["gm"]).sum()), int((labels.data > 0).sum())
        return _Truth(labels.data, n_gm * self.volume.grid.voxel_volume_ml, n_brain * self.volume.grid.voxel_volume_ml)

    def measure(self, engine: Classic, found: Segmented) -> Row:
        """Columns of the result for an image with an artefact."""
        return self._row(found, self._exact if self.is_labels else self._truth_of(engine))

    def measure_clean(self, engine: Classic, found: Segmented) -> Row:
        """The same for the image without one, which is the truth itself where there is no label map."""
        if not self.is_labels:
            self._own[engine.label] = _truth(found)
        return self.measure(engine, found)

    def _truth_of(self, engine: Classic) -> _Truth:
        """What the engine makes of the scan as it came; found once, failures too."""
        if engine.label not in self._own:
            try:
                self._own[engine.label] = _truth(segment_scan(self.clean, engine, self._device))
            except VbmstatError as error:
                self._own[engine.label] = VbmstatError(f"the scan as it came failed, too: {error}")
        truth = self._own[engine.label]
        if isinstance(truth, VbmstatError):
            raise truth
        return truth

    def _row(self, found: Segmented, truth: _Truth) -> Row:
        labels = found.label.data.round().cpu()
        gm_ml, tiv_ml = found.volumes_ml[0], sum(found.volumes_ml)
        dice = {f"dice_{t}": accuracy.dice(labels == v, truth.labels == v) for t, v in accuracy.TISSUES.items()}
        return {
            "truth": "labels" if self.is_labels else "own",
            **{name: round(value, 4) for name, value in dice.items()},
            "gm_error_percent": round(100 * (gm_ml / truth.gm_ml - 1), 2),
            "tiv_error_percent": round(100 * (tiv_ml / truth.tiv_ml - 1), 2),
        }


def evaluate_artefacts(
    paths: Sequence[Path],
    engines: Sequence[Classic],
    out: Path,
    *,
    device: torch.device,
    seed: int = 0,
    force: bool = False,
    report: OnProgress = ignore,
) -> pd.DataFrame:
    """Segment every head without and with each artefact by every engine.

    Parameters
    ----------
    paths : sequence of path
        Whole-head label maps, from which T1w images are rendered and whose tissues are the truth; or T1w scans, where
        the truth is what the same engine makes of the scan as it came. Their content tells which they are.
    engines : sequence of Classic
        Who segments.
    out : path
        Folder of ``evaluation_artefacts.tsv``, which is written after every scan and taken up again.
    device : torch.device
        Where to compute.
    seed : int
        Same seed, same images.
    force : bool
        Make rows again that are there.
    report : callable
        Told (stage, done, total).

    Returns
    -------
    DataFrame
        A row a head, artefact, strength and engine.
    """
    find_heads(paths, seed)  # readable, with names of their own
    trials = (trial for path in paths for trial in _trials(_Subject(path, seed, device)))
    return run_trials(
        trials, len(paths) * N_IMAGES, engines, out / f"{TABLE}.tsv", TABLE, device=device, force=force, report=report
    )


def captioned_images(path: Path, seed: int) -> list[tuple[str, Volume]]:
    """What evaluation sees of a head, with what was added to it in words: all fifteen images, the clean one first."""
    subject = _Subject(path, seed, torch.device("cpu"))
    found = []
    for artefact, strength in _conditions():
        caption = f"{artefact.name}, {strength}\n{artefact.strength(strength):g} {artefact.unit}" if artefact else CLEAN
        found.append((caption, subject.image(artefact, strength)))
    return found


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Medians over heads: a row an engine, artefact and strength, in the order of the artefacts.

    Parameters
    ----------
    table : DataFrame
        As :func:`evaluate_artefacts` returns it.
    """
    names = [CLEAN, *(artefact.name for artefact in ARTEFACTS)]
    rows = []
    for (engine, artefact, strength), group in table.groupby(_KEYS, sort=False):
        scored = group.dropna(subset=["dice_gm"]) if "dice_gm" in group else group.iloc[:0]
        medians = {name: scored[name].astype(float).median() for name in MEASURES if name in scored}
        worst = scored.loc[scored["dice_gm"].astype(float).idxmin()] if len(scored) else None
        rows.append({
            "engine": engine, "artefact": artefact, "strength": strength, "n_scans": len(scored),
            "n_failed": len(group) - len(scored), **medians,
            "worst_dice_gm": None if worst is None else worst["dice_gm"],
            "worst_head": None if worst is None else worst["head"],
        })  # fmt: skip
    order = {name: at for at, name in enumerate(names)}
    return pd.DataFrame(rows).sort_values("artefact", key=lambda column: column.map(order), kind="stable")


def _conditions() -> list[tuple[Artefact | None, str]]:
    return [(None, CLEAN), *((artefact, strength) for artefact in ARTEFACTS for strength in STRENGTHS)]


def _trials(subject: _Subject) -> Iterator[Trial]:
    for artefact, strength in _conditions():
        yield Trial(
            keys={"head": subject.name, "artefact": artefact.name if artefact else CLEAN, "strength": strength},
            origin={
                "sha256": subject.sha256, "seed": subject.seed, "artefact": artefact.name if artefact else CLEAN,
                "strength": artefact.strength(strength) if artefact else 0.0,
            },
            image=_maker(subject, artefact, strength),
            measure=subject.measure_clean if artefact is None else subject.measure,
        )  # fmt: skip


def _maker(subject: _Subject, artefact: Artefact | None, strength: str) -> Callable[[], Volume]:
    return lambda: subject.image(artefact, strength)


def _truth(found: Segmented) -> _Truth:
    return _Truth(found.label.data.round().cpu(), found.volumes_ml[0], sum(found.volumes_ml))
