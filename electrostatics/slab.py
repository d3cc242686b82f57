"""What the G = 0 term leaves open: the neutralising background and the slab.

With n = a x b/|a x b|, z = r.n, M = sum q z, Q = sum q and V, L the volume and height of the k-space cell,

    background    E/k = -pi Q²/(2 V alpha²) + (2 pi/V) Q sum q s²
    slab          E/k = (2 pi/V) [M² - Q sum q (z² + s²) - Q² L²/12]

The s² of the two cancel, so a slab has one answer whatever the convention of the background. For a neutral
or charged slab of extent h the slab sum differs from the exact two-dimensional one by terms that decay as
exp(-g (L - h)), g the shortest reciprocal vector of the surface cell: the padding follows from that law.

Sources: Yeh and Berkowitz, J. Chem. Phys. 111, 3155 (1999); Ballenegger, Arnold and Cerda, J. Chem. Phys.
131, 094107 (2009) for the charged slab.
"""

import math

import torch
from torch import Tensor

from grahame.electrostatics import cells

# The law's prefactor relative to typical forces, with a margin; checked against the exact sum in the tests.
_PREFACTOR = 10.0


def gap_for(accuracy: float, shortest_reciprocal: float) -> float:
    """Empty height L - h in Å that the periodic images need: ln(prefactor/accuracy)/g."""
    return math.log(_PREFACTOR / accuracy) / shortest_reciprocal


def background_energy(
    charges: Tensor, smearing: Tensor, volume: Tensor, alpha: float, gaussian: bool
) -> Tensor:
    """Energy of the charges in their uniform neutralising background, in e²/Å."""
    total = charges.sum()
    energy = -math.pi * total**2 / (2 * volume * alpha**2)
    if gaussian:
        energy = energy + 2 * math.pi / volume * total * (charges * smearing**2).sum()
    return energy


def background_potential(
    charges: Tensor, smearing: Tensor, volume: Tensor, alpha: float, gaussian: bool
) -> Tensor:
    """Derivative of `background_energy` with respect to the charges, (n,) in e/Å."""
    total = charges.sum()
    potential = -math.pi * total / (volume * alpha**2)
    if not gaussian:
        return potential.expand(len(charges))
    squared = smearing**2
    return potential + 2 * math.pi / volume * (total * squared + (charges * squared).sum())


def background_matrix(smearing: Tensor, volume: Tensor, alpha: float, gaussian: bool) -> Tensor:
    """-pi/(V alpha²) + 2 pi (s_i² + s_j²)/V, (n,n) in 1/Å."""
    squared = smearing**2 if gaussian else torch.zeros_like(smearing)
    return 2 * math.pi / volume * (squared[:, None] + squared[None, :]) - math.pi / (volume * alpha**2)


def slab_energy(positions: Tensor, charges: Tensor, smearing: Tensor, cell: Tensor, gaussian: bool) -> Tensor:
    """Slab term of the k-space cell in e²/Å; `gaussian` must be the background's convention."""
    # The origin drops out of the exact sum; near the charges it keeps the large terms small.
    z = positions @ cells.normal(cell)
    z = z - z.detach().mean()
    total = charges.sum()
    moment = (charges * z).sum()
    second = (charges * (z**2 + smearing**2 if gaussian else z**2)).sum()
    volume, length = cells.volume(cell), cells.height(cell)
    return 2 * math.pi / volume * (moment**2 - total * second - total**2 * length**2 / 12)


def slab_potential(
    positions: Tensor, charges: Tensor, smearing: Tensor, cell: Tensor, gaussian: bool
) -> Tensor:
    """Derivative of `slab_energy` with respect to the charges, (n,) in e/Å."""
    z = positions @ cells.normal(cell)
    z = z - z.mean()
    total, moment = charges.sum(), (charges * z).sum()
    squared = z**2 + smearing**2 if gaussian else z**2
    volume, length = cells.volume(cell), cells.height(cell)
    quadratic = total * squared + (charges * squared).sum() + total * length**2 / 6
    return 2 * math.pi / volume * (2 * moment * z - quadratic)


def slab_gradient(positions: Tensor, charges: Tensor, cell: Tensor) -> Tensor:
    """Derivative of `slab_energy` with respect to the positions, (n,3) in e²/Å²; the widths drop out."""
    normal = cells.normal(cell)
    z = positions @ normal
    z = z - z.mean()
    along = charges * ((charges * z).sum() - charges.sum() * z)
    return 4 * math.pi / cells.volume(cell) * along[:, None] * normal


def slab_matrix(positions: Tensor, smearing: Tensor, cell: Tensor, gaussian: bool) -> Tensor:
    """-(2 pi/V) [(z_i - z_j)² + s_i² + s_j² + L²/6], (n,n) in 1/Å."""
    z = positions @ cells.normal(cell)
    squared = smearing**2 if gaussian else torch.zeros_like(smearing)
    volume, length = cells.volume(cell), cells.height(cell)
    spread = (z[:, None] - z[None, :]) ** 2 + squared[:, None] + squared[None, :]
    return -2 * math.pi / volume * (spread + length**2 / 6)
