"""``write_report``: the report of a preprocessing run or a model."""

from __future__ import annotations

from pathlib import Path

from vbmstat.errors import VbmstatError
from vbmstat.glm.record import RECORD as GLM_RECORD
from vbmstat.image import storage
from vbmstat.report.page import DEFAULT_PAGE, figures_folder
from vbmstat.report.preprocessing import write_preprocessing_report


def write_report(folder: Path | str, out: Path | str | None = None, cohort: Path | str | None = None) -> Path:
    """Write one self-contained HTML page about a run.

    Parameters
    ----------
    folder : path
        Output folder of ``vbmstat preprocess`` or result folder of ``vbmstat glm``.
    out : path, optional
        The page; by default ``report.html`` in the folder. Figures go into ``figures/`` beside it, or ``NAME_figures/``
        for a page of another name. Page and figures appear together and replace earlier ones.
    cohort : path, optional
        For a model: the cohort table of its scans, if it is not in the folders above.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    VbmstatError
        If the folder has neither, or its files cannot be read.
    """
    folder = Path(folder)
    page = Path(out) if out is not None else folder / DEFAULT_PAGE
    source = next((name for name in (GLM_RECORD, "cohort.tsv") if (folder / name).is_file()), None)
    if source is None:
        msg = (
            f"{folder}: expected the output of vbmstat preprocess (cohort.tsv) or vbmstat glm (glm.json); "
            f"{'neither is there' if folder.is_dir() else 'no such folder'}"
        )
        raise VbmstatError(msg)
    record = figures_folder(page).relative_to(page.parent) / "report.json"
    with storage.replacing(page.parent, record.as_posix()) as staged:
        if source == GLM_RECORD:
            from vbmstat.report.model import write_model_report  # noqa: PLC0415 - half a second

            write_model_report(folder, staged / page.name, None if cohort is None else Path(cohort))
        else:
            write_preprocessing_report(folder, staged / page.name)
        beside = source if page.parent.resolve() == folder.resolve() else None
        storage.write_json(staged / record, {"command": "report", storage.MADE_FROM: beside})
    return page
