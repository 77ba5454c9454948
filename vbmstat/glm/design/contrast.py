"""Contrasts: from column names, expressions, terms and JSON files to weights; whether they can be estimated."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vbmstat.errors import DesignError
from vbmstat.files.filenames import normalized, unique_names
from vbmstat.glm.design.matrix import INTERCEPT, RANK_TOLERANCE, Design
from vbmstat.image import storage
from vbmstat.tables.cohort import closest

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_VECTOR = re.compile(rf"\[?\s*{_NUMBER}(?:(?:\s*,\s*|\s+){_NUMBER})+\s*\]?")  # 0 1 0, as in SPM
_F_TEST = re.compile(r"^F\((?P<parts>.+)\)$", re.DOTALL)
ESTIMABLE_TOLERANCE = 1e-6  # of the length of the contrast, columns scaled to unit length


@dataclass(frozen=True)
class Contrast:
    """A linear hypothesis C β = 0.

    Attributes
    ----------
    name : str
        As the user wrote it.
    weights : ndarray, (n_rows, n_regressors), float64
        C; one row for t.
    kind : {"t", "F"}
        Which statistic.
    label : str
        The name as part of file names, letters and digits only; by default of a contrast that stands alone.
    """

    name: str
    weights: np.ndarray
    kind: str
    label: str = ""

    def __post_init__(self) -> None:
        if not self.label:
            object.__setattr__(self, "label", file_labels([self.name])[0])


def file_labels(names: Sequence[str]) -> list[str]:
    """Names of contrasts in letters and digits, no two the same file on any system.

    Examples
    --------
    >>> file_labels(["age", "dose[T.<5]", "dose[T.>5]"])
    ['age', 'dose5xfebb9f', 'dose5xa6dc38']
    """
    return unique_names(names, file_label)


def file_label(name: str) -> str:
    """A contrast's name in letters and digits; several names may have one.

    Examples
    --------
    >>> file_label("sex[T.M] - sex[T.F]")
    'sexMMinusSexF'
    >>> file_label("bs(age, df=4)[1]")
    'bsAgeDf41'
    """
    text = name.replace("[T.", "[")
    for sign, word in ((r"\+", " plus "), (r"(?<![\w])-|-(?![\w])", " minus "), (r"\*", " times "), (r":", " by ")):
        text = re.sub(sign, word, text)
    words = re.findall(r"[^\W_]+", text)
    return "".join(word if i == 0 else word[:1].upper() + word[1:] for i, word in enumerate(words)) or "contrast"


def default_contrasts(design: Design) -> list[Contrast]:
    """One t-contrast for every column but the intercept that can be estimated."""
    unit = np.eye(len(design.columns))
    every = [Contrast(name, unit[i : i + 1], "t") for i, name in enumerate(design.columns) if name != INTERCEPT] or [
        Contrast(INTERCEPT, unit[:1], "t")
    ]
    kept = [contrast for contrast in every if is_estimable(contrast, design)]
    if not kept:
        msg = f"no column of {', '.join(design.columns)} can be estimated on its own; give contrasts"
        raise DesignError(msg)
    return _labelled(kept)


def left_out_notes(specs: Sequence[str] | Mapping[str, Any] | None, design: Design) -> tuple[str, ...]:
    """One line if columns have no default contrast because the design cannot tell them apart."""
    if specs:
        return ()
    kept = {contrast.name for contrast in default_contrasts(design)}
    missing = [name for name in design.columns if name not in kept and name != INTERCEPT]
    if not missing or kept == {INTERCEPT}:
        return ()
    what = "they are combinations of others" if len(missing) > 1 else "it is a combination of others"
    rank = f"the design has rank {design.rank} of {len(design.columns)} columns"
    return (
        f"no contrast for {', '.join(missing)}: {what}, so that "
        f"effects cannot be separated ({rank}); leave one of them out of the formula",
    )


def _labelled(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """Contrasts with labels that tell them apart."""
    labels = file_labels([contrast.name for contrast in contrasts])
    return [replace(contrast, label=label) for contrast, label in zip(contrasts, labels, strict=True)]


def build_contrasts(specs: Sequence[str] | Mapping[str, Any] | None, design: Design) -> list[Contrast]:
    """Contrasts from what a user writes.

    Parameters
    ----------
    specs : sequence of str, mapping or None
        Each string is a column (``"age"``), a term with several columns (``"site"``, an F-test), an expression
        (``"sex[T.M] - sex[T.F]"``), weights of all columns (``"0 1 0"``), a joint test (``"F(age, tiv)"``), any of
        these behind ``name =``, or the path of a JSON file with a mapping. A mapping goes from names to strings,
        weights, rows of weights, or ``{column: weight}``. None: one t-contrast a column.
    design : Design
        Gives columns and terms.

    Raises
    ------
    DesignError
        If a name is unknown, an expression is not linear, weights do not fit, two contrasts share a name, or a
        contrast cannot be estimated in this design.
    """
    if specs is None or len(specs) == 0:
        return default_contrasts(design)
    items: list[tuple[str | None, Any]] = []
    if isinstance(specs, Mapping):
        items += list(specs.items())
    else:
        for spec in specs:
            items += _from_json(Path(spec)) if spec.endswith(".json") else [(None, spec)]
    contrasts = [_build(name, spec, design) for name, spec in items]
    for contrast in contrasts:
        if not isinstance(specs, Mapping):  # whose names are the caller's labels
            _check_name(contrast, design)
        check_estimable(contrast, design)
    names = [contrast.name for contrast in contrasts]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        msg = f"two contrasts would be called {', '.join(twice)}; give them names: 'name = expression'"
        raise DesignError(msg)
    return _labelled(contrasts)


def _from_json(path: Path) -> list[tuple[str | None, Any]]:
    try:
        content = storage.read_json(path)
    except (OSError, ValueError) as error:
        msg = f"{path}: expected a JSON object of contrasts, but reading failed: {error!s:.200}"
        raise DesignError(msg) from error
    if not isinstance(content, dict) or not content:
        msg = f'{path}: expected a JSON object such as {{"older": "age"}}, got {type(content).__name__}'
        raise DesignError(msg)
    return list(content.items())


def _build(name: str | None, spec: Any, design: Design) -> Contrast:
    if isinstance(spec, Mapping):
        weights = np.zeros((1, len(design.columns)))
        for column, weight in spec.items():
            weights += _numbers(name or "contrast", weight, 0) * _lookup(str(column), design)
        return Contrast(name or "contrast", weights, "t")
    if not isinstance(spec, str):
        return _from_numbers(name or "contrast", spec, design)
    text = _as_in_design(spec.strip(), design)
    known = text in design.columns or text in design.terms or text in design.references
    named = None if known else _split_name(text)
    if named is None:
        return _from_text(name or text, text, design)
    name, text = named
    try:
        return _from_text(name, _as_in_design(text, design), design)
    except DesignError as error:
        msg = f"contrast {name!r}, right of '=': {str(error).removeprefix('contrast: ')}"
        raise DesignError(msg) from error


def _split_name(text: str) -> tuple[str, str] | None:
    """Name and contrast of ``name = contrast``, split at the first ``=`` outside brackets; None without one.

    Examples
    --------
    >>> _split_name("a > b = g[T.a] - g[T.b]"), _split_name("bs(age, df=4)[1]")
    (('a > b', 'g[T.a] - g[T.b]'), None)
    """
    depth = 0
    for at, character in enumerate(text):
        depth = max(depth + (character in "([{") - (character in ")]}"), 0)
        if character == "=" and depth == 0:
            name, rest = text[:at].strip(), text[at + 1 :].strip()
            if not name or not rest or rest[0] == "=" or text[at - 1] in "<>!":
                msg = f"contrast {text!r}: expected 'name = contrast' with something on each side, or a contrast alone"
                raise DesignError(msg)
            return name, rest
    return None


def _check_name(contrast: Contrast, design: Design) -> None:
    """Refuse a contrast that has the name of a column, term or reference level and tests something else.

    Raises
    ------
    DesignError
        Naming both.
    """
    name = _as_in_design(contrast.name, design)
    if name in design.references:
        same = False
    elif name in design.columns or name in design.terms:
        same = _is_same_test(contrast, _from_text(name, name, design))
    else:
        return
    if not same:
        msg = (
            f"contrast {contrast.name!r} has the name of a column or level of the design, but tests something else; "
            f"give it another name, e.g. 'my {contrast.name} = …', or write {contrast.name!r} alone to test it"
        )
        raise DesignError(msg)


def _is_same_test(one: Contrast, other: Contrast) -> bool:
    """Whether two contrasts test the same: the same direction of t, the same space of F."""
    a, b = one.weights, other.weights
    if one.kind != other.kind:
        return False
    if one.kind == "t":
        return bool(np.allclose(a * np.linalg.norm(b), b * np.linalg.norm(a)))
    ranks = {int(np.linalg.matrix_rank(rows)) for rows in (a, b, np.vstack([a, b]))}
    return len(ranks) == 1


def _as_in_design(text: str, design: Design) -> str:
    """A contrast with the design's spelling of names: single quotes, blanks after commas, composed Unicode."""
    known = (*design.columns, *design.terms, *design.references)
    if text in known:
        return text
    by_plain = {_plain(name): name for name in known}
    return by_plain.get(_plain(text), normalized(text) if any('"' in name for name in known) else _single_quoted(text))


