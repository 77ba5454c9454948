"""Tables of a comparison of cohorts, in the form of the paper's and beside its numbers.

The paper is Fisch et al., deepmriprep (arXiv:2408.10656), which compares deepmriprep with CAT12 on 4,017 scans of three
cohorts. Only numbers in its text are quoted; they are from another program and other people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from vbmstat.compare.config import ComparisonPlan

PAPER = "deepmriprep and CAT12, 4,017 scans (arXiv:2408.10656)"
PAPER_R = {
    "gm": {"age": "> .8", "sex": "> .8", "education": "> .8", "iq": "> .8", "diagnosis": "> .8", "bmi": ".75"},
    "wm": {"age": "> .8", "sex": ".73", "education": "> .8", "iq": "> .8", "diagnosis": "> .8", "bmi": "lowest of all"},
}  # correlation of median t-maps, all three cohorts
PAPER_T = {
    "age": "larger in deepmriprep, similar",
    "sex": "larger in deepmriprep",
    "bmi": "larger in CAT12",
    "iq": "larger in CAT12",
    "education": "larger in CAT12",
    "diagnosis": "similar",
}  # max |t| of grey matter, all three cohorts
PAPER_ROI = {
    "gm": {"": "> .9", "Brainstem": ".75"},
    "wm": {"": "> .9", "Caudate": ".80", "Hippocampus": ".81", "Cerebellum": ".89"},
}  # correlation over scans of the volumes of the 29 regions of LPBA40; "" is any other region
PAPER_SEGMENTATION = {
    "dice_gm": "0.960",
    "dice_wm": "0.974",
    "dice_csf": "0.859",
    "mse_to_template": "0.0099 (CAT12 0.0092)",
    "published_elasticity": "250 (CAT12 240)",
}  # medians: Dice over 8,279 scans, registration over 685
PAPER_SECONDS = "4.6 with GPU, 209 low-end (CAT12 173 on 16 cores, 1,096)"
MEASURES = {
    "dice_gm": "Dice GM", "dice_wm": "Dice WM", "dice_csf": "Dice CSF", "r_mwp1": "r of mwp1, smoothed 6 mm",
    "r_mwp2": "r of mwp2, smoothed 6 mm", "mse_to_template": "MSE to the template",
    "linear_elasticity": "linear elasticity", "published_elasticity": "elasticity as in the paper",
    "jacobian_min": "smallest Jacobian",
}  # fmt: skip
_PAIR = ["cohort", "a", "b"]


def make_tables(
    plan: ComparisonPlan, maps: pd.DataFrame, rois: pd.DataFrame, evaluation: pd.DataFrame, times: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """All tables by file name.

    Parameters
    ----------
    plan : ComparisonPlan
        With each variable's name in the paper.
    maps : DataFrame
        One row per cohort, tissue, pair, variable and statistic, with the measures of
        :func:`vbmstat.metrics.agreement.compare_maps`.
    rois : DataFrame
        One row per cohort, pair, tissue and region.
    evaluation : DataFrame
        One row per cohort, scan, folder and reference.
    times : DataFrame
        cohort, pipeline, scan, seconds.

    Returns
    -------
    dict of str to DataFrame
        ``tmaps`` and ``rois`` with every measure; ``correlation`` (the paper's Table 7), ``max_t`` (Tables 8 and 9),
        ``roi_correlation``, ``segmentation`` and ``time``, with a column or rows for the paper; no empty tables.
    """
    tables = {"tmaps": maps, "rois": rois}
    if len(maps):
        main = _main_statistic(maps)
        tables |= {"correlation": _correlation(main, plan), "max_t": _max_t(main, plan)}
    if len(rois):
        tables["roi_correlation"] = _roi_correlation(rois, plan.atlas)
    if len(evaluation):
        tables["segmentation"] = _segmentation(evaluation)
    if len(times):
        tables["time"] = _time(times)
    return {name: table for name, table in tables.items() if len(table)}


def _main_statistic(maps: pd.DataFrame) -> pd.DataFrame:
    """Median t if there are subsets, else t."""
    median = maps[maps["statistic"].str.startswith("median")]
    return median if len(median) else maps


def _correlation(maps: pd.DataFrame, plan: ComparisonPlan) -> pd.DataFrame:
    """Correlation of t-maps: a row per cohort, tissue and pair, a column per variable; the paper's in extra rows."""
    wide = _wide(maps, ["cohort", "tissue", "a", "b"], "r").round(3)
    paper = [
        {"cohort": "paper", "tissue": tissue, "a": "CAT12", "b": "deepmriprep",
         **{name: PAPER_R[tissue].get(plan.variables[name].paper) for name in wide.columns[4:]}}
        for tissue in dict.fromkeys(maps["tissue"])
    ]  # fmt: skip
    return pd.concat([wide.astype(object), pd.DataFrame(paper)], ignore_index=True)


def _max_t(maps: pd.DataFrame, plan: ComparisonPlan) -> pd.DataFrame:
    """Largest |t| of each pipeline: a row per cohort, tissue and pipeline, a column per variable."""
    keys = ["cohort", "tissue", "variable"]
    sides = [
        maps[[*keys, side, f"peak_{side}"]].set_axis([*keys, "pipeline", "max_abs_t"], axis=1) for side in ("a", "b")
    ]
    long = pd.concat(sides).assign(max_abs_t=lambda table: table["max_abs_t"].abs())
    wide = _wide(long.drop_duplicates([*keys, "pipeline"]), ["cohort", "tissue", "pipeline"], "max_abs_t").round(2)
    wide = wide.sort_values(["cohort", "tissue"], kind="stable", key=lambda c: c.map(_order(long, str(c.name))))
    paper = {name: PAPER_T.get(plan.variables[name].paper) for name in wide.columns[3:]}
    row = pd.DataFrame([{"cohort": "paper", "tissue": "gm", "pipeline": "in words", **paper}])
    return pd.concat([wide.astype(object), row], ignore_index=True)


def _order(table: pd.DataFrame, column: str) -> dict[Any, int]:
    return {value: number for number, value in enumerate(dict.fromkeys(table[column]))}


def _wide(table: pd.DataFrame, keys: list[str], value: str) -> pd.DataFrame:
    """Keys in rows and variables in columns, both in order of occurrence."""
    names = list(dict.fromkeys(table["variable"]))
    wide = table.pivot_table(index=keys, columns="variable", values=value, aggfunc="first", sort=False)
    wide = wide.reindex(columns=names).reset_index()
    wide.columns.name = None
    return wide


def _roi_correlation(rois: pd.DataFrame, atlas: str) -> pd.DataFrame:
    """Correlation of each region: a row per region and tissue, a column per cohort and pair; the paper's for LPBA40."""
    named = rois.assign(column=rois["cohort"] + ": " + rois["a"] + ", " + rois["b"])
    wide = named.pivot_table(index=["tissue", "region"], columns="column", values="r", sort=False, dropna=False)
    wide = wide.reindex(columns=list(dict.fromkeys(named["column"]))).round(3).reset_index()
    wide.columns.name = None
    if atlas == "lpba40":
        of = [PAPER_ROI.get(tissue, {}) for tissue in wide["tissue"]]
        wide["paper"] = [known.get(region, known.get("")) for known, region in zip(of, wide["region"], strict=True)]
    return wide


def _segmentation(evaluation: pd.DataFrame) -> pd.DataFrame:
    """Medians over scans, by cohort, pipeline, reference and measure."""
    present = [measure for measure in MEASURES if measure in evaluation]
    long = evaluation.melt(id_vars=["cohort", "folder", "reference"], value_vars=present, var_name="measure")
    long = long.dropna(subset="value")
    keys = ["cohort", "folder", "reference", "measure"]
    table = long.groupby(keys, sort=False)["value"].agg(n_scans="count", median="median", min="min", max="max")
    table = table.reset_index().rename(columns={"folder": "pipeline", "reference": "compared_with"})
    return table.assign(paper=[PAPER_SEGMENTATION.get(measure) for measure in table["measure"]])


def _time(times: pd.DataFrame) -> pd.DataFrame:
    """Seconds per scan."""
    grouped = times.groupby(["cohort", "pipeline"], sort=False)["seconds"]
    table = grouped.agg(n_scans="count", median="median", min="min", max="max").round(1).reset_index()
    return table.assign(paper=PAPER_SECONDS)


def as_markdown(
    plan: ComparisonPlan, n_scans: Mapping[str, int], tables: Mapping[str, pd.DataFrame], notes: Sequence[str]
) -> str:
    """The tables with captions, as Markdown."""
    repeats, share = plan.glm.get("repeats", 100), 100 * float(plan.glm.get("fraction", 0.8))
    statistic = f"the median t over {repeats} subsets of {share:g} % of the scans" if repeats else "t"
    lines = ["# Comparison of pipelines", "", ", ".join(f"{name}: {n} scans" for name, n in n_scans.items()) + ".",
             f"Models: {'; '.join(f'{v.name} in `{v.formula}`' for v in plan.variables.values())}.",
             f"Rows called paper: {PAPER}.", ""]  # fmt: skip
    captions = {
        "correlation": f"Correlation of maps of {statistic}, over voxels in both masks (the paper's Table 7)",
        "max_t": f"Largest absolute value in maps of {statistic} (the paper's Tables 8 and 9)",
        "roi_correlation": f"Correlation over scans of region volumes ({plan.atlas}, left and right summed; "
        "the paper's Figs 16–21)",
        "segmentation": "Segmentation and registration, median over scans",
        "time": "Processing time, seconds per scan",
    }
    for name, caption in captions.items():
        if name in tables:
            table = _segmentation_wide(tables[name]) if name == "segmentation" else tables[name]
            lines += [f"## {caption}", "", *_rows(table), ""]
        if name == "roi_correlation" and name in tables:
            lines += [_roi_sentence(tables["rois"]), ""]
    lines += ["## Notes", "", *[f"* {note}" for note in notes], ""]
    return "\n".join(lines)


def _segmentation_wide(table: pd.DataFrame) -> pd.DataFrame:
    """Medians with measures in columns, and the paper's in the last row."""
    keys = ["cohort", "pipeline", "compared_with"]
    wide = table.pivot_table(index=keys, columns="measure", values="median", sort=False, aggfunc="first")
    wide = wide.reindex(columns=[measure for measure in MEASURES if measure in wide]).reset_index()
    order = _order(table, "cohort")
    wide = wide.sort_values("cohort", kind="stable", key=lambda names: names.map(order)).astype(object)
    paper = {"cohort": "paper", "pipeline": "deepmriprep", "compared_with": "CAT12, template", **PAPER_SEGMENTATION}
    paper = {name: value for name, value in paper.items() if name in wide}
    return pd.concat([wide, pd.DataFrame([paper])], ignore_index=True).rename(columns=MEASURES)


def _roi_sentence(rois: pd.DataFrame) -> str:
    """Number of regions with r above 0.9."""
    counts = [
        f"{cohort}, {a} and {b}, {tissue}: {int((part['r'] > 0.9).sum())} of {len(part)}"
        for (cohort, a, b, tissue), part in rois.groupby([*_PAIR, "tissue"], sort=False)
    ]
    return f"Regions with r > 0.9: {'; '.join(counts)}."


def _rows(table: pd.DataFrame) -> list[str]:
    """A table in Markdown."""
    lines = [f"| {' | '.join(map(str, table.columns))} |", "|" + "---|" * len(table.columns)]
    return lines + [f"| {' | '.join(map(_cell, row))} |" for row in table.itertuples(index=False)]


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return "–"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|")


def as_json(tables: Mapping[str, pd.DataFrame], notes: Sequence[str]) -> dict[str, Any]:
    """Tables as lists of records, missing values as null."""
    plain = {
        name: table.astype(object).where(table.notna(), None).to_dict("records")
        for name, table in tables.items() if name not in ("tmaps", "rois")
    }  # fmt: skip
    return {"paper": PAPER, "tables": plain, "notes": list(notes)}
