"""The methods section of a run, written from its records. Over 300 lines: a sentence for each choice of a model."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vbmstat.files.map_kinds import TISSUES
from vbmstat.files.naming import split_ids
from vbmstat.report.citations import in_text

_CITATION = re.compile(r"\[(@\w+(?:; @\w+)*)\]")

_SCHEMES = {
    "freedman-lane": " of the residuals of the reduced model [@freedman1983]",
    "smith": " of the regressor of interest, orthogonalised to the others",
}
_TIV = {
    "covariate": "Total intracranial volume was a covariate.",
    "by-group": "Total intracranial volume was a covariate with a slope for each group.",
    "proportional": "Each map was multiplied by the mean over the scan's total intracranial volume.",
}
_REGIONS_FDR = (
    "False discovery rates over the regions of each contrast are q-values of Benjamini and Hochberg, from two-sided p."
)
_ATLAS_SOURCES = {"lpba40": " [@shattuck2008]", "tracts72": " [@wasserthal2018]"}
_STEPS = {
    "classic": (
        "Images were denoised by non-local means [@coupe2008], corrected for intensity inhomogeneity in the log domain "
        "[@wells1996], and segmented into grey matter, white matter and cerebrospinal fluid by an adaptive maximum a "
        "posteriori scheme with partial-volume classes, local class means, template priors and a Markov random field "
        "[@rajapakse1997; @tohka2004; @gaser2024]. Tissue maps were registered to the template by the exponential of a "
        "stationary velocity field, estimated by Gauss-Newton from coarse to fine [@ashburner2007; @vercauteren2008]."
    ),
    "cat": (
        "Images were denoised by spatially adaptive non-local means [@manjon2010], corrected for intensity "
        "inhomogeneity in the log domain [@wells1996], and segmented into grey matter, white matter and cerebrospinal "
        "fluid by CAT12's adaptive maximum a posteriori method with partial-volume classes (package cat-surf) "
        "[@rajapakse1997; @tohka2004; @gaser2024]. Tissue maps were registered to the template by geodesic "
        "shooting [@ashburner2011]."
    ),
    "deep": (
        "Grey matter, white matter and cerebrospinal fluid were segmented by convolutional networks from the affinely "
        "aligned brain, and registered to the template with a network that predicts symmetric half velocities "
        "[@fisch2026; @mok2020]; the scans' sidecar files have the hashes of the networks."
    ),
}


@dataclass(frozen=True)
class Methods:
    """Paragraphs to paste, and the keys of the papers they cite."""

    paragraphs: tuple[str, ...]
    keys: tuple[str, ...]

    def __add__(self, other: Methods) -> Methods:
        return Methods(self.paragraphs + other.paragraphs, self.keys + other.keys)


def preprocessing_methods(  # noqa: PLR0913 - the facts of one run
    n_scans: int,
    n_failed: int,
    n_stripped: int,
    engine_versions: Sequence[tuple[str, str]],
    fwhm_mm: Sequence[float],
    voxel_sizes_mm: Sequence[float] = (1.5,),
) -> Methods:
    """Methods of preprocessing.

    Parameters
    ----------
    n_scans, n_failed, n_stripped : int
        Scans that are complete; that failed; that were already skull-stripped.
    engine_versions : sequence of (str, str)
        Engines, and versions of vbmstat, that made the maps.
    fwhm_mm : sequence of float
        Smoothing widths; empty for none.
    voxel_sizes_mm : sequence of float
        Voxel sizes of the maps; one, unless runs were mixed.
    """
    widths = " or ".join(f"{width:g}" for width in fwhm_mm)
    smoothed = f", and smoothed with a Gaussian of {widths} mm full width at half maximum" if widths else ""
    how = ", ".join(f"vbmstat {version}, engine {engine}" for engine, version in engine_versions)
    failed = f"; {n_failed} more could not be processed and were left out" if n_failed else ""
    stripped = _count(n_stripped, "scan was already skull-stripped and kept its",
                      "scans were already skull-stripped and kept their")  # fmt: skip
    kept = f" ({stripped} own mask)" if n_stripped else ""
    brains = f"Brains were extracted with deepbet [@fisch2024bet]{kept} and"
    if n_stripped == n_scans:
        brains = "Scans were already skull-stripped and kept their own brain mask; they were"
    first = (
        f"{_count(n_scans, 'T1-weighted scan was', 'T1-weighted scans were')} processed for voxel-based morphometry "
        f"[@ashburner2000] with {how}{failed}. {brains} aligned to the template by an affine transform "
        "[@baker2004]."
    )
    steps = [_STEPS[engine] for engine in dict.fromkeys(name for name, _ in engine_versions) if engine in _STEPS]
    last = (
        "The template was CAT12's Template_4_GS [@gaser2024] in MNI152NLin2009cAsym space [@fonov2011] with voxels of "
        f"1.5 mm{_written_at(voxel_sizes_mm)}. Warped maps were modulated by the determinant of the whole Jacobian "
        f"(affine and nonlinear), so that they measure local volume{smoothed}. Total "
        "intracranial volume is the sum of grey matter, white matter and cerebrospinal fluid in the unwarped scan."
    )
    return _with_citations([" ".join([first, *steps, last])])


def _written_at(voxel_sizes_mm: Sequence[float]) -> str:
    sizes = " or ".join(f"{size:g}" for size in voxel_sizes_mm)
    return "" if sizes == "1.5" else f"; maps were written with voxels of {sizes} mm"


def template_methods(templates: Sequence[str]) -> Methods:
    """How scans went over group templates, given by name and hash; nothing if there are none."""
    if not templates:
        return Methods((), ())
    text = (
        f"Tissue maps were registered to a group template ({', '.join(templates)}), the volume-weighted mean of its "
        "people's tissues at zero mean velocity [@ashburner2007; @ashburner2011]; its own affine and nonlinear warp to "
        "the template named above was composed with each scan's, so that maps in that space were interpolated once."
    )
    return _with_citations([text])


def lesion_methods(wmh_as: Sequence[str], n_masks: int) -> Methods:
    """What was done about lesions; nothing if no scan has any.

    Parameters
    ----------
    wmh_as : sequence of str
        How the tissues of the scans count hypointensities: wm, class, none.
    n_masks : int
        Scans with a lesion mask of the user's.
    """
    counted = {
        "wm": "counted as white matter in tissue maps, volumes and registration",
        "class": "taken out of the tissues as a class of their own, and registered as white matter",
        "none": "left as segmented in the tissue maps",
    }
    ways = " or ".join(counted[way] for way in counted if way in wmh_as)
    sentences = [f"White-matter hypointensities were segmented from the T1-weighted scans and {ways}."] if ways else []
    if n_masks:
        masked = _count(n_masks, "scan had a lesion mask", "scans had lesion masks")
        sentences.append(
            f"{masked}; these voxels were left out of the bias field, the tissue model and the likelihood of the "
            "registration [@brett2001]."
        )
    return _with_citations([" ".join(sentences)]) if sentences else Methods((), ())


def time_point_methods(n_people: int, n_scans: int, models: Collection[str]) -> Methods:
    """How so many scans of people with several sessions were processed together; nothing if there are none."""
    if not n_people:
        return Methods((), ())
    kinds = {
        "plasticity": "maps of plasticity are modulated by the warp of the average alone",
        "ageing": "maps of ageing also by deformations between each session and the participant's mean shape",
    }
    text = (
        f"{n_scans} scans of {_count(n_people, 'participant', 'participants')} with several sessions were processed "
        "together, all sessions alike [@reuter2012; @ashburner2013]: they were aligned to their mean by rigid motion, "
        "corrected for differential intensity inhomogeneity, segmented with the tissues of their average as priors, "
        f"and normalised by its warp; {' and '.join(kinds[model] for model in kinds if model in models)}."
    )
    return _with_citations([text])


def counted_scans(owners: Collection[str]) -> str:
    """How many scans, and of how many participants if those are fewer; from the participant of each scan.

    Examples
    --------
    >>> counted_scans(["sub-1", "sub-1", "sub-2"]), counted_scans(["sub-1", "sub-2"])
    ('3 scans of 2 participants', '2 scans')
    """
    n_people, scans = len(set(owners)), _count(len(owners), "scan", "scans")
    return f"{scans} of {_count(n_people, 'participant', 'participants')}" if n_people < len(owners) else scans


def owners_in(record: Mapping[str, Any]) -> list[str]:
    """The participant of each scan of a model, as far as the scans' ids tell; scans of other sites are people."""
    return [split_ids(scan)[0] for scan in record["scan_ids"]] or [str(number) for number in range(record["n_scans"])]