def _plain(name: str) -> str:
    return "".join(_single_quoted(name).split())


def _single_quoted(text: str) -> str:
    return normalized(text).replace('"', "'")


def _from_numbers(name: str, weights: Any, design: Design) -> Contrast:
    rows = np.atleast_2d(_numbers(name, weights))
    if rows.ndim != 2 or rows.shape[1] != len(design.columns):
        columns = ", ".join(design.columns)
        msg = f"contrast {name}: {rows.shape[-1]} weights for {len(design.columns)} columns ({columns})"
        raise DesignError(msg)
    return Contrast(name, rows, "t" if len(rows) == 1 else "F")


def _numbers(name: str, weights: Any, n_dimensions: int | None = None) -> np.ndarray:
    """Finite weights as an array."""
    try:
        numbers = np.asarray(weights, dtype=np.float64)
        sound = bool(np.isfinite(numbers).all()) and n_dimensions in (None, numbers.ndim)
    except (TypeError, ValueError, OverflowError):
        sound = False
    if not sound:
        msg = f"contrast {name}: expected numbers as weights, got {str(weights)[:80]}"
        raise DesignError(msg)
    return numbers


def _from_text(name: str, text: str, design: Design) -> Contrast:
    if text in design.columns:
        return Contrast(name, _lookup(text, design), "t")
    if text in design.terms:
        rows = np.vstack([_lookup(column, design) for column in design.terms[text]])
        return Contrast(name, rows, "t" if len(rows) == 1 else "F")
    if _VECTOR.fullmatch(text):
        return _from_numbers(name, [float(word) for word in re.findall(_NUMBER, text)], design)
    joint = _F_TEST.match(text)
    if joint:
        parts = _split_outside_brackets(joint["parts"])
        return Contrast(name, np.vstack([_from_text(part, part, design).weights for part in parts]), "F")
    return Contrast(name, _linear_expression(text, design), "t")


