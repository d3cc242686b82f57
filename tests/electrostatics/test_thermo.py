"""Thermo-potentiostat and capacitance from fluctuations."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from ase.units import kB

from grahame.electrostatics import ConstantPotential, ThermoPotentiostat, fluctuation_capacitance
from tests.electrostatics.electrodes import BY_NAME, Mode, arguments, cell_for, solver
from tests.electrostatics.numerics import derivative
from tests.systems import ElectrodeCell

SLAB = BY_NAME["potentials in a slab"]
TEMPERATURE = 300.0
BETA = 1.0 / (kB * TEMPERATURE)


class Recorded:
    """The solver at one geometry, where potentials are linear in the held charges: two solves stand for all."""

    def __init__(self, cpm: ConstantPotential, atoms: ElectrodeCell) -> None:
        self.electrodes, self.solved = cpm.electrodes, cpm.solved
        given = (atoms.positions, atoms.charges, atoms.cell)
        whole = -float(np.delete(atoms.charges, atoms.solved).sum())

        def at(charge: float) -> np.ndarray:
            held = [whole - charge, charge]
            return np.asarray(cpm.solve(*given, electrode_charges=held, smearing=atoms.smearing).potentials)

        self.zero, self.slope = at(0.0), at(1.0) - at(0.0)
        self.start = cpm.solve(*given, smearing=atoms.smearing)
        self.difference_capacitance = 1.0 / float(self.slope[1] - self.slope[0])

    def solve(
        self, *_: object, electrode_charges: list[float] | None = None, **__: object
    ) -> SimpleNamespace:
        if electrode_charges is None:
            return SimpleNamespace(
                electrode_charges=self.start.electrode_charges, potentials=self.start.potentials
            )
        return SimpleNamespace(
            electrode_charges=np.array(electrode_charges),
            potentials=self.zero + self.slope * electrode_charges[1],
        )


def fixed_geometry() -> tuple[ConstantPotential, ElectrodeCell]:
    mode = replace(SLAB, held=(("potential", 0.0), ("potential", 0.9)))
    atoms = cell_for(mode, repeat=1, layers=2, spacing=4.5, gap=7.0, ions=2, ion_width=0.4)
    return solver(mode, atoms, "ewald", 1e-6), atoms


def voltage_samples(seed: int, steps: int, ratio: float, recorded: bool) -> tuple[np.ndarray, float]:
    """Potential differences of a fixed geometry under the thermo-potentiostat, and its capacitance."""
    cpm, atoms = fixed_geometry()
    cpm.solve(atoms.positions, atoms.charges, atoms.cell, smearing=atoms.smearing)
    capacitance = float(cpm.capacitance[1, 1])
    used = Recorded(cpm, atoms) if recorded else cpm
    thermo = ThermoPotentiostat(used, temperature=TEMPERATURE, time_constant=50.0, seed=seed)  # type: ignore[arg-type]
    found = []
    for _ in range(steps):
        sol = thermo.step(
            atoms.positions, atoms.charges, atoms.cell, 50.0 * ratio, smearing=atoms.smearing, forces=False
        )
        found.append(float(sol.potentials[1] - sol.potentials[0]))
    return np.array(found), capacitance


def test_a_recorded_geometry_gives_the_same_steps_as_the_solver() -> None:
    a, b = (voltage_samples(seed=5, steps=12, ratio=1.0, recorded=r)[0] for r in (True, False))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("ratio", [0.3, 4.0])
def test_potential_of_a_fixed_geometry_fluctuates_as_kt_over_c(ratio: float) -> None:
    samples, capacitance = voltage_samples(seed=7, steps=60_000, ratio=ratio, recorded=True)
    assert samples.var() * capacitance * BETA == pytest.approx(1.0, abs=0.03)
    spread = np.sqrt(1 / (BETA * capacitance) / len(samples) * (1 + 2 / np.expm1(ratio)))
    assert samples.mean() == pytest.approx(0.9, abs=4 * spread)


def test_relaxation_time_is_the_time_constant() -> None:
    samples, _ = voltage_samples(seed=3, steps=40_000, ratio=0.5, recorded=True)
    deviation = samples - 0.9
    correlation = (deviation[1:] * deviation[:-1]).mean() / (deviation**2).mean()
    assert correlation == pytest.approx(np.exp(-0.5), abs=0.02)


def test_same_seed_gives_the_same_charges_and_another_seed_others() -> None:
    a, b, c = (voltage_samples(seed=s, steps=4, ratio=1.0, recorded=False)[0] for s in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 1e-6


def ensemble(atoms: ElectrodeCell, count: int) -> np.ndarray:
    """Configurations of the ions, displaced at random."""
    rng = np.random.default_rng(12)
    ions = np.setdiff1d(np.arange(len(atoms.charges)), atoms.solved)
    frames = np.repeat(atoms.positions[None], count, axis=0)
    frames[:, ions] += rng.uniform(-0.6, 0.6, (count, len(ions), 3))
    return frames


def charges_and_energies(
    mode: Mode,
    atoms: ElectrodeCell,
    cpm,
    frames: np.ndarray,
    volts: list[float],  # type: ignore[no-untyped-def]
) -> tuple[np.ndarray, np.ndarray]:
    out = [
        cpm.solve(
            x,
            atoms.charges,
            atoms.cell,
            smearing=atoms.smearing,
            potentials=volts,
            forces=False,
            **arguments(mode, atoms.cell),
        )
        for x in frames
    ]
    return np.array([s.electrode_charges for s in out]), np.array([s.energy for s in out])


@pytest.mark.parametrize("name", ["potentials in a slab", "potentials in a field"])
def test_capacitance_from_fluctuations_is_the_derivative_of_the_mean_charge(name: str) -> None:
    # An ensemble of m states, equally likely at psi_0, has weights exp(-beta [Omega(psi) - Omega(psi_0)]) at psi:
    # d<Q>/dpsi is then an exact sum, beta Cov(Q, Q) + C_0, without sampling error.
    mode = BY_NAME[name]
    atoms = cell_for(mode, ions=3, ion_width=0.4, ruffle=0.3)
    cpm = solver(mode, atoms, "ewald")
    frames = ensemble(atoms, 12)
    base = [value for _, value in mode.held]
    samples, start = charges_and_energies(mode, atoms, cpm, frames, base)

    def mean_charges(volts: list[float]) -> np.ndarray:
        q, energy = charges_and_energies(mode, atoms, cpm, frames, volts)
        weight = np.exp(-BETA * (energy - start - (energy - start).mean()))
        return (weight[:, None] * q).sum(0) / weight.sum()

    matrix = fluctuation_capacitance(samples, TEMPERATURE, cpm)
    assert matrix.shape == (2, 2)
    for h in range(2):

        def along(step: float, h: int = h) -> np.ndarray:
            return mean_charges([v + step * (g == h) for g, v in enumerate(base)])

        np.testing.assert_allclose(matrix[:, h], derivative(along, 2e-3), rtol=0, atol=1e-9)
    half = 0.5 * (samples[:, 1] - samples[:, 0])
    scalar = fluctuation_capacitance(half, TEMPERATURE, cpm)

    def half_charge(step: float) -> float:
        q = mean_charges([base[0] - 0.5 * step, base[1] + 0.5 * step])
        return float(0.5 * (q[1] - q[0]))

    assert scalar == pytest.approx(float(derivative(half_charge, 2e-3)), abs=1e-9)
    # leaving out C_0 is the classic mistake; here both parts matter
    assert scalar - BETA * half.var() > 0.01 * scalar


def test_fluctuation_capacitance_of_three_electrodes_is_a_matrix() -> None:
    mode = replace(
        BY_NAME["one of three floats"], held=(("potential", -0.4), ("potential", 0.7), ("potential", 0.1))
    )
    atoms = cell_for(mode, ions=3)
    cpm = solver(mode, atoms, "ewald")
    samples, _ = charges_and_energies(mode, atoms, cpm, ensemble(atoms, 5), [-0.4, 0.7, 0.1])
    matrix = fluctuation_capacitance(samples, TEMPERATURE, cpm)
    expected = BETA * np.cov(samples.T, bias=True) + cpm.capacitance
    np.testing.assert_allclose(matrix, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(matrix.sum(0), 0.0, atol=1e-9)  # fixed total charge


def test_fluctuation_capacitance_refuses_what_it_cannot_use() -> None:
    atoms = cell_for(SLAB)
    cpm = solver(SLAB, atoms, "ewald")
    with pytest.raises(RuntimeError, match=r"^capacitance must be asked for after a solve: "):
        fluctuation_capacitance(np.array([0.1, 0.2]), TEMPERATURE, cpm)
    cpm.solve(atoms.positions, atoms.charges, atoms.cell, smearing=atoms.smearing)
    with pytest.raises(ValueError, match=r"^temperature = -3 K must be greater than zero: "):
        fluctuation_capacitance(np.array([0.1, 0.2]), -3.0, cpm)
    with pytest.raises(ValueError, match=r"^charges = array of shape \(1,\) must be "):
        fluctuation_capacitance(np.array([0.1]), TEMPERATURE, cpm)
    with pytest.raises(
        ValueError, match=r"^charges = array of shape \(4, 3\) must have one column per electrode, 2: "
    ):
        fluctuation_capacitance(np.zeros((4, 3)), TEMPERATURE, cpm)


@pytest.mark.parametrize("method", ["ewald", "pme"])
@pytest.mark.parametrize("name", ["potentials in a slab", "finite field", "displacement"])
def test_difference_capacitance_is_the_response_of_the_voltage_to_charge_that_moves(
    name: str, method: str
) -> None:
    mode = BY_NAME[name]
    atoms = cell_for(mode)
    cpm = solver(mode, atoms, method, 1e-6)
    given = arguments(mode, atoms.cell) | {"smearing": atoms.smearing}
    whole = -float(np.delete(atoms.charges, atoms.solved).sum())

    def voltage(charge: float) -> float:
        held = [whole - charge, charge]
        psi = cpm.solve(
            atoms.positions, atoms.charges, atoms.cell, electrode_charges=held, **given
        ).potentials
        return float(psi[1] - psi[0])

    expected = 1.0 / (voltage(1.0) - voltage(0.0))
    held_at_charges = cpm.difference_capacitance
    cpm.solve(atoms.positions, atoms.charges, atoms.cell, **given)
    assert held_at_charges == pytest.approx(expected, rel=1e-6)
    assert cpm.difference_capacitance == pytest.approx(expected, rel=1e-6)


def test_difference_capacitance_without_a_held_total() -> None:
    mode = BY_NAME["open"]
    atoms = cell_for(mode)
    cpm = solver(mode, atoms, "exact")
    cpm.solve(atoms.positions, atoms.charges, None, smearing=atoms.smearing, total_charge=0.0)
    expected = cpm.difference_capacitance
    cpm.solve(atoms.positions, atoms.charges, None, smearing=atoms.smearing, total_charge=None)
    assert cpm.difference_capacitance == pytest.approx(expected, rel=1e-9)


def test_difference_capacitance_is_asked_for_of_two_electrodes_held_alike() -> None:
    mode = BY_NAME["mixed in a slab"]
    atoms = cell_for(mode)
    cpm = solver(mode, atoms, "ewald", 1e-6)
    with pytest.raises(RuntimeError, match="difference_capacitance must be asked for after a solve"):
        _ = cpm.difference_capacitance
    cpm.solve(atoms.positions, atoms.charges, atoms.cell, smearing=atoms.smearing)
    with pytest.raises(ValueError, match="held alike") as error:
        _ = cpm.difference_capacitance
    assert str(error.value) == (
        "electrodes = one at a potential and one at a charge must be held alike for a difference_capacitance: no charge can "
        "move between them"
    )
    three = BY_NAME["one of three floats"]
    with pytest.raises(ValueError, match="3 must be 2") as error:
        _ = solver(three, cell_for(three), "ewald", 1e-6).difference_capacitance
    assert str(error.value) == (
        "electrodes = 3 must be 2 for a difference_capacitance: ask for capacitance, the matrix"
    )
