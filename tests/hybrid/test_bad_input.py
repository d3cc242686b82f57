"""Wrong input gives one clear sentence, a non-zero exit status and no output: the table of `bad_inputs.py`."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "benchmarks" / "bad_inputs.py"


def load_script() -> ModuleType:
    """The example script as a module."""
    spec = importlib.util.spec_from_file_location("bad_inputs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bad_inputs"] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


bad_inputs = load_script()

# In the order of `bad_inputs.CASES`: what is wrong, exit status, the whole message.
ANSWERS = [
    (
        "unknown key",
        1,
        "dynamics.produce.temprature_K = 300 must be a known key: did you mean `temperature_K`?",
    ),
    (
        "mistyped choice",
        1,
        "coulomb.boundary = 'slabb' must be one of 3d, slab, slab-exact, finite-field, displacement, "
        "open: did you mean `slab`?",
    ),
    (
        "number with a unit",
        1,
        "dynamics.produce.timestep_fs = '0.5 ps' must be a number: give the time step in fs, without "
        "writing the unit",
    ),
    (
        "millivolt as volt",
        1,
        "electrodes[1].potential = 1000 V must be at most 100 V: give the held potential in V",
    ),
    (
        "overlapping electrodes",
        1,
        "electrodes[1] = atom 3 must belong to one electrode: it is in electrodes[0] too; give every "
        "atom to one",
    ),
    (
        "overlapping electrodes",
        1,
        "electrodes[1] = atom 3 must belong to one electrode: it is in electrodes[0] too; remove it from one of them",
    ),
    (
        "electrode without atoms",
        1,
        "electrodes[1].group = 7 must name at least one atom: the structure has the groups [0, 1]",
    ),
    (
        "electrode without atoms",
        1,
        "potential of electrode 7 must belong to an electrode with atoms: the structure has 0, 1",
    ),
    (
        "electrode without atoms",
        1,
        "electrode = 1=4:4 must name atoms between 0 and 22, at least one: the last index is not included",
    ),
    (
        "electrode outside",
        1,
        "electrode = 1=4:400 must name atoms between 0 and 22, at least one: the last index is not included",
    ),
    (
        "electrode not held",
        1,
        "electrode 1 = nothing must be held at exactly one potential or charge: add --potential 1=V "
        "or --charge 1=e",
    ),
    (
        "electrode held twice",
        1,
        "electrode 1 = both must be held at exactly one potential or charge: remove one",
    ),
    (
        "wrong pbc",
        1,
        "pbc = (True, True, False) must be (True, True, True) with boundary finite-field: set "
        "atoms.pbc or choose another boundary",
    ),
    (
        "wrong pbc",
        1,
        "pbc = (True, True, False) must be (True, True, True) with boundary finite-field: set "
        "atoms.pbc or choose another boundary",
    ),
    (
        "wrong pbc",
        1,
        "pbc = (True, False, True) must be (True, True, False) for a slab, (True, True, True) or "
        "(False, False, False): reorder the cell so that its third vector leaves the surface",
    ),
    (
        "two potentials in 3d",
        1,
        'potentials = 0, 1 V must be equal with boundary = "3d": the cell repeats through the '
        'electrodes; use boundary = "finite-field" or "slab"',
    ),
    (
        "field in finite field",
        1,
        'field = [0.0, 0.0, 0.1] V/Å must be left out with boundary = "finite-field": there the '
        "field follows the potentials",
    ),
    (
        "NaN position",
        1,
        "positions[9] = [nan nan nan] Å must be finite: check the structure, or the time step of the run",
    ),
    (
        "NaN position",
        1,
        "positions[9] = [nan nan nan] Å must be finite: check the structure, or the time step of the run",
    ),
    ("NaN potential", 1, "potential = nan V must be one finite number: check the input"),
    (
        "coincident atoms",
        1,
        "distance of atoms 0 and 1 = 0 Å must exceed 0.001 Å: two atoms lie on one place; remove one of them",
    ),
    (
        "coincident atoms",
        1,
        "distance = 0 Å of atoms 0 and 1 must be above 0.001 Å: move one of the coincident atoms",
    ),
    (
        "coincident waters",
        1,
        "oxygens bonded to atom 9 (H) = 2 must be 1 (within 1.26 Å): complete the water molecule or "
        "remove the atom",
    ),
    (
        "negative width",
        1,
        "smearing = -0.4 Å must be greater than zero on solved atoms: a point charge has no finite "
        "self-energy; 0.392 Å is usual for gold",
    ),
    (
        "negative width",
        1,
        "smearing = -0.4 Å must be greater than zero on solved atoms: a point charge has no finite "
        "self-energy; 0.392 Å is usual for gold",
    ),
    (
        "zero width",
        1,
        "smearing = 0 Å must be greater than zero on solved atoms: a point charge has no finite "
        "self-energy; 0.392 Å is usual for gold",
    ),
    (
        "zero width",
        1,
        "smearing = 0 Å must be greater than zero on solved atoms: a point charge has no finite "
        "self-energy; 0.392 Å is usual for gold",
    ),
    (
        "width beyond the cut-off",
        1,
        "cutoff = 6 Å must be at least 20 Å for the widest Gaussian, smearing = 2 Å: increase the "
        "cut-off, leave it out, or narrow the Gaussian",
    ),
    (
        "not neutral",
        1,
        "electrode charges + electrolyte charges = 2 + 0 e must equal total_charge = 0 e: change a "
        "held charge or total_charge, or hold one electrode at a potential",
    ),
    (
        "not neutral",
        1,
        "electrode charges + electrolyte charges = 2 + 0 e must equal total_charge = 0 e: change a "
        "held charge or total_charge, or hold one electrode at a potential",
    ),
    (
        "not neutral in a field",
        1,
        "sum of charges = 1 e must be zero with a field: the energy would depend on the origin; add "
        "counter charges",
    ),
    (
        "element without parameters",
        1,
        "element = Xe of atom 8 must be one of H, O, Na, Cl, Ag, Al, Au, Cu, Ni, Pb, Pd, Pt: remove "
        "the atom or pass explicit tables to ClassicalForceField",
    ),
    (
        "element without parameters",
        1,
        "element = Xe of atom 8 must be one of H, O, Na, Cl, Ag, Al, Au, Cu, Ni, Pb, Pd, Pt: remove "
        "the atom or pass explicit tables to ClassicalForceField",
    ),
    ("no element", 1, "structure = cell.extxyz, atom 8 must be an element, not X: correct its symbol"),
    ("no element", 1, "structure.file = cell.extxyz, atom 8 must be an element, not X: correct its symbol"),
    (
        "cell of zero volume",
        1,
        "cell volume = 0 Å³ must be positive with boundary slab: give three independent cell vectors",
    ),
    (
        "cell of zero volume",
        1,
        "cell volume = 0 Å³ must be positive with boundary slab: give three independent cell vectors",
    ),
    (
        "structure cut off",
        1,
        "structure = cell.extxyz must be a complete structure file that ASE reads: its last line is "
        "cut off; write or copy it again",
    ),
    (
        "structure cut off in a number",
        1,
        "structure.file = cell.extxyz must be a complete structure file that ASE reads: its last line"
        " is cut off; write or copy it again",
    ),
    (
        "structure empty",
        1,
        "structure = cell.extxyz must be a complete structure file that ASE reads: its last line is "
        "cut off; write or copy it again",
    ),
    (
        "trajectory cut off",
        1,
        "trajectory = cell.extxyz must be complete: after 0 frames ASE cannot read on (ase.io.extxyz:"
        " Frame has 15 atoms, expected 23); continue the run with restart, which repairs its end, or "
        "remove the last frame",
    ),
    (
        "configuration cut off",
        1,
        "structure = nothing must be given: add the key `structure`\ndynamics.produce = 'ens' must be"
        " a block of keys: write the keys below it, indented",
    ),
    (
        "configuration cut off",
        1,
        "config = run.yaml, line 10, column 9 must be YAML: could not find expected ':'; check the "
        "indentation, colons and quotes there",
    ),
    (
        "checkpoint cut off",
        1,
        "checkpoint = md.checkpoint.npz must be a complete file of `grahame run`: it is damaged; "
        "start again under another output.name",
    ),
    (
        "run exists",
        1,
        "output = md.checkpoint.npz must not exist yet: continue that run with restart, choose "
        "another output.name, or set output.overwrite: true",
    ),
    (
        "restart with another configuration",
        1,
        "config = changed in dynamics.produce.timestep_fs must equal that of the "
        "checkpoint: change it back, or start a new run under another output.name",
    ),
    ("no such file", 1, "config = other.yaml must be a file: give the path of a YAML configuration"),
    ("no such file", 1, "structure = other.xyz must be a file: give the path of a structure that ASE reads"),
    ("no such file", 1, "trajectory = other.xyz must be a file: give the path of a trajectory"),
    (
        "no such file",
        1,
        "structure.file = other.xyz must be a file: give a path relative to the configuration",
    ),
    (
        "not a structure",
        1,
        "structure = run.yaml must be a complete structure file that ASE reads: yaml; check that it "
        "is not cut off and that its name ends with its format",
    ),
    ("unknown option", 2, "option = --potental must be one of grahame solve: did you mean --potential?"),
    (
        "unreadable option",
        1,
        "potential = zero must be N=value: write e.g. --potential 0=1.0 for electrode 0, in V",
    ),
    ("unreadable option", 2, "--gap = wide must be a valid number: see `grahame build --help`"),
    (
        "gap too narrow",
        1,
        "gap = 3 Å must be at least 5.4 Å, which leaves room for one layer of water: widen the gap",
    ),
    (
        "too dense",
        1,
        "water_density = 1.908 g/cm³ with 1 ion pairs must leave the molecules their smallest "
        "distances: 67 molecules do not fit between z = 7.7 and 14.3 Å; widen the gap, or lower the "
        "density or the concentration",
    ),
    (
        "density in kg/m³",
        1,
        "water_density = 997.001 g/cm³ (370419 molecules in 11114 Å³) must be at most 2 g/cm³, as no liquid water is "
        "denser: give g/cm³, or fewer molecules",
    ),
    (
        "density twice",
        1,
        "density = 1 must be left out beside --waters 50: one of them says it; give one",
    ),
    ("file exists", 1, "output = cell.extxyz must not exist yet: choose another name or add --overwrite"),
    ("no such folder", 1, "output = new/cell.extxyz must be in an existing folder: create new first"),
    (
        "unknown format",
        1,
        "output = new.nonsense must end with a format that ASE writes (nonsense): use e.g. new.extxyz",
    ),
]


@pytest.mark.parametrize(
    ("case", "expected"),
    list(zip(bad_inputs.CASES, ANSWERS, strict=True)),
    ids=[f"{k} {n}" for n, (k, _, _) in enumerate(ANSWERS)],
)
def test_wrong_input_is_refused_in_one_sentence_and_leaves_nothing(
    case: object, expected: tuple[str, int, str]
) -> None:
    status, message, changed = bad_inputs.answer(case)
    assert (case.kind, status, message) == expected  # type: ignore[attr-defined]
    assert changed == []


def test_the_right_input_that_the_cases_start_from_is_accepted() -> None:
    for command in (bad_inputs.SOLVE, bad_inputs.MD):
        status, said, _ = bad_inputs.answer(bad_inputs.Case("right", command))
        assert (status, "must" in said) == (0, False)
