"""Names of scans and of their outputs (CAT12 or BIDS derivatives); the only owner of prefixes and folders."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from vbmstat.errors import ScanError
from vbmstat.files.filenames import normalized, same_file_key, unique_names
from vbmstat.files.map_kinds import MAP_NUMBER, WARP, WMH, modulated_kind, parse_kind, smoothed_kind
from vbmstat.image.headers import NIFTI_SUFFIXES, SCAN_SUFFIXES

NAME_STYLES = ("cat12", "bids")
_MAX_NAME_BYTES = 255  # of Linux's, macOS's and Windows' file systems

_MNI = "space-MNI152NLin2009cAsym"
# kind -> (CAT12 folder, CAT12 prefix, BIDS name after the entities); prefixes read right to left; * is the stem
_OUTPUTS = {
    "p0": ("mri", "p0", "desc-tissue_dseg.nii.gz"),
    "p1": ("mri", "p1", "label-GM_probseg.nii.gz"),
    "p2": ("mri", "p2", "label-WM_probseg.nii.gz"),
    "p3": ("mri", "p3", "label-CSF_probseg.nii.gz"),
    "m": ("mri", "m", "desc-biascorrected_T1w.nii.gz"),
    "rp1": ("mri", "rp1*_affine", "space-affine_label-GM_probseg.nii.gz"),
    "rp2": ("mri", "rp2*_affine", "space-affine_label-WM_probseg.nii.gz"),
    "wp1": ("mri", "wp1", f"{_MNI}_label-GM_probseg.nii.gz"),
    "wp2": ("mri", "wp2", f"{_MNI}_label-WM_probseg.nii.gz"),
    "mwp1": ("mri", "mwp1", f"{_MNI}_label-GM_desc-modulated_probseg.nii.gz"),
    "mwp2": ("mri", "mwp2", f"{_MNI}_label-WM_desc-modulated_probseg.nii.gz"),
    "mwp3": ("mri", "mwp3", f"{_MNI}_label-CSF_desc-modulated_probseg.nii.gz"),
    "m0wp1": ("mri", "m0wp1", f"{_MNI}_label-GM_desc-modulatedNL_probseg.nii.gz"),
    "m0wp2": ("mri", "m0wp2", f"{_MNI}_label-WM_desc-modulatedNL_probseg.nii.gz"),
    "m0wp3": ("mri", "m0wp3", f"{_MNI}_label-CSF_desc-modulatedNL_probseg.nii.gz"),
    "wm": ("mri", "wm", f"{_MNI}_desc-biascorrected_T1w.nii.gz"),
    "wj": ("mri", "wj_", f"{_MNI}_desc-jacobian_map.nii.gz"),
    "velocity": ("mri", "u_", f"{_MNI}_desc-velocity_xfm.nii.gz"),
    "y": ("mri", "y_", "from-MNI152NLin2009cAsym_to-T1w_mode-image_xfm.nii.gz"),
    "iy": ("mri", "iy_", "from-T1w_to-MNI152NLin2009cAsym_mode-image_xfm.nii.gz"),
    "sidecar": ("report", "vbmstat_", "desc-vbmstat_provenance.json"),
    "volumes": ("label", "volumes_", "desc-volumes_morph.tsv"),
    "qc": ("report", "qc_", "desc-qc_T1w.json"),
    "picture": ("report", "vbmreport_", "desc-report_T1w.png"),
}
# The same for white-matter hypointensities
_WMH_OUTPUTS = {
    "p7": ("mri", "p7", "label-WMH_probseg.nii.gz"),
    "mask7": ("mri", "wmh_", "label-WMH_mask.nii.gz"),
    "wp7": ("mri", "wp7", f"{_MNI}_label-WMH_probseg.nii.gz"),
    "mwp7": ("mri", "mwp7", f"{_MNI}_label-WMH_desc-modulated_probseg.nii.gz"),
    "wmh_volumes": ("label", "wmh_", "desc-wmh_morph.tsv"),
}
# The same for white-matter tracts (vbmstat tracts)
_TRACT_OUTPUTS = {
    "tracts": ("mri", "tracts_", "label-tracts_probseg.nii.gz"),
    "tracts_mask": ("mri", "tractsmask_", "label-tracts_mask.nii.gz"),
    "wtracts": ("mri", "wtracts_", f"{_MNI}_label-tracts_probseg.nii.gz"),
    "tract_volumes": ("label", "tracts_", "desc-tracts_morph.tsv"),
    "tract_picture": ("report", "vbmtracts_", "desc-tracts_T1w.png"),
}
# The same from the comparison of a cohort's scans
_COHORT_OUTPUTS = {"local_picture": ("report", "vbmlocal_", "desc-outlier_T1w.png")}
# The same for a person; the stem is the participant's id
_PERSON_OUTPUTS = {
    "avg": ("mri", "avg_", "desc-average_T1w.nii.gz"),
    "rate1": ("mri", "rate1_", f"{_MNI}_label-GM_desc-rate_map.nii.gz"),
    "rate2": ("mri", "rate2_", f"{_MNI}_label-WM_desc-rate_map.nii.gz"),
    "change_picture": ("report", "vbmchange_", "desc-change_T1w.png"),
}
TRACT_KINDS, PERSON_KINDS = tuple(_TRACT_OUTPUTS), tuple(_PERSON_OUTPUTS)
_KINDS = {**_OUTPUTS, **_WMH_OUTPUTS, **_TRACT_OUTPUTS, **_COHORT_OUTPUTS, **_PERSON_OUTPUTS}
_ENTITY = re.compile(r"(?:^|_)(sub|ses|run)-([A-Za-z0-9]+)")


@dataclass(frozen=True)
class Scan:
    """A T1w file with the ids in its name."""

    path: Path
    stem: str  # file name without suffix, unique in a run; part of the name of every output
    participant_id: str  # ``sub-01`` as in participants.tsv; the whole stem if the name has no BIDS entities
    session_id: str = ""  # ``ses-1``, or empty

    @classmethod
    def of_stem(cls, stem: str) -> Scan:
        """A scan of which only the outputs are known: the stem stands for its path."""
        return cls(Path(stem), stem, *split_ids(stem))


def split_ids(stem: str) -> tuple[str, str]:
    """Participant and session id in a file stem, in composed Unicode (macOS decomposes file names).

    Examples
    --------
    >>> split_ids("sub-01_ses-2_T1w")
    ('sub-01', 'ses-2')
    >>> split_ids("chris_T1w")
    ('chris_T1w', '')
    """
    entities = dict(_ENTITY.findall(stem))
    if "sub" not in entities:
        return normalized(stem), ""
    return f"sub-{entities['sub']}", f"ses-{entities['ses']}" if "ses" in entities else ""


def scan_id(ids: Iterable[str]) -> str:
    """The id of a scan in tables, from those of participant and session (may be empty).

    Examples
    --------
    >>> scan_id(("sub-01", "ses-2")), scan_id(("sub-01", ""))
    ('sub-01_ses-2', 'sub-01')
    """
    return "_".join(filter(None, ids))


def image_stem(path: Path) -> str:
    """File name without its image suffix.

    Examples
    --------
    >>> image_stem(Path("a/sub-01_T1w.nii.gz"))
    'sub-01_T1w'
    """
    suffix = next((suffix for suffix in SCAN_SUFFIXES if path.name.endswith(suffix)), path.suffix)
    return path.name.removesuffix(suffix)


def bundles_folder(out: Path, scan: Scan) -> Path:
    """Folder of a scan's tract masks as TractSeg writes them."""
    return out / "tracts" / scan.stem / "bundle_segmentations"


