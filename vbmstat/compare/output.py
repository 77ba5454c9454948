"""Write a comparison: tables with their dictionaries, a summary, figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vbmstat.assets.provenance import provenance
from vbmstat.compare.pairs import Comparison
from vbmstat.compare.statistics import masked
from vbmstat.figures import side_by_side
from vbmstat.figures.publication import save_publication
from vbmstat.files.filenames import tell_apart, unique_names
from vbmstat.image import storage
from vbmstat.tables import dictionary

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

SUMMARY = "summary.json"  # the record of a comparison


def comparison_figures(comparison: Comparison) -> dict[str, Figure]:
    """Figures of a comparison by file name (without suffix)."""
    if comparison.kind in ("maps", "results"):
        return _map_figures(comparison)
    if comparison.kind == "scans":
        return {
            f"volumes_{tissue}": side_by_side.agreement_figure(
                part["a_ml"].to_numpy(),
                part["b_ml"].to_numpy(),
                comparison.names,
                f"{str(tissue).upper()} volume",
                "mL",
            )
            for tissue, part in comparison.values.groupby("tissue", sort=False)
        }
    panels = comparison.values.assign(region=_panel_names(comparison.values, comparison.by))
    return {
        f"rois_{tissue}": side_by_side.roi_figure(part, comparison.names, str(tissue))
        for tissue, part in panels.groupby("tissue", sort=False)
    }


def _panel_names(values: pd.DataFrame, by: str) -> pd.Series:
    """Name of each row's panel: that of its label or region, with the label's number if names repeat."""
    name = next(column for column in ("name", "region", by) if column in values)
    rows = values.drop_duplicates(by)
    unique = tell_apart([str(text) for text in rows[name]], [f" ({key})" for key in rows[by]])
    return values[by].map(dict(zip(rows[by], unique, strict=True)))


def _map_figures(comparison: Comparison) -> dict[str, Figure]:
    """Scatter and Bland–Altman plots of each pair; all contrasts of a statistic on slices in one figure."""
    drawn: dict[str, Figure] = {}
    groups: dict[str, dict[str, list[side_by_side.PanelRow]]] = {}
    parts = unique_names([f"{pair.name}\n{pair.kind}" for pair in comparison.pairs], _file_part)
    for pair, part in zip(comparison.pairs, parts, strict=True):
        inside = pair.a.mask & pair.b.mask
        a, b = (one.volume.data[0][inside].numpy() for one in (pair.a, pair.b))
        symbol = pair.kind if pair.kind != "unknown" else "value"
        stem = "agreement" if comparison.kind == "maps" else f"agreement_{part}"
        drawn[stem] = side_by_side.agreement_figure(a, b, comparison.names, pair.name, symbol)
        groups.setdefault(symbol, {})[pair.name] = [
            side_by_side.PanelRow(name, masked(one))
            for name, one in zip(comparison.names, (pair.a, pair.b), strict=True)
        ]
    for symbol, rows in groups.items():
        stem = "slices" if comparison.kind == "maps" else f"slices_{_file_part(symbol)}"
        drawn[stem] = side_by_side.panels_figure(rows, symbol)
    return drawn


def _file_part(text: str) -> str:
    """The letters and digits of each line, joined by underscores."""
    return "_".join("".join(filter(str.isalnum, line)) or "map" for line in text.splitlines())


def write_comparison(out: Path, comparison: Comparison, inputs: Sequence[Path]) -> list[Path]:
    """Write the table and paired volumes with their dictionaries, figures, and summary.json with notes and provenance.

    All files appear together; ``summary.json``, which lists them, comes last. Files listed by an earlier one are
    removed, and VbmstatError is raised if that does not list its files.

    Returns
    -------
    list of Path
        The files.
    """
    plain = comparison.summary.astype(object).where(comparison.summary.notna(), None)
    content = {
        "a": comparison.names[0], "b": comparison.names[1], "kind": comparison.kind, "notes": list(comparison.notes),
        "summary": plain.to_dict("records"),
        "provenance": provenance("compare", {"kind": comparison.kind}, [path for path in inputs if path.is_file()]),
    }  # fmt: skip
    with storage.replacing(out, SUMMARY) as staged:
        files = [staged / "comparison.tsv"]
        dictionary.write_table(files[0], comparison.table, "comparison")
        if len(comparison.values):
            files.append(staged / "comparison_values.tsv")
            dictionary.write_table(files[-1], comparison.values, "comparison_values")
        for name, figure in comparison_figures(comparison).items():
            files += save_publication(staged / name, figure)
        files.append(staged / SUMMARY)
        storage.write_json(files[-1], content)
    return [out / path.relative_to(staged) for path in files]
