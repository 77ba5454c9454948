"""Names of modulated maps in template space, by any program: what they say, and the maps in a folder."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from vbmstat.errors import ScanError
from vbmstat.files.folders import files_below, is_hidden, is_same_file
from vbmstat.files.map_kinds import MAP_NUMBER

# CAT12's longitudinal pipeline, as ours, puts r (realigned) before the scan's name and, in its model of ageing,
# modulates twice (mwmwp1r*). Here that r is only cut off before "sub-".
_PATTERNS = tuple(
    re.compile(pattern + r"\.nii(?:\.gz)?$")
    for pattern in (
        r"^(?P<smooth>s\d*(?:\.\d+)?)?(?P<ageing>mw)?mwp(?P<tissue>[1237])(?P<plasticity>r(?=sub-))?"
        r"(?P<stem>.+?)",  # CAT12, T1Prep, ours
        r"^(?P<smooth>s\d*(?:\.\d+)?)?mwr?c(?P<tissue>[123])(?P<stem>.+?)(?:_Template)?",  # SPM, also after DARTEL
        r"^(?P<stem>.+?)_(?P<smooth>s\d*(?:\.\d+)?)?mwp(?P<tissue>[123])",  # deepmriprep in a BIDS folder
        r"^(?P<stem>.+?)_segm-(?P<name>graymatter|whitematter|csf)_space-[^_]+_modulated-on"
        r"(?P<smooth>_fwhm-[\d.]+mm)?_probability",  # Clinica t1-volume
        r"^(?P<stem>.+?)_space-[^_]+_label-(?P<name>GM|WMH?|CSF)_desc-modulated"
        r"(?:(?P<plasticity>Plasticity)|(?P<ageing>Ageing))?(?P<smooth>S\d+(?:p\d+)?)?_probseg",  # vbmstat
        r"^(?P<stem>.+?)_space-[^_]+-modulated(?:_desc-[^_]+)?_label-(?P<name>GM|WM|CSF)_probseg",  # T1Prep, BIDS names
    )
)
_NUMBER_OF_WORD = {**{name.upper(): number for name, number in MAP_NUMBER.items()},
                   "graymatter": 1, "whitematter": 2, "csf": 3}  # fmt: skip


class MapName(NamedTuple):
    """What the file name of a modulated map says."""

    stem: str  # the scan's
    tissue: int  # 1 GM, 2 WM, 3 CSF, 7 white-matter hypointensities
    # width of the smoothing; 0 for an unsmoothed map, None for a smoothed one whose name gives no width
    fwhm_mm: float | None


def parse_map_name(name: str) -> MapName | None:
    """What a modulated map's file name says; None for other names.

    Examples
    --------
    >>> parse_map_name("s6mwp1sub-01_T1w.nii.gz")
    MapName(stem='sub-01_T1w', tissue=1, fwhm_mm=6.0)
    >>> parse_map_name("smwc2ixi002.nii")
    MapName(stem='ixi002', tissue=2, fwhm_mm=None)
    >>> parse_map_name("p1sub-01_T1w.nii.gz") is None
    True
    """
    match = _match(name)
    if match is None:
        return None
    groups = match.groupdict()
    tissue = _NUMBER_OF_WORD[groups["name"]] if groups.get("name") else int(groups["tissue"])
    smooth = groups.get("smooth")
    width = re.search(r"\d*\.?\d+", (smooth or "0").replace("p", "."))
    return MapName(groups["stem"], tissue, float(width[0]) if width else None)


def _match(name: str) -> re.Match[str] | None:
    if is_hidden(name):
        return None
    return next(filter(None, (pattern.match(name) for pattern in _PATTERNS)), None)


def longitudinal_model(name: str) -> str:
    """Model of a time point's map: ``ageing``, ``plasticity``, or empty for a single scan's and unknown names.

    CAT12's r is only seen before ``sub-``; see :func:`realigned_id` for other ids.

    Examples
    --------
    >>> longitudinal_model("s6mwmwp1rS001.nii"), longitudinal_model("mwp1rsub-01.nii"), longitudinal_model("mwp1S1.nii")
    ('ageing', 'plasticity', '')
    """
    match = _match(name)
    groups = match.groupdict() if match else {}
    return next((model for model in ("ageing", "plasticity") if groups.get(model)), "")


def refuse_mixed_models(paths: Iterable[Path]) -> None:
    """Refuse maps of single scans, of plasticity and of ageing beside one another: changes are elsewhere in each.

    Raises
    ------
    ScanError
        With an example of each.
    """
    examples: dict[str, Path] = {}
    for path in paths:
        examples.setdefault(longitudinal_model(path.name), path)
    if len(examples) > 1:
        shown = ", ".join(f"{model or 'single scans'}: {path}" for model, path in sorted(examples.items()))
        msg = f"the maps are of several longitudinal models ({shown}); compare maps of one, in folders of their own"
        raise ScanError(msg)


def is_of_model(name: str, model: str) -> bool:
    """Whether a map may be one of a longitudinal model; CAT12's ``mwp1rS001`` may be of plasticity or of ``rS001``."""
    own = longitudinal_model(name)
    return own == model or (model == "plasticity" and not own and realigned_id(name) is not None)


