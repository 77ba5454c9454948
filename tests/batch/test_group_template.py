"""A group template from a finished folder of coarse people: written, restarted, refused."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest
import torch

from tests.preproc.group import COARSE_PADDED, be_coarse, flow, tissues_of, write_people
from vbmstat import assets
from vbmstat.batch import group_template as module
from vbmstat.batch import template_levels
from vbmstat.batch.group_template import TemplateSpec, build_template
from vbmstat.errors import ScanError, VbmstatError
from vbmstat.image import io
from vbmstat.image.volume import Volume
from vbmstat.preproc import group_template as steps
from vbmstat.preproc.steps import warp
from vbmstat.preproc.templates import RECORD, TO_STANDARD, find_template
from vbmstat.tables.selection import Selection

N = 11


def one_step(tissues, template, number, start):
    """A stand-in for the registration: quick, and another velocity for other tissues, template, level or start."""
    before = torch.zeros(3, *COARSE_PADDED) if start is None else start
    slopes = torch.stack(torch.gradient(warp.pad(tissues.data)[0]))
    return before + 2.0 * number * slopes * warp.pad(tissues.data - template.data)[:1]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(steps, "registered", one_step)


@pytest.fixture(scope="module", autouse=True)
def coarse():
    with pytest.MonkeyPatch.context() as patch:
        be_coarse(patch)
        yield


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_people(tmp_path_factory.mktemp("people"), N)


@pytest.fixture(scope="module")
def built(cohort, tmp_path_factory):
    return build_template(cohort, tmp_path_factory.mktemp("built") / "group")


@pytest.fixture
def quickly_built(cohort, tmp_path, quick):
    return build_template(cohort, tmp_path / "built")


def files_of(folder):
    return {path.name: assets.sha256(path) for path in folder.iterdir() if path.is_file()}


def test_the_folder_holds_levels_people_and_the_way_to_the_standard_template(built, cohort):
    assert {path.name for path in built.out.iterdir()} == {
        *(f"Template_{number}.nii.gz" for number in range(5)), TO_STANDARD, RECORD, "people.tsv", "people.json",
        "levels.png",
    }  # fmt: skip
    record = json.loads((built.out / RECORD).read_text())
    assert list(record["people"]) == [f"sub-{number:02d}_T1w" for number in range(1, N + 1)]
    known = {entry["path"]: entry["sha256"] for entry in record["inputs"]}
    assert known["p1sub-03_T1w.nii.gz"] == assets.sha256(cohort / "mri" / "p1sub-03_T1w.nii.gz")
    first, *_, last = record["levels"]
    assert last["gradient_energy"] > 1.04 * first["gradient_energy"]
    assert last["mean_displacement_mm"] < 0.1
    template = find_template(str(built.out), "cpu")
    assert template.tissues.grid.matches(assets.template().grid)
    assert 0 < float(template.tissues.data.max()) <= 1
    assert float(template.to_standard.data.abs().mean()) > 0
    people = pd.read_csv(built.out / "people.tsv", sep="\t")
    assert people["gm_ml"].tolist() == [700.0 + number for number in range(1, N + 1)]
    assert people["left_out"].isna().all()
    assert built.left_out == {}


def test_the_first_level_is_the_mean_of_the_linearly_aligned_people(built):
    expected = torch.stack([tissues_of(number).data for number in range(1, N + 1)]).mean(0)
    blurred = steps.blurred(Volume(expected, assets.template().grid), steps.LEVELS[0])
    found = io.read_channels(built.out / "Template_0.nii.gz").data
    assert float((found - blurred.data).abs().mean()) < 0.01


def test_the_way_to_the_standard_template_is_the_mean_of_the_ways_through_people(built):
    """The group template has the people's mean shape, and their warps are the true ones: their mean is what is left."""
    way = find_template(str(built.out), "cpu").to_standard
    true = torch.stack([warp.displacement(-flow(number), way.grid).data for number in range(1, N + 1)]).mean(0)
    inner = (slice(None), slice(3, -3), slice(3, -3), slice(3, -3))
    left, whole = ((one**2).sum(0).sqrt()[inner[1:]].mean() for one in (way.data - true, true))
    assert left < 0.2 * whole


def test_the_order_of_the_table_does_not_matter(quickly_built, tmp_path):
    again = build_template(write_people(tmp_path / "backwards", N, order=-1), tmp_path / "group")
    assert files_of(again.out) == files_of(quickly_built.out)


def test_a_run_that_is_killed_goes_on_where_it_was(quickly_built, cohort, tmp_path):
    out, done = tmp_path / "group", []

    def killed(job, items):
        for item in items:
            done.append(item)
            if len(done) == 2 * N + 5:  # in level 2
                raise KeyboardInterrupt
            yield job(item)

    with pytest.raises(KeyboardInterrupt):
        build_template(cohort, out, mapping=killed)
    assert not (out / RECORD).exists()
    kept = {path.name: path.stat().st_mtime_ns for path in (out / "work" / "level-2").glob("velocity-*.npy")}
    assert len(kept) == 4
    called, registered = [], steps.registered
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "registered", lambda *given: called.append(given[2]) or registered(*given))
        again = build_template(cohort, out)
    assert called.count(1) == 0
    assert called.count(2) == N - 4
    assert files_of(again.out) == files_of(quickly_built.out)
    assert not (out / "work").exists()


