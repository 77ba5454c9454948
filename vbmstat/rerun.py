"""Run again what made a result, from the record beside it, and compare the outputs byte by byte.

A record (``report/vbmstat_NAME.json`` of ``preprocess``, ``glm.json`` of ``glm``) holds every parameter, the versions
and the sha256 of every input; inputs are found by name and sha256, wherever they are now.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vbmstat.assets import ASSETS, sha256
from vbmstat.assets.provenance import device_label, find_file, versions
from vbmstat.batch.run import preprocess
from vbmstat.device import choose_device
from vbmstat.errors import DesignError, VbmstatError
from vbmstat.files import naming
from vbmstat.files.search import Inputs
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.spec import Compute, ModelSpec
from vbmstat.image import io
from vbmstat.image.headers import NIFTI_SUFFIXES
from vbmstat.preproc.spec import PreprocSpec
from vbmstat.regions.models import fit_roi_glm
from vbmstat.report.results import write_results

COMMANDS = ("preprocess", "glm")


@dataclass(frozen=True)
class Compared:
    """One output, before and now.

    Attributes
    ----------
    name : str
        Relative to the output folder.
    status : {"same bytes", "differs", "only before", "only now"}
        Result of the comparison.
    detail : str
        Largest difference of an image's values, where bytes differ.
    """

    name: str
    status: str
    detail: str = ""


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
    pairs: list[tuple[str, Any, Any]]
    pairs = [(name, then, now.get(name, "not installed")) for name, then in record["versions"].items()]
    pairs.append(("device", record.get("device", ""), _device_now(record)))
    if record["command"] == "preprocess":
        then = record["parameters"]
        pairs += [(f"asset {name}", then["assets"].get(name), asset.sha256) for name, asset in ASSETS.items()]
        pairs += [(name, then.get(name), value) for name, value in _engine_now(record).items()]
    return [f"{name}: {_short(then)} then, {_short(here)} now" for name, then, here in pairs if then != here]


def _device_now(record: Mapping[str, Any]) -> str:
    try:
        return device_label(choose_device(device_name(record)))
    except VbmstatError:
        return "no such device"


def device_name(record: Mapping[str, Any]) -> str:
    """``cpu`` or ``cuda``, whatever the model."""
    return str(record.get("device", "cpu")).split(" ")[0]


def _engine_now(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the engine would record now; nothing if that is unknown, such as weights in a folder of the user's."""
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
        sound = Path(stem).name == stem and all({"path", "sha256"} <= set(each) for each in (entry, *masks))
    except (KeyError, TypeError, ValueError, VbmstatError):
        sound = False
    if not sound:
        msg = f"{sidecar}: expected the record of one scan (scan, spec, one input); it is damaged or older than that"
        raise VbmstatError(msg)
    before = _output_folder(sidecar, spec.names, stem)
    places = inputs or [before, before.parent, before.parent.parent, Path()]
    path = find_file(entry["path"], entry["sha256"], places)
    for mask in masks:  # at most one, of a lesion
        file = find_file(mask["path"], mask["sha256"], places)
        pattern = str(spec.lesion_mask) if file.name == Path(mask["path"]).name else file.name
        spec = replace(spec, lesion_mask=str(file.with_name(pattern)))
    with _under_name(path, Path(entry["path"]).name) as named:
        scan = naming.Scan(named, stem, *naming.split_ids(stem))
        threads = record.get("threads")  # sums over several threads round differently
        preprocess(Inputs((scan,), {}), out, spec, threads=threads if isinstance(threads, int) else None, force=True)
    all_kinds = naming.output_kinds(spec.fwhm_mm, spec.wmh and record.get("wmh") is True)
    kinds = (naming.output_path(Path(), scan, kind, spec.names) for kind in all_kinds)
    return compare_outputs(before, out, sorted(path.as_posix() for path in kinds))


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
        If the record is damaged or of an older version, data came from memory, or an input is not found.
    """
    folder = path.absolute().parent
    places = list(inputs) or [*folder.parents[:3], Path()]
    try:
        spec = ModelSpec.from_record(record["spec"], lambda name, digest: find_file(name, digest, places))
        table, maps, outputs, level = (record["data"]["table"], record["data"]["maps"], record["outputs"],
                                       record.get("level", "voxel"))  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError, DesignError) as error:
        msg = f"{path}: expected the record of a model (spec, data, outputs); it is damaged or older than that"
        raise VbmstatError(msg) from error
    if table is None or maps is None or outputs.get("atlas") is None:
        msg = f"{path}: its table, maps or atlas were in memory, not in files: run the script that made them"
        raise VbmstatError(msg)
    cohort = find_file(table["file"], table["sha256"], places)
    where = None if maps == "table" else _map_folder(record, maps["folder"], places)
    atlas = outputs["atlas"]
    atlas = str(find_file(atlas["file"], atlas["sha256"], places)) if isinstance(atlas, Mapping) else atlas
    if level != "voxel":
        of_regions = fit_roi_glm(spec, cohort, maps=where, atlas=atlas, level=level, random=record.get("random"))
        of_regions.to_directory(out)
    else:
        results = fit_glm(where, spec, cohort, compute=Compute(device=device_name(record)))
        write_results(results, out, atlas=atlas, spm_names=outputs["spm_names"], outside=outputs["outside"])
    compared = compare_outputs(folder, out, _model_files(folder, out))
    now = read_record(out / "glm.json")["maps"]
    changed = [scan for scan, entry in record["maps"].items() if now.get(scan, {}).get("sha256") != entry["sha256"]]
    return [*(Compared(f"map of {scan}", "differs", "another file") for scan in changed), *compared]


def _map_folder(record: Mapping[str, Any], name: str, places: Sequence[Path]) -> Path:
    """The folder of maps, found by one of them."""
    if not record["maps"]:  # a model of regions, whose maps are not recorded one by one
        below = (folder for place in places for folder in (place / name, *place.glob(f"*/{name}")) if folder.is_dir())
        folder = next(below, None)
        if folder is None:
            msg = f"no folder {name} (the maps) in {', '.join(map(str, places))}; give its folder with --inputs"
            raise VbmstatError(msg)
        return folder.absolute()
    entry = next(iter(record["maps"].values()))
    a_map = find_file(entry["path"], entry["sha256"], places).absolute()
    return next((folder for folder in a_map.parents if folder.name == name), a_map.parent)


def _model_files(before: Path, now: Path) -> list[str]:
    """Files of a model: those of the new run, and the earlier ones of its contrasts."""
    names = {path.relative_to(now).as_posix() for path in now.rglob("*") if path.is_file()}
    return sorted(names | {path.name for path in before.glob("contrast-*") if path.is_file()})


def _output_folder(sidecar: Path, names: str, stem: str) -> Path:
    """The output folder of a sidecar."""
    scan = naming.Scan(Path(stem), stem, *naming.split_ids(stem))
    inside = naming.output_path(Path(), scan, "sidecar", names)
    folder = sidecar.absolute().parents[len(inside.parts) - 1]
    if folder / inside != sidecar.absolute():
        msg = f"{sidecar}: expected it at {inside.as_posix()} of an output folder, beside the outputs of {stem}"
        raise VbmstatError(msg)
    return folder


@contextmanager
def _under_name(path: Path, name: str) -> Iterator[Path]:
    """A file under the name that it had, which the sidecar records."""
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
