"""Engines over images: one table row for each image and engine, written at once; existing rows are not made again."""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from vbmstat import assets
from vbmstat.assets.provenance import device_label, versions
from vbmstat.errors import VbmstatError, one_line
from vbmstat.files import naming
from vbmstat.image import io
from vbmstat.image.volume import Volume
from vbmstat.preproc.engines.classic import Classic
from vbmstat.preproc.engines.deep import Deep
from vbmstat.preproc.pipeline import Segmented, segment_scan
from vbmstat.preproc.spec import find_engine
from vbmstat.progress import OnProgress, ignore
from vbmstat.tables import dictionary

Row = dict[str, Any]
Measure = Callable[[Classic, Segmented], Row]


def find_engines(names: Sequence[str], weights: str | None = None) -> list[Classic]:
    """The engines of these names, each once, ready to run; `weights` are those of engine `deep`.

    Raises
    ------
    VbmstatError
        If there is no engine of a name.
    AssetError
        If a package or weights are missing.
    """
    engines = [find_engine(name, weights if name == Deep.name else None) for name in dict.fromkeys(names)]
    for engine in engines:
        engine.parameters()
    return engines


class Head:
    """A file that images are made from.

    Parameters
    ----------
    path : path
        T1w scan or whole-head label map.
    seed : int
        Of this evaluation; every head gets its own from it and from its name.
    """

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.name = naming.image_stem(path)
        state = np.random.SeedSequence([seed, zlib.crc32(self.name.encode())]).generate_state(1)
        self.seed = int(state[0])

    @cached_property
    def sha256(self) -> str:
        """Hash of the file; an unreadable one raises VbmstatError."""
        try:
            return assets.sha256(self.path)
        except OSError as error:
            msg = f"{self.path}: cannot be read ({error.strerror})"
            raise VbmstatError(msg) from error

    @cached_property
    def volume(self) -> Volume:
        """What the file holds."""
        return io.read_volume(self.path)


def find_heads(paths: Iterable[Path], seed: int) -> list[Head]:
    """The heads of these files, which must have names of their own, since tables know them by name."""
    heads = [Head(path, seed) for path in paths]
    by_name: dict[str, Path] = {}
    for head in heads:
        if by_name.setdefault(head.name, head.path) != head.path:
            msg = f"expected files of different names, got {by_name[head.name]} and {head.path}; rename one"
            raise VbmstatError(msg)
        _ = head.sha256
    return heads


@dataclass(frozen=True)
class Trial:
    """An image that engines are to segment.

    Attributes
    ----------
    keys : mapping
        Columns that tell which image it is, the head first.
    origin : mapping
        What else decides how it looks (seed, numbers, hash of the file), so that an old row is known as such.
    image : callable
        Makes it.
    measure : callable
        Columns of the result, from the engine and what it found.
    """

    keys: Mapping[str, Any]
    origin: Mapping[str, Any]
    image: Callable[[], Volume]
    measure: Measure


def run_trials(
    trials: Iterable[Trial],
    n_trials: int,
    engines: Sequence[Classic],
    path: Path,
    kind: str,
    *,
    device: torch.device,
    force: bool = False,
    report: OnProgress = ignore,
) -> pd.DataFrame:
    """Segment every image with every engine, and keep a table of what was found.

    Parameters
    ----------
    trials : iterable of Trial
        The images, one after another.
    n_trials : int
        How many they are.
    engines : sequence of Classic
        Who segments.
    path : path
        The table, ``.tsv``; written after every scan. Rows of an earlier call stay; one that was made with the same
        image, engine, weights and versions is not made again, unless it failed.
    kind : str
        Key of :data:`vbmstat.tables.schema.TABLES`.
    device : torch.device
        Where to compute.
    force : bool
        Make all rows again.
    report : callable
        Told (stage, done, total).

    Returns
    -------
    DataFrame
        Columns of the keys, engine, what was measured, seconds, reason, made_with. A scan that failed has a reason.
    """
    rows = {} if not path.exists() else _read(path)
    done, total = 0, n_trials * len(engines)
    for trial in trials:
        for engine in engines:
            key = (*map(str, trial.keys.values()), engine.label)
            made_with = _fingerprint(trial, engine, device)
            old = rows.get(key)
            if force or old is None or old["made_with"] != made_with or isinstance(old.get("reason"), str):
                rows[key] = {**trial.keys, "engine": engine.label, **_attempt(trial, engine, device)}
                rows[key]["made_with"] = made_with
                dictionary.write_table(path, _table(rows), kind)
            done += 1
            report("scans", done, total)
    return _table(rows)


def _attempt(trial: Trial, engine: Classic, device: torch.device) -> Row:
    """Measures, time and no reason; or the reason."""
    try:
        image = trial.image()
        start = time.perf_counter()
        segmented = segment_scan(image, engine, device)
        seconds = round(time.perf_counter() - start, 1)
        return {**trial.measure(engine, segmented), "seconds": seconds}
    except Exception as error:  # one bad scan must not stop the others; it is reported with its reason
        reason = str(error) if isinstance(error, VbmstatError) else f"{type(error).__name__}: {error}"
        return {"reason": one_line(reason)}


def _fingerprint(trial: Trial, engine: Classic, device: torch.device) -> str:
    """Short hash of all that decides a row."""
    content = {
        "origin": dict(trial.origin), "engine": engine.name, "parameters": engine.parameters(),
        "versions": versions(), "device": device_label(device),
    }  # fmt: skip
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _read(path: Path) -> dict[tuple[str, ...], Row]:
    """Rows of an earlier call by their key: the columns as far as the engine."""
    table = pd.read_csv(path, sep="\t", na_values="n/a", keep_default_na=False, dtype={"head": str, "made_with": str})
    if "engine" not in table or "made_with" not in table:
        msg = f"{path}: expected a table of vbmstat evaluate, got columns {', '.join(map(str, table.columns))[:200]}"
        raise VbmstatError(msg)
    keys = list(table.columns[: list(table.columns).index("engine") + 1])
    return {tuple(str(row[key]) for key in keys): row for row in table.to_dict("records")}


def _table(rows: Mapping[tuple[str, ...], Row]) -> pd.DataFrame:
    """All rows; the last columns are seconds, reason and made_with."""
    last = ["seconds", "reason", "made_with"]
    columns = list(dict.fromkeys(column for row in rows.values() for column in row if column not in last))
    return pd.DataFrame(list(rows.values()), columns=[*columns, *last])
