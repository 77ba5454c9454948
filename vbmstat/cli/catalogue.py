"""Catalogue of the files that the program reads besides the user's data, and their verification."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    """One known file."""

    name: str  # ``template``, ``network-segmentation``, ``lpba40``, ``deepmriprep/warp_model.pt``
    kind: str  # ``asset``, ``atlas`` or ``weights``
    path: Path  # its location, even if it is absent
    sha256: str  # expected hash; empty for weights that were never fetched
    # licence and origin
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
        """Size on disk; None if it is absent."""
        return self.path.stat().st_size if self.path.is_file() else None


def entries(names: Iterable[str] = ()) -> list[Entry]:
    """Known files, in the order assets, atlases, weights.

    Parameters
    ----------
    names : iterable of str
        Only these; the name of a set of weights stands for its files. All by default.

    Raises
    ------
    AssetError
        If a name is unknown, or a package is not installed.
    """
    known = list(_known())
    wanted = list(names)
    for name in wanted:
        if not any(name in (entry.name, entry.name.split("/")[0]) for entry in known):
            near = closest(name, [entry.name.split("/")[0] for entry in known])
            hint = f"; did you mean {near}?" if near else ""
            msg = f"expected the name of an asset, as 'vbmstat assets list' gives them, got {name!r}{hint}"
            raise AssetError(msg)
    return [e for e in known if not wanted or e.name in wanted or e.name.split("/")[0] in wanted]


def problem(entry: Entry) -> str:
    """Problem with a file; empty if its hash is as expected."""
    if entry.state in ("missing", "not fetched"):
        return entry.state
    digest = sha256(entry.path)
    return "" if digest == entry.sha256 else f"sha256 {digest} differs from {entry.sha256}"


def path(name: str) -> Path:
    """File of an asset or atlas, or folder of a set of weights, verified by sha256.

    Raises
    ------
    AssetError
        If the name is unknown, or a file is missing or has another sha256.
    """
    if name in downloads.WEIGHTS:
        return downloads.weights_folder(name)
    (entry,) = entries([name])
    wrong = problem(entry)
    if wrong:
        msg = f"{entry.path}: {wrong}; fetch it again (vbmstat assets fetch) or install the tested version"
        raise AssetError(msg)
    return entry.path


def _known() -> Iterator[Entry]:
    for a in ASSETS.values():
        path = distribution_file(a.distribution, a.path)
        yield Entry(a.name, "asset", path, a.sha256, a.licence, _wheel(a.distribution))
    for file, digest in SHIPPED.items():
        path = shipped_folder() / file
        yield Entry(f"network-{path.stem}", "asset", path, digest, "BSD-3-Clause", "vbmstat itself")
    for name, known in atlas.SOURCES.items():
        path = distribution_file(atlas.DISTRIBUTION, f"{atlas.FOLDER}/{known.stem}.nii.gz")
        yield Entry(name, "atlas", path, known.sha256, known.licence, _wheel(atlas.DISTRIBUTION))
    image = atlas.project_file(atlas.TRACTS, f"{atlas.TRACTS}.nii.gz")
    yield Entry(atlas.TRACTS, "atlas", image, atlas.TRACTS_SHA256, atlas.TRACTS_LICENCE, "vbmstat itself")
    for weights in downloads.WEIGHTS.values():
        folder = downloads.cache_folder() / weights.name
        recorded = downloads.read_record(folder)
        for file in weights.files:
            entry = recorded.get(file, {})
            digest = weights.known_sha256.get(file) or entry.get("sha256", "")
            source = str(entry.get("source", weights.sources[0]))
            yield Entry(f"{weights.name}/{file}", "weights", folder / file, digest, weights.licence, source)


def _wheel(distribution: str) -> str:
    return f"{distribution} {metadata.version(distribution)} (PyPI)"
