"""The calculator that is given a model, or nothing: what it finds in a structure, and when."""

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.emt import EMT
from numpy.typing import NDArray

from grahame.electrostatics import Coulomb, Electrode
from grahame.hybrid import HybridCalculator, model_file
from grahame.hybrid.model import HybridModel
from grahame.hybrid.model_file import save_model
from grahame.hybrid.shortrange.learned import LearnedShortRange
from tests.hybrid import model_cells
from tests.hybrid.model_cells import held, make_model, water_box


@pytest.fixture
def model() -> HybridModel:
    return make_model(charges={"kind": "transfer", "widths": {"Au": 0.45}}, accuracy=1e-7)


@pytest.fixture
def box(model: HybridModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model in the box."""
    path = tmp_path / "boxed.safetensors"
    save_model(model, path)
    monkeypatch.setattr(model_file, "boxed_model", lambda: path)
    return path


def slab() -> tuple[Atoms, list[NDArray[np.int64]]]:
    """The shared slabs, with so much vacuum that their backs are not bonded through the boundary."""
    atoms, groups = model_cells.slab()
    atoms.cell[2, 2] = 22.0
    return atoms, groups


def explicit(model: HybridModel, electrodes: Any, boundary: str = "slab", **options: Any) -> HybridCalculator:
    return HybridCalculator(
        LearnedShortRange(model), Coulomb(boundary, accuracy=1e-7, order=6), electrodes, **options
    )


def test_without_arguments_the_box_holds_all_slabs_at_one_potential(box: Path, model: HybridModel) -> None:
    atoms, groups = slab()
    atoms.calc = HybridCalculator()
    forces = atoms.get_forces()
    results = atoms.calc.results
    np.testing.assert_array_equal(results["electrode_potentials"], [0.0, 0.0])
    assert abs(results["electrode_charges"].sum()) < 1e-10
    assert np.abs(results["electrode_charges"]).min() > 1e-3
    same = atoms.copy()
    same.calc = explicit(model, held(groups, 0.0))
    np.testing.assert_allclose(forces, same.get_forces(), atol=1e-12)
    assert atoms.calc.potential.coulomb.boundary == "slab"
    assert atoms.calc.potential.coulomb.accuracy == model.spec.accuracy
    solver = atoms.calc.potential.solver
    assert solver is not None
    np.testing.assert_allclose(solver.smearing, 0.45)
    assert np.abs(atoms.get_stress()).max() > 0.0


def test_a_missing_box_is_said_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(model_file, "boxed_model", lambda: tmp_path / "au_water_nacl.safetensors")
    with pytest.raises(FileNotFoundError) as caught:
        HybridCalculator()
    assert str(caught.value) == (
        "model = au-water-nacl must come with the package, whose file au_water_nacl.safetensors is missing: install the "
        "package again, or give the path of a model file"
    )
    path = tmp_path / "none.safetensors"
    with pytest.raises(FileNotFoundError) as caught:
        HybridCalculator(model=path)
    assert str(caught.value) == (
        f"model = {path} must be an existing file: check the path, or use au-water-nacl"
    )


def test_potentials_count_from_the_lowest_slab(model: HybridModel, box: Path) -> None:
    atoms, groups = slab()
    turned = atoms[::-1]
    turned.calc = HybridCalculator(model=str(box), potentials=[0.0, 1.5])
    forces = turned.get_forces()[::-1]
    atoms.calc = explicit(model, held(groups, 1.5))
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-9)
    np.testing.assert_allclose(
        turned.calc.results["electrode_charges"], atoms.calc.results["electrode_charges"], atol=1e-9
    )


@pytest.mark.parametrize("early", [True, False])
def test_potentials_and_charges_can_be_set_before_and_after_electrodes_are_found(
    model: HybridModel, early: bool
) -> None:
    atoms, groups = slab()
    atoms.calc = HybridCalculator(model=model)
    if not early:
        atoms.get_potential_energy()
    atoms.calc.set_potentials([None, 1.0])
    np.testing.assert_array_equal(atoms.calc.potentials, [0.0, 1.0])
    with pytest.raises(ValueError, match=r"^potentials = 3 values must be one per electrode \(2\)"):
        atoms.calc.set_potentials([0.0, 0.0, 1.0])
    energy = atoms.get_potential_energy()
    same = atoms.copy()
    same.calc = explicit(model, held(groups, 1.0))
    assert energy == pytest.approx(same.get_potential_energy(), abs=1e-9)
    charges = atoms.calc.results["electrode_charges"]
    atoms.calc.set_electrode_charges(charges)
    assert "energy" not in atoms.calc.results
    potentials = atoms.calc
    np.testing.assert_allclose(atoms.get_forces(), same.get_forces(), atol=1e-7)
    assert np.isnan(potentials.potentials).all()
    fresh = HybridCalculator(model=model)
    fresh.set_electrode_charges(charges)
    np.testing.assert_allclose(fresh.get_forces(atoms), same.get_forces(), atol=1e-7)


def test_a_wrong_number_of_potentials_is_refused_when_slabs_are_counted(model: HybridModel) -> None:
    atoms, _ = slab()
    atoms.calc = HybridCalculator(model=model, potentials=[0.0])
    with pytest.raises(ValueError, match="potentials") as caught:
        atoms.get_potential_energy()
    assert str(caught.value) == (
        "potentials = 1 values must be one per electrode (2): metal slabs are counted from the lowest; if these are not "
        "meant, name the electrodes"
    )
    atoms.calc.set_potentials([1.0])
    with pytest.raises(ValueError, match=r"^potentials = 2 values must be one per electrode \(1\)"):
        atoms.calc.set_potentials([0.0, 1.0])


def test_before_the_first_calculation_nothing_is_known(model: HybridModel) -> None:
    calculator = HybridCalculator(model=model)
    assert len(calculator.potentials) == 0
    with pytest.raises(RuntimeError) as caught:
        _ = calculator.potential
    assert str(caught.value) == (
        "potential = None must be asked for after the first calculation: electrodes and boundary follow from the atoms"
    )


def test_periodic_directions_choose_the_boundary(model: HybridModel) -> None:
    box = water_box()
    box.calc = HybridCalculator(model=model)
    assert np.isfinite(box.get_forces()).all()
    assert box.calc.potential.coulomb.boundary == "3d"
    assert len(box.calc.results["electrode_charges"]) == 0
    lone = molecule("H2O")
    lone.calc = HybridCalculator(model=model)
    lone.get_potential_energy()
    assert lone.calc.potential.coulomb.boundary == "open"
    with pytest.raises(PropertyNotImplementedError):
        lone.get_stress()
    box.pbc = (True, False, False)
    with pytest.raises(ValueError, match=r"^pbc = \(True, False, False\) must be"):
        box.get_potential_energy()


def test_in_three_dimensions_slabs_at_one_potential_are_one_conductor(model: HybridModel) -> None:
    atoms, groups = slab()
    atoms.pbc = True
    atoms.calc = HybridCalculator(model=model)
    forces = atoms.get_forces()
    assert atoms.calc.potential.coulomb.boundary == "3d"
    one = atoms.copy()
    one.calc = explicit(model, [Electrode(np.concatenate(groups), charge=0.0)], "3d")
    np.testing.assert_allclose(forces, one.get_forces(), atol=1e-7)
    assert atoms.get_potential_energy() == pytest.approx(one.get_potential_energy(), abs=1e-8)


def test_a_voltage_in_three_dimensions_is_a_finite_field(model: HybridModel) -> None:
    atoms, groups = slab()
    atoms.pbc = True
    atoms.calc = HybridCalculator(model=model)
    without = atoms.get_potential_energy()
    atoms.calc.set_potentials([0.0, 1e-9])
    assert atoms.get_potential_energy() == pytest.approx(without, abs=1e-6)
    atoms.calc.set_potentials([0.0, 1.0])
    energy = atoms.get_potential_energy()
    assert atoms.calc.potential.coulomb.boundary == "finite-field"
    same = atoms.copy()
    same.calc = explicit(model, held(groups, 1.0), "finite-field")
    assert energy == pytest.approx(same.get_potential_energy(), abs=1e-9)
    atoms.calc.set_potentials([0.5, 0.5])
    atoms.get_potential_energy()
    assert atoms.calc.potential.coulomb.boundary == "3d"


def test_other_structures_are_looked_at_anew(model: HybridModel) -> None:
    cell, groups = slab()
    box = water_box()
    calculator = HybridCalculator(model=model)
    energies = [calculator.get_potential_energy(a) for a in (cell, box, cell)]
    assert energies[0] == pytest.approx(energies[2], abs=1e-9)
    box.calc = HybridCalculator(model=model)
    assert energies[1] == pytest.approx(box.get_potential_energy(), abs=1e-9)
    half = cell[np.concatenate([groups[0], np.arange(16, len(cell))])]
    assert np.isfinite(calculator.get_potential_energy(half))
    assert len(calculator.results["electrode_charges"]) == 1
    calculator.set_potentials([0.0])
    with pytest.raises(ValueError, match=r"^potentials = 1 values must be one per electrode \(2\)"):
        calculator.get_potential_energy(cell)


@pytest.mark.parametrize("kind", ["transfer", "solved"])
def test_a_stress_is_there_again_after_an_open_system(kind: str) -> None:
    model = make_model(charges={"kind": kind, "hardness": 8.0}, accuracy=1e-6)
    atoms = water_box()
    fresh = atoms.copy()
    fresh.calc = HybridCalculator(model=model)
    expected = fresh.get_stress()
    atoms.pbc = False
    atoms.calc = HybridCalculator(model=model)
    for _ in range(2):
        with pytest.raises(PropertyNotImplementedError):
            atoms.get_stress()
    atoms.pbc = True
    np.testing.assert_array_equal(atoms.get_stress(), expected)


def test_the_same_elements_in_another_order_are_other_electrodes(model: HybridModel) -> None:
    """The slab of the first atoms below, then above: the lowest is electrode 0 in both."""
    atoms, groups = slab()
    other = atoms.copy()
    for lower, upper in ((groups[0], groups[1]), (groups[1], groups[0])):
        other.positions[lower] = atoms.positions[upper]
    calculator = HybridCalculator(model=model, potentials=[0.0, 1.0])
    energies = [calculator.get_potential_energy(a) for a in (atoms, other)]
    assert energies[1] == pytest.approx(energies[0], abs=1e-9)
    found = [e.indices.tolist() for e in calculator.potential.electrodes]
    assert found == [groups[1].tolist(), groups[0].tolist()]


def test_electrodes_stay_where_atoms_are_wrapped_or_leave_in_small_steps(model: HybridModel) -> None:
    atoms, groups = slab()
    atoms.calc = HybridCalculator(model=model)
    atoms.get_potential_energy()
    potential = atoms.calc.potential
    atoms.positions[groups[1]] += atoms.cell[0]
    atoms.get_potential_energy()
    for _ in range(4):  # an atom that evaporates does not end a trajectory
        atoms.positions[groups[1][-1], 2] -= 0.8
        atoms.get_potential_energy()
    assert atoms.calc.potential is potential


def test_moving_atoms_keep_the_electrodes_and_cached_results(model: HybridModel) -> None:
    atoms, _ = slab()
    atoms.calc = HybridCalculator(model=model)
    atoms.get_potential_energy()
    potential = atoms.calc.potential
    calls: list[bool] = []
    evaluate = potential.evaluate

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls.append(True)
        return evaluate(*args, **kwargs)

    potential.evaluate = counting  # type: ignore[method-assign]
    atoms.get_forces()
    atoms.get_dipole_moment()
    assert calls == []
    atoms.positions[-1] += 0.05
    atoms.get_forces()
    atoms.calc.set_potentials([0.0, 0.5])
    atoms.get_forces()
    assert calls == [True, True]
    assert atoms.calc.potential is potential


def test_copies_and_pickles_give_the_same(model: HybridModel) -> None:
    atoms, _ = slab()
    for seen in (False, True):
        calculator = HybridCalculator(model=model, potentials=[0.0, 1.0])
        if seen:
            calculator.get_forces(atoms)
        for other in (copy.deepcopy(calculator), pickle.loads(pickle.dumps(calculator))):
            moved = atoms.copy()
            assert moved.calc is None
            moved.positions[-1] += 0.02
            np.testing.assert_allclose(other.get_forces(moved), calculator.get_forces(moved), atol=1e-12)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_modes_of_torch_change_nothing(model: HybridModel, mode: Any) -> None:
    atoms, _ = slab()
    atoms.calc = HybridCalculator(model=model)
    with mode():
        inside = atoms.copy()
        inside.calc = HybridCalculator(model=model)
        forces = inside.get_forces()
    np.testing.assert_allclose(forces, atoms.get_forces(), rtol=0, atol=1e-9)
    inside.rattle(0.01, seed=1)
    assert np.isfinite(inside.get_forces()).all()


def test_state_restores_a_calculator_that_saw_nothing_yet(model: HybridModel) -> None:
    atoms, _ = slab()
    atoms.calc = HybridCalculator(model=model, potentials=[0.0, 1.0])
    atoms.get_forces()
    atoms.positions[-1] += 0.05
    forces = atoms.get_forces()
    other = HybridCalculator(model=model)
    other.load_state(atoms.calc.state(), atoms)
    np.testing.assert_array_equal(other.results["forces"], forces)
    atoms.positions[-1] += 0.05
    np.testing.assert_array_equal(other.get_forces(atoms), atoms.get_forces())
    empty = HybridCalculator(model=model)
    empty.load_state(HybridCalculator(model=model).state(), atoms)
    assert np.isfinite(empty.get_potential_energy(atoms))


def test_electrodes_and_boundary_can_be_named_beside_a_model(model: HybridModel) -> None:
    atoms, groups = slab()
    atoms.calc = HybridCalculator(model=model, electrodes=held(groups, 1.0))
    same = atoms.copy()
    same.calc = explicit(model, held(groups, 1.0))
    assert atoms.get_potential_energy() == pytest.approx(same.get_potential_energy(), abs=1e-9)
    atoms.calc = HybridCalculator(model=model, coulomb=Coulomb("slab-exact", accuracy=1e-9))
    same.calc.set_potentials([0.0, 0.0])
    assert atoms.get_potential_energy() == pytest.approx(same.get_potential_energy(), abs=1e-4)
    atoms.calc = HybridCalculator(model=model, electrodes=[])
    atoms.get_potential_energy()
    assert len(atoms.calc.results["electrode_charges"]) == 0


def test_a_field_acts_on_found_electrodes(model: HybridModel) -> None:
    atoms, groups = slab()
    atoms.calc = HybridCalculator(model=model, field=0.1)
    same = atoms.copy()
    same.calc = explicit(model, held(groups, 0.0), field=0.1)
    assert atoms.get_potential_energy() == pytest.approx(same.get_potential_energy(), abs=1e-9)


def test_a_model_without_charges_has_no_electrodes() -> None:
    local = make_model(charges={"kind": "none"})
    atoms, groups = slab()
    atoms.calc = HybridCalculator(model=local)
    assert atoms.get_potential_energy() == pytest.approx(atoms.calc.results["short_range_energy"], abs=1e-12)
    np.testing.assert_array_equal(atoms.get_charges(), 0.0)
    with pytest.raises(ValueError, match="electrodes") as caught:
        HybridCalculator(model=local, electrodes=held(groups))
    assert str(caught.value) == (
        "electrodes = 2 must be left out with a model without charges: it has nothing that an electrode's charge could "
        "act on"
    )


def test_a_model_that_solves_all_charges_has_one_group_of_all_atoms() -> None:
    solving = make_model(charges={"kind": "solved", "hardness": 8.0})
    water = molecule("H2O")
    water.calc = HybridCalculator(model=solving, total_charge=1.0)
    assert water.get_charges().sum() == pytest.approx(1.0, abs=1e-10)
    force = water.get_forces()[0, 2]
    energies = []
    for h in (-1e-4, 1e-4):
        water.positions[0, 2] += h
        energies.append(water.get_potential_energy())
        water.positions[0, 2] -= h
    assert (energies[0] - energies[1]) / 2e-4 == pytest.approx(force, abs=1e-6)
    pair = molecule("H2O") + Atoms("Au", positions=[[0.0, 0.0, 3.0]])
    pair.calc = HybridCalculator(model=solving, electrodes=[Electrode([3], charge=0.2)])
    pair.get_potential_energy()
    np.testing.assert_allclose(pair.calc.results["electrode_charges"], [0.2, -0.2], atol=1e-10)
    pair.calc.set_electrode_charges([0.1, -0.1])
    assert pair.get_charges()[3] == pytest.approx(0.1, abs=1e-10)


@pytest.mark.parametrize("width", [0.45, [0.45, 0.45], np.full(16, 0.45)], ids=["one", "each", "per atom"])
def test_parameters_of_electrodes_leave_the_other_atoms_as_the_model_has_them(width: Any) -> None:
    solving = make_model(charges={"kind": "solved", "hardness": 8.0, "widths": {"Au": 0.45}}, accuracy=1e-7)
    atoms, groups = slab()
    given = [Electrode(groups[0], charge=-0.1), Electrode(groups[1], charge=0.1)]

    def charges(**options: Any) -> NDArray[np.float64]:
        atoms.calc = HybridCalculator(model=solving, electrodes=given, **options)
        return np.array(atoms.get_charges())

    expected = charges()
    np.testing.assert_allclose(charges(smearing=width), expected, rtol=0, atol=1e-12)
    # Thomas-Fermi metals soften the metal; an atom of water has a share of it through the metal only.
    screened = charges(smearing=width, thomas_fermi_length=0.5, voronoi_volume=17.0) - expected
    assert np.abs(screened[:16]).max() > 1e-4
    assert np.abs(screened[16:]).max() < 1e-5


def test_metal_that_is_no_slab_is_refused(model: HybridModel) -> None:
    atoms, _ = slab()
    atoms += Atoms("Au", positions=[[2.0, 2.0, 6.8]])
    atoms.calc = HybridCalculator(model=model)
    with pytest.raises(ValueError, match=r"^atoms\[22\] = Au alone must be bonded to a metal slab"):
        atoms.get_potential_energy()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"coulomb": None},
            "coulomb = None must be given with a short_range: write e.g. Coulomb('slab', accuracy=1e-5)",
        ),
        ({"level": "pbe"}, "level = pbe must be left out with a short_range: give one of the two"),
        (
            {"model": "a.safetensors"},
            "model = a.safetensors must be left out with a short_range: give one of the two",
        ),
        (
            {"potentials": [0.0, 1.0]},
            "potentials = [0.0, 1.0] must be left out with a short_range: use electrodes",
        ),
    ],
)
def test_a_short_range_of_ones_own_finds_nothing(
    model: HybridModel, options: dict[str, Any], sentence: str
) -> None:
    given = {"coulomb": Coulomb("slab")} | options
    with pytest.raises(ValueError, match="short_range") as caught:
        HybridCalculator(LearnedShortRange(model), **given)
    assert str(caught.value) == sentence


def test_contradictions_are_refused_at_construction(model: HybridModel) -> None:
    _, groups = slab()
    with pytest.raises(ValueError, match="potentials") as caught:
        HybridCalculator(model=model, electrodes=held(groups), potentials=[0.0, 1.0])
    assert str(caught.value) == (
        "potentials = [0.0, 1.0] V must be left out with electrodes: each Electrode says what it is held at"
    )
    with pytest.raises(ValueError, match="level") as caught:
        HybridCalculator(model=model, level="pbe")
    assert str(caught.value) == ("level = pbe must be one of default: the model has one readout for each")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            lambda: HybridCalculator("au-water-nacl"),  # type: ignore[arg-type]
            "short_range = au-water-nacl must be a short range: models go by name, HybridCalculator(model=...)",
        ),
        (
            lambda: HybridCalculator(EMT(), Coulomb("slab")),  # type: ignore[arg-type]
            "short_range = EMT must be a short range: wrap an ASE calculator or a model of another program, "
            "ForeignShortRange(ASETrunk(calculator), charges, contains_coulomb=...) of grahame.hybrid.adapters",
        ),
        (
            lambda: HybridCalculator(model=3),  # type: ignore[arg-type]
            "model = 3 must be a HybridModel or the path of a model file: leave it out for au-water-nacl, the one in the box",
        ),
        (
            lambda: HybridCalculator().get_potential_energy(Atoms()),
            "atoms = 0 must be at least one: a model has nothing to say of an empty structure",
        ),
        (
            lambda: HybridCalculator(potentials=1.0),
            "potentials = 1.0 V must be numbers, one per electrode: write [0.0, 1.0]",
        ),
        (
            lambda: HybridCalculator().set_electrode_charges(["a"]),
            "electrode_charges = ['a'] e must be numbers, one per electrode: write [0.0, 1.0]",
        ),
    ],
)
def test_what_other_packages_take_is_refused_with_the_right_way(wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match="must be") as refused:
        wrong()
    assert str(refused.value) == message
