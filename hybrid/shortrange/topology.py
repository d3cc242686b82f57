"""Which atoms form which molecule: found once from distances, then fixed for the whole run.

Water is an O with exactly two H closer than 1.3 times the sum of the covalent radii (1.26 Å), nearest
images counted, so a molecule that a periodic boundary cuts in two is found whole. Single Na and Cl are
ions. Everything else is refused by index and element: a fragment without parameters must not run.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols, covalent_radii

from grahame.hybrid.shortrange.base import FloatArray, IntArray
from grahame.hybrid.shortrange.parameters import IONS, KNOWN_ELEMENTS, METALS
from grahame.kernels.neighbors import neighbor_pairs

BOND_TOLERANCE = 1.3
"""A bond is a distance below this factor times the sum of the covalent radii (ASE's table)."""

OH_BOND_LIMIT = BOND_TOLERANCE * float(covalent_radii[8] + covalent_radii[1])
"""Longest distance, in Å, that still counts as an O-H bond."""

_HH_BOND_LIMIT = BOND_TOLERANCE * 2.0 * float(covalent_radii[1])


@dataclass(frozen=True)
class Topology:
    """Molecules of a structure.

    Attributes:
        waters: (w,3) indices O, H, H, ordered by the oxygen's index.
        ions: indices of isolated ions.
        metals: indices of metal atoms, in an electrode or not.
        electrode: (n,) index of the electrode an atom belongs to, -1 for the electrolyte.
    """

    waters: IntArray
    ions: IntArray
    metals: IntArray
    electrode: IntArray


def electrode_indices(atoms: Atoms, electrodes: Sequence[Sequence[int]] | None) -> IntArray:
    """Electrode of each atom, -1 for none.

    Args:
        atoms: the structure; `atoms.arrays["electrode"]` is used where `electrodes` is None.
        electrodes: index groups, one per electrode.

    Returns:
        (n,) int64.

    Raises:
        ValueError: an index outside the structure or named twice.
    """
    n = len(atoms)
    if electrodes is None:
        if "electrode" in atoms.arrays:
            return np.asarray(atoms.arrays["electrode"], dtype=np.int64).copy()
        return np.full(n, -1, dtype=np.int64)
    owner = np.full(n, -1, dtype=np.int64)
    for group, members in enumerate(electrodes):
        for index in np.asarray(members, dtype=np.int64).ravel():
            if not 0 <= index < n:
                raise ValueError(
                    f"electrodes[{group}] = atom {index} must be an index from 0 to {n - 1}: "
                    "count atoms from 0 in the order of the structure"
                )
            if owner[index] >= 0:
                raise ValueError(
                    f"electrodes[{group}] = atom {index} must be in one electrode only: "
                    f"take it out of electrode {owner[index]} or of electrode {group}"
                )
            owner[index] = group
    return owner


def find_topology(atoms: Atoms, electrodes: Sequence[Sequence[int]] | None = None) -> Topology:
    """Find waters, ions and metal atoms, or refuse by name what is none of them.

    Args:
        atoms: positions in Å (wrapped or not), cell, pbc.
        electrodes: index groups, one per electrode; None takes `atoms.arrays["electrode"]` where present.

    Returns:
        The topology.

    Raises:
        ValueError: unknown element, a metal-free electrode atom, an O without exactly two H, an H without
            exactly one O.
    """
    symbols = [chemical_symbols[z] for z in atoms.numbers]
    electrode = electrode_indices(atoms, electrodes)
    _check_elements(symbols, electrode)

    ion_numbers = [atomic_numbers[element] for element in IONS]
    metal_numbers = [atomic_numbers[element] for element in METALS]
    return Topology(
        waters=find_waters(atoms),
        ions=np.flatnonzero(np.isin(atoms.numbers, ion_numbers)).astype(np.int64),
        metals=np.flatnonzero(np.isin(atoms.numbers, metal_numbers)).astype(np.int64),
        electrode=electrode,
    )


def _check_elements(symbols: list[str], electrode: IntArray) -> None:
    for index, (symbol, group) in enumerate(zip(symbols, electrode)):
        if group >= 0 and symbol not in METALS:
            raise ValueError(
                f"electrode {group} = atom {index} ({symbol}) must be one of {', '.join(METALS)}: "
                "take the atom out of the electrode or pass explicit tables to ClassicalForceField"
            )
        if symbol not in KNOWN_ELEMENTS:
            raise ValueError(
                f"element = {symbol} of atom {index} must be one of {', '.join(KNOWN_ELEMENTS)}: "
                "remove the atom or pass explicit tables to ClassicalForceField"
            )


def find_waters(atoms: Atoms) -> IntArray:
    """Every water molecule; every O and every H of the structure must belong to exactly one.

    Args:
        atoms: positions in Å (wrapped or not), cell, pbc.

    Returns:
        (w,3) indices O, H, H, ordered by the oxygen's index.

    Raises:
        ValueError: an O without exactly two H, an H without exactly one O, two bonded H.
    """
    oxygens = np.flatnonzero(atoms.numbers == 8)
    hydrogens = np.flatnonzero(atoms.numbers == 1)
    molecular = np.sort(np.concatenate([oxygens, hydrogens]))
    if len(molecular) == 0:
        return np.zeros((0, 3), dtype=np.int64)
    numbers = atoms.numbers
    positions: FloatArray = np.ascontiguousarray(atoms.positions[molecular], dtype=np.float64)
    cell: FloatArray = np.asarray(atoms.cell.array, dtype=np.float64)
    periodic = (bool(atoms.pbc[0]), bool(atoms.pbc[1]), bool(atoms.pbc[2]))
    pairs = neighbor_pairs(positions, cell, periodic, OH_BOND_LIMIT, half=True)
    first, second = molecular[pairs.i], molecular[pairs.j]
    vectors = atoms.positions[second] + pairs.shifts @ cell - atoms.positions[first]
    distance = np.linalg.norm(vectors, axis=1)

    hydrogen_pair = (numbers[first] == 1) & (numbers[second] == 1) & (distance < _HH_BOND_LIMIT)
    if hydrogen_pair.any():
        a, b = first[hydrogen_pair][0], second[hydrogen_pair][0]
        raise ValueError(
            f"distance = {distance[hydrogen_pair][0]:.3f} Å of atoms {a} (H) and {b} (H) must be above "
            f"{_HH_BOND_LIMIT:.2f} Å: only water has parameters here, remove H2 or move the atoms apart"
        )
    bonded = numbers[first] != numbers[second]
    o = np.where(numbers[first] == 8, first, second)[bonded]
    h = np.where(numbers[first] == 8, second, first)[bonded]

    partners = np.bincount(h, minlength=len(atoms))
    wrong = hydrogens[partners[hydrogens] != 1]
    if len(wrong):
        raise ValueError(
            f"oxygens bonded to atom {wrong[0]} (H) = {partners[wrong[0]]} must be 1 (within "
            f"{OH_BOND_LIMIT:.2f} Å): complete the water molecule or remove the atom"
        )
    partners = np.bincount(o, minlength=len(atoms))
    wrong = oxygens[partners[oxygens] != 2]
    if len(wrong):
        raise ValueError(
            f"hydrogens bonded to atom {wrong[0]} (O) = {partners[wrong[0]]} must be 2 (within "
            f"{OH_BOND_LIMIT:.2f} Å): OH-, H3O+ and bare O have no parameters here, make it water or "
            "remove it"
        )
    order = np.lexsort((h, o))
    return np.column_stack([o[order][::2], h[order][::2], h[order][1::2]]).astype(np.int64)
