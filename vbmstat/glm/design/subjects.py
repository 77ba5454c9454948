"""Repeated scans: within() and between() of formulas; notes where a model takes the scans of a subject as independent.

One column ``age`` mixes ageing within people with differences between people. ``within(age)`` is age minus the mean
over the person's scans, ``between(age)`` that mean (Neuhaus & Kalbfleisch 1998, doi:10.2307/3109770). Both are made as
columns of the table, of the scans that are analysed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from vbmstat.errors import DesignError
from vbmstat.glm.design.covariates import as_numbers
from vbmstat.glm.design.rank import spaces, unit_columns

PERSON = "participant_id"
_NAME = r"(\w+|`[^`]+`)"
_CALL = re.compile(rf"\b(within|between)\(\s*{_NAME}\s*(?:,\s*{_NAME}\s*)?\)")
_MADE = re.compile(r"(within|between)\(([^,()]+)(?:, ([^,()]+))?\)")  # the name of such a column


def with_person_columns(formula: str) -> str:
    """A formula in which ``within(age)`` and ``between(age)`` are columns of that name; :func:`made_of` reads them.

    Raises
    ------
    DesignError
        If one of the two has no column in its brackets.

    Examples
    --------
    >>> with_person_columns("sex + within(age)")
    'sex + `within(age)`'
    """

    def name_of(call: re.Match[str]) -> str:
        kind, number, person = (word and word.strip("`") for word in call.groups())
        return f"`{kind}({number}{f', {person}' if person else ''})`"

    named = _CALL.sub(name_of, formula)
    wrong = re.search(r"\b(within|between)\([^)]*\)?", re.sub(r"`[^`]*`", "", named))
    if wrong:
        kind = wrong[1]
        msg = (
            f"formula: {wrong[0]!r}; expected a column of numbers, {kind}(age), or with its person {kind}(age, person)"
        )
        raise DesignError(msg)
    return named


def made_of(name: str) -> tuple[str, ...]:
    """Columns of the table that a covariate is made of: itself, or the number and the person of ``within(age)``.

    Examples
    --------
    >>> made_of("sex"), made_of("within(age)")
    (('sex',), ('age', 'participant_id'))
    """
    call = _MADE.fullmatch(name)
    return (name,) if call is None else (call[2], call[3] or PERSON)


def person_columns(data: pd.DataFrame, names: Iterable[str]) -> tuple[pd.DataFrame, dict[str, str]]:
    """Each person's mean of a column, or the deviations from it, and a remark on each.

    Parameters
    ----------
    data : DataFrame
        One row a scan, without missing values, with the columns that they are made of.
    names : iterable of str
        Covariates of the formula, those among them that are made and others.

    Raises
    ------
    TableError
        If a column holds no numbers.
    DesignError
        If every person has one scan, or the column of a ``within()`` does not vary within any person.
    """
    columns, remarks = {}, {}
    for name in filter(_MADE.fullmatch, names):
        kind, (number, person) = name.partition("(")[0], made_of(name)
        values, people = as_numbers(data[number], number), data[person].astype(str)
        mean = values.groupby(people.to_numpy()).transform("mean")
        if len(people) and people.is_unique:
            msg = (
                f"{name}: every {person} has one scan in this model; write {number}, or name the column that says "
                f"whose scan it is: {kind}({number}, COLUMN)"
            )
            raise DesignError(msg)
        within = values - mean
        if kind == "within" and within.abs().max() <= 1e-9 * values.abs().max():
            msg = f"{name}: {number} is the same at all scans of each {person}; take a number that differs, as years do"
            raise DesignError(msg)
        columns[name] = within if kind == "within" else mean
        remarks[name] = f"{number} minus its mean over a person's scans" if kind == "within" else "a person's mean"
    return pd.DataFrame(columns, index=data.index), remarks


def repetition_notes(table: pd.DataFrame, is_accounted_for: bool, matrix: np.ndarray) -> tuple[str, ...]:
    """One line if participants have several scans that the model takes as independent.

    Parameters
    ----------
    table : DataFrame
        One row a scan, indexed by (participant_id, session_id).
    is_accounted_for : bool
        Whether the fit has blocks, or a variance that knows the subjects.
    matrix : ndarray, (n_scans, n_regressors)
        The design; a participant with a mean of their own in it, as in a paired design, is accounted for.
    """
    if is_accounted_for or "participant_id" not in table.index.names:
        return ()
    n = int(without_own_mean(table.index.get_level_values("participant_id"), matrix).sum())
    wrong = (
        f"{n} participants have several scans, which this fit takes as independent; give --variance "
        "sandwich:participant_id, or for regions --random participant_id"
    )
    return (wrong,) if n else ()


def block_notes(blocks: pd.DataFrame, matrix: np.ndarray) -> tuple[str, ...]:
    """One line if only the permutations account for the dependence of the scans in a block.

    Parameters
    ----------
    blocks : DataFrame
        Columns of exchangeability blocks, one row a scan; none without blocks.
    matrix : ndarray, (n_scans, n_regressors)
        The design; all p account for blocks with means of their own in it, as persons in a paired design have.
    """
    if not len(blocks.columns) or (len(blocks.columns) == 1 and not without_own_mean(blocks.iloc[:, 0], matrix).any()):
        return ()
    return ("p, z and confidence limits take scans as independent; use the permutation p (pperm, pfwe)",)


def without_own_mean(groups: Sequence[str] | pd.Index | pd.Series, matrix: np.ndarray) -> np.ndarray:
    """Whether each group, in sorted order, has several scans, and a mean that is not in the space of the design."""
    members, people = pd.factorize(np.asarray(groups), sort=True)
    counts = np.bincount(members)
    basis, _ = spaces(unit_columns(matrix)[0])  # (n_scans, rank)
    sums = np.zeros((len(people), basis.shape[1]))
    np.add.at(sums, members, basis)  # Q'z of each participant's indicator z
    has_own_mean = (sums**2).sum(axis=1) >= counts * (1 - 1e-9)
    return np.asarray((counts > 1) & ~has_own_mean)
