"""The classical force field of whole structures: derivatives, invariances, reproducible bits, refusals."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from grahame.hybrid.shortrange import ClassicalForceField, ShortRange
from tests.hybrid.classical_systems import TILTED, compute, mixture, numerical_force, numerical_virial

OPTIONS: list[dict[str, object]] = [
    {},
    {"truncation": "plain", "cutoff": 4.6},
    {"mixing": "geometric", "cutoff": 16.0, "switch_distance": 7.0},
    {"water": "spc/e-rigid", "electrode_lj": False},
]


def from_atoms(atoms: Atoms, **options: object) -> ClassicalForceField:
    return ClassicalForceField.from_atoms(atoms, **options)  # type: ignore[arg-type]


def test_it_is_a_short_range() -> None:
    assert isinstance(from_atoms(mixture()), ShortRange)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("pbc", [True, (True, True, False), False])
def test_forces_equal_minus_the_gradient(options: dict[str, object], pbc: object) -> None:
    atoms = mixture(seed=1, pbc=pbc)
    field = from_atoms(atoms, **options)
    forces = compute(field, atoms).forces
    np.testing.assert_allclose(forces.sum(0), 0, atol=1e-10)
    for atom, axis in ((0, 0), (3, 1), (4, 2), (5, 0), (15, 1), (16, 2), (19, 2)):
        assert numerical_force(field, atoms, atom, axis) == pytest.approx(forces[atom, axis], abs=1e-7)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_virial_equals_the_strain_derivative(options: dict[str, object]) -> None:
    atoms = mixture(seed=2)
    field = from_atoms(atoms, **options)
    virial = compute(field, atoms).virial
    assert virial is not None
    np.testing.assert_allclose(virial, virial.T, atol=0)
    np.testing.assert_allclose(virial, numerical_virial(field, atoms), atol=1e-7)


def test_no_virial_is_given_unless_asked_for() -> None:
    atoms = mixture()
    assert compute(from_atoms(atoms), atoms, stress=False).virial is None


def test_charges_and_exclusions_are_those_of_the_molecules() -> None:
    atoms = mixture()
    result = compute(from_atoms(atoms), atoms)
    water = [-0.82, 0.41, 0.41]
    np.testing.assert_allclose(result.charges, [0] * 3 + water * 4 + [1, -1] + [0] * 3, atol=1e-15)
    np.testing.assert_array_equal(result.smearing, np.zeros(20))
    pairs = {tuple(sorted(map(int, pair))) for pair in result.exclusions}
    assert pairs == {pair for o in (3, 6, 9, 12) for pair in ((o, o + 1), (o, o + 2), (o + 1, o + 2))}


def test_molecules_are_numbered_and_known_to_the_outside() -> None:
    field = from_atoms(mixture())
    expected = [0, 1, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6, 7, 8, 9, 10, 11]
    np.testing.assert_array_equal(field.molecules, expected)


def test_molecules_cut_by_a_boundary_are_whole() -> None:
    atoms = mixture(seed=3)
    whole = compute(from_atoms(atoms), atoms)
    cut = atoms.copy()
    cut.positions += 0.37 * TILTED.sum(0)
    cut.wrap()
    lengths = np.linalg.norm(cut.positions[[4, 5]] - cut.positions[3], axis=1)
    reference = compute(from_atoms(cut), cut)
    assert reference.energy == pytest.approx(whole.energy, abs=1e-10)
    np.testing.assert_allclose(reference.forces, whole.forces, atol=1e-10)
    np.testing.assert_allclose(reference.virial, whole.virial, atol=1e-9)
    scattered = atoms.copy()
    rng = np.random.default_rng(0)
    scattered.positions += rng.integers(-2, 3, (len(atoms), 3)) @ TILTED
    assert lengths.min() > 0.9
    assert compute(from_atoms(scattered), scattered).energy == pytest.approx(whole.energy, abs=1e-9)


def test_an_atom_wrapped_during_a_run_changes_nothing() -> None:
    atoms = mixture(seed=3)
    field = from_atoms(atoms)
    before = compute(field, atoms)
    atoms.positions[4] += TILTED[0] - TILTED[2]
    after = compute(field, atoms)
    assert after.energy == pytest.approx(before.energy, abs=1e-10)
    np.testing.assert_allclose(after.forces, before.forces, atol=1e-10)


def test_a_molecule_in_a_cell_smaller_than_the_cutoff_sees_its_images_but_not_itself() -> None:
    """A supercell of 2 x 2 x 2 has eight times the energy."""
    water = molecule("H2O", cell=[4.0, 4.2, 4.4], pbc=True)
    field = from_atoms(water, cutoff=9.0)
    large = water.repeat(2)
    single, eight = compute(field, water), compute(from_atoms(large, cutoff=9.0), large)
    assert eight.energy == pytest.approx(8 * single.energy, rel=1e-12)
    np.testing.assert_allclose(eight.virial, 8 * np.asarray(single.virial), atol=1e-9)
    np.testing.assert_allclose(eight.forces[:3], single.forces, atol=1e-11)


def test_excluded_pairs_of_a_small_cell_interact_with_their_further_images() -> None:
    """Explicit tables whose bonded atoms both carry Lennard-Jones, against the sum over images."""
    from grahame.hybrid.shortrange import ForceFieldTables

    cell = np.diag([4.0, 5.0, 6.0])
    atoms = Atoms("Ar2", positions=[[0.2, 0.1, 0.3], [3.9, 4.8, 0.9]], cell=cell, pbc=True)
    tables = ForceFieldTables(
        numbers=atoms.numbers,
        types=np.zeros(2, dtype=int),
        epsilon=np.array([0.01]),
        sigma=np.array([2.0]),
        charges=np.zeros(2),
        exclusions=np.array([[1, 0]]),
    )
    field = ClassicalForceField(tables, truncation="plain", cutoff=7.9)
    images = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3, indexing="ij"), -1).reshape(-1, 3) @ cell
    between = np.sort(np.linalg.norm(atoms.positions[1] - atoms.positions[0] + images, axis=1))[1:]
    own = np.linalg.norm(images, axis=1)
    own = own[own > 0]
    expected = 0.0
    for r in (between, own):
        s6 = (2.0 / r[r < 7.9]) ** 6
        expected += float(np.sum(4 * 0.01 * (s6 * s6 - s6)))
    assert compute(field, atoms).energy == pytest.approx(expected, rel=1e-12)


def test_electrode_pairs_can_be_left_out_without_changing_the_electrolyte() -> None:
    atoms = mixture(seed=4)
    full, bare = compute(from_atoms(atoms), atoms), compute(from_atoms(atoms, electrode_lj=False), atoms)
    metal = atoms[atoms.arrays["electrode"] >= 0]
    alone = compute(from_atoms(metal), metal)
    assert full.energy - bare.energy == pytest.approx(alone.energy, abs=1e-11)
    np.testing.assert_allclose(full.forces[3:17], bare.forces[3:17], atol=1e-12)


def test_electrodes_may_be_given_as_index_groups() -> None:
    atoms = mixture()
    electrode = atoms.arrays.pop("electrode")
    field = from_atoms(atoms, electrodes=[range(3), [17, 18, 19]])
    np.testing.assert_array_equal(field.tables.electrode, electrode)


@settings(max_examples=10, deadline=None)
@given(
    shift=st.tuples(*[st.floats(-30, 30)] * 3),
    turn=st.tuples(*[st.floats(-3, 3)] * 3),
    seed=st.integers(0, 1000),
)
def test_shift_rotation_and_order_do_not_matter(
    shift: tuple[float, ...], turn: tuple[float, ...], seed: int
) -> None:
    atoms = mixture(seed=5)
    expected = compute(from_atoms(atoms), atoms)
    rotation = Rotation.from_rotvec(turn).as_matrix()
    order = np.random.default_rng(seed).permutation(len(atoms))
    moved = atoms[order]
    moved.set_cell(TILTED @ rotation.T)
    moved.positions = moved.positions @ rotation.T + np.array(shift)
    found = compute(from_atoms(moved), moved)
    assert found.energy == pytest.approx(expected.energy, abs=1e-10)
    np.testing.assert_allclose(found.forces @ rotation, expected.forces[order], atol=1e-9)
    assert found.virial is not None
    assert expected.virial is not None
    np.testing.assert_allclose(rotation.T @ found.virial @ rotation, expected.virial, atol=1e-9)
    np.testing.assert_array_equal(found.charges, expected.charges[order])


def test_results_are_the_same_bits_for_any_number_of_threads_and_any_list() -> None:
    atoms = mixture(seed=6).repeat(4)
    field = from_atoms(atoms)
    rng = np.random.default_rng(1)
    for _ in range(3):
        atoms.positions += rng.uniform(-0.1, 0.1, atoms.positions.shape)
        reused = compute(field, atoms)
    assert field.neighbor_builds == 1
    fresh = compute(ClassicalForceField(field.tables), atoms)
    threads = torch.get_num_threads()
    found = []
    for number in (1, 3):
        torch.set_num_threads(number)
        found.append(compute(field, atoms))
    torch.set_num_threads(threads)
    for other in (fresh, *found):
        assert other.energy == reused.energy
        np.testing.assert_array_equal(other.forces, reused.forces)
        np.testing.assert_array_equal(other.virial, reused.virial)


def test_the_list_is_rebuilt_when_atoms_move_far() -> None:
    atoms = mixture(seed=6)
    field = from_atoms(atoms)
    rng = np.random.default_rng(1)
    for _ in range(5):
        atoms.positions += rng.uniform(-0.3, 0.3, atoms.positions.shape)
        reused = compute(field, atoms)
    assert field.neighbor_builds > 1
    tables = field.tables
    assert reused.energy == pytest.approx(compute(ClassicalForceField(tables), atoms).energy, abs=1e-12)


def test_a_restart_continues_with_the_same_list() -> None:
    atoms = mixture(seed=7)
    first = from_atoms(atoms)
    compute(first, atoms)
    atoms.positions += 0.2
    again = from_atoms(atoms)
    again.load_state(first.state())
    assert compute(again, atoms).energy == compute(first, atoms).energy
    assert again.neighbor_builds == first.neighbor_builds == 1


def test_the_description_is_ready_for_a_record() -> None:
    import json

    text = json.loads(json.dumps(from_atoms(mixture()).describe()))
    assert text["name"] == "classical"
    assert text["truncation"] == "force-switch"
    assert text["switch_distance_A"] == 8.0
    assert [(kind["element"], kind["atoms"]) for kind in text["types"]] == [
        ("O", 4),
        ("H", 8),
        ("Na", 1),
        ("Cl", 1),
        ("Au", 6),
    ]
    assert set(text["sources"]) == {"water", "Na", "Cl", "Au"}


def with_atom(symbol: str, position: object = (0.0, 0.0, 0.0)) -> Atoms:
    atoms = molecule("H2O")
    atoms.center(vacuum=5.0)
    atoms.pbc = True
    return atoms + Atoms(symbol, positions=[position])


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (
            with_atom("C"),
            "element = C of atom 3 must be one of H, O, Na, Cl, Ag, Al, Au, Cu, Ni, Pb, Pd, Pt: remove "
            "the atom or "
            "pass explicit tables to ClassicalForceField",
        ),
        (
            with_atom("H"),
            "oxygens bonded to atom 3 (H) = 0 must be 1 (within 1.26 Å): complete the water molecule or "
            "remove the "
            "atom",
        ),
        (
            with_atom("O"),
            "hydrogens bonded to atom 3 (O) = 0 must be 2 (within 1.26 Å): OH-, H3O+ and bare O have no "
            "parameters "
            "here, make it water or remove it",
        ),
        (
            Atoms("OH", positions=[[0, 0, 0], [0, 0, 1.0]]),
            "hydrogens bonded to atom 0 (O) = 1 must be 2 (within 1.26 Å): OH-, H3O+ and bare O have no "
            "parameters "
            "here, make it water or remove it",
        ),
        (
            Atoms("OH3", positions=[[0, 0, 0], [0, 0, 1.0], [0.9, 0, -0.4], [-0.9, 0, -0.4]]),
            "hydrogens bonded to atom 0 (O) = 3 must be 2 (within 1.26 Å): OH-, H3O+ and bare O have no "
            "parameters "
            "here, make it water or remove it",
        ),
        (
            Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.74]]),
            "distance = 0.740 Å of atoms 0 (H) and 1 (H) must be above 0.81 Å: only water has "
            "parameters here, "
            "remove H2 or move the atoms apart",
        ),
        (
            Atoms("OHO", positions=[[0, 0, 0], [0, 0, 1.2], [0, 0, 2.4]]),
            "oxygens bonded to atom 1 (H) = 2 must be 1 (within 1.26 Å): complete the water molecule or "
            "remove the "
            "atom",
        ),
    ],
)
def test_fragments_without_parameters_are_refused_by_name(atoms: Atoms, message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        from_atoms(atoms)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            [[0], [3]],
            "electrode 1 = atom 3 (O) must be one of Ag, Al, Au, Cu, Ni, Pb, Pd, Pt: take the atom out "
            "of the "
            "electrode or pass explicit tables to ClassicalForceField",
        ),
        (
            [[0, 1], [1, 2]],
            "electrodes[1] = atom 1 must be in one electrode only: take it out of electrode 0 or of "
            "electrode 1",
        ),
        (
            [[0], [20]],
            "electrodes[1] = atom 20 must be an index from 0 to 19: count atoms from 0 in the order of "
            "the structure",
        ),
    ],
)
def test_wrong_electrodes_are_refused(groups: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        from_atoms(mixture(), electrodes=groups)
    assert str(error.value) == message


def test_another_structure_than_the_topologys_is_refused() -> None:
    atoms = mixture()
    field = from_atoms(atoms)
    with pytest.raises(ValueError, match="shape") as error:
        compute(field, atoms[:19])
    assert str(error.value) == (
        "shape of positions = (19, 3) must be (20, 3): the topology is fixed when the force field is "
        "made, make a "
        "new one for another structure"
    )
    swapped = atoms.copy()
    swapped.numbers[[15, 16]] = swapped.numbers[[16, 15]]
    with pytest.raises(ValueError, match="element") as error:
        compute(field, swapped)
    assert str(error.value) == (
        "element of atom 15 = Cl must be Na as in the topology: make a new force field for another structure"
    )


def test_positions_that_are_not_numbers_are_refused() -> None:
    atoms = mixture()
    field = from_atoms(atoms)
    compute(field, atoms)
    atoms.positions[4, 1] = np.nan
    with pytest.raises(ValueError, match="finite") as error:
        compute(field, atoms)
    x = atoms.positions[4]
    assert str(error.value) == f"positions[4] = {x} Å must be finite: check the structure"


@pytest.mark.parametrize(("first", "second"), [(15, 16), (3, 4)])
def test_coincident_atoms_are_refused_by_name(first: int, second: int) -> None:
    atoms = mixture()
    field = from_atoms(atoms)
    compute(field, atoms)
    atoms.positions[second] = atoms.positions[first]
    with pytest.raises(ValueError, match="coincident") as error:
        compute(field, atoms)
    assert str(error.value) == (
        f"distance = 0 Å of atoms {first} and {second} must be above 0.001 Å: move one of the "
        f"coincident atoms"
    )
