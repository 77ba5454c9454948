"""How the variance of a contrast is estimated, chosen once by name: an object with `check`, `fit`, `maps`, `record`.

=================== ==========================================================================================
``ols``             one variance for all scans: the ordinary t and F
``spm``             the same with SPM's floor on the residual variance
``hc3``             a variance for each scan, from its own residual (:mod:`vbmstat.glm.variance.hc3`)
``sandwich:COLUMN`` any covariance inside a subject or family (:mod:`vbmstat.glm.variance.sandwich`)
``groups:COLUMN``   a variance for each group of scans, v and G (:mod:`vbmstat.glm.variance.groups`)
=================== ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import numpy as np

from vbmstat.errors import DesignError
from vbmstat.glm.design.contrast import Contrast
from vbmstat.glm.design.matrix import Design
from vbmstat.glm.fit.engine import fit_voxels
from vbmstat.glm.fit.leverage import leave_out
from vbmstat.glm.fit.plan import Plan
from vbmstat.glm.fit.tensors import Fit, LocalDfFit
from vbmstat.glm.inference.corrected import Inference
from vbmstat.glm.inference.permute.blocks import Node, orbits
from vbmstat.glm.inference.permute.schemes import Permuted
from vbmstat.glm.inference.power import power_maps
from vbmstat.glm.spec import SCHEMES, Compute, ModelSpec
from vbmstat.glm.statmap import StatMap
from vbmstat.glm.variance import hc3, sandwich
from vbmstat.glm.variance.calibration import REPEATED, NoiseMaps, calibration_notes
from vbmstat.glm.variance.groups import fit_grouped, group_labels
from vbmstat.glm.variance.maps import inference_maps, local_df_maps, statistic_maps
from vbmstat.maps.store import Maps

AUTO = "auto"  # groups:auto, from the exchangeability blocks


@dataclass(frozen=True)
class Ols:
    """The ordinary t and F; the base of the others.

    Attributes
    ----------
    column : str
        The column that the variance reads, if it does.
    """

    column: str = ""
    name: ClassVar[str] = "ols"
    role: ClassVar[str] = ""  # what the column holds
    permutes: ClassVar[bool] = True
    takes_f: ClassVar[bool] = True
    takes_map: ClassVar[bool] = True
    takes_subsets: ClassVar[bool] = True

    def check(self, spec: ModelSpec, contrasts: Sequence[Contrast], map_name: str | None) -> None:
        """Refuse what this variance does not go with, before any map is read.

        Raises
        ------
        DesignError
            Naming what to leave out.
        """
        if map_name is not None and not self.takes_map:
            msg = f"a formula with map() takes --variance ols, got {spec.variance}"
            raise DesignError(msg)
        if not self.takes_f and any(contrast.kind == "F" for contrast in contrasts):
            msg = f"--variance {self.name} is for t-contrasts; test the F-contrasts in a run without it"
            raise DesignError(msg)
        if spec.inference.permutes and not self.permutes:
            msg = (
                f"permutations take --variance ols or groups:COLUMN, got {spec.variance}; ask for fdr alone, or leave "
                "--variance out (and give --blocks for repeated scans)"
            )
            raise DesignError(msg)
        if spec.inference.permutes and map_name is not None:
            msg = "permutations do not go with map(): ask for fdr alone"
            raise DesignError(msg)

    def bind(self, labels: Callable[[str], list[str]], plan: Plan, tree: Node | None) -> Ols:
        """Read the variance needs of the table.

        Parameters
        ----------
        labels : callable
            Values of a column, a text a scan.
        plan : Plan
            Factorised design.
        tree : Node, optional
            Which scans may be exchanged, where blocks say.
        """
        return self

    def unestimated(self, plan: Plan, scan_ids: Sequence[str]) -> list[list[str]]:
        """Scans or subjects that make the variance of each contrast unknowable."""
        return [[] for _ in plan.contrasts]

    def testable(
        self, plan: Plan, contrasts: Sequence[Contrast], scan_ids: Sequence[str], is_default: bool
    ) -> tuple[list[Contrast], tuple[str, ...]]:
        """Contrasts whose variance can be known, and notes on default ones where it cannot."""
        return list(contrasts), ()

    def prepare(self, plan: Plan, scan_ids: Sequence[str]) -> Plan:
        """The plan that `fit` takes."""
        return plan

    def fit(
        self, maps: Maps, plan: Plan, design: Design, contrasts: Sequence[Contrast], compute: Compute
    ) -> Fit | LocalDfFit:
        """The model at every voxel."""
        return fit_voxels(maps, plan, compute)

    def maps(
        self, fit: Fit | LocalDfFit, index: int, contrast: Contrast, spec: ModelSpec, n_scans: int
    ) -> dict[str, StatMap]:
        """Maps of one contrast."""
        maps = statistic_maps(cast("Fit", fit), index, contrast)
        if contrast.kind == "t":
            maps |= power_maps(fit.statistic[index], fit.mask, fit.df_resid, n_scans, contrast.name)
        return maps

    def corrected_maps(
        self, inference: Inference, fit: Fit | LocalDfFit, index: int, contrast: Contrast, n_scans: int
    ) -> dict[str, StatMap]:
        """Maps of corrected inference on one contrast, with effect sizes and power."""
        statistic = fit.statistic[index]
        maps = inference_maps(inference, contrast, statistic, fit.df_resid)
        if contrast.kind == "t" and inference.nulls is not None:
            maps |= power_maps(statistic, fit.mask, fit.df_resid, n_scans, contrast.name, inference.nulls)
        return maps

    def record(self, fit: Fit | LocalDfFit, contrasts: Sequence[Contrast]) -> dict[str, Any]:
        """What ``glm.json`` says beside the spec."""
        return {}

    def notes(
        self,
        permuted: Sequence[Permuted | None],
        plan: Plan,
        design: Design,
        contrasts: Sequence[Contrast],
        compute: Compute,
    ) -> tuple[str, ...]:
        """What the user should know: the ordinary t and F are exact."""
        return ()


@dataclass(frozen=True)
class Spm(Ols):
    """SPM's variance floor, 1e-3 of the largest residual mean square; conservative."""

    name: ClassVar[str] = "spm"
    permutes: ClassVar[bool] = False
    takes_map: ClassVar[bool] = False

    def fit(
        self, maps: Maps, plan: Plan, design: Design, contrasts: Sequence[Contrast], compute: Compute
    ) -> Fit | LocalDfFit:
        """The model at every voxel."""
        return fit_voxels(maps, plan, compute, spm_floor=True)


