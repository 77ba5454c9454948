"""What a run is to do: scans, covariates, place and manifest; all that can be wrong with them is found here."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vbmstat import naming
from vbmstat.assets import ASSETS
from vbmstat.batch.collect import People, read_people
from vbmstat.batch.manifest import manifest, manifest_hash, shard_of
from vbmstat.batch.options import Options
from vbmstat.batch.task import ScanTask, completed_row
from vbmstat.device import choose_device
from vbmstat.errors import VbmstatError
from vbmstat.inputs import Inputs, find_inputs, is_bids
from vbmstat.preproc.pipeline import engine_parameters

Places = Iterable[Path | str] | Path | str | Inputs
_READERS = 8  # threads that look which scans are complete


@dataclass(frozen=True)
class Plan:
    """A run before it begins; nothing is written yet.

    Attributes
    ----------
    inputs : Inputs
        Scans, and files passed over.
    tasks : tuple of ScanTask
        The scans of this run: all, or a shard of them.
    out : Path
        Output folder, absolute.
    people : People, optional
        Covariates.
    manifest : dict
        What is to be done; the same for all shards.
    options : Options
        How; the device is ``cpu`` or ``cuda``, not ``auto``.
    shard : (int, int), optional
        Number and count.
    """

    inputs: Inputs
    tasks: tuple[ScanTask, ...]
    out: Path
    people: People | None
    manifest: dict[str, Any] = field(repr=False)
    options: Options
    shard: tuple[int, int] | None = None

    @property
    def id(self) -> str:
        """Hash of the manifest."""
        return manifest_hash(self.manifest)

    @property
    def scans(self) -> list[naming.Scan]:
        """The scans of this run."""
        return [task.scan for task in self.tasks]

    def in_logs(self, stem: str, suffix: str) -> str:
        """Name of a file of this run's own: a shard's has its number in it."""
        return f"{stem}{suffix}" if self.shard is None else f"{stem}_shard-{self.shard[0]}of{self.shard[1]}{suffix}"


def make_plan(
    inputs: Places,
    out: Path | str | None,
    options: Options,
    *,
    participants: Path | str | None = None,
    shard: tuple[int, int] | None = None,
) -> Plan:
    """Find scans and covariates, and check everything that can be checked before the work.

    Parameters and errors are those of :func:`vbmstat.batch.run.preprocess`, some of them in `options`.
    """
    places = _places(inputs)
    assets = {name: asset.sha256 for name, asset in ASSETS.items()}
    engine, names = options.engine, options.names
    parameters = {"names": names, "assets": assets, **engine_parameters(engine, *filter(None, [options.weights]))}
    if names not in naming.NAME_STYLES:
        msg = f"expected names {' or '.join(naming.NAME_STYLES)}, got {names!r}"
        raise VbmstatError(msg)
    options = replace(options, device=str(choose_device(options.device)))
    found = inputs if isinstance(inputs, Inputs) else find_inputs(places)
    naming.check_output_names(found.scans, names)
    folder = (Path(out) if out is not None else default_output(places)).absolute()
    tasks = tuple(ScanTask(scan, folder, options, parameters) for scan in shard_of(found.scans, shard))
    people = read_people(places, participants)
    content = manifest(found.scans, parameters, engine, options.device)
    return Plan(found, tasks, folder, people, content, options, shard)


def default_output(inputs: Iterable[Path | str]) -> Path:
    """``derivatives/vbmstat`` in a single BIDS folder, else ``vbmstat-out`` in the working folder."""
    places = [Path(place) for place in inputs]
    if len(places) == 1 and places[0].is_dir() and is_bids(places[0]):
        return places[0] / "derivatives" / "vbmstat"
    return Path("vbmstat-out")


def completed(plan: Plan) -> dict[naming.Scan, dict[str, Any]]:
    """Cohort columns of the scans of a plan that are complete already; reads those scans' files for their hashes."""
    with ThreadPoolExecutor(_READERS) as readers:
        rows = readers.map(_completed, plan.tasks)
        return {task.scan: row for task, row in zip(plan.tasks, rows, strict=True) if row is not None}


def _completed(task: ScanTask) -> dict[str, Any] | None:
    try:
        return completed_row(task)
    except VbmstatError:  # an input that cannot be read is told when it is its turn
        return None


def _places(inputs: Places) -> list[Path]:
    if isinstance(inputs, Inputs):
        return []
    return [Path(inputs)] if isinstance(inputs, str | os.PathLike) else [Path(place) for place in inputs]
