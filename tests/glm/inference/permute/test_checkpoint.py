"""Checkpoints: what is read back, and what is ignored."""

from __future__ import annotations

import numpy as np

from vbmstat.glm.inference.permute.checkpoint import Checkpoint


def test_a_damaged_checkpoint_is_ignored(tmp_path):
    fresh = {"statistic": np.zeros(10), "reached": np.zeros(5, np.int64)}
    checkpoint = Checkpoint(tmp_path / "c.npz", "key")
    assert checkpoint.resume(fresh)[0] == 0  # no file
    checkpoint.path.write_bytes(b"PK\x03\x04 not an archive")
    assert checkpoint.resume(fresh)[0] == 0
    checkpoint.save(4, {"statistic": np.arange(10.0), "reached": np.zeros(5, np.int64)})
    done, state = checkpoint.resume(fresh)
    assert (done, state["statistic"].tolist()) == (4, list(range(10)))
    assert Checkpoint(checkpoint.path, "other").resume(fresh)[0] == 0
    assert checkpoint.resume({**fresh, "tfce": np.zeros(10)})[0] == 0  # counted without TFCE
