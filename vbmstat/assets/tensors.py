"""Networks of this project as files: safetensors, which hold numbers only, with their settings as metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vbmstat.errors import AssetError
from vbmstat.image.storage import atomic_path
from vbmstat.lazy import torch

_KEY = "vbmstat"  # metadata key of the settings


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], settings: Mapping[str, Any]) -> None:
    """Write a network's weights and settings, atomically."""
    from safetensors.torch import save_file  # noqa: PLC0415 - only where it is needed

    stored = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(stored, temporary, {_KEY: json.dumps(dict(settings))})


def read_tensors(path: Path, expected: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights and settings of a file of :func:`write_tensors`.

    Raises
    ------
    AssetError
        If the file is missing, damaged or not from vbmstat; the message names `expected`.
    """
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    try:
        with safe_open(path, "pt") as stored:
            settings = json.loads((stored.metadata() or {})[_KEY])
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise unreadable(path, error, expected) from error
    return tensors, settings


def unreadable(path: Path, error: Exception, expected: str) -> AssetError:
    """The error for a file that is no network of this project."""
    why = "missing" if not path.is_file() else f"not a network of vbmstat ({type(error).__name__})"
    return AssetError(f"{path}: {why}; expected {expected}")
