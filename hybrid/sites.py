"""Atomic dipoles as charges: two opposite ones close to the atom, so that one Coulomb operator serves all.

    mu = |mu| n:   charges ±c at r ± h n,   c = |mu|/2h,   h = 0.01 Å

The pair has no charge, so what charges add up to stays exact, and its dipole is mu exactly. The next moment of its
field is smaller by (h/r)² at a distance r, and as invariant under rotations as any other. The length is fixed because
charges that approach each other as mu goes to zero would meet the 1/r of the real-space sum, where neither forces nor
the check for coincident atoms survive. The price: that next moment keeps the direction of mu when mu vanishes, so the
slope with mu there depends on the direction, by h²/6 times the field's second derivative. Nothing is excluded: what the
pair does to itself is a smooth function of |mu| alone (what it does to its own atom cancels), which the network's energy
absorbs.

A real-space sum that ends at a cut-off is shifted to zero there, pair by pair. Between the charges of one dipole, which
are large and close, that shift is no small error but (|mu|/2h)² of one, with no other pair to cancel it: `own_shift`
says how much, so that it can be taken out.

Source: Zhang et al., J. Chem. Phys. 156, 124107 (2022) for learned dipoles as displaced charges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from grahame.electrostatics.accuracy import Parameters
from grahame.kernels.pairs import shift_terms

HALF_LENGTH = 0.01
"""h, Å; ten times the distance at which two atoms count as one."""

# e Å. Where there is no dipole (an ion alone, a site of high symmetry) the two charges vanish but still need a place;
# with it the derivative there is the field, as it should be.
_NOTHING = (0.6e-12, -0.5e-12, 0.7e-12)


@dataclass(frozen=True)
class Sites:
    """Charges beside atoms.

    Attributes:
        atoms: (m,) index of the atom of each; it has that atom's width.
        offsets: (m,3) from the atom, Å.
        charges: (m,) e.
    """

    atoms: Tensor
    offsets: Tensor
    charges: Tensor

    def of(self, start: int, end: int) -> Sites:
        """Those of the atoms start ... end - 1, which then count from 0."""
        mine = ((self.atoms >= start) & (self.atoms < end)).nonzero()[:, 0]
        return Sites(self.atoms[mine] - start, self.offsets[mine], self.charges[mine])


def own_shift(parameters: Parameters, coulomb_constant: float) -> float:
    """eV/e²: what the end of the real-space sum adds to the energy of dipoles with themselves, per sum of their charges².

        c² k [f(r_c) + f'(r_c) (2h - r_c)] of each pair ±c,   f(r) = erfc(alpha r)/r

    Args:
        parameters: of the Coulomb operator at this geometry; coulomb_constant: k, eV Å/e².
    """
    if parameters.method == "exact" or not math.isfinite(parameters.cutoff):
        return 0.0
    value, slope = shift_terms(parameters.splitting, parameters.cutoff)
    return 0.5 * coulomb_constant * (value + slope * (2.0 * HALF_LENGTH - parameters.cutoff))


def sites_of(moments: Tensor, atoms: Tensor) -> Sites:
    """The two charges of each dipole: all positive ones, then all negative ones.

    Args:
        moments: (k,3) e Å; atoms: (k,) index of the atom of each.
    Returns:
        2k sites, with exact derivatives with respect to the moments.
    """
    mu = moments + moments.new_tensor(_NOTHING)
    length = torch.linalg.vector_norm(mu, dim=1)
    offsets = mu * (HALF_LENGTH / length)[:, None]
    charges = length / (2.0 * HALF_LENGTH)
    return Sites(atoms.repeat(2), torch.cat([offsets, -offsets]), torch.cat([charges, -charges]))
