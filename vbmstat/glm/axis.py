"""The axis of a contrast's figure: the covariate that it shows, its places, and the design's rows there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from vbmstat.glm.design.contrast import Contrast
from vbmstat.glm.design.matrix import Design, design_rows, term_covariates
from vbmstat.glm.design.rank import spaces, unit_columns
from vbmstat.tables import cells

_LINE_POINTS = 50
_TESTED = 1e-6  # of the length of a contrast: what the line does not show of it


@dataclass(frozen=True)
class Axis:
    """What a figure shows: a covariate that is a number, and factors whose combinations have a line or mean each."""

    number: str | None
    factors: tuple[str, ...]

    @property
    def is_factor(self) -> bool:
        """Whether the axis has levels."""
        return self.number is None and bool(self.factors)

    @property
    def name(self) -> str:
        """What the axis shows; empty for a contrast of the mean."""
        return self.number or " × ".join(self.factors)

    @property
    def free(self) -> set[str]:
        """Covariates that are not held at their means."""
        return {*self.factors, *([] if self.number is None else [self.number])}

    def positions(self, design: Design) -> pd.DataFrame:
        """Where each scan is: ``covariate``, ``group`` and the row of the design whose ``level`` it has."""
        group = ["; ".join(map(cells.label, row)) for row in design.covariates[list(self.factors)].to_numpy(object)]
        if not self.factors:
            group = [""] * len(design.scan_ids)
        number = group if self.number is None else design.covariates[self.number].to_numpy(dtype=float)
        return pd.DataFrame({"covariate": number, "group": group, "level": range(len(group))})

    def line(self, design: Design, scans: pd.DataFrame) -> pd.DataFrame:
        """Points of the line over the range of each group, or each level once, in the order of the levels."""
        firsts = scans.drop_duplicates("group")
        order = {name: design.covariates[name].astype("category").cat.codes for name in self.factors}
        ranks = pd.DataFrame(order).iloc[firsts["level"]].set_axis(firsts.index) if order else None
        firsts = firsts if ranks is None else firsts.loc[ranks.sort_values(list(self.factors)).index]
        if self.number is None:
            return firsts
        of = scans.groupby("group")["covariate"]
        low, high = of.min(), of.max()
        return pd.concat([
            pd.DataFrame({"covariate": np.linspace(low[at], high[at], _LINE_POINTS), "group": at, "level": level})
            for at, level in zip(firsts["group"], firsts["level"], strict=True)
        ])  # fmt: skip

    def rows(self, design: Design, places: pd.DataFrame) -> np.ndarray:
        """Rows of the design at places, (k, n_regressors): numbers held at their mean, nuisance columns at theirs."""
        held = {
            name: places["covariate"].to_numpy(dtype=float) if name == self.number
            else np.full(len(places), column.mean()) if is_number(name, design)
            else column.iloc[places["level"]].array
            for name, column in design.covariates.items()
        }  # fmt: skip
        rows = np.tile(design.matrix.mean(axis=0), (len(places), 1))
        moved = [design.columns.index(c) for t, of in term_covariates(design).items() if of & self.free
                 for c in design.terms[t]]  # fmt: skip
        if moved:
            rows[:, moved] = design_rows(design, pd.DataFrame(held))[:, moved]
        return rows

    def shows(self, contrast: Contrast, rows: np.ndarray, design: Design) -> bool:
        """Whether the contrast is a difference (for a mean: the value) of points of the line, (k, n_regressors)."""
        scaled, norms = unit_columns(design.matrix)
        estimable = spaces(scaled)[1]  # (rank, p)
        shown = rows - rows[:1] if self.free else rows
        basis = spaces(shown / norms @ estimable.T)[1]
        asked = contrast.weights / norms @ estimable.T
        return bool(np.linalg.norm(asked - asked @ basis.T @ basis) <= _TESTED * np.linalg.norm(asked))


def is_number(name: str, design: Design) -> bool:
    """Whether a covariate of a design is a number there, not a factor."""
    return all(one.kind == "number" for one in design.taken if one.name == name)


def choose_axis(design: Design, contrast: Contrast, y: np.ndarray) -> tuple[Axis, list[str]]:
    """The axis of a contrast's figure, and notes.

    Of several numbers, the one that explains most of the variance of the fit; factors that are tested, or interact with
    what is on the axis, have a line or mean for each of their levels.
    """
    uses, notes = term_covariates(design), []
    moved = {column for column, weights in zip(design.columns, contrast.weights.T, strict=True) if weights.any()}
    in_test = [term for term, columns in design.terms.items() if moved & set(columns)]
    tested = [name for name in map(str, design.covariates) if any(name in uses[term] for term in in_test)]
    numbers = [name for name in tested if is_number(name, design)]
    beta = np.linalg.lstsq(design.matrix, y, rcond=None)[0]

    def explained(name: str) -> float:
        columns = [design.columns.index(c) for term, of in uses.items() if name in of for c in design.terms[term]]
        return float((design.matrix[:, columns] @ beta[columns]).var())

    number = max(numbers, key=explained, default=None)
    others = [name for name in numbers if name != number]
    if others:
        notes.append(
            f"{contrast.name} tests {', '.join(numbers)}; the figure shows {number}, which explains most of the fit"
        )
    free = {name for name in tested if name not in others}
    partners: set[str] = set()
    for _ in design.covariates:  # until no factor is added: one may bring in the next
        partners = {name for of in uses.values() if of & free for name in of} - free
        free |= {name for name in partners if not is_number(name, design)}
    held = sorted(name for name in partners if is_number(name, design))
    if held:
        notes.append(f"held at its mean, though it interacts with what is shown: {', '.join(held)}")
    return Axis(number, tuple(str(name) for name in design.covariates if name in free and name != number)), notes
