from __future__ import annotations

import re

import pytest
from PIL import Image

from vbmstat.errors import VbmstatError
from vbmstat.figures import publication
from vbmstat.image.storage import listed_files, read_json
from vbmstat.report.write import write_report


def test_the_page_is_where_it_is_asked_for(model_page, run_page, model_folder, cohort_folder) -> None:
    assert model_page == model_folder / "report.html"
    assert run_page == cohort_folder / "report.html"
    assert "vbmstat glm" in model_page.read_text()
    assert "vbmstat preprocess" in run_page.read_text()


def test_a_folder_of_something_else_is_one_line(tmp_path) -> None:
    with pytest.raises(VbmstatError, match=r"expected the output of vbmstat preprocess .* neither is there"):
        write_report(tmp_path)
    with pytest.raises(VbmstatError, match="no such folder"):
        write_report(tmp_path / "none")
    assert not list(tmp_path.iterdir())


def test_figures_of_an_earlier_page_go_and_pages_of_other_names_keep_theirs(
    model_folder, cohort_folder, tmp_path, monkeypatch
) -> None:
    def sketch(stem, _):
        """Drawing takes long: here the files and their names matter."""
        stem.parent.mkdir(exist_ok=True)
        files = [stem.with_name(f"{stem.name}.{form}") for form in ("svg", "png")]
        for path in files:
            Image.new("RGB", (8, 8)).save(path, "png")
        return files

    monkeypatch.setattr(publication, "save_publication", sketch)
    monkeypatch.setattr("vbmstat.report.contrasts.viewer_html", lambda *_: "")
    first = write_report(model_folder, tmp_path / "report.html")
    own = write_report(model_folder, tmp_path / "model.html")
    assert (tmp_path / "figures" / "contrast-age_t.png").is_file()
    write_report(cohort_folder, first)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"quality.svg", "quality.png", "report.json"}
    for page in (first, own):
        named = re.findall(r"[\w-]*figures/[\w-]+\.(?:svg|png)", page.read_text())
        assert named
        assert all((tmp_path / name).is_file() for name in named)
    assert "model_figures/contrast-age_t.svg" in own.read_text()


def test_a_page_of_a_folders_own_results_is_made_from_its_record(model_folder, model_page, tmp_path) -> None:
    assert read_json(model_folder / "figures" / "report.json")["made_from"] == "glm.json"
    assert {"report.html", "figures/report.json"} <= set(listed_files(model_folder, "glm.json"))