def glm_methods(record: Mapping[str, Any]) -> Methods:
    """Methods of a model, from the content of its ``glm.json``."""
    has_sizes = not {"sandwich", "variance_groups", "mixed_model"} & set(record)
    versions = record["versions"]
    used = ", ".join(
        f"{name} {versions[name]}" for name in ("torch", "numpy", "scipy", "formulaic") if name in versions
    )
    sentences = [
        *_model(record),
        *_variance(record),
        "Contrasts: " + "; ".join(_contrast(entry) for entry in record["contrasts"]) + ".",
        *_inference(record),
        *_subsets(record),
        *(["Effect sizes are partial correlations r and Cohen's d."] if has_sizes else []),
        f"Models were fitted with vbmstat {versions['vbmstat']} ({used}).",
        "Reporting follows the rules of [@ridgway2008].",
    ]
    return _with_citations([" ".join(sentences)])


def _smoothing(smoothing: Mapping[str, Any] | None) -> list[str]:
    """How the maps were smoothed; nothing where it is not known."""
    of_files, applied = (smoothing or {}).get("of_files_fwhm_mm"), (smoothing or {}).get("applied_fwhm_mm")
    gaussian = f"with a Gaussian of {applied or of_files or 0:g} mm full width at half maximum"
    if applied:
        return [f"Maps were smoothed {gaussian} before they were masked."]
    if of_files is None:
        return []
    return [f"Maps had been smoothed {gaussian}." if of_files else "Maps were not smoothed."]


