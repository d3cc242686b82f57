"""What a short range predicts, on its way into the electrode solve and back out of it.

Charges beside atoms (`ChargeSites`) come last in all arrays of the solve. Where a field follows held charges, Omega is not
stationary in it, and the slopes by predicted quantities are taken through the solver's graph.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grahame.electrostatics.arrays import host
from grahame.electrostatics.constant_potential import ConstantPotentialResult
from grahame.hybrid.shortrange.base import ShortRangeResult

Floats = NDArray[np.float64]

__all__ = ["Predicted", "as_arrays", "crossing_of", "of_sites", "on_atoms", "pulls_of", "square_of_sites"]


def on_atoms(near: ShortRangeResult, forces: Floats) -> Floats:
    """(n, 3) forces on atoms, what pulls at charges beside them included, eV/Å."""
    return forces if near.sites is None else near.sites.fold(forces)


def crossing_of(near: ShortRangeResult) -> Floats:
    """(3,) e Å of charge exchanged through the cell's faces."""
    return np.zeros(3) if near.crossing is None else near.crossing


def of_sites(near: ShortRangeResult, factor: float) -> Floats:
    """(n+m,) factor times the charge of each site, 0 for atoms."""
    out = np.zeros(len(near.charges))
    if near.sites is not None:
        start = len(out) - len(near.sites.atoms)
        out[start:] = factor * near.charges[start:]
    return out


def square_of_sites(near: ShortRangeResult) -> float:
    """e², sum of the squared charges of sites."""
    return float((of_sites(near, 1.0) ** 2).sum())


def pulls_of(near: ShortRangeResult, forces: Floats, atoms: int) -> Floats | None:
    """(m, 3) how Omega changes when a charge moves away from its atom, eV/Å; None where none stands beside one."""
    return None if near.sites is None else -forces[atoms:]


@dataclass(frozen=True)
class Predicted:
    """What a short range predicts for the solver; tensors where their slopes of Omega are wanted.

    Attributes:
        charges: (n,) e; electronegativity, hardness: of the solved atoms, V and V/e, or None.
    """

    charges: Any
    electronegativity: Any
    hardness: Any

    @classmethod
    def of(
        cls, charges: Floats, electronegativity: Floats | None, hardness: Floats | None, *, graph: bool
    ) -> Predicted:
        """Arrays as they are, or as leaves of a graph."""
        values = (charges, electronegativity, hardness)
        if not graph:
            return cls(*values)
        return cls(*(None if v is None else torch.tensor(v, requires_grad=True) for v in values))

    def slopes(self, energy: Any) -> tuple[Floats | None, ...]:
        """dOmega/d of each, its own sums held; None for arrays."""
        leaves = [v for v in (self.charges, self.electronegativity, self.hardness) if isinstance(v, Tensor)]
        if not leaves:
            return None, None, None
        found = iter(torch.autograd.grad(energy, leaves))
        values = (self.charges, self.electronegativity, self.hardness)
        return tuple(host(next(found)) if isinstance(v, Tensor) else None for v in values)


def as_arrays(far: ConstantPotentialResult) -> ConstantPotentialResult:
    """A result without graph, in arrays."""
    tensors: dict[str, Any] = {k: host(v) for k, v in vars(far).items() if isinstance(v, Tensor)}
    return replace(far, **tensors) if tensors else far
