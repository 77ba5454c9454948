"""Fixtures of the small cohort and study."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.glm.conftest import cohort_folder, images, table  # noqa: F401 - fixtures
from tests.regions.small_study import write_study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Folder of the small study."""
    return write_study(tmp_path)
