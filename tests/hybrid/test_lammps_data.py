"""LAMMPS data files: what is read, the published gold/water/salt cell, files that are cut off."""

from pathlib import Path

import numpy as np
import pytest
from ase import units

from grahame.hybrid.lammps_data import load_lammps
from grahame.hybrid.shortrange import RigidWater
from tests.hybrid.classical_systems import compute
from tests.shared_data import SHARED, needs_shared

KCAL = units.kcal / units.mol

FILE = """two waters over gold, written for a test

8 atoms
4 atom types
4 bonds
1 bond types
2 angles
1 angle types

-1.0 9.0 xlo xhi
0.0 11.0 ylo yhi
2.0 22.0 zlo zhi
1.5 0.0 0.25 xy xz yz

Masses

1 15.9994 # O
2 1.008
3 22.9898
4 196.97

Pair Coeffs # lj/cut/coul/long

1 0.1553 3.166
2 0.0 0.0
3 0.1 2.584 12.0
4 5.29 2.951

Bond Coeffs # harmonic

1 450 1.0

Angle Coeffs # harmonic

1 55 109.47

Atoms # full

2 1 2 0.4238 1.90 5.0 10.0 0 0 0
1 1 1 -0.8476 1.0 5.0 10.0 0 0 0 # out of order
3 1 2 0.4238 0.7 5.9 10.0 0 0 0
4 2 1 -0.8476 8.9 5.0 14.0 0 0 0
5 2 2 0.4238 -0.1 5.1 14.0 1 0 0
6 2 2 0.4238 8.5 5.9 14.0 0 0 0
7 3 3 1.0 4.0 2.0 18.0 0 0 0
8 4 4 0.0 4.0 5.0 3.0 0 0 0

Velocities

1 0.001 0.002 0.003
2 0.0 0.0 0.0
3 0.0 0.0 0.0
4 0.0 0.0 0.0
5 0.0 0.0 0.0
6 0.0 0.0 0.0
7 0.0 0.0 -0.004
8 0.0 0.0 0.0

Bonds

1 1 1 2
2 1 1 3
3 1 4 5
4 1 4 6

Angles

1 1 2 1 3
2 1 5 4 6
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "data.test"
    file.write_text(FILE)
    return file


def test_the_structure_is_read(path: Path) -> None:
    atoms, _ = load_lammps(path, electrode_types=(4,))
    assert atoms.get_chemical_symbols() == ["O", "H", "H", "O", "H", "H", "Na", "Au"]
    np.testing.assert_array_equal(atoms.cell.array, [[10, 0, 0], [1.5, 11, 0], [0, 0.25, 20]])
    np.testing.assert_allclose(atoms.positions[0], [2.0, 5.0, 8.0], atol=1e-14)
    assert atoms.pbc.all()
    np.testing.assert_array_equal(atoms.arrays["electrode"], [-1] * 7 + [0])
    np.testing.assert_array_equal(atoms.arrays["lammps_types"], [1, 2, 2, 1, 2, 2, 3, 4])
    np.testing.assert_allclose(atoms.get_initial_charges()[[0, 1, 6]], [-0.8476, 0.4238, 1.0])
    assert atoms.get_masses()[0] == 15.9994
    np.testing.assert_allclose(atoms.get_velocities()[0] * units.fs, [0.001, 0.002, 0.003], atol=1e-15)


def test_the_force_field_is_that_of_the_file(path: Path) -> None:
    atoms, field = load_lammps(path, cutoff=5.0, truncation="plain")
    t = field.tables
    # The file's harmonic constants have no factor 1/2.
    np.testing.assert_allclose(t.bond_constants, 2 * 450 * KCAL, rtol=1e-14)
    np.testing.assert_allclose(t.angle_constants, 2 * 55 * KCAL, rtol=1e-14)
    np.testing.assert_allclose(np.degrees(t.angle_values), 109.47, rtol=1e-14)
    assert field.mixing == "geometric"
    bonds = [
        (0.9 - 1) ** 2,
        (np.hypot(0.3, 0.9) - 1) ** 2,
        (np.hypot(1.0, 0.1) - 1) ** 2,
        (np.hypot(0.4, 0.9) - 1) ** 2,
    ]
    angles = [
        np.degrees(np.arctan2(0.9, -0.3)) - 109.47,
        np.degrees(np.arctan2(0.9, -0.4) - np.arctan2(0.1, 1.0)) - 109.47,
    ]
    pairs = np.linalg.norm([10 - 7.9, 0, 4.0]), np.hypot(4.0, 3.0)
    assert min(pairs) < 5.0
    bonded = KCAL * (450 * sum(bonds) + 55 * np.sum(np.radians(angles) ** 2))
    s6 = (3.166 / pairs[0]) ** 6
    lennard_jones = 4 * 0.1553 * KCAL * (s6 * s6 - s6)
    # Oxygens 1 and 2 meet through the tilted face; everything else is further than 5 Å.
    assert compute(field, atoms).energy == pytest.approx(bonded + lennard_jones, rel=1e-10)


def test_pairs_within_three_bonds_are_excluded(path: Path) -> None:
    _, field = load_lammps(path)
    np.testing.assert_array_equal(field.exclusions, [[0, 1], [0, 2], [1, 2], [3, 4], [3, 5], [4, 5]])
    np.testing.assert_array_equal(field.molecules, [0, 0, 0, 1, 1, 1, 2, 3])


def test_metal_units_are_taken_as_they_are(path: Path) -> None:
    atoms, field = load_lammps(path, units="metal")
    assert field.tables.epsilon[0] == 0.1553
    np.testing.assert_allclose(atoms.get_velocities()[0] * 1000 * units.fs, [0.001, 0.002, 0.003], atol=1e-15)


def test_rigid_water_carries_its_constraint(path: Path) -> None:
    atoms, field = load_lammps(path, rigid=True)
    (constraint,) = atoms.constraints
    assert isinstance(constraint, RigidWater)
    np.testing.assert_array_equal(constraint.triples, [[0, 1, 2], [3, 4, 5]])
    assert len(field.tables.bonds) == len(field.tables.angles) == 0
    assert len(field.exclusions) == 6
    for a, b, r in ((0, 1, 1.0), (3, 4, 1.0), (4, 5, 2 * np.sin(np.radians(109.47) / 2))):
        assert atoms.get_distance(a, b, mic=True) == pytest.approx(r, abs=1e-12)


def test_electrodes_may_have_several_types(path: Path) -> None:
    atoms, _ = load_lammps(path, electrode_types=((3, 4),))
    np.testing.assert_array_equal(atoms.arrays["electrode"], [-1] * 6 + [0, 0])


def test_forces_are_the_gradient(path: Path) -> None:
    from tests.hybrid.classical_systems import numerical_force

    atoms, field = load_lammps(path)
    forces = compute(field, atoms).forces
    for atom, axis in ((0, 0), (1, 1), (4, 2), (6, 2)):
        assert numerical_force(field, atoms, atom, axis) == pytest.approx(forces[atom, axis], abs=1e-7)


@needs_shared
def test_the_published_gold_cell_loads_with_one_call() -> None:
    assert SHARED is not None
    file = SHARED / "data" / "lammps_electrode_au_aq" / "au-aq" / "data.au-aq"
    atoms, field = load_lammps(file, electrode_types=(6, 7), rigid=True)
    assert atoms.get_chemical_formula() == "H4320Au3240Cl39Na39O2160"
    np.testing.assert_array_equal(np.bincount(atoms.arrays["electrode"] + 1), [6558, 1620, 1620])
    assert atoms.get_initial_charges().sum() == pytest.approx(0, abs=1e-9)
    assert len(atoms.constraints[0].triples) == 2160
    assert len(field.exclusions) == 6480
    assert np.isfinite(compute(field, atoms, stress=False).energy)


@needs_shared
def test_the_temperature_of_the_published_cell_is_that_of_its_log() -> None:
    assert SHARED is not None
    file = SHARED / "data" / "lammps_electrode_au_aq" / "au-aq" / "data.au-aq"
    atoms, _ = load_lammps(file, electrode_types=(6, 7))
    mobile = atoms[atoms.arrays["electrode"] < 0]
    freedom = 3 * len(mobile) - 3 * 2160 - 3
    assert 2 * mobile.get_kinetic_energy() / (freedom * units.kB) == pytest.approx(298.06731, abs=1e-3)


def replaced(old: str, new: str) -> str:
    assert FILE.count(old) == 1
    return FILE.replace(old, new)


BROKEN = [
    (
        FILE[: FILE.index("3 1 4 5")],
        {},
        "rows of section Bonds of data.test = 2 must be 4 as the header says: the file is cut off, copy "
        "it again",
    ),
    (
        FILE[: FILE.index("1 0 0\n6 2 2")],
        {},
        "rows of section Atoms of data.test = 4 must be 8 as the header says: the file is cut off, copy "
        "it again",
    ),
    (
        FILE[: FILE.index("Bonds\n")],
        {},
        "section Bonds of data.test = missing must hold 4 rows: the file is cut off or was written "
        "without it",
    ),
    (
        FILE[: FILE.index("Masses")],
        {},
        "section Masses of data.test = missing must hold 4 rows: the file is cut off or was written "
        "without it",
    ),
    (
        FILE[: FILE.index("\n2.0 22.0")],
        {},
        "header of data.test must give the box as '0.0 10.0 zlo zhi': it is no LAMMPS data file or it "
        "is cut off",
    ),
    (
        "",
        {},
        "header of data.test must say the number of atoms, as in '100 atoms': it is no LAMMPS data file "
        "or it is cut "
        "off",
    ),
    (
        FILE.rstrip()[:-1] + "7",
        {},
        "atoms 5 4 7 of angle 2 of data.test must be joined by bonds: the file is cut off or its Bonds "
        "section is "
        "incomplete",
    ),
    (
        replaced("3 1 4 5\n", "3 1 4 8\n"),
        {},
        "length of bond 3 of data.test (atoms 4 and 8) = 10.250 Å must be below 3.0 times its "
        "equilibrium 1.000 Å: "
        "the file is cut off, or pbc is not that of the simulation",
    ),
    (
        replaced("3 1 4 5\n", "3 1 4 50\n"),
        {},
        "atom 50 in section Bonds of data.test must be from 1 to 8: the file contradicts its own header",
    ),
    (
        replaced("5 2 2 0.4238 -0.1", "5 2 2 abc -0.1"),
        {},
        "row 5 of section Atoms of data.test = '5 2 2 abc -0.1 5.1 14.0 1 0 0' must start with 7 "
        "numbers: check the "
        "file (atom_style full, harmonic bonds and angles)",
    ),
    (
        replaced("7 3 3 1.0", "6 3 3 1.0"),
        {},
        "ids of section Atoms of data.test must be 1 to 8, each once: renumber them with LAMMPS' "
        "reset_atoms id and "
        "write_data",
    ),
    (
        replaced("7 3 3 1.0", "7 3 9 1.0"),
        {},
        "type of atom 7 in data.test = 9 must be from 1 to 4: check the Atoms section (atom_style full: "
        "id molecule "
        "type charge x y z)",
    ),
    (
        replaced("4 196.97", "4 500.0"),
        {},
        "mass of type 4 in data.test = 500.0 amu must be an element's within 0.1 amu: name the element with "
        "elements={4: '...'}",
    ),
    (FILE, {"elements": {4: "Xx"}}, "elements[4] = 'Xx' must be an element: write it as 'O' or 'Au'"),
    (
        replaced("2 angles", "2 angles\n3 dihedrals"),
        {},
        "dihedrals of data.test = 3 must be 0: dihedral and improper terms are not computed here",
    ),
    (
        FILE + "\nImproper Coeffs\n\n1 2.0 1 2\n",
        {},
        "section = Improper Coeffs of data.test must be one of Masses, Pair Coeffs, Bond Coeffs, Angle "
        "Coeffs, Atoms, "
        "Velocities, Bonds, Angles: other terms are not computed here, remove them from the file if "
        "they do not matter",
    ),
    (
        replaced("Bond Coeffs # harmonic", "Bond Coeffs # morse"),
        {},
        "style of section Bond Coeffs of data.test = morse must be one of harmonic: other forms are not "
        "computed here",
    ),
    (
        replaced("Atoms # full", "Atoms # charge"),
        {},
        "style of section Atoms of data.test = charge must be one of full: other forms are not computed here",
    ),
    (
        replaced("2.0 22.0 zlo zhi", "2.0 2.0 zlo zhi"),
        {},
        "box of data.test along z = 2.0 to 2.0 Å must have a positive length: check the header",
    ),
    (FILE, {"units": "lj"}, "units = 'lj' must be 'real' or 'metal': convert the file in LAMMPS first"),
    (
        FILE,
        {"electrode_types": (5,)},
        "electrode_types[0] = 5 must be a type that occurs in data.test: its types are 1, 2, 3, 4",
    ),
    (
        FILE,
        {"electrode_types": (4, (3, 4))},
        "electrode_types[1] = 4 must be in one electrode only: take it out of electrode 0 or of electrode 1",
    ),
]


@pytest.mark.parametrize(("text", "options", "message"), BROKEN, ids=range(len(BROKEN)))
def test_files_that_make_no_sense_are_refused(
    path: Path, text: str, options: dict[str, object], message: str
) -> None:
    path.write_text(text)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        load_lammps(path, **options)  # type: ignore[arg-type]
    assert str(error.value) == message


def test_another_atom_style_with_image_flags_does_not_pass_for_full(path: Path) -> None:
    """Without the charge that `molecular` lacks, positions and flags would be read one column too early."""
    begin, end = FILE.index("Atoms"), FILE.index("Bonds\n")
    rows = [line.split() for line in FILE[begin:end].splitlines()]
    molecular = [" ".join([*r[:3], *r[4:7], "0", "0", "0"]) if r and r[0].isdigit() else "" for r in rows]
    path.write_text(FILE[:begin] + "Atoms\n" + "\n".join(molecular[1:]) + "\n\n" + FILE[end:])
    with pytest.raises(ValueError) as error:  # noqa: PT011
        load_lammps(path)
    assert str(error.value) == (
        "columns of section Atoms of data.test = 9 must be 7, or 10 with image flags: write the file in atom_style full "
        "(id molecule type charge x y z)"
    )


def test_any_cut_of_the_file_is_noticed(path: Path) -> None:
    """Cut at every line, and inside every line, up to the very last number."""
    end = len(FILE.rstrip())
    for cut in range(0, end - 1, 7):
        path.write_text(FILE[:cut])
        with pytest.raises(ValueError, match=r"must"):
            load_lammps(path)


def test_rigid_needs_molecules(path: Path) -> None:
    text = FILE[: FILE.index("Bonds\n")].replace("4 bonds\n", "").replace("2 angles\n", "")
    path.write_text(text)
    load_lammps(path)
    with pytest.raises(ValueError, match="rigid") as error:
        load_lammps(path, rigid=True)
    assert str(error.value) == (
        "rigid = True must find molecules of three atoms with two bonds and an angle: leave rigid out "
        "for this file"
    )


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        load_lammps(tmp_path / "nothing")
    assert str(error.value) == (
        f"path = {tmp_path / 'nothing'} must be a LAMMPS data file: check the name and the folder"
    )
