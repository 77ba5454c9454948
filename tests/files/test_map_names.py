"""Names that programs give their maps."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from vbmstat.errors import ScanError
from vbmstat.files import map_kinds, map_names, naming


def make(folder: Path, *names: str) -> None:
    """Empty files."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


CLINICA = "sub-01_ses-M00_T1w_segm-{}_space-Ixi549Space_modulated-{}{}_probability.nii.gz"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("s6mwp1sub-01_T1w.nii.gz", ("sub-01_T1w", 1, 6)),  # vbmstat, T1Prep
        ("mwp2sub-01_T1w.nii", ("sub-01_T1w", 2, 0)),  # CAT12
        ("smwp1ixi002.nii", ("ixi002", 1, None)),
        ("mwp1rsub-01_ses-1_T1w.nii", ("sub-01_ses-1_T1w", 1, 0)),  # CAT12, longitudinal
        ("s6mwmwp1rsub-01_ses-1_T1w.nii", ("sub-01_ses-1_T1w", 1, 6)),
        ("mwp1rat07.nii", ("rat07", 1, 0)),  # the r is the animal's
        ("smwc1ixi002.nii", ("ixi002", 1, None)),  # SPM
        ("mwc3ixi002.nii", ("ixi002", 3, 0)),
        ("smwrc2ixi002_Template.nii", ("ixi002", 2, None)),  # SPM after DARTEL
        ("sub-01_s6mwp1.nii.gz", ("sub-01", 1, 6)),  # deepmriprep in a BIDS folder
        ("sub-01_mwp2.nii.gz", ("sub-01", 2, 0)),
        (CLINICA.format("graymatter", "on", ""), ("sub-01_ses-M00_T1w", 1, 0)),
        (CLINICA.format("graymatter", "on", "_fwhm-8mm"), ("sub-01_ses-M00_T1w", 1, 8)),
        (CLINICA.format("whitematter", "on", "_fwhm-8mm"), ("sub-01_ses-M00_T1w", 2, 8)),
        (CLINICA.format("csf", "on", ""), ("sub-01_ses-M00_T1w", 3, 0)),
        (
            "sub-01_T1w_space-MNI152NLin2009cAsym-nonlinear-modulated_desc-T1Prep_label-WM_probseg.nii.gz",
            ("sub-01_T1w", 2, 0),
        ),
        *(
            (name, None)
            for name in (
                "wp1sub-01_T1w.nii", "p1sub-01_T1w.nii", "m0wp1sub-01.nii", "mwp4sub-01.nii", "wc1ixi.nii",
                "mc1ixi.nii", "swc1ixi.nii", "sub-01_T1w.nii.gz", "mwp1.nii", "mwp1sub-01.txt", "mwp1sub-01.nii.json",
                CLINICA.format("graymatter", "off", "_fwhm-8mm"),
                CLINICA.format("softtissue", "on", ""),
                "sub-01_space-MNI152NLin2009cAsym_label-GM_probseg.nii.gz",
                ".partial-xyz_mwp1.nii.gz",
            )
        ),
    ],
)  # fmt: skip
def test_names_of_maps(name, expected):
    assert map_names.parse_map_name(name) == expected


@pytest.mark.parametrize("names", naming.NAME_STYLES)
@pytest.mark.parametrize("kind", ["mwp1", "mwp2", "mwp3", "s6mwp1", "s6mwp2", "s12mwp1", "s7.5mwp2"])
def test_own_maps_are_recognised(tmp_path, names, kind):
    scan = naming.Scan(Path("x"), "sub-01_ses-2_T1w", "sub-01", "ses-2")
    stem, tissue, fwhm_mm = map_names.parse_map_name(naming.output_path(tmp_path, scan, kind, names).name)
    assert naming.split_ids(stem) == ("sub-01", "ses-2")
    assert (tissue, fwhm_mm) == (int(kind[-1]), map_kinds.fwhm_of(kind) or 0)


def test_find_maps_prefers_the_smoothed(tmp_path):
    names = ["s6mwp1b.nii", "mwp1a.nii", "mwp1b.nii", "s6mwp1a.nii", "mwp2a.nii", "wp1a.nii"]
    random.Random(0).shuffle(names)  # noqa: S311
    make(tmp_path, *(f"mri/{name}" for name in names))
    assert {stem: path.name for stem, path in map_names.find_maps(tmp_path, 1).items()} == {
        "a": "s6mwp1a.nii", "b": "s6mwp1b.nii",
    }  # fmt: skip
    assert sorted(path.name for path in map_names.find_maps(tmp_path, 1, smoothed=False).values()) == [
        "mwp1a.nii", "mwp1b.nii",
    ]  # fmt: skip
    assert [path.name for path in map_names.find_maps(tmp_path, 2).values()] == ["mwp2a.nii"]
    assert map_names.find_maps(tmp_path, 3) == {}


