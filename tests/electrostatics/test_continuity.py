"""No jump above 1e-7 eV/Å when an atom crosses mesh points, cut-offs, switches or the cell's faces."""

import numpy as np
import pytest

from grahame.electrostatics import Coulomb, switch
from tests.systems import System, ions_3d, slab

LIMIT = 1e-7


def jump(function, x: float, h: float) -> float:  # type: ignore[no-untyped-def]
    """Discontinuity of a smooth function between x - h/2 and x + h/2, its smooth variation removed.

    Third differences of a smooth function are O(h³); a step of size J shows as J or 2 J.
    """
    f = [np.asarray(function(x + (m - 1.5) * h)) for m in range(4)]
    return float(np.abs(f[3] - 3 * f[2] + 3 * f[1] - f[0]).max())


def largest_jump(atoms: System, coulomb: Coulomb, direction: np.ndarray, length: float, steps: int) -> float:
    """Scan atom 0 along a line in very fine steps at random places; the forces of all atoms are watched."""

    def forces(t: float) -> np.ndarray:
        x = atoms.positions.copy()
        x[0] += t * direction
        return np.asarray(coulomb(x, atoms.charges, atoms.cell, smearing=atoms.smearing).forces)

    places = np.linspace(0.0, length, steps)
    return max(jump(forces, float(t), 1e-5) for t in places)


def crossing(atoms: System, axis: int) -> System:
    """Atom 0 placed exactly on the face of the cell, the others kept away from it."""
    x = atoms.positions.copy()
    u = np.linalg.solve(atoms.cell.T, x[0])
    u[axis] = 0.0
    x[0] = u @ atoms.cell
    keep = [0] + [
        i
        for i in range(1, len(x))
        if min(
            np.linalg.norm(x[i] - x[0] + np.array([a, b, c]) @ atoms.cell)
            for a in (-1, 0, 1)
            for b in (-1, 0, 1)
            for c in (-1, 0, 1)
        )
        > 1.5
    ]
    return System(x[keep], atoms.charges[keep], atoms.cell, atoms.smearing[keep])


