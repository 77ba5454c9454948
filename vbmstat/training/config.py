"""A run's configuration: one TOML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vbmstat.errors import VbmstatError
from vbmstat.preproc.networks.unet import DEPTH, N_CHANNELS
from vbmstat.tables.toml import read_toml

PRECISIONS = ("float32", "bfloat16")
SECOND_STEPS = ("", "drop", "relabel")
_KINDS_OF = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


@dataclass(frozen=True)
class RunConfig:
    """Configuration of a run; the defaults are the paper's where it reports them.

    Attributes
    ----------
    data : str
        File of cases, relative to the folder of the TOML file.
    epochs : int
        Passes over the cases; the paper uses 60 for segmentation, 20 per patch position, 50 for registration.
    foundation_epochs : int
        Passes over all patches before the individual positions (patches only).
    batch_size : int
        Cases or patches per step.
    max_learning_rate : float
        Peak of the one-cycle schedule.
    n_channels, depth : int
        Channels of the finest level and depth of the UNet.
    augment : float
        Probability of each augmentation; 0 also turns off flips and translations.
    start : str
        Network of the same kind to start from (e.g. of a run on coarser voxels), relative to the TOML file's folder.
    first_stage : str
        Network of the first stage, relative to the TOML file's folder (patches; tracts: a trained teacher).
    patch, patches : int
        Edge of the cubes that a step learns from, in voxels, and their number per brain and epoch (wmh only).
    slice_voxels : float
        Thickness of the slices in which lesions were labelled, in voxels of the image; 0: their spacing (wmh only).
    second_step : {"", "drop", "relabel"}
        What a second step does with the cases whose labels disagree most with the first step's network (wmh only).
    disagreeing : float
        Their share of the cases.
    slices : int
        Slices of each head and epoch (tracts only).
    reference_weight : float
        Weight lambda of the references; the teacher's is 1 - lambda, and 1 trains without a teacher (tracts only).
    n_folds, fold : int
        Cases of fold `fold` of `n_folds` validate; with ``n_folds = 1``, all cases train and validate.
    n_validation : int
        Largest number of validation cases.
    refine : bool
        Whether engine `deep` refines this network's velocity by optimisation (registration only).
    precision : {"float32", "bfloat16"}
        Precision of convolutions; weights are float32.
    seed : int
        Same seed, same result on the same machine.
    """

    data: str
    epochs: int = 60
    foundation_epochs: int = 2
    batch_size: int = 1
    max_learning_rate: float = 1e-3
    n_channels: int = N_CHANNELS
    depth: int = DEPTH
    augment: float = 0.2
    start: str = ""
    first_stage: str = ""
    patch: int = 48
    patches: int = 16
    slice_voxels: float = 0.0
    second_step: str = ""
    disagreeing: float = 0.2
    slices: int = 144
    reference_weight: float = 0.5
    n_folds: int = 5
    fold: int = 0
    n_validation: int = 8
    refine: bool = True
    precision: str = "float32"
    seed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """As stored in checkpoints and networks."""
        return asdict(self)


def read_config(path: Path, defaults: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a configuration from a TOML file; a kind of network may have its own `defaults`.

    Raises
    ------
    VbmstatError
        If the file is missing or not TOML, or has an unknown name or an invalid value.
    """
    content = read_toml(path, "a run's TOML file")
    kinds = {entry.name: type(entry.default) for entry in fields(RunConfig) if entry.name != "data"} | {"data": str}
    for name, value in content.items():
        if name not in kinds:
            msg = f"{path}: unknown name {name!r}; expected {', '.join(kinds)}"
            raise VbmstatError(msg)
        wanted = kinds[name]
        if not (type(value) is wanted or (wanted is float and type(value) is int)):
            msg = f"{path}: {name}: expected {_KINDS_OF[wanted]}, got {value!r}"
            raise VbmstatError(msg)
    if "data" not in content:
        msg = f'{path}: expected a line data = "….npz"'
        raise VbmstatError(msg)
    config = RunConfig(**{**(defaults or {}), **content})
    _check(config, path)
    return config


def _check(config: RunConfig, path: Path) -> None:
    for name, least in (
        ("epochs", 1), ("foundation_epochs", 0), ("batch_size", 1), ("n_channels", 1), ("depth", 1), ("n_folds", 1),
        ("fold", 0), ("n_validation", 0), ("augment", 0.0), ("max_learning_rate", 1e-12),
        ("patch", 8), ("patches", 1), ("slice_voxels", 0.0), ("disagreeing", 0.0), ("slices", 1),
        ("reference_weight", 0.0),
    ):  # fmt: skip
        if getattr(config, name) < least:
            msg = f"{path}: {name}: expected at least {least}, got {getattr(config, name)}"
            raise VbmstatError(msg)
    if config.fold >= config.n_folds:
        msg = f"{path}: fold: expected 0 to {config.n_folds - 1}, got {config.fold}"
        raise VbmstatError(msg)
    if config.precision not in PRECISIONS:
        msg = f"{path}: precision: expected {' or '.join(PRECISIONS)}, got {config.precision!r}"
        raise VbmstatError(msg)
    if config.second_step not in SECOND_STEPS:
        msg = f"{path}: second_step: expected {' or '.join(map(repr, SECOND_STEPS))}, got {config.second_step!r}"
        raise VbmstatError(msg)
