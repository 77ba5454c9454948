"""Network weights that no wheel carries: fetched once, by pooch, into a cache folder that machines may share.

This is the only module that opens a connection, and only in :func:`fetch`. A file without a pinned sha256 is trusted
at its first download, and `fetch` says so; after that its recorded sha256 counts. Files are written atomically.
Of several processes one downloads while the others wait. Over 300 lines: each file is verified where it arrives.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vbmstat.assets import distribution_file, sha256
from vbmstat.errors import AssetError
from vbmstat.image.storage import read_json, write_json
from vbmstat.progress import OnStep, ignore

if TYPE_CHECKING:
    from pooch import Pooch

FOLDER_VARIABLE, OFFLINE_VARIABLE = "VBMSTAT_ASSETS", "VBMSTAT_OFFLINE"
RECORD = "fetched.json"  # in the folder of a set: sha256, size and source of each file
_TIMEOUT_S = (4.0, 10.0)  # for any source to answer; between two packets
_RETRIES = 1  # of a file whose transfer broke off, by pooch, before the next source is asked
_WEB, _PORTS = ("http://", "https://"), {"http": 80, "https": 443}
_HEADERS = {"Accept": "application/vnd.github.raw+json, application/octet-stream, */*"}
_TORCH_MAGIC = (b"PK\x03\x04", b"\x80\x02\x8a\x0a")  # torch writes zip archives; before 1.6, pickles
_FILE_MODE = 0o644  # pooch's temporary files are private to their owner, a cache may be shared


@dataclass(frozen=True)
class WeightSet:
    """Weights of networks that belong together."""

    name: str  # of the set and of its folder in the cache
    files: tuple[str, ...]
    sources: tuple[str, ...]  # web addresses to which a file name is appended, the preferred one first
    installed: tuple[str, str]  # distribution and folder in which another program may have put the same files
    licence: str
    # pinned sha256 of files; a file without one is trusted at its first download
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
    ),
    "deep-t1-wmh": WeightSet(
        "deep-t1-wmh",
        ("params_finalwide_train7500.pt",),
        (
            "https://raw.githubusercontent.com/bthyreau/deep-T1-WMH/HEAD/torchparams/",
            "https://api.github.com/repos/bthyreau/deep-T1-WMH/contents/torchparams/",
        ),
        ("deepwmh", "torchparams"),
        "MIT (deep-T1-WMH)",
    ),
}  # fmt: skip


def cache_folder() -> Path:
    """Folder of all fetched files: ``VBMSTAT_ASSETS``, else the user's cache folder."""
    given = os.environ.get(FOLDER_VARIABLE)
    if given:
        return Path(given)
    import pooch  # noqa: PLC0415 - only where it is needed

    return Path(pooch.os_cache("vbmstat"))


def weight_set(name: str) -> WeightSet:
    """A set of weights by its name."""
    if name not in WEIGHTS:
        msg = f"expected weights of {', '.join(WEIGHTS)}, got {name!r}; the other assets come with pip"
        raise AssetError(msg)
    return WEIGHTS[name]


def weights_folder(name: str) -> Path:
    """Folder with all files of a set of weights; the sha256 of each is compared once per process.

    Raises
    ------
    AssetError
        If there is no such set, a file was not fetched, or its content is not that of its first download.
    """
    return _verified_folder(name, cache_folder() / name)


def _verify(name: str, folder: Path) -> Path:
    for file, expected in _expected_sha256(weight_set(name), folder).items():
        path = folder / file
        if expected is None or not path.is_file():
            msg = (
                f"{path}: not fetched; run 'vbmstat assets fetch {name}' where there is internet, "
                f"and set {FOLDER_VARIABLE} to a folder that this machine can read"
            )
            raise AssetError(msg)
        digest = sha256(path)
        if digest != expected:
            msg = (
                f"{path}: sha256 {digest[:12]}… differs from the recorded {expected[:12]}…; the file is damaged or was "
                f"replaced: fetch again ('vbmstat assets fetch {name}')"
            )
            raise AssetError(msg)
    return folder


_verified_folder = cache(_verify)