@dataclass(frozen=True)
class _Robust(Ols):
    """Variances that may be unknowable and whose p are approximate: tried on noise with the model's design."""

    permutes: ClassVar[bool] = False
    takes_map: ClassVar[bool] = False
    correlations: ClassVar[tuple[float, ...]] = (0.0,)  # of the scans of one subject, that are tried
    estimator: ClassVar[str] = ""
    cure: ClassVar[str] = ""

    def testable(
        self, plan: Plan, contrasts: Sequence[Contrast], scan_ids: Sequence[str], is_default: bool
    ) -> tuple[list[Contrast], tuple[str, ...]]:
        """Contrasts whose variance can be known, and notes on default ones where it cannot."""
        return leave_out(contrasts, self.unestimated(plan, scan_ids), self.estimator, self.cure, is_default)

    def notes(
        self,
        permuted: Sequence[Permuted | None],
        plan: Plan,
        design: Design,
        contrasts: Sequence[Contrast],
        compute: Compute,
    ) -> tuple[str, ...]:
        """A line for each contrast whose p are wrong on noise."""
        plan = self.prepare(plan, design.scan_ids)
        fits = {}
        for correlation in self.correlations:
            noise = NoiseMaps.of_plan(plan, design.scan_ids, self._subjects, correlation)
            fits[correlation] = self.fit(noise, plan, design, contrasts, compute.quiet)
        return calibration_notes(fits, contrasts)

    @property
    def _subjects(self) -> Sequence[str] | None:
        """Who each scan belongs to, where scans are repeated."""
        return None


@dataclass(frozen=True)
class Hc3(_Robust):
    """A variance for each scan."""

    name: ClassVar[str] = "hc3"
    takes_f: ClassVar[bool] = False
    estimator: ClassVar[str] = hc3.ESTIMATOR
    cure: ClassVar[str] = hc3.CURE

    def unestimated(self, plan: Plan, scan_ids: Sequence[str]) -> list[list[str]]:
        """Scans of leverage 1 on which a contrast rests."""
        return hc3.unestimated_scans(plan, scan_ids)

    def prepare(self, plan: Plan, scan_ids: Sequence[str]) -> Plan:
        """With degrees of freedom of its own, and without the subsets in which a variance is unknowable."""
        return hc3.hc3_plan(plan, scan_ids)


@dataclass(frozen=True)
class _LocalDf(_Robust):
    """Degrees of freedom of each voxel's own, and no subsets."""

    takes_subsets: ClassVar[bool] = False
    how: ClassVar[str] = ""

    def maps(
        self, fit: Fit | LocalDfFit, index: int, contrast: Contrast, spec: ModelSpec, n_scans: int
    ) -> dict[str, StatMap]:
        """Maps of one contrast."""
        with_fdr = "fdr" in spec.inference.kinds
        return local_df_maps(cast("LocalDfFit", fit), index, contrast, self.how, with_fdr)

    def corrected_maps(
        self, inference: Inference, fit: Fit | LocalDfFit, index: int, contrast: Contrast, n_scans: int
    ) -> dict[str, StatMap]:
        """Maps of corrected inference on one contrast."""
        return inference_maps(inference, contrast, fit.statistic[index], None)


