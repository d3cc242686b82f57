"""Labelled frames of the teacher: what is held, energy, forces, charges, responses, as extended XYZ.

A frame is labelled in the ensemble it was sampled in. Held potentials: `potential` holds them, `energy` is
Omega and `energy_kind` says so. Held charges: `electrode_charge` holds them and `energy` is U. What came out
is under the names of a run's trajectory, `electrode_charges` and `electrode_potentials`. `internal_energy` =
Omega + sum psi_g Q_g is the energy of the same atoms with the charges held at `electrode_charges`: same forces,
same charges, so a frame of either kind can be trained on as one of held charges.
Positions are rounded before they are labelled, so the file holds exactly what the labels belong to.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from grahame.electrostatics.profiles import surface_normal
from grahame.electrostatics.work_function import work_function
from grahame.hybrid.calculator import HybridCalculator
from grahame.hybrid.shortrange.fluctuating import FluctuatingWater
from grahame.hybrid.teacher import METAL_WIDTH

Floats = NDArray[np.float64]

DECIMALS = 10
"""Of positions (Å) and forces (eV/Å) in the file; ASE's own writer keeps 8."""

_NEUTRAL = 1e-6  # e


def rounded(atoms: Atoms) -> Atoms:
    """A bare copy (elements, positions, cell, pbc, `electrode`) with the positions a file will hold."""
    copy = Atoms(numbers=atoms.numbers, positions=np.round(atoms.positions, DECIMALS) + 0.0, cell=atoms.cell)
    copy.pbc = atoms.pbc
    copy.set_array("electrode", atoms.arrays.get("electrode", np.full(len(atoms), -1)).astype(int))
    return copy


def label(atoms: Atoms, calculator: HybridCalculator) -> tuple[dict[str, Any], dict[str, Any]]:
    """Energy, forces, charges and conditions of one structure under a teacher calculator.

    Args:
        atoms: positions as `rounded` leaves them.
        calculator: of `teacher_calculator` for this structure.

    Returns:
        Columns (per atom) and info (per frame) in the package's data schema.
    """
    work = atoms.copy()
    work.calc = calculator
    # A cell with vacuum has no pressure to learn from.
    stress = work.get_stress(voigt=False) if all(atoms.pbc) else None
    forces = work.get_forces()
    results, potential = calculator.results, calculator.potential
    short_range = potential.short_range
    assert isinstance(short_range, FluctuatingWater)
    groups = len(potential.electrodes) - len(short_range.waters)
    charges = np.asarray(results["charges"])
    electrode_charge = np.asarray(results["electrode_charges"])[:groups]
    psi = np.asarray(results["electrode_potentials"])[:groups]
    by_charge = bool(np.isnan(calculator.potentials[:groups]).any())
    boundary = potential.coulomb.boundary
    columns = {"charges": charges, "forces": forces, "smearing": widths(atoms, short_range)}
    columns |= _site_constants(work, short_range)
    info: dict[str, Any] = {
        "energy": float(results["energy"]),
        "energy_kind": "E" if by_charge or not groups else "Omega",
        "internal_energy": float(results["internal_energy"]),
        "work": float(results["work"]),
        "dipole": np.asarray(results["dipole"]),
        "boundary": boundary,
        "total_charge": float(round(charges.sum())),
        "electrode_groups": groups,
        "countercharge": "explicit_ions" if np.any(short_range.charges) else "none",
        "solvation": "explicit" if len(short_range.waters) else "none",
        "dipole_correction": boundary == "slab",
        "level": "SPC-FQ teacher",
        "code": "grahame",
        "functional": "SPC-FQ flexible + Lennard-Jones (classical)",
        "cutoff_lj": short_range.field.cutoff,
        "accuracy_coulomb": potential.coulomb.accuracy,
    }
    if stress is not None:
        info["stress"] = stress
    if groups:
        info |= {"electrode_charges": electrode_charge, "electrode_potentials": psi}
        info |= {"electrode_charge": electrode_charge} if by_charge else {"potential": psi}
        info |= {} if by_charge else {"potential_reference": "internal"}
    if boundary == "slab":
        info["slab_axis"] = "z"
        if potential.field is not None:
            field = np.asarray(potential.field, dtype=float)
            info["external_field"] = field if field.ndim else np.array([0.0, 0.0, float(field)])
            # U holds -E.M then.
            info |= {"field_kind": "E", "field_unit": "V/Å", "energy_kind": "enthalpy"}
    # A single electrode at a potential: that is a gauge, and says nothing of the vacuum.
    neutral = abs(charges.sum()) < _NEUTRAL
    if groups == 1 and by_charge and boundary == "slab" and neutral and potential.field is None:
        normal, area, _ = surface_normal(np.array(atoms.cell))
        moment = float(charges @ (atoms.positions @ normal))
        info["work_function"] = work_function(float(psi[0]), moment, area, "+")
        info["work_function_side"] = "+n"
        info["work_function_other_side"] = work_function(float(psi[0]), moment, area, "-")
    return columns, info


