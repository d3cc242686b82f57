"""Charge that neighbours exchange through the faces of the cell: fields along periodic directions do not see the cut."""

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from numpy.typing import NDArray

from grahame.electrostatics import Coulomb, Electrode
from grahame.hybrid import HybridCalculator
from grahame.hybrid.model import HybridModel
from grahame.hybrid.reading import Reading, make_frame
from grahame.hybrid.shortrange.learned import LearnedShortRange
from grahame.hybrid.solve import solve_structure
from tests.hybrid.model_cells import batch_of, frame, make_model, slab, water_box

FIELD = (0.05, -0.08, 0.11)
FORMAL = {1: 1.0, 8: -2.0, 11: 1.0, 17: -1.0, 79: 0.0}
Floats = NDArray[np.float64]


def model(**options: Any) -> HybridModel:
    return make_model(**options)


def in_field(made: HybridModel) -> HybridCalculator:
    return HybridCalculator(LearnedShortRange(made), Coulomb("3d", "ewald", 1e-12), field=FIELD)


def displaced(made: HybridModel, electrodes: Any = (), displacement: float = 0.2) -> HybridCalculator:
    short = LearnedShortRange(made)
    coulomb = Coulomb("displacement", "ewald", 1e-11)
    return HybridCalculator(short, coulomb, list(electrodes), displacement=displacement)


def periodic_slab() -> tuple[Atoms, NDArray[np.int64]]:
    """One gold slab with water on both of its sides; the water repeats through the boundary."""
    atoms, groups = slab()
    del atoms[groups[0]]
    metal = np.arange(len(groups[1]))
    atoms.positions[metal, 2] -= 10.5
    atoms.cell[2, 2] = 9.6
    atoms.pbc = True
    atoms.positions[:, 2] += 0.5 - atoms.positions[metal, 2].min()
    # The last molecule is given by its image above the cell, so that it meets the other one through the boundary.
    atoms.positions[-3:, 2] += 9.6
    return atoms, metal


def gradients(atoms: Atoms, h: float = 1e-4) -> tuple[float, float, float, float]:
    """Work of forces and of stress against differences of the energy."""
    rng = np.random.default_rng(4)
    start, cell = atoms.positions.copy(), np.array(atoms.cell)
    step, strain = rng.normal(size=start.shape), rng.normal(size=(3, 3))
    strain += strain.T
    forces, stress = atoms.get_forces(), atoms.get_stress(voigt=False)

    def difference(energy: Any) -> float:
        return float((energy(-2 * h) - 8 * energy(-h) + 8 * energy(h) - energy(2 * h)) / (12 * h))

    def moved(t: float) -> float:
        atoms.positions = start + t * step
        return float(atoms.get_potential_energy())

    def strained(t: float) -> float:
        atoms.set_cell(cell @ (np.eye(3) + t * strain))
        atoms.positions = start @ (np.eye(3) + t * strain)
        return float(atoms.get_potential_energy())

    by_step = difference(moved)
    atoms.positions = start
    by_strain = difference(strained)
    atoms.set_cell(cell)
    atoms.positions = start
    return (
        by_step,
        -float((forces * step).sum()),
        by_strain,
        float((stress * strain).sum()) * atoms.get_volume(),
    )


def test_forces_and_stress_in_a_periodic_field_are_gradients() -> None:
    atoms = water_box()
    atoms.calc = in_field(model())
    moved, work, strained, tension = gradients(atoms)
    assert moved == pytest.approx(work, abs=1e-7)
    assert strained == pytest.approx(tension, abs=1e-6)


def test_wrapped_atoms_in_a_periodic_field_feel_the_same_forces() -> None:
    made, atoms = model(), water_box()
    atoms.calc = in_field(made)
    forces, energy, stress = atoms.get_forces(), atoms.get_potential_energy(), atoms.get_stress()
    assert np.abs(forces - _without_field(made, atoms)).max() > 0.01
    shifts = np.random.default_rng(1).integers(-2, 3, size=(len(atoms), 3)) @ np.array(atoms.cell)
    wrapped = atoms.copy()
    wrapped.positions += shifts
    wrapped.calc = in_field(made)
    np.testing.assert_allclose(wrapped.get_forces(), forces, rtol=0, atol=1e-10)
    formal = np.array([FORMAL[z] for z in atoms.numbers])
    assert wrapped.get_potential_energy() == pytest.approx(energy - formal @ shifts @ FIELD, abs=1e-9)
    # The dipole moves by whole formal charges, however the atoms were wrapped.
    moved = wrapped.calc.results["dipole"] - atoms.calc.results["dipole"]
    np.testing.assert_allclose(moved, formal @ shifts, rtol=0, atol=1e-10)
    assert stress.shape == (6,)


