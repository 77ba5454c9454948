"""Fuzz every reader for as long as one likes: ``python -m tests.fuzz.run --minutes 10``.

Prints each finding with the smallest input that hypothesis could make of it, and ends with a table: examples, findings,
slowest example, and what the process's memory has grown by. Exit code 1 if anything was found.
"""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import time
import traceback
import warnings
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings

from tests.fuzz.targets import TARGETS, Target

HANG_S, ROUND = 20, 200


class Hang(BaseException):
    """A reader did not come back in time."""


def _interrupt(_: int, __: FrameType | None) -> None:
    raise Hang


class Count:
    """A target that counts and times what it reads."""

    def __init__(self, target: Target) -> None:
        self.target, self.examples, self.findings, self.slowest_s, self.grown_mb = target, 0, 0, 0.0, 0

    def __call__(self, drawn: Any) -> None:
        start = time.perf_counter()
        signal.alarm(HANG_S)
        try:
            self.target(drawn)
        except Hang as error:
            msg = f"no answer after {HANG_S} s"
            raise AssertionError(msg) from error
        finally:
            signal.alarm(0)
            self.examples += 1
            self.slowest_s = max(self.slowest_s, time.perf_counter() - start)

    def round(self, number: int) -> None:
        """Some more examples."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        options = settings(
            max_examples=ROUND, deadline=None, database=None, verbosity=Verbosity.quiet,
            suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink],
        )  # fmt: skip
        try:
            seed(number)(options(given(self.target.given)(lambda drawn: self(drawn))))()  # noqa: PLW0108  (it wants a function)
        except Exception as error:  # what was found
            self.findings += 1
            for one in getattr(error, "exceptions", [error]):
                told = "".join(traceback.format_exception(one, limit=-4, chain=False))
                told += "\n".join(getattr(one, "__notes__", []))
                print(f"--- {self.target.name}, seed {number}\n{told[-2000:]}", flush=True)
        self.grown_mb += (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--only", default="", help="Targets whose name holds this.")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("error")
    signal.signal(signal.SIGALRM, _interrupt)
    counts = [Count(target) for target in TARGETS if options.only in target.name]
    end, number = time.monotonic() + 60 * options.minutes, options.seed
    while time.monotonic() < end:
        number += 1
        for count in counts:
            if time.monotonic() < end:
                count.round(number)
    print("| reader | examples | findings | slowest s | memory grown by MB |\n|---|---|---|---|---|")
    for count in counts:
        print(
            f"| {count.target.name} | {count.examples} | {count.findings} | {count.slowest_s:.2f} | {count.grown_mb} |"
        )
    sys.exit(any(count.findings for count in counts))


if __name__ == "__main__":
    main()
