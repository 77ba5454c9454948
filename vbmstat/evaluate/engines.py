"""Run engines on images and keep one table row per image and engine; rows already in the table are not repeated."""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

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
from vbmstat.preproc.pipeline import segment_scan
from vbmstat.preproc.results import Segmented
from vbmstat.preproc.spec import find_engine
from vbmstat.progress import OnProgress, ignore
from vbmstat.tables import dictionary

Row = dict[str, Any]
CPU = torch.device("cpu")


def find_engines(names: Sequence[str], weights: str | None = None) -> list[Classic]:
    """Engines by name, without repeats and ready to run; `weights` are for engine `deep`.

    Raises
    ------
    VbmstatError
        If a name is unknown.
    AssetError
        If a package or weights are missing.
    """
    engines = [find_engine(name, weights if name == Deep.name else None) for name in dict.fromkeys(names)]
    for engine in engines:
        engine.parameters()  # raises if something is missing
    return engines


@dataclass(frozen=True)
class Bench:
    """Engines to test, and how."""

    engines: Sequence[Classic]
    device: torch.device = CPU
    force: bool = False  # whether to repeat rows that are already in the table
    report: OnProgress = ignore  # called as ``report(stage, n_done, n_total)``


class HeadFile:
    """A file from which the images of an evaluation are made.

    Parameters
    ----------
    path : Path
        T1w scan or whole-head label map.
    seed : int
        Seed of the evaluation; the head derives its own from it and its name.
    device : torch.device
        Where engines run.

    Attributes
    ----------
    kind : str
        Stem of the table's file and key of :func:`vbmstat.tables.schema.tables`.
    n_images : int
        Number of images made from one head.
    """

    kind: ClassVar[str]
    n_images: ClassVar[int]

    def __init__(self, path: Path, seed: int, device: torch.device = CPU) -> None:
        self.path, self.device = path, device
        self.name = naming.image_stem(path)
        state = np.random.SeedSequence([seed, zlib.crc32(self.name.encode())]).generate_state(1)
        self.seed = int(state[0])

    @cached_property
    def sha256(self) -> str:
        """Hash of the file; raises VbmstatError if it cannot be read."""
        try:
            return assets.sha256(self.path)
        except OSError as error:
            msg = f"{self.path}: cannot be read ({error.strerror})"
            raise VbmstatError(msg) from error

    @cached_property
    def volume(self) -> Volume:
        """Content of the file."""
        return io.read_volume(self.path)

    def trials(self) -> Iterator[Trial]:
        """Its images, one after another."""
        raise NotImplementedError


def check_heads(paths: Iterable[Path]) -> None:
    """Raise VbmstatError unless files are readable and have unique names: tables identify heads by name."""
    by_name: dict[str, Path] = {}
    for head in (HeadFile(path, seed=0) for path in paths):
        if by_name.setdefault(head.name, head.path) != head.path:
            msg = f"expected files with different names, got {by_name[head.name]} and {head.path}; rename one"
            raise VbmstatError(msg)
        _ = head.sha256


@dataclass(frozen=True)
class Trial:
    """An image for engines to segment."""

    keys: Mapping[str, Any]  # columns that identify the image, the head first
    # everything else that determines the image (seed, strengths, file hash); outdated rows are recognised by it
    origin: Mapping[str, Any]
    image: Callable[[], Volume]
    measure: Callable[[Classic, Segmented], Row]  # result columns from the engine and its segmentation


def evaluate_heads(test: type[HeadFile], paths: Sequence[Path], bench: Bench, out: Path, seed: int = 0) -> pd.DataFrame:
    """Segment all images of all heads with all engines.

    Parameters
    ----------
    test : type
        ``ArtefactHead`` or ``AtrophyHead``.
    paths : sequence of Path
        Files that `test` reads.
    bench : Bench
        Engines and device.
    out : Path
        Folder of the table, ``KIND.tsv``, which is written after every scan and resumed by the next call.
    seed : int
        Same seed, same images.

    Returns
    -------
    DataFrame
        One row per head, image and engine; columns as in :func:`run_trials`.
    """
    check_heads(paths)
    trials = (trial for path in paths for trial in test(path, seed, bench.device).trials())
    return run_trials(trials, len(paths) * test.n_images, bench, out / f"{test.kind}.tsv", test.kind)


def run_trials(trials: Iterable[Trial], n_trials: int, bench: Bench, path: Path, kind: str) -> pd.DataFrame:
    """Segment every image with every engine and keep a table of the measures.

    Parameters
    ----------
    trials : iterable of Trial
        The images.
    n_trials : int
        Number of images.
    bench : Bench
        Engines and device.
    path : Path
        The table, ``.tsv``, written after every scan. Rows of earlier calls stay; a row is repeated only if it failed
        or if its image, engine, weights or versions differ.
    kind : str
        Key of :func:`vbmstat.tables.schema.tables`.

    Returns
    -------
    DataFrame
        Columns of the keys, engine, the measures, seconds, reason (of a failure) and made_with (hash).
    """
    rows = {} if not path.exists() else _read(path)
    done, total = 0, n_trials * len(bench.engines)
    for trial in trials:
        for engine in bench.engines:
            key = (*map(str, trial.keys.values()), engine.label)
            made_with = _fingerprint(trial, engine, bench.device)
            old = rows.get(key)
            if bench.force or old is None or old["made_with"] != made_with or isinstance(old.get("reason"), str):
                rows[key] = {**trial.keys, "engine": engine.label, **_attempt(trial, engine, bench.device)}
                rows[key]["made_with"] = made_with
                dictionary.write_table(path, _table(rows), kind)
            done += 1
            bench.report("scans", done, total)
    return _table(rows)


def _attempt(trial: Trial, engine: Classic, device: torch.device) -> Row:
    """Measures and time, or the reason of a failure."""
    try:
        image = trial.image()
        start = time.perf_counter()
        segmented = segment_scan(image, engine, device)
        seconds = round(time.perf_counter() - start, 1)
        return {**trial.measure(engine, segmented), "seconds": seconds}
    except Exception as error:  # one bad scan must not stop the others; its row gets the reason
        reason = str(error) if isinstance(error, VbmstatError) else f"{type(error).__name__}: {error}"
        return {"reason": one_line(reason)}


def _fingerprint(trial: Trial, engine: Classic, device: torch.device) -> str:
    """Short hash of everything that determines a row."""
    content = {
        "origin": dict(trial.origin), "engine": engine.name, "parameters": engine.parameters(),
        "versions": versions(), "device": device_label(device),
    }  # fmt: skip
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _read(path: Path) -> dict[tuple[str, ...], Row]:
    """Rows of an earlier call, keyed by the columns up to and including the engine."""
    table = pd.read_csv(path, sep="\t", na_values="n/a", keep_default_na=False, dtype={"head": str, "made_with": str})
    if "engine" not in table or "made_with" not in table:
        msg = f"{path}: expected a table of vbmstat evaluate, got columns {', '.join(map(str, table.columns))[:200]}"
        raise VbmstatError(msg)
    keys = list(table.columns[: list(table.columns).index("engine") + 1])
    return {tuple(str(row[key]) for key in keys): row for row in table.to_dict("records")}


def _table(rows: Mapping[tuple[str, ...], Row]) -> pd.DataFrame:
    """All rows as a table that ends with seconds, reason and made_with."""
    last = ["seconds", "reason", "made_with"]
    columns = list(dict.fromkeys(column for row in rows.values() for column in row if column not in last))
    return pd.DataFrame(list(rows.values()), columns=[*columns, *last])
