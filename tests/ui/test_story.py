"""The workbench as a person uses it, in headless Chromium: from a scan to the figure."""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.small_study import make_study
from vbmstat.glm.analysis import fit_glm
from vbmstat.image import storage
from vbmstat.report.results import write_results
from vbmstat.ui.app import STATIC

_BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
_FLAGS = (
    "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
_SLOW_MS = 90_000  # volumes are drawn by the CPU
SCRIPT_ID = "sub-<script>document.title='owned'</script>"

if not (STATIC / "index.html").is_file():
    pytest.skip("the page is not built: make ui (node 20 or newer)", allow_module_level=True)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A cohort of 24 as preprocess leaves it, of 6 mm maps; grey matter stands for the T1w images, too."""
    made = make_study(tmp_path_factory.mktemp("made"))
    folder = tmp_path_factory.mktemp("study")
    people = pd.read_csv(made / "participants.tsv", sep="\t")
    people["scan"] = people["participant_id"] + "_T1w"
    for scan in people["scan"]:
        image = nib.load(made / "cat12" / "mri" / f"mwp1{scan.removesuffix('_T1w')}.nii")
        for kind in ("s6mwp1", "mwp1", "m", "p1", "wm"):
            path = folder / "mri" / f"{kind}{scan}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(np.asarray(image.dataobj, np.float32), image.affine), path)
        storage.write_json(folder / "report" / f"vbmstat_{scan}.json", {"parameters": {"names": "cat12"}})
    volumes = {
        "tiv_ml": 1500.0 + np.arange(len(people)),
        "gm_ml": 650.0,
        "engine": "classic",
        "vbmstat_version": "0.1.0",
    }
    maps = {kind: f"mri/{kind}" + people["scan"] + ".nii.gz" for kind in ("s6mwp1", "mwp1")}
    people = people.assign(**volumes, **maps)
    people["qc_warnings"] = [None, None, "strong noise", *[None] * (len(people) - 3)]
    storage.write_table(folder / "cohort.tsv", people)
    return folder


@pytest.fixture(scope="module")
def chromium() -> Iterator[object]:
    """Chromium that draws volumes by software."""
    executable = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    if executable is None:
        pytest.skip(f"no Chromium on the path ({', '.join(_BROWSERS)}); install one, e.g. apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright; pip install -e '.[dev]'")
    with playwright.sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=executable, headless=True, args=list(_FLAGS))


@cache
def _coarse_template() -> bytes:
    """A template of 6 mm, which the CPU draws in no time; that of the server has 1 mm."""
    mm = np.stack(np.meshgrid(*(np.arange(n) for n in (29, 35, 28)), indexing="ij"), axis=-1) * 6.0 - (84, 120, 72)
    brain = (((mm - (0, -18, 10)) / (68, 84, 62)) ** 2).sum(axis=-1) < 1
    affine = np.diag((6.0, 6.0, 6.0, 1.0))
    affine[:3, 3] = (-84, -120, -72)
    return gzip.compress(nib.Nifti1Image(brain.astype(np.float32), affine).to_bytes())


class Visit:
    """The page of a folder, with all that it said and asked for."""

    def __init__(self, browser, address: str) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.tab = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        self.tab.set_default_timeout(_SLOW_MS)
        self.tab.on("console", lambda said: self.said.append(f"{said.type}: {said.text}"))
        self.tab.on("response", lambda answer: answer.status < 400 or self.said.append(f"{answer.status} {answer.url}"))
        self.tab.on("pageerror", lambda error: self.said.append(str(error)))
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.route("**/api/assets/template.nii.gz", lambda asked: asked.fulfill(body=_coarse_template()))
        self.tab.goto(address)
        self.home = address.split("?", maxsplit=1)[0]

    def choose(self, label: str, option: str) -> None:
        self.tab.locator(f"label:has(> span:text-is('{label}')) select").select_option(label=option)

    def settled(self) -> str:
        """What the viewer says of the crosshair, once its images are there and nothing is asked."""
        self.tab.locator(".busy").wait_for(state="detached")
        self.tab.locator(".readout", has_text="mm").first.wait_for()
        self.tab.wait_for_timeout(700)
        self.tab.locator("[aria-busy]").wait_for(state="detached")
        return self.tab.locator(".readout").first.inner_text()

    def check(self) -> None:
        """Nothing was said on the console, nobody else was asked; what can be used has a name."""
        assert self.said == []
        assert self.tab.evaluate(_UNLABELLED) == []
        assert [url for url in self.asked if not url.startswith((self.home, "data:", "blob:"))] == []


def _vbmstat(*words: str) -> list[str]:
    return [sys.executable, "-uc", "from vbmstat.cli import main; main()", *words]


@contextmanager
def workbench(folder: Path, browser) -> Iterator[Visit]:
    """The page, served by the command."""
    words = _vbmstat("ui", str(folder), "--no-browser", "--port", "0")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = next(line for line in server.stdout if "token=" in line)
            yield Visit(browser, re.search(r"http://\S+", address)[0])
        finally:
            server.terminate()


def test_from_a_scan_to_the_figure(study, chromium, tmp_path) -> None:
    with workbench(study, chromium) as visit:
        _look_and_exclude(visit, study)
        _addresses(visit)
        _fit(visit)
        _heights_of_the_fit(visit, study, tmp_path)
        _threshold_and_cluster(visit)
        _people(visit, study)
        visit.check()
        _export(visit, tmp_path)
        _median(visit)
        _person(visit)
        visit.check()


def _look_and_exclude(visit: Visit, study: Path) -> None:
    """Open the flagged scan from the table, look at it, leave it out."""
    tab = visit.tab
    tab.get_by_text("24 scans, 1 flagged, 0 excluded").wait_for()
    visit.choose("Show", "flagged")
    assert tab.locator("tbody tr").count() == 1
    tab.get_by_role("link", name="sub-03").click()
    assert "T1w" in visit.settled()
    picture = Image.open(io.BytesIO(tab.locator(".stage").screenshot())).convert("L")
    assert np.asarray(picture).std() > 20  # slices, not a black square
    tab.keyboard.press("x")
    tab.keyboard.type("strong noise")
    tab.keyboard.press("Enter")
    tab.locator(".chip", has_text="excluded").wait_for()
    tab.keyboard.press("Escape")  # a key of the page again, not of the field
    tab.get_by_role("heading", name="Cohort", exact=True).wait_for()
    rows = pd.read_csv(study / "exclusions.tsv", sep="\t")
    assert rows[["participant_id", "reason"]].to_numpy().tolist() == [["sub-03", "strong noise"]]


def _addresses(visit: Visit) -> None:
    """A broken address is a sentence, never a blank page or the page before."""
    for broken, said in (("constructor", "no page constructor"), ("nix/%E0%A4%A", "no page nix")):
        visit.tab.goto(f"{visit.home}#/{broken}")
        visit.tab.locator("main .notice", has_text=said).wait_for()


def _fit(visit: Visit) -> None:
    """Build the formula by clicking, and run it; a contrast that does not fit the formula can be taken away."""
    tab = visit.tab
    tab.get_by_role("link", name="Design").click()
    tab.locator("#formula").fill("gm ~ sex")
    tab.get_by_label("Expression of the contrast").fill("age")
    tab.get_by_role("button", name="Add", exact=True).click()
    tab.get_by_text("no column 'age'").wait_for()
    tab.get_by_role("button", name="Remove the contrast age").click()
    tab.get_by_text("23 scans, 2 regressors").wait_for()
    tab.locator("#formula").fill("gm ~ ")
    for column in ("age", "group", "tiv_ml"):
        tab.locator(".column button", has_text=column).first.click()
    tab.get_by_label("Subsets").fill("3")
    tab.get_by_text("23 scans, 4 regressors").wait_for()  # without the one left out
    tab.locator(".card button", has_text="group[T.patient]").click()
    tab.get_by_text("Tested:").wait_for()
    tab.locator(".column button", has_text="group").first.click()  # out, with a contrast of it left behind
    tab.get_by_role("button", name="Remove the contrast group[T.patient]").click()
    tab.get_by_text("23 scans, 3 regressors").wait_for()
    tab.locator(".column button", has_text="group").first.click()
    tab.locator(".card button", has_text="group[T.patient]").click()
    tab.get_by_text("Tested:").wait_for()
    visit.check()
    assert "gm ~ age + tiv + group" in tab.locator("#command code").inner_text()
    tab.get_by_role("button", name="Fit the model").click()
    tab.get_by_role("link", name="Open the result").click()


def _heights_of_the_fit(visit: Visit, study: Path, folder: Path) -> None:
    """At a corrected height, which is that of a voxel, this voxel counts; clusters are of the statistic on any map."""
    tab, name, n = visit.tab, "FDR q = 0.05", 5
    (path,) = study.glob("glm/*/glm.json")
    record = json.loads(path.read_text())
    (entry,) = record["inference"]["contrasts"]
    t = np.abs(nib.load(next(path.parent.glob("*_stat-t_statmap.nii.gz"))).get_fdata())
    height = float(np.sort(t.ravel())[-n]) * (1 + 3e-7)  # the map on the disk has fewer digits
    entry["thresholds"] = [{"by": name, "height": height, "voxels": n}]
    path.write_text(json.dumps(record))
    tab.reload()
    for shown in (None, "Cohen’s d", "two-sided uncorrected p"):
        if shown:
            visit.choose("Map", shown)
        visit.settled()
        tab.locator(".clusters h2", has_text=name).wait_for()
        rows = _download(visit, "Clusters (TSV)", folder / "clusters.tsv")
        assert pd.read_csv(rows, sep="\t")["size_voxels"].sum() == n
    visit.choose("Map", "t")


def _download(visit: Visit, name: str, path: Path) -> Path:
    visit.tab.locator("summary", has_text="Export").click()
    with visit.tab.expect_download() as download:
        visit.tab.get_by_role("link", name=name).click()
    visit.tab.locator("summary", has_text="Export").click()
    download.value.save_as(path)
    return path


def _threshold_and_cluster(visit: Visit) -> None:
    """The table follows the slider, the crosshair the table."""
    tab = visit.tab
    visit.settled()
    heading = tab.locator(".clusters h2")
    heading.wait_for()
    before = heading.inner_text()
    slider = tab.get_by_label("Threshold", exact=True)
    slider.fill(str(float(slider.input_value()) * 0.8))
    tab.locator(".clusters h2", has_not_text=before).wait_for()
    rows = tab.locator(".clusters tbody tr")
    assert rows.count() > int(before.split()[0]) if before[0].isdigit() else rows.count() > 0
    rows.nth(1).click()
    shown = visit.settled()
    peak, statistic = rows.nth(1).locator("td").nth(1).inner_text(), rows.nth(1).locator("td").nth(2).inner_text()
    assert shown.startswith(f"{peak} mm")
    assert shown.endswith(f"t {statistic}")
    assert rows.nth(1).get_attribute("aria-selected") == "true"


def _people(visit: Visit, study: Path) -> None:
    """A point for each person; another voxel, other data."""
    tab = visit.tab
    people = tab.locator("a.person")
    assert people.count() == 23
    assert "p = " in tab.locator(".people p").first.inner_text()
    place = tab.locator(".people strong").inner_text()
    box = tab.locator(".stage canvas").bounding_box()
    tab.mouse.click(box["x"] + box["width"] * 0.13, box["y"] + box["height"] * 0.5)
    visit.settled()
    assert tab.locator(".people strong").inner_text() != place
    asked = parse_qs(urlsplit(next(url for url in reversed(visit.asked) if "/places?" in url)).query)["at"][0]
    affine = nib.load(next(study.glob("glm/*/mask.nii.gz"))).affine
    voxel = nib.affines.apply_affine(np.linalg.inv(affine), [float(one) for one in asked.split(",")])
    np.testing.assert_allclose(voxel, voxel.round(), atol=0.01)  # of the voxel that is read out, not between two


def _export(visit: Visit, folder: Path) -> None:
    """Figure and table of what is shown."""
    for name, begins in (("Figure (SVG)", b"<?xml"), ("Figure (PNG)", b"\x89PNG"), ("Clusters (TSV)", b"cluster\t")):
        assert _download(visit, name, folder / "file").read_bytes().startswith(begins), name


def _median(visit: Visit) -> None:
    """No p beside a median over subsets."""
    tab = visit.tab
    visit.choose("Map", "median t over subsets")
    visit.settled()
    tab.locator(".clusters tbody tr").first.click()
    visit.settled()
    assert "p" not in tab.locator(".people p").first.inner_text().split("\n")[1]
    assert "no p" in tab.locator(".scale").inner_text()


def _person(visit: Visit) -> None:
    """A click on a point opens that person's scan."""
    person = visit.tab.locator("a.person").nth(4)
    scan = person.get_attribute("aria-label").split(":")[0]
    person.locator(".target").click()
    visit.tab.get_by_role("heading", name=scan, exact=True).wait_for()


@pytest.fixture
def fitted(study, tmp_path) -> Path:
    """The cohort with two models of voxels and one of regions."""
    folder = shutil.copytree(study, tmp_path / "fitted")
    for name, formula in (("first", "gm ~ group + tiv"), ("second", "gm ~ group + age + tiv")):
        found = fit_glm(None, formula, folder / "cohort.tsv", ["group[T.patient]"], repeats=0, scratch=tmp_path / name)
        write_results(found, folder / "glm" / name)
    words = ["glm", "gm ~ group + tiv", "--level", "region", "--repeats", "0", "--cohort", str(folder / "cohort.tsv")]
    subprocess.run(_vbmstat(*words, "--out", str(folder / "glm" / "regions")), check=True, capture_output=True)
    return folder


def test_two_results_and_regions(fitted, chromium) -> None:
    with workbench(fitted, chromium) as visit:
        tab = visit.tab
        tab.get_by_role("link", name="Results").click()
        row = tab.get_by_role("row").filter(has_text="glm/first")
        row.get_by_label("Compare with").select_option("glm/second")
        tab.get_by_text("r = 0.9").wait_for()
        visit.settled()
        box = tab.locator(".stage canvas").first.bounding_box()
        tab.mouse.click(box["x"] + box["width"] * 0.13, box["y"] + box["height"] * 0.5)
        places = [text.split(" mm")[0] for text in tab.locator(".readout").all_inner_texts()]
        assert places[0] == places[1] != "0, 0, 0"
        tab.goto(f"{visit.home}#/results/glm%2Fregions")
        visit.settled()
        tab.get_by_role("button", name="Cerebellum").click()
        tab.locator(".people strong", has_text="Cerebellum").wait_for()
        assert tab.locator("a.person").count() >= 23
        assert "--at=Cerebellum" in tab.locator("#command code").inner_text()
        visit.check()


def test_two_thousand_rows_scroll(chromium, tmp_path) -> None:
    n = 2000
    ids = [f"sub-{number:04d}" for number in range(n - 1)] + [SCRIPT_ID]
    rng = np.random.default_rng(0)
    table = {"participant_id": ids, "age": rng.uniform(18, 90, n).round(1), "sex": np.resize(["f", "m"], n)}
    table |= {"scan": [f"scan{number}_T1w" for number in range(n)], "tiv_ml": rng.normal(1500, 90, n).round(1)}
    storage.write_table(tmp_path / "cohort.tsv", pd.DataFrame(table))
    with workbench(tmp_path, chromium) as visit:
        tab = visit.tab
        tab.get_by_text("2000 scans, ").wait_for()
        assert tab.locator("table").get_attribute("aria-rowcount") == "2001"
        assert tab.locator("tbody tr").count() < 60
        tab.get_by_role("button", name="age").click()
        ages = [float(text) for text in tab.locator("tbody tr:not(.space) td:nth-child(4)").all_inner_texts()]
        assert ages == sorted(ages)
        assert ages[0] == table["age"].min()
        slowest = tab.evaluate(_SCROLLED)
        assert tab.locator("tbody tr:not(.space) td:nth-child(4)").last.inner_text() == f"{table['age'].max():.1f}"
        assert slowest < 1000  # ms between two frames, on a busy machine without a GPU
        tab.get_by_label("Find").fill("owned")
        tab.get_by_text("1 of 2000 scans").wait_for()
        assert tab.locator("a.scan").all_inner_texts() == [SCRIPT_ID]
        assert tab.title() == "Cohort · vbmstat"
        visit.check()


def test_an_empty_folder_says_what_to_do(chromium, tmp_path) -> None:
    with workbench(tmp_path, chromium) as visit:
        tab = visit.tab
        tab.get_by_text("There is nothing to look at here").wait_for()
        tab.get_by_text("There are no scans, runs of vbmstat preprocess or results").wait_for()
        for page, sentence in (("design", "There is nothing to look at here"), ("results", "There are no results yet")):
            tab.goto(f"{visit.home}#/{page}")
            tab.get_by_text(sentence).wait_for()
        tab.goto(f"{visit.home}#/scan/sub-99")
        tab.get_by_role("alert").filter(has_text="sub-99: no such scan").wait_for()
        visit.said = [
            one for one in visit.said if "404" not in one
        ]  # the browser's own word for the scan that is not there
        visit.check()


def test_a_study_is_chosen_in_the_folder_that_was_given(chromium, tmp_path) -> None:
    for name, ids in (("first", ["sub-01"]), ("second", ["sub-11", "sub-12"])):
        (tmp_path / name).mkdir()
        storage.write_table(tmp_path / name / "cohort.tsv", pd.DataFrame({"participant_id": ids, "scan": ids}))
    with workbench(tmp_path, chromium) as visit:
        tab = visit.tab
        tab.get_by_text("There is nothing to look at here").wait_for()
        tab.get_by_role("button", name="Open second").click()
        tab.get_by_text("2 scans, 0 flagged").wait_for()
        assert tab.locator("a.scan").all_inner_texts() == ["sub-11", "sub-12"]
        tab.locator("a.folder").click()
        tab.get_by_role("heading", name="Open a folder").wait_for()
        assert tab.locator("tr", has=tab.locator("text=second")).locator(".chip").inner_text() == "open"
        tab.get_by_role("button", name="Open first").click()
        tab.get_by_text("1 scan, 0 flagged").wait_for()
        assert tab.locator("a.folder").inner_text().endswith("first")
        tab.goto(f"{visit.home}#/folders")
        tab.get_by_role("heading", name="Open a folder").wait_for()
        visit.check()


_UNLABELLED = """() => [...document.querySelectorAll('button, select, input, canvas[tabindex]')]
  .filter(one => !one.textContent && !one.labels?.length && !one.ariaLabel).map(one => one.outerHTML)"""
_SCROLLED = """async () => {
  const table = document.querySelector('.scroller')
  let slowest = 0, last = performance.now()
  for (let at = 0; at <= 40; at++) {
    table.scrollTop = table.scrollHeight * at / 40
    await new Promise(requestAnimationFrame)
    const now = performance.now()
    slowest = Math.max(slowest, now - last)
    last = now
  }
  await new Promise(resolve => setTimeout(resolve, 100))
  return slowest
}"""
