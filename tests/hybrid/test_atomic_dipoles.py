"""Atomic dipoles: symmetries, derivatives, conservation, and that dynamics takes the same as training."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from grahame.electrostatics import Coulomb, Electrode
from grahame.hybrid import HybridCalculator
from grahame.hybrid.adapters.export import export_metatomic
from grahame.hybrid.adapters.feature_heads import FeatureHeads
from grahame.hybrid.frames import Frame
from grahame.hybrid.model import ChargeSpec, HybridModel, ModelSpec
from grahame.hybrid.shortrange.learned import LearnedShortRange
from grahame.hybrid.sites import HALF_LENGTH, sites_of
from grahame.hybrid.solve import solve_structure
from tests.hybrid.model_cells import batch_of, frame, held, make_model, slab, water_box

LONGEST = {"O": 1.0, "H": 0.4, "Cl": 2.0}


def polar_model(
    kind: str = "transfer", longest: dict[str, float] | None = None, **options: Any
) -> HybridModel:
    """A model whose dipoles are about as long as those of water's atoms."""
    charges = {"kind": kind, "dipoles": LONGEST if longest is None else longest} | options.pop("charges", {})
    model = make_model(charges=charges, **options)
    assert model.dipoles is not None
    with torch.no_grad():
        model.dipoles.element.weight.normal_(std=0.3)
        model.dipoles.environment.weight.normal_(std=0.3)
    return model


def energy(model: HybridModel, one: Frame) -> float:
    return float(model.predict(batch_of(model, one), forces=False).energy.sum())


def slope(function: Callable[[float], float], h: float = 1e-4) -> float:
    """Fourth-order central difference at zero."""
    return (function(-2 * h) - 8 * function(-h) + 8 * function(h) - function(2 * h)) / (12 * h)


def cases() -> dict[str, tuple[Atoms, dict[str, Any]]]:
    """Structures and the conditions they are under."""
    atoms, groups = slab()
    # Far enough from their images to be no metal that repeats along the normal.
    atoms.cell[2, 2] = 24.0
    metal = (Electrode(np.concatenate(groups), charge=0.0),)
    periodic = atoms.copy()
    periodic.pbc = True
    return {
        "3d": (water_box(), {}),
        "finite field": (periodic, {"boundary": "finite-field", "electrodes": held(groups)}),
        "potentials": (atoms, {"boundary": "slab", "electrodes": held(groups)}),
        "field": (atoms, {"boundary": "slab", "electrodes": metal, "field": (0.0, 0.0, 0.1)}),
    }


def test_two_charges_make_the_dipole_and_nothing_else() -> None:
    mu = torch.tensor([[0.3, -0.2, 0.1], [0.0, 0.0, 0.0]], dtype=torch.float64)
    found = sites_of(mu, torch.tensor([4, 7]))
    assert found.atoms.tolist() == [4, 7, 4, 7]
    assert found.charges[:2].tolist() == (-found.charges[2:]).tolist()
    np.testing.assert_allclose(found.offsets.norm(dim=1), HALF_LENGTH, rtol=1e-14)
    moments = found.charges[:, None] * found.offsets
    np.testing.assert_allclose(moments[:2] + moments[2:], mu, atol=2e-12)
    later = found.of(5, 9)
    assert (later.atoms.tolist(), later.charges.tolist()) == ([2, 2], found.charges[[1, 3]].tolist())


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 10_000))
@pytest.mark.parametrize("kind", ["transfer", "projected"])
def test_dipoles_turn_with_the_atoms(kind: str, seed: int) -> None:
    model, atoms = polar_model(kind, layers=2), water_box()
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
    assert before.atomic_dipoles is not None
    assert float(before.atomic_dipoles.norm(dim=1).max()) > 0.1
    np.testing.assert_allclose(after.forces, before.forces.numpy()[order] @ turn, atol=1e-10)
    np.testing.assert_allclose(after.charges, before.charges.numpy()[order], atol=1e-10)
    np.testing.assert_allclose(after.atomic_dipoles, before.atomic_dipoles.numpy()[order] @ turn, atol=1e-10)