@dataclass(frozen=True)
class Sandwich(_LocalDf):
    """Any covariance inside a subject or family."""

    subjects: tuple[str, ...] = ()
    name: ClassVar[str] = "sandwich"
    role: ClassVar[str] = "subject"
    correlations: ClassVar[tuple[float, ...]] = REPEATED
    estimator: ClassVar[str] = sandwich.ESTIMATOR
    cure: ClassVar[str] = sandwich.CURE
    how: ClassVar[str] = "sandwich"

    def bind(self, labels: Callable[[str], list[str]], plan: Plan, tree: Node | None) -> Sandwich:
        """With the subject of each scan."""
        return replace(self, subjects=tuple(labels(self.column)))

    def unestimated(self, plan: Plan, scan_ids: Sequence[str]) -> list[list[str]]:
        """Subjects that the model fits exactly in a direction on which a contrast rests."""
        return sandwich.unestimated_subjects(plan, self.subjects)

    def fit(
        self, maps: Maps, plan: Plan, design: Design, contrasts: Sequence[Contrast], compute: Compute
    ) -> Fit | LocalDfFit:
        """The model at every voxel."""
        return sandwich.fit_sandwich(maps, plan, self.subjects, compute)

    def record(self, fit: Fit | LocalDfFit, contrasts: Sequence[Contrast]) -> dict[str, Any]:
        """Subjects, correction and degrees of freedom."""
        about = {"subject": self.column, "n_subjects": len(set(self.subjects)), "correction": "CR2"}
        return {"sandwich": {**about, "degrees_of_freedom": "Satterthwaite", "df": _median_df(fit, contrasts)}}

    @property
    def _subjects(self) -> Sequence[str] | None:
        return self.subjects


@dataclass(frozen=True)
class Groups(_LocalDf):
    """A variance for each group of scans."""

    groups: tuple[int, ...] = ()
    name: ClassVar[str] = "groups"
    role: ClassVar[str] = "variance group"
    permutes: ClassVar[bool] = True
    how: ClassVar[str] = "groups'"

    def check(self, spec: ModelSpec, contrasts: Sequence[Contrast], map_name: str | None) -> None:
        """Also refuse schemes that do not know groups, and ``groups:auto`` without blocks."""
        super().check(spec, contrasts, map_name)
        if spec.inference.scheme != SCHEMES[0]:
            msg = f"--variance groups is for --scheme {SCHEMES[0]}, got {spec.inference.scheme}: leave the scheme out"
            raise DesignError(msg)
        if self.column == AUTO and not spec.inference.blocks:
            msg = "groups:auto are the scans that blocks let change places: give --blocks, or name a column"
            raise DesignError(msg)

    def bind(self, labels: Callable[[str], list[str]], plan: Plan, tree: Node | None) -> Groups:
        """With the group of each scan."""
        is_auto = self.column == AUTO and tree is not None
        values = [str(label) for label in orbits(tree)] if is_auto else labels(self.column)  # type: ignore[arg-type]
        return replace(self, groups=tuple(group_labels(values, plan, self.column).tolist()))

    def testable(
        self, plan: Plan, contrasts: Sequence[Contrast], scan_ids: Sequence[str], is_default: bool
    ) -> tuple[list[Contrast], tuple[str, ...]]:
        """All: a group without residuals is refused as a whole."""
        return list(contrasts), ()

    def fit(
        self, maps: Maps, plan: Plan, design: Design, contrasts: Sequence[Contrast], compute: Compute
    ) -> Fit | LocalDfFit:
        """The model at every voxel."""
        return fit_grouped(maps, plan, design, contrasts, self.labels, compute)

    @property
    def labels(self) -> np.ndarray:
        """Group of each scan, (n_scans,), int from 0."""
        return np.array(self.groups, dtype=np.int64)

    def record(self, fit: Fit | LocalDfFit, contrasts: Sequence[Contrast]) -> dict[str, Any]:
        """Sizes of the groups and degrees of freedom."""
        sizes = np.bincount(self.labels).tolist()
        df = _median_df(fit, contrasts)
        return {"variance_groups": {"column": self.column, "scans_per_group": sizes, "df": df}}

    def notes(
        self,
        permuted: Sequence[Permuted | None],
        plan: Plan,
        design: Design,
        contrasts: Sequence[Contrast],
        compute: Compute,
    ) -> tuple[str, ...]:
        """Also a note where scans of unequal variance change places."""
        tried = super().notes(permuted, plan, design, contrasts, compute)
        rearranged = next((one.rearrangements for one in permuted if one is not None), None)
        if rearranged is None or rearranged.flips is not None:
            return tried
        places, groups = orbits(rearranged.tree), self.labels
        if len(np.unique(places * (groups.max() + 1) + groups)) == len(np.unique(places)):
            return tried
        unequal = (
            "Permutations swap scans between groups of different variance, so permutation p are approximate in small "
            "samples."
        )
        return (*tried, unequal)


def _median_df(fit: Fit | LocalDfFit, contrasts: Sequence[Contrast]) -> Mapping[str, float]:
    """Degrees of freedom of each contrast, median over voxels."""
    return {c.name: round(float(df), 4) for c, df in zip(contrasts, fit.typical_df, strict=True)}


def choose_variance(text: str) -> Ols:
    """The variance of this name, e.g. ``sandwich:participant_id``.

    Examples
    --------
    >>> choose_variance("sandwich:family_id").column
    'family_id'
    """
    name, _, column = text.partition(":")
    return {one.name: one for one in (Ols, Spm, Hc3, Sandwich, Groups)}[name](column)
