"""TOML files: what cannot be read is said in one line."""

from __future__ import annotations

import pytest

from vbmstat.errors import TableError
from vbmstat.tables.toml import read_toml


def test_the_content_of_a_file(tmp_path):
    (tmp_path / "a.toml").write_text('name = "Zoë"\n[part]\nn = 2\n', encoding="utf-8")
    assert read_toml(tmp_path / "a.toml", "a plan") == {"name": "Zoë", "part": {"n": 2}}


@pytest.mark.parametrize("content", [b"[open", b"n = \xff", b"a = " + b"[" * 100_000, None])
def test_a_file_that_cannot_be_read_is_named_with_what_was_expected(tmp_path, content):
    path = tmp_path / "a.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TableError, match=r"a\.toml: expected a plan, but it cannot be read \(") as caught:
        read_toml(path, "a plan")
    assert "\n" not in str(caught.value)
