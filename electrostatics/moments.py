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

import torch
from torch import Tensor

from grahame.electrostatics.slab import Plane


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
        one = torch.ones_like(plane.squared)
        own = -0.25 / alpha**2
        if boundary == "slab":
            basis = torch.stack([one, plane.z, plane.z * plane.z], dim=0)
            form = one.new_zeros((3, 3))
            form[0, 0] = own - plane.length**2 / 12
            form[1, 1], form[0, 2], form[2, 0] = 1.0, -0.5, -0.5
        elif boundary == "displacement":
            basis = torch.stack([one, plane.squared, plane.heights], dim=0)
            form = one.new_zeros((3, 3))
            form[0, 0], form[0, 1], form[1, 0], form[2, 2] = own, 0.5, 0.5, 1.0
        else:
            basis = torch.stack([one, plane.squared], dim=0)
            form = one.new_zeros((2, 2))
            form[0, 0], form[0, 1], form[1, 0] = own, 0.5, 0.5
        return cls(boundary, plane, basis, form * (4 * math.pi / plane.volume))

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
