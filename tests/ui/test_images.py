"""Images beside the folder's own."""

from __future__ import annotations

import gzip
import io

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from tests.ui.conftest import signed_in
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.roi.atlas import load_atlas
from vbmstat.ui import images


@pytest.fixture
def small_brain(monkeypatch):
    """In place of the average brain, which takes seconds to resample."""
    brain = Volume(torch.linspace(0, 1, 24).reshape(1, 2, 3, 4), Grid((2, 3, 4), np.diag([1.0, 1, 1, 1])))
    monkeypatch.setattr(images, "average_brain", lambda _: brain)
    images._template.cache_clear()
    yield brain
    images._template.cache_clear()


def test_the_average_brain_is_small_and_in_its_place(small_brain, client):
    answer = client.get("/api/assets/template.nii.gz")
    assert "immutable" in answer.headers["cache-control"]
    read = nib.Nifti1Image.from_bytes(gzip.decompress(answer.content))
    assert read.header.get_data_dtype() == np.uint8
    stored = nib.as_closest_canonical(read)
    np.testing.assert_allclose(stored.affine, small_brain.grid.affine, atol=1e-6)
    np.testing.assert_allclose(stored.get_fdata(), small_brain.data[0].numpy(), atol=1 / 255)


def test_the_atlas_has_a_name_for_each_label(client):
    names, atlas = client.get("/api/assets/atlas.json").json(), load_atlas("lpba40")
    image = nib.Nifti1Image.from_bytes(gzip.decompress(client.get("/api/assets/atlas.nii.gz").content))
    labels = {int(label) for label in np.unique(image.get_fdata()) if label}
    assert labels == {int(name) for name in names}
    assert names["21"] == atlas.table.at[21, "name"] == "Left Superior Frontal Gyrus"


def test_thumbnails_are_small_and_kept_by_the_browser(client, folder):
    picture = Image.new("RGB", (1600, 1590), "red")
    picture.save(folder / "report" / "vbmreport_scan0_T1w.png")
    row = next(row for row in client.get("/api/cohort").json()["rows"] if row["scan"] == "sub-01")
    answer = client.get(row["thumbnail"])
    assert "immutable" in answer.headers["cache-control"]
    with Image.open(io.BytesIO(answer.content)) as small:
        assert (small.format, small.size) == ("JPEG", (480, 477))
        assert np.abs(np.array(small, dtype=int)[0, 0] - [255, 0, 0]).max() < 8
    assert len(answer.content) < 50_000
    picture.save(folder / "report" / "vbmreport_scan0_T1w.png")
    again = next(row for row in client.get("/api/cohort").json()["rows"] if row["scan"] == "sub-01")
    assert again["thumbnail"] != row["thumbnail"]  # another picture, another address


def test_a_picture_that_is_none_is_a_sentence(study):
    (study.root / "report" / "vbmreport_scan0_T1w.png").write_text("no picture")
    answer = signed_in(study).get("/api/thumbnails/sub-01")
    assert answer.status_code == 400
    assert "cannot identify" in answer.json()["error"]
