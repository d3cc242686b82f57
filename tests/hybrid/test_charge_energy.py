"""A local energy that depends on solved charges: forces through the solve, and what it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms

from grahame.electrostatics import Coulomb, Electrode
from grahame.hybrid import HybridCalculator
from grahame.hybrid.adapters.export import export_metatomic
from grahame.hybrid.adapters.feature_heads import FeatureHeads
from grahame.hybrid.charge_energy import ChargeEnergy
from grahame.hybrid.model import ChargeSpec, HybridModel
from grahame.hybrid.shortrange.learned import LearnedShortRange
from grahame.hybrid.training.transfer import groups_of
from tests.hybrid.model_cells import batch_of, frame, make_model, slab, water_box

CHARGES: dict[str, Any] = {"kind": "solved", "hardness": 8.0, "in_energy": True}
STEP = 1e-4


def model(**changes: Any) -> HybridModel:
    return make_model(charges=CHARGES | changes)


def with_calculator(atoms: Atoms, made: HybridModel, *electrodes: Electrode, boundary: str = "3d") -> Atoms:
    atoms = atoms.copy()
    coulomb = Coulomb(boundary, "ewald", 1e-12)
    atoms.calc = HybridCalculator(LearnedShortRange(made), coulomb, list(electrodes))
    return atoms


def everyone(atoms: Atoms, charge: float = 0.0) -> Electrode:
    return Electrode(np.arange(len(atoms)), charge=charge)


def test_a_neutral_atom_owes_nothing_to_its_charge_and_a_charged_one_does() -> None:
    torch.manual_seed(0)
    head = ChargeEnergy(4, 2, scale=0.7).to(torch.float64)
    scalars = torch.randn(3, 4, dtype=torch.float64)
    species = torch.tensor([0, 1, 1])
    neutral = head(scalars, species, torch.zeros(3, dtype=torch.float64))
    np.testing.assert_array_equal(neutral.detach(), 0.0)
    charged = head(scalars, species, torch.full((3,), 0.3, dtype=torch.float64))
    assert bool((charged.abs() > 1e-4).all())


def test_the_energy_depends_on_charges_far_beyond_the_network() -> None:
    made = model()
    plain = make_model(charges=CHARGES | {"in_energy": False})
    plain.load_state_dict(made.state_dict(), strict=False)
    atoms = water_box()
    one = frame(atoms)
    both, bare = made.predict(batch_of(made, one)), plain.predict(batch_of(plain, one))
    np.testing.assert_allclose(both.charges, bare.charges, rtol=0, atol=1e-12)
    graph = batch_of(made, one).graph
    out = made.local(graph, torch.tensor([0]), (one.conditions,))
    owed = made.energy_of_charges(out, graph, both.charges).sum()
    assert abs(float(owed.detach())) > 1e-3
    assert float(both.energy[0] - bare.energy[0]) == pytest.approx(float(owed.detach()), abs=1e-10)


@pytest.mark.parametrize(("layers", "own"), [(1, False), (2, False), (1, True)])
def test_forces_and_stress_are_derivatives_through_the_solve(layers: int, own: bool) -> None:
    made = make_model(charges=CHARGES | {"own_network": own}, layers=layers)
    atoms = with_calculator(water_box(), made, everyone(water_box()))
    forces, stress = atoms.get_forces(), atoms.get_stress(voigt=False)
    start, cell = atoms.get_positions(), np.array(atoms.cell)

    def energy(positions: np.ndarray, box: np.ndarray) -> float:
        atoms.set_cell(box)
        atoms.set_positions(positions)
        return float(atoms.get_potential_energy())

    for atom, axis in ((0, 2), (4, 0), (9, 1), (10, 2)):
        moved = np.zeros_like(start)
        moved[atom, axis] = STEP
        slope = (energy(start + moved, cell) - energy(start - moved, cell)) / (2 * STEP)
        assert forces[atom, axis] == pytest.approx(-slope, abs=2e-7)
    for a, b in ((0, 0), (1, 2), (2, 2)):
        strain = np.zeros((3, 3))
        strain[a, b] += 0.5 * STEP
        strain[b, a] += 0.5 * STEP
        up, down = np.eye(3) + strain, np.eye(3) - strain
        slope = (energy(start @ up, cell @ up) - energy(start @ down, cell @ down)) / (2 * STEP)
        assert stress[a, b] == pytest.approx(slope / abs(np.linalg.det(cell)), abs=1e-8)


def test_dynamics_and_training_see_the_same_surface() -> None:
    made, atoms = model(), water_box()
    said = made.predict(batch_of(made, frame(atoms, total_charge=0.5)), stress=True)
    run = atoms.copy()
    run.calc = HybridCalculator(
        LearnedShortRange(made), Coulomb("3d", "ewald", 1e-12), [everyone(atoms, 0.5)], total_charge=0.5
    )
    assert run.get_potential_energy() == pytest.approx(float(said.energy[0]), abs=1e-9)
    assert said.forces is not None
    assert said.stress is not None
    np.testing.assert_allclose(run.get_forces(), said.forces, rtol=0, atol=1e-9)
    np.testing.assert_allclose(run.get_stress(voigt=False), said.stress[0], rtol=0, atol=1e-10)


def test_a_held_electrode_beside_solved_atoms() -> None:
    made = model()
    atoms, groups = slab()
    metal, rest = groups[0], np.arange(groups[0].max() + 1, len(atoms))
    held = [Electrode(metal, charge=0.4), Electrode(rest, charge=-0.4)]
    run = with_calculator(atoms, made, *held, boundary="slab")
    said = made.predict(batch_of(made, frame(atoms, boundary="slab", electrodes=(held[0],))))
    assert said.forces is not None
    np.testing.assert_allclose(run.get_forces(), said.forces, rtol=0, atol=1e-7)
    assert run.calc.results["electrode_charges"][0] == pytest.approx(0.4, abs=1e-10)


def test_a_force_loss_reaches_the_weights_through_charges() -> None:
    made = model()
    batch = batch_of(made, frame(water_box()))
    weights = made.sites
    assert weights is not None
    assert made.charge_energy is not None
    made.widths.raw.requires_grad_(False)

    def loss() -> torch.Tensor:
        forces = made.predict(batch, train=True).forces
        assert forces is not None
        return (forces**2).sum()

    for parameter in (weights.element.weight, made.charge_energy.charge.weight):
        (gradient,) = torch.autograd.grad(loss(), parameter)
        k = int(gradient.abs().argmax())
        with torch.no_grad():
            flat, found = parameter.view(-1), []
            kept = float(flat[k])
            for sign in (1.0, -1.0):
                flat[k] = kept + sign * STEP
                with torch.enable_grad():
                    found.append(float(loss().detach()))
            flat[k] = kept
        slope = (found[0] - found[1]) / (2 * STEP)
        assert float(gradient.view(-1)[k]) == pytest.approx(slope, rel=1e-5)


def test_held_potentials_are_refused() -> None:
    made = model()
    atoms, groups = slab()
    lower = np.concatenate([groups[0], np.arange(groups[1].max() + 1, len(atoms))])
    run = with_calculator(
        atoms, made, Electrode(lower, potential=0.0), Electrode(groups[1], potential=1.0), boundary="slab"
    )
    with pytest.raises(ValueError, match="potential = held") as refused:
        run.get_potential_energy()
    assert str(refused.value) == (
        "potential = held must be a held charge with a model whose local energy depends on the charges (in_energy): its Omega "
        "is not stationary in them, so that no potential belongs to its charges; hold electrode charges instead"
    )


def test_charges_of_their_own_network_do_not_see_that_of_the_energy() -> None:
    made, atoms = model(own_network=True), water_box()
    before = made.predict(batch_of(made, frame(atoms)), forces=False)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "charges" not in groups_of(name):
                parameter.mul_(1.1)
    after = made.predict(batch_of(made, frame(atoms)), forces=False)
    np.testing.assert_array_equal(after.charges, before.charges)
    assert float((after.energy - before.energy).abs()) > 1e-3


def test_constant_sites_do_not_see_their_surroundings() -> None:
    made, atoms = model(constant_sites=("Na", "O")), water_box()
    graph = batch_of(made, frame(atoms)).graph
    out = made.local(graph, torch.tensor([0]), (frame(atoms).conditions,))
    for values in (out.electronegativity.detach(), out.hardness.detach()):
        assert float(values[atoms.numbers == 8].std()) == pytest.approx(0.0, abs=1e-14)
        assert float(values[atoms.numbers == 1].std()) > 1e-4


@pytest.mark.parametrize(
    ("charges", "sentence"),
    [
        (
            {"kind": "none", "own_network": True},
            "own_network = true must be left out with charges of kind none: nothing would come from it",
        ),
        (
            {"kind": "transfer", "constant_sites": ("Au",)},
            "constant_sites = Au must be left out where no chi or J sees the surroundings: use kind solved or "
            "site_constants environment",
        ),
        (
            {"kind": "solved", "constant_sites": ("Gold",)},
            "constant_sites = Gold must be chemical symbols: correct them",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(charges: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match="must be") as refused:
        ChargeSpec.model_validate(charges)
    assert sentence in str(refused.value)


def test_one_network_is_exported_and_lent_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exported") as refused:
        export_metatomic(make_model(charges={"own_network": True}), tmp_path / "model.pt")
    assert str(refused.value) == (
        "own_network = true must be false to be exported: an engine is given one network; train charges on the features of the "
        "energy"
    )
    with pytest.raises(ValueError, match="own_network") as refused:
        FeatureHeads(3, ["H"], ChargeSpec(own_network=True), 4.0, "other")
    assert str(refused.value) == (
        "own_network = true must be left out: these heads take the features of another model"
    )


def test_only_solved_charges_of_our_own_network_can_be_in_the_energy() -> None:
    with pytest.raises(ValueError, match="in_energy") as refused:
        ChargeSpec(kind="transfer", in_energy=True)
    assert (
        "in_energy = true must be left out with charges of kind transfer: the local energy sees what predicted charges are "
        "made of already; use kind solved"
    ) in str(refused.value)
    with pytest.raises(ValueError, match="in_energy") as refused:
        FeatureHeads(3, ["H"], ChargeSpec(kind="solved", in_energy=True), 4.0, "other")
    assert str(refused.value) == (
        "in_energy = true must be left out: the energy is another model's, which does not see these charges"
    )
