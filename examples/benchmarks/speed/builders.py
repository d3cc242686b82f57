"""Gold/water/salt cells, built with the package's own builder."""

import numpy as np
from ase import Atoms, units

from examples.benchmarks.speed.systems import CELL_SIZES, TIMESTEP, Cell
from grahame.electrostatics.units import COULOMB_CONSTANT
from grahame.hybrid.build import build_cell
from grahame.hybrid.shortrange import ClassicalForceField


def electrode_cell(size: str, periodic: bool, moving: bool) -> Cell:
    """Au(111) | SPC/E-like water, NaCl | Au(111) of 2,208, 7,624 or 30,092 atoms ("2k", "8k", "30k")."""
    wanted = CELL_SIZES[size]
    atoms: Atoms = build_cell(
        "Au(111)",
        wanted.gold,
        wanted.gap,
        waters=wanted.waters,
        ion_pairs=wanted.ion_pairs,
        vacuum=0.0 if periodic else 1.0,
        periodic=periodic,
        seed=1,
    )
    bottom, top = (np.flatnonzero(atoms.arrays["electrode"] == g) for g in (0, 1))
    field = ClassicalForceField.from_atoms(atoms, [bottom.tolist(), top.tolist()])
    rng = np.random.default_rng(2)
    masses = atoms.get_masses()[:, None]
    # Å per ASE time unit, turned into Å per step.
    stride = rng.normal(size=(len(masses), 3)) * np.sqrt(units.kB * 300 / masses) * TIMESTEP * units.fs
    if not moving:
        stride[np.concatenate([bottom, top])] = 0.0
    return Cell(
        positions=atoms.get_positions(),
        charges=np.asarray(field.charges, dtype=np.float64),
        cell=np.array(atoms.cell),
        exclusions=np.asarray(field.exclusions, dtype=np.int64),
        bottom=bottom,
        top=top,
        stride=stride,
        periodic=np.array(periodic),
        constant=np.array(COULOMB_CONSTANT),
    )
