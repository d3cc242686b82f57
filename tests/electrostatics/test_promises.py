"""What docstrings promise of arguments that are seldom given: derivatives of matrices, given meshes, batches, precision."""

import re
from typing import Any

import numpy as np
import pytest
import torch

from grahame.electrostatics import (
    ConstantPotential,
    Coulomb,
    Electrode,
    ThermoPotentiostat,
    fluctuation_capacitance,
    planar_profiles,
    slab_potential_step,
    work_function,
)
from grahame.electrostatics.cells import nearest_image_shifts

FLAT = np.array([(3.0 * i, 3.0 * j, 0.0) for i in range(2) for j in range(2)])
X = np.vstack([FLAT, FLAT + np.array([1.0, 1.0, 8.0]), [[1.0, 2.0, 4.0], [3.0, 3.0, 4.5]]])
H = np.diag([6.0, 6.0, 14.0])
Q = np.r_[np.zeros(8), 0.5, -0.5]
GROUPS = [Electrode(range(4), potential=0.0), Electrode(range(4, 8), potential=1.0)]


def ions(n: int, edge: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions and charges of a gas whose atoms keep their distance."""
    rng, x = np.random.default_rng(11), []
    while len(x) < n:
        y = rng.random(3) * edge
        if all(np.linalg.norm((y - w + edge / 2) % edge - edge / 2) > 1.8 for w in x):
            x.append(y)
    return np.array(x), np.where(np.arange(n) % 2, 1.0, -1.0)


@pytest.mark.parametrize("method", ["ewald", "pme"])
def test_matrices_keep_the_graph_of_the_geometry(method: str) -> None:
    places, charges = ions(20, 9.0)
    leaves = [torch.tensor(a, requires_grad=True) for a in (places, np.eye(3) * 9.0, np.full(20, 0.4))]
    q = torch.tensor(charges)
    coulomb = Coulomb("3d", method, 1e-6, order=8)
    energies = 0.5 * q @ coulomb.matrix(*leaves) @ q, coulomb(leaves[0], q, *leaves[1:]).energy
    found, wanted = (torch.autograd.grad(e, leaves) for e in energies)
    for one, two in zip(found, wanted):
        assert float(two.abs().max()) > 1e-2
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-8)
    plain = coulomb.matrix(places, np.eye(3) * 9.0, 0.4)
    np.testing.assert_allclose(plain, coulomb.matrix(*leaves).detach().numpy(), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "given",
    [
        {"mesh": (48, 48, 48)},
        {"mesh": (64, 64, 64)},
        {"mesh": (32, 32, 32), "order": 10},
        {"mesh": (64, 64, 64), "cutoff": 8.0},
        {"mesh": (32, 32, 32), "splitting": 0.3},
    ],
)
def test_what_is_left_open_beside_a_mesh_serves_the_accuracy(given: dict[str, Any]) -> None:
    x, q = ions(40, 12.0)
    h, accuracy = np.eye(3) * 12.0, 1e-6
    right = Coulomb("3d", "exact")(x, q, h, 0.4).forces
    coulomb = Coulomb("3d", "pme", accuracy, **given)
    found = coulomb(x, q, h, 0.4).forces
    assert np.linalg.norm(found - right) < accuracy * np.linalg.norm(right)
    chosen = coulomb.parameters(x, q, h, 0.4)
    assert chosen.estimated_error < accuracy
    assert chosen.mesh == given["mesh"]


def test_of_a_mesh_too_coarse_the_most_is_made() -> None:
    x, q = ions(40, 12.0)
    h = np.eye(3) * 12.0
    right = Coulomb("3d", "exact")(x, q, h, 0.4).forces
    coarse = Coulomb("3d", "pme", 1e-6, mesh=(6, 6, 6))
    chosen = coarse.parameters(x, q, h, 0.4)
    error = np.linalg.norm(coarse(x, q, h, 0.4).forces - right) / np.linalg.norm(right)
    assert (chosen.cutoff, chosen.order) == (14.0, 6)
    assert 1e-6 < error < chosen.estimated_error < 1e-2


@pytest.mark.parametrize("charges", [[-0.05, 0.05], None])
def test_fluctuations_are_completed_whatever_the_last_solve_held(charges: list[float] | None) -> None:
    solver = ConstantPotential(GROUPS, Coulomb("slab"))
    samples = np.array([0.05, 0.052, 0.049, 0.051])
    q1 = [solver.solve(X, Q, H, potentials=[0.0, v]).electrode_charges[1] for v in (0.5, 1.5)]
    solver.solve(X, Q, H, electrode_charges=charges)
    found = fluctuation_capacitance(samples, 300.0, solver)
    beta = 1.0 / (8.617330337217213e-05 * 300.0)
    assert found == pytest.approx(beta * samples.var() + (q1[1] - q1[0]), rel=1e-6)
    both = fluctuation_capacitance(np.stack([-samples, samples], axis=1), 300.0, solver)
    assert both[1, 1] == pytest.approx(found, rel=1e-6)


def refused(message: str, call: Any, *arguments: Any, **named: Any) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call(*arguments, **named)


def test_fluctuations_beside_one_held_charge_are_refused() -> None:
    solver = ConstantPotential(GROUPS, Coulomb("slab"))
    solver.solve(X, Q, H, electrode_charges=[-0.05, None])
    refused(
        "electrodes = 1 of 2 held at a charge in the last solve must all be at potentials for C_0: solve once with potentials "
        "before",
        fluctuation_capacitance, [0.1, 0.2], 300.0, solver,
    )  # fmt: skip
    refused(
        "charges must be finite: they hold NaN or infinity; leave these samples out",
        fluctuation_capacitance, [0.1, np.nan], 300.0, solver,
    )  # fmt: skip


@pytest.mark.parametrize("target", [np.nan, np.inf])
def test_thermo_potentiostats_need_a_target(target: float) -> None:
    solver = ConstantPotential(GROUPS, Coulomb("slab"))
    refused(
        f"potential_difference = {target} V must be finite: it is the target psi_1 - psi_0",
        ThermoPotentiostat, solver, 300.0, 20.0, 0, potential_difference=target,
    )  # fmt: skip


def test_thermo_potentiostats_take_one_charge_for_all_atoms() -> None:
    steps = [
        ThermoPotentiostat(ConstantPotential(GROUPS, Coulomb("slab")), 300.0, 20.0, 0).step(X, q, H, 1.0)
        for q in (0.0, np.zeros(10))
    ]
    assert steps[0].energy == steps[1].energy


def test_batches_of_unequal_length_are_refused() -> None:
    solver, coulomb, x = ConstantPotential(GROUPS, Coulomb("slab")), Coulomb("slab"), np.stack([X, X])
    remedy = "must be as many as those of positions, 2: give one for each, or one for all"
    refused(f"charges = 3 systems {remedy}", coulomb, x, np.stack([Q] * 3), H)
    refused(f"charges = 1 systems {remedy}", coulomb, x, Q[None], H)
    refused(f"cell = 3 systems {remedy}", solver.solve, x, Q, np.stack([H] * 3))
    refused(f"potentials = 3 systems {remedy}", solver.solve, x, Q, H, potentials=[[0.0, 1.0]] * 3)
    refused(
        "positions[1] = 9 atoms must be as many as those of positions[0], 10: solve systems of different sizes one by one",
        coulomb, [X, X[:9]], [Q, Q[:9]], H,
    )  # fmt: skip


def test_rounding_of_single_precision_is_no_mistake() -> None:
    turned = torch.linalg.qr(
        torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    )[0]
    cell = (np.array([[6.0, 0, 0], [3, 5.2, 0], [0, 0, 12]]) @ turned.numpy()).astype(np.float32)
    n = np.cross(cell[0], cell[1])
    field = (0.1 * n / np.linalg.norm(n)).astype(np.float32)
    x = (np.random.default_rng(0).random((6, 3)) @ np.diag([1, 1, 0.4]) @ cell).astype(np.float32)
    q = np.array([0.1, 0.2, -0.3] * 2, np.float32)
    found = Coulomb("slab")(x, q, cell, field=field)
    wide = cell.astype(np.float64)
    normal = np.cross(wide[0], wide[1])
    inputs = x.astype(np.float64), np.array([0.1, 0.2, -0.3] * 2), wide
    double = Coulomb("slab")(*inputs, field=0.1 * normal / np.linalg.norm(normal))
    np.testing.assert_allclose(found.forces, double.forces, rtol=0, atol=1e-4)
    grid = np.array([(i, j, k) for i in range(7) for j in range(7) for k in range(7)], np.float32)[:300] * 2.8
    many = np.tile(np.array([0.1, 0.2, -0.3], np.float32), 100)
    assert many.astype(np.float64).sum() != 0.0
    Coulomb("displacement", accuracy=1e-3)(grid, many, np.eye(3) * 20, displacement=0.1)
    with pytest.raises(ValueError, match="must be zero with constant displacement"):
        Coulomb("displacement", accuracy=1e-3)(
            grid.astype(np.float64), many.astype(np.float64), np.eye(3) * 20, displacement=0.1
        )


def test_single_precision_of_anything_given_is_no_mistake() -> None:
    q = np.array([0.1, -0.1, 0.2, 0.1, 8.1, -8.4], np.float32)
    assert abs(q.astype(np.float64).sum()) > 1e-8 * np.abs(q).sum()
    x = np.random.default_rng(0).random((6, 3)) * np.array([6.0, 6, 8])
    found = Coulomb("displacement")(x, q, H, displacement=0.1)
    assert found.forces.dtype == np.float64
    held = [Electrode([0, 1], charge=0.4), Electrode([2, 3], charge=-0.1)]
    for kind in (np.asarray, torch.as_tensor):
        sol = ConstantPotential(held, Coulomb("slab")).solve(kind(x), kind(q), kind(H))
        assert float(sol.energy) == pytest.approx(
            ConstantPotential(held, Coulomb("slab")).solve(x, [0, 0, 0, 0, 8.1, -8.4], H).energy, abs=1e-5
        )


def test_a_number_does_not_decide_the_precision_of_arrays() -> None:
    single = torch.tensor(0.1)
    field = Coulomb("displacement")(X, Q, H, displacement=single)
    width = Coulomb("slab")(X, Q, H, smearing=single)
    sol = ConstantPotential(GROUPS, Coulomb("slab")).solve(X, Q, H, total_charge=single)
    assert [r.forces.dtype for r in (field, width, sol)] == [torch.float64] * 3


def test_screening_lengths_may_be_differentiated_in_every_solve() -> None:
    length = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    solver = ConstantPotential(GROUPS, Coulomb("slab"), thomas_fermi_length=length, voronoi_volume=15.0)
    slopes = [torch.autograd.grad(solver.solve(X, Q, H).energy, length)[0] for _ in range(2)]
    torch.testing.assert_close(*slopes, rtol=1e-6, atol=0)
    assert float(slopes[0].abs()) > 1e-6


@pytest.mark.parametrize("axes", [(True, True, True), (True, True, False)])
def test_nearest_images_are_found_in_very_skewed_cells(axes: tuple[bool, bool, bool]) -> None:
    rng = np.random.default_rng(0)
    cell = np.array([[4.0, 0, 0], [30.0, 5, 0], [17.0, -23.0, 12.0]])
    vectors = rng.uniform(-20.0, 20.0, (200, 3))
    shifts = nearest_image_shifts(vectors, cell, axes)
    ranges = [np.arange(-40, 41), np.arange(-6, 7), np.arange(-3, 4) if axes[2] else np.zeros(1)]
    images = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)
    if axes[2]:
        assert not shifts[:, 2].all()
    lengths = np.linalg.norm(vectors + shifts @ cell, axis=1)
    for vector, length in zip(vectors, lengths):
        assert length <= np.linalg.norm(vector + images @ cell, axis=1).min() + 1e-12


def test_what_is_no_number_of_its_kind_is_refused() -> None:
    assert Coulomb(accuracy=np.float32(1e-4)).accuracy == pytest.approx(1e-4)
    refused(
        "vacuum = None must be auto or a length in Å: choose one of these",
        Coulomb, "slab", vacuum=None,
    )  # fmt: skip
    for mesh in (16, (16.5, 16, 16), (16, 16)):
        refused(
            f"mesh = {mesh} must be three whole numbers not below the order, 4: give one for each cell vector",
            Coulomb, mesh=mesh,
        )  # fmt: skip
    refused(
        "order = 6.0 must be a whole number from 4 to 10: 6 or more for second derivatives",
        Coulomb,
        order=6.0,
    )
    refused("cutoff = '9' must be a number: leave it out to derive it from `accuracy`", Coulomb, cutoff="9")
    coulomb, solver = Coulomb("slab"), ConstantPotential(GROUPS, Coulomb("slab"))
    refused(
        "points = array of shape (3,) must have shape (n, 3): pass one row per point",
        coulomb.potential_at, [0.0, 0.0, 1.0], X, Q, H,
    )  # fmt: skip
    refused(
        "total_charge = array of shape (2,) must be one number: it is the charge of all atoms together",
        solver.solve, X, Q, H, total_charge=[0.0, 0.0],
    )  # fmt: skip
    refused(
        "array of type torch.complex128 must hold real numbers: check what is passed, and that its rows are equally long",
        coulomb, X, torch.tensor(Q).to(torch.complex128), H,
    )  # fmt: skip
    mask = Electrode(np.array([True, False]), potential=0.0)
    refused(
        "electrodes[0] = mask of 2 flags must have one per atom, 10: pass a mask of all atoms, or their indices",
        ConstantPotential([mask], Coulomb("slab")).solve, X, Q, H,
    )  # fmt: skip


def test_profiles_and_levels_of_what_is_no_number_are_refused() -> None:
    refused(
        "field = nan V/Å must be finite: give its component along n", planar_profiles, X, Q, H, field=np.nan
    )
    refused(
        "field = [0.0, 0.0, 0.1] must be one number: give its component along n",
        planar_profiles, X, Q, H, field=[0.0, 0.0, 0.1],
    )  # fmt: skip
    refused(
        "coulomb_constant = -1 eV Å/e² must be greater than zero: leave it out for CODATA's",
        planar_profiles, X, Q, H, coulomb_constant=-1,
    )  # fmt: skip
    refused(
        "moment = nan e Å must be finite: it is sum q z of the neutral slab",
        work_function,
        1.0,
        np.nan,
        9.0,
        "+",
    )
    refused(
        "fermi_potential = nan V must be finite: it is dE/dQ of the metal",
        work_function,
        np.nan,
        0.1,
        9.0,
        "+",
    )
    refused(
        "positions, charges must be finite: they hold NaN or infinity; check the structure",
        slab_potential_step, X * np.nan, Q, H,
    )  # fmt: skip
