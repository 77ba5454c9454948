"""Formulas as text: their parts, the columns they name, and a whitelist of what they may contain.

Formulas also come from configuration files, so nothing is evaluated before this module has parsed it: only the
functions of `TRANSFORMS`, numbers, strings, column names and arithmetic pass.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator

from vbmstat.errors import DesignError
from vbmstat.files.filenames import normalized
from vbmstat.maps.change import ChangeTerm

_STATEFUL = ("bs", "cr", "poly", "center", "scale", "within", "between")  # of a scan, they depend on the others
TRANSFORMS = (*_STATEFUL, "log", "log10", "log1p", "exp", "sqrt", "abs", "C", "I")
_CODINGS = ("treatment", "sum", "helmert", "diff", "poly")  # contr.treatment("reference level"), …
_PATSY_CODINGS = ("Sum", "Helmert", "Diff", "Poly")  # and Treatment("reference level")
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow)
_PLAIN = (ast.Expression, ast.Load, ast.UnaryOp, ast.USub, ast.UAdd, ast.List, ast.Tuple, ast.keyword, *_OPERATORS)
_QUOTED = re.compile(r"`([^`]*)`")
_MAP_TERM = re.compile(r"^map\((\w+)\)$")
_CHANGE = re.compile(r"change\(\s*(\w+)\s*,\s*(\w+|`[^`]+`)\s*(?:,\s*([^,()]+?)\s+-\s+([^,()]+?)\s*)?\)")
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


def split_change(response: str) -> tuple[str, ChangeTerm | None]:
    """Maps of a formula's left side, and the change of them that is asked.

    Raises
    ------
    DesignError
        If it begins as a change and is none.

    Examples
    --------
    >>> split_change("change(gm, time, post - pre)")
    ('gm', ChangeTerm(column='time', later='post', earlier='pre'))
    >>> split_change("gm")
    ('gm', None)
    """
    if not re.match(r"\w+\(", response):
        return response, None
    call = _CHANGE.fullmatch(response)
    if call is None:
        msg = f"formula: {response!r} on the left; write gm, change(gm, age) for each person's slope, or "
        msg += "change(gm, time, post - pre)"
        raise DesignError(msg)
    maps, column, later, earlier = (word and word.strip().strip("`") for word in call.groups())
    return maps, ChangeTerm(column, later or "", earlier or "")


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


def depends_on_scans(formula: str) -> str:
    """The first function in a formula that makes something else of a scan if others are there; empty if none does.

    Examples
    --------
    >>> depends_on_scans("gm ~ sex + center(age)"), depends_on_scans("gm ~ log(age)")
    ('center()', '')
    """
    found = re.search(rf"\b({'|'.join(_STATEFUL)})\s*\(", formula)
    return "" if found is None else f"{found[1]}()"


def level_coding(formula: str) -> str:
    """The first coding of a factor in a formula by which a column depends on all levels; empty for treatment coding.

    Examples
    --------
    >>> level_coding("gm ~ C(site, contr.sum)"), level_coding("gm ~ C(site, contr.treatment('a'))")
    ('contr.sum', '')
    """
    found = re.search(rf"contr\s*\.\s*(?!treatment)\w+|(?<=,)\s*({'|'.join(_PATSY_CODINGS)})\b", formula)
    return "" if found is None else found[0].strip()


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


def with_backticks(formula: str, columns: Iterable[object]) -> str:
    """A formula with backticks around columns whose names are no Python names, where only they can be meant.

    ``ICD-10`` is the column unless one of its words (``ICD``) is a column itself; then it is a difference, as in R.

    Examples
    --------
    >>> with_backticks("ICD-10 + C(my score) + age-2", ["ICD-10", "my score", "age", "age-2"])
    '`ICD-10` + C(`my score`) + age-2'
    >>> with_backticks("0 + group + I(age**2)", ["0", "2", "group", "age"])
    '0 + group + I(age**2)'
    """
    names = sorted({str(column) for column in columns}, key=len, reverse=True)
    known = {name.casefold() for name in names}
    odd = [
        name for name in names if not name.isidentifier() and "`" not in name and re.match(r"\w*[^\W\d]", name)
        and not known & {word.casefold() for word in re.findall(r"[^\W\d]\w*", name)}
    ]  # fmt: skip
    if not odd:
        return formula
    named = "|".join(rf"(?<![\w.]){re.escape(name)}(?![\w(])" for name in odd)
    return re.sub(
        rf"(?P<kept>`[^`]*`|\"[^\"]*\"|'[^']*')|{named}", lambda found: found["kept"] or f"`{found[0]}`", formula
    )


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
    names = []
    for node in _nodes(tree):
        offence = _offence(node)
        if offence:
            allowed = f"columns, numbers, + - * / ** and {', '.join(TRANSFORMS)}"
            msg = f"formula: {expression!r} uses {offence}; allowed are {allowed}"
            raise DesignError(msg)
        if isinstance(node, ast.Name):
            names.append(node.id)
    return [quoted[int(name[7:-1])] if re.fullmatch(r"_quoted\d+_", name) else name for name in names]


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """A node and those below it, but for functions' names and codings of factors."""
    yield node
    children: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.Call):
        children = [*(argument for argument in node.args if not _is_coding(argument)), *node.keywords]
    for child in children:
        yield from _nodes(child)


