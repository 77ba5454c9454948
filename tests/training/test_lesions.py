"""Training of the lesion network: painting, thick-slice labels, and the second step."""

from __future__ import annotations

import pytest
import torch

from tests.training import lesion_phantoms as phantoms
from vbmstat.errors import VbmstatError
from vbmstat.preproc.networks.lesion_net import candidates, describe
from vbmstat.preproc.networks.weights import load_network, own_file
from vbmstat.training import losses
from vbmstat.training.cases import Case, CaseFile, write_cases
from vbmstat.training.config import read_config
from vbmstat.training.run import open_task, train

TRAINING, UNSEEN = range(20), range(100, 108)
FAST = {"n_folds": 1, "n_validation": 1, "augment": 0.0, "depth": 2, "n_channels": 32, "max_learning_rate": 0.01}


@pytest.fixture
def fit(configure, tmp_path):
    """Train on labels and return the network: ``fit(labels, epochs=9)``."""

    def run(labels, name="run", **settings):
        data = phantoms.write(tmp_path / f"{name}.npz", labels)
        assert train(open_task("wmh", configure(data, **{**FAST, "epochs": 10, **settings})), tmp_path / name)
        return load_network(own_file(tmp_path / name, "wmh"))[0]

    return run


def test_labels_on_voxels_are_learnt(fit):
    network = fit({n: phantoms.truth(n) for n in TRAINING})
    assert phantoms.dice(network, UNSEEN) > 0.8


def test_the_slice_profile_recovers_detail_that_upsampled_labels_lose(fit):
    thick = {n: phantoms.on_slices(phantoms.truth(n)) for n in TRAINING}
    through_slices = fit(thick, "slices", epochs=12)
    naive = fit({n: phantoms.nearest(label) for n, label in thick.items()}, "naive", epochs=12)
    assert phantoms.dice(through_slices, UNSEEN) > phantoms.dice(naive, UNSEEN) + 0.08


@pytest.mark.parametrize("second_step", ["drop", "relabel"])
def test_the_second_step_mends_what_corrupted_labels_spoilt(fit, tmp_path, second_step):
    labels = {n: phantoms.wrong(n) if n % 10 < 3 else phantoms.truth(n) for n in TRAINING}
    second = fit(labels, second_step=second_step, disagreeing=0.3)
    first = load_network(own_file(tmp_path / "run", "wmh-step1"))[0]
    assert phantoms.dice(second, UNSEEN) > phantoms.dice(first, UNSEEN)


def test_the_second_step_drops_exactly_the_wrong_labels(fit, tmp_path, configure):
    labels = {n: phantoms.wrong(n) if n % 10 < 3 else phantoms.truth(n) for n in TRAINING}
    fit(labels, second_step="drop", disagreeing=0.3)
    cases = CaseFile(tmp_path / "run.npz")
    task = open_task("wmh", configure(cases.path, **FAST, second_step="drop", disagreeing=0.3))
    network = load_network(own_file(tmp_path / "run", "wmh-step1"))[0]
    kept = task.select(cases.names, task.stages()[1], network)
    assert kept == [f"person{n}" for n in TRAINING if n % 10 >= 3]
    assert task.select(cases.names, task.stages()[0], network) == cases.names


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


def test_samples_of_voxels_are_learnt(tmp_path, configure):
    """Descriptors and labels, as `prepare-wmh` writes them, train the network that then sees images."""
    path = tmp_path / "samples.npz"
    write_cases(path, (sample(n) for n in TRAINING), {"kind": "wmh", "shape": [2000, 1, 1]})
    assert train(open_task("wmh", configure(path, **{**FAST, "epochs": 12, "voxels": 1000})), tmp_path / "run")
    network = load_network(own_file(tmp_path / "run", "wmh"))[0]
    assert phantoms.dice(network, UNSEEN) > 0.7


def sample(number: int) -> Case:
    person = phantoms.person(number)
    image = torch.cat([person["contrast"], person["prior"]])
    at = candidates(image)[::2]
    label = person["lesion"][0][tuple(at.T)]
    arrays = {"descriptors": describe(image, at).T[:, :, None, None], "lesion": label[None, :, None, None]}
    return Case(f"person{number}", f"person{number}", arrays)


def test_an_unknown_second_step_is_refused(tmp_path, configure):
    with pytest.raises(VbmstatError, match="second_step: expected '' or 'drop' or 'relabel', got 'forget'"):
        read_config(configure(tmp_path / "a.npz", second_step="forget"))
