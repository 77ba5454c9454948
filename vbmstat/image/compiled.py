"""Compiled loops over voxels, for tensors on the CPU; functions that use them have torch's own for other devices."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial, wraps
from itertools import pairwise
from typing import Any

import numpy as np

from vbmstat.lazy import torch

Array = np.ndarray
_ZERO, _ONE = np.float32(0), np.float32(1)


def compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Machine code of a loop, made at its first call and cached on disk; it releases the interpreter's lock."""

    @cache
    def machine_code() -> Callable[..., None]:
        from numba import njit  # noqa: PLC0415 - half a second that most commands need not pay

        make = partial(njit, nogil=True, fastmath={"contract"}, error_model="numpy")
        try:
            return make(cache=True)(function)
        except RuntimeError:  # the cache folder cannot be written: compile in every process
            return make()(function)

    @wraps(function)
    def run(*arguments: Any) -> None:
        machine_code()(*arguments)

    return run


def takes(*tensors: torch.Tensor) -> bool:
    """Whether the loops take these tensors: float32, on the CPU, no gradient wanted. Torch does the same for others."""
    return all(t.device.type == "cpu" and t.dtype == torch.float32 and not t.requires_grad for t in tensors)


def in_slabs(loop: Callable[..., None], n: int, *arrays: torch.Tensor | float) -> None:
    """Run ``loop(start, stop, *arrays)`` over 0 to n, a slab for each of torch's threads.

    Each voxel's value must not depend on its slab, so that the number of threads changes nothing.
    """
    given = [a.contiguous().numpy() if isinstance(a, torch.Tensor) else a for a in arrays]
    n_threads = max(min(torch.get_num_threads(), n), 1)
    if n_threads == 1:
        loop(0, n, *given)
        return
    ends = pairwise(np.linspace(0, n, n_threads + 1).astype(int))
    with ThreadPoolExecutor(n_threads) as pool:
        for done in [pool.submit(loop, a, b, *given) for a, b in ends]:
            done.result()


@compiled
def trilinear(
    start: int, stop: int, images: Array, points: Array, from_voxels: bool, is_zero: bool, out: Array
) -> None:
    """Trilinear values of images (C, X, Y, Z) at voxel coordinates (3, A, B, D), for slab start to stop of A.

    Parameters
    ----------
    from_voxels : bool
        Whether points are relative to each voxel (a displacement).
    is_zero : bool
        Whether images are 0 beyond their voxels, or there as at their border.
    out : ndarray, (C, A, B, D)
        Result. A coordinate that is not a number counts as 0.
    """
    n_x, n_y, n_z = images.shape[1:]
    size = points.shape[3]
    index = np.empty(size, np.int32)  # of the first of a point's eight voxels
    weights = np.empty((6, size), np.float32)  # of its lower and upper voxels along x, y, z
    beyond = _ONE if is_zero else _ZERO
    flat = images.reshape(images.shape[0], -1)
    on_x, on_y = np.int32(n_y * n_z), np.int32(n_z)
    for a in range(start, stop):
        for b in range(points.shape[2]):
            for d in range(size):
                x, y, z = points[0, a, b, d], points[1, a, b, d], points[2, a, b, d]
                x = _ZERO if np.isnan(x) else x
                y = _ZERO if np.isnan(y) else y
                z = _ZERO if np.isnan(z) else z
                if from_voxels:
                    x += np.float32(a)
                    y += np.float32(b)
                    z += np.float32(d)
                x = min(max(x, -beyond), np.float32(n_x - 1) + beyond)
                y = min(max(y, -beyond), np.float32(n_y - 1) + beyond)
                z = min(max(z, -beyond), np.float32(n_z - 1) + beyond)
                i = min(np.int32(max(x, _ZERO)), np.int32(n_x - 2))
                j = min(np.int32(max(y, _ZERO)), np.int32(n_y - 2))
                k = min(np.int32(max(z, _ZERO)), np.int32(n_z - 2))
                index[d] = i * on_x + j * on_y + k
                x -= np.float32(i)
                y -= np.float32(j)
                z -= np.float32(k)
                weights[0, d] = max(_ONE - abs(x), _ZERO)
                weights[1, d] = max(_ONE - abs(x - _ONE), _ZERO)
                weights[2, d] = max(_ONE - abs(y), _ZERO)
                weights[3, d] = max(_ONE - abs(y - _ONE), _ZERO)
                weights[4, d] = max(_ONE - abs(z), _ZERO)
                weights[5, d] = max(_ONE - abs(z - _ONE), _ZERO)
            for c in range(flat.shape[0]):
                image = flat[c]
                for d in range(size):
                    n = index[d]
                    low, high = weights[4, d], weights[5, d]
                    aa = low * image[n] + high * image[n + 1]
                    n += on_y
                    ab = low * image[n] + high * image[n + 1]
                    n += on_x
                    bb = low * image[n] + high * image[n + 1]
                    n -= on_y
                    ba = low * image[n] + high * image[n + 1]
                    low, high = weights[2, d], weights[3, d]
                    out[c, a, b, d] = weights[0, d] * (low * aa + high * ab) + weights[1, d] * (low * ba + high * bb)


