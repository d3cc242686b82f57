"""Uses at the edge of the interface: probes on atoms, shared arrays in batches, masks, wrapped cells."""

import re

import numpy as np
import pytest
import torch

from grahame.electrostatics import ConstantPotential, Coulomb, Electrode, ThermoPotentiostat
from grahame.electrostatics.units import COULOMB_CONSTANT

PLATES = np.array([[0.0, 0, 1], [2.9, 0, 1], [0, 2.9, 1], [2.9, 2.9, 1]])
IONS = np.array([[1.0, 1, 5], [3, 3, 7]])
X = np.concatenate([PLATES, IONS])
Q = np.array([0.0, 0, 0, 0, 1, -1])
H = np.diag([5.8, 5.8, 14.0])
BOUNDARIES = [("slab", "ewald"), ("slab", "exact"), ("slab-exact", "exact"), ("3d", "pme"), ("open", "exact")]


def refused(message: str) -> "pytest.RaisesExc[ValueError]":
    return pytest.raises(ValueError, match="^" + re.escape(message) + "$")


@pytest.mark.parametrize(("boundary", "method"), BOUNDARIES)
def test_the_potential_on_a_gaussians_centre_is_the_limit_from_nearby(boundary: str, method: str) -> None:
    coulomb, cell = Coulomb(boundary, method, 1e-8), None if boundary == "open" else H
    on = coulomb.potential_at(X[:2], X, Q, cell, smearing=0.5)
    sides = [
        coulomb.potential_at(X[:2] + np.array([d, 0, 0]), X, Q, cell, smearing=0.5) for d in (1e-3, -1e-3)
    ]
    np.testing.assert_allclose(on, np.mean(sides, axis=0), atol=1e-5)


def test_the_potential_on_a_gaussians_centre_has_all_its_digits() -> None:
    x, width = np.array([[0.0, 0, 0], [1.5, 0.2, 0.1]]), 0.4
    coulomb = Coulomb("open")
    found = coulomb.potential_at(x[:1], x, np.array([1.0, -0.7]), None, smearing=np.array([width, 0.0]))
    own = np.sqrt(2 / np.pi) / width
    wanted = coulomb.coulomb_constant * (own - 0.7 / np.linalg.norm(x[1]))
    np.testing.assert_allclose(found, [wanted], rtol=0, atol=2e-9)


@pytest.mark.parametrize("width", [1.0, 3.0])
@pytest.mark.parametrize("method", ["exact", "ewald", "pme"])
def test_padding_carries_wide_gaussians_in_narrow_cells(method: str, width: float) -> None:
    x, q, cell = np.array([[0.0, 0, 1], [1, 1, 2.5]]), np.array([0.5, -0.5]), np.diag([3.0, 3.0, 5.0])
    found = Coulomb("slab", method, 1e-6)(x, q, cell, smearing=width)
    truth = Coulomb("slab-exact")(x, q, cell, smearing=width)
    typical = COULOMB_CONSTANT * 0.25 * (2 / 45.0) ** (2 / 3)
    assert np.abs(found.forces - truth.forces).max() < 1e-6 * typical
    assert found.energy == pytest.approx(truth.energy, abs=1e-5)


def test_in_a_field_the_stress_of_a_slab_does_not_know_the_images_of_its_atoms() -> None:
    coulomb, field = Coulomb("slab", "ewald", 1e-10), np.array([0, 0, 0.1])
    moved = X + np.array([0, 0, 0, 0, 1, -2])[:, None] * H[0] + np.array([0, 1, 0, 0, 0, 0])[:, None] * H[1]
    one, two = (coulomb(x, Q, H, field=field, stress=True).stress for x in (X, moved))
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-10)


def test_arrays_may_run_backwards_and_be_read_only(recwarn: pytest.WarningsRecorder) -> None:
    coulomb = Coulomb("slab", "ewald")
    locked = X.copy()
    locked.flags.writeable = False
    energy = coulomb(X, Q, H).energy
    assert coulomb(X[::-1], Q[::-1], H).energy == pytest.approx(energy, rel=1e-12)
    assert coulomb(locked, Q, H).energy == energy
    assert not recwarn.list


