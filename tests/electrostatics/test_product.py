"""K·Q for many right-hand sides: the operator as a matrix, as a call, and as a product are one operator."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from grahame.electrostatics import Coulomb
from tests.systems import System, ions_3d, slab

PAIRS = np.array([[0, 1], [2, 3]])
OPERATORS = [
    ("3d", "exact"),
    ("3d", "ewald"),
    ("3d", "pme"),
    ("slab", "exact"),
    ("slab", "ewald"),
    ("slab", "pme"),
    ("slab-exact", "exact"),
    ("finite-field", "exact"),
    ("finite-field", "ewald"),
    ("finite-field", "pme"),
    ("displacement", "exact"),
    ("displacement", "ewald"),
    ("displacement", "pme"),
    ("open", "exact"),
]


def operator(boundary: str, method: str) -> Coulomb:
    if method == "pme":
        return Coulomb(boundary=boundary, method=method, accuracy=1e-5, order=8)
    return Coulomb(boundary=boundary, method=method, accuracy=1e-12)


def geometry(boundary: str, n: int = 10) -> tuple[System, Any]:
    atoms = (
        ions_3d("triclinic", n=n)
        if boundary in ("3d", "finite-field")
        else slab("tilted-c", n=n, height=18.0)
    )
    return atoms, None if boundary == "open" else atoms.cell


def columns(n: int, m: int = 4) -> np.ndarray:
    """Charged and neutral sets."""
    return np.random.default_rng(3).normal(size=(n, m))


@pytest.mark.parametrize(("boundary", "method"), OPERATORS)
def test_the_product_is_the_matrix_times_the_charges(boundary: str, method: str) -> None:
    atoms, cell = geometry(boundary)
    coulomb, q = operator(boundary, method), columns(10)
    k = coulomb.matrix(atoms.positions, cell, smearing=atoms.smearing, exclusions=PAIRS)
    got = coulomb.product(atoms.positions, q, cell, smearing=atoms.smearing, exclusions=PAIRS)
    assert isinstance(got, np.ndarray)
    np.testing.assert_allclose(got, k @ q, rtol=0, atol=1e-11 * np.abs(k).max())
    one = coulomb.product(atoms.positions, q[:, 2], cell, smearing=atoms.smearing, exclusions=PAIRS)
    assert one.shape == (10,)
    np.testing.assert_allclose(one, got[:, 2], rtol=0, atol=1e-12 * np.abs(k).max())
    with_points = coulomb.product(atoms.positions, q, cell)
    np.testing.assert_allclose(
        with_points, coulomb.matrix(atoms.positions, cell) @ q, rtol=0, atol=1e-11 * np.abs(k).max()
    )


@pytest.mark.parametrize(("boundary", "method"), [o for o in OPERATORS if o[0] != "finite-field"])
def test_the_product_is_the_potential_of_a_call(boundary: str, method: str) -> None:
    atoms, cell = geometry(boundary)
    coulomb, q = operator(boundary, method), columns(10)
    q -= q.mean(axis=0)
    got = coulomb.product(atoms.positions, q, cell, smearing=atoms.smearing)
    for column, potential in zip(q.T, got.T):
        wanted = coulomb(atoms.positions, column, cell, smearing=atoms.smearing, forces=False).potential
        np.testing.assert_allclose(potential, wanted, rtol=0, atol=1e-10)


def test_the_geometry_is_bound_once_for_all_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    atoms, cell = geometry("slab")
    coulomb, bound = operator("slab", "pme"), []
    bind = coulomb.bind
    monkeypatch.setattr(coulomb, "bind", lambda *args: bound.append(1) or bind(*args))
    coulomb.product(atoms.positions, columns(10, 20), cell, smearing=atoms.smearing)
    assert len(bound) == 1


def test_torch_pme_gives_the_same_product() -> None:
    atoms, cell = geometry("3d")
    theirs = Coulomb("3d", "ewald", 1e-12, ewald_backend="torch-pme")
    got = theirs.product(atoms.positions, columns(10), cell, smearing=atoms.smearing)
    wanted = operator("3d", "ewald").product(atoms.positions, columns(10), cell, smearing=atoms.smearing)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("boundary", "method"), OPERATORS)
def test_derivatives_pass_through_the_product(boundary: str, method: str) -> None:
    atoms, cell = geometry(boundary, n=6)
    coulomb = operator(boundary, method)
    x = torch.tensor(atoms.positions, requires_grad=True)
    q = torch.tensor(columns(6, 2), requires_grad=True)
    s = torch.tensor(np.full(6, 0.4), requires_grad=True)
    h = None if cell is None else torch.tensor(cell, requires_grad=True)
    coulomb.parameters(atoms.positions, None, cell, 0.5)  # the same for all displaced geometries

    def of_charges(charges: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = coulomb.product(atoms.positions, charges, cell, smearing=0.4)
        return out

    def of_all(*inputs: torch.Tensor) -> torch.Tensor:
        charges, positions, widths, *frame = inputs
        out: torch.Tensor = coulomb.product(positions, charges, frame[0] if frame else None, smearing=widths)
        return out

    assert gradcheck(of_charges, (q,), fast_mode=True, atol=1e-6)
    inputs = (q, x, s) if h is None else (q, x, s, h)
    assert gradcheck(of_all, inputs, fast_mode=True, atol=1e-5, rtol=1e-4)


def test_the_derivative_with_respect_to_charges_can_be_taken_twice() -> None:
    atoms, cell = geometry("slab", n=6)
    coulomb, q = operator("slab", "ewald"), torch.tensor(columns(6, 2), requires_grad=True)
    energy = 0.5 * (q * coulomb.product(atoms.positions, q, cell, smearing=atoms.smearing)).sum()
    (first,) = torch.autograd.grad(energy, q, create_graph=True)
    (second,) = torch.autograd.grad(first[0, 0], q)
    k = coulomb.matrix(atoms.positions, cell, smearing=atoms.smearing)
    np.testing.assert_allclose(second[:, 0], k[0], rtol=0, atol=1e-11 * np.abs(k).max())
    assert not second[:, 1].any()


def test_what_came_in_goes_out() -> None:
    atoms, cell = geometry("slab")
    coulomb, q = operator("slab", "pme"), columns(10)
    assert coulomb.product(atoms.positions, torch.tensor(q), cell).requires_grad is False
    assert coulomb.product(atoms.positions.astype(np.float32), q, cell).dtype == np.float32
    single = torch.tensor(q, dtype=torch.float32)
    assert coulomb.product(torch.tensor(atoms.positions), single, cell).dtype == torch.float64
    assert coulomb.product(atoms.positions, q[:, :0], cell).shape == (10, 0)


def test_wrong_charges_are_refused() -> None:
    atoms, cell = geometry("slab")
    coulomb, q = operator("slab", "ewald"), columns(10)
    message = (
        "charges = array of shape (9, 4) must have shape (10,) or (10, m): pass one value in e per atom, "
        "or a column of them for each set"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        coulomb.product(atoms.positions, q[1:], cell)
    q[3, 1] = np.nan
    message = "charges[3, 1] = nan e must be finite: check where it comes from"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        coulomb.product(atoms.positions, q, cell)
