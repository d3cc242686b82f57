"""Small labelled frames with a known law, and a configuration that trains on them within seconds."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import write

K_BOND, R_BOND = 20.0, 0.97
ATOM = {"H": -13.6, "O": -430.0}
CHARGE = {"H": 0.4, "O": -0.8}


def water(rng: np.random.Generator, molecules: int = 2) -> Atoms:
    """A few water molecules with harmonic bonds: energy, forces and charges as labels, in eV, eV/Å, e."""
    positions, symbols = [], []
    for m in range(molecules):
        centre = np.array([3.2 * m, 0.0, 0.0]) + rng.normal(scale=0.1, size=3)
        axis = rng.normal(size=(2, 3))
        axis[1] -= axis[0] * (axis[0] @ axis[1]) / (axis[0] @ axis[0])
        a, b = axis / np.linalg.norm(axis, axis=1)[:, None]
        bonds = R_BOND + rng.normal(scale=0.05, size=2)
        angle = np.radians(104.0 + rng.normal(scale=3.0))
        positions += [
            centre,
            centre + bonds[0] * a,
            centre + bonds[1] * (np.cos(angle) * a + np.sin(angle) * b),
        ]
        symbols += ["O", "H", "H"]
    atoms = Atoms(symbols, np.array(positions))
    energy, forces = float(sum(ATOM[s] for s in symbols)), np.zeros((len(atoms), 3))
    for oxygen in range(0, len(atoms), 3):
        for hydrogen in (oxygen + 1, oxygen + 2):
            d = atoms.positions[hydrogen] - atoms.positions[oxygen]
            r = np.linalg.norm(d)
            energy += float(0.5 * K_BOND * (r - R_BOND) ** 2)
            pull = K_BOND * (r - R_BOND) * d / r
            forces[oxygen] += pull
            forces[hydrogen] -= pull
    atoms.info |= {"REF_energy": energy, "total_charge": 0.0}
    atoms.arrays["REF_forces"] = forces
    atoms.arrays["REF_charges"] = np.array([CHARGE[s] for s in symbols])
    return atoms


def frames(count: int, seed: int = 0) -> list[Atoms]:
    """Frames of one, two and three molecules."""
    rng = np.random.default_rng(seed)
    return [water(rng, 1 + k % 3) for k in range(count)]


def write_data(folder: Path, train: int = 10, valid: int = 4) -> None:
    """`train.xyz` and `valid.xyz`."""
    write(folder / "train.xyz", frames(train, 1))
    write(folder / "valid.xyz", frames(valid, 2))


CONFIG: dict[str, Any] = {
    "data": {
        "train": "train.xyz",
        "valid": "valid.xyz",
        "keys": {"energy": "REF_energy", "forces": "REF_forces", "charges": "REF_charges"},
        "checks": {"energy_outliers": None},
    },
    "model": {
        "architecture": {"cutoff": 3.0, "channels": 3, "l_max": 1, "radial": 3, "hidden": 4},
        "dtype": "float64",
    },
    "loss": {"charges": 0.1, "charge_kind": "teacher"},
    "optimiser": {"epochs": 3, "batch_size": 3, "learning_rate": 0.01},
    "output": {"plots": False},
}


def settings(folder: Path, **blocks: Any) -> dict[str, Any]:
    """CONFIG with output in a folder and some keys of its blocks changed."""
    out = copy.deepcopy(CONFIG)
    out["output"]["folder"] = str(folder)
    for name, changes in blocks.items():
        out[name] = {**out.get(name, {}), **changes} if isinstance(changes, dict) else changes
    return out