def _split_outside_brackets(text: str) -> list[str]:
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _lookup(column: str, design: Design, text: str = "") -> np.ndarray:
    """Unit row (1, p) of a column in `text`; zeros for a reference level, whose coefficient is zero by construction."""
    if column in design.columns:
        return np.eye(len(design.columns))[[design.columns.index(column)]]
    if len(design.terms.get(column, ())) == 1:
        return _lookup(design.terms[column][0], design)
    if column in design.references:
        return np.zeros((1, len(design.columns)))
    near = closest(column, design.columns)
    have = f"the design has {', '.join(design.columns)}{_hint(text or column, design)}"
    msg = f"contrast: no column {column!r} (nearest {near or 'none'}); {have}"
    raise DesignError(msg)


def _hint(text: str, design: Design) -> str:
    """How a difference of levels is written, with a factor that the text names if there is one."""
    found = []
    for reference in design.references:
        factor, _, level = reference.rpartition("[T.")
        for column in design.terms.get(factor, ()):
            first, second = level[:-1], column.rpartition("[T.")[2][:-1]
            named = sum(bool(re.search(rf"(?<!\w){re.escape(one)}(?!\w)", text)) for one in (first, second, factor))
            found.append((named, f"; for {first} − {second} write -{column}"))
    return max(found, key=lambda one: one[0])[1] if found else ""


