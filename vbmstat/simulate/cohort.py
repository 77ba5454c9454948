"""A synthetic T1w cohort in BIDS format with a known local effect of age on grey matter.

Ages are uniform from 20 to 80 years within each sex, and head size depends on sex; both are independent of the effect.
In one region of the template, the effect multiplies the person's GM volume by ``1 + effect × (age - 20) / SD``: GM
becomes CSF at the outer border of the cortex.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import vbmstat
from vbmstat import assets
from vbmstat.errors import VbmstatError
from vbmstat.files.map_kinds import TISSUES
from vbmstat.image import grid, io, storage
from vbmstat.image.volume import Displacement, Volume
from vbmstat.simulate import anatomy
from vbmstat.simulate.anatomy import Sphere
from vbmstat.simulate.head import Person, draw_person, scan_grid
from vbmstat.simulate.render import Acquisition, image_from_signal
from vbmstat.tables import dictionary

AGE_RANGE_YEARS = (20.0, 80.0)
AGE_SD_YEARS = (AGE_RANGE_YEARS[1] - AGE_RANGE_YEARS[0]) / math.sqrt(12.0)  # SD of the uniform distribution, 17.3
TIV_ML = {"M": 1550.0, "F": 1400.0}  # this simulation's choice of typical adults
TIV_SD_ML = 110.0
_TEMPLATE_TIV_ML = 1925.0  # hull and CSF of the template's head; MNI brains are large
DEFAULT_REGION = Sphere((-38.0, 4.0, 2.0), 16.0)  # left insula and surrounding opercula
_TRUTH = Path("derivatives", "truth")


@dataclass(frozen=True)
class Settings:
    """Settings of a cohort; the same settings give the same files.

    Attributes
    ----------
    n_scans : int
        Number of people, one scan each.
    effect_percent : float
        Change of the region's GM volume per standard deviation of age (17.3 years), relative to age 20.
    region : Sphere
        Region of the effect, template RAS+ mm.
    voxel_size_mm, noise_percent, bias_percent : float
        Edge of cubic voxels; Rician noise and bias field in BrainWeb's definition.
    variation : float
        How much people differ in shape and tissue: 1 is a rough guess for adults; with 0 they differ only in size and
        pose. A small value lets a demonstration show its effect with few scans.
    seed : int
        Seed of all random numbers.
    """

    n_scans: int
    effect_percent: float = -10.0
    region: Sphere = field(default=DEFAULT_REGION)
    voxel_size_mm: float = 1.0
    noise_percent: float = 3.0
    bias_percent: float = 40.0
    variation: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {
            "n_scans": (1, 10**5),
            "voxel_size_mm": (0.5, 4.0),
            "noise_percent": (0.0, 30.0),
            "bias_percent": (0.0, 150.0),
            "variation": (0.0, 1.5),
            "seed": (0, 2**63),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                msg = f"{name}: expected {low:g} to {high:g}, got {value:g}"
                raise VbmstatError(msg)
        if self.region.radius_mm <= 2.0:
            msg = f"region: expected a radius above 2 mm, got {self.region.radius_mm:g}"
            raise VbmstatError(msg)


def simulate_cohort(
    out: Path | str,
    settings: Settings,
    *,
    write_maps: bool = False,
    overwrite: bool = False,
    report: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a synthetic cohort as a BIDS folder with the ground truth in ``derivatives/truth``.

    Parameters
    ----------
    out : path
        Folder to create.
    settings : Settings
        Settings of the cohort.
    write_maps : bool
        Also write each scan's true GM, WM and CSF fractions.
    overwrite : bool
        Replace an earlier simulated cohort in `out`.
    report : callable, optional
        Called as ``report(n_done, n_scans)`` after each scan.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    VbmstatError
        If `out` is not empty, a setting is out of range, or the region's GM cannot change that much.
    """
    out = Path(out)
    _make_room(out, overwrite)
    people = draw_participants(settings)
    factors = [gm_factor(age, settings.effect_percent) for age in people["age"]]
    _write_truth_of_effect(out, settings, min([*factors, 1.0], key=lambda factor: -abs(factor - 1.0)))
    _write_ground_truth(out, settings, complete=False)
    rows = []
    for position, factor in enumerate(factors):
        participant = str(people["participant_id"].iloc[position])
        person, facts = simulate_person(settings, position, factor, float(people["tiv_aim_ml"].iloc[position]))
        rng = np.random.default_rng([settings.seed, position, 1])
        acquisition = Acquisition(settings.noise_percent, settings.bias_percent, psf_fwhm_mm=settings.voxel_size_mm)
        brain = person.fractions.sum(0).numpy() > 0.5
        t1w = image_from_signal(person.signal, brain, person.grid, rng, acquisition)
        _write_scan(out, participant, t1w, person.fractions if write_maps else None)
        rows.append({"participant_id": participant, **facts})
        if report is not None:
            report(position + 1, settings.n_scans)
    _write_tables(out, settings, people.drop(columns="tiv_aim_ml"), pd.DataFrame(rows))
    return out