@pytest.mark.parametrize(("positions", "kind"), [(X + 1j, "complex128"), (X.astype(str), "<U32")])
def test_positions_that_are_no_real_numbers_are_refused(positions: np.ndarray, kind: str) -> None:
    with refused(
        f"array of type {kind} must hold real numbers: check what is passed, and that its rows are equally long"
    ):
        Coulomb("slab", "ewald")(positions, Q, H)


def test_an_empty_batch_is_refused() -> None:
    message = "batch = 0 systems must hold at least one: pass the systems, one after the other"
    with refused(message):
        Coulomb("slab", "ewald")(X[None][:0], Q[None][:0], H)
    solver = ConstantPotential(
        [Electrode([0, 1, 2, 3], potential=0.0)], Coulomb("slab", "ewald"), smearing=0.5
    )
    with refused(message):
        solver.solve(X[None][:0], Q[None][:0], H)


@pytest.mark.parametrize(("boundary", "method"), BOUNDARIES)
def test_probes_on_one_place_or_one_image_do_not_see_each_other(boundary: str, method: str) -> None:
    coulomb, cell = Coulomb(boundary, method), None if boundary == "open" else H
    points = np.array([[1.0, 1, 6], [1, 1, 6], [6.8, 1, 6]])
    one = coulomb.potential_at(points[:1], X, Q, cell)
    several = coulomb.potential_at(points, X, Q, cell)
    np.testing.assert_allclose(several[:2], one[0], rtol=1e-6)
    if cell is not None:
        np.testing.assert_allclose(several[2], one[0], rtol=1e-6)


def test_a_probe_on_a_point_charge_is_refused() -> None:
    message = (
        "points[0] must not lie on the point charge of atom 4: the potential is infinite there; "
        "move the point, or give the charge a width"
    )
    with refused(message):
        Coulomb("slab", "ewald").potential_at(X[4:5], X, Q, H)


def test_one_set_of_charges_serves_a_batch() -> None:
    single = Coulomb("slab", "ewald")(X, Q, H)
    both = Coulomb("slab", "ewald")(np.stack([X, X]), Q, H)
    np.testing.assert_allclose(both.energy, [single.energy] * 2, rtol=1e-12)


def test_rows_and_columns_may_be_masks() -> None:
    coulomb, mask = Coulomb("slab", "ewald"), np.array([0, 0, 1, 0, 1, 0], dtype=bool)
    whole = coulomb.matrix(X, H, smearing=0.5)
    np.testing.assert_array_equal(
        coulomb.matrix(X, H, smearing=0.5, rows=mask, columns=mask), whole[2::2][:2, 2::2][:, :2]
    )
    with refused("rows = 6 must lie between 0 and 5: the system has 6 atoms"):
        coulomb.matrix(X, H, smearing=0.5, rows=[6])


def test_an_open_system_has_no_stress() -> None:
    assert Coulomb("open")(X, Q, None, stress=True).stress is None


def test_a_slab_that_outgrows_its_given_vacuum_is_refused_at_the_second_call_too() -> None:
    coulomb, cell = Coulomb("slab", "ewald", vacuum=0.0), np.diag([5.8, 5.8, 12.0])
    coulomb(X, Q, cell)
    higher = X.copy()
    higher[5, 2] = 13.4
    message = (
        "extent of the charges along the normal = 12.4 Å must be smaller than the height of the k-space cell, 12 Å: "
        "increase `vacuum` or use vacuum='auto'"
    )
    with refused(message):
        coulomb(higher, Q, cell)


def pair(**options: object) -> ConstantPotential:
    groups = [Electrode([0, 1], potential=0.0), Electrode([2, 3], potential=1.0)]
    return ConstantPotential(groups, Coulomb("slab", "ewald"), **options)  # type: ignore[arg-type]


