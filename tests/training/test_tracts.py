"""Training of tract networks on cubes in which a bright bar is a tract: loss, distillation, split, mirrored heads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from vbmstat.errors import AssetError, VbmstatError
from vbmstat.tracts.network import TEACHER, load_tract_network
from vbmstat.training import run
from vbmstat.training.cases import Case, write_cases
from vbmstat.training.run import open_task
from vbmstat.training.tracts import TractTask, pack_masks, tract_dice

TRACTS = ["CST_left", "CST_right", "CA"]
SIDE = 16
FAST = {"n_channels": 4, "depth": 1, "slices": 12, "batch_size": 6, "max_learning_rate": 0.02, "n_validation": 1}


def bars(number: int) -> dict[str, torch.Tensor]:
    """Two upright bars and one across, somewhere; directions and peaks say which voxel is in which."""
    source = torch.Generator().manual_seed(number)
    x, y = torch.randint(1, 4, (2,), generator=source).tolist()
    masks = torch.zeros(3, SIDE, SIDE, SIDE)
    masks[0, x : x + 3, y : y + 8, 2:-2] = 1
    masks[1, -x - 3 : SIDE - x, y + 1 : y + 8, 2:-3] = 1
    masks[2, 2:-2, y + 8 : y + 11, 6:10] = 1
    upright, across = masks[:2].amax(0), masks[2]
    directions = torch.stack([across, torch.zeros_like(across), upright])
    peaks = torch.cat([directions, torch.zeros(6, SIDE, SIDE, SIDE)])
    return {
        "directions": directions, "tracts": pack_masks(masks), "peaks": peaks, "tracts_diffusion": pack_masks(masks),
        "to_peaks": torch.eye(4)[None, None],
    }  # fmt: skip


@pytest.fixture(scope="module")
def heads(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tracts") / "heads.npz"
    settings = {
        "kind": "tracts", "tracts": TRACTS, "shape": [SIDE] * 3, "voxel_mm": 2.0, "widths": [0.5, 0.5, 1.0],
        "peaks_shape": [SIDE] * 3, "peaks_mm": 2.0,
    }  # fmt: skip
    write_cases(path, (Case(f"head{n}", f"head{n}", bars(n)) for n in range(5)), settings)
    return path


def opened(config: Path) -> TractTask:
    task = open_task("tracts", config)
    assert isinstance(task, TractTask)
    return task


def test_the_papers_values_are_the_defaults(tmp_path, heads):
    (tmp_path / "run.toml").write_text(f'data = "{heads}"')
    config = opened(tmp_path / "run.toml").config
    assert (config.epochs, config.batch_size, config.max_learning_rate, config.reference_weight) == (500, 56, 1e-3, 0.5)
    optimiser, schedule = opened(tmp_path / "run.toml").optimiser(nn.Linear(1, 1), 9)
    assert type(optimiser) is torch.optim.Adamax
    assert schedule.get_last_lr() == [1e-3]


def test_masks_come_back_from_their_bytes(configure, heads):
    masks = (torch.rand(11, 2, 3, 4, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    task = opened(configure(heads))
    task.tracts = [str(n) for n in range(11)]
    assert torch.equal(task._unpacked(pack_masks(masks)).float(), masks)


def test_dice_of_each_tract():
    reference = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]).reshape(3, 4, 1, 1)
    probability = torch.tensor([[0.9, 0.1, 0.6, 0.5], [0, 0, 0, 0], [0.7, 0, 0, 0]]).reshape(3, 4, 1, 1)
    assert tract_dice(probability, reference) == pytest.approx([0.5, float("nan"), 0.0], nan_ok=True)


def test_loss_is_that_of_equation_5(configure, heads, monkeypatch):
    task = opened(configure(heads, reference_weight=0.3, augment=0.0, **FAST))
    soft = torch.rand(3, SIDE, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(task, "_taught_by", lambda _: (255 * soft).round().to(torch.uint8))
    teacher_only = opened(configure(heads, reference_weight=0.0, augment=0.0, **FAST))
    monkeypatch.setattr(teacher_only, "_taught_by", lambda _: (255 * soft).round().to(torch.uint8))
    alone = opened(configure(heads, reference_weight=1.0, augment=0.0, **FAST))
    network = alone.build()
    losses = []
    for each in (task, alone, teacher_only):
        image, target = next(each.examples("head0", each.stages()[-1], torch.Generator().manual_seed(1)))
        losses.append(float(each.loss(network, image, target).detach()))
    mixed, reference, taught = losses
    assert mixed == pytest.approx(0.3 * reference + 0.7 * taught, abs=1e-5)
    assert abs(reference - taught) > 0.1
    image, target = next(alone.examples("head0", alone.stages()[-1], torch.Generator().manual_seed(1)))
    probability = network(image).sigmoid()
    assert reference == pytest.approx(float(functional.binary_cross_entropy(probability, target).detach()), abs=1e-5)


def test_mirrored_heads_swap_sides_and_turn_directions(configure, heads):
    task = opened(configure(heads, reference_weight=1.0, **(FAST | {"slices": 40})))
    stage = task.stages()[-1]
    case = task._load("head0", "directions", "tracts")
    masks = task._unpacked(case["tracts"].to(torch.uint8)).float()
    mirrored_masks = masks.flip(1)[[1, 0, 2]]
    seen = []
    for seed in range(6):
        for image, target in task.examples("head0", stage, torch.Generator().manual_seed(seed)):
            whole = [masks.movedim(axis, 1) for axis in (1, 2, 3)]
            flipped = [mirrored_masks.movedim(axis, 1) for axis in (1, 2, 3)]
            plain = any((stack.movedim(1, 0) == target).flatten(1).all(1).any() for stack in whole)
            other = any((stack.movedim(1, 0) == target).flatten(1).all(1).any() for stack in flipped)
            assert plain or other
            assert torch.equal(image[0].abs().amax(0) > 0, target[0].amax(0) > 0)  # the image moved with its masks
            seen.append((plain, other))
    assert (True, False) in seen
    assert (False, True) in seen


def test_teacher_then_student_learn_the_bars(configure, heads, tmp_path):
    task = opened(configure(heads, epochs=12, **FAST))
    rows = []
    assert run.train(task, tmp_path / "out", on_epoch=rows.append)
    assert [row["stage"] for row in rows] == ["teacher"] * 12 + ["student"] * 12
    network, settings = load_tract_network(tmp_path / "out")
    best = max(row["validation_dice"] for row in rows[12:])
    assert settings["validation_dice"] == best > 0.45
    assert {"test_dice", "test_dice_weak", "epoch"} <= set(settings)
    assert settings["tracts"] == TRACTS
    assert not any(parameter.requires_grad for parameter in network.parameters())
    training, validation, test = run._split(task.cases, task.config, task.n_test_folds)
    assert (len(training), len(validation), len(test)) == (3, 1, 1)


def test_teacher_is_frozen_and_can_be_given(configure, heads, tmp_path):
    run.train(opened(configure(heads, epochs=1, **FAST)), tmp_path / "first")
    given = tmp_path / "first" / f"{TEACHER}.safetensors"
    before = given.read_bytes()
    task = opened(configure(heads, epochs=1, first_stage=str(given), **FAST))
    assert [stage.name for stage in task.stages()] == ["student"]
    run.train(task, tmp_path / "second")
    assert given.read_bytes() == before
    assert task._teacher is not None
    assert not any(parameter.requires_grad for parameter in task._teacher.parameters())
    with pytest.raises(AssetError, match="missing"):
        run.train(opened(configure(heads, epochs=1, first_stage="none", **FAST)), tmp_path / "third")


def test_another_teacher_or_other_heads_are_another_run(configure, heads, tmp_path):
    run.train(opened(configure(heads, epochs=1, **FAST)), tmp_path / "first")
    given = tmp_path / "first" / f"{TEACHER}.safetensors"
    config = configure(heads, epochs=1, first_stage=str(given.parent), **FAST)  # or the folder of its run
    run.train(opened(config), tmp_path / "second")
    other = tmp_path / "other.npz"
    settings = opened(config).cases.settings
    write_cases(other, (Case(f"head{n}", f"head{n}", bars(n + 9)) for n in range(5)), settings)
    task = opened(configure(other, epochs=1, first_stage=str(given), **FAST))
    task.begin(task.stages()[0], tmp_path / "second")  # as after a run that stopped before its first checkpoint
    assert not list(task._taught.iterdir())
    given.write_bytes((tmp_path / "second" / "tracts.safetensors").read_bytes())
    config = configure(heads, epochs=1, first_stage=str(given.parent), **FAST)
    with pytest.raises(VbmstatError, match="holds a run with another first_stage"):
        run.train(opened(config), tmp_path / "second")


def test_a_resumed_run_equals_an_uninterrupted_one(configure, heads, tmp_path, monkeypatch):
    config = configure(heads, epochs=3, reference_weight=1.0, **FAST)
    run.train(opened(config), tmp_path / "whole")

    class StoppedError(Exception):
        pass

    def stop(row):
        if row["epoch"] == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        run.train(opened(config), tmp_path / "parts", on_epoch=stop)
    assert run.train(opened(config), tmp_path / "parts")
    one, other = (load_tract_network(tmp_path / name)[0].state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_best_epoch_is_kept(configure, heads, tmp_path, monkeypatch):
    scores = iter([0.2, 0.9, 0.3, 0.5])  # three epochs, and the test
    monkeypatch.setattr(TractTask, "score", lambda *_: {"dice": next(scores)})
    kept = []
    monkeypatch.setattr(run, "save_network", lambda path, network, kind, settings: kept.append(settings))
    run.train(opened(configure(heads, epochs=3, reference_weight=1.0, **FAST)), tmp_path / "out")
    assert kept[0]["validation_dice"] == 0.9
    assert kept[0]["epoch"] == 2
    assert kept[0]["test_dice"] == 0.5


def test_a_weight_above_1_is_refused(configure, heads):
    with pytest.raises(VbmstatError, match=r"reference_weight: expected 0 to 1, got 1\.5"):
        opened(configure(heads, reference_weight=1.5))


def test_teachers_predictions_are_moved_to_the_t1w_image(configure, heads, tmp_path, monkeypatch):
    task = opened(configure(heads, **FAST))
    run.train(opened(configure(heads, epochs=1, **FAST)), tmp_path / "out")
    task.begin(task.stages()[1], tmp_path / "out")
    still = task._taught_by("head0")
    case = task._load("head0")
    shift = torch.eye(4)
    shift[2, 3] = 2.0  # a voxel of the T1w cube lies two voxels higher in the peaks
    monkeypatch.setattr(task.cases, "load", lambda *_: {**case, "to_peaks": shift[None, None]})
    monkeypatch.setattr(task, "_taught", tmp_path)  # nothing is kept here yet
    moved = task._taught_by("head0")
    assert (moved[..., :-2].int() - still[..., 2:].int()).abs().max() <= 1
