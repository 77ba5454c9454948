"""The 72 tracts of TractSeg (Wasserthal et al. 2018, doi:10.1016/j.neuroimage.2018.07.070), in its own order."""

from __future__ import annotations

_TARGETS = ("PREF", "PREM", "PREC", "POSTC", "PAR", "OCC")  # cortex that thalamus (T_) and striatum (ST_) reach


def _pair(*stems: str) -> tuple[str, ...]:
    return tuple(f"{stem}_{side}" for stem in stems for side in ("left", "right"))


TRACTS = (
    *_pair("AF", "ATR"), "CA", *(f"CC_{part}" for part in range(1, 8)),
    *_pair("CG", "CST", "MLF", "FPT", "FX", "ICP", "IFO", "ILF"), "MCP",
    *_pair("OR", "POPT", "SCP", "SLF_I", "SLF_II", "SLF_III", "STR", "UF"), "CC",
    *_pair(*(f"T_{target}" for target in _TARGETS)), *_pair("ST_FO", *(f"ST_{target}" for target in _TARGETS)),
)  # fmt: skip
WEAK = frozenset({"CA", *_pair("FX", "ILF", "UF")})  # thin or tortuous: uncertain even with diffusion data


def side(tract: str) -> str:
    """Hemisphere of a tract: left, right or both.

    Examples
    --------
    >>> side("CST_left"), side("MCP"), len(TRACTS)
    ('left', 'both', 72)
    """
    last = tract.rsplit("_", 1)[-1]
    return last if last in ("left", "right") else "both"


def region(tract: str) -> str:
    """Name that a left and right tract share.

    Examples
    --------
    >>> region("SLF_II_left"), region("CC_7")
    ('SLF_II', 'CC_7')
    """
    return tract.removesuffix("_left").removesuffix("_right")


def mirrored(tract: str) -> str:
    """The tract of the other side; a tract of both sides is its own.

    Examples
    --------
    >>> mirrored("UF_left"), mirrored("CA")
    ('UF_right', 'CA')
    """
    return {"left": f"{region(tract)}_right", "right": f"{region(tract)}_left"}.get(side(tract), tract)
