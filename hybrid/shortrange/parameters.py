"""Literature constants of the classical short range: water, ions and face-centred cubic metals.

Published numbers stand here in the units of their papers (kcal/mol, Å, degrees) and are converted once.
The metals are published as the distance r_min of the energy minimum; sigma = r_min / 2^(1/6). Feeding
r_min to a program that expects sigma makes every metal atom 12 % too large, a mistake seen in published
inputs.
"""

import math
from dataclasses import dataclass

from ase.units import kcal, mol

KCAL_PER_MOL: float = float(kcal / mol)
"""One kcal/mol in eV."""

_SIXTH_ROOT_OF_TWO = 2.0 ** (1.0 / 6.0)


@dataclass(frozen=True)
class WaterModel:
    """Three-site water: charges and Lennard-Jones of O, equilibrium geometry, harmonic constants.

    E = 1/2 k_r (r - r0)² per O-H bond + 1/2 k_theta (theta - theta0)²; a rigid model has no constants.

    Attributes:
        charge_oxygen: e; each hydrogen carries minus half of it.
        epsilon: eV.
        sigma: Å.
        bond_length: Å.
        angle: rad.
        bond_constant: eV/Å², None for a rigid model.
        angle_constant: eV/rad², None for a rigid model.
        source: where the numbers come from.
    """

    charge_oxygen: float
    epsilon: float
    sigma: float
    bond_length: float
    angle: float
    bond_constant: float | None
    angle_constant: float | None
    source: str

    @property
    def charge_hydrogen(self) -> float:
        """Charge of each hydrogen in e."""
        return -0.5 * self.charge_oxygen

    @property
    def hydrogen_distance(self) -> float:
        """Distance of the two hydrogens in the equilibrium geometry, Å."""
        return 2.0 * self.bond_length * math.sin(0.5 * self.angle)


WATER: dict[str, WaterModel] = {
    # k_r = 1059.162 kcal/mol/Å², k_theta = 75.90 kcal/mol/rad², both with
    # the factor 1/2 in the energy.
    "spc/fw": WaterModel(
        charge_oxygen=-0.82,
        epsilon=0.1554253 * KCAL_PER_MOL,
        sigma=3.165492,
        bond_length=1.012,
        angle=math.radians(113.24),
        bond_constant=1059.162 * KCAL_PER_MOL,
        angle_constant=75.90 * KCAL_PER_MOL,
        source="Wu, Tepper, Voth, J. Chem. Phys. 124, 024503 (2006)",
    ),
    # The paper gives A and B of (B/r)^12 - (A/r)^6; 3.166 Å and 0.1553 kcal/mol is the rounding that
    # LAMMPS and most published cells use.
    "spc/e-rigid": WaterModel(
        charge_oxygen=-0.8476,
        epsilon=0.1553 * KCAL_PER_MOL,
        sigma=3.166,
        bond_length=1.0,
        angle=math.radians(109.47),
        bond_constant=None,
        angle_constant=None,
        source="Berendsen, Grigera, Straatsma, J. Phys. Chem. 91, 6269 (1987)",
    ),
}
"""Water models by the name that `ClassicalForceField.from_atoms(water=...)` takes."""


def water_model(name: str) -> WaterModel:
    """The water model of that name, or a ValueError that lists the names."""
    if name not in WATER:
        raise ValueError(f"water = {name!r} must be one of {', '.join(map(repr, WATER))}: choose one of them")
    return WATER[name]


@dataclass(frozen=True)
class LennardJones:
    """Well depth, size and charge of a one-atom species: epsilon in eV, sigma in Å, charge in e."""

    epsilon: float
    sigma: float
    charge: float
    source: str


_JOUNG_CHEATHAM = "Joung, Cheatham, J. Phys. Chem. B 112, 9020 (2008), the set for SPC/E"
_HEINZ = "Heinz, Vaia, Farmer, Naik, J. Phys. Chem. C 112, 17281 (2008), the 12-6 set"

# (r_min/2 in Å, epsilon in kcal/mol, charge in e)
_IONS = {"Na": (1.212, 0.3526418, 1.0), "Cl": (2.711, 0.0127850, -1.0)}

# (r_min in Å, epsilon in kcal/mol)
_METALS = {
    "Ag": (2.955, 4.56),
    "Al": (2.925, 4.02),
    "Au": (2.951, 5.29),
    "Cu": (2.616, 4.72),
    "Ni": (2.552, 5.65),
    "Pb": (3.565, 2.93),
    "Pd": (2.819, 6.15),
    "Pt": (2.845, 7.80),
}

IONS: dict[str, LennardJones] = {
    element: LennardJones(epsilon * KCAL_PER_MOL, 2.0 * half / _SIXTH_ROOT_OF_TWO, charge, _JOUNG_CHEATHAM)
    for element, (half, epsilon, charge) in _IONS.items()
}
"""Na+ and Cl- fitted for SPC/E. They are used with SPC/Fw water too: the two waters have the same
Lennard-Jones oxygen to 0.1 %, but the hydration free energies were fitted for SPC/E only."""

METALS: dict[str, LennardJones] = {
    element: LennardJones(epsilon * KCAL_PER_MOL, r_min / _SIXTH_ROOT_OF_TWO, 0.0, _HEINZ)
    for element, (r_min, epsilon) in _METALS.items()
}
"""Face-centred cubic metals fitted to density and surface tension."""

KNOWN_ELEMENTS: tuple[str, ...] = ("H", "O", *IONS, *METALS)
"""Every element that the built-in tables describe."""
