"""One charge solve of one structure: what `grahame solve` computes, as a function."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from grahame.electrostatics import ConstantPotential, Coulomb, Electrode
from grahame.electrostatics.electrodes import check_electrodes
from grahame.hybrid.boundary_check import check_frame
from grahame.hybrid.crossing import (
    refuse_following,
    refuse_periodic_field,
    seen_by_operator,
)
from grahame.hybrid.exchange import reservoirs
from grahame.hybrid.model import HybridModel
from grahame.hybrid.predicted import beyond_operator, crossed_of, own_shift_of
from grahame.hybrid.shortrange.base import ShortRangeResult
from grahame.hybrid.shortrange.classical import ClassicalForceField
from grahame.hybrid.shortrange.learned import LearnedShortRange
from grahame.hybrid.trajectories import atom_charges
from grahame.hybrid.unwrap import image_shifts

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class SolveReport:
    """Electrode charges of one structure; energies are electrostatic, without the short range.

    Attributes:
        boundary: the boundary that was used.
        charges_from: "file", "classical" or "model", where the electrolyte's charges came from; "none" without any.
        electrodes: group numbers, in the order of the next three.
        electrode_charges: e; potentials: V; atoms: number of atoms of each.
        capacitance: dQ_g/dpsi_h at fixed ions, e/V.
        charges: e, all atoms.
        energy: Omega, eV; internal_energy: U, eV; work: sum psi_g (Q_g + T_g), eV, T_g given to the electrolyte
            (`hybrid.exchange`); field_energy: eV.
        field: V/Å, the uniform field that acted.
        multiplier: psi_g - (Aq+b)_i of the groups at held potentials, V.
        iterations, residual: of the charge solve.
    """

    boundary: str
    charges_from: str
    electrodes: list[int]
    electrode_charges: list[float]
    potentials: list[float]
    atoms: list[int]
    capacitance: list[list[float]]
    charges: list[float]
    energy: float
    internal_energy: float
    work: float
    field_energy: float
    field: list[float]
    multiplier: float
    iterations: int
    residual: float

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON, with the units beside it."""
        units = {
            "charges": "e",
            "electrode_charges": "e",
            "potentials": "V",
            "multiplier": "V",
            "capacitance": "e/V",
            "energy": "eV",
            "internal_energy": "eV",
            "work": "eV",
            "field_energy": "eV",
            "field": "V/Å",
        }
        return asdict(self) | {"units": units}


