from __future__ import annotations

import nibabel as nib
import numpy as np
import pandas as pd
import torch

from tests.regions.small_study import GRID, fit
from vbmstat.image import io
from vbmstat.image.volume import Volume
from vbmstat.regions.painted import paint, painted_maps
from vbmstat.roi.atlas import SoftAtlas, load_atlas


def test_every_voxel_has_its_regions_statistic_and_p(study):
    results = fit(study, repeats=0, permutations=50)
    results.to_directory(study / "out")
    labels = io.read_volume(study / "own.nii.gz").data
    t, f = results.record["contrasts"]
    for one, stat, column, intent in (
        (t, "t", "value", "t test"), (t, "pfwe", "p_fwe", "p value"), (f, "F", "value", "f test")
    ):  # fmt: skip
        path = study / "out" / f"contrast-{one['label']}_stat-{stat}_roimap.nii.gz"
        image, rows = io.read_volume(path), results.table[results.table["contrast"] == one["name"]]
        for label, value in zip(rows["label"], rows[column], strict=True):
            np.testing.assert_allclose(image.data[labels == label], value, rtol=1e-6)
        assert (image.data[labels == 0] == (1 if stat == "pfwe" else 0)).all()
        code, parameters, _ = nib.load(path).header.get_intent()
        assert code == intent
        assert parameters == {"t": (17.0,), "F": (2.0, 17.0), "pfwe": ()}[stat]


def test_merged_regions_are_painted_on_all_their_labels(study):
    rows = pd.DataFrame({"region": ["A", "B"], "value": [2.0, np.nan]})
    atlas = load_atlas(study / "own.nii.gz")
    painted, labels = paint(rows, "value", atlas).data, atlas.image.data
    assert (painted[(labels == 3) | (labels == 7)] == 2).all()
    assert (painted[labels == 9] == 0).all()  # no value


def test_soft_regions_are_painted_where_they_are_most_probable():
    data = torch.zeros(2, *GRID.shape)
    data[0, :4], data[1, 2:6] = 0.6, 0.7
    data[1, 5] = 0.4
    table = pd.DataFrame({"hemisphere": "both", "name": ["A", "B"], "region": ["A", "B"]}, index=[1, 2])
    atlas = SoftAtlas("soft", Volume(data, GRID), table, (), "own")
    painted = paint(pd.DataFrame({"label": [1, 2], "value": [3.0, -5.0]}), "value", atlas).data[0, :, 0, 0]
    assert painted.tolist() == [3, 3, -5, -5, -5, 0, 0, 0]


def test_without_one_df_the_statistic_has_no_intent(study):
    atlas = load_atlas(study / "own.nii.gz")
    rows = pd.DataFrame({"label": [3, 7], "value": [1.0, 2.0], "df": [10.0, 11.5], "q_fdr": [0.5, 0.5]})
    maps = list(painted_maps(rows, {"kind": "t", "weights": [[1.0]]}, atlas))
    assert [(one.stat, one.intent) for one in maps] == [("t", None), ("qfdr", ("p value", ()))]
