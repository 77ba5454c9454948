"""The training loop: checkpoints after every epoch, a log, and the trained networks.

The folder of a run holds ``checkpoint.pt`` (numbers only, read without executing code), ``log.tsv`` (one line per
epoch) and the finished networks. Random numbers depend only on (seed, stage, epoch), so that a resumed run equals an
uninterrupted one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from vbmstat import assets
from vbmstat.assets.tensors import read_tensors
from vbmstat.errors import VbmstatError
from vbmstat.image import storage
from vbmstat.preproc.networks.weights import own_file, save_network
from vbmstat.training.cases import CaseFile
from vbmstat.training.config import RunConfig, read_config
from vbmstat.training.folds import grouped_folds
from vbmstat.training.lesions import LesionTask
from vbmstat.training.registration import RegistrationTask
from vbmstat.training.task import Stage, Task
from vbmstat.training.tissue import GmMaskTask, PatchesTask, SegmentationTask
from vbmstat.training.tracts import TractTask

TASKS: dict[str, type[Task]] = {
    task.kind: task for task in (SegmentationTask, PatchesTask, GmMaskTask, RegistrationTask, LesionTask, TractTask)
}
CHECKPOINT, LOG = "checkpoint.pt", "log.tsv"


@dataclass
class _State:
    """Position of the run, stored in the checkpoint."""

    stage: int = 0
    epoch: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)


def open_task(kind: str, config_path: Path, device: torch.device | str = "cpu") -> Task:
    """Read a run's configuration and open its cases.

    Parameters
    ----------
    kind : {"segmentation", "patches", "gm-mask", "registration", "wmh", "tracts"}
        Kind of network.
    config_path : Path
        TOML file of a :class:`RunConfig`; paths in it are relative to its folder.
    device : torch.device or str
        Where to train.

    Raises
    ------
    VbmstatError
        If the configuration is invalid, or the cases are of another kind.
    """
    task = TASKS[kind]
    config = read_config(config_path, task.defaults)
    cases = CaseFile(config_path.parent / config.data)
    if cases.settings.get("kind") != task.cases_kind:
        msg = f"{cases.path}: expected cases of {task.cases_kind}, got {cases.settings.get('kind')}"
        raise VbmstatError(msg)
    return task(cases, config, torch.device(device), config_path.parent)


def train(
    task: Task, out: Path, minutes: float | None = None, on_epoch: Callable[[dict[str, Any]], None] = lambda _: None
) -> bool:
    """Train the networks of a task, or resume their training.

    Parameters
    ----------
    task : Task
        From :func:`open_task`.
    out : Path
        Folder of the run; a run with a checkpoint is resumed.
    minutes : float, optional
        Stop before an epoch that would end later than this from now.
    on_epoch : callable
        Called with the log line of each epoch.

    Returns
    -------
    bool
        Whether the run is complete.

    Raises
    ------
    VbmstatError
        If the groups of cases are too few, or the folder holds a run with another configuration.
    """
    end = float("inf") if minutes is None else time.monotonic() + 60 * minutes
    training, validation, test = _split(task.cases, task.config, task.n_test_folds)
    sources = {"cases": task.cases.path} | ({"start": task.start} if task.start else {})
    sources |= {"first_stage": task.given} if task.given and task.given.is_file() else {}
    run: dict[str, Any] = {
        "kind": task.kind,
        "config": task.config.as_dict(),
        **{n: assets.sha256(p) for n, p in sources.items()},
    }
    saved = _read_checkpoint(out, run)
    state = _State(**saved["state"]) if saved else _State()
    stages = task.stages()
    while state.stage < len(stages):
        stage = stages[state.stage]
        fit = _Fit(task, stage, training, out)
        if saved and state.epoch:
            fit.load(saved)
        while state.epoch < stage.epochs:
            expected = state.rows[-1]["seconds"] if state.rows else 0.0
            if time.monotonic() + expected > end:
                return False
            start = time.monotonic()
            row = {"stage": stage.name, "epoch": state.epoch + 1, "loss": fit.epoch(state.stage, state.epoch)}
            row |= {f"validation_{name}": value for name, value in fit.validate(validation).items()}
            row |= {"learning_rate": fit.rate, "seconds": round(time.monotonic() - start, 2)}
            fit.keep(row)
            state.rows.append(row)
            state.epoch += 1
            if state.epoch == stage.epochs:
                fit.finish(test, {name: run[name] for name in sources})
            _write_checkpoint(out, run, state, fit)
            on_epoch(row)
        state.stage, state.epoch, saved = state.stage + 1, 0, None
    return True


class _Fit:
    """Network, optimiser and schedule of one stage."""

    def __init__(self, task: Task, stage: Stage, names: list[str], out: Path) -> None:
        self.task, self.stage, self.out = task, stage, out
        task.begin(stage, out)
        self.config = config = task.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.network = task.build().to(task.device)
        if stage.start:
            self.network.load_state_dict(_weights_to_start_from(out / stage.start, task.kind))
        self.names = names = task.select(names, stage, self.network)
        self.network.to(memory_format=task.memory_format)  # type: ignore[call-overload]
        steps = -(-len(names) * task.n_examples(stage) // config.batch_size)
        self.optimiser, self.schedule = task.optimiser(self.network, stage.epochs * steps + 1)
        self.kept: dict[str, Any] = {}  # row and weights of the best epoch

    @property
    def rate(self) -> float:
        """Current learning rate."""
        return float(self.schedule.get_last_lr()[0])

    def epoch(self, stage_number: int, number: int) -> float:
        """Train one pass over the cases; return the mean loss."""
        source = torch.Generator().manual_seed(_seed(self.config.seed, stage_number, number))
        self.network.train()
        total, n = 0.0, 0
        for inputs, targets in self._batches(source):
            self.optimiser.zero_grad(set_to_none=True)
            with self._precision():
                loss = self.task.loss(self.network, inputs, targets)
            if not bool(torch.isfinite(loss)):
                msg = f"{self.stage.name}: the loss became {float(loss.detach())}; use a smaller max_learning_rate"
                raise VbmstatError(msg)
            loss.backward()
            self.optimiser.step()
            self.schedule.step()
            total += float(loss.detach()) * len(inputs)
            n += len(inputs)
        return total / n

    def validate(self, names: list[str]) -> dict[str, float]:
        """Mean scores over the validation cases."""
        self.network.eval()
        scores = []
        with torch.inference_mode(), self._precision():
            for name in names:
                for inputs, targets in self.task.examples(name, self.stage, None):
                    scores.append(self.task.score(self.network, _channels_last(inputs), targets))
        return {name: sum(score[name] for score in scores) / len(scores) for name in (scores[0] if scores else {})}

    def keep(self, row: dict[str, Any]) -> None:
        """Remember the network after an epoch, unless an earlier one had a better score."""
        score = f"validation_{self.task.best}"
        if not self.kept or not row.get(score, 0.0) <= self.kept["row"].get(score, -1.0):
            weights = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
            self.kept = {"row": row, "weights": weights}

    def finish(self, test: list[str], sources: dict[str, str]) -> None:
        """Write the network that was kept, with its scores and the hashes of its sources."""
        kind, index = self.stage.file
        config = self.config
        self.network.load_state_dict(self.kept["weights"])
        scores = {name: value for name, value in self.kept["row"].items() if name.startswith(("validation_", "epoch"))}
        scores |= {f"test_{name}": value for name, value in self.validate(test).items()}
        settings = {
            "n_channels": config.n_channels, "depth": config.depth, **self.stage.settings, **scores,
            "config": config.as_dict(), **{f"{name}_sha256": digest for name, digest in sources.items()},
        }  # fmt: skip
        save_network(own_file(self.out, kind, index), self.network, self.task.kind, settings)

    def load(self, saved: dict[str, Any]) -> None:
        """Resume from a checkpoint."""
        self.network.load_state_dict(saved["network"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.schedule.load_state_dict(saved["schedule"])
        self.kept = saved["kept"]

    def _batches(self, source: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        waiting: list[tuple[torch.Tensor, torch.Tensor]] = []
        for index in torch.randperm(len(self.names), generator=source).tolist():
            for example in self.task.examples(self.names[index], self.stage, source):
                waiting.append(example)
                if len(waiting) == self.config.batch_size:
                    yield _batch(waiting)
                    waiting = []
        if waiting:
            yield _batch(waiting)

    def _precision(self) -> torch.autocast:
        wanted = self.config.precision == "bfloat16"
        return torch.autocast(self.task.device.type, torch.bfloat16, enabled=wanted)


def _weights_to_start_from(path: Path, kind: str) -> dict[str, torch.Tensor]:
    tensors, settings = read_tensors(path, "a file written by 'vbmstat train'")
    if settings.get("kind") != kind:
        msg = f"{path}: expected a network of kind {kind} to start from, got {settings.get('kind')}"
        raise VbmstatError(msg)
    return tensors


def _batch(examples: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = (torch.cat(parts) for parts in zip(*examples, strict=True))
    return _channels_last(inputs), targets


def _channels_last(inputs: torch.Tensor) -> torch.Tensor:
    return inputs.contiguous(memory_format=torch.channels_last_3d if inputs.ndim == 5 else torch.channels_last)


def _split(cases: CaseFile, config: RunConfig, n_test_folds: int = 0) -> tuple[list[str], list[str], list[str]]:
    """Names of the training, the validation and the test cases; the test folds follow the validation fold."""
    if config.n_folds == 1:
        return cases.names, cases.names[: config.n_validation], []
    try:
        folds = grouped_folds(cases.groups, config.n_folds, config.seed)
    except ValueError as error:
        msg = f"{cases.path}: {error}; lower n_folds"
        raise VbmstatError(msg) from error
    parts: tuple[list[str], list[str], list[str]] = ([], [], [])
    for name, fold in zip(cases.names, folds, strict=True):
        after = (fold - config.fold) % config.n_folds  # 0: validation; 1 to n_test_folds: test
        parts[1 if after == 0 else 2 if after <= n_test_folds else 0].append(name)
    if not parts[0]:
        msg = (
            f"{cases.path}: no cases are left to train on: {config.n_folds} folds, 1 validates and {n_test_folds} tests"
            "; raise n_folds, or set n_folds = 1 to train on all"
        )
        raise VbmstatError(msg)
    return parts[0], parts[1][: config.n_validation], parts[2]


def _seed(*parts: int) -> int:
    """A seed from several numbers."""
    value = 0
    for part in parts:
        value = (value * 1_000_003 + part + 1) % (2**63)
    return value


def _read_checkpoint(out: Path, run: dict[str, Any]) -> dict[str, Any] | None:
    path = out / CHECKPOINT
    if not path.is_file():
        return None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        same = saved["run"] == run
    except Exception as error:
        msg = f"{path}: not a checkpoint of vbmstat ({type(error).__name__}); delete it to start again"
        raise VbmstatError(msg) from error
    if not same:
        differing = [name for name in run if saved["run"].get(name) != run[name]]
        msg = f"{out}: holds a run with another {', '.join(differing)}; choose another --out"
        raise VbmstatError(msg)
    return dict(saved)


def _write_checkpoint(out: Path, run: dict[str, Any], state: _State, fit: _Fit) -> None:
    content = {
        "run": run, "state": vars(state), "network": fit.network.state_dict(),
        "optimiser": fit.optimiser.state_dict(), "schedule": fit.schedule.state_dict(), "kept": fit.kept,
    }  # fmt: skip
    with storage.atomic_path(out / CHECKPOINT) as temporary:
        torch.save(content, temporary)
    storage.write_table(out / LOG, pd.DataFrame(state.rows))
