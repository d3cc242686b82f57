"""The Triton kernels in the place of the plain formulas, with first derivatives from them and second ones from those.

They serve `backend("triton")`: pairs, exclusions and the mesh. The plain sum over waves has no kernel of its own and is
the formula, differentiated by torch. Nothing waits for the device once a first call has compiled the kernels and made
their tables. What is added with atomics differs in its last bits from run to run, except under
`torch.use_deterministic_algorithms(True)`, where the kernels without this are taken.

A captured CUDA graph reads the tensors of the list again at each replay, so a new list may be copied into them. Not so
with deterministic algorithms: the full list is sorted from them once, and a new list needs a new capture.
"""

from collections.abc import Callable
from typing import Any
from weakref import ReferenceType, ref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from grahame.kernels import mesh, operators, pairs, structure_factor
from grahame.kernels.mesh import Mesh
from grahame.kernels.operators import CompiledEnergy, Formula

__all__ = [
    "evaluate",
    "ewald_kernel",
    "exclusion_formula",
    "exclusion_kernel",
    "first",
    "mesh_formula",
    "mesh_kernel",
    "mesh_potential",
    "pair_formula",
    "pair_kernel",
    "serves",
]

Indices = Tensor | NDArray[np.integer]
Found = tuple[Tensor, tuple[Tensor | None, ...]]
# Inputs and which of their derivatives are wanted -> energy (0-d) and these derivatives.
DeviceKernel = Callable[[tuple[Tensor, ...], tuple[bool, ...]], Found]


def serves(*tensors: Tensor) -> bool:
    """Whether `backend("triton")` holds.

    Raises:
        ValueError: if it holds, but not for these tensors.
    """
    if operators.chosen() != "triton":
        return False
    from grahame.kernels import gpu_pairs

    kinds = {t.dtype for t in tensors}
    places = {t.device for t in tensors}
    able = all(p.type == "cuda" or (p.type == "cpu" and gpu_pairs.INTERPRETED) for p in places)
    if not (able and len(places) == 1 and len(kinds) == 1 and kinds <= {torch.float64, torch.float32}):
        found = ", ".join(sorted({f"{t.dtype} on {t.device}" for t in tensors}))
        raise ValueError(
            f"backend = 'triton' must be given float64 or float32 tensors on one GPU, not {found}: use 'auto', or set "
            "TRITON_INTERPRET=1 before the start to interpret the kernels on the CPU"
        )
    return True


def evaluate(formula: Formula, kernel: DeviceKernel, *inputs: Tensor) -> Tensor:
    """The energy by a kernel, differentiable twice.

    Args:
        formula: plain torch function of the inputs.
        kernel: the same function with first derivatives.
        inputs: tensors that the kernels serve.

    Returns:
        0-d tensor in the type of the inputs.
    """
    wanted = tuple(torch.is_grad_enabled() and t.requires_grad for t in inputs)
    if not any(wanted):
        return kernel(_plain(inputs), wanted)[0].to(inputs[0].dtype)
    out: Tensor = _DeviceEnergy.apply(formula, kernel, wanted, *inputs)  # type: ignore[no-untyped-call]
    return out


