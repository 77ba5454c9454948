"""Images that a user brings for scans: one file for one scan, or a path with the scan's ids in braces for many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vbmstat.errors import ScanError, listed
from vbmstat.files.naming import Scan, scan_id

PLACEHOLDERS = ("participant_id", "session_id", "scan_id", "name")


def find_lesion_masks(given: str, scans: Sequence[Scan], option: str = "--lesion-mask") -> dict[Scan, Path]:
    """The mask, or other image, of each scan that has one.

    Parameters
    ----------
    given : str
        A file, for a single scan; or a path with ``{participant_id}``, ``{session_id}``, ``{scan_id}`` (both ids, as in
        cohort tables) or ``{name}`` (stem of the scan's file name).
    scans : sequence of Scan
        The scans of the run.
    option : str
        Option that the user gave, for messages.

    Returns
    -------
    dict of Scan to Path
        Without the scans whose file does not exist: people without a lesion need no mask.

    Raises
    ------
    ScanError
        If one file is given for several scans, a placeholder is unknown, or no scan has a mask.
    """
    paths = {scan: Path(_filled(given, scan, option)) for scan in scans}
    if len(set(paths.values())) < len(scans):
        what = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        msg = f"{option} {given}: one file for {len(scans)} scans; write {what} in place of the scan's name"
        raise ScanError(msg)
    masks = {scan: path for scan, path in paths.items() if path.is_file()}
    if not masks:
        first = next(iter(paths.values()), given)
        msg = f"{option} {given}: no such file ({first} for the first scan)"
        raise ScanError(msg)
    return masks


def without_mask(masks: dict[Scan, Path], scans: Sequence[Scan]) -> str:
    """A sentence on the scans that have no mask; empty if all have one."""
    lacking = [scan.stem for scan in scans if scan not in masks]
    if not lacking:
        return ""
    return f"no lesion mask for {len(lacking)} of {len(scans)} scans, which are processed without: {listed(lacking)}"


def _filled(given: str, scan: Scan, option: str) -> str:
    """The path with a scan's ids."""
    ids = scan_id((scan.participant_id, scan.session_id))
    values = dict(zip(PLACEHOLDERS, (scan.participant_id, scan.session_id, ids, scan.stem), strict=True))
    try:
        return given.format(**values)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        msg = f"{option} {given}: expected only {known} in braces ({error})"
        raise ScanError(msg) from error
