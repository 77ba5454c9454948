"""Figures of a comparison as files; tables are tested with what is compared."""

from __future__ import annotations

import json

from tests.compare.test_files import coarse_brain  # noqa: F401 - fixture
from tests.compare.test_statistics import t_values, write_spm
from vbmstat.compare.files import compare_files
from vbmstat.compare.output import comparison_figures, write_comparison
from vbmstat.figures import side_by_side


def test_text_stays_text_in_svg(tmp_path):
    path = write_spm(tmp_path / "spmT_0001.nii", t_values())
    write_comparison(tmp_path, compare_files(path, path, names=("CAT <12>", "ours")), [path])
    text = (tmp_path / "agreement.svg").read_text()
    assert "A: CAT &lt;12&gt; (t)" in text
    assert "r = 1.000" in text


def test_every_contrast_has_a_figure(tmp_path):
    for folder in ("a", "b"):
        for number, name in enumerate(("grp[T.<65]", "grp[T.>65]", "sex"), 1):
            description = f"SPM{{T_[95.0]}} - contrast {number}: {name}"
            write_spm(tmp_path / folder / f"spmT_{number:04d}.nii", t_values(), descrip=description)
    found = compare_files(tmp_path / "a", tmp_path / "b")
    figures = [stem for stem in comparison_figures(found) if stem.startswith("agreement_")]
    assert len(figures) == 3
    assert "agreement_sex_t" in figures


def test_a_second_comparison_takes_the_place_of_the_first(tmp_path):
    for folder in ("a", "b"):
        for number, name in enumerate(("age", "sex"), 1):
            description = f"SPM{{T_[95.0]}} - contrast {number}: {name}"
            write_spm(tmp_path / folder / f"spmT_{number:04d}.nii", t_values(), descrip=description)
    out = tmp_path / "out"
    write_comparison(out, compare_files(tmp_path / "a", tmp_path / "b"), [])
    assert (out / "agreement_sex_t.png").is_file()
    paths = [tmp_path / folder / "spmT_0001.nii" for folder in "ab"]
    files = write_comparison(out, compare_files(*paths), paths)
    assert {path.name for path in out.iterdir()} == {path.name for path in files} | {"comparison.json"}
    assert json.loads((out / "summary.json").read_text())["kind"] == "maps"
    assert (out / "agreement.png").is_file()


def test_two_labels_of_one_name_have_a_panel_each(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(side_by_side, "roi_figure", lambda part, *_: drawn.append(list(dict.fromkeys(part["region"]))))
    for name in ("a", "b"):
        rows = [f"s{scan}\t{label}\t{text}\t{text}\t{label + scan}" for scan in (1, 2, 3)
                for label, text in ((4, "Pole"), (7, "Pole"), (9, "Base"))]  # fmt: skip
        text = "participant_id\tlabel\tname\tregion\tgm_ml\n" + "\n".join(rows) + "\n"
        (tmp_path / f"{name}.tsv").write_text(text)
    comparison_figures(compare_files(tmp_path / "a.tsv", tmp_path / "b.tsv"))
    assert drawn == [["Pole (4)", "Pole (7)", "Base"]]
