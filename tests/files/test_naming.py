"""Names of scans and of their outputs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vbmstat.errors import ScanError
from vbmstat.files import map_kinds, map_names, naming
from vbmstat.files.outputs import OUTPUTS, output_kinds

KINDS = output_kinds((4.0, 6.0, 7.5), outputs=OUTPUTS)


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


def test_map_columns_are_in_order_of_width_with_the_unsmoothed_last():
    names = ["age", "mwp1", "s8mwp1", "s12mwp1", "s7.5mwp1", "s6mwp2", "mwp2", "smwp1", "qc_mwp1", "wp1"]
    assert map_kinds.map_columns(names, 1) == ["s7.5mwp1", "s8mwp1", "s12mwp1", "mwp1"]
    assert map_kinds.map_columns(names, 2) == ["s6mwp2", "mwp2"]
    assert map_kinds.map_columns(names, 3) == []


def test_native_files_of_maps_of_any_width():
    assert naming.native_paths(Path("mri/s7.5mwp1a.nii"))["gm"].name == "p1a.nii"


@pytest.mark.parametrize(
    ("value", "fits"),
    [(6, True), (7.5, True), (0.1, True), (50, True), (0, False), (-6, False), (6.001, False), (51, False),
     (float("nan"), False), (float("inf"), False), ("6", False), (None, False)],
)  # fmt: skip
def test_widths_that_fit_into_names(value, fits):
    assert map_kinds.is_fwhm(value) == fits
    if fits:
        assert map_kinds.fwhm_of(map_kinds.smoothed_kind(value, 1)) == value


def test_maps_of_hypointensities_have_cat12_s_number_and_bids_names(tmp_path):
    scan = naming.Scan(Path("sub-01_T1w.nii.gz"), "sub-01_T1w", "sub-01")
    for kind in ("mwp7", "s6mwp7", "s7.5mwp7"):
        assert map_kinds.is_map_column(kind)
        assert kind in output_kinds((6.0, 7.5), has_wmh=True)
        assert kind not in output_kinds((6.0, 7.5))
        for names in naming.NAME_STYLES:
            path = naming.output_path(tmp_path, scan, kind, names)
            stem, number, fwhm_mm = map_names.parse_map_name(path.name)
            assert (naming.split_ids(stem)[0], number, fwhm_mm) == ("sub-01", 7, map_kinds.fwhm_of(kind) or 0)
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "mwp7":
                path.touch()
    assert map_kinds.map_columns(["mwp7", "s6mwp7", "mwp1"], 7) == ["s6mwp7", "mwp7"]
    assert len(map_names.find_maps(tmp_path / "sub-01", 7, smoothed=False)) == 1
    assert not map_names.find_maps(tmp_path, 1)
    native = naming.native_paths(Path("mri/mwp7sub-01_T1w.nii.gz"))
    assert native["wmh"].name == "p7sub-01_T1w.nii.gz"


@pytest.mark.parametrize("kind", ["mwp1r", "mwmwp1r", "s6mwp2r", "s7.5mwmwp2r", "mwmwp3r", "mwp7r"])
def test_maps_of_time_points_have_cat12_s_names_and_are_found_again(tmp_path, kind):
    scan = naming.Scan(Path("x"), "sub-01_ses-2_T1w", "sub-01", "ses-2")
    assert map_kinds.is_map_column(kind)
    model = "ageing" if "mwmw" in kind else "plasticity"
    for names in naming.NAME_STYLES:
        path = naming.output_path(tmp_path, scan, kind, names)
        assert path.name.startswith(kind) or names == "bids"
        stem, number, fwhm_mm = map_names.parse_map_name(path.name)
        assert (naming.split_ids(stem), number) == (("sub-01", "ses-2"), map_kinds.parse_kind(kind).number)
        assert (fwhm_mm or None, map_names.longitudinal_model(path.name)) == (map_kinds.fwhm_of(kind), model)
    assert naming.output_path(Path(), scan, "s7.5mwmwp1r", "bids").name == (
        "sub-01_ses-2_space-MNI152NLin2009cAsym_label-GM_desc-modulatedAgeingS7p5_probseg.nii.gz"
    )


def test_columns_of_a_tissue_hold_all_its_models():
    names = ["mwp1", "mwmwp1r", "s8mwp1r", "s6mwmwp1r", "mwp2r", "mwmwp1", "s6mwpr"]
    assert map_kinds.map_columns(names, 1) == ["s6mwmwp1r", "s8mwp1r", "mwp1", "mwmwp1r"]


@pytest.mark.parametrize("native", ["p1sub-01_T1w.nii.gz", "p1rsub-01_T1w.nii.gz"])  # ours and CAT12's
def test_native_files_of_time_points(tmp_path, native):
    (tmp_path / native).touch()
    for kind in ("mwp1r", "s6mwmwp1r"):
        assert naming.native_paths(tmp_path / f"{kind}sub-01_T1w.nii.gz")["gm"].name == native
