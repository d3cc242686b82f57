"""The force field as plain arrays: whatever its origin, the kernels see only these tables."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from grahame.hybrid.shortrange.base import FloatArray, IntArray

Mixing = Literal["lorentz-berthelot", "geometric"]


def _empty(columns: int) -> IntArray:
    return np.zeros((0, columns), dtype=np.int64)


def _no_numbers() -> FloatArray:
    return np.zeros(0)


@dataclass(frozen=True)
class ForceFieldTables:
    """Types, charges and bonded terms of one fixed topology.

    E_bond = 1/2 k (r - r0)², E_angle = 1/2 k (theta - theta0)². (LAMMPS' harmonic styles have no 1/2:
    double their constants.)

    Attributes:
        numbers: (n,) atomic numbers.
        types: (n,) Lennard-Jones type of each atom, 0 <= type < t.
        epsilon: (t,) eV; 0 switches a type off.
        sigma: (t,) Å.
        charges: (n,) e; entries of electrode atoms are ignored by the charge solve.
        bonds: (b,2) atoms; bond_constants (b,) eV/Å²; bond_lengths (b,) Å.
        angles: (a,3) atoms, the vertex in the middle; angle_constants (a,) eV/rad²; angle_values (a,) rad.
        exclusions: (m,2) pairs inside a molecule without Lennard-Jones and without bare Coulomb.
        electrode: (n,) electrode of each atom, -1 for the electrolyte.
        molecules: (n,) molecule of each atom, or empty: each atom its own.
    """

    numbers: IntArray
    types: IntArray
    epsilon: FloatArray
    sigma: FloatArray
    charges: FloatArray
    bonds: IntArray = field(default_factory=lambda: _empty(2))
    bond_constants: FloatArray = field(default_factory=_no_numbers)
    bond_lengths: FloatArray = field(default_factory=_no_numbers)
    angles: IntArray = field(default_factory=lambda: _empty(3))
    angle_constants: FloatArray = field(default_factory=_no_numbers)
    angle_values: FloatArray = field(default_factory=_no_numbers)
    exclusions: IntArray = field(default_factory=lambda: _empty(2))
    electrode: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    molecules: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __post_init__(self) -> None:
        n, t = len(self.numbers), len(self.epsilon)
        for name in ("numbers", "types", "bonds", "angles", "exclusions", "electrode", "molecules"):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype=np.int64))
        for name in (
            "epsilon",
            "sigma",
            "charges",
            "bond_constants",
            "bond_lengths",
            "angle_constants",
            "angle_values",
        ):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype=np.float64))
        if len(self.electrode) == 0:
            object.__setattr__(self, "electrode", np.full(n, -1, dtype=np.int64))
        if len(self.molecules) == 0:
            object.__setattr__(self, "molecules", np.arange(n, dtype=np.int64))

        shapes: dict[str, tuple[int, ...]] = {
            "types": (n,),
            "charges": (n,),
            "electrode": (n,),
            "molecules": (n,),
            "sigma": (t,),
            "bonds": (len(self.bonds), 2),
            "bond_constants": (len(self.bonds),),
            "bond_lengths": (len(self.bonds),),
            "angles": (len(self.angles), 3),
            "angle_constants": (len(self.angles),),
            "angle_values": (len(self.angles),),
            "exclusions": (len(self.exclusions), 2),
        }
        for name, wanted in shapes.items():
            got = getattr(self, name).shape
            if got != wanted:
                raise ValueError(f"shape of {name} = {got} must be {wanted}: give one entry per atom or term")
        self._check_indices("types", self.types, t, "a Lennard-Jones type")
        for name in ("bonds", "angles", "exclusions"):
            self._check_indices(name, getattr(self, name), n, "an atom")
        for name in ("epsilon", "sigma", "bond_constants", "bond_lengths", "angle_constants"):
            values = getattr(self, name)
            bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
            if len(bad):
                raise ValueError(
                    f"{name}[{bad[0]}] = {values[bad[0]]} must be finite and not negative: check the table"
                )

    @staticmethod
    def _check_indices(name: str, indices: IntArray, limit: int, what: str) -> None:
        bad = indices[(indices < 0) | (indices >= limit)]
        if len(bad):
            raise ValueError(
                f"{name} = {bad[0]} must be the index of {what} from 0 to {limit - 1}: count from 0"
            )


def mixed_coefficients(
    epsilon: FloatArray, sigma: FloatArray, mixing: Mixing
) -> tuple[FloatArray, FloatArray]:
    """Well depth and size of every pair of types.

    epsilon_ab = sqrt(epsilon_a epsilon_b); sigma_ab = (sigma_a + sigma_b)/2 (Lorentz-Berthelot) or
    sqrt(sigma_a sigma_b) (geometric).

    Args:
        epsilon: (t,) eV.
        sigma: (t,) Å.
        mixing: "lorentz-berthelot" or "geometric".

    Returns:
        epsilon (t,t) eV and sigma (t,t) Å.

    Raises:
        ValueError: an unknown rule.
    """
    depth = np.sqrt(np.outer(epsilon, epsilon))
    if mixing == "lorentz-berthelot":
        return depth, 0.5 * (sigma[:, None] + sigma[None, :])
    if mixing == "geometric":
        return depth, np.sqrt(np.outer(sigma, sigma))
    raise ValueError(
        f"mixing = {mixing!r} must be 'lorentz-berthelot' or 'geometric': LAMMPS calls the first 'arithmetic'"
    )
