"""`Model`: a model that is fitted once in a notebook, and asked for contrasts and places afterwards."""

from __future__ import annotations

import weakref
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vbmstat.errors import DesignError
from vbmstat.figures.view import parse_point
from vbmstat.figures.voxel import voxel_figure
from vbmstat.glm.analysis import FittedModel
from vbmstat.glm.data import Packer, global_scale
from vbmstat.glm.design.columns import read_labels
from vbmstat.glm.design.contrast import Contrast, build_contrasts
from vbmstat.glm.fit.plan import Plan, make_plan
from vbmstat.glm.fit.stacked import full_statistics
from vbmstat.glm.fit.tile import Fit
from vbmstat.glm.inference.clusters import coordinates_mm
from vbmstat.glm.keywords import as_spec
from vbmstat.glm.record import data_record
from vbmstat.glm.results import GlmResults
from vbmstat.glm.setup import Setup, set_up
from vbmstat.glm.spec import Compute, ModelSpec
from vbmstat.glm.variance.strategy import Ols
from vbmstat.glm.voxel import VoxelFit, voxel_fit
from vbmstat.maps.sources import as_cohort
from vbmstat.maps.store import ArrayMaps, PackedMaps
from vbmstat.report.places import nearest_voxel

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from typing_extensions import Unpack

    from vbmstat.glm.keywords import GlmKeywords


