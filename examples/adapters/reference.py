"""A small electrochemical cell, labels of the classical reference, and checks that every short range must pass."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.build import fcc111, molecule
from ase.constraints import FixAtoms
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from ase.optimize import FIRE

from grahame.electrostatics import Coulomb, Electrode
from grahame.hybrid import HybridCalculator
from grahame.hybrid.adapters import FixedCharges, residual_labels
from grahame.hybrid.frames import Conditions, Frame
from grahame.hybrid.teacher import teacher_calculator

ELEMENTS = ("H", "O", "Na", "Cl", "Au")
SPC = FixedCharges({"O": -0.82, "H": 0.41, "Na": 1.0, "Cl": -1.0}, {"Au": 0.392})
METAL = np.arange(8)


def cell() -> Atoms:
    """Two sheets of gold, four waters and an ion pair: 22 atoms."""
    bottom = fcc111("Au", (2, 2, 1), a=4.08, orthogonal=True)
    top = bottom.copy()
    top.positions[:, 2] += 16.0
    rng = np.random.default_rng(5)
    liquid = Atoms()
    for place in ((1.0, 1.0, 3.2), (4.0, 3.4, 6.3), (1.2, 3.6, 9.4), (4.2, 1.0, 12.6)):
        water = molecule("H2O")
        water.rotate(360.0 * rng.random(), "x")
        water.rotate(360.0 * rng.random(), "z")
        water.translate(place)
        liquid += water
    liquid += Atoms("NaCl", positions=[(1.0, 1.0, 6.4), (4.0, 3.4, 10.0)])
    atoms = Atoms(bottom + top + liquid)
    atoms.positions[:, 2] += 5.0
    atoms.cell = [bottom.cell[0, 0], bottom.cell[1, 1], 26.0]
    atoms.pbc = (True, True, False)
    electrode = np.full(len(atoms), -1)
    electrode[:4], electrode[4:8] = 0, 1
    atoms.set_array("electrode", electrode)
    atoms.set_constraint(FixAtoms(METAL))
    return atoms


@dataclass
class Labelled:
    """One frame: labels in the ensemble of one metal group of zero charge, and what is left without Coulomb."""

    atoms: Atoms
    energy: float
    forces: Any
    charges: Any
    residual_energy: float
    residual_forces: Any


def labelled_frames(count: int = 12, apart: int = 10) -> list[Labelled]:
    """Dynamics of the reference at 300 K, labelled every few steps."""
    start = time.perf_counter()
    atoms = cell()
    atoms.calc = teacher_calculator(atoms, potentials=[0.0, 0.0])
    FIRE(atoms, logfile=None).run(fmax=0.5, steps=60)
    MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=np.random.default_rng(0))
    dynamics = Langevin(
        atoms, 0.5 * units.fs, temperature_K=400, friction=0.02 / units.fs, rng=np.random.default_rng(1)
    )
    frames = []
    for _ in range(count):
        dynamics.run(apart)
        copy = atoms.copy()
        copy.calc = None
        energy, forces = atoms.get_potential_energy(), atoms.get_forces(apply_constraint=False)
        left = residual_labels(
            copy,
            SPC,
            Coulomb("slab", accuracy=1e-6),
            [Electrode(METAL, charge=0.0)],
            energy=energy,
            forces=forces,
        )
        charges = np.array(atoms.calc.results["charges"])
        frames.append(Labelled(copy, energy, forces, charges, left.energy, left.forces))
    print(f"{count} frames of {len(atoms)} atoms labelled in {time.perf_counter() - start:.0f} s", flush=True)
    return frames


def write_frames(frames: Sequence[Labelled], path: Path, residual: bool) -> None:
    """Extended XYZ with REF_energy (eV) and REF_forces (eV/Å), as other programs read them."""
    out = []
    for f in frames:
        atoms = Atoms(f.atoms.numbers, f.atoms.positions, cell=f.atoms.cell, pbc=f.atoms.pbc)
        atoms.info["REF_energy"] = f.residual_energy if residual else f.energy
        atoms.arrays["REF_forces"] = f.residual_forces if residual else f.forces
        out.append(atoms)
    write(path, out, format="extxyz")


def frames_for_heads(frames: Sequence[Labelled]) -> list[Frame]:
    """The same frames with their charges, for training heads."""
    conditions = Conditions(boundary="slab", electrodes=(Electrode(METAL, charge=0.0),))
    return [
        Frame(
            f.atoms.numbers.astype(np.int64),
            f.atoms.positions,
            np.array(f.atoms.cell),
            (True, True, False),
            conditions,
            labels={"charges": f.charges},
        )
        for f in frames
    ]


def electrodes(voltage: float) -> list[Electrode]:
    """The two sheets, `voltage` apart."""
    return [Electrode(METAL[:4], potential=0.0), Electrode(METAL[4:], potential=voltage)]


def check(title: str, short_range: Any, atoms: Atoms, *, step: float = 1e-3, steps: int = 40) -> None:
    """Forces against finite differences, and the drift of dynamics at 1 V."""
    work = atoms.copy()
    work.set_constraint(FixAtoms(METAL))
    work.calc = HybridCalculator(short_range, Coulomb("slab", accuracy=1e-6), electrodes(1.0))
    forces = work.get_forces(apply_constraint=False)
    rng = np.random.default_rng(7)
    direction = rng.normal(size=work.positions.shape)
    start = work.positions.copy()

    def energy(t: float) -> float:
        work.positions = start + t * direction
        return float(work.get_potential_energy())

    numeric = (energy(-2 * step) - 8 * energy(-step) + 8 * energy(step) - energy(2 * step)) / (12 * step)
    energy(0.0)
    analytic = -float((forces * direction).sum())
    charge = work.calc.results["electrode_charges"]
    print(f"{title}")
    print(f"  electrode charges at 1 V: {charge[0]:+.4f} {charge[1]:+.4f} e")
    print(f"  dOmega along a direction: {analytic:.7f}, finite difference {numeric:.7f} eV/Å")
    MaxwellBoltzmannDistribution(work, temperature_K=150, rng=np.random.default_rng(2))
    total, dynamics = [], VelocityVerlet(work, 0.25 * units.fs)
    begin = time.perf_counter()
    for _ in range(steps):
        dynamics.run(1)
        total.append(work.get_potential_energy() + work.get_kinetic_energy())
    each = (time.perf_counter() - begin) / steps
    swing = 1000.0 * float(np.ptp(total)) / len(work)
    print(
        f"  NVE at 1 V, {steps} steps of 0.25 fs: energy within {swing:.4f} meV/atom, kinetic energy "
        f"{1000 * work.get_kinetic_energy() / len(work):.1f} meV/atom, {1000 * each:.0f} ms per step",
        flush=True,
    )