def draw_participants(settings: Settings) -> pd.DataFrame:
    """Draw the participants: participant_id, age (years, one decimal), sex (M, F) and tiv_aim_ml."""
    rng = np.random.default_rng([settings.seed, 2**32 - 1])
    n_scans = settings.n_scans
    sex = np.array(["F", "M"])[(np.arange(n_scans) + int(rng.integers(2))) % 2]
    age = np.empty(n_scans)
    for which in ("F", "M"):
        n = int((sex == which).sum())
        even = (np.arange(n) + rng.random(n)) / max(n, 1)  # one age in each of n equal bins
        age[sex == which] = AGE_RANGE_YEARS[0] + (AGE_RANGE_YEARS[1] - AGE_RANGE_YEARS[0]) * rng.permutation(even)
    tiv_ml = np.array([TIV_ML[s] for s in sex]) + TIV_SD_ML * rng.standard_normal(n_scans).clip(-2.5, 2.5)
    width = max(2, len(str(n_scans)))
    ids = [f"sub-{number + 1:0{width}d}" for number in range(n_scans)]
    return pd.DataFrame({"participant_id": ids, "age": age.round(1), "sex": sex, "tiv_aim_ml": tiv_ml})


def gm_factor(age: float, effect_percent: float) -> float:
    """The region's GM volume at an age, relative to the same person without the effect.

    Examples
    --------
    >>> gm_factor(20.0, -10.0)
    1.0
    >>> round(gm_factor(20.0 + AGE_SD_YEARS, -10.0), 6)
    0.9
    """
    return 1.0 + effect_percent / 100.0 * (age - AGE_RANGE_YEARS[0]) / AGE_SD_YEARS


def simulate_person(
    settings: Settings, position: int, factor: float, tiv_aim_ml: float
) -> tuple[Person, dict[str, float]]:
    """One person without noise, with ground truth (volumes in mL, smallest Jacobian, shift of the CSF score)."""
    rng = np.random.default_rng([settings.seed, position, 0])
    head = anatomy.template_head()
    shape = anatomy.random_shape(head, rng, tiv_aim_ml / _TEMPLATE_TIV_ML, settings.variation)
    scores = anatomy.own_scores(head, rng, settings.variation)
    weight = _region_weight(settings.region, head.grid)
    shift = anatomy.csf_shift(scores, weight, factor)
    scores[2] += shift * weight
    on = scan_grid(settings.voxel_size_mm)
    points = shape.to_template(on)
    person = draw_person(head, scores, points, on, rng)
    inside = person.fractions[:1] * settings.region.weight(points)
    gm_ml, wm_ml, csf_ml = Volume(person.fractions, on).sums_ml
    facts = {
        "tiv_ml": gm_ml + wm_ml + csf_ml, "gm_ml": gm_ml, "wm_ml": wm_ml, "csf_ml": csf_ml,
        "region_gm_ml": Volume(inside, on).sums_ml[0],
        "region_gm_factor": factor, "csf_score_shift": shift,
        "smallest_jacobian": float(Displacement(shape.displacement, shape.grid).jacobian_determinant.min()),
    }  # fmt: skip
    return person, facts


def _region_weight(region: Sphere, on: grid.Grid) -> torch.Tensor:
    """Weight of the region at each voxel of a template-frame grid, (X, Y, Z)."""
    return region.weight(grid.apply_affine(on.affine, grid.voxel_indices(on.shape)))