def _linear_expression(text: str, design: Design) -> np.ndarray:
    single = [term for term, columns in design.terms.items() if len(columns) == 1]
    names = sorted((*design.columns, *design.references, *single), key=len, reverse=True)
    used: list[str] = []

    def hide(match: re.Match[str]) -> str:
        used.append(match.group(0))
        return f"_column{len(used) - 1}_"

    pattern = "|".join(rf"(?<![\w.]){re.escape(name)}(?![\w.\[(])" for name in names)
    hidden = re.sub(pattern, hide, text)
    try:
        tree = ast.parse(hidden, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return _lookup(text, design)  # its message names the nearest columns
    vectors = {f"_column{i}_": _lookup(name, design) for i, name in enumerate(used)}
    weights = _evaluate(tree, vectors, text, design)
    if not isinstance(weights, np.ndarray) or not weights.any():
        columns = ", ".join(design.columns)
        hint = _hint(text, design)
        msg = f"contrast {text!r}: all weights are zero or it names no column; the design has {columns}{hint}"
        raise DesignError(msg)
    return weights


def _evaluate(node: ast.AST, vectors: Mapping[str, np.ndarray], text: str, design: Design) -> Any:
    """Value of a linear expression: a number or a row of weights."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    if isinstance(node, ast.Name | ast.Subscript):  # with a bracket: a level that the design lacks
        name = ast.unparse(node)
        return vectors[name] if name in vectors else _lookup(name, design, text)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _evaluate(node.operand, vectors, text, design)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        left, right = (_evaluate(side, vectors, text, design) for side in (node.left, node.right))
        numbers = not isinstance(left, np.ndarray), not isinstance(right, np.ndarray)
        if isinstance(node.op, ast.Add | ast.Sub) and numbers[0] == numbers[1]:
            return left + right if isinstance(node.op, ast.Add) else left - right
        if isinstance(node.op, ast.Mult) and any(numbers):
            return left * right
        if isinstance(node.op, ast.Div) and numbers[1] and right != 0:
            return left / right
    form = "expected a linear combination of columns, e.g. 'age - 0.5 * tiv'"
    msg = f"contrast {text!r}: {form}; the design has {', '.join(design.columns)}{_hint(text, design)}"
    raise DesignError(msg)


def is_estimable(contrast: Contrast, design: Design) -> bool:
    """Whether C β is determined by X β: C lies in the row space of X."""
    norms = np.linalg.norm(design.matrix, axis=0)
    scale = np.where(norms > 0, norms, 1)
    _, singular, right = np.linalg.svd(design.matrix / scale, full_matrices=False)
    row_space = right[singular > RANK_TOLERANCE * singular[0]]  # (rank, p)
    weights = contrast.weights / scale
    outside = weights - weights @ row_space.T @ row_space
    return bool((np.linalg.norm(outside, axis=1) <= ESTIMABLE_TOLERANCE * np.linalg.norm(weights, axis=1)).all())


def check_estimable(contrast: Contrast, design: Design) -> None:
    """Refuse a contrast that the design cannot estimate.

    Raises
    ------
    DesignError
        If it is all zeros or not in the row space of the design matrix.
    """
    if not np.any(contrast.weights, axis=1).all():
        msg = f"contrast {contrast.name!r}: all weights of a row are zero"
        raise DesignError(msg)
    if not is_estimable(contrast, design):
        msg = (
            f"contrast {contrast.name!r} cannot be estimated: the columns {', '.join(design.columns)} are collinear "
            f"(rank {design.rank} of {len(design.columns)}); remove a column or test a difference of levels"
        )
        raise DesignError(msg)
