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
from typing import Any, ClassVar

import numpy as np

from vbmstat.errors import DesignError
from vbmstat.glm.design.contrast import Contrast
from vbmstat.glm.fit.engine import fit_voxels
from vbmstat.glm.fit.leverage import leave_out
from vbmstat.glm.fit.plan import Plan
from vbmstat.glm.fit.tile import Fit
from vbmstat.glm.inference.corrected import Inference
from vbmstat.glm.inference.permute.blocks import Node, orbits
from vbmstat.glm.inference.permute.schemes import Permuted
from vbmstat.glm.inference.power import power_maps
from vbmstat.glm.spec import SCHEMES, Compute, ModelSpec
from vbmstat.glm.statmap import StatMap
from vbmstat.glm.variance import hc3, sandwich
from vbmstat.glm.variance.calibration import REPEATED, NoiseMaps, calibration_notes
from vbmstat.glm.variance.groups import fit_grouped, group_labels
from vbmstat.glm.variance.maps import inference_maps, statistic_maps
from vbmstat.maps.store import Maps

AUTO = "auto"  # groups:auto, from the exchangeability blocks


@dataclass(frozen=True)
class Ols:
    """The ordinary t and F; the base of the others."""

    column: str = ""  # that the variance reads, if it does
    name: ClassVar[str] = "ols"
    role: ClassVar[str] = ""  # what the column holds
    permutes: ClassVar[bool] = True
    is_field: ClassVar[bool] = True  # of t or F with the same df everywhere
    takes_f: ClassVar[bool] = True
    takes_map: ClassVar[bool] = True
    takes_subsets: ClassVar[bool] = True
    how: ClassVar[str] = ""  # whose variance it is, in descriptions of maps
    estimator: ClassVar[str] = ""  # and what to do where it cannot estimate a variance, for messages
    cure: ClassVar[str] = ""
    words: ClassVar[str] = "one variance for all scans"

    @property
    def in_words(self) -> str:
        """Whose variance it is, for figures."""
        return self.words.format(column=self.column)

    @property
    def alone(self) -> Ols:
        """The variance of a voxel without the others."""
        return self

    def complete(self, spec: ModelSpec) -> ModelSpec:
        """The model with what this variance needs of its permutations; raises DesignError if other ones were asked."""
        return spec

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
                f"permutations take --variance ols, sandwich:COLUMN or groups:COLUMN, got {spec.variance}; ask for fdr "
                "alone, or leave --variance out"
            )
            raise DesignError(msg)
        if map_name is not None and {*spec.inference.kinds} - {"fdr"}:
            msg = f"{', '.join(spec.inference.kinds)} beside map(): with it ask for fdr alone"
            raise DesignError(msg)
        if "rft" in spec.inference.kinds and not self.is_field:
            msg = f"--variance {self.name} gives no field of t or F with one df, which rft needs; take fdr, or ols"
            raise DesignError(msg)

    def bind(self, labels: Callable[[str], list[str]], plan: Plan, tree: Node | None) -> Ols:
        """The variance with what it reads from the table.

        `labels` returns the values of a column, a text a scan; `tree` says which scans may be exchanged.
        """
        return self

    def unestimated(self, plan: Plan, scan_ids: Sequence[str]) -> list[list[str]]:
        """For each contrast, scans or subjects whose part of its variance cannot be estimated."""
        return [[] for _ in plan.contrasts]

    def testable(
        self, plan: Plan, contrasts: Sequence[Contrast], scan_ids: Sequence[str], is_default: bool
    ) -> tuple[list[Contrast], tuple[str, ...]]:
        """Contrasts whose variance can be estimated, and notes on default ones that were left out."""
        return leave_out(contrasts, self.unestimated(plan, scan_ids), self.estimator, self.cure, is_default)

    def prepare(self, plan: Plan, scan_ids: Sequence[str]) -> Plan:
        """The plan that `fit` takes."""
        return plan

    def fit(self, maps: Maps, plan: Plan, compute: Compute) -> Fit:
        """The model at every voxel."""
        return fit_voxels(maps, plan, compute)

    def maps(self, fit: Fit, index: int, contrast: Contrast, n_scans: int) -> dict[str, StatMap]:
        """Maps of one contrast."""
        maps = statistic_maps(fit, index, contrast, self.how)
        if contrast.kind == "t" and not fit.has_local_df:
            maps |= power_maps(fit, index, n_scans, contrast.name)
        return maps

    def corrected_maps(
        self, inference: Inference, fit: Fit, index: int, contrast: Contrast, n_scans: int
    ) -> dict[str, StatMap]:
        """Maps of corrected inference on one contrast; with effect sizes and power unless df are local."""
        maps = inference_maps(inference, contrast, fit.statistic[index], None if fit.has_local_df else fit.df_resid)
        if contrast.kind == "t" and inference.nulls is not None and not fit.has_local_df:
            maps |= power_maps(fit, index, n_scans, contrast.name, inference.nulls)
        return maps

    def record(self, fit: Fit, contrasts: Sequence[Contrast]) -> dict[str, Any]:
        """What ``glm.json`` says beside the spec."""
        return {}

    def notes(
        self, permuted: Sequence[Permuted | None], plan: Plan, scan_ids: Sequence[str], compute: Compute
    ) -> tuple[str, ...]:
        """What the user should know of p; nothing here: the ordinary t and F are exact."""
        return ()