def test_a_factor_belongs_to_its_excluded_pairs() -> None:
    used, fresh = pair(), pair()
    used.solve(X, Q, H)
    np.testing.assert_allclose(
        used.solve(X, Q, H, exclusions=[[0, 1]]).charges,
        fresh.solve(X, Q, H, exclusions=[[0, 1]]).charges,
        atol=1e-10,
    )
    np.testing.assert_allclose(used.capacitance, fresh.capacitance, rtol=1e-9)
    assert used.factorizations == 2


def test_potentials_of_a_batch_may_carry_a_graph() -> None:
    volt = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    solution = pair().solve(np.stack([X, X]), Q, H, potentials=[0.0, volt])
    (slope,) = torch.autograd.grad(solution.energy.sum(), volt)
    assert float(slope) == pytest.approx(-float(solution.electrode_charges[:, 1].sum().detach()), abs=1e-9)


def test_a_single_number_is_no_list_of_potentials() -> None:
    message = (
        "potentials = 1.0 must be a list with one value per electrode, 2: use None where nothing changes"
    )
    with refused(message):
        pair().solve(X, Q, H, potentials=1.0)


def test_a_finite_field_cell_with_the_electrolyte_outside_is_refused() -> None:
    x = np.array([[0.0, 0, 6], [2.9, 0, 6], [0, 0, 8], [2.9, 0, 8], [1, 1, 2], [3, 3, 12]])
    groups = [Electrode([0, 1], potential=0.0), Electrode([2, 3], potential=1.0)]
    message = (
        "electrolyte atoms between the electrodes, from 6 to 8 Å along the normal = 0 must be at least one: "
        "the cell is wrapped so that the electrolyte lies outside; shift it so that the electrodes enclose it"
    )
    with refused(message):
        ConstantPotential(groups, Coulomb("finite-field", "ewald")).solve(x, Q, H)


def test_a_field_needs_a_known_charge_of_the_cell() -> None:
    groups = [Electrode([0, 1], potential=0.0)]
    message = (
        "total_charge = None must be a number with a field and electrodes at a potential: the charge that the cell takes up "
        "would depend on the origin; give total_charge=0"
    )
    with refused(message):
        ConstantPotential(groups, Coulomb("3d", "ewald")).solve(X, Q, H, field=[0, 0, 0.1], total_charge=None)


def test_a_thermo_potentiostat_needs_a_known_charge_of_the_cell() -> None:
    message = (
        "total_charge = None must be a number for a thermo-potentiostat: what leaves one electrode enters the other; "
        "give the charge of the cell"
    )
    with refused(message):
        ThermoPotentiostat(pair(), 300.0, 50.0, 1).step(X, Q, H, 1.0, total_charge=None)


def test_wide_gaussians_in_a_small_cell_leave_no_waves_and_have_derivatives() -> None:
    x, q, cell = np.array([[0.1, 0.1, 0.1], [1.0, 1.2, 1.3]]), np.array([1.0, -1.0]), np.diag([2.0, 2.2, 2.5])
    ewald, exact = Coulomb("3d", "ewald", 1e-5), Coulomb("3d", "exact")
    assert ewald.bind(*(torch.tensor(a) for a in (x, cell, [1.2, 1.2])), None).waves.shape == (0, 3)
    found, wanted = [], []
    for coulomb, out in ((ewald, found), (exact, wanted)):
        leaf = torch.tensor(x, requires_grad=True)
        result = coulomb(leaf, torch.tensor(q), torch.tensor(cell), 1.2, stress=True)
        (second,) = torch.autograd.grad(result.forces[0, 0], leaf)
        out += [result.forces.detach().numpy(), result.stress.detach().numpy(), second.numpy()]
    for one, other in zip(found, wanted):
        np.testing.assert_allclose(one, other, rtol=0, atol=3e-6)


def between(boundary: str) -> ConstantPotential:
    """Two electrodes with ions between them, also along the normal."""
    groups = [Electrode([0, 1], potential=0.0), Electrode([2, 3], potential=1.0)]
    return ConstantPotential(groups, Coulomb(boundary))


