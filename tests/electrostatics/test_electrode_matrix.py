"""The matrix of solved atoms: from one row where a crystal repeats, from all of them where it does not."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from grahame.electrostatics import ConstantPotential, Coulomb, Electrode
from grahame.electrostatics.electrode_matrix import solved_matrix, translations

Array = NDArray[np.float64]
NONE = torch.zeros((0, 2), dtype=torch.int64)


def crystal(cell: Array, nx: int = 4, ny: int = 3) -> Array:
    """Two slabs of two layers each; the second layers stand on hollows, and some atoms are wrapped."""
    a, b = cell[0] / nx, cell[1] / ny
    n = np.cross(cell[0], cell[1])
    n = n / np.linalg.norm(n)
    sites = np.stack(np.meshgrid(np.arange(nx), np.arange(ny), indexing="ij"), -1).reshape(-1, 2)
    layers = [(0.0, 1.0), (0.5, 2.9), (0.5, 15.0), (0.0, 16.9)]
    x = np.concatenate([(sites + shift) @ np.stack([a, b]) + height * n for shift, height in layers])
    x[::5] += cell[0] - 2 * cell[1]
    return x + 0.3 * a


CELLS = {
    "orthorhombic": np.diag([11.2, 9.0, 22.0]),
    "hexagonal, left-handed": np.array([[11.2, 0, 0], [-4.3, 8.6, 0], [0, 0, -22.0]]),
    "tilted": np.array([[11.2, 1.0, 0.5], [-2.0, 9.0, 0.3], [3.0, -1.0, 22.0]]),
}


def both(
    boundary: str, cell: Array, x: Array, widths: Array, method: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrix by translations, and without them."""
    coulomb = Coulomb(boundary, method, 1e-9)
    system = coulomb.bind(torch.as_tensor(x), torch.as_tensor(cell), torch.as_tensor(widths), None)
    solved = torch.arange(len(x))
    repeated = solved_matrix(coulomb, system, solved, NONE)
    monkeypatch.setattr("grahame.electrostatics.electrode_matrix.translations", lambda *_: None)
    return repeated, solved_matrix(coulomb, system, solved, NONE)


@pytest.mark.parametrize("boundary", ["slab", "finite-field", "displacement", "3d"])
@pytest.mark.parametrize("name", CELLS)
def test_rows_of_a_crystal_repeat(boundary: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = crystal(CELLS[name])
    moves = translations(x, CELLS[name], np.full(len(x), 0.4))
    assert moves is not None
    assert moves.shape == (12, 48)
    repeated, dense = both(boundary, CELLS[name], x, np.full(len(x), 0.4), "ewald", monkeypatch)
    np.testing.assert_allclose(repeated, dense, rtol=0, atol=1e-10)


def test_a_mesh_takes_the_same_matrix_from_both(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = CELLS["tilted"]
    x = crystal(cell)
    repeated, dense = both("slab", cell, x, np.full(len(x), 0.4), "pme", monkeypatch)
    # The two sums have cut-offs of their own.
    np.testing.assert_allclose(repeated, dense, rtol=0, atol=1e-7)


def test_every_translation_is_a_permutation_that_keeps_the_crystal() -> None:
    cell = CELLS["tilted"]
    x = crystal(cell)
    moves = translations(x, cell, np.full(len(x), 0.4))
    assert moves is not None
    assert len(np.unique(moves[:, 0])) == len(moves)
    for move in moves:
        assert np.array_equal(np.sort(move), np.arange(len(x)))
        step = (x[move] - x) @ np.linalg.inv(cell)
        step -= step[0]
        np.testing.assert_allclose(step, np.round(step), rtol=0, atol=1e-10)


@pytest.mark.parametrize("change", ["displaced", "adatom", "vacancy", "wider"])
def test_a_crystal_that_does_not_repeat_is_seen(change: str) -> None:
    cell = CELLS["orthorhombic"]
    x, s = crystal(cell), np.full(48, 0.4)
    if change == "displaced":
        x[7, 1] += 1e-8
    elif change == "adatom":
        x, s = np.concatenate([x, [[1.0, 1.0, 5.0]]]), np.full(49, 0.4)
    elif change == "vacancy":
        x, s = x[1:], s[1:]
    else:
        s[7] = 0.41
    assert translations(x, cell, s) is None


def test_rows_that_repeat_in_one_direction_are_found() -> None:
    cell = CELLS["orthorhombic"]
    x = crystal(cell, nx=8, ny=2)
    x[np.isclose((x[:, 1] - x[0, 1]) % 9.0, 4.5), 2] += 0.2  # every second row of each layer is buckled
    moves = translations(x, cell, np.full(len(x), 0.4))
    assert moves is not None
    assert len(moves) == 8


def test_charges_on_a_crystal_are_those_of_the_dense_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = CELLS["tilted"]
    ions = np.array([[0.0, 0.0, 0.0], [2.0, 1.0, 2.5]])
    x = np.concatenate([crystal(cell), crystal(cell).mean(0) + ions])
    q = np.r_[np.zeros(48), 1.0, -1.0]

    def charges() -> Array:
        held = [Electrode(range(24), potential=0.0), Electrode(range(24, 48), potential=1.0)]
        solver = ConstantPotential(held, Coulomb("slab", "pme", 1e-6), smearing=0.4)
        return np.asarray(solver.solve(x, q, cell).charges)

    found = charges()
    monkeypatch.setattr("grahame.electrostatics.electrode_matrix.translations", lambda *_: None)
    np.testing.assert_allclose(found, charges(), rtol=0, atol=1e-9)
