"""Lattice energies against Madelung constants from the literature."""

import numpy as np
import pytest

from grahame.electrostatics import Coulomb
from tests.electrostatics.numerics import COULOMB
from tests.systems import Crystal, crystals, planar_crystals, supercell, wigner_crystals

SCALES = [0.6, 1.0, 2.5]
BULK = [c.name for c in crystals() + wigner_crystals()]
PLANAR = [c.name for c in planar_crystals()]


def find(name: str, scale: float) -> Crystal:
    return {c.name: c for c in crystals(scale) + wigner_crystals(scale) + planar_crystals(scale)}[name]


@pytest.mark.parametrize("method", ["exact", "ewald"])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", BULK)
def test_lattice_energy_is_the_madelung_constant(name: str, scale: float, method: str) -> None:
    crystal = find(name, scale)
    atoms = crystal.atoms
    out = Coulomb(boundary="3d", method=method, accuracy=1e-13)(atoms.positions, atoms.charges, atoms.cell)
    assert out.energy == pytest.approx(crystal.energy(COULOMB), rel=max(crystal.digits, 1e-11))
    if name != "ZnS wurtzite":  # there a force along c is allowed by symmetry
        np.testing.assert_allclose(out.forces, 0.0, atol=1e-10 / scale**2)


@pytest.mark.parametrize(("accuracy", "scale"), [(1e-4, 0.6), (1e-7, 2.5)])
@pytest.mark.parametrize("name", BULK)
def test_lattice_energy_by_the_mesh(name: str, accuracy: float, scale: float) -> None:
    crystal = find(name, scale)
    atoms = crystal.atoms
    out = Coulomb(boundary="3d", method="pme", accuracy=accuracy)(atoms.positions, atoms.charges, atoms.cell)
    assert out.energy == pytest.approx(crystal.energy(COULOMB), rel=10 * accuracy)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", PLANAR)
def test_planar_lattice_energy_by_the_exact_slab_sum(name: str, scale: float) -> None:
    crystal = find(name, scale)
    atoms = crystal.atoms
    out = Coulomb(boundary="slab-exact", method="exact", accuracy=1e-13)(
        atoms.positions, atoms.charges, atoms.cell
    )
    assert out.energy == pytest.approx(crystal.energy(COULOMB), rel=crystal.digits)


@pytest.mark.parametrize("method", ["exact", "ewald"])
@pytest.mark.parametrize("name", PLANAR)
def test_planar_lattice_energy_by_the_padded_sum(name: str, method: str) -> None:
    crystal = find(name, 1.0)
    atoms = crystal.atoms
    out = Coulomb(boundary="slab", method=method, accuracy=1e-12)(atoms.positions, atoms.charges, atoms.cell)
    assert out.energy == pytest.approx(crystal.energy(COULOMB), rel=max(crystal.digits, 1e-11))


@pytest.mark.parametrize("repeats", [(2, 1, 1), (1, 2, 3), (2, 2, 2)])
def test_a_repeated_crystal_has_the_same_energy_per_formula_unit(repeats: tuple[int, int, int]) -> None:
    crystal = find("CsCl", 1.0)
    atoms = supercell(crystal.atoms, repeats)
    out = Coulomb(boundary="3d", method="ewald", accuracy=1e-13)(atoms.positions, atoms.charges, atoms.cell)
    assert out.energy == pytest.approx(crystal.energy(COULOMB) * np.prod(repeats), rel=1e-11)


def test_the_stress_of_a_cubic_crystal_is_its_energy_density_over_three() -> None:
    # E scales as 1/length, so the trace of dE/dstrain is -E.
    crystal = find("NaCl", 1.0)
    atoms = crystal.atoms
    out = Coulomb(boundary="3d", method="ewald", accuracy=1e-13)(
        atoms.positions, atoms.charges, atoms.cell, stress=True
    )
    expected = -crystal.energy(COULOMB) / 3 / atoms.volume
    np.testing.assert_allclose(out.stress, expected * np.eye(3), rtol=0, atol=1e-11)


def test_open_boundaries_are_the_plain_sum_over_pairs() -> None:
    x = np.array([[0.0, 0, 0], [1.5, 0, 0], [0, 2.0, 0]])
    q = np.array([1.0, -0.5, 0.3])
    out = Coulomb(boundary="open", method="exact")(x, q, None)
    expected = COULOMB * (q[0] * q[1] / 1.5 + q[0] * q[2] / 2.0 + q[1] * q[2] / 2.5)
    assert out.energy == pytest.approx(expected, rel=1e-14)
    assert out.stress is None