@dataclass(frozen=True)
class Spm(Ols):
    """SPM's variance floor, 1e-3 of the largest residual mean square; conservative."""

    name: ClassVar[str] = "spm"
    permutes: ClassVar[bool] = False
    takes_map: ClassVar[bool] = False

    @property
    def alone(self) -> Ols:
        """The ordinary variance: the floor depends on all voxels."""
        return _OneVoxel()

    def fit(self, maps: Maps, plan: Plan, compute: Compute) -> Fit:
        """The model at every voxel."""
        return fit_voxels(maps, plan, compute, spm_floor=True)


@dataclass(frozen=True)
class _OneVoxel(Ols):
    """The ordinary variance in place of SPM's."""

    words: ClassVar[str] = "one variance for all scans, without SPM's floor"


@dataclass(frozen=True)
class _Robust(Ols):
    """Variances with approximate p, which are tried on noise with the model's design."""

    permutes: ClassVar[bool] = False
    is_field: ClassVar[bool] = False
    takes_map: ClassVar[bool] = False
    correlations: ClassVar[tuple[float, ...]] = (0.0,)  # of the scans of one subject, that are tried
    subjects: tuple[str, ...] | None = None  # of each scan, where scans are repeated

    def notes(
        self, permuted: Sequence[Permuted | None], plan: Plan, scan_ids: Sequence[str], compute: Compute
    ) -> tuple[str, ...]:
        """A line on contrasts whose p are wrong on noise."""
        plan = self.prepare(plan, scan_ids)
        fits = {}
        for correlation in self.correlations:
            noise = NoiseMaps.of_plan(plan, scan_ids, self.subjects, correlation)
            fits[correlation] = self.fit(noise, plan, compute.quiet)
        return calibration_notes(fits, plan.contrasts)


@dataclass(frozen=True)
class Hc3(_Robust):
    """A variance for each scan."""

    name: ClassVar[str] = "hc3"
    takes_f: ClassVar[bool] = False
    words: ClassVar[str] = "HC3: a variance for each scan"
    estimator: ClassVar[str] = hc3.ESTIMATOR
    cure: ClassVar[str] = hc3.CURE

    def unestimated(self, plan: Plan, scan_ids: Sequence[str]) -> list[list[str]]:
        """Scans of leverage 1 on which a contrast depends."""
        return hc3.unestimated_scans(plan, scan_ids)

    def prepare(self, plan: Plan, scan_ids: Sequence[str]) -> Plan:
        """With degrees of freedom for HC3, without the subsets in which a variance cannot be estimated."""
        return hc3.hc3_plan(plan, scan_ids)


