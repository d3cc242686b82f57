"""Two frames that look the same from where the probe is, with other ions beyond what the network sees."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from numpy.typing import NDArray

from grahame.electrostatics import ConstantPotential, Coulomb
from grahame.hybrid.frames import Frame
from grahame.hybrid.heads import TransferCharges
from grahame.hybrid.model import HybridModel, Prediction
from tests.hybrid.model_cells import batch_of, frame, held, make_model, slab

CUTOFF = 3.0
FAR = np.array([[1.5, 1.5, 19.0], [4.2, 3.5, 25.3]])


def cell() -> tuple[Atoms, list[NDArray[np.int64]], NDArray[np.bool_]]:
    """Two gold slabs, two waters at the lower one, Na+ and Cl- at the upper one; the probe: all that is far from them."""
    atoms, groups = slab()
    atoms.positions[groups[1], 2] += 16.5
    atoms.cell[2, 2] = 36.0
    atoms += Atoms("NaCl", positions=FAR)
    distances = np.linalg.norm(atoms.positions[:, None] - FAR, axis=2)
    # A force is made of the energies of neighbours, which see one cut-off further.
    probe = distances.min(axis=1) > 2 * CUTOFF
    probe[groups[1]] = False
    assert probe.sum() == len(groups[0]) + 6
    return atoms, groups, probe


def exchanged(atoms: Atoms) -> Atoms:
    """Na+ where Cl- was, and the other way round."""
    other = atoms.copy()
    other.positions[-2:] = atoms.positions[[-1, -2]]
    return other


def replaced(atoms: Atoms) -> Atoms:
    """A second sodium for the chlorine."""
    other = atoms.copy()
    other.numbers[-1] = 11
    return other


def of(atoms: Atoms, groups: list[NDArray[np.int64]], charged: bool = True) -> Frame:
    """A frame whose slabs are at 0 and 1.5 V, or without electrodes for a model without charges."""
    return frame(atoms, boundary="slab", electrodes=held(groups) if charged else ())


def coulomb_solver(model: HybridModel, one: Frame) -> tuple[ConstantPotential, NDArray[np.float64]]:
    """The charge solve of a frame by the public operator, and the widths of all atoms."""
    widths = model.widths(torch.as_tensor(model.spec.species(one.numbers))).detach().numpy()
    solved = np.concatenate([e.indices for e in one.conditions.electrodes])
    coulomb = Coulomb("slab", "ewald", 1e-9)
    return ConstantPotential(one.conditions.electrodes, coulomb, widths[solved]), widths


def predict(model: HybridModel, one: Frame) -> Prediction:
    return model.predict(batch_of(model, one))


def forces(model: HybridModel, one: Frame) -> NDArray[np.float64]:
    found = predict(model, one).forces
    assert found is not None
    return found.numpy()


@pytest.mark.parametrize("change", [exchanged, replaced])
def test_a_local_model_does_not_tell_the_two_frames_apart(change: Callable[[Atoms], Atoms]) -> None:
    atoms, groups, probe = cell()
    model = make_model(cutoff=CUTOFF, charges={"kind": "none"})
    after = forces(model, of(change(atoms), groups, charged=False))
    before = forces(model, of(atoms, groups, charged=False))
    np.testing.assert_array_equal((after - before)[probe], 0.0)
    assert np.abs(after - before).max() > 1e-3


@pytest.mark.parametrize("change", [exchanged, replaced])
def test_constant_charges_feel_exactly_the_coulomb_difference(change: Callable[[Atoms], Atoms]) -> None:
    atoms, groups, probe = cell()
    model = make_model(cutoff=CUTOFF, charges={"kind": "transfer"}, accuracy=1e-9)
    assert isinstance(model.charge_head, TransferCharges)
    with torch.no_grad():
        # Nothing is exchanged: formal charges, whatever the geometry.
        model.charge_head.radial.weight.zero_()
        model.charge_head.pairs.zero_()
    first, second = of(atoms, groups), of(change(atoms), groups)
    difference = forces(model, second) - forces(model, first)

    def coulomb_forces(one: Frame) -> NDArray[np.float64]:
        formal = {79: 0.0, 1: 1.0, 8: -2.0, 11: 1.0, 17: -1.0}
        charges = np.array([formal[int(z)] for z in one.numbers])
        solver, widths = coulomb_solver(model, one)
        return np.asarray(solver.solve(one.positions, charges, one.cell, smearing=widths).forces)

    expected = coulomb_forces(second) - coulomb_forces(first)
    assert np.abs(expected[probe]).max() > 0.05
    np.testing.assert_allclose(difference[probe], expected[probe], atol=1e-8)


def test_learned_charges_feel_the_difference_of_the_coulomb_energies() -> None:
    atoms, groups, probe = cell()
    model = make_model(cutoff=CUTOFF, charges={"kind": "transfer"}, accuracy=1e-9)
    first, second = of(atoms, groups), of(exchanged(atoms), groups)
    a, b = predict(model, first), predict(model, second)
    assert a.forces is not None
    assert b.forces is not None
    near = np.flatnonzero(probe & ~first.conditions.solved(len(first)))
    # What the waters carry is the same in both frames; what the metal carries is not.
    np.testing.assert_allclose(a.charges[near], b.charges[near], atol=1e-12)
    assert np.abs((a.charges - b.charges)[groups[0]].numpy()).max() > 1e-3
    difference = (b.forces - a.forces).numpy()
    assert np.abs(difference[near]).max() > 1e-2
    solver, widths = coulomb_solver(model, first)

    def energy(one: Frame, atom: int, axis: int, shift: float) -> float:
        """Of charges that follow the geometry, by the operator alone."""
        positions = one.positions.copy()
        positions[atom, axis] += shift
        charges = predict(model, replace(one, positions=positions, _pairs={})).charges.numpy()
        found = solver.solve(positions, charges, one.cell, smearing=widths, forces=False)
        return float(found.energy)

    def slope(one: Frame, atom: int, axis: int) -> float:
        h = 4e-3
        e = [energy(one, atom, axis, k * h) for k in (-2, -1, 1, 2)]
        return (8 * (e[2] - e[1]) - (e[3] - e[0])) / (12 * h)

    atom = int(near[0])
    for axis in (0, 2):
        expected = slope(first, atom, axis) - slope(second, atom, axis)
        assert difference[atom, axis] == pytest.approx(expected, abs=1e-7)
