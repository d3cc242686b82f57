"""Labels with the long range taken out: what a model is trained on that will have charges beside it.

    E_label = E - Omega(R),    F_label = F - F_Omega(R),    sigma_label = sigma - sigma_Omega(R)

Omega is the electrostatics of the label's own ensemble with the charges that the run will have. A model trained on
what is left does not hold it: `contains_coulomb=False`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from torch import Tensor

from grahame.electrostatics import Coulomb, Electrode
from grahame.hybrid.adapters.charges import FixedCharges
from grahame.hybrid.adapters.foreign import ForeignShortRange
from grahame.hybrid.adapters.trunk import TrunkOutput
from grahame.hybrid.calculator import HybridCalculator
from grahame.hybrid.graph import PBC, Graph
from grahame.hybrid.shortrange.base import FloatArray


class _Nothing:
    """A trunk without energy: what is left are charges."""

    cutoff = 0.0
    features = 0
    identity = "nothing"

    def __call__(self, graph: Graph, numbers: Tensor, pbc: Sequence[PBC]) -> TrunkOutput:
        return TrunkOutput(graph.per_frame(0.0 * graph.positions.sum(1)))

    def describe(self) -> dict[str, Any]:
        return {"kind": "nothing"}


@dataclass(frozen=True)
class Residual:
    """What is left of a label.

    Attributes:
        energy: eV; forces: (n,3) eV/Å; stress: (3,3) eV/Å³ or None.
        long_range: eV, what was taken out.
    """

    energy: float
    forces: FloatArray
    stress: FloatArray | None
    long_range: float


def residual_labels(
    atoms: Atoms,
    charges: FixedCharges,
    coulomb: Coulomb,
    electrodes: Sequence[Electrode] = (),
    *,
    energy: float,
    forces: FloatArray,
    stress: FloatArray | None = None,
    **conditions: Any,
) -> Residual:
    """Labels of one structure without its long range.

    Args:
        atoms: the structure.
        charges: those of the run.
        coulomb, electrodes: in the ensemble of the label: all metal atoms of a calculation are one group at a held
            charge, unless the calculation held something else.
        energy: eV; forces: (n,3) eV/Å; stress: (3,3) eV/Å³ or (6,) in ASE's order.
        conditions: field, displacement, hardness, total_charge, ... as `HybridCalculator` takes them.
    Raises:
        ValueError: what the electrostatics refuse.
    """
    copy = atoms.copy()
    copy.calc = HybridCalculator(
        ForeignShortRange(_Nothing(), charges, contains_coulomb=False),
        coulomb,
        list(electrodes),
        **conditions,
    )
    long_range = float(copy.get_potential_energy())
    left = None
    if stress is not None:
        given = np.asarray(stress, dtype=float)
        if given.shape == (6,):
            xx, yy, zz, yz, xz, xy = given
            given = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
        left = given - copy.get_stress(voigt=False, apply_constraint=False)
    taken = copy.get_forces(apply_constraint=False)
    return Residual(energy - long_range, np.asarray(forces, dtype=float) - taken, left, long_range)
