"""Runs: networks learn, a resumed run equals an uninterrupted one, and engine `deep` loads the result."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from tests.preproc.networks.test_symnet import smooth_field
from tests.training.conftest import SHAPE, ball
from vbmstat import assets
from vbmstat.errors import VbmstatError
from vbmstat.image.grid import resample
from vbmstat.preproc.networks.symnet import SymNet, Velocities, compose_warps, pull
from vbmstat.preproc.networks.weights import find_set, load_network, own_file
from vbmstat.training import run
from vbmstat.training.cases import Case, CaseFile, write_cases
from vbmstat.training.config import read_config
from vbmstat.training.registration import registration_grid
from vbmstat.training.run import open_task
from vbmstat.training.tissue import PatchesTask, tissue_dice


def table(out):
    return pd.read_csv(out / run.LOG, sep="\t")


@pytest.fixture(scope="module")
def whole(onions, tmp_path_factory):
    """A first stage trained on the onions."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "run.toml").write_text(
        f'data = "{onions}"\nn_channels = 4\ndepth = 2\nepochs = 9\nmax_learning_rate = 0.1\naugment = 0\nn_folds = 3\n'
    )
    assert run.train(open_task("segmentation", folder / "run.toml"), folder / "out")
    return folder / "out"


def test_segmentation_learns_and_generalises(whole):
    log = table(whole)
    assert list(log["epoch"]) == list(range(1, 10))
    assert log["loss"].iloc[-1] < 0.2 * log["loss"].iloc[0]
    assert log["validation_dice"].iloc[-1] > max(0.85, log["validation_dice"].iloc[0] + 0.3)  # other sites
    assert log["learning_rate"].max() == pytest.approx(0.1, rel=0.1)
    assert log["learning_rate"].iloc[-1] < 1e-4


def test_the_trained_network_is_a_set_of_engine_deep(whole, onions):
    networks = find_set(str(whole))
    assert networks.tissue.whole_shape == SHAPE
    task = open_task("segmentation", whole.parent / "run.toml")
    ((image, p0),) = task.examples("onion5", task.stages()[0], None)
    with torch.inference_mode():
        assert tissue_dice(networks.tissue.whole(image), p0)["dice"] > 0.85
    _, settings = load_network(own_file(whole, "segmentation"))
    assert settings["cases_sha256"] == assets.sha256(onions)
    assert settings["config"] == task.config.as_dict()
    assert settings["validation_dice"] > 0.85


def test_a_resumed_run_equals_an_uninterrupted_one(onions, configure, tmp_path):
    class Interrupted(Exception):
        """The user stops the run."""

    def stop(row):
        raise Interrupted

    config = configure(onions, epochs=3, n_folds=3, n_validation=1)
    assert run.train(open_task("segmentation", config), tmp_path / "at once")
    for _ in range(3):
        with pytest.raises(Interrupted):
            run.train(open_task("segmentation", config), tmp_path / "in pieces", on_epoch=stop)
    assert run.train(open_task("segmentation", config), tmp_path / "in pieces")
    first, second = (load_network(own_file(tmp_path / name, "segmentation"))[0] for name in ("at once", "in pieces"))
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert list(table(tmp_path / "at once")["loss"]) == list(table(tmp_path / "in pieces")["loss"])


def test_a_run_can_start_from_the_network_of_another(onions, whole, configure, tmp_path):
    start = own_file(whole, "segmentation")
    same = {"epochs": 1, "n_folds": 3, "n_channels": 4, "max_learning_rate": 1e-4}
    run.train(open_task("segmentation", configure(onions, **same)), tmp_path / "from nothing")
    run.train(open_task("segmentation", configure(onions, **same, start=str(start))), tmp_path / "on")
    nothing, on = (table(tmp_path / name)["validation_dice"].iloc[-1] for name in ("from nothing", "on"))
    assert on > max(0.85, nothing + 0.3)
    assert load_network(own_file(tmp_path / "on", "segmentation"))[1]["start_sha256"] == assets.sha256(start)
    with pytest.raises(VbmstatError, match="expected a network of kind gm-mask to start from, got segmentation"):
        run.train(open_task("gm-mask", configure(onions, **same, start=str(start))), tmp_path / "other kind")
    with pytest.raises(VbmstatError, match=r"none: no such file; expected the network to start from"):
        run.train(open_task("segmentation", configure(onions, **same, start="none")), tmp_path / "none")


