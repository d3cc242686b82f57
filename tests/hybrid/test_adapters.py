"""Models trained elsewhere as the short range.

ASE calculators are the real thing here. What all trunks share is tested on a small differentiable model with the
interface of a trunk; MACE, NequIP, Allegro and metatomic themselves are exercised, each in an environment of its own,
by `examples/adapters/exercise.py`.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from safetensors.torch import save_file

from grahame.electrostatics import Coulomb, Electrode
from grahame.hybrid import HybridCalculator
from grahame.hybrid.adapters import (
    ASETrunk,
    FeatureHeads,
    FixedCharges,
    ForeignModel,
    ForeignShortRange,
    LabelEnsemble,
    MACETrunk,
    MetatomicTrunk,
    ModelCharges,
    NequIPTrunk,
    Switched,
    export_metatomic,
    load_heads,
    residual_labels,
    save_heads,
)
from grahame.hybrid.frames import Conditions
from grahame.hybrid.model import ChargeSpec
from grahame.hybrid.shortrange import ShortRange
from grahame.hybrid.shortrange.base import SeesElectrodes
from grahame.hybrid.shortrange.classical import ClassicalForceField
from tests.hybrid.foreign_trunks import PairTrunk
from tests.hybrid.model_cells import ELEMENTS, frame, held, make_model, slab, water_box

SPC = FixedCharges({"O": -0.82, "H": 0.41, "Na": 1.0, "Cl": -1.0}, {"Au": 0.392})


def refuses(message: str) -> Any:
    """A ValueError with exactly this message."""
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def coulomb(boundary: str = "slab") -> Coulomb:
    return Coulomb(boundary, "exact" if boundary == "open" else "ewald", 1e-10)


def lennard_jones() -> LennardJones:
    return LennardJones(sigma=0.9, epsilon=0.02, rc=5.0, ro=3.0, smooth=True)


def heads_on(trunk: Any, **spec: Any) -> FeatureHeads:
    """Heads with random weights, none of them zero."""
    torch.manual_seed(1)
    heads = FeatureHeads.on(trunk, ELEMENTS, ChargeSpec(**spec))
    with torch.no_grad():
        for parameter in heads.parameters():
            if bool((parameter == 0).all()):
                parameter.normal_(std=0.3)
    return heads


def tall_slab() -> tuple[Atoms, list[Any]]:
    """Two gold slabs and two waters with vacuum beside them."""
    atoms, groups = slab()
    cell = np.array(atoms.cell)
    cell[2, 2] = 26.0
    atoms.set_cell(cell)
    return atoms, groups


def slope(function: Callable[[float], float], h: float = 1e-4) -> float:
    return (function(-2 * h) - 8 * function(-h) + 8 * function(h) - function(2 * h)) / (12 * h)


def assert_gradients(atoms: Atoms, tolerance: float = 1e-7) -> None:
    """Forces and stress of the attached calculator against differences of its energy."""
    rng = np.random.default_rng(3)
    start, cell = atoms.positions.copy(), np.array(atoms.cell)
    step = rng.normal(size=start.shape)
    work = float((atoms.get_forces(apply_constraint=False) * step).sum())

    def moved(t: float) -> float:
        atoms.positions = start + t * step
        return float(atoms.get_potential_energy())

    assert slope(moved) == pytest.approx(-work, abs=tolerance)
    atoms.positions = start
    strain = rng.normal(size=(3, 3))
    strain += strain.T
    wanted = float((atoms.get_stress(voigt=False) * strain).sum()) * atoms.get_volume()

    def strained(t: float) -> float:
        deformation = np.eye(3) + t * strain
        atoms.set_cell(cell @ deformation)
        atoms.positions = start @ deformation
        return float(atoms.get_potential_energy())

    assert slope(strained) == pytest.approx(wanted, abs=30 * tolerance)
    atoms.set_cell(cell)
    atoms.positions = start


def test_a_foreign_short_range_is_a_short_range_that_sees_electrodes() -> None:
    short_range = ForeignShortRange(ASETrunk(lennard_jones()), SPC, contains_coulomb=False)
    assert isinstance(short_range, ShortRange)
    assert isinstance(short_range, SeesElectrodes)


# ------------------------------------------------------------------------------------------ ASE calculators


def test_an_ase_calculator_alone_gives_its_own_numbers() -> None:
    atoms, _ = tall_slab()
    atoms.numbers[16:] = 29  # EMT knows metals
    theirs = atoms.copy()
    theirs.calc = EMT()
    atoms.calc = HybridCalculator(ForeignShortRange(ASETrunk(EMT()), contains_coulomb=True), coulomb())
    assert atoms.get_potential_energy() == pytest.approx(theirs.get_potential_energy(), abs=1e-12)
    np.testing.assert_allclose(atoms.get_forces(), theirs.get_forces(), atol=1e-12)
    np.testing.assert_allclose(atoms.get_stress(), theirs.get_stress(), atol=1e-12)


@pytest.mark.parametrize("where", ["slab", "3d"])
def test_forces_and_stress_with_an_ase_calculator_are_gradients(where: str) -> None:
    short_range = ForeignShortRange(ASETrunk(lennard_jones()), SPC, contains_coulomb=False)
    if where == "slab":
        atoms, groups = tall_slab()
        atoms.calc = HybridCalculator(short_range, coulomb(), held(groups))
    else:
        atoms = water_box()
        atoms.calc = HybridCalculator(short_range, coulomb("3d"))
    assert_gradients(atoms)


def test_a_force_field_of_ours_as_an_ase_calculator_gives_the_same_run() -> None:
    class WithoutCoulomb(Calculator):
        """The bonded and Lennard-Jones part of the classical force field."""

        implemented_properties = ["energy", "forces", "stress", "charges"]  # noqa: RUF012

        def __init__(self, field: ClassicalForceField) -> None:
            super().__init__()
            self.field = field

        def calculate(
            self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes
        ) -> None:
            super().calculate(atoms, properties, system_changes)
            pbc = (bool(atoms.pbc[0]), bool(atoms.pbc[1]), bool(atoms.pbc[2]))
            found = self.field.compute(atoms.positions, atoms.numbers, np.array(atoms.cell), pbc, True)
            assert found.forces is not None
            assert found.virial is not None
            stress = (found.virial / atoms.get_volume())[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
            self.results = {"energy": found.energy, "forces": found.forces, "stress": stress}
            self.results["charges"] = found.charges

    atoms, groups = tall_slab()

    def field() -> ClassicalForceField:
        return ClassicalForceField.from_atoms(atoms, [g.tolist() for g in groups], cutoff=5.0)

    ours, theirs = atoms.copy(), atoms.copy()
    ours.calc = HybridCalculator(field(), coulomb(), held(groups), smearing=0.392)
    trunk = ASETrunk(WithoutCoulomb(field()), charges_fixed=True)
    charges = trunk.fixed_charges(atoms, widths=0.0, exclusions=field().exclusions)
    short_range = ForeignShortRange(trunk, charges, contains_coulomb=False)
    theirs.calc = HybridCalculator(short_range, coulomb(), held(groups), smearing=0.392)
    assert theirs.get_potential_energy() == pytest.approx(ours.get_potential_energy(), abs=1e-10)
    np.testing.assert_allclose(theirs.get_forces(), ours.get_forces(), atol=1e-10)
    np.testing.assert_allclose(theirs.get_stress(), ours.get_stress(), atol=1e-10)


class Changing(LennardJones):
    """Charges that depend on positions."""

    implemented_properties = [*LennardJones.implemented_properties, "charges"]  # noqa: RUF012

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        self.results["charges"] = 0.01 * self.atoms.positions[:, 0]


def test_charges_of_a_calculator_are_taken_only_if_they_stay() -> None:
    atoms = water_box()
    with refuses(
        "charges_fixed = False must be True to take the calculator's charges: say that they do not depend on "
        "positions, or give FixedCharges; without their derivatives forces would be wrong"
    ):
        ASETrunk(Changing()).fixed_charges(atoms)
    trunk = ASETrunk(Changing(sigma=2.0, epsilon=0.01, rc=5.0), charges_fixed=True)
    charges = trunk.fixed_charges(atoms)
    short_range = ForeignShortRange(trunk, charges, contains_coulomb=False)
    atoms.calc = HybridCalculator(short_range, coulomb("3d"), total_charge=None)
    atoms.get_potential_energy()
    atoms.positions[3, 0] += 0.5
    with pytest.raises(
        ValueError, match=r"^charges\[3\] = .* e must stay .* e: the calculator's charges depend on"
    ):
        atoms.get_potential_energy()


def test_a_calculator_without_stress_says_so_when_it_is_asked_for() -> None:
    class NoStress(LennardJones):
        implemented_properties = ["energy", "forces"]  # noqa: RUF012

        def calculate(self, *args: Any, **kwargs: Any) -> None:
            super().calculate(*args, **kwargs)
            self.results.pop("stress", None)

    atoms = water_box()
    short_range = ForeignShortRange(ASETrunk(NoStress(rc=5.0)), SPC, contains_coulomb=False)
    atoms.calc = HybridCalculator(short_range, coulomb("3d"))
    atoms.get_forces()
    with refuses(
        "stress of NoStress = none must be there: run without stress, or use a calculator that has one"
    ):
        atoms.get_stress()


# ------------------------------------------------------------------------------------- nothing counts twice


def test_coulomb_energy_that_would_count_twice_is_refused() -> None:
    trunk = ASETrunk(lennard_jones())
    with pytest.raises(TypeError, match="contains_coulomb"):
        ForeignShortRange(trunk, SPC)  # type: ignore[call-arg]
    twice = (
        "contains_coulomb = True must not go with {} unless something is removed: the long range would count "
        "Coulomb energy twice. Train the model on `residual_labels`, or give removed=LabelEnsemble(...) or "
        "removed=Switched(...)"
    )
    with refuses(twice.format("charges")):
        ForeignShortRange(trunk, SPC, contains_coulomb=True)
    _, groups = tall_slab()
    with refuses(twice.format("electrodes")):
        HybridCalculator(ForeignShortRange(trunk, contains_coulomb=True), coulomb(), held(groups))
    near = ForeignShortRange(trunk, SPC, contains_coulomb=True, removed=Switched(3.0, 4.0))
    with refuses(
        "removed = Switched must not go with electrodes: the model holds what near metal atoms do to the electrolyte, "
        "which is never removed. Give removed=LabelEnsemble(...), or train the model on `residual_labels`"
    ):
        HybridCalculator(near, coulomb(), held(groups))
    with refuses(
        "removed = Switched must be left out with contains_coulomb = False: nothing is counted twice there"
    ):
        ForeignShortRange(trunk, SPC, contains_coulomb=False, removed=Switched(3.0, 4.0))
    with refuses(
        "switch = 5 Å must not exceed the model's cut-off of 4 Å: beyond it the model holds no pair that could replace "
        "what is removed"
    ):
        ForeignShortRange(PairTrunk(), SPC, contains_coulomb=True, removed=Switched(3.0, 5.0))
    with refuses(
        "switch = (3, 2) Å must be two radii, 0 <= inner < outer: choose both close to the model's cut-off"
    ):
        Switched(3.0, 2.0)
    with refuses(
        "smearing = 0.4 Å must be left out: give the widths to the charges, which both the run and the labels then have"
    ):
        LabelEnsemble(coulomb(), smearing=0.4)


@pytest.mark.parametrize("charges", ["fixed", "environment", "boundary"])
def test_the_labels_ensemble_leaves_the_model_as_it_was_trained(charges: str) -> None:
    trunk = PairTrunk()
    atoms, groups = tall_slab()
    source: Any = {
        "fixed": lambda: SPC,
        "environment": lambda: heads_on(trunk, site_constants="environment", hardness=0.5),
        "boundary": lambda: heads_on(trunk, boundary_transfer=True),
    }[charges]()
    alone, both = atoms.copy(), atoms.copy()
    alone.calc = HybridCalculator(ForeignShortRange(trunk, contains_coulomb=True), coulomb())
    short_range = ForeignShortRange(trunk, source, contains_coulomb=True, removed=LabelEnsemble(coulomb()))
    # Both slabs at one potential and no total charge are one group without charge.
    # Whatever that potential is: charge the electrolyte has from the group left the same reservoir.
    both.calc = HybridCalculator(short_range, coulomb(), [Electrode(g, potential=0.7) for g in groups])
    assert both.get_potential_energy() == pytest.approx(alone.get_potential_energy(), abs=1e-9)
    np.testing.assert_allclose(both.get_forces(), alone.get_forces(), atol=1e-9)
    np.testing.assert_allclose(both.get_stress(), alone.get_stress(), atol=1e-10)
    assert np.abs(both.calc.results["electrode_charges"]).max() > 1e-3
    other = both.copy()
    other.calc = HybridCalculator(
        ForeignShortRange(trunk, source, contains_coulomb=True, removed=LabelEnsemble(coulomb())),
        coulomb(),
        held(groups, 1.5),
    )
    assert abs(other.get_potential_energy() - alone.get_potential_energy()) > 1e-3
    assert_gradients(other)


def test_the_labels_ensemble_takes_a_field_only_as_far_as_it_is_new() -> None:
    trunk, atoms = PairTrunk(), water_box()
    atoms.pbc = False
    alone, run = atoms.copy(), atoms.copy()
    alone.calc = HybridCalculator(ForeignShortRange(trunk, contains_coulomb=True), coulomb("open"))
    short_range = ForeignShortRange(trunk, SPC, contains_coulomb=True, removed=LabelEnsemble(coulomb("open")))
    field = np.array([0.0, 0.1, 0.2])
    run.calc = HybridCalculator(short_range, coulomb("open"), field=field)
    q = SPC.of(atoms.numbers.astype(np.int64))
    np.testing.assert_allclose(run.get_forces(), alone.get_forces() + q[:, None] * field, atol=1e-10)
    moved = -float(q @ atoms.positions @ field)
    assert run.get_potential_energy() == pytest.approx(alone.get_potential_energy() + moved, abs=1e-9)


def test_a_switched_removal_takes_near_pairs_out_of_the_long_range() -> None:
    trunk = PairTrunk()
    atoms = Atoms("NaCl", positions=[[0, 0, 0], [2.5, 0, 0]])
    short_range = ForeignShortRange(trunk, SPC, contains_coulomb=True, removed=Switched(3.0, 4.0))
    alone, run = atoms.copy(), atoms.copy()
    alone.calc = HybridCalculator(ForeignShortRange(trunk, contains_coulomb=True), coulomb("open"))
    run.calc = HybridCalculator(short_range, coulomb("open"))
    # Within the inner radius the pair belongs to the model; only each Gaussian's own energy is left.
    own = atoms.copy()
    own.positions[1, 0] = 200.0
    own.calc = HybridCalculator(ForeignShortRange(trunk, SPC, contains_coulomb=False), coulomb("open"))
    far = own.get_potential_energy() + 14.399645 / 200.0
    assert run.get_potential_energy() == pytest.approx(alone.get_potential_energy() + far, abs=1e-6)
    np.testing.assert_allclose(run.get_forces(), alone.get_forces(), atol=1e-9)
    crowded = water_box()
    crowded.calc = HybridCalculator(
        ForeignShortRange(trunk, heads_on(trunk), contains_coulomb=True, removed=Switched(2.0, 3.5)),
        coulomb("3d"),
    )
    assert_gradients(crowded)


def test_residual_labels_and_the_long_range_add_up_to_the_labels() -> None:
    atoms, groups = tall_slab()
    metal = [Electrode(np.concatenate(groups), charge=0.0)]
    rng = np.random.default_rng(0)
    forces, stress = rng.normal(size=(len(atoms), 3)), rng.normal(size=6)
    left = residual_labels(atoms, SPC, coulomb(), metal, energy=-3.0, forces=forces, stress=stress)
    again = atoms.copy()
    trunk = ASETrunk(lennard_jones())
    again.calc = HybridCalculator(ForeignShortRange(trunk, SPC, contains_coulomb=False), coulomb(), metal)
    bare = atoms.copy()
    bare.calc = lennard_jones()
    assert left.energy + left.long_range == pytest.approx(-3.0, abs=1e-12)
    assert again.get_potential_energy() - bare.get_potential_energy() == pytest.approx(
        left.long_range, abs=1e-9
    )
    np.testing.assert_allclose(left.forces + again.get_forces() - bare.get_forces(), forces, atol=1e-9)
    assert left.stress is not None
    sum_ = left.stress + again.get_stress(voigt=False) - bare.get_stress(voigt=False)
    np.testing.assert_allclose(sum_[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]], stress, atol=1e-9)


# ------------------------------------------------------------------------------------------ charges beside


def test_fixed_charges_by_element_by_atom_and_formal() -> None:
    numbers = np.array([11, 17, 8])
    assert FixedCharges.formal(Cl=-0.9).of(numbers).tolist() == [1.0, -0.9, -2.0]
    assert FixedCharges([0.5, -0.5, 0.0], 0.3).of(numbers).tolist() == [0.5, -0.5, 0.0]
    assert FixedCharges({}, {"O": 0.7}).widths(numbers).tolist() == [0.5, 0.5, 0.7]
    solved = np.array([False, False, True])
    assert FixedCharges({"Na": 1.0, "Cl": -1.0}).of(numbers, solved).tolist() == [1.0, -1.0, 0.0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            lambda: FixedCharges({"Na": 1.0}).of(np.array([11, 17])),
            "charges[1] = nothing for Cl must be given: name the element's charge, or make the atom part of an electrode",
        ),
        (
            lambda: FixedCharges([1.0, 2.0]).of(np.array([11])),
            "charges = 2 values must be one per atom (1), or a mapping by element: correct the length",
        ),
        (
            lambda: FixedCharges({"Na": float("nan")}),
            "charges = nan e must be finite: give one number for each element or atom",
        ),
        (
            lambda: FixedCharges({"Na": 1.0}, {"Na": -0.5}),
            "widths = -0.5 Å must be zero or positive: give Gaussian widths",
        ),
        (
            lambda: FixedCharges({"Qq": 1.0}),
            "charge of Qq = 1 e must belong to a chemical symbol: correct it",
        ),
        (
            lambda: FeatureHeads.on(ASETrunk(lennard_jones()), ELEMENTS),
            "features = 0 must be positive: this model shows none, use FixedCharges instead of heads",
        ),
        (
            lambda: FeatureHeads.on(PairTrunk(), ELEMENTS, ChargeSpec(kind="none")),
            "charges = none must be transfer, projected or solved: without charges no head is needed",
        ),
    ],
)
def test_charges_that_make_no_sense_are_refused(wrong: Callable[[], Any], message: str) -> None:
    with refuses(message):
        wrong()


@pytest.mark.parametrize("total", [0.0, None])
def test_charges_of_the_model_itself_enter_the_forces(total: float | None) -> None:
    trunk = PairTrunk()
    atoms, groups = tall_slab()
    own = ModelCharges(total, tolerance=1.0)
    short_range = ForeignShortRange(trunk, own, contains_coulomb=False)
    atoms.calc = HybridCalculator(short_range, coulomb(), held(groups))
    assert_gradients(atoms)
    electrolyte = float(atoms.calc.results["charges"][16:].sum())
    assert abs(float(atoms.calc.results["charges"].sum())) < 1e-12
    assert (abs(electrolyte) < 1e-12) == (total == 0.0)


def test_charges_of_the_model_far_from_their_total_are_refused() -> None:
    atoms = water_box()
    short_range = ForeignShortRange(PairTrunk(), ModelCharges(5.0), contains_coulomb=False)
    atoms.calc = HybridCalculator(short_range, coulomb("3d"))
    with pytest.raises(
        ValueError, match=r"^charges = .* e per atom away from a total of 5 e must be within 0\.01 e: "
    ):
        atoms.get_potential_energy()
    without = ForeignShortRange(ASETrunk(lennard_jones()), ModelCharges(0.0), contains_coulomb=False)
    atoms.calc = HybridCalculator(without, coulomb("3d"))
    with refuses(
        "charges = none in the model's outputs must be there: use FixedCharges, or heads on its features"
    ):
        atoms.get_potential_energy()


# ------------------------------------------------------------------------------------- heads on its features


@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "transfer"},
        {"kind": "transfer", "site_constants": "environment", "hardness": 0.5},
        {"kind": "transfer", "boundary_transfer": True},
        {"kind": "projected"},
    ],
    ids=["transfer", "sites", "boundary", "projected"],
)
def test_forces_through_heads_are_gradients_and_those_of_training(spec: dict[str, Any]) -> None:
    trunk = PairTrunk()
    atoms, groups = tall_slab()
    heads = heads_on(trunk, **spec)
    conditions: dict[str, Any] = {}
    if spec["kind"] == "projected":
        fragments = np.full(len(atoms), -1)
        fragments[16:19], fragments[19:] = 0, 1
        conditions = {"fragments": fragments, "fragment_charges": np.zeros(2)}
    short_range = ForeignShortRange(trunk, heads, contains_coulomb=False, conditions=Conditions(**conditions))
    atoms.calc = HybridCalculator(short_range, coulomb(), held(groups))
    assert_gradients(atoms)
    model = ForeignModel(trunk, heads, accuracy=1e-9)
    batch = model.batch([frame(atoms, boundary="slab", electrodes=held(groups), **conditions)])
    trained = model.predict(batch)
    assert atoms.get_potential_energy() == pytest.approx(trained.energy.item(), abs=1e-7)
    assert trained.forces is not None
    np.testing.assert_allclose(atoms.get_forces(), trained.forces, atol=1e-7)
    np.testing.assert_allclose(atoms.calc.results["charges"], trained.charges, atol=1e-7)


def test_solved_charges_of_all_atoms_come_from_the_heads() -> None:
    trunk, atoms = PairTrunk(), water_box()
    heads = heads_on(trunk, kind="solved", hardness=10.0)
    short_range = ForeignShortRange(trunk, heads, contains_coulomb=False)
    atoms.calc = HybridCalculator(short_range, coulomb("3d"), [Electrode(np.arange(len(atoms)), charge=0.0)])
    assert_gradients(atoms)
    assert np.abs(atoms.calc.results["charges"]).min() > 1e-4
    short_range = ForeignShortRange(trunk, heads, contains_coulomb=False)
    atoms.calc = HybridCalculator(short_range, coulomb("3d"), [Electrode(np.arange(3), charge=0.0)])
    with refuses(
        "electrodes = 3 atoms must be all 11 with heads whose charges are all solved: put the other atoms in one more "
        "electrode at a held charge"
    ):
        atoms.get_potential_energy()


def test_heads_learn_charges_on_frozen_features() -> None:
    trunk, atoms = PairTrunk(), water_box()
    torch.manual_seed(0)
    heads = FeatureHeads.on(trunk, ELEMENTS, ChargeSpec(formal={"O": -0.8, "H": 0.4}))
    model = ForeignModel(trunk, heads)
    rng = np.random.default_rng(2)
    frames = [frame(atoms, atoms.positions + rng.normal(scale=0.1, size=(len(atoms), 3))) for _ in range(4)]
    batch = model.batch(frames)
    teacher = ForeignModel(trunk, heads_on(trunk, formal={"O": -0.8, "H": 0.4}))
    with torch.no_grad():
        wanted = teacher.charges(batch).charges
    said = model.features(batch)
    assert said.features is not None
    heads.standardise(said.features)
    assert {id(p) for p in model.parameters()} == {id(p) for p in heads.parameters()}

    def error() -> torch.Tensor:
        return ((model.charges(batch, said).charges - wanted) ** 2).mean()

    before = float(error().detach())
    optimiser = torch.optim.Adam(heads.parameters(), lr=0.02)
    for _ in range(150):
        optimiser.zero_grad()
        error().backward()
        optimiser.step()
    assert float(error().detach()) < 0.05 * before
    assert float(model.charges(batch, said).charges.detach().sum().abs()) < 1e-12


def test_a_force_loss_reaches_the_heads_through_the_trunk_and_the_solve() -> None:
    trunk = PairTrunk()
    atoms, groups = tall_slab()
    heads = heads_on(trunk, site_constants="environment", hardness=0.5)
    model = ForeignModel(trunk, heads)
    batch = model.batch([frame(atoms, boundary="slab", electrodes=held(groups))])
    target = torch.as_tensor(np.random.default_rng(6).normal(size=atoms.positions.shape))

    def loss() -> torch.Tensor:
        forces = model.predict(batch, train=True).forces
        assert forces is not None
        return ((forces - target) ** 2).sum()

    assert heads.sites is not None
    weight = heads.sites.element.weight
    gradient = torch.autograd.grad(loss(), weight)[0]
    step = torch.as_tensor(np.random.default_rng(7).normal(size=weight.shape))
    start = weight.detach().clone()

    def along(t: float) -> float:
        with torch.no_grad():
            weight.copy_(start + t * step)
        return float(loss().detach())

    assert slope(along, 1e-3) == pytest.approx(float((gradient * step).sum()), rel=2e-6, abs=1e-6)


def test_heads_are_saved_with_the_model_they_belong_to(tmp_path: Path) -> None:
    trunk = PairTrunk()
    heads = heads_on(trunk, widths={"Au": 0.392})
    heads.standardise(torch.randn(20, 3))
    save_heads(heads, tmp_path / "heads.safetensors")
    again = load_heads(tmp_path / "heads.safetensors")
    atoms = water_box()
    energies = []
    for h in (heads, again):
        atoms.calc = HybridCalculator(ForeignShortRange(trunk, h, contains_coulomb=False), coulomb("3d"))
        energies.append(atoms.get_potential_energy())
    assert energies[0] == energies[1]
    other = PairTrunk()
    other.identity = "another"
    with refuses(
        "heads = trained on model pairs must be trained on this one, another: its features mean something else"
    ):
        ForeignShortRange(other, again, contains_coulomb=False)
    (tmp_path / "text").write_text("no heads")
    with refuses(
        f"heads = {tmp_path / 'text'} must be a whole safetensors file: it is damaged or of another kind"
    ):
        load_heads(tmp_path / "text")
    header = {"format": "grahame feature heads", "version": 1, **heads.describe()}
    for name, changed in (("charges", {"kind": "unheard of"}), ("features", 7), ("charges", None)):
        path = tmp_path / f"{name}.safetensors"
        save_file(
            dict(heads.state_dict()), str(path), metadata={"grahame": json.dumps(header | {name: changed})}
        )
        with pytest.raises(
            ValueError, match=r"must hold what `save_heads` writes: its header or weights were changed"
        ):
            load_heads(path)
    with pytest.raises(FileNotFoundError) as missing:
        load_heads(tmp_path / "none")
    assert str(missing.value) == f"heads = {tmp_path / 'none'} must be an existing file: check the path"


def test_elements_a_model_does_not_know_are_refused() -> None:
    atoms = water_box()
    atoms.numbers[4] = 26
    trunk = PairTrunk()
    atoms.calc = HybridCalculator(ForeignShortRange(trunk, contains_coulomb=True), coulomb("3d"))
    with refuses(
        "numbers[4] = Fe must be an element of the pair model (H, O, Na, Cl, Au): use what was trained on it"
    ):
        atoms.get_potential_energy()


def test_dynamics_continue_with_the_same_numbers_from_a_saved_state() -> None:
    trunk = PairTrunk()
    atoms, groups = tall_slab()
    heads = heads_on(trunk)

    def calculator() -> HybridCalculator:
        short_range = ForeignShortRange(
            trunk, heads, contains_coulomb=True, removed=LabelEnsemble(Coulomb("slab", accuracy=1e-6))
        )
        return HybridCalculator(short_range, Coulomb("slab", accuracy=1e-6), held(groups))

    atoms.calc = calculator()
    atoms.get_forces()
    atoms.positions += np.random.default_rng(1).normal(scale=0.02, size=atoms.positions.shape)
    atoms.get_forces()
    state = atoms.calc.state()
    again = atoms.copy()
    again.calc = calculator()
    again.calc.load_state(state, again)
    for a in (atoms, again):
        a.positions += 0.01
    assert again.get_potential_energy() == atoms.get_potential_energy()
    assert np.array_equal(again.get_forces(), atoms.get_forces())


# ------------------------------------------------------------------------------------------ optional programs


@pytest.mark.parametrize(
    ("package", "extra", "use"),
    [
        ("mace", "mace", lambda p: MACETrunk.load(p, allow_pickle=True)),
        ("nequip", "nequip", lambda p: NequIPTrunk.load(p, allow_pickle=True)),
        ("metatomic", "metatomic", lambda p: MetatomicTrunk.load(p, trust=True)),
        ("metatomic", "metatomic", lambda p: export_metatomic(make_model(), p)),
    ],
)
def test_a_missing_program_is_named_with_its_extra(
    package: str, extra: str, use: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Absent:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
            if name.split(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    for name in [n for n in sys.modules if n.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ImportError, match=rf"^module = {package}.* must be installed for this adapter: "
    ) as missing:
        use(tmp_path / "file")
    assert str(missing.value).endswith(f"pip install 'grahame[{extra}]'")


def test_files_that_can_run_code_are_read_only_if_trusted(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_text("")
    for load, kind, word in (
        (MACETrunk.load, "a MACE file can run any code", "allow_pickle=True"),
        (NequIPTrunk.load, "a NequIP file can run any code", "allow_pickle=True"),
        (MetatomicTrunk.load, "an exported model is a program", "trust=True"),
    ):
        with refuses(
            f"model = {path} must be trusted before it is read, since {kind}: give {word} if you trust it"
        ):
            load(path)
        with pytest.raises(FileNotFoundError) as missing:
            load(tmp_path / "none")
        assert str(missing.value) == f"model = {tmp_path / 'none'} must be an existing file: check the path"


def test_modules_that_are_no_models_are_refused() -> None:
    with refuses("model = Linear must be a MACE energy model: it has no r_max"):
        MACETrunk(torch.nn.Linear(1, 1))
    with refuses("model = Linear must be a GraphModel of NequIP: load it with NequIPTrunk.load"):
        NequIPTrunk(torch.nn.Linear(1, 1))


# ------------------------------------------------------------------------------ where the cell is cut, and points


@pytest.mark.parametrize(
    ("label", "boundary", "options"),
    [
        (("3d", {}), "displacement", {"displacement": 0.3}),
        (("displacement", {"displacement": 0.1}), "displacement", {"displacement": 0.3}),
        (("3d", {"field": (0.0, 0.0, 0.1)}), "3d", {}),
        (("3d", {}), "3d", {"field": (0.0, 0.0, 0.1)}),
    ],
    ids=["to displacement", "between displacements", "from a field", "to a field"],
)
def test_the_labels_ensemble_does_not_see_where_the_cell_is_cut(
    label: Any, boundary: str, options: dict[str, Any]
) -> None:
    trunk, atoms = PairTrunk(), water_box()
    heads = heads_on(trunk)
    found = []
    for image in (0, 1):
        cut = atoms.copy()
        cut.positions[:3] += image * np.array(atoms.cell)[2]
        removed = LabelEnsemble(coulomb(label[0]), **label[1])
        short_range = ForeignShortRange(trunk, heads, contains_coulomb=True, removed=removed)
        cut.calc = HybridCalculator(short_range, coulomb(boundary), **options)
        found.append((cut.get_potential_energy(), cut.get_forces()))
        assert_gradients(cut)
    assert found[1][0] == pytest.approx(found[0][0], abs=1e-9)
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=0, atol=1e-9)


def test_labels_take_atoms_that_the_run_has_wrapped() -> None:
    trunk = PairTrunk()
    atoms, groups = tall_slab()
    atoms.pbc = True
    metal = [Electrode(np.concatenate(groups), charge=0.0)]
    wrapped = atoms.copy()
    wrapped.positions[:, 2] += 13.0
    wrapped.wrap()
    cut = water_box()
    cut.positions[1] += np.array(cut.cell)[2]
    for boundary, pair, electrodes in (
        ("slab", (atoms, wrapped), metal),
        ("displacement", (water_box(), cut), []),
    ):
        found = []
        for some in pair:
            removed = LabelEnsemble(coulomb(boundary))
            short_range = ForeignShortRange(trunk, heads_on(trunk), contains_coulomb=True, removed=removed)
            some.calc = HybridCalculator(short_range, coulomb("3d"), electrodes)
            found.append(some.get_forces())
        np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-8)


def test_labels_in_a_periodic_field_refuse_charges_that_move_without_a_path() -> None:
    atoms, trunk = water_box(), PairTrunk()
    own = ModelCharges(0.0, tolerance=1.0)
    in_field = ForeignShortRange(
        trunk, own, contains_coulomb=True, removed=LabelEnsemble(coulomb("3d"), field=(0.0, 0.0, 0.1))
    )
    atoms.calc = HybridCalculator(in_field, coulomb("3d"))
    with pytest.raises(ValueError, match="must be left out with boundary 3d"):
        atoms.get_potential_energy()
    displaced = ForeignShortRange(
        trunk, own, contains_coulomb=True, removed=LabelEnsemble(coulomb("displacement"), displacement=0.1)
    )
    atoms.calc = HybridCalculator(displaced, coulomb("3d"))
    with pytest.raises(ValueError, match="boundary = displacement must come with"):
        atoms.get_potential_energy()


def test_points_are_switched_with_finite_forces() -> None:
    atoms, trunk = water_box(), PairTrunk()
    points = FixedCharges({"O": -0.82, "H": 0.41, "Na": 1.0, "Cl": -1.0}, 0.0)
    removed = Switched(2.0, 3.5)
    short_range = ForeignShortRange(trunk, points, contains_coulomb=True, removed=removed)
    atoms.calc = HybridCalculator(short_range, coulomb("3d"))
    assert_gradients(atoms)


def test_pairs_without_coulomb_interaction_are_not_removed_again_or_forgotten() -> None:
    trunk = PairTrunk()
    charges = FixedCharges({"O": -0.82, "H": 0.41, "Na": 1.0, "Cl": -1.0}, 0.4, [(0, 1), (0, 2), (1, 2)])
    with refuses(
        "exclusions = 3 pairs must be left out with removed = Switched: near pairs are left to the model already"
    ):
        ForeignShortRange(trunk, charges, contains_coulomb=True, removed=Switched(2.0, 3.5))
    with refuses(
        "exclusions = 3 pairs must be left out here: they name atoms of one structure, and frames may be any; use "
        "ForeignShortRange"
    ):
        ForeignModel(trunk, charges)


def test_charge_that_electrodes_lose_needs_an_electrode_at_a_potential() -> None:
    trunk = PairTrunk()
    atoms, groups = tall_slab()
    atoms.pbc = True
    held_ones = [Electrode(g, charge=0.0) for g in groups]
    for source in (ModelCharges(None, tolerance=1.0), heads_on(trunk, boundary_transfer=True)):
        short_range = ForeignShortRange(trunk, source, contains_coulomb=False)
        # Without a total charge the solver would not miss what is exchanged.
        atoms.calc = HybridCalculator(short_range, coulomb("3d"), held_ones, total_charge=None)
        with refuses(
            "electrodes = all held at charges must leave one at a potential with boundary_transfer: the charge they exchange "
            "with the electrolyte needs somewhere to go"
        ):
            atoms.get_potential_energy()


def test_heads_see_elements_that_change_places() -> None:
    """A step of Monte Carlo swaps two elements and moves nothing, which no neighbour list notices."""
    atoms = water_box()
    trunk = PairTrunk()

    def calculator() -> HybridCalculator:
        heads = heads_on(trunk, widths={"Na": 0.35, "Cl": 0.6})
        return HybridCalculator(ForeignShortRange(trunk, heads, contains_coulomb=False), coulomb("3d"))

    atoms.calc = calculator()
    atoms.get_potential_energy()
    atoms.numbers[[9, 10]] = atoms.numbers[[10, 9]]
    other = atoms.copy()
    other.calc = calculator()
    np.testing.assert_allclose(atoms.get_charges(), other.get_charges(), atol=1e-12)
    assert atoms.get_potential_energy() == pytest.approx(other.get_potential_energy(), abs=1e-9)
