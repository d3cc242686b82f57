"""From a configuration to atoms, calculator and constraints."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixBondLengths
from ase.data import atomic_numbers
from numpy.typing import NDArray

from grahame.electrostatics import Coulomb, Electrode
from grahame.hybrid.boundary_check import check_frame
from grahame.hybrid.calculator import HybridCalculator
from grahame.hybrid.conditions import Ramp
from grahame.hybrid.config import ElectrodeConfig, RunConfig
from grahame.hybrid.config_short_range import ClassicalConfig, ForeignConfig
from grahame.hybrid.electrode_groups import of_given, rest_of
from grahame.hybrid.files import read_structure
from grahame.hybrid.model_file import load_model
from grahame.hybrid.shortrange.base import ShortRange
from grahame.hybrid.shortrange.classical import ClassicalForceField
from grahame.hybrid.shortrange.learned import LearnedShortRange
from grahame.hybrid.unwrap import image_shifts

Ints = NDArray[np.int64]
_ACCURACY = 1e-5  # relative rms force error, where neither the configuration nor a model says otherwise


@dataclass
class Simulation:
    """What a run works on.

    Attributes:
        start: the structure as it was given, before anything moved.
        atoms: the structure that moves, with calculator and constraints; array `electrode` counts the
            configuration's electrodes.
        calculator: of `atoms`.
        held: per electrode of the calculator a constant potential (V), a ramp, or None where the charge is held.
    """

    start: Atoms
    atoms: Atoms
    calculator: HybridCalculator
    held: list[float | Ramp | None]


def load_structure(config: RunConfig) -> Atoms:
    """Read or build the structure of a configuration.

    Raises:
        FileNotFoundError: when the file does not exist.
        ValueError: when it cannot be read, holds no atoms, or the builder refuses.
    """
    if config.structure.build is not None:
        from grahame.hybrid.build import build_cell

        return build_cell(**config.structure.build.arguments(config.coulomb.boundary))
    path = config.structure_path
    assert path is not None
    if not path.is_file():
        raise FileNotFoundError(
            f"structure.file = {path} must be a file: give a path relative to the configuration"
        )
    atoms = read_structure(path, name="structure.file")
    atoms.calc = None
    return atoms


def select(config: ElectrodeConfig, atoms: Atoms, number: int) -> Ints:
    """Sorted atom indices of one electrode.

    Args:
        config: the selection by group, indices, or element and side.
        atoms: the structure; number: of the electrode, for messages.
    Raises:
        ValueError: when it selects no atom, or atoms that do not exist.
    """
    name = f"electrodes[{number}]"
    if config.indices is not None:
        indices = np.sort(np.array(config.indices, dtype=np.int64))
        if indices[-1] >= len(atoms):
            raise ValueError(
                f"{name}.indices = {indices[-1]} must be less than {len(atoms)}, the number of atoms: count from 0"
            )
        return indices
    if config.group is not None:
        array = atoms.arrays.get("electrode")
        if array is None:
            raise ValueError(
                f"{name}.group = {config.group} must be found in the atoms' array `electrode`, which the structure "
                "lacks: select by `indices` or by `element` and `side`"
            )
        chosen = np.flatnonzero(array == config.group)
        if len(chosen) == 0:
            present = sorted({int(g) for g in array if g >= 0})
            raise ValueError(
                f"{name}.group = {config.group} must name at least one atom: the structure has the groups {present}"
            )
        return chosen.astype(np.int64)
    element = str(config.element)
    if element not in atomic_numbers:
        raise ValueError(f"{name}.element = {element!r} must be a chemical symbol: write e.g. Au")
    chosen = np.flatnonzero(atoms.numbers == atomic_numbers[element])
    if len(chosen) < 2:
        raise ValueError(
            f"{name}.element = {element} must have atoms on two sides: the structure has {len(chosen)} of it"
        )
    normal = np.cross(atoms.cell[0], atoms.cell[1])
    z = atoms.positions[chosen] @ normal / np.linalg.norm(normal)
    order = np.sort(z)
    widest = int(np.argmax(np.diff(order)))
    if order[widest + 1] - order[widest] < 4.0:
        raise ValueError(
            f"{name}.side = {config.side} must be one side of a gap of at least 4 Å along the normal: the widest "
            f"between {element} atoms is {order[widest + 1] - order[widest]:.2f} Å; select by `indices`"
        )
    middle = 0.5 * (order[widest] + order[widest + 1])
    return np.asarray(chosen[(z < middle) if config.side == "bottom" else (z > middle)], dtype=np.int64)


def select_all(config: RunConfig, atoms: Atoms) -> list[Ints]:
    """Atom indices of every electrode; atoms in two electrodes are refused."""
    groups = [select(e, atoms, g) for g, e in enumerate(config.electrodes)]
    owner: dict[int, int] = {}
    for g, members in enumerate(groups):
        for atom in members.tolist():
            if atom in owner:
                raise ValueError(
                    f"electrodes[{g}] = atom {atom} must belong to one electrode: it is in electrodes[{owner[atom]}] "
                    "too; give every atom to one"
                )
            owner[atom] = g
    return groups


def _refuse_left_out(groups: list[Ints], atoms: Atoms) -> None:
    """Electrodes of the structure that nothing holds are metal without any charge: never beside others, else said."""
    marked = atoms.arrays.get("electrode")
    if marked is None or not (marked >= 0).any():
        return
    if not groups:
        warnings.warn(
            f"electrodes = none hold the structure's groups {sorted(set(marked[marked >= 0].tolist()))}: their atoms carry no "
            "charge; add `electrodes:` to hold them at potentials or charges",
            stacklevel=2,
        )
        return
    left = np.setdiff1d(np.flatnonzero(marked >= 0), np.concatenate(groups))
    if len(left):
        raise ValueError(
            f"electrodes = {len(groups)} given must name every atom of the structure's array `electrode`: {len(left)} atoms of "
            f"the groups {sorted(set(marked[left].tolist()))} are left out; add an electrode with `group` and what it holds "
            "(`charge: 0` keeps it neutral), or take the atoms out of the array"
        )


def _electrode(config: ElectrodeConfig, indices: Ints) -> Electrode:
    if config.charge is not None:
        return Electrode(indices, charge=config.charge)
    if config.ramp is not None:
        return Electrode(indices, potential=Ramp.from_points(config.ramp).at(0.0))
    return Electrode(indices, potential=config.potential)


def _short_range(config: RunConfig, atoms: Atoms, groups: list[Ints]) -> ShortRange:
    """The force field or the model; what it does not know of these atoms is refused."""
    short, path = config.short_range, config.model_path
    if isinstance(short, ClassicalConfig):
        return ClassicalForceField.from_atoms(
            atoms,
            electrodes=[g.tolist() for g in groups],
            water=short.water,
            mixing=short.mixing,
            cutoff=short.cutoff,
            truncation=short.truncation,
        )
    assert path is not None
    total = config.solver.total_charge or 0.0
    if isinstance(short, ForeignConfig):
        from grahame.hybrid.adapters.configured import open_foreign

        s = config.solver
        solver = {
            "smearing": s.smearing,
            "hardness": s.hardness,
            "electronegativity": s.electronegativity,
            "thomas_fermi_length": s.thomas_fermi_length,
            "voronoi_volume": s.voronoi_volume,
            "tolerance": s.tolerance,
        }
        accuracy = config.coulomb.accuracy or _ACCURACY
        k = config.coulomb.coulomb_constant
        return open_foreign(short, config.path, atoms, accuracy, total, solver, k)
    formal = None if short.formal_charges is None else _array(atoms, "formal_charges", short.formal_charges)
    fragments: Ints | None = None
    charges: NDArray[np.float64] | None = None
    if short.fragments is not None:
        fragments = np.asarray(_array(atoms, "fragments", short.fragments), dtype=np.int64)
        inside = fragments >= 0
        if formal is not None:
            charges = np.bincount(fragments[inside], weights=formal[inside]).astype(np.float64)
        else:
            count = int(fragments.max(initial=-1)) + 1
            # Beside electrodes it is theirs.
            charges = np.array([total]) if count == 1 and not groups else np.zeros(count)
    return LearnedShortRange(
        load_model(path),
        short.level,
        formal_charges=formal,
        fragments=fragments,
        fragment_charges=charges,
        total_charge=total,
        compile=short.compile,
    )


def _array(atoms: Atoms, key: str, name: str) -> NDArray[np.float64]:
    if name not in atoms.arrays:
        raise ValueError(
            f"short_range.{key} = {name} must be an array of the structure, which has {', '.join(sorted(atoms.arrays))}: "
            "add it, or name one of these"
        )
    return np.asarray(atoms.arrays[name], dtype=np.float64)


def make_calculator(config: RunConfig, atoms: Atoms, groups: list[Ints]) -> HybridCalculator:
    """The calculator of a configuration for one structure; `groups` are the electrodes' atom indices."""
    c, s = config.coulomb, config.solver
    short = _short_range(config, atoms, groups)
    electrodes = [_electrode(e, g) for e, g in zip(config.electrodes, groups)]
    accuracy = c.accuracy or _ACCURACY
    sites: dict[str, Any] = {
        "smearing": s.smearing,
        "hardness": s.hardness,
        "electronegativity": s.electronegativity,
        "thomas_fermi_length": s.thomas_fermi_length,
        "voronoi_volume": s.voronoi_volume,
    }
    if isinstance(short, LearnedShortRange):
        spec = short.model.spec
        accuracy = c.accuracy or spec.accuracy
        if spec.charges.kind == "solved":
            given = len(electrodes)
            electrodes = rest_of(len(atoms), electrodes, s.total_charge)
            sites = of_given(sites, given, electrodes, short.widths(atoms.numbers.astype(np.int64)))
    options: dict[str, Any] = {}
    if c.coulomb_constant is not None:
        options["coulomb_constant"] = c.coulomb_constant
    coulomb = Coulomb(
        boundary=c.boundary,
        method=c.method,
        accuracy=accuracy,
        vacuum=c.vacuum,
        background=c.background,
        **options,
    )
    return HybridCalculator(
        short_range=short,
        coulomb=coulomb,
        electrodes=electrodes,
        field=config.field,
        displacement=config.displacement,
        solver=s.method,
        tolerance=s.tolerance,
        total_charge=s.total_charge,
        **sites,
    )