def test_the_time_limit_stops_before_the_next_epoch(onions, configure, tmp_path, monkeypatch):
    config = configure(onions, epochs=2, n_folds=3, n_validation=0)
    assert not run.train(open_task("segmentation", config), tmp_path / "out", minutes=-1.0)
    assert not (tmp_path / "out" / run.CHECKPOINT).exists()
    clock = iter(range(0, 1000, 50))  # an epoch takes a minute or more
    monkeypatch.setattr(run, "time", SimpleNamespace(monotonic=lambda: next(clock)))  # other threads have their own
    assert not run.train(open_task("segmentation", config), tmp_path / "out", minutes=2.0)
    assert len(table(tmp_path / "out")) == 1
    assert run.train(open_task("segmentation", config), tmp_path / "out")
    assert len(table(tmp_path / "out")) == 2


def test_a_folder_with_another_run_is_refused(onions, configure, tmp_path):
    run.train(open_task("segmentation", configure(onions, epochs=1, n_folds=3)), tmp_path / "out")
    with pytest.raises(VbmstatError, match="holds a run with another config; choose another --out"):
        run.train(open_task("segmentation", configure(onions, epochs=2, n_folds=3)), tmp_path / "out")
    with pytest.raises(VbmstatError, match="holds a run with another kind"):
        run.train(open_task("gm-mask", configure(onions, epochs=1, n_folds=3)), tmp_path / "out")
    (tmp_path / "out" / run.CHECKPOINT).write_bytes(b"nonsense")
    with pytest.raises(VbmstatError, match="not a checkpoint of vbmstat"):
        run.train(open_task("segmentation", configure(onions, epochs=1, n_folds=3)), tmp_path / "out")


def test_no_group_trains_and_validates(onions, configure):
    cases, config = CaseFile(onions), read_config(configure(onions, n_folds=3, fold=1))
    training, validation, _ = run._split(cases, config)
    group = dict(zip(cases.names, cases.groups, strict=True))
    assert len(training) == 4
    assert len(validation) == 2
    assert not {group[name] for name in training} & {group[name] for name in validation}
    everything = read_config(configure(onions, n_folds=1))
    assert run._split(cases, everything) == (cases.names, cases.names, [])
    _, later, test = run._split(cases, config, n_test_folds=1)
    assert later == validation
    assert {group[name] for name in test}.isdisjoint({group[name] for name in validation})
    assert len(test) == 2
    with pytest.raises(VbmstatError, match=r"at least 5 groups for 5 folds, got 3 .*; lower n_folds"):
        run._split(cases, read_config(configure(onions)))


def test_a_nan_loss_stops_the_run(onions, configure, tmp_path, monkeypatch):
    monkeypatch.setattr("vbmstat.training.losses.tissue_loss", lambda predicted, _: predicted.sum() * float("nan"))
    with pytest.raises(VbmstatError, match="segmentation: the loss became nan; use a smaller max_learning_rate"):
        run.train(open_task("segmentation", configure(onions, epochs=1, n_folds=1)), tmp_path / "out")


def test_the_cascade_trains_a_foundation_and_18_positions(onions, whole, configure, tmp_path, monkeypatch):
    config = configure(
        onions, epochs=1, foundation_epochs=1, n_folds=3, n_channels=2, batch_size=2, n_validation=1,
        first_stage=str(own_file(whole, "segmentation")),
    )  # fmt: skip
    assert run.train(open_task("patches", config), tmp_path / "out")
    log = table(tmp_path / "out")
    assert list(log["stage"]) == ["foundation", *(f"patch {n:02d}" for n in range(18))]
    assert log["loss"].iloc[-1] < log["loss"].iloc[0]
    networks = [load_network(own_file(tmp_path / "out", "patches", n)) for n in range(18)]
    task = open_task("patches", config)
    assert isinstance(task, PatchesTask)
    assert [tuple(settings["position"]) for _, settings in networks] == task.positions[:18]
    weights = [network.last.weight.flatten().tolist() for network, _ in networks]
    assert len({tuple(w) for w in weights}) == 18  # all have diverged


def test_patches_on_the_right_are_mirrored(onions, whole, configure, tmp_path):
    task = open_task("patches", configure(onions, first_stage=str(own_file(whole, "segmentation"))))
    foundation, *single = task.stages()
    assert task.n_examples(foundation) == 27
    assert [task.n_examples(stage) for stage in single] == 9 * [2] + 9 * [1]
    left, right = task.examples("onion0", single[4], None)
    assert left[0].shape == right[0].shape == (1, 2, *task.patch)
    case = CaseFile(onions).load("onion0")
    x, y, z = (slice(start, start + n) for start, n in zip(task.positions[4], task.patch, strict=True))
    assert torch.equal(left[1][0, 0], case["p0"][0][x, y, z])
    assert torch.equal(right[1][0, 0], case["p0"][0].flip(0)[x, y, z])
    with pytest.raises(VbmstatError, match="patches: expected first_stage"):
        open_task("patches", configure(onions))


