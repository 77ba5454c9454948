"""Numbers that tables write for "no value", such as −999 and 99: which values of a column they may be."""

from __future__ import annotations

import re

import numpy as np

_SAME_DIGIT = re.compile(r"([789])\1*(?:\.\1+)?")  # 9, 99, 999.9; 8s and 7s of questionnaires
_RARE = 0.2  # share of the scans below which a lone zero, a lone negative number, or the only other value is doubtful
_STEPS = 3  # mean steps between neighbours that a code is away from the other values, at least


def is_missing_code(value: float) -> bool:
    """Whether a number is one that tables write for "no value".

    Examples
    --------
    >>> [is_missing_code(value) for value in (-999, 99.9, -1, 0, 8, 666, 98)]
    [True, True, True, True, True, False, False]
    """
    return value in (-1, 0) or _SAME_DIGIT.fullmatch(f"{abs(value):.12g}") is not None


def suspects(values: np.ndarray) -> dict[float, tuple[float, float]]:
    """Codes that lie apart from the other values, with the range of these.

    Parameters
    ----------
    values : ndarray, (n_scans,)
        Finite.

    Notes
    -----
    Apart: further from all other values than their widest gap and than three of their mean steps. So is a rare code
    below zero where the others are not, and, of whatever digits, an only negative number that is apart. A zero must
    be rare, too, and the others of at least three values. Rare: less than a fifth of the scans.

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
    while True:  # a code beside the others is one of them, and may have the next beside it
        beside = [value for value in doubtful if not _is_apart(value, share[value], others)]
        if not beside:
            return {value: (others[0], others[-1]) for value in sorted(doubtful)}
        nearest = min(beside, key=lambda value: _distance(value, others))
        others = sorted([*others, nearest])
        doubtful.remove(nearest)


def _distance(value: float, others: list[float]) -> float:
    return max(others[0] - value, value - others[-1])


def _is_apart(value: float, share: float, others: list[float]) -> bool:
    """Whether a value lies apart from others in order; one other value counts as whole numbers do, with steps of 1."""
    steps = np.diff(others) if len(others) > 1 else np.ones(1)
    is_far = _distance(value, others) > max(steps.max(), _STEPS * steps.mean() * (1 - 1e-9))
    is_rare = share < _RARE
    if value == 0:
        return is_far and is_rare and len(others) > 2
    if value < 0 <= others[0] and is_rare and is_missing_code(value):
        return True
    return is_far and (is_rare or len(others) > 1)
