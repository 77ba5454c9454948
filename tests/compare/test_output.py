"""Figures of a comparison as files; tables are tested with what is compared."""

from __future__ import annotations

from tests.compare.test_files import coarse_brain  # noqa: F401 - fixture
from tests.compare.test_statistics import t_values, write_spm
from vbmstat.compare.files import compare_files
from vbmstat.compare.output import write_comparison


def test_text_stays_text_in_svg(tmp_path):
    path = write_spm(tmp_path / "spmT_0001.nii", t_values())
    write_comparison(tmp_path, compare_files(path, path, names=("CAT <12>", "ours")), [path])
    text = (tmp_path / "agreement.svg").read_text()
    assert "A: CAT &lt;12&gt; (t)" in text
    assert "r = 1.000" in text
