"""How a model is fitted: every keyword of ``fit_glm``, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vbmstat.errors import DesignError
from vbmstat.glm.inference.permute.blocks import EXCHANGES
from vbmstat.glm.inference.permute.schemes import SCHEMES
from vbmstat.glm.inference.permute.tails import FEWEST, TAILS
from vbmstat.maps.masking import MASK_THRESHOLD, MaskRule
from vbmstat.tables.cohort import closest

INFERENCE_KINDS = ("fdr", "fwe", "tfce", "cluster")
_PERMUTING = ("fwe", "tfce", "cluster")
TIV_RECIPES = ("none", "covariate", "by-group", "proportional")


@dataclass(frozen=True)
class Options:
    """How a model is fitted; every field is a keyword of :func:`fit_glm`.

    Attributes
    ----------
    repeats, fraction, seed, stratify, draws
        Subset repetitions: how many, share of scans, seed, a column whose levels keep their share, or a file of
        stored draws to use again.
    mask_threshold, mask_share, mask, nan
        See :class:`vbmstat.maps.masking.MaskRule`. Without a mask image the threshold is 0.1, with one there is none.
    tiv : {"none", "covariate", "by-group", "proportional"}
        ``none`` leaves the formula alone; ``covariate`` adds ``tiv``; ``by-group`` adds its interaction with the
        formula's factor (CAT12's ANCOVA); ``proportional`` scales each map by mean TIV / TIV.
    global_scaling : bool
        Scale each map to the same mean inside the mask.
    weights : str, optional
        Column with positive weights (inverse variances).
    missing : {"raise", "drop"}
        What becomes of scans without a covariate, or maps without a row.
    robust : {"none", "hc3"}
        HC3 standard errors.
    spm_resms : bool
        SPM's variance floor.
    allow_mixed : bool
        Accept maps of several engines or versions.
    repeated : str, optional
        Column with the subject (or family) of each scan: variances by the sandwich estimator, without subset
        repetitions.
    variance_groups : str, optional
        Column with groups of scans that have a variance each, or ``auto``, the sets of scans that the blocks let change
        places: v and G in place of t and F (:mod:`vbmstat.glm.variance.groups`), without subset repetitions.
    inference : str or sequence of str
        Corrected inference, any of ``fdr``, ``fwe`` (largest statistic), ``tfce``, ``cluster`` (extent and mass).
    permutations : int
        How many, the unpermuted data counted in; all that exist where they are no more. `seed` seeds them, too.
    scheme : {"freedman-lane", "smith"}
        See :mod:`vbmstat.glm.inference.permute.schemes`.
    sign_flip : bool
        Flip signs in place of permuting: one-sample and paired designs.
    one_sided : bool
        Corrected p and q of t-contrasts against a positive effect only.
    cluster_threshold : float
        Cluster-forming threshold: below 1 an uncorrected p, else t or F itself.
    blocks : str or sequence of str
        Columns of exchangeability blocks; one column of labels, or PALM's several.
    exchange : {"within", "whole", "both"}
        What one block column lets be exchanged: scans inside blocks, whole blocks of equal size, or both.
    tail : {"none", "gpd"}
        Small p by permutation from a fitted distribution; see :mod:`vbmstat.glm.inference.permute.tails`.
    stop_after : int
        Stop when so many permutations reach the strongest finding of every kind (Besag & Clifford 1991); 0 for never.
    device, backend, n_threads, chunk_voxels
        See :func:`vbmstat.glm.fit.engine.fit_voxels`.
    """

    repeats: int = 100
    fraction: float = 0.8
    seed: int = 0
    stratify: str | None = None
    draws: Path | str | None = None
    mask_threshold: float | None = None
    mask_share: float = 1.0
    mask: Path | str | None = None
    nan: str = "raise"
    tiv: str = "none"
    global_scaling: bool = False
    weights: str | None = None
    missing: str = "raise"
    robust: str = "none"
    spm_resms: bool = False
    allow_mixed: bool = False
    repeated: str | None = None
    variance_groups: str | None = None
    inference: str | Sequence[str] = ()
    permutations: int = 5000
    scheme: str = SCHEMES[0]
    sign_flip: bool = False
    one_sided: bool = False
    cluster_threshold: float = 0.001
    blocks: str | Sequence[str] = ()
    exchange: str = EXCHANGES[0]
    tail: str = TAILS[0]
    stop_after: int = 0
    device: str = "cpu"
    backend: str = "auto"
    n_threads: int | None = None
    chunk_voxels: int | None = None

    def __post_init__(self) -> None:
        choices = {
            "tiv": TIV_RECIPES, "robust": ("none", "hc3"), "missing": ("raise", "drop"), "scheme": SCHEMES,
            "exchange": EXCHANGES, "tail": TAILS,
        }  # fmt: skip
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                msg = f"{name}={getattr(self, name)!r}: expected one of {', '.join(allowed)}"
                raise DesignError(msg)
        # one text with commas, or several: kept as a tuple
        object.__setattr__(self, "inference", _words(self.inference))
        object.__setattr__(self, "blocks", _words(self.blocks))
        unknown = [kind for kind in self.inference if kind not in INFERENCE_KINDS]
        if unknown:
            msg = f"inference={unknown[0]!r}: expected some of {', '.join(INFERENCE_KINDS)}"
            raise DesignError(msg)
        if not self.cluster_threshold > 0:
            msg = f"cluster_threshold={self.cluster_threshold:g}: expected a p below 1, or a t or F of at least 1"
            raise DesignError(msg)
        if (self.blocks or self.sign_flip) and not self.permutes:
            msg = "blocks and sign flips are for permutations: add --inference fwe, tfce or cluster, or leave them out"
            raise DesignError(msg)
        if self.exchange != EXCHANGES[0] and len(self.blocks) != 1:
            msg = f"exchange={self.exchange!r} is for one column of blocks, got {len(self.blocks)}; leave it out"
            raise DesignError(msg)
        _check_shortcuts(self)

    @property
    def inference_kinds(self) -> tuple[str, ...]:
        """The corrected inference that is asked for."""
        return tuple(self.inference)

    @property
    def permutes(self) -> bool:
        """Whether permutations are asked for."""
        return any(kind in _PERMUTING for kind in self.inference)

    @property
    def mask_rule(self) -> MaskRule:
        """The mask rule with its default threshold."""
        image = None if self.mask is None else Path(self.mask)
        threshold = MASK_THRESHOLD if self.mask_threshold is None and image is None else self.mask_threshold
        return MaskRule(threshold, self.mask_share, image, self.nan)


def _check_shortcuts(options: Options) -> None:
    """Refuse numbers of permutations, tails and early stopping where they mean nothing."""
    if options.permutes and options.permutations < 2:
        msg = f"permutations={options.permutations}: expected at least 2, the unpermuted data being one of them"
        raise DesignError(msg)
    if options.stop_after and not 0 < options.stop_after < options.permutations:
        msg = f"stop_after={options.stop_after}: expected 0 (never) or below permutations={options.permutations}"
        raise DesignError(msg)
    if (options.tail != "none" or options.stop_after) and not options.permutes:
        msg = "tail and stop_after are for permutations: add --inference fwe, tfce or cluster, or leave them out"
        raise DesignError(msg)
    if options.tail != "none" and options.permutations < FEWEST:
        msg = f"a tail is fitted to at least {FEWEST} permutations (500 are usual), got {options.permutations}"
        raise DesignError(msg)


def _words(given: str | Sequence[str]) -> tuple[str, ...]:
    """``"fdr, fwe"`` or ``["fdr", "fwe"]`` as a tuple."""
    parts = given.split(",") if isinstance(given, str) else [part for text in given for part in text.split(",")]
    return tuple(part.strip() for part in parts if part.strip())


def make_options(given: Mapping[str, Any]) -> Options:
    """Options from keywords; an unknown one is named with its nearest."""
    names = list(Options.__dataclass_fields__)
    unknown = [name for name in given if name not in names]
    if unknown:
        msg = f"fit_glm has no option {unknown[0]!r} (nearest {closest(unknown[0], names) or 'none'})"
        raise TypeError(msg)
    return Options(**given)
