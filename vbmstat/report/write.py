"""``write_report``: the page of whatever a folder holds."""

from __future__ import annotations

from pathlib import Path

from vbmstat.errors import VbmstatError
from vbmstat.report.model import write_model_report
from vbmstat.report.preprocessing import write_preprocessing_report


def write_report(folder: Path | str, out: Path | str | None = None, cohort: Path | str | None = None) -> Path:
    """Write one self-contained HTML page about a run.

    Parameters
    ----------
    folder : path
        Output folder of ``vbmstat preprocess`` or result folder of ``vbmstat glm``.
    out : path, optional
        The page; ``report.html`` in the folder by default. Figures go into ``figures/`` beside it.
    cohort : path, optional
        For results of a model: the cohort table of its scans, where it is not found in the folders above.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    VbmstatError
        If the folder holds neither, or what it holds cannot be read.
    """
    folder = Path(folder)
    page = Path(out) if out is not None else folder / "report.html"
    if (folder / "glm.json").is_file():
        return write_model_report(folder, page, None if cohort is None else Path(cohort))
    if (folder / "cohort.tsv").is_file():
        return write_preprocessing_report(folder, page)
    msg = (
        f"{folder}: expected the output of vbmstat preprocess (cohort.tsv) or vbmstat glm (glm.json); "
        f"{'neither is there' if folder.is_dir() else 'no such folder'}"
    )
    raise VbmstatError(msg)