def test_the_gm_mask_learns(onions, configure, tmp_path):
    config = configure(onions, epochs=8, n_folds=3, max_learning_rate=0.05, batch_size=2)
    assert run.train(open_task("gm-mask", config), tmp_path / "out")
    log = table(tmp_path / "out")
    assert log["loss"].iloc[-1] < 0.7 * log["loss"].iloc[0]
    assert log["validation_dice"].iloc[-1] > log["validation_dice"].iloc[0]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """The template under one warp of varying size, on a coarse grid."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.npz"
    shape = (24, 28, 20)
    template = assets.template()
    tissue = resample(template.data[:2], template.grid, registration_grid(shape))[None]
    cases = []
    for n in range(6):
        half = (0.6 + 0.15 * n) * smooth_field(0.25, 0)
        scan = pull(tissue, compose_warps(Velocities(half, -half)).backward)
        coarse = torch.nn.functional.interpolate(half, (12, 14, 10), mode="trilinear", align_corners=True)
        cases.append(Case(f"pair{n}", f"site{n % 2}", {"scan": scan[0], "velocity": coarse[0]}))
    write_cases(path, cases, {"kind": "registration", "shape": list(shape)})
    return path


def test_registration_learns_velocities(pairs, configure, tmp_path):
    config = configure(pairs, epochs=8, n_folds=2, max_learning_rate=0.03, refine=False)
    assert run.train(open_task("registration", config), tmp_path / "out")
    log = table(tmp_path / "out")
    assert log["loss"].iloc[-1] < 0.8 * log["loss"].iloc[0]
    last = log.iloc[-1]
    assert last["validation_velocity_error"] < 0.85
    assert last["validation_mse"] < 0.85 * last["validation_mse_affine"]
    assert last["validation_mse_target"] < 0.5 * last["validation_mse_affine"]
    assert last["validation_least_jacobian"] > 0
    network, settings = load_network(own_file(tmp_path / "out", "registration"))
    assert isinstance(network, SymNet)
    assert settings["refine"] is False


def test_cases_of_another_task_are_refused(onions, pairs, configure, tmp_path):
    with pytest.raises(VbmstatError, match="expected cases of tissue, got registration"):
        run.train(open_task("segmentation", configure(pairs)), tmp_path / "out")
    with pytest.raises(VbmstatError, match="expected cases of registration, got tissue"):
        run.train(open_task("registration", configure(onions)), tmp_path / "out")


def test_a_case_without_a_gm_mask_is_refused(tmp_path, configure):
    path = tmp_path / "cases.npz"
    arrays = {"t1w": ball(9, (13, 15, 13))[None], "p0": ball(9, (13, 15, 13))[None]}
    write_cases(path, [Case("a", "b", arrays)], {"kind": "tissue", "shape": list(SHAPE)})
    with pytest.raises(VbmstatError, match="case a has no mask of voxels without GM"):
        run.train(open_task("gm-mask", configure(path, n_folds=1)), tmp_path / "out")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_augmented_examples_differ_and_move_together(onions, configure, precision, monkeypatch):
    monkeypatch.setattr("vbmstat.training.augment.MAX_SHIFT_VOXELS", 60.0)  # voxels of 0.5 mm: 3 voxels here
    task = open_task("segmentation", configure(onions, augment=1.0, n_folds=1, precision=precision))
    stage = task.stages()[0]
    seen = [next(task.examples("onion0", stage, torch.Generator().manual_seed(n))) for n in range(4)]
    plain, known = next(task.examples("onion0", stage, None))
    assert all(not torch.equal(image, plain) for image, _ in seen)
    assert sum(torch.equal(p0, known) for _, p0 in seen) < 4
    for image, p0 in seen:
        background = p0 == 0
        assert float(image[background].std()) < 0.05  # image and p0 moved together
        assert float(image[p0 == 3].mean()) > float(image[p0 == 1].mean())
    assert float(task.loss(task.build(), *seen[0]).detach()) > 0


def test_folds_that_leave_nothing_to_train_on_are_refused(configure, onions):
    cases, config = CaseFile(onions), read_config(configure(onions, n_folds=2))
    with pytest.raises(VbmstatError, match="no cases are left to train on: 2 folds, 1 validates and 1 tests"):
        run._split(cases, config, n_test_folds=1)
