"""The files of a fitted model: maps, tables and pictures, for the command and for ``rerun``."""

from __future__ import annotations

from pathlib import Path

from scipy import stats

from vbmstat.figures.model import design_figure, glass_brain_figure
from vbmstat.glm.inference.clusters import Regions
from vbmstat.glm.inference.corrected import checkpoint_name
from vbmstat.glm.results import GlmResults
from vbmstat.image.storage import atomic_path
from vbmstat.regions.models import atlas_record
from vbmstat.roi.atlas import Atlas, load_atlas

_P_SHOWN = 0.001  # glass brains show |t| beyond the two-sided uncorrected p of 0.001


def write_results(
    results: GlmResults, folder: Path, *, atlas: Path | str = "lpba40", spm_names: bool = False, outside: str = "zero"
) -> Atlas | None:
    """Write a model's results with their pictures, and delete its checkpoints.

    Parameters
    ----------
    results : GlmResults
        The results; `atlas`, `spm_names` and `outside` are added to their record.
    folder : Path
        Created if absent.
    atlas : path or str
        Atlas for the regions of clusters and peaks, or ``none``.
    spm_names, outside
        As in :meth:`vbmstat.glm.results.GlmResults.to_directory`.

    Returns
    -------
    Atlas or None
        The atlas, if it was used.
    """
    used = load_atlas(atlas) if atlas != "none" and results.space is not None and results.inference else None
    regions = None
    if used is not None:
        regions = Regions(used.image, {int(label): str(name) for label, name in used.table["name"].items()})
    results.record["outputs"] = {"atlas": atlas_record(atlas), "spm_names": spm_names, "outside": outside}
    results.to_directory(
        folder, spm_names=spm_names, outside=outside, regions=regions, more=lambda place: write_figures(results, place)
    )
    for contrast in results.contrasts:
        (folder / checkpoint_name(contrast)).unlink(missing_ok=True)
    return used


def write_figures(results: GlmResults, folder: Path) -> None:
    """Draw the design, and a glass brain for each contrast."""
    design = results.design
    pictures = {"design.png": design_figure(design.matrix, design.columns, design.scan_ids)}
    for contrast in results.contrasts:
        if results.space is None:
            break
        m, df, is_t = len(contrast.weights), results.df_resid, contrast.kind == "t"
        threshold = float(stats.t.isf(_P_SHOWN / 2, df) if is_t else stats.f.isf(_P_SHOWN, m, df))
        pictures[f"contrast-{contrast.label}_glassbrain.png"] = glass_brain_figure(
            results.volume(contrast.name, contrast.kind), contrast.name, threshold, contrast.kind
        )
    for name, figure in pictures.items():
        with atomic_path(folder / name) as temporary:
            figure.savefig(temporary, format="png")
