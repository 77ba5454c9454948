"""Sums of sites that belong together as the rows of one model: shared columns, common voxels, site intercepts.

The engine that fits scans fits these rows; degrees of freedom are those of the scans.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from vbmstat.errors import DesignError, ScanError, VbmstatError
from vbmstat.glm.design.contrast import Contrast
from vbmstat.glm.design.matrix import Design
from vbmstat.glm.fit.engine import fit_voxels
from vbmstat.glm.fit.plan import Plan, make_plan
from vbmstat.glm.fit.tile import Fit
from vbmstat.glm.pooled.sums import SiteSums
from vbmstat.glm.spec import Compute
from vbmstat.maps.masking import check_units
from vbmstat.maps.store import ArrayMaps, Space
from vbmstat.tables.cells import same_but_for_spelling, sorted_labels

SITE = "site"  # term of the sites' intercepts
_ALIKE = "; make all maps alike, or give --allow-mixed"


@dataclass(frozen=True)
class Rows:
    """A small data set with the sums of its sites, for each site r rows of R and z, and one of 0 and √RSS."""

    maps: ArrayMaps  # (n_rows, n_voxels), float64
    design: Design  # (n_rows, n_regressors); its `constant` is that of the scans in these rows
    n_scans: int  # scans behind the rows


def stack_rows(sites: Mapping[str, SiteSums], has_intercepts: bool = True) -> Rows:
    """Rows of all sites over the voxels that all have.

    Parameters
    ----------
    sites : mapping of str to SiteSums
        By name; the first is the reference of the intercepts.
    has_intercepts : bool
        Whether each site has an intercept of its own.

    Raises
    ------
    ScanError
        If the sites have no common voxel.
    """
    first = next(iter(sites.values()))
    terms = _merged_terms(sites)
    columns = tuple(column for own in terms.values() for column in own)
    voxels = common_voxels(sites)
    names = list(sites)
    blocks, values, constant, labels = [], [], [], []
    for number, (name, site) in enumerate(sites.items()):
        rank = len(site.constant)
        own = np.zeros((rank + 1, len(columns) + (len(names) - 1) * has_intercepts))
        own[:-1, [columns.index(column) for column in site.about.columns]] = site.factor
        if number and has_intercepts:
            own[:-1, len(columns) + number - 1] = site.constant
        kept = np.searchsorted(site.space.voxel_index, voxels)
        blocks.append(own)
        values.append(np.vstack([site.coordinates[:, kept], np.sqrt(site.residual_squares[kept])]))
        constant += [*site.constant, 0.0]
        labels += [f"{name} {row}" for row in range(1, rank + 2)]
    references = first.about.references
    if has_intercepts:
        intercept = SITE if SITE not in terms else "file"
        added = tuple(f"{intercept}[T.{name}]" for name in names[1:])
        terms[intercept], columns, references = added, columns + added, (*references, f"{intercept}[T.{names[0]}]")
    formula = " + ".join([first.about.formula, *(list(terms)[-1:] if has_intercepts else [])])
    design = Design(
        np.vstack(blocks), columns, tuple(labels), formula, terms, references, constant=np.array(constant)
    )  # fmt: skip
    space = Space(first.space.grid, voxels, first.space.axcodes)
    maps = ArrayMaps(np.vstack(values), tuple(labels), space)
    return Rows(maps, design, sum(site.about.n_scans for site in sites.values()))


def fit_rows(rows: Rows, contrasts: Sequence[Contrast], compute: Compute) -> tuple[Plan, Fit]:
    """The plan and the fit of the model over all scans behind some rows.

    Raises
    ------
    DesignError
        If no degree of freedom is left.
    """
    no_draws = np.empty((0, len(rows.design.matrix)), dtype=bool)
    plan = make_plan(rows.design, contrasts, no_draws)
    df = float(rows.n_scans - plan.basis.shape[1])
    if df <= 0:
        msg = f"{rows.n_scans} scans leave no degree of freedom beside {plan.basis.shape[1]} columns"
        raise DesignError(msg)
    plan = replace(plan, df_resid=df, contrasts=tuple(replace(one, df=df) for one in plan.contrasts))
    return plan, fit_voxels(rows.maps, plan, compute)


def site_rows(site: SiteSums, voxels: np.ndarray) -> Rows:
    """Rows of one site alone, over some of its voxels."""
    kept = np.searchsorted(site.space.voxel_index, voxels)
    cut = SiteSums(
        site.about, site.factor, site.constant, site.coordinates[:, kept], site.residual_squares[kept],
        Space(site.space.grid, voxels, site.space.axcodes),
    )  # fmt: skip
    return stack_rows({"": cut}, has_intercepts=False)


def common_voxels(sites: Mapping[str, SiteSums]) -> np.ndarray:
    """Indices of the voxels that are in the mask of every site; ScanError if there are none."""
    indices = [site.space.voxel_index for site in sites.values()]
    voxels, counts = np.unique(np.concatenate(indices), return_counts=True)
    voxels = voxels[counts == len(indices)]
    if not voxels.size:
        msg = "no voxel is in the masks of all sites; are the maps of the same space and tissue?"
        raise ScanError(msg)
    return np.asarray(voxels)


def _merged_terms(sites: Mapping[str, SiteSums]) -> dict[str, tuple[str, ...]]:
    """Columns of each term over all sites; those of a factor in the order of its levels."""
    terms: dict[str, tuple[str, ...]] = {}
    for term in next(iter(sites.values())).about.terms:
        every = dict.fromkeys(column for site in sites.values() for column in site.about.terms[term])
        ordered = [site.about.terms[term] for site in sites.values() if set(site.about.terms[term]) == set(every)]
        terms[term] = ordered[0] if ordered else tuple(sorted_labels(list(every)))
    return terms


def check_sites(sites: Mapping[str, SiteSums], allow_mixed: bool = False) -> None:
    """Refuse sites whose sums cannot be added: scans, columns, grids or maps do not agree.

    Raises
    ------
    VbmstatError
        If there is one site only, or two hold the same scans.
    DesignError
        If the columns of two sites differ, but for levels of a factor that one of them lacks.
    ScanError
        If grids, units or, unless `allow_mixed`, kinds of maps differ.
    """
    if len(sites) < 2:
        msg = f"expected the files of two sites or more, got {len(sites)}"
        raise VbmstatError(msg)
    seen: dict[str, str] = {}
    for name, site in sites.items():
        other = seen.setdefault(site.about.scans_sha256, name)
        if other != name:
            msg = f"{other} and {name} hold the same scans; give each site's file once"
            raise VbmstatError(msg)
    (first, reference), *others = sites.items()
    for name, site in others:
        if not site.space.grid.matches(reference.space.grid):
            msg = (
                f"{name}: grid {site.space.grid} differs from {reference.space.grid} of {first}; resample the maps of "
                "one site and share them again"
            )
            raise ScanError(msg)
    for (one_name, one), (name, site) in combinations(sites.items(), 2):
        _check_columns(one_name, one, name, site)
    _refuse_several(sites, "maps (left of the formula)", lambda site: site.about.response)
    _refuse_several(sites, "weights", lambda site: site.about.weights or "none")
    if not allow_mixed:
        _refuse_several(sites, "smoothing", _width, _ALIKE)
        for what in dict.fromkeys(what for site in sites.values() for what in site.about.made_from):
            _refuse_several(
                sites, what, lambda site, what=what: ", ".join(site.about.made_from.get(what, ())),  # type: ignore[misc]
                _ALIKE,
            )  # fmt: skip
    check_units({name: site.map_mean for name, site in sites.items()}, fewest=2)


def _width(site: SiteSums) -> str:
    return "" if site.about.fwhm_mm is None else f"{site.about.fwhm_mm:g} mm"


def _check_columns(first: str, one: SiteSums, second: str, other: SiteSums) -> None:
    """Refuse two sites with other terms, references, or columns that are not levels of a factor."""
    for a, b, has, lacks in ((one, other, first, second), (other, one, second, first)):
        for term, columns in a.about.terms.items():
            own = b.about.terms.get(term, ())
            is_factor = own and all("[" in column for column in (*columns, *own))
            odd_columns = [column for column in columns if column not in own]
            if odd_columns and not is_factor:
                msg = f"{has} has the column {odd_columns[0]}, which {lacks} lacks; fit the same formula at all sites"
                raise DesignError(msg)
    odd_ones = set(one.about.columns) ^ set(other.about.columns)
    of_one = [column for column in (*one.about.columns, *other.about.columns) if column in odd_ones]
    for mine, *_, theirs in same_but_for_spelling(of_one):
        if mine in one.about.columns and theirs in other.about.columns:
            msg = f"{first} has the level {mine} and {second} {theirs}; spell it alike and share the sums again"
            raise DesignError(msg)
    if set(one.about.references) != set(other.about.references):
        odd = sorted(set(one.about.references) ^ set(other.about.references))[0]
        msg = (
            f"{first} and {second}: the reference levels differ ({odd} is not that of both); set one that every site "
            "has, e.g. C(group, contr.treatment('control'))"
        )
        raise DesignError(msg)


def _refuse_several(
    sites: Mapping[str, SiteSums], what: str, value_of: Callable[[SiteSums], str], cure: str = ""
) -> None:
    """Refuse sites that differ in something, naming who has what; sites that do not say are passed over."""
    found: dict[str, list[str]] = {}
    for name, site in sites.items():
        found.setdefault(value_of(site), []).append(name)
    found.pop("", None)
    if len(found) > 1 or any(", " in value for value in found):
        each = "; ".join(f"{', '.join(names)}: {value}" for value, names in found.items())
        msg = f"the sites differ in {what} ({each}){cure}"
        raise ScanError(msg)