def find_maps(
    folder: Path,
    tissue: int,
    smoothed: bool | None = None,
    fwhm_mm: float | None = None,
    model: str | None = None,
) -> dict[str, Path]:
    """Find modulated template-space maps of one tissue in a folder, by scan stem.

    Understands the names of vbmstat, CAT12 and T1Prep (``s6mwp1*``, ``smwp1*``, ``mwp1r*``), SPM (``smwc1*``,
    ``mwrc1*``), Clinica (``*_segm-graymatter_*_modulated-on_*``), deepmriprep and BIDS derivatives. Unmodulated
    maps (``wp1*``, ``modulated-off``) and maps modulated by the nonlinear part alone (``m0wp1*``) are left out.

    Parameters
    ----------
    folder : Path
        Searched with all its sub-folders, following links; hidden files are left out.
    tissue : {1, 2, 3, 7}
        GM, WM, CSF, white-matter hypointensities.
    smoothed : bool, optional
        Only smoothed or only unsmoothed maps; by default smoothed ones, or unsmoothed ones if there are none.
    fwhm_mm : float, optional
        Only maps whose names give this width; 0 for unsmoothed ones.
    model : {"plasticity", "ageing", ""}, optional
        Longitudinal model whose map is taken where a scan has maps of several; empty for that of the single scan.

    Raises
    ------
    ScanError
        If a scan has several such maps.
    """
    maps: dict[bool, dict[str, list[Path]]] = {True: {}, False: {}}  # by smoothed or not
    for path in files_below(folder):
        parsed = parse_map_name(path.name)
        if parsed is None or parsed.tissue != tissue or fwhm_mm not in (None, parsed.fwhm_mm):
            continue
        is_smoothed = parsed.fwhm_mm != 0
        if smoothed is not None and is_smoothed != smoothed:
            continue
        known = maps[is_smoothed].setdefault(parsed.stem, [])
        if not any(is_same_file(one, path) for one in known):
            known.append(path)
    return {stem: _one_of(paths, folder, stem, model) for stem, paths in (maps[True] or maps[False]).items()}


def _one_of(paths: list[Path], folder: Path, stem: str, model: str | None) -> Path:
    """The map of a scan; of several that of the model, if one is asked for."""
    chosen = [path for path in paths if model is not None and is_of_model(path.name, model)]
    if len(paths) == 1 or len(chosen) == 1:
        return (chosen or paths)[0]
    one, other = (chosen if len(chosen) > 1 else paths)[:2]
    msg = f"{folder}: two maps of {stem}: {one} and {other}; {_choose(one, other)}"
    raise ScanError(msg)


def _choose(one: Path, other: Path) -> str:
    """What to do about two maps of a scan."""
    kinds = [map_kind(path.name, realigned_id(path.name) or "").removesuffix("*") for path in (one, other)]
    if longitudinal_model(one.name) != longitudinal_model(other.name):
        return f"keep one of them (vbmstat glm takes the one written left of its ~: {' or '.join(kinds)})"
    widths = parse_map_name(one.name) != parse_map_name(other.name)
    return "keep one of them" + " (vbmstat glm chooses a width with --fwhm)" * widths


def realigned_id(name: str) -> str | None:
    """The scan's name without the r that CAT12 puts before it in longitudinal maps; None if there is no such r.

    Examples
    --------
    >>> realigned_id("mwp1rS001.nii")
    'S001'
    >>> realigned_id("mwp1S001.nii") is None
    True
    """
    match = _match(name)
    is_cat = match is not None and match.re is _PATTERNS[0] and len(match["stem"]) > 1
    return match["stem"][1:] if match and is_cat and match["stem"].startswith("r") else None


def map_kind(name: str, scan: str = "") -> str:
    """The map's file name with ``*`` for the scan's, which says how it was made; empty for unknown names.

    Parameters
    ----------
    name : str
        File name.
    scan : str
        Id of the scan, which decides whether a leading r belongs to the id.

    Examples
    --------
    >>> map_kind("s6mwp1sub-01_T1w.nii.gz")
    's6mwp1*'
    >>> map_kind("mwp1rS001.nii", "S001"), map_kind("mwp1rS001.nii", "rS001")
    ('mwp1r*', 'mwp1*')
    """
    match = _match(name)
    if match is None:
        return ""
    realigned = realigned_id(name)
    start = match.start("stem") + (realigned is not None and bool(scan) and realigned.startswith(scan))
    return f"{name[:start]}*{name[match.end('stem') :]}".removesuffix(".gz").removesuffix(".nii")


def several_kinds(paths: Mapping[str, Path]) -> str:
    """The kinds of maps with their number of scans; empty if all maps are of one kind.

    Examples
    --------
    >>> several_kinds({"a": Path("mwp1a.nii"), "b": Path("mwp1rb.nii"), "c": Path("mwp1rc.nii")})
    'mwp1*: 1 scans, e.g. a; mwp1r*: 2 scans, e.g. b'
    """
    scans: dict[str, list[str]] = {}
    for scan, path in paths.items():
        scans.setdefault(map_kind(path.name, scan), []).append(scan)
    scans.pop("", None)
    kinds = [f"{kind}: {len(ids)} scans, e.g. {ids[0]}" for kind, ids in sorted(scans.items())]
    return "; ".join(kinds) if len(kinds) > 1 else ""


def by_known_ids(paths: Mapping[str, Path], known: Container[str]) -> dict[str, Path]:
    """Maps by a table's ids: the scan chris_T1w may be chris there, and rS001 of CAT12's mwp1rS001 may be S001.

    Raises
    ------
    ScanError
        If two maps get the same id.
    """
    named: dict[str, Path] = {}
    for scan, path in paths.items():
        parsed, others = parse_map_name(path.name), [scan]
        if parsed is not None and parsed.stem == scan:
            others += filter(None, [realigned_id(path.name)])
        candidates = [name for other in others for name in (other, other.removesuffix("_T1w"))]
        name = next((candidate for candidate in candidates if candidate in known), scan)
        if name in named:
            msg = f"two maps of {name}: {named[name]} and {path}; keep one of them"
            raise ScanError(msg)
        named[name] = path
    return named
