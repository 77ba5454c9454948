"""Draw one image file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from vbmstat.errors import ScanError, VbmstatError
from vbmstat.figures import publication
from vbmstat.figures.style import save_figure
from vbmstat.figures.view import View
from vbmstat.image import io, storage
from vbmstat.image.volume import Volume
from vbmstat.lazy import torch
from vbmstat.report.viewer import peak_position_mm, viewer_html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_P_SHOWN = 0.05  # p maps are coloured below this
P_SYMBOL = "−log10 p"
# NIfTI intent -> symbol of the colour bar
_STATISTICS = {"t test": "t", "f test": "F", "z score": "z", "correlation": "r", "p value": P_SYMBOL}


_FORMS = (".png", ".svg", ".pdf", ".html")


def show_map(
    path: Path | str, out: Path | str, threshold: float = 0.0, view: View | None = None, number: int | None = None
) -> Path:
    """Draw a map as a picture, or as an interactive page.

    A statistic (by its NIfTI intent, or because it has negative values) is laid over the average brain in MNI space; so
    is a p map, as -log10 p where p is below the threshold. Any other image is drawn in grey.

    Parameters
    ----------
    path : path
        An image: ``.nii``, ``.nii.gz``, ``.mgz``.
    out : path
        ``.png``, ``.svg``, ``.pdf``, or ``.html`` for a page that needs no network.
    threshold : float
        For a statistic: smaller values are faded (picture) or transparent (page). For p: larger values are not drawn; 0
        means 0.05.
    view : View, optional
        Slices, colour scale, contours, crosshair and title of a picture; a page takes the title alone.
    number : int, optional
        Which volume of a 4-D image, from 1.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    ScanError
        If the image cannot be read, or has several volumes and no number, or no such volume.
    VbmstatError
        If `out` has another suffix, or every value of the map is 0 or NaN.
    """
    path, out = Path(path), Path(out)
    view = view or View()
    if out.suffix not in _FORMS:
        msg = f"{out}: expected a path ending in {', '.join(_FORMS)}"
        raise VbmstatError(msg)
    if out.suffix == ".html" and view != View(title=view.title):
        msg = f"{out}: slices, contours, limits and crosshair are for pictures; expected .png, .svg or .pdf"
        raise VbmstatError(msg)
    volume = _read(path, number)
    values = torch.nan_to_num(volume.data, posinf=0.0, neginf=0.0)
    if not values.any():
        msg = f"{path}: every value is 0 or NaN; there is nothing to show"
        raise VbmstatError(msg)
    title = path.name if number is None else f"{path.name}, volume {number}"
    symbol = statistic_symbol(path, values)
    image = Volume(values, volume.grid)
    if out.suffix == ".html":
        image, title, threshold = _without_large_p(image, title, symbol, threshold)
        storage.write_text(out, viewer_html(image, title if view.title is None else view.title, threshold))
    else:
        save_figure(out, picture(image, title, symbol, threshold, view))
    return out


def picture(image: Volume, title: str, symbol: str | None, threshold: float, view: View | None = None) -> Figure:
    """An image (1, X, Y, Z) on slices: a statistic or p map (by its symbol) over the average brain, others in grey."""
    image, title, threshold = _without_large_p(image, title, symbol, threshold)
    if symbol is None:
        return publication.image_figure(image, title, view)
    return publication.stat_map_figure(image, title, symbol, threshold, view)


def _without_large_p(image: Volume, title: str, symbol: str | None, threshold: float) -> tuple[Volume, str, float]:
    """A p map as -log10 p below the threshold, its title and threshold on that scale; other maps as they are."""
    if symbol != P_SYMBOL:
        return image, title, threshold
    largest = threshold or _P_SHOWN
    if not 0 < largest < 1:
        msg = f"--threshold {threshold:g}: for a p map expected a p between 0 and 1, e.g. 0.05"
        raise VbmstatError(msg)
    values = minus_log10_p(image.data, largest)
    title += f" (p < {largest:g})" if values.any() else f" (no p < {largest:g})"
    return Volume(values, image.grid), title, -math.log10(largest)


def _read(path: Path, number: int | None) -> Volume:
    """The image, or one volume of a 4-D image."""
    image = io.read_channels(path)
    n_volumes = len(image.data)
    if (number is None and n_volumes > 1) or (number is not None and not 1 <= number <= n_volumes):
        asked = "" if number is None else f", got {number}"
        msg = f"{path}: the image has {n_volumes} volumes; choose one of 1 to {n_volumes} with --volume{asked}"
        raise ScanError(msg)
    return image.channel((number or 1) - 1)


def peak_of(path: Path | str, number: int | None = None) -> tuple[float, float, float]:
    """RAS+ mm of the largest absolute value of a map (or of a volume of it), of a p map the smallest p."""
    volume = _read(Path(path), number)
    values = torch.nan_to_num(volume.data, posinf=0.0, neginf=0.0)
    if statistic_symbol(Path(path), values) == P_SYMBOL:
        values = minus_log10_p(values, 1.0)
    x, y, z = map(float, peak_position_mm(Volume(values, volume.grid)))
    return x, y, z


def minus_log10_p(p: torch.Tensor, largest: float) -> torch.Tensor:
    """-log10 p where p is below `largest`, 0 elsewhere; float32, the shape of `p`.

    A p of 0 inside the brain is too small for float32. If the image's corner is 0, so is its background (other programs
    write it so), and zeros are not drawn.
    """
    is_background = (p == 0) & (p.flatten()[0] == 0)
    smallest = torch.finfo(torch.float32).tiny
    return torch.where((p < largest) & ~is_background, -p.clamp(min=smallest).log10(), 0.0).float()


def statistic_symbol(path: Path, values: torch.Tensor) -> str | None:
    """Symbol of a statistic or p map, "" for another map with negative values, None for other images."""
    known = _STATISTICS.get(io.read_statistic_header(path)[0])
    return known if known is not None else "" if float(values.min()) < 0 else None
