"""A cell small enough for many runs: two gold electrodes, four waters and an ion pair."""

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import fcc111, molecule
from ase.io import write

from grahame.electrostatics import Coulomb, Electrode
from grahame.hybrid.calculator import HybridCalculator
from grahame.hybrid.config import RunConfig, parse_config
from grahame.hybrid.shortrange.classical import ClassicalForceField


def small_cell() -> Atoms:
    """22 atoms, 5 Å of vacuum on either side, array `electrode`."""
    bottom = fcc111("Au", (2, 2, 1), a=4.08, orthogonal=True)
    top = bottom.copy()
    top.positions[:, 2] += 16.0
    liquid = Atoms()
    rng = np.random.default_rng(5)
    for x, y, z in ((1.0, 1.0, 3.2), (4.0, 3.4, 6.3), (1.2, 3.6, 9.4), (4.2, 1.0, 12.6)):
        water = molecule("H2O")
        water.rotate(360.0 * rng.random(), "x")
        water.rotate(360.0 * rng.random(), "z")
        water.translate([x, y, z])
        liquid += water
    liquid += Atoms("NaCl", positions=[(1.0, 1.0, 6.4), (4.0, 3.4, 10.0)])
    atoms = bottom + top + liquid
    atoms.positions[:, 2] += 5.0
    atoms.cell = [bottom.cell[0, 0], bottom.cell[1, 1], 26.0]
    atoms.pbc = (True, True, False)
    electrode = np.full(len(atoms), -1)
    electrode[:4], electrode[4:8] = 0, 1
    atoms.set_array("electrode", electrode)
    for name in ("tags",):
        if name in atoms.arrays:
            del atoms.arrays[name]
    atoms.info.clear()
    return atoms


def calculator(
    atoms: Atoms, boundary: str = "slab", method: str = "ewald", **options: Any
) -> HybridCalculator:
    """Classical short range, electrodes at 0 and 1 V unless `electrodes` are given."""
    electrodes = options.pop(
        "electrodes", [Electrode(np.arange(4), potential=0.0), Electrode(np.arange(4, 8), potential=1.0)]
    )
    return HybridCalculator(
        short_range=ClassicalForceField.from_atoms(
            atoms, electrodes=[list(e.indices) for e in electrodes] or None, cutoff=5.0
        ),
        coulomb=Coulomb(boundary=boundary, method=method, accuracy=options.pop("accuracy", 1e-6)),
        electrodes=electrodes,
        **options,
    )


def small_run(folder: Path, produce: dict[str, Any], **blocks: Any) -> RunConfig:
    """Configuration of a short run of the small cell, files in `folder`; `blocks` replace whole blocks."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "cell.xyz").exists():
        write(folder / "cell.xyz", small_cell(), format="extxyz")
    data: dict[str, Any] = {
        "structure": {"file": "cell.xyz"},
        "short_range": {"cutoff": 5.0},
        "coulomb": {"method": "ewald", "accuracy": 1e-4},
        "electrodes": [{"group": 0, "potential": 0.0}, {"group": 1, "potential": 1.0}],
        "dynamics": {"minimise": {"steps": 6}, "equilibrate": {"steps": 6}, "produce": produce},
        "output": {
            "name": "small",
            "folder": str(folder),
            "trajectory_interval": 3,
            "log_interval": 2,
            "checkpoint_interval": 5,
        },
    }
    return parse_config(data | blocks, folder)