def bundle_masks(out: Path, scan: Scan) -> list[Path]:
    """The masks in it."""
    return sorted(bundles_folder(out, scan).glob("*.nii.gz"))


def output_path(out: Path, scan: Scan, kind: str, names: str = "cat12") -> Path:
    """Path of an output of a scan.

    Parameters
    ----------
    out : Path
        Output folder of the run.
    kind : str
        One of :func:`vbmstat.files.outputs.output_kinds`, e.g. ``"s6mwp1"``, ``"y"`` (displacement), ``"qc"``.
    names : {"cat12", "bids"}
        CAT12's folders and prefixes, or BIDS derivatives.

    Examples
    --------
    >>> scan = Scan(Path("sub-01_T1w.nii.gz"), "sub-01_T1w", "sub-01")
    >>> output_path(Path("out"), scan, "mwp1").as_posix()
    'out/mri/mwp1sub-01_T1w.nii.gz'
    """
    folder, prefix, bids_name = _parts(kind)
    if names == "cat12":
        suffix = "." + bids_name.split(".", 1)[1]
        before, _, after = prefix.partition("*")
        return out / folder / f"{before}{scan.stem}{after}{suffix}"
    participant = scan.participant_id if scan.participant_id.startswith("sub-") else f"sub-{_bids_label(scan.stem)}"
    entities = scan.stem.removesuffix("_T1w") if scan.participant_id.startswith("sub-") else participant
    return out.joinpath(*filter(None, (participant, scan.session_id)), "anat", f"{entities}_{bids_name}")