def first(
    kernel: DeviceKernel, inputs: tuple[Tensor, ...], forces: bool, sign: float = 1.0
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Energy (float64), dE/dcharges and dE/dpositions of a kernel of (positions, charges, ...), times a sign, without graph."""
    wanted = (forces, True) + (False,) * (len(inputs) - 2)
    energy, found = kernel(_plain(inputs), wanted)
    gradient, potential = found[0], found[1]
    assert potential is not None
    if sign != 1.0:
        energy, potential = sign * energy, sign * potential
        gradient = None if gradient is None else sign * gradient
    return energy, potential, gradient if forces else None


def pair_formula(
    i: Indices, j: Indices, shifts: Indices, alpha: float, cutoff: float, shift: bool
) -> Formula:
    """(x, q, h, s) -> `pairs.screened_energy`."""

    def formula(x: Tensor, q: Tensor, h: Tensor, s: Tensor) -> Tensor:
        a, b, t = (torch.as_tensor(v, dtype=torch.int64, device=x.device) for v in (i, j, shifts))
        return pairs.screened_energy(x, q, h, s, a, b, t, alpha, cutoff, shift)

    return formula


def pair_kernel(
    i: Indices, j: Indices, shifts: Indices, alpha: float, cutoff: float, shift: bool
) -> DeviceKernel:
    """(x, q, h, s) -> energy and derivatives of `pairs.screened_energy`.

    Lists that are tensors on the device are used where they are; others are copied to it at every call.
    """

    def kernel(inputs: tuple[Tensor, ...], wanted: tuple[bool, ...]) -> Found:
        from grahame.kernels import gpu_pairs

        x, q, h, s = inputs
        a, b, t = (_listed(v, x.device) for v in (i, j, shifts))
        sums = (alpha, cutoff, shift, wanted[0], wanted[2], wanted[3])
        if torch.are_deterministic_algorithms_enabled():
            d = gpu_pairs.grouped(x, q, h, s, _groups(len(x), a, b, t), *sums)
        else:
            d = gpu_pairs.half_list(x, q, h, s, a, b, t, *sums)
        return d.energy, (d.positions, d.charges, d.cell, d.smearing)

    return kernel


def exclusion_formula(i: Indices, j: Indices, shifts: Indices) -> Formula:
    """(x, q, h, s) -> `pairs.bare_energy`."""

    def formula(x: Tensor, q: Tensor, h: Tensor, s: Tensor) -> Tensor:
        a, b, t = (torch.as_tensor(v, dtype=torch.int64, device=x.device) for v in (i, j, shifts))
        return pairs.bare_energy(x, q, h, s, a, b, t)

    return formula


def exclusion_kernel(i: Indices, j: Indices, shifts: Indices) -> DeviceKernel:
    """(x, q, h, s) -> energy and derivatives of `pairs.bare_energy`: erfc(0) = 1, without a cut-off."""
    return pair_kernel(i, j, shifts, 0.0, np.inf, False)


def mesh_formula(alpha: float, size: Mesh, order: int) -> Formula:
    """(x, q, h) -> `mesh.wave_energy`."""
    return lambda x, q, h: mesh.wave_energy(x, q, h, alpha, size, order)


def mesh_kernel(alpha: float, size: Mesh, order: int) -> DeviceKernel:
    """(x, q, h) -> energy and derivatives of `mesh.wave_energy`."""

    def kernel(inputs: tuple[Tensor, ...], wanted: tuple[bool, ...]) -> Found:
        from grahame.kernels import gpu_mesh

        exact = torch.are_deterministic_algorithms_enabled()
        (x, q, h), (forces, potential, strain) = inputs, wanted
        d = gpu_mesh.mesh_sum(x, q, h, alpha, size, order, forces, potential, strain, exact)
        return d.energy, (d.positions, d.charges, d.cell)

    return kernel


def mesh_potential(x: Tensor, h: Tensor, alpha: float, size: Mesh, order: int) -> Callable[[Tensor], Tensor]:
    """charges (n,) -> dE/dcharges (n,) in e/Å of `mesh.wave_energy`, without graph."""
    kernel = mesh_kernel(alpha, size, order)
    return lambda q: first(kernel, (x, q, h), False)[1]


def ewald_kernel(alpha: float, waves: Indices) -> DeviceKernel:
    """(x, q, h) -> energy and derivatives of `structure_factor.wave_energy`, by torch; the charges' must be wanted."""

    def kernel(inputs: tuple[Tensor, ...], wanted: tuple[bool, ...]) -> Found:
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_(want) for t, want in zip(inputs, wanted)]
            m = torch.as_tensor(waves, dtype=torch.int64, device=inputs[0].device)
            # Without waves there would be no graph to differentiate.
            x, q, h = leaves
            energy = structure_factor.wave_energy(x, q, h, alpha, m) + 0.0 * q.sum()
            some = [t for t, want in zip(leaves, wanted) if want]
            found = iter(torch.autograd.grad(energy, some, allow_unused=True, materialize_grads=True))
        return energy.detach().double(), tuple(next(found) if want else None for want in wanted)

    return kernel


class _DeviceEnergy(CompiledEnergy):
    """Forward by a kernel that stays on the device; backward as for the compiled ones."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, formula: Formula, kernel: DeviceKernel, wanted: tuple[bool, ...], *inputs: Tensor
    ) -> Tensor:
        energy, derivatives = kernel(_plain(inputs), wanted)
        kept = [d for d, want in zip(derivatives, wanted) if want and d is not None]
        ctx.formula, ctx.wanted = formula, wanted
        ctx.save_for_backward(*inputs, *kept)
        return energy.to(inputs[0].dtype)


def _plain(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(t.detach().contiguous() for t in inputs)


def _listed(values: Indices, device: torch.device) -> Tensor:
    """A list on the device, in int32 or int64 as it is."""
    t = torch.as_tensor(values, device=device)
    return (t if t.dtype in (torch.int32, torch.int64) else t.to(torch.int64)).contiguous()


# Full lists of half lists, as long as these live: i -> (j, shifts, versions of the three, number of atoms, full list).
_Known = tuple[ReferenceType[Tensor], ReferenceType[Tensor], tuple[int, ...], int, Any]
_full_lists: Any = WeakTensorKeyDictionary()


def _groups(n: int, i: Tensor, j: Tensor, shifts: Tensor) -> Any:
    """The full list of a half list, made once for each: sorting it takes longer than a step."""
    from grahame.kernels import gpu_pairs

    versions = (i._version, j._version, shifts._version)
    known: _Known | None = _full_lists.get(i)
    if known and known[0]() is j and known[1]() is shifts and known[2:4] == (versions, n):
        return known[4]
    pairs = gpu_pairs.group(n, i, j, shifts)
    _full_lists[i] = (ref(j), ref(shifts), versions, n, pairs)
    return pairs
