"""Build the template of a group from scans that are preprocessed already, person by person; a killed run goes on.

People are warped one at a time, or by workers; what they leave behind (linearly aligned tissues, a velocity a level) is
in a work folder, so that memory does not grow with their number. Sums run over people in the order of their ids.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from vbmstat import assets
from vbmstat.assets.provenance import provenance
from vbmstat.batch.claim import tables_claim
from vbmstat.batch.finished import FinishedScan
from vbmstat.batch.template_levels import KINDS, OrderedMap, Work
from vbmstat.batch.visits import natural_key
from vbmstat.errors import ScanError, VbmstatError
from vbmstat.figures.style import save_png
from vbmstat.figures.template import template_figure
from vbmstat.files import naming
from vbmstat.image import io, storage
from vbmstat.image.volume import Displacement, Volume
from vbmstat.maps.origins import GROUP_TEMPLATE
from vbmstat.preproc import group_template as steps
from vbmstat.preproc.group_template import LEAST_PEOPLE
from vbmstat.preproc.templates import COMMAND, RECORD, TISSUES, TO_STANDARD
from vbmstat.progress import OnProgress, ignore
from vbmstat.tables import dictionary
from vbmstat.tables.cohort import read_cohort
from vbmstat.tables.selection import Selection, select

WORK = "work"
_TEMPLATE_STEP, _FIELD_STEP_MM = 1 / 10000, 1 / 256  # of values on disk


@dataclass(frozen=True)
class TemplateSpec:
    """How a template is made."""

    is_symmetric: bool = False  # whether each person also counts mirrored left to right
    selection: Selection = field(default_factory=Selection)  # which scans of the cohort take part


@dataclass(frozen=True)
class Built:
    """A template in its folder."""

    out: Path
    record: dict[str, Any]  # content of ``template.json``

    @property
    def left_out(self) -> dict[str, str]:
        """Why people were left out, by scan."""
        return {stem: one["left_out"] for stem, one in self.record["people"].items() if one["left_out"]}


def build_template(
    cohort: Path,
    out: Path,
    spec: TemplateSpec | None = None,
    mapping: OrderedMap = map,
    report: OnProgress = ignore,
) -> Built:
    """Build a template and write its folder.

    Parameters
    ----------
    cohort : Path
        Output folder of ``vbmstat preprocess``, or the ``cohort.tsv`` in it. Of several scans of a person the first
        counts.
    out : Path
        Folder of the template. A run that was killed goes on; one that is complete is not repeated.
    spec : TemplateSpec, optional
        How.
    mapping : callable
        Maps a job over people, in order.
    report : callable
        Called with (stage, done, total) after each person.

    Raises
    ------
    VbmstatError
        If the folder is none of preprocess, the scans were registered to a group template, fewer than ten people are
        left, or `out` holds another template.
    """
    spec = spec or TemplateSpec()
    people = find_people(cohort, spec.selection)
    work = Work(Path(out).absolute() / WORK, people, spec.is_symmetric)
    with tables_claim(Path(out)):
        origin = _origin(people, spec)
        earlier = _earlier(Path(out) / RECORD, origin)
        if earlier is not None:
            return Built(Path(out), earlier)
        work.begin(origin)
        stages: list[dict[str, Any]] = []
        for number in range(len(steps.LEVELS)):
            stages.append(work.level(number, stages[-1] if stages else {}, mapping, report))
        left_out = stages[-1]["left_out"]
        way = work.to_standard([stem for stem in people if stem not in left_out], mapping, report)
        record = _write(Path(out), work, origin, stages, way)
        shutil.rmtree(work.folder)
    return Built(Path(out), record)


def find_people(cohort: Path, selection: Selection) -> dict[str, FinishedScan]:
    """The first scan of each person that the selection leaves, by stem, in order.

    Raises
    ------
    VbmstatError
        As :func:`build_template`.
    """
    path = cohort / "cohort.tsv" if cohort.is_dir() else cohort
    table = read_cohort(path)
    rows = select(table, selection.resolved(table)).table
    if not {"scan", "engine"} <= set(rows):
        msg = f"{path}: expected the table of vbmstat preprocess, with the columns scan and engine"
        raise VbmstatError(msg)
    if GROUP_TEMPLATE in rows and rows[GROUP_TEMPLATE].notna().any():
        msg = f"{path}: some scans were registered to a group template; give scans preprocessed without --template"
        raise VbmstatError(msg)
    engines = sorted(set(rows["engine"].astype(str)))
    if len(engines) > 1:
        msg = f"{path}: scans of several engines ({', '.join(engines)}); choose those of one (--where)"
        raise VbmstatError(msg)
    by_session = sorted(rows.index, key=lambda ids: natural_key(ids[1]))  # session 2 before session 10
    first = rows["scan"].loc[by_session].groupby(level=0, sort=True).first()
    found = {}
    for stem in sorted(first.astype(str)):
        scan = naming.Scan.of_stem(stem)
        styles = (FinishedScan(path.parent, scan, names) for names in naming.NAME_STYLES)
        one = next((each for each in styles if each.record), None)
        if one is None:
            msg = f"{path.parent}: {stem} has no record there (report/vbmstat_{stem}.json); run vbmstat preprocess"
            raise ScanError(msg)
        found[stem] = one
    if len(found) < LEAST_PEOPLE:
        msg = f"{path}: expected {LEAST_PEOPLE} people or more for a template, got {len(found)}; use the standard one"
        raise VbmstatError(msg)
    return found


def _origin(people: dict[str, FinishedScan], spec: TemplateSpec) -> dict[str, Any]:
    """Everything that decides the template: options, levels, versions, hashes of tissues, warps and records."""
    inputs = [path for one in people.values() for path in (*map(one.path, KINDS), one.warp.source, one.path("sidecar"))]
    missing = [path for path in inputs if not path.is_file()]
    if missing:
        msg = f"{missing[0]}: no such file; write tissue maps and velocity of all people (preprocess --outputs vbm)"
        raise ScanError(msg)
    parameters = {
        "symmetric": spec.is_symmetric, "selection": spec.selection.record(),
        "levels": [asdict(level) for level in steps.LEVELS], "standard_sha256": assets.ASSETS["template"].sha256,
    }  # fmt: skip
    return provenance(COMMAND, parameters, inputs)


def _earlier(path: Path, origin: dict[str, Any]) -> dict[str, Any] | None:
    """The record of the same template, if it is complete; None without one."""
    if not path.exists():
        return None
    try:
        record = dict(storage.read_json(path))
    except (OSError, ValueError):
        record = {}
    if {key: record.get(key) for key in origin} != origin:
        msg = f"{path.parent}: holds another template, which scans may refer to; choose another --out, or delete it"
        raise VbmstatError(msg)
    return record


def _write(
    out: Path, work: Work, origin: dict[str, Any], stages: list[dict[str, Any]], to_standard: Displacement
) -> dict[str, Any]:
    """Write the template's folder, the record last."""
    templates = [work.template(number) for number in range(len(steps.LEVELS))]
    left_out = stages[-1]["left_out"]
    people = {}
    for stem, one in work.people.items():
        row = one.record["row"]
        people[stem] = {"gm_ml": row["gm_ml"], "wm_ml": row["wm_ml"], "left_out": left_out.get(stem, "")}
    levels = [{key: value for key, value in stage.items() if key != "left_out"} for stage in stages]
    with storage.replacing(out, RECORD) as made:
        for number, template in enumerate(templates):
            counts = Volume(torch.round(template.data.clamp(0, 1) / _TEMPLATE_STEP), template.grid)
            text = f"vbmstat template, level {number}: GM, WM"
            io.write_volume(made / f"Template_{number}.nii.gz", counts, dtype="int16", step=_TEMPLATE_STEP,
                            description=text)  # fmt: skip
        rounded = Volume(torch.round(to_standard.data / _FIELD_STEP_MM) * _FIELD_STEP_MM, to_standard.grid)
        io.write_volume(made / TO_STANDARD, rounded, description="vbmstat: standard point -> template point, mm")
        table = pd.DataFrame([{"scan": stem, **one} for stem, one in people.items()])
        dictionary.write_table(made / "people.tsv", table, "template_people")
        save_png(made / "levels.png", template_figure(templates, len(people) - len(left_out)))
        record = {
            **origin, "people": people, "levels": levels,
            "sha256": {name: assets.sha256(made / name) for name in (TISSUES, TO_STANDARD)},
        }  # fmt: skip
        storage.write_json(made / RECORD, record)
    return dict(storage.read_json(out / RECORD))