def _parts(kind: str) -> tuple[str, str, str]:
    """CAT12 folder and prefix, and BIDS name, of an output kind."""
    parsed = parse_kind(kind)
    if parsed is None:
        of_scan = kind if kind in _KINDS else kind.removesuffix("r")  # wp1r of a time point, as wp1 of a scan
        folder, prefix, bids_name = _KINDS[of_scan]
        return folder, f"{prefix}{kind.removeprefix(of_scan)}", bids_name
    folder, _, bids_name = _KINDS[modulated_kind(parsed.number)]
    label = f"S{parsed.fwhm_mm:g}".replace(".", "p") if parsed.fwhm_mm else ""  # BIDS: letters and digits only
    return folder, kind, bids_name.replace("desc-modulated", f"desc-modulated{parsed.model.capitalize()}{label}")


def find_sidecars(out: Path, names: str = "cat12") -> list[Path]:
    """Sidecars of all scans in an output folder, named as by :func:`output_path`."""
    folder, prefix, bids_name = _OUTPUTS["sidecar"]
    if names == "cat12":
        return sorted(out.glob(f"{folder}/{prefix}*.json"))
    return sorted(path for place in ("sub-*", "sub-*/ses-*") for path in out.glob(f"{place}/anat/[!.]*_{bids_name}"))


def check_output_names(scans: Iterable[Scan], names: str) -> None:
    """Refuse scans whose outputs would have the same names (BIDS names keep only letters and digits of a stem).

    Raises
    ------
    ScanError
        If two scans would write the same file on any file system, such as one that ignores letter case.
    """
    by_path: dict[str, Scan] = {}
    for scan in scans:
        other = by_path.setdefault(same_file_key(str(output_path(Path(), scan, "sidecar", names))), scan)
        if other is not scan:
            msg = (
                f"{other.path} and {scan.path} would write the same output names in the {names} convention; "
                "rename one of them, or use --names cat12"
            )
            raise ScanError(msg)


def check_name_length(scan: Scan, names: str, fwhm_mm: Iterable[float], models: Iterable[str] = ("",)) -> None:
    """Refuse a scan with output names longer than the 255 bytes that file systems allow."""
    pairs = list(product(fwhm_mm, models))
    smoothed = [smoothed_kind(width, number, model) for width, model in pairs for number in (1, 2, MAP_NUMBER[WMH])]
    kinds = (*_KINDS, *smoothed)  # they may be asked for later
    n_bytes = max(len(os.fsencode(output_path(Path(), scan, kind, names).name)) for kind in kinds)
    if n_bytes > _MAX_NAME_BYTES:
        limit = f"at most {_MAX_NAME_BYTES} are allowed; rename it"
        msg = f"{scan.path}: its output names would have {n_bytes} bytes, {limit}"
        raise ScanError(msg)


