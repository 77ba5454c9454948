"""Contrasts: their names, labels and weights, and whether a design can estimate them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vbmstat.errors import DesignError
from vbmstat.files.filenames import unique_names
from vbmstat.glm.design.contrast_text import (
    as_in_design,
    column_row,
    finite_weights,
    split_name,
    text_weights,
    typed_rows,
    vector_weights,
)
from vbmstat.glm.design.formula import split_outside_brackets
from vbmstat.glm.design.matrix import INTERCEPT, Design, factor_order
from vbmstat.glm.design.rank import spaces, unit_columns
from vbmstat.image import storage

Specs = Sequence[str] | Mapping[str, Any] | None
ALL = "all"  # in place of a contrast: one for each column, none of them of no interest
ESTIMABLE_TOLERANCE = 1e-6  # of the length of the contrast, columns scaled to unit length


@dataclass(frozen=True)
class Contrast:
    """A linear hypothesis C β = 0."""

    name: str  # as the user wrote it
    weights: np.ndarray  # C, (n_rows, n_regressors), float64; one row for t
    kind: str  # t or F
    label: str = ""  # the name in file names, letters and digits only; by default that of a single contrast

    def __post_init__(self) -> None:
        if not self.label:
            object.__setattr__(self, "label", file_labels([self.name])[0])


def file_labels(names: Sequence[str]) -> list[str]:
    """Names of contrasts in letters and digits, different on every file system.

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
    names = [name for name in design.columns if name != INTERCEPT] or [INTERCEPT]
    every = [Contrast(name, column_row(name, design), "t") for name in names]
    kept = [contrast for contrast in every if is_estimable(contrast, design)]
    if not kept:
        msg = f"no column of {', '.join(design.columns)} can be estimated on its own; give contrasts"
        raise DesignError(msg)
    return _labelled(kept)


def are_default(specs: Specs) -> bool:
    """Whether contrasts are one a column: None, or ``all``, which also permutes those of no interest."""
    return not specs or (not isinstance(specs, Mapping) and list(specs) == [ALL])


def columns_of_interest(design: Design) -> list[list[str]]:
    """Columns of each covariate together with its interactions, in the order of the formula.

    The first covariate is taken as the one of interest; later ones only if it cannot be permuted.

    Examples
    --------
    >>> terms = {"Intercept": ("Intercept",), "g": ("g[T.b]",), "age": ("age",), "g:age": ("g[T.b]:age",)}
    >>> columns_of_interest(Design(np.eye(4), ("Intercept", "g[T.b]", "age", "g[T.b]:age"), tuple("abcd"), terms=terms))
    [['g[T.b]', 'g[T.b]:age'], ['age', 'g[T.b]:age']]
    """
    parts = {term: [part.strip() for part in split_outside_brackets(term, ":")] for term in design.terms}
    covariates = list(dict.fromkeys(part for term, own in parts.items() for part in own if term != INTERCEPT))
    written = factor_order(design.formula)  # terms are sorted: tiv stands before group:age
    covariates.sort(key=lambda one: written.index(one) if one in written else len(written))
    of = [[column for term, own in parts.items() if one in own for column in design.terms[term]] for one in covariates]
    return of or [list(design.columns)]


def contrast_notes(specs: Specs, design: Design) -> tuple[str, ...]:
    """Columns without a default contrast because the design cannot separate them; vectors that were padded."""
    if are_default(specs):
        kept = {contrast.name for contrast in default_contrasts(design)}
        missing = [name for name in design.columns if name not in kept and name != INTERCEPT]
        if not missing:
            return ()
        what = "they are combinations of others" if len(missing) > 1 else "it is a combination of others"
        rank = f"the design has rank {design.rank} of {len(design.columns)} columns"
        return (
            f"no contrast for {', '.join(missing)}: {what}, so that effects cannot be separated ({rank}); leave one of "
            "them out of the formula",
        )
    return tuple(filter(None, (_padding_note(text, design) for text in specs or () if isinstance(text, str))))


def _padding_note(text: str, design: Design) -> str:
    """What a vector with fewer weights than columns stands for; empty for any other contrast."""
    named = None if text in (*design.columns, *design.terms) else split_name(text)
    rows = typed_rows(named[1] if named else text)
    n_columns = len(design.columns)
    if rows is None or min(map(len, rows)) >= n_columns:
        return ""
    texts = [_sum(row, design) for row in rows]
    return f"contrast {text!r}: filled with zeros to {n_columns} columns, as SPM does: {'; '.join(texts)}"


