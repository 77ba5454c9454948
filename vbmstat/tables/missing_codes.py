"""Missing-value codes such as −999 and 99: which values of a column may be such codes."""

from __future__ import annotations

import re

import numpy as np

_SAME_DIGIT = re.compile(r"([789])\1*(?:\.\1+)?")  # 9, 99, 999.9; 8s and 7s of questionnaires
_RARE = 0.2  # share of the scans; rarer zeros, negative numbers or second values may be codes
_STEPS = 3  # least distance of a code to the other values, in mean steps between these


def is_missing_code(value: float) -> bool:
    """Whether a number is in use as a missing-value code.

    Examples
    --------
    >>> [is_missing_code(value) for value in (-999, 99.9, -1, 0, 8, 666, 98)]
    [True, True, True, True, True, False, False]
    """
    return value in (-1, 0) or _SAME_DIGIT.fullmatch(f"{abs(value):.12g}") is not None


def suspects(values: np.ndarray) -> dict[float, tuple[float, float]]:
    """Codes that lie apart from the other values, with the range of the others.

    Parameters
    ----------
    values : ndarray, (n_scans,)
        Finite.

    Notes
    -----
    A code lies apart if its distance to the others exceeds both their widest gap and three of their mean steps, or if
    it is rare, negative, and the others are not. A single negative number counts as a code whatever its digits. A zero
    must also be rare, among at least three other values. Rare: in less than a fifth of the scans.

    Examples
    --------
    >>> suspects(np.array([20.0, 31, 44, 52, 60, -999]))
    {-999.0: (20.0, 60.0)}
    >>> suspects(np.array([0.0, 0, 0, 1, 1, 9]))
    {9.0: (0.0, 1.0)}
    """
    each, counts = np.unique(values, return_counts=True)
    share = dict(zip(each.tolist(), (counts / max(len(values), 1)).tolist(), strict=True))
    negative = [value for value in share if value < 0]
    doubtful = {value for value in share if is_missing_code(value) or [value] == negative}
    others = sorted(share.keys() - doubtful) or [float(each[counts.argmax()])]
    doubtful -= set(others)
    while True:  # a code next to the ordinary values is one of them, and may have another next to it
        beside = [value for value in doubtful if not _is_apart(value, share[value], others)]
        if not beside:
            return {value: (others[0], others[-1]) for value in sorted(doubtful)}
        nearest = min(beside, key=lambda value: _distance(value, others))
        others = sorted([*others, nearest])
        doubtful.remove(nearest)


def _distance(value: float, others: list[float]) -> float:
    return max(others[0] - value, value - others[-1])


def _is_apart(value: float, share: float, others: list[float]) -> bool:
    """Whether a value lies apart from sorted others; a single other value counts as having steps of 1."""
    steps = np.diff(others) if len(others) > 1 else np.ones(1)
    is_far = _distance(value, others) > max(steps.max(), _STEPS * steps.mean() * (1 - 1e-9))
    is_rare = share < _RARE
    if value == 0:
        return is_far and is_rare and len(others) > 2
    if value < 0 <= others[0] and is_rare and is_missing_code(value):
        return True
    return is_far and (is_rare or len(others) > 1)