def _constraints(config: RunConfig, atoms: Atoms, groups: list[Ints]) -> list[Any]:
    """Frozen electrodes, the structure's own constraints, and rigid water."""
    fixed = [g for e, g in zip(config.electrodes, groups) if not e.mobile]
    given = [c.index for c in atoms.constraints if isinstance(c, FixAtoms)]
    others: list[Any] = [c for c in atoms.constraints if not isinstance(c, FixAtoms)]
    if given:
        # A structure that holds a whole electrode says what some run before this one did; single layers were meant.
        freed = [
            g
            for e, g in zip(config.electrodes, groups)
            if e.mobile and np.isin(g, np.concatenate(given)).all()
        ]
        fixed += [np.setdiff1d(index, np.concatenate([*freed, []])) for index in given]
    held = np.unique(np.concatenate(fixed)) if fixed else np.zeros(0, dtype=np.int64)
    own = [FixAtoms(indices=held)] if len(held) else []
    if isinstance(config.short_range, ClassicalConfig) and config.short_range.water == "spc/e-rigid":
        from grahame.hybrid.shortrange.rigid import rigid_water_constraints

        rigid = rigid_water_constraints(atoms, held=held)
        others = _without_pairs(others, {frozenset(p) for c in rigid for p in c.pairs.tolist()}, held) + rigid
    return own + others


