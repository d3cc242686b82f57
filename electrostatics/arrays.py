"""What came in goes out: numpy or torch, single or double precision, with or without a graph, on its device."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def outside_inference(function: Callable[P, R]) -> Callable[P, R]:
    """The function, which takes derivatives and keeps tensors, also where the caller is in torch's inference mode.

    What is made in that mode may take part in no graph for ever after: here it is ordinary, but without graphs.
    """

    @wraps(function)
    def serve(*args: P.args, **kwargs: P.kwargs) -> R:
        if not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with torch.inference_mode(False), torch.no_grad():
            return function(*args, **kwargs)

    return serve


class Kind:
    """Numpy or torch, and the precision, of what came in: the same goes out.

    `device` is that of the first tensor, None if there is none. The precision is that of the first array, not that of a number
    beside it; `dtype` overrules it. `rounded` says that something came in single precision, whose rounding is no mistake.
    """

    def __init__(self, *values: Any, dtype: torch.dtype | None = None) -> None:
        tensors = [v for v in values if isinstance(v, Tensor)]
        self.torch = bool(tensors)
        self.requires_grad = any(t.requires_grad for t in tensors)
        self.device = tensors[0].device if tensors else None
        arrays = [v for v in (*tensors, *values) if getattr(v, "ndim", 0) > 0]
        kind = getattr(arrays[0], "dtype", None) if arrays else None
        self.single = _is_single(kind if dtype is None else dtype)
        self.rounded = self.single or any(_is_single(getattr(v, "dtype", None)) for v in values)

    def out(self, value: Tensor | None, track: bool) -> Any:
        """The value as the caller's kind; scalars of numpy input become floats."""
        if value is None:
            return None
        value = value if track else value.detach()
        if self.torch:
            return value.to(torch.float32) if self.single else value
        if value.ndim == 0:
            return float(value)
        array = value.cpu().numpy()
        return array.astype(np.float32) if self.single else array


def _is_single(dtype: object) -> bool:
    return dtype is torch.float32 or (isinstance(dtype, np.dtype) and dtype == np.float32)


def host(value: Any) -> NDArray[Any]:
    """A numpy array of anything: tensors of any device without their graph."""
    return np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)


def numbers(value: Any) -> NDArray[np.float64]:
    """The same as float64."""
    return np.asarray(host(value), dtype=np.float64)


def depth(value: Any) -> int:
    """Number of axes of an array, a tensor, or a sequence of them (None and numbers have none)."""
    if isinstance(value, Tensor):
        return value.ndim
    if isinstance(value, list | tuple):
        return 1 + max((depth(v) for v in value), default=0)
    return int(np.ndim(value))


def entry(value: Any, index: int, single: int) -> Any:
    """Entry of a batch: `value[index]` where it has more axes than the `single` of one system."""
    return value[index] if value is not None and depth(value) > single else value


def check_batch(positions: Any, **values: tuple[Any, int]) -> None:
    """Refuse a batch whose values have another number of systems, or systems with other numbers of atoms.

    Args:
        positions: of all systems; values: by name, with the axes that one system has.
    """
    count = len(positions)
    atoms = [len(x) for x in positions]
    for b, number in enumerate(atoms):
        if number != atoms[0]:
            raise ValueError(
                f"positions[{b}] = {number} atoms must be as many as those of positions[0], {atoms[0]}: solve systems of "
                "different sizes one by one"
            )
    for name, (value, single) in values.items():
        if value is not None and depth(value) > single and len(value) != count:
            raise ValueError(
                f"{name} = {len(value)} systems must be as many as those of positions, {count}: give one for each, or one for all"
            )


def stack(values: list[Any]) -> Any:
    """Stack the results of a batch, whatever their kind.

    Raises:
        ValueError: for none.
    """
    if not values:
        raise ValueError("batch = 0 systems must hold at least one: pass the systems, one after the other")
    if values[0] is None:
        return None
    if isinstance(values[0], Tensor):
        return torch.stack(values)
    return np.stack([np.asarray(v) for v in values])


def variable(value: Tensor, track: bool) -> Tensor:
    """A tensor that derivatives can be taken of.

    A caller's tensor with a graph enters as a view: the derivative with respect to the view is at fixed other
    inputs (forces at fixed charges), also when these depend on each other.
    """
    return value.view_as(value) if track and value.requires_grad else value.detach().clone().requires_grad_()
