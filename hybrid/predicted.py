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

from grahame.electrostatics import Coulomb
from grahame.electrostatics.arrays import host
from grahame.electrostatics.constant_potential import ConstantPotentialResult
from grahame.hybrid.crossing import Linear, energy_of_crossing
from grahame.hybrid.shortrange.base import ShortRangeResult
from grahame.hybrid.sites import own_shift

Floats = NDArray[np.float64]

__all__ = [
    "Predicted",
    "as_arrays",
    "beyond_operator",
    "crossed_of",
    "crossing_of",
    "of_sites",
    "on_atoms",
    "own_shift_of",
    "pulls_of",
]


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


def own_shift_of(near: ShortRangeResult, coulomb: Coulomb, places: Floats, box: Floats | None) -> float:
    """eV/e² of the sites, see `sites.own_shift`; the operator knows this geometry."""
    if near.sites is None:
        return 0.0
    return own_shift(coulomb.parameters(places, None, box), coulomb.coulomb_constant)


def crossed_of(
    coulomb: Coulomb, charges: Any, places: Floats, cell: Floats, field: Any, displacement: float | None
) -> Linear | None:
    """How the energy follows what charges exchange through the cell's faces; see `crossing.energy_of_crossing`."""
    return energy_of_crossing(
        coulomb.boundary,
        torch.as_tensor(charges),
        torch.as_tensor(places),
        torch.as_tensor(cell),
        None if field is None else torch.as_tensor(field),
        displacement,
        coulomb.coulomb_constant,
    )


def beyond_operator(
    near: ShortRangeResult, crossed: Linear | None, own: float, boundary: str, cell: Floats | None
) -> float:
    """eV that the energy of predicted charges has beyond what operator and solver count.

    Args:
        near: what is predicted; crossed: of `crossed_of`; own: of `own_shift_of`.
        boundary: of the operator; at constant displacement X is in D already. cell: (3,3) rows in Å.
    """
    gained = -own * float((of_sites(near, 1.0) ** 2).sum())
    if boundary != "displacement" and crossed is not None and near.crossing is not None and cell is not None:
        gained += float(crossed(torch.as_tensor(near.crossing), torch.as_tensor(cell)))
    return gained


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
