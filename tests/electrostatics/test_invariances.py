"""Translation, rotation, permutation and repetition leave the exact operators' results unchanged."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grahame.electrostatics import Coulomb
from tests.systems import CELLS_3D, SLAB_GEOMETRIES, System, ions_3d, rotation, slab, supercell

CASES = [
    ("3d", "exact"),
    ("3d", "ewald"),
    ("slab", "exact"),
    ("slab", "ewald"),
    ("slab-exact", "exact"),
    ("open", "exact"),
]
few = settings(max_examples=6, deadline=None, derandomize=True)
seeds = st.integers(0, 10_000)


def atoms_for(boundary: str, seed: int) -> System:
    rng = np.random.default_rng(seed)
    total = float(rng.choice([0.0, 0.7]))
    if boundary == "3d":
        return ions_3d(str(rng.choice(sorted(CELLS_3D))), n=8, total=total, seed=seed % 7)
    return slab(str(rng.choice(SLAB_GEOMETRIES)), n=8, total=total, seed=seed % 7)


def run(boundary: str, method: str, atoms: System):  # type: ignore[no-untyped-def]
    cell = None if boundary == "open" else atoms.cell
    coulomb = Coulomb(boundary=boundary, method=method, accuracy=1e-13)
    return coulomb(atoms.positions, atoms.charges, cell, smearing=atoms.smearing, stress=boundary != "open")


@pytest.mark.parametrize(("boundary", "method"), CASES)
@given(seed=seeds, shift=st.tuples(*[st.floats(-20, 20)] * 3))
@few
def test_translation(boundary: str, method: str, seed: int, shift: tuple[float, float, float]) -> None:
    atoms = atoms_for(boundary, seed)
    moved = System(atoms.positions + np.array(shift), atoms.charges, atoms.cell, atoms.smearing)
    a, b = run(boundary, method, atoms), run(boundary, method, moved)
    assert abs(a.energy - b.energy) < 1e-10
    np.testing.assert_allclose(b.forces, a.forces, rtol=0, atol=1e-10)
    np.testing.assert_allclose(b.potential, a.potential, rtol=0, atol=1e-10)
    np.testing.assert_allclose(a.forces.sum(0), 0.0, atol=1e-10)


@pytest.mark.parametrize(("boundary", "method"), CASES)
@given(seed=seeds)
@few
def test_rotation(boundary: str, method: str, seed: int) -> None:
    atoms = atoms_for(boundary, seed)
    turn = rotation(seed)
    turned = System(atoms.positions @ turn.T, atoms.charges, atoms.cell @ turn.T, atoms.smearing)
    a, b = run(boundary, method, atoms), run(boundary, method, turned)
    assert abs(a.energy - b.energy) < 1e-10
    np.testing.assert_allclose(b.forces, a.forces @ turn.T, rtol=0, atol=1e-10)
    if a.stress is not None:
        np.testing.assert_allclose(b.stress, turn @ a.stress @ turn.T, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("boundary", "method"), CASES)
@given(seed=seeds)
@few
def test_mirror_image(boundary: str, method: str, seed: int) -> None:
    atoms = atoms_for(boundary, seed)
    turn = -rotation(seed)
    turned = System(atoms.positions @ turn.T, atoms.charges, atoms.cell @ turn.T, atoms.smearing)
    a, b = run(boundary, method, atoms), run(boundary, method, turned)
    assert abs(a.energy - b.energy) < 1e-10
    np.testing.assert_allclose(b.forces, a.forces @ turn.T, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("boundary", "method"), CASES)
@given(seed=seeds)
@few
def test_permutation(boundary: str, method: str, seed: int) -> None:
    atoms = atoms_for(boundary, seed)
    order = np.random.default_rng(seed).permutation(len(atoms.charges))
    shuffled = System(atoms.positions[order], atoms.charges[order], atoms.cell, atoms.smearing[order])
    a, b = run(boundary, method, atoms), run(boundary, method, shuffled)
    assert abs(a.energy - b.energy) < 1e-10
    np.testing.assert_allclose(b.forces, a.forces[order], rtol=0, atol=1e-10)
    np.testing.assert_allclose(b.potential, a.potential[order], rtol=0, atol=1e-10)


@pytest.mark.parametrize(("boundary", "method"), [case for case in CASES if case[0] != "open"])
@given(seed=seeds)
@settings(max_examples=3, deadline=None, derandomize=True)
def test_repetition(boundary: str, method: str, seed: int) -> None:
    atoms = atoms_for(boundary, seed)
    repeats = (2, 1, 2) if boundary == "3d" else (2, 1, 1)
    m = int(np.prod(repeats))
    large = supercell(atoms, repeats)
    a, b = run(boundary, method, atoms), run(boundary, method, large)
    assert abs(m * a.energy - b.energy) < 1e-10 * m * 5
    np.testing.assert_allclose(b.forces, np.tile(a.forces, (m, 1)), rtol=0, atol=1e-10)
    np.testing.assert_allclose(b.potential, np.tile(a.potential, m), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("boundary", "method"), [case for case in CASES if case[0] != "open"])
@given(seed=seeds)
@few
def test_wrapping_along_periodic_directions(boundary: str, method: str, seed: int) -> None:
    atoms = atoms_for(boundary, seed)
    jumps = np.random.default_rng(seed).integers(-4, 5, atoms.positions.shape)
    if boundary != "3d":
        jumps[:, 2] = 0
    moved = System(atoms.positions + jumps @ atoms.cell, atoms.charges, atoms.cell, atoms.smearing)
    a, b = run(boundary, method, atoms), run(boundary, method, moved)
    assert abs(a.energy - b.energy) < 1e-10
    np.testing.assert_allclose(b.forces, a.forces, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("boundary", "method"), CASES)
@given(seed=seeds, factor=st.floats(0.3, 3.0))
@few
def test_scaling_all_lengths_scales_the_energy_inversely(
    boundary: str, method: str, seed: int, factor: float
) -> None:
    atoms = atoms_for(boundary, seed)
    scaled = System(atoms.positions * factor, atoms.charges, atoms.cell * factor, atoms.smearing * factor)
    a, b = run(boundary, method, atoms), run(boundary, method, scaled)
    assert abs(a.energy - b.energy * factor) < 1e-9
    np.testing.assert_allclose(b.forces * factor**2, a.forces, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("boundary", "method"), CASES)
@given(seed=seeds)
@few
def test_the_field_free_energy_is_quadratic_in_the_charges(boundary: str, method: str, seed: int) -> None:
    atoms = atoms_for(boundary, seed)
    double = System(atoms.positions, -2 * atoms.charges, atoms.cell, atoms.smearing)
    a, b = run(boundary, method, atoms), run(boundary, method, double)
    assert abs(4 * a.energy - b.energy) < 1e-9
    assert abs(0.5 * a.potential @ atoms.charges - a.energy) < 1e-9