def _flow(flow: Sequence[Mapping[str, Any]]) -> list[str]:
    """Who was left out, and why."""
    steps = [f"{len(step['left_out'])} ({step['step']})" for step in flow if step["left_out"]]
    return [f"Of {flow[0]['n_left']} scans in the table, these were left out: {', '.join(steps)}."] if steps else []


def _model(record: Mapping[str, Any]) -> Iterator[str]:
    """Data, formula, TIV and mask."""
    left, change = record["formula"].split("~")[0].strip(), record.get("change")
    left = left.partition("(")[2].partition(",")[0].strip() if change else left
    tissue = TISSUES.get(left, left)
    of_regions = record.get("level", "voxel") != "voxel"
    data, where = f"{tissue.capitalize()} maps of", f"at each of {record['n_voxels']:,} voxels"
    if of_regions:
        atlas = f"{record['atlas']}{_ATLAS_SOURCES.get(record['atlas'], '')}"
        data = f"Volumes of {tissue} in {record['n_voxels']} regions of the atlas {atlas} in"
        where = "in each region"
    who = counted_scans(owners_in(record))
    if change:
        who = f"the change in {sum(map(len, change.values()))} scans of {len(change)} people, one value a person,"
        data = data.removesuffix(" in")
    df = record.get("df_resid")
    is_local = "sandwich" in record or "variance_groups" in record
    freedom = "" if df is None or is_local else f"; {df:g} residual degrees of freedom"
    yield (
        f"{data} {who} were analysed with the linear model {record['formula']} {where} (design "
        f"matrix with the columns {', '.join(record['columns'])}{freedom})."
    )
    if "sites" in record:
        shared = ", ".join(f"{site['site']} {site['n_scans']}" for site in record["sites"])
        intercepts = "an intercept for each site" if record["site_intercepts"] else "one intercept for all sites"
        yield (
            f"No scan left its site: the model was fitted, with {intercepts}, to sums of squares and products over the "
            f"scans of each of {len(record['sites'])} sites ({shared})."
        )
    yield from _flow(record.get("flow") or [])
    if not of_regions:
        yield from _smoothing(record.get("smoothing"))
    recipe = record["spec"]["tiv"]
    if recipe in _TIV:
        yield _TIV[recipe]
    rule = record["mask_rule"]
    image = f" inside the mask {rule['image']}" if rule["image"] else ""
    if not of_regions and rule["threshold"] is None:
        yield f"Voxels{image} that were not constant over scans were analysed."
    elif not of_regions:
        who = "every scan" if rule["share"] == 1 else f"{100 * rule['share']:g} % of the scans"
        yield f"Voxels{image} where {who} exceeded {rule['threshold']:g} were analysed [@ridgway2009]."