def _without_pairs(constraints: list[Any], pairs: set[frozenset[int]], atoms: Ints) -> list[Any]:
    """Constraints without distances of held pairs or between held atoms, as a structure file may keep of rigid water."""
    still = set(atoms.tolist())
    kept: list[Any] = []
    for constraint in constraints:
        if not isinstance(constraint, FixBondLengths):
            kept.append(constraint)
            continue
        left = [p for p in constraint.pairs.tolist() if frozenset(p) not in pairs and not still.issuperset(p)]
        if left:
            kept.append(FixBondLengths(left, tolerance=constraint.tolerance))
    return kept


def prepare(config: RunConfig, start: Atoms) -> Simulation:
    """Calculator, constraints and electrodes for a structure.

    Atoms on the wrong side of the boundary along the normal are moved to their side at this point.
    """
    groups = select_all(config, start)
    atoms = start.copy()
    cell = np.array(atoms.cell)
    pbc = (bool(atoms.pbc[0]), bool(atoms.pbc[1]), bool(atoms.pbc[2]))
    check_frame(config.coulomb.boundary, atoms.positions, cell, pbc)
    shifts = image_shifts(
        atoms.positions, atoms.numbers, cell, groups, config.coulomb.boundary, bool(atoms.pbc[2])
    )
    atoms.positions += shifts[:, None] * cell[2]
    electrode = np.full(len(atoms), -1, dtype=np.int64)
    for g, members in enumerate(groups):
        electrode[members] = g
    atoms.set_array("electrode", electrode)
    calculator = make_calculator(config, atoms, groups)
    short = calculator.potential.short_range
    if not (isinstance(short, LearnedShortRange) and short.model.spec.charges.kind == "solved"):
        _refuse_left_out(groups, start)
    calculator.potential.prepare(atoms.numbers.astype(np.int64))
    atoms.set_constraint(_constraints(config, atoms, groups))
    if atoms.has("momenta"):
        atoms.set_momenta(atoms.get_momenta())  # frozen atoms lose theirs
    atoms.calc = calculator
    held = [
        None if e.charge is not None else Ramp.from_points(e.ramp) if e.ramp is not None else e.potential
        for e in config.electrodes
    ]
    held += [None] * (len(calculator.potential.electrodes) - len(held))
    return Simulation(start, atoms, calculator, held)