def _site_constants(atoms: Atoms, short_range: FluctuatingWater) -> dict[str, Floats]:
    """Electronegativity (V) and hardness (V/e) of every solved atom, where they follow the surroundings."""
    if short_range.surroundings is None:
        return {}
    a, b, c = map(bool, atoms.pbc)
    found = short_range.compute(atoms.positions, atoms.numbers, atoms.cell.array, (a, b, c))
    assert found.electronegativity is not None
    assert found.hardness is not None
    return {"electronegativity": found.electronegativity, "hardness": found.hardness}


def widths(atoms: Atoms, short_range: FluctuatingWater) -> Floats:
    """Gaussian width of every atom's charge, Å."""
    s = short_range.ion_smearing
    s[atoms.arrays["electrode"] >= 0] = METAL_WIDTH
    s[short_range.waters[:, 0]] = short_range.model.width_o
    s[short_range.waters[:, 1:]] = short_range.model.width_h
    return s


def responses(
    atoms: Atoms, calculator: HybridCalculator, step: float = 0.05
) -> tuple[dict[str, Floats], dict[str, Any]]:
    """dF/dpsi at held potentials and dF/dQ at held charges of the last electrode against the first.

        dF/dpsi = dQ/dR,   psi_last - psi_first = psi;    dF/dQ = -dpsi/dR,   Q_last = -Q_first = Q

    Central differences; charges are linear in what is held and forces quadratic, so no step is too long.

    Args:
        atoms: as for `label`, with two electrodes.
        calculator: a teacher that holds the potentials of both.
        step: V and e.

    Returns:
        Columns dF_dpsi (e/Å) and dF_dQ (V/Å), (n,3); info capacitance dQ/dpsi (e/V).

    Raises:
        ValueError: for another number of electrodes, or electrodes held at charges.
    """
    held = calculator.potentials
    two = ~np.isnan(held)
    if two.sum() != 2:
        raise ValueError(
            f"electrodes held at a potential = {int(two.sum())} must be 2: responses are those of one "
            "electrode against the other"
        )
    work = atoms.copy()
    work.calc = calculator
    work.get_forces()
    start = np.asarray(calculator.results["electrode_charges"])[:2].copy()
    swing = 0.5 * step * np.array([-1.0, 1.0])
    forces, charges = [], []
    for sign in (1.0, -1.0):
        calculator.set_potentials([*(held[:2] + sign * swing), *([None] * (len(held) - 2))])
        forces.append(work.get_forces())
        charges.append(float(calculator.results["electrode_charges"][1]))
    by_psi = (forces[0] - forces[1]) / (2 * step)
    capacitance = (charges[0] - charges[1]) / (2 * step)
    forces = []
    for sign in (1.0, -1.0):
        q = start + sign * step * np.array([-1.0, 1.0])
        calculator.set_electrode_charges([*q, *([None] * (len(held) - 2))])
        forces.append(work.get_forces())
    by_charge = (forces[0] - forces[1]) / (2 * step)
    calculator.set_potentials([*held[:2], *([None] * (len(held) - 2))])
    return {"dF_dpsi": by_psi, "dF_dQ": by_charge}, {"capacitance": capacitance}


def field_response(atoms: Atoms, make: Any, step: float = 0.02) -> tuple[dict[str, Floats], dict[str, Any]]:
    """dF/dE along the surface normal at fixed electrode charges, by central differences (exact: forces are
    quadratic in the field).

    Args:
        atoms: as for `label`, a neutral slab cell.
        make: a teacher calculator, at held charges, for a given field in V/Å.
        step: V/Å.

    Returns:
        Column field_response (n,3), e; info born_kind.
    """
    forces = []
    for field in (step, -step):
        work = atoms.copy()
        work.calc = make(field)
        forces.append(work.get_forces())
    return {"field_response": (forces[0] - forces[1]) / (2 * step)}, {"born_kind": "at_Q"}


def frame_text(atoms: Atoms, columns: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    """One extended-XYZ frame: positions and forces to 1e-10, numbers of the frame to the last bit.

    Args:
        atoms: as `rounded` leaves them.
        columns: (n,) or (n,k) real arrays.
        info: numbers, vectors and words.
    """
    n = len(atoms)
    named = {k: np.asarray(v, dtype=float).reshape(n, -1) for k, v in columns.items()}
    properties = "species:S:1:pos:R:3:electrode:I:1"
    properties += "".join(f":{name}:R:{v.shape[1]}" for name, v in named.items())
    header = [f"Properties={properties}", *(f"{k}={_text(v)}" for k, v in info.items())]
    header.append('pbc="' + " ".join("T" if p else "F" for p in atoms.pbc) + '"')
    if atoms.cell.rank:
        header.insert(0, f"Lattice={_text(np.array(atoms.cell).ravel())}")
    numbers = np.hstack([atoms.positions, *named.values()]) + 0.0
    places = f"%.{DECIMALS}f"
    rows = [
        f"{chemical_symbols[z]:<2s} "
        + " ".join(places % v for v in row[:3])
        + f" {group:d} "
        + " ".join(places % v for v in row[3:])
        for z, group, row in zip(atoms.numbers, atoms.arrays["electrode"].tolist(), numbers.tolist())
    ]
    return "\n".join([str(n), " ".join(header), *rows, ""])


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "T" if value else "F"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value)
    return '"' + " ".join(repr(float(v)) for v in np.asarray(value).ravel()) + '"'
