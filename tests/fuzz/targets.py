"""What is fuzzed: readers of files and words from outside, each with a strategy for what it is given.

A target reads one hostile input. It may only succeed or raise a VbmstatError whose message is one line; anything else
is a finding. ``test_readers.py`` runs each a little, ``run.py`` for as long as one likes.
"""

from __future__ import annotations

import gzip
import json
import string
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from hypothesis import strategies as st

from tests import hostile
from vbmstat.batch import derivatives
from vbmstat.batch.collect import People
from vbmstat.batch.manifest import parse_shard
from vbmstat.compare import config as compare_config
from vbmstat.errors import VbmstatError
from vbmstat.files import map_names, naming, runlog, search
from vbmstat.files.outputs import output_kinds
from vbmstat.glm.design.contrast import build_contrasts
from vbmstat.glm.design.formula import split_formula, split_map_term
from vbmstat.glm.design.inflation import variance_inflation
from vbmstat.glm.design.matrix import Design, build_design
from vbmstat.glm.pooled.file import read_sums
from vbmstat.harmonize.model import load_model
from vbmstat.image import io, storage
from vbmstat.maps.pack import open_store, pack_maps
from vbmstat.preproc.spec import PreprocSpec
from vbmstat.roi.atlas import load_atlas
from vbmstat.simulate import parse_region
from vbmstat.tables import cohort