def _offence(node: ast.AST) -> str:
    """What is not allowed about a node; empty if nothing."""
    if isinstance(node, ast.Call):
        return _call_offence(node)
    if isinstance(node, ast.Constant):
        return "" if isinstance(node.value, int | float | str | None) else f"the constant {node.value!r}"
    if isinstance(node, ast.BinOp):
        return _arithmetic_offence(node)
    return "" if isinstance(node, (ast.Name, *_PLAIN)) else type(node).__name__


def _arithmetic_offence(node: ast.BinOp) -> str:
    if not isinstance(node.op, _OPERATORS):
        return f"the operator {type(node.op).__name__}"
    if isinstance(node.op, ast.Pow) and any(isinstance(inner, ast.Pow) for inner in ast.walk(node.left)):
        return "a power of a power"
    if isinstance(node.op, ast.Pow) and (not _is_small(node.right, _MAX_POWER) or _is_text(node.right)):
        return f"a power other than a number up to {_MAX_POWER}"
    is_odd = any(isinstance(side, ast.List | ast.Tuple) or _is_text(side) for side in (node.left, node.right))
    return "arithmetic with text or lists" if is_odd else ""


def _call_offence(node: ast.Call) -> str:
    function = node.func
    if _is_coding(function) or (isinstance(function, ast.Name) and function.id == "Treatment"):
        return ""
    if isinstance(function, ast.Attribute):
        return "an attribute"
    if not isinstance(function, ast.Name) or function.id not in TRANSFORMS:
        return f"the function {ast.unparse(function)}"
    if any(keyword.arg is None for keyword in node.keywords):
        return "**"
    options = [*node.args[1:], *(keyword.value for keyword in node.keywords if keyword.arg not in _PLACES)]
    if function.id in _BASES and not all(_is_small(option, _MAX_DF) for option in options):
        return f"an option of {function.id} other than a number up to {_MAX_DF}"
    return ""


def _is_coding(node: ast.AST) -> bool:
    """Whether a node names a coding of factors: ``contr.sum``, or patsy's ``Sum``."""
    if isinstance(node, ast.Name):
        return node.id in _PATSY_CODINGS
    return (
        isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "contr"
        and node.attr in _CODINGS
    )  # fmt: skip


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and not isinstance(node.value, int | float)


def _is_small(node: ast.AST, largest: int) -> bool:
    """Whether a node is a constant, and if a number of at most this size."""
    if not isinstance(node, ast.Constant):
        return False
    return not isinstance(node.value, int | float) or abs(node.value) <= largest