def distinct_ids(scans: Iterable[Scan]) -> dict[Scan, tuple[str, str]]:
    """A unique pair of participant and session id for each scan.

    If a participant has several scans in a session, the other parts of their names are added to the session id.

    Examples
    --------
    >>> stems = ("sub-1_ses-2_run-1_T1w", "sub-1_ses-2_run-2_T1w")
    >>> list(distinct_ids([Scan(Path(stem), stem, *split_ids(stem)) for stem in stems]).values())
    [('sub-1', 'ses-2_run-1'), ('sub-1', 'ses-2_run-2')]
    """
    scans = list(scans)
    n_of_ids = Counter((scan.participant_id, scan.session_id) for scan in scans)
    ids = {}
    for scan in scans:
        key = (scan.participant_id, scan.session_id)
        others = [part for part in scan.stem.split("_") if part not in (*key, "T1w")]
        ids[scan] = key if n_of_ids[key] == 1 else (key[0], "_".join(filter(None, (key[1], *others))))
    n_of_ids = Counter(ids.values())
    return {scan: key if n_of_ids[key] == 1 else (key[0], scan.stem) for scan, key in ids.items()}


def _bids_label(text: str) -> str:
    """The letters and digits of a text, as BIDS allows; its hash if it has none (another script)."""
    return unique_names([text], lambda name: re.sub(r"[^A-Za-z0-9]", "", name))[0]


def native_paths(modulated: Path) -> dict[str, Path]:
    """Files of the scan that a modulated map belongs to: ``gm``, ``wm``, ``csf``, ``wmh``, and those of its warp.

    Parameters
    ----------
    modulated : Path
        Named as by CAT12, T1Prep and vbmstat (``mwp1NAME``), SPM (``mwc1NAME``) or BIDS derivatives of vbmstat.

    Returns
    -------
    dict of str to Path
        Beside the map, ``.nii.gz`` or ``.nii`` as on disk; they need not exist. Of the warp: ``y``, ``iy``,
        ``velocity`` and ``sidecar``. Empty for names of programs that are not known to write fields.

    Examples
    --------
    >>> {kind: path.name for kind, path in native_paths(Path("mri/mwp1sub-1.nii")).items()}  # doctest: +ELLIPSIS
    {'gm': 'p1sub-1.nii', ..., 'wmh': 'p7sub-1.nii', 'y': 'y_sub-1.nii', 'iy': 'iy_sub-1.nii', 'velocity': ...}
    """
    match = re.match(r"^(?:s[\d.]*)?(?:mw)?mw(?P<letter>p|c)[1237](?P<stem>.+)\.nii(?:\.gz)?$", modulated.name)
    bids = re.match(r"^(?P<stem>.+?)_space-[^_]+_label-(?:GM|WMH?|CSF)_desc-modulated", modulated.name)
    if match:
        stem = match["stem"]
        stems = (stem, stem[1:]) if stem.startswith("r") else (stem,)  # the r of time points, CAT12's or ours
        found = [files_beside(modulated, each, match["letter"]) for each in stems]
        return next((files for files in found if any(path.is_file() for path in files.values())), found[0])
    return files_beside(modulated, bids["stem"], None) if bids else {}


def files_beside(one: Path, stem: str, letter: str | None = "p") -> dict[str, Path]:
    """The files of :func:`native_paths` beside one of them, for the stem in its name; no letter for BIDS names."""
    suffixes = NIFTI_SUFFIXES if one.name.endswith(".gz") else NIFTI_SUFFIXES[::-1]
    native = {}
    for kind, key in {
        **{tissue: f"p{n}" for tissue, n in MAP_NUMBER.items()},
        **dict(zip(WARP, WARP, strict=True)),
    }.items():
        prefix, end = _KINDS[key][1:]
        name = f"{stem}_{end.removesuffix('.nii.gz')}" if letter is None else f"{prefix.replace('p', letter)}{stem}"
        paths = [one.with_name(name + suffix) for suffix in suffixes]
        native[kind] = next((path for path in paths if path.is_file()), paths[0])
    folder, prefix, end = _KINDS["sidecar"]
    is_bids = letter is None
    native["sidecar"] = (
        one.with_name(f"{stem}_{end}") if is_bids else one.parent.parent / folder / f"{prefix}{stem}.json"
    )
    return native
