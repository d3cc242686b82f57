"""First derivatives of the Coulomb sums along with their energies, straight from the kernels; nothing keeps a graph.

Where `direct` holds, a molecular dynamics step needs no automatic differentiation. The sums and their units are those of
`dispatch`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grahame.kernels import gpu
from grahame.kernels.cpu_kernels import checked_mesh, mesh_kernel, pair_kernel, wave_kernel
from grahame.kernels.operators import Kernel, array, compiled, indices
from grahame.kernels.pair_rows import PairRows

__all__ = [
    "First",
    "direct",
    "ewald_derivatives",
    "excluded_row_derivatives",
    "exclusion_derivatives",
    "mesh_derivatives",
    "pair_derivatives",
    "row_derivatives",
]

Floats = NDArray[np.float64]
Indices = Tensor | NDArray[np.integer]


@dataclass(frozen=True)
class First:
    """Energy in e²/Å, its derivatives by the charges (n,) in e/Å and, where wanted, by the positions (n,3) in e²/Å².

    The energy is in float64 where the kernels give it, of float32 charges too.
    """

    energy: Tensor
    potential: Tensor
    gradient: Tensor | None


def direct(*tensors: Tensor) -> bool:
    """Whether kernels give the `*_derivatives` of sums over these tensors."""
    return gpu.serves(*tensors) or compiled(*tensors)


def pair_derivatives(
    positions: Tensor,
    charges: Tensor,
    cell: Tensor,
    smearing: Tensor,
    pairs_i: Indices,
    pairs_j: Indices,
    shifts: Indices,
    alpha: float,
    cutoff: float,
    forces: bool,
) -> First:
    """`pair_energy` with its first derivatives, where `direct` holds; nothing keeps a graph."""
    if gpu.serves(positions, charges, cell, smearing):
        on_device = gpu.pair_kernel(pairs_i, pairs_j, shifts, alpha, cutoff, True)
        return First(*gpu.first(on_device, (positions, charges, cell, smearing), forces))
    kernel = pair_kernel((pairs_i, pairs_j, shifts), alpha, cutoff, True)
    return _first(kernel, (positions, charges, cell, smearing), forces)


def row_derivatives(
    positions: Tensor,
    charges: Tensor,
    cell: Tensor,
    smearing: Tensor,
    rows: PairRows,
    alpha: float,
    cutoff: float,
    forces: bool,
) -> First:
    """`pair_derivatives` of a list in its short form, of tensors that the compiled kernels serve."""
    return _first(pair_kernel(rows, alpha, cutoff, True), (positions, charges, cell, smearing), forces)


def exclusion_derivatives(
    positions: Tensor,
    charges: Tensor,
    cell: Tensor,
    smearing: Tensor,
    i: Indices,
    j: Indices,
    shifts: Indices,
    forces: bool,
) -> First:
    """`exclusion_energy` with its first derivatives; as `pair_derivatives`."""
    if gpu.serves(positions, charges, cell, smearing):
        on_device = gpu.exclusion_kernel(i, j, shifts)
        return First(*gpu.first(on_device, (positions, charges, cell, smearing), forces, -1.0))
    kernel = pair_kernel((i, j, shifts), 0.0, np.inf, False)
    return _first(kernel, (positions, charges, cell, smearing), forces, -1.0)


def excluded_row_derivatives(
    positions: Tensor, charges: Tensor, cell: Tensor, smearing: Tensor, rows: PairRows, forces: bool
) -> First:
    """`exclusion_derivatives` of a list in its short form, of tensors that the compiled kernels serve."""
    kernel = pair_kernel(rows, 0.0, np.inf, False)
    return _first(kernel, (positions, charges, cell, smearing), forces, -1.0)


def ewald_derivatives(
    positions: Tensor, charges: Tensor, cell: Tensor, alpha: float, kvectors: Indices, forces: bool
) -> First:
    """`ewald_energy` with its first derivatives; as `pair_derivatives`."""
    if gpu.serves(positions, charges, cell):
        on_device = gpu.ewald_kernel(alpha, kvectors)
        return First(*gpu.first(on_device, (positions, charges, cell), forces))
    return _first(wave_kernel(alpha, indices(kvectors)), (positions, charges, cell), forces)


def mesh_derivatives(
    positions: Tensor,
    charges: Tensor,
    cell: Tensor,
    alpha: float,
    mesh: tuple[int, int, int],
    order: int,
    forces: bool,
) -> First:
    """`mesh_energy` with its first derivatives; as `pair_derivatives`."""
    if gpu.serves(positions, charges, cell):
        on_device = gpu.mesh_kernel(alpha, checked_mesh(mesh, order), order)
        return First(*gpu.first(on_device, (positions, charges, cell), forces))
    return _first(mesh_kernel(alpha, checked_mesh(mesh, order), order), (positions, charges, cell), forces)


def _first(kernel: Kernel, inputs: tuple[Tensor, ...], forces: bool, sign: float = 1.0) -> First:
    """A compiled kernel without graph, times a sign."""
    wanted = (forces, True) + (False,) * (len(inputs) - 2)
    energy, found = kernel([array(t) for t in inputs], wanted)
    gradient, potential = found[0], found[1]
    assert potential is not None
    if sign != 1.0:
        potential *= sign
    if gradient is not None and sign != 1.0:
        gradient *= sign
    return _as_first(sign * energy, potential, gradient if forces else None)


def _as_first(energy: float, potential: Floats, gradient: Floats | None) -> First:
    return First(
        torch.from_numpy(np.array(energy)),
        torch.from_numpy(potential),
        None if gradient is None else torch.from_numpy(gradient),
    )
