"""Command lines of what the page asks for: the same for the child process and for the eye."""

from __future__ import annotations

import shlex
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vbmstat.errors import VbmstatError
from vbmstat.glm.spec import ModelSpec
from vbmstat.image.headers import IMAGE_SUFFIXES
from vbmstat.report.model_folder import Model
from vbmstat.report.results import ATLAS, folder_name
from vbmstat.roi.atlas import SOURCES, TRACTS
from vbmstat.tables.cohort import closest
from vbmstat.tables.selection import EXCLUSIONS
from vbmstat.ui.study import Study

# Options that the page may give, as the command line spells them: none that names a path outside the folder
_OPTIONS: dict[str, tuple[str, ...]] = {
    "preprocess": (
        "engine", "fwhm", "longitudinal", "model", "wmh", "outputs", "voxel_size", "jobs", "memory", "force",
    ),
    "glm": (
        "level", "repeats", "fraction", "seed", "inference", "permutations", "cluster_threshold", "one_sided",
        "variance", "fwhm", "tiv", "weights", "missing", "where", "blocks", "svc", "atlas", "random", "report",
    ),
    "roi": ("atlas", "where"),
    "report": (),
}  # fmt: skip
_FLAGS = ("longitudinal", "wmh", "force", "one_sided", "report")  # take no value: a text would be a word of its own
_LONGEST, _LARGEST = 10_000, 1e15  # letters of a text, number
_OWN = {"glm": ("formula", "contrasts"), "report": ("folder",)}


def arguments(study: Study, command: str, options: Mapping[str, Any]) -> list[str]:
    """Arguments of ``vbmstat`` for what the page asks.

    Parameters
    ----------
    study : Study
        The folder.
    command : str
        ``preprocess``, ``glm``, ``roi`` or ``report``.
    options : mapping
        By the names of the command line without dashes; lists are repeated (`inference`: joined with commas), None and
        False are left out. Of glm also `formula` and `contrasts`, a mapping of names to texts; of report `folder`.

    Raises
    ------
    VbmstatError
        If the command or an option is unknown, or a value has no place on a command line.
    """
    if command not in _OPTIONS:
        msg = f"command {command!r}: expected one of {', '.join(_OPTIONS)}"
        raise VbmstatError(msg)
    known = (*_OPTIONS[command], *_OWN.get(command, ()))
    unknown = next((name for name in options if name not in known), None)
    if unknown is not None:
        msg = f"{command} has no option {unknown!r} here (nearest {closest(unknown, known) or 'none'})"
        raise VbmstatError(msg)
    for text in _texts(options):
        if len(text) > _LONGEST or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
            msg = f"{text[:60]!r}: expected at most {_LONGEST:,} letters on one line"
            raise VbmstatError(msg)
    given = {name: value for name in _OPTIONS[command] if (value := options.get(name)) or value == 0}
    given = {name: value for name, value in given.items() if value is not False}
    wrong = next((name for name, value in given.items() if (name in _FLAGS) != (value is True)), None)
    if wrong is not None:
        expected = "true or false" if wrong in _FLAGS else "a text or a number"
        msg = f"--{wrong.replace('_', '-')}: expected {expected}, got {given[wrong]!r:.60}"
        raise VbmstatError(msg)
    if given.get("atlas", ATLAS) not in (*SOURCES, TRACTS, "none"):
        given["atlas"] = str(study.path(str(given["atlas"])))
    if "svc" in given:
        volumes = given["svc"] if isinstance(given["svc"], list) else [given["svc"]]
        given["svc"] = [str(study.path(one)) if str(one).endswith(IMAGE_SUFFIXES) else one for one in volumes]
    return [command, *_start(study, command, options), *(word for pair in given.items() for word in _words(*pair))]


def command_line(given: list[str]) -> str:
    """What to type for the same."""
    return shlex.join(["vbmstat", *given])


