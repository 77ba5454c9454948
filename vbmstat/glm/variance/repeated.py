"""Repeated scans in a model: who is the subject of each scan, and the maps of a fit with sandwich variances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from vbmstat.errors import TableError
from vbmstat.glm.design.contrast import Contrast
from vbmstat.glm.design.matrix import RANK_TOLERANCE
from vbmstat.glm.fit.tensors import LocalDfFit
from vbmstat.glm.inference.p_values import p_of_f, p_two_sided, q_fdr, z_of_f, z_of_t
from vbmstat.glm.results import StatMap
from vbmstat.glm.variance.sandwich import SandwichFit
from vbmstat.tables.cells import labels, without_missing_words
from vbmstat.tables.cohort import closest


def subject_labels(name: str, table: pd.DataFrame, scan_ids: Sequence[str]) -> list[str]:
    """Subject (or family) of each scan, from a column or a part of the scans' ids.

    Parameters
    ----------
    name : str
        Column such as ``family_id``, or ``participant_id``.
    table : DataFrame
        One row a scan, indexed by (participant_id, session_id).
    scan_ids : sequence of str
        For messages.

    Raises
    ------
    TableError
        If there is no such column, or a scan has no value in it.
    """
    if name in table:
        values = without_missing_words(table[name])
    elif name in table.index.names:
        values = table.index.get_level_values(name).to_series()
    else:
        known = [str(level) for level in table.index.names] + list(map(str, table))
        near = closest(name, known) or "none"
        msg = f"no column {name!r} in the table (nearest {near}); name the column with each scan's subject"
        raise TableError(msg)
    empty = [scan for scan, missing in zip(scan_ids, values.isna(), strict=True) if missing]
    if empty:
        msg = f"no {name} for {', '.join(empty[:12])}; fill it in or leave these scans out"
        raise TableError(msg)
    return labels(values)


def repetition_notes(table: pd.DataFrame, is_accounted_for: bool, matrix: np.ndarray) -> tuple[str, ...]:
    """One line if participants have several scans and the model does not know.

    Parameters
    ----------
    table : DataFrame
        One row a scan, indexed by (participant_id, session_id).
    is_accounted_for : bool
        Whether the fit has blocks, or a variance that knows the subjects.
    matrix : ndarray, (n_scans, n_regressors)
        The design: a participant whose own mean it holds, as a factor of persons does in a paired design, is known.
    """
    if is_accounted_for or "participant_id" not in table.index.names:
        return ()
    members, people = pd.factorize(table.index.get_level_values("participant_id"))
    counts = np.bincount(members)
    norms = np.linalg.norm(matrix, axis=0)
    left, singular, _ = np.linalg.svd(matrix / np.where(norms > 0, norms, 1), full_matrices=False)
    basis = left[:, singular > RANK_TOLERANCE * singular[0]]  # (n_scans, rank)
    sums = np.zeros((len(people), basis.shape[1]))
    np.add.at(sums, members, basis)  # Q'z of each participant's indicator z
    has_own_mean = (sums**2).sum(axis=1) >= counts * (1 - 1e-9)
    n = int(((counts > 1) & ~has_own_mean).sum())
    wrong = f"{n} participants have several scans, which this fit takes for independent; see --repeated and --blocks"
    return (wrong,) if n else ()


def sandwich_maps(
    fit: LocalDfFit, index: int, contrast: Contrast, with_fdr: bool = False
) -> dict[str, StatMap]:
    """The maps of one contrast: t or F, p, z, effect, variance, degrees of freedom, and q if wanted.

    Parameters
    ----------
    fit : LocalDfFit
        From :func:`vbmstat.glm.variance.sandwich.fit_sandwich` or :func:`vbmstat.glm.variance.groups.fit_grouped`.
    index : int
        Which contrast of the fit.
    contrast : Contrast
        Its name and kind.
    with_fdr : bool
        Whether the map ``qfdr`` is wanted.
    """
    statistic, df, inside = fit.statistic[index], fit.df[index], fit.mask
    m, middle = float(np.linalg.matrix_rank(contrast.weights)), float(np.median(df[inside]))
    t_like = contrast.kind == "t"
    dofs = f"{middle:.1f}" if t_like else f"{m:.1f},{middle:.1f}"
    intent = ("t test", (middle,)) if t_like else ("f test", (m, middle))
    p = p_two_sided(statistic, df) if t_like else p_of_f(statistic, m, df)
    z = z_of_t(statistic, df) if t_like else z_of_f(statistic, m, df)
    name = f"contrast {index + 1}: {contrast.name}"
    sides = "two-sided uncorrected p" if t_like else "uncorrected p"
    found = [
        StatMap(contrast.kind, statistic, intent, f"SPM{{{contrast.kind.upper()}_[{dofs}]}} - {name}"),
        StatMap("p", np.where(inside, p, 1.0), ("p value", ()), f"{sides}: {contrast.name}"),
        StatMap("z", np.where(inside, z, 0.0), ("z score", ()), f"SPM{{Z}} - {name}"),
        StatMap("df", df, ("estimate", ()), f"effective degrees of freedom: {contrast.name}"),
    ]
    how = "sandwich" if isinstance(fit, SandwichFit) else "groups'"
    if t_like:
        found += [
            StatMap("effect", fit.effect[index], ("estimate", ()), name),
            StatMap("variance", fit.variance[index], ("estimate", ()), f"{how} variance of {name}"),
        ]
    if with_fdr:
        q = np.ones(len(p))
        q[inside] = q_fdr(p[inside])
        found.append(StatMap("qfdr", q, ("p value", ()), f"q of false discovery rate: {contrast.name}"))
    return {one.stat: one for one in found}


def sandwich_record(
    fit: object, contrasts: Sequence[Contrast], name: str | None, subjects: Sequence[str] | None
) -> dict[str, Any]:
    """What ``glm.json`` says about the sandwich estimator; nothing of another fit."""
    if not isinstance(fit, SandwichFit):
        return {}
    df = {c.name: round(float(df), 4) for c, df in zip(contrasts, fit.median_df, strict=True)}
    return {
        "sandwich": {
            "subject": name, "n_subjects": len(set(subjects or ())), "correction": "CR2",
            "degrees_of_freedom": "Satterthwaite", "df": df,
        }
    }  # fmt: skip
