"""Total intracranial volume in a model: as covariate, with a slope for each group, or as a factor on the maps."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from vbmstat.errors import DesignError
from vbmstat.glm.design.columns import read_numbers
from vbmstat.glm.design.covariates import check_tiv_unit
from vbmstat.glm.design.formula import with_backticks
from vbmstat.glm.design.matrix import build_design, column_uses, factor_spellings, parse_formula
from vbmstat.maps.sources import Source
from vbmstat.tables.cohort import Cohort, is_tiv_name


def uses_tiv(right: str, recipe: str, columns: Iterable[Hashable]) -> bool:
    """Whether a model with this right-hand side and TIV recipe needs TIV, given the columns of its table."""
    return recipe != "none" or any(map(is_tiv_name, column_uses(parse_formula(with_backticks(right, columns)))))


def apply_tiv_recipe(right: str, recipe: str, table: pd.DataFrame) -> tuple[str, tuple[str, ...]]:
    """Right-hand side with TIV treated as asked, and a note about it.

    Raises
    ------
    DesignError
        If a recipe other than ``covariate`` meets a formula with TIV, or ``by-group`` one without just one factor.
    """
    if recipe == "none":
        return right, ()
    right = with_backticks(right, table.columns)
    has_tiv = uses_tiv(right, "none", table.columns)
    if recipe == "covariate":
        return (right, ()) if has_tiv else (f"{right} + tiv", ("TIV was added as a covariate",))
    if has_tiv:
        msg = f"--tiv {recipe} adds TIV itself; leave it out of the formula"
        raise DesignError(msg)
    if recipe == "proportional":
        return right, ("maps are scaled by mean TIV / TIV, the mask threshold with them",)
    design = build_design(right, table, Cohort(table, Path()).scan_ids, "drop")
    groups = factor_spellings(parse_formula(right), [one.name for one in design.taken if one.kind == "factor"])
    if len(groups) != 1:
        msg = (
            f"--tiv by-group needs one factor in the formula, got {', '.join(groups) or 'none'}; "
            f"{'choose one and ' if groups else ''}write the interaction in place of --tiv: "
            f"'gm ~ {right if groups else 'group'} + center(tiv):{groups[0] if groups else 'group'}'"
        )
        raise DesignError(msg)
    return f"{right} + center(tiv):{groups[0]}", (f"TIV was added with its own slope in each level of {groups[0]}",)


def tiv_scale(source: Source) -> np.ndarray:
    """Mean TIV / TIV of each scan, (n_scans,), float64.

    Raises
    ------
    TableError
        If there is no TIV, or it is not in mL.
    """
    tiv = read_numbers("tiv", source)
    check_tiv_unit(tiv)
    return np.asarray(tiv.mean() / tiv.to_numpy(copy=True))
