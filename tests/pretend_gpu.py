"""A pretend GPU: tensors that say they are on ``cuda:0``, hold real values, and fail where a real GPU would.

Each tensor wraps one of the CPU. Operators run on what is wrapped, so that values, branches on values and results are
real, and are those of the CPU bit by bit. What a GPU refuses is refused first: tensors of two devices in one operator,
random numbers from a generator of the CPU, numpy reading a tensor of the GPU, operators without a CUDA kernel, products
of integers. ``torch.autocast("cuda")`` rounds inputs and results of products and convolutions to float16.

torch's FakeTensorMode holds no values, so that each number the code reads would have to be made up, and in a CPU build
of torch it cannot index tensors of ``cuda``.

It cannot show: the values of CUDA's kernels, limits of size and memory, TorchScript networks on a GPU, races, speed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CUDA = torch.device("cuda", 0)
_UNDER = "meta"  # what torch's C++ takes the device for: a CPU build has no CUDA device to guard
_aten = torch.ops.aten
_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
_COPIES = {_aten._to_copy, _aten.copy_, _aten.copy}
_INDEXING = {_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_}
_PRODUCTS = {
    _aten.mm, _aten.bmm, _aten.addmm, _aten.addmm_, _aten.baddbmm, _aten.addmv, _aten.mv, _aten.dot, _aten.convolution,
}  # fmt: skip
_LOWERED = _PRODUCTS | {  # by autocast
    _aten.conv2d, _aten.conv3d, _aten.conv_transpose2d, _aten.conv_transpose3d, _aten.linear, _aten.matmul,
}  # fmt: skip
_WHOLE = {_aten.quantile}  # composites that change shapes in place
_TAKE_NUMBERS = {_aten.where, _aten.masked_fill, _aten.masked_fill_, _aten.index_fill, _aten.index_fill_}
_CPU_ONLY = {  # a kernel for the CPU and none for CUDA, by native_functions.yaml of torch 2.13
    _aten.histogram, _aten._histogramdd_bin_edges, _aten._histogramdd_from_bin_cts, _aten._histogramdd_from_bin_tensors,
    _aten.narrow_copy, _aten._spdiags, _aten._add_relu,
}  # fmt: skip
_FROM_HOST_DATA = {torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor}
_TO_HOST = {torch.Tensor.numpy, torch.Tensor.__array__}
_BY_KEY = {torch.Tensor.__getitem__, torch.Tensor.__setitem__}
_SAYS = {torch.Tensor.device: CUDA, torch.Tensor.is_cuda: True, torch.Tensor.is_cpu: False, torch.Tensor.is_meta: False}
_MIXED = "expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu"
_TO_NUMPY = (
    "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."
)
_half = {"on": False}  # whether autocast is


class OnGpu(torch.Tensor):
    """A tensor of the pretend GPU; `inner` has its values."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> OnGpu:
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            layout=inner.layout, device=torch.device(_UNDER), requires_grad=False,
        )  # fmt: skip
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"OnGpu({self.inner!r})"


@contextlib.contextmanager
def pretend_gpu() -> Iterator[torch.device]:
    """A machine with one GPU of 16 GB; yields its device."""
    with (
        mock.patch("torch.cuda.is_available", return_value=True),
        mock.patch("torch.cuda.device_count", return_value=1),
        mock.patch("torch.cuda.get_device_name", return_value="pretended"),
        mock.patch("torch.cuda.mem_get_info", return_value=(12 << 30, 16 << 30)),
        mock.patch("torch.autocast", _autocast),
        mock.patch.object(ThreadPoolExecutor, "submit", _submit),
        _Operators(),
        _Functions(),
    ):
        yield CUDA


@contextlib.contextmanager
def _autocast(device_type: str, dtype: torch.dtype = torch.float16, enabled: bool = True) -> Iterator[None]:
    before, _half["on"] = _half["on"], enabled and device_type == "cuda" and dtype == torch.float16
    try:
        yield
    finally:
        _half["on"] = before