def result_folder(study: Study, options: Mapping[str, Any]) -> str:
    """Where glm puts the results of these options, relative to the folder."""
    fwhm, level = options.get("fwhm"), str(options.get("level") or "voxel")
    try:
        fwhm_mm = None if fwhm is None else float(fwhm)
    except (TypeError, ValueError, OverflowError) as error:
        msg = f"--fwhm: expected a number of mm, got {fwhm!r:.60}"
        raise VbmstatError(msg) from error
    name = folder_name(str(options["formula"]), level, fwhm_mm, str(options.get("atlas") or ATLAS))
    return study.relative(study.run / "glm" / name)


def fitted_arguments(model: Model, run: Path) -> list[str]:
    """Arguments of ``vbmstat glm`` that fitted a model, with the names of its files; `run` holds its table."""
    record = model.record
    spec = ModelSpec.from_record(record["spec"], lambda name, _: Path(name))
    table, maps = (record.get("data") or {}).get("table"), (record.get("data") or {}).get("maps")
    words = ["glm", spec.formula]
    words += ["--cohort", str(run / table["file"])] if table else []
    words += ["--maps", maps["folder"]] if isinstance(maps, Mapping) else []
    given = spec.contrasts
    texts = contrast_texts(given) if isinstance(given, Mapping) else [str(one) for one in given or ()]
    words += [word for text in texts for word in ("--contrast", text)]
    for keyword in spec.changed():
        value = spec.value(keyword)
        if keyword == "exclusions" or (keyword == "exclude" and all(str(one).endswith(EXCLUSIONS) for one in value)):
            continue  # resolved: honoured by default
        option = {"fwhm_mm": "fwhm", "tables": "participants"}.get(keyword, keyword)
        words += _words(option, list(value) if isinstance(value, tuple) else value)
    level = str(record.get("level", "voxel"))
    words += [] if level == "voxel" else ["--level", level, "--atlas", str(record.get("atlas"))]
    return words + (["--random", str(record["random"])] if record.get("random") else [])


def contrast_texts(contrasts: Any) -> list[str]:
    """Contrasts by name as the command line has them."""
    if not isinstance(contrasts or {}, Mapping):
        msg = "contrasts: expected names with their texts"
        raise VbmstatError(msg)
    texts = []
    for name, text in dict(contrasts or {}).items():
        if not str(text).strip() or str(text).strip().endswith(".json"):
            msg = f"contrast {name!r}: expected a column, expression or weights, got {text!r}"
            raise VbmstatError(msg)
        texts.append(str(text) if name in ("", text) else f"{name} = {text}")
    return texts


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for one in [*value, *value.values()] if isinstance(value, Mapping) else value:
            yield from _texts(one)


def _start(study: Study, command: str, options: Mapping[str, Any]) -> list[str]:
    """What a command is about: its formula, folder or table."""
    if command == "report":
        return [str(study.path(str(options.get("folder") or study.relative(study.run))))]
    if command == "roi":
        return ["--cohort", str(study.table)]
    if command == "preprocess":
        if study.run == study.root:
            msg = (
                f"{study.root}: output of preprocess; start vbmstat ui with the folder of the scans to preprocess more"
            )
            raise VbmstatError(msg)
        return [str(study.root), "--out", str(study.run)]
    formula = str(options.get("formula") or "").strip()
    if "~" not in formula or formula.startswith("-"):
        msg = f"formula {formula!r}: expected maps and covariates, such as 'gm ~ age + sex + tiv'"
        raise VbmstatError(msg)
    texts = contrast_texts(options.get("contrasts"))
    return [formula, "--cohort", str(study.table), *(word for text in texts for word in ("--contrast", text))]


def _words(name: str, value: Any) -> list[str]:
    """An option with its value, or several times."""
    option = f"--{name.replace('_', '-')}"
    if value is True:
        return [option]
    values = value if isinstance(value, list) else [value]
    are = [isinstance(one, str) or (isinstance(one, int | float) and not isinstance(one, bool) and abs(one) < _LARGEST)
           for one in values]  # fmt: skip
    if not all(are):
        msg = f"{option}: expected a text or a number, got {value!r:.60}"
        raise VbmstatError(msg)
    texts = [f"{one:g}" if isinstance(one, float) else str(one) for one in values]
    texts = [",".join(texts)] if name == "inference" else texts
    return [word for text in texts for word in (option, text)]