@dataclass(frozen=True)
class Target:
    """A reader and what it is given."""

    name: str
    given: st.SearchStrategy[Any]
    read: Callable[[Any, Path], object]  # what was drawn, a folder of its own

    def __call__(self, drawn: Any) -> None:
        """Read once; lets through whatever a user should not see."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                self.read(drawn, Path(folder))
            except VbmstatError as error:
                message = str(error)
            else:
                return
        assert "\n" not in message, f"a message of several lines: {message}"
        assert len(message) < 10_000, f"a message of {len(message)} characters"


class Deep(bytes):
    """Many bytes with a short name in reports."""

    def __repr__(self) -> str:
        return f"{bytes(self[:12])!r}… ({len(self)} bytes)"


ODD_NUMBERS = [0, 1, -1, 2, 3, 7, 8, 127, 255, 352, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**63 - 1, np.nan,
               np.inf, 1e-45, 3e38, 1e30, -1e30, 0.5]  # fmt: skip
TEXT = st.text(max_size=60)

# Images: sound files with some bytes of the header changed, cut, packed or not.
_PLAIN = hostile.nifti(hostile.phantom()).to_bytes()
SOUND_IMAGES = {
    "nii": _PLAIN,
    "int16": nib.Nifti1Image(hostile.phantom().astype(np.int16), hostile.AFFINE).to_bytes(),
    "nifti2": nib.Nifti2Image(hostile.phantom(), hostile.AFFINE).to_bytes(),
    "extension": hostile._with_extension(64),
    "mgh": nib.MGHImage(hostile.phantom(), hostile.AFFINE).to_bytes(),
}
with tempfile.TemporaryDirectory() as _folder:
    SOUND_IMAGES["extension"] = SOUND_IMAGES["extension"](Path(_folder)).read_bytes()


def _bytes_of(value: float, kind: str) -> bytes:
    with np.errstate(all="ignore"):
        if kind[0] == "i":
            limits = np.iinfo(kind)
            value = int(min(max(np.nan_to_num(value), limits.min), limits.max))
        return np.array([value]).astype(kind).tobytes()


_FIELD = st.tuples(
    st.sampled_from([*range(0, 352, 2), *range(352, 560, 4)]),
    st.one_of(
        st.binary(min_size=1, max_size=8),
        st.builds(
            _bytes_of,
            st.sampled_from(ODD_NUMBERS),
            st.sampled_from(["i2", "i4", "f4", "i8", "f8"]),
        ),
    ),
    st.booleans(),
)


IMAGES = st.tuples(
    st.sampled_from(sorted(SOUND_IMAGES)), st.lists(_FIELD, max_size=4), st.one_of(st.none(), st.integers(0, 8000)),
    st.booleans(), st.sampled_from([".nii", ".nii.gz", ".mgz", ".mgh", ".hdr", ".img"]),
)  # fmt: skip


def read_image(drawn: tuple[str, list[tuple[int, bytes, bool]], int | None, bool, str], folder: Path) -> None:
    base, edits, length, packed, suffix = drawn
    content = bytearray(SOUND_IMAGES[base])
    for at, value, reverse in edits:
        content[at : at + len(value)] = value[::-1] if reverse else value
    stored = bytes(content)[:length]
    stored = gzip.compress(stored, 1) if packed else stored
    path = folder / f"scan{suffix}"
    path.write_bytes(stored)
    if suffix in (".hdr", ".img"):
        path.with_suffix(".hdr" if suffix == ".img" else ".img").write_bytes(stored)
    _each(lambda: io.read_scan(path), lambda: io.read_grid(path), lambda: io.read_statistic_header(path),
          lambda: io.read_channels(path), lambda: io.read_axcodes(path))  # fmt: skip


def _each(*reads: Callable[[], object]) -> None:
    """All of them, also if an earlier one refuses; then the first refusal."""
    refusals = []
    for read in reads:
        try:
            read()
        except VbmstatError as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]


# Tables: cells of all kinds between separators, or bytes.
_CELL = st.one_of(
    st.sampled_from([
        "sub-01", "sub-02", "01", "n/a", "", "NaN", "1", "-1.5", "1e999", "inf", "0x10", "1_000", "1,5", "١٢", "M", "F",
        '"', '"a', 'a""b', "'", "\\", "\x00", "\ufeff", "a\tb", "participant_id", "session_id", "ses-1", "age", "sex",
        "label", "name", "10", "2", "3", "hemisphere", "region", "left", "=1+1", "#",
    ]),
    st.text(max_size=8), st.floats().map(str), st.integers().map(str),
)  # fmt: skip


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


TABLES = st.tuples(
    st.one_of(
        st.binary(max_size=300),
        st.builds(
            lambda rows, separator, newline: _utf8(newline.join(separator.join(row) for row in rows)),
            st.lists(st.lists(_CELL, max_size=6), max_size=8), st.sampled_from(["\t", ",", ";"]),
            st.sampled_from(["\n", "\r\n", "\r"]),
        ),
        st.builds(
            lambda rows: _utf8("\n".join(["participant_id\tage\tlabel\tname", *("\t".join(row) for row in rows)])),
            st.lists(st.lists(_CELL, min_size=4, max_size=4), max_size=8),
        ),
    ),
    st.sampled_from([".tsv", ".csv", ".xlsx"]),
)  # fmt: skip
_SCANS = pd.DataFrame(
    {"scan": ["a", "b"]},
    index=pd.MultiIndex.from_tuples([("sub-01", ""), ("sub-02", "ses-1")], names=cohort.ID_COLUMNS),
)


def read_table(drawn: tuple[bytes, str], folder: Path) -> None:
    content, suffix = drawn
    path = folder / f"participants{suffix}"
    path.write_bytes(content)
    people = cohort.read_cohort(path)
    _each(lambda: people.paths("s6mwp1"), lambda: cohort.join_participants(_SCANS, people.table, str(path)),
          lambda: cohort.write_cohort(folder / "again.tsv", people))  # fmt: skip


_ATLAS_IMAGE = hostile.nifti(np.random.default_rng(0).integers(0, 4, hostile.SHAPE).astype(np.int16)).to_bytes()


def read_atlas(drawn: tuple[bytes, str], folder: Path) -> None:
    (folder / "own.nii").write_bytes(_ATLAS_IMAGE)
    (folder / "own.tsv").write_bytes(drawn[0])
    load_atlas(folder / "own.nii")


# Formulas and contrasts: words of the language in any order, or any text.
_RNG = np.random.default_rng(0)
PEOPLE = pd.DataFrame({
    "age": _RNG.uniform(20, 80, 12), "sex": list("MF" * 6), "tiv_ml": _RNG.normal(1500, 100, 12),
    "site": list("abcabcabcabc"), "a b": _RNG.normal(size=12), "text": [f"t{n}" for n in range(12)],
    "gappy": [np.nan, *_RNG.normal(size=11)], "zero": np.zeros(12), "id": [f"{n:02d}" for n in range(12)],
    "flag": [True, False] * 6, "when": pd.date_range("2020-01-01", periods=12), "I": _RNG.normal(size=12),
})  # fmt: skip
PEOPLE_IDS = [f"sub-{n:02d}" for n in range(12)]
_WORDS = [
    *map(str, PEOPLE), "tiv", "`a b`", "gm", "~", "+", "-", "*", "/", ":", "**", "^", "|", "%in%", "(", ")", "[", "]",
    "{", "}", ",", "=", "==", "<", ".", "`", '"', "'", "0", "1", "2", "3", "10", "-1", "1e9", "999999999", "1e999",
    "0.5", "df=", "degree=", "bs(", "cr(", "poly(", "center(", "scale(", "log(", "exp(", "sqrt(", "C(", "I(",
    "contr.treatment", "contr.sum(", "map(", "map(wm)", "F(", "__import__('os')", "lambda: 1", "age.values",
    "sex[T.M]", "Intercept", "hashed(", "np.log(", "'a'", "[1,2]", "levels=", "True", "None", "\n", "\x00", "é",
    "bs(age, df=4)", "C(site)", "age:sex", "name = ",
]  # fmt: skip
SENTENCES = st.one_of(
    st.lists(st.sampled_from(_WORDS), max_size=12).map(" ".join),
    st.lists(st.sampled_from(_WORDS), max_size=10).map("".join),
    TEXT,
    st.builds(
        lambda word, n: word * n,
        st.sampled_from(["(", "-", "age+", "I(", "age*", "[", "not ", "age:sex:", "age**2 + "]), st.integers(0, 400),
    ),
)  # fmt: skip


def read_formula(text: str, _: Path) -> None:
    def whole() -> None:
        right, _ = split_map_term(split_formula(text)[1])
        build_design(right, PEOPLE, PEOPLE_IDS)

    _each(whole, lambda: variance_inflation(build_design(text, PEOPLE, PEOPLE_IDS)),
          lambda: build_design(text, PEOPLE, PEOPLE_IDS, missing="drop"))  # fmt: skip


DESIGN: Design = build_design("age + sex + site + bs(tiv, df=4)", PEOPLE, PEOPLE_IDS)
# JSON: any, or a sound object with something else somewhere in it.
_LEAF = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10), st.sampled_from(ODD_NUMBERS)
)
ANY_JSON = st.recursive(
    _LEAF,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)),
    max_leaves=8,
)  # fmt: skip


def _replaced(content: Any, path: tuple[int, ...], value: Any) -> Any:
    """`content` with what lies at some place in it replaced, or taken away."""
    if not path or not isinstance(content, dict | list) or not content:
        return value
    keys = list(content) if isinstance(content, dict) else list(range(len(content)))
    key = keys[path[0] % len(keys)]
    if value == "DELETE" and len(path) == 1:
        return {k: v for k, v in content.items() if k != key} if isinstance(content, dict) else content[:-1]
    new = _replaced(content[key], path[1:], value)
    if isinstance(content, dict):
        return {**content, key: new}
    return [new if position == key else old for position, old in enumerate(content)]


def json_like(sound: Any) -> st.SearchStrategy[bytes]:
    """Bytes of JSON files that begin from a sound one."""
    changed = st.builds(
        lambda place, value: _replaced(sound, tuple(place), value),
        st.lists(st.integers(0, 20), max_size=4), st.one_of(ANY_JSON, st.just("DELETE")),
    )  # fmt: skip
    return st.one_of(
        st.one_of(changed, ANY_JSON).map(lambda content: json.dumps(content).encode()),
        st.binary(max_size=60), st.integers(0, 200_000).map(lambda n: Deep(b"[" * n)), st.just(b"\xef\xbb\xbf{}"),
        st.just(Deep(b'{"a": ' * 100_000)), st.just(Deep(b"9" * 10_000)),
    )  # fmt: skip


CONTRASTS = st.one_of(
    st.lists(SENTENCES, max_size=3),
    json_like({
        "older": "age", "weights": [0, 1, 0, 0, 0, 0, 0, 0, 0], "by name": {"age": 1, "sex[T.M]": -1},
        "F": "F(age, site)",
    }),
)  # fmt: skip


def read_contrasts(drawn: list[str] | bytes, folder: Path) -> None:
    if isinstance(drawn, bytes):
        (folder / "contrasts.json").write_bytes(drawn)
        build_contrasts([str(folder / "contrasts.json")], DESIGN)
    else:
        build_contrasts([text for text in drawn if not text.endswith(".json")], DESIGN)


_SIDECAR = {
    "scan": "sub-01_T1w", "command": "preprocess", "engine": "classic", "parameters": {},
    "spec": PreprocSpec(device="cpu").record(),
    "versions": {"vbmstat": "0.1.0", "python": "3.11"}, "row": {"tiv_ml": 1500.0, "gm_ml": 600.0, "qc_warnings": None},
    "affine": {"template_mm_to_scan_mm": np.eye(4).tolist()}, "inputs": [{"path": "a.nii", "sha256": "0"}],
}  # fmt: skip


def read_sidecar(content: bytes, folder: Path) -> None:
    scan = naming.Scan(Path("sub-01_T1w.nii.gz"), "sub-01_T1w", "sub-01")
    for kind in output_kinds((6.0,)):
        storage.write_text(naming.output_path(folder, scan, kind), "")
    naming.output_path(folder, scan, "sidecar").write_bytes(content)
    (folder / "logs").mkdir()
    (folder / "logs" / "status.jsonl").write_bytes(content + b"\n" + content)
    (folder / "participants.json").write_bytes(content)
    derivatives.completed_scan(folder, scan, "cat12", {"engine": "classic", "spec": PreprocSpec().record()})
    now = derivatives.CompletedScan({}, (6.0,), "classic", "0")
    derivatives.stale_files(folder, scan, "cat12", now)
    derivatives.completed_scans(folder, "cat12")
    runlog.scan_times(folder)
    People(pd.DataFrame(), str(folder / "participants.tsv")).descriptions()


def _sound_store() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        paths = {}
        for number in range(3):
            paths[f"sub-{number}"] = folder / f"{number}.nii"
            nib.save(hostile.nifti(_RNG.random(hostile.SHAPE).astype(np.float32) + 0.2), paths[f"sub-{number}"])
        pack_maps(paths, folder / "store")
        return {path.name: path.read_bytes() for path in (folder / "store").iterdir()}


STORE = _sound_store()
_CHANGES = st.lists(st.tuples(st.integers(0, 140), st.binary(min_size=1, max_size=8)), max_size=3)
STORES = st.one_of(
    st.tuples(st.just("manifest.json"), json_like(json.loads(STORE["manifest.json"]))),
    st.tuples(
        st.sampled_from(["voxels.npy", "mask-0001.npy"]),
        st.one_of(_CHANGES, st.binary(max_size=20), st.sampled_from([b"PK\x03\x04", b"\x93NUMPY\x01\x00", b""])),
    ),
)  # fmt: skip


def _changed(sound: bytes, drawn: bytes | list[tuple[int, bytes]]) -> bytes:
    if isinstance(drawn, bytes):
        return drawn
    content = bytearray(sound)
    for at, value in drawn:
        content[at : at + len(value)] = value
    return bytes(content)


def read_store(drawn: tuple[str, bytes | list[tuple[int, bytes]]], folder: Path) -> None:
    name, change = drawn
    for other, content in STORE.items():
        (folder / other).write_bytes(content)
    (folder / name).write_bytes(_changed(STORE[name], change))
    open_store(folder)


def _sound_model() -> dict[str, np.ndarray]:
    about = {"format": 1, "sites": ["a", "b"], "preserve": "", "columns": [], "covariates": {}, "features": ["x"]}
    arrays = {name: np.zeros((2, 1)) for name in ("gamma", "delta")}
    return {
        "about": np.array(json.dumps(about)),
        "mean": np.zeros(1),
        "slopes": np.zeros((0, 1)),
        "sd": np.ones(1),
        **arrays,
    }


MODELS = st.one_of(
    json_like(json.loads(str(_sound_model()["about"]))), st.sampled_from([b"PK\x03\x04", b"PK\x05\x06" + bytes(18)])
)


def read_model(drawn: bytes, folder: Path) -> None:
    arrays = _sound_model()
    stream = BytesIO()
    np.savez(stream, **{**arrays, "about": np.array(drawn.decode("utf-8", "replace"))})
    (folder / "model.npz").write_bytes(stream.getvalue())
    (folder / "raw.npz").write_bytes(drawn)
    _each(lambda: load_model(folder / "model.npz"), lambda: load_model(folder / "raw.npz"))


_SITE = {
    "format": 1, "response": "gm", "formula": "1", "columns": ["Intercept"], "terms": {"Intercept": ["Intercept"]},
    "references": [], "n_scans": 20, "weights": None, "fwhm_mm": 6,
    "mask": {"threshold": 0.1, "share": 1.0, "image": False}, "made_from": {"engine": ["classic"]},
    "scans_sha256": "0", "version": "0.1.0", "shape": [2, 2, 2], "axcodes": "LAS",
}  # fmt: skip
SUMS = st.one_of(json_like(_SITE), st.sampled_from([b"PK\x03\x04", b"PK\x05\x06" + bytes(18)]))


def read_site(drawn: bytes, folder: Path) -> None:
    one, voxels = np.ones((1, 1)), np.arange(3)
    arrays = {"factor": one, "constant": one[0], "coordinates": np.ones((1, 3)), "residual_squares": np.ones(3)}
    with (folder / "a.vbm").open("wb") as stream:
        text = np.array(drawn.decode("utf-8", "replace"))
        np.savez(stream, about=text, affine=np.eye(4), voxel_index=voxels, **arrays)
    (folder / "raw.vbm").write_bytes(drawn)
    _each(lambda: read_sums(folder / "a.vbm"), lambda: read_sums(folder / "raw.vbm"))


_PLAN = """
out = "comparison"
tissues = ["gm"]
fwhm_mm = 6.0
[glm]
repetitions = 100
[cohorts.one]
ours = "a"
cat12 = "b"
[variables.age]
formula = "age + sex"
contrast = "age"
"""
PLANS = st.one_of(
    st.lists(st.sampled_from([
        *_PLAN.splitlines(), "pool = ['one']", "[cohorts]", "x = 1", "[[cohorts.one]]", "age = 1", "formula = 3",
    ])).map("\n".join).map(str.encode),
    st.binary(max_size=60), st.integers(0, 100_000).map(lambda n: Deep(b"a = " + b"[" * n)),
)  # fmt: skip


def read_plan(content: bytes, folder: Path) -> None:
    for name in "ab":
        (folder / name).mkdir()
    (folder / "plan.toml").write_bytes(content)
    compare_config.read_plan(folder / "plan.toml")


def read_words(text: str, _: Path) -> None:
    """Small arguments of the command line, and names of files."""
    _each(lambda: parse_region(text), lambda: parse_shard(text))
    map_names.parse_map_name(text)
    naming.split_ids(text)


_NAMES = st.lists(
    st.one_of(
        st.text(alphabet=st.characters(blacklist_characters="/\x00", blacklist_categories=["Cs"]), min_size=1,
                max_size=30),
        st.lists(
            st.sampled_from(["sub-1", "ses-2", "run-3", "T1w", "part-phase", "_", ".nii", ".nii.gz", ".gz", "-"]),
            min_size=1,
        ).map("".join),
    ),
    max_size=6,
)  # fmt: skip


def find_inputs(drawn: tuple[list[str], bytes, bool], folder: Path) -> None:
    names, rules, bids = drawn
    place = folder / "sub-1" / "anat" if bids else folder
    place.mkdir(parents=True, exist_ok=True)
    (folder / ".bidsignore").write_bytes(rules)
    for name in names:
        if name not in (".", "..", ".bidsignore") and len(name.encode()) < 250:
            (place / name).write_bytes(b"")
    found = search.find_inputs([folder])
    for names_style in naming.NAME_STYLES:
        naming.check_output_names(found.scans, names_style)
    naming.distinct_ids(found.scans)


TARGETS = [
    Target("image headers", IMAGES, read_image),
    Target("participants tables", TABLES, read_table),
    Target("atlas tables", TABLES, read_atlas),
    Target("formulas", SENTENCES, read_formula),
    Target("contrasts", CONTRASTS, read_contrasts),
    Target("JSON beside scans", json_like(_SIDECAR), read_sidecar),
    Target("packed stores", STORES, read_store),
    Target("harmonization models", MODELS, read_model),
    Target("sums of sites", SUMS, read_site),
    Target("comparison plans", PLANS, read_plan),
    Target(
        "words",
        st.one_of(
            TEXT, st.lists(st.sampled_from([*string.digits, "/", ",", "-", ".", "e9", "sub-", "mwp1"])).map("".join)
        ),
        read_words,
    ),
    Target(
        "folders",
        st.tuples(
            _NAMES, st.one_of(st.binary(max_size=40), TEXT.map(lambda t: t.encode("utf-8", "replace"))), st.booleans()
        ),
        find_inputs,
    ),
]