def _without_field(made: HybridModel, atoms: Atoms) -> Floats:
    copy = atoms.copy()
    copy.calc = HybridCalculator(LearnedShortRange(made), Coulomb("3d", "ewald", 1e-12))
    return np.asarray(copy.get_forces())


def test_training_sees_the_same_energies_and_forces() -> None:
    made, atoms = model(), water_box()
    found = made.predict(batch_of(made, frame(atoms, field=FIELD)), stress=True)
    atoms.calc = in_field(made)
    assert float(found.energy) == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    np.testing.assert_allclose(found.forces, atoms.get_forces(), rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.stress[0], atoms.get_stress(voigt=False), rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.dipole[0], atoms.calc.results["dipole"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("metal", [False, True])
def test_at_constant_displacement_nothing_depends_on_where_the_cell_is_cut(metal: bool) -> None:
    made = model()
    atoms, solved = periodic_slab()
    if not metal:
        atoms, solved = water_box(), np.zeros(0, dtype=np.int64)
    groups = [Electrode(solved, charge=0.0)] if metal else []
    atoms.calc = displaced(made, groups)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    charges, dipole = atoms.calc.results["charges"], atoms.calc.results["dipole"]
    crossing = (
        LearnedShortRange(made)
        .compute(
            atoms.positions, atoms.numbers.astype(np.int64), np.array(atoms.cell), (True, True, True), False
        )
        .crossing
    )
    assert crossing is not None
    assert np.abs(crossing).max() > 1e-3
    # A whole molecule comes back on the other side: no formal charge moves.
    oxygen = int(np.flatnonzero(atoms.numbers == 8)[-1])
    for images in ((0, 0, 1), (0, 0, -2), (1, -1, 1)):
        cut = atoms.copy()
        cut.positions[oxygen : oxygen + 3] += np.array(images) @ np.array(atoms.cell)
        cut.calc = displaced(made, groups)
        assert cut.get_potential_energy() == pytest.approx(energy, abs=1e-9)
        np.testing.assert_allclose(cut.get_forces(), forces, rtol=0, atol=1e-9)
        np.testing.assert_allclose(cut.calc.results["charges"], charges, rtol=0, atol=1e-10)
        np.testing.assert_allclose(cut.calc.results["dipole"], dipole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("metal", [False, True])
def test_at_constant_displacement_forces_and_stress_are_gradients(metal: bool) -> None:
    made = model()
    atoms, solved = periodic_slab()
    if not metal:
        atoms, solved = water_box(), np.zeros(0, dtype=np.int64)
    atoms.calc = displaced(made, [Electrode(solved, charge=0.0)] if metal else [])
    moved, work, strained, tension = gradients(atoms)
    assert moved == pytest.approx(work, abs=1e-7)
    assert strained == pytest.approx(tension, abs=2e-6)


def test_training_at_constant_displacement_sees_the_same() -> None:
    made = model()
    atoms, metal = periodic_slab()
    groups = (Electrode(metal, charge=0.0),)
    one = frame(atoms, boundary="displacement", electrodes=groups, displacement=0.2)
    found = made.predict(batch_of(made, one))
    atoms.calc = displaced(made, groups)
    assert float(found.energy) == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
    scalars = atoms.calc.results["charges"] @ atoms.positions
    assert np.abs(atoms.calc.results["dipole"] - scalars)[2] > 1e-3
    np.testing.assert_allclose(found.forces, atoms.get_forces(), rtol=0, atol=1e-8)
    report = solve_structure(
        atoms, charges={0: 0.0}, groups={0: metal.tolist()}, model=made, boundary="displacement",
        method="ewald", accuracy=1e-11, displacement=0.2,
    )  # fmt: skip
    np.testing.assert_allclose(report.charges, atoms.calc.results["charges"], rtol=0, atol=1e-9)


def test_a_force_loss_reaches_the_weights_through_the_exchanged_charge() -> None:
    made = model()
    atoms, metal = periodic_slab()
    one = frame(atoms, boundary="displacement", electrodes=(Electrode(metal, charge=0.0),), displacement=0.2)
    weight = made.charge_head.pairs  # type: ignore[union-attr]

    def loss() -> torch.Tensor:
        return (made.predict(batch_of(made, one), train=True).forces ** 2).sum()

    (slope,) = torch.autograd.grad(loss(), weight)
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0), dtype=weight.dtype)
    h, values = 1e-4, []
    for t in (-2 * h, -h, h, 2 * h):
        with torch.no_grad():
            weight += t * direction
        values.append(float(loss().detach()))
        with torch.no_grad():
            weight -= t * direction
    numeric = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
    assert float((slope * direction).sum()) == pytest.approx(numeric, rel=1e-6)


def finite_field_cell() -> tuple[Atoms, list[Electrode]]:
    """Electrodes of one layer each: water sees water through the metal and the boundary."""
    atoms, groups = slab()
    top = atoms.positions[groups[1], 2].max()
    layers = [g[np.argsort(atoms.positions[g, 2])] for g in groups]
    keep = np.ones(len(atoms), dtype=bool)
    keep[layers[0][:4]] = keep[layers[1][4:]] = False
    index = np.cumsum(keep) - 1
    ends = [index[layers[0][4:]], index[layers[1][:4]]]
    atoms = atoms[keep]
    atoms.pbc = True
    floor = atoms.positions[ends[0], 2].min()
    atoms.positions[:, 2] += 0.3 - floor
    atoms.cell[2, 2] = atoms.positions[ends[1], 2].max() + 0.4
    atoms.positions[8:11, 2] -= 2.0
    assert top > 0
    return atoms, [Electrode(ends[0], potential=0.0), Electrode(ends[1], potential=1.0)]


def test_in_finite_field_forces_and_stress_are_gradients() -> None:
    atoms, electrodes = finite_field_cell()
    made = model(cutoff=6.0)
    short = LearnedShortRange(made)
    atoms.calc = HybridCalculator(short, Coulomb("finite-field", "ewald", 1e-11), electrodes)
    atoms.get_potential_energy()
    near = short.compute(
        atoms.positions, atoms.numbers.astype(np.int64), np.array(atoms.cell), (True, True, True), False
    )
    assert near.crossing is not None
    assert abs(near.crossing[2]) > 1e-3
    moved, work, strained, tension = gradients(atoms)
    assert moved == pytest.approx(work, abs=1e-7)
    assert strained == pytest.approx(tension, abs=2e-6)
    found = made.predict(batch_of(made, frame(atoms, boundary="finite-field", electrodes=tuple(electrodes))))
    assert float(found.energy) == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
    np.testing.assert_allclose(found.forces, atoms.get_forces(), rtol=0, atol=1e-8)


def test_a_field_that_follows_charges_refuses_what_it_does_not_see() -> None:
    atoms, electrodes = finite_field_cell()
    held = [Electrode(e.indices, charge=q) for e, q in zip(electrodes, (-0.1, 0.1))]
    short = LearnedShortRange(model(cutoff=6.0))
    atoms.calc = HybridCalculator(short, Coulomb("finite-field", "ewald", 1e-9), held)
    with pytest.raises(ValueError, match="exchanged through the cell's face") as refused:
        atoms.get_potential_energy()
    assert str(refused.value).endswith(
        "e Å must be zero in finite field at held charges: make the electrodes thicker than the model's cut-off, or hold "
        "potentials"
    )


@pytest.mark.parametrize("kind", ["projected", "electrodes"])
def test_a_periodic_field_is_refused_where_the_dipole_has_no_meaning(kind: str) -> None:
    atoms, metal = periodic_slab()
    made = model(charges={"kind": "projected" if kind == "projected" else "transfer"})
    groups = [Electrode(metal, charge=0.0)] if kind == "electrodes" else []
    if not groups:
        atoms = water_box()
    with pytest.raises(ValueError, match="field") as refused:
        HybridCalculator(
            LearnedShortRange(made), Coulomb("3d", "ewald", 1e-9), groups, field=FIELD
        ).get_potential_energy(atoms)
    assert str(refused.value) == (
        f"field = {FIELD} V/Å must be left out with boundary 3d: atoms that cross the boundary would change the energy; use "
        "boundary slab or displacement, or a model whose charges are transfers, without electrodes"
    )


def thick_cell() -> tuple[Atoms, list[NDArray[np.int64]]]:
    """Two electrodes that let no water see water through them, periodic along all directions."""
    atoms, groups = slab()
    atoms.cell[2, 2] = 24.0
    atoms.pbc = True
    return atoms, groups


@pytest.mark.parametrize("charges", [{}, {"site_constants": "environment"}, {"dipoles": {"O": 1.0}}])
@pytest.mark.parametrize("by_hand", [False, True])
def test_a_field_that_follows_held_charges_enters_the_forces(charges: dict[str, Any], by_hand: bool) -> None:
    # Omega is not stationary in that field: what predicted charges do to it counts.
    made = model(charges={"kind": "transfer", "hardness": 0.5} | charges)
    atoms, groups = thick_cell()
    held = [Electrode(g, charge=q) for g, q in zip(groups, (-0.4, 0.4))]
    free = [Electrode(g, potential=v) for g, v in zip(groups, (0.0, 1.0))]
    trained = made.predict(batch_of(made, frame(atoms, boundary="finite-field", electrodes=tuple(held))))
    coulomb = Coulomb("finite-field", "ewald", 1e-11)
    atoms.calc = HybridCalculator(LearnedShortRange(made), coulomb, free if by_hand else held)
    if by_hand:
        atoms.calc.set_electrode_charges([-0.4, 0.4])
    moved, work, strained, tension = gradients(atoms)
    assert moved == pytest.approx(work, abs=1e-7)
    assert strained == pytest.approx(tension, abs=2e-6)
    np.testing.assert_allclose(atoms.get_forces(), trained.forces, rtol=0, atol=1e-8)


def test_charges_that_are_held_later_refuse_what_their_field_does_not_see() -> None:
    atoms, electrodes = finite_field_cell()
    short = LearnedShortRange(model(cutoff=6.0))
    atoms.calc = HybridCalculator(short, Coulomb("finite-field", "ewald", 1e-9), electrodes)
    atoms.calc.set_electrode_charges([-0.1, 0.1])
    with pytest.raises(ValueError, match="exchanged through the cell's face"):
        atoms.get_potential_energy()


def test_a_force_loss_in_a_field_that_follows_held_charges_is_exact() -> None:
    made = model(charges={"kind": "transfer", "site_constants": "environment", "hardness": 0.5})
    atoms, groups = thick_cell()
    held = tuple(Electrode(g, charge=q) for g, q in zip(groups, (-0.4, 0.4)))
    batch = batch_of(made, frame(atoms, boundary="finite-field", electrodes=held))
    assert made.sites is not None
    weight = made.sites.element.weight

    def loss() -> torch.Tensor:
        return ((made.predict(batch, train=True).forces - 0.1) ** 2).sum()

    (slope,) = torch.autograd.grad(loss(), weight)
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0), dtype=weight.dtype)
    start, h, values = weight.detach().clone(), 1e-3, []
    for t in (-2 * h, -h, h, 2 * h):
        with torch.no_grad():
            weight.copy_(start + t * direction)
        values.append(float(loss().detach()))
    numeric = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
    assert float((slope * direction).sum()) == pytest.approx(numeric, rel=5e-7)


