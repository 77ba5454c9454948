"""``fit_glm``: from a formula and a cohort to results, the whole analysis as one call."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from vbmstat.assets.provenance import device_label
from vbmstat.device import n_cores
from vbmstat.errors import ScanError
from vbmstat.glm.data import Packer, global_scale, map_notes
from vbmstat.glm.design.contrast import Contrast
from vbmstat.glm.fit.tile import Fit, Fitted
from vbmstat.glm.inference.corrected import (
    Inference,
    exchange_notes,
    infer,
    inference_notes,
    inference_record,
    with_random_fields,
)
from vbmstat.glm.inference.rft import check_fields
from vbmstat.glm.inference.smoothness import Smoothness, residual_smoothness
from vbmstat.glm.keywords import as_spec, with_keywords
from vbmstat.glm.record import contrast_record, data_record, fit_record, map_record
from vbmstat.glm.results import GlmResults
from vbmstat.glm.setup import Setup, set_up
from vbmstat.glm.spec import Compute, Contrasts, ModelSpec
from vbmstat.glm.statmap import StatMap
from vbmstat.maps.sources import as_cohort
from vbmstat.maps.store import ArrayMaps, PackedMaps
from vbmstat.tables.cohort import Cohort
from vbmstat.tables.flow import flow_record

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from vbmstat.glm.keywords import GlmKeywords


@with_keywords
def fit_glm(
    maps: Any,
    model: ModelSpec | str,
    cohort: Cohort | pd.DataFrame | Path | str,
    contrasts: Contrasts = None,
    *,
    compute: Compute | None = None,
    **keywords: Unpack[GlmKeywords],
) -> GlmResults:
    """Fit a linear model at every voxel, over the whole sample and over random subsets.

    Parameters
    ----------
    maps : None, path, mapping, DataFrame, ndarray, Tensor, ArrayMaps or PackedMaps
        See :func:`vbmstat.maps.sources.gather`. None takes the paths in the cohort table.
    model : ModelSpec or str
        The model, or its formula: ``"gm ~ age + sex + tiv"``. ``tiv`` stands for ``tiv_ml`` and ``sex`` for ``gender``
        where the table has no column of that name.
    cohort : Cohort, DataFrame or path
        One row a scan, with ids.
    contrasts : sequence of str or mapping, optional
        Beside a formula; see :func:`vbmstat.glm.design.contrast.build_contrasts`. By default one t-contrast a column.
    compute : Compute, optional
        Where and how fast.
    **keywords
        In place of `ModelSpec` and `Compute`: any of their fields, nested ones by name (``repeats=0``,
        ``inference="fwe"``, ``n_threads=4``); ``help(fit_glm)`` lists them.

    Returns
    -------
    GlmResults

    Raises
    ------
    TableError, DesignError, ScanError
        As the steps say: :func:`gather`, :func:`build_design`, :func:`build_contrasts`, :func:`pack_maps`.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> table = pd.DataFrame({"participant_id": list("abcde"), "age": [20.0, 35.0, 50.0, 65.0, 80.0]})
    >>> volumes = np.array([[5.0], [4.6], [4.5], [3.9], [3.8]])
    >>> results = fit_glm(volumes, "hippocampus ~ age", table, repeats=0)
    >>> round(float(results.maps["age"]["effect"].values[0]), 4)  # R: coef(lm(y ~ age))[2]
    -0.0207
    """
    spec, compute = as_spec(model, contrasts, compute, keywords)
    data = data_record(maps, cohort)  # the table as it is read here: it may be changed during the fit
    setup = set_up(spec, maps, as_cohort(cohort), compute)
    spec, plan = setup.spec, setup.make_plan()
    with ThreadPoolExecutor(1) as beside, ExitStack() as stack:
        packer = Packer(spec, compute, stack)
        matrix = packer.open(setup.source, setup.scale)
        if spec.global_scaling:
            setup = replace(setup, scale=global_scale(matrix, setup.scale))
            plan = setup.make_plan()
        covariate = None if setup.covariate is None else packer.pack_covariate(*setup.covariate, matrix)
        fit = setup.fit(plan, matrix, covariate, compute)
        if not fit.mask.any():
            msg = (
                f"{spec.formula}: expected values that differ between the {len(setup.source.scan_ids)} scans, but none "
                "do; are they copies of one scan, or regions that the maps do not reach?"
            )
            raise ScanError(msg)
        fitted = Fitted(matrix, setup.bare, fit)
        smooth = None
        if spec.inference.kinds and covariate is None:
            smooth = residual_smoothness(matrix, setup.bare, compute.n_threads)
        has_fields = smooth is not None and "rft" in spec.inference.kinds
        if smooth is not None and has_fields:
            check_fields(smooth, setup.bare.df_resid)
        inference = infer(fitted, setup.contrasts, setup.permuted, spec.inference, compute)
        if smooth is not None and has_fields:
            inference = with_random_fields(inference, fitted, setup.contrasts, smooth)
        closed = beside.submit(stack.pop_all().close)  # maps that were packed for this fit alone: a second to delete
        results = FittedModel(setup, matrix, covariate, fit, inference, smooth).results(compute)
        closed.result()
    results.record["data"] = data
    return results


@dataclass(frozen=True)
class FittedModel:
    """A fit with the maps that it was made of, and the corrected inference on it."""

    setup: Setup
    matrix: ArrayMaps | PackedMaps
    covariate: PackedMaps | None
    fit: Fit
    inference: Mapping[str, Inference]
    smoothness: Smoothness | None

    def results(self, compute: Compute) -> GlmResults:
        """Maps, notes and record of the fit."""
        setup, fit, matrix = self.setup, self.fit, self.matrix
        asked = setup.spec.inference
        notes = (
            *setup.notes, *map_notes(matrix),
            *setup.variance.notes(setup.permuted, setup.bare, setup.design.scan_ids, compute),
            *exchange_notes(setup.permuted, asked, setup.source.table, setup.design.matrix),
            *inference_notes(self.inference, asked, setup.source.smoothing.width_mm),
        )  # fmt: skip
        setup = replace(setup, design=replace(setup.design, notes=notes))
        record = self._record(setup) | {"device": device_label(compute.device)}
        features = matrix.features if isinstance(matrix, ArrayMaps) else ()
        return GlmResults(
            setup.design, tuple(setup.contrasts), self._maps(), fit.mask, matrix.space, features, setup.draws,
            fit.df_resid, record, self.inference,
        )  # fmt: skip

    def _record(self, setup: Setup) -> dict[str, Any]:
        """The content of ``glm.json``."""
        fit, asked = self.fit, setup.spec.inference
        record = fit_record(setup.spec, setup.design, setup.draws, self.matrix, setup.scale)
        record |= {
            "contrasts": contrast_record(setup.contrasts, setup.named_design, fit.repetitions, fit.typical_df),
            "flow": flow_record(setup.source.flow), "df_resid": fit.df_resid,
            "n_voxels": int(fit.mask.sum()), **setup.variance.record(fit, setup.contrasts),
        }  # fmt: skip
        if setup.source.change is not None:
            record["change"] = {person: dict(factors) for person, factors in setup.source.change.of.items()}
        if setup.source.paths or isinstance(self.matrix, PackedMaps):
            record["smoothing"] = setup.source.smoothing.record
        if self.covariate is not None and setup.covariate is not None:
            record["map_covariate"] = {"name": setup.covariate[0], "maps": map_record(self.covariate)}
        if asked.kinds:
            record["inference"] = inference_record(self.inference, asked, self.smoothness)
        return record

    def _maps(self) -> dict[str, dict[str, StatMap]]:
        """Statistic maps by contrast."""
        setup, n_scans = self.setup, len(self.setup.design.scan_ids)

        def of(index: int, contrast: Contrast) -> dict[str, StatMap]:
            maps = setup.variance.maps(self.fit, index, contrast, n_scans)
            if contrast.name in self.inference:
                corrected = self.inference[contrast.name]
                maps |= setup.variance.corrected_maps(corrected, self.fit, index, contrast, n_scans)
            return maps

        with ThreadPoolExecutor(n_cores()) as pool:
            maps = pool.map(of, range(len(setup.contrasts)), setup.contrasts)
            return {contrast.name: one for contrast, one in zip(setup.contrasts, maps, strict=True)}
