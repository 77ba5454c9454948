"""Design matrices from formulas and tables, by formulaic, which no other module imports.

Over 300 lines: one path from a formula's text to a checked matrix.
"""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from formulaic import Formula, model_matrix
from formulaic.errors import DataMismatchWarning, FormulaicError
from formulaic.transforms.cubic_spline import cubic_spline
from formulaic.utils.stateful_transforms import stateful_transform

from vbmstat.errors import DesignError, TableError, listed
from vbmstat.files.filenames import normalized
from vbmstat.glm.design.covariates import code_columns, is_number
from vbmstat.glm.design.describe import Covariate, describe
from vbmstat.glm.design.formula import check_size, expression_names, with_backticks
from vbmstat.glm.design.rank import collinear_columns, combined_columns, matrix_rank
from vbmstat.glm.design.subjects import made_of, person_columns, with_person_columns
from vbmstat.tables.cells import label, without_missing_words
from vbmstat.tables.cohort import ALIASES, closest, find_column, is_tiv_name, read_column

INTERCEPT = "Intercept"
_CONTEXT = {"log1p": np.log1p, "sqrt": np.sqrt, "abs": np.abs}  # the allowed functions that formulaic lacks
# cr() beside a constant: without the direction that the constant holds already, as in R's mgcv
_CENTRED_SPLINE = {"cr": stateful_transform(partial(cubic_spline, cyclic=False, constraints="center"))}
_COLOURS = re.compile("\x1b?\\[[0-9;]+m|[⧛⧚]")  # formulaic marks the place of a syntax error with them


@dataclass(frozen=True)
class Design:
    """A design matrix with the names of its rows and columns.

    Attributes
    ----------
    matrix : ndarray, (n_scans, n_regressors), float64
        X of y = X β + ε.
    columns : tuple of str
        For example ``("Intercept", "age", "sex[T.M]")``.
    scan_ids : tuple of str
        Row names.
    formula : str
        Right-hand side that made it.
    terms : dict
        Term name -> column names, e.g. ``{"age": ("age",), "site": ("site[T.b]", "site[T.c]")}``.
    references : tuple of str
        Names of reference levels, e.g. ``"sex[T.F]"``: their coefficient is zero by construction.
    covariates : DataFrame
        The columns of the cohort table that the formula used, one row a scan.
    notes : tuple of str
        Decisions taken on the user's behalf (aliases, dropped scans), and what to look at in the covariates.
    taken : tuple of Covariate
        How each column of the table was coded.
    people : DataFrame
        The covariates with age, sex and TIV, where the table has them, one row a scan.
    constant : ndarray, (n_scans,), optional
        Where rows are sums over scans (:mod:`vbmstat.glm.pooled`): the constant in them; ones in rows of scans.
    """

    matrix: np.ndarray
    columns: tuple[str, ...]
    scan_ids: tuple[str, ...]
    formula: str = ""
    terms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    references: tuple[str, ...] = ()
    covariates: pd.DataFrame = field(default_factory=pd.DataFrame)
    notes: tuple[str, ...] = ()
    taken: tuple[Covariate, ...] = ()
    people: pd.DataFrame = field(default_factory=pd.DataFrame)
    constant: np.ndarray | None = None

    @property
    def table(self) -> pd.DataFrame:
        """The matrix as a table with a ``scan_id`` column in front."""
        table = pd.DataFrame(self.matrix, columns=list(self.columns))
        table.insert(0, "scan_id", list(self.scan_ids))
        return table

    @property
    def rank(self) -> int:
        """Numerical rank, columns scaled to unit length."""
        return matrix_rank(self.matrix)


