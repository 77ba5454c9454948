"""Names of outputs and sets of them."""

from __future__ import annotations

import pytest

from vbmstat.errors import VbmstatError
from vbmstat.files import naming
from vbmstat.files.outputs import OUTPUTS, SETS, output_kinds, parse_outputs


def test_sets_and_names_may_be_mixed_and_have_one_order():
    assert parse_outputs("minimal") == ()
    assert parse_outputs("all") == tuple(OUTPUTS)
    assert parse_outputs(["wj", "p1"]) == parse_outputs("wj,p1") == parse_outputs(" p1  wj,") == ("p1", "wj")
    assert parse_outputs("minimal,y") == ("y",)
    assert set(parse_outputs("vbm,y")) == {*SETS["vbm"], "y"}


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(
        VbmstatError, match=r"^outputs: expected minimal, vbm, all or some of p0 .*'mwp1' \(did you mean"
    ):
        parse_outputs("p0,mwp1")


def test_an_engine_without_velocity_writes_the_deformation_in_its_place():
    assert "y" in parse_outputs("vbm", "cat")
    assert "velocity" not in parse_outputs("all", "cat")
    with pytest.raises(VbmstatError, match=r"^engine cat has no velocity: .*ask for y and iy instead$"):
        parse_outputs("p1,velocity", "cat")


def test_hypointensities_are_refused_where_none_are_looked_for():
    assert parse_outputs("vbm", has_wmh=False) == parse_outputs(SETS["vbm"], has_wmh=False) == SETS["vbm"]
    assert "p7" in parse_outputs("p1,p7")
    with pytest.raises(VbmstatError, match=r"^outputs: p7 are white-matter hypointensities, .*; add --wmh"):
        parse_outputs("p1,p7", has_wmh=False)


def test_every_kind_has_a_name_on_disk_and_lesions_only_where_they_were_looked_for():
    every = output_kinds((6.0,), has_wmh=True, outputs=OUTPUTS)
    assert len(set(every)) == len(every)
    for kind in every:
        naming.output_path(naming.Path(), naming.Scan(naming.Path("a"), "a", "a"), kind)
    without = output_kinds((6.0,), outputs=OUTPUTS)
    assert [kind for kind in every if kind not in without] == ["p7", "mask7", "wp7", "mwp7", "wmh_volumes", "s6mwp7"]
    assert output_kinds((8.0,), outputs=()) == ("sidecar", "volumes", "qc", "picture", "s8mwp1", "s8mwp2")


def test_time_points_have_maps_of_their_models_in_place_of_those_of_single_scans():
    single = output_kinds((6.0,), True, OUTPUTS)
    both = output_kinds((6.0,), True, OUTPUTS, ("plasticity", "ageing"))
    changed = {"wp1", "wp2", "wp7", "m0wp1", "m0wp2", "m0wp3", "mwp1", "mwp2", "mwp3", "mwp7"}
    changed |= {"s6mwp1", "s6mwp2", "s6mwp7"}
    assert set(single) - set(both) == changed
    ageing = {kind.replace("mwp", "mwmwp") + "r" for kind in changed if "mwp" in kind}
    assert set(both) - set(single) == {f"{kind}r" for kind in changed} | ageing
    assert output_kinds((8.0,), outputs=(), models=("ageing",))[-2:] == ("s8mwmwp1r", "s8mwmwp2r")
