"""``share_sums``: the sums of a site, where they do not show a single person; what would is refused here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import pandas as pd

from vbmstat import __version__
from vbmstat.errors import DesignError, ScanError, listed
from vbmstat.files.map_names import map_kind
from vbmstat.glm.data import Packer, map_notes, origins
from vbmstat.glm.design.formula import (
    depends_on_scans,
    expression_names,
    level_coding,
    split_change,
    split_formula,
    split_map_term,
)
from vbmstat.glm.design.matrix import Design, factor_order
from vbmstat.glm.fit.plan import Plan
from vbmstat.glm.pooled.sums import About, SiteSums, sum_maps
from vbmstat.glm.setup import Setup, set_up
from vbmstat.glm.spec import TIV_RECIPES, VARIANCES, Compute, ModelSpec
from vbmstat.maps.sources import as_cohort
from vbmstat.maps.store import ArrayMaps, PackedMaps
from vbmstat.tables.cells import labels, sorted_labels

FEWEST_SCANS = 20
FEWEST_DF = 10  # residual degrees of freedom
FEWEST_ALIKE = 5  # scans in a level, or with another value than most
MOST_LEVERAGE = 0.5  # of a scan; at 1 its map can be read from the sums


def share_sums(
    maps: Any, model: ModelSpec, cohort: Any, compute: Compute | None = None
) -> tuple[SiteSums, tuple[str, ...]]:
    """The sums of a site's maps for a pooled model, and notes on them for the site itself.

    Parameters
    ----------
    maps, cohort
        As for :func:`vbmstat.glm.analysis.fit_glm`; maps are files or packed.
    model : ModelSpec
        Formula, mask, selection …; contrasts, subsets and inference are those of the pooled model.
    compute : Compute, optional
        Where and how fast.

    Raises
    ------
    TableError, DesignError, ScanError
        For whatever cannot be fitted, pooled exactly, or shared without showing a person.
    """
    compute = compute or Compute()
    check_spec(model)
    setup = set_up(model.replace(repeats=0), maps, as_cohort(cohort), compute)
    check_design(setup.design, setup.bare)
    with ExitStack() as stack:
        matrix = Packer(setup.spec, compute, stack).open(setup.source, None)
        if isinstance(matrix, ArrayMaps):
            msg = "--share needs maps in files or packed; a table or matrix has no voxels"
            raise ScanError(msg)
        sums = sum_maps(_about(setup, matrix), setup.design, setup.bare, matrix, compute)
    return sums, (*setup.notes, *map_notes(matrix))


def check_spec(spec: ModelSpec) -> None:
    """Refuse what sums cannot give exactly, before any map is read; DesignError names the option."""
    response, right = split_formula(spec.formula)
    _, map_name = split_map_term(right)
    depends, coding = depends_on_scans(spec.formula), level_coding(spec.formula)
    for is_wrong, msg in (
        (map_name is not None, "map() has a column for each voxel: leave it out"),
        (split_change(response)[1] is not None, "change() has one row a person: leave it out"),
        (depends, f"{depends} depends on the scans of a site, so that sites would differ; write e.g. age, "
                  "I((age - 50)**2)"),
        (coding, f"columns of {coding} depend on the levels of a site; leave it out, and give a contrast of levels"),
        (spec.variance != VARIANCES[0], f"--variance {spec.variance} needs the scans themselves: take ols"),
        (spec.tiv == "by-group", "--tiv by-group centres TIV at the mean of a site: write e.g. I(tiv - 1500):group"),
        (spec.tiv == TIV_RECIPES[-1], "--tiv proportional divides by the mean TIV of a site: take --tiv covariate"),
        (spec.global_scaling, "--global-scaling divides by the mean of a site: leave it out"),
        (spec.contrasts, "contrasts are tested in the pooled model: give --contrast to vbmstat pool"),
        (spec.inference.kinds, "inference is that of the pooled model: give --inference to vbmstat pool"),
        (spec.subsets.asked, f"sums have no subsets: leave out {', '.join(spec.subsets.asked)}"),
    ):  # fmt: skip
        if is_wrong:
            raise DesignError(f"--share: {msg}")  # noqa: EM102


def check_design(design: Design, plan: Plan) -> None:
    """Refuse a design whose sums show single persons.

    Raises
    ------
    DesignError
        If there are too few scans or degrees of freedom, the design does not hold the constant, a level or value is
        too rare, or a scan has so much leverage that its map can nearly be read.
    """
    n_scans = len(design.matrix)
    if n_scans < FEWEST_SCANS or plan.df_resid < FEWEST_DF:
        msg = (
            f"--share: {n_scans} scans with {plan.df_resid:g} residual degrees of freedom; sums of fewer than "
            f"{FEWEST_SCANS} scans or {FEWEST_DF} degrees of freedom tell too much of each person"
        )
        raise DesignError(msg)
    if not plan.is_centred:
        msg = "--share: the model has no intercept, which pooled sites need; leave out 0 + or - 1"
        raise DesignError(msg)
    rare = [*_rare_levels(design), *_rare_values(design)]
    if rare:
        msg = (
            f"--share: {rare[0]}; sums show groups of fewer than {FEWEST_ALIKE} too well: merge levels, leave the "
            "column out, or leave these scans out with --where"
        )
        raise DesignError(msg)
    leverage = (plan.basis**2).sum(axis=1)  # (n_scans,)
    seen = [f"{design.scan_ids[i]} ({leverage[i]:.2f})" for i in np.flatnonzero(leverage > MOST_LEVERAGE)]
    if seen:
        msg = (
            f"--share: the map of {listed(seen)} could nearly be read from the sums (leverage above {MOST_LEVERAGE}): "
            "an extreme covariate? Correct it or leave the scan out"
        )
        raise DesignError(msg)


def _rare_levels(design: Design) -> list[str]:
    """Levels of factors, and values of numbers that have two, in few scans."""
    found = []
    for covariate in design.taken:
        column = pd.Series(labels(design.covariates[covariate.name]))
        counts = column.value_counts()
        if covariate.kind == "factor" or len(counts) == 2:
            found += [f"{covariate.name}: {n} scans have {level!r}" for level, n in counts.items() if n < FEWEST_ALIKE]
    return found


def _rare_values(design: Design) -> list[str]:
    """Columns of the design, also interactions, in which few scans differ from all others."""
    found = []
    for name, column in zip(design.columns, design.matrix.T, strict=True):
        n_other = len(column) - int(np.unique(column, return_counts=True)[1].max())
        if 0 < n_other < FEWEST_ALIKE:
            found.append(f"column {name}: {n_other} scans differ from all others")
    return found


def reference_levels(design: Design) -> tuple[str, ...]:
    """Reference levels, also of a factor that stands in interactions only: its levels without a column."""
    found = dict.fromkeys(design.references)
    factors = [one.name for one in design.taken if one.kind == "factor"]
    for spelt in factor_order(design.formula):
        names = [spelt] if spelt in design.covariates else expression_names(spelt)
        for name in (name for name in names if name in factors):
            for level in sorted_labels(labels(design.covariates[name])):
                coded = (f":{spelt}[T.{level}]:", f":{spelt}[{level}]:")
                if not any(one in f":{column}:" for one in coded for column in design.columns):
                    found[f"{spelt}[T.{level}]"] = None
    return tuple(found)


def _about(setup: Setup, maps: PackedMaps) -> About:
    """What is said of a site's sums: no id, no value of a scan."""
    spec, design, rule = setup.spec, setup.design, setup.spec.mask.rule
    response, _ = split_formula(spec.formula)
    mask = {"threshold": rule.threshold, "share": rule.share, "image": rule.image is not None}
    return About(
        response, design.formula, design.columns, {name: tuple(own) for name, own in design.terms.items()},
        reference_levels(design), len(design.matrix), spec.weights, mask, setup.source.smoothing.width_mm,
        _made_from(setup, maps), _scans_hash(maps), __version__,
    )  # fmt: skip


def _made_from(setup: Setup, maps: PackedMaps) -> Mapping[str, tuple[str, ...]]:
    """In what the maps of one model must agree, here over the scans of a site."""
    source, files = setup.source, maps.manifest["files"]
    applied = source.smoothing.applied_mm
    prefix = f"s{applied:g}" if applied else ""
    kinds = {map_kind(files[scan]["path"].replace("\\", "/").rpartition("/")[2], scan) for scan in maps.scan_ids}
    found = {
        "kind of maps": sorted(f"{prefix}{kind}" for kind in kinds if kind),
        **{name: list(counts) for name, counts in origins(source.table).items()},
    }  # fmt: skip
    return {name: tuple(values) for name, values in found.items() if values}


def _scans_hash(maps: PackedMaps) -> str:
    """One hash of all maps, in any order and under any names."""
    files = maps.manifest["files"]
    return hashlib.sha256(" ".join(sorted(files[scan]["sha256"] for scan in maps.scan_ids)).encode()).hexdigest()
