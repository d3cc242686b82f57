"""Torch functions around the compiled kernels, with first and second derivatives.

A compiled kernel returns the energy and those first derivatives that are wanted. If torch differentiates the
first derivatives again, they are taken from the plain formula instead, which is the same function.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Formula = Callable[..., Tensor]
Kernel = Callable[[list[Floats], tuple[bool, ...]], tuple[float, tuple[Floats | None, ...]]]

BACKENDS = ("auto", "torch", "numba", "triton")
_backend: ContextVar[str] = ContextVar("backend", default="auto")


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Use one implementation within the `with` block.

    Args:
        name: "torch" (the plain formulas), "numba" (the compiled kernels; float64 on the CPU only), "triton" (the
            kernels of `gpu_pairs` and `gpu_mesh`; float64 or float32 on a GPU) or "auto" (compiled where possible).
            On a GPU "auto" means the plain formulas: the Triton kernels have been run by Triton's interpreter and
            compiled, but never on a GPU.

    Raises:
        ValueError: for any other name, and for "triton" where it is not installed.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend = {name!r} must be one of {', '.join(BACKENDS)}: choose one of them")
    if name == "triton" and find_spec("triton") is None:
        raise ValueError("backend = 'triton' must find the package triton: install it, or use 'auto'")
    token = _backend.set(name)
    try:
        yield
    finally:
        _backend.reset(token)


def chosen() -> str:
    """The name that `backend` was given."""
    return _backend.get()


def compiled(*tensors: Tensor) -> bool:
    """Whether the compiled kernels serve these tensors."""
    name = _backend.get()
    able = all(t.device.type == "cpu" and t.dtype == torch.float64 for t in tensors)
    if name == "numba" and not able:
        found = ", ".join(sorted({f"{t.dtype} on {t.device}" for t in tensors}))
        raise ValueError(
            f"backend = 'numba' must be given float64 tensors on the CPU, not {found}: use 'auto'"
        )
    return able and name not in ("torch", "triton")


def array(t: Tensor) -> Floats:
    """A contiguous array that shares the tensor's memory where it can."""
    out: Floats = t.detach().contiguous().numpy()
    return out


def indices(t: Tensor | NDArray[np.integer]) -> NDArray[np.int64]:
    """A contiguous, writable int64 array (one compiled version of the kernels serves all)."""
    a = t.detach().cpu().numpy() if isinstance(t, Tensor) else t
    return np.require(a, dtype=np.int64, requirements=["C", "W"])


def pair_indices(t: Tensor | NDArray[np.integer]) -> NDArray[np.int32]:
    """The same in int32, as neighbour lists are: they are read from memory at every step."""
    a = t.detach().cpu().numpy() if isinstance(t, Tensor) else t
    return np.require(a, dtype=np.int32, requirements=["C", "W"])


def evaluate(formula: Formula, kernel: Kernel, *inputs: Tensor) -> Tensor:
    """The energy by the compiled kernel, differentiable twice.

    Args:
        formula: plain torch function of the inputs.
        kernel: takes the inputs as arrays and which derivatives are wanted; returns the energy and them.
        inputs: float64 tensors on the CPU.

    Returns:
        0-d tensor.
    """
    wanted = tuple(torch.is_grad_enabled() and t.requires_grad for t in inputs)
    if not any(wanted):
        return torch.tensor(kernel([array(t) for t in inputs], wanted)[0], dtype=torch.float64)
    out: Tensor = CompiledEnergy.apply(formula, kernel, wanted, *inputs)  # type: ignore[no-untyped-call]
    return out


class CompiledEnergy(torch.autograd.Function):
    """An energy whose first derivatives its kernel gives and whose second ones its formula."""

    @staticmethod
    def forward(
        ctx: Any, formula: Formula, kernel: Kernel, wanted: tuple[bool, ...], *inputs: Tensor
    ) -> Tensor:
        energy, derivatives = kernel([array(t) for t in inputs], wanted)
        kept = [torch.from_numpy(d) for d, want in zip(derivatives, wanted) if want and d is not None]
        ctx.formula, ctx.wanted = formula, wanted
        ctx.save_for_backward(*inputs, *kept)
        return torch.tensor(energy, dtype=torch.float64)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wanted: tuple[bool, ...] = ctx.wanted
        inputs, kept = ctx.saved_tensors[: len(wanted)], ctx.saved_tensors[len(wanted) :]
        if torch.is_grad_enabled():
            # Aliases: an input that depends on another (positions strained with the cell) must not be
            # differentiated through that dependence here; the outer graph does it.
            aliases = [t.view_as(t) for t in inputs]
            energy = ctx.formula(*aliases)
            some = [t for t, want in zip(aliases, wanted) if want]
            found = torch.autograd.grad(
                energy, some, grad, create_graph=True, allow_unused=True, materialize_grads=True
            )
        else:
            found = tuple(grad * d for d in kept)
        rest = iter(found)
        return (None, None, None, *(next(rest) if want else None for want in wanted))


def gradient(formula: Formula, charges: Tensor) -> Tensor:
    """d formula/d charges (n,), by torch, without a graph."""
    with torch.enable_grad():
        leaf = charges.detach().requires_grad_()
        energy = formula(leaf)
        if not energy.requires_grad:
            return torch.zeros_like(leaf)
        (found,) = torch.autograd.grad(energy, leaf)
    return found.detach()
