"""Electronegativity and hardness of solved atoms that follow the atoms around them, in closed form.

    chi_i = chi0_i + sum over j of a[e_i, e_j] f(r_ij),     J_i = J0_i + sum over j of b[e_i, e_j] f(r_ij)
    f(r) = (1 - r²/c²)³ below the cut-off c, with two continuous derivatives

The charges minimise Omega at given chi and J, so the forces are -q_i dchi_i/dR - q_i²/2 dJ_i/dR. How much charge a
potential drives then depends on where the atoms are. A stand-in for chemistry, made to be learned: its constants are
chosen, not measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from grahame.hybrid.shortrange.base import FloatArray, IntArray
from grahame.kernels.neighbors import NeighborList

__all__ = ["GOLD_IN_WATER", "Found", "Surroundings", "SurroundingsModel"]

_SKIN = 0.5
Pair = tuple[str, str]


@dataclass(frozen=True)
class SurroundingsModel:
    """Constants of the two sums.

    Attributes:
        cutoff: c, Å.
        electronegativity: a of (solved element, neighbour's element), V; pairs that are missing have 0.
        hardness: b, V/e, not negative: a solve must stay stable wherever the atoms go.
    """

    cutoff: float
    electronegativity: Mapping[Pair, float] = field(default_factory=dict)
    hardness: Mapping[Pair, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.cutoff) and self.cutoff > 0.0):
            raise ValueError(f"cutoff = {self.cutoff} Å must be positive and finite: 5 Å is usual")
        for (a, b), value in self.hardness.items():
            if not value >= 0.0:
                raise ValueError(
                    f"hardness[{a}, {b}] = {value} V/e must not be negative: crowded atoms would become unstable"
                )

    def table(self, name: str) -> FloatArray:
        """(119,119) constants of a pair of atomic numbers."""
        out = np.zeros((119, 119))
        for (a, b), value in getattr(self, name).items():
            out[atomic_numbers[a], atomic_numbers[b]] = value
        return out

    def describe(self) -> dict[str, Any]:
        """Ready for JSON."""
        named = {
            f"{name}_{unit}": {f"{a}-{b}": v for (a, b), v in getattr(self, name).items()}
            for name, unit in (("electronegativity", "V"), ("hardness", "V_per_e"))
        }
        return {"cutoff_A": self.cutoff} | named


GOLD_IN_WATER = SurroundingsModel(
    cutoff=5.0,
    electronegativity={
        ("Au", "Au"): -0.5,
        ("Au", "O"): 2.0,
        ("Au", "H"): -1.0,
        ("Au", "Na"): -3.0,
        ("Au", "Cl"): 3.0,
    },
    hardness={("Au", "Au"): 1.0, ("Au", "O"): 4.0, ("Au", "H"): 1.0, ("Au", "Na"): 2.0, ("Au", "Cl"): 6.0},
)
"""Surface atoms, which have fewer neighbours, attract electrons less; water and ions next to gold shift and harden it."""


@dataclass(frozen=True)
class Found:
    """Values at one geometry and the pairs they came from.

    Attributes:
        electronegativity: (n,) V, hardness: (n,) V/e, of the sums alone.
    """

    electronegativity: FloatArray
    hardness: FloatArray
    i: NDArray[np.int32]
    j: NDArray[np.int32]
    vectors: FloatArray
    slopes: FloatArray
    constants: tuple[FloatArray, FloatArray, FloatArray, FloatArray]

    def derivatives(self, charges: FloatArray, half_squares: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Forces (n,3) eV/Å and virial (3,3) eV, at fixed charges.

        Args:
            charges, half_squares: (n,) dOmega/dchi (e) and dOmega/dJ (e²); 0 for atoms that are not solved.
        """
        ai, aj, bi, bj = self.constants
        i, j = self.i, self.j
        # dE/dr of the pair over r: both ends may be solved.
        pull = ai * charges[i] + aj * charges[j] + bi * half_squares[i] + bj * half_squares[j]
        along = (pull * self.slopes)[:, None] * self.vectors
        forces = np.zeros((len(charges), 3))
        np.add.at(forces, i, along)
        np.add.at(forces, j, -along)
        return forces, self.vectors.T @ along


class Surroundings:
    """The two sums of a structure.

    Args:
        model: constants; solved: (n,) whether an atom's charge is solved; others get 0.
    """

    def __init__(self, model: SurroundingsModel, solved: NDArray[np.bool_]) -> None:
        self.model = model
        self._solved = solved
        self._tables = (model.table("electronegativity"), model.table("hardness"))
        self._list = NeighborList(model.cutoff, _SKIN)

    def __call__(
        self, positions: FloatArray, numbers: IntArray, cell: FloatArray, pbc: tuple[bool, bool, bool]
    ) -> Found:
        """Values at (n,3) positions in Å; cell rows in Å, periodic directions."""
        pairs = self._list.update(positions, cell, pbc)
        i, j = pairs.i, pairs.j
        vectors = positions[j] + pairs.shifts @ np.where(np.asarray(pbc)[:, None], cell, 0.0) - positions[i]
        squared = (vectors**2).sum(axis=1) / self.model.cutoff**2
        near = np.flatnonzero((squared < 1.0) & (self._solved[i] | self._solved[j]))
        i, j, vectors = i[near], j[near], vectors[near]
        inside = 1.0 - squared[near]
        value, slope = inside**3, -6.0 * inside**2 / self.model.cutoff**2
        sums: list[FloatArray] = []
        constants: list[FloatArray] = []
        for table in self._tables:
            ends = (
                table[numbers[i], numbers[j]] * self._solved[i],
                table[numbers[j], numbers[i]] * self._solved[j],
            )
            total = np.zeros(len(positions))
            np.add.at(total, i, ends[0] * value)
            np.add.at(total, j, ends[1] * value)
            sums.append(total)
            constants.extend(ends)
        a, b, c, d = constants
        return Found(sums[0], sums[1], i, j, vectors, slope, (a, b, c, d))

    def state(self) -> dict[str, NDArray[Any]]:
        """The neighbour list, whose order decides the last digits."""
        return {f"surroundings_{k}": np.asarray(v) for k, v in self._list.state().items()}

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `state` returned."""
        self._list.load_state(
            {
                k.removeprefix("surroundings_"): np.asarray(v)
                for k, v in state.items()
                if k.startswith("surroundings_")
            }
        )