def test_a_complete_template_is_not_made_again_and_another_does_not_replace_it(quickly_built, cohort):
    before = files_of(quickly_built.out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "registered", None)
        assert build_template(cohort, quickly_built.out).record == quickly_built.record
    with pytest.raises(VbmstatError, match="holds another template, which scans may refer to; choose another --out"):
        build_template(cohort, quickly_built.out, TemplateSpec(is_symmetric=True))
    assert files_of(quickly_built.out) == before


def test_work_of_another_template_is_not_used(cohort, tmp_path):
    begun = template_levels.Work(tmp_path / "work", {}, False)
    begun.begin({"a": 1})
    (tmp_path / "work" / "tissues-x.npy").touch()
    begun.begin({"a": 1})
    assert (tmp_path / "work" / "tissues-x.npy").exists()
    begun.begin({"a": 2})
    assert not (tmp_path / "work" / "tissues-x.npy").exists()


def test_a_symmetric_template_of_the_selected_people(quick, cohort, tmp_path):
    spec = TemplateSpec(is_symmetric=True, selection=Selection(where=("age < 31",)))
    built = build_template(cohort, tmp_path / "group", spec)
    assert len(built.record["people"]) == 10
    data = find_template(str(built.out), "cpu").tissues.data
    assert float((data - data.flip(1)).abs().max()) < 2e-4


def test_people_with_bad_determinants_are_left_out_from_then_on_and_reported(quick, cohort, tmp_path):
    def fault(velocity, template, real=steps.fault_of, seen=[]):  # noqa: B006 - counts the calls
        seen.append(1)
        return "determinants from 0.001 to 3, not 0.01 to 100" if len(seen) == N + 3 else real(velocity, template)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "fault_of", fault)
        built = build_template(cohort, tmp_path / "group")
    assert built.left_out == {"sub-03_T1w": "level 2: determinants from 0.001 to 3, not 0.01 to 100"}
    table = pd.read_csv(built.out / "people.tsv", sep="\t", index_col="scan")
    assert table.loc["sub-03_T1w", "left_out"].startswith("level 2")


def test_unusable_tissues_leave_a_person_out_and_too_few_people_are_refused(quick, tmp_path):
    folder = write_people(tmp_path / "people", N)
    (folder / "mri" / "p2sub-04_T1w.nii.gz").write_bytes(b"no image")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "fault_of", lambda *_: "the velocity is not finite")
        with pytest.raises(
            VbmstatError, match=r"^0 of 11 people are left, 10 are needed; left out: sub-04_T1w \(level"
        ):
            build_template(folder, tmp_path / "group")
    assert not (tmp_path / "group" / RECORD).exists()


@pytest.mark.parametrize(("first", "later"), [(1, 2), (2, 10)])
def test_the_first_session_of_a_person_counts(tmp_path, first, later):
    folder = write_people(tmp_path / "people", N)
    table = pd.read_csv(folder / "cohort.tsv", sep="\t")
    table["participant_id"] = table["participant_id"].where(table.index < N - 1, "sub-01")
    table["session_id"] = [f"ses-{first if row == N - 1 else later}" for row in range(N)]
    table.to_csv(folder / "cohort.tsv", sep="\t", index=False)
    people = module.find_people(folder, Selection())
    assert len(people) == N - 1
    assert "sub-01_T1w" not in people
    assert "sub-11_T1w" in people


def test_what_is_refused_in_one_line(tmp_path):
    few = write_people(tmp_path / "few", 9)
    with pytest.raises(VbmstatError, match="expected 10 people or more for a template, got 9; use the standard one"):
        build_template(few, tmp_path / "out")
    with pytest.raises(VbmstatError, match="expected 10 people or more for a template, got 1;"):
        build_template(few, tmp_path / "out", TemplateSpec(selection=Selection(where=("age < 22",))))
    with pytest.raises(VbmstatError, match=r"nowhere"):
        build_template(tmp_path / "nowhere", tmp_path / "out")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "cohort.tsv").write_text("participant_id\tage\nsub-01\t30\n")
    with pytest.raises(
        VbmstatError, match="expected the table of vbmstat preprocess, with the columns scan and engine"
    ):
        build_template(foreign, tmp_path / "out")
    with pytest.raises(VbmstatError, match=r"cohort\.tsv"):
        build_template(tmp_path, tmp_path / "out")
    over = write_people(tmp_path / "over", 10, group_template="kids 0123456789ab")
    with pytest.raises(VbmstatError, match="some scans were registered to a group template"):
        build_template(over, tmp_path / "out")
    mixed = write_people(tmp_path / "mixed", 10)
    table = (mixed / "cohort.tsv").read_text()
    (mixed / "cohort.tsv").write_text(table.replace("classic", "deep", 1))
    with pytest.raises(VbmstatError, match=r"scans of several engines \(classic, deep\); choose those of one"):
        build_template(mixed, tmp_path / "out")
    lost = write_people(tmp_path / "lost", 10)
    (lost / "mri" / "p1sub-02_T1w.nii.gz").unlink()
    with pytest.raises(ScanError, match=r"p1sub-02_T1w.nii.gz: no such file; write tissue maps and velocity"):
        build_template(lost, tmp_path / "out")
    write_people(lost, 10)
    (lost / "mri" / "u_sub-03_T1w.nii.gz").unlink()
    with pytest.raises(ScanError, match=r"u_sub-03_T1w.nii.gz: no such file; write tissue maps and velocity"):
        build_template(lost, tmp_path / "out")
    shutil.rmtree(lost / "report")
    with pytest.raises(ScanError, match="sub-01_T1w has no record there"):
        build_template(lost, tmp_path / "out")
