"""A quick look at one image file."""

from __future__ import annotations

from pathlib import Path

import torch

from vbmstat.errors import VbmstatError
from vbmstat.figures import publication
from vbmstat.image import io, storage
from vbmstat.image.volume import Volume
from vbmstat.report.viewer import viewer_html

_STATISTICS = {"t test": "t", "f test": "F", "z score": "z", "correlation": "r"}  # NIfTI intents that are drawn as such


def show_map(path: Path | str, out: Path | str, threshold: float = 0.0) -> Path:
    """Draw a map as PNG, or as a page to click through.

    A statistic (by its NIfTI intent, or because it has negative values) is laid over the average brain in MNI space;
    any other image is drawn in grey as it is.

    Parameters
    ----------
    path : path
        An image: ``.nii``, ``.nii.gz``, ``.mgz``.
    out : path
        ``.png``, or ``.html`` for a page that needs no network.
    threshold : float
        Of a statistic: values below fade (PNG) or are transparent (page).

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    ScanError
        If the image cannot be read.
    VbmstatError
        If `out` ends in neither, or the map holds no value.
    """
    path, out = Path(path), Path(out)
    if out.suffix not in (".png", ".html"):
        msg = f"{out}: expected a path ending in .png or .html"
        raise VbmstatError(msg)
    volume = io.read_volume(path)
    values = torch.nan_to_num(volume.data, posinf=0.0, neginf=0.0)
    if not values.any():
        msg = f"{path}: every value is 0 or NaN; there is nothing to show"
        raise VbmstatError(msg)
    image, symbol = Volume(values, volume.grid), statistic_symbol(path, values)
    if out.suffix == ".html":
        storage.write_text(out, viewer_html(image, path.name, threshold))
    elif symbol is not None:
        publication.save_png(out, publication.stat_map_figure(image, path.name, symbol, threshold))
    else:
        publication.save_png(out, publication.image_figure(image, path.name))
    return out


def statistic_symbol(path: Path, values: torch.Tensor) -> str | None:
    """Symbol of a statistic, "" for another map with negative values, None for any other image."""
    known = _STATISTICS.get(io.read_statistic_header(path)[0])
    return known if known is not None else "" if float(values.min()) < 0 else None
