"""Formulas as text: their parts, the columns they name, and a whitelist of what they may contain.

Formulas also come from configuration files, so nothing is evaluated before this module has parsed it: only the
functions of `TRANSFORMS`, numbers, strings, column names and arithmetic pass.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from typing import NoReturn

from vbmstat.errors import DesignError
from vbmstat.files.filenames import normalized

TRANSFORMS = ("bs", "cr", "poly", "center", "scale", "log", "log10", "log1p", "exp", "sqrt", "abs", "C", "I")
_CODINGS = ("treatment", "sum", "helmert", "diff", "poly")  # contr.treatment("reference level"), …
_PATSY_CODINGS = ("Sum", "Helmert", "Diff", "Poly")  # and Treatment("reference level")
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow)
_PLAIN = (ast.Expression, ast.Load, ast.UnaryOp, ast.USub, ast.UAdd, ast.List, ast.Tuple, ast.keyword, *_OPERATORS)
_QUOTED = re.compile(r"`([^`]*)`")
_MAP_TERM = re.compile(r"^map\((\w+)\)$")
_MAX_POWER = 10
_BASES = ("bs", "cr", "poly")  # functions that make several columns
_MAX_DF = 100  # largest number of columns, or degree, of one of them
_PLACES = ("knots", "lower_bound", "upper_bound")  # their arguments in the covariate's own unit
_MAX_TERMS = 100_000  # most terms that interactions may multiply out to
_AS_PYTHON = (("%in%", "@"), (":", "@"), ("^", "**"))  # R's operators between terms -> Python's


def split_formula(formula: str) -> tuple[str, str]:
    """Name of the maps and right-hand side of ``"gm ~ age + sex"``.

    Raises
    ------
    DesignError
        If there is not exactly one ``~`` with something on each side.

    Examples
    --------
    >>> split_formula("gm ~ age + sex")
    ('gm', 'age + sex')
    """
    left, _, right = normalized(formula).partition("~")
    if not left.strip() or not right.strip() or "~" in right:
        msg = f"formula {formula!r}: expected maps ~ covariates, e.g. 'gm ~ age + sex + tiv'"
        raise DesignError(msg)
    return left.strip(), right.strip()


def split_map_term(right: str) -> tuple[str, str | None]:
    """Right-hand side without its ``map(NAME)`` term, and that name.

    Raises
    ------
    DesignError
        If ``map()`` is part of another term, or there are two.

    Examples
    --------
    >>> split_map_term("age + map(wm)")
    ('age', 'wm')
    """
    parts = [part.strip() for part in split_outside_brackets(right, "+")]
    names = [match.group(1) for part in parts if (match := _MAP_TERM.match(part))]
    kept = [part for part in parts if not _MAP_TERM.match(part)]
    if len(names) > 1 or any(re.search(r"\bmap\(", part) for part in kept):
        msg = f"formula {right!r}: map() stands once and as a term of its own, e.g. 'gm ~ age + map(wm)'"
        raise DesignError(msg)
    return " + ".join(kept) or "1", names[0] if names else None


def split_outside_brackets(text: str, sign: str) -> list[str]:
    """Split a text at a sign, but not inside brackets.

    Examples
    --------
    >>> split_outside_brackets("age, bs(tiv, df=4)[1]", ",")
    ['age', ' bs(tiv, df=4)[1]']
    """
    parts, depth = [""], 0
    for character in text:
        depth = max(depth + (character in "([{") - (character in ")]}"), 0)
        if character == sign and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def check_size(formula: str) -> None:
    """Refuse interactions of too many terms to multiply out, such as ``(a + b)**100``.

    Raises
    ------
    DesignError
        If multiplying it out may take more than `_MAX_TERMS` steps, or it has a power above `_MAX_POWER`.
    """
    text = _QUOTED.sub("_quoted_", formula)
    for sign, operator in _AS_PYTHON:
        text = text.replace(sign, operator)
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        tree = None  # formulaic will say what is wrong, but must not multiply out a power first
    powers = [int(power) for power in re.findall(r"(?:\*\*|\^)\s*(\d+)", formula)]
    too_many = max(powers, default=0) > _MAX_POWER or (tree is None and len(powers) > 0)
    if too_many or (tree is not None and _n_terms(tree) > _MAX_TERMS):
        msg = f"formula {formula[:200]!r}: too many interactions to multiply out; write only those you need"
        raise DesignError(msg)


def _n_terms(node: ast.AST) -> int:
    """Upper bound of the steps to multiply out a formula, at most `_MAX_TERMS` + 1."""
    if not isinstance(node, ast.BinOp):
        return _n_terms(node.operand) if isinstance(node, ast.UnaryOp) else 1
    left, right = _n_terms(node.left), _n_terms(node.right)
    if isinstance(node.op, ast.Pow) and isinstance(node.right, ast.Constant) and isinstance(node.right.value, int):
        count = int(left ** min(abs(node.right.value), 20))
    elif isinstance(node.op, ast.Add | ast.Sub):
        count = left + right
    else:
        count = left + right + left * right
    return min(count, _MAX_TERMS + 1)


def expression_names(expression: str) -> list[str]:
    """Column names used by one Python expression of a formula, after checking that it is harmless.

    Parameters
    ----------
    expression : str
        For example ``"bs(age, df=4)"``. Names with spaces stand in backticks.

    Raises
    ------
    DesignError
        If it calls a function that is not in `TRANSFORMS`, or uses attributes, indexing, comparisons, lambdas …
    """
    quoted: list[str] = []

    def hide(match: re.Match[str]) -> str:
        quoted.append(match.group(1))
        return f"_quoted{len(quoted) - 1}_"

    try:
        tree = ast.parse(_QUOTED.sub(hide, expression), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        msg = f"formula: {expression!r} cannot be read ({error})"
        raise DesignError(msg) from error
    names: list[str] = []
    _walk(tree, expression, names)
    return [quoted[int(name[7:-1])] if re.fullmatch(r"_quoted\d+_", name) else name for name in names]


def _walk(node: ast.AST, expression: str, names: list[str]) -> None:
    if isinstance(node, ast.Call):
        _check_call(node, expression)
        children: Iterable[ast.AST] = [*(arg for arg in node.args if not _is_coding(arg)), *node.keywords]
    elif isinstance(node, ast.Name):
        names.append(node.id)
        return
    elif isinstance(node, ast.Constant):
        if not isinstance(node.value, int | float | str | None):
            _refuse(expression, f"the constant {node.value!r}")
        return
    elif isinstance(node, ast.BinOp):
        if not isinstance(node.op, _OPERATORS):
            _refuse(expression, f"the operator {type(node.op).__name__}")
        _check_power(node, expression)
        if any(isinstance(side, ast.List | ast.Tuple) or _is_text(side) for side in (node.left, node.right)):
            _refuse(expression, "arithmetic with text or lists")
        children = [node.left, node.right]
    elif isinstance(node, _PLAIN):
        children = ast.iter_child_nodes(node)
    else:
        _refuse(expression, type(node).__name__)
    for child in children:
        _walk(child, expression, names)


def _check_call(node: ast.Call, expression: str) -> None:
    function = node.func
    if _is_coding(function) or (isinstance(function, ast.Name) and function.id == "Treatment"):
        return
    if isinstance(function, ast.Attribute):
        _refuse(expression, "an attribute")
    if not isinstance(function, ast.Name) or function.id not in TRANSFORMS:
        _refuse(expression, f"the function {ast.unparse(function)}")
    if any(keyword.arg is None for keyword in node.keywords):
        _refuse(expression, "**")
    if function.id in _BASES:
        _check_options(node, function.id, expression)


def _is_coding(node: ast.AST) -> bool:
    """Whether a node names a coding of factors: ``contr.sum``, or patsy's ``Sum``."""
    if isinstance(node, ast.Name):
        return node.id in _PATSY_CODINGS
    return (
        isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "contr"
        and node.attr in _CODINGS
    )  # fmt: skip


