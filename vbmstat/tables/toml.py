"""Read TOML files: plans of comparisons, configurations of training runs, the schema of tables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from vbmstat.errors import TableError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: Path, expected: str) -> dict[str, Any]:
    """Content of a TOML file; raises TableError, which says what was `expected`, if it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: of encoding or syntax
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        msg = f"{path}: expected {expected}, but it cannot be read ({reason})"
        raise TableError(msg) from error
