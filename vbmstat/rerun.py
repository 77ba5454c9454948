"""Run a command again from the record beside its result, and compare the outputs byte by byte.

A record (``report/vbmstat_NAME.json`` of ``preprocess``, ``glm.json`` of ``glm``) holds every parameter, the versions
and the sha256 of every input; inputs are found by name and sha256, also in other folders.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from vbmstat.assets import ASSETS, sha256
from vbmstat.assets.provenance import device_label, find_file, versions
from vbmstat.batch.run import preprocess
from vbmstat.device import choose_device
from vbmstat.errors import VbmstatError
from vbmstat.files import naming
from vbmstat.files.outputs import output_kinds
from vbmstat.files.search import Inputs
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.spec import Compute
from vbmstat.image import io
from vbmstat.image.headers import NIFTI_SUFFIXES
from vbmstat.preproc.spec import PreprocSpec
from vbmstat.preproc.templates import RECORD
from vbmstat.regions.models import fit_roi_glm
from vbmstat.regions.volumes import RegionSpec
from vbmstat.report.recorded import find_model
from vbmstat.report.results import Outputs, write_results
from vbmstat.tables.cohort import ID_COLUMNS

COMMANDS = ("preprocess", "glm")


@dataclass(frozen=True)
class Compared:
    """One output, before and now."""

    name: str  # relative to the output folder
    status: str  # same bytes, differs, only before or only now
    detail: str = ""  # largest difference of an image's values, where bytes differ


def read_record(path: Path) -> dict[str, Any]:
    """The record beside a result.

    Raises
    ------
    VbmstatError
        If the file is not such a record.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["command"] in COMMANDS and isinstance(record["versions"], dict):
            return dict(record)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not the record of a run"
        msg = f"{path}: expected report/vbmstat_NAME.json of preprocess or glm.json of glm: {reason}"
        raise VbmstatError(msg) from error
    msg = f"{path}: made by vbmstat {record['command']}; expected a record of {' or '.join(COMMANDS)}"
    raise VbmstatError(msg)


def differences(record: Mapping[str, Any]) -> list[str]:
    """What has changed since a result was made: versions, machine, device, assets; a line each."""
    now = {**versions(), "formulaic": metadata.version("formulaic")}
    try:
        device = device_label(choose_device(device_name(record)))
    except VbmstatError:
        device = "no such device"
    pairs: list[tuple[str, Any, Any]] = [
        *((name, then, now.get(name, "not installed")) for name, then in record["versions"].items()),
        ("device", record.get("device", ""), device),
    ]
    if record["command"] == "preprocess":
        then = record["parameters"]
        pairs += [(f"asset {name}", then["assets"].get(name), asset.sha256) for name, asset in ASSETS.items()]
        pairs += [(name, then.get(name), value) for name, value in _engine_now(record).items()]
    return [f"{name}: {_short(then)} then, {_short(here)} now" for name, then, here in pairs if then != here]


def device_name(record: Mapping[str, Any]) -> str:
    """``cpu`` or ``cuda``, without the name of the graphics card."""
    return str(record.get("device", "cpu")).split(" ")[0]


def _engine_now(record: Mapping[str, Any]) -> dict[str, Any]:
    """The engine's parameters now; empty if it cannot be set up, as with weights in a folder that has moved."""
    try:
        return PreprocSpec.from_record(record.get("spec")).parameters()
    except VbmstatError:
        return {}


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 80 else f"{text[:77]}…"


def rerun_scan(record: Mapping[str, Any], sidecar: Path, inputs: Sequence[Path], out: Path) -> list[Compared]:
    """Preprocess the scan of a sidecar again, with as many threads, and compare.

    Parameters
    ----------
    record : mapping
        Content of the sidecar.
    sidecar : Path
        Its path, beside the outputs to compare.
    inputs : sequence of Path
        Folders with the scan; by default those around the outputs.
    out : Path
        Folder for the new outputs.

    Raises
    ------
    VbmstatError
        If the scan is not found, or fails.
    """
    try:
        spec, stem = PreprocSpec.from_record(record.get("spec")), record["scan"]
        entry, *masks = record["inputs"]
        together = (record.get("longitudinal") or {}).get("scans") or [{**entry, "scan": stem}]  # the person's scans
        years = (record.get("longitudinal") or {}).get("years")
        names = [one["scan"] for one in together]
        sound = all({"path", "sha256"} <= set(each) for each in (*together, *masks)) and stem in names
        sound = sound and all(Path(name).name == name for name in names)
    except (KeyError, TypeError, ValueError, VbmstatError):
        sound = False
    if not sound:
        msg = f"{sidecar}: expected the record of one scan (scan, spec, one input); it is damaged or older than that"
        raise VbmstatError(msg)
    before = _output_folder(sidecar, spec.names, stem)
    places = inputs or [before, before.parent, before.parent.parent, Path()]
    for mask in masks:  # at most one, of a lesion
        file = find_file(mask["path"], mask["sha256"], places)
        pattern = str(spec.lesion_mask) if file.name == Path(mask["path"]).name else file.name
        spec = replace(spec, lesion_mask=str(file.with_name(pattern)))
    if spec.template is not None:
        known = record["parameters"]["template"]
        spec = replace(spec, template=str(find_file(f"{known['name']}/{RECORD}", known["sha256"], places).parent))
    with ExitStack() as links:
        scans = []
        for one in together:
            path = find_file(one["path"], one["sha256"], places)
            named = links.enter_context(_under_name(path, Path(one["path"]).name))
            scans.append(naming.Scan(named, one["scan"], *naming.split_ids(one["scan"])))
        threads = record.get("threads")  # sums over several threads round differently
        found = Inputs(tuple(scans), {}, _sessions(scans, years))
        preprocess(found, out, spec, threads=threads if isinstance(threads, int) else None, force=True)
    scan = scans[names.index(stem)]
    all_kinds = output_kinds(spec.fwhm_mm, spec.wmh and record.get("wmh") is True, spec.outputs, spec.models)
    kinds = (naming.output_path(Path(), scan, kind, spec.names) for kind in all_kinds)
    return compare_outputs(before, out, sorted(path.as_posix() for path in kinds))


