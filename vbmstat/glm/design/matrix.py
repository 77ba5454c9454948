"""Design matrices from formulas: the only module that knows formulaic."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
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
from vbmstat.glm.design.covariates import Covariate, describe, take
from vbmstat.glm.design.formula import check_size, expression_names
from vbmstat.tables.cells import label, without_missing_words
from vbmstat.tables.cohort import ALIASES, closest, find_column, read_column

INTERCEPT = "Intercept"
RANK_TOLERANCE = 1e-9  # of the largest singular value, columns scaled to unit length (as for lm's 1e-7 in R, stricter)
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
        How each column of the table was taken.
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


def matrix_rank(matrix: np.ndarray) -> int:
    """Rank of a matrix (n, p) whose columns are first scaled to unit length."""
    norms = np.linalg.norm(matrix, axis=0)
    singular = np.linalg.svd(matrix / np.where(norms > 0, norms, 1), compute_uv=False)
    return int((singular > RANK_TOLERANCE * singular[0]).sum()) if singular.size else 0


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
        What becomes of scans without a value in a column that the formula uses.

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
    parsed = parse_formula(formula)
    data, notes, sources = _select_columns(parsed, table, scan_ids)
    data, dropped = _without_missing(data, missing)
    if dropped:
        notes.append(f"dropped {len(dropped)} scans with missing covariates: {', '.join(dropped)}")
    uses = column_uses(parsed)
    data, remarks = take(data, uses)
    remarks |= {name: "; ".join([*filter(None, [remarks.get(name)]), text]) for name, text in sources.items()}
    matrix, terms, references, factor_columns = _evaluate(parsed, data, formula)
    columns = tuple(itertools.chain.from_iterable(terms.values()))
    taken = describe(data, uses, _reference_levels(references, data), remarks)
    notes += [note for covariate in taken for note in covariate.notes]
    design = Design(matrix, columns, tuple(data.index), formula, terms, references, data, tuple(notes), taken)
    check_design(design, factor_columns)
    return design


def with_map_column(design: Design, name: str) -> Design:
    """The design with one more column that stands for a voxelwise covariate when contrasts are read.

    Its values are arbitrary: a vector outside the space of the other columns.
    """
    column = np.random.default_rng(0).standard_normal(len(design.matrix))
    label = f"map({name})"
    return replace(
        design,
        matrix=np.column_stack([design.matrix, column]),
        columns=(*design.columns, label),
        terms={**design.terms, label: (label,)},
    )


def parse_formula(formula: str) -> Any:
    """Parsed right-hand side, after every factor in it has been found harmless."""
    formula = normalized(formula)
    check_size(formula)
    try:
        parsed = Formula(formula)
        factors = sorted({factor.expr for term in parsed for factor in term.factors})
    except (FormulaicError, SyntaxError, TypeError, ValueError, AttributeError, RecursionError) as error:
        reason = "several parts" if isinstance(error, AttributeError) else _one_line(error)
        msg = f"formula {formula!r} cannot be read ({reason[:120]}); write e.g. 'gm ~ age + sex + tiv'"
        raise DesignError(msg) from error
    for factor in factors:
        if not factor.isidentifier():
            expression_names(factor if not _is_lookup(parsed, factor) else f"`{factor}`")
    return parsed


def _one_line(error: Exception) -> str:
    """An error of formulaic without line breaks and terminal colours."""
    return " ".join(_COLOURS.sub("", str(error)).split())


def _is_lookup(parsed: Any, expression: str) -> bool:
    """Whether the factor is a plain column name (in backticks where it has odd characters)."""
    return any(f.expr == expression and f.eval_method.value == "lookup" for term in parsed for f in term.factors)


def column_names(parsed: Any) -> list[str]:
    """Names of the table's columns that a parsed formula uses, in order of appearance."""
    return list(column_uses(parsed))


def column_uses(parsed: Any) -> dict[str, set[str]]:
    """How a formula uses each column: ``plain``, as ``factor`` in C(name), or in another ``expression``."""
    uses: dict[str, set[str]] = {}
    for factor in (factor for term in parsed for factor in term.factors):
        if factor.eval_method.value == "lookup":
            uses.setdefault(factor.expr, set()).add("plain")
        elif factor.eval_method.value == "python":
            kind = "factor" if re.match(r"C\(\s*(\w+|`[^`]*`)\s*[,)]", factor.expr) else "expression"
            for name in expression_names(factor.expr):
                uses.setdefault(name, set()).add(kind)
    return uses


