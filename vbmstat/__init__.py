"""End-to-end voxel-based morphometry: T1-weighted MRI in, defensible statistics out.

``preprocess`` makes tissue maps, ``fit_glm`` fits a model at every voxel, ``Model`` does so once for many contrasts,
``measure_rois`` makes volume tables and
``simulate_cohort`` makes scans with a known effect. They are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors
    from vbmstat.batch.run import preprocess
    from vbmstat.glm.analysis import fit_glm
    from vbmstat.report.fitted import Model
    from vbmstat.roi.table import measure_rois
    from vbmstat.simulate.cohort import simulate_cohort

__version__ = "0.1.0"  # the only place: pyproject.toml reads it here

_PUBLIC = {
    "Model": "vbmstat.report.fitted",
    "preprocess": "vbmstat.batch.run",
    "fit_glm": "vbmstat.glm.analysis",
    "measure_rois": "vbmstat.roi.table",
    "simulate_cohort": "vbmstat.simulate.cohort",
}
__all__ = ["Model", "__version__", "fit_glm", "measure_rois", "preprocess", "simulate_cohort"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    msg = f"module 'vbmstat' has no attribute {name!r}"
    raise AttributeError(msg)
