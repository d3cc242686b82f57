"""The Ewald sum of the package evaluated by torch-pme: an independent implementation of the same numbers.

torch-pme sums point charges, with erfc(alpha r)/r in real space and the waves it is given. What it does not know
is added here on the same list of pairs: the width of Gaussian charges, and the shift that takes energy and force to
zero at the cut-off. Its background of charged cells is taken out again; `electrostatics.slab` has its own. The
result is the sum of `ewald.energy` term by term, for any cell, and the two can replace each other. It keeps
(waves x atoms) numbers in memory: a check for small systems, not a way to run molecular dynamics.
"""

import importlib
import math
from typing import Any

import torch
from torch import Tensor

from grahame.kernels.pairs import gaussian_exponents, pair_vectors, shift_terms

_LARGEST = 200_000_000  # waves times atoms; about 15 GB with the derivatives


def load() -> Any:
    """The module torchpme.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        return importlib.import_module("torchpme")
    except ImportError as error:
        raise ValueError(
            'ewald_backend = "torch-pme" must find the package torch-pme: install it with "pip install torch-pme"'
        ) from error


def ewald_energy(
    positions: Tensor,
    charges: Tensor,
    cell: Tensor,
    smearing: Tensor,
    pairs: tuple[Tensor, Tensor, Tensor],
    waves: Tensor,
    alpha: float,
    cutoff: float,
) -> Tensor:
    """Real space, waves and self-interaction of the Ewald sum, without background.

        E = sum over pairs q_i q_j {[erfc(alpha r) - erfc(g r)]/r - e(rc) - e'(rc) (r - rc)}
            + (2 pi/V) sum over G != 0 of exp(-G²/4 alpha²)/G² |S(G)|² - alpha/sqrt(pi) sum q²

    Args:
        positions: (n,3) Å.
        charges: (n,) e.
        cell: (3,3) rows in Å.
        smearing: (n,) Gaussian widths in Å; 0 is a point.
        pairs: i (p,), j (p,), shifts (p,3) of a half list.
        waves: (m,3) integers, one of each pair ±m.
        alpha: splitting parameter in 1/Å.
        cutoff: Å.

    Returns:
        0-d tensor in e²/Å, differentiable twice.

    Raises:
        ValueError: if torch-pme is not installed, or its tables would not fit into memory.

    Source: P. Loche, K. K. Huguenin-Dumittan et al., J. Chem. Phys. 162, 142501 (2025).
    """
    size = 2 * len(waves) * len(positions)
    if size > _LARGEST:
        raise ValueError(
            f'waves times atoms = {size:.3g} must not exceed {_LARGEST:.3g} with ewald_backend = "torch-pme": '
            'use ewald_backend = "auto"'
        )
    torchpme = load()
    i, j, shifts = (t.long() for t in pairs)
    vectors = pair_vectors(positions, cell, i, j, shifts)
    near = ((vectors.detach() ** 2).sum(-1) < cutoff**2).nonzero()[:, 0]
    r, i, j = torch.linalg.vector_norm(vectors[near], dim=1), i[near], j[near]
    potential = torchpme.CoulombPotential(smearing=1.0 / (math.sqrt(2.0) * alpha))
    # The wavelength is not used: the waves are given.
    calculator = torchpme.EwaldCalculator(potential, lr_wavelength=1.0, full_neighbor_list=False).to(
        positions
    )
    g = 2 * math.pi * torch.cat([waves, -waves]).to(cell) @ torch.linalg.inv(cell).T
    half_potential = calculator(
        charges=charges[:, None],
        cell=cell,
        positions=positions,
        neighbor_indices=torch.stack([i, j], dim=1),
        neighbor_distances=r,
        kvectors=g,
    )
    energy: Tensor = charges @ half_potential[:, 0]
    background = math.pi / (2 * alpha**2) * charges.sum() ** 2 / torch.abs(torch.linalg.det(cell))
    exponents, point = gaussian_exponents(smearing, i, j)
    width = torch.where(point, torch.zeros_like(r), torch.special.erfc(exponents * r)) / r
    value, slope = shift_terms(alpha, cutoff)
    correction: Tensor = (charges[i] * charges[j] * (width + value + slope * (r - cutoff))).sum()
    return energy + background - correction
