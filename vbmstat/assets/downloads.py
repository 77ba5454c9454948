"""Network weights that no wheel carries: fetched once into a cache folder that processes and machines may share.

The only module that opens a connection, and only in :func:`fetch`. A file whose sha256 is not known beforehand is
trusted at its first download (said aloud); from then on the recorded sha256 counts. Files appear whole or not at all,
and of several processes one downloads while the others wait.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vbmstat.assets import distribution_file, sha256
from vbmstat.errors import AssetError, VbmstatError
from vbmstat.image.storage import atomic_path, write_json

FOLDER_VARIABLE, OFFLINE_VARIABLE = "VBMSTAT_ASSETS", "VBMSTAT_OFFLINE"
RECORD = "fetched.json"  # in the folder of a set: sha256, size and source of each file
_ANSWER_S = 4.0  # a source that has not answered by then is out of reach, whatever keeps it (name, route, server)
_STALL_S = 20.0  # without a byte, in the middle of a file
_HEADERS = {"Accept": "application/vnd.github.raw+json, application/octet-stream, */*"}
_TORCH_MAGIC = b"PK\x03\x04"  # what torch writes are zip archives
_NO_HEAD = (405, 501)  # servers that know no HEAD do answer


@dataclass(frozen=True)
class WeightSet:
    """Weights of networks that belong together.

    Attributes
    ----------
    name : str
        Of the set, and of its folder in the cache.
    files : tuple of str
        File names.
    sources : tuple of str
        Web addresses to which a file's name is appended, the preferred one first.
    installed : (str, str)
        Distribution and folder in which another program may have put the same files.
    licence : str
        What their makers allow.
    known_sha256 : mapping of str to str
        Of files whose content is known beforehand.
    """

    name: str
    files: tuple[str, ...]
    sources: tuple[str, ...]
    installed: tuple[str, str]
    licence: str
    known_sha256: Mapping[str, str] = field(default_factory=dict)


WEIGHTS = {
    "deepmriprep": WeightSet(
        "deepmriprep",
        (
            "segmentation_model.pt", *(f"segmentation_patch_{i}_model.pt" for i in range(18)),
            "segmentation_nogm_model.pt", "warp_model.pt",
        ),
        (
            "https://raw.githubusercontent.com/wwu-mmll/deepmriprep/main/deepmriprep/data/models/",
            "https://api.github.com/repos/wwu-mmll/deepmriprep/contents/deepmriprep/data/models/",
        ),
        ("deepmriprep", "deepmriprep/data/models"),
        "MIT (deepmriprep)",
    )
}  # fmt: skip


def cache_folder() -> Path:
    """Folder of all fetched files: ``VBMSTAT_ASSETS``, else the user's cache folder."""
    given = os.environ.get(FOLDER_VARIABLE)
    if given:
        return Path(given)
    import pooch  # noqa: PLC0415 - only where it is needed

    return Path(pooch.os_cache("vbmstat"))


def weights_folder(name: str) -> Path:
    """Folder with all files of a set of weights, after the sha256 of each was compared once in this process.

    Raises
    ------
    AssetError
        If there is no such set, a file was not fetched, or its content is not that of its first download.
    """
    return _checked_folder(name, cache_folder())


@cache
def _checked_folder(name: str, root: Path) -> Path:
    weights, folder = weight_set(name), root / name
    recorded = read_record(folder)
    for file in weights.files:
        if not _is_complete(folder, file, recorded):
            msg = (
                f"{folder / file}: not fetched; run 'vbmstat assets fetch {name}' where there is internet, "
                f"and set {FOLDER_VARIABLE} to a folder that this machine can read"
            )
            raise AssetError(msg)
        _compare(folder / file, sha256(folder / file), _expected(weights, file, recorded))
    return folder


def weights_sha256(name: str) -> dict[str, str]:
    """Recorded sha256 of each file of a set, for the record of what made an output; empty if nothing is fetched."""
    return {file: entry["sha256"] for file, entry in sorted(read_record(cache_folder() / name).items())}