@dataclass(frozen=True)
class Sandwich(_Robust):
    """Any covariance inside a subject or family."""

    subjects: tuple[str, ...] = ()
    name: ClassVar[str] = "sandwich"
    role: ClassVar[str] = "subject"
    permutes: ClassVar[bool] = True
    takes_subsets: ClassVar[bool] = False
    correlations: ClassVar[tuple[float, ...]] = REPEATED
    words: ClassVar[str] = "sandwich (CR2): any covariance inside {column}"
    estimator: ClassVar[str] = sandwich.ESTIMATOR
    cure: ClassVar[str] = sandwich.CURE
    how: ClassVar[str] = "sandwich"

    def complete(self, spec: ModelSpec) -> ModelSpec:
        """With sign flips of whole subjects as permutations, which are valid for effects within and between them."""
        asked = spec.inference
        if not asked.permutes:
            return spec
        own = replace(asked, blocks=(self.column,), exchange="whole", sign_flip=True)
        if (asked.blocks and replace(asked, sign_flip=True) != own) or asked.scheme != SCHEMES[0]:
            msg = (
                f"--variance sandwich:{self.column} flips the signs of all scans with one {self.column} together; "
                "leave --blocks, --exchange and --scheme out"
            )
            raise DesignError(msg)
        return replace(spec, inference=own)

    def bind(self, labels: Callable[[str], list[str]], plan: Plan, tree: Node | None) -> Sandwich:
        """With the subject of each scan."""
        return replace(self, subjects=tuple(labels(self.column)))

    def unestimated(self, plan: Plan, scan_ids: Sequence[str]) -> list[list[str]]:
        """Subjects that the model fits exactly in a direction on which a contrast depends."""
        return sandwich.unestimated_subjects(plan, self.subjects)

    def fit(self, maps: Maps, plan: Plan, compute: Compute) -> Fit:
        """The model at every voxel."""
        return sandwich.fit_sandwich(maps, plan, self.subjects, compute)

    def record(self, fit: Fit, contrasts: Sequence[Contrast]) -> dict[str, Any]:
        """Subjects, correction and degrees of freedom."""
        about = {"subject": self.column, "n_subjects": len(set(self.subjects)), "correction": "CR2"}
        return {"sandwich": {**about, "degrees_of_freedom": "Satterthwaite", "df": _median_df(fit, contrasts)}}


@dataclass(frozen=True)
class Groups(_Robust):
    """A variance for each group of scans; without residuals for a group, the whole model is refused."""

    groups: tuple[int, ...] = ()
    name: ClassVar[str] = "groups"
    role: ClassVar[str] = "variance group"
    permutes: ClassVar[bool] = True
    takes_subsets: ClassVar[bool] = False
    how: ClassVar[str] = "groups'"
    words: ClassVar[str] = "a variance for each group of {column}"

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
        if self.column == AUTO and tree is not None:
            values = [str(label) for label in orbits(tree)]
        else:
            values = labels(self.column)
        return replace(self, groups=tuple(group_labels(values, plan, self.column).tolist()))

    def fit(self, maps: Maps, plan: Plan, compute: Compute) -> Fit:
        """The model at every voxel."""
        return fit_grouped(maps, plan, self.labels, compute)

    @property
    def labels(self) -> np.ndarray:
        """Group of each scan, (n_scans,), int from 0."""
        return np.array(self.groups, dtype=np.int64)

    def record(self, fit: Fit, contrasts: Sequence[Contrast]) -> dict[str, Any]:
        """Sizes of the groups and degrees of freedom."""
        sizes = np.bincount(self.labels).tolist()
        df = _median_df(fit, contrasts)
        return {"variance_groups": {"column": self.column, "scans_per_group": sizes, "df": df}}

    def notes(
        self, permuted: Sequence[Permuted | None], plan: Plan, scan_ids: Sequence[str], compute: Compute
    ) -> tuple[str, ...]:
        """Also a note where scans of unequal variance change places."""
        notes = super().notes(permuted, plan, scan_ids, compute)
        rearranged = next((one.rearrangements for one in permuted if one is not None), None)
        if rearranged is None or rearranged.flips is not None:
            return notes
        places, groups = orbits(rearranged.tree), self.labels
        if len(np.unique(places * (groups.max() + 1) + groups)) == len(np.unique(places)):
            return notes
        unequal = (
            "Permutations swap scans between groups of different variance, so permutation p are approximate in small "
            "samples."
        )
        return (*notes, unequal)


def _median_df(fit: Fit, contrasts: Sequence[Contrast]) -> Mapping[str, float]:
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
