"""Values for JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


def plain(value: Any) -> Any:
    """A value of Python, numpy or pandas for JSON, with None for NaN, NA and infinity.

    Examples
    --------
    >>> plain({"a": [np.float32(1.5), np.nan, True], 2: pd.NA})
    {'a': [1.5, None, True], '2': None}
    """
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, pd.DataFrame):
        return [plain(row) for row in value.to_dict("records")]
    if isinstance(value, list | tuple | set | np.ndarray | pd.Series):
        return [plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is pd.NA or value is pd.NaT:
        return None
    return str(value) if isinstance(value, Path) else value