@pytest.mark.parametrize("method", ["ewald", "pme"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_forces_do_not_jump_at_the_faces_of_the_cell(axis: int, method: str) -> None:
    atoms = crossing(ions_3d("triclinic", n=14), axis)
    coulomb = Coulomb("3d", method, 1e-4)
    n = atoms.cell[axis] / np.linalg.norm(atoms.cell[axis])
    coulomb(atoms.positions, atoms.charges, atoms.cell, smearing=atoms.smearing)

    def forces(t: float) -> np.ndarray:
        x = atoms.positions.copy()
        x[0] += t * n
        return np.asarray(coulomb(x, atoms.charges, atoms.cell, smearing=atoms.smearing).forces)

    assert jump(forces, 0.0, 1e-5) < LIMIT


@pytest.mark.parametrize("boundary", ["3d", "slab"])
def test_mesh_forces_do_not_jump_at_mesh_points(boundary: str) -> None:
    atoms = ions_3d("triclinic", n=14) if boundary == "3d" else slab("hexagonal", n=14)
    coulomb = Coulomb(boundary, "pme", 1e-3, order=4)
    chosen = coulomb.parameters(atoms.positions, atoms.charges, atoms.cell, smearing=atoms.smearing)
    # place atom 0 exactly on a mesh plane of the first axis (the k-space cell shares a and b with the cell)
    for plane in range(3):
        x = atoms.positions.copy()
        u = np.linalg.solve(atoms.cell.T, x[0])
        u[0] = (np.floor(u[0] * chosen.mesh[0]) + plane) / chosen.mesh[0]
        x[0] = u @ atoms.cell
        moved = System(x, atoms.charges, atoms.cell, atoms.smearing)
        assert largest_jump(moved, coulomb, atoms.cell[0] / np.linalg.norm(atoms.cell[0]), 0.0, 1) < LIMIT


@pytest.mark.parametrize(
    ("method", "accuracy"), [("ewald", 1e-3), ("ewald", 1e-6), ("pme", 1e-3), ("pme", 1e-6)]
)
@pytest.mark.parametrize("boundary", ["3d", "slab"])
@pytest.mark.parametrize("widths", [0.0, 0.6])
def test_forces_do_not_jump_when_a_pair_crosses_the_cutoff(
    widths: float, boundary: str, method: str, accuracy: float
) -> None:
    cell = np.diag([30.0, 30.0, 30.0])
    coulomb = Coulomb(boundary, method, accuracy, cutoff=9.0)
    x = np.array([[10.0, 10.0, 10.0], [10.0, 13.0, 10.0]])
    s = np.full(2, widths)
    q = np.array([1.0, -0.8])
    cutoff = coulomb.parameters(x, q, cell, smearing=s).cutoff

    def forces(r: float) -> np.ndarray:
        y = x.copy()
        y[1, 1] = 10.0 + r
        return np.asarray(coulomb(y, q, cell, smearing=s).forces)

    assert cutoff == 9.0
    assert jump(forces, cutoff, 1e-6) < LIMIT
    # neither does the energy's slope: the pair leaves with zero force, not with a small step
    energies = [
        float(coulomb(np.array([x[0], [10.0, 10.0 + cutoff + d, 10.0]]), q, cell, smearing=s).energy)
        for d in (-2e-5, -1e-5, 1e-5, 2e-5)
    ]
    left, right = (energies[1] - energies[0]) / 1e-5, (energies[3] - energies[2]) / 1e-5
    assert abs(left - right) < 1e-4


@pytest.mark.parametrize(("method", "accuracy"), [("ewald", 1e-4), ("pme", 1e-3), ("pme", 1e-5)])
@pytest.mark.parametrize("boundary", ["3d", "slab"])
def test_forces_do_not_jump_anywhere_on_a_long_path(boundary: str, method: str, accuracy: float) -> None:
    atoms = ions_3d("orthorhombic", n=12) if boundary == "3d" else slab("orthorhombic", n=12)
    coulomb = Coulomb(boundary, method, accuracy)
    direction = np.array([0.62, 0.71, 0.33])
    tilt = np.array([0.0, 0.0, 0.0 if boundary == "3d" else -0.33])
    direction = (direction + tilt) / np.linalg.norm(direction + tilt)
    away = np.array(
        [
            min(np.linalg.norm((x - atoms.positions[0]) - t * direction) for t in np.linspace(0, 4, 41))
            for x in atoms.positions
        ]
    )
    keep = np.flatnonzero((away > 1.2) | (np.arange(len(away)) == 0))
    thin = System(atoms.positions[keep], atoms.charges[keep], atoms.cell, atoms.smearing[keep])
    assert largest_jump(thin, coulomb, direction, 4.0, 60) < LIMIT


def test_the_path_of_an_operator_that_remembers_equals_that_of_fresh_operators() -> None:
    # Neighbour lists and parameters are kept between calls: no force may depend on that history.
    atoms = slab("orthorhombic", n=12)
    kept = Coulomb("slab", "ewald", 1e-4)
    rng = np.random.default_rng(4)
    x = atoms.positions.copy()
    plan = kept.parameters(x, atoms.charges, atoms.cell, smearing=atoms.smearing)
    for _ in range(6):
        x = x + rng.normal(size=x.shape) * np.array([0.4, 0.4, 0.05])
        a = kept(x, atoms.charges, atoms.cell, smearing=atoms.smearing)
        fresh = Coulomb(
            "slab", "ewald", 1e-4, cutoff=plan.cutoff, splitting=plan.splitting, vacuum=plan.padding
        )
        b = fresh(x, atoms.charges, atoms.cell, smearing=atoms.smearing)
        assert a.energy == pytest.approx(b.energy, abs=1e-7)
        np.testing.assert_allclose(a.forces, b.forces, rtol=0, atol=1e-7)


def test_the_switch_and_its_two_derivatives_are_continuous() -> None:
    inner, outer = 3.0, 5.0
    assert switch(2.0, inner, outer) == 1.0
    assert switch(6.0, inner, outer) == 0.0
    assert switch(4.0, inner, outer) == pytest.approx(0.5)
    h = 1e-4
    for edge in (inner, outer):
        f = [switch(edge + m * h, inner, outer) for m in (-2, -1, 0, 1, 2)]
        assert abs((f[2] - f[1]) / h - (f[3] - f[2]) / h) < 1e-6
        second = [(f[m - 1] - 2 * f[m] + f[m + 1]) / h**2 for m in (1, 2, 3)]
        assert np.abs(np.array(second)).max() < 30 * h
    r = np.linspace(2.5, 5.5, 31)
    x = np.clip((r - inner) / (outer - inner), 0, 1)
    np.testing.assert_allclose(
        switch(r, inner, outer), 1 - 10 * x**3 + 15 * x**4 - 6 * x**5, rtol=0, atol=1e-14
    )
