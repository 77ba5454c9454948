"""The meaning of every column of every table (one long list).

`dictionary` writes it beside each table as a BIDS data dictionary; ``docs/columns.md`` is generated from it. A name may
hold placeholders, ``<region>_<tissue>_ml``, which the description uses as ``{region}``. The first match counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vbmstat.files.naming import TISSUES


@dataclass(frozen=True)
class Column:
    """A column: name (may hold ``<placeholders>``), description, units, meaning of coded values."""

    name: str
    description: str
    units: str = ""
    levels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A kind of table: the command that writes it, its file names, the meaning of a row, its columns in order."""

    command: str
    files: str
    rows: str
    columns: tuple[Column, ...]


def _table(command: str, files: str, rows: str, *columns: Column) -> Table:
    return Table(command, files, rows, columns)


_PARTICIPANT = Column("participant_id", "Participant, as in participants.tsv; text, so 001 is not 1")
_AGE_SEX = (Column("age", "Age", "years"), Column("sex", "Sex", levels={"M": "male", "F": "female"}))
_SESSION = Column("session_id", "Session; no such column if no scan has a session")
_IDS = (_PARTICIPANT, _SESSION)
_SCAN_ID = Column("scan_id", "Participant and session joined by an underscore, sub-01 or sub-01_ses-1")
_REASON = Column("reason", "Reason, in one line")
_VOLUMES = (
    Column("tiv_ml", "Total intracranial volume: GM + WM + CSF in the scan's space", "mL"),
    Column("gm_ml", "Grey matter in the scan's space", "mL"),
    Column("wm_ml", "White matter in the scan's space", "mL"),
    Column("csf_ml", "Cerebrospinal fluid in the scan's space", "mL"),
)
_WMH_ML = "Volume of white-matter hypointensity"
_COHORT_LESIONS = (
    Column("lesion_ml", "Volume of the lesion mask that the user gave (--lesion-mask), part of tiv_ml", "mL"),
    Column("wmh_ml", f"{_WMH_ML} (--wmh) in the scan's space; missing if it could not be measured", "mL"),
    Column("wmh_count", "Number of separate white-matter hypointensities"),
    Column(
        "wmh_detectable",
        "Whether wmh_ml reaches the least volume that is told from none",
        levels={"True": "yes", "False": "no: report it as not detectable"},
    ),
    Column("wmh_periventricular_ml", f"{_WMH_ML} up to 10 mm from the lateral ventricles", "mL"),
    Column("wmh_deep_ml", f"{_WMH_ML} that is neither periventricular nor juxtacortical", "mL"),
    Column("wmh_juxtacortical_ml", f"{_WMH_ML} not periventricular, up to 4 mm from the cortex", "mL"),
    Column(
        "wmh_as",
        "How the tissue maps and volumes count hypointensities",
        levels={
            "wm": "as white matter",
            "class": "in no tissue; they are part of tiv_ml",
            "none": "as the segmentation has them, mostly grey matter",
        },
    ),
)
LESION_COLUMNS = tuple(column.name for column in _COHORT_LESIONS)
_SIDES = {"left": "left", "right": "right", "both": "a structure that is not split"}
_PEAK = tuple(Column(f"{axis}_mm", f"Peak, MNI {axis}", "mm") for axis in "xyz")
_AT_PEAK = (
    Column("z", "Normal value with the same tail probability"),
    Column("p_uncorrected", "Uncorrected p"),
    Column("p_fwe", "Family-wise error corrected p (maximum statistic, by permutation)"),
    Column("p_tfce_fwe", "Corrected p of TFCE, by permutation"),
    Column("q_fdr", "False discovery rate adjusted p"),
    Column("g", "Hedges' g"),
)
_APPROXIMATED = Column("approximated", "Columns whose p comes from a fitted tail, not from counting (--tail)")
_ROI_VOLUMES = (
    Column("gm_ml", "Volume of grey matter in the label or region; missing if it could not be measured", "mL"),
    Column("wm_ml", "Volume of white matter in the label or region; missing if it could not be measured", "mL"),
    Column("csf_ml", "Volume of CSF in the label or region; missing if it could not be measured", "mL"),
    Column("wmh_ml", f"{_WMH_ML} in the label or region; only if the scans have maps of it", "mL"),
)
_ROI_WIDE = tuple(
    Column(f"<region>_{tissue}_ml", f"Volume of {words} in {{region}}", "mL")
    for tissue, words in {**TISSUES, "wmh": "white-matter hypointensity"}.items()
)
_ENGINE = Column("engine", "Engine; deep with the name of its weights")
_HEAD_KEYS = (
    Column("head", "Scan or label map, by its file name"),
    Column("thinning_mm", "How far the pial surface of the cortex has moved inward", "mm"),
)
_ARTEFACT_KEYS = (
    Column("artefact", "Artefact that was added; none: the original image"),
    Column(
        "strength",
        "Strength of the artefact",
        levels={"none": "no artefact", "medium": "acceptable", "strong": "to be scanned again"},
    ),
)
_ARTEFACT_MEASURES = (
    Column("dice_gm", "Dice coefficient of GM"),
    Column("dice_wm", "Dice coefficient of WM"),
    Column("dice_csf", "Dice coefficient of CSF"),
    Column("gm_error_percent", "Error of the GM volume, relative to the true one", "%"),
    Column("tiv_error_percent", "Error of TIV (GM + WM + CSF), relative to the true one", "%"),
)
_TRIAL_END = (
    Column("reason", "Why the image could not be segmented, in one line"),
    Column("made_with", "Hash of image, engine, weights and versions; rows with an equal hash are not recomputed"),
)
_OVERLAP = tuple(
    Column(f"{measure}_<tissue>", text)
    for measure, text in (
        ("dice", "Dice of {tissue} between the two label maps (0 to 1)"),
        ("pdice", "Probabilistic Dice of the {tissue} fractions, 2 sum(ab) / sum(a + b) (0 to 1)"),
        ("jaccard", "Jaccard of {tissue} between the two label maps (0 to 1)"),
    )
)
_STATISTICS = (
    Column("t", "t of the full sample"),
    Column("F", "F of the full sample"),
    Column("p", "Uncorrected p: two-sided for t, upper tail for F"),
    Column("z", "Normal value with the same tail probability"),
    Column("effect", "Contrast of the estimates, c'β, in units of the volume per unit of the regressor"),
    Column("variance", "Variance of the effect"),
    Column("r", "Partial correlation, t / sqrt(t² + df)"),
    Column("d", "Cohen's d as 2t / sqrt(df)"),
    Column("g", "Hedges' g"),
    Column("dlow", "Lower 95 % limit of Cohen's d"),
    Column("dhigh", "Upper 95 % limit of Cohen's d"),
    Column("r2", "Partial R² (F only)"),
    Column("qfdr", "False discovery rate adjusted p"),
    Column("pperm", "Uncorrected p by permutation"),
    Column("pfwe", "Family-wise error corrected p over the features (maximum statistic)"),
    Column("tfce", "TFCE value"),
    Column("ptfce", "Corrected p of TFCE"),
    Column("sigma2", "Residual variance"),
    Column("n80", "Scans for 80 % power at the observed effect, two-sided p < .05 uncorrected (1,000,000: or more)"),
    Column("n80fwe", "The same at the t threshold of family-wise error .05 over the features"),
    Column("df", "Effective degrees of freedom (repeated scans, variance groups)"),
    Column("replication", "Share of the subset repetitions with uncorrected p < .05"),
    Column("median<statistic>", "Median of {statistic} over the subset repetitions; it has no p-value"),
    Column("q25<statistic>", "Lower quartile of {statistic} over the subset repetitions"),
    Column("q75<statistic>", "Upper quartile of {statistic} over the subset repetitions"),
)

