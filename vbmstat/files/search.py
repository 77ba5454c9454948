"""Find the T1w scans at the paths that a user gives; note which files are skipped, and why."""

from __future__ import annotations

import fnmatch
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from vbmstat.errors import ScanError
from vbmstat.files.folders import files_below
from vbmstat.files.map_kinds import MAP_NUMBER
from vbmstat.files.map_names import parse_map_name
from vbmstat.files.naming import Scan, image_stem, split_ids
from vbmstat.image import io
from vbmstat.image.headers import IMAGE_SUFFIXES, SCAN_SUFFIXES

# BIDS suffixes of images that are not T1-weighted scans: other contrasts, parametric maps, labels.
_OTHER_SUFFIX = re.compile(
    r"T2(w|star|starw)?|FLAIR|FLASH|PD(w|T2)?|inplaneT[12]|angio|SWI|UNIT1|MP2RAGE|M[PT][MRS]|VFA|IRT1|MESE|MEGRE"
    r"|\w+map|Chi\w*|MTsat|defacemask|bold|sbref|cbv|dwi|epi|phase(1|2|diff)?|magnitude[12]?|asl|m0scan|pet"
    r"|dseg|probseg|mask"
)
# Names of maps that are not modulated or not in template space, by CAT12, T1Prep, deepmriprep (p) and SPM (c).
_OTHER_MAPS = {
    r"s?\d*m0w[pc][1237].+": "modulated by the nonlinear part alone",
    r"s?\d*w[pc][1237].+|.+_wp[1237]": "not modulated",
    r"r?[pc][1237].+|.+_p[1237]": "in the scan's own space",
    r"p0.+|.+_p0": "labels",
}
_MAX_HEADERS = 20  # read to write a message
_NOT_MAGNITUDE = ("phase", "real", "imag")


@dataclass(frozen=True)
class Inputs:
    """The scans and the skipped files at the given places."""

    scans: tuple[Scan, ...]  # scans to preprocess, in the order of the places, sorted within a folder
    skipped: dict[Path, str]  # skipped files, and why
    # rows of the table that names the scans, indexed by (participant_id, session_id)
    table: pd.DataFrame | None = field(default=None, compare=False)

    def without(self, reason: Callable[[Scan], str]) -> Inputs:
        """The same with those scans skipped for which `reason` returns a text."""
        reasons = {scan: reason(scan) for scan in self.scans}
        kept = tuple(scan for scan in self.scans if not reasons[scan])
        skipped = self.skipped | {scan.path: why for scan, why in reasons.items() if why}
        return replace(self, scans=kept, skipped=skipped)


def find_inputs(places: Iterable[Path | str]) -> Inputs:
    """Find T1w scans in BIDS folders, folders of images, or single files.

    Parameters
    ----------
    places : iterable of path
        In a BIDS folder every ``sub-*/[ses-*/]anat/*_T1w`` image is taken unless ``.bidsignore`` names it; other images
        in these ``anat`` folders are noted as skipped. In any other folder every image file directly inside is taken,
        unless its BIDS suffix is that of another contrast. Hidden files (``._*`` of macOS) are never taken. A single
        file is taken as it is, even a broken link: the error comes when it is read.

    Returns
    -------
    Inputs
        Equal stems from different folders are prefixed with their parent folder's name, so that no output overwrites
        another.

    Raises
    ------
    ScanError
        If a place does not exist, there is no scan at all, or two scans would write the same output names.
    """
    entries = [Path(place) for place in places]
    paths: list[Path] = []
    skipped: dict[Path, str] = {}
    for entry in entries:
        if _is_folder(entry):
            paths += _bids_scans(entry, skipped) if is_bids(entry) else _images_in(entry, skipped)
        elif entry.is_symlink() or entry.exists():
            paths.append(entry)
        else:
            msg = f"{entry}: no such file or folder"
            raise ScanError(msg)
    paths = list(dict.fromkeys(path.absolute() for path in paths))
    taken = set(paths)
    skipped = {path.absolute(): reason for path, reason in skipped.items() if path.absolute() not in taken}
    if not paths:
        raise ScanError(_no_scan(entries, skipped))
    names = _distinct_stems(paths)
    scans = tuple(Scan(path, stem, *split_ids(stem)) for path, stem in zip(paths, names, strict=True))
    return Inputs(scans, skipped)


def is_bids(folder: Path) -> bool:
    """Whether a folder is a BIDS dataset (has a dataset description or sub-*/ folders with anat/)."""
    try:
        anat = (folder.glob(f"{place}/anat") for place in ("sub-*", "sub-*/ses-*"))
        return (folder / "dataset_description.json").is_file() or any(any(folders) for folders in anat)
    except OSError:  # no permission to look inside: reported where the folder is listed
        return False


def images_instead(folder: Path) -> str:
    """The images in a folder where modulated maps were expected, for a message: other kinds of maps, and 4-D images."""
    kinds: dict[str, list[str]] = {}
    unknown: list[Path] = []
    for path in files_below(folder):
        stem = image_stem(path)
        if not path.name.endswith(IMAGE_SUFFIXES):
            continue
        if path.suffix in (".img", ".hdr"):
            kinds.setdefault(".img or .hdr, which are not searched for: convert them to .nii", []).append(path.name)
            continue
        why = next((why for pattern, why in _OTHER_MAPS.items() if re.fullmatch(pattern, stem)), "")
        parsed = parse_map_name(path.name)
        if parsed:
            tissue = next(name for name, number in MAP_NUMBER.items() if number == parsed.tissue)
            why = f"{'unsmoothed' if parsed.fwhm_mm == 0 else 'smoothed'} {tissue}"
        if why:
            kinds.setdefault(why, []).append(path.name)
        else:
            unknown.append(path)
    images = [f"{len(names)} {why} (e.g. {names[0]})" for why, names in kinds.items()]
    for path in unknown[:_MAX_HEADERS]:
        n_volumes = _n_volumes(path)
        if n_volumes > 1:
            images.append(f"{path.name}, 4-D with {n_volumes} volumes: split it into one file per scan")
            unknown.remove(path)
    if unknown:
        images.append(f"{len(unknown)} with other names (e.g. {unknown[0].name})")
    return f"images there: {'; '.join(images)}" if images else "there is no image"