def _sessions(scans: Sequence[naming.Scan], years: Sequence[float] | None) -> pd.DataFrame:
    """A table with the years of a person's sessions, if they are known."""
    index = pd.MultiIndex.from_tuples([(s.participant_id, s.session_id) for s in scans], names=ID_COLUMNS)
    return pd.DataFrame({} if years is None else {"years": list(years)}, index=index)


def rerun_model(record: Mapping[str, Any], path: Path, inputs: Sequence[Path], out: Path) -> list[Compared]:
    """Fit the model of a ``glm.json`` again, and compare.

    Parameters
    ----------
    record : mapping
        Content of ``glm.json``.
    path : Path
        Its path, beside the outputs to compare.
    inputs : sequence of Path
        Folders with table and maps; by default those around the outputs.
    out : Path
        Folder for the new outputs.

    Raises
    ------
    VbmstatError
        If the record is damaged or of an older version, the data were in memory, or an input is not found.
    """
    folder, outputs = path.absolute().parent, record.get("outputs", {})
    model = find_model(record, path, inputs)
    if model.level != "voxel":
        regions = RegionSpec(str(model.atlases[0]), model.level, model.random, model.maps)
        fit_roi_glm(model.spec, model.cohort, regions=regions).to_directory(out)
    else:
        results = fit_glm(model.maps, model.spec, model.cohort, compute=Compute(device=device_name(record)))
        atlases = [str(one) for one in model.atlases]
        if model.small_volumes:
            results = results.with_volumes(model.small_volumes, [one for one in atlases if one != "none"])
        kept = {name: outputs[name] for name in ("spm_names", "outside", "figures") if name in outputs}
        write_results(results, out, Outputs(atlases[0], atlases[1], **kept))
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    names |= {path.name for path in folder.glob("contrast-*") if path.is_file()}  # of the earlier contrasts
    compared = compare_outputs(folder, out, sorted(names))
    now = read_record(out / "glm.json")["maps"]
    changed = [scan for scan, entry in record["maps"].items() if now.get(scan, {}).get("sha256") != entry["sha256"]]
    return [*(Compared(f"map of {scan}", "differs", "another file") for scan in changed), *compared]


def _output_folder(sidecar: Path, names: str, stem: str) -> Path:
    """The output folder of a sidecar."""
    scan = naming.Scan.of_stem(stem)
    inside = naming.output_path(Path(), scan, "sidecar", names)
    folder = sidecar.absolute().parents[len(inside.parts) - 1]
    if folder / inside != sidecar.absolute():
        msg = f"{sidecar}: expected it at {inside.as_posix()} of an output folder, beside the outputs of {stem}"
        raise VbmstatError(msg)
    return folder


@contextmanager
def _under_name(path: Path, name: str) -> Iterator[Path]:
    """A file under the name that the sidecar records."""
    if path.name == name:
        yield path.absolute()
        return
    with TemporaryDirectory(prefix="vbmstat-") as folder:
        link = Path(folder) / name
        link.symlink_to(path.absolute())
        yield link


def compare_outputs(before: Path, now: Path, names: Iterable[str] | None = None) -> list[Compared]:
    """Files of two output folders, byte by byte.

    Parameters
    ----------
    before, now : Path
        The folders.
    names : iterable of str, optional
        Relative names to compare; all files of either folder by default.
    """
    if names is None:
        both = {p.relative_to(f).as_posix() for f in (before, now) for p in f.rglob("*") if p.is_file()}
        names = sorted(both)
    return [_compare(name, before / name, now / name) for name in names]


def _compare(name: str, before: Path, now: Path) -> Compared:
    if not before.is_file() or not now.is_file():
        return Compared(name, "only now" if now.is_file() else "only before")
    if sha256(before) == sha256(now):
        return Compared(name, "same bytes")
    return Compared(name, "differs", _image_difference(before, now))


def _image_difference(before: Path, now: Path) -> str:
    if not now.name.endswith(NIFTI_SUFFIXES):
        return ""
    try:
        old, new = io.read_channels(before), io.read_channels(now)
    except VbmstatError as error:
        return str(error)
    if old.data.shape != new.data.shape:
        return f"shape {tuple(old.data.shape)} then, {tuple(new.data.shape)} now"
    return f"values differ by at most {float((old.data - new.data).abs().max()):.3g}"