_AGREEMENT = (
    Column("r", "Pearson correlation"),
    Column("ccc", "Lin's concordance correlation: 1 only if B = A"),
    Column("slope", "Least-squares regression of B on A: slope"),
    Column("intercept", "Least-squares regression of B on A: intercept"),
    Column("sd_ratio", "Standard deviation of B over that of A"),
    Column("bias", "Mean of B − A"),
    Column("loa_low", "Lower limit of agreement of Bland and Altman: bias − 1.96 SD of B − A"),
    Column("loa_high", "Upper limit of agreement: bias + 1.96 SD of B − A"),
)
_MAP_AGREEMENT = (
    Column("n_voxels_a", "Voxels in the mask of A"),
    Column("n_voxels_b", "Voxels in the mask of B"),
    Column("n_voxels", "Voxels in both masks (scans: where the template's tissue exceeds 0.1); all but the peaks are "
           "computed over these"),
    *_AGREEMENT,
    Column("peak_distance_mm", "Distance between the two peaks", "mm"),
    Column("<sign>_peak_distance_mm", "Distance between the most {sign} values of the two maps", "mm"),
    Column("peak_<map>_<axis>", "Position of that value in map {map}, MNI {axis}", "mm"),
    Column("peak_<map>", "Value of map {map} that is largest in magnitude, with its sign, in its own mask"),
    Column("n_<map>_t<level>", "Voxels of map {map} beyond ±{level}"),
    Column("dice_t<level>", "Dice of the voxels beyond ±{level}, with equal sign"),
)  # fmt: skip
_ROI_AGREEMENT = (
    Column("label", "Value in the atlas image"),
    Column("name", "Name of the label"),
    Column("region", "Name shared by the left and right label"),
    Column("tissue", "Tissue", levels=TISSUES),
    Column("n_scans", "Scans with a volume in both"),
    Column("mean_<table>_ml", "Mean volume over scans in {table}", "mL"),
    *_AGREEMENT,
)
_COHORT, _PIPELINE = Column("cohort", "Cohort, as named in the plan"), Column("pipeline", "Pipeline")
_PAIR = (
    _COHORT,
    Column("tissue", "Tissue", levels=TISSUES),
    Column("a", "Pipeline A, the reference"),
    Column("b", "Pipeline B"),
)
_SUMMARY = (
    Column("n_scans", "Scans that have the measure"),
    Column("median", "Median over the scans"),
    Column("min", "Smallest over the scans"),
    Column("max", "Largest over the scans"),
)
_PAPER = Column("paper", "Value in the deepmriprep paper, for deepmriprep and CAT12")

