"""A study as CAT12 leaves it, small: maps of 6 mm voxels, a table, a second pipeline and repeated scans."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch.nn.functional import avg_pool3d

from vbmstat import assets

PEAK_MM = (-34.0, 2.0, 2.0)  # left putamen and insula: where patients have less grey matter
SLOPE_MM = (38.0, 20.0, 34.0)  # where patients lose more with age
LOW_QUALITY = "sub-03"
_CAT = "<S><subjectmeasures><vol_TIV>{}</vol_TIV></subjectmeasures></S>"
_N = 24


def make_study(folder: Path) -> Path:
    """Write ``cat12/``, ``spm/``, ``repeated/`` and their tables; return the folder."""
    rng = np.random.default_rng(0)
    people = pd.DataFrame(
        {
            "participant_id": [f"sub-{number:02d}" for number in range(1, _N + 1)],
            "group": np.resize(["control", "patient"], _N),
            "age": rng.uniform(20, 70, _N).round(1),
            "sex": np.resize(["F", "F", "M", "M"], _N),
            "iqr": rng.uniform(78, 88, _N).round(1),
        }
    )
    people.loc[people["participant_id"] == LOW_QUALITY, "iqr"] = 58.0
    people.to_csv(folder / "participants.tsv", sep="\t", index=False)
    tiv = rng.normal(1500, 100, _N).round(1)
    tissues, affine = _template()
    patient, age = (people["group"] == "patient").to_numpy(), people["age"].to_numpy() - 45
    factors = np.ones((_N, *tissues.shape[1:]), dtype=np.float32)
    factors -= np.multiply.outer(0.25 * patient, _ball(PEAK_MM, tissues, affine))
    factors -= np.multiply.outer(0.012 * age * patient, _ball(SLOPE_MM, tissues, affine))
    factors *= (tiv / 1500)[:, None, None, None] * rng.normal(1, 0.15, factors.shape)
    for scan, factor, ml in zip(people["participant_id"], factors, tiv, strict=True):
        for pipeline, scale in (("cat12", 1.0), ("spm", 0.9)):
            noise = rng.normal(1, 0.02, factor.shape)
            _write(folder / pipeline / "mri", scan, tissues, affine, scale * factor * noise)
            report = folder / pipeline / "report" / f"cat_{scan}.xml"
            report.parent.mkdir(parents=True, exist_ok=True)
            report.write_text(_CAT.format(ml))
    _write_repeated(folder / "repeated", people.head(12), tissues, affine)
    return folder


def _write_repeated(
    folder: Path, people: pd.DataFrame, tissues: NDArray[np.float32], affine: NDArray[np.float64]
) -> None:
    """Two scans of each person: grey matter grows in a ball from pre to post."""
    rng = np.random.default_rng(1)
    rows = []
    for scan in people["participant_id"]:
        of_person = rng.normal(1, 0.1, tissues.shape[1:])
        for time, growth in (("pre", 0.0), ("post", 0.2)):
            factor = of_person + growth * _ball(PEAK_MM, tissues, affine) + rng.normal(0, 0.1, of_person.shape)
            _write(folder / "mri", f"{scan}_ses-{time}", tissues, affine, factor)
            rows.append({"participant_id": scan, "session_id": f"ses-{time}", "time": time})
    pd.DataFrame(rows).to_csv(folder / "participants.tsv", sep="\t", index=False)


def _template() -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Grey and white matter of the template, means over 4 × 4 × 4 voxels."""
    volume = assets.template()
    affine = volume.grid.affine @ np.array([[4, 0, 0, 1.5], [0, 4, 0, 1.5], [0, 0, 4, 1.5], [0, 0, 0, 1]])
    return avg_pool3d(volume.data, 4).numpy(), affine


def _ball(
    centre: tuple[float, float, float], tissues: NDArray[np.float32], affine: NDArray[np.float64]
) -> NDArray[np.float64]:
    """1 at the centre, falling to 0 at some 25 mm."""
    voxels = np.indices(tissues.shape[1:]).reshape(3, -1)
    mm = affine[:3, :3] @ voxels + affine[:3, 3:]
    return np.exp(-((mm - np.array(centre)[:, None]) ** 2).sum(0) / (2 * 10**2)).reshape(tissues.shape[1:])


def _write(
    folder: Path,
    scan: str,
    tissues: NDArray[np.float32],
    affine: NDArray[np.float64],
    factor: NDArray[np.float64],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, tissue in enumerate(tissues, 1):
        image = nib.Nifti1Image((tissue * factor).astype(np.float32), affine)
        image.header.set_xyzt_units("mm")
        nib.save(image, folder / f"mwp{number}{scan}.nii")


if __name__ == "__main__":
    make_study(Path(sys.argv[1]))
