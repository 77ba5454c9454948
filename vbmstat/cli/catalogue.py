"""Everything that the program reads besides the user's data: what it is, where, and whether it is genuine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from vbmstat.assets import ASSETS, distribution_file, downloads, sha256
from vbmstat.errors import AssetError
from vbmstat.preproc.networks.weights import SHIPPED, shipped_folder
from vbmstat.roi import atlas
from vbmstat.tables.cohort import closest


@dataclass(frozen=True)
class Entry:
    """One file that the program knows.

    Attributes
    ----------
    name : str
        ``template``, ``network-segmentation``, ``lpba40``, ``deepmriprep/warp_model.pt``.
    kind : str
        ``asset``, ``atlas`` or ``weights``.
    path : Path
        Where it is, or would be.
    sha256 : str
        What its content must have; empty for weights that were never fetched.
    licence, source : str
        What its makers allow, and where it comes from.
    """

    name: str
    kind: str
    path: Path
    sha256: str
    licence: str
    source: str

    @property
    def state(self) -> str:
        """``installed`` or ``fetched``; ``missing``; ``not fetched``."""
        is_fetched = self.kind == "weights"
        if self.path.is_file() and self.sha256:
            return "fetched" if is_fetched else "installed"
        return "not fetched" if is_fetched and not self.sha256 else "missing"

    @property
    def size_bytes(self) -> int | None:
        """Size on the disk; None if it is not there."""
        return self.path.stat().st_size if self.path.is_file() else None


def entries(names: Iterable[str] = ()) -> list[Entry]:
    """What the program knows, in the order assets, atlases, weights.

    Parameters
    ----------
    names : iterable of str
        Only these; the name of a set of weights stands for its files. All by default.

    Raises
    ------
    AssetError
        If a name is unknown, or a package is not installed.
    """
    known = [*_assets(), *_networks(), *_atlases(), *_weights()]
    wanted = list(names)
    for name in wanted:
        if not any(name in (entry.name, entry.name.split("/")[0]) for entry in known):
            near = closest(name, [entry.name.split("/")[0] for entry in known])
            hint = f"; did you mean {near}?" if near else ""
            msg = f"expected the name of an asset, as 'vbmstat assets list' gives them, got {name!r}{hint}"
            raise AssetError(msg)
    return [e for e in known if not wanted or e.name in wanted or e.name.split("/")[0] in wanted]


def problem(entry: Entry) -> str:
    """What is wrong with a file; empty if its content is what it should be."""
    if entry.state in ("missing", "not fetched"):
        return entry.state
    digest = sha256(entry.path)
    return "" if digest == entry.sha256 else f"sha256 {digest} differs from {entry.sha256}"


def path(name: str) -> Path:
    """File of an asset or atlas, or folder of a set of weights, after comparing every sha256.

    Raises
    ------
    AssetError
        If the name is unknown, something is not there, or its content is not what it should be.
    """
    if name in downloads.WEIGHTS:
        return downloads.weights_folder(name)
    (entry,) = entries([name])
    wrong = problem(entry)
    if wrong:
        msg = f"{entry.path}: {wrong}; fetch it again (vbmstat assets fetch) or install the tested version"
        raise AssetError(msg)
    return entry.path


def _assets() -> list[Entry]:
    return [
        Entry(a.name, "asset", distribution_file(a.distribution, a.path), a.sha256, a.licence, _wheel(a.distribution))
        for a in ASSETS.values()
    ]


def _networks() -> list[Entry]:
    return [
        Entry(f"network-{Path(file).stem}", "asset", shipped_folder() / file, digest, "BSD-3-Clause", "vbmstat itself")
        for file, digest in SHIPPED.items()
    ]


def _atlases() -> list[Entry]:
    return [
        Entry(name, "atlas", distribution_file(atlas.DISTRIBUTION, f"{atlas.FOLDER}/{known.stem}.nii.gz"),
              known.sha256, known.licence, _wheel(atlas.DISTRIBUTION))
        for name, known in atlas.SOURCES.items()
    ]  # fmt: skip


def _weights() -> list[Entry]:
    found = []
    for weights in downloads.WEIGHTS.values():
        folder = downloads.cache_folder() / weights.name
        recorded = downloads.read_record(folder)
        for file in weights.files:
            entry = recorded.get(file, {})
            digest = weights.known_sha256.get(file) or entry.get("sha256", "")
            source = str(entry.get("source", weights.sources[0]))
            found.append(Entry(f"{weights.name}/{file}", "weights", folder / file, digest, weights.licence, source))
    return found


def _wheel(distribution: str) -> str:
    return f"{distribution} {metadata.version(distribution)} (PyPI)"
