"""Nuclei that come too close: the screened repulsion of Ziegler, Biersack and Littmark.

    E = k Z1 Z2 / r  phi(r / a)  f(r / (0.8 (c1 + c2))),   a = 0.46850 Å / (Z1^0.23 + Z2^0.23)
    phi(x) = 0.18175 e^(-3.19980 x) + 0.50986 e^(-0.94229 x) + 0.28022 e^(-0.40290 x) + 0.02817 e^(-0.20162 x)

f is the envelope of `radial` and ends the term at 0.8 times the sum of the covalent radii c, inside every
chemical bond: no training data are near the nuclei, and a network without this term may let atoms fall onto
each other.

Source: Ziegler, Biersack and Littmark, The Stopping and Range of Ions in Solids, Pergamon (1985).
"""

import torch
from ase.data import covalent_radii
from torch import Tensor, nn

from grahame.electrostatics.units import COULOMB_CONSTANT
from grahame.hybrid.shortrange.radial import envelope

_AMPLITUDES = (0.18175, 0.50986, 0.28022, 0.02817)
_REACH = 0.8
_RATES = (3.19980, 0.94229, 0.40290, 0.20162)


class NuclearRepulsion(nn.Module):
    """Energy of close pairs, shared equally between the two atoms.

    Args:
        elements: atomic number of each species.
    """

    numbers: Tensor
    radii: Tensor

    def __init__(self, elements: list[int]) -> None:
        super().__init__()
        self.register_buffer("numbers", torch.tensor(elements, dtype=torch.float64), persistent=False)
        radii = torch.tensor([covalent_radii[z] for z in elements], dtype=torch.float64)
        self.register_buffer("radii", radii, persistent=False)
        # Å; pairs of any two elements have none beyond.
        self.reach = 2.0 * _REACH * float(radii.max())

    def forward(self, r: Tensor, pairs: Tensor, species: Tensor) -> Tensor:
        """(n,) eV.

        Args:
            r: (p,) Å; pairs: (p,2) atoms, each pair once; species: (n,).
        """
        near = (r.detach() < self.reach).nonzero()[:, 0]
        r, pairs = r.index_select(0, near), pairs.index_select(0, near)
        first, second = species[pairs[:, 0]], species[pairs[:, 1]]
        # The envelope is 0 beyond.
        reach = _REACH * (self.radii[first] + self.radii[second])
        z1, z2 = self.numbers[first], self.numbers[second]
        x = r * (z1**0.23 + z2**0.23) / 0.46850
        screening = sum(a * torch.exp(-b * x) for a, b in zip(_AMPLITUDES, _RATES))
        energy = 0.5 * COULOMB_CONSTANT * z1 * z2 / r * screening * envelope(r / reach)
        out = r.new_zeros(species.shape[0])
        return out.index_add(0, pairs[:, 0], energy).index_add(0, pairs[:, 1], energy)
