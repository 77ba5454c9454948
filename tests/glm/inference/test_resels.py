"""Resel counts of bodies whose intrinsic volumes are known."""

from __future__ import annotations

import numpy as np
import pytest

from vbmstat.glm.inference.resels import resel_counts

RADII = np.sqrt(((np.indices((61, 61, 61)) - 30) ** 2).sum(axis=0))


def test_box():
    box = np.zeros((30, 40, 50), bool)
    box[5:25, 4:34, 3:43] = True
    np.testing.assert_allclose(resel_counts(box, (5, 6, 8)), [1, 13.508333, 60.454167, 89.5375], rtol=1e-7)


@pytest.mark.parametrize(
    ("body", "counts"),
    [
        (RADII <= 25, [1, 18.75, 87.1875, 116.28125]),  # SPM's lattice rule
        ((RADII <= 25) & (RADII > 10), [2, 10.5, 104.0625, 106.15625]),  # a hollow: one more connected surface
    ],
)
def test_round_bodies(body, counts):
    np.testing.assert_allclose(resel_counts(body, (8, 8, 8)), counts)


def test_two_boxes_add_and_the_edge_of_the_image_counts():
    one = np.zeros((20, 10, 10), bool)
    one[:8] = True
    other = np.zeros((20, 10, 10), bool)
    other[12:] = True
    np.testing.assert_allclose(
        resel_counts(one | other, (3, 4, 5)), resel_counts(one, (3, 4, 5)) + resel_counts(other, (3, 4, 5))
    )