def test_charge_from_the_metal_is_the_same_wherever_the_cell_is_cut() -> None:
    made = model(charges={"kind": "transfer", "boundary_transfer": True})
    atoms, metal = periodic_slab()
    groups = [Electrode(metal, potential=0.0)]
    atoms.calc = displaced(made, groups)
    moved, work, strained, tension = gradients(atoms)
    assert moved == pytest.approx(work, abs=1e-7)
    assert strained == pytest.approx(tension, abs=2e-6)
    energy, forces, dipole = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_dipole_moment()
    for first, image in ((8, 1), (11, -1)):
        cut = atoms.copy()
        cut.positions[first : first + 3] += image * np.array(atoms.cell)[2]
        cut.calc = displaced(made, groups)
        assert cut.get_potential_energy() == pytest.approx(energy, abs=1e-9)
        np.testing.assert_allclose(cut.get_forces(), forces, rtol=0, atol=1e-9)
        np.testing.assert_allclose(cut.get_dipole_moment(), dipole, rtol=0, atol=1e-9)
    one = frame(atoms, boundary="displacement", electrodes=tuple(groups), displacement=0.2)
    found = made.predict(batch_of(made, one), stress=True)
    assert float(found.energy) == pytest.approx(energy, abs=1e-8)
    np.testing.assert_allclose(found.stress[0], atoms.get_stress(voigt=False), rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.dipole[0], dipole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["projected", "solved", "electrodes"])
