from __future__ import annotations

import copy

import pytest

from vbmstat.preproc.spec import ENGINES
from vbmstat.report.citations import references
from vbmstat.report.methods import glm_methods, preprocessing_methods, template_methods


def text(record: dict, **options) -> str:
    """The paragraph of a model with other options, or other entries of its record."""
    changed = copy.deepcopy(record)
    for name, value in options.items():
        spec = changed["spec"]
        of_spec = name in spec and name not in ("inference", "contrasts")
        place = spec if of_spec else spec["subsets"] if name in spec["subsets"] else changed
        place[name] = value
    return glm_methods(changed).paragraphs[0]


def test_a_model_in_words(record) -> None:
    said = text(record)
    assert "maps of 13 scans" in said
    assert "gm ~ age + sex + iq" in said
    assert f"{record['n_voxels']:,} voxels" in said
    assert "columns Intercept, age, sex[T.m], iq; 9 residual degrees" in said
    assert "every scan exceeded 0.1 were analysed (Ridgway et al., 2009)" in said
    assert "two-sided and not corrected for multiple comparisons" in said
    assert "8 random subsets of 10 scans" in said
    assert "they have no p-value" in said


@pytest.mark.parametrize(
    ("of_files", "applied", "expected"),
    [
        (0, 8, "Maps were smoothed with a Gaussian of 8 mm full width at half maximum before they were masked."),
        (7.5, 0, "Maps had been smoothed with a Gaussian of 7.5 mm full width at half maximum."),
        (0, 0, "Maps were not smoothed."),
        (None, 0, ""),
    ],
)
def test_smoothing_in_words(record, of_files, applied, expected) -> None:
    said = text(record, smoothing={"of_files_fwhm_mm": of_files, "applied_fwhm_mm": applied})
    assert expected in said
    assert ("smoothed" in said) == bool(expected)
    record.pop("smoothing", None)  # of an earlier version
    assert "smoothed" not in text(record)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"tiv": "by-group"}, "with a slope for each group"),
        ({"tiv": "proportional"}, "multiplied by the mean over the scan's total intracranial volume"),
        ({"variance": "hc3"}, "(HC3) (MacKinnon and White, 1985)"),
        ({"weights": "w"}, "weighted by the column w"),
        ({"variance": "spm"}, "0.001 of the largest residual mean square"),
        ({"global_scaling": True}, "scaled to one mean"),
        ({"stratify": "site"}, "keeping the shares of site"),
        ({"mask_rule": {"threshold": 0.2, "share": 0.9, "image": None}}, "where 90 % of the scans exceeded 0.2"),
        ({"mask_rule": {"threshold": None, "share": 1, "image": "m.nii"}}, "the mask m.nii that were not constant"),
    ],
)
def test_every_option_that_changes_the_fit_is_said(record, change, expected) -> None:
    assert expected not in text(record)
    assert expected in text(record, **change)


def test_a_sandwich_fit_says_what_it_is_and_has_no_effect_sizes(record) -> None:
    sandwich = {"subject": "family", "n_subjects": 7, "correction": "CR2", "degrees_of_freedom": "Satterthwaite",
                "df": {"age": 5.25}}  # fmt: skip
    said = text(record, sandwich=sandwich, inference={"kinds": ["fdr"], "contrasts": []})
    assert "scans of one family (sandwich estimator over 7 of them, CR2 correction)" in said
    assert "Satterthwaite's (median over voxels 5.2 for age)" in said
    assert "two-sided q-values of Benjamini and Hochberg" in said
    assert "residual degrees of freedom" not in said
    assert "Cohen" not in said
    assert "Cohen" in text(record)


def test_fewer_degrees_of_freedom_of_hc3_in_words(record) -> None:
    assert "effective degrees of freedom" not in text(record, variance="hc3")
    changed = copy.deepcopy(record)
    changed["contrasts"][0]["df"] = 2.94
    said = text(changed, variance="hc3")
    name = record["contrasts"][0]["name"]
    assert f"t had effective degrees of freedom of the design (2.9 for {name})" in said


def test_variance_groups_in_words(record) -> None:
    changed = {**record, "variance_groups": {"column": "sex", "scans_per_group": [6, 7], "df": {"age": 9.2}}}
    said = glm_methods(changed).paragraphs[0]
    assert "for each of the 2 groups of scans in the column sex (v of Aspin and Welch" in said
    assert "residual degrees of freedom" not in said
    assert "Cohen" not in said
    changed["variance_groups"]["column"] = "auto"
    assert "groups of scans in the exchangeability blocks" in glm_methods(changed).paragraphs[0]


def test_early_stop_and_tails_in_words(record) -> None:
    entry = {"name": "age", "two_sided": True, "permutations": 500, "permutations_planned": 500}
    inference = {"kinds": ["fwe"], "blocks": [], "scheme": "freedman-lane", "sign_flip": False, "contrasts": [entry]}
    said = text(record, inference=inference)
    assert "planned" not in said
    assert "Pareto" not in said
    entry["permutations"] = 256
    entry["approximated"] = {"tails": {"statistic": {"kind": "gpd", "floor": 2e-4}, "tfce": None}}
    said = text(record, inference=inference)
    assert "Of 500 planned, permutations stopped once enough exceeded the strongest result (Besag" in said
    assert "Pareto distributions fitted to the upper tails (Winkler et al., 2016), with a floor of 0.0002" in said


def test_no_subsets_no_sentence(record) -> None:
    assert "subsets" not in text(record, n_subsets=0)


