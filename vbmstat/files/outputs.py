"""Which files of a scan are written: names a user gives, sets of them, and the kinds of files behind each name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from vbmstat.errors import VbmstatError
from vbmstat.files import map_kinds

# name -> kinds; those of number 7 only where white-matter hypointensities are looked for
OUTPUTS = {
    "p0": ("p0",), "p1": ("p1",), "p2": ("p2",), "p3": ("p3",), "p7": ("p7", "mask7"), "m": ("m",),
    "wp": ("wp1", "wp2", "wp7"), "mwp": ("mwp1", "mwp2", "mwp3", "mwp7"), "m0wp": ("m0wp1", "m0wp2", "m0wp3"),
    "wm": ("wm",), "wj": ("wj",), "rp1": ("rp1",), "rp2": ("rp2",),
    "velocity": ("velocity",), "y": ("y",), "iy": ("iy",),
}  # fmt: skip
MAP_STEP = 1 / 1024  # of maps in template space on disk: a fiftieth of how much people differ
MINIMAL, VBM, ALL = "minimal", "vbm", "all"
_OF_VBM = ("p0", "p1", "p2", "p3", "p7", "m", "wp", "mwp", "velocity")
SETS = {MINIMAL: (), VBM: _OF_VBM, ALL: tuple(OUTPUTS)}
BEFORE_SETS = ("p0", "p1", "p2", "p3", "p7", "m", "wp", "mwp", "y", "iy")  # of records without the field
_ALWAYS = ("sidecar", "volumes", "qc", "picture")


def parse_outputs(given: str | Iterable[str], without_velocity: str = "", has_wmh: bool = True) -> tuple[str, ...]:
    """Names of outputs, in the order of `OUTPUTS`, from names and sets of them.

    Parameters
    ----------
    given : str or iterable of str
        ``minimal``, ``vbm``, ``all``, or names, separated by commas or blanks.
    without_velocity : str
        Engine that has no velocity: its sets hold the deformation ``y`` in place of it.
    has_wmh : bool
        Whether white-matter hypointensities are looked for. If not, a text may not ask for ``p7``; names of a set, one
        by one, may hold it.

    Raises
    ------
    VbmstatError
        If a name is unknown, a velocity is asked of an engine that has none, or ``p7`` where none are looked for.

    Examples
    --------
    >>> parse_outputs("mwp, p1")
    ('p1', 'mwp')
    >>> parse_outputs("minimal")
    ()
    """
    texts = [given] if isinstance(given, str) else list(given)
    words = [word for text in texts for word in str(text).replace(",", " ").split()]
    unknown = next((word for word in words if word not in OUTPUTS and word not in SETS), None)
    if unknown is not None:
        near = get_close_matches(unknown, [*SETS, *OUTPUTS], 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        msg = f"outputs: expected {', '.join(SETS)} or some of {' '.join(OUTPUTS)}, got {unknown!r}{hint}"
        raise VbmstatError(msg)
    if without_velocity and "velocity" in words:
        msg = f"engine {without_velocity} has no velocity: its registration is no flow of one; ask for y and iy instead"
        raise VbmstatError(msg)
    if "p7" in words and len(texts) == 1 and not has_wmh:
        msg = "outputs: p7 are white-matter hypointensities, which are not looked for; add --wmh (wmh=True), or drop p7"
        raise VbmstatError(msg)
    named = {name for word in words for name in SETS.get(word, (word,))}
    if without_velocity and "velocity" in named:
        named = named - {"velocity"} | {"y"}
    return tuple(name for name in OUTPUTS if name in named)


def output_kinds(
    fwhm_mm: Iterable[float],
    has_wmh: bool = False,
    outputs: Iterable[str] = SETS[VBM],
    models: Iterable[str] = (),
) -> tuple[str, ...]:
    """Kinds of all files of a scan: of these smoothing widths, hypointensities or none, longitudinal models or none."""
    models = tuple(models)
    numbers = (1, 2, *([map_kinds.MAP_NUMBER[map_kinds.WMH]] if has_wmh else []))
    widths = [(width, model) for width in fwhm_mm for model in models or ("",)]
    smoothed = [map_kinds.smoothed_kind(width, number, model) for width, model in widths for number in numbers]
    named = [kind for name in outputs for kind in OUTPUTS[name] if has_wmh or not kind.endswith("7")]
    if models:
        named = [each for kind in named for each in map_kinds.kinds_of_time_point(kind, models)]
    return (*named, *_ALWAYS, *(["wmh_volumes"] if has_wmh else []), *smoothed)