TABLES = {
    "cohort": _table(
        "preprocess",
        "cohort.tsv",
        "a complete scan",
        *_IDS,
        Column("scan", "Stem of the scan's file name, and of the names of its outputs"),
        *_VOLUMES,
        *_COHORT_LESIONS,
        Column("qc_noise_percent", "Standard deviation of the noise in WM, before denoising", "% of median WM"),
        Column("qc_noise_to_contrast", "The same noise over the smaller of the WM − GM and GM − CSF differences"),
        Column("qc_bias_percent", "Range of the bias field over the brain, 5th to 95th percentile", "%"),
        Column("qc_contrast_percent", "(WM − GM) / WM after bias correction", "%"),
        Column("qc_resolution_mm", "Root mean square of the voxel's edge lengths", "mm"),
        Column("qc_cut_cm2", "Flat area at an end of the brain, beyond a round end's; above 10: cut off", "cm²"),
        Column("qc_template_correlation", "Correlation of the warped grey matter with the template's"),
        Column("qc_jacobian_min", "Smallest Jacobian determinant of the warp"),
        Column("qc_jacobian_max", "Largest Jacobian determinant of the warp"),
        Column("qc_affine_scale", "Size of the scan's brain over the template's, from the linear registration"),
        Column("qc_gm_outside_percent", "Warped grey matter where the template has no brain", "%"),
        Column("qc_template_overlap", "Dice of the brain tissue (GM + WM above one half) with the template's"),
        Column("qc_implausible_percent", "Warped GM and WM where the template has none of that tissue", "%"),
        Column("qc_image_rating", "Overall image rating from noise, bias and resolution, 100 best", "%"),
        Column("qc_image_grade", "The rating as a letter, A+ to F (below 50 %)"),
        Column("qc_<aspect>_rating", "Rating of {aspect}, 100 best, 0 worst", "%"),
        Column("qc_mean_correlation", "Mean correlation of the smoothed GM map with the other scans'"),
        Column("qc_mean_correlation_z", "Robust z of qc_mean_correlation"),
        Column("qc_mean_z", "Fourth root of the mean fourth power of the map's z-scores over voxels"),
        Column("qc_tiv_z", "Robust z of TIV in the cohort"),
        Column("qc_gm_share_z", "Robust z of GM over TIV in the cohort"),
        Column("qc_duplicate_of", "Id of an earlier scan with the same image"),
        Column("qc_warnings", "Warnings in words, separated by semicolons; no scan is ever dropped for them"),
        Column(
            "came_stripped",
            "Whether the input was skull-stripped",
            levels={"True": "without skull", "False": "whole head"},
        ),
        Column(
            "engine",
            "Preprocessing engine; glm refuses a mixture",
            levels={
                "classic": "vbmstat's own",
                "cat": "CAT12's algorithms from the cat-surf package",
                "deep": "networks, which the scan's sidecar names",
            },
        ),
        Column("vbmstat_version", "Version that made the maps; glm refuses a mixture"),
        Column("harmonization", "How vbmstat harmonize changed the maps; only in its own table"),
        Column("mwp1", "Path of the modulated grey matter in template space, relative to this table"),
        Column("mwp2", "Path of the modulated white matter in template space"),
        Column("mwp3", "Path of the modulated CSF in template space"),
        Column("mwp7", "Path of the modulated white-matter hypointensities in template space"),
        Column("s<fwhm>mwp1", "Path of the modulated grey matter, smoothed by {fwhm} mm FWHM"),
        Column("s<fwhm>mwp2", "Path of the modulated white matter, smoothed by {fwhm} mm FWHM"),
        Column("s<fwhm>mwp7", "Path of the modulated white-matter hypointensities, smoothed by {fwhm} mm FWHM"),
    ),
    "inputs": _table(
        "preprocess",
        "inputs.tsv",
        "an image file found in the input",
        Column("path", "The file, relative to the folder that holds all of them"),
        Column("scan", "Stem of its outputs' names, if it is used"),
        Column("status", "Whether it was used", levels={"used": "a scan of the run", "skipped": "left out"}),
        Column("reason", "Why it was skipped"),
    ),
    "failures": _table(
        "preprocess",
        "failures.tsv",
        "a scan that failed",
        Column("scan", "Stem of the scan's file name"),
        Column("path", "The image file"),
        Column("step", "Step at which it failed"),
        _REASON,
    ),
    "volumes": _table(
        "preprocess",
        "label/volumes_NAME.tsv",
        "a tissue of one scan",
        Column(
            "tissue",
            "Tissue, lesion, or TIV",
            levels={
                **TISSUES,
                "wmh": "white-matter hypointensity (--wmh); part of a tissue unless --wmh-as class",
                "lesion": "lesion mask (--lesion-mask); in no tissue unless --lesion-in-maps keep",
                "tiv": "total intracranial volume",
            },
        ),
        Column("volume_ml", "Volume in the scan's space", "mL"),
    ),
    "wmh_volumes": _table(
        "preprocess",
        "label/wmh_NAME.tsv",
        "a zone, lobe and side of one scan",
        Column(
            "zone",
            "Place in the white matter, by distances in the scan",
            levels={
                "periventricular": "up to 10 mm from the lateral ventricles",
                "deep": "neither of the two others",
                "juxtacortical": "not periventricular, up to 4 mm from the cortex",
            },
        ),
        Column("lobe", "Lobe of the nearest gyrus of LPBA40, or infratentorial"),
        Column("hemisphere", "Side of the template's midline", levels={"left": "left", "right": "right"}),
        Column("wmh_ml", f"{_WMH_ML} in the scan's space; the rows sum to wmh_ml of cohort.tsv", "mL"),
    ),
    "design": _table(
        "glm",
        "design.tsv",
        "a scan in the model",
        _SCAN_ID,
        Column("Intercept", "1 for every scan"),
        Column("<column>", "Regressor {column} of the design matrix, as fitted"),
    ),
    "design_report": _table(
        "glm",
        "design_report.tsv",
        "a column of the design matrix, without the intercept",
        Column("column", "Column of the design matrix"),
        Column("vif", "Variance inflation factor, 1 / (1 − R²) of the column on all others; inf if R² is 1"),
        Column("r_tiv", "Correlation with TIV; missing if the table has no TIV"),
        Column("r2_site", "R² of the column on the sites; missing if the formula uses none"),
    ),
    "draws": _table(
        "glm",
        "draws.tsv",
        "a scan in the model",
        _SCAN_ID,
        Column("repetitions", "One character per subset repetition: 1 in the subset, 0 left out"),
    ),
    "glm_table": _table(
        "glm",
        "contrast-NAME_stats.tsv",
        "a fitted feature (region)",
        Column("feature", "The fitted feature, e.g. a column of a region table"),
        *_STATISTICS,
        _APPROXIMATED,
    ),
    "clusters": _table(
        "glm",
        "contrast-NAME_clusters.tsv",
        "a cluster",
        Column("cluster", "Number of the cluster, its value in contrast-NAME_clusters.nii.gz; 1 is the largest"),
        Column("sign", "Sign of the statistic", levels={"1": "positive", "-1": "negative"}),
        Column("size_voxels", "Number of voxels"),
        Column("size_ml", "Volume", "mL"),
        Column("mass", "Sum over the voxels of the statistic's excess over the cluster-forming threshold"),
        Column("p_extent_fwe", "Corrected p of the cluster's size, by permutation"),
        Column("p_mass_fwe", "Corrected p of the cluster's mass, by permutation"),
        *_PEAK,
        Column("peak_t", "t at the peak"),
        Column("peak_F", "F at the peak"),
        *(Column(f"peak_{column.name}", f"At the peak: {column.description}") for column in _AT_PEAK),
        Column("regions", "Regions of the atlas with their share of the cluster; shares under 5 % are not listed"),
        _APPROXIMATED,
    ),
    "peaks": _table(
        "glm",
        "contrast-NAME_peaks.tsv",
        "a peak: at most three per cluster, more than 8 mm apart",
        Column("cluster", "Cluster of the peak"),
        *_PEAK,
        Column("t", "t at the peak"),
        Column("F", "F at the peak"),
        *_AT_PEAK,
        Column("region", "Region of the atlas at the peak"),
        _APPROXIMATED,
    ),
    "null_maxima": _table(
        "glm",
        "contrast-NAME_nullmaxima.tsv",
        "a permutation; the first is the unpermuted data",
        Column("statistic", "Largest statistic in the map"),
        Column("tfce", "Largest TFCE value"),
        Column("extent", "Size of the largest cluster", "voxels"),
        Column("mass", "Largest cluster mass"),
    ),
    "roi_glm": _table(
        "glm",
        "roi_ATLAS_glm.tsv",
        "a label or region, and contrast",
        Column("label", "Value in the atlas image"),
        Column("hemisphere", "Side of the label", levels=_SIDES),
        Column("name", "Name of the label"),
        Column("region", "Name shared by the left and right label"),
        Column("contrast", "Contrast, as written"),
        Column("statistic", "Kind of statistic in `value`: t or F"),
        Column("mean_ml", "Mean volume over the scans of the model", "mL"),
        Column("effect", "Estimate c'β (t only)", "mL per unit of the covariate"),
        Column("se", "Standard error of the effect (t only)", "mL per unit of the covariate"),
        Column("value", "The statistic of the full sample"),
        Column("df", "Residual (denominator) degrees of freedom; effective ones (repeated, mixed, by group)"),
        Column("p_uncorrected", "p of the statistic: two-sided for t, upper tail for F"),
        Column("q_fdr", "Benjamini-Hochberg adjusted p over the regions of one contrast"),
        Column(
            "p_fwe",
            "Family-wise error corrected p over the regions of one contrast: share of the permutations, including "
            "the unpermuted data, whose maximum statistic is at least as large",
        ),
        _APPROXIMATED,
        Column("partial_r", "Partial correlation t / sqrt(t² + df) (t only)"),
        Column("cohens_d", "Cohen's d as 2 t / sqrt(df) (t only)"),
        Column("median_t", "Median t over the subset repetitions: a measure of stability, without p"),
        Column("q25_t", "First quartile of t over the subset repetitions"),
        Column("q75_t", "Third quartile of t over the subset repetitions"),
        Column("median_f", "Median F over the subset repetitions: a measure of stability, without p"),
        Column("q25_f", "First quartile of F over the subset repetitions"),
        Column("q75_f", "Third quartile of F over the subset repetitions"),
        Column("random_variance", "Variance of the subjects' random intercepts (mixed model)", "mL²"),
        Column("residual_variance", "Variance within a subject (mixed model)", "mL²"),
        Column("icc", "Share of the variance between subjects (mixed model)"),
        Column("converged", "Whether the fit converged (mixed model)"),
    ),
    "roi_labels": _table(
        "roi",
        "roi_ATLAS_labels.tsv, roi_ATLAS_native_labels.tsv",
        "a scan and label of the atlas",
        *_IDS,
        Column("label", "Value in the atlas image"),
        Column("hemisphere", "Side of the label", levels=_SIDES),
        Column("name", "Name of the label"),
        Column("region", "Name shared by the left and right label"),
        *_ROI_VOLUMES,
    ),
    "roi_regions": _table(
        "roi",
        "roi_ATLAS_regions.tsv, roi_ATLAS_native_regions.tsv",
        "a scan and merged region (left + right)",
        *_IDS,
        Column("region", "Name shared by the left and right label"),
        *_ROI_VOLUMES,
    ),
    "roi_wide": _table(
        "roi",
        "roi_ATLAS_labels_wide.tsv, roi_ATLAS_regions_wide.tsv",
        "a scan",
        *_IDS,
        *_ROI_WIDE,
    ),
    "roi_failures": _table(
        "roi",
        "roi_ATLAS_failures.tsv",
        "a map that could not be measured",
        _SCAN_ID,
        Column("tissue", "Tissue of the map", levels=TISSUES),
        _REASON,
    ),
    "evaluation_scans": _table(
        "evaluate folders",
        "evaluation_scans.tsv",
        "a scan, folder and reference",
        Column("scan", "Stem of the scan's file name"),
        Column("folder", "Output folder under evaluation"),
        Column("reference", "Reference of the comparison: another folder's name, truth or template"),
        *_OVERLAP,
        Column("r_mwp1", "Correlation of the modulated GM maps, smoothed by 6 mm, where the template exceeds 0.1"),
        Column("r_mwp2", "Correlation of the modulated WM maps, smoothed by 6 mm, where the template exceeds 0.1"),
        Column("mse_to_template", "Mean squared difference between warped GM and WM and the template"),
        Column("linear_elasticity", "Linear-elastic energy of the displacement (mu 2, lambda 1), mean over voxels"),
        Column("published_elasticity", "Linear elasticity as in the deepmriprep paper: a measure of bending"),
        Column("jacobian_min", "Smallest Jacobian determinant of the warp"),
        Column("jacobian_max", "Largest Jacobian determinant of the warp"),
        Column("age", "Age, from a folder's cohort.tsv or participants.tsv", "years"),
        Column("age_flag", "Ages that the template may suit less", levels={"child": "under 18", "old": "over 80"}),
    ),
    "evaluation_summary": _table(
        "evaluate folders",
        "evaluation_summary.tsv",
        "a folder, reference and measure",
        Column("folder", "Output folder under evaluation"),
        Column("reference", "Reference of the comparison"),
        Column("measure", "Column of evaluation_scans.tsv"),
        *_SUMMARY,
        Column("worst_scan", "Scan with the largest MSE, elasticity or determinant, or the smallest other measure"),
    ),
    "evaluation_artefacts": _table(
        "evaluate artefacts",
        "evaluation_artefacts.tsv",
        "a head, artefact, strength and engine",
        *_HEAD_KEYS[:1],
        *_ARTEFACT_KEYS,
        _ENGINE,
        Column(
            "truth",
            "Reference of the comparison",
            levels={
                "labels": "exact tissues of the label map",
                "own": "the engine's result on the original scan",
            },
        ),
        *_ARTEFACT_MEASURES,
        Column("seconds", "Wall time of the engine, up to the tissues", "s"),
        *_TRIAL_END,
    ),
    "evaluation_artefacts_summary": _table(
        "evaluate artefacts",
        "evaluation_artefacts_summary.tsv",
        "an engine, artefact and strength; measures are medians over heads",
        _ENGINE,
        *_ARTEFACT_KEYS,
        Column("n_scans", "Heads that were segmented"),
        Column("n_failed", "Heads that failed"),
        *_ARTEFACT_MEASURES,
        Column("seconds", "Wall time of the engine, up to the tissues", "s"),
        Column("worst_dice_gm", "Smallest Dice coefficient of GM"),
        Column("worst_head", "Head with the smallest Dice coefficient of GM"),
    ),
    "evaluation_atrophy": _table(
        "evaluate atrophy",
        "evaluation_atrophy.tsv",
        "a head, degree of thinning and engine",
        *_HEAD_KEYS,
        _ENGINE,
        Column("true_gm_ml", "Exact GM volume of the rendered head", "mL"),
        Column("gm_ml", "GM volume measured by the engine", "mL"),
        Column("true_change_percent", "Change of the exact GM volume from that without thinning", "%"),
        Column("found_change_percent", "Change of the measured GM volume from that without thinning", "%"),
        Column("seconds", "Wall time of the engine, up to the tissues", "s"),
        *_TRIAL_END,
    ),
    "evaluation_atrophy_summary": _table(
        "evaluate atrophy",
        "evaluation_atrophy_summary.tsv",
        "an engine",
        _ENGINE,
        Column("n_heads", "Heads"),
        Column("n_failed", "Images that were not segmented"),
        Column("slope", "Slope of measured on true change, least squares over all heads; 1 is exact"),
        Column("intercept", "Intercept of that line: measured change at no true change", "%"),
        Column("r", "Correlation of measured and true change"),
        Column("n_monotonic", "Heads whose measured GM volume falls from every level to the next"),
        Column("smallest_seen_mm", "Smallest thinning from which on every head has less GM than without", "mm"),
    ),
    "comparison": _table(
        "compare",
        "comparison.tsv",
        "a contrast and statistic, a scan and tissue, or a region and tissue",
        Column("scan", "Scan, by participant and session, or by its file name"),
        Column("statistic", "t, F, z, or their median over the subsets"),
        Column("a_ml", "Volume in A: sum of the map times the voxel volume", "mL"),
        Column("b_ml", "Volume in B", "mL"),
        *_ROI_AGREEMENT,
        *_MAP_AGREEMENT,
    ),
    "comparison_values": _table(
        "compare",
        "comparison_values.tsv",
        "a scan, tissue and region",
        *_IDS,
        Column("scan", "Scan, by participant and session, or by its file name"),
        *_ROI_AGREEMENT[:4],
        Column("a_ml", "Volume in A", "mL"),
        Column("b_ml", "Volume in B", "mL"),
    ),
    "tmaps": _table(
        "compare-cohorts",
        "tmaps.tsv",
        "a cohort, tissue, pair of pipelines, variable and statistic",
        *_PAIR,
        Column("variable", "Variable, as named in the plan"),
        Column("statistic", "t of all scans, or its median over the subsets"),
        Column("n_scans", "Scans in the model"),
        *_MAP_AGREEMENT,
    ),
    "rois": _table(
        "compare-cohorts", "rois.tsv", "a cohort, pair of pipelines, tissue and region", *_PAIR, *_ROI_AGREEMENT[2:]
    ),
    "correlation": _table(
        "compare-cohorts",
        "correlation.tsv",
        "a cohort, tissue and pair of pipelines",
        *_PAIR,
        Column("<variable>", "Correlation of the (median) t-maps of {variable}"),
    ),
    "max_t": _table(
        "compare-cohorts",
        "max_t.tsv",
        "a cohort, tissue and pipeline",
        *_PAIR[:2],
        _PIPELINE,
        Column("<variable>", "Largest absolute (median) t of {variable}"),
    ),
    "roi_correlation": _table(
        "compare-cohorts",
        "roi_correlation.tsv",
        "a tissue and region",
        Column("tissue", "Tissue", levels=TISSUES),
        Column("region", "Name shared by the left and right label"),
        _PAPER,
        Column("<pair>", "Correlation of the volumes over scans, {pair}"),
    ),
    "segmentation": _table(
        "compare-cohorts",
        "segmentation.tsv",
        "a cohort, pipeline, reference and measure",
        _COHORT,
        _PIPELINE,
        Column("compared_with", "Another pipeline, or the template"),
        Column("measure", "Column of evaluation_scans.tsv"),
        *_SUMMARY,
        _PAPER,
    ),
    "time": _table(
        "compare-cohorts",
        "time.tsv",
        "a cohort and pipeline",
        _COHORT,
        _PIPELINE,
        Column("n_scans", "Scans whose sidecar records the time"),
        Column("median", "Median over the scans", "s"),
        Column("min", "Smallest over the scans", "s"),
        Column("max", "Largest over the scans", "s"),
        _PAPER,
    ),
    "participants": _table(
        "simulate",
        "participants.tsv",
        "a person",
        _PARTICIPANT,
        *_AGE_SEX,
    ),
    "truth_volumes": _table(
        "simulate",
        "derivatives/truth/volumes.tsv",
        "a person",
        _PARTICIPANT,
        *_AGE_SEX,
        Column("tiv_ml", "Exact total intracranial volume", "mL"),
        Column("gm_ml", "Exact grey matter", "mL"),
        Column("wm_ml", "Exact white matter", "mL"),
        Column("csf_ml", "Exact cerebrospinal fluid", "mL"),
        Column("region_gm_ml", "Exact grey matter in the region of the effect", "mL"),
        Column("region_gm_factor", "Factor of age on the region's grey matter"),
        Column("csf_score_shift", "Shift of the CSF boundary that kept TIV constant"),
        Column("smallest_jacobian", "Smallest Jacobian determinant of the person's shape"),
    ),
}
