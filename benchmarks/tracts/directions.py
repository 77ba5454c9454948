"""The structure tensor on phantoms whose fibres are known, against the package `structure-tensor`, and its time.

    python benchmarks/tracts/directions.py

Crossing sheets (two families of fibres that alternate), helices and tubes, 0, 3 and 9 % Rician noise, isotropic and
anisotropic voxels: median angle between the direction found and the fibre. Also: how well directions turn with a head
in another pose, agreement with `structure-tensor` of PyPI on isotropic voxels (skipped where it is missing), and
the time for a 1 mm scan. The table goes to benchmarks/results/tracts_directions.md.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from vbmstat.image import storage
from vbmstat.image.grid import Grid, apply_affine, voxel_indices
from vbmstat.image.volume import Volume
from vbmstat.simulate.render import rician
from vbmstat.tracts.structure_tensor import Widths, fibre_directions, structure_tensor

RESULTS = Path(__file__).parents[1] / "results"
WIDTHS = {
    "paper (.5, .5)": Widths(0.5, 0.5, 0.0), "and along 1": Widths(0.5, 0.5, 1.0), "and along 2": Widths(0.5, 0.5, 2.0),
    "(.5, 1)": Widths(0.5, 1.0, 0.0), "(1, 1)": Widths(1.0, 1.0, 0.0),
}  # fmt: skip
NOISE = (0.0, 3.0, 9.0)
VOXELS = {"1 mm": (1.0, 1.0, 1.0), "0.8 × 0.8 × 1.6 mm": (0.8, 0.8, 1.6)}
N = 48  # mm
WAVE_MM, CONTRAST = 5.0, 0.12  # of the texture across fibres, relative to WM
Pattern = tuple[np.ndarray, np.ndarray]  # intensity (X, Y, Z), directions (3, X, Y, Z)


def texture(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intensity that varies along two coordinates (mm) across fibres."""
    wave = 2 * np.pi / WAVE_MM
    return np.asarray(1 + CONTRAST / 2 * (np.sin(wave * first) + np.sin(wave * second + 1)))


def sheets(mm: np.ndarray) -> Pattern:
    """Sheets of 6 mm, whose fibres alternate between two directions 60° apart."""
    x, y, z = mm
    angle = np.where(np.floor(z / 6) % 2 == 0, 0.3, 0.3 + np.pi / 3)
    along = np.stack([np.cos(angle), np.sin(angle), 0 * angle])
    return texture(-np.sin(angle) * x + np.cos(angle) * y, z), along


def helices(mm: np.ndarray) -> Pattern:
    """Fibres on helices of 60 mm pitch around the z axis."""
    x, y, z = mm
    radius, phase, turn = np.hypot(x, y), np.arctan2(y, x), 2 * np.pi / 60
    along = np.stack([-turn * y, turn * x, 1 + 0 * x])
    arc = (phase - turn * z + np.pi) % (2 * np.pi) - np.pi
    waves = np.round(2 * np.pi * 12 / WAVE_MM)  # around a circle of 12 mm
    return texture(radius, waves * arc * WAVE_MM / (2 * np.pi)), along / np.linalg.norm(along, axis=0)


def tubes(mm: np.ndarray) -> Pattern:
    """Oblique bundles of 6 mm in diameter, brighter than what is around them, with a texture inside."""
    turn = Rotation.from_euler("xyz", [25, 40, 10], degrees=True).as_matrix()
    a, b, _ = np.einsum("ij,jxyz->ixyz", turn.T, mm)
    near = np.hypot((a + 5) % 10 - 5, (b + 5) % 10 - 5)
    along = np.broadcast_to(turn[:, 2].reshape(3, 1, 1, 1), mm.shape)
    return texture(a, b) - 0.25 / (1 + np.exp(-(near - 3) / 0.4)), along


PATTERNS: dict[str, Callable[[np.ndarray], Pattern]] = {"crossing sheets": sheets, "helices": helices, "tubes": tubes}


