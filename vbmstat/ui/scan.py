"""One scan for the page: its images, its picture, its quality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vbmstat.files import map_kinds, naming
from vbmstat.report.preprocessing import readable, unusual_values
from vbmstat.tables import dictionary
from vbmstat.ui.cohort import flags_of, inputs, read_study, scan_id
from vbmstat.ui.commands import command_line
from vbmstat.ui.plain import plain
from vbmstat.ui.study import MissingError, Study

_T1W, _SCAN, _TEMPLATE = "t1w", "scan", "template"
# kind of output -> label, role, space, range shown (None: the viewer's own)
_IMAGES: dict[str, tuple[str, str, str, list[float] | None]] = {
    "m": ("T1w, bias corrected", _T1W, _SCAN, None),
    "p1": ("Grey matter", "gm", _SCAN, [0.0, 1.0]),
    "p2": ("White matter", "wm", _SCAN, [0.0, 1.0]),
    "p3": ("CSF", "csf", _SCAN, [0.0, 1.0]),
    "p0": ("Tissue labels", "label", _SCAN, [0.0, 3.0]),
    "p7": ("White-matter hypointensities", "lesion", _SCAN, [0.0, 1.0]),
    "wm": ("T1w in template space", "warped", _TEMPLATE, None),
    "wp1": ("Grey matter in template space", "warped", _TEMPLATE, [0.0, 1.0]),
    "wp2": ("White matter in template space", "warped", _TEMPLATE, [0.0, 1.0]),
    "mwp1": ("Grey matter, modulated", "warped", _TEMPLATE, [0.0, 1.2]),
    "mwp2": ("White matter, modulated", "warped", _TEMPLATE, [0.0, 1.2]),
}
TEMPLATE_URL = "/api/assets/template.nii.gz"


def scan_details(study: Study, scan: str) -> dict[str, Any]:
    """The images of a scan, its picture and quality."""
    run = read_study(study)
    if scan not in run.table.index:
        found = next((one for stem, one in inputs(study).items() if scan_id(stem) == scan), None)
        if found is None:
            msg = f"{scan}: no such scan in {study.root}; load the page again"
            raise MissingError(msg)
        made = {kind: naming.output_path(run.folder, found, kind) for kind in _IMAGES}
        images = [_image(study, path, _IMAGES[kind]) for kind, path in made.items() if path.is_file()]
        if not images and found.path.is_relative_to(study.root):
            images = [_image(study, found.path, ("T1w", _T1W, _SCAN, None))]
        return {"scan": scan, "images": images, "picture": None, "quality": [], "notes": ["not in cohort.tsv yet"]}
    kinds = dict(_IMAGES)
    smoothed = [str(name) for name in run.table if map_kinds.fwhm_of(str(name)) is not None]
    kinds |= {name: (f"Smoothed map {name}", "warped", _TEMPLATE, [0.0, 1.0]) for name in smoothed}
    paths = {kind: run.output(scan, kind) for kind in kinds}
    images = [_image(study, path, kinds[kind]) for kind, path in paths.items() if path is not None]
    images.append(
        {
            "label": "Template",
            "role": "template",
            "space": _TEMPLATE,
            "url": TEMPLATE_URL,
            "range": [0.0, 1.0],
            "command": "",
        }
    )
    names = (*run.quality_columns, *run.volumes)
    described = dictionary.describe("cohort", names)
    marks = unusual_values(run.table[[*names]])[scan]
    quality = [
        {"label": readable(name), "value": plain(run.table.at[scan, name]), "flagged": f"{readable(name)} (z" in marks,
         "description": described[name]["Description"]}
        for name in names
    ]  # fmt: skip
    return {
        "scan": scan, "images": images, "picture": study.url(run.output(scan, "picture")), "quality": quality,
        "notes": flags_of(run, scan),
    }  # fmt: skip


def picture(study: Study, scan: str) -> Path:
    """The picture of a scan; raises MissingError if there is none."""
    run = read_study(study)
    path = run.output(scan, "picture") if scan in run.table.index else None
    if path is None:
        msg = f"{scan}: no picture"
        raise MissingError(msg)
    return study.path(study.relative(path))


def _image(study: Study, path: Path, about: tuple[str, str, str, list[float] | None]) -> dict[str, Any]:
    label, role, space, shown = about
    made = command_line(["show", str(path), "--browser"])
    return {"label": label, "role": role, "space": space, "url": study.url(path), "range": shown, "command": made}
