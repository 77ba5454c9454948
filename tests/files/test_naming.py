"""Names: where outputs go, what other programs call their maps."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from vbmstat.errors import ScanError
from vbmstat.files import naming

KINDS = naming.output_kinds((4.0, 6.0, 7.5))


def make(folder: Path, *names: str) -> None:
    """Empty files."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_every_output_has_a_path_of_its_own(tmp_path):
    stems = ["sub-01_T1w", "sub-01_run-2_T1w", "sub-01_ses-1_T1w", "sub-01_ses-2_T1w", "chris", "sub-02_acq-a_T1w"]
    scans = [naming.Scan(Path(stem), stem, *naming.split_ids(stem)) for stem in stems]
    for names in naming.NAME_STYLES:
        paths = [naming.output_path(tmp_path, scan, kind, names) for scan in scans for kind in KINDS]
        assert len(set(paths)) == len(stems) * len(KINDS)


@pytest.mark.parametrize(("n_letters", "names"), [(230, "cat12"), (180, "bids"), (120, "cat12")])
def test_names_that_no_file_system_takes(n_letters, names):
    fits, too_long = "s" * n_letters, "s" * (n_letters + 60) if n_letters > 120 else "脳" * n_letters
    naming.check_name_length(naming.Scan(Path("a/x.nii"), fits, fits), names, (6.0,))
    with pytest.raises(ScanError, match=r"^a/x\.nii: its output names would have \d{3} bytes, at most 255 are allowed"):
        naming.check_name_length(naming.Scan(Path("a/x.nii"), f"sub-1_{too_long}", "sub-1"), names, (6.0,))


def test_bids_derivative_names(tmp_path):
    scan = naming.Scan(Path("x"), "sub-01_ses-2_T1w", "sub-01", "ses-2")
    assert naming.output_path(tmp_path, scan, "p1", "bids") == (
        tmp_path / "sub-01" / "ses-2" / "anat" / "sub-01_ses-2_label-GM_probseg.nii.gz"
    )
    plain = naming.Scan(Path("x"), "chris_T1w", "chris_T1w")
    assert naming.output_path(tmp_path, plain, "p1", "bids") == (
        tmp_path / "sub-chrisT1w" / "anat" / "sub-chrisT1w_label-GM_probseg.nii.gz"
    )


def test_scans_in_other_scripts_have_bids_names():
    paths = set()
    for stem in ("脳", "頭", "Mädchen"):
        path = naming.output_path(Path(), naming.Scan(Path(stem), stem, stem), "p1", "bids")
        assert re.fullmatch(r"sub-[A-Za-z0-9]+", path.parts[0])
        assert path.name == f"{path.parts[0]}_label-GM_probseg.nii.gz"
        paths.add(path)
    assert len(paths) == 3
    assert Path("sub-Mdchen") in [path.parents[1] for path in paths]


@pytest.mark.parametrize("names", naming.NAME_STYLES)
def test_scans_whose_names_differ_in_case_only_are_refused(names):
    scans = [naming.Scan(Path(folder, "x"), stem, *naming.split_ids(stem)) for folder, stem in (
        ("a", "sub-ab_T1w"), ("b", "sub-aB_T1w"))]  # fmt: skip
    naming.check_output_names(scans[:1], names)
    with pytest.raises(ScanError, match="would write the same output names"):
        naming.check_output_names(scans, names)