class Model:
    """A linear model at every voxel, fitted once; contrasts are added without another fit.

    The maps are packed into a temporary folder that lives as long as the model. By least squares a further contrast
    takes the coefficients and residual variances that are held, (n_regressors + 1) × n_voxels numbers; other variances
    need the residuals and read the packed maps once more.

    Parameters
    ----------
    model : ModelSpec or str
        The model, or its formula.
    cohort : Cohort, DataFrame or path
        One row a scan.
    maps
        As for :func:`vbmstat.glm.analysis.fit_glm`; None takes the paths in the table.
    compute : Compute, optional
        Where and how fast.
    **keywords
        As for :func:`vbmstat.glm.analysis.fit_glm`, but for subsets and inference.

    Raises
    ------
    DesignError
        For inference, subsets or a voxelwise covariate, and as `fit_glm`.

    Examples
    --------
    >>> table = pd.DataFrame({"participant_id": list("abcde"), "age": [20.0, 35.0, 50.0, 65.0, 80.0]})
    >>> model = Model("hippocampus ~ age", table, np.array([[5.0], [4.6], [4.5], [3.9], [3.8]]))
    >>> round(float(model.contrast("age").maps["age"]["effect"].values[0]), 4)
    -0.0207
    """

    def __init__(
        self,
        model: ModelSpec | str,
        cohort: Any,
        maps: Any = None,
        compute: Compute | None = None,
        **keywords: Unpack[GlmKeywords],
    ) -> None:
        spec, self._compute = as_spec(model, None, compute, keywords)
        asked = [*spec.inference.kinds, *spec.subsets.asked]
        if asked:
            msg = f"{', '.join(asked)}: a Model has uncorrected p over all scans; take vbmstat.fit_glm for it"
            raise DesignError(msg)
        self._data, self._contrasts = data_record(maps, cohort), dict[str, Contrast]()  # the table as it is read here
        self._setup = set_up(spec.replace(repeats=0), maps, as_cohort(cohort), self._compute)
        if self._setup.covariate is not None:
            msg = f"map({self._setup.covariate[0]}): a Model has the same columns at every voxel; take vbmstat.fit_glm"
            raise DesignError(msg)

    def fit(self) -> Model:
        """Read the maps and fit; the other methods do so if it has not been done."""
        _ = self._fit
        return self

    def contrast(self, *contrasts: str) -> GlmResults:
        """Maps of some contrasts, as :func:`vbmstat.glm.analysis.fit_glm` makes them; the model keeps the contrasts.

        Without any, one t-contrast a column. Raises DesignError as `build_contrasts`, or if the variance of one cannot
        be estimated.
        """
        built = build_contrasts(contrasts or None, self._setup.design)
        results = self._results(built)
        self._contrasts |= {one.name: one for one in built}
        return results

    def results(self) -> GlmResults:
        """Maps of all contrasts so far; without any, one t-contrast a column."""
        return self._results(list(self._contrasts.values())) if self._contrasts else self.contrast()

    def table(self) -> pd.DataFrame:
        """One row a contrast so far; see :meth:`GlmResults.summary`."""
        return self.results().summary()

    def to_directory(self, folder: Path | str) -> list[Path]:
        """Write all contrasts so far; see :meth:`GlmResults.to_directory`."""
        return self.results().to_directory(folder)

    def __repr__(self) -> str:
        return f"Model({self._setup.spec.formula}: {len(self._setup.design.scan_ids)} scans)"

    def _repr_html_(self) -> str:
        return self.results()._repr_html_()

    def at(self, place: str | tuple[float, float, float], contrast: str, by: str | None = None) -> VoxelFit:
        """The numbers of a contrast at a place, ``"x,y,z"`` in mm or ``"peak"``, the strongest voxel of the contrast.

        `by` is a column of the table that colours the points. Raises VbmstatError outside the mask.
        """
        return self._look(place, contrast, by)[0]

    def plot(self, at: str | tuple[float, float, float], contrast: str, by: str | None = None) -> Figure:
        """Adjusted data, fit and residuals of a contrast at a place, as :meth:`at`."""
        fit, place = self._look(at, contrast, by)
        return voxel_figure(fit, place, self._setup.spec.formula.split("~")[0].strip())

    def _look(self, at: str | tuple[float, float, float], contrast: str, by: str | None) -> tuple[VoxelFit, str]:
        results, (matrix, setup, _) = self.contrast(contrast), self._fit
        (one,) = results.contrasts
        if results.space is None:
            msg = "a place in mm needs maps in files; columns of a matrix have none"
            raise DesignError(msg)
        inside, mm = np.flatnonzero(results.mask), coordinates_mm(results.space)
        if at == "peak":
            column = int(np.argmax(np.abs(results.maps[one.name][one.kind].values)))
        else:
            point = parse_point(at, "at") if isinstance(at, str) else at
            column = int(inside[nearest_voxel(np.array(point), mm[inside], results.space.grid, "at")])
        colours = None if by is None else pd.Series(read_labels(by, setup.source.table), name=by)
        values = matrix.read(column, column + 1)[:, 0]
        where = ", ".join(f"{value:g}".replace("-", "−") for value in np.round(mm[column], 2))
        return voxel_fit(values, setup, one, colours), f"at {where} mm"

    @cached_property
    def _fit(self) -> tuple[ArrayMaps | PackedMaps, Setup, Fit]:
        """The maps, the model, and as effects the coordinates of the fit in the basis of its plan."""
        stack = ExitStack()
        weakref.finalize(self, stack.close)
        setup = self._setup
        matrix = Packer(setup.spec, self._compute, stack).open(setup.source, setup.scale)
        if setup.spec.global_scaling:
            setup = replace(setup, scale=global_scale(matrix, setup.scale))
        plan = _plan(setup, setup.contrasts[:1])
        axes = np.eye(plan.basis.shape[1])
        units = tuple(replace(plan.contrasts[0], kind="t", rows=axes[[i]], norm=1.0) for i in range(len(axes)))
        return matrix, setup, Ols().fit(matrix, replace(plan, contrasts=units), self._compute)

    def _results(self, contrasts: list[Contrast]) -> GlmResults:
        matrix, setup, held = self._fit
        specs = {one.name: one.weights.tolist() for one in contrasts}
        setup = replace(
            setup, contrasts=contrasts, spec=replace(setup.spec, contrasts=specs), permuted=[None] * len(contrasts)
        )
        plan, ids = _plan(setup, contrasts), setup.design.scan_ids
        setup.variance.testable(plan, contrasts, ids, is_default=False)
        if type(setup.variance) is Ols and held.residual_variance is not None:
            tile = full_statistics(plan, held.effect, np.sqrt(held.residual_variance), 0.0)
            df = np.array([one.df for one in plan.contrasts])
            fit = Fit(
                effect=tile.effect, variance=tile.variance, statistic=tile.statistic,
                residual_variance=tile.residual_variance, mask=held.mask, df=df, df_resid=plan.df_resid,
                repetitions=(0,) * len(contrasts),
            )  # fmt: skip
        else:
            fit = setup.variance.fit(matrix, setup.variance.prepare(plan, ids), self._compute)
        results = FittedModel(setup, matrix, None, fit, {}, None).results(self._compute)
        results.record["data"] = self._data
        return results


def _plan(setup: Setup, contrasts: list[Contrast]) -> Plan:
    """The factorised design with some contrasts, without subsets."""
    return make_plan(setup.design, contrasts, setup.draws[:0], setup.weights, setup.scale)