def build_design(formula: str, table: pd.DataFrame, scan_ids: Sequence[str], missing: str = "raise") -> Design:
    """Design matrix of a right-hand side over a table.

    Parameters
    ----------
    formula : str
        For example ``"age + sex + tiv"``; the intercept is implied, ``0 +`` removes it.
    table : DataFrame
        One row a scan.
    scan_ids : sequence of str
        Names of the rows.
    missing : {"raise", "drop"}
        Whether scans without a value in a column that the formula uses are an error or left out.

    Returns
    -------
    Design
        Rows in the order given (without the dropped ones).

    Raises
    ------
    TableError
        If a covariate is missing for some scans, is text that looks like numbers, or has an impossible unit.
    DesignError
        If the formula cannot be read or names unknown columns, a factor has one level, a covariate is constant
        or a combination of others, or there are no more scans than columns.
    """
    formula = with_person_columns(with_backticks(normalized(formula), table.columns))
    parsed = parse_formula(formula)
    uses = column_uses(parsed)
    names = dict.fromkeys(one for name in uses for one in made_of(name))
    data, notes, sources = _select_columns(names, table, scan_ids)
    data, dropped = _without_missing(data, missing)
    if dropped:
        notes.append(f"dropped {len(dropped)} scans with missing covariates: {', '.join(dropped)}")
    own, own_remarks = person_columns(data, uses)
    data, remarks = code_columns(data.join(own)[list(uses)], uses)
    for name, text in (sources | own_remarks).items():
        remarks[name] = "; ".join(filter(None, (remarks.get(name), text)))
    matrix, terms, references, factor_columns = _evaluate(parsed, data, formula)
    columns = tuple(itertools.chain.from_iterable(terms.values()))
    levels = _reference_levels(references, data)
    taken = tuple(describe(data[name], uses[name], levels.get(name), remarks.get(name)) for name in map(str, data))
    notes += [note for covariate in taken for note in covariate.notes]
    _check_columns(matrix, columns, factor_columns)
    return Design(matrix, columns, tuple(data.index), formula, terms, references, data, tuple(notes), taken)


def with_map_column(design: Design, name: str) -> Design:
    """The design with a placeholder for a voxelwise covariate, so that contrasts can name it; its values are random."""
    column = np.random.default_rng(0).standard_normal(len(design.matrix))
    label = f"map({name})"
    return replace(
        design,
        matrix=np.column_stack([design.matrix, column]),
        columns=(*design.columns, label),
        terms={**design.terms, label: (label,)},
    )


def term_covariates(design: Design) -> dict[str, set[str]]:
    """Covariates that each term of a design is made of; a voxelwise covariate, ``map(wm)``, is its own."""
    used = {str(term): set(column_uses([term])) for term in parse_formula(design.formula)}
    return {term: used.get("1" if term == INTERCEPT else term, {term}) for term in design.terms}


def design_rows(design: Design, covariates: pd.DataFrame) -> np.ndarray:
    """Rows of the design matrix at other values of its covariates, (k, n_regressors).

    `covariates` has the columns of ``design.covariates``, factors among their levels. Splines and centring are those
    of the design's own scans. A voxelwise covariate that was given values is the last column.
    """
    parsed = parse_formula(design.formula)
    context = _context(parsed, design.covariates)
    spec = model_matrix(parsed, design.covariates, context=context, na_action="ignore").model_spec
    rows = np.asarray(spec.get_model_matrix(covariates, context=context), dtype=np.float64)
    of_maps = [name for name in design.columns[rows.shape[1] :] if name in covariates]
    return np.column_stack([rows, covariates[of_maps].to_numpy(dtype=np.float64)])


def parse_formula(formula: str) -> Any:
    """Parsed right-hand side; every factor in it was checked by :func:`expression_names`."""
    formula = normalized(formula)
    check_size(formula)
    try:
        parsed = Formula(formula)
        column_uses(parsed)
    except (FormulaicError, SyntaxError, TypeError, ValueError, AttributeError, RecursionError) as error:
        reason = "several parts" if isinstance(error, AttributeError) else _without_colours(error)
        msg = f"formula {formula!r} cannot be read ({reason[:120]}); write e.g. 'gm ~ age + sex + tiv'"
        raise DesignError(msg) from error
    return parsed


def _without_colours(error: Exception) -> str:
    """An error of formulaic on one line, without terminal colours."""
    return " ".join(_COLOURS.sub("", str(error)).split())


