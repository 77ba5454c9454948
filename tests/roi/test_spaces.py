"""Measuring scan by scan: what is kept between scans, and label images under names of their own."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.roi import spaces


def test_scans_of_one_name_in_two_folders_have_label_images_of_their_own(tmp_path, monkeypatch) -> None:
    grid = Grid((2, 2, 2), np.eye(4))
    number = {path: n for n, path in enumerate((tmp_path / "a" / "iy_T1.nii", tmp_path / "b" / "iy_t1.nii"), 1)}
    fields = {
        path: SimpleNamespace(box=None, to_template=lambda _, n=n: SimpleNamespace(number=n))
        for path, n in number.items()
    }
    monkeypatch.setattr(spaces, "ScanWarp", lambda paths: fields[paths["iy"]])
    monkeypatch.setattr(spaces, "native_shares", lambda *_: None)
    monkeypatch.setattr(
        spaces, "native_labels", lambda _, field, on: Volume(torch.full((1, *on.shape), float(field.number)), on)
    )
    measure = spaces.InScan(None, tmp_path / "images")  # type: ignore[arg-type]
    for path in [*number, *number]:
        measure._warp_atlas({"iy": path}, grid)
    made = {path.name: spaces.io.read_volume(path).data.max().item() for path in (tmp_path / "images").iterdir()}
    assert sorted(made.values()) == [1, 2]
    assert made["T1.nii.gz"] == 1
    assert len({name.casefold() for name in made}) == 2
