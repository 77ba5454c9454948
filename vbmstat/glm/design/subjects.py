"""Repeated scans: who is the subject of each scan, and whether the model knows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from vbmstat.errors import TableError
from vbmstat.glm.design.matrix import RANK_TOLERANCE
from vbmstat.tables.cells import labels, without_missing_words
from vbmstat.tables.cohort import closest, find_column, read_column


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
    source = find_column(name, table)
    if source is None:
        known = [str(level) for level in table.index.names] + list(map(str, table))
        near = closest(name, known) or "none"
        msg = f"no column {name!r} in the table (nearest {near}); name the column with each scan's subject"
        raise TableError(msg)
    values = without_missing_words(read_column(source, table))
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
    n = int(without_own_mean(table.index.get_level_values("participant_id"), matrix).sum())
    wrong = (
        f"{n} participants have several scans, which this fit takes for independent; see --variance "
        "sandwich:participant_id and --blocks"
    )
    return (wrong,) if n else ()


def block_notes(blocks: pd.DataFrame, matrix: np.ndarray) -> tuple[str, ...]:
    """One line where only the permutations know that the scans of a block depend on one another.

    Parameters
    ----------
    blocks : DataFrame
        Columns of exchangeability blocks, one row a scan; none without blocks.
    matrix : ndarray, (n_scans, n_regressors)
        The design: blocks whose own means it holds, as those of persons in a paired design, are known to all p.
    """
    if not len(blocks.columns) or (len(blocks.columns) == 1 and not without_own_mean(blocks.iloc[:, 0], matrix).any()):
        return ()
    return ("p, z and confidence limits take scans as independent; use the permutation p (pperm, pfwe)",)


def without_own_mean(groups: Sequence[str] | pd.Index | pd.Series, matrix: np.ndarray) -> np.ndarray:
    """Whether each group, in sorted order, has several scans, and a mean that is not in the space of the design."""
    members, people = pd.factorize(np.asarray(groups), sort=True)
    counts = np.bincount(members)
    norms = np.linalg.norm(matrix, axis=0)
    left, singular, _ = np.linalg.svd(matrix / np.where(norms > 0, norms, 1), full_matrices=False)
    basis = left[:, singular > RANK_TOLERANCE * singular[0]]  # (n_scans, rank)
    sums = np.zeros((len(people), basis.shape[1]))
    np.add.at(sums, members, basis)  # Q'z of each participant's indicator z
    has_own_mean = (sums**2).sum(axis=1) >= counts * (1 - 1e-9)
    return np.asarray((counts > 1) & ~has_own_mean)
