"""The plan of a run: scans, covariates, output folder, manifest; checked as far as possible before work begins."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vbmstat.assets import ASSETS
from vbmstat.batch.collect import People, read_people
from vbmstat.batch.derivatives import CompletedScan
from vbmstat.batch.manifest import manifest, manifest_hash, shard_of
from vbmstat.batch.resources import Execution
from vbmstat.batch.task import ScanTask, origin_of
from vbmstat.device import choose_device
from vbmstat.errors import VbmstatError
from vbmstat.files import naming
from vbmstat.files.lesion_masks import find_lesion_masks, without_mask
from vbmstat.files.search import Inputs, find_inputs, is_bids
from vbmstat.preproc.spec import PreprocSpec

Places = Iterable[Path | str] | Path | str | Inputs
_READERS = 8  # threads that check which scans are complete
_HERE = Execution()
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunPlan:
    """A run before it begins; nothing is written yet.

    Attributes
    ----------
    inputs : Inputs
        Scans, and skipped files.
    tasks : tuple of ScanTask
        The scans of this run: all, or those of its shard.
    out : Path
        Output folder, absolute.
    people : People, optional
        Covariates.
    manifest : dict
        Description of the run, the same for all shards.
    spec : PreprocSpec
        How to preprocess each scan; the device is ``cpu`` or ``cuda``, not ``auto``.
    execution : Execution
        How to run.
    """

    inputs: Inputs
    tasks: tuple[ScanTask, ...]
    out: Path
    people: People | None
    manifest: dict[str, Any] = field(repr=False)
    spec: PreprocSpec
    execution: Execution

    @property
    def shard(self) -> tuple[int, int] | None:
        """Number and count of the shard."""
        return self.execution.shard

    @property
    def workload(self) -> str:
        """Key of the engine's time and memory estimates."""
        return self.spec.find_engine().workload

    @property
    def id(self) -> str:
        """Hash of the manifest."""
        return manifest_hash(self.manifest)

    @property
    def scans(self) -> list[naming.Scan]:
        """The scans of this run."""
        return [task.scan for task in self.tasks]

    def log_name(self, stem: str, suffix: str) -> str:
        """Name of a log file of this run, with the number of the shard, if any."""
        return f"{stem}{suffix}" if self.shard is None else f"{stem}_shard-{self.shard[0]}of{self.shard[1]}{suffix}"


def make_plan(
    inputs: Places,
    out: Path | str | None,
    spec: PreprocSpec,
    execution: Execution = _HERE,
    participants: Path | str | None = None,
) -> RunPlan:
    """Find scans and covariates and check all that can be checked; parameters and errors as in ``run.preprocess``."""
    places = _places(inputs)
    assets = {name: asset.sha256 for name, asset in ASSETS.items()}
    parameters = {"assets": assets, **spec.parameters()}
    spec = replace(spec, device=str(choose_device(spec.device)))
    inputs = inputs if isinstance(inputs, Inputs) else find_inputs(places)
    naming.check_output_names(inputs.scans, spec.names)
    folder = (Path(out) if out is not None else default_output(places)).absolute()
    scans = shard_of(inputs.scans, execution.shard)
    masks = _lesion_masks(spec, inputs)
    tasks = tuple(ScanTask(scan, folder, spec, execution, parameters, masks.get(scan)) for scan in scans)
    people = read_people(places, participants)
    content = manifest(inputs.scans, origin_of(spec, parameters))
    return RunPlan(inputs, tasks, folder, people, content, spec, execution)


def _lesion_masks(spec: PreprocSpec, inputs: Inputs) -> dict[naming.Scan, Path]:
    """The scans' lesion masks; scans without one are named in a warning."""
    if spec.lesion_mask is None:
        return {}
    masks = find_lesion_masks(spec.lesion_mask, inputs.scans)
    lacking = without_mask(masks, inputs.scans)
    if lacking:
        log.warning("%s", lacking)
    return masks


def default_output(inputs: Iterable[Path | str]) -> Path:
    """``derivatives/vbmstat`` in a single BIDS folder, else ``vbmstat-out`` in the working folder."""
    places = [Path(place) for place in inputs]
    if len(places) == 1 and places[0].is_dir() and is_bids(places[0]):
        return places[0] / "derivatives" / "vbmstat"
    return Path("vbmstat-out")


def completed(plan: RunPlan) -> dict[naming.Scan, CompletedScan]:
    """The scans of a plan that need no work; reads their inputs to compute hashes."""
    with ThreadPoolExecutor(_READERS) as readers:
        results = readers.map(_completed, plan.tasks)
        return {task.scan: one for task, one in zip(plan.tasks, results, strict=True) if one is not None}


def _completed(task: ScanTask) -> CompletedScan | None:
    try:
        one = task.completed()
    except VbmstatError:  # an unreadable input is reported when its turn comes
        return None
    return None if one is None or task.missing_widths(one) or task.lacks_outputs(one) else one


def _places(inputs: Places) -> list[Path]:
    if isinstance(inputs, Inputs):
        return []
    return [Path(inputs)] if isinstance(inputs, str | os.PathLike) else [Path(place) for place in inputs]
