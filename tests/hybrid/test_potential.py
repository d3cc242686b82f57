"""The sum of terms, on arrays."""

import numpy as np
import pytest

from grahame.electrostatics import ConstantPotential, Coulomb, Electrode
from grahame.hybrid.potential import HybridPotential
from grahame.hybrid.shortrange.classical import ClassicalForceField
from tests.hybrid.small_cells import small_cell

ATOMS = small_cell()
X, Z, CELL = ATOMS.positions, ATOMS.numbers, np.array(ATOMS.cell)
SLAB = (True, True, False)


def electrodes() -> list[Electrode]:
    return [Electrode(np.arange(4), potential=0.0), Electrode(np.arange(4, 8), potential=1.0)]


def short_range() -> ClassicalForceField:
    return ClassicalForceField.from_atoms(ATOMS, cutoff=5.0)


def coulomb(boundary: str = "slab") -> Coulomb:
    return Coulomb(boundary=boundary, method="ewald", accuracy=1e-8)


def test_the_result_is_the_sum_of_its_terms() -> None:
    result = HybridPotential(short_range(), coulomb(), electrodes()).evaluate(X, Z, CELL, SLAB, stress=True)
    near = short_range().compute(X, Z, CELL, SLAB, stress=True)
    far = ConstantPotential(electrodes(), coulomb()).solve(
        X, near.charges, CELL, smearing=near.smearing, exclusions=near.exclusions, stress=True
    )
    assert result.energy == pytest.approx(near.energy + far.energy, abs=1e-9)
    assert result.internal_energy == pytest.approx(near.energy + far.internal_energy, abs=1e-9)
    assert np.abs(result.forces - near.forces - far.forces).max() < 1e-8
    assert near.virial is not None
    assert result.stress is not None
    assert np.abs(result.stress - near.virial / abs(np.linalg.det(CELL)) - far.stress).max() < 1e-10
    assert result.energy == pytest.approx(result.internal_energy - result.work, abs=1e-12)


def test_potentials_of_a_call_replace_those_of_the_electrodes() -> None:
    potential = HybridPotential(short_range(), coulomb(), electrodes())
    given = potential.evaluate(X, Z, CELL, SLAB, potentials=np.array([0.0, 2.0]))
    own = HybridPotential(
        short_range(),
        coulomb(),
        [Electrode(np.arange(4), potential=0.0), Electrode(np.arange(4, 8), potential=2.0)],
    ).evaluate(X, Z, CELL, SLAB)
    assert given.electrode_potentials.tolist() == [0.0, 2.0]
    assert given.energy == pytest.approx(own.energy, abs=1e-9)


def test_the_charge_is_minus_the_slope_of_the_energy_with_the_potential() -> None:
    potential = HybridPotential(short_range(), coulomb(), electrodes())
    step = 1e-3
    energies = [
        potential.evaluate(X, Z, CELL, SLAB, potentials=np.array([0.0, 1.0 + d])).energy
        for d in (-step, step)
    ]
    middle = potential.evaluate(X, Z, CELL, SLAB)
    assert (energies[1] - energies[0]) / (2 * step) == pytest.approx(-middle.electrode_charges[1], abs=1e-7)


def test_a_field_is_a_vector_or_its_component_along_the_normal() -> None:
    along = HybridPotential(short_range(), coulomb(), electrodes(), field=0.02).evaluate(X, Z, CELL, SLAB)
    vector = HybridPotential(
        short_range(), coulomb(), electrodes(), field=np.array([0.0, 0.0, 0.02])
    ).evaluate(X, Z, CELL, SLAB)
    none = HybridPotential(short_range(), coulomb(), electrodes()).evaluate(X, Z, CELL, SLAB)
    assert along.energy == vector.energy
    assert abs(along.energy - none.energy) > 1e-3


def test_without_electrodes_the_charges_are_those_of_the_short_range() -> None:
    result = HybridPotential(short_range(), coulomb()).evaluate(X, Z, CELL, SLAB, stress=True)
    assert (result.charges == short_range().charges).all()
    assert result.electrode_charges.shape == (0,)
    assert result.energy == result.internal_energy
    assert result.stress is not None


def test_a_restored_state_continues_with_the_same_bits() -> None:
    first = HybridPotential(short_range(), coulomb(), electrodes())
    rng = np.random.default_rng(0)
    frames = [X + np.where(np.arange(22)[:, None] < 8, 0.0, rng.normal(0, 0.02, X.shape)) for _ in range(4)]
    for frame in frames[:2]:
        first.evaluate(frame, Z, CELL, SLAB)
    saved = {k: np.array(v) for k, v in first.state().items()}
    second = HybridPotential(short_range(), coulomb(), electrodes())
    second.load_state(saved)
    for frame in frames[2:]:
        a, b = (p.evaluate(frame, Z, CELL, SLAB) for p in (first, second))
        assert a.energy == b.energy
        assert (a.forces == b.forces).all()
        assert (a.charges == b.charges).all()
