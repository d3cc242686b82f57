"""Integrators of a run: ASE's, a Nosé-Hoover chain that knows constraints, and what a restart must restore."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.constraints import FixBondLengths
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet
from ase.optimize import FIRE
from numpy.typing import NDArray

from grahame.hybrid.config import StageConfig

Floats = NDArray[np.float64]


class NoseHooverChain(VelocityVerlet):
    """Velocity Verlet between half steps of a chain of thermostats.

        dp/dt = F - p p_1/Q_1,  dp_1/dt = sum p²/m - N_f kT - p_1 p_2/Q_2, ...,  Q_1 = N_f kT tau², Q_j = kT tau²

    N_f counts the degrees of freedom that constraints leave, so frozen electrodes do not heat the liquid, without
    those of the whole where it stands still and nothing pushes it (`degrees_of_freedom`). The thermostat only scales
    momenta, which keeps frozen atoms and rigid molecules as they are. Conserved:
    Omega + kinetic + sum p_j²/2Q_j + N_f kT eta_1 + kT sum_{j>1} eta_j.

    Args:
        atoms: with calculator and constraints; timestep in ASE's unit; temperature in K.
        relaxation: tau in ASE's unit of time.
        chain: number of thermostats.
        freedom: N_f; None counts it from the atoms and their momenta.
    Source: Martyna, Tuckerman, Tobias and Klein, Mol. Phys. 87, 1117 (1996).
    """

    # Fourth-order Suzuki-Yoshida weights.
    _WEIGHTS = (1 / (2 - 2 ** (1 / 3)), -(2 ** (1 / 3)) / (2 - 2 ** (1 / 3)), 1 / (2 - 2 ** (1 / 3)))

    def __init__(
        self,
        atoms: Atoms,
        timestep: float,
        temperature: float,
        relaxation: float,
        chain: int = 3,
        freedom: int | None = None,
    ) -> None:
        super().__init__(atoms, timestep)
        self.kT = units.kB * temperature
        self.freedom = degrees_of_freedom(atoms, stands_still(atoms)) if freedom is None else freedom
        self.inertia = np.full(chain, self.kT * relaxation**2)
        self.inertia[0] *= self.freedom
        self.eta = np.zeros(chain)
        self.p_eta = np.zeros(chain)

    def step(self, forces: Floats | None = None) -> Floats:
        """One time step."""
        self._half_step()
        new: Floats = super().step(forces)  # type: ignore[no-untyped-call]
        self._half_step()
        return new

    def _half_step(self) -> None:
        momenta = self.atoms.get_momenta()
        twice_kinetic = float(np.sum(momenta**2 / self.masses))
        scale = 1.0
        last = len(self.eta) - 1
        p, q = self.p_eta, self.inertia

        def kick(j: int, dt: float) -> None:
            drag = np.exp(-0.25 * dt * p[j + 1] / q[j + 1]) if j < last else 1.0
            push = twice_kinetic - self.freedom * self.kT if j == 0 else p[j - 1] ** 2 / q[j - 1] - self.kT
            p[j] = (p[j] * drag + 0.5 * dt * push) * drag

        for weight in self._WEIGHTS:
            dt = 0.5 * self.dt * weight
            for j in range(last, -1, -1):
                kick(j, dt)
            factor = float(np.exp(-dt * p[0] / q[0]))
            scale *= factor
            twice_kinetic *= factor**2
            self.eta += dt * p / q
            for j in range(last + 1):
                kick(j, dt)
        self.atoms.set_momenta(momenta * scale, apply_constraint=False)

    def thermostat_energy(self) -> float:
        """Part of the conserved energy that the thermostats hold, eV."""
        own = float(np.sum(0.5 * self.p_eta**2 / self.inertia))
        return own + self.kT * (self.freedom * float(self.eta[0]) + float(self.eta[1:].sum()))


def is_free(atoms: Atoms) -> bool:
    """Whether nothing holds atoms in place: constraints keep distances only, rigid water's too."""
    return all(isinstance(c, FixBondLengths) for c in atoms.constraints)


