"""Electrostatics of slabs and cells, and electrodes at constant potential.

`Coulomb` is the operator, `ConstantPotential` the solver for the charges of electrodes; both take numpy or
torch arrays in eV, Å, e, V.
"""

from grahame.electrostatics.constant_potential import ConstantPotential, ConstantPotentialResult
from grahame.electrostatics.coulomb import Coulomb, CoulombResult
from grahame.electrostatics.electrodes import Electrode
from grahame.electrostatics.profiles import PlanarProfiles, planar_profiles
from grahame.electrostatics.switching import switch
from grahame.electrostatics.thermopotentiostat import ThermoPotentiostat, fluctuation_capacitance
from grahame.electrostatics.work_function import slab_potential_step, vacuum_potential, work_function

__all__ = [
    "ConstantPotential",
    "ConstantPotentialResult",
    "Coulomb",
    "CoulombResult",
    "Electrode",
    "PlanarProfiles",
    "ThermoPotentiostat",
    "fluctuation_capacitance",
    "planar_profiles",
    "slab_potential_step",
    "switch",
    "vacuum_potential",
    "work_function",
]
