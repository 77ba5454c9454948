"""Cortical thinning from 0.1 to 1 mm: whether an engine's GM volume falls as the true volume does."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, partial

import numpy as np
import pandas as pd

from vbmstat.evaluate.engines import HeadFile, Row, Trial
from vbmstat.image.volume import Volume
from vbmstat.preproc.engines.classic import Classic
from vbmstat.preproc.results import Segmented
from vbmstat.simulate.atrophy import LEVELS_MM, PialSurface, gm_ml, pial_surface, render_thinned


class AtrophyHead(HeadFile):
    """A whole-head label map with its pial surface."""

    kind = "evaluation_atrophy"
    n_images = len(LEVELS_MM)

    @cached_property
    def surface(self) -> PialSurface:
        """The border between cortex and CSF."""
        return pial_surface(self.volume)

    def trials(self) -> Iterator[Trial]:
        """One image per level of thinning."""
        for level in LEVELS_MM:
            yield Trial(
                keys={"head": self.name, "thinning_mm": level},
                origin={"sha256": self.sha256, "seed": self.seed, "thinning_mm": level},
                image=partial(self._image, level),
                measure=partial(self._measure, level),
            )

    def _image(self, thinning_mm: float) -> Volume:
        return render_thinned(self.volume, self.surface, thinning_mm, self.seed)

    def _measure(self, thinning_mm: float, engine: Classic, segmented: Segmented) -> Row:
        """True GM volume and the engine's, mL."""
        del engine
        true = gm_ml(self.volume, self.surface, thinning_mm)
        return {"true_gm_ml": round(true, 3), "gm_ml": round(segmented.volumes_ml[0], 3)}


def changes(table: pd.DataFrame) -> pd.DataFrame:
    """Add the GM volume relative to no thinning: `true_change_percent` and `found_change_percent`.

    Parameters
    ----------
    table : DataFrame
        Result of :func:`vbmstat.evaluate.engines.evaluate_heads` for :class:`AtrophyHead`.
    """
    table = table.copy()
    for name, new in (("true_gm_ml", "true_change_percent"), ("gm_ml", "found_change_percent")):
        values = table[name].astype(float) if name in table else pd.Series(np.nan, table.index)
        whole = values.where(table["thinning_mm"].astype(float) == 0)
        base = whole.groupby([table["head"], table["engine"]]).transform("max")
        changed = (100 * (values / base - 1)).round(3)
        if new in table:
            table[new] = changed
        else:
            table.insert(int(table.columns.get_loc("seconds")), new, changed)
    return table


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Measured against true change of GM volume, one row per engine.

    Parameters
    ----------
    table : DataFrame
        Result of :func:`changes`.

    Returns
    -------
    DataFrame
        engine, n_heads, n_failed, slope (1 is right), intercept (percent), r, n_monotonic (heads whose GM volume falls
        from every level to the next), smallest_seen_mm (least thinning from which on every head has less GM than
        without thinning).
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
    """Whether GM volume falls from every level to the next."""
    return bool((part.sort_values("thinning_mm")["gm_ml"].astype(float).diff().dropna() < 0).all()) and len(part) > 1


def _smallest_seen(good: pd.DataFrame) -> float:
    """The least thinning from which on the measured change is negative in every head; NaN if there is none."""
    thinned = good[good["thinning_mm"].astype(float) > 0]
    highest = thinned.groupby("thinning_mm")["found_change_percent"].max().sort_index(ascending=False)
    seen = highest.index[(highest < 0).cummin().to_numpy(bool)] if len(highest) else []
    return float(seen[-1]) if len(seen) else float("nan")
