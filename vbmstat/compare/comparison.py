"""The result of comparing two of a kind."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from vbmstat.compare.pairs import MapPair

Names = tuple[str, str]  # of A and B


@dataclass(frozen=True)
class Comparison:
    """Result of :func:`vbmstat.compare.files.compare_files`.

    Attributes
    ----------
    kind : {"maps", "results", "scans", "rois"}
        Kind of A and B.
    names : (str, str)
        Names of A and B in figures.
    table : DataFrame
        One row per contrast and statistic, per scan and tissue, or per region and tissue.
    summary : DataFrame
        A summary of the table.
    notes : tuple of str
        What was left out, resampled, or differs.
    pairs : tuple of MapPair
        The statistic maps.
    values : DataFrame
        Paired volumes (tidy: a_ml, b_ml) of scans or regions.
    by : str
        Column of `values` that identifies a row of the table.
    """

    kind: str
    names: tuple[str, str]
    table: pd.DataFrame
    summary: pd.DataFrame
    notes: tuple[str, ...]
    pairs: tuple[MapPair, ...] = ()
    values: pd.DataFrame = field(default_factory=pd.DataFrame)
    by: str = ""
