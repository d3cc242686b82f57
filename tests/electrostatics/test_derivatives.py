"""Forces, stress, and first and second derivatives through torch, against finite differences."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from grahame.electrostatics import Coulomb
from tests.electrostatics.numerics import gradient, strain_derivative
from tests.systems import System, ions_3d, slab

PAIRS = np.array([[0, 1], [2, 3]])
FIELD = np.array([0.0, 0.0, 0.11])
OPERATORS = [
    ("3d", "exact"),
    ("3d", "ewald"),
    ("3d", "pme"),
    ("slab", "exact"),
    ("slab", "ewald"),
    ("slab", "pme"),
    ("slab-exact", "exact"),
    ("displacement", "exact"),
    ("displacement", "ewald"),
    ("displacement", "pme"),
    ("open", "exact"),
]


def operator(boundary: str, method: str) -> Coulomb:
    if method == "pme":
        return Coulomb(boundary=boundary, method=method, accuracy=1e-5, order=8)
    return Coulomb(boundary=boundary, method=method, accuracy=1e-13)


def atoms_for(boundary: str, n: int = 10, total: float = 0.7) -> System:
    """Charged where that is allowed, tilted, with points and Gaussians."""
    if boundary == "3d":
        return ions_3d("triclinic", n=n, total=total)
    if boundary == "displacement":
        return slab("hexagonal", n=n)
    return slab("tilted-c" if boundary != "open" else "orthorhombic", n=n, total=total, height=18.0)


def options(boundary: str) -> dict[str, object]:
    return {"displacement": 0.12} if boundary == "displacement" else {}


@pytest.mark.parametrize(("boundary", "method"), OPERATORS)
def test_forces_are_minus_the_gradient(boundary: str, method: str) -> None:
    atoms = atoms_for(boundary)
    cell = None if boundary == "open" else atoms.cell
    coulomb = operator(boundary, method)
    extra = options(boundary)

    def energy(x: np.ndarray) -> float:
        return float(
            coulomb(
                x, atoms.charges, cell, smearing=atoms.smearing, exclusions=PAIRS, forces=False, **extra
            ).energy
        )

    out = coulomb(atoms.positions, atoms.charges, cell, smearing=atoms.smearing, exclusions=PAIRS, **extra)
    chosen = [0, 1, 4]
    np.testing.assert_allclose(
        out.forces[chosen], -gradient(energy, atoms.positions, chosen), rtol=0, atol=1e-8
    )


@pytest.mark.parametrize(("boundary", "method"), [o for o in OPERATORS if o[0] != "open"])
def test_stress_is_the_strain_derivative_over_the_volume(boundary: str, method: str) -> None:
    atoms = atoms_for(boundary)
    coulomb = operator(boundary, method)
    extra = options(boundary)

    def energy(x: np.ndarray, cell: np.ndarray) -> float:
        return float(
            coulomb(
                x, atoms.charges, cell, smearing=atoms.smearing, exclusions=PAIRS, forces=False, **extra
            ).energy
        )

    out = coulomb(
        atoms.positions,
        atoms.charges,
        atoms.cell,
        smearing=atoms.smearing,
        exclusions=PAIRS,
        stress=True,
        **extra,
    )
    numeric = strain_derivative(energy, atoms.positions, atoms.cell) / atoms.volume
    np.testing.assert_allclose(out.stress, numeric, rtol=0, atol=1e-8)
    np.testing.assert_allclose(out.stress, out.stress.T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("boundary", ["3d", "slab", "slab-exact"])
def test_forces_and_stress_in_a_field(boundary: str) -> None:
    atoms = atoms_for(boundary, total=0.0)
    atoms = System(atoms.positions, atoms.charges, np.diag(np.diag(atoms.cell)), atoms.smearing)
    coulomb = operator(boundary, "exact")

    def energy(x: np.ndarray, cell: np.ndarray = atoms.cell) -> float:
        return float(
            coulomb(x, atoms.charges, cell, smearing=atoms.smearing, field=FIELD, forces=False).energy
        )

    out = coulomb(
        atoms.positions, atoms.charges, atoms.cell, smearing=atoms.smearing, field=FIELD, stress=True
    )
    np.testing.assert_allclose(
        out.forces[:3], -gradient(energy, atoms.positions, [0, 1, 2]), rtol=0, atol=1e-8
    )
    if boundary == "3d":  # a strain that tilts the surface would turn the normal away from the field
        numeric = strain_derivative(energy, atoms.positions, atoms.cell) / atoms.volume
        np.testing.assert_allclose(out.stress, numeric, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("boundary", "method"), OPERATORS)
def test_autograd_of_the_energy_gives_forces_potential_and_stress(boundary: str, method: str) -> None:
    atoms = atoms_for(boundary)
    coulomb = operator(boundary, method)
    x, q = (torch.tensor(v, requires_grad=True) for v in (atoms.positions, atoms.charges))
    strain = torch.zeros((3, 3), dtype=torch.float64, requires_grad=True)
    cell = None
    y = x
    if boundary != "open":
        symmetric = 0.5 * (strain + strain.T)
        cell = torch.as_tensor(atoms.cell) @ (torch.eye(3, dtype=torch.float64) + symmetric)
        y = x @ (torch.eye(3, dtype=torch.float64) + symmetric)
    out = coulomb(
        y,
        q,
        cell,
        smearing=torch.as_tensor(atoms.smearing),
        exclusions=PAIRS,
        stress=boundary != "open",
        **options(boundary),
    )
    wanted = [x, q] + ([strain] if boundary != "open" else [])
    grads = torch.autograd.grad(out.energy, wanted, retain_graph=True)
    torch.testing.assert_close(-grads[0], out.forces.detach(), rtol=0, atol=1e-10)
    torch.testing.assert_close(grads[1], out.potential.detach(), rtol=0, atol=1e-10)
    if boundary != "open":
        torch.testing.assert_close(grads[2] / atoms.volume, out.stress.detach(), rtol=0, atol=1e-10)


CHECKED = [
    ("3d", "exact"),
    ("3d", "ewald"),
    ("3d", "pme"),
    ("slab", "exact"),
    ("slab", "ewald"),
    ("slab", "pme"),
    ("slab-exact", "exact"),
    ("displacement", "pme"),
    ("open", "exact"),
]


def leaves(atoms: System) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    s = np.maximum(atoms.smearing, 0.4)
    return tuple(  # type: ignore[return-value]
        torch.tensor(v, requires_grad=True) for v in (atoms.positions, atoms.charges, atoms.cell, s)
    )


def small_operator(boundary: str, method: str) -> Coulomb:
    if method == "pme":
        return Coulomb(boundary=boundary, method=method, accuracy=1e-4, order=6)
    return Coulomb(boundary=boundary, method=method, accuracy=1e-12)


@pytest.mark.parametrize(("boundary", "method"), CHECKED)
def test_gradcheck_of_energy_and_forces(boundary: str, method: str) -> None:
    atoms = atoms_for(boundary, n=4)
    coulomb = small_operator(boundary, method)
    inputs = leaves(atoms)
    pairs = np.array([[0, 1]])

    def function(x: Tensor, q: Tensor, h: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        if boundary == "displacement":
            q = q - q.mean()  # stays neutral when a single charge is stepped
        out = coulomb(
            x, q, None if boundary == "open" else h, smearing=s, exclusions=pairs, **options(boundary)
        )
        return out.energy, out.forces

    function(*inputs)
    if boundary == "open":
        x, q, h, s = inputs
        assert gradcheck(
            lambda a, b, c: function(a, b, h, c), (x, q, s), eps=1e-5, atol=1e-6, rtol=1e-5, fast_mode=True
        )
    else:
        assert gradcheck(function, inputs, eps=1e-5, atol=1e-6, rtol=1e-5, fast_mode=True)


@pytest.mark.parametrize(("boundary", "method"), CHECKED)
def test_gradgradcheck_of_the_energy(boundary: str, method: str) -> None:
    atoms = atoms_for(boundary, n=3)
    coulomb = small_operator(boundary, method)
    x, q, h, s = leaves(atoms)

    def function(x: Tensor, q: Tensor, h: Tensor, s: Tensor) -> Tensor:
        if boundary == "displacement":
            q = q - q.mean()
        out = coulomb(x, q, None if boundary == "open" else h, smearing=s, **options(boundary))
        energy: Tensor = out.energy
        return energy

    function(x, q, h, s)
    if boundary == "open":
        assert gradgradcheck(
            lambda a, b, c: function(a, b, h, c), (x, q, s), eps=1e-5, atol=1e-6, rtol=1e-5, fast_mode=True
        )
    else:
        assert gradgradcheck(function, (x, q, h, s), eps=1e-5, atol=1e-6, rtol=1e-5, fast_mode=True)


def charges_from_positions(x: Tensor, base: Tensor) -> Tensor:
    """Smooth, conserving charges that depend on all distances."""
    d = x[:, None, :] - x[None, :, :]
    near = torch.exp(-(d**2).sum(-1) / 9.0)
    transfer = 0.1 * torch.sin(base[:, None] - 2 * base[None, :])
    return base + (near * (transfer - transfer.T)).sum(1)


@pytest.mark.parametrize(("boundary", "method"), [o for o in OPERATORS if o[0] != "displacement"])
def test_charges_that_depend_on_positions_give_the_whole_force(boundary: str, method: str) -> None:
    atoms = atoms_for(boundary)
    coulomb = operator(boundary, method)
    cell = None if boundary == "open" else torch.as_tensor(atoms.cell)
    base, s = torch.as_tensor(atoms.charges), torch.as_tensor(atoms.smearing)

    def energy(x: np.ndarray) -> float:
        t = torch.as_tensor(x)
        return float(coulomb(t, charges_from_positions(t, base), cell, smearing=s).energy)

    x = torch.tensor(atoms.positions, requires_grad=True)
    q = charges_from_positions(x, base)
    out = coulomb(x, q, cell, smearing=s)
    (whole,) = torch.autograd.grad(out.energy, x)
    numeric = gradient(energy, atoms.positions, [0, 3])
    np.testing.assert_allclose(whole[[0, 3]].numpy(), numeric, rtol=0, atol=1e-7)
    # the forces asked for beside it hold the charges fixed; the chain rule through the potential makes them whole
    (chain,) = torch.autograd.grad((out.potential.detach() * charges_from_positions(x, base)).sum(), x)
    np.testing.assert_allclose((chain - out.forces.detach())[[0, 3]].numpy(), numeric, rtol=0, atol=1e-7)


@pytest.mark.parametrize("method", ["ewald", "pme"])
def test_training_on_forces_and_stress_reaches_the_charges(method: str) -> None:
    # Loss on forces and stress, differentiated with respect to what the charges depend on.
    atoms = atoms_for("3d", n=6, total=0.0)
    coulomb = small_operator("3d", method)
    x, h, s = (torch.as_tensor(v) for v in (atoms.positions, atoms.cell, np.maximum(atoms.smearing, 0.4)))
    x = x.clone().requires_grad_()

    def loss(base: Tensor) -> Tensor:
        out = coulomb(x, charges_from_positions(x, base), h, smearing=s, stress=True)
        forces = -torch.autograd.grad(out.energy, x, create_graph=True)[0]
        return (forces**2).sum() + 100 * (out.stress**2).sum()

    base = torch.tensor(atoms.charges, requires_grad=True)
    assert gradcheck(loss, (base,), eps=1e-5, atol=1e-6, rtol=1e-5, fast_mode=True)


def test_potential_at_points_is_differentiable() -> None:
    atoms = atoms_for("slab", n=4)
    coulomb = small_operator("slab", "ewald")
    x, q, h, s = leaves(atoms)
    points = torch.tensor([[0.3, 1.0, 4.0]], dtype=torch.float64, requires_grad=True)

    def function(p: Tensor, y: Tensor, c: Tensor) -> Tensor:
        value: Tensor = coulomb.potential_at(p, y, c, h.detach(), smearing=s.detach())
        return value

    assert gradcheck(function, (points, x, q), eps=1e-5, atol=1e-6, rtol=1e-5, fast_mode=True)


def test_the_matrix_is_differentiable() -> None:
    atoms = atoms_for("slab", n=3)
    coulomb = small_operator("slab", "ewald")
    x, _, h, s = leaves(atoms)

    def function(y: Tensor, c: Tensor, w: Tensor) -> Tensor:
        value: Tensor = coulomb.matrix(y, c, smearing=w)
        return value

    assert gradcheck(function, (x, h, s), eps=1e-5, atol=1e-6, rtol=1e-5, fast_mode=True)
