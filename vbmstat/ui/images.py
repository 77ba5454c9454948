"""Images that the page shows beside the folder's own files: the average brain, an atlas, thumbnails."""

from __future__ import annotations

import io
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from vbmstat import assets
from vbmstat.figures.mosaic import average_brain
from vbmstat.image.io import write_volume
from vbmstat.image.volume import Volume
from vbmstat.report.results import ATLAS
from vbmstat.roi.atlas import DISTRIBUTION, FOLDER, SOURCES, Atlas, load_atlas

_WIDTH = 480  # of thumbnails, pixels
_BRAIN_MM = 1.0
_MAKING = threading.Lock()


def template_bytes() -> bytes:
    """The average T1w brain in MNI space, 1 mm, as gzipped NIfTI; who asks while it is made waits for it."""
    with _MAKING:
        return _template()


@cache
def _template() -> bytes:
    with tempfile.TemporaryDirectory(prefix="vbmstat-") as folder:
        path = Path(folder) / "template.nii.gz"
        brain = average_brain(_BRAIN_MM)
        counts = (brain.data.clamp(0, 1) * 255).round()
        write_volume(path, Volume(counts, brain.grid), dtype="uint8", step=1 / 255)
        return path.read_bytes()


@cache
def _atlas() -> Atlas:
    return load_atlas(ATLAS)


def atlas_path() -> Path:
    """The label image of the atlas that names places."""
    _atlas()  # checks it
    return assets.distribution_file(DISTRIBUTION, f"{FOLDER}/{SOURCES[ATLAS].stem}.nii.gz")


@cache
def atlas_names() -> dict[str, Any]:
    """Name of each label."""
    return {str(label): str(name) for label, name in _atlas().table["name"].items()}


def thumbnail(path: Path) -> bytes:
    """A picture of a report, small, as JPEG."""
    with Image.open(path) as picture:
        picture.thumbnail((_WIDTH, 4 * _WIDTH))
        small = io.BytesIO()
        picture.convert("RGB").save(small, "JPEG", quality=80)
    return small.getvalue()
