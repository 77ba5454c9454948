"""The result of comparing two of a kind."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from vbmstat.compare.pairs import MapPair

Names = tuple[str, str]  # of A and B


@dataclass(frozen=True)
class Comparison:
    """Result of :func:`vbmstat.compare.files.compare_files`."""

    kind: str  # of A and B: maps, results, scans or rois
    names: tuple[str, str]  # names of A and B in figures
    table: pd.DataFrame  # one row per contrast and statistic, per scan and tissue, or per region and tissue
    summary: pd.DataFrame
    notes: tuple[str, ...]  # what was left out, resampled, or differs
    pairs: tuple[MapPair, ...] = ()
    values: pd.DataFrame = field(default_factory=pd.DataFrame)  # paired volumes (tidy: a_ml, b_ml) of scans or regions
    by: str = ""  # column of `values` that identifies a row of the table
