"""Keywords of ``fit_glm`` in place of a `ModelSpec` and a `Compute`, and the old spellings of ``variance``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

from vbmstat.device import choose_device
from vbmstat.distributed.pool import Cluster
from vbmstat.errors import DesignError
from vbmstat.glm.spec import Compute, Contrasts, ModelSpec
from vbmstat.progress import OnProgress

OLD_VARIANCES = ("robust", "spm_resms", "repeated", "variance_groups")  # options that `variance` replaces


class ModelKeywords(TypedDict, total=False):
    """Keywords of :meth:`ModelSpec.make`: the fields of `ModelSpec` and of its parts."""

    variance: str
    repeats: int
    fraction: float
    stratify: str | None
    draws: Path | str | None
    inference: str | Sequence[str]
    permutations: int
    scheme: str
    sign_flip: bool
    one_sided: bool
    cluster_threshold: float
    blocks: str | Sequence[str]
    exchange: str
    tail: str
    stop_after: int
    mask_threshold: float | None
    mask_share: float
    mask: Path | str | None
    nan: str
    exclude: str | Sequence[str]
    where: str | Sequence[str]
    tables: Path | str | Sequence[Path | str]
    exclusions: bool
    seed: int
    tiv: str
    global_scaling: bool
    weights: str | None
    fwhm_mm: float | None
    missing: str
    allow_mixed: bool


class GlmKeywords(ModelKeywords, total=False):
    """Keywords of ``fit_glm``: those of the model and the fields of `Compute`."""

    device: str
    n_threads: int | None
    chunk_voxels: int | None
    backend: str
    store: Path | str | None
    scratch: Path | str | None
    checkpoint: Path | str | None
    cluster: Cluster | None
    progress: OnProgress | None
    announce: Callable[[str], None] | None


def as_spec(
    model: ModelSpec | str, contrasts: Contrasts, compute: Compute | None, keywords: Mapping[str, Any]
) -> tuple[ModelSpec, Compute]:
    """A `ModelSpec` and a `Compute`, from either themselves or a formula with keywords.

    Raises
    ------
    TypeError
        If a keyword is unknown, or repeats what `model` or `compute` says.
    """
    of_model, of_compute = split_keywords(keywords)
    if isinstance(model, ModelSpec) and (of_model or contrasts is not None):
        msg = f"{', '.join(of_model) or 'contrasts'} beside a ModelSpec: give spec.replace(…), or a formula"
        raise TypeError(msg)
    spec = model if isinstance(model, ModelSpec) else ModelSpec.make(model, contrasts, **of_model)
    if compute is not None and len(keywords) > len(of_model):
        msg = "keywords of Compute beside compute=: give one of the two"
        raise TypeError(msg)
    compute = compute or of_compute
    return spec, replace(compute, device=str(choose_device(compute.device)))


def split_keywords(keywords: Mapping[str, Any]) -> tuple[ModelKeywords, Compute]:
    """Split keywords of ``fit_glm`` into those of the model and a `Compute`.

    Examples
    --------
    >>> split_keywords({"repeats": 0, "n_threads": 2})[1].n_threads
    2
    """
    old = {name: value for name, value in keywords.items() if name in OLD_VARIANCES}
    variance = new_spelling(**old)
    if variance is not None:
        if keywords.get("variance", variance) != variance:
            named = ", ".join(old)
            msg = f"variance={keywords['variance']!r} beside {named} for {variance!r}: leave the old keyword out"
            raise DesignError(msg)
        warnings.warn(f"{', '.join(old)}: write variance={variance!r}", FutureWarning, stacklevel=4)
        keywords = {**keywords, "variance": variance}
    keywords = {name: value for name, value in keywords.items() if name not in old}
    own = {name: value for name, value in keywords.items() if name in Compute.names()}
    return {name: value for name, value in keywords.items() if name not in own}, Compute(**own)  # type: ignore[return-value]


def new_spelling(
    robust: str = "none", spm_resms: bool = False, repeated: str | None = None, variance_groups: str | None = None
) -> str | None:
    """The ``variance`` that the old options ``robust``, ``spm_resms``, ``repeated``, ``variance_groups`` stood for.

    Raises
    ------
    DesignError
        If there are several.
    """
    asked = [
        *([robust] if robust != "none" else []), *(["spm"] if spm_resms else []),
        *([f"sandwich:{repeated}"] if repeated else []), *([f"groups:{variance_groups}"] if variance_groups else []),
    ]  # fmt: skip
    if len(asked) > 1:
        msg = f"several variances ({', '.join(asked)}): choose one with --variance"
        raise DesignError(msg)
    return asked[0] if asked else None