def _make_room(out: Path, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        msg = f"{out}: expected a folder to write to, got a file"
        raise VbmstatError(msg)
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / _TRUTH / "ground_truth.json").is_file():
        msg = f"{out}: holds files that are not a simulated cohort; choose a new folder"
        raise VbmstatError(msg)
    if not overwrite:
        msg = f"{out}: already holds a simulated cohort; choose a new folder or overwrite it"
        raise VbmstatError(msg)
    for folder in [*out.glob("sub-*"), out / _TRUTH]:
        shutil.rmtree(folder)


def _write_truth_of_effect(out: Path, settings: Settings, extreme_factor: float) -> None:
    """Write the region's mask and the template's GM change per SD of age; fail early if the effect is impossible."""
    head, template = anatomy.template_head(), assets.template()
    weight = _region_weight(settings.region, head.grid)
    anatomy.csf_shift(head.scores, weight, extreme_factor)
    shift = anatomy.csf_shift(head.scores, weight, 1.0 + settings.effect_percent / 100.0)
    after = head.scores.clone()
    after[2] += shift * weight
    change = (torch.softmax(after, dim=0) - torch.softmax(head.scores, dim=0))[:1]  # (1, X, Y, Z), GM
    mask = (weight >= 0.5).float()[None]
    folder = out / _TRUTH
    for name, data, dtype in (("effect_mask", mask, "uint8"), ("effect_gm_change_per_sd", change, "float32")):
        on_template = grid.resample(data, head.grid, template.grid)  # the head's grid is a superset: same voxels
        io.write_volume(folder / f"{name}.nii.gz", Volume(on_template, template.grid), dtype=dtype)


def _write_scan(out: Path, participant: str, t1w: Volume, fractions: torch.Tensor | None) -> None:
    """Write a scan and, if given, its true fractions of GM, WM and CSF."""
    stem = Path(participant, "anat", participant)
    io.write_volume(out / f"{stem}_T1w.nii.gz", t1w, dtype="int16", axcodes="RAS", space="scanner")
    if fractions is not None:
        for tissue, fraction in zip(TISSUES, fractions, strict=True):
            path = out / _TRUTH / f"{stem}_label-{tissue.upper()}_probseg.nii.gz"
            io.write_volume(path, Volume(fraction[None], t1w.grid), axcodes="RAS", space="scanner")


def _write_tables(out: Path, settings: Settings, people: pd.DataFrame, facts: pd.DataFrame) -> None:
    """Write participants.tsv, the BIDS descriptions, volumes.tsv and, last, ground_truth.json."""
    source: dict[str, Any] = {"Name": "vbmstat simulate", "Version": vbmstat.__version__}
    description = {"BIDSVersion": "1.9.0", "License": "CC0", "GeneratedBy": [source]}
    storage.write_json(
        out / "dataset_description.json",
        {"Name": "Synthetic T1w cohort with a known effect", "DatasetType": "raw", **description},
    )
    storage.write_json(
        out / _TRUTH / "dataset_description.json",
        {"Name": "Truth of the synthetic cohort", "DatasetType": "derivative", **description},
    )
    storage.write_text(out / _TRUTH / ".bidsignore", "ground_truth.*\nvolumes.*\neffect_*\n")
    storage.write_text(out / "README", "Synthetic T1w images by `vbmstat simulate`; no person was scanned.\n")
    dictionary.write_table(out / "participants.tsv", people, "participants")
    volumes = people.merge(facts, on="participant_id", validate="one_to_one")
    dictionary.write_table(out / _TRUTH / "volumes.tsv", volumes.round(6), "truth_volumes")
    _write_ground_truth(out, settings, complete=True)


def _write_ground_truth(out: Path, settings: Settings, *, complete: bool) -> None:
    """Write ground_truth.json; it also marks the folder as a simulated cohort, which may be overwritten."""
    content = {
        "vbmstat_version": vbmstat.__version__,
        "settings": asdict(settings),
        "age_sd_years": AGE_SD_YEARS,
        "effect": "region GM volume = (1 + effect_percent / 100 * (age - 20) / age_sd_years) * volume without effect",
        "template_frame": "MNI152NLin2009cAsym, RAS+ mm",
        "effect_mask": "effect_mask.nii.gz",
        "effect_map": "effect_gm_change_per_sd.nii.gz",
        "volumes": "volumes.tsv",
        "complete": complete,
    }
    storage.write_json(out / _TRUTH / "ground_truth.json", content)
