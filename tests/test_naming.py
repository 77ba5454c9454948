"""Names: which scans are found, where outputs go, what other programs call their maps."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from vbmstat import naming
from vbmstat.errors import ScanError


def make(folder: Path, *names: str) -> Path:
    """Empty files, and the folder."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


@pytest.fixture
def bids(tmp_path) -> Path:
    return make(
        tmp_path / "bids",
        "dataset_description.json",
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_T2w.nii.gz",
        "sub-01/func/sub-01_task-rest_bold.nii.gz",
        "sub-02/ses-1/anat/sub-02_ses-1_T1w.nii",
        "sub-02/ses-2/anat/sub-02_ses-2_run-1_T1w.nii.gz",
        "sub-02/ses-2/anat/sub-02_ses-2_run-2_T1w.nii.gz",
        "sub-02/ses-2/anat/sub-02_ses-2_run-2_T1w.json",
        "derivatives/fmriprep/sub-01/anat/sub-01_desc-preproc_T1w.nii.gz",
        "derivatives/vbmstat/mri/s6mwp1sub-01_T1w.nii.gz",
        "sourcedata/sub-01/anat/sub-01_T1w.nii.gz",
    )


def found(*inputs) -> list[str]:
    return [scan.stem for scan in naming.find_scans(inputs)]


EVERY_SCAN = ["sub-01_T1w", "sub-02_ses-1_T1w", "sub-02_ses-2_run-1_T1w", "sub-02_ses-2_run-2_T1w"]


def test_bids_folder(bids):
    assert found(bids) == EVERY_SCAN
    scans = naming.find_scans([bids])
    assert [(scan.participant_id, scan.session_id) for scan in scans] == [
        ("sub-01", ""), ("sub-02", "ses-1"), ("sub-02", "ses-2"), ("sub-02", "ses-2"),
    ]  # fmt: skip
    assert all(scan.path.is_absolute() and scan.path.is_file() for scan in scans)


def test_bids_folder_without_description(bids):
    (bids / "dataset_description.json").unlink()
    assert found(bids) == EVERY_SCAN


def test_trailing_slash_and_relative_path(bids, monkeypatch):
    assert found(f"{bids}/") == EVERY_SCAN
    monkeypatch.chdir(bids)
    assert found(".") == found("./") == EVERY_SCAN


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ("# nothing\n\n", [0, 1, 2, 3]),
        ("sub-02/\n", [0]),
        ("sub-02\n", [0]),
        ("*_run-2_*\n", [0, 1, 2]),
        ("sub-02/ses-2/**\n", [0, 1]),
        ("/sub-0*/ses-1\n", [0, 2, 3]),
        ("**/anat\n!sub-01_T1w.nii.gz\n", [0]),
        ("sub-0? \n", []),
        ("anat/sub-01_T1w.nii.gz\n", [0, 1, 2, 3]),  # relative to the dataset: no such file
    ],
)
def test_bidsignore(bids, rules, kept):
    (bids / ".bidsignore").write_text(rules)
    if kept:
        assert found(bids) == [EVERY_SCAN[n] for n in kept]
    else:
        with pytest.raises(ScanError, match="found no T1w image"):
            found(bids)


def test_folder_of_images_and_single_files(tmp_path):
    folder = make(tmp_path, "b.nii", "a.nii.gz", "c.mgz", ".hidden.nii", "notes.txt", "deeper/d.nii")
    assert found(folder) == ["a", "b", "c"]
    assert found(folder / "c.mgz", folder / "deeper" / "d.nii", folder / "c.mgz") == ["c", "d"]
    assert naming.find_scans([folder])[0].participant_id == "a"


def test_equal_names_get_their_folder_in_front(tmp_path):
    make(tmp_path, "berlin/sub-01_T1w.nii", "oslo/sub-01_T1w.nii", "oslo/sub-02_T1w.nii")
    assert found(tmp_path / "berlin", tmp_path / "oslo") == ["berlin_sub-01_T1w", "oslo_sub-01_T1w", "sub-02_T1w"]
    assert naming.split_ids("oslo_sub-01_T1w") == ("sub-01", "")


def test_names_that_cannot_be_told_apart(tmp_path):
    make(tmp_path, "x.nii", "x.nii.gz")
    with pytest.raises(ScanError, match=r"would write the same output names: .*x.nii, .*x.nii.gz; rename"):
        found(tmp_path)


def test_nothing_to_do(tmp_path):
    with pytest.raises(ScanError, match="absent: no such file or folder"):
        found(tmp_path / "absent")
    with pytest.raises(ScanError, match="found no T1w image; expected a BIDS folder"):
        found(tmp_path)
    with pytest.raises(ScanError, match="nothing given"):
        found()


@pytest.mark.timeout(20)
def test_a_hundred_thousand_scans_are_no_burden(monkeypatch):
    paths = [Path(f"/data/sub-{n:06d}_T1w.nii.gz") for n in range(100_000)]
    monkeypatch.setattr(naming, "_images_in", lambda _: paths)
    assert len(naming.find_scans(["/tmp"])) == len(paths)  # noqa: S108


def test_every_output_has_a_path_of_its_own(tmp_path):
    stems = ["sub-01_T1w", "sub-01_run-2_T1w", "sub-01_ses-1_T1w", "sub-01_ses-2_T1w", "chris", "sub-02_acq-a_T1w"]
    scans = [naming.Scan(Path(stem), stem, *naming.split_ids(stem)) for stem in stems]
    for names in naming.NAME_STYLES:
        paths = [naming.output_path(tmp_path, scan, kind, names) for scan in scans for kind in naming.OUTPUT_KINDS]
        assert len(set(paths)) == len(stems) * len(naming.OUTPUT_KINDS)


def test_bids_derivative_names(tmp_path):
    scan = naming.Scan(Path("x"), "sub-01_ses-2_T1w", "sub-01", "ses-2")
    assert naming.output_path(tmp_path, scan, "p1", "bids") == (
        tmp_path / "sub-01" / "ses-2" / "anat" / "sub-01_ses-2_label-GM_probseg.nii.gz"
    )
    plain = naming.Scan(Path("x"), "chris_T1w", "chris_T1w")
    assert naming.output_path(tmp_path, plain, "p1", "bids") == (
        tmp_path / "sub-chrisT1w" / "anat" / "sub-chrisT1w_label-GM_probseg.nii.gz"
    )


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
@pytest.mark.parametrize("kind", ["mwp1", "mwp2", "mwp3", "s6mwp1", "s6mwp2"])
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
