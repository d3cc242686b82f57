"""Are forces the gradient of the energy? Known answers, for force fields and for labels."""

import json
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import write
from ase.md.langevin import Langevin

from grahame.hybrid.audit import audit_forces
from grahame.hybrid.audit_labels import LabelAudit, audit_labels
from grahame.hybrid.cli import main
from tests.hybrid.small_cells import calculator, small_cell

RNG = np.random.default_rng(4)


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


class Linear(Calculator):
    """F = J x, E = -x J x / 2: symmetric J is a gradient."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def __init__(self, jacobian: np.ndarray) -> None:
        super().__init__()
        self.jacobian = jacobian

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = None) -> None:
        x = atoms.positions.ravel()
        self.results = {
            "energy": -0.5 * x @ self.jacobian @ x,
            "forces": (self.jacobian @ x).reshape(-1, 3),
        }


def harmonic(atoms: int = 8) -> tuple[Atoms, np.ndarray]:
    j = RNG.standard_normal((3 * atoms, 3 * atoms))
    return Atoms(f"Ar{atoms}", positions=RNG.standard_normal((atoms, 3))), -(j @ j.T)


def test_a_gradient_has_no_asymmetry() -> None:
    atoms, j = harmonic()
    atoms.calc = Linear(j)
    before = atoms.get_positions()
    found = audit_forces(atoms)
    assert found.asymmetry < 1e-8
    assert found.energy_mismatch < 1e-8
    assert found.symmetric
    assert found.gradient
    assert found.conservative
    assert np.array_equal(atoms.positions, before)


def test_the_asymmetry_of_a_linear_force_is_that_of_its_matrix() -> None:
    atoms, j = harmonic()
    twist = RNG.standard_normal(j.shape)
    j = j + 0.5 * (twist - twist.T)
    atoms.calc = Linear(j)
    found = audit_forces(atoms, directions=60)
    exact = np.linalg.norm(j - j.T) / np.linalg.norm(j + j.T)
    # Gaussian directions sample both squares with the error of 60 of them.
    assert abs(found.asymmetry / exact - 1.0) < 0.15
    assert found.conservative is False


def test_forces_that_are_scaled_are_symmetric_but_no_gradient() -> None:
    atoms = small_cell()
    inner = calculator(atoms)

    class Scaled(Calculator):
        implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

        def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = None) -> None:
            copy = atoms.copy()
            copy.calc = inner
            self.results = {"energy": copy.get_potential_energy(), "forces": 1.01 * copy.get_forces()}

    atoms.calc = Scaled()
    found = audit_forces(atoms, directions=3)
    assert found.energy_mismatch == pytest.approx(0.01 / 1.01, rel=1e-3)
    assert (found.symmetric, found.gradient, found.conservative) == (True, False, False)


def test_constant_potential_forces_are_a_gradient_of_the_free_atoms() -> None:
    atoms = small_cell()
    atoms.calc = calculator(atoms, accuracy=1e-8)
    atoms.set_constraint(FixAtoms(range(8)))
    found = audit_forces(atoms, directions=4)
    assert found.conservative
    assert found.asymmetry < 1e-8
    assert found.atoms == len(atoms) - 8


def test_noise_is_not_called_an_asymmetry() -> None:
    atoms, j = harmonic()

    class Noisy(Linear):
        def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = None) -> None:
            super().calculate(atoms)
            self.results["forces"] = self.results["forces"] + 1e-6 * RNG.standard_normal((len(atoms), 3))

    atoms.calc = Noisy(j)
    found = audit_forces(atoms)
    assert found.asymmetry > found.tolerance
    assert found.symmetric is None
    assert found.conservative is not True


def test_what_cannot_be_audited_is_refused() -> None:
    atoms, j = harmonic(2)
    with pytest.raises(
        ValueError, match=exactly("atoms.calc = None must be a calculator: set atoms.calc first")
    ):
        audit_forces(atoms)
    atoms.calc = Linear(j)
    with pytest.raises(
        ValueError, match=exactly("directions = 1 must be at least 2: two directions make one pair")
    ):
        audit_forces(atoms, directions=1)
    with pytest.raises(
        ValueError, match=exactly("step = 0 Å must lie between 0 and 1: 0.001 and 1e-6 are usual")
    ):
        audit_forces(atoms, step=0.0)
    atoms.set_constraint(FixAtoms(range(2)))
    with pytest.raises(ValueError, match="must leave at least one free"):
        audit_forces(atoms)


def trajectory(
    friction: float, interval: int, frames: int = 50, noise: float = 0.0, scale: float = 1.0
) -> list[Atoms]:
    """Dynamics of the small cell at 300 K, 0.5 fs; labels with -friction m v (1/ps) and noise (eV/Å) in the forces."""
    atoms = small_cell()
    atoms.calc = calculator(atoms)
    atoms.set_constraint(FixAtoms(range(8)))
    rng = np.random.default_rng(2)
    atoms.set_momenta(
        rng.standard_normal((len(atoms), 3)) * np.sqrt(300 * units.kB * atoms.get_masses())[:, None]
    )
    dynamics = Langevin(
        atoms,
        0.5 * units.fs,
        temperature_K=300,
        friction=0.01 / units.fs,
        fixcm=False,
        rng=np.random.default_rng(3),
    )
    dynamics.run(60)
    images = []
    for _ in range(frames):
        dynamics.run(interval)
        labels = scale * atoms.get_forces(apply_constraint=False) + noise * rng.standard_normal(
            (len(atoms), 3)
        )
        labels -= friction / (1e3 * units.fs) * atoms.get_masses()[:, None] * atoms.get_velocities()
        image = atoms.copy()
        image.calc = SinglePointCalculator(image, energy=atoms.get_potential_energy(), forces=labels)
        images.append(image)
    return images


def verdict(**options: Any) -> LabelAudit:
    return audit_labels(trajectory(**options))


def test_labels_of_dynamics_with_a_thermostat_are_consistent() -> None:
    found = verdict(friction=0.0, interval=1)
    assert found.verdict == "consistent"
    assert found.friction is not None
    assert abs(found.friction) < 0.01
    assert found.residual < 1e-3 * found.work


def test_friction_in_the_forces_is_found_and_measured() -> None:
    for interval in (1, 4):
        found = verdict(friction=3.0, interval=interval, frames=30)
        assert found.verdict == "friction"
        assert found.friction == pytest.approx(3.0, rel=0.1)


def test_random_or_scaled_forces_are_inconsistent() -> None:
    assert verdict(friction=0.0, interval=1, noise=1.0).verdict == "inconsistent"
    assert verdict(friction=0.0, interval=1, scale=1.2).verdict == "inconsistent"


def distant(friction: float) -> list[Atoms]:
    """Oscillators of 20 fs at 300 K seen at random times; labels with -friction m v (1/ps)."""
    rng, n = np.random.default_rng(6), 10
    omega = 2 * np.pi / (20 * units.fs)
    images = []
    for number in range(400):
        atoms = Atoms(f"O{n}", info={"stage": str(number)})  # each of another run: no work between them
        mass = atoms.get_masses()[:, None]
        velocity = rng.standard_normal((n, 3)) * np.sqrt(300 * units.kB / mass)
        place = rng.standard_normal((n, 3)) * np.sqrt(300 * units.kB / mass) / omega
        atoms.positions = place
        atoms.set_velocities(velocity)
        forces = -mass * omega**2 * place - friction / (1e3 * units.fs) * mass * velocity
        energy = 0.5 * float((mass * omega**2 * place**2).sum())
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        images.append(atoms)
    return images


def test_frames_far_apart_tell_friction_by_their_momenta_alone() -> None:
    found = audit_labels(distant(0.0))
    assert found.verdict == "unknown"
    assert found.friction is not None
    assert found.friction_error is not None
    assert abs(found.friction) < 4.0 * found.friction_error
    found = audit_labels(distant(50.0))
    assert found.verdict == "friction"
    assert found.friction == pytest.approx(50.0, rel=0.2)


def test_frames_are_not_compared_across_changes_from_outside() -> None:
    images = trajectory(friction=0.0, interval=1, frames=12)
    for number, image in enumerate(images):
        image.info["electrode_potentials"] = np.array([0.0, 1.0 + 0.1 * (number >= 6)])
        image.info["electrode_charges"] = np.array([-0.1, 0.1]) * (1 + number)
        image.calc.results["energy"] += 5.0 * (number >= 6)
    found = audit_labels(images)
    assert found.triples == 8
    assert found.verdict == "consistent"


def test_missing_labels_are_named() -> None:
    images = trajectory(friction=0.0, interval=1, frames=4)
    with pytest.raises(
        ValueError,
        match=exactly(
            "frame 0: energy = nothing under the key REF_energy must be given: did you mean energy?"
        ),
    ):
        audit_labels(images, energy="REF_energy")
    with pytest.raises(
        ValueError, match=exactly("frames = 0 must be at least one: give a trajectory with frames")
    ):
        audit_labels([])
    images[0].calc = SinglePointCalculator(images[0], energy=0.0, forces=np.zeros((len(images[0]), 3)))
    assert audit_labels(images[:3]).verdict == "unknown"


def test_the_command_audits_a_run_and_its_trajectory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write("cell.extxyz", small_cell())
    Path("run.yaml").write_text(
        "structure: {file: cell.extxyz}\n"
        "coulomb: {boundary: slab, accuracy: 1.0e-6}\n"
        "short_range: {cutoff: 5.0}\n"
        "electrodes:\n  - {group: 0, potential: 0.0}\n  - {group: 1, potential: 1.0}\n"
        "dynamics:\n  produce: {ensemble: nve, timestep_fs: 0.5, steps: 12}\n"
        "output: {name: md, trajectory_interval: 1}\n"
    )
    main(["audit", "run.yaml", "--directions", "2", "--tolerance", "1e-4", "--json"])
    out = json.loads(capsys.readouterr().out)
    assert out["conservative"] is True
    assert out["file"] == "run.yaml"
    main(["run", "run.yaml", "--no-progress"])
    capsys.readouterr()
    main(["audit", "md.extxyz"])
    assert "consistent" in capsys.readouterr().out
    write("bad.extxyz", trajectory(friction=5.0, interval=1))
    with pytest.raises(SystemExit) as stop:
        main(["audit", "bad.extxyz", "--json"])
    assert stop.value.code == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "friction"
    with pytest.raises(SystemExit):
        main(["audit", "run.yaml", "--stage", "produce"])
    assert capsys.readouterr().err == (
        "Error: stage = produce must be given with a trajectory: run.yaml is a configuration, whose forces are computed; "
        "leave it out\n"
    )