_submit_plainly = ThreadPoolExecutor.submit


def _submit(pool: ThreadPoolExecutor, task: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
    """The other threads have the GPU, too: torch's modes belong to one thread."""

    def on_gpu(*args: Any, **kwargs: Any) -> Any:
        with _Operators(), _Functions():
            return task(*args, **kwargs)

    return _submit_plainly(pool, on_gpu, *args, **kwargs)


class _Functions(TorchFunctionMode):
    """torch's functions as Python calls them: names of devices, what tensors say of theirs, numbers from the host."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if args and isinstance(args[0], OnGpu):
            if func.__name__ == "__get__" and func.__self__ in _SAYS:
                return _SAYS[func.__self__]
            if func in _TO_HOST:
                raise TypeError(_TO_NUMPY)
            if func is torch.Tensor.tolist:
                return args[0].inner.tolist()
            if func in _BY_KEY:  # of a list torch would make a tensor on a device that is not there
                args = (args[0], _map(_as_index, args[1], (list, np.ndarray)), *args[2:])
        if func is torch.device:
            return func(*args, **kwargs)
        if func in _FROM_HOST_DATA:
            return _from_host_data(func, args, kwargs)
        return func(*_map(_underlying, args), **_map(_underlying, kwargs))


def _map(change: Callable[[Any], Any], value: Any, leaves: tuple[type, ...] = ()) -> Any:
    """The same in tuples, lists and dicts, unless those are leaves."""
    if isinstance(value, tuple | list) and not isinstance(value, (torch.Size, *leaves)) and value:
        parts = [_map(change, one, leaves) for one in value]
        return parts if isinstance(value, list) else tuple(parts) if type(value) is tuple else type(value)(parts)
    if isinstance(value, dict):
        return {key: _map(change, one, leaves) for key, one in value.items()}
    return change(value)


def _underlying(value: Any) -> Any:
    if isinstance(value, torch.device) and value.type == "cuda":
        return torch.device(_UNDER)
    return _UNDER if isinstance(value, str) and value.partition(":")[0] == "cuda" else value


def _as_index(key: Any) -> Any:
    return torch.as_tensor(key) if isinstance(key, list | np.ndarray) else key


def _from_host_data(func: Any, args: Any, kwargs: Any) -> torch.Tensor:
    """A tensor of numbers or numpy's arrays: made on the CPU, then copied, as CUDA does it."""
    source, device, dtype = args[0], kwargs.pop("device", None), kwargs.get("dtype")
    if func is torch.Tensor.new_tensor:
        made = torch.tensor(*args[1:], **{"dtype": source.dtype, **kwargs})
    else:
        made = source if isinstance(source, torch.Tensor) else func(*args, **kwargs)
    is_gpu = isinstance(source, OnGpu) if device is None else torch.device(device).type == "cuda"
    return made.to(device=_UNDER if is_gpu else "cpu", dtype=dtype or made.dtype)


class _Operators(TorchDispatchMode):
    """torch's operators, those that make tensors among them."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # there is no compiler to keep out, and its import takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Operator(NamedTuple):
    """What is to know of an operator."""

    packet: Any
    is_composite: bool  # of others; in inference mode torch hands these over whole
    takes_numbers: bool  # of the CPU, beside tensors of the GPU
    written: tuple[int | str, ...]  # its arguments that it changes: positions, and names of keywords
    makes_new: bool  # and no view or changed argument


@cache
def _operator(func: Any) -> _Operator:
    packet, schema = func.overloadpacket, func._schema
    written: list[int | str] = []
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            written.append(argument.name if argument.kwarg_only else position)
    takes_numbers = torch.Tag.pointwise in func.tags or packet in _INDEXING | _TAKE_NUMBERS
    makes_new = not any(one.alias_info for one in schema.returns) and packet not in _COPIES
    is_composite = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _COMPOSITE)
    return _Operator(packet, is_composite and packet not in _WHOLE, takes_numbers, tuple(written), makes_new)


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    about = _operator(func)
    if _half["on"] and about.packet in _LOWERED:
        args, kwargs = _map(_lowered, args), _map(_lowered, kwargs)
    if about.is_composite:
        with _Operators():
            return func._op_dk(_COMPOSITE, *args, **kwargs)
    tensors: list[torch.Tensor] = []
    _map(lambda one: tensors.append(one) if isinstance(one, torch.Tensor) else None, (args, kwargs))
    given, asked = any(isinstance(one, OnGpu) for one in tensors), kwargs.get("device")
    is_gpu = given if asked is None else torch.device(asked).type == _UNDER
    if given or is_gpu:
        _refuse(func, about, args, kwargs, tensors)
    inner_args, inner_kwargs = _map(_inner, args), _map(_inner, kwargs)
    if asked is not None:
        inner_kwargs["device"] = torch.device("cpu")
    out = _computed(func, about, inner_args, inner_kwargs) if given else func(*inner_args, **inner_kwargs)
    if not is_gpu or func is _aten._local_scalar_dense.default:
        return out
    if about.written:
        changed = [kwargs[at] if isinstance(at, str) else args[at] for at in about.written]
        if any(one.shape != one.inner.shape for one in changed):
            msg = f"the pretend GPU cannot change shapes in place ({func})"
            raise NotImplementedError(msg)
        return changed[0] if len(changed) == 1 else tuple(changed)
    return _map(lambda one: OnGpu(one.resolve_conj().resolve_neg()) if isinstance(one, torch.Tensor) else one, out)


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, OnGpu) else value


def _lowered(value: Any) -> Any:
    return OnGpu(value.inner.half()) if isinstance(value, OnGpu) and value.dtype == torch.float32 else value


def _refuse(func: Any, about: _Operator, args: Any, kwargs: dict[str, Any], tensors: list[torch.Tensor]) -> None:
    """Raise what CUDA raises."""
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type != "cuda":
        msg = f"{func}: expected a 'cuda' device type for generator but found '{generator.device.type}'"
        raise RuntimeError(msg)
    if about.packet in _CPU_ONLY:
        msg = f"could not run '{func}' with arguments from the 'CUDA' backend"
        raise NotImplementedError(msg)
    if about.packet in _INDEXING and isinstance(args[0], OnGpu):  # indices may be on the CPU
        tensors = [one for one in (args[0], *args[2:3]) if isinstance(one, torch.Tensor)]
    if about.packet not in _COPIES and any(
        not isinstance(one, OnGpu) and not (about.takes_numbers and one.dim() == 0) for one in tensors
    ):
        msg = f"{func}: {_MIXED}"
        raise RuntimeError(msg)
    if about.packet in _PRODUCTS and not (tensors[0].dtype.is_floating_point or tensors[0].dtype.is_complex):
        msg = f"{func}: not implemented on CUDA for {tensors[0].dtype}"
        raise RuntimeError(msg)


def _computed(func: Any, about: _Operator, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operator on the CPU; what a GPU does in half precision is done in single, and rounded."""
    kinds: set[torch.dtype] = set()
    _map(lambda one: kinds.add(one.dtype) if isinstance(one, torch.Tensor) else None, (args, kwargs))
    if torch.float16 not in kinds or not about.makes_new or {torch.float32, torch.float64} & kinds:
        return func(*args, **kwargs)

    def single(one: Any) -> Any:
        return one.float() if isinstance(one, torch.Tensor) and one.dtype == torch.float16 else one

    def rounded(one: Any) -> Any:
        return one.half() if isinstance(one, torch.Tensor) and one.dtype == torch.float32 else one

    return _map(rounded, func(*_map(single, args), **_map(single, kwargs)))
