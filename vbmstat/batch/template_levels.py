"""The levels of a group template in a work folder: each person's tissues and velocities, the templates; can go on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from vbmstat import assets
from vbmstat.batch.finished import FinishedScan
from vbmstat.errors import VbmstatError, listed
from vbmstat.files.warps import LINEAR
from vbmstat.image import deform, storage
from vbmstat.image.volume import Displacement, Volume
from vbmstat.preproc import group_template as steps
from vbmstat.preproc.group_template import LEAST_PEOPLE
from vbmstat.preproc.steps import warp, working
from vbmstat.progress import OnProgress

KINDS = ("p1", "p2")  # images of a person
_TISSUE_STEP = 1 / 255  # of values on disk


class OrderedMap(Protocol):
    """An ordered map over workers, or over this process."""

    def __call__(self, job: Callable[[str], str], items: Iterable[str], /) -> Iterable[str]:
        """``job(item)`` of each item, in their order."""


@dataclass(frozen=True)
class Work:
    """The work folder: a folder for each level with a velocity a person, the template, and last what is known of it."""

    folder: Path
    people: dict[str, FinishedScan]
    is_symmetric: bool

    def begin(self, origin: dict[str, Any]) -> None:
        """Go on in the folder, or begin anew if it is of another template."""
        state = self.folder / "begun.json"
        try:
            is_same = storage.read_json(state) == origin
        except (OSError, ValueError):
            is_same = False
        if not is_same:
            shutil.rmtree(self.folder, ignore_errors=True)
            storage.write_json(state, origin)

    def level(self, number: int, before: dict[str, Any], mapping: OrderedMap, report: OnProgress) -> dict[str, Any]:
        """Make a level, unless it is there; people left out, sharpness and mean displacement."""
        done = self.folder / f"level-{number}" / "done.json"
        if done.is_file():
            return dict(storage.read_json(done))
        left_out = dict(before.get("left_out", {}))
        taking_part = [stem for stem in self.people if stem not in left_out]
        job = partial(_update, self.folder, number) if number else partial(_align, self.folder, self.people)
        faults = _followed(mapping(job, taking_part), f"level {number}", len(taking_part), report)
        left_out |= {stem: f"level {number}: {fault}" for stem, fault in zip(taking_part, faults, strict=True) if fault}
        kept = [stem for stem in taking_part if stem not in left_out]
        if len(kept) < LEAST_PEOPLE:
            reasons = listed([f"{stem} ({reason})" for stem, reason in left_out.items()], 3)
            msg = f"{len(kept)} of {len(self.people)} people are left, {LEAST_PEOPLE} are needed; left out: {reasons}"
            raise VbmstatError(msg)
        template = self._template(number, kept)
        state = {"left_out": left_out, **template}
        storage.write_json(done, state)
        if number > 1:
            for path in (self.folder / f"level-{number - 1}").glob("velocity-*.npy"):
                path.unlink()
        return state

    def _template(self, number: int, kept: list[str]) -> dict[str, float]:
        """Centre the velocities of a level, and write its template."""
        grid = assets.template().grid
        if number:
            centre = torch.zeros(3, *warp.PADDED_SHAPE, dtype=torch.float64)
            for stem in kept:
                centre += _load(self.folder, f"level-{number}/velocity-{stem}") / len(kept)
            centre = steps.symmetric(centre, grid.shape[0]) if self.is_symmetric else centre
            _save(self.folder, f"level-{number}/centre", centre.float().numpy())
        total = steps.Mean(assets.template(), self.is_symmetric)
        for stem in kept:
            total.add(_tissues(self.folder, stem), _velocity(self.folder, number, stem))
        template = total.template()
        _save(self.folder, f"level-{number}/mean", template.data.numpy())
        _save(self.folder, f"level-{number}/template", steps.blurred(template, steps.LEVELS[number]).data.numpy())
        return {"gradient_energy": steps.sharpness(template), "mean_displacement_mm": total.mean_displacement_mm}

    def to_standard(self, kept: list[str], mapping: OrderedMap, report: OnProgress) -> Displacement:
        """Standard point -> point of the last template, mm: mean of the ways through each person.

        A registration has a bias of its own: tissues end up a little beside their place, in all people alike. Through
        the people, the group template inherits that of both, so that regions over both templates are alike.
        """
        job = partial(_find_way, self.folder)
        for _ in _followed(mapping(job, kept), "to standard", len(kept), report):
            pass
        grid = assets.template().grid
        total = torch.zeros(3, *grid.shape, dtype=torch.float64)
        for stem in kept:
            total += _load(self.folder, f"way-{stem}")
        return Displacement((total / len(kept)).float(), grid)

    def template(self, number: int) -> Volume:
        """The template of a level."""
        return _template_of(self.folder, number)


def _followed(faults: Iterable[str], stage: str, n: int, report: OnProgress) -> Iterator[str]:
    for done, fault in enumerate(faults, 1):
        report(stage, done, n)
        yield fault


def _align(folder: Path, people: dict[str, FinishedScan], stem: str) -> str:
    """Align a person's tissues linearly and keep their warp to the standard template; why not, or nothing."""
    one, path = people[stem], folder / f"tissues-{stem}.npy"
    if path.is_file():
        return ""
    try:
        images = one.images(KINDS, "run vbmstat preprocess for this scan")
        matrix = np.array(one.record["affine"][LINEAR], dtype=np.float64)
        tissues = Volume(torch.cat([images[kind].data for kind in KINDS]), images["p1"].grid)
        with torch.inference_mode():
            aligned = working.align_to_template(tissues, assets.template(), matrix).data
            warped = deform.displacement_of(one.warp.to_scan, matrix).data
    except (VbmstatError, KeyError, ValueError, TypeError, RuntimeError) as error:
        return f"its tissues or warp cannot be used ({error})"
    if not bool(torch.isfinite(aligned).all()) or float(aligned.sum()) <= 0:
        return "its tissues are empty or not finite"
    _save(folder, f"standard-{stem}", warped.numpy().astype(np.float16))
    _save(folder, path.stem, torch.round(aligned.clamp(0, 1) / _TISSUE_STEP).byte().numpy())
    return ""


