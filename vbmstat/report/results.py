"""The files of a fitted model: maps, tables and pictures, for the command and for ``rerun``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vbmstat.files.filenames import formula_name
from vbmstat.glm.inference.corrected import checkpoint_name
from vbmstat.glm.results import GlmResults
from vbmstat.image.storage import atomic_path
from vbmstat.lazy import stats
from vbmstat.report.notebook import regions_of
from vbmstat.roi.atlas import LEVELS, Atlas, atlas_record, load_atlas

ATLAS = "lpba40"  # of regions, unless another is given
_P_SHOWN = 0.001  # glass brains show |t| beyond the two-sided uncorrected p of 0.001


@dataclass(frozen=True)
class Outputs:
    """What is written of a model."""

    # atlas for the regions of clusters and peaks, and one for places in no region of the first; or ``none``
    atlas: Path | str = ATLAS
    second_atlas: Path | str = "none"
    # as in :meth:`vbmstat.glm.results.GlmResults.to_directory`
    spm_names: bool = False
    outside: str = "zero"
    figures: bool = True  # pictures of the design and of each contrast: a second each


def write_results(results: GlmResults, folder: Path, outputs: Outputs | None = None) -> list[Atlas]:
    """Write a model's results with their pictures, and delete its checkpoints.

    Parameters
    ----------
    results : GlmResults
        The results; the outputs are added to their record.
    folder : Path
        Created if absent.
    outputs : Outputs, optional
        What is written.

    Returns
    -------
    list of Atlas
        Those that were used.
    """
    wanted = outputs or Outputs()
    atlases = [one for one in dict.fromkeys((wanted.atlas, wanted.second_atlas)) if one != "none"]
    is_named = wanted.atlas != "none" and results.space is not None and bool(results.inference)
    used = [load_atlas(one) for one in atlases] if is_named else []
    results.record["outputs"] = {
        **vars(wanted), "atlas": atlas_record(wanted.atlas), "second_atlas": atlas_record(wanted.second_atlas),
    }  # fmt: skip
    more = (lambda place: write_figures(results, place)) if wanted.figures else None
    results.to_directory(folder, wanted.spm_names, wanted.outside, regions_of(used), more)
    for contrast in results.contrasts:
        (folder / checkpoint_name(contrast)).unlink(missing_ok=True)
    return used


def folder_name(formula: str, level: str = "voxel", fwhm_mm: float | None = None, atlas: str = ATLAS) -> str:
    """``gm ~ age + sex`` -> ``gm_age_sex``, with --fwhm 8 ``gm_age_sex-s8``.

    Of regions ``gm_age_sex_roi``, and ``gm_age_sex_roi-tracts72`` of another atlas than the default one.
    """
    smoothed = "" if fwhm_mm is None else f"-s{fwhm_mm:g}"  # no formula's own name ends in a dash and s
    stem = "".join(
        letter if letter.isalnum() else "_" for letter in Path(atlas).name.removesuffix(".gz").rsplit(".", 1)[0]
    )
    regions = f"_{level}" if atlas == ATLAS else f"_{level}-{stem}"
    return formula_name(formula, LEVELS) + ("" if level == "voxel" else regions) + smoothed


def write_figures(results: GlmResults, folder: Path) -> None:
    """Draw the design, and a glass brain for each contrast."""
    from vbmstat.figures.model import design_figure, glass_brain_figure  # noqa: PLC0415 - imports matplotlib

    design = results.design
    pictures = {}
    if design.constant is None:  # rows are scans
        pictures["design.png"] = design_figure(design.matrix, design.columns, design.scan_ids)
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