def solve_structure(
    atoms: Atoms,
    *,
    potentials: Mapping[int, float] | None = None,
    charges: Mapping[int, float] | None = None,
    groups: Mapping[int, Sequence[int]] | None = None,
    force_field: ClassicalForceField | None = None,
    model: HybridModel | None = None,
    charges_from: str = "auto",
    boundary: str = "auto",
    method: str = "auto",
    accuracy: float = 1e-6,
    field: float | None = None,
    displacement: float | None = None,
    total_charge: float = 0.0,
    coulomb_constant: float | None = None,
    **electrode_options: Any,
) -> SolveReport:
    """Solve the electrode charges of one structure.

    Args:
        atoms: Å. `arrays["electrode"]` numbers the electrodes from 0, -1 elsewhere, unless `groups` is given.
        potentials: group number -> V held.
        charges: group number -> e held.
        groups: group number -> atom indices, instead of the array.
        force_field: takes charges and excluded pairs from this one, e.g. that of `load_lammps`.
        model: takes the electrolyte's charges and widths from this one, and what it says of the electrodes' atoms:
            widths where no smearing is given, electronegativity and hardness.
        charges_from: of the electrolyte: "classical" (SPC/Fw water, Na+, Cl-, with intramolecular pairs left
            out of the energy), "file" (the structure's charges, nothing left out), or "auto": the file's
            where it holds any, else classical.
        boundary: as `Coulomb` takes it, or "auto": slab for pbc (T,T,F), open for (F,F,F), and for (T,T,T)
            finite-field where exactly two potentials are held, else 3d.
        method, accuracy, coulomb_constant: as `Coulomb` takes them.
        field: along the surface normal, V/Å; displacement: D/eps0 along it, V/Å.
        total_charge: of the whole cell, e.
        electrode_options: smearing, hardness, electronegativity, thomas_fermi_length, voronoi_volume, solver,
            tolerance, as `ConstantPotential` takes them.
    Raises:
        ValueError: for input without a right answer, in one sentence.
    """
    held_v, held_q = dict(potentials or {}), dict(charges or {})
    members = _groups(atoms, groups)
    electrodes = _electrodes(members, held_v, held_q)
    check_electrodes(electrodes)
    indices = [np.asarray(members[g], dtype=np.int64) for g in sorted(members)]
    if boundary == "auto":
        boundary = _boundary(atoms, len(held_v), len(members))
    coulomb = Coulomb(boundary, method=method, accuracy=accuracy, coulomb_constant=coulomb_constant)
    positions, numbers = atoms.get_positions(), atoms.numbers.astype(np.int64)
    pbc = (bool(atoms.pbc[0]), bool(atoms.pbc[1]), bool(atoms.pbc[2]))
    repeated = check_frame(boundary, positions, np.array(atoms.cell), pbc)
    cell = None if boundary == "open" else np.array(atoms.cell)
    if cell is not None:
        shifts = image_shifts(positions, numbers, cell, indices, boundary, wrapped=pbc[2])
        positions = positions + shifts[:, None] * cell[2]
    if boundary == "3d" and field:
        refuse_periodic_field(field)
    source = _source(atoms, charges_from, indices, force_field, model)
    exclusions: Ints | None = None
    widths: Floats | None = None
    near: ShortRangeResult | None = None
    if source == "classical":
        force_field = ClassicalForceField.from_atoms(atoms, [i.tolist() for i in indices])
    if source == "model":
        assert model is not None
        near = _of_model(model, atoms, positions, indices, repeated)
        given, widths = near.charges, near.smearing
        # Charges of sites beside the atoms come last: indices of electrodes stay what they are.
        positions = near.places(positions)
        displacement = seen_by_operator(
            boundary, displacement, near.crossing, np.array(atoms.cell), coulomb.coulomb_constant
        )
        if boundary == "finite-field" and not held_v and near.crossing is not None and cell is not None:
            refuse_following(torch.as_tensor(near.crossing), torch.as_tensor(cell))
        electrode_options = _site_options(near, indices, electrode_options)
    elif force_field is not None:
        given, exclusions = force_field.charges, force_field.exclusions
    else:
        given = _file_charges(atoms)
    given_options = {k: v for k, v in electrode_options.items() if v is not None}
    solver = ConstantPotential(electrodes, coulomb, **given_options)
    solution = solver.solve(
        positions,
        given,
        cell,
        field=None if field is None else field * _normal(cell),
        displacement=displacement,
        smearing=widths,
        exclusions=exclusions,
        total_charge=total_charge,
        forces=False,
    )
    gained = exchanged = 0.0
    if near is not None:
        crossed = None
        if cell is not None:
            crossed = crossed_of(coulomb, solution.charges, positions, cell, solution.field, displacement)
        own = own_shift_of(near, coulomb, positions, cell)
        gained = beyond_operator(near, crossed, own, boundary, cell)
        if near.given is not None:
            volts = [held_v.get(g, 0.0) for g in sorted(members)]
            supply = reservoirs(indices, volts, [g not in held_v for g in sorted(members)], len(atoms))
            exchanged = float(supply @ near.given)
    return SolveReport(
        boundary=boundary,
        charges_from=source,
        electrodes=sorted(members),
        electrode_charges=[float(v) for v in solution.electrode_charges],
        potentials=[float(v) for v in solution.potentials],
        atoms=[len(i) for i in indices],
        capacitance=np.asarray(solver.capacitance, dtype=float).tolist(),
        charges=np.asarray(solution.charges, dtype=float)[: len(atoms)].tolist(),
        energy=float(solution.energy) + gained - exchanged,
        internal_energy=float(solution.internal_energy) + gained,
        work=float(solution.work) + exchanged,
        field_energy=float(solution.field_energy),
        field=np.asarray(solution.field, dtype=float).reshape(3).tolist(),
        multiplier=float(solution.multiplier),
        iterations=int(solution.iterations),
        residual=float(solution.residual),
    )


def _groups(atoms: Atoms, groups: Mapping[int, Sequence[int]] | None) -> dict[int, Ints]:
    """Atom indices of every electrode."""
    if groups is not None:
        return {int(g): np.asarray(i, dtype=np.int64) for g, i in groups.items()}
    if "electrode" not in atoms.arrays:
        raise ValueError(
            "structure must have an array `electrode` (0, 1, ... and -1 for the electrolyte): name the "
            "atoms, e.g. --electrode 0=0:192, or use a cell of `grahame build`"
        )
    number = np.asarray(atoms.arrays["electrode"])
    return {int(g): np.flatnonzero(number == g) for g in np.unique(number[number >= 0])}


