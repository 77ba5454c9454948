"""vbmstat assets, as a user types it."""

from __future__ import annotations

from typer.testing import CliRunner

from tests.assets.test_downloads import CONTENT, NAMES, cache, digest, server  # noqa: F401 - fixtures
from vbmstat.cli import app


def run(*arguments, code=0) -> str:
    result = CliRunner().invoke(app, ["assets", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


def test_list_fetch_path_verify(cache):  # noqa: F811
    lines = run("list").splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["name", "template"]
    assert [line for line in lines if line.startswith("few ") and "not fetched" in line and "2 files" in line]
    assert lines[-1] == f"cache: {cache}"
    said = run("fetch", "few").splitlines()
    assert len(said) == 3
    assert digest("a.pt") in said[0]
    assert run("path", "few").strip() == str(cache / "few")
    assert [line for line in run("list").splitlines() if line.startswith("few/a.pt ") and "fetched" in line]
    verified = run("verify")
    assert f"{digest('b.pt')}  {cache / 'few' / 'b.pt'}: ok" in verified
    assert "Template_4_GS.nii.gz: ok" in verified
    assert "not fetched" not in verified  # deepmriprep's were not asked for
    (cache / "few" / "b.pt").write_bytes(b"PK")
    assert "b.pt: sha256 " in run("verify", "few", code=1)


def test_fetch_from_a_folder_offline(cache, tmp_path):  # noqa: F811
    for name in NAMES:
        (tmp_path / name).write_bytes(CONTENT[name])
    assert "first seen, trusted from now on" in run("fetch", "few", "--source", tmp_path, "--offline")


def test_what_was_not_fetched_is_no_error_unless_asked_for(cache):  # noqa: F811
    run("verify")
    assert "few/a.pt: not fetched" in run("verify", "few", code=1)
