"""Region volumes in pandas: read, join with covariates by id, one linear model a region, a table and a picture.

    python examples/roi_in_pandas.py [ROI_TABLE] [COHORT_TABLE] [OUT]

Without arguments it takes what `make demo` left in `demo-out`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from scipy.stats import false_discovery_control
from statsmodels.formula.api import ols

mpl.use("agg")  # a file, no window
DEMO = Path("demo-out")
DEFAULTS = (DEMO / "roi/roi_lpba40_regions.tsv", DEMO / "bids/derivatives/vbmstat/cohort.tsv", DEMO / "roi_in_pandas")
MODEL, VARIABLE = "roi_gm_ml ~ age + C(sex) + tiv_ml", "age"


def main(roi_table: Path, cohort_table: Path, out: Path) -> pd.DataFrame:
    # Ids are text: 001 is not 1. Missing values are written n/a, which pandas knows.
    volumes = pd.read_csv(roi_table, sep="\t", dtype={"participant_id": str, "session_id": str})
    cohort = pd.read_csv(cohort_table, sep="\t", dtype={"participant_id": str, "session_id": str})
    # What a column means, its unit and the atlas' licence stand in the dictionary beside the table.
    dictionary = json.loads(roi_table.with_suffix(".json").read_text())
    print(f"roi_gm_ml: {dictionary['roi_gm_ml']['Description']} [{dictionary['roi_gm_ml']['Units']}]")
    print(f"{dictionary['vbmstat']['atlas']}: {dictionary['vbmstat']['licence']}")

    # Rows are joined by id; many_to_one stops at an id that the cohort holds twice.
    ids = [name for name in ("participant_id", "session_id") if name in volumes]
    covariates = cohort[[*ids, "age", "sex", "tiv_ml"]]
    data = volumes.merge(covariates, on=ids, how="left", validate="many_to_one")

    rows = []
    for region, part in data.dropna(subset="roi_gm_ml").groupby("region", sort=False):
        fit = ols(MODEL, data=part, missing="raise").fit()
        rows.append({"region": region, "n": int(fit.nobs), "ml_per_year": fit.params[VARIABLE],
                     "t": fit.tvalues[VARIABLE], "p": fit.pvalues[VARIABLE]})  # fmt: skip
    table = pd.DataFrame(rows)
    table["q_fdr"] = false_discovery_control(table["p"])
    table = table.sort_values("p", ignore_index=True)
    print(table.head(10).round(4).to_string(index=False))

    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "age.tsv", sep="\t", index=False)
    first = table["region"][0]
    axes = data[data["region"] == first].plot.scatter("age", "roi_gm_ml", title=first, ylabel="grey matter, mL")
    axes.figure.savefig(out / "age.svg")
    return table


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    main(*given, *DEFAULTS[len(given) :])