def test_a_contrast_of_several_columns_is_spelled_out(record) -> None:
    contrast = {"name": "older", "kind": "t", "weights": [{"Intercept": 0, "age": 1, "sex[T.m]": -1, "iq": 0.5}]}
    assert "older (t-test of age −sex[T.m] +0.5 iq)" in text(record, contrasts=[contrast])


def test_permutations_in_words(record) -> None:
    inference = {
        "kinds": ["fwe", "tfce", "cluster", "fdr"], "blocks": ["family"], "scheme": "freedman-lane",
        "sign_flip": False, "contrasts": [
            {"name": "age", "two_sided": True, "cluster_forming_threshold": 3.4, "permutations": 5000,
             "statistic_at_p_fwe_0.05": 5.1},
        ],
    }  # fmt: skip
    said = text(record, inference=inference)
    assert "5,000 permutations of the residuals of the reduced model (Freedman and Lane, 1983)" in said
    assert "within exchangeability blocks of family" in said
    flips = text(record, inference=inference | {"exchange": "whole", "sign_flip": True})
    assert "5,000 sign flips of whole exchangeability blocks of family (Winkler" in flips
    sandwich = {
        "subject": "participant_id",
        "n_subjects": 9,
        "correction": "CR2",
        "degrees_of_freedom": "Satterthwaite",
        "df": {"age": 7.0},
    }
    wild = text(record, inference=inference | {"exchange": "whole", "sign_flip": True}, sandwich=sandwich)
    assert "all scans of one participant_id (wild bootstrap) (Cameron et al., 2008)" in wild
    assert "exchangeability" not in wild
    assert "the maximum statistic and threshold-free cluster enhancement" in said
    assert "cluster-forming threshold 3.40" in said
    assert "q-values of Benjamini and Hochberg" in said
    assert "not corrected" not in said


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_has_its_methods(engine) -> None:
    methods = preprocessing_methods(20, 2, 3, [(engine, "1.0")], [6.0])
    said = methods.paragraphs[0]
    assert said.startswith("20 T1-weighted scans were processed for voxel-based morphometry (Ashburner and Friston")
    assert f"with vbmstat 1.0, engine {engine}; 2 more could not" in said
    assert "3 scans were already skull-stripped" in said
    assert "Gaussian of 6 mm" in said
    assert "registered" in said
    assert {"ashburner2000", "fisch2024bet", "gaser2024"} <= set(methods.keys) <= set(references())
    assert "[@" not in said


def test_stripped_scans_were_not_stripped_by_us() -> None:
    assert "deepbet" not in preprocessing_methods(3, 0, 3, [("classic", "1.0")], [6.0]).paragraphs[0]


def test_the_widths_of_the_smoothed_maps_are_told():
    made_by = [("classic", "1.0")]
    two, none = (preprocessing_methods(3, 0, 0, made_by, widths).paragraphs[0] for widths in ([6, 7.5], []))
    assert "smoothed with a Gaussian of 6 or 7.5 mm full width" in two
    assert "Gaussian" not in none
    assert "maps were written" not in two
    assert (
        "with voxels of 1.5 mm; maps were written with voxels of 1 mm."
        in (preprocessing_methods(3, 0, 0, made_by, [6], [1.0]).paragraphs[0])
    )


def test_a_mixed_model_claims_no_more_than_it_does(record) -> None:
    mixed = {"random_intercept": "id", "n_subjects": 7, "df_between_subjects": 4, "df_within_subjects": 6}
    said = text(record, mixed_model=mixed, level="roi", atlas="lpba40")
    assert "False discovery rates over the regions of each contrast are q-values" in said
    assert "not corrected" not in said
    assert "Cohen" not in said


def test_regions_are_not_called_voxels(record) -> None:
    found = {"kinds": ["fwe"], "contrasts": [{"name": "age", "two_sided": True, "permutations": 99}],
             "sign_flip": False, "scheme": "smith", "blocks": []}  # fmt: skip
    said = text(record, inference=found, level="roi", atlas="lpba40")
    assert "Family-wise error over regions was controlled by 99 permutations" in said
    assert "False discovery rates over the regions of each contrast are q-values" in said
    assert "over voxels" not in said
    assert "at each voxel" not in said
    assert "regions of the atlas lpba40 (Shattuck et al., 2008) in" in said
    of_tracts = text(record, inference=found, level="roi", atlas="tracts72")
    assert "regions of the atlas tracts72 (Wasserthal et al., 2018) in" in of_tracts
    assert "regions of the atlas own in" in text(record, inference=found, level="roi", atlas="own")


def test_contrasts_that_were_not_permuted_are_told(record) -> None:
    """Only the first covariate is permuted by default; a contrast without permutations has no count of them."""
    entry = {"name": "group", "two_sided": True, "permutations": 5000, "permutations_planned": 5000}
    plain = {"name": "age", "two_sided": True, "cluster_forming_threshold": 3.1}
    inference = {"kinds": ["fwe"], "blocks": [], "scheme": "freedman-lane", "sign_flip": False}
    said = text(record, inference={**inference, "contrasts": [plain, entry]})
    assert "5,000 permutations" in said
    assert "This was done for group only." in said
    assert "This was done for" not in text(record, inference={**inference, "contrasts": [entry]})


def test_group_templates_in_words() -> None:
    said = template_methods(["children 0123456789ab"])
    assert "registered to a group template (children 0123456789ab)" in said.paragraphs[0]
    assert {"ashburner2007", "ashburner2011"} <= set(said.keys)
    assert template_methods([]).paragraphs == ()
