"""What a user asks of preprocessing: built once, recorded beside the outputs, read again by ``rerun``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from vbmstat.errors import VbmstatError
from vbmstat.files import naming
from vbmstat.preproc.engines.cat import Cat
from vbmstat.preproc.engines.classic import Classic
from vbmstat.preproc.engines.deep import Deep

ENGINES: dict[str, type[Classic]] = {engine.name: engine for engine in (Classic, Cat, Deep)}
DEFAULT_FWHM_MM = (6.0,)


@dataclass(frozen=True, kw_only=True)
class PreprocSpec:
    """Everything that decides the outputs of a scan; JSON-ready.

    Attributes
    ----------
    engine : {"classic", "cat", "deep"}
        Preprocessing engine.
    weights : str, optional
        Networks of ``deep``: ``vbmstat`` (default), ``deepmriprep`` or a folder.
    device : {"auto", "cpu", "cuda"}
        Where to compute; a plan replaces ``auto``.
    fwhm_mm : tuple of float
        Widths of the smoothed maps, ascending; a number or a list is accepted. Empty, or 0 alone: no smoothed maps.
    names : {"cat12", "bids"}
        Naming convention of the outputs.

    Raises
    ------
    VbmstatError
        If there is no such engine or naming convention, weights are given to another engine than ``deep``, or a width
        is not one of 0.1 to 50 mm.

    Examples
    --------
    >>> PreprocSpec(fwhm_mm=[8, 6]).fwhm_mm
    (6.0, 8.0)
    """

    engine: str = "classic"
    weights: str | None = None
    device: str = "auto"
    fwhm_mm: tuple[float, ...] = DEFAULT_FWHM_MM
    names: str = "cat12"

    def __post_init__(self) -> None:
        find_engine(self.engine, self.weights)
        if self.names not in naming.NAME_STYLES:
            msg = f"expected names {' or '.join(naming.NAME_STYLES)}, got {self.names!r}"
            raise VbmstatError(msg)
        object.__setattr__(self, "fwhm_mm", _checked_widths(self.fwhm_mm))

    def find_engine(self) -> Classic:
        """The engine with its weights."""
        return find_engine(self.engine, self.weights)

    def record(self) -> dict[str, Any]:
        """The spec for a record: the folder of weights by its name, without the number of the GPU."""
        weights = self.weights and Path(self.weights).name
        device = self.device if self.device == "auto" else torch.device(self.device).type
        return {**asdict(self), "weights": weights, "device": device, "fwhm_mm": list(self.fwhm_mm)}

    @classmethod
    def from_record(cls, content: Any) -> PreprocSpec:
        """The spec of a record.

        Raises
        ------
        VbmstatError
            If it is not the record of a spec.
        """
        text = (str, type(None))
        types = {"engine": str, "weights": text, "device": str, "fwhm_mm": list, "names": str}
        sound = isinstance(content, dict) and content.keys() == types.keys()
        if not sound or not all(isinstance(content[name], kind) for name, kind in types.items()):  # type: ignore[arg-type]
            msg = f"expected a spec with {', '.join(types)}, got {str(content)[:200]}"
            raise VbmstatError(msg)
        return cls(**content)


def find_engine(name: str, weights: str | None = None) -> Classic:
    """The engine of a name.

    Raises
    ------
    VbmstatError
        If there is none, or weights are given to one without networks.
    """
    if name not in ENGINES:
        *others, last = ENGINES
        msg = f"expected engine {', '.join(others)} or {last}, got {name!r}"
        raise VbmstatError(msg)
    if weights is None:
        return ENGINES[name]()
    if name != Deep.name:
        msg = f"expected weights only for engine {Deep.name}, got {weights!r} for {name}; leave them out"
        raise VbmstatError(msg)
    return Deep(weights)


def _checked_widths(fwhm_mm: float | Sequence[float]) -> tuple[float, ...]:
    """Ascending widths, each once; none for 0."""
    try:
        given = [float(width) for width in ([fwhm_mm] if isinstance(fwhm_mm, int | float) else fwhm_mm)]
    except (TypeError, ValueError):
        given = [math.nan]
    widths = tuple(sorted(set(given)))
    if widths == (0.0,):
        return ()
    if not all(map(naming.is_fwhm, widths)):
        shown = ", ".join(f"{width:g}" for width in widths)
        msg = f"expected FWHM of 0.1 to 50 mm with at most two decimals, or 0 alone for no smoothed maps, got {shown}"
        raise VbmstatError(msg)
    return widths
