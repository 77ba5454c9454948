"""Contrasts as text: from columns, terms, weights, joint tests and linear expressions to rows of weights."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vbmstat.errors import DesignError
from vbmstat.files.filenames import normalized
from vbmstat.glm.design.formula import split_outside_brackets
from vbmstat.glm.design.matrix import Design
from vbmstat.tables.cohort import closest

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_VECTOR = re.compile(rf"{_NUMBER}(?:(?:\s*,\s*|\s+){_NUMBER})*")  # 0 1 0, as in SPM
_SIGN = re.compile(r"(?<![<>!=])=(?!=)")  # of "name = contrast", not of a comparison in the name
_F_TEST = re.compile(r"^F\((?P<parts>.+)\)$", re.DOTALL)


def text_weights(text: str, design: Design, name: str) -> tuple[np.ndarray, str]:
    """Weights (n_rows, n_regressors) and kind, t or F, of a column, term, vector, ``F(a, b)`` or expression.

    Raises
    ------
    DesignError
        If a name is unknown, the expression is not linear, or the number of weights is not that of the columns.
    """
    if text in design.columns:
        return column_row(text, design), "t"
    if text in design.terms:
        return _rows_and_kind(np.vstack([column_row(column, design) for column in design.terms[text]]))
    rows = typed_rows(text)
    if rows is not None:
        return vector_weights([row + [0.0] * (len(design.columns) - len(row)) for row in rows], design, name)
    joint = _F_TEST.match(text)
    if joint:
        parts = [part.strip() for part in split_outside_brackets(joint["parts"], ",")]
        return np.vstack([text_weights(part, design, part)[0] for part in parts]), "F"
    return _linear_expression(text, design), "t"


def typed_rows(text: str) -> list[list[float]] | None:
    """Rows of weights as SPM and MATLAB write them, ``0 1 -1`` or ``[0 1 0; 0 0 1]``; None if it is something else.

    Examples
    --------
    >>> typed_rows("[0 1 0; 0 0 1]"), typed_rows("age - 1")
    ([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], None)
    """
    rows = [row.strip() for row in text.strip().removeprefix("[").removesuffix("]").split(";")]
    if not all(map(_VECTOR.fullmatch, rows)):
        return None
    return [[float(word) for word in re.findall(_NUMBER, row)] for row in rows]


def vector_weights(weights: Any, design: Design, name: str) -> tuple[np.ndarray, str]:
    """Weights (n_rows, n_regressors) and kind of one weight per column, or of rows of them; DesignError if not so."""
    rows = np.atleast_2d(finite_weights(weights, name))
    if rows.ndim != 2 or rows.shape[1] != len(design.columns):
        columns, form = (
            ", ".join(design.columns),
            " ".join(["0", "1", *"0" * len(design.columns)][: len(design.columns)]),
        )
        msg = (
            f"contrast {name}: {rows.shape[-1]} weights for {len(design.columns)} columns ({columns}); write one for "
            f"each in this order, e.g. '{form}'"
        )
        raise DesignError(msg)
    return _rows_and_kind(rows)


def finite_weights(weights: Any, name: str, n_dimensions: int | None = None) -> np.ndarray:
    """Weights as a float64 array; DesignError if they are not finite or have another number of dimensions."""
    try:
        numbers = np.asarray(weights, dtype=np.float64)
        is_sound = bool(np.isfinite(numbers).all()) and n_dimensions in (None, numbers.ndim)
    except (TypeError, ValueError, OverflowError):
        is_sound = False
    if not is_sound:
        msg = f"contrast {name}: expected numbers as weights, got {str(weights)[:80]}"
        raise DesignError(msg)
    return numbers


def column_row(column: str, design: Design, text: str = "") -> np.ndarray:
    """Unit row (1, n_regressors) of a column in `text`, zeros for a reference level; DesignError if there is none."""
    if column in design.columns:
        return np.eye(len(design.columns))[[design.columns.index(column)]]
    if len(design.terms.get(column, ())) == 1:
        return column_row(design.terms[column][0], design)
    if column in design.references:
        return np.zeros((1, len(design.columns)))
    near = closest(column, design.columns) or "none"
    msg = f"contrast: no column {column!r} (nearest {near}); {_columns_and_hint(text or column, design)}"
    raise DesignError(msg)


def split_name(text: str) -> tuple[str, str] | None:
    """Name and contrast of ``name = contrast``, split at the first ``=`` outside brackets; None without one.

    Examples
    --------
    >>> split_name("a > b = g[T.a] - g[T.b]"), split_name("bs(age, df=4)[1]")
    (('a > b', 'g[T.a] - g[T.b]'), None)
    """
    signs = [found.start() for found in _SIGN.finditer(text) if _is_outside_brackets(text, found.start())]
    left = text[: signs[0]] if signs else split_outside_brackets(text, "=")[0]
    if left == text:
        return None
    name, right = left.strip(), text[len(left) + 1 :].strip()
    if not name or not right or right[0] == "=" or left[-1] in "<>!":
        msg = f"contrast {text!r}: expected 'name = contrast' with something on each side, or a contrast alone"
        raise DesignError(msg)
    return name, right


def _is_outside_brackets(text: str, at: int) -> bool:
    return len(split_outside_brackets(f"{text[:at]}\0", "\0")) > 1


def as_in_design(text: str, design: Design) -> str:
    """A contrast with the design's spelling of names: single quotes, blanks after commas, composed Unicode."""
    known = (*design.columns, *design.terms, *design.references)
    if text in known:
        return text
    by_plain = {_plain("".join(name.split())): name for name in known}
    spelled = normalized(text) if any('"' in name for name in known) else _single_quoted(text)
    if "`" in spelled or any("`" in name for name in known):  # names that are no Python names, with backticks or not
        spelled = spelled.replace("`", "")
        for name in sorted(filter(lambda name: "`" in name, known), key=len, reverse=True):
            spelled = spelled.replace(name.replace("`", ""), name)
    return by_plain.get(_plain("".join(text.split())), spelled)


