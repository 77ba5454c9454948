"""Results as a notebook shows them."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import vbmstat
from tests.glm.conftest import cohort_folder, images, table  # noqa: F401 - fixtures
from vbmstat.errors import DesignError, VbmstatError
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.results import GlmResults
from vbmstat.glm.spec import Compute, ModelSpec
from vbmstat.regions.models import fit_roi_glm
from vbmstat.regions.volumes import RegionSpec
from vbmstat.roi.table import measure_rois

pytestmark = pytest.mark.usefixtures("coarse_drawing")


@pytest.fixture
def results(cohort_folder) -> GlmResults:  # noqa: F811
    return fit_glm(None, "gm ~ age + sex", cohort_folder / "cohort.tsv", repeats=0, inference="fdr")


def test_the_repr_is_a_line_and_the_html_a_table(results):
    n = int(results.mask.sum())
    assert repr(results) == (
        f"GlmResults(gm ~ age + sex: 26 scans, {n} voxels; contrasts: age (t), sex[T.M] (t); corrected: fdr)"
    )
    html = results._repr_html_()
    assert html.count("<tr") == 3
    assert "sex[T.M]" in html
    row = results.summary().set_index("contrast").loc["age"]
    assert row["min"] == pytest.approx(results.maps["age"]["t"].values[results.mask].min())
    assert row["smallest_qfdr"] == results.maps["age"]["qfdr"].values[results.mask].min()
    assert row["threshold_by"] == "q of FDR = 0.05, two-sided"
    escaped = replace(results, record={**results.record, "notes": ["<b>"]})
    assert "<li>&lt;b&gt;</li>" in escaped._repr_html_()


def test_plots_are_figures_that_notebooks_show(results, tmp_path):
    figure = results.plot("age", cuts="z=0,12", limit=6.0, title="Age")
    assert figure.texts[0].get_text() == "Age"
    assert figure._repr_png_().startswith(b"\x89PNG")
    figure.savefig(tmp_path / "age.svg")
    threshold = results.inference["age"].critical(results.maps["age"]["t"].values)[0]
    assert f"{threshold:.3g}" in {text.get_text() for text in figure.axes[1].texts}
    q = results.plot("age", "qfdr", cuts="z=0")
    assert q.axes[1].get_title() == "−log10 p"
    with pytest.raises(DesignError, match=r"contrast None: expected one of age, sex\[T.M\]"):
        results.plot()
    with pytest.raises(DesignError, match="no image of 'x' for 'age'"):
        results.plot("age", "x")
    with pytest.raises(TypeError, match="plot has no option 'cut'; it takes contrast, stat, threshold, cuts"):
        results.plot("age", cut="z=0")
    with pytest.raises(VbmstatError, match="slice z=300"):
        results.plot("age", cuts="z=300")


def test_a_one_sided_plot_shows_positive_values_only(cohort_folder, monkeypatch):  # noqa: F811
    shown = []
    monkeypatch.setattr("vbmstat.report.notebook.plot", lambda volume, *_, **__: shown.append(float(volume.data.min())))
    for one_sided in (True, False):
        asked = {"repeats": 0, "inference": "fdr", "one_sided": one_sided}
        fit_glm(None, "gm ~ age", cohort_folder / "cohort.tsv", **asked).plot("age")
    assert shown[0] == 0 > shown[1]


def test_peaks_and_clusters_are_named_by_default(results):
    peaks = results.peaks("age")
    assert peaks["region"].notna().all()
    assert "regions" in results.clusters("age")
    assert "region" not in results.peaks("age", None)
    assert set(results.peaks("age", ["hammers"])["region"]) != set(peaks["region"])
    assert len(results.table("age")) == results.mask.sum()


def test_a_path_is_accepted_wherever_a_table_is(cohort_folder, monkeypatch):  # noqa: F811
    path = cohort_folder / "cohort.tsv"
    rows = pd.read_csv(path, sep="\t").rename(columns={"s6mwp1": "mwp1"}).head(6)
    rows.to_csv(path, sep="\t", index=False)
    measured = measure_rois(str(path), tissues="gm")
    assert repr(measured) == "RoiTables(lpba40: 6 scans, 56 labels, 29 regions)"
    assert "<table" in measured._repr_html_()
    pd.testing.assert_frame_equal(measure_rois(path, tissues=["gm"]).regions, measured.regions)
    monkeypatch.chdir(cohort_folder)
    region = fit_roi_glm("gm ~ age", "cohort.tsv", regions=RegionSpec(level="region"), repeats=0, permutations=20)
    assert repr(region).startswith("RoiResults(gm ~ age: 6 scans, ")
    in_memory = fit_roi_glm(
        "gm ~ age", pd.read_csv("cohort.tsv", sep="\t"), regions=RegionSpec(level="region"), repeats=0, permutations=20
    )
    pd.testing.assert_frame_equal(in_memory.table, region.table)
    assert "<table" in region._repr_html_()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"cohort": None}, "cohort=None: expected a path, a DataFrame or a Cohort"),
        ({"cohort": 5}, "cohort=5: expected a path"), ({"model": None}, "model=None: expected a formula"),
        ({"contrasts": 5}, "contrasts=5: expected a text"), ({"mask": 5}, "mask=5: expected a path or text, got int"),
        ({"maps": 5}, "maps=5: expected None, a folder"),
        ({"repeats": "10"}, "repeats='10': expected a whole number"),
        ({"repeats": 2.5}, "repeats=2.5: expected a whole number"),
        ({"sign_flip": 1}, "sign_flip=1: expected True or False"),
        ({"blocks": [1]}, r"blocks=\[1\]: expected text or a list of texts"),
        ({"seed": True}, "seed=True: expected a whole"),
        ({"fraction": "half"}, "fraction='half': expected a number"),
        ({"progress": 3}, "progress=3: expected a function"),
    ],
)  # fmt: skip
def test_a_wrong_type_is_one_clear_line(cohort_folder, options, match):  # noqa: F811
    given = {"maps": None, "model": "gm ~ age", "cohort": cohort_folder / "cohort.tsv", **options}
    with pytest.raises(VbmstatError, match=match) as caught:
        fit_glm(given.pop("maps"), given.pop("model"), given.pop("cohort"), **given)
    assert "\n" not in str(caught.value)


def test_numbers_of_numpy_are_numbers(cohort_folder):  # noqa: F811
    results = fit_glm(None, "gm ~ age", cohort_folder / "cohort.tsv", repeats=np.int64(0), fraction=np.float64(0.5))
    assert results.record["spec"]["subsets"]["fraction"] == 0.5


def test_one_contrast_needs_no_name(cohort_folder):  # noqa: F811
    results = fit_glm(None, "gm ~ age + sex", cohort_folder / "cohort.tsv", "0 1", repeats=0, inference="fdr")
    assert "region" in results.peaks()
    assert results.plot(cuts="z=0").texts


@pytest.mark.parametrize("function", [vbmstat.fit_glm, fit_roi_glm])
def test_every_keyword_is_in_the_signature_and_the_help(function):
    parameters = inspect.signature(function).parameters
    spec, compute = ModelSpec(""), Compute()
    for name in ("repeats", "inference", "permutations", "mask", "mask_threshold", "tiv", "fwhm_mm"):
        assert parameters[name].default == spec.value(name)
    assert parameters["n_threads"].default == compute.n_threads
    listed = function.__doc__.partition("Other Parameters")[2]
    for name in set(parameters) - {"maps", "model", "cohort", "contrasts", "compute", "regions"}:
        assert f"    {name} : default " in listed
