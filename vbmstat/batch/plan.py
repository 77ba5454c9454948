"""The plan of a run: scans, covariates, output folder, manifest; checked as far as possible before work begins."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from vbmstat.assets import ASSETS
from vbmstat.batch.collect import People, read_people
from vbmstat.batch.derivatives import CompletedScan
from vbmstat.batch.manifest import manifest, manifest_hash, shard_of
from vbmstat.batch.person import PersonTask
from vbmstat.batch.resources import Execution
from vbmstat.batch.scan import ScanTask, origin_of
from vbmstat.batch.task import Task
from vbmstat.batch.visits import in_order_of_time, people_of, rows_by_session
from vbmstat.device import choose_device
from vbmstat.errors import VbmstatError, listed
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
    """A run before it begins; nothing is written yet."""

    inputs: Inputs  # scans, and skipped files
    tasks: tuple[Task, ...]  # the scans and people of this run: all, or those of its shard
    out: Path  # output folder, absolute
    people: People | None
    manifest: dict[str, Any] = field(repr=False)  # description of the run, the same for all shards
    spec: PreprocSpec  # how to preprocess each scan; the device is ``cpu`` or ``cuda``, not ``auto``
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
        return [scan for task in self.tasks for scan in task.scans]

    @property
    def most_scans(self) -> int:
        """Scans that are preprocessed together at most."""
        return max((len(task.scans) for task in self.tasks), default=1)

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
    if spec.models and not spec.find_engine().takes_priors:
        msg = f"engine {spec.engine} takes no priors, which an average gives to its time points; use classic"
        raise VbmstatError(msg)
    spec = replace(spec, device=str(choose_device(spec.device)))
    inputs = inputs if isinstance(inputs, Inputs) else find_inputs(places)
    people = read_people(places, participants)
    if people is None and inputs.table is not None:
        people = People(inputs.table, "the table of subjects")
    inputs, groups = people_of(inputs) if spec.models else (inputs, [(scan,) for scan in inputs.scans])
    naming.check_output_names(inputs.scans, spec.names)
    folder = (Path(out) if out is not None else default_output(places)).absolute()
    masks = _lesion_masks(spec, inputs)
    alone = replace(spec, longitudinal=None)
    tasks: dict[Sequence[naming.Scan], Task] = {
        (scan,): ScanTask(scan, folder, alone, execution, parameters, masks.get(scan)) for scan in inputs.scans
    }
    chosen = shard_of(groups, execution.shard)
    people_rows = [table for table in (people and people.table, inputs.table) if table is not None]
    for scans, (in_order, years) in _people(chosen, people_rows).items():
        tasks[scans] = PersonTask(in_order, folder, spec, execution, parameters, years)
    content = manifest(inputs.scans, origin_of(spec, parameters))
    return RunPlan(inputs, tuple(tasks[scans] for scans in chosen), folder, people, content, spec, execution)


def _people(
    groups: Iterable[tuple[naming.Scan, ...]], tables: Iterable[pd.DataFrame]
) -> dict[tuple[naming.Scan, ...], tuple[tuple[naming.Scan, ...], tuple[float, ...] | None]]:
    """Scans in the order of time, and their years, of each person with several; a warning on those without dates."""
    several = [scans for scans in groups if len(scans) > 1]
    rows = {key: row for table in tables for key, row in rows_by_session(table).items()}
    ordered = {scans: in_order_of_time(scans, rows) for scans in several}
    undated = [f"{scans[0].participant_id} ({why})" for scans, (_, _, why) in ordered.items() if why]
    if undated:
        log.warning("no yearly rates, only maps, for %d of %d people: %s; give acq_time or age in sub-X_sessions.tsv, "
                    "or date, age or years in a table", len(undated), len(several), listed(undated))  # fmt: skip
    turned = [
        f"{scans[0].participant_id} ({', '.join(scan.session_id for scan in in_order)})"
        for scans, (in_order, _, _) in ordered.items() if in_order != scans
    ]  # fmt: skip
    if turned:
        log.warning("sessions are in another order by date than by name: %s; if a date is wrong, so is the sign of the "
                    "rates", listed(turned))  # fmt: skip
    return {scans: (in_order, years) for scans, (in_order, years, _) in ordered.items()}


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
        return {scan: one for found in readers.map(_finished, plan.tasks) for scan, one in found.items()}


def _finished(task: Task) -> dict[naming.Scan, CompletedScan]:
    try:
        return task.finished()
    except VbmstatError:  # an unreadable input is reported when its turn comes
        return {}


def _places(inputs: Places) -> list[Path]:
    if isinstance(inputs, Inputs):
        return []
    return [Path(inputs)] if isinstance(inputs, str | os.PathLike) else [Path(place) for place in inputs]