def column_uses(parsed: Any) -> dict[str, set[str]]:
    """How a formula uses each column of the table: ``plain``, as ``factor`` in C(name), or in an ``expression``.

    Raises
    ------
    DesignError
        If an expression is not harmless; see :func:`expression_names`.
    """
    uses: dict[str, set[str]] = {}
    for factor in (factor for term in parsed for factor in term.factors):
        if factor.eval_method.value == "lookup":
            uses.setdefault(factor.expr, set()).add("plain")
        elif factor.eval_method.value == "python":
            kind = "factor" if re.match(r"C\(\s*(\w+|`[^`]*`)\s*[,)]", factor.expr) else "expression"
            for name in expression_names(factor.expr):
                uses.setdefault(name, set()).add(kind)
    return uses


def factor_order(formula: str) -> list[str]:
    """Factors of a right-hand side as it is written; its columns stand in another order, main effects first.

    Examples
    --------
    >>> factor_order("group:age + tiv")
    ['1', 'group', 'age', 'tiv']
    """
    terms = Formula(formula, _ordering="none") if formula else ()
    return list(dict.fromkeys(factor.expr for term in terms for factor in term.factors))


def factor_spellings(parsed: Any, factors: Collection[str]) -> list[str]:
    """Main effects of these columns as the formula writes them, e.g. ``group`` or ``C(group)``."""
    spellings = []
    for factor in (term.factors[0] for term in parsed if len(term.factors) == 1):
        if factor.eval_method.value == "lookup" and factor.expr in factors:
            spellings.append(factor.expr if factor.expr.isidentifier() else f"`{factor.expr}`")
        elif factor.expr.startswith("C(") and set(expression_names(factor.expr)[:1]) & set(factors):
            spellings.append(factor.expr)
    return spellings


def _reference_levels(references: Sequence[str], data: pd.DataFrame) -> dict[str, str]:
    """Reference level of each column, from names such as ``C(site)[T.2]``."""
    levels: dict[str, str] = {}
    for reference in references:
        factor, _, level = reference.rpartition("[T.")
        names = [factor] if factor in data else [name for name in expression_names(factor) if name in data]
        for name in names:
            levels[name] = label(float(level[:-1])) if is_number(data[name]) else level[:-1]
    return levels


def _select_columns(
    names: Iterable[str], table: pd.DataFrame, scan_ids: Sequence[str]
) -> tuple[pd.DataFrame, list[str], dict[str, str]]:
    """Columns by their names in the formula, notes on aliases, and remarks on names in another letter case."""
    notes, sources, chosen, unknown = [], {}, {}, []
    for name in names:
        source = find_column(name, table)
        if source is None:
            unknown.append(name)
            continue
        if source == ALIASES.get(name):
            notes.append(f"{name} is read from the column {source}")
        elif source != name:
            sources[name] = f"read from the column {source}"
        chosen[name] = without_missing_words(read_column(source, table)).to_numpy()
    if unknown:
        near = {name: closest(name, table.columns) for name in unknown}
        nearest = "; ".join(f"{name}: nearest {other or 'none'}" for name, other in near.items())
        msg = f"formula: no column {', '.join(unknown)} in the table ({nearest})"
        if any(map(is_tiv_name, unknown)):
            msg += (
                "; TIV was looked for beside the maps, too (CAT12's report/cat_*.xml, volumes.tsv, tiv.csv, log_*.json "
                "of T1Prep): give a table that has it with --table"
            )
        raise DesignError(msg)
    return pd.DataFrame(chosen, index=pd.Index(scan_ids, dtype=object)), notes, sources


def _without_missing(data: pd.DataFrame, missing: str) -> tuple[pd.DataFrame, list[str]]:
    if missing not in ("raise", "drop"):
        msg = f"missing={missing!r}: expected 'raise' or 'drop'"
        raise DesignError(msg)
    for name in data.select_dtypes("number"):
        infinite = data.index[np.isinf(data[name].to_numpy(dtype=float))]
        if len(infinite):
            msg = f"covariate {name}: an infinite or too large number for {listed(infinite)}; correct it or write n/a"
            raise TableError(msg)
    absent = data.isna()
    rows = absent.any(axis=1)
    dropped = [str(scan) for scan in data.index[rows]]
    if dropped and missing == "raise":
        which = "; ".join(f"{name}: {listed(data.index[absent[name]])}" for name in data if absent[name].any())
        msg = (
            f"missing covariates — {which}; fill them in or leave these scans out with --missing drop "
            "(empty cells, n/a, NA, None and . are missing values)"
        )
        raise TableError(msg)
    return data[~rows], dropped