def weights_text(contrast: Contrast, design: Design) -> str:
    """What a contrast adds up, ``1 × age − 0.5 × tiv``; rows of F apart by semicolons."""
    return "; ".join(_sum(row, design) for row in contrast.weights.tolist())


def _sum(weights: Sequence[float], design: Design) -> str:
    """Weights as a sum of columns, ``1 × age − 0.5 × tiv``."""
    named = [(weight, column) for weight, column in zip(weights, design.columns, strict=False) if weight]
    parts = [f"{'−' if weight < 0 else '+'} {abs(weight):g} × {column}" for weight, column in named]
    return " ".join(parts).removeprefix("+ ")


def _labelled(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """Contrasts with different labels."""
    labels = file_labels([contrast.name for contrast in contrasts])
    return [replace(contrast, label=label) for contrast, label in zip(contrasts, labels, strict=True)]


def build_contrasts(specs: Specs, design: Design) -> list[Contrast]:
    """Contrasts as a user writes them.

    Parameters
    ----------
    specs : sequence of str, mapping or None
        Each string is a column (``"age"``), a term with several columns (``"site"``, an F-test), an expression
        (``"sex[T.M] - sex[T.F]"``), weights of the columns in their order (``"0 1 0"``, rows for F behind ``;``), a
        joint test (``"F(age, tiv)"``), any of these behind ``name =``, or the path of a JSON file with a mapping. A
        mapping goes from names to strings, weights, rows of weights, or ``{column: weight}``. None or ``["all"]``: one
        t-contrast a column.
    design : Design
        Gives columns and terms.

    Raises
    ------
    DesignError
        If a name is unknown, an expression is not linear, weights do not fit, two contrasts share a name, or a
        contrast cannot be estimated in this design.
    """
    if specs is None or (are_default(specs) and ALL not in (*design.columns, *design.terms)):
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
    """A contrast from text, weights, rows of weights or ``{column: weight}``; only those of a mapping have a name."""
    if isinstance(spec, Mapping):
        rows = [finite_weights(one, name or "contrast", 0) * column_row(str(c), design) for c, one in spec.items()]
        return Contrast(name or "contrast", sum(rows, np.zeros((1, len(design.columns)))), "t")
    if not isinstance(spec, str):
        return Contrast(name or "contrast", *vector_weights(spec, design, name or "contrast"))
    text = as_in_design(spec.strip(), design)
    is_known = text in design.columns or text in design.terms or text in design.references
    named = None if is_known else split_name(text)
    if named is None:
        return Contrast(name or text, *text_weights(text, design, name or text))
    name, text = named
    try:
        return Contrast(name, *text_weights(as_in_design(text, design), design, name))
    except DesignError as error:
        msg = f"contrast {name!r}, right of '=': {str(error).removeprefix('contrast: ')}"
        raise DesignError(msg) from error


def _check_name(contrast: Contrast, design: Design) -> None:
    """Refuse a contrast that has the name of a column, term or reference level and tests something else."""
    name = as_in_design(contrast.name, design)
    is_tested = name in design.columns or name in design.terms
    if is_tested and _is_same_test(contrast, Contrast(name, *text_weights(name, design, name))):
        return
    if is_tested or name in design.references:
        msg = (
            f"contrast {contrast.name!r} has the name of a column or level of the design, but tests something else; "
            f"give it another name, e.g. 'my {contrast.name} = …', or write {contrast.name!r} alone to test it"
        )
        raise DesignError(msg)


def _is_same_test(one: Contrast, other: Contrast) -> bool:
    """Whether two contrasts test the same hypothesis: the same direction of t, the same space of F."""
    a, b = one.weights, other.weights
    if one.kind != other.kind:
        return False
    if one.kind == "t":
        return bool(np.allclose(a * np.linalg.norm(b), b * np.linalg.norm(a)))
    ranks = {int(np.linalg.matrix_rank(rows)) for rows in (a, b, np.vstack([a, b]))}
    return len(ranks) == 1


def is_estimable(contrast: Contrast, design: Design) -> bool:
    """Whether C β is determined by X β."""
    return bool(estimable_rows(contrast.weights, design).all())


def estimable_rows(weights: np.ndarray, design: Design) -> np.ndarray:
    """Which rows of weights (m, p) lie in the row space of X, so that their estimates are determined, (m,), bool."""
    scaled, norms = unit_columns(design.matrix)
    _, row_space = spaces(scaled)  # (rank, p)
    weights = weights / norms
    outside = weights - weights @ row_space.T @ row_space
    return np.asarray(np.linalg.norm(outside, axis=1) <= ESTIMABLE_TOLERANCE * np.linalg.norm(weights, axis=1))


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
