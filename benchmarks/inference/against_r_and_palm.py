"""The statistics against R, PALM, nilearn, statsmodels and every rearrangement written out, on small data.

    python benchmarks/inference/against_r_and_palm.py                    # what is installed; half a minute
    python benchmarks/inference/against_r_and_palm.py --palm ~/PALM      # github.com/andersonwinkler/PALM, and Octave

R with Debian's r-cran-{car,sandwich,clubsandwich,lme4,lmertest}; PALM's folder also as $PALM. What is not there is left
out, and the table says so. Data are made by seed. The table goes to OUT/against_r_and_palm.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import statsmodels.api as sm
from nilearn.glm import compute_contrast
from nilearn.glm.first_level import run_glm
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.glm import enumerated
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.results import GlmResults
from vbmstat.image.grid import Grid
from vbmstat.maps.store import ArrayMaps, Space
from vbmstat.regions.mixed_analysis import fit_mixed_glm

RESULTS = Path(__file__).parents[1] / "results"
SHAPE = (4, 4, 3)
N_VOXELS = int(np.prod(SHAPE))
SPACE = Space(Grid(SHAPE, np.diag([2.0, 2.0, 2.0, 1.0])), np.arange(N_VOXELS))
N_NULL = 100
Values = dict[str, np.ndarray]  # quantity -> numbers


class NotRunError(Exception):
    """A peer is not installed, or failed; the message says which."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--palm", type=Path, default=os.environ.get("PALM"), help="folder with palm.m")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    study, scans, null = cross_section(), repeated_scans(), null_scans()
    ours = of_models(study) | of_repeated(scans) | of_null(null) | of_permutations()
    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for table, name in ((study, "study"), (scans, "scans"), (null, "null")):
            table.to_csv(folder / f"{name}.csv", index=False)
        peers: dict[str, tuple[list[str], Callable[[], Values]]] = {
            "statsmodels": (STATSMODELS, partial(of_statsmodels, study, scans)),
            "nilearn": (NILEARN, partial(of_nilearn, study)),
            "scipy": (["Welch's t", "Welch's df"], partial(of_scipy, study)),
            "every rearrangement": ([*CASES, "TFCE"], of_enumeration),
            "R": (list(R_QUANTITIES), partial(of_r, folder)),
            "PALM": ([*CASES, "TFCE", "t of two groups"], partial(of_palm, arguments.palm, folder)),
        }
        for peer, (quantities, run) in peers.items():
            lines += rows(peer, quantities, run, ours)
    head = "| quantity | peer | numbers | largest difference | relative |\n|---|---|---|---|---|\n"
    text = f"{ABOUT}\n\n{head}" + "\n".join(sorted(lines)) + "\n\n" + versions(arguments.palm) + "\n"
    (arguments.out / "against_r_and_palm.md").write_text(text, encoding="utf-8")
    sys.stdout.write(text)


ABOUT = (
    "Largest absolute difference between vbmstat and its peers, and that over the largest absolute value. "
    "Cross-section: 24 scans, 3 columns. Repeated scans: 14 persons with 1 to 4 scans, 3 columns; null: 8 persons with "
    f"3 scans, 100 columns. Permutations: all that exist of 6 to 8 scans, {N_VOXELS} voxels, two-sided. lme4 stops "
    "within about 1e-7 of its optimum. PALM sums TFCE in 100 steps, where vbmstat and "
    "*every rearrangement* integrate exactly."
)


def rows(peer: str, quantities: list[str], run: Callable[[], Values], ours: Values) -> list[str]:
    """Lines of the table for one peer; a line that says why for each of its quantities if it did not run."""
    try:
        theirs = run()
    except NotRunError as error:
        return [f"| {quantity} | {peer} | | not run: {error} | |" for quantity in quantities]
    lines = []
    for quantity in quantities:
        if quantity not in theirs:
            lines.append(f"| {quantity} | {peer} | | not run: a package is missing | |")
            continue
        mine, other = np.ravel(ours[quantity]), np.ravel(theirs[quantity]).astype(float)
        if len(mine) != len(other):
            msg = f"{quantity}: {len(mine)} numbers here, {len(other)} of {peer}"
            raise ValueError(msg)
        apart = float(np.abs(mine - other).max())  # NaN where one of them has no number
        lines.append(f"| {quantity} | {peer} | {len(mine)} | {apart:.1e} | {apart / np.abs(other).max():.1e} |")
    return lines


