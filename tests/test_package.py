"""The package itself: one version, typed, and the same checks before a commit as in `make lint`."""

from __future__ import annotations

import re
from importlib import metadata, resources
from pathlib import Path

import vbmstat

ROOT = Path(__file__).parents[1]


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