def _evaluate(
    parsed: Any, data: pd.DataFrame, formula: str
) -> tuple[np.ndarray, dict[str, tuple[str, ...]], tuple[str, ...], set[str]]:
    if not len(data.index):
        msg = f"formula {formula!r}: no scan has all covariates"
        raise TableError(msg)
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():  # failed log and sqrt are refused below
            warnings.simplefilter("error", DataMismatchWarning)  # a level of the data that C(..., levels=...) lacks
            evaluated = model_matrix(parsed, data, context=_context(parsed, data), na_action="ignore")
            matrix = np.asarray(evaluated, dtype=np.float64)
    except (
        FormulaicError, DataMismatchWarning, ValueError, TypeError, LookupError, ArithmeticError, MemoryError,
        np.linalg.LinAlgError,
    ) as error:  # fmt: skip
        reason = _without_colours(error)[:200]
        msg = f"formula {formula!r} cannot be evaluated ({reason}); check its functions and levels"
        raise DesignError(msg) from error
    spec = evaluated.model_spec
    names = [str(name) for name in spec.column_names]
    terms = {
        INTERCEPT if str(term) == "1" else str(term): tuple(names[i] for i in indices)
        for term, indices in spec.term_indices.items()
    }
    bad = ~np.isfinite(matrix)
    if bad.any():
        rows = [str(data.index[i]) for i in np.flatnonzero(bad.any(axis=1))]
        columns = [names[i] for i in np.flatnonzero(bad.any(axis=0))]
        msg = f"{', '.join(columns)} is not finite for {listed(rows)} (log or sqrt of a negative number?)"
        raise DesignError(msg)
    references = []
    for factor, state in spec.factor_contrasts.items():
        full = [f"{factor}[T.{level}]" for level in state.levels]
        present = [name for name in full if name in names]
        if len(present) == len(full) - 1:
            references += [name for name in full if name not in names]
    factor_columns = {
        names[i]
        for term, indices in spec.term_indices.items()
        if any(factor.expr in spec.factor_contrasts for factor in term.factors)
        for i in indices
    }
    return matrix, terms, tuple(references), factor_columns


def _context(parsed: Any, data: pd.DataFrame) -> dict[str, Any]:
    """Functions that a formula may call beside those of formulaic."""
    has_factor = any(isinstance(data[name].dtype, pd.CategoricalDtype) for name in data)
    has_constant = has_factor or any(str(term) == "1" for term in parsed)
    return _CONTEXT | (_CENTRED_SPLINE if has_constant else {})


def _check_columns(matrix: np.ndarray, columns: Sequence[str], factor_columns: Collection[str]) -> None:
    """Refuse constant or collinear numbers, and too few scans; contrasts of factors may still be estimable."""
    n_scans, n_regressors = matrix.shape
    for name, column in zip(columns, matrix.T, strict=True):
        is_constant = np.ptp(column) <= 1e-12 * np.abs(column).max()
        if is_constant and INTERCEPT in columns and name not in (INTERCEPT, *factor_columns):
            msg = f"covariate {name} is constant ({column[0]:g}) in these {n_scans} scans; leave it out of the formula"
            raise DesignError(msg)
    if n_scans <= matrix_rank(matrix):
        names = ", ".join(columns)
        msg = f"{n_scans} scans cannot estimate {n_regressors} columns ({names}); simplify the formula or add scans"
        raise DesignError(msg)
    for index in collinear_columns(matrix):
        if columns[index] not in factor_columns:
            others = ", ".join(combined_columns(matrix, index, columns))
            msg = f"covariate {columns[index]} is a linear combination of {others}; leave one of them out"
            raise DesignError(msg)
