"""A pretended accelerator: tensors whose numbers lie in main memory, but which obey the rules of another device.

Within `foreign_device()`, tensors made on or moved to `FOREIGN` say that they live there. As on CUDA, numpy cannot
read them, and an operation that mixes them with tensors on the CPU raises; allowed are numbers (0-dimensional
CPU tensors) in elementwise operations, indices on the CPU, and copies. Autograd works through them. What the
pretence cannot show is what differs on a real device: missing operations, rounding, speed.

The name of the device is "meta", the only one beside the CPU that autograd of a CPU-only torch accepts.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

FOREIGN = torch.device("meta")

_CPU = torch.device("cpu")
_COPIES = ("aten::_to_copy", "aten::copy_")
_INDEXED = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
_MADE_HERE = (torch.tensor, torch.as_tensor)


class ForeignTensor(Tensor):
    """A tensor that says that it lives on `FOREIGN`; `host` holds its numbers."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> "ForeignTensor":
        out: ForeignTensor = Tensor._make_wrapper_subclass(
            cls, host.size(), strides=host.stride(), dtype=host.dtype, device=FOREIGN
        )
        out.host = host
        return out

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Foreign{self.host}"

    def numpy(self, **_: Any) -> Any:
        raise TypeError(
            "can't convert foreign device type tensor to numpy. Use Tensor.cpu() to copy it to host first."
        )

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _call(func, args, kwargs or {})


class Transfers:
    """Sizes of the tensors copied to the foreign device and back."""

    def __init__(self) -> None:
        self.up: list[int] = []
        self.down: list[int] = []


_counted = Transfers()


def _call(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation on the numbers, and say where its result lives."""
    if func is torch.ops.aten._efficientzerotensor.default:
        # Zeros without memory, whose operations go through "meta" on every device.
        func = torch.ops.aten.zeros.default
    name = func._schema.name
    tensors = _tensors([*args, *kwargs.values()])
    foreign = any(isinstance(t, ForeignTensor) for t in tensors)
    if any(t.device == FOREIGN and not isinstance(t, ForeignTensor) for t in tensors):
        raise RuntimeError(f"{name}: a tensor without numbers")
    if foreign and name not in _COPIES:
        _refuse_mixed(func, name, args, tensors)
    to = kwargs.get("device")
    lives_there = foreign if to is None else torch.device(to) == FOREIGN
    if not (foreign or lives_there):
        return func(*args, **kwargs)
    if to is not None and lives_there:
        kwargs = {**kwargs, "device": _CPU}
    if name == "aten::_to_copy" and lives_there != foreign:
        (_counted.up if lives_there else _counted.down).append(tensors[0].numel())
    out = func(*_host(args), **{key: _host(v) for key, v in kwargs.items()})
    if torch.Tag.inplace_view in func.tags and foreign:
        # squeeze_ and the like: the shape that the tensor shows changes as well.
        with no_dispatch():
            func(*args, **kwargs)
    if name.endswith("_"):
        return args[0]
    return _there(out) if lives_there else out


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    return [t for v in values for t in _tensors(v)] if isinstance(values, list | tuple) else []


def _host(value: Any) -> Any:
    if isinstance(value, ForeignTensor):
        return value.host
    return type(value)(map(_host, value)) if isinstance(value, list | tuple) else value


def _there(value: Any) -> Any:
    if isinstance(value, Tensor):
        return ForeignTensor(value)
    return type(value)(map(_there, value)) if isinstance(value, list | tuple) else value


def _refuse_mixed(func: Any, name: str, args: tuple[Any, ...], tensors: list[Tensor]) -> None:
    """Raise where a CUDA tensor in place of the foreign ones would make torch raise."""
    strangers = [t for t in tensors if not isinstance(t, ForeignTensor)]
    if name in _INDEXED:
        # Indices may lie on the CPU; what is indexed and what is put there may not.
        values = [t for t in args[2:3] if isinstance(t, Tensor) and t.ndim > 0]
        strangers = [t for t in [args[0], *values] if not isinstance(t, ForeignTensor)]
    elif torch.Tag.pointwise in func.tags and (isinstance(args[0], ForeignTensor) or name[-1] != "_"):
        strangers = [t for t in strangers if t.ndim > 0]
    if strangers:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, found foreign and cpu")


class _Factories(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sends tensors made on `FOREIGN`, or moved there from the CPU, to `_call`."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _call(func, args, kwargs or {})


class _Constructors(TorchFunctionMode):
    """`torch.tensor` and `torch.as_tensor` make tensors without numbers on "meta": make them on the CPU and move."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if func in _MADE_HERE and device is not None and torch.device(device) == FOREIGN:
            there = isinstance(args[0], ForeignTensor)
            made = func(*args, **{**kwargs, "device": None if there else _CPU})
            return made if there else made.to(FOREIGN)
        return func(*args, **kwargs)


@contextmanager
def foreign_device() -> Iterator[Transfers]:
    """Pretend that `FOREIGN` is an accelerator within the `with` block; yields the copies made from here on."""
    global _counted
    _counted = Transfers()
    with _Factories(), _Constructors():  # type: ignore[no-untyped-call]
        yield _counted
