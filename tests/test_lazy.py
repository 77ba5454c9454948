"""What a plain fit of packed maps does not import: libraries that take a second each."""

import subprocess
import sys

from tests.glm.conftest import cohort_folder, images, table  # noqa: F401 - fixtures
from vbmstat.lazy import stats, torch

FIT = """
import sys
from pathlib import Path
from vbmstat.cli import app  # every command is registered
from vbmstat.glm.analysis import fit_glm
from vbmstat.report.results import Outputs, write_results

def fit(out):
    results = fit_glm(None, "gm ~ age + sex", "cohort.tsv", store="store", backend="compiled", repeats=3)
    write_results(results, Path(out), Outputs("none", figures=False))

fit("one")
fit("two")
heavy = {"torch", "scipy.stats", "scipy.interpolate", "scipy.ndimage", "matplotlib", "nilearn"}
print(sorted(heavy & set(sys.modules)))
"""


def test_a_plain_fit_needs_neither_torch_nor_distributions(cohort_folder):  # noqa: F811
    done = subprocess.run([sys.executable, "-c", FIT], cwd=cohort_folder, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    ours = {path.name: path.read_bytes() for path in (cohort_folder / "one").iterdir()}
    assert "contrast-age_stat-mediant_statmap.nii.gz" in ours
    assert not [name for name in ours if name.endswith(".png")]
    assert ours == {path.name: path.read_bytes() for path in (cohort_folder / "two").iterdir()}


def test_a_lazy_module_is_the_module():
    assert torch.ones(2).sum() == 2
    assert isinstance(torch.ones(1), torch.Tensor)
    assert stats.norm.cdf(0.0) == 0.5