def factor_spellings(parsed: Any, factors: Collection[str]) -> list[str]:
    """Main effects of these columns as the formula writes them, e.g. ``group`` or ``C(group)``."""
    found = []
    for term in parsed:
        if len(term.factors) != 1:
            continue
        expression = term.factors[0].expr
        names = [expression] if _is_lookup(parsed, expression) else (
            expression_names(expression) if expression.startswith("C(") else []
        )  # fmt: skip
        if names and names[0] in factors:
            found.append(expression if expression.isidentifier() or "(" in expression else f"`{expression}`")
    return found


def _reference_levels(references: Sequence[str], data: pd.DataFrame) -> dict[str, str]:
    """Reference level of each column, from names such as ``C(site)[T.2]``."""
    levels: dict[str, str] = {}
    for reference in references:
        factor, _, level = reference.rpartition("[T.")
        names = [factor] if factor in data else [name for name in expression_names(factor) if name in data]
        for name in names:
            text = level[:-1]
            is_number = pd.api.types.is_numeric_dtype(data[name]) and not pd.api.types.is_bool_dtype(data[name])
            levels[name] = label(float(text)) if is_number else text
    return levels


def _select_columns(
    parsed: Any, table: pd.DataFrame, scan_ids: Sequence[str]
) -> tuple[pd.DataFrame, list[str], dict[str, str]]:
    """Columns by their names in the formula, notes on stand-ins, and remarks on names in another letter case."""
    notes, sources, chosen, unknown = [], {}, {}, []
    for name in column_names(parsed):
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
        near = "; ".join(f"{name}: nearest {closest(name, table.columns) or 'none'}" for name in unknown)
        msg = f"formula: no column {', '.join(unknown)} in the table ({near}); it has {', '.join(map(str, table))}"
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
        with np.errstate(all="ignore"), warnings.catch_warnings():  # what log and sqrt could not do is found below
            warnings.simplefilter("error", DataMismatchWarning)  # a level of the data that C(..., levels=...) lacks
            evaluated = model_matrix(parsed, data, context=_context(parsed, data), na_action="ignore")
            matrix = np.asarray(evaluated, dtype=np.float64)
    except (
        FormulaicError, DataMismatchWarning, ValueError, TypeError, LookupError, ArithmeticError, MemoryError,
        np.linalg.LinAlgError,
    ) as error:  # fmt: skip
        reason = _one_line(error)
        msg = f"formula {formula!r} cannot be evaluated ({reason[:200]}); check its functions and levels"
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


def check_design(design: Design, factor_columns: Collection[str] = ()) -> None:
    """Refuse designs that no scan could estimate.

    Raises
    ------
    DesignError
        If a numeric covariate is constant or a linear combination of earlier columns, or if there are no more
        scans than the rank. Empty cells among factors are allowed: contrasts are checked for estimability.
    """
    matrix = design.matrix
    n_scans, n_regressors = matrix.shape
    for name, column in zip(design.columns, matrix.T, strict=True):
        if name != INTERCEPT and np.ptp(column) <= 1e-12 * np.abs(column).max() and INTERCEPT in design.columns:
            if name in factor_columns:
                continue
            msg = f"covariate {name} is constant ({column[0]:g}) in these {n_scans} scans; leave it out of the formula"
            raise DesignError(msg)
    if n_scans <= n_regressors and n_scans <= design.rank:
        names = ", ".join(design.columns)
        msg = f"{n_scans} scans cannot estimate {n_regressors} columns ({names}); simplify the formula or add scans"
        raise DesignError(msg)
    for index in collinear_columns(matrix):
        name = design.columns[index]
        if name not in factor_columns:
            others = _explaining(matrix, index, design.columns)
            msg = f"covariate {name} is a linear combination of {', '.join(others)}; leave one of them out"
            raise DesignError(msg)


def collinear_columns(matrix: np.ndarray) -> list[int]:
    """Indices of columns that are linear combinations of those before them, for a matrix (n, p)."""
    norms = np.linalg.norm(matrix, axis=0)
    basis = np.empty((matrix.shape[0], 0))
    found = []
    for index, norm in enumerate(norms):
        column = matrix[:, index] / norm if norm > 0 else matrix[:, index]
        for _ in range(2):  # twice is enough (Kahan): reorthogonalisation
            column = column - basis @ (basis.T @ column)
        rest = np.linalg.norm(column)
        if rest <= RANK_TOLERANCE:
            found.append(index)
        else:
            basis = np.column_stack([basis, column / rest])
    return found


def _explaining(matrix: np.ndarray, index: int, columns: Sequence[str]) -> list[str]:
    others = [i for i in range(index) if np.linalg.norm(matrix[:, i]) > 0]
    scaled = matrix[:, others] / np.linalg.norm(matrix[:, others], axis=0)
    weights = np.linalg.lstsq(scaled, matrix[:, index], rcond=None)[0]
    return [columns[i] for i, w in zip(others, weights, strict=True) if abs(w) > 1e-6 * np.abs(weights).max()]