def stands_still(atoms: Atoms) -> bool:
    """Whether atoms that nothing holds have no momentum as a whole: far less of it than a single atom has.

    Velocity Verlet and a chain of thermostats keep it so. Noise does not, nor does a force on all atoms together.
    """
    momenta, masses = atoms.get_momenta(), atoms.get_masses()
    whole = float(np.sum(momenta.sum(axis=0) ** 2) / masses.sum())
    each = float(np.mean(np.sum(momenta**2, axis=1) / masses))
    return is_free(atoms) and len(atoms) > 1 and whole < 1e-3 * each


def degrees_of_freedom(atoms: Atoms, still: bool) -> int:
    """3N without what constraints hold, and without the three of the whole where it stays `still`."""
    return int(atoms.get_number_of_degrees_of_freedom()) - (3 if still else 0)


def make_integrator(
    atoms: Atoms, stage: StageConfig, rng: np.random.Generator, freedom: int | None = None
) -> Any:
    """The integrator of a stage; Langevin noise comes from `rng`, a chain of thermostats counts `freedom`."""
    timestep = stage.timestep_fs * units.fs
    if stage.ensemble == "nve":
        return VelocityVerlet(atoms, timestep)
    if stage.ensemble == "nose-hoover":
        tau = stage.relaxation_time_fs * units.fs
        return NoseHooverChain(atoms, timestep, stage.temperature_K, tau, stage.chain_length, freedom)
    friction = stage.friction_per_ps / (1000.0 * units.fs)
    return langevin(atoms, timestep, stage.temperature_K, friction, rng)


def langevin(
    atoms: Atoms, timestep: float, temperature: float, friction: float, rng: np.random.Generator
) -> Langevin:
    """ASE's Langevin integrator with the centre of mass free, of any release of ASE.

    Holding it, once ASE's default, does not sample the canonical distribution; ASE deprecates the argument
    since 3.28 and will remove it.

    Args:
        atoms: with calculator and constraints.
        timestep: in ASE's unit; temperature in K; friction per ASE unit of time.
        rng: of the noise.
    """
    free = {"fixcm": False} if "fixcm" in inspect.signature(Langevin.__init__).parameters else {}
    return Langevin(atoms, timestep, temperature_K=temperature, friction=friction, rng=rng, **free)


def make_optimizer(atoms: Atoms) -> Any:
    """FIRE without a log of its own."""
    return FIRE(atoms, logfile=None)


def integrator_state(integrator: Any) -> dict[str, NDArray[Any]]:
    """Numbers inside an integrator or optimizer that the next step depends on."""
    names: tuple[str, ...] = ("eta", "p_eta") if isinstance(integrator, NoseHooverChain) else ()
    if isinstance(integrator, FIRE):
        names = ("v", "vel", "dt", "a", "Nsteps")
    return {n: np.asarray(getattr(integrator, n)) for n in names if getattr(integrator, n, None) is not None}


def load_integrator_state(integrator: Any, state: dict[str, NDArray[Any]]) -> None:
    """Restore what `integrator_state` returned."""
    for name, value in state.items():
        setattr(integrator, name, value.item() if value.ndim == 0 else np.array(value))


def draw_momenta(atoms: Atoms, temperature: float, rng: np.random.Generator) -> None:
    """Maxwell-Boltzmann momenta at a temperature (K), constraints respected, scaled to it exactly.

    Without anything that holds the atoms in place the momentum of the whole is removed, and does not count.
    """
    masses = atoms.get_masses()[:, None]
    momenta = rng.standard_normal((len(atoms), 3)) * np.sqrt(masses * units.kB * temperature)
    still = is_free(atoms) and len(atoms) > 1
    if still:
        momenta -= masses * momenta.sum(axis=0) / masses.sum()
    atoms.set_momenta(momenta)
    freedom = degrees_of_freedom(atoms, still)
    if freedom <= 0:
        raise ValueError(
            "degrees of freedom = 0 must be positive: let an electrode move or remove the dynamics stages"
        )
    now = 2.0 * atoms.get_kinetic_energy() / (freedom * units.kB)
    if now > 0:
        atoms.set_momenta(atoms.get_momenta() * np.sqrt(temperature / now))
