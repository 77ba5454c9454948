"""Cortex thinner by 0.1 to 1 mm: whether the GM volume that engines find falls as the true one does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from vbmstat.evaluate.engines import Head, Measure, Row, Trial, find_heads, run_trials
from vbmstat.image.volume import Volume
from vbmstat.preproc.engines.classic import Classic
from vbmstat.preproc.pipeline import Segmented
from vbmstat.progress import OnProgress, ignore
from vbmstat.simulate.atrophy import LEVELS_MM, PialSurface, gm_ml, pial_surface, render_thinned

TABLE = "evaluation_atrophy"


class _Subject(Head):
    """A label map with its pial surface."""

    @cached_property
    def surface(self) -> PialSurface:
        return pial_surface(self.volume)

    def image(self, thinning_mm: float) -> Volume:
        return render_thinned(self.volume, self.surface, thinning_mm, self.seed)

    def measure(self, thinning_mm: float, found: Segmented) -> Row:
        """True and found GM volume."""
        true = gm_ml(self.volume, self.surface, thinning_mm)
        return {"true_gm_ml": round(true, 3), "gm_ml": round(found.volumes_ml[0], 3)}


def evaluate_atrophy(
    paths: Sequence[Path],
    engines: Sequence[Classic],
    out: Path,
    *,
    device: torch.device,
    seed: int = 0,
    force: bool = False,
    report: OnProgress = ignore,
) -> pd.DataFrame:
    """Segment every head at eleven degrees of thinning by every engine.

    Parameters
    ----------
    paths : sequence of path
        Whole-head label maps.
    engines : sequence of Classic
        Who segments.
    out : path
        Folder of ``evaluation_atrophy.tsv``, which is written after every scan and taken up again.
    device, seed, force, report
        As :func:`vbmstat.evaluate.artefacts.evaluate_artefacts` has them.

    Returns
    -------
    DataFrame
        A row a head, thinning and engine, with :func:`changes`.
    """
    find_heads(paths, seed)
    trials = (trial for path in paths for trial in _trials(_Subject(path, seed)))
    n_trials = len(paths) * len(LEVELS_MM)
    table = run_trials(
        trials, n_trials, engines, out / f"{TABLE}.tsv", TABLE, device=device, force=force, report=report
    )
    return changes(table)


def changes(table: pd.DataFrame) -> pd.DataFrame:
    """The table with `true_change_percent` and `found_change_percent`: GM volume relative to that without thinning."""
    table = table.copy()
    for name, new in (("true_gm_ml", "true_change_percent"), ("gm_ml", "found_change_percent")):
        values = table[name].astype(float) if name in table else pd.Series(np.nan, table.index)
        whole = values.where(table["thinning_mm"].astype(float) == 0)
        base = whole.groupby([table["head"], table["engine"]]).transform("max")
        at = table.columns.get_loc("seconds")
        changed = (100 * (values / base - 1)).round(3)
        if new in table:
            table[new] = changed
        else:
            table.insert(int(at), new, changed)
    return table


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """How found change follows true change: a row an engine.

    Parameters
    ----------
    table : DataFrame
        As :func:`evaluate_atrophy` returns it.

    Returns
    -------
    DataFrame
        engine, n_heads, n_failed, slope (1 is right), intercept (percent), r, n_monotonic (heads whose GM volume falls
        from every level to the next), smallest_seen_mm (the least thinning from which on every head has less GM than
        without).
    """
    rows = []
    for engine, group in table.groupby("engine", sort=False):
        good = group.dropna(subset=["true_change_percent", "found_change_percent"])
        slope, intercept, r = np.nan, np.nan, np.nan
        if good["true_change_percent"].nunique() > 1:
            x, y = (good[f"{name}_change_percent"].to_numpy(float) for name in ("true", "found"))
            slope, intercept = np.polyfit(x, y, 1)
            r = np.corrcoef(x, y)[0, 1] if np.ptp(y) > 0 else np.nan
        falls = [_falls(part) for _, part in good.groupby("head")]
        rows.append({
            "engine": engine, "n_heads": good["head"].nunique(), "n_failed": len(group) - len(good),
            "slope": round(slope, 4), "intercept": round(intercept, 4), "r": round(r, 5), "n_monotonic": sum(falls),
            "smallest_seen_mm": _smallest_seen(good),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _falls(part: pd.DataFrame) -> bool:
    return bool((part.sort_values("thinning_mm")["gm_ml"].astype(float).diff().dropna() < 0).all()) and len(part) > 1


def _smallest_seen(good: pd.DataFrame) -> float:
    """The least thinning from which on the found change is negative in every head; NaN if there is none."""
    thinned = good[good["thinning_mm"].astype(float) > 0]
    highest = thinned.groupby("thinning_mm")["found_change_percent"].max().sort_index(ascending=False)
    seen = highest.index[(highest < 0).cummin().to_numpy(bool)] if len(highest) else []
    return float(seen[-1]) if len(seen) else float("nan")


def _trials(subject: _Subject) -> Iterator[Trial]:
    for level in LEVELS_MM:
        image, measure = _at(subject, level)
        origin = {"sha256": subject.sha256, "seed": subject.seed, "thinning_mm": level}
        yield Trial({"head": subject.name, "thinning_mm": level}, origin, image, measure)


def _at(subject: _Subject, level: float) -> tuple[Callable[[], Volume], Measure]:
    def measure(engine: Classic, found: Segmented) -> Row:
        return subject.measure(level, found)

    return lambda: subject.image(level), measure
