"""The sum of terms: short range, electrolyte charges, electrode charges, one energy Omega and its forces.

    Omega = E_SR(R) + min over q_s of { U(q_s, q_L(R), R) - sum over held groups of psi_g Q_g }

Where electrodes give charge to the electrolyte it counts with Q_g, see `exchange`.
The short range says which charges the electrolyte carries; the Coulomb operator and the electrode solve do
the rest. Arrays only: no ASE, no files, no configuration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from grahame.electrostatics import ConstantPotential, Coulomb, Electrode
from grahame.electrostatics.constant_potential import ConstantPotentialResult
from grahame.electrostatics.electrodes import what_is_held
from grahame.hybrid.boundary_check import PBC, check_frame
from grahame.hybrid.charge_energy import following, refuse_held_potentials
from grahame.hybrid.crossing import (
    Linear,
    refuse_following,
    refuse_periodic_field,
    refuse_shared,
    seen_by_operator,
)
from grahame.hybrid.exchange import refuse_exchange, reservoirs, supplied
from grahame.hybrid.predicted import (
    Predicted,
    as_arrays,
    beyond_operator,
    crossed_of,
    crossing_of,
    of_sites,
    on_atoms,
    own_shift_of,
    pulls_of,
)
from grahame.hybrid.shortrange.base import Response, SeesElectrodes, ShortRange, ShortRangeResult
from grahame.hybrid.unwrap import image_shifts

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class HybridResult:
    """Everything one evaluation gives.

    Attributes:
        energy: Omega, eV.
        internal_energy: E_SR + U, eV; Omega = internal_energy - work (+ field_energy).
        short_range_energy: E_SR, eV.
        work: sum of psi_g (Q_g + T_g) over groups at held potentials, eV; T_g is charge that the electrolyte has from
            group g (`hybrid.exchange`), usually none.
        field_energy: -V E²/(8 pi k) in finite field, 0 elsewhere, eV.
        forces: (n, 3) -dOmega/dR, eV/Å.
        stress: (3, 3) dOmega/d(strain)/V, eV/Å³, V of the user's cell; None where not asked for.
        charges: (n,) e.
        dipole: (3,) sum of q r and of atomic dipoles, e Å; multivalued along periodic directions, and dependent on
            the origin in charged cells.
        electrode_charges: (groups,) e.
        electrode_potentials: (groups,) V.
        reservoir_charges: (groups,) e, Q_g + T_g: what left the reservoir of a group at a held potential, which a ramp of
            the potential does work on; Q_g at held charges.
        iterations, residual: of the iterative solver, 0 where it was not used.
    """

    energy: float
    internal_energy: float
    short_range_energy: float
    work: float
    field_energy: float
    forces: Floats
    stress: Floats | None
    charges: Floats
    dipole: Floats
    electrode_charges: Floats
    electrode_potentials: Floats
    reservoir_charges: Floats
    iterations: int
    residual: float


_SMEARING = 0.392  # Å, usual for gold


def _moment(charges: Floats, positions: Floats) -> Floats:
    """sum of q r, e Å. Not a matrix product: those may round differently from one process to the next, and a
    restarted run must write the same digits."""
    return np.asarray((charges[:, None] * positions).sum(axis=0))


class HybridPotential:
    """Energy, forces and charges of atoms under held potentials, charges, a field or a displacement.

    Args:
        short_range: energy without Coulomb, electrolyte charges, widths and exclusions.
        coulomb: the Coulomb operator with its boundary.
        electrodes: groups of solved atoms; none gives plain electrostatics of the given charges.
        field: V/Å, a vector or its component along the surface normal a x b; None for none.
        displacement: D/eps0 along the surface normal, V/Å, with boundary "displacement".
        total_charge: of the whole cell, e; None where a background carries the rest.
        solve_options: smearing, hardness, ... as `ConstantPotential` takes them; smearing None takes the widths a
            learned short range has for the electrodes' elements, and 0.392 Å with any other.
    """

    def __init__(
        self,
        short_range: ShortRange,
        coulomb: Coulomb,
        electrodes: Sequence[Electrode] = (),
        *,
        field: Any = None,
        displacement: float | None = None,
        total_charge: float | None = 0.0,
        **solve_options: Any,
    ) -> None:
        periodic = coulomb.boundary == "3d" and field is not None and bool(np.any(np.asarray(field) != 0.0))
        if periodic and (electrodes or not isinstance(short_range, SeesElectrodes)):
            refuse_periodic_field(field)
        if field is not None and coulomb.boundary == "open" and np.ndim(field) == 0:
            raise ValueError(
                f"field = {field:g} V/Å must be a vector with boundary open: without a cell there is no surface normal"
            )
        self.short_range = short_range
        self.coulomb = coulomb
        self.electrodes = list(electrodes)
        self.field = field
        self.displacement = displacement
        self.total_charge = total_charge
        self.solver: ConstantPotential | None = None
        self._options = solve_options
        self._pending: dict[str, NDArray[Any]] | None = None
        # Elements of the electrodes' atoms whose widths the solver has.
        self._elements: NDArray[np.int64] | None = None
        self._indices = [np.asarray(e.indices, dtype=np.int64) for e in self.electrodes]
        if isinstance(short_range, SeesElectrodes):
            short_range.set_solved(np.concatenate([np.zeros(0, dtype=np.int64), *self._indices]))
        if electrodes and not self._widths_from_model:
            self._make_solver(None)

    @property
    def _widths_from_model(self) -> bool:
        return self._options.get("smearing") is None and isinstance(self.short_range, SeesElectrodes)

    def _make_solver(self, numbers: NDArray[np.int64] | None) -> None:
        options = dict(self._options)
        if options.get("smearing") is None:
            options["smearing"] = _SMEARING
            if numbers is not None and isinstance(self.short_range, SeesElectrodes):
                options["smearing"] = self.short_range.widths(numbers)[np.concatenate(self._indices)]
        self.solver = ConstantPotential(self.electrodes, self.coulomb, **options)
        if self._pending is not None:
            self.solver.load_state(self._pending)
            self._pending = None

    def prepare(self, numbers: NDArray[np.int64]) -> None:
        """Make the electrode solver, if the widths of its atoms come from the short range.

        Args:
            numbers: (n,) atomic numbers.
        Raises:
            ValueError: for an electrode with an atom that the structure does not have.
        """
        if not self.electrodes:
            return
        for g, indices in enumerate(self._indices):
            if indices.max() >= len(numbers) or indices.min() < 0:
                outside = indices.max() if indices.max() >= len(numbers) else indices.min()
                raise ValueError(
                    f"electrode {g} = atom {int(outside)} must be an atom of the structure, which has "
                    f"{len(numbers)}: check the indices"
                )
        if self.solver is not None and self._elements is not None:
            solved = np.concatenate(self._indices)
            if solved.max() >= len(numbers) or not np.array_equal(self._elements, numbers[solved]):
                self.solver = None
        if self.solver is None:
            self._make_solver(numbers)
            self._elements = numbers[np.concatenate(self._indices)] if self._widths_from_model else None

    def evaluate(
        self,
        positions: Floats,
        numbers: NDArray[np.int64],
        cell: Floats,
        pbc: PBC,
        *,
        potentials: Floats | None = None,
        electrode_charges: Floats | None = None,
        stress: bool = False,
    ) -> HybridResult:
        """One frame.

        Args:
            positions: (n, 3) Å; cell: (3, 3) Å rows; numbers: (n,) atomic numbers; pbc: periodic directions.
            potentials, electrode_charges: override what the electrodes hold, V and e.
            stress: compute the stress as well.
        Raises:
            ValueError: for positions that are not finite, pbc that does not fit the boundary, an atom whose
                side of the boundary is ambiguous, and what the terms refuse.
        """
        repeated = check_frame(self.coulomb.boundary, positions, cell, pbc)
        self.prepare(numbers)
        boundary = self.coulomb.boundary
        # In "3d" nothing depends on the cell's cut, but labels of a slab may be evaluated beside it.
        seen = boundary
        if boundary == "3d" and isinstance(self.short_range, SeesElectrodes):
            seen = self.short_range.also_seen_in or boundary
        shifts = image_shifts(positions, numbers, cell, self._indices, seen, pbc[2])
        if shifts.any():
            positions = positions + shifts[:, None] * cell[2]
        self._check_exchange(potentials, electrode_charges)
        near = self.short_range.compute(positions, numbers, cell, repeated, stress)
        if boundary == "displacement" and near.shared:
            refuse_shared()
        box = None if boundary == "open" else cell
        field = self._field(cell)
        if self.solver is None:
            return self._plain(positions, near, box, field, stress)
        displacement = self._displacement(near, cell)
        places, atoms = near.places(positions), len(positions)
        follows = self._field_follows(potentials, electrode_charges)
        predicted = Predicted.of(
            near.charges,
            self._of_solved(near.electronegativity),
            self._of_solved(near.hardness),
            graph=follows and near.respond is not None,
        )
        given: dict[str, Any] = {
            "potentials": potentials,
            "electrode_charges": electrode_charges,
            "field": field,
            "displacement": displacement,
            "smearing": near.smearing,
            "exclusions": near.exclusions,
            "total_charge": self.total_charge,
        }
        far = self.solver.solve(
            places,
            predicted.charges,
            box,
            forces=True,
            stress=stress,
            electronegativity=predicted.electronegativity,
            hardness=predicted.hardness,
            **given,
        )
        slopes = predicted.slopes(far.energy)
        far = as_arrays(far)
        crossed = crossed_of(self.coulomb, far.charges, places, cell, far.field, displacement)
        own = own_shift_of(near, self.coulomb, places, box)
        if follows and near.crossing is not None:
            refuse_following(torch.as_tensor(near.crossing), torch.as_tensor(cell))
        gained = beyond_operator(near, crossed, own, boundary, cell)
        response = self._response(far, near, atoms, crossed, slopes, own)
        exchanged, reservoir = 0.0, np.array(far.electrode_charges, dtype=float)
        if near.given is not None:
            held = what_is_held(self.electrodes, potentials, electrode_charges, torch.device("cpu"))
            supply = reservoirs(self._indices, held.potentials.tolist(), held.by_charge, atoms)
            exchanged = float(supply @ near.given)
            reservoir += supplied(self._indices, held.by_charge, near.given)
            response = replace(response, given=-supply)
        local, after = near.energy, None
        if near.of_charges is not None:
            if not self._all_by_charge(potentials, electrode_charges):
                refuse_held_potentials()
            charges = np.asarray(far.charges)
            gain, slope = near.of_charges(charges)
            local += gain
            constants = self._of_solved(near.electronegativity), self._of_solved(near.hardness)
            after = following(self.solver, positions, near.charges, box, slope, *constants, stress, **given)
            response = after.add_to(response, np.concatenate(self._indices), charges)
        forces, virial = near.derivatives(response)
        if after is not None:
            forces = forces + after.forces
            virial = None if virial is None or after.virial is None else virial + after.virial
        return HybridResult(
            energy=local + float(far.energy) + gained - exchanged,
            internal_energy=local + float(far.internal_energy) + gained,
            short_range_energy=local,
            work=float(far.work) + exchanged,
            field_energy=float(far.field_energy),
            forces=forces + on_atoms(near, far.forces),
            stress=self._stress(virial, far.stress, cell) if stress else None,
            charges=np.asarray(far.charges)[:atoms],
            dipole=_moment(np.asarray(far.charges), places) + crossing_of(near),
            electrode_charges=np.asarray(far.electrode_charges),
            electrode_potentials=np.asarray(far.potentials),
            reservoir_charges=reservoir,
            iterations=int(far.iterations),
            residual=float(far.residual),
        )

    def _of_solved(self, values: Floats | None) -> Floats | None:
        """Entries of the solved atoms, in the order of the electrodes."""
        return None if values is None else values[np.concatenate(self._indices)]

    def _response(
        self,
        far: ConstantPotentialResult,
        near: ShortRangeResult,
        atoms: int,
        crossed: Linear | None,
        slopes: tuple[Floats | None, ...],
        own: float,
    ) -> Response:
        """What Omega gains from predicted charges and site constants.

        Predicted charges that move the sum of the electrolyte take the opposite from the electrodes, whence the
        multiplier; it adds nothing where that sum is constant. Omega is stationary in the charges of the electrodes, but
        not in a field that follows them: there `slopes` (by charges, electronegativity and hardness) say it all.
        """
        solved = np.concatenate(self._indices)
        potential, half_squares = np.asarray(far.potential + far.multiplier), np.zeros(atoms)
        q = np.zeros(atoms)
        q[solved] = far.charges[solved]
        half_squares[solved] = 0.5 * q[solved] ** 2
        by_charge, by_electronegativity, by_hardness = slopes
        if by_charge is not None:
            potential = by_charge
        if by_electronegativity is not None:
            q[solved] = by_electronegativity
        if by_hardness is not None:
            half_squares[solved] = by_hardness
        potential = potential - of_sites(near, 2.0 * own)
        return Response(potential, q, half_squares, pulls_of(near, far.forces, atoms), crossed)

    def _check_exchange(self, potentials: Floats | None, electrode_charges: Floats | None) -> None:
        """Refuse held charges everywhere where the electrolyte exchanges charge with the electrodes."""
        exchanges = isinstance(self.short_range, SeesElectrodes) and self.short_range.exchanges
        if self.electrodes and exchanges and self._all_by_charge(potentials, electrode_charges):
            refuse_exchange()

    def _field_follows(self, potentials: Floats | None, electrode_charges: Floats | None) -> bool:
        """Whether the field follows the electrodes' charges: finite field with both of them held, now."""
        return self.coulomb.boundary == "finite-field" and self._all_by_charge(potentials, electrode_charges)

    def _all_by_charge(self, potentials: Floats | None, electrode_charges: Floats | None) -> bool:
        """Whether every electrode holds its charge, now."""
        return all(
            what_is_held(self.electrodes, potentials, electrode_charges, torch.device("cpu")).by_charge
        )

    def _displacement(self, near: ShortRangeResult, cell: Floats) -> float | None:
        """D that the solver is given: what charges exchange through the cell's faces counts as a part of it."""
        c = self.coulomb
        return seen_by_operator(c.boundary, self.displacement, near.crossing, cell, c.coulomb_constant)

    def _field(self, cell: Floats) -> Floats | None:
        """The given field as a vector; a number is its component along a x b."""
        if self.field is None:
            return None
        field = np.asarray(self.field, dtype=float)
        if field.ndim:
            return field
        normal = np.cross(cell[0], cell[1])
        return np.asarray(field * normal / np.linalg.norm(normal))

    def _plain(
        self,
        positions: Floats,
        near: ShortRangeResult,
        box: Floats | None,
        field: Floats | None,
        stress: bool,
    ) -> HybridResult:
        places, atoms = near.places(positions), len(positions)
        displacement = self._displacement(near, np.zeros((3, 3)) if box is None else box)
        if (
            self.coulomb.boundary == "3d"
            and field is not None
            and np.any(field != 0.0)
            and near.crossing is None
        ):
            refuse_periodic_field(self.field)
        self._check_total(near)
        far = self.coulomb(
            places,
            near.charges,
            box,
            smearing=near.smearing,
            exclusions=near.exclusions,
            field=field,
            displacement=displacement,
            forces=True,
            stress=stress,
        )
        own = own_shift_of(near, self.coulomb, places, box)
        none = np.zeros(atoms)
        pulls = pulls_of(near, far.forces, atoms)
        crossed = None
        if box is not None:
            crossed = crossed_of(self.coulomb, near.charges, places, box, field, displacement)
        energy = near.energy + float(far.energy)
        energy += beyond_operator(near, crossed, own, self.coulomb.boundary, box)
        potential = np.asarray(far.potential) - of_sites(near, 2.0 * own)
        forces, virial = near.derivatives(Response(potential, none, none, pulls, crossed))
        return HybridResult(
            energy=energy,
            internal_energy=energy,
            short_range_energy=near.energy,
            work=0.0,
            field_energy=0.0,
            forces=forces + on_atoms(near, far.forces),
            stress=None if box is None or not stress else self._stress(virial, far.stress, box),
            charges=np.asarray(near.charges)[:atoms],
            dipole=_moment(near.charges, places) + crossing_of(near),
            electrode_charges=np.zeros(0),
            electrode_potentials=np.zeros(0),
            reservoir_charges=np.zeros(0),
            iterations=0,
            residual=0.0,
        )

    def _check_total(self, near: ShortRangeResult) -> None:
        """Refuse charges of a model that do not add up to the cell's; without electrodes nothing else could."""
        total = float(near.charges.sum())
        if self.total_charge is None or not isinstance(self.short_range, SeesElectrodes):
            return
        if near.charges.any() and abs(total - self.total_charge) > 1e-6:
            raise ValueError(
                f"total_charge = {self.total_charge:g} e must be the sum of the model's charges, {total:g} e: state the cell's "
                "charge, or give formal_charges per atom or fragments with their charges"
            )

    @staticmethod
    def _stress(virial: Floats | None, coulomb: Floats | None, cell: Floats) -> Floats:
        if virial is None or coulomb is None:
            raise RuntimeError("stress = None must be computed by every term: ask for it where it is defined")
        total: Floats = virial / abs(float(np.linalg.det(cell))) + coulomb
        return 0.5 * (total + total.T)

    def state(self) -> dict[str, NDArray[Any]]:
        """What the next result depends on beside its arguments: lists, solver history, chosen parameters."""
        state = {f"short_range.{k}": v for k, v in self.short_range.state().items()}
        far = self._pending
        if far is None and self.electrodes:
            # Without a solver nothing was solved that the next result could depend on.
            far = {} if self.solver is None else self.solver.state()
        elif far is None:
            far = self.coulomb.state()
        return state | {f"coulomb.{k}": v for k, v in far.items()}

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `state` returned."""

        def part(prefix: str) -> dict[str, NDArray[Any]]:
            return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}

        self.short_range.load_state(part("short_range."))
        if self.electrodes and self.solver is None:
            self._pending = part("coulomb.") or None
        else:
            (self.solver if self.solver is not None else self.coulomb).load_state(part("coulomb."))
