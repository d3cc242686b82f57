"""What a short-range energy model hands to the hybrid potential, whatever it is made of.

A short range owns every term of the energy that is not Coulomb: bonds and Lennard-Jones of a classical
force field, or the local part of a learned model. Beside its energy it says which charges the electrolyte
carries, how wide they are and which pairs the Coulomb operator must leave out, so that nothing is counted
twice.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from grahame.hybrid.crossing import Linear

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Response:
    """What Omega gains from the quantities that a short range predicts.

    Attributes:
        potential: (n+m,) dOmega/dq of predicted charges, those of sites last, V.
        charges: (n,) dOmega/dchi of solved atoms: their charges, e; 0 elsewhere.
        half_squares: (n,) dOmega/dJ of solved atoms: q²/2, e²; 0 elsewhere.
        pulls: (m,3) dOmega/d(offset) of the sites: minus the forces on them, eV/Å; None without sites.
        crossing: what Omega gains from `ShortRangeResult.crossing`, see `hybrid.crossing`; None for nothing.
        given: (n,) dOmega/d(given), V, see `hybrid.exchange`; None where nothing is exchanged.
        solved: (n,) e, all charges, at which `ShortRangeResult.of_charges` counts; None where nothing depends on them.
    """

    potential: FloatArray
    charges: FloatArray
    half_squares: FloatArray
    pulls: FloatArray | None = None
    crossing: Linear | None = None
    given: FloatArray | None = None
    solved: FloatArray | None = None


@dataclass(frozen=True)
class ChargeSites:
    """Predicted charges that stand beside atoms; with their atoms they make dipoles.

    Attributes:
        atoms: (m,) index of the atom of each; offsets: (m,3) from it, Å.
    """

    atoms: IntArray
    offsets: FloatArray

    def fold(self, forces: FloatArray) -> FloatArray:
        """(n,3) eV/Å of atoms, what pulls at their sites included, of (n+m,3) with the sites last."""
        n = len(forces) - len(self.atoms)
        out = forces[:n].copy()
        np.add.at(out, self.atoms, forces[n:])
        return out


@dataclass(frozen=True)
class ShortRangeResult:
    """Energy of the short range and what the Coulomb operator needs from it.

    Attributes:
        energy: eV.
        forces: (n,3) eV/Å, minus the gradient of `energy`; None where `respond` gives forces and virial.
        virial: (3,3) eV, dE/d(strain) at fixed fractional positions, not divided by a volume; None where
            it was not asked for.
        charges: (n,) e, or (n+m,) with those of m sites last. Entries of solved (electrode) atoms are ignored.
        smearing: (n,) Å, or (n+m,), Gaussian widths; 0 is a point charge. Entries of solved atoms are ignored.
        exclusions: (m,2) pairs whose bare Coulomb interaction (nearest image) must be removed.
        electronegativity: (n,) V and hardness: (n,) V/e of solved atoms, where the short range predicts them;
            None leaves those of the solver. Other entries are ignored.
        respond: forces and virial once the solver has said what Omega gains from the predicted quantities;
            None where nothing that is predicted depends on positions.
        sites: where charges stand beside atoms; None where there are none.
        crossing: (3,) e Å that the dipole of the predicted charges has beyond sum q r, see `hybrid.crossing`; None where
            charges are scalars without a path, whose dipole along a periodic direction has no meaning.
        shared: whether predicted charges depend on positions and add up over all atoms only, not over fragments.
        given: (n,) e that the electrolyte has from each solved atom; None where it exchanges nothing with them.
        of_charges: what `energy` lacks because it depends on solved charges, see `hybrid.charge_energy`: from all charges
            (n,) e the energy in eV and its slopes (n,) in V; None where nothing depends on them.
    """

    energy: float
    forces: FloatArray | None
    virial: FloatArray | None
    charges: FloatArray
    smearing: FloatArray
    exclusions: IntArray
    electronegativity: FloatArray | None = None
    hardness: FloatArray | None = None
    respond: Callable[[Response], tuple[FloatArray, FloatArray | None]] | None = None
    sites: ChargeSites | None = None
    crossing: FloatArray | None = None
    shared: bool = False
    given: FloatArray | None = None
    of_charges: Callable[[FloatArray], tuple[float, FloatArray]] | None = None

    def places(self, positions: FloatArray) -> FloatArray:
        """(n+m,3) Å of all charges, those of sites last, from (n,3) of the atoms."""
        if self.sites is None:
            return positions
        return np.concatenate([positions, positions[self.sites.atoms] + self.sites.offsets])

    def derivatives(self, response: Response) -> tuple[FloatArray, FloatArray | None]:
        """Forces (n,3) eV/Å and virial (3,3) eV, the response of predicted quantities included."""
        if self.respond is not None:
            return self.respond(response)
        if self.forces is None:
            raise RuntimeError("forces = None must come with `respond`: a short range gives one of the two")
        return self.forces, self.virial


@runtime_checkable
class SeesElectrodes(Protocol):
    """A short range that must know which atoms a charge solver owns, and says how wide their charges are."""

    @property
    def exchanges(self) -> bool:
        """Whether the electrolyte exchanges charge with electrodes."""
        ...

    @property
    def also_seen_in(self) -> str | None:
        """Another boundary in which positions of a "3d" run are evaluated, that of labels; None for none."""
        ...

    def set_solved(self, indices: IntArray) -> None:
        """Name these atoms, (m,) indices."""
        ...

    def widths(self, numbers: IntArray) -> FloatArray:
        """(n,) Å, Gaussian width of every atom, (n,) atomic numbers."""
        ...


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
