"""White-matter tracts of scans that are preprocessed already: a prior carried through the warp, or a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vbmstat.assets import sha256
from vbmstat.batch import derivatives
from vbmstat.batch.claim import tables_claim
from vbmstat.batch.collect import write_tracts
from vbmstat.batch.finished import FinishedRun, FinishedScan, measure_finished
from vbmstat.batch.resources import Execution
from vbmstat.errors import AssetError, listed
from vbmstat.figures.style import save_png
from vbmstat.figures.tracts import tracts_figure
from vbmstat.files import naming
from vbmstat.image import io, storage
from vbmstat.image.grid import Grid, apply_affine, resample, sample, voxel_indices
from vbmstat.image.volume import Volume
from vbmstat.progress import OnProgress, ignore
from vbmstat.roi.atlas import TRACTS as PRIOR_ATLAS
from vbmstat.roi.atlas import project_file
from vbmstat.tracts.names import TRACTS
from vbmstat.tracts.network import STUDENT, load_tract_network, predict_tracts
from vbmstat.tracts.outputs import TractMaps, scan_box, stored
from vbmstat.tracts.prior import NAME, Prior, carry, read_prior
from vbmstat.tracts.references import write_references

_IMAGES = ("m", "p0", "p2", "wp2")  # that a scan must still have
_HERE = Execution()


@dataclass(frozen=True)
class FromPrior:
    """The prior carried through the scan's warp, times its white matter."""

    prior: Prior
    record: Mapping[str, Any]

    @property
    def grade(self) -> str:
        """Grade of tracts that are not weak."""
        return self.prior.grade

    @property
    def threshold(self) -> np.ndarray:
        """Probability of each mask."""
        return self.prior.threshold

    def native(self, images: Mapping[str, Volume], points: Volume) -> Iterator[torch.Tensor]:
        """Probabilities at the template points of the scan's voxels."""
        wm = Volume(resample(images["p2"].data, images["p2"].grid, points.grid), points.grid)
        return carry(self.prior, points, wm)

    def template(self, images: Mapping[str, Volume], _: Volume) -> Iterator[torch.Tensor]:
        """Probabilities on the template's grid."""
        return carry(self.prior, _own_points(images["wp2"].grid), images["wp2"])

    def lesions(self, share: Volume, points: Volume, _: Volume) -> Iterator[torch.Tensor]:
        """Share of each voxel that is a lesion of each tract; lesions count as white matter."""
        return carry(self.prior, points, share)


@dataclass(frozen=True)
class FromNetwork:
    """A network's probabilities from the scan's intensities."""

    weights: Path
    record: Mapping[str, Any]
    grade: str = "network"

    @property
    def threshold(self) -> np.ndarray:
        """Probability of each mask."""
        return np.full(len(TRACTS), 0.5)

    def native(self, images: Mapping[str, Volume], points: Volume) -> Iterator[torch.Tensor]:
        """Probabilities in the scan's space."""
        inside = (images["p0"].data > 0.5).float()
        brain = Volume(images["m"].data * inside, images["m"].grid)
        here = resample(inside, images["p0"].grid, points.grid)[0] > 0.5  # a network is never quite 0 outside the brain
        return (probability * here for probability in predict_tracts(brain, self.weights, points.grid))

    def template(self, images: Mapping[str, Volume], native: Volume) -> Iterator[torch.Tensor]:
        """The same, on the template's grid."""
        points, grid = images["y"], images["wp2"].grid
        there = resample(points.data, points.grid, grid, padding_mode="border")
        at = apply_affine(np.linalg.inv(native.grid.affine), there)
        for counts in native.data:
            yield sample(counts[None].float(), at)[0] / 255

    def lesions(self, share: Volume, _: Volume, native: Volume) -> Iterator[torch.Tensor]:
        """Share of each voxel that is a lesion of each tract."""
        return (counts * share.data[0] / 255 for counts in native.data)