@compiled
def filter_field(start: int, stop: int, a: Array, b: Array, x: Array, y: Array, z: Array, spectrum: Array) -> None:
    """Multiply the spectrum of a field by ``a I + b k k*``, in place, for slab start to stop of X.

    Parameters
    ----------
    a, b : ndarray, (X, Y, Z)
        Factors of each frequency.
    x, y, z : ndarray, (X, 2), (Y, 2), (Z, 2)
        The wave k, real and imaginary.
    spectrum : ndarray, (3, X, Y, Z, 2)
        Real and imaginary.
    """
    for i in range(start, stop):
        xr, xi = x[i, 0], x[i, 1]
        for j in range(a.shape[1]):
            yr, yi = y[j, 0], y[j, 1]
            fx, fy, fz = spectrum[0, i, j], spectrum[1, i, j], spectrum[2, i, j]
            for k in range(a.shape[2]):
                zr, zi = z[k, 0], z[k, 1]
                real = xr * fx[k, 0] + xi * fx[k, 1] + yr * fy[k, 0] + yi * fy[k, 1] + zr * fz[k, 0] + zi * fz[k, 1]
                imag = xr * fx[k, 1] - xi * fx[k, 0] + yr * fy[k, 1] - yi * fy[k, 0] + zr * fz[k, 1] - zi * fz[k, 0]
                real *= b[i, j, k]
                imag *= b[i, j, k]
                fx[k, 0] = a[i, j, k] * fx[k, 0] + xr * real - xi * imag
                fx[k, 1] = a[i, j, k] * fx[k, 1] + xr * imag + xi * real
                fy[k, 0] = a[i, j, k] * fy[k, 0] + yr * real - yi * imag
                fy[k, 1] = a[i, j, k] * fy[k, 1] + yr * imag + yi * real
                fz[k, 0] = a[i, j, k] * fz[k, 0] + zr * real - zi * imag
                fz[k, 1] = a[i, j, k] * fz[k, 1] + zr * imag + zi * real


@compiled
def determinant(start: int, stop: int, displacement: Array, per_mm: Array, out: Array) -> None:
    """Determinant (X, Y, Z) of the Jacobian of x + displacement(x), for slab start to stop of X.

    Central differences, one-sided at the border; `per_mm` (3,) is 1 / spacing.
    """
    n_x, n_y, n_z = out.shape
    per_x, per_y, per_z = per_mm
    for i in range(start, stop):
        before_i, after_i = max(i - 1, 0), min(i + 1, n_x - 1)
        along_x = per_x / np.float32(after_i - before_i)
        for j in range(n_y):
            before_j, after_j = max(j - 1, 0), min(j + 1, n_y - 1)
            along_y = per_y / np.float32(after_j - before_j)
            ux, vx, wx = displacement[0, before_i, j], displacement[1, before_i, j], displacement[2, before_i, j]
            ux_, vx_, wx_ = displacement[0, after_i, j], displacement[1, after_i, j], displacement[2, after_i, j]
            uy, vy, wy = displacement[0, i, before_j], displacement[1, i, before_j], displacement[2, i, before_j]
            uy_, vy_, wy_ = displacement[0, i, after_j], displacement[1, i, after_j], displacement[2, i, after_j]
            uz, vz, wz = displacement[0, i, j], displacement[1, i, j], displacement[2, i, j]
            for k in range(n_z):
                before, after = max(k - 1, 0), min(k + 1, n_z - 1)
                along_z = per_z / np.float32(after - before)
                xx, xy, xz = (
                    along_x * (ux_[k] - ux[k]) + _ONE,
                    along_y * (uy_[k] - uy[k]),
                    along_z * (uz[after] - uz[before]),
                )
                yx, yy, yz = (
                    along_x * (vx_[k] - vx[k]),
                    along_y * (vy_[k] - vy[k]) + _ONE,
                    along_z * (vz[after] - vz[before]),
                )
                zx, zy, zz = (
                    along_x * (wx_[k] - wx[k]),
                    along_y * (wy_[k] - wy[k]),
                    along_z * (wz[after] - wz[before]) + _ONE,
                )
                out[i, j, k] = xx * (yy * zz - yz * zy) - xy * (yx * zz - yz * zx) + xz * (yx * zy - yy * zx)
