"""The flow of scans into an analysis: how many there were at each step, which were left out, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vbmstat.errors import listed

_MAX_NAMED = 30  # in a note; the record has all


@dataclass(frozen=True)
class Step:
    """A step of the flow."""

    name: str  # what the scans are, or why some were left out: ``rows of cohort.tsv``, ``exclusions.tsv``
    n_left: int  # scans after it
    # id of each scan that was left out, and the reason where it has one of its own
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """One line: how many were left out, by what, and which."""
        named = [f"{scan} ({why})" if why else scan for scan, why in self.left_out.items()]
        count = f"{len(named)} scan{'' if len(named) == 1 else 's'}"
        return f"left out {count} by {self.name}: {listed(named, _MAX_NAMED)}; {self.n_left} are left"

    @property
    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {"step": self.name, "n_left": self.n_left, "left_out": dict(self.left_out)}


def step_of(name: str, n_left: int, scans: Iterable[str], why: Mapping[str, str] | None = None) -> tuple[Step, ...]:
    """A step for scans that were left out, with a reason of their own if `why` has one; none if there are none."""
    left_out = {scan: (why or {}).get(scan, "") for scan in scans}
    return (Step(name, n_left, left_out),) if left_out else ()


def flow_record(flow: Iterable[Step]) -> list[dict[str, Any]]:
    """Steps for JSON."""
    return [step.record for step in flow]
