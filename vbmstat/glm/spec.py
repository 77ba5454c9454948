"""What a model is (`ModelSpec`) and how it is computed (`Compute`): every choice of ``fit_glm``, checked.

A `ModelSpec` decides the results. The command line builds it, ``fit_glm`` takes it, ``glm.json`` records it and
``rerun`` reads it back. A `Compute` decides only where and how fast: results do not depend on it.
Over 300 lines: a field with its meaning and its check for each option.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vbmstat.assets.provenance import file_record
from vbmstat.distributed.pool import Cluster
from vbmstat.errors import DesignError
from vbmstat.maps.masking import MASK_THRESHOLD, MaskRule
from vbmstat.maps.paths import check_fwhm
from vbmstat.progress import OnProgress
from vbmstat.tables.cohort import Cohort, closest
from vbmstat.tables.selection import Selection, select

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from vbmstat.glm.keywords import ModelKeywords

VARIANCES = ("ols", "hc3", "spm", "sandwich:COLUMN", "groups:COLUMN")
TIV_RECIPES = ("none", "covariate", "by-group", "proportional")
INFERENCE_KINDS = ("fdr", "rft", "fwe", "tfce", "cluster")
SCHEMES = ("freedman-lane", "smith")
EXCHANGES = ("within", "whole", "both")
TAILS = ("none", "gpd")
MOST_PERMUTATIONS = 10_000_000
FEWEST_FOR_TAIL = 100  # permutations that a tail can be fitted to
_PERMUTING = ("fwe", "tfce", "cluster")

Contrasts = str | Sequence[str] | Mapping[str, Any] | None


@dataclass(frozen=True)
class Subsets:
    """Random subsets of the scans.

    Attributes
    ----------
    repeats, fraction : int, float
        How many subsets, and the share of scans in each.
    stratify : str, optional
        Column whose levels keep their share in every subset.
    draws : path, optional
        File of stored draws to use again.
    """

    repeats: int = 100
    fraction: float = 0.8
    stratify: str | None = None
    draws: Path | str | None = None

    @property
    def asked(self) -> list[str]:
        """Options that ask for other subsets than the default ones, as the command line spells them."""
        default = Subsets()
        changed = [one.name for one in fields(self) if getattr(self, one.name) != getattr(default, one.name)]
        return [] if self.repeats == 0 and self.draws is None else [f"--{name}" for name in changed]


@dataclass(frozen=True)
class Masking:
    """Which voxels are analysed; see :class:`vbmstat.maps.masking.MaskRule`.

    The threshold is 0.1 without a mask image, and none with one, unless it is given.

    Attributes
    ----------
    threshold, share : float, float
        A voxel is analysed if this share of the scans exceeds the threshold there (SPM's absolute threshold).
    image : path, optional
        Mask image on the grid of the maps.
    nan : {"raise", "exclude"}
        What NaN inside the mask are: an error, or voxels left out.
    """

    threshold: float | None = None
    share: float = 1.0
    image: Path | str | None = None
    nan: str = "raise"

    @property
    def rule(self) -> MaskRule:
        """The rule with its default threshold."""
        image = None if self.image is None else Path(self.image)
        threshold = MASK_THRESHOLD if self.threshold is None and image is None else self.threshold
        return MaskRule(threshold, self.share, image, self.nan)


@dataclass(frozen=True)
class InferenceSpec:
    """Corrected inference.

    Attributes
    ----------
    kinds : tuple of str
        Any of ``fdr``, ``rft`` (random fields), and by permutation ``fwe`` (largest statistic), ``tfce``, ``cluster``
        (extent and mass).
    permutations : int
        How many, including the unpermuted data; all of them where fewer exist.
    scheme : {"freedman-lane", "smith"}
        See :mod:`vbmstat.glm.inference.permute.schemes`.
    sign_flip : bool
        Flip signs in place of permuting: one-sample designs and maps of paired differences.
    one_sided : bool
        Corrected p and q of t-contrasts for a positive effect only.
    cluster_threshold : float
        Cluster-forming threshold: below 1 an uncorrected p, else t or F itself.
    blocks : tuple of str
        Columns of exchangeability blocks; one column of labels, or PALM's several.
    exchange : {"within", "whole", "both"}
        What one block column exchanges: scans inside blocks, whole blocks of equal size, or both.
    tail : {"none", "gpd"}
        Small p by permutation from a fitted distribution; see :mod:`vbmstat.glm.inference.permute.tails`.
    stop_after : int
        Stop once this many permutations reach the strongest finding of every kind (Besag & Clifford 1991); 0: never.
    """

    kinds: tuple[str, ...] = ()
    permutations: int = 5000
    scheme: str = SCHEMES[0]
    sign_flip: bool = False
    one_sided: bool = False
    cluster_threshold: float = 0.001
    blocks: tuple[str, ...] = ()
    exchange: str = EXCHANGES[0]
    tail: str = TAILS[0]
    stop_after: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", _words(self.kinds))
        object.__setattr__(self, "blocks", _words(self.blocks))
        for name, allowed in {"scheme": SCHEMES, "exchange": EXCHANGES, "tail": TAILS}.items():
            _check_choice(name, getattr(self, name), allowed)
        for kind in self.kinds:
            _check_choice("inference", kind, INFERENCE_KINDS)
        permutations, has_tail = self.permutations, self.tail != TAILS[0]
        add = "need permutations: add --inference fwe, tfce or cluster, or leave them out"
        for is_wrong, msg in (
            (not 0 < self.cluster_threshold < math.inf,
             f"cluster_threshold={self.cluster_threshold:g}: expected a p below 1, or a t or F of at least 1"),
            (self.exchange != EXCHANGES[0] and len(self.blocks) != 1,
             f"exchange={self.exchange!r} is for one column of blocks, got {len(self.blocks)}; leave it out"),
            (not self.permutes and (self.blocks or self.sign_flip), f"blocks and sign flips {add}"),
            (not self.permutes and (has_tail or self.stop_after), f"tail and stop_after {add}"),
            (self.permutes and permutations < 2,
             f"permutations={permutations}: expected at least 2, the unpermuted data being one of them"),
            (self.permutes and permutations > MOST_PERMUTATIONS,
             f"permutations={permutations}: expected at most {MOST_PERMUTATIONS:,}; 5,000 to 10,000 are usual"),
            (self.stop_after and not 0 < self.stop_after < permutations,
             f"stop_after={self.stop_after}: expected 0 (never) or below permutations={permutations}"),
            (has_tail and permutations < FEWEST_FOR_TAIL,
             f"a tail takes at least {FEWEST_FOR_TAIL} permutations (500 are usual), got {permutations}"),
        ):  # fmt: skip
            if is_wrong:
                raise DesignError(msg)

    @property
    def permutes(self) -> bool:
        """Whether permutations are asked for."""
        return any(kind in _PERMUTING for kind in self.kinds)


@dataclass(frozen=True)
class ModelSpec:
    """Everything but the data that decides the results of a model.

    Attributes
    ----------
    formula : str
        For example ``"gm ~ age + sex + tiv"``.
    contrasts : sequence of str or mapping, optional
        See :func:`vbmstat.glm.design.contrast.build_contrasts`; by default one t-contrast a column, of which only those
        of the first covariate (and its interactions) are permuted; ``"all"`` permutes every one.
    variance : str
        How the variance of a contrast is estimated: ``ols``; ``hc3``; ``spm`` (SPM's variance floor);
        ``sandwich:COLUMN`` (repeated scans or families; the column has the subject of each scan); ``groups:COLUMN`` (a
        variance for each group of scans; ``groups:auto`` groups the scans that the blocks let change places).
    subsets, inference, mask, selection
        Nested choices; `selection` says which scans take part, and which tables are joined.
    seed : int
        Of the subsets and the permutations.
    tiv : {"none", "covariate", "by-group", "proportional"}
        ``none`` leaves the formula alone; ``covariate`` adds ``tiv``; ``by-group`` adds its interaction with the
        formula's factor (CAT12's ANCOVA); ``proportional`` scales each map by mean TIV / TIV.
    global_scaling : bool
        Scale each map to the same mean inside the mask.
    weights : str, optional
        Column with positive weights (inverse variances).
    fwhm_mm : float, optional
        Width (FWHM) of the Gaussian for unsmoothed maps; maps that have it already are used as they are. 0 takes
        unsmoothed maps as they are; by default maps are used as they are, smoothed ones where there are both.
    missing : {"raise", "drop"}
        Whether scans without a covariate, or maps without a row, are an error or left out.
    allow_mixed : bool
        Accept maps of several engines, versions or kinds.
    """

    formula: str
    contrasts: Contrasts = None
    variance: str = VARIANCES[0]
    subsets: Subsets = field(default_factory=Subsets)
    inference: InferenceSpec = field(default_factory=InferenceSpec)
    mask: Masking = field(default_factory=Masking)
    selection: Selection = field(default_factory=Selection)
    seed: int = 0
    tiv: str = TIV_RECIPES[0]
    global_scaling: bool = False
    weights: str | None = None
    fwhm_mm: float | None = None
    missing: str = "raise"
    allow_mixed: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.contrasts, str):
            object.__setattr__(self, "contrasts", [self.contrasts])
        _check_choice("tiv", self.tiv, TIV_RECIPES)
        _check_choice("missing", self.missing, ("raise", "drop"))
        check_fwhm(self.fwhm_mm)
        if self.seed < 0:
            msg = f"seed={self.seed}: expected 0 or more"
            raise DesignError(msg)
        name, _, column = str(self.variance).partition(":")
        if (f"{name}:COLUMN" if column else name) not in VARIANCES:
            msg = f"variance={self.variance!r}: expected one of {', '.join(VARIANCES)}"
            raise DesignError(msg)

    @classmethod
    def make(cls, formula: str, contrasts: Contrasts = None, **keywords: Unpack[ModelKeywords]) -> ModelSpec:
        """A spec from keywords that name the nested fields directly; raises as :meth:`replace`.

        Examples
        --------
        >>> ModelSpec.make("gm ~ age", repeats=0, inference="fwe").inference.kinds
        ('fwe',)
        """
        return cls(formula, contrasts).replace(**keywords)

    def replace(self, **keywords: Unpack[ModelKeywords]) -> ModelSpec:
        """Copy the spec with other values of some fields, nested ones named directly (``permutations=1000``).

        Raises
        ------
        TypeError
            If a keyword is unknown.
        DesignError
            If a value is not allowed, or None where only a value makes sense.
        """
        nested: dict[str, dict[str, Any]] = {}
        for keyword, value in keywords.items():
            if keyword not in _PLACES:
                near = closest(keyword, [*_PLACES, *Compute.names()]) or "none"
                msg = f"fit_glm has no option {keyword!r} (nearest {near})"
                raise TypeError(msg)
            part, name = _PLACES[keyword]
            default = type(self)("").value(keyword)
            if value is None and default is not None:
                msg = f"{keyword}=None: expected a value; leave it out for the default, {default!r}"
                raise DesignError(msg)
            nested.setdefault(part, {})[name] = value
        own = nested.pop("", {})
        return replace(self, **own, **{part: replace(getattr(self, part), **new) for part, new in nested.items()})

    @classmethod
    def from_record(cls, record: Mapping[str, Any], find: Callable[[str, str], Path]) -> ModelSpec:
        """The spec that ``glm.json`` records.

        Parameters
        ----------
        record : mapping
            As :meth:`record` makes it.
        find : callable
            From name and sha256 of a file to its path.

        Raises
        ------
        DesignError, TypeError
            If it is not such a record.
        """

        def with_paths(value: Any) -> Any:
            if isinstance(value, Mapping) and value.keys() == {"file", "sha256"}:
                return str(find(value["file"], value["sha256"]))
            if isinstance(value, Mapping):
                return {name: with_paths(one) for name, one in value.items()}
            return [with_paths(one) for one in value] if isinstance(value, list) else value

        plain = with_paths(record)
        return cls(**{name: _PARTS[name](**value) if name in _PARTS else value for name, value in plain.items()})

    def select(self, cohort: Cohort, folders: Iterable[Path | None] = ()) -> tuple[ModelSpec, Cohort]:
        """The scans of a cohort that the selection leaves, and the spec with the lists that were found in `folders`."""
        rules = self.selection.resolved(cohort, folders)
        return replace(self, selection=rules), select(cohort, rules)

    def changed(self) -> list[str]:
        """Keywords with other than default values."""
        default = type(self)(self.formula)
        return [keyword for keyword in _PLACES if self.value(keyword) != default.value(keyword)]

    def value(self, keyword: str) -> Any:
        """Value of a keyword of :meth:`replace`."""
        part, name = _PLACES[keyword]
        return getattr(getattr(self, part) if part else self, name)

    def record(self) -> dict[str, Any]:
        """The spec for JSON: nested, files by name and sha256; :meth:`from_record` reads it back."""
        record = dict(_plain(asdict(self))) | {"selection": self.selection.record()}
        for part, name in ((record["mask"], "image"), (record["subsets"], "draws")):
            part[name] = None if part[name] is None else file_record(part[name])
        if isinstance(record["contrasts"], list):
            record["contrasts"] = [file_record(one) if one.endswith(".json") else one for one in record["contrasts"]]
        return record


@dataclass(frozen=True)
class Compute:
    """Where and how fast a model is computed; results do not depend on it.

    Attributes
    ----------
    device : str
        ``"cpu"``, ``"cuda"`` or ``"auto"``.
    n_threads, chunk_voxels : int, optional
        Tiles computed at a time, and voxels read at a time.
    backend : {"auto", "compiled", "stacked"}
        Loops over the left-out rows of subsets, or stacked matrix products; ``auto`` takes the faster.
    store : path, optional
        Folder in which the packed maps are kept for the next model; by default they are deleted after the fit.
    scratch : path, optional
        Folder for packed maps that are deleted (4 bytes a voxel and scan); by default the system's.
    checkpoint : path, optional
        Folder of ``contrast-NAME_permutations.npz``, from which interrupted permutations resume.
    cluster : Cluster, optional
        Workers of :func:`vbmstat.distributed.pool.open_cluster` for fits and permutations. They read the packed maps,
        so `store` or `scratch` must be a folder that they share.
    progress : callable, optional
        Called with (stage, done, total).
    announce : callable, optional
        Called with a line on the coding of each covariate, before any map is read.
    """

    device: str = "cpu"
    n_threads: int | None = None
    chunk_voxels: int | None = None
    backend: str = "auto"
    store: Path | str | None = None
    scratch: Path | str | None = None
    checkpoint: Path | str | None = None
    cluster: Cluster | None = None
    progress: OnProgress | None = None
    announce: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        _check_choice("backend", self.backend, ("auto", "compiled", "stacked"))
        for name in ("n_threads", "chunk_voxels"):
            count = getattr(self, name)
            if count is not None and count < 1:
                msg = f"{'--jobs' if name == 'n_threads' else name} {count}: expected 1 or more"
                raise DesignError(msg)
        for name in ("store", "scratch", "checkpoint"):
            folder = getattr(self, name)
            if folder is not None and Path(folder).is_file():
                msg = f"{folder}: a file; expected a folder for {'packed maps' if name == 'store' else 'results'}"
                raise DesignError(msg)
            object.__setattr__(self, name, None if folder is None else Path(folder).absolute())

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the fields."""
        return tuple(one.name for one in fields(cls))

    @property
    def quiet(self) -> Compute:
        """The same in this process and without progress."""
        return replace(self, cluster=None, progress=None, announce=None, chunk_voxels=None)


RENAMED = {  # fields of a part whose keyword has another name
    ("inference", "kinds"): "inference", ("mask", "threshold"): "mask_threshold", ("mask", "share"): "mask_share",
    ("mask", "image"): "mask",
}  # fmt: skip
_PARTS = {"subsets": Subsets, "inference": InferenceSpec, "mask": Masking, "selection": Selection}
PART_NAMES = {cls: name for name, cls in _PARTS.items()}
_PLACES = {  # keyword -> (part, field); "" for the spec's own fields
    **{one.name: ("", one.name) for one in fields(ModelSpec) if one.name not in (*_PARTS, "formula", "contrasts")},
    **{
        RENAMED.get((part, one.name), one.name): (part, one.name)
        for part, cls in _PARTS.items() for one in fields(cls)
    },
}  # fmt: skip


def _check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        msg = f"{name}={value!r}: expected one of {', '.join(allowed)}"
        raise DesignError(msg)


def _words(given: str | Sequence[str]) -> tuple[str, ...]:
    """``"fdr, fwe"`` or ``["fdr", "fwe"]`` as a tuple."""
    parts = given.split(",") if isinstance(given, str) else [part for text in given for part in text.split(",")]
    return tuple(part.strip() for part in parts if part.strip())


def _plain(value: Any) -> Any:
    """A value for JSON."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(one) for one in value]
    return value.tolist() if hasattr(value, "tolist") else value
