"""Configurations: defaults and error messages."""

from __future__ import annotations

import pytest

from vbmstat.errors import VbmstatError
from vbmstat.training.config import RunConfig, read_config


def test_defaults_are_the_paper_s(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('data = "cases.npz"\naugment = 0\n')
    config = read_config(path)
    assert config == RunConfig(data="cases.npz", augment=0)
    assert (config.epochs, config.foundation_epochs, config.batch_size) == (60, 2, 1)
    assert (config.max_learning_rate, config.n_channels, config.depth) == (1e-3, 8, 4)
    assert config.n_folds == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = 3", 'expected a line data = "….npz"'),
        ('data = "a.npz"\nepoch = 3', "unknown name 'epoch'; expected data, epochs|unknown name 'epoch'"),
        ('data = "a.npz"\nepochs = "many"', "epochs: expected a whole number, got 'many'"),
        ('data = "a.npz"\nrefine = 1', "refine: expected true or false, got 1"),
        ('data = "a.npz"\nepochs = 0', "epochs: expected at least 1, got 0"),
        ('data = "a.npz"\nfold = 5', "fold: expected 0 to 4, got 5"),
        ('data = "a.npz"\nprecision = "half"', "precision: expected float32 or bfloat16, got 'half'"),
        ("data = ", "expected a run.s TOML file, but it cannot be read"),
    ],
)
def test_what_is_refused(tmp_path, text, message):
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(VbmstatError, match=message) as caught:
        read_config(path)
    assert str(caught.value).startswith(str(path))


def test_a_missing_file(tmp_path):
    with pytest.raises(
        VbmstatError,
        match=r"none.toml: expected a run's TOML file, but it cannot be read \(No such file or directory\)",
    ):
        read_config(tmp_path / "none.toml")
