"""What a short-range energy model hands to the hybrid potential, whatever it is made of.

A short range owns every term of the energy that is not Coulomb: bonds and Lennard-Jones of a classical
force field, or the local part of a learned model. Beside its energy it says which charges the electrolyte
carries, how wide they are and which pairs the Coulomb operator must leave out, so that nothing is counted
twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class ShortRangeResult:
    """Energy of the short range and what the Coulomb operator needs from it.

    Attributes:
        energy: eV.
        forces: (n,3) eV/Å, minus the gradient of `energy`.
        virial: (3,3) eV, dE/d(strain) at fixed fractional positions, not divided by a volume; None where
            it was not asked for.
        charges: (n,) e. Entries of solved (electrode) atoms are ignored.
        smearing: (n,) Å, Gaussian widths; 0 is a point charge. Entries of solved atoms are ignored.
        exclusions: (m,2) pairs whose bare Coulomb interaction (nearest image) must be removed.
    """

    energy: float
    forces: FloatArray
    virial: FloatArray | None
    charges: FloatArray
    smearing: FloatArray
    exclusions: IntArray


@runtime_checkable
class ShortRange(Protocol):
    """Anything that computes a short-range energy with exact forces."""

    def compute(
        self,
        positions: FloatArray,
        numbers: IntArray,
        cell: FloatArray,
        pbc: tuple[bool, bool, bool],
        stress: bool,
    ) -> ShortRangeResult:
        """Evaluate one frame: positions (n,3) Å, atomic numbers (n,), cell rows Å, periodic directions."""
        ...

    def describe(self) -> dict[str, Any]:
        """Identity and parameters, ready for JSON (provenance and logs)."""
        ...

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything beyond the input that the next result may depend on, as arrays."""
        ...

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `state` returned."""
        ...
