"""What a user asks of preprocessing: built once, recorded beside the outputs, read again by ``rerun``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vbmstat.errors import VbmstatError
from vbmstat.files import map_kinds, naming
from vbmstat.files.outputs import BEFORE_SETS, VBM, parse_outputs
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.preproc.engines.cat import Cat
from vbmstat.preproc.engines.classic import Classic
from vbmstat.preproc.engines.deep import Deep
from vbmstat.preproc.lesions import IN_MAPS, WMH_AS, LesionPlan, wmh_parameters
from vbmstat.preproc.networks.weights import OWN
from vbmstat.preproc.templates import template_parameters

ENGINES: dict[str, type[Classic]] = {engine.name: engine for engine in (Classic, Cat, Deep)}
DEFAULT_FWHM_MM = (6.0,)
VOXEL_SIZES_MM = (1.0, 1.5, 2.0)  # of maps in template space
# Fields that records of earlier versions lack, and their types
_SINCE_LESIONS = {
    "wmh": bool,
    "wmh_as": str,
    "wmh_weights": str,
    "lesion_mask": (str, type(None)),
    "lesion_in_maps": str,
}
_SINCE_OUTPUTS = {"outputs": list, "voxel_size_mm": (int, float)}
_SINCE_TEMPLATES = {"template": (str, type(None))}
_OF_TIME_POINTS = {"longitudinal": str}  # only in their records
# Value of `longitudinal` -> the models whose maps are written; CAT12's default since 2024 is both
LONGITUDINAL = {"plasticity": ("plasticity",), "ageing": ("ageing",), "both": ("plasticity", "ageing")}


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
    wmh : bool
        Whether to look for white-matter hypointensities.
    wmh_as : {"wm", "class", "none"}
        How tissues count them: as WM, as a class of their own, or as the segmentation has them.
    wmh_weights : str
        Network that looks for them: ``vbmstat``, ``deep-t1-wmh`` (fetched), ``none`` (a plain rule) or a file.
    lesion_mask : str, optional
        Mask of a lesion that the user brings, in the scan's space: a file, or for many scans a path with
        ``{participant_id}``, ``{session_id}``, ``{scan_id}`` or ``{name}`` in it.
    lesion_in_maps : {"exclude", "keep"}
        Whether the voxels of that lesion are left out of the tissue maps and volumes.
    outputs : tuple of str
        Which files are written, beside smoothed maps, volumes and quality: a set (``minimal``, ``vbm``, ``all``) or
        names of :data:`vbmstat.files.outputs.OUTPUTS`; kept as names.
    voxel_size_mm : {1.5, 1, 2}
        Voxel size of the maps in template space.
    longitudinal : {"plasticity", "ageing", "both"}, optional
        Preprocess the sessions of a person together, and write maps of these models; True is both. None: each scan
        by itself.
    template : str, optional
        Folder of a group template that scans are registered to on their way to the standard one; kept as absolute path.

    Raises
    ------
    VbmstatError
        If there is no such engine, naming convention or way to count lesions, weights are given to another engine than
        ``deep``, a lesion mask to one that cannot leave voxels out, a width is not one of 0.1 to 50 mm, or an output is
        unknown or not one of this engine.

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
    wmh: bool = False
    wmh_as: str = WMH_AS[0]
    wmh_weights: str = OWN
    lesion_mask: str | None = None
    lesion_in_maps: str = IN_MAPS[0]
    outputs: tuple[str, ...] = (VBM,)
    voxel_size_mm: float = 1.5
    longitudinal: str | None = None
    template: str | None = None

    def __post_init__(self) -> None:
        if self.template is not None:
            object.__setattr__(self, "template", str(Path(self.template).absolute()))
        engine = self.find_engine()
        self._check_longitudinal()
        choices = {"names": naming.NAME_STYLES, "wmh_as": WMH_AS, "lesion_in_maps": IN_MAPS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                msg = f"expected {name} {' or '.join(allowed)}, got {getattr(self, name)!r}"
                raise VbmstatError(msg)
        if self.lesion_mask is not None and not engine.takes_lesion_mask:
            able = " or ".join(name for name, each in ENGINES.items() if each.takes_lesion_mask)
            msg = f"a lesion mask needs engine {able}: the fits of {self.engine} cannot leave voxels out"
            raise VbmstatError(msg)
        if self.voxel_size_mm not in VOXEL_SIZES_MM:
            sizes = ", ".join(f"{size:g}" for size in VOXEL_SIZES_MM)
            msg = f"expected a voxel size of the template maps of {sizes} mm, got {self.voxel_size_mm!r}"
            raise VbmstatError(msg)
        object.__setattr__(self, "voxel_size_mm", float(self.voxel_size_mm))
        object.__setattr__(self, "fwhm_mm", _checked_widths(self.fwhm_mm))
        over = "" if self.template is None else " with a group template"
        without = "" if engine.has_velocity else f"{engine.label}{over}"
        object.__setattr__(self, "outputs", parse_outputs(self.outputs, without, self.wmh))

    def _check_longitudinal(self) -> None:
        """Refuse an unknown model, and lesion masks, which time points cannot have."""
        given = {True: "both", False: None}.get(self.longitudinal, self.longitudinal)  # type: ignore[call-overload]
        if given is not None and given not in LONGITUDINAL:
            msg = f"expected a longitudinal model {', '.join(LONGITUDINAL)}, got {given!r}"
            raise VbmstatError(msg)
        if given is not None and self.lesion_mask is not None:
            msg = (
                "lesion masks are only for single scans; leave --longitudinal out, or run these scans in another folder"
            )
            raise VbmstatError(msg)
        object.__setattr__(self, "longitudinal", given)

    @property
    def models(self) -> tuple[str, ...]:
        """Longitudinal models of the maps; none for single scans."""
        return LONGITUDINAL[self.longitudinal] if self.longitudinal else ()

    def find_engine(self) -> Classic:
        """The engine with its weights and template."""
        return replace(find_engine(self.engine, self.weights), template=self.template)

    def record(self) -> dict[str, Any]:
        """The spec for a record: folders of weights and template by their names, without the number of the GPU."""
        paths = (self.weights, self.wmh_weights, self.lesion_mask, self.template)
        weights, wmh_weights, mask, template = (path and Path(path).name for path in paths)
        device = self.device if self.device == "auto" else torch.device(self.device).type
        content = asdict(self)
        if self.longitudinal is None:
            del content["longitudinal"]
        return {
            **content, "weights": weights, "device": device, "fwhm_mm": list(self.fwhm_mm),
            "wmh_weights": wmh_weights, "lesion_mask": mask, "outputs": list(self.outputs), "template": template,
        }  # fmt: skip

    def grid_of_maps(self, template: Grid) -> Grid:
        """Grid of the maps in template space: the template's, or one of other voxels between the same outer centres."""
        ratio = template.voxel_size_mm / self.voxel_size_mm
        if np.allclose(ratio, 1):
            return template
        shape = np.rint((np.array(template.shape) - 1) * ratio).astype(int) + 1
        return Grid(tuple(shape), template.affine @ np.diag([*(1 / ratio), 1.0]))

    def lesion_plan(self, mask: Volume | None = None) -> LesionPlan:
        """What to do about lesions, with the mask of the scan's own."""
        return LesionPlan(self.wmh, self.wmh_as, mask, self.lesion_in_maps, self.wmh_weights)

    def parameters(self) -> dict[str, Any]:
        """What the sidecar records beside the spec: hashes of networks and template; raises AssetError without one."""
        of_template = {} if self.template is None else template_parameters(self.template)
        of_wmh = wmh_parameters(self.wmh_weights) if self.wmh else {}
        return {**self.find_engine().parameters(), **of_wmh, **of_template}

    @classmethod
    def from_record(cls, content: Any) -> PreprocSpec:
        """The spec of a record.

        Raises
        ------
        VbmstatError
            If it is not the record of a spec.
        """
        text = (str, type(None))
        first = {"engine": str, "weights": text, "device": str, "fwhm_mm": list, "names": str}
        second = {**first, **_SINCE_LESIONS}
        third = {**second, **_SINCE_OUTPUTS}
        types = {**third, **_SINCE_TEMPLATES}
        every = {**types, **_OF_TIME_POINTS}
        known = [each.keys() for each in (first, second, third, types, every)]
        sound = isinstance(content, dict) and content.keys() in known
        if not sound or not all(isinstance(value, every[name]) for name, value in content.items()):  # type: ignore[arg-type]
            msg = f"expected a spec with {', '.join(types)}, got {str(content)[:200]}"
            raise VbmstatError(msg)
        return cls(**{"outputs": BEFORE_SETS, **content})


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
    if not all(map(map_kinds.is_fwhm, widths)):
        shown = ", ".join(f"{width:g}" for width in widths)
        msg = f"expected FWHM of 0.1 to 50 mm with at most two decimals, or 0 alone for no smoothed maps, got {shown}"
        raise VbmstatError(msg)
    return widths
