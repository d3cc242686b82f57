"""What the local energy of an atom owes to the atom's own charge, as in fourth-generation potentials.

    E_q = sum over i of e(h_i, q_i),   h_i what the surroundings look like, q_i the solved charge

Charge equilibration is a quadratic form; what chemistry makes of a charge need not be one. The charges are those of the
solve, which does not know E_q: Omega is no longer stationary in them, and what moves them moves E_q,

    dE_q/dR = de/dR at fixed q + sum over i of (de/dq_i) dq_i/dR.

Energies then no longer follow held potentials (dOmega/dpsi = -Q would not hold), so all charges must add up to held ones.

Source: Ko, Finkler, Goedecker and Behler, Nat. Commun. 12, 398 (2021).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from grahame.electrostatics import ConstantPotential
from grahame.electrostatics.cells import apply_strain
from grahame.hybrid.shortrange.base import Response

__all__ = ["ChargeEnergy", "Following", "following", "refuse_held_potentials"]

Floats = NDArray[np.float64]
_HIDDEN = 16
# An atom's charge changes by tenths of e between surroundings.
_STEP = 2.0


class ChargeEnergy(nn.Module):
    """Energy of an atom as a function of its surroundings and its own charge; 0 for a neutral atom.

        e(h, q) = w . [silu(W h + a_Z + u_Z q) - silu(W h + a_Z)]

    Args:
        features: scalar features per atom; species: number of elements; scale: eV.
    """

    def __init__(self, features: int, species: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.environment = nn.Linear(features, _HIDDEN, bias=False)
        self.element = nn.Embedding(species, _HIDDEN)
        self.charge = nn.Embedding(species, _HIDDEN)
        self.out = nn.Linear(_HIDDEN, 1, bias=False)
        nn.init.normal_(self.environment.weight, std=1.0 / math.sqrt(features))
        nn.init.normal_(self.charge.weight, std=_STEP)
        nn.init.normal_(self.out.weight, std=0.1 / math.sqrt(_HIDDEN))

    def forward(self, scalars: Tensor, species: Tensor, charges: Tensor) -> Tensor:
        """(n,) eV.

        Args:
            scalars: (n,F); species: (n,); charges: (n,) e.
        """
        neutral = self.environment(scalars) + self.element(species)
        charged = neutral + self.charge(species) * charges.to(scalars.dtype)[:, None]
        silu = nn.functional.silu
        found: Tensor = self.out(silu(charged) - silu(neutral))[:, 0].to(torch.float64)
        return self.scale * found


@dataclass(frozen=True)
class Following:
    """What E_q gains because solved charges follow atoms, cell and site constants; e held as a function of q.

    Attributes:
        forces: (n,3) eV/Å; virial: (3,3) eV, or None where not asked for.
        electronegativity: (s,) dE_q/dchi, e; hardness: (s,) dE_q/dJ, e²; None where the solver has its own.
    """

    forces: Floats
    virial: Floats | None
    electronegativity: Floats | None
    hardness: Floats | None

    def add_to(self, response: Response, solved: NDArray[np.int64], charges: Floats) -> Response:
        """A response to all charges (n,) e whose site constants, of atoms `solved`, move charges and E_q as well."""
        by_chi, by_hardness = response.charges.copy(), response.half_squares.copy()
        for total, more in ((by_chi, self.electronegativity), (by_hardness, self.hardness)):
            if more is not None:
                total[solved] += more
        return replace(response, charges=by_chi, half_squares=by_hardness, solved=charges)


def following(
    solver: ConstantPotential,
    positions: Floats,
    charges: Floats,
    cell: Floats | None,
    slopes: Floats,
    electronegativity: Floats | None,
    hardness: Floats | None,
    stress: bool,
    **given: Any,
) -> Following:
    """Derivatives of sum of slopes_i q_i with q the solved charges.

    Args:
        solver: of the charges, just solved at this geometry, which is where it starts from.
        positions: (n,3) Å; charges: (n,) e; cell: (3,3) rows in Å or None; slopes: (n,) de/dq, V.
        electronegativity: (s,) V, hardness: (s,) V/e of the solved atoms, or None.
        stress: whether the virial is wanted; given: what else the solver was given.
    """
    leaves: dict[str, Tensor] = {"x": torch.tensor(positions, requires_grad=True)}
    for name, value in (("electronegativity", electronegativity), ("hardness", hardness)):
        if value is not None:
            leaves[name] = torch.tensor(value, requires_grad=True)
    box = None if cell is None else torch.tensor(cell)
    if stress:
        leaves["strain"] = torch.zeros((3, 3), dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        moved, box = apply_strain(leaves["x"], box, leaves.get("strain"))
        steps, solver.response_steps = solver.response_steps, 2
        try:
            q = solver.solve(
                moved,
                torch.tensor(charges),
                box,
                electronegativity=leaves.get("electronegativity"),
                hardness=leaves.get("hardness"),
                forces=False,
                **given,
            ).charges
        finally:
            solver.response_steps = steps
        gradients = torch.autograd.grad((torch.as_tensor(slopes) * q).sum(), list(leaves.values()))
    found: Mapping[str, Floats] = {name: g.numpy() for name, g in zip(leaves, gradients)}
    return Following(
        forces=-found["x"],
        virial=found.get("strain"),
        electronegativity=found.get("electronegativity"),
        hardness=found.get("hardness"),
    )


def refuse_held_potentials() -> None:
    """Raise for an electrode at a held potential beside an energy that depends on solved charges.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        "potential = held must be a held charge with a model whose local energy depends on the charges (in_energy): its Omega "
        "is not stationary in them, so that no potential belongs to its charges; hold electrode charges instead"
    )