@pytest.mark.parametrize("kind", ["transfer", "projected"])
@pytest.mark.parametrize("name", ["3d", "potentials", "field", "finite field"])
def test_forces_and_stress_are_gradients(name: str, kind: str) -> None:
    atoms, conditions = cases()[name]
    if kind == "projected" and name != "3d":
        fragments = np.where(atoms.numbers == 79, -1, 0)
        conditions |= {"fragments": fragments, "fragment_charges": np.zeros(1)}
    model = polar_model(kind)
    rng = np.random.default_rng(3)
    base = frame(atoms, **conditions)
    found = model.predict(batch_of(model, base), stress=True)
    assert found.forces is not None
    assert found.stress is not None
    step = rng.normal(size=atoms.positions.shape)
    numeric = slope(lambda t: energy(model, replace(base, positions=base.positions + t * step, _pairs={})))
    assert numeric == pytest.approx(-float((found.forces.numpy() * step).sum()), abs=1e-7)
    strain = rng.normal(size=(3, 3))
    strain += strain.T
    # A slab's normal stays, and with it the field along it.
    strain[:2, 2] *= name == "3d"
    strain[2, :2] *= name == "3d"

    def strained(t: float) -> float:
        deformed = np.eye(3) + t * strain
        return energy(
            model, replace(base, positions=base.positions @ deformed, cell=base.cell @ deformed, _pairs={})
        )

    work = float((found.stress[0].numpy() * strain).sum()) * atoms.get_volume()
    assert slope(strained) == pytest.approx(work, rel=1e-7, abs=1e-6)


@pytest.mark.parametrize("name", ["3d", "potentials", "field", "finite field", "boundary transfer"])
def test_dynamics_takes_the_same_as_training(name: str) -> None:
    atoms, conditions = cases()["potentials" if name == "boundary transfer" else name]
    options = (
        {"boundary_transfer": True} if name == "boundary transfer" else {"site_constants": "environment"}
    )
    model = polar_model(charges=options)
    trained = model.predict(batch_of(model, frame(atoms, **conditions)), stress=True)
    coulomb = Coulomb(conditions.get("boundary", "3d"), "ewald", 1e-11)
    atoms.calc = HybridCalculator(
        LearnedShortRange(model), coulomb, conditions.get("electrodes", ()), field=conditions.get("field")
    )
    assert atoms.get_potential_energy() == pytest.approx(trained.energy.item(), abs=1e-7)
    np.testing.assert_allclose(atoms.get_forces(), trained.forces, atol=1e-7)
    assert trained.stress is not None
    np.testing.assert_allclose(atoms.get_stress(voigt=False), trained.stress[0], atol=1e-7)
    assert atoms.get_charges().shape == (len(atoms),)
    np.testing.assert_allclose(atoms.get_charges(), trained.charges, atol=1e-7)
    np.testing.assert_allclose(
        atoms.calc.results["electrode_charges"], trained.electrode_charges[0], atol=1e-7
    )
    if name not in ("3d", "finite field"):
        np.testing.assert_allclose(atoms.get_dipole_moment(), trained.dipole[0], atol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["transfer", "projected"])
def test_charges_still_add_up_exactly(kind: str, dtype: str) -> None:
    model = polar_model(kind, dtype=dtype)
    found = model.predict(batch_of(model, frame(water_box())))
    assert abs(float(found.charges.sum())) < 1e-12
    assert found.atomic_dipoles is not None
    lengths = found.atomic_dipoles.norm(dim=1).numpy()
    assert (lengths[[0, 3, 6]] > 0.003).all()
    assert lengths[9] == 0.0
    for element, longest in LONGEST.items():
        of_element = np.array(water_box().get_chemical_symbols()) == element
        assert lengths[of_element].max() < longest


def test_long_vectors_stay_below_their_largest_length() -> None:
    model = polar_model(longest={"O": 0.05})
    assert model.dipoles is not None
    with torch.no_grad():
        model.dipoles.element.weight.mul_(1e3)
    found = model.predict(batch_of(model, frame(water_box()))).atomic_dipoles
    assert found is not None
    np.testing.assert_allclose(found.norm(dim=1)[[0, 3, 6]], 0.05, rtol=1e-2)
    assert float(found.norm(dim=1).max()) < 0.05


def test_the_dipole_is_minus_the_slope_of_the_energy_with_the_field() -> None:
    model = polar_model("projected")
    water = molecule("H2O")
    water.rattle(0.05, seed=1)
    found = model.predict(batch_of(model, frame(water, boundary="open")))
    for axis in range(3):
        along = np.eye(3)[axis]
        numeric = slope(
            lambda t, a=along: energy(model, frame(water, boundary="open", field=tuple(t * a))), 0.01
        )
        assert -numeric == pytest.approx(float(found.dipole[0, axis]), abs=1e-9)
    atoms, conditions = cases()["field"]
    polar = polar_model()
    here = polar.predict(batch_of(polar, frame(atoms, **conditions)))
    numeric = slope(
        lambda t: energy(polar, frame(atoms, **conditions | {"field": (0.0, 0.0, 0.1 + t)})), 0.01
    )
    assert -numeric == pytest.approx(float(here.dipole[0, 2]), abs=1e-8)
    assert here.atomic_dipoles is not None
    assert abs(float(here.atomic_dipoles[:, 2].sum())) > 1e-3


