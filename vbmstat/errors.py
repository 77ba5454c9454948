"""The exceptions of vbmstat: each message says what was expected, what came, which scan, what to do."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


class VbmstatError(Exception):
    """Base of every error that a user can act on; the command line prints it as one line."""

    def __str__(self) -> str:
        """The message; what would break its line, such as control characters in a file name, is escaped."""
        return one_line(super().__str__())


class ScanError(VbmstatError):
    """A scan or map that cannot be used (unreadable, wrong dimensions, constant, NaN, wrong grid)."""


class TableError(VbmstatError):
    """A participants or cohort table that cannot be used (ids, columns, values)."""


class DesignError(VbmstatError):
    """A formula, design matrix or contrast that cannot be estimated."""


class AssetError(VbmstatError):
    """A template, atlas or network weight that is missing or is not what it should be."""


class ClusterError(VbmstatError):
    """Workers that cannot be started or reached, or that die again and again."""


def listed(names: Sequence[object], most: int = 12) -> str:
    """The first names, comma separated, and how many more there are.

    Examples
    --------
    >>> listed(["sub-1", "sub-2", "sub-3"], most=2)
    'sub-1, sub-2 and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def one_line(text: str) -> str:
    r"""Text that can be written anywhere on one line: control characters and undecodable bytes as escapes.

    Examples
    --------
    >>> print(one_line("two\nlines.nii"))
    two\nlines.nii
    """
    safe = "".join(repr(letter)[1:-1] if unicodedata.category(letter) == "Cc" else letter for letter in text)
    return safe.encode("utf-8", "backslashreplace").decode("utf-8")