def fetch(
    name: str, source: str | None = None, *, offline: bool = False, tell: Callable[[str], None] = lambda _: None
) -> Path:
    """Bring all files of a set of weights into the cache; nothing happens where they are there already.

    Parameters
    ----------
    name : str
        One of `WEIGHTS`.
    source : str, optional
        A folder, or a web address to which file names are appended, in place of the known ones.
    offline : bool
        Open no connection, as with the environment variable ``VBMSTAT_OFFLINE``.
    tell : callable
        Told a line about every file.

    Returns
    -------
    Path
        The set's folder.

    Raises
    ------
    AssetError
        If the set or source is unknown, no source answers within a few seconds, a content differs from the recorded
        one, or the cache cannot be written to.
    """
    weights, folder = weight_set(name), cache_folder() / name
    if _lacks(weights, folder):  # a complete cache is only read, and may be read-only
        with _locked(folder, tell):
            for partial_file in folder.glob(".partial-*"):  # of a process that was killed
                partial_file.unlink()
            _adopt(weights, folder, tell)
            missing = _lacks(weights, folder)
            places = _sources(weights, source, offline or _is_offline(), missing) if missing else []
            for file in missing:
                _bring(weights, folder, file, places, tell)
    return weights_folder(name)


def weight_set(name: str) -> WeightSet:
    """A set of weights by its name."""
    if name not in WEIGHTS:
        msg = f"expected weights of {', '.join(WEIGHTS)}, got {name!r}; the other assets come with pip"
        raise AssetError(msg)
    return WEIGHTS[name]


