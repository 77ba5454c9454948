"""Repeated scans: notes where a model, or its p, takes the scans of one subject as independent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from vbmstat.glm.design.rank import spaces, unit_columns


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
        f"{n} participants have several scans, which this fit takes as independent; see --variance "
        "sandwich:participant_id and --blocks"
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