def _n_volumes(path: Path) -> int:
    """Number of volumes in an image; 1 if it cannot be read."""
    try:
        return math.prod(io.read_shape(path)[3:])
    except ScanError:
        return 1


def _is_folder(entry: Path) -> bool:
    """Whether to look inside; a folder named like an image is treated as an image, and fails as one."""
    return entry.is_dir() and not entry.name.endswith(SCAN_SUFFIXES)


def _no_scan(entries: list[Path], skipped: dict[Path, str]) -> str:
    where = ", ".join(str(entry) for entry in entries) or "(nothing given)"
    examples = next((f"; skipped {len(skipped)}, e.g. {path.name} ({why})" for path, why in skipped.items()), "")
    return (
        f"{where}: found no T1w image; expected a BIDS folder with sub-*/anat/*_T1w.nii.gz, "
        f"a folder of images ({', '.join(SCAN_SUFFIXES)}) or such files{examples}"
    )


def _distinct_stems(paths: list[Path]) -> list[str]:
    """A unique stem for each file; the parent folder's name goes in front of a stem that several files share."""
    stems = [image_stem(path) for path in paths]
    n_of_stem = Counter(stems)
    unique = [
        stem if n_of_stem[stem] == 1 else f"{path.parent.name}_{stem}" for path, stem in zip(paths, stems, strict=True)
    ]
    n_of_name = Counter(unique)
    twice = sorted(str(path) for path, name in zip(paths, unique, strict=True) if n_of_name[name] > 1)
    if twice:
        msg = f"these scans would write the same output names: {', '.join(twice)}; rename them or run them separately"
        raise ScanError(msg)
    return unique


def _images_in(folder: Path, skipped: dict[Path, str]) -> list[Path]:
    """Image files of a plain folder; notes the others as skipped."""
    images = []
    for path in _listed(folder, skipped):
        suffix = image_stem(path).rsplit("_", 1)[-1]
        if path.name.startswith("."):
            skipped[path] = "hidden file"
        elif not path.name.endswith(SCAN_SUFFIXES):
            skipped[path] = "a sub-folder" if path.is_dir() else f"not an image file ({', '.join(SCAN_SUFFIXES)})"
        elif path.name.startswith("sub-") and _OTHER_SUFFIX.fullmatch(suffix):
            skipped[path] = f"named as {suffix}, not as T1w"
        else:
            images.append(path)
    return images


def _bids_scans(folder: Path, skipped: dict[Path, str]) -> list[Path]:
    """T1w images of a BIDS dataset; notes the other images of its anat folders as skipped."""
    rules = _ignore_rules(folder / ".bidsignore")
    scans = []
    for anat in _anat_folders(folder, skipped):
        for path in _listed(anat, skipped):
            if not path.name.endswith(SCAN_SUFFIXES):
                continue
            reason = "in .bidsignore" if _is_ignored(path.relative_to(folder), rules) else _why_no_t1w(path)
            if reason:
                skipped[path] = reason
            else:
                scans.append(path)
    return scans


def _anat_folders(folder: Path, skipped: dict[Path, str]) -> Iterable[Path]:
    for participant in _listed(folder, skipped):
        if not (participant.name.startswith("sub-") and participant.is_dir()):
            continue
        for path in _listed(participant, skipped):
            if path.name == "anat" and path.is_dir():
                yield path
            elif path.name.startswith("ses-") and (path / "anat").is_dir():
                yield path / "anat"
            elif path.name.endswith(SCAN_SUFFIXES):
                skipped[path] = "not in a folder anat/"


def _why_no_t1w(path: Path) -> str:
    """Why an image of a BIDS anat folder is not a T1w scan; empty if it is."""
    *entities, suffix = image_stem(path).split("_")
    if path.name.startswith("."):
        return "hidden file"
    if suffix != "T1w":
        return f"named as {suffix}, not as T1w"
    part = next((entity.removeprefix("part-") for entity in entities if entity.startswith("part-")), "mag")
    return f"a {part} image, not magnitude" if part in _NOT_MAGNITUDE else ""


def _listed(folder: Path, skipped: dict[Path, str]) -> list[Path]:
    """Entries of a folder, sorted; a folder that cannot be listed is noted as skipped."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        skipped[folder] = f"cannot be listed ({error.strerror})"
        return []


def _ignore_rules(path: Path) -> list[str]:
    """Lines of a .bidsignore file (the grammar of .gitignore)."""
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines() if path.is_file() else []
    return [line.strip() for line in lines if line.strip()]  # comments stay: no BIDS file name begins with #


def _is_ignored(relative: Path, rules: list[str]) -> bool:
    """Whether the last rule that matches a path, or a folder above it, ignores it."""
    ignored = False
    above = [relative, *relative.parents][:-1]  # the last parent is "."
    for rule in rules:
        pattern = rule.removeprefix("!").rstrip("/").removeprefix("**/")
        anchored = "/" in pattern  # relative to the dataset; other rules match a file or folder anywhere
        names = [entry.as_posix() if anchored else entry.name for entry in above]
        if any(fnmatch.fnmatchcase(name, pattern.removeprefix("/")) for name in names):
            ignored = not rule.startswith("!")
    return ignored
