from __future__ import annotations

import copy

from vbmstat.report.rules import HERE, PARTLY, YOURS, glm_rules, preprocessing_rules


def rule(number: int, record: dict, **changes):
    arguments = {"has_preprocessing": True, "n_flagged": 0, "has_clusters": False, **changes}
    return glm_rules(record, **arguments)[number - 1]


def test_there_are_ten_and_rationale_limits_and_caution_are_never_ticked(record) -> None:
    for rules in (preprocessing_rules(0, False), glm_rules(record, True, 0, True)):
        assert [one.number for one in rules] == list(range(1, 11))
        assert [rules[n - 1].status for n in (1, 9, 10)] == [PARTLY, YOURS, YOURS]


def test_uncorrected_p_do_not_satisfy_the_fifth_rule(record) -> None:
    assert rule(5, record).status == PARTLY
    assert "they make no voxel significant" in rule(5, record).text
    corrected = rule(5, {**record, "inference": {"kinds": ["fwe", "tfce"]}})
    assert (corrected.status, "(fwe, tfce)" in corrected.text) == (HERE, True)


def test_region_tables_have_corrected_p(record) -> None:
    of_regions = rule(5, {**record, "level": "roi", "inference": None})
    assert (of_regions.status, "false discovery rate" in of_regions.text) == (HERE, True)
    assert "voxel" not in of_regions.text


def test_maps_of_unknown_origin_do_not_satisfy_the_second_and_third(record) -> None:
    assert (rule(2, record).status, rule(3, record).status) == (HERE, HERE)
    assert [rule(n, record, has_preprocessing=False).status for n in (2, 3)] == [PARTLY, PARTLY]


def test_what_is_unusual_is_to_be_justified(record) -> None:
    assert "not a test" in rule(7, record).text  # the subsets
    plain = copy.deepcopy(record) | {"n_subsets": 0}
    assert rule(7, plain).status == HERE
    plain["spec"]["variance"] = "hc3"
    assert "HC3" in rule(7, plain).text


def test_pitfalls_are_named(record) -> None:
    changed = copy.deepcopy(record)
    rows = [{"column": "age", "vif": 12.0, "r_tiv": -0.7}, {"column": "tiv", "vif": 1.0, "r_tiv": 1.0}]
    changed["design_report"] = rows
    text = rule(8, changed, n_flagged=2).text
    assert "VIF 12.0" in text
    assert "age correlates with TIV (r = -0.70)" in text
    assert "tiv correlates" not in text
    assert "2 scans in the model are flagged" in text


def test_mixed_engines_are_a_pitfall() -> None:
    assert "several engines" in preprocessing_rules(0, True)[7].text
    assert "several engines" not in preprocessing_rules(0, False)[7].text
