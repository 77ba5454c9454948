"""``vbmstat ui``: its options, and what it says without the extra."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vbmstat.cli import app


def test_the_options_reach_the_server(monkeypatch):
    asked = []
    monkeypatch.setattr("vbmstat.ui.server.serve", lambda *given: asked.append(given[:3]))
    assert CliRunner().invoke(app, ["ui"]).exit_code == 0
    assert CliRunner().invoke(app, ["ui", "study", "--port", "8080", "--no-browser"]).exit_code == 0
    assert asked == [(Path(), 0, True), (Path("study"), 8080, False)]
    assert CliRunner().invoke(app, ["ui", "--port", "70000"]).exit_code == 2


@pytest.mark.parametrize("lacking", ["starlette", "uvicorn"])
def test_without_the_extra_it_says_what_to_install(lacking):
    """In a process of its own: modules imported twice would break the tests that follow."""
    code = f"import sys; sys.modules[{lacking!r}] = None; from vbmstat.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "ui"], capture_output=True, text=True, check=False)
    assert done.returncode
    said = " ".join(done.stderr.split())
    assert f"the workbench needs {lacking}, which is not installed: pip install 'vbmstat[ui]'" in said
