"""The compiled kernels as functions of their inputs and of which derivatives are wanted, as `operators.Kernel` has it."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from grahame.kernels import cpu_mesh, cpu_pairs, cpu_structure_factor
from grahame.kernels.operators import Kernel, pair_indices
from grahame.kernels.pair_rows import PairRows

__all__ = ["checked_mesh", "mesh_kernel", "pair_kernel", "wave_kernel"]

Floats = NDArray[np.float64]
Indices = Tensor | NDArray[np.integer]
Derivatives = tuple[float, tuple[Floats | None, ...]]


def pair_kernel(
    listed: PairRows | tuple[Indices, Indices, Indices], alpha: float, cutoff: float, shift: bool
) -> Kernel:
    """(x, q, h, s) -> `pairs.screened_energy`, of a list in its short form or as i, j, shifts."""

    def kernel(inputs: list[Floats], wanted: tuple[bool, ...]) -> Derivatives:
        x, q, h, s = inputs
        forces = wanted[0] or wanted[2]
        rows = (
            listed if isinstance(listed, PairRows) else cpu_pairs.as_rows(len(x), *map(pair_indices, listed))
        )
        total = cpu_pairs.PairSum(x, q, h, s, rows, alpha, cutoff, shift, widths=wanted[3])
        d = total(forces, wanted[1])
        return d.energy, (d.positions, d.charges, d.cell, d.smearing)

    return kernel


def wave_kernel(alpha: float, waves: NDArray[np.int64]) -> Kernel:
    """(x, q, h) -> `structure_factor.wave_energy`."""

    def kernel(inputs: list[Floats], wanted: tuple[bool, ...]) -> Derivatives:
        x, q, h = inputs
        d = cpu_structure_factor.WaveSum(x, h, alpha, waves)(q, *wanted)
        return d.energy, (d.positions, d.charges, d.cell)

    return kernel


def mesh_kernel(alpha: float, size: tuple[int, int, int], order: int) -> Kernel:
    """(x, q, h) -> `mesh.wave_energy`."""

    def kernel(inputs: list[Floats], wanted: tuple[bool, ...]) -> Derivatives:
        x, q, h = inputs
        d = cpu_mesh.MeshSum(x, h, alpha, size, order)(q, *wanted)
        return d.energy, (d.positions, d.charges, d.cell)

    return kernel


def checked_mesh(mesh: tuple[int, int, int], order: int) -> tuple[int, int, int]:
    """The mesh as integers.

    Raises:
        ValueError: for an order or a mesh that is not possible.
    """
    if not 4 <= order <= 10:
        raise ValueError(f"order = {order} must be between 4 and 10: choose 5 or 6 for forces")
    size = (int(mesh[0]), int(mesh[1]), int(mesh[2]))
    if min(size) < 1:
        raise ValueError(f"mesh = {size} points must be positive: give three numbers such as (32, 32, 32)")
    return size
