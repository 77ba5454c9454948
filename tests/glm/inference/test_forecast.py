"""What permutations will take is told once, from the first of them."""

from __future__ import annotations

from vbmstat.glm.inference.forecast import PILOT, Forecast


def run(counts: dict[str, int], seconds_each: float, spare: tuple[str, ...] = ()) -> tuple[list[str], list[tuple]]:
    now, said, reported = [0.0], [], []
    forecast = Forecast(counts, spare, said.append, lambda *args: reported.append(args), lambda: now[0])
    for name, count in counts.items():
        forecast.begin(name)
        forecast("permutations", 0, count)
        for done in range(PILOT, count + 1, PILOT):
            now[0] += PILOT * seconds_each
            forecast("permutations", done, count)
    return said, reported


def test_one_line_with_the_time_of_all_and_of_one():
    said, reported = run({"group": 800, "age": 800}, 1.5)
    assert said == ['2 contrasts × 800 permutations: about 40 min (--contrast "group" alone: 20 min)']
    assert reported[0] == ("permutations 1/2", 0, 800)
    assert reported[-1] == ("permutations 2/2", 800, 800)
    said, reported = run({"group": 800}, 1.5, ("age", "sex"))
    assert said == ["800 permutations of group: about 20 min (all 3 contrasts, --contrast all: 60 min)"]
    assert reported[-1] == ("permutations", 800, 800)


def test_what_is_soon_over_needs_no_forecast():
    assert run({"group": 80}, 0.001)[0] == []


def test_resumed_permutations_are_not_counted():
    now, said = [0.0], []
    forecast = Forecast({"group": 5000}, (), said.append, None, lambda: now[0])
    forecast("permutations", 4000, 5000)
    now[0] = 2.0
    forecast("permutations", 4008, 5000)  # the first ones take longer
    now[0] = 12.0
    forecast("permutations", 4108, 5000)
    assert said == ["5,000 permutations of group: about 8 min"]
