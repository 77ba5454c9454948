"""Repeated scans: who is the subject of each scan, and whether the model knows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from vbmstat.errors import TableError
from vbmstat.glm.design.matrix import RANK_TOLERANCE
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
    wrong = (
        f"{n} participants have several scans, which this fit takes for independent; see --variance "
        "sandwich:participant_id and --blocks"
    )
    return (wrong,) if n else ()
