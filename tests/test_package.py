"""The package itself: one version, typed, and the same checks before a commit as in `make lint`."""

from __future__ import annotations

import re
from importlib import metadata, resources
from pathlib import Path

import vbmstat

ROOT = Path(__file__).parents[1]
# Tests of no one module: of the project itself, of several modules together, or against an outside witness
OF_NO_MODULE = {
    "batch/test_interrupt.py",
    "batch/test_run_many.py",
    "fuzz/test_readers.py",
    "glm/test_enumerated.py",
    "glm/test_on_cluster.py",
    "glm/test_r.py",
    "glm/test_selected.py",
    "test_gpu.py",
    "report/test_in_browser.py",
    "report/test_links.py",
    "test_containers.py",
    "test_designs.py",
    "test_determinism.py",
    "test_docs.py",
    "test_examples.py",
    "test_jobs.py",
    "test_package.py",
    "test_security.py",
    "test_slurm.py",
    "ui/test_story.py",
}


def test_the_version_is_the_same_everywhere():
    (cited,) = re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert cited == vbmstat.__version__ == metadata.version("vbmstat")
    assert f"## {vbmstat.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_types_reach_users():
    assert resources.files(vbmstat).joinpath("py.typed").is_file()
    for name in vbmstat.__all__:
        assert getattr(vbmstat, name)


def test_a_commit_runs_what_make_lint_runs():
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").split("\nlint:")[1].split("\n\n")[0]
    linters = re.findall(r"^\t\$\(BIN\)/(\S+)", recipe, re.MULTILINE)
    hooks = re.findall(r"entry: \.venv/bin/(\S+)", (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert linters
    assert set(linters) <= set(hooks)


def test_tests_mirror_the_package():
    tests = {path.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    modules = {path.relative_to(ROOT / "vbmstat") for path in (ROOT / "vbmstat").rglob("*.py")}
    modules |= {path.parent.with_suffix(".py") for path in modules if path.name == "__init__.py" and path.parts[1:]}
    strays = {path.as_posix() for path in tests if path.with_name(path.name.removeprefix("test_")) not in modules}
    assert strays == OF_NO_MODULE