def source_of(weights: Path | None, prior: Path | None) -> FromPrior | FromNetwork:
    """Where the tracts come from: a network, the user's own prior, or the shipped one.

    Raises
    ------
    AssetError, ScanError
        If the network or the prior cannot be used.
    """
    if weights is None:
        folder = project_file(PRIOR_ATLAS, f"{NAME}.nii.gz").parent if prior is None else prior
        name = "tracts72-prior" if prior is None else str(prior)
        found = read_prior(folder)
        files = (f"{NAME}.nii.gz", f"{NAME}.tsv")  # the table has the thresholds
        return FromPrior(found, {"source": name, "sha256": {file: sha256(folder / file) for file in files}})
    _, settings = load_tract_network(weights)
    known = settings["tracts"]
    if list(known) != list(TRACTS):
        msg = (
            f"{weights}: the network knows {len(known)} tracts ({listed(known)}); expected TractSeg's {len(TRACTS)} "
            "tracts in their order, so train on its masks"
        )
        raise AssetError(msg)
    path = weights / f"{STUDENT}.safetensors" if weights.is_dir() else weights
    record = {"source": f"network {weights.resolve().name}", "sha256": sha256(path), "settings": settings}
    return FromNetwork(weights, record)


def find_tracts(
    folder: Path,
    source: FromPrior | FromNetwork,
    bundles: bool = False,
    execution: Execution = _HERE,
    report: OnProgress = ignore,
) -> FinishedRun:
    """Find the tracts of every scan in an output folder of ``vbmstat preprocess``; writes ``tracts.tsv``.

    Parameters
    ----------
    folder : Path
        The folder.
    source : FromPrior or FromNetwork
        From :func:`source_of`.
    bundles : bool
        Whether to write masks as TractSeg does, too: ``tracts/NAME/bundle_segmentations/``.
    execution : Execution
        Its `force` replaces tracts from the same source; those from another one are always replaced.
    report : callable
        Called with (stage, done, total) before the first and after each scan.
    """

    def measure(one: FinishedScan) -> Mapping[str, Any] | None:
        return _measure(one, source, bundles, execution)

    run = measure_finished(folder, measure, "tracts", report)
    with tables_claim(folder, execution.locking):
        write_tracts(folder)
    return run


def _measure(
    one: FinishedScan, source: FromPrior | FromNetwork, bundles: bool, execution: Execution
) -> Mapping[str, Any] | None:
    """Tracts of a scan, written; None if it has them from this source."""
    record, kinds, p7 = one.record, naming.TRACT_KINDS, one.path("p7")
    has_bundles = any(naming.bundle_masks(one.folder, one.scan))
    is_complete = all(one.path(kind).is_file() for kind in kinds) and (has_bundles or not bundles)
    made_from = {**source.record, "wmh_sha256": sha256(p7) if p7.is_file() else None}
    earlier = record.get("tracts") or {}
    is_same = all(earlier.get(name) == made_from[name] for name in ("sha256", "wmh_sha256"))
    if is_same and is_complete and not execution.force:
        return None
    images = one.images(_IMAGES, "run vbmstat preprocess for this scan again")
    images["y"] = one.warp.to_scan
    points = scan_box(one.warp.to_template(one.warp.box or images["m"].grid))
    native = stored(source.native(images, points), points.grid)
    template = stored(source.template(images, native), images["wp2"].grid)
    maps = TractMaps(native, template, source.threshold, source.grade)
    wmh_ml = None
    if p7.is_file():
        wmh = io.read_volume(p7)
        share = Volume(resample(wmh.data, wmh.grid, points.grid), points.grid)
        sums = [float(each.sum(dtype=torch.float64)) for each in source.lesions(share, points, native)]
        wmh_ml = np.array(sums) * points.grid.voxel_volume_ml
    with one.adding(execution.locking) as made:
        table = maps.write(lambda kind: one.path(kind, made), wmh_ml)
        derivatives.describe(made, one.scan, one.names, ("tracts", "tracts_mask", "wtracts"), images["wp2"].grid)
        title = f"{one.scan.stem} · tracts: {source.record['source']}"
        save_png(one.path("tract_picture", made), tracts_figure(images["m"], images["p0"], maps, title))
        if bundles or has_bundles:  # those of another source must not stay
            write_references(maps.mask, naming.bundles_folder(made, one.scan).parent)
        storage.write_json(one.path("sidecar", made), {**record, "tracts": made_from})
    return {"n_empty_masks": int((table["mask_ml"] == 0).sum())}


def _own_points(grid: Grid) -> Volume:
    """RAS+ mm of each voxel of a grid."""
    return Volume(apply_affine(grid.affine, voxel_indices(grid.shape)), grid)
