"""The recipes of containers share one list of steps, find all that they need, and run as nobody in particular.

``containers/test.sh`` runs those steps; the workflow builds the images.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from vbmstat.assets import downloads

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "containers"
RECIPES = ("Dockerfile", "vbmstat.def")
CACHE, OFFLINE = downloads.FOLDER_VARIABLE, downloads.OFFLINE_VARIABLE


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_run_the_same_steps_and_work_offline(recipe):
    text = (FOLDER / recipe).read_text()
    assert len(re.findall(r"sh /src/containers/install\.sh /opt/vbmstat", text)) == 1
    assert not re.search(r"\bpip install\b", text)
    assert f"{CACHE}=/opt/vbmstat/assets" in text
    assert f"{OFFLINE}=1" in text
    assert re.search(r"NUMBA_CACHE_DIR=/tmp", text)


def test_the_image_is_not_roots():
    lines = (FOLDER / "Dockerfile").read_text().splitlines()
    last_stage = lines[max(i for i, line in enumerate(lines) if line.startswith("FROM")) :]
    (user,) = [line.split()[1] for line in last_stage if line.startswith("USER")]
    assert int(user.split(":")[0]) > 0
    assert not [line for line in lines if line.startswith("FROM") and ":latest" in line]


def test_what_is_installed_is_sent_to_the_builder():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    project = (ROOT / "pyproject.toml").read_text()
    readme, licence = re.search(r'readme = "(.*)"', project)[1], re.search(r'license-files = \["(.*)"\]', project)[1]
    assert allowed == {"vbmstat", "atlases", "containers", "pyproject.toml", "constraints.txt", readme, licence}
    assert all((ROOT / name).exists() for name in allowed)


@pytest.mark.parametrize("script", ["install.sh", "test.sh"])
def test_scripts_are_in_order(script):
    shell = shutil.which("dash") or shutil.which("sh")
    assert subprocess.run([shell, "-n", FOLDER / script], check=False).returncode == 0
    assert "set -eu" in (FOLDER / script).read_text()


def test_an_unknown_variant_is_refused_before_anything_is_made(tmp_path):
    done = subprocess.run(
        ["sh", FOLDER / "install.sh", tmp_path / "x", "tpu"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "expected cpu or cuda, got tpu\n"
    assert not (tmp_path / "x").exists()
