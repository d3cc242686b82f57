"""Start cells of the reference set, and geometries that molecular dynamics does not visit by itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import fcc111
from ase.geometry import find_mic
from numpy.typing import NDArray

from grahame.hybrid.build import LATTICE_CONSTANTS, build_cell
from grahame.hybrid.shortrange.topology import find_topology, find_waters

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_VOLUME = 29.9  # Å³ per molecule or ion of a bulk cell


def start_cell(spec: dict[str, Any], seed: int) -> Atoms:
    """The start of a run: `kind` electrodes (arguments of `build_cell`), bulk (waters, ion_pairs) or metal."""
    kind, arguments = spec["kind"], dict(spec.get("cell", {}))
    if kind == "electrodes":
        atoms = build_cell(seed=seed, **arguments)
    elif kind == "bulk":
        atoms = bulk_cell(seed=seed, **arguments)
    elif kind == "metal":
        atoms = fcc111("Au", arguments["size"], a=LATTICE_CONSTANTS["Au"], orthogonal=True, vacuum=5.0)
        atoms.pbc = (True, True, False)
        atoms.set_array("electrode", np.zeros(len(atoms), dtype=int))
    else:
        raise ValueError(f"kind = {kind!r} must be electrodes, bulk or metal: correct the run {spec['name']}")
    for element, count in spec.get("remove", {}).items():
        members = np.flatnonzero(atoms.symbols == element)[-count:]
        del atoms[members]
    bare = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    bare.set_array("electrode", atoms.arrays["electrode"].astype(int))
    return bare


def bulk_cell(waters: int, ion_pairs: int, seed: int, volume: float = _VOLUME) -> Atoms:
    """Molecules and ions on the sites of a cubic lattice, turned at random."""
    rng = np.random.default_rng(seed)
    total = waters + 2 * ion_pairs
    side = (total * volume) ** (1.0 / 3.0)
    per_side = math.ceil(round(total ** (1.0 / 3.0), 9))
    sites = np.stack(np.meshgrid(*[np.arange(per_side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    centres = (rng.permutation(sites)[:total] + 0.5) * side / per_side
    half = math.radians(109.47) / 2
    local = np.array([[0, 0, 0], [math.sin(half), math.cos(half), 0], [-math.sin(half), math.cos(half), 0]])
    molecules = [c + local @ rotation(rng) for c in centres[:waters]]
    positions = np.concatenate([*molecules, centres[waters:]])
    symbols = ["O", "H", "H"] * waters + ["Na"] * ion_pairs + ["Cl"] * ion_pairs
    atoms = Atoms(symbols, positions=positions, cell=[side] * 3, pbc=True)
    atoms.set_array("electrode", np.full(len(atoms), -1))
    return atoms


def rotation(rng: np.random.Generator) -> Floats:
    """A rotation drawn uniformly."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return np.asarray(q * np.sign(np.linalg.det(q)))


def fragments(atoms: Atoms) -> list[Ints]:
    """Molecules and ions, each as atom indices."""
    topology = find_topology(atoms)
    return [*topology.waters, *topology.ions[:, None]]


def distorted(atoms: Atoms, kind: str, rng: np.random.Generator) -> Atoms | None:
    """A geometry made from one of the dynamics; None where it would break or join molecules.

    rattle: every atom displaced, metal less; squeeze: the liquid compressed by whole molecules with its cell or
    gap; push: a molecule moved towards one of its neighbours; turn: some molecules turned; cluster: a few
    neighbouring molecules alone.
    """
    makers = {"rattle": _rattle, "squeeze": _squeeze, "push": _push, "turn": _turn, "cluster": _cluster}
    new = makers[kind](atoms, rng)
    try:
        same = np.array_equal(find_waters(new), find_waters(atoms)) if kind != "cluster" else True
        find_waters(new)
    except ValueError:
        return None
    return new if same else None


def _rattle(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    new: Atoms = atoms.copy()
    metal = atoms.arrays["electrode"] >= 0
    width = np.where(metal, rng.uniform(0.0, 0.12), rng.uniform(0.02, 0.09))
    new.positions += width[:, None] * rng.normal(size=(len(atoms), 3))
    return new


def _squeeze(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    new: Atoms = atoms.copy()
    factor = rng.uniform(0.86, 1.04)
    if all(atoms.pbc):
        scale, origin = np.array([factor] * 3), np.zeros(3)
        new.set_cell(np.array(atoms.cell) * factor)
    else:
        scale, metal = np.array([1.0, 1.0, factor]), atoms.arrays["electrode"] == 0
        origin = np.array([0.0, 0.0, atoms.positions[metal, 2].max() if metal.any() else 0.0])
        top = atoms.arrays["electrode"] == 1
        if top.any():
            face = atoms.positions[top, 2].min() - origin[2]
            new.positions[top, 2] += (factor - 1.0) * face
    for members in fragments(atoms):
        centre = atoms.positions[members[0]]
        new.positions[members] += (centre - origin) * (scale - 1.0)
    return new


def _push(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    new: Atoms = atoms.copy()
    all_fragments = fragments(atoms)
    for number in rng.choice(len(all_fragments), size=min(3, len(all_fragments)), replace=False):
        members = all_fragments[number]
        others = np.setdiff1d(np.arange(len(atoms)), members)
        atom = rng.choice(members)
        vectors, distances = find_mic(
            new.positions[others] - new.positions[atom], np.array(atoms.cell), atoms.pbc
        )
        nearest = np.argsort(distances)[: 1 + rng.integers(6)][-1]
        wanted = max(1.3, distances[nearest] * rng.uniform(0.62, 0.95))
        if distances[nearest] > wanted:
            new.positions[members] += vectors[nearest] * (1.0 - wanted / distances[nearest])
    return new


def _turn(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    new: Atoms = atoms.copy()
    waters = find_waters(atoms)
    for number in rng.choice(len(waters), size=min(3, len(waters)), replace=False):
        o, *h = waters[number]
        bonds = find_mic(new.positions[h] - new.positions[o], np.array(atoms.cell), atoms.pbc)[0]
        new.positions[h] = new.positions[o] + bonds @ rotation(rng)
    return new


def _cluster(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    all_fragments = fragments(atoms)
    centres = np.array([members[0] for members in all_fragments])
    first = centres[rng.integers(len(centres))]
    vectors, distances = find_mic(
        atoms.positions[centres] - atoms.positions[first], np.array(atoms.cell), atoms.pbc
    )
    chosen = np.argsort(distances)[: int(rng.integers(1, 9))]
    numbers, positions = [], []
    stretch = rng.uniform(1.0, 1.5) if rng.random() < 0.5 else 1.0
    for number in chosen:
        members = all_fragments[number]
        inside = find_mic(
            atoms.positions[members] - atoms.positions[members[0]], np.array(atoms.cell), atoms.pbc
        )[0]
        numbers.extend(atoms.numbers[members])
        positions.extend(inside + stretch * vectors[number])
    new = Atoms(numbers=numbers, positions=positions, pbc=False)
    new.set_array("electrode", np.full(len(new), -1))
    return new
