"""Sets of trained networks: the published ones (TorchScript), and this project's own (safetensors).

A TorchScript archive contains code that runs on loading. It is loaded only if its sha256 is on record;
``vbmstat assets fetch deepmriprep`` records it on first download, or from a local folder that the user trusts
(``--source FOLDER``). safetensors files hold only numbers.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from vbmstat import assets
from vbmstat.assets import downloads
from vbmstat.assets.tensors import read_tensors, unreadable, write_tensors
from vbmstat.errors import AssetError
from vbmstat.preproc.networks.cascade import TissueNetworks
from vbmstat.preproc.networks.multilevel import MultilevelActivation
from vbmstat.preproc.networks.patches import N_NETWORKS, Position, with_right_side
from vbmstat.preproc.networks.symnet import SymNet
from vbmstat.preproc.networks.unet import DEPTH, N_CHANNELS, UNet

PUBLISHED, OWN = "deepmriprep", "vbmstat"
_WHOLE, _PATCH, _MASK, _WARP = (
    "segmentation_model.pt", "segmentation_patch_{}_model.pt", "segmentation_nogm_model.pt", "warp_model.pt",
)  # fmt: skip
_POSITIONS = ("deepmriprep", "deepmriprep/data/patches.csv")  # in the wheel
_POSITIONS_SHA256 = "37608721c19a18373c5ae2020bc31b00cbccebd7e4d1430a8e78197e72b9d8fd"
SHIPPED = {  # sha256 of this project's networks in the package
    "segmentation.safetensors": "d7cddc6c575f4c98eecc895cf1418a9b801036c5b95dd7116cb3865feaefc2a7",
    "registration.safetensors": "9d19641e70319ae2c2bdbcb4b898df78115ec3e69f153ee0a94c594c4b3314b8",
}
N_LESION_INPUTS = 6  # of the network that proposes hypointensities: intensity, two priors, position


_N = TypeVar("_N", bound=nn.Module)


@dataclass(frozen=True)
class NetworkSet:
    """Trained networks and their hashes.

    Attributes
    ----------
    tissue : TissueNetworks
        The cascade.
    warp : Module, optional
        Network for :func:`vbmstat.preproc.networks.symnet.predict`.
    refine_warp : bool
        Whether its velocity is refined by optimisation instead of used directly.
    sha256 : dict
        File name -> hash.
    warp_shape : tuple of three ints, optional
        Shape of the view that the warp's network sees, if it is not the template's own grid.
    """

    tissue: TissueNetworks
    warp: nn.Module | None
    refine_warp: bool
    sha256: Mapping[str, str]
    warp_shape: tuple[int, int, int] | None = None


def find_set(name: str, device: torch.device | str = "cpu") -> NetworkSet:
    """Load networks by name or from a folder.

    Parameters
    ----------
    name : str
        ``deepmriprep`` (fetched by ``vbmstat assets fetch deepmriprep``), ``vbmstat`` (shipped with this package), or
        a folder with files of either kind.
    device : torch.device or str
        Where the networks run.

    Raises
    ------
    AssetError
        If the set is incomplete, an archive's hash is not on record, or a file is unreadable or has changed.
    """
    if name == PUBLISHED:
        return _published_set(downloads.weights_folder(PUBLISHED), torch.device(device))
    if name == OWN:
        return _shipped_set(torch.device(device))
    folder = Path(name)
    if own_file(folder, "segmentation").is_file():
        return _own_set(folder, torch.device(device))
    if (folder / _WHOLE).is_file():
        return _published_set(folder, torch.device(device))
    msg = (
        f"--weights {name}: expected {PUBLISHED}, {OWN} or a folder with {_WHOLE} … or segmentation.safetensors; "
        f"{f'{folder} has neither' if folder.is_dir() else f'there is no folder {folder}'}"
    )
    raise AssetError(msg)


def is_published(name: str) -> bool:
    """Whether a set, or the one in a folder, is the published one; nothing is loaded."""
    return name == PUBLISHED or (name != OWN and (Path(name) / _WHOLE).is_file())


def shipped_folder() -> Path:
    """Folder of this project's networks in the package."""
    return Path(str(resources.files("vbmstat") / "weights"))


def own_file(folder: Path, kind: str, index: int | None = None) -> Path:
    """Path of one of this project's networks in a folder."""
    return folder / (f"{kind}.safetensors" if index is None else f"{kind}-{index:02d}.safetensors")


def build_network(kind: str, settings: Mapping[str, Any]) -> nn.Module:
    """A network with random weights.

    Parameters
    ----------
    kind : {"segmentation", "patches", "gm-mask", "registration", "wmh"}
    settings : dict
        ``n_channels`` and ``depth`` of the UNet; the paper's by default.
    """
    n_channels, depth = int(settings.get("n_channels", N_CHANNELS)), int(settings.get("depth", DEPTH))
    if kind == "registration":
        return SymNet(2, n_channels, depth)
    if kind == "gm-mask":
        return UNet(1, 2, n_channels, depth)
    if kind == "wmh":
        return UNet(N_LESION_INPUTS, 1, n_channels, depth, norm=nn.BatchNorm3d)
    return UNet(2 if kind == "patches" else 1, 1, n_channels, depth, final=MultilevelActivation())