CLINICA = "sub-01_ses-M00_T1w_segm-{}_space-Ixi549Space_modulated-{}{}_probability.nii.gz"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("s6mwp1sub-01_T1w.nii.gz", ("sub-01_T1w", 1, True)),  # vbmstat, T1Prep
        ("mwp2sub-01_T1w.nii", ("sub-01_T1w", 2, False)),  # CAT12
        ("smwp1ixi002.nii", ("ixi002", 1, True)),
        ("mwp1rsub-01_ses-1_T1w.nii", ("sub-01_ses-1_T1w", 1, False)),  # CAT12, longitudinal
        ("s6mwmwp1rsub-01_ses-1_T1w.nii", ("sub-01_ses-1_T1w", 1, True)),
        ("mwp1rat07.nii", ("rat07", 1, False)),  # the r is the animal's
        ("smwc1ixi002.nii", ("ixi002", 1, True)),  # SPM
        ("mwc3ixi002.nii", ("ixi002", 3, False)),
        ("smwrc2ixi002_Template.nii", ("ixi002", 2, True)),  # SPM after DARTEL
        ("sub-01_s6mwp1.nii.gz", ("sub-01", 1, True)),  # deepmriprep in a BIDS folder
        ("sub-01_mwp2.nii.gz", ("sub-01", 2, False)),
        (CLINICA.format("graymatter", "on", ""), ("sub-01_ses-M00_T1w", 1, False)),
        (CLINICA.format("graymatter", "on", "_fwhm-8mm"), ("sub-01_ses-M00_T1w", 1, True)),
        (CLINICA.format("whitematter", "on", "_fwhm-8mm"), ("sub-01_ses-M00_T1w", 2, True)),
        (CLINICA.format("csf", "on", ""), ("sub-01_ses-M00_T1w", 3, False)),
        (
            "sub-01_T1w_space-MNI152NLin2009cAsym-nonlinear-modulated_desc-T1Prep_label-WM_probseg.nii.gz",
            ("sub-01_T1w", 2, False),
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
    assert naming.parse_map_name(name) == expected


@pytest.mark.parametrize("names", naming.NAME_STYLES)
@pytest.mark.parametrize("kind", ["mwp1", "mwp2", "mwp3", "s6mwp1", "s6mwp2", "s12mwp1", "s7.5mwp2"])
def test_own_maps_are_recognised(tmp_path, names, kind):
    scan = naming.Scan(Path("x"), "sub-01_ses-2_T1w", "sub-01", "ses-2")
    stem, tissue, is_smoothed = naming.parse_map_name(naming.output_path(tmp_path, scan, kind, names).name)
    assert naming.split_ids(stem) == ("sub-01", "ses-2")
    assert (tissue, is_smoothed) == (int(kind[-1]), kind.startswith("s"))


def test_find_maps_prefers_the_smoothed(tmp_path):
    names = ["s6mwp1b.nii", "mwp1a.nii", "mwp1b.nii", "s6mwp1a.nii", "mwp2a.nii", "wp1a.nii"]
    random.Random(0).shuffle(names)  # noqa: S311
    make(tmp_path, *(f"mri/{name}" for name in names))
    assert {stem: path.name for stem, path in naming.find_maps(tmp_path, 1).items()} == {
        "a": "s6mwp1a.nii", "b": "s6mwp1b.nii",
    }  # fmt: skip
    assert sorted(path.name for path in naming.find_maps(tmp_path, 1, smoothed=False).values()) == [
        "mwp1a.nii", "mwp1b.nii",
    ]  # fmt: skip
    assert [path.name for path in naming.find_maps(tmp_path, 2).values()] == ["mwp2a.nii"]
    assert naming.find_maps(tmp_path, 3) == {}


def test_two_maps_of_one_scan(tmp_path):
    make(tmp_path, "s6mwp1a.nii", "s8mwp1a.nii")
    with pytest.raises(ScanError, match=r"two maps of a: .*s6mwp1a.nii and .*s8mwp1a.nii; keep one"):
        naming.find_maps(tmp_path, 1)


def by_known(folder, *known):
    return {scan: path.name for scan, path in naming.by_known_ids(naming.find_maps(folder, 1), known).items()}


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
    assert naming.several_kinds(paths) == kinds


def test_map_columns_are_in_order_of_width_with_the_unsmoothed_last():
    names = ["age", "mwp1", "s8mwp1", "s12mwp1", "s7.5mwp1", "s6mwp2", "mwp2", "smwp1", "qc_mwp1", "wp1"]
    assert naming.map_columns(names, 1) == ["s7.5mwp1", "s8mwp1", "s12mwp1", "mwp1"]
    assert naming.map_columns(names, 2) == ["s6mwp2", "mwp2"]
    assert naming.map_columns(names, 3) == []


def test_native_files_of_maps_of_any_width():
    assert naming.native_paths(Path("mri/s7.5mwp1a.nii"))["gm"].name == "p1a.nii"


@pytest.mark.parametrize(
    ("value", "fits"),
    [(6, True), (7.5, True), (0.1, True), (50, True), (0, False), (-6, False), (6.001, False), (51, False),
     (float("nan"), False), (float("inf"), False), ("6", False), (None, False)],
)  # fmt: skip
def test_widths_that_fit_into_names(value, fits):
    assert naming.is_fwhm(value) == fits
    if fits:
        assert naming.fwhm_of(naming.smoothed_kind(value, 1)) == value


def test_maps_of_hypointensities_have_cat12_s_number_and_bids_names(tmp_path):
    scan = naming.Scan(Path("sub-01_T1w.nii.gz"), "sub-01_T1w", "sub-01")
    for kind in ("mwp7", "s6mwp7", "s7.5mwp7"):
        assert naming.is_map_column(kind)
        assert kind in naming.output_kinds((6.0, 7.5), has_wmh=True)
        assert kind not in naming.output_kinds((6.0, 7.5))
        for names in naming.NAME_STYLES:
            path = naming.output_path(tmp_path, scan, kind, names)
            stem, number, is_smoothed = naming.parse_map_name(path.name)
            assert (naming.split_ids(stem)[0], number, is_smoothed) == ("sub-01", 7, kind != "mwp7")
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "mwp7":
                path.touch()
    assert naming.map_columns(["mwp7", "s6mwp7", "mwp1"], 7) == ["s6mwp7", "mwp7"]
    assert len(naming.find_maps(tmp_path / "sub-01", 7, smoothed=False)) == 1
    assert not naming.find_maps(tmp_path, 1)
    native = naming.native_paths(Path("mri/mwp7sub-01_T1w.nii.gz"))
    assert native["wmh"].name == "p7sub-01_T1w.nii.gz"
