"""The hybrid model: symmetries, derivatives, conservation, and that nothing counts twice."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from grahame.electrostatics import Coulomb, Electrode
from grahame.hybrid import HybridCalculator
from grahame.hybrid.frames import Conditions, Frame
from grahame.hybrid.model import HybridModel, ModelSpec, Prediction
from grahame.hybrid.shortrange.learned import LearnedShortRange
from grahame.hybrid.training.loss import error_sums
from grahame.hybrid.training.predicting import predict
from tests.hybrid.model_cells import batch_of, frame, held, make_model, slab, water_box

VARIANTS = {
    "transfer": {"charges": {"kind": "transfer"}},
    "switched": {"charges": {"kind": "transfer"}, "double_counting": "switched", "switch": (1.5, 3.5)},
    "projected": {"charges": {"kind": "projected"}},
    "none": {"charges": {"kind": "none"}},
}


def energy(model: HybridModel, *frames: Frame) -> float:
    return float(model.predict(batch_of(model, *frames), forces=False).energy.sum())


def slope(function: Callable[[float], float], h: float = 3e-3) -> float:
    """Fourth-order central difference at zero."""
    return (function(-2 * h) - 8 * function(-h) + 8 * function(h) - function(2 * h)) / (12 * h)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("name", VARIANTS)
def test_forces_and_stress_are_gradients(name: str, layers: int) -> None:
    model, atoms = make_model(layers=layers, **VARIANTS[name]), water_box()
    rng = np.random.default_rng(3)
    found = model.predict(batch_of(model, frame(atoms)), stress=True)
    assert found.forces is not None
    assert found.stress is not None
    step = rng.normal(size=atoms.positions.shape)
    numeric = slope(lambda t: energy(model, frame(atoms, atoms.positions + t * step)), 1e-4)
    assert numeric == pytest.approx(-float((found.forces.numpy() * step).sum()), abs=1e-7)
    strain = rng.normal(size=(3, 3))
    strain += strain.T

    def strained(t: float) -> float:
        f = frame(atoms)
        deformation = np.eye(3) + t * strain
        return energy(model, replace(f, positions=f.positions @ deformation, cell=f.cell @ deformation))

    work = float((found.stress[0].numpy() * strain).sum()) * atoms.get_volume()
    assert slope(strained, 1e-4) == pytest.approx(work, abs=1e-6)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10_000))
@pytest.mark.parametrize("name", ["transfer", "projected"])
def test_energy_is_invariant_and_forces_turn_with_the_atoms(name: str, seed: int) -> None:
    model, atoms = make_model(**VARIANTS[name], layers=2), water_box()
    rng = np.random.default_rng(seed)
    before = model.predict(batch_of(model, frame(atoms)))
    turn = Rotation.random(random_state=rng).as_matrix() * rng.choice([-1.0, 1.0])
    order = rng.permutation(len(atoms))
    moved = atoms[order]
    shifts = rng.integers(-1, 2, size=(len(atoms), 3)) @ np.array(atoms.cell)
    moved.positions = (moved.positions + rng.normal(size=3) + shifts) @ turn
    moved.cell = np.array(atoms.cell) @ turn
    after = model.predict(batch_of(model, frame(moved)))
    assert after.energy.item() == pytest.approx(before.energy.item(), abs=1e-10)
    assert before.forces is not None
    assert after.forces is not None
    np.testing.assert_allclose(after.forces, before.forces.numpy()[order] @ turn, atol=1e-10)
    np.testing.assert_allclose(after.charges, before.charges.numpy()[order], atol=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["transfer", "projected"])
def test_charges_add_up_exactly_in_both_precisions(name: str, dtype: str) -> None:
    model = make_model(dtype=dtype, **VARIANTS[name])
    charges = model.predict(batch_of(model, frame(water_box()))).charges
    assert abs(float(charges.sum())) < 1e-12
    assert float(charges.abs().min()) > 1e-3


def test_transfers_stop_at_solved_atoms() -> None:
    model = make_model()
    atoms, groups = slab()
    near = model.predict(batch_of(model, frame(atoms, boundary="slab", electrodes=held(groups))))
    electrolyte = near.charges[16:]
    assert abs(float(electrolyte.sum())) < 1e-12
    # Gold without a solver is an ordinary atom that exchanges charge.
    free = model.predict(batch_of(model, frame(atoms, boundary="slab")))
    assert abs(float(free.charges[16:].sum())) > 1e-3
    assert abs(float(free.charges.sum())) < 1e-12


@pytest.mark.parametrize("site_constants", ["fixed", "environment"])
@pytest.mark.parametrize("kind", ["potentials", "charges", "field"])
def test_forces_of_electrode_cells_are_gradients(kind: str, site_constants: str) -> None:
    model = make_model(charges={"kind": "transfer", "site_constants": site_constants, "hardness": 0.5})
    atoms, groups = slab()
    conditions = {
        "potentials": {"electrodes": held(groups)},
        "charges": {"electrodes": (Electrode(groups[0], charge=-0.3), Electrode(groups[1], charge=0.3))},
        "field": {"electrodes": (Electrode(np.concatenate(groups), charge=0.0),), "field": (0.0, 0.0, 0.1)},
    }[kind]
    found = model.predict(batch_of(model, frame(atoms, boundary="slab", **conditions)))
    assert found.forces is not None
    step = np.random.default_rng(4).normal(size=atoms.positions.shape)

    def moved(t: float) -> float:
        return energy(model, frame(atoms, atoms.positions + t * step, boundary="slab", **conditions))

    assert slope(moved, 1e-4) == pytest.approx(-float((found.forces.numpy() * step).sum()), abs=1e-7)


def test_boundary_transfer_moves_charge_and_keeps_forces_exact() -> None:
    model = make_model(charges={"kind": "transfer", "boundary_transfer": True})
    atoms, groups = slab()
    conditions = {"boundary": "slab", "electrodes": held(groups)}
    found = model.predict(batch_of(model, frame(atoms, **conditions)))
    assert abs(float(found.charges[16:].sum())) > 1e-3
    assert abs(float(found.charges.sum())) < 1e-10
    step = np.random.default_rng(5).normal(size=atoms.positions.shape)
    numeric = slope(lambda t: energy(model, frame(atoms, atoms.positions + t * step, **conditions)), 1e-4)
    assert found.forces is not None
    assert numeric == pytest.approx(-float((found.forces.numpy() * step).sum()), abs=1e-7)
    calculated = atoms.copy()
    calculated.calc = HybridCalculator(LearnedShortRange(model), Coulomb("slab", "ewald", 1e-9), held(groups))
    np.testing.assert_allclose(calculated.get_forces(), found.forces, atol=1e-7)
    fixed = (Electrode(groups[0], charge=0.0), Electrode(groups[1], charge=0.0))
    with pytest.raises(ValueError, match="leave one at a potential with boundary_transfer"):
        model.predict(batch_of(model, frame(atoms, boundary="slab", electrodes=fixed)))


def test_a_shift_of_all_potentials_changes_no_force_although_charge_is_exchanged() -> None:
    model = make_model(charges={"kind": "transfer", "boundary_transfer": True})
    atoms, groups = slab()

    def found(*psi: float) -> Prediction:
        electrodes = tuple(Electrode(g, potential=v) for g, v in zip(groups, psi))
        return model.predict(batch_of(model, frame(atoms, boundary="slab", electrodes=electrodes)))

    low, high = found(-0.4, 0.6), found(1.6, 2.6)
    np.testing.assert_allclose(high.charges, low.charges, atol=1e-10)
    assert low.forces is not None
    np.testing.assert_allclose(high.forces, low.forces, atol=1e-9)
    # What all groups own and gave away is the charge of the cell, 0, less the formal charges, 0.
    assert high.energy.item() == pytest.approx(low.energy.item(), abs=1e-9)
    # The electrode's own charge alone would not do: it depends on where the electrolyte is.
    assert abs(float(low.electrode_charges[0].sum())) > 1e-3
    atoms.calc = HybridCalculator(
        LearnedShortRange(model),
        Coulomb("slab", "ewald", 1e-9),
        [Electrode(g, potential=v) for g, v in zip(groups, (1.6, 2.6))],
    )
    assert atoms.get_potential_energy() == pytest.approx(high.energy.item(), abs=1e-7)
    np.testing.assert_allclose(atoms.get_forces(), high.forces, atol=1e-7)
    assert high.stress is None
    results = dict(atoms.calc.results)
    # What the reservoirs supplied is what a ramp of the potential works on.
    omega = []
    for change in (1e-3, -1e-3):
        atoms.calc.set_potentials([1.6, 2.6 + change])
        omega.append(atoms.get_potential_energy())
    assert results["reservoir_charges"][1] == pytest.approx((omega[1] - omega[0]) / 2e-3, abs=1e-6)
    assert abs(results["reservoir_charges"][1] - results["electrode_charges"][1]) > 1e-4
    assert results["reservoir_charges"].sum() == pytest.approx(0.0, abs=1e-9)
    assert results["energy"] == pytest.approx(results["internal_energy"] - results["work"], abs=1e-9)


def test_a_group_at_a_held_charge_takes_what_it_exchanges_from_the_others() -> None:
    model = make_model(charges={"kind": "transfer", "boundary_transfer": True})
    atoms, groups = slab()
    mixed = (Electrode(groups[0], potential=0.8), Electrode(groups[1], charge=0.1))
    conditions = {"boundary": "slab", "electrodes": mixed}
    found = model.predict(batch_of(model, frame(atoms, **conditions)))
    assert float(found.electrode_charges[0][1]) == pytest.approx(0.1, abs=1e-10)
    step = np.random.default_rng(6).normal(size=atoms.positions.shape)
    numeric = slope(lambda t: energy(model, frame(atoms, atoms.positions + t * step, **conditions)), 1e-4)
    assert found.forces is not None
    assert numeric == pytest.approx(-float((found.forces.numpy() * step).sum()), abs=1e-7)
    atoms.calc = HybridCalculator(LearnedShortRange(model), Coulomb("slab", "ewald", 1e-9), mixed)
    np.testing.assert_allclose(atoms.get_forces(), found.forces, atol=1e-7)
    reservoir = atoms.calc.results["reservoir_charges"].copy()
    omega = []
    for change in (1e-3, -1e-3):
        atoms.calc.set_potentials([0.8 + change, None])
        omega.append(atoms.get_potential_energy())
    assert reservoir[0] == pytest.approx((omega[1] - omega[0]) / 2e-3, abs=1e-6)
    assert reservoir[1] == pytest.approx(0.1, abs=1e-9)


@pytest.mark.parametrize("name", ["transfer", "switched"])
@pytest.mark.parametrize("site_constants", ["fixed", "environment"])
def test_molecular_dynamics_takes_the_same_forces_as_training(name: str, site_constants: str) -> None:
    options = dict(VARIANTS[name])
    options["charges"] = {"kind": "transfer", "site_constants": site_constants, "widths": {"Au": 0.45}}
    model = make_model(**options)
    atoms, groups = slab()
    trained = model.predict(
        batch_of(model, frame(atoms, boundary="slab", electrodes=held(groups))), stress=True
    )
    atoms.calc = HybridCalculator(LearnedShortRange(model), Coulomb("slab", "ewald", 1e-9), held(groups))
    assert atoms.get_potential_energy() == pytest.approx(trained.energy.item(), abs=1e-7)
    np.testing.assert_allclose(atoms.get_forces(), trained.forces, atol=1e-7)
    assert trained.stress is not None
    np.testing.assert_allclose(atoms.get_stress(voigt=False), trained.stress[0], atol=1e-7)
    np.testing.assert_allclose(
        atoms.calc.results["electrode_charges"], trained.electrode_charges[0], atol=1e-7
    )


def test_a_force_loss_reaches_the_weights_through_the_solve() -> None:
    model = make_model(charges={"kind": "transfer", "site_constants": "environment", "train_widths": True})
    atoms, groups = slab()
    batch = batch_of(model, frame(atoms, boundary="slab", electrodes=held(groups)))
    rng = np.random.default_rng(6)
    target = torch.as_tensor(rng.normal(size=atoms.positions.shape))
    weights = [p for p in model.parameters() if p.requires_grad]
    assert model.sites is not None
    chosen = [model.sites.element.weight, model.widths.raw, weights[0]]

    def loss() -> torch.Tensor:
        forces = model.predict(batch, train=True).forces
        assert forces is not None
        return ((forces - target) ** 2).sum()

    gradients = torch.autograd.grad(loss(), chosen)
    for weight, gradient in zip(chosen, gradients):
        step = torch.as_tensor(rng.normal(size=weight.shape))
        start = weight.detach().clone()

        def along(
            t: float, w: torch.Tensor = weight, s: torch.Tensor = step, w0: torch.Tensor = start
        ) -> float:
            with torch.no_grad():
                w.copy_(w0 + t * s)
            return float(loss().detach())

        numeric = slope(along, 1e-3)
        along(0.0)
        assert numeric == pytest.approx(float((gradient * step).sum()), rel=2e-6, abs=1e-6)


def test_nothing_counts_twice_switched_from_zero_equals_smeared() -> None:
    smeared = make_model()
    narrow = smeared.spec.model_copy(update={"double_counting": "switched", "switch": (0.0, 1e-6)})
    switched = HybridModel(ModelSpec.model_validate(narrow.model_dump()))
    switched.load_state_dict(smeared.state_dict())
    f = frame(water_box())
    assert energy(switched, f) == pytest.approx(energy(smeared, f), abs=1e-10)


def test_energy_does_not_depend_on_how_the_sum_is_split() -> None:
    model, atoms = make_model(**VARIANTS["switched"]), water_box()
    energies = []
    for splitting in (0.6, 0.9):
        atoms.calc = HybridCalculator(
            LearnedShortRange(model), Coulomb("3d", "ewald", 1e-12, splitting=splitting)
        )
        energies.append(atoms.get_potential_energy())
    assert energies[0] == pytest.approx(energies[1], abs=1e-8)


def test_energy_is_smooth_where_neighbours_leave() -> None:
    model = make_model(charges={"kind": "transfer"})
    rc = model.spec.architecture.cutoff

    def pair(r: float) -> Frame:
        atoms = Atoms("OHH", positions=[[0, 0, 0], [r, 0, 0], [-0.3, 0.9, 0.2]])
        return frame(atoms, boundary="open")

    local = make_model(charges={"kind": "none"})
    h = 2e-3
    values = np.array([energy(local, pair(rc + k * h)) for k in range(-6, 7)])
    assert np.ptp(values[6:]) == 0.0
    second = np.diff(values, 2) / h**2
    # The second derivative runs into zero: linearly in the distance to the cut-off.
    assert abs(second[5]) < abs(second[0])
    assert np.abs(second).max() < 1e-3
    charges = [model.predict(batch_of(model, pair(rc + k * h))).charges.numpy() for k in (-1, 0, 1)]
    np.testing.assert_allclose(charges[0], charges[2], atol=1e-6)


def test_close_nuclei_repel() -> None:
    model = make_model(charges={"kind": "none"})
    bare = HybridModel(model.spec.model_copy(update={"repulsion": False}))
    bare.load_state_dict(model.state_dict())
    for r, wanted in ((0.3, True), (1.0, False)):
        f = frame(Atoms("OH", positions=[[0, 0, 0], [r, 0, 0]]), boundary="open")
        gap = energy(model, f) - energy(bare, f)
        assert (gap > 10.0) is wanted
        assert gap >= 0.0


def test_born_charges_are_the_response_of_the_forces_to_a_field() -> None:
    model = make_model(charges={"kind": "projected"})
    water = molecule("H2O")
    water.rattle(0.05, seed=1)
    found = model.predict(batch_of(model, frame(water, boundary="open")), born=True)
    assert found.born is not None
    for b in range(3):

        def forces(t: float, axis: int = b) -> np.ndarray:
            field = np.zeros(3)
            field[axis] = t
            p = model.predict(batch_of(model, frame(water, boundary="open", field=tuple(field))))
            assert p.forces is not None
            return p.forces.numpy()

        numeric = (forces(0.01) - forces(-0.01)) / 0.02
        np.testing.assert_allclose(found.born[:, :, b], numeric, atol=1e-9)
    np.testing.assert_allclose(found.born.sum(0), np.zeros((3, 3)), atol=1e-10)


def test_field_response_of_a_slab_is_the_derivative_of_its_forces() -> None:
    model = make_model()
    atoms, groups = slab()
    metal = (Electrode(np.concatenate(groups), charge=0.0),)
    f = frame(atoms, boundary="slab", electrodes=metal)
    found = model.predict(batch_of(model, f), field_response=True)

    def forces(t: float) -> np.ndarray:
        p = model.predict(
            batch_of(model, frame(atoms, boundary="slab", electrodes=metal, field=(0.0, 0.0, t)))
        )
        assert p.forces is not None
        return p.forces.numpy()

    numeric = (forces(0.02) - forces(-0.02)) / 0.04
    assert found.field_response is not None
    np.testing.assert_allclose(found.field_response, numeric, atol=1e-7)


def test_solved_charges_of_all_atoms_hold_the_total() -> None:
    model = make_model(charges={"kind": "solved", "hardness": 8.0})
    water = molecule("H2O")
    for total in (0.0, 1.0):
        found = model.predict(batch_of(model, frame(water, boundary="open", total_charge=total)))
        assert float(found.charges.sum()) == pytest.approx(total, abs=1e-12)
    step = np.random.default_rng(7).normal(size=water.positions.shape)
    base = model.predict(batch_of(model, frame(water, boundary="open")))
    assert base.forces is not None
    numeric = slope(lambda t: energy(model, frame(water, water.positions + t * step, boundary="open")), 1e-4)
    assert numeric == pytest.approx(-float((base.forces.numpy() * step).sum()), abs=1e-7)


def test_batches_give_what_single_frames_give() -> None:
    model = make_model(layers=2)
    box = frame(water_box())
    atoms, groups = slab()
    cell = frame(atoms, boundary="slab", electrodes=held(groups))
    lone = frame(molecule("H2O"), boundary="open")
    together = model.predict(batch_of(model, box, cell, lone))
    parts = [model.predict(batch_of(model, f)) for f in (box, cell, lone)]
    np.testing.assert_allclose(together.energy, [p.energy.item() for p in parts], atol=1e-10)
    np.testing.assert_allclose(
        together.forces, np.concatenate([p.forces.numpy() for p in parts if p.forces is not None]), atol=1e-10
    )


def test_frames_of_a_model_without_charges_have_no_electrodes() -> None:
    model = make_model(charges={"kind": "none"})
    found = model.predict(batch_of(model, frame(water_box(1)), frame(water_box(2))))
    assert [len(q) for q in found.electrode_charges] == [0, 0]
    assert [len(v) for v in found.electrode_potentials] == [0, 0]


def test_single_precision_forces_are_close_to_double() -> None:
    double = make_model(layers=2)
    single = HybridModel(double.spec.model_copy(update={"dtype": "float32"}))
    single.load_state_dict(double.state_dict())
    f = frame(water_box())
    exact, near = (m.predict(batch_of(m, f)).forces for m in (double, single))
    assert exact is not None
    assert near is not None
    assert float((near - exact).norm() / exact.norm()) < 1e-4


def test_an_atom_beyond_the_receptive_field_does_not_matter_to_the_local_part() -> None:
    model = make_model(charges={"kind": "none"}, layers=2)
    reach = model.spec.architecture.receptive_field
    energies = []
    for distance in (reach + 0.01, reach + 5.0):
        atoms = Atoms("OOO", positions=[[0, 0, 0], [reach / 2, 0, 0], [distance, 0, 0]])
        energies.append(model.predict(batch_of(model, frame(atoms, boundary="open"))))
    first, second = (e.forces for e in energies)
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first[0], second[0])


def test_charges_that_cannot_reach_the_total_are_refused() -> None:
    model = make_model()
    charged = Atoms("OH", positions=[[0, 0, 0], [0.97, 0, 0]])
    sentence = (
        "total_charge = 0 e must be the sum of the model's charges, -1 e: give formal_charges per atom or fragments "
        "with their charges, or use projected or solved charges"
    )
    with pytest.raises(ValueError, match="total_charge") as caught:
        model.predict(batch_of(model, frame(charged, boundary="open")))
    assert str(caught.value) == sentence
    model.predict(batch_of(model, frame(charged, boundary="open", total_charge=-1.0)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"elements": ("H", "Xx")}, "elements = ['H', 'Xx'] must be chemical symbols, each once"),
        ({"levels": ("a", "a")}, "levels = ['a', 'a'] must be names, each once"),
        ({"double_counting": "switched"}, "switch = None Å must be two radii, 0 <= inner < outer"),
        (
            {"double_counting": "switched", "switch": (3.0, 9.0)},
            "switch = 9 Å must not exceed the cut-off of 5 Å",
        ),
        (
            {"double_counting": "switched", "switch": (1.0, 3.0), "charges": {"kind": "solved"}},
            "double_counting = switched must not go with solved charges",
        ),
        ({"switch": (1.0, 3.0)}, "switch = (1.0, 3.0) Å must be left out with double_counting smeared"),
    ],
)
def test_specifications_that_contradict_themselves_are_refused(
    change: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match="must") as caught:
        ModelSpec.model_validate({"elements": ("H", "O")} | change)
    assert message in str(caught.value)


def test_a_loss_of_the_field_response_reaches_the_weights_exactly() -> None:
    model = make_model(charges={"kind": "transfer", "site_constants": "environment"})
    atoms, groups = slab()
    metal = (Electrode(np.concatenate(groups), charge=0.0),)
    batch = batch_of(model, frame(atoms, boundary="slab", electrodes=metal))
    assert model.sites is not None
    weight = model.sites.element.weight

    def loss() -> torch.Tensor:
        found = model.predict(batch, train=True, field_response=True).field_response
        assert found is not None
        return (found**2).sum()

    (gradient,) = torch.autograd.grad(loss(), weight)
    step = torch.as_tensor(np.random.default_rng(8).normal(size=weight.shape))
    start = weight.detach().clone()

    def along(t: float) -> float:
        with torch.no_grad():
            weight.copy_(start + t * step)
        return float(loss().detach())

    assert slope(along, 1e-3) == pytest.approx(float((gradient * step).sum()), rel=2e-6, abs=1e-7)


@pytest.mark.parametrize("label", ["stress", "field_response"])
def test_frames_without_a_cell_leave_the_gradient_of_a_loss_finite(label: str) -> None:
    model, lone = make_model(), frame(molecule("H2O"), boundary="open")
    atoms, groups = slab()
    metal = (Electrode(np.concatenate(groups), charge=0.0),)
    other = frame(water_box()) if label == "stress" else frame(atoms, boundary="slab", electrodes=metal)
    shape = (3, 3) if label == "stress" else (len(other), 3)
    known = {"energy": np.array(-1.0)}
    frames = [replace(lone, labels=known), replace(other, labels=known | {label: np.zeros(shape)})]
    gradients = []
    for some in (frames, frames[1:]):
        batch = batch_of(model, *some)
        (total,) = error_sums(predict(model, batch, [label], train=True), batch, [label])
        weights = [p for p in model.parameters() if p.requires_grad]
        gradients.append(torch.autograd.grad(total, weights, allow_unused=True))
    for both, alone in zip(*gradients):
        if alone is not None:
            torch.testing.assert_close(both, alone, rtol=1e-9, atol=1e-9)
    found = getattr(model.predict(batch_of(model, lone), stress=True, field_response=True), label)
    assert bool(found.isnan().all())


@pytest.mark.parametrize("trained", [False, True])
def test_new_widths_reach_the_electrodes(trained: bool) -> None:
    model = make_model(charges={"kind": "transfer", "train_widths": trained})
    atoms, groups = slab()
    one = frame(atoms, boundary="slab", electrodes=held(groups))
    before = energy(model, one)
    with torch.no_grad():
        model.widths.raw += 0.5
    fresh = energy(model, frame(atoms, boundary="slab", electrodes=held(groups)))
    assert abs(fresh - before) > 1e-3
    assert energy(model, one) == pytest.approx(fresh, abs=1e-9)


def test_frames_may_share_their_conditions() -> None:
    model = make_model(charges={"kind": "solved", "hardness": 8.0, "widths": {"H": 0.3, "O": 0.7}})
    shared = Conditions(boundary="open")
    places = molecule("H2O").positions
    for symbols, order in (("OHH", [0, 1, 2]), ("HHO", [1, 2, 0]), ("OH", [0, 1])):
        one = frame(Atoms(symbols, positions=places[order]), boundary="open")
        assert energy(model, replace(one, conditions=shared)) == pytest.approx(energy(model, one), abs=1e-12)
