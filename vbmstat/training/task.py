"""A kind of network to train: its stages, examples, loss and scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from vbmstat.errors import VbmstatError
from vbmstat.preproc.networks.weights import build_network
from vbmstat.training.cases import CaseFile
from vbmstat.training.config import RunConfig

Example = tuple[torch.Tensor, torch.Tensor]  # inputs and targets, (B, C, X, Y, Z) or slices (B, C, A, B)
_WARM_UP, _DIVISOR, _FINAL_DIVISOR, _MOMENTUM = 0.25, 25.0, 4000.0, (0.85, 0.95)
_SECOND_MOMENT, _EPSILON, _WEIGHT_DECAY = 0.99, 1e-5, 0.01


@dataclass(frozen=True)
class Stage:
    """Training of one network.

    Attributes
    ----------
    name : str
        Name in the log.
    epochs : int
        Passes over the cases.
    file : (kind, index)
        Arguments of :func:`vbmstat.preproc.networks.weights.own_file`.
    start : Path, optional
        Network to start from; a bare name is a network of this run.
    settings : dict
        Further settings to store in the network's file.
    """

    name: str
    epochs: int
    file: tuple[str, int | None]
    start: Path | None
    settings: dict[str, Any]


class Task(ABC):
    """A kind of network.

    Parameters
    ----------
    cases : CaseFile
        Training and validation cases.
    config : RunConfig
        Configuration of the run.
    device : torch.device
        Where examples are made.
    folder : Path
        Folder to which paths in the configuration are relative.
    """

    kind: ClassVar[str]
    cases_kind: ClassVar[str] = "tissue"
    best: ClassVar[str] = ""  # score of the epoch that is kept; the last epoch without one
    n_test_folds: ClassVar[int] = 0  # folds after the validation fold that are left for the final test
    memory_format: ClassVar[torch.memory_format] = torch.channels_last_3d
    defaults: ClassVar[Mapping[str, Any]] = {}  # of the configuration, where they differ from RunConfig's

    def __init__(self, cases: CaseFile, config: RunConfig, device: torch.device, folder: Path) -> None:
        self.cases, self.config, self.device = cases, config, device
        self.start = (folder / config.start).absolute() if config.start else None
        self.given = (folder / config.first_stage).absolute() if config.first_stage else None
        if self.start and not self.start.is_file():
            msg = f"{self.start}: no such file; expected the network to start from"
            raise VbmstatError(msg)

    def begin(self, stage: Stage, out: Path) -> None:  # noqa: B027 - most kinds have nothing to do
        """Called before a stage's network is built, with the folder of the run."""

    def build(self) -> nn.Module:
        """A network with random weights."""
        return build_network(self.kind, {"n_channels": self.config.n_channels, "depth": self.config.depth})

    def stages(self) -> list[Stage]:
        """Stages in the order of training."""
        return [Stage(self.kind, self.config.epochs, (self.kind, None), self.start, {"shape": list(self.cases.shape)})]

    def select(self, names: list[str], stage: Stage, network: nn.Module) -> list[str]:
        """The training cases of a stage, given the network that it starts from; all by default."""
        del stage, network
        return names

    def n_examples(self, stage: Stage) -> int:
        """Number of examples per case and epoch."""
        del stage
        return 1

    def optimiser(
        self, network: nn.Module, total_steps: int
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """Optimiser and its schedule: AdamW with one cycle, "the default settings of the fastai library"."""
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=self.config.max_learning_rate / _DIVISOR, betas=(_MOMENTUM[1], _SECOND_MOMENT),
            eps=_EPSILON, weight_decay=_WEIGHT_DECAY,
        )  # fmt: skip
        return optimiser, torch.optim.lr_scheduler.OneCycleLR(
            optimiser, self.config.max_learning_rate, total_steps=total_steps, pct_start=_WARM_UP,
            div_factor=_DIVISOR, final_div_factor=_FINAL_DIVISOR, base_momentum=_MOMENTUM[0], max_momentum=_MOMENTUM[1],
        )  # fmt: skip

    @abstractmethod
    def examples(self, name: str, stage: Stage, source: torch.Generator | None) -> Iterator[Example]:
        """Examples of a case, each with batch size 1; augmented and shuffled if a random generator is given."""

    @abstractmethod
    def loss(self, network: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Loss of a batch."""

    @abstractmethod
    def score(self, network: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        """Scores that are meaningful to a reader of the log."""

    def _load(self, name: str, *keys: str) -> dict[str, torch.Tensor]:
        return {key: values.to(self.device) for key, values in self.cases.load(name, *keys).items()}
