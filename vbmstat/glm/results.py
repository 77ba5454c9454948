"""Results of a fit: maps and tables by contrast."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from vbmstat.device import n_cores
from vbmstat.errors import DesignError
from vbmstat.glm import place_tables
from vbmstat.glm.design.contrast import Contrast
from vbmstat.glm.design.inflation import variance_inflation
from vbmstat.glm.design.matrix import Design
from vbmstat.glm.inference.clusters import coordinates_mm
from vbmstat.glm.inference.corrected import Inference
from vbmstat.glm.inference.places import Regions
from vbmstat.glm.inference.small_volume import small_volumes
from vbmstat.glm.inference.true_discoveries import discoveries_by_region
from vbmstat.glm.output import image_writers, write_tables
from vbmstat.glm.record import RECORD, SCANS
from vbmstat.glm.statmap import StatMap
from vbmstat.image import storage
from vbmstat.image.volume import Volume
from vbmstat.lazy import torch
from vbmstat.maps.store import Space

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ATLASES = ("lpba40", "neuromorphometrics")  # that name places in a notebook
P_STATS = ("p", "qfdr", "prft", "pperm", "pfwe", "ptfce", "pextent", "pmass")
_OUTSIDE = dict.fromkeys(P_STATS, 1.0)  # a p of zero outside the mask would look like a finding


@dataclass(frozen=True, repr=False)
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
        What is needed to repeat the fit.
    inference : dict of str to Inference
        By contrast, where corrected inference was asked for.
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
    inference: Mapping[str, Inference] = field(default_factory=dict)

    def __repr__(self) -> str:
        contrasts = ", ".join(f"{one.name} ({one.kind})" for one in self.contrasts)
        where = "voxels" if self.space is not None else "columns"
        kinds = sorted({kind for one in self.inference.values() for kind in one.kinds})
        corrected = f"; corrected: {', '.join(kinds)}" if kinds else ""
        n_scans = self.record.get("n_scans", len(self.design.scan_ids))
        return (
            f"GlmResults({self.record.get('formula', self.design.formula)}: {n_scans} scans, "
            f"{int(self.mask.sum())} {where}; contrasts: {contrasts}{corrected})"
        )

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.record.get("notes", ()))
        table = self.summary().to_html(index=False, float_format="{:.4g}".format, na_rep="")
        return f"<p>{escape(repr(self))}</p>{table}{f'<ul>{notes}</ul>' if notes else ''}"

    def summary(self) -> pd.DataFrame:
        """One row a contrast: smallest and largest statistic, degrees of freedom, threshold, smallest corrected p."""
        rows = []
        for contrast in self.contrasts:
            maps = self.maps[contrast.name]
            values = maps[contrast.kind].values[self.mask]
            df = np.median(maps["df"].values[self.mask]) if "df" in maps else self.df_resid
            row = {
                "contrast": contrast.name,
                "statistic": contrast.kind,
                "df": df,
                "min": values.min(),
                "max": values.max(),
            }
            if contrast.name in self.inference:
                row["threshold"], row["threshold_by"] = self.inference[contrast.name].critical(
                    maps[contrast.kind].values
                )
            row |= {f"smallest_{stat}": maps[stat].values[self.mask].min() for stat in P_STATS if stat in maps}
            rows.append(row)
        return pd.DataFrame(rows)

    def plot(
        self, contrast: str | None = None, stat: str | None = None, threshold: float | None = None, **view: Any
    ) -> Figure:
        """Draw a map on slices of the average brain; notebooks show the figure, ``savefig`` writes it.

        Parameters
        ----------
        contrast : str, optional
            Its name; may be left out if there is one only.
        stat : str, optional
            Any map of the contrast, by default t or F; p maps are drawn as -log10 p.
        threshold : float, optional
            Outlined; smaller values fade. By default that of the corrected inference (one-sided: positive values
            only), without one 0 (p maps: 0.05).
        **view
            Fields of :class:`vbmstat.figures.view.View`: ``cuts="z=-20,0,20"``, ``limit``, ``contours``,
            ``crosshair``, ``title``, ``columns``.

        Raises
        ------
        DesignError, VbmstatError
            If there is no such map, or a slice lies outside.
        """
        from vbmstat.report import notebook  # noqa: PLC0415 - above this module: only for display

        one = self._contrast(contrast)
        stat = stat or one.kind
        volume = self.volume(one.name, stat)
        symbol = None if stat in P_STATS else stat
        if threshold is None and stat == one.kind and one.name in self.inference:
            threshold = self.inference[one.name].critical(self.maps[one.name][stat].values)[0]
            if not self.inference[one.name].two_sided:
                volume = Volume(volume.data.clamp(min=0), volume.grid)
        return notebook.plot(volume, f"{one.name}: {stat}", symbol, threshold or 0.0, **view)

    def _contrast(self, name: str | None) -> Contrast:
        """The contrast of a name, or the only one."""
        have = {contrast.name: contrast for contrast in self.contrasts}
        if name is None and len(have) == 1:
            return self.contrasts[0]
        if name not in have:
            msg = f"contrast {name!r}: expected one of {', '.join(have)}"
            raise DesignError(msg)
        return have[str(name)]

    def volume(self, contrast: str, stat: str, outside: str = "zero") -> Volume:
        """One map with its grid; see :meth:`image`."""
        image = np.ascontiguousarray(self.image(contrast, stat, outside))
        return Volume(torch.from_numpy(image)[None], cast("Space", self.space).grid)

    def image(self, contrast: str, stat: str, outside: str = "zero") -> np.ndarray:
        """One map on the grid of the input maps, (X, Y, Z), float32.

        Raises
        ------
        DesignError
            If there is no such contrast or statistic, or the fit was of a plain matrix.
        """
        if self.space is None or contrast not in self.maps or stat not in self.maps[contrast]:
            have = ", ".join(f"{name}: {' '.join(maps)}" for name, maps in self.maps.items())
            msg = f"no image of {stat!r} for {contrast!r}; the fit {'has ' + have if self.space else 'was of a matrix'}"
            raise DesignError(msg)
        empty = np.nan if outside == "nan" else _OUTSIDE.get(stat, 0.0)
        values = np.where(self.mask, self.maps[contrast][stat].values, empty)
        return self.space.unmask(values, empty)

    def table(self, contrast: str | None = None) -> pd.DataFrame:
        """All statistics of one contrast, one row per fitted column; ``feature`` first for a plain matrix."""
        contrast = self._contrast(contrast).name
        table = pd.DataFrame({name: one.values for name, one in self.maps[contrast].items()})
        if self.features:
            table.insert(0, "feature", list(self.features))
        flags = {f"{stat}{place_tables.FLAG}": chosen for stat, chosen in self.approximated(contrast).items()}
        return place_tables.name_flags(table.assign(**flags)[self.mask].reset_index(drop=True))

    def approximated(self, contrast: str) -> dict[str, np.ndarray]:
        """Voxels whose p come from a fitted tail, (n_voxels,), bool, by map: ``pperm``, ``pfwe``, ``ptfce``."""
        inference = self.inference.get(contrast)
        chosen = {} if inference is None or inference.nulls is None else inference.nulls.approximated
        names = {"uncorrected": "pperm", "statistic": "pfwe", "tfce": "ptfce"}
        have = self.maps[contrast]
        return {stat: chosen[name] for name, stat in names.items() if name in chosen and stat in have}

    def clusters(self, contrast: str | None = None, regions: Regions | Sequence[str] | None = ATLASES) -> pd.DataFrame:
        """One row per cluster of a contrast with corrected inference; see `cluster_table`.

        `contrast` may be left out if there is one only. `regions` names the places: atlases by their names, the second
        for what the first leaves without a name, or None.
        """
        return place_tables.clusters(self, self._contrast(contrast).name, _as_regions(regions))

    def peaks(self, contrast: str | None = None, regions: Regions | Sequence[str] | None = ATLASES) -> pd.DataFrame:
        """One row per peak of a contrast with corrected inference; see `peak_table`, and `clusters` for `regions`."""
        return place_tables.peaks(self, self._contrast(contrast).name, _as_regions(regions))

    def regions(self, contrast: str | None = None, regions: Regions | Sequence[str] | None = ATLASES) -> pd.DataFrame:
        """One row per region of the atlases: at least so many of its voxels have an effect; see `clusters`."""
        contrast, regions = self._contrast(contrast).name, _as_regions(regions)
        _, space, _ = place_tables.with_clusters(self, contrast)
        if regions is None:
            msg = "regions need an atlas, got none"
            raise DesignError(msg)
        mm = coordinates_mm(space)[self.mask]
        return discoveries_by_region(self.inference[contrast].p[self.mask], mm, regions)

    def with_volumes(self, volumes: Sequence[str], regions: Regions | Sequence[str] | None = ATLASES) -> GlmResults:
        """Add random field inference in small volumes, each by itself: heights, peaks and clusters inside it.

        Parameters
        ----------
        volumes : sequence of str
            Spheres, regions and mask images; see :class:`vbmstat.glm.inference.small_volume.SmallVolume`.
        regions : Regions or sequence of str, optional
            Atlases of the regions.

        Raises
        ------
        DesignError
            If there are no random fields, or a volume is misspelt, outside the mask or on another grid.
        """
        parsed = small_volumes(volumes, _as_regions(regions), {k for one in self.inference.values() for k in one.kinds})
        record, added = {**self.record, "small_volumes": [one.record() for one in parsed]}, dict(self.inference)
        for name, inference in self.inference.items():
            _, space, kind = place_tables.with_clusters(self, name)
            field, statistic = inference.random_field, self.maps[name][kind].values
            if field is not None:
                found = {one.name: field.inside(statistic, one.inside(space, self.mask)) for one in parsed}
                added[name] = replace(inference, small_volumes=found)
        return replace(self, record=record, inference=added)

    def spm_table(self) -> pd.DataFrame:
        """SPM's table of each contrast with random fields; see :func:`vbmstat.glm.place_tables.spm_table`."""
        fields = ((name, one.random_field) for name, one in self.inference.items())
        return place_tables.stacked(
            {(name,): place_tables.spm(self, name, field) for name, field in fields if field is not None}, ["contrast"]
        )

    def svc_table(self) -> pd.DataFrame:
        """SPM's table of each contrast within each small volume of :meth:`with_volumes`."""
        tables: dict[tuple[str, ...], pd.DataFrame] = {
            (name, text): place_tables.spm(self, name, found)
            for name, one in self.inference.items() for text, found in one.small_volumes.items()
        }  # fmt: skip
        return place_tables.stacked(tables, ["contrast", "volume"])

    def to_directory(
        self,
        folder: Path | str,
        spm_names: bool = False,
        outside: str = "zero",
        regions: Regions | None = None,
        more: Callable[[Path], object] | None = None,
    ) -> list[Path]:
        """Write everything but the pictures, in place of an earlier model's files.

        Parameters
        ----------
        folder : path
            Created if absent. Files appear together, ``glm.json`` last; those that an earlier one lists are removed.
        spm_names : bool
            ``spmT_0001``, ``spmF_0002``, ``con_0001``, ``ResMS``, ``mask`` as well.
        outside : {"zero", "nan"}
            Value outside the mask (p maps get 1 in place of 0).
        regions : Regions, optional
            Atlas that names the places in tables of clusters and peaks.
        more : callable, optional
            Writes further files, such as pictures, into the folder that it is called with.

        Returns
        -------
        list of Path
            The files.

        Raises
        ------
        DesignError
            If `outside` is unknown.
        VbmstatError
            If the folder holds a ``glm.json`` that does not list its files.
        """
        if outside not in ("zero", "nan"):
            msg = f"outside={outside!r}: expected 'zero' or 'nan'"
            raise DesignError(msg)
        n_writers = n_cores() + 1  # one waits for the disk
        with storage.replacing(folder, RECORD) as staged, ThreadPoolExecutor(n_writers) as pool:
            images = [pool.submit(write) for write in image_writers(self, staged, spm_names, outside)]
            written = write_tables(self, staged, regions)
            if more is not None:
                more(staged)
            written += [image.result() for image in images]
            written.append(staged / RECORD)
            storage.write_json(written[-1], self.record)
        return [Path(folder) / path.relative_to(staged) for path in written]

    def design_tables(self) -> dict[str, tuple[pd.DataFrame, str]]:
        """Tables of the design and the scans: file name, content, and kind in the data dictionary."""
        return {
            "design.tsv": (self.design.table, "design"),
            "design_report.tsv": (variance_inflation(self.design), "design_report"),
            SCANS: (self.design.people, "model_scans"),
        }


def _as_regions(regions: Regions | Sequence[str] | None) -> Regions | None:
    """Regions from the names of atlases."""
    if regions is None or isinstance(regions, Regions):
        return regions
    from vbmstat.report import notebook  # noqa: PLC0415 - above this module: only for display

    return notebook.regions_of([regions] if isinstance(regions, str) else list(regions))
