"""What keeps Coulomb energy from being counted twice beside a model that already holds some of it.

A model trained on whole energies has learned, within its reach, the Coulomb energy of its training data. Adding
the long range U to it counts that part twice. Two ways to take it out again:

    Switched        Omega = E + U - sum over pairs of S(r) q_i q_j k erf(g r)/r
    LabelEnsemble   Omega = E + U(what is held now) - U(what was held when the labels were computed)

The first removes near pairs from U, which E keeps; from `inner` to `outer` a share 1 - S of each pair still counts
twice unless E was trained against the same removal, so choose `inner` close to `outer` and both close to the
model's cut-off. It leaves alone what electrodes do to near atoms, which E holds as well, and is refused beside
them. The second leaves E untouched in the conditions it was trained under and adds exactly what other potentials,
charges or fields change; it adds no long range that the model has not learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from grahame.electrostatics import ConstantPotential, Coulomb, Electrode
from grahame.hybrid.crossing import (
    Linear,
    energy_of_crossing,
    refuse_periodic_field,
    refuse_shared,
    seen_by_operator,
)
from grahame.hybrid.shortrange.base import FloatArray, IntArray


@dataclass(frozen=True)
class Switched:
    """Near pairs are left to the model.

    Attributes:
        inner, outer: radii between which the removal fades, Å.
    """

    inner: float
    outer: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.inner < self.outer:
            raise ValueError(
                f"switch = ({self.inner:g}, {self.outer:g}) Å must be two radii, 0 <= inner < outer: choose both "
                "close to the model's cut-off"
            )


@dataclass(frozen=True)
class Counted:
    """Electrostatics of the label's ensemble.

    Attributes:
        energy: eV; forces: (n,3) eV/Å at fixed predicted charges; virial: (3,3) eV or None.
        potential: (n,) V, dU/dq of predicted charges; charges: (n,) e, all atoms.
        crossing: how the energy follows charge exchanged through the cell's faces; None where it does not.
    """

    energy: float
    forces: FloatArray
    virial: FloatArray | None
    potential: FloatArray
    charges: FloatArray
    crossing: Linear | None


class LabelEnsemble:
    """The electrostatics that a model's training energies already held.

    Solved atoms form one group, since all metal atoms of a calculation share one Fermi level; its charge is
    `total_charge` less that of the other atoms.

    Args:
        coulomb: an operator of its own, with the boundary of the labels.
        total_charge: of the labels' cells, e.
        field: V/Å, a vector; displacement: V/Å; as in the labels.
        solve_options: hardness, electronegativity, thomas_fermi_length, voronoi_volume, solver, tolerance: the same
            as the calculator's. Widths are those of the short range; leave `smearing` out of the calculator.
    """

    def __init__(
        self,
        coulomb: Coulomb,
        total_charge: float = 0.0,
        *,
        field: Any = None,
        displacement: float | None = None,
        **solve_options: Any,
    ) -> None:
        if "smearing" in solve_options:
            raise ValueError(
                f"smearing = {solve_options['smearing']} Å must be left out: give the widths to the charges, which both "
                "the run and the labels then have"
            )
        self.coulomb, self.total_charge = coulomb, total_charge
        self.field = None if field is None else np.asarray(field, dtype=float)
        self.displacement = displacement
        self._options = solve_options
        self._solver: tuple[bytes, ConstantPotential] | None = None
        self._pending: dict[str, NDArray[Any]] | None = None

    def __call__(
        self,
        positions: FloatArray,
        cell: FloatArray,
        charges: FloatArray,
        widths: FloatArray,
        electronegativity: FloatArray | None,
        hardness: FloatArray | None,
        solved: IntArray,
        exclusions: IntArray,
        stress: bool,
        crossing: FloatArray | None = None,
    ) -> Counted:
        """Evaluate one frame; entries of `charges` of solved atoms are ignored.

        `crossing` (3,) e Å is what charges exchange through the cell's faces, see `hybrid.crossing`.
        """
        box = None if self.coulomb.boundary == "open" else cell
        volume = abs(float(np.linalg.det(cell)))
        h, k = torch.as_tensor(np.asarray(cell, dtype=float)), self.coulomb.coulomb_constant
        displacement = seen_by_operator(self.coulomb.boundary, self.displacement, crossing, cell, k)

        def follows(found: FloatArray) -> tuple[Linear | None, float]:
            """How the energy follows `crossing`, and what of it the operator has not counted."""
            acting = None if self.field is None else torch.as_tensor(self.field)
            q, places = torch.as_tensor(found), torch.as_tensor(positions)
            linear = energy_of_crossing(self.coulomb.boundary, q, places, h, acting, displacement, k)
            if linear is None or crossing is None or self.coulomb.boundary == "displacement":
                return linear, 0.0
            return linear, float(linear(torch.as_tensor(crossing), h))

        if not len(solved):
            far = self.coulomb(
                positions,
                charges,
                box,
                smearing=widths,
                exclusions=exclusions,
                field=self.field,
                displacement=displacement,
                forces=True,
                stress=stress,
            )
            linear, gained = follows(charges)
            virial = None if far.stress is None else np.asarray(far.stress) * volume
            potential = np.asarray(far.potential)
            energy = float(far.energy) + gained
            return Counted(energy, np.asarray(far.forces), virial, potential, charges, linear)
        result = self._for(solved, widths).solve(
            positions,
            charges,
            box,
            electrode_charges=np.array([self.total_charge - float(np.delete(charges, solved).sum())]),
            field=self.field,
            displacement=displacement,
            smearing=widths,
            exclusions=exclusions,
            total_charge=self.total_charge,
            forces=True,
            stress=stress,
            electronegativity=None if electronegativity is None else electronegativity[solved],
            hardness=None if hardness is None else hardness[solved],
        )
        linear, gained = follows(np.asarray(result.charges))
        return Counted(
            energy=float(result.energy) + gained,
            forces=np.asarray(result.forces),
            virial=None if result.stress is None else np.asarray(result.stress) * volume,
            # Charge that leaves the electrolyte goes to the group, whose total is what is left.
            potential=np.asarray(result.potential) - float(np.asarray(result.potentials)[0]),
            charges=np.asarray(result.charges),
            crossing=linear,
        )

    def refuse(self, shared: bool, scalar: bool) -> None:
        """Raise for labels whose field along a periodic direction these charges cannot see.

        Args:
            shared: whether all atoms share their charge; scalar: whether charges depend on positions without a path.
        """
        if shared and self.coulomb.boundary == "displacement":
            refuse_shared()
        if scalar and self.coulomb.boundary == "3d" and self.field is not None and self.field.any():
            refuse_periodic_field(self.field.tolist())

    def _for(self, solved: IntArray, widths: FloatArray) -> ConstantPotential:
        key = solved.tobytes() + widths[solved].tobytes()
        if self._solver is None or self._solver[0] != key:
            group = [Electrode(solved, charge=0.0)]
            solver = ConstantPotential(group, self.coulomb, smearing=widths[solved], **self._options)
            if self._pending is not None:
                solver.load_state(self._pending)
                self._pending = None
            self._solver = (key, solver)
        return self._solver[1]

    def describe(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "kind": "label ensemble",
            "boundary": self.coulomb.boundary,
            "accuracy": self.coulomb.accuracy,
            "total_charge": self.total_charge,
            "field": None if self.field is None else self.field.tolist(),
            "displacement": self.displacement,
        }

    def state(self) -> dict[str, NDArray[Any]]:
        """What the next result depends on beside its arguments."""
        return dict(self._solver[1].state() if self._solver is not None else self.coulomb.state())

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `state` returned."""
        if any(key.startswith("coulomb_") for key in state):
            self._solver, self._pending = None, dict(state)
        else:
            self.coulomb.load_state(dict(state))
