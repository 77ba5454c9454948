"""Provenance of an output: versions, parameters and hashes of inputs, as a JSON object beside it.

Nothing that identifies a person or a machine is recorded: no user, host, home folder or environment variable.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from vbmstat import __version__
from vbmstat.assets import sha256
from vbmstat.errors import VbmstatError
from vbmstat.files.folders import files_below
from vbmstat.lazy import torch

_PACKAGES = ("torch", "numpy", "scipy", "nibabel")
_HASHED = 12  # digits shown


def provenance(
    command: str,
    parameters: Mapping[str, Any],
    inputs: Iterable[Path | str] = (),
    *,
    engine: str | None = None,
    device: torch.device | str | None = None,
) -> dict[str, Any]:
    """Provenance record of an output.

    Parameters
    ----------
    command : str
        Name of the command, e.g. ``"preprocess"``.
    parameters : mapping
        Every parameter that can change the result. Paths are recorded as :func:`path_label` gives them, arrays
        as lists.
    inputs : iterable of path
        Files that were read; each is recorded with its sha256.
    engine, device : optional
        Preprocessing engine and torch device; omitted if None.

    Returns
    -------
    dict
        JSON-ready. Equal runs give equal objects; times are only in the run's log (:mod:`vbmstat.files.runlog`).

    Raises
    ------
    VbmstatError
        If an input cannot be read.
    """
    content: dict[str, Any] = {"command": command}
    if engine is not None:
        content["engine"] = engine
    if device is not None:
        content["device"] = device_label(device)
    content["parameters"] = _plain(parameters)
    content["inputs"] = [{"path": path_label(path), "sha256": _input_sha256(path)} for path in inputs]
    content["versions"] = versions()
    return content


def _input_sha256(path: Path | str) -> str:
    path = Path(path)
    try:
        if path.exists() and not path.is_file():  # reading a pipe would block
            msg = f"{path}: cannot be read: no regular file"
            raise VbmstatError(msg)
        return sha256(path)
    except OSError as error:
        lost = "its link points nowhere; fetch the content (datalad get)"
        msg = f"{path}: cannot be read: {lost if path.is_symlink() else error.strerror}"
        raise VbmstatError(msg) from error


def versions() -> dict[str, str]:
    """Versions of vbmstat, its numerical libraries and Python, and the platform."""
    packages = {name: metadata.version(name) for name in _PACKAGES}
    machine = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    return {"vbmstat": __version__, **packages, **machine}


def device_label(device: torch.device | str) -> str:
    """``cpu``, or the model of the GPU without its number."""
    if str(device) == "cpu":
        return "cpu"
    device = torch.device(device)
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def path_label(path: Path | str, root: Path | str | None = None) -> str:
    """A path that reveals nothing about the machine: relative to `root` if below it, else the name.

    Examples
    --------
    >>> path_label("/home/chris/study/sub-01/anat/t1.nii", root="/home/chris/study")
    'sub-01/anat/t1.nii'
    >>> path_label("/home/chris/t1.nii", root="/home/chris/study")
    't1.nii'
    """
    path = Path(path)
    if root is not None:
        absolute, folder = path.absolute(), Path(root).absolute()
        if absolute.is_relative_to(folder):
            return absolute.relative_to(folder).as_posix()
    return path.name if path.is_absolute() or ".." in path.parts else path.as_posix()


def _plain(value: Any) -> Any:
    """A value as JSON types."""
    if isinstance(value, Path):
        return path_label(value)
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        entries = [_plain(entry) for entry in value]
        return sorted(entries, key=str) if isinstance(value, set | frozenset) else entries
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def file_record(path: Path | str) -> dict[str, str]:
    """Name and sha256 of a file, by which :func:`find_file` finds it again."""
    return {"file": Path(path).name, "sha256": sha256(Path(path))}


def find_file(name: str, digest: str, folders: Sequence[Path], *, may_differ: bool = False) -> Path:
    """Find a file by its sha256: first at its relative path in a folder, then by name anywhere below, then by any name.

    Without one of that sha256, the first of that name is taken if it `may_differ`.

    Raises
    ------
    VbmstatError
        If there is no such file.
    """
    other: Path | None = None
    for path in _candidates(name, folders):
        if path.is_file():
            if sha256(path) == digest:
                return path
            other = path if other is None and path.name == Path(name).name else other
    if may_differ and other is not None:
        return other
    places = ", ".join(map(str, folders))
    why = f"; {other} has another content" if other is not None else ""
    msg = f"{name} (sha256 {digest[:_HASHED]}…) is not below {places}{why}; give its folder with --inputs"
    raise VbmstatError(msg)


def _candidates(name: str, folders: Sequence[Path]) -> Iterator[Path]:
    base = Path(name).name
    for folder in folders:
        yield folder / name
    others = []
    for path in (path for folder in folders for path in files_below(folder, skip_unreadable=True)):
        if path.name == base:
            yield path  # before the next folder is walked, which may be a whole disk
        elif path.suffix == Path(base).suffix:
            others.append(path)
    yield from others
