"""The waves of the Ewald sum in torch: E = (2 pi/V) sum over G != 0 of exp(-G²/4 alpha²)/G² |S(G)|².

S(G) = sum_j q_j exp(i G.x_j), G = 2 pi m @ inv(cell)^T with integer m. One of each pair ±G is summed and
counted twice. The kernels that the CPU uses are in `cpu_structure_factor`. Energies in e²/Å.

Source: P. P. Ewald, Ann. Phys. 369, 253 (1921).
"""

import math

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_CHUNK = 4_000_000  # numbers per temporary array


def half_space_kvectors(cell: Tensor, kcut: float) -> Tensor:
    """Integer triples m (k,3), one of each pair ±m, with 0 < |G| <= kcut, in lexicographic order.

    Args:
        cell: (3,3) rows in Å.
        kcut: largest |G| in 1/Å.

    Returns:
        (k,3) int64; the first non-zero index of each row is positive.
    """
    h = cell.detach()
    # |m_d| = |G.a_d|/2 pi <= kcut |a_d|/2 pi.
    bounds = [math.floor(kcut * float(torch.linalg.vector_norm(row)) / (2 * math.pi)) for row in h]
    ranges = [torch.arange(0 if d == 0 else -b, b + 1, device=h.device) for d, b in enumerate(bounds)]
    m = torch.cartesian_prod(*ranges)
    first = (m[:, 0] > 0) | ((m[:, 0] == 0) & ((m[:, 1] > 0) | ((m[:, 1] == 0) & (m[:, 2] > 0))))
    m = m[first]
    g = 2 * math.pi * m.to(h.dtype) @ torch.linalg.inv(h).T
    return m[(g**2).sum(1) <= kcut**2]


def wave_energy(positions: Tensor, charges: Tensor, cell: Tensor, alpha: float, kvectors: Tensor) -> Tensor:
    """The energy of the listed half space of waves, chunk by chunk.

    With gradients the chunks are recomputed in the backward pass instead of stored.
    """

    def part(x: Tensor, q: Tensor, h: Tensor, m: Tensor) -> Tensor:
        g = 2 * math.pi * m.to(h.dtype) @ torch.linalg.inv(h).T
        g2 = (g**2).sum(1)
        weight = 4 * math.pi / torch.abs(torch.linalg.det(h)) * torch.exp(-g2 / (4 * alpha**2)) / g2
        phase = g @ x.T
        energy: Tensor = (weight * ((torch.cos(phase) @ q) ** 2 + (torch.sin(phase) @ q) ** 2)).sum()
        return energy

    total = torch.zeros((), dtype=positions.dtype, device=positions.device)
    rows = max(1, _CHUNK // max(len(positions), 1))
    # A part also of no waves: wide Gaussians in a small cell leave none, and nothing is a sum with a graph.
    for start in range(0, max(len(kvectors), 1), rows):
        chunk = kvectors[start : start + rows]
        if torch.is_grad_enabled() and len(kvectors) > rows:
            total = total + checkpoint(
                part, positions, charges, cell, chunk, use_reentrant=False, preserve_rng_state=False
            )
        else:
            total = total + part(positions, charges, cell, chunk)
    return total
