"""Three sites with maps in memory, their sums, and the same scans as one data set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tests.glm.conftest import GRID, SHAPE
from vbmstat.glm.design.matrix import build_design
from vbmstat.glm.fit.plan import make_plan
from vbmstat.glm.pooled.share import reference_levels
from vbmstat.glm.pooled.sums import About, SiteSums, sum_maps
from vbmstat.glm.spec import Compute
from vbmstat.maps.store import ArrayMaps, Space

SIZES = {"berlin": 60, "köln": 23, "ulm": 41}
SPACE = Space(GRID, np.arange(0, 400, 2), "LAS")
TINY, DEAR = 7, 11  # voxels: of tiny variance; with a large share of explained variance


def people(sizes: dict[str, int] | None = None, seed: int = 0) -> pd.DataFrame:
    """Age, sex and group of invented people; `köln` has no patients of the third kind."""
    rng = np.random.default_rng(seed)
    rows = [
        {"participant_id": f"{site}{i:04d}", "site": site, "age": rng.uniform(20, 80), "sex": "FM"[rng.integers(2)],
         "group": rng.choice(["ad", "hc"] if site == "köln" else ["ad", "hc", "mci"]), "w": rng.uniform(0.5, 2)}
        for site, n in (sizes or SIZES).items() for i in range(n)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def maps_of(table: pd.DataFrame, seed: int = 1) -> np.ndarray:
    """Maps (n_scans, n_voxels), float32, of the scale of grey matter, with effects of age and site."""
    rng = np.random.default_rng(seed)
    age = table["age"].to_numpy()[:, None] - 50
    maps = 0.4 + 0.05 * rng.standard_normal((len(table), SPACE.voxel_index.size)) - 0.0005 * age
    maps += 0.04 * (table["site"] == "köln").to_numpy()[:, None]
    maps[:, TINY] = 0.4 + 1e-5 * rng.standard_normal(len(table))
    maps[:, DEAR] = 0.4 - 0.003 * age[:, 0] + 1e-4 * rng.standard_normal(len(table))
    return maps.astype(np.float32)


def sums_of(
    table: pd.DataFrame, maps: np.ndarray, formula: str = "age + sex + group", weights: str | None = None
) -> SiteSums:
    """The sums of one site."""
    ids = list(table["participant_id"])
    design = build_design(formula, table, ids)
    plan = make_plan(design, [], np.empty((0, len(ids)), bool), None if weights is None else table[weights].to_numpy())
    about = About(
        "gm", formula, design.columns, design.terms, reference_levels(design), len(ids), weights,
        {"threshold": 0.1, "share": 1.0, "image": False}, 6.0, {"kind of maps": ("s6mwp1*",), "engine": ("classic",)},
        str(hash(maps.tobytes())), "0.1.0",
    )  # fmt: skip
    return sum_maps(about, design, plan, ArrayMaps(maps, tuple(ids), SPACE), Compute(n_threads=1))


def all_sums(table: pd.DataFrame, maps: np.ndarray, **how: str) -> dict[str, SiteSums]:
    """The sums of every site in a table."""
    return {
        site: sums_of(table[table["site"] == site], maps[table["site"] == site], **how)
        for site in sorted(table["site"].unique())
    }


def about(sums: SiteSums, **changed: object) -> SiteSums:
    """Sums of which something else is said."""
    return replace(sums, about=replace(sums.about, **changed))


@pytest.fixture(scope="session")
def three() -> tuple[pd.DataFrame, np.ndarray, dict[str, SiteSums]]:
    """Table, maps and sums of three sites."""
    table = people()
    maps = maps_of(table)
    return table, maps, all_sums(table, maps)


assert max(SPACE.voxel_index) < np.prod(SHAPE)
