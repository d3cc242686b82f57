"""A model as the short range of dynamics: lists, images, state, and the energy it conserves."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet
from torch._inductor.exc import InductorError, InvalidCxxCompiler

from grahame.electrostatics import Coulomb
from grahame.hybrid import HybridCalculator
from grahame.hybrid.model import HybridModel
from grahame.hybrid.shortrange.base import Response, SeesElectrodes, ShortRange
from grahame.hybrid.shortrange.learned import LearnedShortRange
from tests.hybrid.model_cells import held, make_model, slab, water_box

VARIANTS: dict[str, dict[str, Any]] = {
    "transfer": {},
    "switched": {"double_counting": "switched", "switch": (1.5, 3.5)},
    "two layers": {"layers": 2},
    "projected": {"charges": {"kind": "projected"}},
}


def calculator(model: HybridModel, **options: Any) -> HybridCalculator:
    return HybridCalculator(LearnedShortRange(model, **options), Coulomb("3d", "ewald", 1e-12))


def evaluate(local: LearnedShortRange, atoms: Atoms, stress: bool = True) -> tuple[Any, Any, Any, Any]:
    """Energy, charges, forces and virial under some potential."""
    pbc = (bool(atoms.pbc[0]), bool(atoms.pbc[1]), bool(atoms.pbc[2]))
    found = local.compute(
        atoms.get_positions(), atoms.numbers.astype(np.int64), np.array(atoms.cell), pbc, stress
    )
    n = len(atoms)
    response = Response(np.linspace(-1, 1, n), np.linspace(0, 1, n), np.linspace(1, 0, n))
    return found.energy, found.charges, *found.derivatives(response)


def test_a_model_is_a_short_range_that_sees_electrodes() -> None:
    local = LearnedShortRange(make_model())
    assert isinstance(local, ShortRange)
    assert isinstance(local, SeesElectrodes)
    description = local.describe()
    assert description["kind"] == "learned"
    assert description["spec"]["elements"] == ["H", "O", "Na", "Cl", "Au"]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_kept_list_gives_what_a_fresh_one_gives(name: str) -> None:
    model, atoms = make_model(**VARIANTS[name]), water_box()
    kept, rng = LearnedShortRange(model), np.random.default_rng(0)
    builds = []
    for _ in range(12):
        atoms.positions += rng.normal(scale=0.06, size=atoms.positions.shape)
        before = evaluate(kept, atoms)
        fresh = evaluate(LearnedShortRange(model), atoms)
        for a, b in zip(before, fresh):
            np.testing.assert_allclose(a, b, atol=1e-11)
        builds.append(int(kept.state()["builds"]))
    assert 1 < builds[-1] < 12


def test_a_list_is_found_anew_for_another_cell_and_other_electrodes() -> None:
    model = make_model()
    local = LearnedShortRange(model)
    atoms, groups = slab()
    free = evaluate(local, atoms)
    local.set_solved(np.concatenate(groups))
    held_ones = evaluate(local, atoms)
    assert np.abs(free[1][:16]).max() > 1e-3
    np.testing.assert_array_equal(held_ones[1][:16], 0.0)
    squeezed = atoms.copy()
    squeezed.set_cell(np.array(atoms.cell) * 0.97, scale_atoms=True)
    fresh = LearnedShortRange(model)
    fresh.set_solved(np.concatenate(groups))
    for a, b in zip(evaluate(local, squeezed), evaluate(fresh, squeezed)):
        np.testing.assert_allclose(a, b, atol=1e-11)


@pytest.mark.parametrize("name", VARIANTS)
def test_wrapped_atoms_feel_the_same_forces(name: str) -> None:
    model, atoms = make_model(**VARIANTS[name]), water_box()
    atoms.calc = calculator(model)
    forces, energy, stress = atoms.get_forces(), atoms.get_potential_energy(), atoms.get_stress()
    wrapped = atoms.copy()
    shifts = np.random.default_rng(1).integers(-2, 3, size=(len(atoms), 3))
    wrapped.positions += shifts @ np.array(atoms.cell)
    wrapped.calc = calculator(model)
    np.testing.assert_allclose(wrapped.get_forces(), forces, atol=1e-10)
    assert wrapped.get_potential_energy() == pytest.approx(energy, abs=1e-10)
    np.testing.assert_allclose(wrapped.get_stress(), stress, atol=1e-11)
    # The same calculator, which kept the list of the atoms before they were wrapped.
    wrapped.calc = atoms.calc
    np.testing.assert_allclose(wrapped.get_forces(), forces, atol=1e-10)


def test_atoms_wrapped_along_the_normal_of_a_slab_feel_the_same_forces() -> None:
    model = make_model()
    atoms, groups = slab()
    atoms.cell[2, 2] = 24.0
    expected = HybridCalculator(
        LearnedShortRange(model), Coulomb("slab", "ewald", 1e-9), held(groups)
    ).get_forces(atoms)
    atoms.pbc = True
    atoms.positions[:, 2] -= 1.7
    atoms.wrap()
    assert np.ptp(atoms.positions[groups[0], 2]) > 15.0
    cut = HybridCalculator(LearnedShortRange(model), Coulomb("slab", "ewald", 1e-9), held(groups))
    np.testing.assert_allclose(cut.get_forces(atoms), expected, atol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_restored_state_continues_with_the_same_bits(dtype: str) -> None:
    model, atoms = make_model(dtype=dtype), water_box()
    local, rng = LearnedShortRange(model), np.random.default_rng(2)
    for _ in range(3):
        atoms.positions += rng.normal(scale=0.02, size=atoms.positions.shape)
        evaluate(local, atoms)
    state = {k: np.array(v) for k, v in local.state().items()}
    other = LearnedShortRange(model)
    other.load_state(state)
    for _ in range(3):
        atoms.positions += rng.normal(scale=0.02, size=atoms.positions.shape)
        for a, b in zip(evaluate(local, atoms), evaluate(other, atoms)):
            np.testing.assert_array_equal(a, b)
    assert other.state()["builds"] == local.state()["builds"]


def test_without_stress_there_is_no_virial_and_the_same_forces() -> None:
    local, atoms = LearnedShortRange(make_model()), water_box()
    with_stress, without = evaluate(local, atoms), evaluate(local, atoms, stress=False)
    assert without[3] is None
    np.testing.assert_allclose(without[2], with_stress[2], atol=1e-12)


def test_a_model_that_solves_all_charges_refuses_atoms_without_a_solver() -> None:
    atoms = water_box()
    atoms.calc = calculator(make_model(charges={"kind": "solved", "hardness": 8.0}))
    with pytest.raises(ValueError, match="electrodes") as caught:
        atoms.get_potential_energy()
    assert str(caught.value) == (
        "electrodes = 0 atoms must be all 11 with a model whose charges are all solved: put the other atoms in one more "
        "electrode at a held charge, or give only the model"
    )


def test_weights_take_no_gradients_in_dynamics() -> None:
    model = make_model(charges={"kind": "transfer", "train_widths": True})
    LearnedShortRange(model)
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name", ["transfer", "switched"])
def test_energy_is_conserved_across_rebuilt_lists(name: str) -> None:
    # Random weights bind nothing: a short, hot stretch in which the atoms run far enough for new lists.
    model, atoms = make_model(**VARIANTS[name]), water_box()
    atoms.calc = HybridCalculator(LearnedShortRange(model), Coulomb("3d", "ewald", 1e-9))
    atoms.set_momenta(np.random.default_rng(3).normal(scale=1.0, size=atoms.positions.shape))
    spread = {}
    start = atoms.copy()
    for step in (0.04, 0.02):
        moving = start.copy()
        moving.calc = atoms.calc
        energies, kinetic = [], []
        integrator = VelocityVerlet(moving, step * units.fs)
        builds = int(atoms.calc.potential.short_range.state()["builds"])
        for _ in range(round(6.0 / step)):
            integrator.run(1)
            kinetic.append(moving.get_kinetic_energy())
            energies.append(moving.get_total_energy())
        assert int(atoms.calc.potential.short_range.state()["builds"]) > builds + 1
        spread[step] = np.ptp(energies)
    assert spread[0.02] < 2e-3 * np.ptp(kinetic)
    # Second order: what is left is the integrator's.
    assert spread[0.04] / spread[0.02] == pytest.approx(4.0, rel=0.25)


def test_charges_that_are_not_those_of_the_cell_are_refused() -> None:
    model = make_model()
    ion = Atoms("OH", positions=[[0, 0, 0], [0.97, 0, 0]], cell=[8.0] * 3, pbc=True)
    ion.calc = calculator(model)
    with pytest.raises(ValueError, match="total_charge") as caught:
        ion.get_potential_energy()
    assert str(caught.value) == (
        "total_charge = 0 e must be the sum of the model's charges, -1 e: state the cell's charge, or give formal_charges "
        "per atom or fragments with their charges"
    )
    for stated in (-1.0, None):
        coulomb = Coulomb("3d", "ewald", 1e-12)
        ion.calc = HybridCalculator(LearnedShortRange(model), coulomb, total_charge=stated)
        assert np.isfinite(ion.get_potential_energy())


def test_a_model_without_charges_refuses_electrodes() -> None:
    _, groups = slab()
    local = LearnedShortRange(make_model(charges={"kind": "none"}))
    with pytest.raises(ValueError, match="electrodes") as caught:
        HybridCalculator(local, Coulomb("slab"), held(groups))
    assert str(caught.value) == (
        "electrodes = 16 atoms must be left out with a model without charges: it has nothing that an electrode's charge could "
        "act on"
    )


UNCOMPILED = (
    "compile = true must find what torch.compile needs (REASON): the network goes on uncompiled, with the same numbers and more "
    "slowly; install a C++ compiler, or leave `compile` out"
)


def no_compiler(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
    """As torch.compile does without a C++ compiler: it raises when the network is first called."""

    def call(*_: Any) -> Any:
        raise InductorError(InvalidCxxCompiler(), None)

    return call


def no_way_back(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
    """As torch.compile does where only the derivatives cannot be translated."""

    def call(*args: Any) -> Any:
        def refuse(_: Any) -> None:
            raise InductorError(InvalidCxxCompiler(), None)

        scalars, vectors = function(*args)
        scalars.register_hook(refuse)
        return scalars, vectors

    return call


def no_translation(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
    """As torch.compile does on a platform that it does not know."""
    raise RuntimeError("torch.compile is not supported on Python 3.99+")


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("broken", [no_compiler, no_way_back, no_translation])
def test_what_cannot_be_compiled_runs_as_it_is_written(
    broken: Any, layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    atoms = water_box()
    wanted = evaluate(LearnedShortRange(make_model(layers=layers)), atoms)
    monkeypatch.setattr(torch, "compile", broken)

    def started() -> tuple[LearnedShortRange, Any]:
        local = LearnedShortRange(make_model(layers=layers), compile=True)
        return local, evaluate(local, atoms)

    with pytest.warns(UserWarning, match="compile") as said:
        local, found = started()
    reason = str(InductorError(InvalidCxxCompiler(), None)).splitlines()[0].rstrip(".")
    if broken is no_translation:
        reason = "torch.compile is not supported on Python 3.99+"
    assert [str(w.message) for w in said] == [UNCOMPILED.replace("REASON", reason)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = evaluate(local, atoms)
    for a, b, c in zip(wanted, found, again):
        # What was computed before the derivatives failed has tables of another width.
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(c, a)


def test_errors_of_a_compiled_computation_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def translate(function: Any, **_: Any) -> Any:
        def call(*_: Any) -> Any:
            raise RuntimeError("The size of tensor a (2) must match the size of tensor b (3)")

        return call

    monkeypatch.setattr(torch, "compile", translate)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError, match=r"^The size of tensor a \(2\)"):
            evaluate(LearnedShortRange(make_model(), compile=True), water_box())


FRAGMENTS = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 4])


@pytest.mark.parametrize(
    ("kind", "options", "sentence"),
    [
        (
            "transfer",
            {"formal_charges": np.zeros(3)},
            "formal_charges = values of shape (3,) must be one per atom, 11: give those of this structure",
        ),
        (
            "projected",
            {"fragments": np.zeros(4, dtype=np.int64)},
            "fragments = values of shape (4,) must be one per atom, 11: give those of this structure",
        ),
        (
            "projected",
            {"fragments": FRAGMENTS, "fragment_charges": np.zeros(3)},
            "fragment_charges = 3 values must be one per fragment, 5: fragments are numbered from 0",
        ),
    ],
)
def test_values_of_another_structure_are_refused(kind: str, options: Any, sentence: str) -> None:
    local = LearnedShortRange(make_model(charges={"kind": kind}), **options)
    with pytest.raises(ValueError, match="must be one per") as refused:
        evaluate(local, water_box())
    assert str(refused.value) == sentence


@pytest.mark.parametrize("options", [{}, {"layers": 2}, {"charges": {"kind": "none"}, "repulsion": False}])
def test_two_atoms_at_one_place_are_named(options: Any) -> None:
    atoms = water_box()
    atoms.positions[10] = atoms.positions[4]
    with pytest.raises(ValueError, match="distance") as refused:
        evaluate(LearnedShortRange(make_model(**options)), atoms)
    assert str(refused.value) == (
        "distance = 0 Å of atoms 4 (H) and 10 (Cl) must be positive: move one of them, or remove it"
    )


def test_no_atoms_are_refused() -> None:
    with pytest.raises(ValueError, match="atoms") as refused:
        evaluate(LearnedShortRange(make_model()), Atoms())
    assert (
        str(refused.value)
        == "atoms = 0 must be at least one: a model has nothing to say of an empty structure"
    )


def test_an_element_without_a_reference_energy_at_the_level_is_refused() -> None:
    known = {"pbe": {"H": -13.0, "O": -430.0}, "rpbe": dict.fromkeys(("H", "O", "Na", "Cl"), 0.0)}
    model = make_model(levels=("pbe", "rpbe"), reference_energies=known)
    with pytest.raises(ValueError, match="reference") as error:
        evaluate(LearnedShortRange(model, "pbe"), water_box())
    assert str(error.value) == (
        "elements = Na, Cl must have reference energies at level pbe, which has those of H, O: choose level rpbe, or train on "
        "energies of this one with them"
    )
    evaluate(LearnedShortRange(model, "pbe"), water_box()[:9])
    evaluate(LearnedShortRange(model, "rpbe"), water_box())