def grid_of(size: tuple[float, float, float], turn: np.ndarray | None = None) -> Grid:
    """A cube of N mm around the origin."""
    shape = tuple(round(N / mm) for mm in size)
    affine = np.diag([*size, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    if turn is not None:
        affine[:3] = turn @ affine[:3]
    return Grid(shape, affine)  # type: ignore[arg-type]


def rendered(pattern: Callable[[np.ndarray], Pattern], grid: Grid, noise: float) -> tuple[Volume, np.ndarray]:
    mm = apply_affine(grid.affine, voxel_indices(grid.shape)).double().numpy()
    intensity, along = pattern(mm)
    noisy = rician(intensity, noise / 100, np.random.default_rng(0))
    return Volume(torch.from_numpy(noisy)[None], grid), along


def angles(found: torch.Tensor, along: np.ndarray) -> np.ndarray:
    """Angle in degrees of each voxel, 6 away from the borders."""
    cosine = np.abs((found.numpy() * along).sum(0)).clip(max=1)
    inner: np.ndarray = np.degrees(np.arccos(cosine))[6:-6, 6:-6, 6:-6]
    return inner


def errors() -> str:
    head = "| phantom | voxels | noise % | " + " | ".join(WIDTHS) + " |\n" + "|---" * (3 + len(WIDTHS)) + "|\n"
    for name, pattern in PATTERNS.items():
        for voxels, size in VOXELS.items():
            for noise in NOISE:
                image, along = rendered(pattern, grid_of(size), noise)
                found = [np.median(angles(fibre_directions(image, widths).data, along)) for widths in WIDTHS.values()]
                head += f"| {name} | {voxels} | {noise:g} | " + " | ".join(f"{angle:.1f}" for angle in found) + " |\n"
    return head


def equivariance() -> str:
    """Median angle between the turned directions of a head and the directions of the turned head."""
    turn = Rotation.from_euler("xyz", [17, -24, 31], degrees=True).as_matrix()
    text = "| phantom | " + " | ".join(WIDTHS) + " |\n" + "|---" * (1 + len(WIDTHS)) + "|\n"
    for name, pattern in PATTERNS.items():
        straight, _ = rendered(pattern, grid_of((1.0, 1.0, 1.0)), 0.0)
        # The same voxels of space, sampled on axes that are turned: an image of another pose, without interpolation.
        turned, _ = rendered(pattern, grid_of((1.0, 1.0, 1.0), turn), 0.0)
        cells = []
        for widths in WIDTHS.values():
            here = fibre_directions(straight, widths).data
            there = fibre_directions(turned, widths).data
            at = np.linalg.inv(turned.grid.affine) @ straight.grid.affine
            points = apply_affine(at, voxel_indices(straight.grid.shape)).round().long()
            inside = ((points > 5) & (points < N - 6)).all(0)
            x, y, z = points[:, inside]
            cosine = (here[:, inside] * there[:, x, y, z]).sum(0).abs().clamp(max=1)
            cells.append(f"{float(torch.rad2deg(cosine.acos()).median()):.1f}")
        text += f"| {name} | " + " | ".join(cells) + " |\n"
    return text


def oracle() -> str:
    try:
        from structure_tensor import eig_special_3d, structure_tensor_3d  # noqa: PLC0415
    except ImportError:
        return "The package `structure-tensor` is not installed: not compared.\n"
    image, along = rendered(tubes, grid_of((1.0, 1.0, 1.0)), 3.0)
    values, inner = image.data[0].double().numpy(), (slice(None), *[slice(6, -6)] * 3)
    text = ""
    for sigma, rho in ((0.5, 0.5), (1.0, 1.0), (1.5, 2.0)):
        theirs = structure_tensor_3d(values, sigma, rho)
        ours = structure_tensor(image, Widths(sigma, rho)).numpy()
        ratio = ours[inner] / theirs[[2, 5, 4, 1, 3, 0]][inner]  # it names the last axis x
        _, vectors = eig_special_3d(theirs)
        angle = angles(fibre_directions(image, Widths(sigma, rho, 0.0)).data, vectors[::-1])
        text += (
            f"* ({sigma:g}, {rho:g}): ratio of tensors {np.median(ratio):.4f} (1st to 99th percentile "
            f"{np.percentile(ratio, 1):.4f} to {np.percentile(ratio, 99):.4f}), angle between directions: median "
            f"{np.median(angle):.3f}°, 99.9th percentile {np.percentile(angle, 99.9):.2f}°; error against truth "
            f"{np.median(angles(torch.from_numpy(vectors[::-1].copy()), along)):.1f}° (theirs)\n"
        )
    version = importlib.metadata.version("structure-tensor")
    return f"`structure-tensor` {version} from PyPI; a constant ratio is our gain of 1 on a ramp:\n\n{text}"


def seconds() -> str:
    """CPU time for a brain of 1.4 L in a box of 1 mm voxels."""
    shape = (150, 180, 150)
    rng = np.random.default_rng(0)
    values = 1 + 0.1 * ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), 1.0)
    at = (voxel_indices(shape) - torch.tensor(shape).reshape(3, 1, 1, 1) / 2) / torch.tensor([66, 80, 63.0]).reshape(
        3, 1, 1, 1
    )
    image = Volume(torch.from_numpy(values)[None] * (at.norm(dim=0) < 1), Grid(shape, np.eye(4)))
    cells = []
    for name, widths in list(WIDTHS.items())[:2]:
        started = time.process_time()
        fibre_directions(image, widths)
        cells.append(f"{time.process_time() - started:.1f} s {name}")
    return f"{int((image.data != 0).sum()) / 1e6:.2f} million voxels of brain at 1 mm: CPU time {', '.join(cells)}.\n"


def main() -> None:
    torch.set_num_threads(1)
    text = f"""# Directions of the structure tensor

Median angle (degrees) between direction and fibre; widths (sigma, rho) and along in voxels. Textures of {WAVE_MM:g} mm,
{CONTRAST:.0%} of WM.

{errors()}
Rotation: median angle (degrees) between the directions of an image and those of the same object on turned axes; both
hold the error of nearest voxels, whose centres are up to 0.9 mm apart.

{equivariance()}
{oracle()}
{seconds()}
Measured on {platform.platform()}, {os.cpu_count()} CPUs (one thread), torch {torch.__version__}.
"""
    storage.write_text(RESULTS / "tracts_directions.md", text)
    print(text)


if __name__ == "__main__":
    main()
