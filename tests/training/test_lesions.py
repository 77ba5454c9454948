"""Training of the lesion network: painting, thick-slice labels, and the second step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.training import lesion_phantoms as phantoms
from vbmstat.errors import VbmstatError
from vbmstat.preproc.networks.weights import load_network, own_file
from vbmstat.training import losses, painting
from vbmstat.training.cases import Case, write_cases
from vbmstat.training.config import read_config
from vbmstat.training.lesions import SHAPES
from vbmstat.training.painted_brains import Brain
from vbmstat.training.run import open_task, train

TRAINING, UNSEEN = range(20), range(100, 108)
FAST = {
    "n_folds": 1,
    "n_validation": 1,
    "augment": 0.0,
    "depth": 1,
    "n_channels": 6,
    "batch_size": 2,
    "max_learning_rate": 0.01,
}


@pytest.fixture
def fit(configure, tmp_path):
    """Train on labels and return the network: ``fit(labels, epochs=6)``."""

    def run(labels, name="run", **settings):
        data = phantoms.write(tmp_path / f"{name}.npz", labels)
        assert train(open_task("wmh", configure(data, **{**FAST, "epochs": 6, **settings})), tmp_path / name)
        return load_network(own_file(tmp_path / name, "wmh"))[0]

    return run


def test_labels_on_voxels_are_learnt(fit):
    network = fit({n: phantoms.truth(n) for n in TRAINING})
    assert phantoms.dice(network, UNSEEN) > 0.8


def test_the_slice_profile_recovers_detail_that_upsampled_labels_lose(fit):
    thick = {n: phantoms.on_slices(phantoms.truth(n)) for n in TRAINING}
    through_slices = fit(thick, "slices")
    naive = fit({n: phantoms.nearest(label) for n, label in thick.items()}, "naive")
    assert phantoms.dice(through_slices, UNSEEN) > phantoms.dice(naive, UNSEEN) + 0.08


@pytest.mark.parametrize("second_step", ["drop", "relabel"])
def test_the_second_step_mends_what_corrupted_labels_spoilt(fit, tmp_path, configure, second_step):
    labels = {n: phantoms.wrong(n) if n % 10 < 3 else phantoms.truth(n) for n in TRAINING}
    second = fit(labels, second_step=second_step, disagreeing=0.3)
    first = load_network(own_file(tmp_path / "run", "wmh-step1"))[0]
    assert phantoms.dice(second, UNSEEN) > phantoms.dice(first, UNSEEN)

    task = open_task("wmh", configure(tmp_path / "run.npz", **FAST, second_step=second_step, disagreeing=0.3))
    kept = task.select(task.cases.names, task.stages()[1], first)
    right = [f"person{n}" for n in TRAINING if n % 10 >= 3]
    assert kept == (right if second_step == "drop" else task.cases.names)
    assert sorted(task.relabelled) == ([] if second_step == "drop" else sorted(set(kept) - set(right)))
    assert task.select(task.cases.names, task.stages()[0], first) == task.cases.names


@pytest.mark.parametrize(
    ("n_slices", "thickness", "expected"),
    [
        (3, 2.0, [[0.5, 0.5, 0, 0, 0, 0], [0, 0, 0.5, 0.5, 0, 0], [0, 0, 0, 0, 0.5, 0.5]]),
        (3, 1.0, [[0.5, 0.5, 0, 0, 0, 0], [0, 0, 0.5, 0.5, 0, 0], [0, 0, 0, 0, 0.5, 0.5]]),  # with gaps
        (2, 4.0, [[2 / 7, 2 / 7, 2 / 7, 1 / 7, 0, 0], [0, 0, 1 / 7, 2 / 7, 2 / 7, 2 / 7]]),  # overlapping
        (2, 2.0, [[0.25, 0.5, 0.25, 0, 0, 0], [0, 0, 0, 0.25, 0.5, 0.25]]),
    ],
)
def test_profiles_of_slices(n_slices, thickness, expected):
    torch.testing.assert_close(losses.slice_profile(6, n_slices, thickness), torch.tensor(expected))


def test_the_lesion_loss_prefers_the_truth_and_an_empty_brain_left_empty():
    lesion = torch.zeros(2, 1, 8, 8, 8)
    lesion[0, :, 2:6, 2:6, 2:6] = 1
    truth = losses.lesion_loss(lesion, lesion)
    assert float(truth) == pytest.approx(0, abs=1e-4)
    for false in (torch.zeros_like(lesion), lesion.flip(0), torch.ones_like(lesion)):
        assert float(losses.lesion_loss(false, lesion)) > float(truth) + 0.01


def test_brains_are_learnt_from_painted_patches(tmp_path, configure):
    """Brains without lesions, and shapes to paint, as `prepare-wmh` writes them; scans without lesions stay empty."""
    path = tmp_path / "brains.npz"
    write_cases(path, [*(canvas(n) for n in range(6)), shape()], {"kind": "wmh", "shape": [1, 1, 1]})
    config = configure(path, **{**FAST, "epochs": 6, "patch": 24, "patches": 6})
    task = open_task("wmh", config)
    assert task.cases.names == [f"brain{n}" for n in range(6)]
    assert len(task.shapes.lesions) == 1
    assert train(task, tmp_path / "run")
    network = load_network(own_file(tmp_path / "run", "wmh"))[0]
    found = [n for n in UNSEEN if dice_of_ball(network, n) > 0.5]
    assert len(found) >= 6


def canvas(number: int) -> Case:
    wm = torch.ones(32, 32, 32)
    noise = 0.05 * torch.randn(wm.shape, generator=torch.Generator().manual_seed(number))
    frame = np.eye(4)
    frame[:3, 3] = (-16, -34, -6)
    brain = Brain(wm + noise, torch.stack([0 * wm, wm]), wm, 0 * wm, frame, shown=False)
    return Case(f"brain{number}", f"group{number}", brain.arrays())


def shape() -> Case:
    lesion = torch.zeros(painting.shape_grid().shape)
    lesion[56:72, 60:90, 45:65] = 1
    return Case("somebody", SHAPES, {"lesion": lesion[None]})


def dice_of_ball(network: torch.nn.Module, number: int) -> float:
    """Dice of a ball as dark as grey matter in a brain of :func:`canvas`."""
    ball = (phantoms.ball(5.0, (16, 14, 15), (32, 32, 32)) > 0.5).float()
    brain = Brain.from_arrays(dict(canvas(number).arrays))
    inputs = torch.cat([(brain.contrast - ball)[None], brain.inputs[1:]])
    network.eval()
    with torch.inference_mode():
        mask = network(inputs[None])[0, 0] > 0
    return 2 * float((mask * ball).sum()) / float(mask.sum() + ball.sum())


def test_an_unknown_second_step_is_refused(tmp_path, configure):
    with pytest.raises(VbmstatError, match="second_step: expected '' or 'drop' or 'relabel', got 'forget'"):
        read_config(configure(tmp_path / "a.npz", second_step="forget"))
