"""Fixtures of the small cohort."""

from tests.glm.conftest import cohort_folder, images, table  # noqa: F401 - fixtures
