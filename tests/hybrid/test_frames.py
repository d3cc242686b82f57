"""Frames from files: labels, ensembles, and the sentence for each thing that is wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import fcc111, molecule
from ase.io import write

from grahame.hybrid.frames import LABELS, Frame, make_batch
from grahame.hybrid.reading import BadFrames, Problem, Reading, make_frame, read_frames
from tests.hybrid.model_cells import batch_of, make_model, water_box

FORMAL = {"H": 1.0, "O": -2.0, "Na": 1.0}
EMPTY: dict[str, str] = {}


def water(**info: Any) -> Atoms:
    atoms: Atoms = molecule("H2O")
    atoms.info |= {"REF_energy": -3.0, "total_charge": 0.0} | info
    atoms.arrays["REF_forces"] = np.arange(9.0).reshape(3, 3)
    return atoms


def slab(*others: str) -> Atoms:
    """Four gold atoms and some single atoms above, vacuum on both sides."""
    atoms: Atoms = fcc111("Au", (2, 2, 1), vacuum=8.0)
    for k, symbol in enumerate(others):
        atoms += Atoms(symbol, [(1.0 + 2.0 * k, 1.0, 11.0)])
    atoms.pbc = True
    atoms.info["total_charge"] = 0.0
    return atoms


def refused(atoms: Atoms, **reading: Any) -> str:
    with pytest.raises(ValueError, match="must") as error:
        make_frame(atoms, Reading(**({"keys": EMPTY} | reading)))
    return str(error.value)


def test_labels_are_read_under_the_names_of_the_file() -> None:
    frame = make_frame(water(), Reading({"energy": "REF_energy", "forces": "REF_forces"}), "a.xyz", 4)
    assert frame.labels["energy"] == -3.0
    np.testing.assert_array_equal(frame.labels["forces"], np.arange(9.0).reshape(3, 3))
    assert (frame.conditions.boundary, frame.pbc, frame.name) == ("open", (False,) * 3, "a.xyz, frame 4")


def test_labels_of_a_calculator_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.extxyz"
    path.write_text(
        '1\nLattice="5 0 0 0 5 0 0 0 5" Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.5 '
        'stress="1 2 3 2 4 5 3 5 6" total_charge=0 pbc="T T T"\nNa 0 0 0 0.1 0.2 0.3\n'
    )
    (frame,) = read_frames(path, Reading({"energy": "energy", "forces": "forces", "stress": "stress"}))
    assert frame.labels["energy"] == -1.5
    np.testing.assert_allclose(frame.labels["stress"], [[1, 2, 3], [2, 4, 5], [3, 5, 6]])
    assert (frame.conditions.boundary, frame.pbc) == ("3d", (True,) * 3)


def test_born_charges_have_the_force_first() -> None:
    atoms = water()
    atoms.arrays["bec"] = np.arange(27.0).reshape(3, 9)
    given = atoms.arrays["bec"].reshape(3, 3, 3)
    for transposed in (False, True):
        frame = make_frame(atoms, Reading({"born": "bec"}, born_transposed=transposed))
        np.testing.assert_array_equal(frame.labels["born"], given.swapaxes(1, 2) if transposed else given)


def test_missing_labels_are_nan_in_a_batch() -> None:
    one = make_frame(water(), Reading({"energy": "REF_energy"}))
    two = make_frame(water(), Reading({"forces": "REF_forces"}))
    batch = make_batch([one, two], ["O", "H"], 2.0)
    assert set(batch.labels) == set(LABELS)
    assert batch.labels["energy"].isnan().tolist() == [False, True]
    assert batch.labels["forces"].isnan().all(1).tolist() == [True] * 3 + [False] * 3
    assert batch.graph.species.tolist() == [0, 1, 1] * 2
    assert batch.atoms.tolist() == [3.0, 3.0]
    assert torch.equal(batch.numbers, torch.tensor([8, 1, 1] * 2))


def test_neighbours_are_found_once() -> None:
    frame = make_frame(water(), Reading(EMPTY))
    assert frame.pairs(2.0) is frame.pairs(2.0)
    assert len(frame.pairs(2.0).i) == 3


def test_the_metal_takes_what_the_rest_leaves_over() -> None:
    reading = Reading(EMPTY, electrode_elements=("Au",), formal=FORMAL, boundary="slab")
    frame = make_frame(slab("Na"), reading)
    (electrode,) = frame.conditions.electrodes
    assert electrode.charge == -1.0
    assert electrode.indices.tolist() == [0, 1, 2, 3]
    assert frame.pbc == (True, True, False)
    assert make_batch([frame], ["Na", "Au"], 3.0).graph.solved.tolist() == [True] * 4 + [False]


def test_with_exchange_across_the_boundary_the_solver_takes_the_rest() -> None:
    reading = Reading(
        EMPTY, electrode_elements=("Au",), formal=FORMAL, boundary="slab", boundary_transfer=True
    )
    (electrode,) = make_frame(slab("Na"), reading).conditions.electrodes
    assert (electrode.potential, electrode.charge) == (0.0, None)


def test_constrained_electrodes_keep_their_charges() -> None:
    atoms = slab()
    atoms.arrays["electrode"] = np.array([0, 0, 1, 1])
    atoms.info["electrode_charge"] = np.array([0.5, -0.5])
    found = make_frame(
        atoms, Reading(EMPTY, electrode_groups="electrode", boundary="slab")
    ).conditions.electrodes
    assert [(e.charge, e.indices.tolist()) for e in found] == [(0.5, [0, 1]), (-0.5, [2, 3])]
    del atoms.info["electrode_charge"]
    (joined,) = make_frame(
        atoms, Reading(EMPTY, electrode_groups="electrode", boundary="slab")
    ).conditions.electrodes
    assert (len(joined), joined.charge) == (4, 0.0)


def test_fragments_follow_bonds_and_carry_their_charges() -> None:
    atoms = Atoms("NaOHH", [(6, 0, 0), (0, 0, 0), (0.96, 0, 0), (-0.24, 0.93, 0)])
    atoms.info |= {"total_charge": 1.0, "ion": 1.0, "rest": 0.0}
    frame = make_frame(atoms, Reading(EMPTY, fragments="connected", fragment_charges=("ion", "rest")))
    assert frame.conditions.fragments is not None
    assert frame.conditions.fragments.tolist() == [0, 1, 1, 1]
    assert frame.conditions.fragment_charges is not None
    assert frame.conditions.fragment_charges.tolist() == [1.0, 0.0]


def test_fields_are_read_as_vectors_or_along_the_normal() -> None:
    atoms = slab()
    atoms.info["E_vac"] = 0.02
    reading = Reading(EMPTY, electrode_elements=("Au",), boundary="slab", field_key="E_vac")
    assert make_frame(atoms, reading).conditions.field == (0.0, 0.0, 0.02)
    atoms.info |= {"external_field": np.array([0.0, 0.0, 0.01]), "field_kind": "D", "field_unit": "a.u."}
    conditions = make_frame(
        atoms, Reading(EMPTY, electrode_elements=("Au",), boundary="displacement")
    ).conditions
    assert conditions.field is None
    assert conditions.displacement == pytest.approx(0.51422, abs=1e-5)


def test_frames_are_selected_by_pattern(tmp_path: Path) -> None:
    write(tmp_path / "a.xyz", [water(calc=c) for c in ("ref_lo", "task_1", "task_2")])
    chosen = read_frames(tmp_path / "a.xyz", Reading(EMPTY, select={"calc": ("task_*",)}))
    assert [f.index for f in chosen] == [1, 2]


REFUSALS: list[tuple[Atoms, dict[str, Any], str]] = [
    (
        water(),
        {"keys": {"forces": "REF_force"}},
        "forces = nothing under the key REF_force must be given: did you mean REF_forces?",
    ),
    (
        water(),
        {"keys": {"charges": "REF_forces"}},
        "charges = REF_forces must be 1 numbers per atom: it has another shape",
    ),
    (
        Atoms("Na", info={}),
        {},
        "total_charge = nothing must be given, it is required: add the key",
    ),
    (
        Atoms("Na", cell=[5, 5, 5], pbc=True, info={"total_charge": 1}),
        {},
        "countercharge = nothing must be given, the cell has total_charge = 1 e: add the key, one of explicit_ions, "
        "uniform_background, planar_gate, jellium_slab, poisson_boltzmann, none",
    ),
    (
        Atoms("Na", cell=[5, 5, 5], pbc=True, info={"total_charge": 1, "countercharge": "planar_gate"}),
        {},
        "countercharge = planar_gate must be one of explicit_ions, uniform_background, none: there is no term for it; "
        "leave the frame out",
    ),
    (
        Atoms("Na", cell=[5, 5, 0], pbc=True, info={"total_charge": 0}),
        {},
        "cell = [[5.0, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.0, 0.0]] Å must span a volume: boundary 3d repeats it",
    ),
    (
        Atoms("Na", cell=[5, 5, 5], pbc=(True, False, False), info={"total_charge": 0}),
        {},
        "pbc = (True, False, False) must be periodic everywhere, nowhere, or along a and b: state the boundary",
    ),
    (
        Atoms("Na", [(np.nan, 0, 0)], info={"total_charge": 0}),
        {},
        "positions = NaN or infinity must be finite: remove the frame",
    ),
    (
        Atoms("OH", [(1, 1, 0.3), (1, 1, 9.4)], cell=[5, 5, 10], pbc=True, info={"total_charge": 0}),
        {"boundary": "slab"},
        "atoms 0 and 1 must not be bonded across the face of the cell along z, which does not repeat in a slab: shift "
        "the frame so that the vacuum lies there",
    ),
    (
        water(potential=[1.0]),
        {},
        "potential_reference = nothing must be given, a potential has a meaning on a scale only: add the key, one of "
        "vacuum, SHE, RHE+pH, PZC, internal",
    ),
    (
        water(external_field=[0.0, 0.0, 0.1], field_kind="E"),
        {},
        "field_unit = nothing must be given, there is an external_field: add the key, one of V/Å, a.u.",
    ),
]


@pytest.mark.parametrize(("atoms", "reading", "sentence"), REFUSALS)
def test_what_is_wrong_is_said(atoms: Atoms, reading: dict[str, Any], sentence: str) -> None:
    assert refused(atoms, **reading) == sentence


def test_several_faults_of_a_frame_are_all_said() -> None:
    atoms = water(total_charge=None)
    assert refused(atoms, keys={"energy": "E", "forces": "REF_forces"}).splitlines() == [
        "total_charge = nothing must be given, it is required: add the key",
        "energy = nothing under the key E must be given: the keys there are REF_energy, total_charge",
    ]


def test_a_cut_file_is_named_with_its_frame(tmp_path: Path) -> None:
    path = tmp_path / "cut.xyz"
    write(path, [water(), water()])
    text = path.read_text()
    path.write_text(text[:-60])
    with pytest.raises(ValueError, match="cut") as error:
        read_frames(path, Reading(EMPTY))
    assert "\ncut.xyz, frame 1: cannot be read (" in str(error.value)
    assert "frame 0" not in str(error.value)
    path.write_text(text.rstrip()[:-2])
    with pytest.raises(ValueError, match="cut") as error:
        read_frames(path, Reading(EMPTY))
    assert str(error.value) == (
        "frames = 1 bad ones must be corrected or left out:\n"
        "cut.xyz, frame 1: its last line has no end: the file is cut here"
    )


def test_bad_frames_beyond_those_shown_are_kept(tmp_path: Path) -> None:
    write(tmp_path / "a.xyz", [water(total_charge=np.nan) for _ in range(53)])
    with pytest.raises(BadFrames) as error:
        read_frames(tmp_path / "a.xyz", Reading(EMPTY))
    first, *lines = str(error.value).splitlines()
    assert first == "frames = 53 bad ones must be corrected or left out:"
    assert lines[49:] == [
        "a.xyz, frame 49: total_charge = nan must be finite: correct the key",
        "... and 3 more: add --json to list all of them",
    ]
    assert [p.index for p in error.value.problems] == list(range(53))


@pytest.mark.parametrize(
    ("arrays", "named", "sentence"),
    [
        ({"fc": [np.nan, 0.0, 0.0]}, {"formal_charges": "fc"}, "formal_charges = fc must be finite: it holds NaN or infinity"),
        (
            {"fc": np.zeros((3, 2))},
            {"formal_charges": "fc"},
            "formal_charges = fc must be one number per atom: it has another shape",
        ),
        ({"fc": ["a", "b", "c"]}, {"formal_charges": "fc"}, "formal_charges = fc must be numbers: correct the key"),
        (
            {"g": [-1.0, 0.5, 0.0]},
            {"electrode_groups": "g"},
            "electrode_groups = g must be whole numbers, -1 for none: correct the array",
        ),
    ],
)  # fmt: skip
def test_arrays_that_cannot_be_meant_are_refused(
    arrays: dict[str, Any], named: dict[str, Any], sentence: str
) -> None:
    atoms = water()
    for key, values in arrays.items():
        atoms.set_array(key, np.array(values))
    assert refused(atoms, **named) == sentence


def test_atoms_of_no_element_and_frames_of_no_atom_are_refused() -> None:
    atoms = water()
    atoms.numbers[2] = 0
    assert refused(atoms) == "atom 2 = X must be an element: correct its symbol"
    assert refused(Atoms()) == "atoms = 0 must be at least one: leave the frame out"


def test_an_electrode_of_no_element_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.xyz", water())
    with pytest.raises(ValueError, match="symbol") as error:
        read_frames(tmp_path / "a.xyz", Reading(EMPTY, electrode_elements=("au",)))
    assert str(error.value) == "electrode_elements = au must be a chemical symbol: did you mean Au?"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        read_frames(tmp_path / "no.xyz")
    assert (
        str(error.value)
        == f"file = {tmp_path / 'no.xyz'} must be a file: give the path of frames that ASE reads"
    )


def test_unknown_elements_and_empty_batches_are_refused() -> None:
    frame = make_frame(water(), Reading(EMPTY), "a.xyz", 2)
    with pytest.raises(ValueError, match="one of") as error:
        make_batch([frame], ["H", "C"], 2.0)
    assert str(error.value) == "a.xyz, frame 2, atom 0 = O must be one of H, C: train a model that knows it"
    with pytest.raises(ValueError, match="at least") as error:
        make_batch([], ["H"], 2.0)
    assert str(error.value) == "frames = [] must hold at least one frame: check the files and the selection"


def test_frames_compare_by_what_they_hold() -> None:
    frame = make_frame(water(), Reading(EMPTY))
    assert isinstance(frame, Frame)
    assert len(frame) == 3


def test_beside_electrodes_the_charge_of_the_cell_is_theirs() -> None:
    for waters in (1, 2):
        atoms = slab()
        for k in range(waters):
            molecule_ = molecule("H2O")
            molecule_.translate([1.0 + 3.0 * k, 1.0, 14.0] - molecule_.positions[0])
            atoms += molecule_
        atoms.info |= {"total_charge": 1.0, "countercharge": "none"}
        atoms.arrays["electrode"] = np.where(atoms.numbers == 79, 0, -1)
        for named in ({"electrode_elements": ("Au",)}, {"electrode_groups": "electrode"}):
            held = make_frame(
                atoms, Reading(EMPTY, fragments="connected", boundary="slab", **named)
            ).conditions
            assert held.fragments is not None
            assert held.fragment_charges is not None
            assert held.fragments[:4].tolist() == [-1] * 4
            assert held.fragment_charges.tolist() == [0.0] * waters
            assert [e.charge for e in held.electrodes] == [1.0]
    free = molecule("H2O")
    free.info["total_charge"] = 1.0
    found = make_frame(free, Reading(EMPTY, fragments="connected")).conditions
    assert found.fragment_charges is not None
    assert found.fragment_charges.tolist() == [1.0]


def test_a_displacement_is_taken_along_the_normal() -> None:
    atoms = slab()
    atoms.info |= {"external_field": np.array([0.0, 0.0, 0.1]), "field_kind": "D", "field_unit": "V/Å"}
    reading = Reading(EMPTY, electrode_elements=("Au",), boundary="displacement")
    assert make_frame(atoms, reading).conditions.displacement == pytest.approx(0.1)
    # Left-handed: n = a x b points down.
    turned = atoms.copy()
    turned.cell = np.array(atoms.cell)[[1, 0, 2]]
    turned.info = dict(atoms.info)
    assert make_frame(turned, reading).conditions.displacement == pytest.approx(-0.1)
    atoms.info["external_field"] = np.array([0.1, 0.0, 0.1])
    assert refused(atoms, electrode_elements=("Au",), boundary="displacement") == (
        "external_field = [0.1, 0.0, 0.1] V/Å must be parallel to the surface normal with field_kind D: only that component is "
        "held"
    )


KIND = "correct one of the two, or ignore the key where it is not about the label that is read"
KINDS: list[tuple[dict[str, Any], str, str]] = [
    (
        {"energy_kind": "E", "potential": [1.0], "potential_reference": "internal"},
        "slab",
        f"energy_kind = E must be Omega with electrodes held at potentials: {KIND}",
    ),
    (
        {"energy_kind": "Omega"},
        "slab",
        f"energy_kind = Omega must be E without electrodes held at potentials: {KIND}",
    ),
    (
        {"energy_kind": "E", "external_field": [0.0, 0.0, 0.1], "field_kind": "E", "field_unit": "V/Å"},
        "slab",
        f"energy_kind = E must be enthalpy in a field, whose -E.M is counted: {KIND}",
    ),
    (
        {"born_kind": "at_psi"},
        "slab",
        f"born_kind = at_psi must go with what electrodes are held at, here charges: {KIND}",
    ),
    (
        {"born_kind": "at_Q", "potential": [1.0], "potential_reference": "internal"},
        "slab",
        f"born_kind = at_Q must go with what electrodes are held at, here potentials: {KIND}",
    ),
    (
        {"born_kind": "at_D"},
        "3d",
        f"born_kind = at_D must go with the boundary, here 3d: there another field is held; {KIND}",
    ),
    (
        {"dipole_correction": True},
        "3d",
        "dipole_correction = true must go with boundary slab, not 3d: without its field the vacuum is part of another cell; "
        "state the boundary",
    ),
    (
        {"slab_axis": "x"},
        "slab",
        "slab_axis = x must be z with boundary slab: reorder the cell so that its third vector leaves the surface",
    ),
]


@pytest.mark.parametrize(("info", "boundary", "sentence"), KINDS)
def test_labels_of_another_kind_are_refused(info: dict[str, Any], boundary: str, sentence: str) -> None:
    atoms = slab()
    atoms.info |= {"E": -3.0} | info
    atoms.arrays["response"] = np.zeros((4, 3))
    reading = {
        "keys": {"energy": "E", "field_response": "response"}, "electrode_elements": ("Au",), "boundary": boundary
    }  # fmt: skip
    assert refused(atoms, **reading) == sentence
    ignored = tuple(k for k in info if k in ("energy_kind", "born_kind", "slab_axis", "dipole_correction"))
    make_frame(atoms, Reading(**reading, ignore=ignored))


@pytest.mark.parametrize(
    "info",
    [
        {"energy_kind": "Omega", "potential": [1.0], "potential_reference": "internal"},
        {"energy_kind": "E", "electrode_charge": [0.0]},
        {"energy_kind": "enthalpy", "external_field": [0, 0, 0.1], "field_kind": "E", "field_unit": "V/Å"},
        {"energy_kind": "E"},
    ],
)
def test_labels_of_the_right_kind_are_read(info: dict[str, Any]) -> None:
    atoms = slab()
    atoms.info |= {"E": -3.0} | info
    make_frame(atoms, Reading({"energy": "E"}, electrode_elements=("Au",), boundary="slab"))


@pytest.mark.parametrize("boundary", ["3d", "slab"])
@pytest.mark.parametrize("fragments", ["connected", "molecule"])
def test_predictions_for_fragments_do_not_depend_on_the_images_in_the_file(
    boundary: str, fragments: str
) -> None:
    model, atoms = make_model(charges={"kind": "projected"}), water_box()
    atoms.info["total_charge"] = 0.0
    atoms.arrays["molecule"] = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 4])
    atoms.info |= {"fq": np.array([0.0, 0.0, 0.0, 1.0, -1.0])}
    atoms.pbc = (True, True, boundary == "3d")
    atoms.positions += 0.5 * np.array(atoms.cell)[0]
    # Two ions that belong together, though no bond joins them.
    if fragments == "molecule":
        atoms.arrays["molecule"][10], atoms.info["fq"] = 3, np.zeros(4)
        atoms.positions[10] = atoms.positions[9] + [1.8, 1.7, 1.9]
    reading = Reading(EMPTY, fragments=fragments, fragment_charges=("fq",))
    rng, found = np.random.default_rng(4), []
    for wrapped in (False, True):
        other = atoms.copy()
        if wrapped:
            steps = rng.integers(-2, 3, (len(other), 3)) * other.pbc
            other.positions += steps @ np.array(other.cell)
        read = make_frame(other, reading)
        found.append(model.predict(batch_of(model, read), born=True))
        moved = (read.positions - other.positions) @ np.linalg.inv(np.array(other.cell))
        np.testing.assert_allclose(moved, np.round(moved), atol=1e-9)
        if not wrapped:
            assert not np.round(moved).any()
    kept, other = found
    assert kept.born is not None
    assert other.born is not None
    torch.testing.assert_close(other.born, kept.born, rtol=0.0, atol=1e-9)
    steps = (other.dipole - kept.dipole)[0].numpy() @ np.linalg.inv(np.array(atoms.cell))
    # Ions carry whole charges: theirs is the freedom to lie in any cell.
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-9)
    if fragments == "molecule":
        np.testing.assert_allclose(steps, 0.0, atol=1e-9)


def test_a_fragment_without_end_stays_as_it_is() -> None:
    chain = Atoms("C2H4", cell=[2.5, 9.0, 9.0], pbc=True)
    chain.positions[:2] = [[0.1, 4.0, 4.0], [1.35, 4.8, 4.0]]
    chain.positions[2:] = chain.positions[[0, 0, 1, 1]] + [
        [0, -0.6, 0.9],
        [0, -0.6, -0.9],
        [0, 0.6, 0.9],
        [0, 0.6, -0.9],
    ]
    chain.positions[5] += [0.0, 9.0, 0.0]
    chain.info["total_charge"] = 0.0
    read = make_frame(chain, Reading(EMPTY, fragments="connected"))
    np.testing.assert_array_equal(read.positions, chain.positions)


def test_a_key_without_a_value_is_no_energy(tmp_path: Path) -> None:
    path = tmp_path / "a.extxyz"
    path.write_text("1\nProperties=species:S:1:pos:R:3 REF_energy total_charge=0\nNa 0 0 0\n")
    problems: list[Problem] = []
    assert not read_frames(path, Reading({"energy": "REF_energy"}), problems)
    assert [p.text for p in problems] == [
        "energy = REF_energy must be a number: the file names it without a value",
    ]


@pytest.mark.parametrize("kind", ["molecule", "flat slab"])
def test_a_stress_needs_a_volume(kind: str) -> None:
    atoms = water()
    if kind == "flat slab":
        atoms.cell, atoms.pbc = [[9.0, 0, 0], [0, 9.0, 0], [0, 0, 0]], (True, True, False)
    atoms.info["stress"] = np.diag([0.1, 0.0, 0.0])
    assert refused(atoms, keys={"stress": "stress"}) == (
        "stress = given must be left out: a cell without volume has none; give the cell vectors, or remove the label from the "
        "frame and name it in `optional`"
    )


@pytest.mark.parametrize("cell", [[0.0, 0.0, 0.0], [9.0, 9.0, 9.0]])
def test_zeros_are_no_stress_of_a_molecule(cell: list[float]) -> None:
    atoms = water(stress=np.zeros(6))
    atoms.cell = cell
    assert set(make_frame(atoms, Reading({"energy": "REF_energy", "stress": "stress"})).labels) == {"energy"}
    atoms.cell, atoms.pbc = [9.0, 9.0, 9.0], True
    assert "stress" in make_frame(atoms, Reading({"energy": "REF_energy", "stress": "stress"})).labels
