"""The exceptions of vbmstat: each message says what was expected, what came, which scan, what to do."""

from __future__ import annotations


class VbmstatError(Exception):
    """Base of every error that a user can act on; the command line prints it as one line."""


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