def _update(folder: Path, number: int, stem: str) -> str:
    """Register a person to the template of the level before; why the result cannot be used, or nothing."""
    name, template = f"level-{number}/velocity-{stem}", _template_of(folder, number - 1)
    with torch.inference_mode():
        if not (folder / f"{name}.npy").is_file():
            start = _velocity(folder, number - 1, stem)
            velocity = steps.registered(_tissues(folder, stem), template, number, start)
            _save(folder, name, velocity.numpy().astype(np.float16))
        return steps.fault_of(_load(folder, name), template)


def _find_way(folder: Path, stem: str) -> str:
    """A person's way from the standard template to the last one, unless it is there."""
    if not (folder / f"way-{stem}.npy").is_file():
        standard = Displacement(_load(folder, f"standard-{stem}"), assets.template().grid)
        with torch.inference_mode():
            template = _template_of(folder, len(steps.LEVELS) - 1)
            way = steps.through_person(_tissues(folder, stem), standard, template)
        _save(folder, f"way-{stem}", way.data.numpy().astype(np.float16))
    return ""


def _tissues(folder: Path, stem: str) -> Volume:
    return Volume(_load(folder, f"tissues-{stem}") * _TISSUE_STEP, assets.template().grid)


def _velocity(folder: Path, number: int, stem: str) -> torch.Tensor | None:
    """A person's velocity after a level, without the people's mean; None after level 0."""
    if number == 0:
        return None
    return _load(folder, f"level-{number}/velocity-{stem}") - _load(folder, f"level-{number}/centre")


def _template_of(folder: Path, number: int) -> Volume:
    return Volume(_load(folder, f"level-{number}/template"), assets.template().grid)


def _load(folder: Path, name: str) -> torch.Tensor:
    return torch.from_numpy(np.load(folder / f"{name}.npy").astype(np.float32))


def _save(folder: Path, name: str, values: np.ndarray) -> None:
    with storage.atomic_path(folder / f"{name}.npy") as temporary:
        np.save(temporary, values)
