"""The plan of a comparison: cohorts, pipelines and variables from a TOML file, checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vbmstat.errors import TableError
from vbmstat.files.filenames import is_reserved, same_file_key
from vbmstat.files.map_kinds import TISSUE_NUMBER
from vbmstat.tables.cohort import closest
from vbmstat.tables.toml import read_toml

TISSUES = {tissue: TISSUE_NUMBER[tissue] for tissue in ("gm", "wm")}
GLM_OPTIONS = ("repeats", "fraction", "seed", "stratify", "mask_threshold", "mask_share", "variance",
               "allow_mixed")  # fmt: skip
_TOP = ("out", "tissues", "fwhm_mm", "atlas", "glm", "cohorts", "variables")
_COHORT = ("participants", "pipelines", "pool", "variables")
_VARIABLE = ("formula", "contrast", "paper")


@dataclass(frozen=True)
class CohortPlan:
    """A cohort that several pipelines have preprocessed, or several cohorts pooled."""

    name: str  # key in the file
    pipelines: Mapping[str, Path]  # output folders; the first is the reference. Empty for a pooled cohort
    participants: Path | None  # covariates; by default the reference's ``cohort.tsv``
    pool: tuple[str, ...]
    variables: tuple[str, ...]


@dataclass(frozen=True)
class Variable:
    """An effect of interest."""

    name: str  # key in the file
    formula: str  # right-hand side, for example ``age + sex + tiv``
    contrast: str  # a t-contrast in that formula
    paper: str  # its name in the paper (age, sex, bmi, education, diagnosis, iq); empty for others


@dataclass(frozen=True)
class ComparisonPlan:
    """The plan of ``vbmstat compare-cohorts``."""

    out: Path
    tissues: tuple[str, ...]  # gm, wm, or both
    fwhm_mm: float  # maps without this smoothing in their name are smoothed first
    atlas: str  # atlas of the region volumes: a name, or a label image
    # by name, in the order of the file
    cohorts: Mapping[str, CohortPlan]
    variables: Mapping[str, Variable]
    glm: Mapping[str, Any] = field(default_factory=dict)  # options of :func:`vbmstat.glm.analysis.fit_glm`


def read_plan(path: Path) -> ComparisonPlan:
    """Read and check a plan; paths in it are relative to the file.

    Raises
    ------
    TableError
        If the file cannot be read, a key is unknown or missing, a folder does not exist, or a pooled cohort names a
        cohort that is not in the file.
    """
    content = read_toml(path, "a TOML file with [cohorts.NAME] and [variables.NAME]")
    where = str(path)
    _check_keys(content, _TOP, where)
    for name in ("cohorts", "variables"):
        if not isinstance(content.get(name), dict) or not content[name]:
            msg = f"{where}: expected at least one table [{name}.NAME]"
            raise TableError(msg)
    _check_names(content, where)
    variables = {name: _variable(name, entry, where) for name, entry in content["variables"].items()}
    cohorts = {
        name: _cohort(name, entry, path.parent, tuple(variables), where) for name, entry in content["cohorts"].items()
    }
    for cohort in cohorts.values():
        absent = [name for name in cohort.pool if name not in cohorts or cohorts[name].pool]
        if absent:
            msg = f"{where}: [cohorts.{cohort.name}] pool names {absent[0]!r}, which is not a cohort with pipelines"
            raise TableError(msg)
    tissues = tuple(_texts(content.get("tissues", list(TISSUES)), f"{where}: tissues"))
    for tissue in tissues:
        if tissue not in TISSUES:
            msg = f"{where}: tissues has {tissue!r}; expected gm and wm"
            raise TableError(msg)
    glm = content.get("glm", {})
    _check_keys(glm, GLM_OPTIONS, f"{where} [glm]")
    fwhm = content.get("fwhm_mm", 6.0)
    if not isinstance(fwhm, int | float) or isinstance(fwhm, bool) or fwhm < 0:
        msg = f"{where}: fwhm_mm is {fwhm!r}; expected mm"
        raise TableError(msg)
    out, atlas = (_text(content.get(k, d), f"{where}: {k}") for k, d in (("out", "comparison"), ("atlas", "lpba40")))
    if atlas.endswith((".nii", ".nii.gz")):
        atlas = str(path.parent / atlas)
    return ComparisonPlan(path.parent / out, tissues, float(fwhm), atlas, cohorts, variables, glm)


def _check_names(content: Mapping[str, Any], where: str) -> None:
    """Refuse names of cohorts, variables and pipelines that would leave the folder or clash as parts of paths."""
    pipelines = [entry.get("pipelines") for entry in content["cohorts"].values() if isinstance(entry, dict)]
    groups = [content["cohorts"], content["variables"], *(entry for entry in pipelines if isinstance(entry, dict))]
    names = [name for group in groups for name in group]
    bad = [name for name in names if name.startswith(".") or any(sign in name for sign in "/\\\0") or is_reserved(name)]
    if bad:
        why = "expected no slash, no dot at its start or end, and no device name of Windows"
        msg = f"{where}: the name {bad[0]!r} becomes part of file names; {why}"
        raise TableError(msg)
    for group in groups:
        by_key: dict[str, str] = {}
        for name in group:
            other = by_key.setdefault(same_file_key(name), name)
            if other != name:
                msg = f"{where}: {other!r} and {name!r} are the same file name if case is ignored; rename one"
                raise TableError(msg)


def _variable(name: str, entry: Any, where: str) -> Variable:
    at = f"{where} [variables.{name}]"
    _check_keys(entry, _VARIABLE, at)
    for key in ("formula", "contrast"):
        if key not in entry:
            msg = f"{at}: no {key}; for example formula = 'age + sex + tiv', contrast = 'age'"
            raise TableError(msg)
    formula = _text(entry["formula"], f"{at}: formula")
    if "~" in formula:
        msg = f"{at}: expected only the right-hand side, got {formula!r}; the left side is each tissue"
        raise TableError(msg)
    return Variable(name, formula, _text(entry["contrast"], f"{at}: contrast"), str(entry.get("paper", "")).lower())


def _cohort(name: str, entry: Any, folder: Path, variables: tuple[str, ...], where: str) -> CohortPlan:
    at = f"{where} [cohorts.{name}]"
    _check_keys(entry, _COHORT, at)
    chosen = tuple(_texts(entry.get("variables", list(variables)), f"{at}: variables"))
    unknown = [variable for variable in chosen if variable not in variables]
    if unknown:
        near = closest(unknown[0], variables) or "none"
        msg = f"{at}: variables has {unknown[0]!r}, which is not in [variables] (nearest {near})"
        raise TableError(msg)
    pool = tuple(_texts(entry.get("pool", []), f"{at}: pool"))
    pipelines = entry.get("pipelines", {})
    if bool(pool) == bool(pipelines):
        msg = f"{at}: expected either pipelines (name = folder, two or more) or pool (names of cohorts)"
        raise TableError(msg)
    if pool:
        return CohortPlan(name, {}, None, pool, chosen)
    if not isinstance(pipelines, dict) or len(pipelines) < 2:
        msg = f"{at}: expected two or more pipelines (name = folder), got {pipelines!r}"
        raise TableError(msg)
    folders = {key: folder / _text(value, f"{at}: pipelines.{key}") for key, value in pipelines.items()}
    for key, path in folders.items():
        if not path.is_dir():
            msg = f"{at}: no folder {path} of pipeline {key}; preprocess first, or correct the path"
            raise TableError(msg)
    participants = entry.get("participants")
    table = None if participants is None else folder / _text(participants, f"{at}: participants")
    if table is not None and not table.is_file():
        msg = f"{at}: no table {table} of participants"
        raise TableError(msg)
    return CohortPlan(name, folders, table, (), chosen)


def _check_keys(entry: Any, known: Iterable[str], where: str) -> None:
    if not isinstance(entry, dict):
        msg = f"{where}: expected a table, got {entry!r}"
        raise TableError(msg)
    unknown = [key for key in entry if key not in known]
    if unknown:
        msg = f"{where}: unknown key {unknown[0]!r} (nearest {closest(unknown[0], known) or 'none'})"
        raise TableError(msg)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        msg = f"{where}: expected text, got {value!r}"
        raise TableError(msg)
    return value


def _texts(value: Any, where: str) -> list[str]:
    if not isinstance(value, list):
        msg = f"{where}: expected a list of text, got {value!r}"
        raise TableError(msg)
    return [_text(entry, where) for entry in value]
