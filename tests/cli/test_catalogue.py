"""Every file that the program reads is known with its sha256, licence and source."""

from __future__ import annotations

import pytest

from tests.assets.test_downloads import CONTENT, cache, digest, fetched, server  # noqa: F401 - fixtures
from vbmstat.assets import ASSETS
from vbmstat.cli import catalogue
from vbmstat.errors import AssetError
from vbmstat.roi.atlas import SOURCES


def test_all_that_is_read_is_known(cache):  # noqa: F811
    known = {entry.name: entry for entry in catalogue.entries()}
    assert set(known) >= {*ASSETS, *SOURCES, "tracts72", "few/a.pt", "deepmriprep/warp_model.pt"}
    for entry in known.values():
        assert entry.licence
        assert entry.source
        assert len(entry.sha256) == 64 or entry.state == "not fetched"
        assert (entry.size_bytes or 0) > 0 or entry.state == "not fetched"
    assert known["lpba40"].state == known["network-segmentation"].state == "installed"
    assert known["few/a.pt"].state == "not fetched"
    fetched()
    (entry, _) = catalogue.entries(["few"])
    assert (entry.state, entry.sha256, entry.size_bytes) == ("fetched", digest("a.pt"), len(CONTENT["a.pt"]))


def test_problems(cache):  # noqa: F811
    assert catalogue.problem(*catalogue.entries(["lpba40"])) == ""
    assert catalogue.problem(*catalogue.entries(["tracts72"])) == ""
    assert catalogue.problem(*catalogue.entries(["network-segmentation"])) == ""
    assert [catalogue.problem(entry) for entry in catalogue.entries(["few"])] == ["not fetched", "not fetched"]
    fetched()
    (cache / "few" / "a.pt").write_bytes(b"PK\x03\x04exchanged")
    (cache / "few" / "b.pt").unlink()
    first, second = (catalogue.problem(entry) for entry in catalogue.entries(["few"]))
    assert first.startswith("sha256 ")
    assert first.endswith(f"differs from {digest('a.pt')}")
    assert second == "missing"


def test_paths(cache):  # noqa: F811
    assert catalogue.path("template") == next(iter(catalogue.entries(["template"]))).path
    with pytest.raises(AssetError, match="not fetched"):
        catalogue.path("few")
    fetched()
    assert catalogue.path("few") == cache / "few"
    assert catalogue.path("few/b.pt").read_bytes() == CONTENT["b.pt"]
    with pytest.raises(AssetError, match=r"got 'lpba4'; did you mean lpba40"):
        catalogue.path("lpba4")
    (cache / "few" / "b.pt").write_bytes(b"PK")
    with pytest.raises(AssetError, match=r"b.pt: sha256 .* differs from .*; fetch it again"):
        catalogue.path("few/b.pt")
