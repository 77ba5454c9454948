"""A ComBat model as a file: site effects with the coding of the preserved covariates, applicable to other scans."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vbmstat.errors import DesignError, VbmstatError
from vbmstat.glm.design.formula import depends_on_scans
from vbmstat.glm.design.matrix import INTERCEPT, Design, build_design
from vbmstat.harmonize.combat import SiteEffects, learn_site_effects
from vbmstat.image import storage
from vbmstat.image.grid import Grid
from vbmstat.maps.store import ArrayMaps, PackedMaps, Space
from vbmstat.progress import OnProgress
from vbmstat.tables.cells import label, labels
from vbmstat.tables.cohort import find_column, read_column

_FORMAT = 1
_INVENTED = 60  # scans, at least, in place of those learned from when a design is coded


@dataclass(frozen=True)
class CombatModel:
    """Site effects of one kind of map, with what is needed to apply them to other scans."""

    effects: SiteEffects  # what was learned
    preserve: str  # right-hand side of the preserved covariates; empty for none
    columns: tuple[str, ...]  # the preserved columns
    # of each covariate its ``values`` (levels of a factor) or its ``range`` (two numbers)
    covariates: Mapping[str, Mapping[str, Any]]
    space: Space | None = None  # where voxels lie
    features: tuple[str, ...] = ()  # columns of a table

    def covariate_rows(self, table: pd.DataFrame, scan_ids: Sequence[str]) -> np.ndarray:
        """The preserved covariates of any scans, (n_scans, p), coded as in learning.

        Raises
        ------
        DesignError, TableError
            If a covariate is unknown or missing, has a level that was not learned, or the formula has a function whose
            result depends on the other scans (bs, cr, poly, center, scale) and so cannot be repeated.
        """
        if not self.columns:
            return np.empty((len(scan_ids), 0))
        invented = _invent(self.covariates)
        own = pd.DataFrame({name: _column(name, table) for name in self.covariates})
        for name, about in self.covariates.items():
            _check_levels(name, own[name], about, scan_ids)
        both = pd.concat([invented.astype(own.dtypes.to_dict()), own], ignore_index=True)
        design = build_design(self.preserve, both, [*(f"invented {i}" for i in range(len(invented))), *scan_ids])
        matrix, columns = _without_intercept(design)
        if columns != self.columns:
            msg = f"the preserved columns {', '.join(columns)} differ from those learned, {', '.join(self.columns)}"
            raise DesignError(msg)
        return matrix[len(invented) :]

    def save(self, path: Path | str) -> None:
        """Write the model as .npz, whole or not at all: float32 arrays; no scan is in it, only ranges of covariates."""
        about: dict[str, Any] = {
            "format": _FORMAT, "preserve": self.preserve, "columns": self.columns, "covariates": self.covariates,
            "sites": self.effects.sites, "features": self.features,
        }  # fmt: skip
        arrays = {f.name: getattr(self.effects, f.name) for f in fields(SiteEffects) if f.name != "sites"}
        arrays |= {name: arrays[name].astype(np.float32) for name in ("mean", "slopes", "sd", "gamma", "delta")}
        if self.space is not None:
            about |= {"shape": self.space.grid.shape, "axcodes": self.space.axcodes}
            arrays |= {"affine": self.space.grid.affine, "voxel_index": self.space.voxel_index}
        with storage.atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, about=np.array(json.dumps(about)), **arrays)


def load_model(path: Path | str) -> CombatModel:
    """Read a model that :meth:`CombatModel.save` wrote; VbmstatError if the file is no such model."""
    try:
        with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            if about["format"] != _FORMAT:
                raise ValueError(f"format {about['format']}")  # noqa: EM102
            arrays = {f.name: stored[f.name] for f in fields(SiteEffects) if f.name != "sites"}
            space = None
            if "shape" in about:
                grid = Grid(tuple(about["shape"]), stored["affine"])
                space = Space(grid, stored["voxel_index"], about["axcodes"])
        arrays |= {name: arrays[name].astype(np.float64) for name in ("mean", "slopes", "sd", "gamma", "delta")}
        effects = SiteEffects(sites=tuple(about["sites"]), **arrays)
        columns, features = tuple(about["columns"]), tuple(about["features"])
        model = CombatModel(effects, str(about["preserve"]), columns, dict(about["covariates"]), space, features)
    except Exception as error:  # numpy raises many kinds for a damaged file
        msg = f"{path}: expected a model of vbmstat harmonize (.npz), but reading it failed: {error!r:.200}"
        raise VbmstatError(msg) from error
    return model


@dataclass(frozen=True)
class Preserved:
    """Covariates that harmonisation preserves."""

    formula: str  # right-hand side; empty for none
    matrix: np.ndarray  # (n_scans, p), float64: their columns, without the constant, which the sites hold
    columns: tuple[str, ...] = ()  # names of the columns
    covariates: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # see :class:`CombatModel`
    notes: tuple[str, ...] = ()  # how each covariate is taken


def preserved_covariates(formula: str, table: pd.DataFrame, scan_ids: Sequence[str]) -> Preserved:
    """The covariates of a right-hand side, for scans to learn from.

    Raises
    ------
    DesignError, TableError
        If the coding of a covariate depends on the scans, or as :func:`build_design` says.
    """
    if not formula.strip():
        return Preserved(formula, np.empty((len(scan_ids), 0)))
    if depends_on_scans(formula):
        msg = f"--preserve {formula!r}: bs, cr, poly, center, scale depend on the scans; write e.g. 'age + I(age**2)'"
        raise DesignError(msg)
    design = build_design(formula, table, scan_ids)
    notes = (*(one.line for one in design.taken), *design.notes)
    return Preserved(formula, *_without_intercept(design), covariate_summary(design), notes)


def learn_model(
    maps: ArrayMaps | PackedMaps, sites: Sequence[str], preserved: Preserved, progress: OnProgress | None = None
) -> CombatModel:
    """The model of maps or columns, (n_scans, n_voxels), with the site of each scan."""
    effects = learn_site_effects(maps, sites, preserved.matrix, preserved.columns, progress)
    features = maps.features if isinstance(maps, ArrayMaps) else ()
    return CombatModel(effects, preserved.formula, preserved.columns, preserved.covariates, maps.space, features)


def covariate_summary(design: Design) -> dict[str, dict[str, Any]]:
    """Levels of the factors and ranges of the numbers in a design."""
    return {
        one.name: {"values": sorted(set(design.covariates[one.name]))} if one.kind == "factor" else {
            "range": one.values["range"]
        }
        for one in design.taken
    }  # fmt: skip


def _without_intercept(design: Design) -> tuple[np.ndarray, tuple[str, ...]]:
    kept = [i for i, name in enumerate(design.columns) if name != INTERCEPT]
    return design.matrix[:, kept], tuple(design.columns[i] for i in kept)


def _invent(covariates: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Scans with every level and random numbers in range, so that a design has the columns that it had in learning."""
    rng = np.random.default_rng(0)
    n = max([_INVENTED, *(8 * len(about["values"]) for about in covariates.values() if "values" in about)])
    frame = {}
    for name, about in covariates.items():
        if "range" in about:
            low, high = about["range"]
            frame[name] = rng.uniform(low, high, n)
        else:
            frame[name] = np.resize(np.array(about["values"], dtype=object), n)[rng.permutation(n)]
    return pd.DataFrame(frame)


def _column(name: str, table: pd.DataFrame) -> np.ndarray:
    source = find_column(name, table)
    if source is None:
        msg = f"the model preserves {name}, but the table has no such column; it has {', '.join(map(str, table))}"
        raise DesignError(msg)
    return np.asarray(read_column(source, table).to_numpy())


def _check_levels(name: str, column: pd.Series, about: Mapping[str, Any], scan_ids: Sequence[str]) -> None:
    if "values" not in about:
        return
    learned = labels(about["values"])
    unknown = {label(value): scan for value, scan in zip(column, scan_ids, strict=True)
               if not pd.isna(value) and label(value) not in learned}  # fmt: skip
    if unknown:
        levels = ", ".join(f"{value} ({scan})" for value, scan in unknown.items())
        msg = f"{name}: {levels} was not among the scans that were learned from ({', '.join(learned)}); learn with it"
        raise DesignError(msg)
