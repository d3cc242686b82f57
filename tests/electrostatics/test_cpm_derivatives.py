"""Forces and stress of electrodes are derivatives of Omega, in every mode; the response identities hold."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from grahame.electrostatics import ConstantPotential, Coulomb, Electrode
from tests.electrostatics.electrodes import (
    BY_NAME,
    MODES,
    Mode,
    arguments,
    cell_argument,
    cell_for,
    height,
    normal,
    solver,
)
from tests.electrostatics.numerics import COULOMB, derivative, gradient, strain_derivative
from tests.systems import ElectrodeCell

METHODS = [(m.name, "exact" if m.boundary in ("slab-exact", "open") else "ewald") for m in MODES] + [
    (name, "pme")
    for name in (
        "potentials in a slab",
        "charges in a slab",
        "mixed in a slab",
        "finite field",
        "finite field, charges",
        "displacement",
        "potentials in a field",
    )
]
STEP = 5e-3


def make(mode: Mode, atoms: ElectrodeCell, method: str) -> ConstantPotential:
    accuracy = 1e-5 if method == "pme" else 1e-12
    rng = np.random.default_rng(11)
    chi = rng.normal(size=len(atoms.solved)) * 0.2
    return solver(
        mode, atoms, method, accuracy, solver="direct", tolerance=1e-12, electronegativity=chi, hardness=0.7
    )


def run(mode: Mode, atoms: ElectrodeCell, cpm: ConstantPotential, **changes: object):  # type: ignore[no-untyped-def]
    given = arguments(mode, atoms.cell) | {"smearing": atoms.smearing} | changes
    return cpm.solve(atoms.positions, atoms.charges, cell_argument(mode, atoms.cell), **given)


def some_atoms(atoms: ElectrodeCell) -> list[int]:
    """One atom of an electrode and one ion."""
    ions = np.setdiff1d(np.arange(len(atoms.charges)), atoms.solved)
    return [int(atoms.groups[-1][1]), int(ions[0])]


def set_up(name: str) -> tuple[Mode, ElectrodeCell]:
    mode = BY_NAME[name]
    return mode, cell_for(mode, ion_width=0.4, ions=3)


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_forces_are_minus_the_gradient_of_omega_also_for_electrode_atoms(name: str, method: str) -> None:
    mode, atoms = set_up(name)
    cpm = make(mode, atoms, method)
    sol = run(mode, atoms, cpm)

    def energy(x: np.ndarray) -> float:
        return float(run(mode, replace(atoms, positions=x), cpm, forces=False).energy)

    chosen = some_atoms(atoms)
    numeric = -gradient(energy, atoms.positions, chosen, STEP)
    np.testing.assert_allclose(sol.forces[chosen], numeric, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "method"), [(n, m) for n, m in METHODS if "field" not in n[-12:] or "finite" in n]
)
def test_stress_is_the_strain_derivative_of_omega(name: str, method: str) -> None:
    mode, atoms = set_up(name)
    if mode.boundary == "open":
        pytest.skip("an open system has no volume")
    cpm = make(mode, atoms, method)
    sol = run(mode, atoms, cpm, stress=True)

    def energy(x: np.ndarray, cell: np.ndarray) -> float:
        return float(run(mode, replace(atoms, positions=x, cell=cell), cpm, forces=False).energy)

    numeric = strain_derivative(energy, atoms.positions, atoms.cell) / atoms.volume
    np.testing.assert_allclose(sol.stress, numeric, rtol=0, atol=2e-8)


def test_strain_along_the_normal_changes_the_finite_field_as_minus_itself() -> None:
    mode, atoms = set_up("finite field")
    cpm = make(mode, atoms, "ewald")

    def field(step: float) -> float:
        f = np.diag([1.0, 1.0, 1.0 + step])
        return float(
            run(mode, replace(atoms, positions=atoms.positions @ f, cell=atoms.cell @ f), cpm).field[2]
        )

    assert derivative(field, 1e-3) == pytest.approx(-field(0.0), rel=1e-9)


def test_the_energy_is_the_same_whether_or_not_forces_and_stress_are_asked_for() -> None:
    for name in ("mixed in a slab", "finite field, charges"):
        mode, atoms = set_up(name)
        cpm = make(mode, atoms, "ewald")
        full = run(mode, atoms, cpm, stress=True)
        bare = run(mode, atoms, cpm, forces=False)
        assert bare.energy == pytest.approx(full.energy, abs=1e-11)
        assert bare.forces is None
        assert bare.stress is None
        np.testing.assert_allclose(bare.charges, full.charges, rtol=0, atol=1e-11)


def test_forces_at_fixed_field_are_the_partial_ones() -> None:
    mode, atoms = set_up("finite field, charges")
    cpm = make(mode, atoms, "ewald")
    sol = run(mode, atoms, cpm)
    # Omega at the field that acted, differentiated with that field and the charges held
    plain = Coulomb("3d", "ewald", 1e-12)
    out = plain(atoms.positions, sol.charges, atoms.cell, smearing=atoms.smearing, field=sol.field)
    np.testing.assert_allclose(sol.forces_at_fixed_field, out.forces, rtol=0, atol=1e-8)
    held, held_atoms = set_up("finite field")
    other = run(held, held_atoms, make(held, held_atoms, "ewald"))
    np.testing.assert_allclose(other.forces_at_fixed_field, other.forces, rtol=0, atol=1e-12)


def test_forces_at_fixed_field_have_derivatives() -> None:
    mode, atoms = set_up("finite field, charges")
    cpm = make(mode, atoms, "ewald")
    x, q = (torch.tensor(a, requires_grad=True) for a in (atoms.positions, atoms.charges))
    out = cpm.solve(
        x, q, torch.tensor(atoms.cell), smearing=torch.tensor(atoms.smearing)
    ).forces_at_fixed_field
    weights = torch.tensor(np.random.default_rng(5).normal(size=atoms.positions.shape))
    along = torch.autograd.grad((weights * out).sum(), x)[0]
    direction = torch.tensor(np.random.default_rng(6).normal(size=atoms.positions.shape))

    def value(step: float) -> float:
        moved = replace(atoms, positions=atoms.positions + step * direction.numpy())
        return float((weights.numpy() * run(mode, moved, cpm).forces_at_fixed_field).sum())

    found = float((along * direction).sum())
    assert found == pytest.approx(derivative(value, 1e-3), rel=1e-5, abs=1e-6)


# ---------------------------------------------------------------- response identities


def charge_transfer(mode: Mode, atoms: ElectrodeCell, cpm: ConstantPotential, step: float):  # type: ignore[no-untyped-def]
    """Solve with `step` e moved from electrode 0 to electrode 1."""
    held = [value for _, value in mode.held]
    return run(mode, atoms, cpm, electrode_charges=[held[0] - step, held[1] + step])


@pytest.mark.parametrize("name", ["charges in a slab", "charges in a field", "displacement, charges"])
@pytest.mark.parametrize("method", ["ewald", "pme"])
def test_maxwell_relation_of_force_and_potential(name: str, method: str) -> None:
    # dF/dQ = -dPhi/dR, Phi = psi_1 - psi_0 the derivative of Omega with respect to the transferred charge
    mode, atoms = set_up(name)
    cpm = make(mode, atoms, method)
    chosen = some_atoms(atoms)

    def difference(x: np.ndarray) -> float:
        psi = run(mode, replace(atoms, positions=x), cpm).potentials
        return float(psi[1] - psi[0])

    response = derivative(lambda d: charge_transfer(mode, atoms, cpm, d).forces[chosen], 0.05)
    np.testing.assert_allclose(
        response, -gradient(difference, atoms.positions, chosen, STEP), rtol=0, atol=1e-6
    )
    assert np.abs(response).max() > 1e-3


@pytest.mark.parametrize("name", ["charges in a slab", "displacement, charges"])
def test_potential_difference_is_the_derivative_of_omega(name: str) -> None:
    mode, atoms = set_up(name)
    cpm = make(mode, atoms, "ewald")
    psi = run(mode, atoms, cpm).potentials
    slope = derivative(lambda d: charge_transfer(mode, atoms, cpm, d).energy, 0.05)
    assert slope == pytest.approx(psi[1] - psi[0], abs=1e-8)


def held_at(mode: Mode, group: int, step: float) -> list[float]:
    volts = [value for _, value in mode.held]
    volts[group] += step
    return volts


@pytest.mark.parametrize(
    "name", ["potentials in a slab", "potentials in a field", "exact slab", "charged slab", "displacement"]
)
def test_charge_is_minus_the_derivative_of_omega_with_respect_to_its_potential(name: str) -> None:
    mode, atoms = set_up(name)
    cpm = make(mode, atoms, "exact" if mode.boundary == "slab-exact" else "ewald")
    sol = run(mode, atoms, cpm)
    for g in range(2):
        slope = derivative(lambda d, g=g: run(mode, atoms, cpm, potentials=held_at(mode, g, d)).energy, 0.05)
        assert -slope == pytest.approx(sol.electrode_charges[g], abs=1e-8)


@pytest.mark.parametrize("name", ["potentials in a slab", "potentials in a field", "displacement"])
@pytest.mark.parametrize("method", ["ewald", "pme"])
def test_shockley_ramo_relation_of_force_and_charge(name: str, method: str) -> None:
    mode, atoms = set_up(name)
    cpm = make(mode, atoms, method)
    chosen = some_atoms(atoms)
    response = derivative(
        lambda d: run(mode, atoms, cpm, potentials=held_at(mode, 1, d)).forces[chosen], 0.05
    )

    def charge(x: np.ndarray) -> float:
        return float(run(mode, replace(atoms, positions=x), cpm).electrode_charges[1])

    np.testing.assert_allclose(response, gradient(charge, atoms.positions, chosen, STEP), rtol=0, atol=1e-6)
    assert np.abs(response).max() > 1e-3


def bound_charge(mode: Mode, atoms: ElectrodeCell, sol) -> float:  # type: ignore[no-untyped-def]
    """Q_top - A D/(4 pi k), D = E + 4 pi k M/V: what the potential difference is conjugate to."""
    n = normal(atoms.cell)
    moment = float(sol.charges @ atoms.positions @ n)
    d = float(sol.field @ n) + 4 * math.pi * COULOMB * moment / atoms.volume
    z = [float((atoms.positions[g] @ n).mean()) for g in atoms.groups]
    area = atoms.volume / height(atoms.cell)
    return float(sol.electrode_charges[int(np.argmax(z))]) - area * d / (4 * math.pi * COULOMB)


@pytest.mark.parametrize("geometry", ["orthorhombic", "rotated", "left-handed"])
def test_finite_field_is_conjugate_to_the_charge_less_the_leakage(geometry: str) -> None:
    mode = BY_NAME["finite field"]
    atoms = cell_for(mode, ion_width=0.4, ions=3, geometry=geometry)
    cpm = make(mode, atoms, "ewald")
    n = normal(atoms.cell)
    top = int(np.argmax([float((atoms.positions[g] @ n).mean()) for g in atoms.groups]))
    slope = derivative(lambda d: run(mode, atoms, cpm, potentials=held_at(mode, top, d)).energy, 0.05)
    # lowering the other electrode raises the difference equally and moves no energy: total charge is zero
    other = derivative(lambda d: run(mode, atoms, cpm, potentials=held_at(mode, 1 - top, -d)).energy, 0.05)
    sol = run(mode, atoms, cpm)
    assert -slope == pytest.approx(bound_charge(mode, atoms, sol), abs=1e-8)
    ions = sol.charges.sum() - sol.electrode_charges.sum()
    assert other - slope == pytest.approx(sol.electrode_charges.sum(), abs=1e-8)
    assert ions + sol.electrode_charges.sum() == pytest.approx(0.0, abs=1e-10)


@pytest.mark.parametrize("method", ["ewald", "pme"])
def test_shockley_ramo_relation_in_finite_field(method: str) -> None:
    mode, atoms = set_up("finite field")
    cpm = make(mode, atoms, method)
    chosen = some_atoms(atoms)
    response = derivative(
        lambda d: run(mode, atoms, cpm, potentials=held_at(mode, 1, d)).forces[chosen], 0.05
    )

    def bound(x: np.ndarray) -> float:
        moved = replace(atoms, positions=x)
        return bound_charge(mode, moved, run(mode, moved, cpm))

    np.testing.assert_allclose(response, gradient(bound, atoms.positions, chosen, STEP), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "name",
    ["potentials in a slab", "charges in a slab", "finite field", "displacement", "displacement, charges"],
)
def test_sum_rules_over_all_atoms(name: str) -> None:
    # A rigid shift changes neither charges nor potentials, so responses of the forces sum to zero.
    mode, atoms = set_up(name)
    cpm = make(mode, atoms, "ewald")
    np.testing.assert_allclose(run(mode, atoms, cpm).forces.sum(0), 0.0, atol=1e-8)
    charges_held = mode.held[0][0] == "charge"

    def forces(step: float) -> np.ndarray:
        if charges_held:
            return np.asarray(charge_transfer(mode, atoms, cpm, step).forces)
        return np.asarray(run(mode, atoms, cpm, potentials=held_at(mode, 1, step)).forces)

    response = derivative(forces, 0.05)
    np.testing.assert_allclose(response.sum(0), 0.0, atol=1e-6)
    assert np.abs(response).max() > 1e-3


@pytest.mark.parametrize("name", ["charges in a slab", "potentials in a slab"])
def test_field_response_of_the_forces_is_the_position_response_of_the_dipole(name: str) -> None:
    # Born charges Z = dF/dE = dM/dR; over ALL atoms, electrodes included, they sum to the total charge, zero.
    mode, atoms = set_up(name)
    cpm = make(mode, atoms, "ewald")
    n = normal(atoms.cell)
    chosen = some_atoms(atoms)
    born = derivative(lambda e: run(mode, atoms, cpm, field=e * n).forces, 0.05)
    np.testing.assert_allclose(born.sum(0), 0.0, atol=1e-6)

    def moment(x: np.ndarray) -> float:
        return float(run(mode, replace(atoms, positions=x), cpm).charges @ x @ n)

    np.testing.assert_allclose(
        born[chosen], gradient(moment, atoms.positions, chosen, STEP), rtol=0, atol=1e-6
    )
    slope = derivative(lambda e: run(mode, atoms, cpm, field=e * n).energy, 0.05)
    assert -slope == pytest.approx(moment(atoms.positions), abs=1e-8)
    along = np.abs(born @ n)
    ions = np.setdiff1d(np.arange(len(atoms.charges)), atoms.solved)
    if mode.held[0][0] == "potential":
        assert along[ions].max() < 0.4 * np.abs(atoms.charges[ions]).max()  # screened by the short circuit


# ---------------------------------------------------------------- implicit differentiation


def small(mode: Mode) -> ElectrodeCell:
    return cell_for(mode, repeat=1, layers=2, spacing=4.5, gap=7.0, ions=2, ion_width=0.45, height=20.0)


DIFFERENTIABLE = [
    "potentials in a slab",
    "charges in a slab",
    "mixed in a slab",
    "potentials in a field",
    "finite field",
    "finite field, charges",
    "displacement",
    "short circuit in 3d",
]


def response_of(
    name: str, method: str
) -> tuple[Callable[..., tuple[Tensor, Tensor, Tensor]], tuple[Tensor, ...]]:
    """(positions, ion charges, chi, J, widths, held values, field) -> charges, energy, forces."""
    mode = BY_NAME[name]
    atoms = small(mode)
    accuracy, extra = (1e-4, {"order": 6}) if method == "pme" else (1e-12, {})
    coulomb = Coulomb(mode.boundary, method, accuracy, **extra)  # type: ignore[arg-type]
    cell, n = torch.as_tensor(atoms.cell), torch.as_tensor(normal(atoms.cell))
    ions = torch.as_tensor(np.setdiff1d(np.arange(len(atoms.charges)), atoms.solved))
    spread = torch.as_tensor(np.full(len(atoms.charges), 0.45))
    rng = np.random.default_rng(4)
    charges_only = all(kind == "charge" for kind, _ in mode.held)

    def function(
        x: Tensor, q_ions: Tensor, chi: Tensor, hardness: Tensor, s: Tensor, held: Tensor, field: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        if charges_only:  # stays neutral when a single number is stepped
            q_ions = q_ions - (q_ions.sum() + held.sum()) / len(q_ions)
        q = torch.zeros(len(x), dtype=torch.float64).index_put((ions,), q_ions)
        cpm = ConstantPotential(
            [Electrode(g, **{kind: value}) for g, (kind, value) in zip(atoms.groups, mode.held)],
            coulomb,
            smearing=s,
            hardness=hardness,
            electronegativity=chi,
            solver="direct",
        )
        volts = [held[g] if kind == "potential" else None for g, (kind, _) in enumerate(mode.held)]
        sums = [held[g] if kind == "charge" else None for g, (kind, _) in enumerate(mode.held)]
        given: dict[str, object] = {}
        if mode.field:
            given["field"] = field * n
        if mode.displacement is not None:
            given["displacement"] = field
        sol = cpm.solve(x, q, cell, potentials=volts, electrode_charges=sums, smearing=spread, **given)
        return sol.charges, sol.energy, sol.forces

    m = len(atoms.solved)
    volts = np.array([value for _, value in mode.held])
    inputs = (
        atoms.positions,
        atoms.charges[ions.numpy()],
        rng.normal(size=m) * 0.2,
        rng.uniform(0.5, 1.5, m),
        rng.uniform(0.45, 0.55, m),
        volts,
        np.array(mode.displacement or mode.field or 0.05),
    )
    return function, tuple(torch.tensor(v, requires_grad=True) for v in inputs)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradcheck_of_charges_energy_and_forces(name: str) -> None:
    mode = BY_NAME[name]
    function, inputs = response_of(name, "ewald")
    if mode.boundary == "3d":  # both electrodes share one potential there

        def shared(*given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return function(*given[:5], given[5][:1].expand(2), given[6])

        assert gradcheck(shared, inputs, eps=1e-5, atol=1e-6, rtol=1e-5, fast_mode=True)
        return
    assert gradcheck(function, inputs, eps=1e-5, atol=1e-6, rtol=1e-5, fast_mode=True)


@pytest.mark.parametrize("name", ["potentials in a slab", "finite field"])
def test_gradcheck_through_the_mesh(name: str) -> None:
    function, inputs = response_of(name, "pme")
    assert gradcheck(function, inputs, eps=1e-5, atol=1e-6, rtol=1e-5, fast_mode=True)


def test_training_a_loss_on_solved_charges_reaches_the_parameters() -> None:
    function, inputs = response_of("potentials in a slab", "ewald")

    def loss(chi: Tensor, hardness: Tensor) -> Tensor:
        q, energy, forces = function(
            inputs[0].detach(), inputs[1].detach(), chi, hardness, *(v.detach() for v in inputs[4:])
        )
        return (q**2).sum() + 0.1 * energy + (forces**2).sum()

    assert gradcheck(loss, (inputs[2], inputs[3]), eps=1e-5, atol=1e-6, rtol=1e-5, fast_mode=True)


def test_charges_that_follow_positions_get_the_whole_force_through_the_solver() -> None:
    mode = BY_NAME["potentials in a slab"]
    atoms = small(mode)
    cpm = solver(mode, atoms, "ewald", solver="direct")
    ions = np.setdiff1d(np.arange(len(atoms.charges)), atoms.solved)
    cell = torch.as_tensor(atoms.cell)

    def energy(x: Tensor) -> Tensor:
        transfer = 0.2 * torch.tanh(x[ions[0], 2] - x[ions[1], 2]) + 0.1 * torch.sin(x[atoms.groups[0][0], 0])
        q = torch.as_tensor(atoms.charges)
        q = q.index_add(0, torch.as_tensor(ions), torch.stack([transfer, -transfer]))
        value: Tensor = cpm.solve(x, q, cell, smearing=torch.as_tensor(atoms.smearing)).energy
        return value

    x = torch.tensor(atoms.positions, requires_grad=True)
    (whole,) = torch.autograd.grad(energy(x), x)
    numeric = gradient(lambda y: float(energy(torch.as_tensor(y))), atoms.positions, some_atoms(atoms), STEP)
    np.testing.assert_allclose(whole[some_atoms(atoms)].numpy(), numeric, rtol=0, atol=1e-7)