def test_two_maps_of_one_scan(tmp_path):
    make(tmp_path, "s6mwp1a.nii", "s8mwp1a.nii")
    with pytest.raises(ScanError, match=r"two maps of a: .*s6mwp1a.nii and .*s8mwp1a.nii; keep one of .*--fwhm"):
        map_names.find_maps(tmp_path, 1)


def test_maps_of_one_width_among_several(tmp_path):
    """Two widths in one folder were once refused even where only unsmoothed maps were asked for."""
    make(tmp_path, "s6mwp1a.nii", "s8mwp1a.nii", "mwp1a.nii", "smwc1b.nii")
    assert map_names.find_maps(tmp_path, 1, smoothed=False)["a"].name == "mwp1a.nii"
    for width, found in ((8, ["s8mwp1a.nii"]), (0, ["mwp1a.nii"]), (7, [])):
        assert [path.name for path in map_names.find_maps(tmp_path, 1, fwhm_mm=width).values()] == found


def test_maps_of_one_model_among_several(tmp_path):
    make(tmp_path, "mwp1rsub-1.nii", "mwmwp1rsub-1.nii", "mwp1sub-1.nii", "mwp1sub-2.nii", "s6mwmwp1rsub-1.nii")
    for model, name in (("ageing", "mwmwp1rsub-1.nii"), ("plasticity", "mwp1rsub-1.nii"), ("", "mwp1sub-1.nii")):
        found = map_names.find_maps(tmp_path, 1, smoothed=False, model=model)
        assert {stem: path.name for stem, path in found.items()} == {"sub-1": name, "sub-2": "mwp1sub-2.nii"}
    assert [path.name for path in map_names.find_maps(tmp_path, 1).values()] == ["s6mwmwp1rsub-1.nii"]
    make(tmp_path, "s8mwmwp1rsub-1.nii")
    with pytest.raises(ScanError, match=r"two maps of sub-1: .*--fwhm"):
        map_names.find_maps(tmp_path, 1, model="ageing")


def by_known(folder, *known):
    return {scan: path.name for scan, path in map_names.by_known_ids(map_names.find_maps(folder, 1), known).items()}


def test_an_r_before_the_id_is_cat12s_where_the_table_has_the_id_without_it(tmp_path):
    make(tmp_path, "s6mwp1rS001.nii", "s6mwp1rob.nii", "s6mwp1chris_T1w.nii", "s6mwp1rS002_T1w.nii")
    assert by_known(tmp_path, "S001", "rob", "ob", "chris", "S002") == {
        "S001": "s6mwp1rS001.nii", "rob": "s6mwp1rob.nii", "chris": "s6mwp1chris_T1w.nii",
        "S002": "s6mwp1rS002_T1w.nii",
    }  # fmt: skip
    assert by_known(tmp_path, "rS001", "S001")["rS001"] == "s6mwp1rS001.nii"
    assert list(by_known(tmp_path)) == ["chris_T1w", "rS001", "rS002_T1w", "rob"]


@pytest.mark.parametrize("other", ["mwp1S001.nii", "mwp1rS001_T1w.nii"])
def test_two_maps_of_one_scan_of_a_table(tmp_path, other):
    make(tmp_path, "mwp1rS001.nii", other)
    with pytest.raises(ScanError, match=r"two maps of S001: .*; keep one of them"):
        by_known(tmp_path, "S001")


@pytest.mark.parametrize(
    ("names", "kinds"),
    [
        (("mwp1S001.nii", "mwp1rS002.nii"), "mwp1*: 1 scans, e.g. S001; mwp1r*: 1 scans, e.g. S002"),
        (("mwp1rS001.nii", "mwmwp1rS002.nii"), "mwmwp1r*: 1 scans, e.g. S002; mwp1r*: 1 scans, e.g. S001"),
        (("s6mwp1S001.nii", "s8mwp1S002.nii.gz"), "s6mwp1*: 1 scans, e.g. S001; s8mwp1*: 1 scans, e.g. S002"),
        (("smwc1S001.nii", "smwp1S002.nii"), "smwc1*: 1 scans, e.g. S001; smwp1*: 1 scans, e.g. S002"),
        (("mwp1rS001.nii", "mwp1rS002.nii.gz"), ""),
        (("mwp1S001_a_T1w.nii", "mwp1S002.nii"), ""),
        (("one.nii", "mwp1S002.nii"), ""),
    ],
)
def test_kinds_of_maps(names, kinds):
    paths = {re.search("S00.", name)[0] if "S00" in name else "S001": Path(name) for name in names}
    assert map_names.several_kinds(paths) == kinds
