"""Electrodes with a thermostat: charges that fluctuate as at a fixed potential difference, and what follows.

A potentiostat that resets the potential at every step freezes the fluctuations of the electrode's own degree
of freedom. The thermo-potentiostat moves the charge by an Ornstein-Uhlenbeck step instead,

    Q(t + dt) = Q(t) + C [V0 - V(t)] (1 - exp(-dt/tau)) + sqrt(kT C (1 - exp(-2 dt/tau))) N(0, 1),

with V = psi_top - psi_bot at the held charge and C = dQ/dV at fixed ions, so that Var(V) = kT/C there.

Source: Deissenbeck, Freysoldt, Todorova, Neugebauer and Wippermann, Phys. Rev. Lett. 126, 136803 (2021).
"""

import math
from typing import Any

import numpy as np
import torch
from ase.units import kB
from numpy.typing import NDArray
from torch import Tensor

from grahame.electrostatics import checks
from grahame.electrostatics.arrays import host
from grahame.electrostatics.constant_potential import ConstantPotential, ConstantPotentialResult


class ThermoPotentiostat:
    """Two electrodes whose charges fluctuate as at their set potential difference.

    Args:
        cpm: solver with exactly two electrodes; their held potentials are the target. An electrode pair that
            is held at charges has no target: give `potential_difference`.
        temperature: K.
        time_constant: relaxation time tau in fs.
        seed: of the random numbers.
        potential_difference: target V0 = psi_1 - psi_0 in V; None takes that of the electrodes.

    Raises:
        ValueError: for other than two electrodes, a missing target, or values out of range.
    """

    def __init__(
        self,
        cpm: ConstantPotential,
        temperature: float,
        time_constant: float,
        seed: int,
        potential_difference: float | None = None,
    ) -> None:
        if len(cpm.electrodes) != 2:
            raise ValueError(
                f"electrodes = {len(cpm.electrodes)} must be 2 for a thermo-potentiostat: it moves charge from one to the other"
            )
        held = [e.potential for e in cpm.electrodes]
        if potential_difference is None:
            if any(v is None for v in held):
                raise ValueError(
                    "potential_difference = None must be given when an electrode is held at a charge: it is the target in V"
                )
            potential_difference = float(held[1]) - float(held[0])
        self.cpm = cpm
        self.temperature = checks.positive(
            "temperature", temperature, "K", "it is the electrodes' temperature"
        )
        self.time_constant = checks.positive("time_constant", time_constant, "fs", "it is a relaxation time")
        if not math.isfinite(potential_difference):
            raise ValueError(
                f"potential_difference = {potential_difference} V must be finite: it is the target psi_1 - psi_0"
            )
        self.potential_difference = float(potential_difference)
        self.random = np.random.default_rng(seed)
        self.charge: float | None = None

    def step(
        self, positions: Any, charges: Any, cell: Any, timestep: float, **options: Any
    ) -> ConstantPotentialResult:
        """Move the charge by one time step and solve at the new charge.

        Args:
            positions, charges, cell: as in `ConstantPotential.solve`.
            timestep: dt in fs.
            options: passed on to `ConstantPotential.solve`.

        Returns:
            The solve at the new charge; `electrode_charges` are (Q_0, Q_1) with Q_1 the fluctuating charge.
        """
        checks.positive("timestep", timestep, "fs", "it is the time between two calls")
        if options.get("total_charge", 0.0) is None:
            raise ValueError(
                "total_charge = None must be a number for a thermo-potentiostat: what leaves one electrode enters the other; "
                "give the charge of the cell"
            )
        whole = float(host(options.get("total_charge", 0.0))) - self._electrolyte(positions, charges)
        target = self.potential_difference
        if self.charge is None:
            # The first charge is that at the target potential.
            quiet = {**options, "forces": False, "stress": False}
            with torch.no_grad():
                start = self.cpm.solve(positions, charges, cell, potentials=[0.0, target], **quiet)
            self.charge = float(start.electrode_charges[1])
        quiet = {**options, "forces": False, "stress": False}
        with torch.no_grad():
            now = self.cpm.solve(
                positions, charges, cell, electrode_charges=[whole - self.charge, self.charge], **quiet
            )
        voltage = float(now.potentials[1]) - float(now.potentials[0])
        self.charge = self.move(self.charge, voltage, self.cpm.difference_capacitance, timestep)
        return self.cpm.solve(
            positions, charges, cell, electrode_charges=[whole - self.charge, self.charge], **options
        )

    def move(self, charge: float, voltage: float, capacitance: float, timestep: float) -> float:
        """The charge one time step later: the Ornstein-Uhlenbeck step above.

        Args:
            charge: Q in e; voltage: V = psi_1 - psi_0 at that charge in V.
            capacitance: dQ/dV at fixed ions, e/V; timestep: fs.
        """
        decay = math.exp(-timestep / self.time_constant)
        noise = (
            math.sqrt(kB * self.temperature * capacitance * (1.0 - decay**2)) * self.random.standard_normal()
        )
        return charge + capacitance * (self.potential_difference - voltage) * (1.0 - decay) + noise

    def state(self) -> dict[str, Any]:
        """Charge and random state, for an exact restart."""
        return {"charge": self.charge, "random": self.random.bit_generator.state}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over a `state()`."""
        self.charge = state["charge"]
        self.random.bit_generator.state = state["random"]

    def _electrolyte(self, positions: Any, charges: Any) -> float:
        fluid = np.ones(len(host(positions)), dtype=bool)
        fluid[host(self.cpm.solved)] = False
        return float(np.broadcast_to(host(charges), fluid.shape)[fluid].sum())


def fluctuation_capacitance(charges: Any, temperature: float, cpm: ConstantPotential) -> Any:
    """Capacitance from the fluctuations of the electrode charge at constant potential, in e/V.

    C = beta Var(Q) + C_0 (matrix: beta Cov(Q_g, Q_h) + C_0,gh). The solved charges follow the ions without
    fluctuating themselves; C_0 = dQ/dpsi at fixed ions is what they leave out. It depends on the geometry of
    the electrodes only, and is taken from the last solve, whatever that held of two electrodes; more must have been at
    potentials.

    Args:
        charges: (m,) samples of Q = (Q_top - Q_bot)/2 in e, or (m, groups) samples of all electrode charges.
        temperature: K.
        cpm: the solver, after at least one solve.

    Returns:
        A number in e/V, or the (groups, groups) matrix; tensors for samples in a tensor.

    Raises:
        ValueError: for fewer than two samples, samples that are not finite, a number of columns that is not that of the
            electrodes, and a last solve that held charges C_0 cannot be taken from.

    Source: Scalfi, Limmer, Coretti, Bonella, Madden, Salanne and Rotenberg, Phys. Chem. Chem. Phys. 22, 10480
    (2020).
    """
    samples: NDArray[np.float64] = host(checks.to_tensor(charges))
    beta = 1.0 / (kB * checks.positive("temperature", temperature, "K", "it is that of the simulation"))
    if samples.ndim not in (1, 2) or len(samples) < 2:
        raise ValueError(
            f"charges = array of shape {samples.shape} must be (m,) or (m, groups) with m >= 2: pass samples in time"
        )
    if not np.isfinite(samples).all():
        raise ValueError("charges must be finite: they hold NaN or infinity; leave these samples out")
    if samples.ndim == 1 and len(cpm.electrodes) != 2:
        raise ValueError(
            f"charges = array of shape {samples.shape} must have one column per electrode, {len(cpm.electrodes)}: "
            "half the difference is defined for two electrodes only"
        )
    inner = _without_fluctuations(cpm)
    if samples.ndim == 1:
        half = np.array([-0.5, 0.5])
        value = float(beta * samples.var() + half @ inner @ half)
        if isinstance(charges, Tensor):
            return torch.as_tensor(value, dtype=torch.float64, device=charges.device)
        return value
    if samples.shape[1] != len(inner):
        raise ValueError(
            f"charges = array of shape {samples.shape} must have one column per electrode, {len(inner)}: pass all electrodes"
        )
    matrix = beta * np.cov(samples, rowvar=False, bias=True) + inner
    return torch.as_tensor(matrix, device=charges.device) if isinstance(charges, Tensor) else matrix


def _without_fluctuations(cpm: ConstantPotential) -> NDArray[np.float64]:
    """C_0 (groups, groups) in e/V. Held charges answer to no potential: of two, the response of their difference says it."""
    held = cpm.held_at_charge
    if not any(held):
        return cpm.capacitance
    if len(held) == 2 and all(held):
        return cpm.difference_capacitance * np.array([[1.0, -1.0], [-1.0, 1.0]])
    raise ValueError(
        f"electrodes = {sum(held)} of {len(held)} held at a charge in the last solve must all be at potentials for C_0: solve "
        "once with potentials before"
    )