def test_born_charges_are_the_response_of_the_forces_to_a_field() -> None:
    model = polar_model("projected")
    water = molecule("H2O")
    water.rattle(0.05, seed=1)
    found = model.predict(batch_of(model, frame(water, boundary="open")), born=True)
    assert found.born is not None
    for b in range(3):

        def forces(t: float, axis: int = b) -> NDArray[np.float64]:
            field = tuple(t * np.eye(3)[axis])
            p = model.predict(batch_of(model, frame(water, boundary="open", field=field)))
            assert p.forces is not None
            return p.forces.numpy()

        np.testing.assert_allclose(found.born[:, :, b], (forces(0.01) - forces(-0.01)) / 0.02, atol=1e-9)
    np.testing.assert_allclose(found.born.sum(0), np.zeros((3, 3)), atol=1e-10)


def test_field_response_of_a_slab_is_the_derivative_of_its_forces() -> None:
    model = polar_model()
    atoms, conditions = cases()["field"]

    def at(field: float) -> Any:
        conditions["field"] = (0.0, 0.0, field)
        return model.predict(batch_of(model, frame(atoms, **conditions)), field_response=True)

    response, up, down = at(0.0).field_response, at(0.02).forces, at(-0.02).forces
    np.testing.assert_allclose(response, (up - down) / 0.04, atol=1e-7)


def test_a_force_loss_reaches_the_weights_through_the_solve() -> None:
    model = polar_model(charges={"train_widths": True})
    atoms, conditions = cases()["potentials"]
    batch = batch_of(model, frame(atoms, **conditions))
    rng = np.random.default_rng(6)
    target = torch.as_tensor(rng.normal(size=atoms.positions.shape))
    assert model.dipoles is not None
    inner = next(model.network.parameters())
    chosen = [model.dipoles.element.weight, model.dipoles.environment.weight, model.widths.raw, inner]

    def loss() -> torch.Tensor:
        forces = model.predict(batch, train=True).forces
        assert forces is not None
        return ((forces - target) ** 2).sum()

    for weight, gradient in zip(chosen, torch.autograd.grad(loss(), chosen)):
        step = torch.as_tensor(rng.normal(size=weight.shape))
        start = weight.detach().clone()

        def along(t: float, w: Any = weight, s: Any = step, w0: Any = start) -> float:
            with torch.no_grad():
                w.copy_(w0 + t * s)
            return float(loss().detach())

        numeric = slope(along, 1e-3)
        along(0.0)
        assert float(gradient.abs().max()) > 0.0
        assert numeric == pytest.approx(float((gradient * step).sum()), rel=2e-6, abs=1e-6)


def test_wrapped_atoms_feel_the_same_forces() -> None:
    model, atoms = polar_model(), water_box()
    atoms.calc = HybridCalculator(LearnedShortRange(model), Coulomb("3d", "ewald", 1e-12))
    wrapped = atoms.copy()
    wrapped.positions += np.random.default_rng(1).integers(-2, 3, size=(len(atoms), 3)) @ np.array(atoms.cell)
    wrapped.calc = HybridCalculator(LearnedShortRange(model), Coulomb("3d", "ewald", 1e-12))
    np.testing.assert_allclose(wrapped.get_forces(), atoms.get_forces(), atol=1e-10)
    assert wrapped.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
    np.testing.assert_allclose(wrapped.get_stress(), atoms.get_stress(), atol=1e-11)


def test_a_restored_calculator_continues_with_the_same_bits() -> None:
    model = polar_model(dtype="float32")
    atoms, conditions = cases()["potentials"]

    def calculator() -> HybridCalculator:
        return HybridCalculator(
            LearnedShortRange(model), Coulomb("slab", "pme", 1e-4), conditions["electrodes"]
        )

    rng = np.random.default_rng(2)
    atoms.calc = calculator()
    other = atoms.copy()
    for _ in range(2):
        atoms.positions[16:] += rng.normal(scale=0.02, size=(6, 3))
        atoms.get_forces()
    other.positions = atoms.positions
    other.calc = calculator()
    other.calc.load_state({k: np.array(v) for k, v in atoms.calc.state().items()}, other)
    for _ in range(2):
        atoms.positions[16:] += rng.normal(scale=0.02, size=(6, 3))
        other.positions = atoms.positions
        np.testing.assert_array_equal(atoms.get_forces(), other.get_forces())
        np.testing.assert_array_equal(atoms.get_dipole_moment(), other.get_dipole_moment())