def _variance(record: Mapping[str, Any]) -> Iterator[str]:
    """Weights, scaling, and how the variance of a contrast was estimated."""
    spec = record["spec"]
    if spec["weights"]:
        yield f"Scans were weighted by the column {spec['weights']}."
    if spec["variance"] == "hc3":
        fewer = [c for c in record["contrasts"] if c.get("df") is not None and c["df"] < record["df_resid"]]
        freedom = ", ".join(f"{contrast['df']:.1f} for {contrast['name']}" for contrast in fewer)
        effective = f"; t had effective degrees of freedom of the design ({freedom})" if fewer else ""
        yield f"Standard errors were robust to heteroscedasticity (HC3) [@mackinnon1985]{effective}."
    if spec["variance"] == "spm":
        yield "As in SPM, 0.001 of the largest residual mean square was added to every voxel's."
    if spec["global_scaling"]:
        yield "Maps were scaled to one mean inside the mask."
    if "sandwich" in record:
        sandwich = record["sandwich"]
        freedom = ", ".join(f"{df:.1f} for {name}" for name, df in sandwich["df"].items())
        yield (
            f"Standard errors were robust to dependence between scans of one {sandwich['subject']} (sandwich estimator "
            f"over {sandwich['n_subjects']} of them, {sandwich['correction']} correction) [@guillaume2014]; degrees of "
            f"freedom are {sandwich['degrees_of_freedom']}'s (median over voxels {freedom})."
        )
    if "variance_groups" in record:
        groups = record["variance_groups"]
        which = "the exchangeability blocks" if groups["column"] == "auto" else f"the column {groups['column']}"
        yield (
            f"Variances were estimated for each of the {len(groups['scans_per_group'])} groups of scans in {which} (v "
            "of Aspin and Welch, G for several rows) [@winkler2014]."
        )
    if "mixed_model" in record:
        mixed = record["mixed_model"]
        yield (
            f"Scans of one {mixed['random_intercept']} ({mixed['n_subjects']}) shared a random intercept, estimated by "
            "restricted maximum likelihood; degrees of freedom are Satterthwaite's."
        )


def _contrast(entry: Mapping[str, Any]) -> str:
    rows = []
    for row in entry["weights"]:
        terms = [f"{weight:+g} {name}" for name, weight in row.items() if weight]
        rows.append(" ".join(terms).replace("+1 ", "+").replace("-1 ", "−").removeprefix("+"))
    what = " and ".join(rows)
    return f"{entry['name']} ({entry['kind']}-test" + (")" if what == entry["name"] else f" of {what})")


