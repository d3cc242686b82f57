"""One charge solve of a structure: the same numbers as the library, boundaries that agree, named refusals."""

from typing import Any

import numpy as np
import pytest
from ase import Atoms

from grahame.electrostatics import ConstantPotential, Coulomb, Electrode
from grahame.hybrid import HybridCalculator
from grahame.hybrid.build import build_cell
from grahame.hybrid.shortrange.classical import ClassicalForceField
from grahame.hybrid.shortrange.learned import LearnedShortRange
from grahame.hybrid.solve import solve_structure
from tests.hybrid.model_cells import make_model, slab


def salt_cell(**options: Any) -> Atoms:
    """Two small gold electrodes with water and one ion pair."""
    return build_cell("Au111", (2, 4, 2), 14.0, waters=20, ion_pairs=1, seed=2, **options)


def test_a_solve_gives_the_numbers_of_the_library() -> None:
    atoms = salt_cell()
    report = solve_structure(atoms, potentials={0: -0.5, 1: 1.0}, method="ewald", smearing=0.5)
    groups = [np.flatnonzero(atoms.arrays["electrode"] == g) for g in (0, 1)]
    field = ClassicalForceField.from_atoms(atoms, [g.tolist() for g in groups])
    electrodes = [Electrode(groups[0], potential=-0.5), Electrode(groups[1], potential=1.0)]
    solver = ConstantPotential(electrodes, Coulomb("slab", method="ewald", accuracy=1e-6), smearing=0.5)
    direct = solver.solve(atoms.positions, field.charges, atoms.cell.array, exclusions=field.exclusions)
    np.testing.assert_allclose(report.electrode_charges, direct.electrode_charges, rtol=1e-12)
    np.testing.assert_allclose(report.charges, direct.charges, rtol=1e-12)
    assert report.energy == pytest.approx(direct.energy, rel=1e-12)
    assert report.energy == pytest.approx(report.internal_energy - report.work, abs=1e-10)
    assert (report.boundary, report.charges_from, report.atoms) == ("slab", "classical", [16, 16])
    assert sum(report.electrode_charges) == pytest.approx(0.0, abs=1e-10)


def test_capacitance_is_the_response_of_the_charges() -> None:
    atoms = salt_cell()
    low, high = (solve_structure(atoms, potentials={0: 0.0, 1: v}, accuracy=1e-8) for v in (0.0, 1.0))
    response = np.subtract(high.electrode_charges, low.electrode_charges)
    np.testing.assert_allclose(response, np.array(low.capacitance)[:, 1], rtol=1e-6)


def test_slab_and_finite_field_agree_on_thick_electrodes() -> None:
    flat, periodic = (
        build_cell("Au111", (2, 4, 3), 14.0, waters=20, ion_pairs=1, seed=2, periodic=p)
        for p in (False, True)
    )
    held = {0: 0.0, 1: 1.5}
    slab, field = (solve_structure(a, potentials=held, accuracy=1e-7) for a in (flat, periodic))
    assert (slab.boundary, field.boundary) == ("slab", "finite-field")
    # Three layers let a little of the field leak through.
    np.testing.assert_allclose(slab.electrode_charges, field.electrode_charges, rtol=1e-4)


def test_a_held_charge_comes_back_with_its_potential() -> None:
    atoms = salt_cell()
    by_potential = solve_structure(atoms, potentials={0: 0.0, 1: 1.0}, accuracy=1e-9)
    by_charge = solve_structure(
        atoms, potentials={0: 0.0}, charges={1: by_potential.electrode_charges[1]}, accuracy=1e-9
    )
    assert by_charge.potentials[1] == pytest.approx(1.0, abs=1e-6)


def test_charges_of_the_file_are_used_where_it_has_some() -> None:
    atoms = salt_cell()
    reference = solve_structure(atoms, potentials={0: 0.0, 1: 1.0})
    field = ClassicalForceField.from_atoms(atoms)
    atoms.set_initial_charges(field.charges)
    from_file = solve_structure(atoms, potentials={0: 0.0, 1: 1.0})
    assert from_file.charges_from == "file"
    np.testing.assert_allclose(from_file.electrode_charges, reference.electrode_charges, atol=1e-7)
    explicit = solve_structure(atoms, potentials={0: 0.0, 1: 1.0}, force_field=field)
    assert explicit.energy == pytest.approx(reference.energy, rel=1e-9)


