"""OpenMM on its CPU platform: PME for water, ConstantPotentialForce (finite field only) for cells."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples.benchmarks.speed.systems import SMEARING, VOLTAGE, Box, Cell

Floats = NDArray[np.float64]

KJ_PER_EV = 96.48533212331001
OWN_CONSTANT = 138.93545764438198 * 10 / KJ_PER_EV  # eV Å/e², from kJ nm/(mol e²)


def scale(system: Box | Cell) -> float:
    """The Coulomb constant of a system over OpenMM's."""
    return float(system.constant) / OWN_CONSTANT


class Water:
    """NonbondedForce without Lennard-Jones."""

    def __init__(self, box: Box, setting: dict[str, Any], threads: int) -> None:
        import openmm as mm

        self.box = box
        edge, mesh = float(box.edge) / 10, setting["mesh"]
        system = mm.System()
        system.setDefaultPeriodicBoxVectors([edge, 0, 0], [0, edge, 0], [0, 0, edge])
        force = mm.NonbondedForce()
        force.setNonbondedMethod(mm.NonbondedForce.PME)
        force.setCutoffDistance(setting["cutoff"] / 10)
        force.setPMEParameters(setting["splitting"] * 10, mesh, mesh, mesh)
        force.setUseDispersionCorrection(False)
        for q in box.charges:
            system.addParticle(1.0)
            force.addParticle(float(q), 0.1, 0.0)
        system.addForce(force)
        platform = mm.Platform.getPlatformByName("CPU")
        self._integrator = mm.VerletIntegrator(1e-9)
        self.context = mm.Context(system, self._integrator, platform, {"Threads": str(threads)})
        self.positions = box.positions / 10
        self.context.setPositions(self.positions)
        self.label = f"cut-off {setting['cutoff']:g} Å, mesh {mesh}, order 5"
        self._turn = 0

    def _state(self) -> Any:
        return self.context.getState(getEnergy=True, getForces=True)

    def forces(self) -> Floats:
        forces = np.asarray(self._state().getForces(asNumpy=True)._value)
        return forces * (scale(self.box) / KJ_PER_EV / 10)

    def steps(self, count: int, rebuild: bool) -> None:
        for _ in range(count):
            if rebuild:  # a rigid shift by 3 Å makes the next evaluation find its list anew
                self._turn ^= 1
                self.context.setPositions(self.positions + 0.3 * self._turn)
            self._state()

    def close(self) -> None:
        del self.context


class Electrodes:
    """ConstantPotentialForce with the matrix or with conjugate gradients."""

    def __init__(self, cell: Cell, setting: dict[str, Any], threads: int) -> None:
        import openmm as mm

        self.cell = cell
        sides = cell.cell.diagonal() / 10
        system = mm.System()
        system.setDefaultPeriodicBoxVectors([sides[0], 0, 0], [0, sides[1], 0], [0, 0, sides[2]])
        self.force = force = mm.ConstantPotentialForce()
        held = np.zeros(len(cell.charges), dtype=bool)
        held[cell.solved] = True
        for q, fixed in zip(cell.charges, held):
            system.addParticle(0.0 if fixed else 1.0)
            force.addParticle(float(q))
        for i, j in cell.exclusions:
            force.addException(int(i), int(j), 0.0)
        # Its width w is that of rho ~ exp(-r²/w²): sqrt(2) of ours. The potential in volts is that of our constant.
        width = 2.0**0.5 * SMEARING / 10
        volt = KJ_PER_EV / scale(cell)
        force.addElectrode(cell.bottom.tolist(), 0.0, width, 0.0)
        force.addElectrode(cell.top.tolist(), VOLTAGE * volt, width, 0.0)
        force.setUseChargeConstraint(True)
        force.setExternalField(mm.Vec3(0, 0, -VOLTAGE * volt / sides[2]))
        force.setCutoffDistance(setting["cutoff"] / 10)
        force.setEwaldErrorTolerance(setting["accuracy"])
        cg = setting["algorithm"] == "cg"
        force.setConstantPotentialMethod(force.CG if cg else force.Matrix)
        if cg:
            force.setCGErrorTolerance(setting["tolerance"])
        system.addForce(force)
        platform = mm.Platform.getPlatformByName("CPU")
        self._integrator = mm.VerletIntegrator(0.001)
        self.context = mm.Context(system, self._integrator, platform, {"Threads": str(threads)})
        self.label = f"tolerance {setting['accuracy']:g}, cut-off {setting['cutoff']:g} Å, " + (
            f"cg {setting['tolerance']:g} kJ/mol/e" if cg else "Matrix"
        )
        self._step = 0

    def _evaluate(self) -> None:
        self.context.setPositions(self.cell.at(self._step) / 10)
        self._last = self.context.getState(getEnergy=True, getForces=True)

    def first(self) -> None:
        self._evaluate()

    def steps(self, count: int) -> None:
        for _ in range(count):
            self._step += 1
            self._evaluate()

    def observe(self) -> tuple[Floats, Floats]:
        charges = np.array([getattr(q, "_value", q) for q in self.force.getCharges(self.context)])
        forces = np.asarray(self._last.getForces(asNumpy=True)._value)
        return charges[self.cell.solved], forces * (scale(self.cell) / KJ_PER_EV / 10)

    def close(self) -> None:
        del self.context
