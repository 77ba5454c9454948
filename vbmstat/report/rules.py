"""Ten rules for reporting VBM (Ridgway et al. 2008, doi:10.1016/j.neuroimage.2008.01.003), as a run satisfies them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TITLES = (
    "Set out the rationale for the study and describe the data fully",
    "Explain how the brain segmentations are produced",
    "Describe the method of inter-subject spatial normalisation",
    "Make your statistical design transparent",
    "Be clear about the significance of your findings",
    "Present results unambiguously",
    "Clarify and justify any non-standard statistical analyses",
    "Guard against common pitfalls",
    "Recognise the limitations of the technique",
    "Interpret your results cautiously and in context",
)
HERE, PARTLY, YOURS = "on this page", "partly", "for you to write"
_HIGH_VIF, _HIGH_R = 5.0, 0.5


@dataclass(frozen=True)
class Rule:
    """One rule: number, title, whether this page satisfies it, and how."""

    number: int
    title: str
    status: str
    text: str


def preprocessing_rules(n_flagged: int, is_mixed: bool) -> list[Rule]:
    """The rules after preprocessing, before any model.

    Parameters
    ----------
    n_flagged : int
        Scans with warnings.
    is_mixed : bool
        Whether several engines or versions made the maps.
    """
    later = "See the report of vbmstat glm."
    pitfalls = f"{n_flagged} scans are flagged and none was dropped: check the pictures and report what you left out."
    if is_mixed:
        pitfalls += " The maps come from several engines or versions: run preprocess again before fitting a model."
    answers = (
        _DATA, (HERE, "Methods, with versions, parameters and the hash of every input."), (HERE, "Methods."),
        (YOURS, later), (YOURS, later), (YOURS, later), (YOURS, later), (PARTLY, pitfalls), _LIMITS, _CAUTION,
    )  # fmt: skip
    return _numbered(answers)


def glm_rules(
    record: Mapping[str, Any], has_preprocessing: bool, n_flagged: int | None, has_clusters: bool
) -> list[Rule]:
    """The rules after a model.

    Parameters
    ----------
    record : mapping
        Content of ``glm.json``.
    has_preprocessing : bool
        Whether the maps have sidecars.
    n_flagged : int, optional
        Scans in the model that quality control flagged.
    has_clusters : bool
        Whether there are tables of clusters.
    """
    other = (PARTLY, "The maps have no vbmstat sidecars: take this from the program that made them.")
    made = (HERE, "Methods, with versions, parameters and the hash of every map.") if has_preprocessing else other
    of_regions = record.get("level", "voxel") != "voxel"
    by_table = ["false discovery rate and Holm over the regions of a contrast"] if of_regions else []
    corrected = [*(record.get("inference") or {}).get("kinds", []), *by_table]
    significance = (
        (HERE, f"P-values are corrected for multiple comparisons ({', '.join(corrected)}); uncorrected ones are given "
               "too.")
        if corrected
        else (PARTLY, "P-values are two-sided and not corrected over voxels: they make no voxel significant. "
              "The outlines in the pictures mark p = 0.001 for orientation only.")
    )  # fmt: skip
    tables = "clusters with peaks in MNI mm and regions; " if has_clusters else "peaks in MNI mm; "
    results = (
        (HERE, "Every region of the atlas is listed, by name, with its effect.")
        if of_regions
        else (
            HERE,
            f"Template and space are named; {tables}left is left; one symmetric colour scale; values below the "
            "threshold are faded, not hidden; all maps are NIfTI files to share.",
        )
    )
    unusual = _unusual(record)
    nonstandard = (PARTLY, f"Justify these: {'; '.join(unusual)}.") if unusual else (HERE, "Nothing non-standard.")
    design = (HERE, "Formula, design matrix, contrasts, degrees of freedom, correlations, scans left out.")
    answers = (
        _DATA, made, made if not has_preprocessing else (HERE, "Methods."), design, significance, results, nonstandard,
        (PARTLY, _pitfalls(record, n_flagged)), _LIMITS, _CAUTION,
    )  # fmt: skip
    return _numbered(answers)


_DATA = (PARTLY, "The table of participants is here. Add the rationale, recruitment, scanner and sequence.")
_LIMITS = (
    YOURS,
    "VBM measures local volume through segmentation and warp: registration error, partial volume at the cortex, "
    "lesions and atrophy can look like effects. docs/algorithms.md of vbmstat lists the limits of each step.",
)
_CAUTION = (YOURS, "Discuss the size of effects and earlier work; a null result does not mean no effect.")


def _numbered(answers: tuple[tuple[str, str], ...]) -> list[Rule]:
    return [Rule(n, title, *answer) for n, (title, answer) in enumerate(zip(TITLES, answers, strict=True), start=1)]


def _unusual(record: Mapping[str, Any]) -> list[str]:
    spec, rule = record["spec"], record["mask_rule"]
    named = (
        (record["n_subsets"], "medians of the statistic over random subsets (a measure of stability, not a test)"),
        (spec["variance"] == "hc3", "HC3 standard errors"),
        (spec["weights"], "weighted least squares"),
        (spec["tiv"] == "proportional", "proportional scaling by TIV"),
        (spec["global_scaling"], "global scaling"),
        (rule["share"] != 1, "a mask with voxels that some scans lack"),
        (spec["allow_mixed"], "maps of several engines or versions"),
    )
    return [text for applies, text in named if applies]


def _pitfalls(record: Mapping[str, Any], n_flagged: int | None) -> str:
    pitfalls = []
    if record.get("level", "voxel") == "voxel":
        pitfalls.append(f"{record['n_voxels']:,} voxels are in the mask: check that it covers your regions.")
    for row in record["design_report"]:
        if (row.get("vif") or 0) > _HIGH_VIF:
            pitfalls.append(f"{row['column']} is nearly a combination of the other columns (VIF {row['vif']:.1f}).")
        if row["column"] != "tiv" and abs(row.get("r_tiv") or 0) > _HIGH_R:
            pitfalls.append(f"{row['column']} correlates with TIV (r = {row['r_tiv']:.2f}): they share their effect.")
    if n_flagged is None:
        pitfalls.append("No quality control is known for these maps: look at every one.")
    else:
        pitfalls.append(f"{n_flagged or 'No'} scans in the model are flagged by quality control.")
    pitfalls.append("Check every segmentation yourself.")
    return " ".join(pitfalls)