def test_an_ion_alone_has_no_dipole_and_finite_forces() -> None:
    model = polar_model()
    pair = Atoms("ClNa", positions=[[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
    found = model.predict(batch_of(model, frame(pair, boundary="open")))
    assert found.forces is not None
    assert found.atomic_dipoles is not None
    np.testing.assert_array_equal(found.atomic_dipoles, 0.0)
    np.testing.assert_allclose(found.forces[0], [14.399645351950545 / 81.0, 0.0, 0.0], atol=1e-9)


def test_where_symmetry_forbids_a_dipole_its_derivative_still_feels_the_field() -> None:
    # Oxygen half way between two hydrogens: no dipole, but one as soon as an atom moves.
    model = polar_model(longest={"O": 1.0})
    line = Atoms("OHH", positions=[[0, 0, 0], [0.6, 0.5, 0.7], [-0.6, -0.5, -0.7]])
    options: dict[str, Any] = {"boundary": "open", "field": (0.2, -0.1, 0.3)}
    found = model.predict(batch_of(model, frame(line, **options)))
    assert found.forces is not None
    assert found.atomic_dipoles is not None
    assert float(found.atomic_dipoles.abs().max()) < 1e-12
    plain = model.predict(batch_of(model, frame(line, boundary="open")), born=True)
    assert plain.forces is not None
    assert plain.born is not None
    expected = plain.forces + torch.einsum(
        "nab,b->na", plain.born, torch.tensor(options["field"], dtype=torch.float64)
    )
    np.testing.assert_allclose(found.forces, expected, atol=1e-9)
    for atom, axis in ((0, 0), (1, 2), (2, 1)):
        step = np.zeros((3, 3))
        step[atom, axis] = 1.0

        def moved(t: float, s: NDArray[np.float64] = step) -> float:
            return energy(model, frame(line, line.positions + t * s, **options))

        assert slope(moved) == pytest.approx(-float(found.forces[atom, axis]), abs=1e-7)


def test_atoms_of_an_electrode_have_no_dipoles() -> None:
    model = polar_model(longest={"Au": 1.0, "O": 1.0})
    atoms, conditions = cases()["potentials"]
    found = model.predict(batch_of(model, frame(atoms, **conditions))).atomic_dipoles
    free = model.predict(batch_of(model, frame(atoms, boundary="slab"))).atomic_dipoles
    assert found is not None
    assert free is not None
    assert float(found[:16].abs().max()) == 0.0
    assert float(free[:16].abs().max()) > 0.0
    assert float(found[16].norm()) > 0.0


def test_batches_give_what_single_frames_give() -> None:
    model = polar_model(layers=2)
    atoms, conditions = cases()["potentials"]
    frames = [frame(water_box()), frame(atoms, **conditions), frame(molecule("H2O"), boundary="open")]
    together = model.predict(batch_of(model, *frames))
    parts = [model.predict(batch_of(model, f)) for f in frames]
    np.testing.assert_allclose(together.energy, [p.energy.item() for p in parts], atol=1e-10)
    np.testing.assert_allclose(together.dipole, torch.cat([p.dipole for p in parts]), atol=1e-10)
    np.testing.assert_allclose(
        together.forces, np.concatenate([p.forces.numpy() for p in parts if p.forces is not None]), atol=1e-10
    )


def test_specifications_without_dipoles_stay_what_they_were() -> None:
    old = make_model().spec.model_dump(mode="json")
    del old["charges"]["dipoles"]
    spec = ModelSpec.model_validate(old)
    assert spec == make_model().spec
    model = HybridModel(spec)
    assert not any("dipole" in name or "longest" in name for name in model.state_dict())
    assert model.predict(batch_of(model, frame(water_box()))).atomic_dipoles is None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"charges": {"kind": "solved", "dipoles": {"O": 1.0}}},
            "dipoles = O must be left out with charges of kind solved: atomic dipoles stand beside predicted charges, kind "
            "transfer or projected",
        ),
        (
            {"charges": {"kind": "none", "dipoles": {"O": 1.0}}},
            "dipoles = O must be left out with charges of kind none: atomic dipoles stand beside predicted charges, kind "
            "transfer or projected",
        ),
        (
            {"charges": {"dipoles": {"O": 0.0}}},
            "dipoles of O = 0 e Å must be positive and belong to a chemical symbol: 1 is usual",
        ),
        (
            {"charges": {"dipoles": {"Ox": 1.0}}},
            "dipoles of Ox = 1 e Å must be positive and belong to a chemical symbol: 1 is usual",
        ),
        (
            {"charges": {"dipoles": {"Cl": 1.0}}},
            "dipoles of Cl must belong to elements of the model (H, O): correct the symbols",
        ),
        (
            {"charges": {"dipoles": {"O": 1.0}}, "double_counting": "switched", "switch": (1.0, 3.0)},
            "dipoles = O must be left out with double_counting switched: only pairs of charges are removed there; use "
            "smeared",
        ),
    ],
)
def test_dipoles_without_a_meaning_are_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match="dipoles") as caught:
        ModelSpec.model_validate({"elements": ("H", "O")} | change)
    assert f"Value error, {sentence} [" in " ".join(str(caught.value).split())


