"""Read a LAMMPS data file (atom_style full) with its own force field: one call gives atoms and energy.

Charges, Lennard-Jones types, bonds and angles are those of the file. What a data file does not hold must be
said in the call: the cut-off, the mixing rule (LAMMPS' default is geometric), which atom types are the
electrodes and whether molecules are rigid (fix shake).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase import units as ase_units
from ase.data import atomic_masses, atomic_numbers, chemical_symbols
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from grahame.hybrid.lammps_sections import DataFile, read_sections
from grahame.hybrid.shortrange.base import FloatArray, IntArray
from grahame.hybrid.shortrange.bonded import nearest_vectors
from grahame.hybrid.shortrange.classical import ClassicalForceField
from grahame.hybrid.shortrange.lennard_jones import Truncation
from grahame.hybrid.shortrange.rigid import RigidWater
from grahame.hybrid.shortrange.tables import ForceFieldTables, Mixing

BoolArray = NDArray[np.bool_]

# Energy in eV and velocity in ASE units per unit of the LAMMPS style; lengths are Å and masses amu in both.
_STYLES: dict[str, tuple[float, float]] = {
    "real": (float(ase_units.kcal / ase_units.mol), float(1.0 / ase_units.fs)),
    "metal": (1.0, float(1.0 / (1000.0 * ase_units.fs))),
}
_LONGEST_BOND = 3.0  # times the equilibrium length, for a bond that the file can mean
_MASS_TOLERANCE = 0.1  # amu between the file's mass and an element's


def load_lammps(
    path: str | Path,
    units: str = "real",
    electrode_types: Sequence[int | Sequence[int]] = (),
    mixing: Mixing = "geometric",
    rigid: bool = False,
    *,
    pbc: tuple[bool, bool, bool] = (True, True, True),
    elements: Mapping[int, str] | None = None,
    cutoff: float = 10.0,
    truncation: Truncation = "force-switch",
    switch_distance: float | None = None,
    electrode_lj: bool = True,
) -> tuple[Atoms, ClassicalForceField]:
    """Atoms and classical force field of a LAMMPS data file in `atom_style full`.

    LAMMPS writes harmonic terms as K (r - r0)², so the constants here are 2 K. Pairs joined by one, two or
    three bonds are excluded (special_bonds 0 0 0, LAMMPS' default). LAMMPS rounds the Coulomb constant:
    `Coulomb(coulomb_constant=14.399645)` is that of its metal units, 332.06371 kcal/mol Å that of real units.

    Args:
        path: the data file.
        units: "real" (kcal/mol, Å/fs) or "metal" (eV, Å/ps).
        electrode_types: LAMMPS atom types of each electrode in order, for instance (6, 7); an electrode of
            several types is a sequence of them.
        mixing: "geometric" (LAMMPS' default) or "lorentz-berthelot" (pair_modify mix arithmetic).
        rigid: keep three-atom molecules rigid at the file's equilibrium geometry (fix shake on bonds and
            angle): their harmonic terms are left out, the atoms carry a `RigidWater` constraint, and
            positions and velocities are made to obey it.
        pbc: periodic directions (the data file does not say): `boundary p p f` is (True, True, False).
        elements: element of a type whose mass is no element's, for instance {1: "C"}.
        cutoff, truncation, switch_distance, electrode_lj: as for `ClassicalForceField`.

    Returns:
        Atoms with the file's charges (initial charges), masses, velocities (where given), electrode index per
        atom in `arrays["electrode"]` (-1 for the electrolyte) and LAMMPS types in `arrays["lammps_types"]`,
        ordered by atom id, the box corner moved to the origin; and the force field.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a section that is missing or cut off (with its name and the numbers), a style that is not
            harmonic or full, an electrode type without atoms, a mass that is no element's.

    Source: the format is that of LAMMPS' read_data command.
    """
    if units not in _STYLES:
        raise ValueError(f"units = {units!r} must be 'real' or 'metal': convert the file in LAMMPS first")
    energy_unit, velocity_unit = _STYLES[units]
    data = read_sections(Path(path))
    atoms, types = _atoms(data, pbc, elements, velocity_unit)
    electrode = _electrodes(types, electrode_types, data.path)
    atoms.arrays["electrode"] = electrode
    bonds, bond_k, bond_r = _bonded(data, "Bonds", 2, energy_unit)
    angles, angle_k, angle_t = _bonded(data, "Angles", 3, energy_unit)
    angle_t = np.radians(angle_t)
    n = len(atoms)
    exclusions, molecules = _exclusions(n, bonds)
    _check_geometry(data.path, atoms, bonds, bond_r, angles, molecules)
    if rigid:
        constraint, free_bonds, free_angles = _rigid(n, bonds, bond_r, angles, angle_t)
        atoms.set_constraint(constraint)
        # Files hold geometries to the tolerance of the program that wrote them.
        atoms.set_positions(atoms.positions)
        if atoms.has("momenta"):
            atoms.set_momenta(atoms.get_momenta())
    else:
        free_bonds = np.ones(len(bonds), dtype=bool)
        free_angles = np.ones(len(angles), dtype=bool)
    coefficients = data.table("Pair Coeffs", 3)
    tables = ForceFieldTables(
        numbers=atoms.numbers,
        types=types - 1,
        epsilon=coefficients[:, 1] * energy_unit,
        sigma=coefficients[:, 2],
        charges=atoms.get_initial_charges(),
        bonds=bonds[free_bonds],
        bond_constants=2.0 * bond_k[free_bonds],
        bond_lengths=bond_r[free_bonds],
        angles=angles[free_angles],
        angle_constants=2.0 * angle_k[free_angles],
        angle_values=angle_t[free_angles],
        exclusions=exclusions,
        electrode=electrode,
        molecules=molecules,
    )
    force_field = ClassicalForceField(
        tables,
        mixing=mixing,
        cutoff=cutoff,
        truncation=truncation,
        switch_distance=switch_distance,
        electrode_lj=electrode_lj,
        sources={"parameters": f"LAMMPS data file {data.path.name}, units {units}"},
    )
    return atoms, force_field


def _atoms(
    data: DataFile,
    pbc: tuple[bool, bool, bool],
    elements: Mapping[int, str] | None,
    velocity_unit: float,
) -> tuple[Atoms, IntArray]:
    """Atoms in the order of their ids, and their types (from 1)."""
    masses = data.table("Masses", 2)[:, 1]
    symbols = [_element(data.path, kind + 1, mass, elements) for kind, mass in enumerate(masses)]
    rows = data.table("Atoms", 7)
    types = rows[:, 2].astype(np.int64)
    bad = np.flatnonzero((types < 1) | (types > len(masses)))
    if len(bad):
        raise ValueError(
            f"type of atom {bad[0] + 1} in {data.path.name} = {types[bad[0]]} must be from 1 to "
            f"{len(masses)}: "
            "check the Atoms section (atom_style full: id molecule type charge x y z)"
        )
    atoms = Atoms(
        [symbols[kind - 1] for kind in types],
        positions=rows[:, 4:7] - data.origin,
        cell=data.cell,
        pbc=pbc,
    )
    atoms.set_masses(masses[types - 1])
    atoms.set_initial_charges(rows[:, 3])
    atoms.arrays["lammps_types"] = types
    if "Velocities" in data.sections:
        atoms.set_velocities(data.table("Velocities", 4)[:, 1:4] * velocity_unit)
    return atoms, types


def _element(path: Path, kind: int, mass: float, elements: Mapping[int, str] | None) -> str:
    if elements is not None and kind in elements:
        symbol = elements[kind]
        if symbol not in atomic_numbers:
            raise ValueError(f"elements[{kind}] = {symbol!r} must be an element: write it as 'O' or 'Au'")
        return str(symbol)
    nearest = int(np.argmin(np.abs(atomic_masses[1:] - mass))) + 1
    if abs(float(atomic_masses[nearest]) - mass) > _MASS_TOLERANCE:
        raise ValueError(
            f"mass of type {kind} in {path.name} = {mass} amu must be an element's within "
            f"{_MASS_TOLERANCE} amu: "
            f"name the element with elements={{{kind}: '...'}}"
        )
    return str(chemical_symbols[nearest])


def _electrodes(types: IntArray, groups: Sequence[int | Sequence[int]], path: Path) -> IntArray:
    electrode = np.full(len(types), -1, dtype=np.int64)
    for index, group in enumerate(groups):
        members = [group] if isinstance(group, int | np.integer) else list(group)
        for kind in members:
            chosen = types == kind
            if not chosen.any():
                raise ValueError(
                    f"electrode_types[{index}] = {kind} must be a type that occurs in {path.name}: "
                    f"its types are {', '.join(map(str, np.unique(types)))}"
                )
            if (electrode[chosen] >= 0).any():
                raise ValueError(
                    f"electrode_types[{index}] = {kind} must be in one electrode only: take it out "
                    "of electrode "
                    f"{electrode[chosen].max()} or of electrode {index}"
                )
            electrode[chosen] = index
    return electrode


def _bonded(
    data: DataFile, section: str, members: int, energy_unit: float
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Atoms (m,2 or 3) from 0, constants K in eV per square, equilibrium values as in the file."""
    if data.counts.get(section, 0) == 0:
        return np.zeros((0, members), dtype=np.int64), np.zeros(0), np.zeros(0)
    rows = data.table(section, 2 + members).astype(np.int64)
    coefficients = data.table(f"{section[:-1]} Coeffs", 3)
    kinds, atoms = rows[:, 1], rows[:, 2:]
    for what, values, top in (("type", kinds, len(coefficients)), ("atom", atoms, data.counts["Atoms"])):
        bad = values[(values < 1) | (values > top)]
        if len(bad):
            raise ValueError(
                f"{what} {bad[0]} in section {section} of {data.path.name} must be from 1 to {top}: "
                "the file contradicts its own header"
            )
    chosen = coefficients[kinds - 1]
    return atoms - 1, chosen[:, 1] * energy_unit, chosen[:, 2]


def _check_geometry(
    path: Path, atoms: Atoms, bonds: IntArray, lengths: FloatArray, angles: IntArray, molecules: IntArray
) -> None:
    """A number that was cut in the middle still reads as a number: bonds and angles must make sense."""
    pbc = (bool(atoms.pbc[0]), bool(atoms.pbc[1]), bool(atoms.pbc[2]))
    vectors = nearest_vectors(atoms.positions, bonds, atoms.cell.array, pbc)
    distances = np.linalg.norm(vectors, axis=1)
    bad = np.flatnonzero(distances > _LONGEST_BOND * lengths)
    if len(bad):
        first, second = bonds[bad[0]] + 1
        raise ValueError(
            f"length of bond {bad[0] + 1} of {path.name} (atoms {first} and {second}) = "
            f"{distances[bad[0]]:.3f} Å must be below {_LONGEST_BOND} times its equilibrium "
            f"{lengths[bad[0]]:.3f} Å: the file is cut off, or pbc is not that of the simulation"
        )
    if len(bonds) and len(angles):
        owner = molecules[angles]
        bad = np.flatnonzero((owner != owner[:, :1]).any(axis=1))
        if len(bad):
            members = " ".join(str(a + 1) for a in angles[bad[0]])
            raise ValueError(
                f"atoms {members} of angle {bad[0] + 1} of {path.name} must be joined by bonds: the file "
                "is cut off or its Bonds section is incomplete"
            )


def _exclusions(n: int, bonds: IntArray) -> tuple[IntArray, IntArray]:
    """Pairs joined by one to three bonds, and the molecule of each atom."""
    ones = np.ones(2 * len(bonds), dtype=np.int64)
    ends = np.concatenate([bonds, bonds[:, ::-1]])
    joined = coo_array((ones, (ends[:, 0], ends[:, 1])), shape=(n, n)).tocsr()
    reach = (joined + joined @ joined + joined @ joined @ joined).tocoo()
    upper = reach.row < reach.col
    pairs = np.column_stack([reach.row[upper], reach.col[upper]]).astype(np.int64)
    _, molecules = connected_components(joined, directed=False)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))], np.asarray(molecules, dtype=np.int64)


