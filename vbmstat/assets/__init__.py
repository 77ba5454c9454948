"""Templates and network weights from installed wheels, checked against pinned sha256.

The `classic` engine reads all its files from the `deepmriprep` and `deepbet` wheels (both MIT) and downloads nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from vbmstat.errors import AssetError
from vbmstat.image import io
from vbmstat.image.volume import Volume

_TEMPLATES = "deepmriprep/data/templates"


@dataclass(frozen=True)
class Asset:
    """A file in a wheel: its distribution on PyPI, path inside it, pinned sha256 and licence."""

    name: str
    distribution: str
    path: str
    sha256: str
    licence: str


ASSETS = {
    asset.name: asset
    for asset in (
        Asset(
            "template",
            "deepmriprep",
            f"{_TEMPLATES}/Template_4_GS.nii.gz",
            "9932604e631352f5e3dd2146b7059c5e2176610e4ae5efd3c3e4759b4c2cc12f",
            "MIT (deepmriprep), GPL-2 (CAT12)",
        ),
        Asset(
            "template-brain",
            "deepmriprep",
            f"{_TEMPLATES}/Template_05mm_bet.nii.gz",
            "7d96889867d29803021a276ba54c0225534266730c5f5348a1ea78ee2d6e62c1",
            "MIT (deepmriprep)",
        ),
        Asset(
            "deepbet-box",
            "deepbet",
            "data/models/bbox_model.pt",
            "39a7b2b5f799faa1391ea97bfcdc0b9299f20d84f2316a4ff8918dc4685e40aa",
            "MIT (deepbet)",
        ),
        Asset(
            "deepbet-brain",
            "deepbet",
            "data/models/model.pt",
            "de8ee7c69654d0dd3935dc4a5d84571d8ecf4637a6bfc01df399c4c2bc86e0fd",
            "MIT (deepbet)",
        ),
    )
}


def distribution_file(distribution: str, path: str) -> Path:
    """Path of a file inside an installed distribution.

    Raises
    ------
    AssetError
        If the distribution is not installed or lacks the file.
    """
    try:
        located = Path(str(metadata.distribution(distribution).locate_file(path)))
    except metadata.PackageNotFoundError as error:
        msg = f"{path}: expected in the package {distribution}, which is not installed; pip install {distribution}"
        raise AssetError(msg) from error
    if not located.is_file():
        msg = f"{located}: missing from package {distribution}; pip install --force-reinstall {distribution}"
        raise AssetError(msg)
    return located


@cache
def asset_path(name: str) -> Path:
    """Path of a known asset; its sha256 is compared once per process.

    Raises
    ------
    AssetError
        If the name is unknown, the file is missing, or its sha256 is not the pinned one.
    """
    if name not in ASSETS:
        msg = f"expected the name of an asset ({', '.join(ASSETS)}), got {name!r}"
        raise AssetError(msg)
    asset = ASSETS[name]
    path = distribution_file(asset.distribution, asset.path)
    digest = sha256(path)
    if digest != asset.sha256:
        msg = (
            f"{path}: sha256 {digest[:12]}… differs from the tested {asset.sha256[:12]}…; "
            f"install the tested version of {asset.distribution} (constraints.txt)"
        )
        raise AssetError(msg)
    return path


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@cache
def template() -> Volume:
    """GM and WM of CAT12's ``Template_4_GS``: (2, 113, 137, 113), RAS+, 1.5 mm, MNI152NLin2009cAsym.

    Notes
    -----
    The file's third channel is max(1 - GM - WM, 0), which is CSF and background together.
    """
    return io.read_channels(asset_path("template"), n_channels=2)


@cache
def template_brain() -> Volume:
    """Average skull-stripped T1w image, (1, 339, 411, 339), RAS+, 0.5 mm, intensities 0 to 1."""
    return io.read_volume(asset_path("template-brain"))
