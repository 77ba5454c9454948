"""Tissue and T1w intensity of the labels in FreeSurfer-type whole-head label maps.

The table was compiled by inspecting SynthSeg's training maps (1 mm). 24 is all CSF outside the ventricles: the sulci,
everything between cortex and skull, and the spinal canal (there is no dura, falx or tentorium).
25/57 are white-matter lesions around the lateral ventricles, 30/62 vessels at the basal ganglia, 72 the fifth
ventricle, 85 the optic chiasm, 136/137 and 163/164 choroid plexus. 5xx are outside the brain, as in SimNIBS'
`charm`: 502 arteries, 506 eyes, 507 fat and muscle together, 508 eye muscles, 509 mucosa, 511 skin, 512 spinal
cord, 514 veins and sinuses, 515 compact bone, 516 marrow, 530 optic nerve. Air inside the head is 0.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from vbmstat.errors import ScanError
from vbmstat.image.volume import Volume

BACKGROUND, CSF, GM, WM = 0, 1, 2, 3
CSF_LABEL, SOFT_TISSUE_LABEL, SKIN_LABEL = 24, 507, 511
LESION_LABELS = {25: 2, 57: 41}  # lesion -> white matter of its side

# label -> (tissue, T1w intensity relative to cerebral WM in a 3T MPRAGE). The order of the intensities is that of
# one real scan (AOMIC sub-0001 with its aseg: thalamus and pallidum nearest WM, putamen above caudate, both
# above cortex); the levels are those of a bias-corrected scan.
_STRUCTURES: dict[tuple[int, ...], tuple[int, float]] = {
    (0,): (BACKGROUND, 0.0),
    (2, 41, 7, 46): (WM, 1.0),
    (77, 78, 79, 25, 57): (WM, 0.82),  # hypointensities and lesions
    (251, 252, 253, 254, 255): (WM, 1.05),  # corpus callosum
    (16, 28, 60): (WM, 0.95),  # brainstem, ventral diencephalon
    (85,): (WM, 0.88),  # optic chiasm
    (3, 42): (GM, 0.70),
    (8, 47): (GM, 0.68),  # cerebellar cortex
    (10, 49): (GM, 0.85),  # thalamus
    (11, 50): (GM, 0.75),  # caudate
    (12, 51): (GM, 0.79),  # putamen
    (13, 52): (GM, 0.91),  # pallidum
    (17, 53, 18, 54): (GM, 0.70),  # hippocampus, amygdala
    (26, 58): (GM, 0.74),  # accumbens
    (4, 5, 14, 15, 43, 44, 72): (CSF, 0.22),  # ventricles
    (24,): (CSF, 0.25),
    (30, 62): (CSF, 0.35),  # vessels inside the brain
    (31, 63, 136, 137, 163, 164): (CSF, 0.48),  # choroid plexus
    (502, 514): (BACKGROUND, 0.35),
    (506,): (BACKGROUND, 0.20),
    (507,): (BACKGROUND, 0.50),  # muscle; the renderer adds fat
    (508, 509): (BACKGROUND, 0.50),
    (511,): (BACKGROUND, 0.55),
    (512,): (BACKGROUND, 0.92),
    (515,): (BACKGROUND, 0.07),
    (516,): (BACKGROUND, 0.80),
    (530,): (BACKGROUND, 0.75),
}
TISSUE = {label: tissue for labels, (tissue, _) in _STRUCTURES.items() for label in labels}
INTENSITY = {label: intensity for labels, (_, intensity) in _STRUCTURES.items() for label in labels}


def tissue_labels(labels: Volume) -> Volume:
    """Exact tissue of each voxel of a label map: 0 outside the brain, 1 CSF, 2 GM, 3 WM.

    Parameters
    ----------
    labels : Volume, (1, X, Y, Z)
        FreeSurfer-type label map with integer values.

    Returns
    -------
    Volume, (1, X, Y, Z), float32
        Brainstem, ventral diencephalon, lesions, hypointensities and optic chiasm are WM; thalamus, pallidum and the
        other deep nuclei are GM; choroid plexus and vessels inside the brain are CSF. Outside the brain are the spinal
        cord and CSF (24) that lies below the lowest GM or WM voxel or is detached from the brain.

    Raises
    ------
    ScanError
        If the map holds an unknown label.
    """
    tissue = lookup(labels, TISSUE)
    parenchyma = (tissue >= GM).nonzero()  # (n, 3) voxel indices
    if len(parenchyma):
        height = _height_mm(labels)
        lowest = height[tuple(parenchyma.T)].min()
        tissue[(labels.data[0] == CSF_LABEL) & (height < lowest)] = BACKGROUND
        tissue[~_main_piece(tissue > BACKGROUND)] = BACKGROUND
    return Volume(tissue[None], labels.grid)


def without_lesions(labels: Volume) -> Volume:
    """The label map with its lesions replaced by white matter."""
    filled = labels.data.clone()
    for lesion, wm in LESION_LABELS.items():
        filled[labels.data == lesion] = wm
    return Volume(filled, labels.grid)


def is_label_map(volume: Volume) -> bool:
    """Whether an image is a whole-head label map: all values are known labels, with cortex and WM among them."""
    values = torch.unique(volume.data[:, ::2, ::2, ::2])
    known = torch.tensor(sorted(TISSUE), dtype=values.dtype)
    return bool(torch.isin(values, known).all() and torch.isin(torch.tensor([2.0, 3.0, 41.0, 42.0]), values).all())


def _main_piece(mask: torch.Tensor) -> torch.Tensor:
    """The largest face-connected piece of a mask, (X, Y, Z), bool."""
    pieces, _ = ndimage.label(mask.numpy())
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return torch.from_numpy(pieces == sizes.argmax())


def lookup(labels: Volume, table: dict[int, float] | dict[int, int]) -> torch.Tensor:
    """The table's entry for each voxel's label, (X, Y, Z), float32; unknown labels raise ScanError."""
    values = labels.data[0].round().to(torch.int32).numpy()
    present, inverse = np.unique(values, return_inverse=True)
    unknown = [str(label) for label in present if int(label) not in table]
    if unknown:
        msg = f"label map: unknown values {', '.join(unknown[:8])}; expected labels of vbmstat.simulate.labels"
        raise ScanError(msg)
    entries = np.array([table[int(label)] for label in present], dtype=np.float32)
    return torch.from_numpy(entries[inverse].reshape(values.shape))


def _height_mm(volume: Volume) -> torch.Tensor:
    """RAS+ z of every voxel in mm, (X, Y, Z)."""
    x, y, z, offset = volume.grid.affine[2].tolist()
    i, j, k = (torch.arange(n, dtype=torch.float32) for n in volume.grid.shape)
    height: torch.Tensor = x * i[:, None, None] + y * j[None, :, None] + (z * k + offset)
    return height