def read_record(folder: Path) -> dict[str, dict[str, Any]]:
    """sha256, bytes and source of each file that was fetched; empty if nothing was."""
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))["files"]
        return {str(file): {**entry, "sha256": str(entry["sha256"])} for file, entry in content.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{folder / RECORD}: cannot be read ({type(error).__name__}); delete {folder} and fetch again"
        raise AssetError(msg) from error


def _lacks(weights: WeightSet, folder: Path) -> list[str]:
    recorded = read_record(folder)
    return [file for file in weights.files if not _is_complete(folder, file, recorded)]


def _is_complete(folder: Path, file: str, recorded: Mapping[str, Any]) -> bool:
    return file in recorded and (folder / file).is_file()


def _expected(weights: WeightSet, file: str, recorded: Mapping[str, Any]) -> str | None:
    return weights.known_sha256.get(file) or recorded.get(file, {}).get("sha256")


def _compare(path: Path, digest: str, expected: str | None) -> None:
    if expected is not None and digest != expected:
        msg = (
            f"{path}: sha256 {digest[:12]}… differs from the recorded {expected[:12]}…; the file is damaged or was "
            f"exchanged: delete it and fetch again, or delete {path.parent} to trust anew"
        )
        raise AssetError(msg)


@contextmanager
def _locked(folder: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """One process at a time; the lock goes with its process, however that ends."""
    from filelock import FileLock, Timeout  # noqa: PLC0415 - only where it is needed

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", mode=0o666)
        try:
            lock.acquire(timeout=1)
        except Timeout:
            tell(f"another process is filling {folder}; waiting for it")
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        msg = (
            f"{folder}: files are missing there, and it cannot be written to ({reason}); "
            f"set {FOLDER_VARIABLE} to another folder, or fetch as its owner"
        )
        raise AssetError(msg) from error
    try:
        yield
    finally:
        lock.release()


def _adopt(weights: WeightSet, folder: Path, tell: Callable[[str], None]) -> None:
    """Record files that were put into the folder by hand."""
    for file in _lacks(weights, folder):
        if (folder / file).is_file():
            _remember(weights, folder, file, folder / file, "put there by hand", tell)


def _sources(weights: WeightSet, given: str | None, offline: bool, missing: Sequence[str]) -> list[str]:
    """Folders and addresses that can be asked, in order."""
    if given is not None and not given.startswith(("http://", "https://")):
        if not Path(given).is_dir():
            msg = f"--source {given}: expected a folder with {weights.files[0]} …, or an address http(s)://…"
            raise AssetError(msg)
        return [given]
    local = [] if given is not None else _installed(weights, missing)
    if local:
        return local
    if offline:
        msg = f"{weights.name}: {len(missing)} files are not in the cache, and {OFFLINE_VARIABLE} or --offline is set"
        raise AssetError(msg)
    addresses = [given.rstrip("/") + "/"] if given is not None else list(weights.sources)
    return _answering(weights, addresses, missing[0])


def _installed(weights: WeightSet, missing: Sequence[str]) -> list[str]:
    """The folder in which another program keeps all of the files, if there is one."""
    distribution, folder = weights.installed
    try:
        paths = [distribution_file(distribution, f"{folder}/{file}") for file in missing]
    except AssetError:
        return []
    return [str(paths[0].parent)]


def _is_offline() -> bool:
    return os.environ.get(OFFLINE_VARIABLE, "").lower() not in ("", "0", "false", "no")


def _answering(weights: WeightSet, addresses: Sequence[str], file: str) -> list[str]:
    """Addresses without those that refuse, in the order given; at least one has answered.

    Each is asked in a thread that nobody waits for: looking up a name can take half a minute and knows no time limit.
    """
    answers: queue.Queue[tuple[str, str]] = queue.Queue()
    for address in addresses:
        threading.Thread(target=_ask, args=(address, file, answers), daemon=True).start()
    told: dict[str, str] = {}
    end = time.monotonic() + _ANSWER_S
    while len(told) < len(addresses) and told.get(addresses[0]) != "":
        try:
            address, reason = answers.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            break
        told[address] = reason
    if "" in told.values():
        return [address for address in addresses if not told.get(address)]  # those not heard of yet, too
    reasons = (f"{urlsplit(a).hostname}: {told.get(a, f'no answer in {_ANSWER_S:g} s')}" for a in addresses)
    msg = (
        f"{weights.name}: cannot be fetched ({'; '.join(reasons)}); fetch where there is internet and set "
        f"{FOLDER_VARIABLE} to that folder, or give --source"
    )
    raise AssetError(msg)


def _ask(address: str, file: str, answers: queue.Queue[tuple[str, str]]) -> None:
    import requests  # noqa: PLC0415 - only where it is needed

    try:
        response = requests.head(address + file, headers=_HEADERS, timeout=_ANSWER_S, allow_redirects=True)
        good = response.ok or response.status_code in _NO_HEAD
        answers.put((address, "" if good else f"HTTP {response.status_code}"))
    except (requests.RequestException, ValueError) as error:
        answers.put((address, _reason(error)))


def _reason(error: Exception) -> str:
    """A few words in place of the stack of messages that a failed request carries."""
    text = str(error)
    for sign, words in (
        ("NameResolution", "its name cannot be resolved"), ("Failed to resolve", "its name cannot be resolved"),
        ("refused", "connection refused"), ("unreachable", "network unreachable"), ("timed out", "no answer"),
        ("SSL", "its certificate cannot be trusted"), ("Proxy", "the proxy does not let us through"),
        ("IncompleteRead", "the connection broke off"),
    ):  # fmt: skip
        if sign in text:
            return words
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"HTTP {status}" if status else type(error).__name__


def _bring(weights: WeightSet, folder: Path, file: str, places: Sequence[str], tell: Callable[[str], None]) -> None:
    """One file from the first place that gives it whole."""
    import requests  # noqa: PLC0415 - only where it is needed

    for last, place in ((place == places[-1], place) for place in places):
        try:
            with atomic_path(folder / file) as temporary:
                _transfer(place, file, temporary)
                # recorded before it gets its name: what lies there under its name is always recorded
                _remember(weights, folder, file, temporary, place, tell)
        except (requests.RequestException, FileNotFoundError) as error:
            reason = "no such file" if isinstance(error, FileNotFoundError) else _reason(error)
            tell(f"{file}: {place}: {reason}")
            if last:
                msg = f"{file}: cannot be fetched from {place}: {reason}; try again, or give another --source"
                raise AssetError(msg) from error
        except AssetError:
            raise
        except VbmstatError as error:
            msg = f"{error}".replace("choose another --out", f"set {FOLDER_VARIABLE} to another folder")
            raise AssetError(msg) from error
        else:
            return


def _transfer(place: str, file: str, target: Path) -> None:
    """Copy or download a file."""
    if not place.startswith(("http://", "https://")):
        shutil.copyfile(Path(place) / file, target)
        return
    import pooch  # noqa: PLC0415 - only where it is needed

    download = pooch.HTTPDownloader(progressbar=False, timeout=(_ANSWER_S, _STALL_S), headers=_HEADERS)
    download(place + file, str(target), None)


def _remember(weights: WeightSet, folder: Path, file: str, path: Path, place: str, tell: Callable[[str], None]) -> None:
    """Compare a file with its recorded sha256, or record that of a file that is seen for the first time."""
    recorded, digest, size = read_record(folder), sha256(path), path.stat().st_size
    expected = _expected(weights, file, recorded)
    with path.open("rb") as stream:
        begins_well = stream.read(len(_TORCH_MAGIC)) == _TORCH_MAGIC
    if not begins_well:  # e.g. the page of a proxy that asks for a login
        msg = f"{place}: {file} is no file of torch there, but something of {size} bytes; give another --source"
        raise AssetError(msg)
    _compare(folder / file, digest, expected)
    known = "as recorded" if expected else "first seen, trusted from now on"
    recorded[file] = {"sha256": digest, "bytes": size, "source": place}
    write_json(folder / RECORD, {"files": dict(sorted(recorded.items()))})
    tell(f"{file}: {size / 1e6:.1f} MB from {place}, sha256 {digest} ({known})")