LIFTED = X + np.array([0, 0, 1, 1, 0, 0])[:, None] * np.array([0.0, 0, 9])


@pytest.mark.parametrize("boundary", ["slab", "finite-field", "open"])
def test_inference_mode_is_served_and_leaves_nothing_behind(boundary: str) -> None:
    cell = None if boundary == "open" else H
    points = LIFTED[:2] + np.array([0.3, 0.2, 4.0])

    def everything(graph: bool) -> list[np.ndarray]:
        x, q = torch.tensor(LIFTED, requires_grad=graph), torch.tensor(Q)
        h = None if cell is None else torch.tensor(cell)
        coulomb, solver = Coulomb(boundary), between(boundary)
        result, potential = coulomb(x, q, h, stress=True), coulomb.potential_at(points, x, q, h)
        sol = solver.solve(x, q, h, stress=True, potentials=torch.tensor([0.0, 0.37]))
        values = [
            result.energy,
            result.forces,
            potential,
            sol.charges,
            sol.energy,
            sol.forces,
            coulomb.matrix(x, h),
        ]
        if graph:
            torch.autograd.grad(sol.forces.sum() + sol.charges[0] + result.forces[0, 0], x)
        assert not any(v.is_inference() for v in values)
        return [v.detach().numpy() for v in (*values, torch.tensor(solver.capacitance))]

    with torch.inference_mode():
        inside = everything(False)
        made_inside, given = between(boundary), torch.tensor(LIFTED)
    for one, other in zip(inside, everything(True)):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)
    # What was made in that mode serves outside.
    charges = torch.tensor(Q, requires_grad=True)
    sol = made_inside.solve(given, charges, None if cell is None else torch.tensor(cell), stress=True)
    assert torch.isfinite(torch.autograd.grad(sol.forces.sum() + sol.energy, charges)[0]).all()


@pytest.mark.parametrize("solver", ["direct", "iterative"])
def test_a_solve_that_failed_has_no_capacitance(solver: str) -> None:
    cpm = pair(solver=solver)
    cpm.solve(X, Q, H)
    right = cpm.capacitance
    with pytest.raises((ValueError, RuntimeError), match="must be"):
        cpm.solve(X, Q, H, hardness=-30.0)
    for name in ("capacitance", "difference_capacitance", "held_at_charge"):
        with pytest.raises(RuntimeError, match="must be asked for after a solve: the last one failed"):
            getattr(cpm, name)
    cpm.solve(X, Q, H)
    np.testing.assert_allclose(cpm.capacitance, right, rtol=0, atol=1e-9)


def test_what_a_solver_is_not_made_of_is_refused() -> None:
    electrode = Electrode([0, 1], potential=0.0)
    message = f"electrodes = {electrode!r} must be a list of Electrode: write [Electrode(indices, potential=...), ...]"
    with refused(message):
        ConstantPotential(electrode, Coulomb("slab"))  # type: ignore[arg-type]
    with refused("coulomb = 'slab' must be a Coulomb: pass Coulomb(boundary, ...)"):
        ConstantPotential([electrode], "slab")  # type: ignore[arg-type]


def test_rows_are_a_list() -> None:
    with refused("rows = array of shape (1, 2) must be a list of integers: pass atom indices"):
        Coulomb("open").matrix(X, None, rows=[[0, 1]])


def test_a_thermo_potentiostat_has_a_graph_of_its_last_solve_only(monkeypatch: pytest.MonkeyPatch) -> None:
    cpm, graphs = pair(), []
    solve = cpm.solve

    def watched(*args: object, **options: object) -> object:
        graphs.append(torch.is_grad_enabled())
        return solve(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(cpm, "solve", watched)
    whole = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    found = ThermoPotentiostat(cpm, 300.0, 50.0, 1).step(
        X, torch.tensor(Q), torch.tensor(H), 1.0, total_charge=whole
    )
    assert graphs == [False, False, True]
    assert found.energy.requires_grad