def test_what_knows_no_dipoles_refuses_them(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="exported") as caught:
        export_metatomic(polar_model(), tmp_path / "model.pt")
    assert str(caught.value) == (
        "dipoles = O, H, Cl must be none to be exported: an engine would add the Coulomb energy of the charges alone"
    )
    with pytest.raises(ValueError, match="vectors") as caught:
        FeatureHeads(4, ("H", "O"), ChargeSpec(dipoles={"O": 1.0}), 4.0, "x")
    assert str(caught.value) == (
        "dipoles = O must be left out: features of another model are invariant, and a dipole needs vectors"
    )


def test_a_single_solve_sees_the_dipoles() -> None:
    atoms, groups = slab()
    atoms.cell[2, 2] = 24.0
    atoms.pbc = (True, True, False)
    model = polar_model()
    report = solve_structure(
        atoms,
        potentials={0: 0.0, 1: 1.0},
        groups=dict(enumerate(groups)),
        model=model,
        method="ewald",
        accuracy=1e-8,
    )
    electrodes = [Electrode(g, potential=v) for g, v in zip(groups, (0.0, 1.0))]
    work = atoms.copy()
    work.calc = HybridCalculator(LearnedShortRange(model), Coulomb("slab", "ewald", 1e-8), electrodes)
    work.get_potential_energy()
    np.testing.assert_allclose(report.electrode_charges, work.calc.results["electrode_charges"], atol=1e-9)
    np.testing.assert_allclose(report.charges, work.calc.results["charges"], atol=1e-9)


@pytest.mark.parametrize("electrodes", [False, True])
def test_the_end_of_the_sum_adds_nothing_to_dipoles(electrodes: bool) -> None:
    model = polar_model()
    atoms, conditions = cases()["potentials" if electrodes else "3d"]
    boundary, groups = conditions.get("boundary", "3d"), conditions.get("electrodes", ())
    energies, forces = [], []
    for accuracy in (1e-4, 1e-10):
        atoms.calc = HybridCalculator(LearnedShortRange(model), Coulomb(boundary, "ewald", accuracy), groups)
        energies.append(atoms.get_potential_energy())
        forces.append(atoms.get_forces())
    assert energies[0] == pytest.approx(energies[1], abs=5e-3)
    assert float(np.sqrt(np.mean((forces[0] - forces[1]) ** 2))) < 5e-4
    # Training at a coarse accuracy has the same energies and forces as dynamics.
    coarse = HybridModel(model.spec.model_copy(update={"accuracy": 1e-4}))
    coarse.load_state_dict(model.state_dict())
    trained = coarse.predict(batch_of(coarse, frame(atoms, **conditions)))
    assert trained.forces is not None
    assert trained.energy.item() == pytest.approx(energies[1], abs=5e-3)
    assert float(np.sqrt(np.mean((trained.forces.numpy() - forces[1]) ** 2))) < 5e-4
    step = np.random.default_rng(3).normal(size=atoms.positions.shape)
    base = frame(atoms, **conditions)
    numeric = slope(lambda t: energy(coarse, replace(base, positions=base.positions + t * step, _pairs={})))
    assert numeric == pytest.approx(-float((trained.forces.numpy() * step).sum()), abs=1e-6)