def _plain(text: str) -> str:
    return _single_quoted(text).replace("`", "")


def _single_quoted(text: str) -> str:
    return normalized(text).replace('"', "'")


def _rows_and_kind(rows: np.ndarray) -> tuple[np.ndarray, str]:
    return rows, "t" if len(rows) == 1 else "F"


def _columns_and_hint(text: str, design: Design) -> str:
    """The design's columns, and how to write a difference of levels, if possible of a factor that the text names."""
    hints = [(-1, "")]
    for reference in design.references:
        factor, _, level = reference.rpartition("[T.")
        for column in design.terms.get(factor, ()):
            first, second = level[:-1], column.rpartition("[T.")[2][:-1]
            named = sum(bool(re.search(rf"(?<!\w){re.escape(one)}(?!\w)", text)) for one in (first, second, factor))
            hints.append((named, f"; for {first} − {second} write -{column}"))
    return f"the design has {', '.join(design.columns)}{max(hints, key=lambda hint: hint[0])[1]}"


def _linear_expression(text: str, design: Design) -> np.ndarray:
    """Row of weights (1, n_regressors) of an expression such as ``age - 0.5 * tiv``."""
    single = [term for term, columns in design.terms.items() if len(columns) == 1]
    names = sorted((*design.columns, *design.references, *single), key=len, reverse=True)
    used: list[str] = []

    def hide(match: re.Match[str]) -> str:
        used.append(match.group(0))
        return f"_column{len(used) - 1}_"

    pattern = "|".join(rf"(?<![\w.]){re.escape(name)}(?![\w.\[(])" for name in names)
    try:
        tree = ast.parse(re.sub(pattern, hide, text), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return column_row(text, design)  # its message names the nearest columns
    rows = {f"_column{i}_": column_row(name, design) for i, name in enumerate(used)}
    weights = _evaluate(tree, rows, text, design)
    if not isinstance(weights, np.ndarray) or not weights.any():
        msg = f"contrast {text!r}: all weights are zero or it names no column; {_columns_and_hint(text, design)}"
        raise DesignError(msg)
    return weights


def _evaluate(node: ast.AST, rows: Mapping[str, np.ndarray], text: str, design: Design) -> Any:
    """Value of a linear expression: a number or a row of weights."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    if isinstance(node, ast.Name | ast.Subscript):  # with a bracket: a level that the design lacks
        name = ast.unparse(node)
        return rows[name] if name in rows else column_row(name, design, text)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _evaluate(node.operand, rows, text, design)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        left, right = (_evaluate(side, rows, text, design) for side in (node.left, node.right))
        numbers = not isinstance(left, np.ndarray), not isinstance(right, np.ndarray)
        if isinstance(node.op, ast.Add | ast.Sub) and numbers[0] == numbers[1]:
            return left + right if isinstance(node.op, ast.Add) else left - right
        if isinstance(node.op, ast.Mult) and any(numbers):
            return left * right
        if isinstance(node.op, ast.Div) and numbers[1] and right != 0:
            return left / right
    form = "expected a linear combination of columns, e.g. 'age - 0.5 * tiv'"
    msg = f"contrast {text!r}: {form}; {_columns_and_hint(text, design)}"
    raise DesignError(msg)
