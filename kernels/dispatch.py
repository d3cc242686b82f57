"""Coulomb sums by the fastest kernel for the device, each with its exact first and second derivatives."""

import torch
from torch import Tensor

from grahame.kernels import mesh as meshes
from grahame.kernels import pairs, structure_factor
from grahame.kernels.structure_factor import half_space_kvectors

__all__ = ["ewald_energy", "exclusion_energy", "half_space_kvectors", "mesh_energy", "pair_energy"]


def pair_energy(
    positions: Tensor,
    charges: Tensor,
    cell: Tensor,
    smearing: Tensor,
    pairs_i: Tensor,
    pairs_j: Tensor,
    shifts: Tensor,
    alpha: float,
    cutoff: float,
    shift: bool = True,
) -> Tensor:
    """Real-space part of the Ewald sum over a half list."""
    return pairs.screened_energy(
        positions, charges, cell, smearing, pairs_i, pairs_j, shifts, alpha, cutoff, shift
    )


def exclusion_energy(
    positions: Tensor,
    charges: Tensor,
    cell: Tensor,
    smearing: Tensor,
    i: Tensor,
    j: Tensor,
    shifts: Tensor,
) -> Tensor:
    """Minus the bare interaction of the listed pairs."""
    return -pairs.bare_energy(positions, charges, cell, smearing, i, j, shifts)


def ewald_energy(positions: Tensor, charges: Tensor, cell: Tensor, alpha: float, kvectors: Tensor) -> Tensor:
    """Waves of the Ewald sum."""
    return structure_factor.wave_energy(positions, charges, cell, alpha, kvectors)


def mesh_energy(
    positions: Tensor, charges: Tensor, cell: Tensor, alpha: float, mesh: tuple[int, int, int], order: int
) -> Tensor:
    """Waves of the Ewald sum on a mesh."""
    return meshes.wave_energy(positions, charges, cell, alpha, mesh, order)


def _gradient(energy: Tensor, charges: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(energy, charges)
    return gradient
