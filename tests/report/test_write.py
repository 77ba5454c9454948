from __future__ import annotations

import pytest

from vbmstat.errors import VbmstatError
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
