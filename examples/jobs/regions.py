"""Called by regions.sh: one region's model in pandas and statsmodels. Ids are text, and rows are joined by id."""

import sys

import pandas as pd
from statsmodels.formula.api import ols

volumes = pd.read_csv(sys.argv[1], sep="\t", dtype={"participant_id": str})
scans = pd.read_csv(sys.argv[2], sep="\t", dtype={"scan_id": str})
data = volumes.merge(scans, left_on="participant_id", right_on="scan_id", validate="many_to_one")
group = "group[T.patient]"
fit = ols("roi_gm_ml ~ group + age + sex + tiv", data[data["region"] == "Insula"], missing="raise").fit()
print(f"pandas: Insula, patients minus controls {fit.params[group]:.4f} mL, t = {fit.tvalues[group]:.4f}")
