"""SPM's results table as SPM prints it: levels side by side, values once a cluster, its lines below."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from vbmstat.report.model_folder import Model

_SET = ("set_p", "set_c")
_CLUSTER = ("cluster_p_fwe", "cluster_q_fdr", "cluster_k_e", "cluster_p_uncorrected")
_PEAK = ("peak_p_fwe", "peak_q_fdr", "peak_value", "peak_z", "peak_p_uncorrected")
_MM = ("x_mm", "y_mm", "z_mm")
_WHOLE = ("set_c", "cluster_k_e", *_MM)
_MAX_ROWS = 100


@dataclass(frozen=True)
class SpmTable:
    """A table for the page: title, T or F, rows (first of a cluster or not, its cells), and the lines below."""

    title: str
    symbol: str
    rows: tuple[tuple[bool, tuple[str, ...]], ...]
    lines: tuple[str, ...]


def spm_tables(model: Model, entry: Mapping[str, Any]) -> tuple[SpmTable, ...]:
    """SPM's table of a contrast, `entry` of ``glm.json``, and those of its small volumes; () without random fields."""
    contrasts = (model.record.get("inference") or {}).get("contrasts", [])
    record = next((one for one in contrasts if one["name"] == entry["name"] and "random_field" in one), None)
    if record is None:
        return ()
    sides = "" if entry["kind"] == "F" else f" ({'two' if record['two_sided'] else 'one'}-sided)"
    tables = []
    for volume, frame in [*_of_contrast(model, "spm_table", entry["name"]), *_of_contrast(model, "svc", entry["name"])]:
        first = frame.iloc[0]
        line = (
            f"Small volume {volume}: {int(first['search_voxels']):,} voxels = {first['search_resels']:.1f} resels; "
            f"FWEp: {first['height_p_fwe']:.3f}"
        )
        lines = (line,) if volume else tuple(_lines(record["random_field"], entry["kind"].upper()))
        more = f", the first {_MAX_ROWS} of {len(frame)} rows" if len(frame) > _MAX_ROWS else ""
        where = f"small volume {volume}" if volume else "search volume"
        title = f"statistics: p-values adjusted for the {where}{sides}{more}"
        tables.append(SpmTable(title, entry["kind"].upper(), tuple(_rows(frame)), lines))
    return tuple(tables)


def _of_contrast(model: Model, name: str, contrast: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Rows of a contrast in a table, by small volume where it has them ("" where not)."""
    path = model.folder / f"{name}.tsv"
    if path.is_file():
        text = {"contrast": str, "volume": str}
        frame = pd.read_csv(path, sep="\t", na_values=["n/a"], dtype=text, keep_default_na=False)
        frame = frame[frame["contrast"] == contrast]
        volumes = frame["volume"] if "volume" in frame else pd.Series("", index=frame.index)
        yield from frame.groupby(volumes, sort=False)


def _rows(frame: pd.DataFrame) -> Iterator[tuple[bool, tuple[str, ...]]]:
    """Cells as text; values of the set and of a cluster in their first row only."""
    seen: set[int] = set()
    for row in frame.head(_MAX_ROWS).to_dict("records"):
        if pd.isna(row["cluster"]):
            yield False, (*_cells(row, _SET), *[""] * (len(_CLUSTER) + len(_PEAK) + len(_MM)))
            return
        of_set = _cells(row, _SET) if not seen else [""] * len(_SET)
        is_first = row["cluster"] not in seen
        of_cluster = _cells(row, _CLUSTER) if is_first else [""] * len(_CLUSTER)
        seen.add(row["cluster"])
        yield is_first, (*of_set, *of_cluster, *_cells(row, _PEAK), *_cells(row, _MM))


def _cells(row: Mapping[str, Any], names: tuple[str, ...]) -> list[str]:
    return [
        f"{row[name]:.0f}".replace("-", "−") if name in _WHOLE
        else f"{row[name]:.2f}".replace("-", "−") if name in ("peak_value", "peak_z") else _p(row[name])
        for name in names
    ]  # fmt: skip


def _p(p: float) -> str:
    return "<0.001" if p < 0.0005 else f"{p:.3f}"


def _lines(field: Mapping[str, Any], symbol: str) -> Iterator[str]:
    """SPM's lines under its table, from the record; Inf where nothing reaches .05."""

    def text(name: str, decimals: int) -> str:
        return "Inf" if field[name] is None else f"{field[name]:.{decimals}f}"

    size, fwhm = field["voxel_size_mm"], field["fwhm_voxels"]
    clusters = field["expected_clusters"]
    height, p, p_fwe = field["forming_height"], field["forming_p"], field["forming_p_fwe"]
    yield f"Height threshold: {symbol} = {height:.2f}, p = {p:.3g} ({_p(p_fwe)})"
    yield f"Extent threshold: k = 0 voxels, p = 1.000 ({_p(-math.expm1(-clusters))})"
    yield f"Expected voxels per cluster, <k> = {field['expected_voxels_per_cluster']:.3f}"
    yield f"Expected number of clusters, <c> = {clusters:.2f}"
    yield (
        f"FWEp: {text('height_at_p_fwe_0.05', 3)}, FDRp: {text('peak_at_q_fdr_0.05', 3)}, "
        f"FWEc: {text('smallest_cluster_at_p_fwe_0.05_voxels', 0)}, "
        f"FDRc: {text('smallest_cluster_at_q_fdr_0.05_voxels', 0)}"
    )
    yield f"Degrees of freedom = [{field['df'][0]:.1f}, {field['df'][1]:.1f}]"
    yield (
        f"FWHM = {' '.join(f'{f * mm:.1f}' for f, mm in zip(fwhm, size, strict=True))} mm mm mm; "
        f"{' '.join(f'{f:.1f}' for f in fwhm)} {{voxels}}"
    )
    yield (
        f"Volume: {field['voxels'] * math.prod(size):.0f} mm³ = {field['voxels']} voxels = "
        f"{field['resels'][3]:.1f} resels"
    )
    yield f"Voxel size: {' '.join(f'{mm:.1f}' for mm in size)} mm mm mm; (resel = {field['resel_voxels']:.2f} voxels)"