def _check_options(node: ast.Call, function: str, expression: str) -> None:
    given: list[tuple[str | None, ast.AST]] = [(None, value) for value in node.args[1:]]
    given += [(word.arg, word.value) for word in node.keywords]
    if any(name not in _PLACES and not _is_small(value) for name, value in given):
        _refuse(expression, f"an option of {function} other than a number up to {_MAX_DF}")


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _is_small(node: ast.AST) -> bool:
    """Whether an option is a constant of at most `_MAX_DF`."""
    if not isinstance(node, ast.Constant):
        return False
    return not isinstance(node.value, int | float) or abs(node.value) <= _MAX_DF


def _check_power(node: ast.BinOp, expression: str) -> None:
    if not isinstance(node.op, ast.Pow):
        return
    power = node.right
    if any(isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Pow) for inner in ast.walk(node.left)):
        _refuse(expression, "a power of a power")
    if not isinstance(power, ast.Constant) or not isinstance(power.value, int | float) or abs(power.value) > _MAX_POWER:
        _refuse(expression, f"a power other than a number up to {_MAX_POWER}")


def _refuse(expression: str, what: str) -> NoReturn:
    msg = f"formula: {expression!r} uses {what}; allowed are columns, numbers, + - * / ** and {', '.join(TRANSFORMS)}"
    raise DesignError(msg)
