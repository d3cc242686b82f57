"""Units: eV, Å, e, V, V/Å, amu. One number connects charge and energy.

The Coulomb constant k = e²/(4 pi eps0) is `ase.units.Hartree * ase.units.Bohr`; it is a parameter of
the operator because other programs round it differently.
"""

from ase.units import Bohr, Hartree

COULOMB_CONSTANT: float = float(Hartree * Bohr)
"""k in eV Å/e²: energy of two unit charges at distance r is k/r."""

ELEMENTARY_CHARGE_COULOMB: float = 1.602176634e-19
"""e in C (exact since 2019), for surface charge densities in µC/cm²."""


def microcoulomb_per_cm2(charge_per_area: float) -> float:
    """Convert a surface charge density from e/Å² to µC/cm²."""
    return charge_per_area * ELEMENTARY_CHARGE_COULOMB * 1e22


def microfarad_per_cm2(capacitance_per_area: float) -> float:
    """Convert a capacitance per area from e/(V Å²) to µF/cm²."""
    return capacitance_per_area * ELEMENTARY_CHARGE_COULOMB * 1e22