def save_network(path: Path, network: nn.Module, kind: str, settings: Mapping[str, Any]) -> None:
    """Write a network of this project as safetensors, atomically.

    Parameters
    ----------
    path : Path
        Path from :func:`own_file`.
    network : Module
        Network from :func:`build_network`.
    kind : str
        As in :func:`build_network`.
    settings : dict
        ``n_channels`` and ``depth``; ``shape`` of the view (except for patches); ``position`` (patches); ``refine``
        (registration); and anything else worth recording.
    """
    write_tensors(path, network.state_dict(), {"kind": kind, **settings})


def load_network(path: Path, device: torch.device | str = "cpu") -> tuple[nn.Module, dict[str, Any]]:
    """Load a network written by :func:`save_network`, ready to run, and its settings.

    Raises
    ------
    AssetError
        If the file is missing, damaged or not from vbmstat.
    """
    expected = "a file written by 'vbmstat train'"
    tensors, settings = read_tensors(path, expected)
    try:
        network = build_network(settings["kind"], settings)
        network.load_state_dict(tensors)
    except (KeyError, ValueError, RuntimeError) as error:
        raise unreadable(path, error, expected) from error
    return ready(network, torch.device(device)), settings


def _shipped_set(device: torch.device) -> NetworkSet:
    networks = _own_set(shipped_folder(), device)
    if networks.sha256 != SHIPPED:
        changed = [name for name, digest in SHIPPED.items() if networks.sha256.get(name) != digest]
        msg = f"{shipped_folder()}: {', '.join(changed)} differs from the released version; reinstall vbmstat"
        raise AssetError(msg)
    return networks


def _own_set(folder: Path, device: torch.device) -> NetworkSet:
    paths = [own_file(folder, "segmentation")]
    whole, settings = load_network(paths[0], device)
    patches, positions = [], []
    if own_file(folder, "patches", 0).is_file():
        for index in range(N_NETWORKS):
            paths.append(own_file(folder, "patches", index))
            network, patch_settings = load_network(paths[-1], device)
            patches.append(network)
            positions.append(_position(patch_settings["position"]))
        positions = with_right_side(positions)
    masks = _optional(folder, "gm-mask", device, paths)
    warps = _optional(folder, "registration", device, paths)
    tissue = TissueNetworks(
        whole, _position(settings["shape"]), tuple(patches), tuple(positions), masks[0],
        _position(masks[1]["shape"]) if masks[0] is not None else TissueNetworks.mask_shape,
    )  # fmt: skip
    hashes = {path.name: assets.sha256(path) for path in paths}
    warp_shape = _position(warps[1]["shape"]) if "shape" in warps[1] else None
    return NetworkSet(tissue, warps[0], bool(warps[1].get("refine", True)), hashes, warp_shape)


def _optional(
    folder: Path, kind: str, device: torch.device, paths: list[Path]
) -> tuple[nn.Module | None, dict[str, Any]]:
    path = own_file(folder, kind)
    if not path.is_file():
        return None, {}
    paths.append(path)
    return load_network(path, device)


def _published_set(folder: Path, device: torch.device) -> NetworkSet:
    recorded = {**downloads.weights_sha256(PUBLISHED), **_recorded_beside(folder)}
    sha256: dict[str, str] = {}

    def load(file: str) -> nn.Module:
        network, sha256[file] = _load_torchscript(folder / file, recorded.get(file), device)
        return network

    patches = tuple(load(_PATCH.format(index)) for index in range(N_NETWORKS))
    tissue = TissueNetworks(load(_WHOLE), patches=patches, positions=published_positions(), gm_mask=load(_MASK))
    return NetworkSet(tissue, load(_WARP), False, sha256)


def _recorded_beside(folder: Path) -> dict[str, str]:
    return {file: str(entry["sha256"]) for file, entry in downloads.read_record(folder).items()}


def _load_torchscript(path: Path, expected: str | None, device: torch.device) -> tuple[nn.Module, str]:
    """Load a network from exactly the bytes whose hash was checked; return it and the hash."""
    try:
        content = path.read_bytes()
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror}); a set consists of {N_NETWORKS + 3} files"
        raise AssetError(msg) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected:
        known = f"differs from the recorded {expected[:12]}…" if expected else "is not recorded"
        msg = (
            f"{path}: its sha256 {digest[:12]}… {known}, and TorchScript files run code; if you trust these files, run "
            f"vbmstat assets fetch {PUBLISHED} --source {path.parent} and use --weights {PUBLISHED}"
        )
        raise AssetError(msg)
    with warnings.catch_warnings():  # torch deprecates TorchScript
        warnings.filterwarnings("ignore", r"`torch\.jit\.load`", DeprecationWarning)
        network = torch.jit.load(BytesIO(content), map_location=device)
    return ready(network, device), digest


def ready(network: _N, device: torch.device) -> _N:
    """A network that only predicts, on a device."""
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    network.eval().to(device=device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return network


def published_positions() -> tuple[Position, ...]:
    """First voxels of the 27 patches on which the published networks were trained.

    Raises
    ------
    AssetError
        If the installed deepmriprep has another list than the one tested with vbmstat.
    """
    path = assets.distribution_file(*_POSITIONS)
    if assets.sha256(path) != _POSITIONS_SHA256:
        msg = f"{path}: not the patches tested with vbmstat; install the deepmriprep version in constraints.txt"
        raise AssetError(msg)
    lines = path.read_text(encoding="ascii").split()[1:]
    return tuple(_position([int(number) for number in line.split(",")]) for line in lines)


def _position(numbers: list[int]) -> Position:
    x, y, z = (int(number) for number in numbers)
    return x, y, z
