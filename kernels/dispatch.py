"""The Coulomb sums, each by the fastest kernel for the device and with exact first and second derivatives.

Energies are in e²/Å (without the Coulomb constant) for charges in e and lengths in Å. They are 0-d tensors,
differentiable twice with respect to positions, charges, cell and widths. Tensors in float64 on the CPU are
served by the compiled kernels, all others by the plain formulas in torch; `backend("triton")` asks for the kernels
of `gpu` on a GPU.

First derivatives without a graph stand in `derivatives`. `*_operator` binds a geometry and returns the function
charges -> dE/dcharges, for solvers that need it for many charges; `*_potential` does so once. Both take numpy
arrays or tensors, return the same kind as the charges, and carry no graph.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grahame.kernels import cpu_mesh, cpu_structure_factor, gpu, mesh, pairs, structure_factor
from grahame.kernels.cpu_kernels import checked_mesh, mesh_kernel, pair_kernel, wave_kernel
from grahame.kernels.cpu_pair_matrix import PairMatrix
from grahame.kernels.operators import (
    array,
    backend,
    compiled,
    evaluate,
    gradient,
    indices,
    pair_indices,
)  # fmt: skip
from grahame.kernels.structure_factor import half_space_kvectors

__all__ = [
    "backend",
    "compiled",
    "ewald_energy",
    "ewald_operator",
    "ewald_potential",
    "exclusion_energy",
    "exclusion_operator",
    "exclusion_potential",
    "half_space_kvectors",
    "mesh_energy",
    "mesh_operator",
    "mesh_potential",
    "pair_energy",
    "pair_operator",
    "pair_potential",
]

Floats = NDArray[np.float64]
Indices = Tensor | NDArray[np.integer]
Values = Tensor | Floats
Kind = TypeVar("Kind", Tensor, Floats)
Potential = Callable[[Kind], Kind]


def pair_energy(
    positions: Tensor,
    charges: Tensor,
    cell: Tensor,
    smearing: Tensor,
    pairs_i: Indices,
    pairs_j: Indices,
    shifts: Indices,
    alpha: float,
    cutoff: float,
    shift: bool = True,
) -> Tensor:
    """Real-space part of the Ewald sum over a half list of pairs.

        E = sum over pairs of q_i q_j f(r),  r = |x_j + S @ cell - x_i| < cutoff
        f = [erfc(alpha r) - erfc(g r)]/r - e(rc) - e'(rc) (r - rc),  e = erfc(alpha r)/r

    with g = 1/sqrt(2 (s_i² + s_j²)), and erfc(g r) = 0 for two points. Energy and force of the part with
    alpha go to zero at the cut-off; the Gaussian part must be negligible there (cutoff >= 5/g: a jump below
    2e-12/cutoff). An image pair i = j counts once per half pair: it appears in both directions in the full
    sum 1/2 sum_ij.

    Args:
        positions: (n,3) Å.
        charges: (n,) e.
        cell: (3,3) rows in Å.
        smearing: (n,) Gaussian widths in Å; 0 is a point.
        pairs_i: (p,) first atoms; fastest when equal ones stand together.
        pairs_j: (p,) second atoms.
        shifts: (p,3) lattice shifts of the second atoms.
        alpha: splitting parameter in 1/Å.
        cutoff: Å; the list may hold pairs beyond it.
        shift: False leaves out the terms at the cut-off.

    Returns:
        0-d tensor in e²/Å.

    Source: P. P. Ewald, Ann. Phys. 369, 253 (1921); the shift: Fennell and Gezelter, J. Chem. Phys. 124,
    234104 (2006).
    """
    if gpu.serves(positions, charges, cell, smearing):
        lists = (pairs_i, pairs_j, shifts, alpha, cutoff, shift)
        return gpu.evaluate(
            gpu.pair_formula(*lists), gpu.pair_kernel(*lists), positions, charges, cell, smearing
        )
    if not compiled(positions, charges, cell, smearing):
        i, j, s = _tensors(positions.device, pairs_i, pairs_j, shifts)
        return pairs.screened_energy(positions, charges, cell, smearing, i, j, s, alpha, cutoff, shift)
    return _compiled_pairs(positions, charges, cell, smearing, pairs_i, pairs_j, shifts, alpha, cutoff, shift)


def exclusion_energy(
    positions: Tensor,
    charges: Tensor,
    cell: Tensor,
    smearing: Tensor,
    i: Indices,
    j: Indices,
    shifts: Indices,
) -> Tensor:
    """Minus the bare interaction of the listed pairs, E = -sum q_i q_j erf(g r)/r (1/r for two points).

    Args:
        positions: (n,3) Å.
        charges: (n,) e.
        cell: (3,3) rows in Å.
        smearing: (n,) Gaussian widths in Å; 0 is a point.
        i: (p,) first atoms.
        j: (p,) second atoms.
        shifts: (p,3) lattice shifts of the second atoms.

    Returns:
        0-d tensor in e²/Å.
    """
    if gpu.serves(positions, charges, cell, smearing):
        formula, kernel = gpu.exclusion_formula(i, j, shifts), gpu.exclusion_kernel(i, j, shifts)
        return -gpu.evaluate(formula, kernel, positions, charges, cell, smearing)
    if not compiled(positions, charges, cell, smearing):
        a, b, s = _tensors(positions.device, i, j, shifts)
        return -pairs.bare_energy(positions, charges, cell, smearing, a, b, s)
    return -_compiled_pairs(positions, charges, cell, smearing, i, j, shifts, 0.0, np.inf, False)


def ewald_energy(positions: Tensor, charges: Tensor, cell: Tensor, alpha: float, kvectors: Indices) -> Tensor:
    """Waves of the Ewald sum, E = (2 pi/V) sum over G != 0 of exp(-G²/4 alpha²)/G² |S(G)|².

    Args:
        positions: (n,3) Å.
        charges: (n,) e.
        cell: (3,3) rows in Å.
        alpha: splitting parameter in 1/Å.
        kvectors: (k,3) integers m of `half_space_kvectors`, G = 2 pi m @ inv(cell)^T; -G is added to each.

    Returns:
        0-d tensor in e²/Å.

    Source: P. P. Ewald, Ann. Phys. 369, 253 (1921).
    """
    if not compiled(positions, charges, cell):
        (m,) = _tensors(positions.device, kvectors)
        return structure_factor.wave_energy(positions, charges, cell, alpha, m)
    waves = indices(kvectors)

    def formula(x: Tensor, q: Tensor, h: Tensor) -> Tensor:
        return structure_factor.wave_energy(x, q, h, alpha, torch.from_numpy(waves))

    return evaluate(formula, wave_kernel(alpha, waves), positions, charges, cell)


def mesh_energy(
    positions: Tensor, charges: Tensor, cell: Tensor, alpha: float, mesh: tuple[int, int, int], order: int
) -> Tensor:
    """Waves of the Ewald sum on a mesh, interpolated with B-splines; the sum is in `kernels.mesh`.

    Args:
        positions: (n,3) Å, inside the cell or not.
        charges: (n,) e.
        cell: (3,3) rows in Å.
        alpha: splitting parameter in 1/Å.
        mesh: number of mesh points along the cell vectors.
        order: B-spline order, 4 to 10; the energy is order - 2 times differentiable.

    Returns:
        0-d tensor in e²/Å.

    Raises:
        ValueError: for an order or a mesh that is not possible.

    Source: Essmann, Perera, Berkowitz, Darden, Lee and Pedersen, J. Chem. Phys. 103, 8577 (1995).
    """
    size = checked_mesh(mesh, order)
    if gpu.serves(positions, charges, cell):
        spline = (alpha, size, order)
        return gpu.evaluate(gpu.mesh_formula(*spline), gpu.mesh_kernel(*spline), positions, charges, cell)
    if not compiled(positions, charges, cell):
        return _mesh_formula(positions, charges, cell, alpha, size, order)

    def formula(x: Tensor, q: Tensor, h: Tensor) -> Tensor:
        return _mesh_formula(x, q, h, alpha, size, order)

    return evaluate(formula, mesh_kernel(alpha, size, order), positions, charges, cell)


def pair_operator(
    positions: Values,
    cell: Values,
    smearing: Values,
    pairs_i: Indices,
    pairs_j: Indices,
    shifts: Indices,
    alpha: float,
    cutoff: float,
    shift: bool = True,
) -> Callable[[Kind], Kind]:
    """charges (n,) -> dE/dcharges (n,) in e/Å of `pair_energy`, as a sparse matrix made once."""
    x, h, s = _float_tensors(positions, cell, smearing)
    if compiled(x, h, s):
        product = PairMatrix(
            array(x), array(h), array(s), pair_indices(pairs_i), pair_indices(pairs_j), pair_indices(shifts),
            alpha, cutoff, shift,
        )  # fmt: skip
        return _on_arrays(product)
    i, j, t = _tensors(x.device, pairs_i, pairs_j, shifts)
    i, j, f = pairs.screened_values(x, h, s, i, j, t, alpha, cutoff, shift)
    return _on_tensors(lambda q: pairs.symmetric_product(q, i, j, f), x)


def exclusion_operator(
    positions: Values, cell: Values, smearing: Values, i: Indices, j: Indices, shifts: Indices
) -> Callable[[Kind], Kind]:
    """charges (n,) -> dE/dcharges (n,) in e/Å of `exclusion_energy`, as a sparse matrix made once."""
    x, h, s = _float_tensors(positions, cell, smearing)
    if compiled(x, h, s):
        bare = PairMatrix(
            array(x), array(h), array(s), pair_indices(i), pair_indices(j), pair_indices(shifts),
            0.0, np.inf, False,
        )  # fmt: skip
        return _on_arrays(lambda q: -bare(q))
    a, b, t = _tensors(x.device, i, j, shifts)
    f = -pairs.bare_values(x, h, s, a, b, t)
    return _on_tensors(lambda q: pairs.symmetric_product(q, a, b, f), x)


def ewald_operator(
    positions: Values, cell: Values, alpha: float, kvectors: Indices
) -> Callable[[Kind], Kind]:
    """charges (n,) -> dE/dcharges (n,) in e/Å of `ewald_energy`."""
    x, h = _float_tensors(positions, cell)
    if compiled(x, h):
        waves = cpu_structure_factor.WaveSum(array(x), array(h), alpha, indices(kvectors))
        return _on_arrays(lambda q: cast(Floats, waves(q, False, True, False).charges))
    (m,) = _tensors(x.device, kvectors)

    def formula(q: Tensor) -> Tensor:
        return structure_factor.wave_energy(x, q, h, alpha, m)

    return _on_tensors(lambda q: gradient(formula, q), x)


def mesh_operator(
    positions: Values, cell: Values, alpha: float, mesh: tuple[int, int, int], order: int
) -> Callable[[Kind], Kind]:
    """charges (n,) -> dE/dcharges (n,) in e/Å of `mesh_energy`; the B-splines are evaluated once."""
    size = checked_mesh(mesh, order)
    x, h = _float_tensors(positions, cell)
    if gpu.serves(x, h):
        return _on_tensors(gpu.mesh_potential(x, h, alpha, size, order), x)
    if compiled(x, h):
        waves = cpu_mesh.MeshSum(array(x), array(h), alpha, size, order)
        return _on_arrays(lambda q: cast(Floats, waves(q, False, True, False).charges))

    def formula(q: Tensor) -> Tensor:
        return _mesh_formula(x, q, h, alpha, size, order)

    return _on_tensors(lambda q: gradient(formula, q), x)


def pair_potential(
    positions: Values,
    charges: Kind,
    cell: Values,
    smearing: Values,
    pairs_i: Indices,
    pairs_j: Indices,
    shifts: Indices,
    alpha: float,
    cutoff: float,
    shift: bool = True,
) -> Kind:
    """dE/dcharges (n,) in e/Å of `pair_energy`."""
    bound: Callable[[Kind], Kind] = pair_operator(
        positions, cell, smearing, pairs_i, pairs_j, shifts, alpha, cutoff, shift
    )
    return bound(charges)


def exclusion_potential(
    positions: Values, charges: Kind, cell: Values, smearing: Values, i: Indices, j: Indices, shifts: Indices
) -> Kind:
    """dE/dcharges (n,) in e/Å of `exclusion_energy`."""
    bound: Callable[[Kind], Kind] = exclusion_operator(positions, cell, smearing, i, j, shifts)
    return bound(charges)


def ewald_potential(positions: Values, charges: Kind, cell: Values, alpha: float, kvectors: Indices) -> Kind:
    """dE/dcharges (n,) in e/Å of `ewald_energy`."""
    bound: Callable[[Kind], Kind] = ewald_operator(positions, cell, alpha, kvectors)
    return bound(charges)


def mesh_potential(
    positions: Values, charges: Kind, cell: Values, alpha: float, mesh: tuple[int, int, int], order: int
) -> Kind:
    """dE/dcharges (n,) in e/Å of `mesh_energy`."""
    bound: Callable[[Kind], Kind] = mesh_operator(positions, cell, alpha, mesh, order)
    return bound(charges)


def _compiled_pairs(
    positions: Tensor,
    charges: Tensor,
    cell: Tensor,
    smearing: Tensor,
    pairs_i: Indices,
    pairs_j: Indices,
    shifts: Indices,
    alpha: float,
    cutoff: float,
    shift: bool,
) -> Tensor:
    def formula(x: Tensor, q: Tensor, h: Tensor, s: Tensor) -> Tensor:
        a, b, c = (torch.from_numpy(pair_indices(v)).long() for v in (pairs_i, pairs_j, shifts))
        return pairs.screened_energy(x, q, h, s, a, b, c, alpha, cutoff, shift)

    kernel = pair_kernel((pairs_i, pairs_j, shifts), alpha, cutoff, shift)
    return evaluate(formula, kernel, positions, charges, cell, smearing)


_mesh_formula = mesh.wave_energy


def _tensors(device: torch.device, *values: Indices) -> list[Tensor]:
    return [torch.as_tensor(v, dtype=torch.int64, device=device) for v in values]


def _float_tensors(*values: Values) -> list[Tensor]:
    return [torch.as_tensor(v).detach() for v in values]


def _on_arrays(product: Callable[[Floats], Floats]) -> Callable[[Kind], Kind]:
    def apply(charges: Kind) -> Kind:
        if isinstance(charges, Tensor):
            return torch.from_numpy(product(array(charges)))
        return product(np.require(charges, dtype=np.float64, requirements=["C", "W"]))

    return apply


def _on_tensors(product: Callable[[Tensor], Tensor], like: Tensor) -> Callable[[Kind], Kind]:
    def apply(charges: Kind) -> Kind:
        if isinstance(charges, Tensor):
            return product(charges.detach().to(like))
        found: Floats = product(torch.as_tensor(charges).to(like)).cpu().numpy()
        return found

    return apply
