"""The file that a site shares (``SITE.vbm``): an .npz of float64 sums with a header in JSON.

=================== ============ ========================================================================
``about``           text         JSON: ``format``, the fields of `About`, ``shape`` and ``axcodes`` of the grid
``affine``          (4, 4)       voxel to mm, RAS+
``voxel_index``     (n_voxels,)  C-order index of each voxel in the RAS+ grid
``factor``          (r, p)       R of X = Q R: X'X = R'R
``constant``        (r,)         Q'1
``coordinates``     (r, n_voxels) z = Q'Y: X'Y = R'z
``residual_squares`` (n_voxels,) ΣY² − Σz²
=================== ============ ========================================================================
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from vbmstat.errors import VbmstatError
from vbmstat.glm.pooled.sums import About, SiteSums
from vbmstat.image import storage
from vbmstat.image.grid import Grid
from vbmstat.maps.store import Space

FORMAT = 1
SUFFIX = ".vbm"
_ARRAYS = ("factor", "constant", "coordinates", "residual_squares")


def check_path(path: Path) -> None:
    """Refuse a name without the suffix, which is easily another file of the user's; raises VbmstatError."""
    if path.suffix != SUFFIX or path.is_dir():
        msg = f"--share {path}: expected a file named after the site that ends in {SUFFIX}, such as london{SUFFIX}"
        raise VbmstatError(msg)


def write_sums(path: Path, sums: SiteSums) -> None:
    """Write a site's sums, whole or not at all."""
    space = sums.space
    about = {"format": FORMAT, **asdict(sums.about), "shape": space.grid.shape, "axcodes": space.axcodes}
    arrays = {name: getattr(sums, name) for name in _ARRAYS}
    arrays |= {"affine": space.grid.affine, "voxel_index": space.voxel_index}
    with storage.atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, about=np.array(json.dumps(about)), **arrays)


def read_sums(path: Path) -> SiteSums:
    """Read what :func:`write_sums` wrote.

    Raises
    ------
    VbmstatError
        If the file is missing, damaged, of another version or no such file.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            if about["format"] != FORMAT:
                msg = (
                    f"{path}: made by another version of vbmstat (format {about['format']}, here {FORMAT}); make it "
                    "again with this version at all sites"
                )
                raise VbmstatError(msg)
            space = Space(Grid(tuple(about["shape"]), stored["affine"]), stored["voxel_index"], str(about["axcodes"]))
            sums = SiteSums(_about(about), **{name: stored[name] for name in _ARRAYS}, space=space)
        _check(sums)
    except VbmstatError:
        raise
    except OSError as error:
        msg = f"{path}: {error.strerror or 'cannot be read'}; expected a file of vbmstat glm --share"
        raise VbmstatError(msg) from error
    except Exception as error:  # numpy raises many kinds for a damaged file
        msg = (
            f"{path}: expected the sums of a site (vbmstat glm --share), but reading it failed ({error!r:.100}); is it "
            "complete? Copy it again"
        )
        raise VbmstatError(msg) from error
    return sums


def _about(content: dict[str, Any]) -> About:
    """The fields of a header, lists as tuples."""
    about = {one.name: content[one.name] for one in fields(About)}
    about |= {name: {key: tuple(one) for key, one in about[name].items()} for name in ("terms", "made_from")}
    return About(**about | {name: tuple(about[name]) for name in ("columns", "references")})


def _check(sums: SiteSums) -> None:
    """ValueError if arrays do not fit one another or hold what no sum can be."""
    about, index, (rank, n_columns) = sums.about, sums.space.voxel_index, sums.factor.shape
    n_voxels, grid = index.size, sums.space.grid
    if len(grid.shape) != 3 or np.shape(grid.affine) != (4, 4) or not np.isfinite(grid.affine).all():
        raise ValueError(f"grid {grid.shape}")  # noqa: EM102
    shapes = [getattr(sums, name).shape for name in _ARRAYS]
    if shapes != [(rank, n_columns), (rank,), (rank, n_voxels), (n_voxels,)] or index.shape != (n_voxels,):
        raise ValueError(f"arrays of shapes {shapes} do not fit")  # noqa: EM102
    texts = (about.response, about.formula, about.scans_sha256, *about.columns, *about.terms, *about.references)
    if not all(isinstance(one, str) for one in texts) or not isinstance(about.fwhm_mm, float | int | None):
        raise ValueError("a header of other types")  # noqa: EM101
    if set(about.mask) != {"threshold", "share", "image"}:
        raise ValueError("the mask's rule")  # noqa: EM101
    if n_columns != len(about.columns) or set(about.columns) != {one for own in about.terms.values() for one in own}:
        raise ValueError("columns and terms do not fit")  # noqa: EM101
    if not isinstance(about.n_scans, int) or not rank < about.n_scans or not rank or not n_voxels:
        raise ValueError(f"{about.n_scans} scans, rank {rank}, {n_voxels} voxels")  # noqa: EM102
    if (
        index.dtype.kind != "i"
        or index[0] < 0
        or index[-1] >= np.prod(sums.space.grid.shape)
        or (np.diff(index) <= 0).any()
    ):
        raise ValueError("voxels do not fit the grid")  # noqa: EM101
    arrays = [getattr(sums, name) for name in _ARRAYS]
    if any(one.dtype != np.float64 or not np.isfinite(one).all() for one in arrays) or (arrays[-1] < 0).any():
        raise ValueError("sums that are not finite, or negative sums of squares")  # noqa: EM101
