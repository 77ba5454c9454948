"""Training of the networks that outline tracts: a teacher that sees diffusion peaks, a student that sees the T1w image.

Jiao, Zhang & Ye 2024. The teacher learns from peaks and references in diffusion space and is then frozen. With its
probability t, the reference y and the student's probability s, the student minimises (eq. 3-5)

    lambda BCE(y, s) + (1 - lambda) BCE(t, s),   BCE(y, s) = -mean(y log s + (1 - y) log(1 - s)).

BCE is linear in its first argument, so this is BCE(lambda y + (1 - lambda) t, s): the student's targets are the mixture
of reference and teacher. (Eq. 4 has a sum before a BCE that is already a mean; here both terms are means over voxels
and tracts.) lambda is ``reference_weight``; with 1 there is no teacher.

A case of :mod:`vbmstat.training.prepare_tracts` has `directions` (3 channels) and `tracts` on a cube in T1w space,
`peaks` (9) and `tracts_diffusion` on a cube in diffusion space, and `to_peaks`, (1, 1, 4, 4), from voxels of the former
to voxels of the latter. Masks are packed, eight tracts a byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from vbmstat import assets
from vbmstat.errors import VbmstatError
from vbmstat.image.grid import apply_affine, sample, voxel_indices
from vbmstat.image.storage import atomic_path
from vbmstat.preproc.networks.weights import own_file
from vbmstat.tracts import names as tract_names
from vbmstat.tracts.network import (
    DEPTH,
    STUDENT,
    TEACHER,
    WIDTH,
    build_tract_network,
    load_tract_network,
    merge_orientations,
)  # fmt: skip
from vbmstat.tracts.structure_tensor import mirrored
from vbmstat.training.cases import CaseFile
from vbmstat.training.config import RunConfig
from vbmstat.training.task import Example, Stage, Task


class TractTask(Task):
    """Directions or peaks on slices -> logit of each tract."""

    kind = STUDENT
    cases_kind = STUDENT
    best = "dice"
    n_test_folds = 1
    memory_format = torch.channels_last
    defaults = {  # noqa: RUF012 - read only; the paper's, but the width of the network
        "epochs": 500, "batch_size": 56, "max_learning_rate": 1e-3, "n_channels": WIDTH, "depth": DEPTH,
        "n_validation": 20,
    }  # fmt: skip

    def __init__(self, cases: CaseFile, config: RunConfig, device: torch.device, folder: Path) -> None:
        super().__init__(cases, config, device, folder)
        self.tracts: list[str] = list(cases.settings["tracts"])
        self._other_side = [self.tracts.index(tract_names.mirrored(name)) for name in self.tracts]
        if self.given and self.given.is_dir():
            self.given = own_file(self.given, TEACHER)
        self._teacher: nn.Module | None = None
        self._kind = STUDENT
        self._taught = Path()  # folder of its predictions
        if config.reference_weight > 1:
            msg = f"reference_weight: expected 0 to 1, got {config.reference_weight:g}"
            raise VbmstatError(msg)

    @property
    def _distils(self) -> bool:
        return self.config.reference_weight < 1

    def stages(self) -> list[Stage]:
        """Teacher, unless there is one or none is wanted; then student."""
        about = {name: self.cases.settings[name] for name in ("tracts", "shape", "voxel_mm", "widths")}
        stages = [Stage("student", self.config.epochs, (STUDENT, None), self.start, about)]
        if self._distils and not self.given:
            about = {**about, "kind": TEACHER, "shape": self.cases.settings["peaks_shape"]}
            stages.insert(0, Stage("teacher", self.config.epochs, (TEACHER, None), None, about))
        return stages

    def begin(self, stage: Stage, out: Path) -> None:
        """Load the frozen teacher when the student's training begins."""
        self._kind = stage.file[0]
        if self._kind == STUDENT and self._distils:
            path = self.given or own_file(out, TEACHER)
            self._teacher, settings = load_tract_network(path, TEACHER, self.device)
            self._taught = out / f"taught-{assets.sha256(path)[:12]}-{assets.sha256(self.cases.path)[:12]}"
            self._taught.mkdir(parents=True, exist_ok=True)
            if settings["tracts"] != self.tracts:
                msg = f"{path}: the teacher's tracts are not those of {self.cases.path}"
                raise VbmstatError(msg)

    def build(self) -> nn.Module:
        """A network with random weights."""
        size = {"n_channels": self.config.n_channels, "depth": self.config.depth}
        return build_tract_network({"kind": self._kind, "tracts": self.tracts, **size})

    def optimiser(
        self, network: nn.Module, total_steps: int
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """Adamax with a constant rate, as in the paper."""
        del total_steps
        optimiser = torch.optim.Adamax(network.parameters(), lr=self.config.max_learning_rate)
        return optimiser, torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)

    def n_examples(self, stage: Stage) -> int:
        """Slices of a case and epoch."""
        del stage
        return self.config.slices

    def examples(self, name: str, stage: Stage, source: torch.Generator | None) -> Iterator[Example]:
        """Random slices of any orientation, of half the heads mirrored; without a generator, the whole cube."""
        image_key, mask_key = ("peaks", "tracts_diffusion") if stage.file[0] == TEACHER else ("directions", "tracts")
        case = self._load(name, image_key, mask_key)
        image, packed = case[image_key], case[mask_key].to(torch.uint8)
        if source is None:
            yield image[None], self._unpacked(packed).float()[None]
            return
        taught = self._taught_by(name) if stage.file[0] == STUDENT and self._distils else None
        flips = self.config.augment > 0 and float(torch.rand(1, generator=source)) < 0.5
        if flips:
            image, packed = mirrored(image), packed.flip(1)
            taught = None if taught is None else taught.flip(1)
        inside = image.any(0)
        filled = [inside.movedim(axis, 0).flatten(1).any(1).nonzero() for axis in range(3)]
        weight = self.config.reference_weight
        for axis in torch.randint(3, (self.config.slices,), generator=source).tolist():
            at = int(filled[axis][torch.randint(len(filled[axis]), (1,), generator=source)])
            target = self._unpacked(packed.select(axis + 1, at)).float()
            if taught is not None:
                target = weight * target + (1 - weight) / 255 * taught.select(axis + 1, at)
            if flips:
                target = target[self._other_side]
            yield image.select(axis + 1, at)[None], target[None]

    def loss(self, network: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Binary cross-entropy, mean over voxels and tracts."""
        return functional.binary_cross_entropy_with_logits(network(inputs).float(), targets)

    def score(self, network: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        """Mean Dice over tracts of a head, and over the weak ones, with the three orientations merged."""
        dice = tract_dice(merge_orientations(network, inputs[0]), targets[0])
        weak = [value for name, value in zip(self.tracts, dice, strict=True) if name in tract_names.WEAK]
        return {"dice": float(np.nanmean(dice)), **({"dice_weak": float(np.nanmean(weak))} if weak else {})}

    def _unpacked(self, packed: torch.Tensor) -> torch.Tensor:
        """Masks (n_tracts, ...), bool, of bytes (n_bytes, ...)."""
        bits = packed[:, None] & (2 ** torch.arange(7, -1, -1, device=packed.device, dtype=torch.uint8)).reshape(
            1, 8, *[1] * (packed.ndim - 1)
        )
        return (bits > 0).flatten(0, 1)[: len(self.tracts)]

    def _taught_by(self, name: str) -> torch.Tensor:
        """The teacher's probabilities on the cube of the T1w image, times 255, (n_tracts, X, Y, Z), uint8."""
        path = self._taught / f"{name}.npz"
        if not path.is_file():
            if self._teacher is None:
                msg = "the student needs its teacher: call begin before examples"
                raise RuntimeError(msg)
            case = self._load(name, "peaks", "to_peaks")
            there = merge_orientations(self._teacher, case["peaks"])
            points = apply_affine(case["to_peaks"][0, 0].double().cpu().numpy(), voxel_indices(self.cases.shape))
            soft = (255 * sample(there, points.to(there.device))).round().to(torch.uint8)
            with atomic_path(path) as temporary, temporary.open("wb") as stream:
                np.savez_compressed(stream, soft=soft.cpu().numpy())
        with np.load(path) as stored:
            return torch.from_numpy(stored["soft"]).to(self.device)


def pack_masks(masks: torch.Tensor) -> torch.Tensor:
    """Bytes (n_bytes, X, Y, Z), uint8, of masks (n_tracts, X, Y, Z) or probabilities: one bit a tract."""
    return torch.from_numpy(np.packbits(masks.cpu().numpy() > 0.5, axis=0))


def tract_dice(probability: torch.Tensor, reference: torch.Tensor) -> list[Any]:
    """Dice of each tract at a probability of 0.5 (paper, eq. 6); NaN where both are empty.

    Parameters
    ----------
    probability, reference : Tensor, (n_tracts, X, Y, Z)
        Probabilities, and masks of 0 and 1.
    """
    found, true = (probability > 0.5).flatten(1), (reference > 0.5).flatten(1)
    both, sizes = 2.0 * (found & true).sum(1), found.sum(1) + true.sum(1)
    return (both / sizes.where(sizes > 0, torch.nan)).tolist()
