"""The gold/water cells, capacitors and OpenMM's own test systems: how each file is set up and compared."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from grahame.electrostatics import ConstantPotential, Coulomb, Electrode
from tests.shared_data import SHARED

Array = NDArray[np.float64]
FILE_COULOMB = 14.3996454784255  # the constant these files were made with, eV Å/e²
FILES = {"02": "02_capacitor", "03": "03_au_water", "04": "04_conq", "06": "06_plain_electrostatics"}
BOUNDARIES = {"ew3dc": "slab", "ew2d": "slab-exact", "3d": "finite-field"}

CASES: list[tuple[str, str, str]] = (
    [("02", bc, f"g{gap}") for gap in (15, 20, 25) for bc in ("ew3dc", "ew2d", "3d")]
    + [("03", bc, f"V{v}") for v in (0, 1, 2) for bc in ("ew3dc", "ew2d", "3d")]
    + [("04", bc, f"Q{q}") for q in ("-0.5", "+0.0", "+0.5") for bc in ("ew3dc", "ew2d", "3d")]
    + [("06", bc, tag) for tag in ("neutral", "net+1") for bc in ("ew3dc", "ew2d", "3d")]
)
"""(file, boundary in the file's words, key) of every case in the files 02, 03, 04 and 06."""

OPENMM = [
    "small1",
    "small2",
    "small4",
    "gaussian3",
    "constrain",
    "update",
    "cap_double",
    "cap_ff",
    "ref_field",
    "ref_tf",
]


@cache
def arrays(name: str) -> dict[str, Array]:
    """All arrays of one file."""
    assert SHARED is not None
    with np.load(Path(SHARED) / "reference" / "cpm" / f"{name}.npz") as data:
        return {key: np.asarray(data[key]) for key in data.files}


def width(eta: Array) -> Array:
    """Gaussian width s = 1/(sqrt(2) eta) in Å, 0 for points."""
    return np.where(np.isinf(eta), 0.0, 1.0 / (np.sqrt(2.0) * np.where(np.isinf(eta), 1.0, eta)))


@dataclass(frozen=True)
class Errors:
    """Largest deviations from the file: e, relative, eV/Å, V."""

    charges: float = 0.0
    energy: float = 0.0
    forces: float = 0.0
    potential: float = 0.0
    gradient: float = 0.0  # exact gradient against the file's partial forces (only charges held in a field)


def operator(bc: str, length: float, **options: object) -> Coulomb:
    """The file's boundary; its padded cell is three times as high as the given one."""
    chosen: dict[str, object] = {"method": "exact", "accuracy": 1e-13, "background": "point"}
    if bc == "ew3dc":
        chosen["vacuum"] = 2.0 * length
    chosen.update(options)
    return Coulomb(boundary=BOUNDARIES[bc], coulomb_constant=FILE_COULOMB, **chosen)  # type: ignore[arg-type]


def compare(file: str, bc: str, key: str, **options: object) -> Errors:
    """Run one case of the files 02, 03, 04, 06 and return the deviations."""
    if file == "06":
        return _compare_plain(bc, key, **options)
    data = arrays(FILES[file])
    name = f"{key}_" if file == "02" else ""
    case = f"{key}_{bc}" if file == "02" else f"{bc}_{key}"
    cell = np.diag(data[name + "box"])
    bottom, top = data[name + "e1"], data[name + "e2"]
    held = [{}, {}]
    if file == "04":
        held = [{"charge": -float(key[1:])}, {"charge": float(key[1:])}]
    else:
        held = [{"potential": 0.0}, {"potential": float(key[1:]) if file == "03" else 1.0}]
    s = width(data[name + "eta"])
    cpm = ConstantPotential(
        [Electrode(bottom, **held[0]), Electrode(top, **held[1])],
        operator(bc, cell[2, 2], **options),
        smearing=float(s[bottom[0]]),
    )
    excluded = data[name + "excl"]
    sol = cpm.solve(
        data[name + "pos"],
        data[name + "q_fixed"],
        cell,
        smearing=s,
        exclusions=excluded if len(excluded) else None,
    )
    expected_q, expected_f = data[f"{case}_q"], data[f"{case}_F"]
    energy = float(data[f"{case}_U_coul"])
    if bc == "3d":
        energy -= float(data[f"{case}_Ez"]) * float(expected_q @ data[name + "pos"][:, 2])
    errors = Errors(
        charges=_max(sol.charges - expected_q),
        energy=abs(float(sol.internal_energy) - energy) / abs(energy),
        forces=_max(sol.forces - expected_f),
    )
    if file != "04":
        work = float(held[1]["potential"]) * float(expected_q[top].sum())
        whole = float(sol.energy) - (float(sol.field_energy) if bc == "3d" else 0.0)
        return Errors(
            **{**errors.__dict__, "energy": max(errors.energy, abs(whole - (energy - work)) / abs(energy))}
        )
    potential = _max(np.asarray(sol.potentials) - data[f"{case}_psi"])
    if bc != "3d":
        return Errors(**{**errors.__dict__, "potential": potential})
    # The file keeps E fixed when it differentiates; the energy's own gradient differs a little.
    return Errors(
        charges=errors.charges,
        energy=errors.energy,
        potential=potential,
        forces=_max(sol.forces_at_fixed_field - expected_f),
        gradient=errors.forces,
    )


def _compare_plain(bc: str, key: str, **options: object) -> Errors:
    data = arrays(FILES["06"])
    cell = np.diag(data[f"{key}_box"])
    chosen: dict[str, object] = {"method": "exact", "accuracy": 1e-13, "background": "point"}
    if bc == "ew3dc":
        chosen["vacuum"] = 2.0 * cell[2, 2]
    chosen.update(options)
    boundary = "3d" if bc == "3d" else BOUNDARIES[bc]
    coulomb = Coulomb(boundary=boundary, coulomb_constant=FILE_COULOMB, **chosen)  # type: ignore[arg-type]
    out = coulomb(data[f"{key}_pos"], data[f"{key}_q_fixed"], cell, exclusions=data[f"{key}_excl"])
    energy = float(data[f"{key}_{bc}_U"])
    return Errors(
        energy=abs(float(out.energy) - energy) / abs(energy),
        forces=_max(out.forces - data[f"{key}_{bc}_F"]),
        potential=_max(out.potential - data[f"{key}_{bc}_phi"]),
    )


def compare_openmm(test: str, **options: object) -> Errors:
    """One of OpenMM's tests: 3D, a field, one potential per electrode, products added for some pairs.

    Electrodes at unequal potentials have no meaning in a plain periodic cell and are refused there, and so is
    a field on a charged cell. As numbers both are a linear term chi.q, chi = -(psi + E.r), so that is how they
    enter here.
    """
    data = {k[len(test) + 1 :]: v for k, v in arrays("01_openmm_tests").items() if k.startswith(test + "_")}
    x, q = data["pos"], data["q_fixed"]
    group, field = data["electrode"], data["field"]
    index = [np.flatnonzero(group == g) for g in range(group.max() + 1)]
    solved = np.concatenate(index)
    s = width(data["eta"])
    chosen: dict[str, object] = {"method": "exact", "accuracy": 1e-13, "background": "point"}
    chosen.update(options)
    coulomb = Coulomb(boundary="3d", coulomb_constant=FILE_COULOMB, **chosen)  # type: ignore[arg-type]
    chi = -(data["psi"] + x @ field)
    target = float(data["target"])
    cpm = ConstantPotential(
        [Electrode(i, potential=0.0) for i in index],
        coulomb,
        smearing=s[solved],
        hardness=FILE_COULOMB * data["tf"][solved],
        electronegativity=chi[solved],
    )
    excluded = data["excl"]
    sol = cpm.solve(
        x,
        q,
        np.diag(data["box"]),
        smearing=s,
        exclusions=excluded if len(excluded) else None,
        total_charge=None if np.isnan(target) else target,
    )
    ions = np.flatnonzero(group < 0)
    energy = float(sol.energy) - float(q[ions] @ (x[ions] @ field))
    forces = sol.forces + sol.charges[:, None] * field
    for (i, j), product in zip(excluded, data["excl_qq"]):
        if product != 0.0:
            d = x[i] - x[j]
            r = float(np.linalg.norm(d))
            energy += FILE_COULOMB * product / r
            forces[i] += FILE_COULOMB * product * d / r**3
            forces[j] -= FILE_COULOMB * product * d / r**3
    expected = float(data["exact_U"])
    return Errors(
        charges=_max(sol.charges - data["exact_q"]),
        energy=abs(energy - expected) / abs(expected),
        forces=_max(forces - data["exact_F"]),
        potential=abs(float(sol.multiplier) - float(data["exact_lam"])) if not np.isnan(target) else 0.0,
    )


def _max(values: object) -> float:
    return float(np.abs(np.asarray(values)).max())
