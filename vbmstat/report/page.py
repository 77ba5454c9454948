"""The parts of a report page, and its rendering as one self-contained HTML file.

Templates escape everything, and the page's content security policy forbids any request.
"""

from __future__ import annotations

import base64
import io as bytes_io
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pandas as pd
from PIL import Image

from vbmstat import __version__
from vbmstat.figures import publication

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEFAULT_PAGE = "report.html"
_PAGE_PIXELS = 1440  # width of a figure in the page: sharp on a high-resolution screen
_WEBP_QUALITY, _JPEG_QUALITY = 85, 70
_MAX_LEVELS = 6  # of a text covariate whose levels are counted
_MAX_GROUPS = 4


@dataclass(frozen=True)
class Cell:
    """One cell of a table: its text, sort key, link, and whether it is highlighted."""

    text: str
    sort: str = ""
    href: str = ""
    is_marked: bool = False
    is_number: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a caption; the first cell of a row is its header."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Picture:
    """An image inside the page."""

    source: str  # ``data:`` URI
    # text in place of the image (screen readers), and below it
    alt: str
    caption: str
    width: int  # pixels
    height: int  # pixels
    files: tuple[str, ...] = ()  # the figure's own files, relative to the page
    anchor: str = ""  # its id in the page


def figures_folder(page: Path) -> Path:
    """Folder of a page's figures: ``figures/`` for ``report.html``, ``NAME_figures/`` for any other page."""
    return page.parent / ("figures" if page.name == DEFAULT_PAGE else f"{page.stem}_figures")


def publish(folder: Path, name: str, figure: Figure, alt: str, caption: str) -> Picture:
    """Write a figure to the figures folder (SVG, PNG), and return it as a picture for the page."""
    files = publication.save_publication(folder / name, figure)
    with Image.open(files[1]) as image:
        image.draft("RGB", None)
        small = image.convert("RGB")
    if small.width > _PAGE_PIXELS:
        small = small.resize((_PAGE_PIXELS, round(small.height * _PAGE_PIXELS / small.width)), Image.Resampling.LANCZOS)
    source = _encoded(small, "webp", quality=_WEBP_QUALITY, method=3)
    return Picture(source, alt, caption, *small.size, tuple(f"{folder.name}/{path.name}" for path in files))


def photograph(path: Path, width: int, alt: str, caption: str, anchor: str) -> Picture:
    """A picture file, downsampled, as JPEG."""
    with Image.open(path) as image:
        height = round(image.height * width / image.width)
        small = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    source = _encoded(small, "jpeg", quality=_JPEG_QUALITY)
    return Picture(source, alt, caption, width, height, anchor=anchor)


def _encoded(image: Image.Image, form: str, **options: Any) -> str:
    stream = bytes_io.BytesIO()
    image.save(stream, form, **options)
    return f"data:image/{form};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def number(value: Any) -> Cell:
    """A number with three significant digits; whole numbers keep all theirs.

    Examples
    --------
    >>> number(-1.23456).text, number(1554.254).text, number(12).text, number(float("nan")).text
    ('−1.23', '1554', '12', '–')
    """
    if value is None or pd.isna(value):
        return Cell("–", is_number=True)
    value = float(value)
    if not math.isfinite(value):
        return Cell(f"{value:g}".replace("-", "−"), repr(value), is_number=True)
    text = f"{value:.0f}" if value.is_integer() or abs(value) >= 100 else f"{value:.3g}"
    return Cell(text.replace("-", "−"), repr(value), is_number=True)


def fixed(value: float) -> Cell:
    """A number with two decimals."""
    return Cell(f"{value:.2f}".replace("-", "−"), repr(value), is_number=True)


def cell(value: Any) -> Cell:
    """A value as a cell: short numbers, a dash for missing values, all else as text."""
    if isinstance(value, Cell):
        return value
    if value is None or (not isinstance(value, str) and pd.isna(value)):
        return Cell("–")
    if isinstance(value, bool):
        return Cell("yes" if value else "no")
    return number(value) if isinstance(value, int | float) or hasattr(value, "dtype") else Cell(str(value), str(value))


def table_of(frame: pd.DataFrame, caption: str, headings: Callable[[str], str] = lambda name: name) -> Table:
    """A DataFrame as a table; its values may be :class:`Cell`."""
    rows = tuple(tuple(cell(value) for value in row) for row in frame.itertuples(index=False, name=None))
    return Table(caption, tuple(headings(str(name)) for name in frame.columns), rows)


def described(frame: pd.DataFrame, caption: str, by: str | None = None) -> Table:
    """Mean, standard deviation and range of numeric columns; counts of the levels of text columns.

    Parameters
    ----------
    frame : DataFrame
        One row per scan.
    caption : str
        Caption of the table.
    by : str, optional
        Column whose levels get a column each.
    """
    groups: list[tuple[str, pd.DataFrame]] = [(f"all (n = {len(frame)})", frame)]
    if by is not None and frame[by].nunique() <= _MAX_GROUPS:
        groups += [(f"{by} {level} (n = {len(part)})", part) for level, part in frame.groupby(by)]
    rows = tuple(
        (Cell(name), *(Cell(_summary(part[name], frame[name])) for _, part in groups)) for name in frame if name != by
    )
    return Table(caption, ("", *(name for name, _ in groups)), rows)


def _summary(values: pd.Series, every: pd.Series) -> str:
    """Mean ± standard deviation (range) of numbers, or how often each level of `every` occurs in `values`."""
    known = values.dropna()
    if known.empty:
        return "–"
    missing = f", {len(values) - len(known)} missing" if len(known) < len(values) else ""
    if pd.api.types.is_numeric_dtype(every) and not pd.api.types.is_bool_dtype(every):
        mean = 0.0 if abs(known.mean()) < 1e-12 * known.abs().max() else known.mean()  # of deviations from a mean
        mean, sd, low, high = (number(value).text for value in (mean, known.std(), known.min(), known.max()))
        return f"{mean} ± {sd} ({low} to {high}){missing}"
    if every.nunique() > _MAX_LEVELS:
        return f"{values.nunique()} different values"
    levels = sorted(map(str, every.dropna().unique()))
    return ", ".join(f"{level}: {(known.astype(str) == level).sum()}" for level in levels) + missing


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("vbmstat.report"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


def render(template: str, **content: Any) -> str:
    """Render a template to a page."""
    return _environment().get_template(template).render(version=__version__, **content)
