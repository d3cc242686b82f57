"""Charges, potentials and energies of electrodes in every mode, against a dense solution in numpy."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from grahame.electrostatics import ConstantPotential, Coulomb, Electrode
from tests.electrostatics.electrodes import (
    BY_NAME,
    MODES,
    Mode,
    arguments,
    cell_argument,
    cell_for,
    dense,
    normal,
    solver,
)
from tests.electrostatics.numerics import derivative
from tests.systems import ElectrodeCell

NAMES = [m.name for m in MODES]
SLAB = BY_NAME["potentials in a slab"]


def run(mode: Mode, atoms: ElectrodeCell, cpm: ConstantPotential, **changes: object):  # type: ignore[no-untyped-def]
    given = arguments(mode, atoms.cell) | {"smearing": atoms.smearing} | changes
    return cpm.solve(atoms.positions, atoms.charges, cell_argument(mode, atoms.cell), **given)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("solve_by", ["direct", "iterative"])
def test_every_mode_equals_the_dense_solution(name: str, solve_by: str) -> None:
    mode = BY_NAME[name]
    atoms = cell_for(mode)
    method = "exact" if mode.boundary in ("slab-exact", "open") else "ewald"
    cpm = solver(mode, atoms, method, solver=solve_by, tolerance=1e-11)
    truth = dense(mode, atoms, cpm.coulomb)
    sol = run(mode, atoms, cpm)
    np.testing.assert_allclose(sol.charges, truth.charges, rtol=0, atol=1e-9)
    np.testing.assert_allclose(sol.potentials, truth.potentials, rtol=0, atol=1e-8)
    assert sol.multiplier == pytest.approx(truth.multiplier, abs=1e-8)
    assert sol.internal_energy == pytest.approx(truth.internal_energy, abs=1e-9)
    assert sol.work == pytest.approx(truth.work, abs=1e-9)
    assert sol.field_energy == pytest.approx(truth.field_energy, abs=1e-9)
    assert sol.energy == pytest.approx(truth.energy, abs=1e-9)
    assert sol.energy == pytest.approx(sol.internal_energy - sol.work + sol.field_energy, abs=1e-12)
    assert mode.boundary == "finite-field" or sol.field_energy == 0.0
    by_group = [sol.charges[g].sum() for g in atoms.groups]
    np.testing.assert_allclose(sol.electrode_charges, by_group, rtol=0, atol=1e-12)
    assert sol.charges.sum() == pytest.approx(mode.total, abs=1e-10)
    for charge, (kind, value) in zip(sol.electrode_charges, mode.held):
        assert kind == "potential" or charge == pytest.approx(value, abs=1e-10)
    for psi, (kind, value) in zip(sol.potentials, mode.held):
        assert kind == "charge" or psi == pytest.approx(value, abs=1e-12)
    assert sol.residual <= 1e-10


@pytest.mark.parametrize("name", NAMES)
def test_the_field_that_acted_is_reported(name: str) -> None:
    mode = BY_NAME[name]
    atoms = cell_for(mode)
    method = "exact" if mode.boundary in ("slab-exact", "open") else "ewald"
    cpm = solver(mode, atoms, method)
    truth = dense(mode, atoms, cpm.coulomb)
    np.testing.assert_allclose(
        run(mode, atoms, cpm).field, truth.field * normal(atoms.cell), rtol=0, atol=1e-8
    )


@pytest.mark.parametrize("name", ["potentials in a slab", "four, two float", "finite field", "displacement"])
def test_hardness_and_electronegativity_enter_as_functional_terms(name: str) -> None:
    mode = BY_NAME[name]
    atoms = cell_for(mode)
    rng = np.random.default_rng(8)
    chi, hardness = rng.normal(size=len(atoms.solved)), rng.uniform(0, 4, len(atoms.solved))
    cpm = solver(mode, atoms, "ewald", electronegativity=chi, hardness=hardness)
    truth = dense(mode, atoms, cpm.coulomb, chi, hardness)
    sol = run(mode, atoms, cpm)
    np.testing.assert_allclose(sol.charges, truth.charges, rtol=0, atol=1e-9)
    np.testing.assert_allclose(sol.potentials, truth.potentials, rtol=0, atol=1e-8)
    assert sol.energy == pytest.approx(truth.energy, abs=1e-9)


def test_parameters_may_be_given_once_per_electrode_or_per_atom() -> None:
    atoms = cell_for(SLAB)
    sizes = [len(g) for g in atoms.groups]
    for name, values in (
        ("hardness", [1.5, 0.4]),
        ("electronegativity", [0.2, -0.7]),
        ("smearing", [0.5, 0.61]),
    ):
        by_group = run(SLAB, atoms, solver(SLAB, atoms, "ewald", **{name: values}))
        by_atom = run(SLAB, atoms, solver(SLAB, atoms, "ewald", **{name: np.repeat(values, sizes)}))
        np.testing.assert_allclose(by_atom.charges, by_group.charges, rtol=0, atol=1e-12)
        uniform = run(SLAB, atoms, solver(SLAB, atoms, "ewald", **{name: values[0]}))
        assert np.abs(uniform.charges - by_group.charges).max() > 1e-4


def test_parameters_per_atom_follow_the_order_of_the_indices() -> None:
    atoms = cell_for(SLAB)
    chi = np.random.default_rng(1).normal(size=len(atoms.solved))
    order = [np.random.default_rng(g + 2).permutation(len(group)) for g, group in enumerate(atoms.groups)]
    shuffled = replace(atoms, groups=[group[o] for group, o in zip(atoms.groups, order)])
    first = len(atoms.groups[0])
    moved = np.concatenate([chi[:first][order[0]], chi[first:][order[1]]])
    a = run(SLAB, atoms, solver(SLAB, atoms, "ewald", electronegativity=chi))
    b = run(SLAB, shuffled, solver(SLAB, shuffled, "ewald", electronegativity=moved))
    np.testing.assert_allclose(a.charges, b.charges, rtol=0, atol=1e-11)


def test_thomas_fermi_length_is_the_hardness_4_pi_k_l2_over_v() -> None:
    atoms = cell_for(SLAB)
    k = 14.399645351950545
    a = run(SLAB, atoms, solver(SLAB, atoms, "ewald", thomas_fermi_length=1.1, voronoi_volume=17.0))
    b = run(SLAB, atoms, solver(SLAB, atoms, "ewald", hardness=4 * np.pi * k * 1.1**2 / 17.0))
    np.testing.assert_allclose(a.charges, b.charges, rtol=0, atol=1e-12)
    assert a.energy == pytest.approx(b.energy, abs=1e-11)


def test_widths_of_electrode_atoms_come_from_the_solver_and_of_ions_from_the_call() -> None:
    atoms = cell_for(SLAB, ion_width=0.45)
    cpm = solver(SLAB, atoms, "ewald")
    misleading, charges = atoms.smearing.copy(), atoms.charges.copy()
    misleading[atoms.solved], charges[atoms.solved] = -3.0, np.nan
    a, b = run(SLAB, atoms, cpm), cpm.solve(atoms.positions, charges, atoms.cell, smearing=misleading)
    np.testing.assert_allclose(a.charges, b.charges, rtol=0, atol=1e-12)
    points = run(SLAB, atoms, cpm, smearing=None)
    assert abs(points.energy - a.energy) > 1e-4


def test_every_atom_of_an_electrode_is_at_one_potential() -> None:
    mode = BY_NAME["four, two float"]
    atoms = cell_for(mode)
    cpm = solver(mode, atoms, "ewald")
    sol = run(mode, atoms, cpm)
    potential = cpm.coulomb(atoms.positions, sol.charges, atoms.cell, smearing=atoms.smearing).potential
    for g, group in enumerate(atoms.groups):
        np.testing.assert_allclose(potential[group] + sol.multiplier, sol.potentials[g], rtol=0, atol=1e-8)


def test_the_potential_of_a_lone_electrode_is_gauge() -> None:
    atoms = cell_for(SLAB)
    coulomb = Coulomb("slab", "ewald", 1e-12)
    found = [
        ConstantPotential([Electrode(atoms.groups[0], potential=psi)], coulomb, smearing=0.5).solve(
            atoms.positions,
            np.where(np.isin(np.arange(len(atoms.charges)), atoms.groups[1]), 0.05, atoms.charges),
            atoms.cell,
            smearing=atoms.smearing,
        )
        for psi in (0.0, 1.7)
    ]
    np.testing.assert_allclose(found[0].charges, found[1].charges, rtol=0, atol=1e-11)
    np.testing.assert_allclose(found[0].forces, found[1].forces, rtol=0, atol=1e-10)
    charge = found[0].electrode_charges[0]
    assert found[1].energy - found[0].energy == pytest.approx(-1.7 * charge, abs=1e-10)
    assert charge == pytest.approx(-(atoms.charges.sum() + 0.05 * len(atoms.groups[1])), abs=1e-10)


def test_only_potential_differences_matter_at_fixed_total_charge() -> None:
    atoms = cell_for(SLAB)
    cpm = solver(SLAB, atoms, "ewald")
    a, b = run(SLAB, atoms, cpm), run(SLAB, atoms, cpm, potentials=[-0.4 + 2.0, 0.7 + 2.0])
    np.testing.assert_allclose(a.charges, b.charges, rtol=0, atol=1e-10)
    np.testing.assert_allclose(a.forces, b.forces, rtol=0, atol=1e-10)


def test_without_a_total_charge_the_potential_itself_matters() -> None:
    mode = BY_NAME["open"]
    atoms = cell_for(mode)
    cpm = solver(mode, atoms, "exact")
    free = run(mode, atoms, cpm, total_charge=None)
    matrix = cpm.coulomb.matrix(atoms.positions, None, smearing=atoms.smearing)
    solved, ions = atoms.solved, np.setdiff1d(np.arange(len(atoms.charges)), atoms.solved)
    psi = np.repeat([-0.4, 0.7], [len(g) for g in atoms.groups])
    expected = np.linalg.solve(
        matrix[np.ix_(solved, solved)], psi - matrix[np.ix_(solved, ions)] @ atoms.charges[ions]
    )
    np.testing.assert_allclose(free.charges[solved], expected, rtol=0, atol=1e-9)
    assert free.multiplier == pytest.approx(0.0, abs=1e-9)
    assert abs(free.charges.sum()) > 1e-3


def test_charge_equilibration_is_one_group_of_all_atoms_or_one_per_molecule() -> None:
    rng = np.random.default_rng(5)
    x = np.array([[0, 0, 0], [1.0, 0, 0], [-0.3, 0.95, 0], [4.0, 0, 0.2], [5.0, 0.1, 0.2], [3.7, 0.9, 0.1]])
    chi, hardness = rng.normal(size=6), rng.uniform(5, 12, 6)
    for boundary, cell in (("open", None), ("3d", np.diag([9.0, 8.0, 8.5]))):
        coulomb = Coulomb(boundary, "exact", 1e-12)
        matrix = coulomb.matrix(x, cell, smearing=np.full(6, 0.6)) + np.diag(hardness)
        for groups in ([np.arange(6)], [np.arange(3), np.arange(3, 6)]):
            held = [0.5] if len(groups) == 1 else [0.2, -0.2]
            cpm = ConstantPotential(
                [Electrode(g, charge=q) for g, q in zip(groups, held)],
                coulomb,
                smearing=0.6,
                hardness=hardness,
                electronegativity=chi,
            )
            sol = cpm.solve(x, np.zeros(6), cell, total_charge=sum(held))
            c = np.array([np.isin(np.arange(6), g) for g in groups], dtype=float)
            big = np.block([[matrix, c.T], [c, np.zeros((len(c), len(c)))]])
            expected = np.linalg.solve(big, np.concatenate([-chi, held]))[:6]
            np.testing.assert_allclose(sol.charges, expected, rtol=0, atol=1e-10)
            energy = 0.5 * expected @ matrix @ expected + chi @ expected
            assert sol.energy == pytest.approx(energy, abs=1e-10)


# ---------------------------------------------------------------- changes between calls


def test_what_is_held_may_change_at_every_call() -> None:
    atoms = cell_for(SLAB)
    cpm = solver(SLAB, atoms, "ewald")
    for volts in ([-0.4, 0.7], [0.0, 0.0], [1.0, -1.0]):
        mode = replace(SLAB, held=(("potential", volts[0]), ("potential", volts[1])))
        truth = dense(mode, atoms, cpm.coulomb)
        np.testing.assert_allclose(
            run(SLAB, atoms, cpm, potentials=volts).charges, truth.charges, rtol=0, atol=1e-9
        )
    charge = -atoms.charges.sum() - 0.1
    mode = replace(SLAB, held=(("charge", 0.1), ("charge", charge)))
    truth = dense(mode, atoms, cpm.coulomb)
    sol = run(SLAB, atoms, cpm, electrode_charges=[0.1, charge])
    np.testing.assert_allclose(sol.charges, truth.charges, rtol=0, atol=1e-9)
    again = run(SLAB, atoms, cpm)
    np.testing.assert_allclose(again.potentials, [-0.4, 0.7], rtol=0, atol=1e-12)


def test_a_charge_held_solution_is_found_again_at_its_own_potential() -> None:
    for name in ("charges in a slab", "finite field, charges", "displacement, charges"):
        mode = BY_NAME[name]
        atoms = cell_for(mode)
        cpm = solver(mode, atoms, "ewald")
        first = run(mode, atoms, cpm)
        held = replace(mode, held=tuple(("potential", float(v)) for v in first.potentials))
        second = run(held, atoms, solver(held, atoms, "ewald"))
        np.testing.assert_allclose(second.charges, first.charges, rtol=0, atol=1e-8)
        np.testing.assert_allclose(second.field, first.field, rtol=0, atol=1e-8)


@pytest.mark.parametrize("method", ["ewald", "pme"])
def test_one_factorisation_serves_a_trajectory_of_rigid_electrodes(method: str) -> None:
    mode = BY_NAME["potentials in a field"]
    atoms = cell_for(mode)
    cpm = solver(mode, atoms, method, 1e-6, solver="direct")
    rng = np.random.default_rng(3)
    ions = np.setdiff1d(np.arange(len(atoms.charges)), atoms.solved)
    for step in range(5):
        x, q = atoms.positions.copy(), atoms.charges.copy()
        x[ions] += rng.uniform(-0.1, 0.1, (len(ions), 3))
        q[ions] *= 1 + 0.1 * step
        q[ions] -= q[ions].mean()
        field = 0.02 * step * normal(atoms.cell)
        cpm.solve(x, q, atoms.cell, smearing=atoms.smearing, potentials=[0.1 * step, -0.3], field=field)
    assert cpm.factorizations == 1
    x = atoms.positions.copy()
    x[atoms.groups[0][0]] += 0.05
    cpm.solve(x, atoms.charges, atoms.cell, smearing=atoms.smearing)
    assert cpm.factorizations == 2


@pytest.mark.parametrize("solve_by", ["auto", "direct", "iterative"])
def test_moving_electrodes_stay_exact(solve_by: str) -> None:
    atoms = cell_for(SLAB)
    kept = solver(SLAB, atoms, "ewald", solver=solve_by, tolerance=1e-11)
    rng = np.random.default_rng(3)
    x = atoms.positions.copy()
    for _ in range(8):
        x = x + rng.normal(size=x.shape) * 0.02
        moved = replace(atoms, positions=x)
        truth = dense(SLAB, moved, Coulomb("slab", "exact", 1e-13))
        np.testing.assert_allclose(run(SLAB, moved, kept).charges, truth.charges, rtol=0, atol=1e-8)


def test_a_warm_start_needs_fewer_iterations() -> None:
    atoms = cell_for(SLAB, repeat=3, layers=2)
    cpm = solver(SLAB, atoms, "ewald", 1e-8, solver="iterative")
    counts = []
    x = atoms.positions.copy()
    for _ in range(6):
        counts.append(run(SLAB, replace(atoms, positions=x), cpm).iterations)
        x = x + 1e-4 * np.ones(3) * np.linspace(-1, 1, len(x))[:, None]
    assert max(counts[3:]) < counts[0]


def test_electrodes_that_vibrate_are_iterated_on_one_factor() -> None:
    atoms = cell_for(SLAB, repeat=3, layers=2)
    cpm = solver(SLAB, atoms, "pme", 1e-4)
    rng = np.random.default_rng(4)
    for _ in range(5):
        x = atoms.positions + 0.01 * rng.normal(size=atoms.positions.shape)
        assert run(SLAB, replace(atoms, positions=x), cpm).iterations < 6
    assert cpm.factorizations == 1


@pytest.mark.parametrize("name", ["potentials in a slab", "charges in a slab", "finite field"])
def test_mesh_charges_agree_with_the_exact_ones_within_the_accuracy(name: str) -> None:
    mode = BY_NAME[name]
    atoms = cell_for(mode, repeat=3, layers=2, ions=6)
    exact = run(mode, atoms, solver(mode, atoms, "ewald"))
    scale = np.abs(exact.charges[atoms.solved]).max()
    for accuracy in (1e-4, 1e-6):
        for solve_by in ("direct", "iterative"):
            sol = run(mode, atoms, solver(mode, atoms, "pme", accuracy, solver=solve_by))
            error = np.abs(sol.charges - exact.charges).max()
            assert error <= 20 * accuracy * max(scale, 1.0)


def test_a_tolerance_out_of_reach_is_met_as_far_as_possible_or_refused() -> None:
    atoms = cell_for(SLAB)
    truth = dense(SLAB, atoms, Coulomb("slab", "ewald", 1e-12))
    for solve_by in ("direct", "iterative"):
        cpm = solver(SLAB, atoms, "ewald", solver=solve_by, tolerance=1e-30)
        sol, refusal = None, ""
        try:
            sol = run(SLAB, atoms, cpm)
        except RuntimeError as error:
            refusal = str(error)
        if sol is None:
            assert "tolerance" in refusal
        else:
            np.testing.assert_allclose(sol.charges, truth.charges, rtol=0, atol=1e-9)


# ---------------------------------------------------------------- diagnostics


@pytest.mark.parametrize(
    "name", ["potentials in a slab", "one of three floats", "four, two float", "displacement"]
)
def test_capacitance_is_the_derivative_of_the_charges(name: str) -> None:
    mode = BY_NAME[name]
    atoms = cell_for(mode)
    cpm = solver(mode, atoms, "ewald")
    run(mode, atoms, cpm)
    capacitance = cpm.capacitance
    groups = len(atoms.groups)
    assert capacitance.shape == (groups, groups)
    base = [value if kind == "potential" else None for kind, value in mode.held]
    for h, (kind, value) in enumerate(mode.held):
        if kind == "charge":
            continue

        def charges(step: float, h: int = h, value: float = value) -> np.ndarray:
            volts = list(base)
            volts[h] = value + step
            return np.asarray(run(mode, atoms, cpm, potentials=volts).electrode_charges)

        np.testing.assert_allclose(capacitance[:, h], derivative(charges, 0.1), rtol=0, atol=1e-9)
    np.testing.assert_allclose(capacitance, capacitance.T, rtol=0, atol=1e-12)


def test_capacitance_before_a_solve_is_refused() -> None:
    atoms = cell_for(SLAB)
    with pytest.raises(
        RuntimeError, match=r"^capacitance must be asked for after a solve: .*call solve first$"
    ):
        _ = solver(SLAB, atoms, "ewald").capacitance


@pytest.mark.parametrize("name", ["potentials in a slab", "charges in a slab", "charged slab"])
def test_the_constrained_matrix_is_positive_and_its_spectrum_reported(name: str) -> None:
    mode = BY_NAME[name]
    atoms = cell_for(mode)
    cpm = solver(mode, atoms, "ewald", solver="direct")
    run(mode, atoms, cpm)
    matrix = cpm.coulomb.matrix(atoms.positions, atoms.cell, smearing=atoms.smearing)
    matrix = matrix[np.ix_(atoms.solved, atoms.solved)]
    sizes = [len(g) for g in atoms.groups]
    rows = np.ones((1, sum(sizes)))
    if all(kind == "charge" for kind, _ in mode.held):
        rows = np.array([np.repeat([1.0, 0.0], sizes), np.repeat([0.0, 1.0], sizes)])
    basis = np.linalg.svd(rows)[2][len(rows) :].T
    spectrum = np.linalg.eigvalsh(basis.T @ matrix @ basis)
    assert spectrum[0] > 0
    assert cpm.smallest_eigenvalue == pytest.approx(spectrum[0], rel=1e-6)
    assert cpm.condition == pytest.approx(spectrum[-1] / spectrum[0], rel=1e-6)
    # outside the constraints the slab matrix is indefinite, which must not matter
    assert np.linalg.eigvalsh(matrix)[0] < 0


@pytest.mark.parametrize("quantity", ["smallest_eigenvalue", "condition"])
def test_one_solved_atom_under_a_constraint_has_no_spectrum(quantity: str) -> None:
    cpm = ConstantPotential(
        [Electrode([0], potential=0.0)], Coulomb("slab", "ewald", vacuum=20.0), smearing=0.4
    )
    solution = cpm.solve([[0.0, 0.0, 0.0], [0.0, 0.0, 3.0]], [0.0, 0.7], np.diag([6.0, 6.0, 20.0]))
    assert solution.charges[0] == pytest.approx(-0.7, abs=1e-12)
    message = (
        "free electrode charges = 0 must be at least one: the constraints fix every charge and leave no eigenvalue; "
        "solve more atoms, or drop total_charge"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        getattr(cpm, quantity)


# ---------------------------------------------------------------- any cell, any kind of array


@pytest.mark.parametrize("geometry", ["tilted-c", "rotated", "left-handed", "reversed-c", "unwrapped"])
@pytest.mark.parametrize(
    "name", ["potentials in a slab", "finite field", "displacement, charges", "potentials in a field"]
)
def test_writing_the_cell_down_differently_changes_nothing(name: str, geometry: str) -> None:
    mode = BY_NAME[name]
    if mode.boundary != "slab" and geometry == "tilted-c":
        pytest.skip("another lattice when c repeats")
    plain, other = cell_for(mode), cell_for(mode, geometry=geometry)
    if geometry == "left-handed":
        # a and b swapped: the normal points the other way, and so do a field and a displacement given along it
        sign = -1.0
        other_mode = replace(
            mode,
            field=sign * mode.field,
            displacement=None if mode.displacement is None else sign * mode.displacement,
        )
    else:
        other_mode = mode
    a, b = (
        run(mode, plain, solver(mode, plain, "ewald")),
        run(other_mode, other, solver(other_mode, other, "ewald")),
    )
    np.testing.assert_allclose(b.charges, a.charges, rtol=0, atol=1e-9)
    assert b.energy == pytest.approx(a.energy, abs=1e-9)
    np.testing.assert_allclose(
        b.potentials - b.potentials[0], a.potentials - a.potentials[0], rtol=0, atol=1e-8
    )


def test_torch_in_is_torch_out() -> None:
    atoms = cell_for(SLAB)
    a = run(SLAB, atoms, solver(SLAB, atoms, "ewald"), stress=True)
    b = solver(SLAB, atoms, "ewald").solve(
        torch.as_tensor(atoms.positions),
        torch.as_tensor(atoms.charges),
        torch.as_tensor(atoms.cell),
        smearing=torch.as_tensor(atoms.smearing),
        stress=True,
    )
    for name in ("charges", "electrode_charges", "potentials", "forces", "stress", "field"):
        assert isinstance(getattr(a, name), np.ndarray), name
        assert isinstance(getattr(b, name), torch.Tensor), name
        np.testing.assert_allclose(getattr(b, name).numpy(), getattr(a, name), rtol=0, atol=1e-12)
    for name in ("energy", "internal_energy", "work", "multiplier"):
        assert isinstance(getattr(a, name), float), name
        assert isinstance(getattr(b, name), torch.Tensor), name
        assert getattr(b, name).ndim == 0
        assert float(getattr(b, name)) == pytest.approx(getattr(a, name), abs=1e-12)


@pytest.mark.parametrize("what", ["positions", "cell", "smearing"])
@pytest.mark.parametrize("method", ["ewald", "pme", "exact"])
def test_input_with_a_graph_gives_plain_numbers_without_one(method: str, what: str) -> None:
    atoms = cell_for(SLAB)
    cpm = solver(SLAB, atoms, method)
    wanted = run(SLAB, atoms, cpm)
    given = {
        "positions": torch.tensor(atoms.positions),
        "cell": torch.tensor(atoms.cell),
        "smearing": torch.tensor(atoms.smearing),
    }
    given[what].requires_grad_()
    with torch.no_grad():
        found = cpm.solve(
            given["positions"], atoms.charges, given["cell"], smearing=given["smearing"], exclusions=None
        )
    assert not found.energy.requires_grad
    assert found.energy.item() == pytest.approx(wanted.energy, abs=1e-9)
    np.testing.assert_allclose(found.forces, wanted.forces, atol=1e-8)


def test_what_is_kept_does_not_follow_the_callers_arrays() -> None:
    atoms = cell_for(SLAB)
    positions, cell = atoms.positions.copy(), atoms.cell.copy()
    cpm, fresh = solver(SLAB, atoms, "ewald"), solver(SLAB, atoms, "ewald")
    cpm.solve(positions, atoms.charges, cell, smearing=atoms.smearing)
    before = cpm.capacitance.copy()
    positions += 0.3 * np.random.default_rng(0).normal(size=positions.shape)
    assert np.array_equal(cpm.capacitance, before)
    # The same arrays with other numbers are another geometry.
    positions[:] = atoms.positions
    cell[0] *= 1.02
    cpm.solve(positions, atoms.charges, cell, smearing=atoms.smearing)
    fresh.solve(positions, atoms.charges, cell.copy(), smearing=atoms.smearing)
    np.testing.assert_allclose(cpm.capacitance, fresh.capacitance, rtol=1e-9)


def test_a_batch_equals_its_members() -> None:
    first = cell_for(SLAB)
    x = np.stack([first.positions, first.positions + 0.07 * np.sin(first.positions)])
    q = np.stack([first.charges, first.charges * 0.9])
    h = np.stack([first.cell, first.cell])
    volts = np.array([[-0.4, 0.7], [0.3, -0.1]])
    out = solver(SLAB, first, "ewald").solve(x, q, h, potentials=volts, smearing=first.smearing)
    for b in range(2):
        alone = solver(SLAB, first, "ewald").solve(
            x[b], q[b], h[b], potentials=volts[b], smearing=first.smearing
        )
        np.testing.assert_allclose(out.charges[b], alone.charges, rtol=0, atol=1e-9)
        np.testing.assert_allclose(out.forces[b], alone.forces, rtol=0, atol=1e-8)
        assert out.energy[b] == pytest.approx(alone.energy, abs=1e-9)
        np.testing.assert_allclose(out.potentials[b], volts[b], rtol=0, atol=1e-12)


def test_exclusions_are_part_of_the_operator_in_the_solve() -> None:
    atoms = cell_for(SLAB)
    ions = np.setdiff1d(np.arange(len(atoms.charges)), atoms.solved)
    pairs = np.array([[ions[0], ions[1]], [ions[2], atoms.groups[0][0]]])
    cpm = solver(SLAB, atoms, "ewald")
    sol = run(SLAB, atoms, cpm, exclusions=pairs)
    out = cpm.coulomb(atoms.positions, sol.charges, atoms.cell, smearing=atoms.smearing, exclusions=pairs)
    assert sol.internal_energy == pytest.approx(out.energy, abs=1e-10)
    np.testing.assert_allclose(sol.forces, out.forces, rtol=0, atol=1e-9)
    np.testing.assert_allclose(out.potential[atoms.groups[0]], -0.4 - sol.multiplier, rtol=0, atol=1e-8)


def test_nothing_electric_remains_when_nothing_is_charged() -> None:
    atoms = cell_for(SLAB, ions=0)
    sol = run(SLAB, atoms, solver(SLAB, atoms, "ewald"), potentials=[0.3, 0.3])
    np.testing.assert_allclose(sol.charges, 0.0, atol=1e-12)
    assert sol.energy == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(sol.forces, 0.0, atol=1e-12)