def _inference(record: Mapping[str, Any]) -> Iterator[str]:
    """Correction for multiple comparisons."""
    inference = record.get("inference") or {"kinds": []}
    kinds, of_regions = inference["kinds"], record.get("level", "voxel") != "voxel"
    if of_regions and "fwe" not in kinds:
        yield f"P-values are two-sided. {_REGIONS_FDR}"
        return
    if not kinds:
        yield "P-values are two-sided and not corrected for multiple comparisons."
        return
    first: Mapping[str, Any] = next(iter(inference["contrasts"]), {"two_sided": True})
    sides = "two-sided" if first["two_sided"] else "one-sided"
    if "random_field" in first:
        yield (
            f"Family-wise error of peaks and cluster extents was controlled by random field theory [@worsley1996] "
            f"({sides}; residual FWHM {' × '.join(f'{mm:.1f}' for mm in inference['smoothness']['fwhm_mm'])} mm, "
            f"{first['random_field']['resels'][3]:,.0f} resels). Clusters were formed beyond "
            f"{first['cluster_forming_threshold']:.2f}; extents account for local smoothness [@hayasaka2004]."
        )
    permuted = [entry for entry in inference["contrasts"] if "permutations" in entry]
    if permuted:
        threshold = first.get("cluster_forming_threshold")
        what = {
            "fwe": "the maximum statistic",
            "tfce": "threshold-free cluster enhancement (H = 2, E = 0.5) [@smith2009]",
            "cluster": "cluster extent and mass (cluster-forming threshold "
            f"{'as recorded' if threshold is None else f'{threshold:.2f}'})",
        }
        ways = " and ".join(what[kind] for kind in what if kind in kinds)
        counts = sorted({entry["permutations"] for entry in permuted})
        verb = "sign flips" if inference["sign_flip"] else "permutations"
        scheme = "" if inference["sign_flip"] else _SCHEMES.get(inference["scheme"], f" ({inference['scheme']})")
        how = {"whole": "of whole", "both": "of whole and within"}.get(str(inference.get("exchange")), "within")
        blocks = f" {how} exchangeability blocks of {', '.join(inference['blocks'])}" if inference["blocks"] else ""
        rearranged = f"{verb}{scheme}{blocks} [@winkler2014]"
        if "sandwich" in record:
            rearranged = (
                "sign flips of the residuals of the reduced model, together for all scans of one "
                f"{record['sandwich']['subject']} (wild bootstrap) [@cameron2008]"
            )
        yield (
            f"Family-wise error over {'regions' if of_regions else 'voxels'} was controlled by "
            f"{' or '.join(f'{n:,}' for n in counts)} {rearranged}, for {ways}; corrected "
            f"p-values are {sides}."
        )
        if len(permuted) < len(inference["contrasts"]):
            yield f"This was done for {', '.join(entry['name'] for entry in permuted)} only."
        yield from _shortcuts(permuted)
    if of_regions:
        yield _REGIONS_FDR
    elif "fdr" in kinds:
        yield f"False discovery rates over voxels are {sides} q-values of Benjamini and Hochberg."


def _shortcuts(contrasts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Early stopping and fitted tails."""
    if any(entry["permutations"] < entry.get("permutations_planned", 0) for entry in contrasts):
        planned = max(entry["permutations_planned"] for entry in contrasts)
        yield f"Of {planned:,} planned, permutations stopped once enough exceeded the strongest result [@besag1991]."
    tails = [tail for entry in contrasts for tail in entry.get("approximated", {}).get("tails", {}).values() if tail]
    if tails:
        yield (
            "Small p-values come from generalised Pareto distributions fitted to the upper tails [@winkler2016], "
            f"with a floor of {min(tail['floor'] for tail in tails):.2g}."
        )


def _subsets(record: Mapping[str, Any]) -> Iterator[str]:
    """Stability over random subsets."""
    if record["n_subsets"]:
        sizes, stratify = " or ".join(map(str, record["scans_per_subset"])), record["spec"]["subsets"]["stratify"]
        strata = f", keeping the shares of {stratify}" if stratify else ""
        where = "at each voxel" if record.get("level", "voxel") == "voxel" else "in each region"
        yield (
            f"To assess stability, the model was refitted in {record['n_subsets']} random subsets of {sizes} scans "
            f"drawn without replacement{strata}, and the median and quartiles of the statistic over subsets were "
            f"computed {where} [@fisch2024prep]. These medians are descriptive: they have no p-value."
        )


def _with_citations(paragraphs: Sequence[str]) -> Methods:
    """``[@ashburner2000; @gaser2024]`` -> ``(Ashburner and Friston, 2000; Gaser et al., 2024)``."""
    keys = [key for text in paragraphs for citation in _CITATION.findall(text) for key in _keys(citation)]
    done = [_CITATION.sub(lambda m: f"({'; '.join(in_text(key) for key in _keys(m[1]))})", text) for text in paragraphs]
    done = [text.replace("the rules of (Ridgway et al., 2008)", "the rules of Ridgway et al. (2008)") for text in done]
    return Methods(tuple(done), tuple(dict.fromkeys(keys)))


def _keys(citation: str) -> list[str]:
    return [key.removeprefix("@") for key in citation.split("; ")]


def _count(n: int, one: str, many: str) -> str:
    return f"{n:,} {one if n == 1 else many}"