def _electrodes(
    members: Mapping[int, Ints], potentials: Mapping[int, float], charges: Mapping[int, float]
) -> list[Electrode]:
    known = ", ".join(map(str, sorted(members))) or "none"
    for name, held in (("potential", potentials), ("charge", charges)):
        for g in held:
            if g not in members:
                raise ValueError(
                    f"{name} of electrode {g} must belong to an electrode with atoms: the structure has "
                    f"{known}"
                )
    out = []
    for g in sorted(members):
        if (g in potentials) == (g in charges):
            given, remedy = (
                ("both", "remove one")
                if g in potentials
                else ("nothing", f"add --potential {g}=V or --charge {g}=e")
            )
            raise ValueError(
                f"electrode {g} = {given} must be held at exactly one potential or charge: {remedy}"
            )
        out.append(Electrode(members[g], potential=potentials.get(g), charge=charges.get(g)))
    return out


def _boundary(atoms: Atoms, held: int, groups: int) -> str:
    """What the periodic directions mean."""
    flags = tuple(bool(p) for p in atoms.pbc)
    if flags == (True, True, True):
        return "finite-field" if held == groups == 2 else "3d"
    if flags == (True, True, False):
        return "slab"
    if flags == (False, False, False):
        return "open"
    raise ValueError(
        f"pbc = ({', '.join(map(str, flags))}) must be (True, True, False) for a slab, (True, True, True) or "
        "(False, False, False): reorder the cell so that its third vector leaves the surface"
    )


def _file_charges(atoms: Atoms) -> Floats:
    """Charges that came with the structure; zeros without any."""
    try:
        return atom_charges(atoms)
    except ValueError:
        return np.zeros(len(atoms))


def _of_model(
    model: HybridModel,
    atoms: Atoms,
    positions: Floats,
    solved: Sequence[Ints],
    pbc: tuple[bool, bool, bool],
) -> ShortRangeResult:
    """What a model says of the electrolyte's charges and the electrodes' atoms."""
    kind = model.spec.charges.kind
    if kind not in ("transfer", "projected"):
        raise ValueError(
            f"model = with charges of kind {kind} must predict the electrolyte's charges, kind transfer or projected: "
            "take another model, or charges_from"
        )
    local = LearnedShortRange(model)
    local.set_solved(np.concatenate([np.zeros(0, dtype=np.int64), *solved]))
    return local.compute(positions, atoms.numbers.astype(np.int64), np.array(atoms.cell), pbc, stress=False)


def _site_options(
    near: ShortRangeResult, solved: Sequence[Ints], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Options of the solver with what a model says of the electrodes' atoms; a given width stays."""
    index = np.concatenate([np.zeros(0, dtype=np.int64), *solved])
    out = dict(options)
    if out.get("smearing") is None:
        out["smearing"] = near.smearing[index]
    for name, values in (("electronegativity", near.electronegativity), ("hardness", near.hardness)):
        if values is not None:
            out[name] = values[index]
    return out


def _source(
    atoms: Atoms,
    wish: str,
    solved: Sequence[Ints],
    force_field: ClassicalForceField | None,
    model: HybridModel | None,
) -> str:
    if model is not None:
        if force_field is not None or wish != "auto":
            given = "force_field" if force_field is not None else f"charges_from {wish}"
            raise ValueError(f"model = given with {given} must be the only source of charges: remove one")
        return "model"
    if force_field is not None:
        return "file"
    if wish not in ("auto", "file", "classical"):
        raise ValueError(f"charges_from = {wish} must be auto, file or classical: choose one of these")
    liquid = np.ones(len(atoms), dtype=bool)
    for index in solved:
        liquid[index] = False
    has = bool(np.any(_file_charges(atoms)[liquid] != 0.0))
    if wish == "file" and not has and liquid.any():
        raise ValueError(
            "charges_from = file must find charges of the electrolyte in the structure: it holds none; use "
            "classical or add a column `initial_charges`"
        )
    if not liquid.any():
        return "none"
    return ("file" if has else "classical") if wish == "auto" else wish


def _normal(cell: Floats | None) -> Floats:
    if cell is None:
        raise ValueError("field must come with a cell: an open system has no surface normal; leave it out")
    n = np.cross(cell[0], cell[1])
    length = float(np.linalg.norm(n))
    if not (math.isfinite(length) and length > 0.0):
        raise ValueError("cell must have two independent vectors in the plane: correct the structure's cell")
    return np.asarray(n / length)