def test_atoms_on_the_wrong_side_of_the_boundary_are_brought_back() -> None:
    atoms = build_cell("Au111", (2, 4, 3), 14.0, waters=20, ion_pairs=1, seed=2, periodic=True)
    whole = solve_structure(atoms, potentials={0: 0.0, 1: 1.0})
    shifted = atoms.copy()
    first_layer = atoms.positions[:, 2] < 2.0
    shifted.positions[first_layer] += shifted.cell[2]
    moved = solve_structure(shifted, potentials={0: 0.0, 1: 1.0})
    np.testing.assert_allclose(moved.electrode_charges, whole.electrode_charges, rtol=1e-9)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (
            lambda a: a.arrays.pop("electrode"),
            {"potentials": {0: 0.0}},
            "structure must have an array `electrode` (0, 1, ... and -1 for the electrolyte): name the "
            "atoms, e.g. --electrode 0=0:192, or use a cell of `grahame build`",
        ),
        (
            lambda a: None,
            {"potentials": {0: 0.0}},
            "electrode 1 = nothing must be held at exactly one potential or charge: add --potential 1=V or "
            "--charge 1=e",
        ),
        (
            lambda a: None,
            {"potentials": {0: 0.0, 1: 0.0}, "charges_from": "file"},
            "charges_from = file must find charges of the electrolyte in the structure: it holds none; use "
            "classical or add a column `initial_charges`",
        ),
        (
            lambda a: None,
            {"potentials": {0: 0.0, 1: 0.0}, "charges_from": "guess"},
            "charges_from = guess must be auto, file or classical: choose one of these",
        ),
        (
            lambda a: a.set_pbc(False),
            {"potentials": {0: 0.0, 1: 1.0}, "field": 0.1, "total_charge": None},
            "field must come with a cell: an open system has no surface normal; leave it out",
        ),
    ],
)
def test_what_cannot_be_solved_is_refused_by_name(change: Any, options: dict[str, Any], message: str) -> None:
    atoms = salt_cell()
    change(atoms)
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared
        solve_structure(atoms, **options)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("boundary", "displacement"),
    [("slab", None), ("finite-field", None), ("displacement", None), ("displacement", 0.2)],
)
@pytest.mark.parametrize(
    "charges",
    [{}, {"boundary_transfer": True}, {"dipoles": {"O": 0.5}}],
    ids=["transfers", "boundary transfer", "dipoles"],
)
def test_a_solve_with_a_model_has_the_electrostatic_energy_of_its_calculator(
    boundary: str, displacement: float | None, charges: dict[str, Any]
) -> None:
    model = make_model(charges={"kind": "transfer"} | charges)
    atoms, groups = slab()
    if boundary != "slab":
        atoms.pbc = True
        atoms.positions[-4:-1, :2] -= 2.0  # bonds through the faces of the cell
        atoms.wrap(pbc=(True, True, False))
    held, options = {0: -0.3, 1: 0.9}, {}
    if boundary == "displacement":
        # One slab in the middle, and a molecule that the face along the normal cuts.
        del atoms[8:16]
        atoms.positions[:8, 2] += 6.0
        atoms.positions[8:11, 2] += 16.0 - atoms.positions[8, 2]
        atoms.positions[11:, 2] += 1.5 - atoms.positions[11, 2]
        atoms.wrap()
        groups, held, options = groups[:1], {0: 0.4}, {"displacement": displacement} if displacement else {}
    owner = np.full(len(atoms), -1)
    for number, members in enumerate(groups):
        owner[members] = number
    atoms.set_array("electrode", owner)
    report = solve_structure(
        atoms, potentials=held, model=model, boundary=boundary, method="ewald", accuracy=1e-9, **options
    )
    atoms.calc = HybridCalculator(
        LearnedShortRange(model),
        Coulomb(boundary, "ewald", 1e-9),
        [Electrode(g, potential=v) for g, v in zip(groups, held.values())],
        **options,
    )
    short = atoms.get_potential_energy() - report.energy
    assert short == pytest.approx(atoms.calc.results["short_range_energy"], abs=1e-8)
    assert report.work == pytest.approx(atoms.calc.results["work"], abs=1e-8)
    np.testing.assert_allclose(report.charges, atoms.get_charges(), atol=1e-9)


def test_a_field_through_a_cell_with_electrodes_is_refused_as_by_the_calculator() -> None:
    atoms, _ = slab()
    atoms.pbc = True
    del atoms[8:16]
    atoms.set_array("electrode", np.array([*[0] * 8, *[-1] * (len(atoms) - 8)]))
    with pytest.raises(ValueError, match="must be left out with boundary 3d: atoms that cross the boundary"):
        solve_structure(
            atoms,
            potentials={0: 0.0},
            model=make_model(charges={"kind": "transfer"}),
            boundary="3d",
            field=0.1,
        )