# ---- data


def cross_section() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    n = 24
    table = pd.DataFrame({"participant_id": [f"s{i:02d}" for i in range(n)], "age": rng.uniform(20, 80, n).round(1)})
    table["sex"] = np.array(["f", "m"])[np.arange(n) % 2]
    table["site"] = np.array(list("abbccc"))[np.arange(n) // 2 % 6]
    table["w"] = rng.uniform(0.5, 2, n).round(2)
    for k in range(3):
        table[f"y{k}"] = (5 - 0.02 * table["age"] + (table["sex"] == "m") + rng.normal(0, 0.6, n)).round(4)
    return table


def repeated_scans() -> pd.DataFrame:
    rng = np.random.default_rng(2)
    counts = np.array([3, 2, 4, 1, 3, 2, 3, 4, 2, 3, 1, 3, 2, 4])
    person = np.repeat(np.arange(len(counts)), counts)
    table = pd.DataFrame({"participant_id": [f"s{i:02d}" for i in range(len(person))]})
    table["id"] = [f"p{k:02d}" for k in person]
    table["grp"] = np.where(person % 3 == 0, "p", "c")
    table["age"] = rng.uniform(20, 80, len(counts)).round(1)[person]
    table["time"] = np.concatenate([np.arange(k) for k in counts]).astype(float)
    for k in range(3):
        noise = rng.normal(0, 0.7, len(counts))[person] + rng.normal(0, 0.4, len(person))
        table[f"y{k}"] = (5 - 0.02 * table["age"] - 0.1 * table["time"] + noise).round(4)
    return table


def null_scans() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    person = np.repeat(np.arange(8), 3)
    table = pd.DataFrame({"participant_id": [f"s{i:02d}" for i in range(24)], "id": [f"p{k}" for k in person]})
    table["age"] = rng.uniform(20, 80, 8).round(1)[person]
    table["time"] = np.tile([0.0, 1.0, 2.0], 8)
    values = pd.DataFrame(rng.standard_normal((24, N_NULL)).round(3), columns=[f"y{k}" for k in range(N_NULL)])
    return pd.concat([table, values], axis=1)


def values_of(table: pd.DataFrame) -> pd.DataFrame:
    """The columns y0, y1, …, indexed by scan."""
    return table.set_index("participant_id").filter(regex=r"^y\d+$")


# ---- vbmstat

TYPE_III = "sex[T.m] + 0.3333333333333333 * sex[T.m]:site[T.b] + 0.3333333333333333 * sex[T.m]:site[T.c]"
MIXED = ("grp[T.p]", "time", "age", "grp[T.p]:time")
JOINT = "joint = F(time, grp[T.p]:time)"


def of_models(table: pd.DataFrame) -> Values:
    fit = partial(fit_glm, values_of(table), cohort=table, repeats=0)
    plain = fit("y ~ age + sex + site", contrasts=["age", "site"])
    crossed = fit("y ~ sex * site", contrasts=[f"sex = {TYPE_III}"])
    weighted = fit("y ~ age + sex + site", contrasts=["age"], weights="w")
    robust = fit("y ~ age + sex + site", contrasts=["age", "sex[T.m]"], variance="hc3")
    spline = fit("y ~ bs(age, df=4) + sex", contrasts=["bs(age, df=4)"])
    welch = fit("y ~ sex", contrasts=["sex[T.m]"], variance="groups:sex")
    return {
        "t": of(plain, "age", "t"), "p of t": of(plain, "age", "p"), "F": of(plain, "site", "F"),
        "type III F": of(crossed, "sex", "t") ** 2, "t, weights": of(weighted, "age", "t"),
        "HC3 standard errors": np.sqrt([of(robust, name, "variance") for name in ("age", "sex[T.m]")]),
        "F of a spline": of(spline, "bs(age, df=4)", "F"), "Welch's t": of(welch, "sex[T.m]", "t"),
        "Welch's df": of(welch, "sex[T.m]", "df"),
    }  # fmt: skip


def of(fit: GlmResults, contrast: str, stat: str) -> np.ndarray:
    return fit.maps[contrast][stat].values.astype(float)


def of_repeated(table: pd.DataFrame) -> Values:
    formula = "y ~ grp * time + age"
    contrasts = [*MIXED, JOINT]
    robust = fit_glm(values_of(table), formula, table, contrasts, variance="sandwich:id")
    mixed = fit_mixed_glm(values_of(table), formula, table, contrasts, random="id").fit
    return {
        "CR2: t": np.array([of(robust, name, "t") for name in MIXED]),
        "CR2: Satterthwaite's df": np.array([of(robust, name, "df") for name in MIXED]),
        "CR2: F (HTZ)": of(robust, "joint", "F"), "CR2: df of F (HTZ)": of(robust, "joint", "df"),
        "mixed: effects": mixed.effect[:-1], "mixed: standard errors": mixed.se[:-1],
        "mixed: σ_b²": mixed.random_variance, "mixed: σ²": mixed.residual_variance,
        "mixed: Satterthwaite's df": mixed.df[:-1], "mixed: p of t": mixed.p[:-1],
        "mixed: F": mixed.statistic[-1], "mixed: df of F": mixed.df[-1],
    }  # fmt: skip


def of_null(table: pd.DataFrame) -> Values:
    fit = fit_mixed_glm(values_of(table), "y ~ age + time", table, ["age", "time"], random="id").fit
    return {
        "mixed, null columns: σ_b²": fit.random_variance, "mixed, null columns: p of t": fit.p,
        "mixed, null columns: how many σ_b² are 0": np.array([(fit.random_variance == 0).sum()]),
    }  # fmt: skip


# ---- statsmodels, nilearn, scipy

STATSMODELS = ["t", "p of t", "F", "t, weights", "HC3 standard errors", "mixed: effects", "mixed: σ_b²", "mixed: σ²"]
NILEARN = ["t", "F"]


def dummies(table: pd.DataFrame) -> np.ndarray:
    """1, age, sex, site b, site c."""
    columns = [np.ones(len(table)), table["age"], table["sex"] == "m", table["site"] == "b", table["site"] == "c"]
    return np.column_stack(columns).astype(float)


def of_statsmodels(table: pd.DataFrame, scans: pd.DataFrame) -> Values:
    x, y = dummies(table), values_of(table).to_numpy()
    plain = [sm.OLS(one, x).fit() for one in y.T]
    weighted = [sm.WLS(one, x, weights=table["w"]).fit() for one in y.T]
    patient = (scans["grp"] == "p").to_numpy(float)
    z = np.column_stack([np.ones(len(scans)), patient, scans["time"], scans["age"], patient * scans["time"]])
    methods = {"method": ["bfgs", "lbfgs"], "gtol": 1e-10}
    mixed = [sm.MixedLM(one, z, scans["id"]).fit(**methods) for one in values_of(scans).to_numpy().T]
    return {
        "t": np.array([one.tvalues[1] for one in plain]), "p of t": np.array([one.pvalues[1] for one in plain]),
        "F": np.array([float(one.f_test(np.eye(5)[3:]).fvalue) for one in plain]),
        "t, weights": np.array([one.tvalues[1] for one in weighted]),
        "HC3 standard errors": np.array([one.HC3_se[1:3] for one in plain]).T,
        "mixed: effects": np.array([one.fe_params[1:] for one in mixed]).T,
        "mixed: σ_b²": np.array([one.cov_re[0, 0] for one in mixed]),
        "mixed: σ²": np.array([one.scale for one in mixed]),
    }  # fmt: skip


def of_nilearn(table: pd.DataFrame) -> Values:
    labels, estimates = run_glm(values_of(table).to_numpy(), dummies(table), noise_model="ols")
    t = compute_contrast(labels, estimates, np.eye(5)[1], stat_type="t")
    f = compute_contrast(labels, estimates, np.eye(5)[3:], stat_type="F")
    return {"t": t.stat(), "F": f.stat()}


def of_scipy(table: pd.DataFrame) -> Values:
    y, man = values_of(table).to_numpy(), (table["sex"] == "m").to_numpy()
    test = stats.ttest_ind(y[man], y[~man], equal_var=False)
    return {"Welch's t": test.statistic, "Welch's df": test.df}


# ---- permutations: every rearrangement, and PALM


@dataclass(frozen=True)
class Case:
    """A design of a few scans, all its rearrangements, and PALM's options for the same."""

    formula: str
    contrast: str
    table: dict[str, object]
    rearrangements: Callable[[], Iterator[enumerated.Rearrangement]]
    options: dict[str, object]
    palm: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()  # PALM's options that take a file, and the column that goes into it
    tfce: bool = False

    @property
    def n_scans(self) -> int:
        """Rows of the table."""
        return len(next(iter(self.table.values())))  # type: ignore[arg-type]


GROUP = np.array([0, 1, 1, 0, 1, 0, 0])
BLOCK = np.repeat(np.arange(4), 2)
VISIT = np.tile([0.0, 1.0], 4)
AGE = np.array([31.0, 64, 45, 58, 27, 70, 39, 52])
CASES = {
    "FWE p: two groups": Case("group", "group", {"group": GROUP}, lambda: enumerated.relabellings(GROUP), {}),
    "FWE p: covariate": Case(
        "age + time", "age", {"age": AGE[:6], "time": np.arange(6.0) ** 2}, lambda: enumerated.orders(6), {},
    ),
    "FWE p: F of three groups": Case("level", "level", {"level": list("abcabc")}, lambda: enumerated.orders(6), {}),
    "FWE p: within blocks": Case(
        "time + C(block)", "time", {"time": VISIT, "block": BLOCK}, lambda: enumerated.within(BLOCK),
        {"blocks": "block"}, ("-within",), (("-eb", "block"),),
    ),
    "FWE p: whole blocks": Case(
        "age + time", "age", {"age": AGE[BLOCK], "time": VISIT, "block": BLOCK}, lambda: enumerated.whole(BLOCK),
        {"blocks": "block", "exchange": "whole"}, ("-whole",), (("-eb", "block"),),
    ),
    "FWE p: sign flips": Case(
        "1", "Intercept", {"age": AGE}, lambda: enumerated.flips(8), {"sign_flip": True}, ("-ise",),
    ),
    "FWE p: Welch's v": Case(
        "group", "group", {"group": GROUP, "spread": GROUP}, lambda: enumerated.relabellings(GROUP),
        {"variance": "groups:spread"}, files=(("-vg", "spread"),),
    ),
    "FWE p: TFCE": Case(
        "group", "group", {"group": GROUP}, lambda: enumerated.relabellings(GROUP), {"inference": "tfce"},
        ("-T", "-tfce_C", "26"), tfce=True,
    ),
}  # fmt: skip


def maps(n_scans: int) -> ArrayMaps:
    """Noise in which neighbours resemble one another."""
    values = np.random.default_rng(n_scans).standard_normal((n_scans, N_VOXELS))
    values[:, : N_VOXELS // 6] += values[:, [0]]
    return ArrayMaps(values, tuple(f"s{i}" for i in range(n_scans)), SPACE)


def analyse(case: Case) -> GlmResults:
    data = maps(case.n_scans)
    table = pd.DataFrame(case.table).assign(participant_id=list(data.scan_ids))
    options = {"inference": "fwe", "permutations": 6000, "repeats": 0, **case.options}
    return fit_glm(data, f"gm ~ {case.formula}", table, [f"tested = {case.contrast}"], **options)


def of_permutations() -> Values:
    fits = {name: analyse(case) for name, case in CASES.items()}
    found = {name: of(fit, "tested", "ptfce" if CASES[name].tfce else "pfwe") for name, fit in fits.items()}
    found["t of two groups"] = of(fits["FWE p: two groups"], "tested", "t")
    found["TFCE"] = np.abs(of(fits["FWE p: TFCE"], "tested", "tfce"))
    return found


def of_enumeration() -> Values:
    found = {}
    for name, case in CASES.items():
        fit = analyse(case)
        kind = fit.contrasts[0].kind
        x, weights, y = fit.design.matrix, fit.contrasts[0].weights, maps(case.n_scans).data
        if "variance_groups" in case.options:
            moved = (y[list(order)] for order, _ in case.rearrangements())
            tests = (stats.ttest_ind(z[GROUP == 1], z[GROUP == 0], equal_var=False) for z in moved)
            values = np.array([test.statistic for test in tests])
        else:
            values = enumerated.statistics(x, weights, y, case.rearrangements(), kind)
        if case.tfce:
            signed = [[enumerated.enhanced(np.maximum(s * row, 0), SHAPE) for s in (1, -1)] for row in values]
            values = np.array(signed).max(axis=1)
            found["TFCE"] = values[0]
        found[name] = enumerated.corrected(np.abs(values))
    return found


def of_palm(folder: Path | None, scratch: Path) -> Values:
    if folder is None:
        msg = "give PALM's folder by --palm or $PALM"
        raise NotRunError(msg)
    if not (Path(folder) / "palm.m").is_file():
        msg = "no palm.m in the folder given"
        raise NotRunError(msg)
    if shutil.which("octave-cli") is None:
        msg = "no octave-cli (Debian: octave)"
        raise NotRunError(msg)
    found = {}
    for number, (name, case) in enumerate(CASES.items()):
        prefix = scratch / f"palm{number}"
        call_palm(Path(folder), case, prefix)
        found[name] = palm_image(prefix, f"{'tfce' if case.tfce else 'vox'}_?stat_fwep")
        if name == "FWE p: two groups":
            found["t of two groups"] = palm_image(prefix, "vox_tstat")
        if case.tfce:
            found["TFCE"] = palm_image(prefix, "tfce_tstat")
    return found


def call_palm(folder: Path, case: Case, prefix: Path) -> None:
    """All rearrangements (-n 0) of one case; data as NIfTI, design, contrast and blocks as CSV without a header."""
    fit, data = analyse(case), maps(case.n_scans)
    image = data.data.T.reshape(*SHAPE, case.n_scans)
    nib.save(nib.Nifti1Image(image.astype(np.float64), SPACE.grid.affine), f"{prefix}_data.nii")
    nib.save(nib.Nifti1Image(np.ones(SHAPE, np.float32), SPACE.grid.affine), f"{prefix}_mask.nii")
    write_csv(f"{prefix}_design.csv", fit.design.matrix)
    write_csv(f"{prefix}_t.csv", fit.contrasts[0].weights)
    arguments = [
        "-i", f"{prefix}_data.nii", "-m", f"{prefix}_mask.nii", "-d", f"{prefix}_design.csv", "-t", f"{prefix}_t.csv",
        "-n", "0", "-o", f"{prefix}_out", "-quiet", "-precision", "double", *case.palm,
    ]  # fmt: skip
    if fit.contrasts[0].kind == "F":
        write_csv(f"{prefix}_f.csv", np.ones((1, len(fit.contrasts[0].weights))))
        arguments += ["-f", f"{prefix}_f.csv", "-fonly"]
    else:
        arguments += ["-twotail"]
    for option, column in case.files:
        write_csv(f"{prefix}{option}.csv", np.asarray(case.table[column])[:, None] + 1)
        arguments += [option, f"{prefix}{option}.csv"]
    words = ",".join(f"'{word}'" for word in arguments)
    run_peer(["octave-cli", "--quiet", "--eval", f"addpath('{folder}'); palm({words});"])


def write_csv(path: str, matrix: np.ndarray) -> None:
    np.savetxt(path, matrix, delimiter=",", fmt="%.17g")


def palm_image(prefix: Path, name: str) -> np.ndarray:
    """Voxels of an output image, in the order of the columns here."""
    files = sorted(prefix.parent.glob(f"{prefix.name}_out_{name}.nii*"))
    if len(files) != 1:
        msg = f"expected one output *_{name}.nii, got {len(files)}"
        raise NotRunError(msg)
    return np.asarray(nib.load(files[0]).dataobj, dtype=float).reshape(-1)


def run_peer(command: list[str]) -> str:
    """Standard output; the first line with an error where the peer fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        first = next((line for line in lines if "error" in line.lower()), (lines or ["no message"])[-1])
        msg = f"{Path(command[0]).name}: {first[:100].replace('|', ' ')}"
        raise NotRunError(msg)
    return done.stdout


# ---- R

R_QUANTITIES = {  # each package's commands write numbers for these; a package that is missing leaves them out
    "t": "stats", "p of t": "stats", "F": "stats", "t, weights": "stats", "F of a spline": "stats",
    "Welch's t": "stats", "Welch's df": "stats", "type III F": "car", "HC3 standard errors": "sandwich",
    "CR2: t": "clubSandwich", "CR2: Satterthwaite's df": "clubSandwich", "CR2: F (HTZ)": "clubSandwich",
    "CR2: df of F (HTZ)": "clubSandwich",
    "mixed: effects": "lmerTest", "mixed: standard errors": "lmerTest", "mixed: σ_b²": "lmerTest",
    "mixed: σ²": "lmerTest", "mixed: Satterthwaite's df": "lmerTest", "mixed: p of t": "lmerTest",
    "mixed: F": "lmerTest", "mixed: df of F": "lmerTest", "mixed, null columns: σ_b²": "lmerTest",
    "mixed, null columns: p of t": "lmerTest", "mixed, null columns: how many σ_b² are 0": "lmerTest",
}  # fmt: skip
R_SCRIPT = r"""
folder <- commandArgs(TRUE)[1]
d <- read.csv(file.path(folder, "study.csv"), stringsAsFactors = TRUE)
r <- read.csv(file.path(folder, "scans.csv"), stringsAsFactors = TRUE)
n <- read.csv(file.path(folder, "null.csv"), stringsAsFactors = TRUE)
put <- function(name, values) cat(sprintf("VALUE\t%s\t%.17g\n", name, as.vector(values)), sep = "")
each <- function(f, names = paste0("y", 0:2)) t(sapply(names, f))       # one row a column of the table
model <- function(y, right, data) lm(as.formula(paste(y, "~", right)), data)
has <- function(p) suppressMessages(suppressWarnings(requireNamespace(p, quietly = TRUE)))

ols <- function(y) coef(summary(model(y, "age + sex + site", d)))
put("t", each(function(y) ols(y)["age", 3]))
put("p of t", each(function(y) ols(y)["age", 4]))
put("F", each(function(y) anova(model(y, "age + sex", d), model(y, "age + sex + site", d))[2, "F"]))
put("t, weights", each(function(y) coef(summary(lm(d[[y]] ~ age + sex + site, d, weights = w)))["age", 3]))
put("F of a spline", each(function(y)
  anova(model(y, "sex", d), model(y, "splines::bs(age, df = 4) + sex", d))[2, "F"]))
welch <- function(y) t.test(d[d$sex == "m", y], d[d$sex == "f", y])
put("Welch's t", each(function(y) welch(y)$statistic))
put("Welch's df", each(function(y) welch(y)$parameter))
if (has("car")) put("type III F", each(function(y) car::Anova(
  lm(d[[y]] ~ sex * site, d, contrasts = list(sex = contr.sum, site = contr.sum)), type = 3)["sex", "F value"]))
if (has("sandwich")) put("HC3 standard errors", each(function(y)
  sqrt(diag(sandwich::vcovHC(model(y, "age + sex + site", d), "HC3")))[2:3]))
if (has("clubSandwich")) {
  robust <- function(y) clubSandwich::coef_test(model(y, "grp * time + age", r), vcov = "CR2", cluster = r$id,
                                                test = "Satterthwaite")
  joint <- function(y) clubSandwich::Wald_test(model(y, "grp * time + age", r), vcov = "CR2", cluster = r$id,
    constraints = clubSandwich::constrain_zero(c("time", "grpp:time")), test = "HTZ")
  put("CR2: t", each(function(y) robust(y)$tstat[-1]))
  put("CR2: Satterthwaite's df", each(function(y) robust(y)[[grep("^df", names(robust(y)))[1]]][-1]))
  put("CR2: F (HTZ)", each(function(y) joint(y)$Fstat))
  put("CR2: df of F (HTZ)", each(function(y) joint(y)$df_denom))
}
if (has("lmerTest")) {
  control <- lme4::lmerControl(optCtrl = list(xtol_abs = 1e-12, ftol_abs = 1e-14))
  mixed <- function(y, right, data) suppressMessages(suppressWarnings(lmerTest::lmer(
    as.formula(paste(y, "~", right, "+ (1 | id)")), data, control = control)))
  tests <- function(y) coef(summary(mixed(y, "grp * time + age", r)))[-1, ]
  spread <- function(m) as.data.frame(lme4::VarCorr(m))$vcov
  joint <- function(y) {                  # rows made orthonormal, or df depend on the units of the covariates
    m <- mixed(y, "grp * time + age", r)
    x <- lme4::getME(m, "X")
    l <- rbind(colnames(x) == "time", colnames(x) == "grpp:time") * 1
    lmerTest::contest(m, solve(t(chol(l %*% solve(crossprod(x)) %*% t(l)))) %*% l)
  }
  put("mixed: effects", each(function(y) tests(y)[, 1]))
  put("mixed: standard errors", each(function(y) tests(y)[, 2]))
  put("mixed: Satterthwaite's df", each(function(y) tests(y)[, 3]))
  put("mixed: p of t", each(function(y) tests(y)[, 5]))
  put("mixed: σ_b²", each(function(y) spread(mixed(y, "grp * time + age", r))[1]))
  put("mixed: σ²", each(function(y) spread(mixed(y, "grp * time + age", r))[2]))
  put("mixed: F", each(function(y) joint(y)[["F value"]]))
  put("mixed: df of F", each(function(y) joint(y)[["DenDF"]]))
  fits <- lapply(paste0("y", seq_len(sum(grepl("^y[0-9]+$", names(n)))) - 1), mixed, "age + time", n)
  put("mixed, null columns: σ_b²", sapply(fits, function(m) spread(m)[1]))
  put("mixed, null columns: p of t", t(sapply(fits, function(m) coef(summary(m))[-1, 5])))
  put("mixed, null columns: how many σ_b² are 0", sum(sapply(fits, lme4::isSingular)))
}
for (p in c("car", "sandwich", "clubSandwich", "lme4", "lmerTest"))
  if (has(p)) cat(sprintf("VERSION\t%s %s\n", p, packageVersion(p)))
cat(sprintf("VERSION\tR %s.%s\n", R.version$major, R.version$minor))
"""
_R_VERSIONS: list[str] = []


def of_r(folder: Path) -> Values:
    if shutil.which("Rscript") is None:
        msg = "no Rscript (Debian: r-base-core)"
        raise NotRunError(msg)
    script = folder / "compare.R"
    script.write_text(R_SCRIPT, encoding="utf-8")
    found: dict[str, list[float]] = {}
    for line in run_peer(["Rscript", "--vanilla", "--encoding=UTF-8", str(script), str(folder)]).splitlines():
        words = line.split("\t")
        if words[0] == "VALUE":
            found.setdefault(words[1], []).append(float(words[2]))
        elif words[0] == "VERSION":
            _R_VERSIONS.append(words[1])
    # R lists a matrix (columns of the table by contrasts) contrast by contrast, as the arrays here are
    return {name: np.array(values) for name, values in found.items()}


def versions(palm: Path | None) -> str:
    python = [f"{module.__name__} {module.__version__}" for module in (np, sys.modules["scipy"])]
    python += [f"statsmodels {sys.modules['statsmodels'].__version__}", f"nilearn {sys.modules['nilearn'].__version__}"]
    return "Versions: " + ", ".join([*python, *_R_VERSIONS]) + (f", PALM in {palm}." if palm else ".")


if __name__ == "__main__":
    main()