def weights_sha256(name: str) -> dict[str, str]:
    """Recorded sha256 of each file of a set, for the provenance of outputs; empty if nothing is fetched."""
    return {file: entry["sha256"] for file, entry in sorted(read_record(cache_folder() / name).items())}


def read_record(folder: Path) -> dict[str, dict[str, Any]]:
    """sha256, bytes and source of each fetched file; empty if none was fetched."""
    try:
        content = read_json(folder / RECORD)["files"]
        return {str(file): {**entry, "sha256": str(entry["sha256"])} for file, entry in content.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{folder / RECORD}: cannot be read ({type(error).__name__}); delete {folder} and fetch again"
        raise AssetError(msg) from error


def _expected_sha256(weights: WeightSet, folder: Path) -> dict[str, str | None]:
    """Pinned or recorded sha256 of each file; None for one never seen."""
    recorded = read_record(folder)
    return {file: weights.known_sha256.get(file) or recorded.get(file, {}).get("sha256") for file in weights.files}


def fetch(name: str, source: str | None = None, *, offline: bool = False, report: OnStep = ignore) -> Path:
    """Bring all files of a set of weights into the cache; a complete cache is only read.

    Parameters
    ----------
    name : str
        One of `WEIGHTS`.
    source : str, optional
        A folder, or a web address to which file names are appended, in place of the known ones.
    offline : bool
        Open no connection, as with the environment variable ``VBMSTAT_OFFLINE``.
    report : callable
        Called with one line per file.

    Returns
    -------
    Path
        The set's folder.

    Raises
    ------
    AssetError
        If the set or source is unknown, no source delivers, a content differs from the pinned or recorded one, or the
        cache cannot be written to.
    """
    from filelock import FileLock, Timeout  # noqa: PLC0415 - only where it is needed

    weights, folder = weight_set(name), cache_folder() / name
    with suppress(AssetError):  # a file is missing or damaged
        return _verify(name, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", mode=0o666)  # released when its process ends, however that happens
        try:
            held = lock.acquire(timeout=1)
        except Timeout:
            report(f"another process is filling {folder}; waiting for it")
            held = lock.acquire()
        with held:
            with suppress(AssetError):  # unless another process has filled it meanwhile
                return _verify(name, folder)
            _fill(weights, folder, _places(weights, folder, source, offline or _is_offline()), report)
    except (OSError, NotImplementedError) as error:
        msg = (
            f"{folder}: files are missing, and it cannot be written to ({error}); "
            f"set {FOLDER_VARIABLE} to another folder, or fetch as its owner"
        )
        raise AssetError(msg) from error
    return folder


def _is_offline() -> bool:
    return os.environ.get(OFFLINE_VARIABLE, "").lower() not in ("", "0", "false", "no")


def _places(weights: WeightSet, folder: Path, source: str | None, offline: bool) -> list[str]:
    """Folders and addresses to fetch from, in order, each ending with a slash."""
    if source is not None and not source.startswith(_WEB):
        if not Path(source).is_dir():
            msg = f"--source {source}: expected a folder with {weights.files[0]} …, or an address http(s)://…"
            raise AssetError(msg)
        return [f"{source}/"]
    if source is None:
        with suppress(AssetError):  # another program has not downloaded them
            distribution, inside = weights.installed
            installed = [distribution_file(distribution, f"{inside}/{file}") for file in weights.files]
            return [f"{installed[0].parent}/"]
    if offline:
        n_missing = sum(not (folder / file).is_file() for file in weights.files)
        if n_missing:
            msg = f"{weights.name}: {n_missing} files are not in the cache, and {OFFLINE_VARIABLE} or --offline is set"
            raise AssetError(msg)
        return [f"{folder}/"]
    return [source.rstrip("/") + "/"] if source is not None else list(weights.sources)


def _fill(weights: WeightSet, folder: Path, places: Sequence[str], report: OnStep) -> None:
    """Fetch what is missing or damaged from the first place that delivers; record what is there."""
    import pooch  # noqa: PLC0415 - only where it is needed
    import requests  # noqa: PLC0415

    pooch.get_logger().setLevel("WARNING")  # `report` says it
    for stale in folder.glob("tmp*"):  # pooch's, of a process that was killed
        stale.unlink()
    reasons = []
    silent = _silent([place for place in places if place.startswith(_WEB)])
    for place in places:
        if place in silent:
            reasons.append(f"{urlsplit(place).hostname}: no answer")
            continue
        registry = _expected_sha256(weights, folder)
        source = pooch.Pooch(folder.absolute(), place, registry, retry_if_failed=_RETRIES)
        try:
            for file in weights.files:
                _bring(source, file, report)
        except (requests.RequestException, FileNotFoundError, ConnectionError) as error:
            reasons.append(f"{urlsplit(place).hostname or place}: {_reason(error)}")
        except ValueError as error:
            msg = f"{place}: {error} Give another --source, or delete {folder} to trust anew"
            raise AssetError(msg) from error
        else:
            return
    msg = (
        f"{weights.name}: cannot be fetched ({'; '.join(reasons)}); fetch where there is internet and set "
        f"{FOLDER_VARIABLE} to that folder, or give --source"
    )
    raise AssetError(msg)


def _silent(addresses: Sequence[str]) -> set[str]:
    """Addresses whose host does not answer in time, however many machines share its name; proxies are not tested."""
    from requests.utils import get_environ_proxies  # noqa: PLC0415 - only where it is needed

    answered: dict[str, threading.Event] = {a: threading.Event() for a in addresses if not get_environ_proxies(a)}
    for address, event in answered.items():
        threading.Thread(target=_knock, args=(address, event), daemon=True).start()
    end = time.monotonic() + _TIMEOUT_S[0]
    return {address for address, event in answered.items() if not event.wait(max(end - time.monotonic(), 0))}


def _knock(address: str, answered: threading.Event) -> None:
    """Connect to a host; a refusal is an answer, too, which the download will report."""
    parts = urlsplit(address)
    with suppress(OSError), socket.create_connection((parts.hostname, parts.port or _PORTS[parts.scheme])):
        pass
    answered.set()


def _bring(source: Pooch, file: str, report: OnStep) -> None:
    """Let pooch fetch one file unless the right one is there, and record it."""
    action = source.fetch(file, processor=lambda _path, action, _pooch: action, downloader=_transfer)
    folder, expected = Path(source.path), source.registry[file]
    recorded = read_record(folder)
    if action == "fetch" and file in recorded:
        return
    path, place = folder / file, "a copy put there by hand" if action == "fetch" else source.base_url
    _check_archive(path, str(path))
    digest, size = sha256(path), path.stat().st_size
    recorded[file] = {"sha256": digest, "bytes": size, "source": place}
    write_json(folder / RECORD, {"files": dict(sorted(recorded.items()))})
    trust = "as expected" if expected else "first seen, trusted from now on"
    report(f"{file}: {size / 1e6:.1f} MB from {place}, sha256 {digest} ({trust})")


def _transfer(url: str, target: str, _: object) -> None:
    """Download or copy a file to pooch's temporary path; pooch compares its hash before it gets its name."""
    import requests  # noqa: PLC0415 - only where it is needed
    from pooch import HTTPDownloader  # noqa: PLC0415

    if url.startswith(_WEB):
        download = HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=_TIMEOUT_S, headers=_HEADERS)
        try:
            download(url, target, None)
        except requests.ConnectionError as error:  # pooch would ask in vain again
            raise ConnectionError(_reason(error)) from error
    else:
        shutil.copyfile(url, target)
    _check_archive(Path(target), url)
    Path(target).chmod(_FILE_MODE)


def _check_archive(path: Path, origin: str) -> None:
    """Refuse what torch did not write, such as the login page of a proxy."""
    with path.open("rb") as stream:
        if stream.read(4) not in _TORCH_MAGIC:
            msg = f"{origin}: not a torch file ({path.stat().st_size} bytes); give another --source"
            raise AssetError(msg)


def _reason(error: Exception) -> str:
    """Why a source did not deliver, in a few words: the last clause of the nested messages of a failed request."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP {response.status_code}"
    if isinstance(error, FileNotFoundError):
        return f"no file {error.filename}"
    if "timed out" in str(error):
        return "no answer"
    cause = error.args[0] if error.args else error
    return str(getattr(cause, "reason", cause)).rsplit(": ", 1)[-1]
