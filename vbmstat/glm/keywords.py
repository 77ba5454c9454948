"""Keywords of ``fit_glm`` in place of a `ModelSpec` and a `Compute`, and the old spellings of ``variance``."""

from __future__ import annotations

import inspect
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import UnionType
from typing import Any, TypedDict, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from vbmstat.device import choose_device, is_cpu
from vbmstat.distributed.pool import Cluster
from vbmstat.errors import DesignError
from vbmstat.glm.spec import PART_NAMES, RENAMED, Compute, Contrasts, ModelSpec
from vbmstat.progress import OnProgress

Wrapped = TypeVar("Wrapped", bound=Callable[..., Any])


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


def with_keywords(function: Wrapped) -> Wrapped:
    """Show the keywords that a function takes as ``**keywords`` in its signature and help, with their meaning."""
    signature = inspect.signature(function)
    own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    types, defaults, meaning = get_type_hints(GlmKeywords), _defaults(), _meanings()
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=types[name])
        for name in types
    ]
    function.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
    lines = [f"{name} : default {defaults[name]!r}\n        {meaning[name]}" for name in types]
    before, returns, after = str(function.__doc__).partition("\n    Returns\n")
    section = "\n    ".join(["", "Other Parameters", "----------------", *lines, ""])
    function.__doc__ = f"{before}{section}{returns}{after}" if function.__doc__ else None
    return function


def _defaults() -> dict[str, Any]:
    spec, compute = ModelSpec(""), Compute()
    return {
        name: getattr(compute, name) if name in Compute.names() else spec.value(name)
        for name in get_type_hints(GlmKeywords)
    }


def _meanings() -> dict[str, str]:
    """Meaning of each keyword, from the docstrings of the classes whose fields they are."""
    of: dict[str, str] = {}
    for cls in (ModelSpec, *PART_NAMES, Compute):
        _, _, listed = str(inspect.getdoc(cls)).partition("Attributes\n----------\n")
        for names, text in re.findall(r"^(\w[\w, ]*) : .*\n((?: +.*\n?)+)", listed, re.MULTILINE):
            for name in names.split(", "):
                keyword = RENAMED.get((PART_NAMES.get(cls, ""), name), name)
                of[keyword] = " ".join(text.split())
    return of


def check_types(keywords: Mapping[str, Any]) -> None:
    """Refuse keywords of another type than `GlmKeywords` says.

    Raises
    ------
    DesignError
        Naming what was expected.
    """
    types = get_type_hints(GlmKeywords)
    for name, value in keywords.items():
        if name in types and value is not None and not any(_is_a(value, one) for one in _alternatives(types[name])):
            expected = " or ".join(
                dict.fromkeys(_WORDS.get(one, "something else") for one in _alternatives(types[name]))
            )
            msg = f"{name}={value!r:.60}: expected {expected}, got {type(value).__name__}"
            raise DesignError(msg)


def _alternatives(hint: Any) -> list[Any]:
    """Types of a union, without None; sequences and callables by their plain class."""
    parts = get_args(hint) if get_origin(hint) in (UnionType, Union) else (hint,)
    return [get_origin(one) or one for one in parts if one is not type(None)]


def _is_a(value: Any, cls: Any) -> bool:
    if isinstance(value, bool) or cls is bool:
        return cls is bool and isinstance(value, bool | np.bool_)
    if cls in (int, float):
        return isinstance(value, numbers.Integral if cls is int else numbers.Real)
    if cls is Sequence:
        return isinstance(value, Sequence) and all(isinstance(one, str) for one in value)
    return callable(value) if cls is Callable else isinstance(value, cls)


_WORDS = {
    str: "text", Path: "a path", int: "a whole number", float: "a number", bool: "True or False",
    Sequence: "a list of texts", Callable: "a function", Cluster: "a Cluster",
}  # fmt: skip


def as_spec(
    model: ModelSpec | str, contrasts: Contrasts, compute: Compute | None, keywords: Mapping[str, Any]
) -> tuple[ModelSpec, Compute]:
    """A `ModelSpec` and a `Compute`, from either themselves or a formula with keywords.

    Raises
    ------
    TypeError
        If a keyword is unknown, or repeats what `model` or `compute` says.
    """
    check_types(keywords)
    if not isinstance(model, ModelSpec | str):
        msg = f"model={model!r:.60}: expected a formula such as 'gm ~ age + sex + tiv', or a ModelSpec"
        raise DesignError(msg)
    if contrasts is not None and not isinstance(contrasts, str | Mapping | Sequence):
        msg = f"contrasts={contrasts!r:.60}: expected a text, a list of texts or {{name: contrast}}"
        raise DesignError(msg)
    of_model, of_compute = split_keywords(keywords)
    if isinstance(model, ModelSpec) and (of_model or contrasts is not None):
        msg = f"{', '.join(of_model) or 'contrasts'} beside a ModelSpec: give spec.replace(…), or a formula"
        raise TypeError(msg)
    spec = model if isinstance(model, ModelSpec) else ModelSpec.make(model, contrasts, **of_model)
    if compute is not None and len(keywords) > len(of_model):
        msg = "keywords of Compute beside compute=: give one of the two"
        raise TypeError(msg)
    compute = compute or of_compute
    return spec, compute if is_cpu(compute.device) else replace(compute, device=str(choose_device(compute.device)))


def split_keywords(keywords: Mapping[str, Any]) -> tuple[ModelKeywords, Compute]:
    """Split keywords of ``fit_glm`` into those of the model and a `Compute`.

    Examples
    --------
    >>> split_keywords({"repeats": 0, "n_threads": 2})[1].n_threads
    2
    """
    own = {name: value for name, value in keywords.items() if name in Compute.names()}
    return {name: value for name, value in keywords.items() if name not in own}, Compute(**own)  # type: ignore[return-value]