def test_training_refuses_periodic_fields_as_dynamics_does(kind: str) -> None:
    made = model(charges={"kind": "transfer" if kind == "electrodes" else kind, "hardness": 8.0})
    atoms, conditions = water_box(), {}
    if kind == "electrodes":
        atoms, metal = periodic_slab()
        conditions = {"electrodes": (Electrode(metal, charge=0.0),)}
    with pytest.raises(ValueError, match="must be left out with boundary 3d"):
        made.predict(batch_of(made, frame(atoms, field=FIELD, **conditions)))
    made.predict(batch_of(made, frame(atoms, **conditions)))


SHARED = (
    "boundary = displacement must come with charges made of transfers or held per fragment: the dipole of others depends on "
    "where the cell is cut; use such a model, name fragments, or use boundary slab with a field"
)


@pytest.mark.parametrize("kind", ["projected", "solved"])
def test_constant_displacement_refuses_charges_that_all_atoms_share(kind: str) -> None:
    made, atoms = model(charges={"kind": kind, "hardness": 8.0}), water_box()
    with pytest.raises(ValueError, match="displacement") as refused:
        made.predict(batch_of(made, frame(atoms, boundary="displacement", displacement=0.2)))
    assert str(refused.value) == SHARED
    groups = [Electrode(np.arange(len(atoms)), charge=0.0)] if kind == "solved" else []
    atoms.calc = displaced(made, groups)
    with pytest.raises(ValueError, match="displacement") as refused:
        atoms.get_potential_energy()
    assert str(refused.value) == SHARED


