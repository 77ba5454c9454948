"""Sites and covariates: how much of a covariate the sites explain."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vbmstat.tables.cells import labels

if TYPE_CHECKING:
    from vbmstat.glm.design.matrix import Design

HARMONIZED = "harmonization"  # column of a cohort table that says what was done to its maps
# Names of columns that hold the site, in any letter case, also site_id, scanner no …
_SITE_NAME = re.compile(r"(site|scanner|centre|center)([ _.-]?(id|no|nr|number|code|name|label))?", re.IGNORECASE)
CONFOUNDED_R2 = 0.5  # warn from this R² (variance inflation 2): site explains half of a covariate


def site_confounding(covariates: np.ndarray, columns: Sequence[str], sites: Sequence[str]) -> pd.DataFrame:
    """Share of each covariate's variance that lies between sites.

    Parameters
    ----------
    covariates : ndarray, (n_scans, p)
        Numbers; factors as dummy columns.
    columns : sequence of str
        Their names.
    sites : sequence of str
        Site of each scan.

    Returns
    -------
    DataFrame
        One row a covariate: ``column``, ``r2_site`` (of the covariate on the sites, missing for a constant),
        ``vif_site`` = 1 / (1 - R²), infinite where site determines the covariate.

    Examples
    --------
    >>> report = site_confounding(np.array([[1.0], [1.0], [3.0], [5.0]]), ["age"], ["a", "a", "b", "b"])
    >>> report[["r2_site", "vif_site"]].round(4).to_dict("records")
    [{'r2_site': 0.8182, 'vif_site': 5.5}]
    """
    members = np.unique(labels(sites), return_inverse=True)[1]
    counts = np.bincount(members)
    rows = []
    for name, column in zip(columns, covariates.T, strict=True):
        centred = column - column.mean()
        total = float(centred @ centred)
        between = float((np.bincount(members, centred) ** 2 / counts).sum())
        r2 = min(between / total, 1.0) if total > 0 else np.nan
        vif = 1 / (1 - r2) if r2 < 1 - 1e-12 else np.inf
        rows.append({"column": name, "r2_site": r2, "vif_site": vif if np.isfinite(r2) else np.nan})
    return pd.DataFrame(rows, columns=["column", "r2_site", "vif_site"])


def confounding_notes(report: pd.DataFrame, site: str = "site") -> tuple[str, ...]:
    """One line for each covariate that site explains too much of."""
    bad = report[report["r2_site"] >= CONFOUNDED_R2]
    return tuple(
        f"{site} explains {row.r2_site:.0%} of the variance of {row.column} (variance inflation {row.vif_site:.1f}): "
        f"their effects {'can hardly' if np.isfinite(row.vif_site) else 'cannot'} be separated"
        for row in bad.itertuples()
    )


def is_site_name(name: str) -> bool:
    """Whether a column's name is that of a site or scanner, whose numbers are names.

    Examples
    --------
    >>> [is_site_name(name) for name in ("site", "Scanner_ID", "centre", "site_age")]
    [True, True, True, False]
    """
    return bool(_SITE_NAME.fullmatch(name))


def site_column(table: pd.DataFrame) -> str | None:
    """The column with the site or scanner (site before scanner), if it has two values or more."""
    named = sorted((name for name in map(str, table) if is_site_name(name)), key=lambda name: name[:2].lower() != "si")
    return next((name for name in named if table[name].nunique() > 1), None)


def site_notes(table: pd.DataFrame, design: Design) -> tuple[str, ...]:
    """Notes on sites: harmonised maps, a site that is not in the model, a covariate confounded with site.

    Parameters
    ----------
    table : DataFrame
        The rows of the cohort that the model uses.
    design : Design
        The model's, over these rows.
    """
    how = sorted(set(table[HARMONIZED].dropna().astype(str))) if HARMONIZED in table else []
    notes = [f"the maps were harmonised: {value}" for value in how]
    name = site_column(table)
    if name is None:
        return tuple(notes)
    pattern = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")
    of_site = {column for term, columns in design.terms.items() if pattern.search(term) for column in columns}
    if not of_site and not notes:
        n_sites = table[name].nunique()
        notes.append(f"The table has a column {name} ({n_sites} sites) that is not in the model.")
    others = [i for i, column in enumerate(design.columns) if column not in of_site]
    report = site_confounding(design.matrix[:, others], [design.columns[i] for i in others], table[name].tolist())
    return (*notes, *confounding_notes(report, name))