def _rigid(
    n: int, bonds: IntArray, lengths: FloatArray, angles: IntArray, values: FloatArray
) -> tuple[RigidWater, BoolArray, BoolArray]:
    """The constraint of every angle with its two bonds, and masks of the terms that stay flexible."""
    degree = np.bincount(bonds.ravel(), minlength=n)
    alone = (degree[angles[:, 1]] == 2) & (degree[angles[:, 0]] == 1) & (degree[angles[:, 2]] == 1)
    if not alone.any():
        raise ValueError(
            "rigid = True must find molecules of three atoms with two bonds and an angle: "
            "leave rigid out for this file"
        )
    triples = angles[alone][:, [1, 0, 2]]
    # Bond of each end atom: it has exactly one.
    bond_of = np.zeros(n, dtype=np.int64)
    bond_of[bonds[:, 0]] = np.arange(len(bonds))
    bond_of[bonds[:, 1]] = np.arange(len(bonds))
    first, second = lengths[bond_of[triples[:, 1]]], lengths[bond_of[triples[:, 2]]]
    unequal = np.flatnonzero(first != second)
    if len(unequal):
        raise ValueError(
            f"bond lengths of the molecule at atom {triples[unequal[0], 0]} = {first[unequal[0]]} and "
            f"{second[unequal[0]]} Å must be equal to be kept rigid: leave rigid out for this file"
        )
    constraint = RigidWater(triples, first, 2.0 * first * np.sin(0.5 * values[alone]))
    held = np.zeros(n, dtype=bool)
    held[triples] = True
    free = np.asarray(~held[bonds].all(axis=1), dtype=np.bool_)
    return constraint, free, ~alone
