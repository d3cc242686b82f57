"""Background, slab and displacement of a geometry without graph: one quadratic form of a few moments of the charges.

    E/k = 1/2 m'Cm,   m = Bq,   dE/dq = B'C m,   dE/dr_i = q_i n (dB_i/dz)'C m

The terms are those of `slab` and `fields`. With Q = sum q, W = sum q s², M = sum q z, Z = sum q z², and H = sum q r.n,

    slab            (2 pi/V) [M² - Q Z - Q² (L²/12 + 1/(4 alpha²))],          B = (1, z, z²)
    displacement    (2 pi/V) [Q W - Q²/(4 alpha²) + H²],                      B = (1, s², r.n)
    all others      (2 pi/V) [Q W - Q²/(4 alpha²)],                           B = (1, s²)

where the W of background and slab have cancelled.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grahame.electrostatics.slab import Plane


def form(boundary: str, alpha: float, length: float, volume: float, gaussian: bool) -> NDArray[np.float64]:
    """C in 1/Å, (m,m) for the m numbers of B; a background that sees points has no s²."""
    own = -0.25 / alpha**2
    if boundary == "slab":
        found = np.array([[own - length**2 / 12, 0.0, -0.5], [0.0, 1.0, 0.0], [-0.5, 0.0, 0.0]])
    else:
        wide = 0.5 if gaussian else 0.0
        found = np.array([[own, wide, 0.0], [wide, 0.0, 0.0], [0.0, 0.0, 1.0]])
        if boundary != "displacement":
            found = found[:2, :2]
    return found * (4 * math.pi / volume)


@dataclass(frozen=True)
class Moments:
    """The form of one geometry.

    Attributes:
        boundary: its name.
        plane: the geometry.
        basis: (m,n) B; form: (m,m) C.
    """

    boundary: str
    plane: Plane
    basis: Tensor
    form: Tensor

    @classmethod
    def of(cls, plane: Plane, alpha: float, boundary: str) -> "Moments":
        """Of a geometry (without graph) with the splitting `alpha` in 1/Å."""
        numbers = [torch.ones_like(plane.squared)]
        if boundary == "slab":
            numbers += [plane.z, plane.z * plane.z]
        else:
            numbers += [plane.squared] + ([plane.heights] if boundary == "displacement" else [])
        found = form(boundary, alpha, float(plane.length), float(plane.volume), True)
        return cls(boundary, plane, torch.stack(numbers, dim=0), torch.from_numpy(found).to(numbers[0]))

    def weights(self, charges: Tensor) -> Tensor:
        """C m, (m,), of charges (n,) e."""
        weights: Tensor = self.form @ (self.basis @ charges)
        return weights

    def potential(self, weights: Tensor) -> Tensor:
        """dE/dq (n,) in e/Å."""
        potential: Tensor = weights @ self.basis
        return potential

    def gradient(self, charges: Tensor, weights: Tensor) -> Tensor | None:
        """dE/dr (n,3) in e²/Å²; None where the atoms feel nothing of it."""
        if self.boundary == "slab":
            along = charges * (weights[1] + 2 * weights[2] * self.plane.z)
        elif self.boundary == "displacement":
            along = charges * weights[2]
        else:
            return None
        return along[:, None] * self.plane.normal
