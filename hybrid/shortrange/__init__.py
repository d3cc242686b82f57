"""Short-range energies: what is not Coulomb, and the charges the Coulomb operator acts on."""

from grahame.hybrid.shortrange.base import ShortRange, ShortRangeResult
from grahame.hybrid.shortrange.classical import ClassicalForceField
from grahame.hybrid.shortrange.rigid import RigidWater, rigid_water_constraints
from grahame.hybrid.shortrange.tables import ForceFieldTables

__all__ = [
    "ClassicalForceField",
    "ForceFieldTables",
    "RigidWater",
    "ShortRange",
    "ShortRangeResult",
    "rigid_water_constraints",
]
