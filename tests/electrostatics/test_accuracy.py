"""`accuracy` is a promise: the measured error of every method stays below the requested one."""

import numpy as np
import pytest

from grahame.electrostatics import Coulomb
from grahame.electrostatics.accuracy import Request, cutoff_for, splitting_for
from grahame.electrostatics.units import COULOMB_CONSTANT
from tests.electrostatics.numerics import force_error
from tests.systems import CELLS_3D, SLAB_GEOMETRIES, System, ions_3d, slab, supercell

TARGETS = [1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8]


def measured(atoms: System, boundary: str, method: str, accuracy: float) -> float:
    fast = Coulomb(boundary=boundary, method=method, accuracy=accuracy)
    exact_boundary = "slab-exact" if boundary == "slab" else boundary
    exact = Coulomb(boundary=exact_boundary, method="exact", accuracy=1e-13)
    args = (atoms.positions, atoms.charges, atoms.cell)
    got = fast(*args, smearing=atoms.smearing)
    truth = exact(*args, smearing=atoms.smearing)
    return force_error(got.forces, truth.forces, atoms.charges, atoms.volume)


@pytest.mark.parametrize("method", ["ewald", "pme"])
@pytest.mark.parametrize("accuracy", TARGETS)
@pytest.mark.parametrize("cell", ["triclinic", "hexagonal"])
def test_error_in_a_periodic_cell_is_below_the_target(cell: str, accuracy: float, method: str) -> None:
    assert measured(ions_3d(cell), "3d", method, accuracy) <= accuracy


@pytest.mark.parametrize("method", ["ewald", "pme"])
@pytest.mark.parametrize("accuracy", [1e-5, 1e-8])
@pytest.mark.parametrize("cell", sorted(set(CELLS_3D) - {"triclinic", "hexagonal"}))
def test_error_in_other_periodic_cells_is_below_the_target(cell: str, accuracy: float, method: str) -> None:
    assert measured(ions_3d(cell), "3d", method, accuracy) <= accuracy


@pytest.mark.parametrize("method", ["ewald", "pme"])
@pytest.mark.parametrize("accuracy", TARGETS)
@pytest.mark.parametrize("geometry", ["orthorhombic", "tilted-c"])
def test_error_of_a_slab_is_below_the_target(geometry: str, accuracy: float, method: str) -> None:
    assert measured(slab(geometry), "slab", method, accuracy) <= accuracy


@pytest.mark.parametrize("method", ["ewald", "pme"])
@pytest.mark.parametrize("accuracy", [1e-4, 1e-7])
@pytest.mark.parametrize("geometry", sorted(set(SLAB_GEOMETRIES) - {"orthorhombic", "tilted-c"}))
def test_error_of_slabs_in_other_cells_is_below_the_target(
    geometry: str, accuracy: float, method: str
) -> None:
    assert measured(slab(geometry), "slab", method, accuracy) <= accuracy


@pytest.mark.parametrize("method", ["ewald", "pme"])
@pytest.mark.parametrize("accuracy", [1e-4, 1e-7])
@pytest.mark.parametrize("widths", ["points", "gaussian"])
@pytest.mark.parametrize("total", [0.0, 1.3])
def test_error_does_not_depend_on_widths_or_net_charge(
    total: float, widths: str, accuracy: float, method: str
) -> None:
    assert measured(ions_3d("cubic", total=total, widths=widths), "3d", method, accuracy) <= accuracy
    assert measured(slab("hexagonal", total=total, widths=widths), "slab", method, accuracy) <= accuracy


@pytest.mark.parametrize("method", ["ewald", "pme"])
@pytest.mark.parametrize("accuracy", [1e-4, 1e-6])
def test_error_of_a_crystal_with_few_displaced_atoms_is_below_the_target(
    accuracy: float, method: str
) -> None:
    # Forces nearly cancel: the second entry of the error's scale is the larger one.
    grid = np.array([[i, j, k] for i in range(2) for j in range(2) for k in range(2)]) * 2.8
    q = np.where(grid.sum(1) / 2.8 % 2 == 0, 1.0, -1.0)
    x = grid + 0.01 * np.random.default_rng(0).normal(size=(8, 3))
    atoms = supercell(System(x, q, np.eye(3) * 5.6, np.zeros(8)), (2, 2, 2))
    assert measured(atoms, "3d", method, accuracy) <= accuracy


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("method", ["ewald", "pme"])
def test_error_does_not_depend_on_the_unit_of_length_or_charge(scale: float, method: str) -> None:
    atoms = ions_3d("orthorhombic")
    scaled = System(atoms.positions * scale, atoms.charges * 0.1, atoms.cell * scale, atoms.smearing * scale)
    assert measured(scaled, "3d", method, 1e-5) <= 1e-5


@pytest.mark.parametrize("method", ["ewald", "pme"])
def test_parameters_report_an_error_estimate_within_the_target(method: str) -> None:
    atoms = ions_3d("orthorhombic")
    chosen = Coulomb(boundary="3d", method=method, accuracy=1e-5).parameters(
        atoms.positions, atoms.charges, atoms.cell
    )
    assert 0 < chosen.estimated_error <= 1e-5
    assert chosen.cutoff > 0
    assert chosen.splitting > 0
    if method == "pme":
        assert len(chosen.mesh) == 3
        assert all(_only_small_factors(m) for m in chosen.mesh)
        assert 4 <= chosen.order <= 10


def _only_small_factors(m: int) -> bool:
    for p in (2, 3, 5, 7):
        while m % p == 0:
            m //= p
    return m == 1


@pytest.mark.parametrize("accuracy", [1e-3, 1e-5, 1e-10])
def test_splitting_and_cutoff_belong_together(accuracy: float) -> None:
    request = Request(1000, 30.0 * np.eye(3), 27e3, 27e3, np.inf, accuracy)
    for cutoff in (4.0, 9.0, 20.0):
        assert cutoff_for(request, splitting_for(request, cutoff)) == pytest.approx(cutoff, rel=1e-5)


@pytest.mark.parametrize("accuracy", [1e-3, 1e-4, 1e-5, 1e-6, 1e-7])
def test_error_of_a_slab_narrower_than_the_range_of_the_mesh_is_below_the_target(accuracy: float) -> None:
    cell, rng = np.diag([1.5, 1.7, 1.3]), np.random.default_rng(1)
    for _ in range(6):
        x, charges, widths = (
            rng.random((2, 3)) @ cell,
            rng.normal(size=2),
            np.array([0.3 + rng.random(), 0.0]),
        )
        truth = Coulomb("slab-exact")(x, charges, cell, smearing=widths).forces
        found = Coulomb("slab", "pme", accuracy)(x, charges, cell, smearing=widths).forces
        typical = COULOMB_CONSTANT * np.mean(charges**2) * (2 / np.linalg.det(cell)) ** (2 / 3)
        scale = max(float(np.sqrt((truth**2).sum(1).mean())), typical)
        assert np.sqrt(((found - truth) ** 2).sum(1).mean()) < accuracy * scale
