"""Errors that a user can act on are one line on the error stream and exit code 2."""

from __future__ import annotations

import pytest

from vbmstat import errors


def test_every_error_is_a_vbmstat_error():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert len(kinds) == 6
    assert all(issubclass(kind, errors.VbmstatError) and kind.__doc__ for kind in kinds)


def test_command_line_prints_one_line(monkeypatch, capsys):
    from vbmstat import cli  # noqa: PLC0415  (imports every command)

    def fail():
        message = "sub\n07\udcff: expected one 3-D volume"
        raise errors.ScanError(message)

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert capsys.readouterr().err == "vbmstat: sub\\n07\\udcff: expected one 3-D volume\n"


def test_long_lists_are_shortened():
    assert errors.listed(["a", "b"]) == "a, b"
    assert errors.listed([1, 2, 3], most=2) == "1, 2 and 1 more"
    assert errors.listed(list(range(12))).endswith("11")
    assert errors.listed([]) == ""
