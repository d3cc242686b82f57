"""Uniform fields: given, following two electrodes, or at constant displacement.

    given field E            -E.M,  M = sum q r; in a slab E = (E.n) n turns with the surface
    finite field             E = -(psi_top - psi_bot) n/L, and -V E²/(8 pi k)
    displacement D (= D/eps0, V/Å)   V/(8 pi k) (D - 4 pi k M.n/V)² = V D²/(8 pi k) - D M.n + (2 pi k/V) (M.n)²

The last term of the displacement is quadratic in the charges and so part of the operator K; what is linear
in the charges acts as an external potential -E.r.

Sources: Stengel, Spaldin and Vanderbilt, Nat. Phys. 5, 304 (2009); Zhang and Sprik, Phys. Rev. B 93, 144201
(2016); Dufils, Jeanmairet, Rotenberg, Sprik and Salanne, Phys. Rev. Lett. 123, 195501 (2019).
"""

import math

from torch import Tensor

from grahame.electrostatics import cells
from grahame.electrostatics.slab import Plane


def external_potential(positions: Tensor, field: Tensor) -> Tensor:
    """Potential -E.r of a uniform field E (3,) in V/Å at each atom, (n,) in V."""
    return -(positions @ field)


def turning(field: Tensor, cell: Tensor) -> Tensor:
    """The field (3,) of a slab, which turns with its surface: a strain holds the component along the normal.

    Held in space instead, a field would act within a sheared surface, on a dipole that depends on the images of the atoms.
    """
    n = cells.normal(cell)
    return field + (field @ n.detach()) * (n - n.detach())


def polarization_energy(charges: Tensor, plane: Plane) -> Tensor:
    """(2 pi/V) (M.n)², the quadratic part of constant displacement, in e²/Å."""
    return 2 * math.pi / plane.volume * (charges * plane.heights).sum() ** 2


def polarization_matrix(plane: Plane) -> Tensor:
    """(4 pi/V) z_i z_j, (n,n) in 1/Å."""
    return 4 * math.pi / plane.volume * plane.heights[:, None] * plane.heights[None, :]


def displacement_energy(cell: Tensor, displacement: Tensor, coulomb_constant: float) -> Tensor:
    """V D²/(8 pi k), the part of constant displacement without charges, in eV."""
    return cells.volume(cell) * displacement**2 / (8 * math.pi * coulomb_constant)


def finite_field_energy(cell: Tensor, strength: Tensor, coulomb_constant: float) -> Tensor:
    """-V E²/(8 pi k) of the field that follows the electrodes, in eV."""
    return -cells.volume(cell) * strength**2 / (8 * math.pi * coulomb_constant)


def displaced_field(
    positions: Tensor, charges: Tensor, cell: Tensor, displacement: Tensor, coulomb_constant: float
) -> Tensor:
    """Field E = D - 4 pi k M.n/V along the normal that acts at constant displacement, (3,) in V/Å."""
    n = cells.normal(cell)
    moment = (charges * (positions @ n)).sum()
    return (displacement - 4 * math.pi * coulomb_constant * moment / cells.volume(cell)) * n
