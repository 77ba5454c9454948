"""Which voxels of lesion maps are analysed: those where enough scans have a lesion.

A lesion map is zero in most voxels of most scans, so SPM's rule (every scan above a threshold) leaves none. Studies of
lesions and symptoms analyse voxels where some least number or share of the scans has one (Sperber & Karnath 2017,
doi:10.1002/hbm.23490); elsewhere a few scans decide everything.
"""

from __future__ import annotations

from vbmstat.files.map_kinds import MAP_NUMBER, WMH, parse_kind

LESION_THRESHOLD = 0.05  # smoothed share of a voxel: a lesion of 30 mm³ peaks at about 0.1 after 6 mm
LEAST_SCANS, LEAST_SHARE = 5, 0.05  # with a lesion at the voxel: the more of the two


def is_lesion_response(response: str) -> bool:
    """Whether the left side of a formula names lesion maps.

    Examples
    --------
    >>> [is_lesion_response(name) for name in ("wmh", "s6mwp7", "mwp7", "gm", "s6mwp1")]
    [True, True, True, False, False]
    """
    kind = parse_kind(response)
    return response == WMH or (kind is not None and kind.number == MAP_NUMBER[WMH])


def lesion_share(n_scans: int) -> float:
    """Share of the scans that must have a lesion at a voxel.

    Examples
    --------
    >>> lesion_share(20), lesion_share(1000), lesion_share(3)
    (0.25, 0.05, 1.0)
    """
    return min(1.0, max(LEAST_SHARE, LEAST_SCANS / max(n_scans, 1)))


def lesion_note(n_scans: int, threshold: float, share: float) -> str:
    """What the mask of a model of lesion maps means."""
    least = -(-n_scans * share // 1)
    return (
        f"lesion maps: only voxels where at least {least:.0f} of {n_scans} scans exceed {threshold:g} are analysed; "
        "values there are mostly zero and skewed, so trust permutations (--inference fwe) over uncorrected p"
    )
