"""Conditions on the columns of a table, ``"qc_image_rating > 70 and group in ['a', 'b']"``, evaluated without ``eval``.

A condition is parsed to Python's syntax tree. Only comparisons of columns with numbers, texts and lists, joined by and,
or, not (``&``, ``|``, ``~``), are understood; nothing else is ever executed.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NoReturn

import pandas as pd

from vbmstat.errors import TableError
from vbmstat.tables.cells import has_thousands, label, number_with_word, without_missing_words
from vbmstat.tables.cohort import closest, find_column, read_column

_QUOTED = re.compile(r"`([^`]+)`")
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}  # fmt: skip
_ORDERS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_DATE = re.compile(r"\d{4}-\d\d-\d\d.*", re.DOTALL)  # text in the order of time
_LENGTH = 1000  # characters


class Condition:
    """A condition that rows of a table meet or not.

    Parameters
    ----------
    text : str
        For example ``"qc_image_rating > 70"``; a name that is no word is written in backticks.
    table : DataFrame
        Its columns (and id levels).

    Attributes
    ----------
    columns : list of str
        Columns that it reads, by their names in the table.
    meets : Series of bool with missing values
        Whether each row meets it; missing where a value that decides it is missing.

    Raises
    ------
    TableError
        If it is no such condition, names an unknown column, compares text with numbers, or a text occurs nowhere.

    Examples
    --------
    >>> people = pd.DataFrame({"age": [20.0, 50.0, None], "ICD-10": ["F32", "F33", "F32"]})
    >>> Condition("age > 30 or `ICD-10` == 'F32'", people).meets.tolist()
    [True, True, True]
    >>> Condition("not age > 30", people).meets.tolist()
    [True, False, <NA>]
    """

    def __init__(self, text: str, table: pd.DataFrame) -> None:
        self.text, self.columns, self._table = text, list[str](), table
        self._quoted = dict[str, str]()
        if len(text) > _LENGTH:
            self._refuse(f"it is longer than {_LENGTH} characters")
        try:
            tree = ast.parse(_QUOTED.sub(self._placeholder, text.strip()), mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            self._refuse("it cannot be read")
        try:
            self.meets: pd.Series = self._truth(tree.body)
        except RecursionError:
            self._refuse("it is nested too deeply")

    def _placeholder(self, match: re.Match[str]) -> str:
        name = f"quoted_{len(self._quoted)}_"
        self._quoted[name] = match[1]
        return name

    def _refuse(self, what: str) -> NoReturn:
        msg = (
            f"condition {self.text[:80]!r}: {what}; write comparisons of columns with values, joined by and, or, not: "
            "\"qc_image_rating > 70 and group == 'patient'\" (a name that is no word in backticks: `ICD-10`)"
        )
        raise TableError(msg)

    def _truth(self, node: ast.expr) -> pd.Series:
        """Truth of a part, one value a row."""
        if isinstance(node, ast.BoolOp):
            both: Callable[[Any, Any], Any] = operator.and_ if isinstance(node.op, ast.And) else operator.or_
            return reduce(both, [self._truth(part) for part in node.values])
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr):
            one, other = self._truth(node.left), self._truth(node.right)
            return one & other if isinstance(node.op, ast.BitAnd) else one | other
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.Invert):
            return ~self._truth(node.operand)
        if not isinstance(node, ast.Compare):
            self._refuse(f"{ast.unparse(node)[:60]!r} is no comparison")
        sides = [self._side(one) for one in (node.left, *node.comparators)]
        each = [self._compared(*one) for one in zip(node.ops, sides, sides[1:], strict=False)]  # 20 < age < 60
        return reduce(operator.and_, each)

    def _side(self, node: ast.expr) -> Any:
        """A column, a number or text, or a list of these."""
        if isinstance(node, ast.Name):
            return self._column(self._quoted.get(node.id, node.id))
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            return [self._side(one) for one in node.elts]
        try:
            value = ast.literal_eval(node)
        except (ValueError, TypeError):
            self._refuse(f"{ast.unparse(node)[:60]!r} is no column or value")
        if not isinstance(value, int | float | str):
            self._refuse(f"{value!r} is no number or text")
        return value

    def _column(self, name: str) -> pd.Series:
        actual = find_column(name, self._table)
        if actual is None:
            near = closest(name, [*self._table.columns, *filter(None, self._table.index.names)]) or "none"
            msg = f"condition {self.text!r}: no column {name!r} in the table (nearest {near})"
            raise TableError(msg)
        self.columns += [actual] if actual not in self.columns else []
        return without_missing_words(read_column(actual, self._table)).rename(actual)

    def _compared(self, sign: ast.cmpop, left: Any, right: Any) -> pd.Series:
        if isinstance(sign, ast.In | ast.NotIn):
            if not isinstance(left, pd.Series) or not isinstance(right, list) or not right:
                self._refuse("'in' stands between a column and a list of values")
            values = [self._like(left, value) for value in right]
            found = _comparable(left).isin(values).astype("boolean").mask(left.isna())
            return ~found if isinstance(sign, ast.NotIn) else found
        if type(sign) not in _COMPARE or isinstance(left, list) or isinstance(right, list):
            self._refuse("expected one of == != < <= > >= in")
        if isinstance(left, pd.Series) and isinstance(right, pd.Series):
            if _is_number(left) != _is_number(right):
                self._refuse(f"{left.name} and {right.name} are text and numbers")
            missing = left.isna() | right.isna()
        elif isinstance(left, pd.Series):
            right, missing = self._like(left, right, sign), left.isna()
        elif isinstance(right, pd.Series):
            left, missing = self._like(right, left, sign), right.isna()
        else:
            self._refuse("a comparison needs a column")
        sides = [_comparable(side) if isinstance(side, pd.Series) else side for side in (left, right)]
        if isinstance(sign, _ORDERS):
            self._refuse_text_numbers(sides)
        return _COMPARE[type(sign)](*sides).astype("boolean").mask(missing)

    def _refuse_text_numbers(self, sides: Sequence[Any]) -> None:
        """Refuse an order of texts such as '100' and '30', which is that of the alphabet."""
        for side in (one for one in sides if isinstance(one, pd.Series) and not _is_number(one)):
            number = next((text for text in side.dropna() if number_with_word(text) or has_thousands(text)), None)
            if number is not None and not _DATE.fullmatch(number):
                self._refuse(f"{side.name} is text, with {number[:30]!r}, so that '100' is below '30'; make it numbers")

    def _like(self, column: pd.Series, value: Any, sign: ast.cmpop | None = None) -> Any:
        """A value as the column has its values; refuses text that it never has, and text beside numbers."""
        if isinstance(value, pd.Series) or (_is_number(column) and isinstance(value, str)):
            self._refuse(f"{column.name} holds numbers, {str(value)[:30]!r} is none")
        if _is_number(column):
            return value
        if not isinstance(value, str) and isinstance(sign, _ORDERS):
            self._refuse(f"{column.name} holds text, which is neither above nor below {value}")
        text, levels = label(value), {label(one) for one in column.dropna()}
        if text not in levels and not isinstance(sign, _ORDERS):
            msg = (
                f"condition {self.text!r}: {column.name} is never {text!r} (nearest {closest(text, levels) or 'none'})"
            )
            raise TableError(msg)
        return text


def _comparable(column: pd.Series) -> pd.Series:
    """A column of numbers itself, any other as the texts that :meth:`Condition._like` makes of values."""
    return column if _is_number(column) else column.astype(object).map(label, na_action="ignore")


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
