"""What a fit found: maps and tables by contrast, and how they are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from vbmstat import io
from vbmstat.errors import DesignError
from vbmstat.glm.contrast import Contrast
from vbmstat.glm.design import Design, variance_inflation
from vbmstat.glm.inference import cohens_d, p_of_f, p_two_sided, partial_r, z_of_f, z_of_t
from vbmstat.glm.maps import Space
from vbmstat.glm.resample import write_draws
from vbmstat.glm.tensors import Fit
from vbmstat.volume import Volume

_OUTSIDE = {"p": 1.0}  # a p of zero outside the mask would look like a finding


@dataclass(frozen=True)
class StatMap:
    """One statistic of one contrast over voxels or features.

    Attributes
    ----------
    stat : str
        ``"t"``, ``"p"``, ``"effect"``, …
    values : ndarray, (n_voxels,), float64
        Zero outside the mask (one for p).
    intent : (str, tuple of float) or None
        NIfTI intent with its degrees of freedom.
    description : str
        SPM's description string, or what the map is.
    """

    stat: str
    values: np.ndarray
    intent: tuple[str, tuple[float, ...]] | None
    description: str


@dataclass(frozen=True)
class GlmResults:
    """A fitted model.

    Attributes
    ----------
    design : Design
        Rows are the scans that were used.
    contrasts : tuple of Contrast
        In the order given.
    maps : dict of str to dict of str to StatMap
        Contrast name, then statistic: ``results.maps["age"]["t"].values``.
    mask : ndarray, (n_voxels,), bool
        Columns that were fitted.
    space : Space or None
        Where columns lie; None for a plain matrix.
    features : tuple of str
        Column names of a plain matrix.
    draws : ndarray, (B, n_scans), bool
        The subsets.
    df_resid : float
        Residual degrees of freedom of the full sample.
    record : dict
        All that is needed to repeat the fit.
    """

    design: Design
    contrasts: tuple[Contrast, ...]
    maps: Mapping[str, Mapping[str, StatMap]]
    mask: np.ndarray
    space: Space | None
    features: tuple[str, ...]
    draws: np.ndarray
    df_resid: float
    record: dict[str, Any] = field(default_factory=dict)

    def volume(self, contrast: str, stat: str, outside: str = "zero") -> Volume:
        """One map as an image on the grid of the input maps.

        Raises
        ------
        DesignError
            If there is no such contrast or statistic, or the fit was of a plain matrix.
        """
        if self.space is None or contrast not in self.maps or stat not in self.maps[contrast]:
            have = ", ".join(f"{name}: {' '.join(found)}" for name, found in self.maps.items())
            msg = f"no image of {stat!r} for {contrast!r}; the fit {'has ' + have if self.space else 'was of a matrix'}"
            raise DesignError(msg)
        empty = np.nan if outside == "nan" else _OUTSIDE.get(stat, 0.0)
        values = np.where(self.mask, self.maps[contrast][stat].values, empty)
        return _to_volume(self.space, values, empty)

    def table(self, contrast: str) -> pd.DataFrame:
        """All statistics of one contrast, one row a fitted column; ``feature`` in front for a plain matrix."""
        columns = {name: found.values for name, found in self.maps[contrast].items()}
        table = pd.DataFrame(columns)
        if self.features:
            table.insert(0, "feature", list(self.features))
        return table[self.mask].reset_index(drop=True)

    def to_directory(self, folder: Path | str, spm_names: bool = False, outside: str = "zero") -> list[Path]:
        """Write everything but the pictures.

        Parameters
        ----------
        folder : path
            Made if need be. Each file appears whole or not at all; ``glm.json`` comes last.
        spm_names : bool
            ``spmT_0001``, ``spmF_0002``, ``con_0001``, ``ResMS``, ``mask`` as well.
        outside : {"zero", "nan"}
            Value outside the mask (p maps get 1 in place of 0).

        Returns
        -------
        list of Path
            The files.
        """
        if outside not in ("zero", "nan"):
            msg = f"outside={outside!r}: expected 'zero' or 'nan'"
            raise DesignError(msg)
        folder = Path(folder)
        written = [folder / "design.tsv", folder / "design_report.tsv"]
        io.write_table(written[0], self.design.table)
        io.write_table(written[1], variance_inflation(self.design))
        if len(self.draws):
            written.append(folder / "draws.tsv")
            write_draws(written[-1], self.draws, self.design.scan_ids)
        written += self._write_tables(folder) if self.space is None else self._write_maps(folder, spm_names, outside)
        written.append(folder / "glm.json")
        io.write_json(written[-1], self.record)
        return written

    def _write_tables(self, folder: Path) -> list[Path]:
        paths = []
        for contrast in self.contrasts:
            paths.append(folder / f"contrast-{contrast.label}_stats.tsv")
            io.write_table(paths[-1], self.table(contrast.name))
        return paths

    def _write_maps(self, folder: Path, spm_names: bool, outside: str) -> list[Path]:
        assert self.space is not None  # noqa: S101 - the caller asked
        paths = [folder / "mask.nii.gz"]
        io.write_volume(
            paths[0], _to_volume(self.space, self.mask, 0.0), dtype="uint8", axcodes=self.space.axcodes,
            description="vbmstat analysis mask",
        )
        for number, contrast in enumerate(self.contrasts, start=1):
            for stat, found in self.maps[contrast.name].items():
                names = [f"contrast-{contrast.label}_stat-{stat}_statmap.nii.gz"]
                if spm_names:
                    names += _spm_name(stat, number, contrast.kind)
                for name in names:
                    paths.append(folder / name)
                    io.write_volume(
                        paths[-1], self.volume(contrast.name, stat, outside), axcodes=self.space.axcodes,
                        intent=found.intent, description=found.description,
                    )
        return paths


def _to_volume(space: Space, values: np.ndarray, outside: float) -> Volume:
    return Volume(torch.from_numpy(space.unmask(values, outside))[None], space.grid)


def _spm_name(stat: str, number: int, kind: str) -> list[str]:
    names = {"t": f"spmT_{number:04d}.nii", "F": f"spmF_{number:04d}.nii"}
    if kind == "t":
        names["effect"] = f"con_{number:04d}.nii"
    if number == 1:
        names["sigma2"] = "ResMS.nii"
    return [names[stat]] if stat in names else []


def statistic_maps(fit: Fit, index: int, contrast: Contrast) -> dict[str, StatMap]:
    """The maps of one contrast.

    Parameters
    ----------
    fit : Fit
        From the engine.
    index : int
        Which contrast of the fit.
    contrast : Contrast
        Its name and kind.
    """
    df, inside, statistic = fit.df_resid, fit.mask, fit.statistic[index]
    m = float(np.linalg.matrix_rank(contrast.weights))
    t_like = contrast.kind == "t"
    dofs = f"{df:.1f}" if t_like else f"{m:.1f},{df:.1f}"
    spm = f"SPM{{{contrast.kind.upper()}_[{dofs}]}} - contrast {index + 1}: {contrast.name}"
    p = p_two_sided(statistic, df) if t_like else p_of_f(statistic, m, df)
    z = z_of_t(statistic, df) if t_like else z_of_f(statistic, m, df)
    intent = ("t test", (df,)) if t_like else ("f test", (m, df))
    estimate = ("estimate", ())
    found = [
        StatMap(contrast.kind, statistic, intent, spm),
        StatMap("p", np.where(inside, p, 1.0), ("p value", ()), f"two-sided uncorrected p: {contrast.name}"),
        StatMap("z", np.where(inside, z, 0.0), ("z score", ()), f"SPM{{Z}} - contrast {index + 1}: {contrast.name}"),
    ]
    if t_like:
        found += [
            StatMap("effect", fit.effect[index], estimate, f"contrast {index + 1}: {contrast.name}"),
            StatMap("variance", fit.variance[index], estimate, f"variance of contrast {index + 1}: {contrast.name}"),
            StatMap("r", partial_r(statistic, df), ("correlation", (df,)), f"partial r: {contrast.name}"),
            StatMap("d", cohens_d(statistic, df), estimate, f"Cohen's d: {contrast.name}"),
        ]
    else:
        found[1] = StatMap("p", found[1].values, ("p value", ()), f"uncorrected p: {contrast.name}")
    found.append(StatMap("sigma2", fit.residual_variance, estimate, "residual variance"))
    for name, values in fit.quantiles.items():
        text = f"{name} {contrast.kind} over {fit.repetitions[index]} subsets (no p): {contrast.name}"
        found.append(StatMap(name + contrast.kind, values[index], estimate, text))
    return {one.stat: one for one in found}