def test_fragments_keep_the_dipole_apart() -> None:
    made, atoms = model(charges={"kind": "projected"}), water_box()
    named = {
        "fragments": np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 4]),
        "fragment_charges": np.array([0.0, 0.0, 0.0, 1.0, -1.0]),
    }
    forces = []
    for image in (0, 1):
        cut = atoms.copy()
        cut.positions[:3] += image * np.array(atoms.cell)[2]
        one = frame(cut, boundary="displacement", displacement=0.2, **named)
        forces.append(made.predict(batch_of(made, one)).forces)
        cut.calc = HybridCalculator(
            LearnedShortRange(made, **named), Coulomb("displacement", "ewald", 1e-11), [], displacement=0.2
        )
        np.testing.assert_allclose(cut.get_forces(), forces[-1], rtol=0, atol=1e-9)
    np.testing.assert_allclose(forces[1], forces[0], rtol=0, atol=1e-10)


def test_frames_that_the_face_cuts_are_read_whole() -> None:
    made = model()
    atoms, _ = periodic_slab()
    reading = Reading(
        {},
        electrode_elements=("Au",),
        boundary="displacement",
        displacement_key="D",
        formal={"H": 1.0, "O": -2.0},
    )
    atoms.info = {"total_charge": 0.0, "D": 0.2}
    whole = made.predict(batch_of(made, make_frame(atoms, reading)))
    cut = atoms.copy()
    cut.info = dict(atoms.info)
    cut.positions[9] += np.array(atoms.cell)[2]
    found = made.predict(batch_of(made, make_frame(cut, reading)))
    assert float(found.energy) == pytest.approx(float(whole.energy), abs=1e-9)
    np.testing.assert_allclose(found.forces, whole.forces, rtol=0, atol=1e-9)
