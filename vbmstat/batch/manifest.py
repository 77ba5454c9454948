"""The manifest of a run: scans, engine, parameters, versions; hashed, and fixed before the run begins.

Equal runs have equal manifests, ``logs/manifest-HASH.json``, so a run that continues another one finds it there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from vbmstat.assets.provenance import path_label
from vbmstat.errors import VbmstatError
from vbmstat.files import naming
from vbmstat.files.runlog import FOLDER
from vbmstat.files.search import Inputs
from vbmstat.image import storage
from vbmstat.tables import dictionary

_HASH_DIGITS = 12
T = TypeVar("T")


def manifest(scans: Sequence[naming.Scan], origin: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a run: what all its sidecars have in common, and its scans.

    A scan's entry has its stem, its path below the scans' common folder, and its size in bytes (missing if the file is
    not accessible). No file is read: the sha256 is in the scan's sidecar.
    """
    root = common_folder([scan.path for scan in scans])
    entries = [{"scan": s.stem, "path": path_label(s.path, root), "bytes": _size(s.path)} for s in scans]
    return {**origin, "scans": entries}


def manifest_hash(content: Mapping[str, Any]) -> str:
    """The first digits of the SHA-256 of a manifest, regardless of key order."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:_HASH_DIGITS]


def write_manifest(out: Path, content: dict[str, Any]) -> Path:
    """Write a manifest to an output folder, unless it is already there."""
    path = out / FOLDER / f"manifest-{manifest_hash(content)}.json"
    if not path.is_file():
        storage.write_json(path, content)
    return path


def write_inputs(out: Path, inputs: Inputs) -> None:
    """Write ``inputs.tsv``: every file found, whether it is used, and if not, why."""
    used = {scan.path: scan.stem for scan in inputs.scans}
    paths = sorted({*used, *inputs.skipped})
    root = common_folder(paths)
    rows = [
        (path_label(path, root), used.get(path), "used" if path in used else "skipped", inputs.skipped.get(path))
        for path in paths
    ]
    table = pd.DataFrame(rows, columns=["path", "scan", "status", "reason"])
    dictionary.write_table(out / "inputs.tsv", table, "inputs")


def common_folder(paths: Sequence[Path]) -> Path | None:
    """The deepest folder that contains all files; None for no files, or files on several drives."""
    try:
        return Path(os.path.commonpath([path.absolute().parent for path in paths]))
    except ValueError:
        return None


def parse_shard(text: str) -> tuple[int, int]:
    """Number and count of a shard; raises VbmstatError for other text.

    Examples
    --------
    >>> parse_shard("3/100")
    (3, 100)
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= count:
        msg = f"expected --shard as i/n with i from 1 to n, such as 3/100, got {text!r}"
        raise VbmstatError(msg)
    return number, count


def shard_of(scans: Sequence[T], shard: tuple[int, int] | None) -> list[T]:
    """Every n-th scan from the i-th on, so that a manifest is always divided in the same way.

    Examples
    --------
    >>> shard_of(["a", "b", "c", "d", "e"], (2, 3))
    ['b', 'e']
    """
    return list(scans) if shard is None else list(scans[shard[0] - 1 :: shard[1]])


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
