"""What the G = 0 term leaves open: the neutralising background and the slab.

With n = a x b/|a x b|, z = r.n, M = sum q z, Q = sum q and V, L the volume and height of the k-space cell,

    background    E/k = -pi Q²/(2 V alpha²) + (2 pi/V) Q sum q s²
    slab          E/k = (2 pi/V) [M² - Q sum q (z² + s²) - Q² L²/12]

The s² of the two cancel, so a slab has one answer whatever the convention of the background. For a neutral
or charged slab of extent h the slab sum differs from the exact two-dimensional one by terms that decay as
exp(-g (L - h)), g the shortest reciprocal vector of the surface cell, and, where Gaussians of two images overlap, as
exp(-(L - h)²/4s²): the padding follows from these laws.

Sources: Yeh and Berkowitz, J. Chem. Phys. 111, 3155 (1999); Ballenegger, Arnold and Cerda, J. Chem. Phys.
131, 094107 (2009) for the charged slab.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from grahame.electrostatics import cells

# The law's prefactor relative to typical forces, with a margin; checked against the exact sum in the tests.
_PREFACTOR = 10.0


def gap_for(accuracy: float, shortest_reciprocal: float, widest: float) -> float:
    """Empty height L - h in Å that the periodic images need: ln(prefactor/accuracy)/g, and 2 s sqrt(ln(prefactor/accuracy)).

    A wave of Gaussians of both widths s decays as that of points where they no longer overlap.
    """
    digits = math.log(_PREFACTOR / accuracy)
    return max(digits / shortest_reciprocal, 2.0 * widest * math.sqrt(digits))


@dataclass(frozen=True)
class Plane:
    """What these terms see of a geometry.

    Attributes:
        positions: (n,3) Å; cell: (3,3) the k-space cell, rows in Å; normal: (3,) n; volume: V, Å³.
        squared: (n,) s², Å²; 0 where the background sees points.
    """

    positions: Tensor
    cell: Tensor
    normal: Tensor
    volume: Tensor
    squared: Tensor

    @cached_property
    def length(self) -> Tensor:
        """L, Å."""
        return torch.abs(self.cell[2] @ self.normal)

    @cached_property
    def heights(self) -> Tensor:
        """(n,) r.n, Å."""
        return self.positions @ self.normal

    @cached_property
    def z(self) -> Tensor:
        """(n,) heights from their mean, Å: the origin drops out of the exact sum; near the charges it keeps large terms small."""
        return self.heights - self.heights.detach().mean()

    @classmethod
    def of(cls, positions: Tensor, smearing: Tensor, cell: Tensor, gaussian: bool) -> "Plane":
        """From positions (n,3), widths (n,), the k-space cell and the convention of the background."""
        squared = smearing**2 if gaussian else torch.zeros_like(smearing)
        return cls(positions, cell, cells.normal(cell), cells.volume(cell), squared)


def background_energy(charges: Tensor, plane: Plane, alpha: float) -> Tensor:
    """Energy of the charges in their uniform neutralising background, in e²/Å."""
    total = charges.sum()
    spread = 2 * total * (charges * plane.squared).sum()
    return math.pi / plane.volume * (spread - total**2 / (2 * alpha**2))


def background_matrix(plane: Plane, alpha: float) -> Tensor:
    """-pi/(V alpha²) + 2 pi (s_i² + s_j²)/V, (n,n) in 1/Å."""
    both = plane.squared[:, None] + plane.squared[None, :]
    return 2 * math.pi / plane.volume * both - math.pi / (plane.volume * alpha**2)


def slab_energy(charges: Tensor, plane: Plane) -> Tensor:
    """Slab term of the k-space cell in e²/Å; the widths must be seen as the background sees them."""
    total = charges.sum()
    moment = (charges * plane.z).sum()
    second = (charges * (plane.z**2 + plane.squared)).sum()
    return 2 * math.pi / plane.volume * (moment**2 - total * second - total**2 * plane.length**2 / 12)


def slab_matrix(plane: Plane) -> Tensor:
    """-(2 pi/V) [(z_i - z_j)² + s_i² + s_j² + L²/6], (n,n) in 1/Å."""
    z, squared = plane.z, plane.squared
    spread = (z[:, None] - z[None, :]) ** 2 + squared[:, None] + squared[None, :]
    return -2 * math.pi / plane.volume * (spread + plane.length**2 / 6)
