"""The classical short range: harmonic molecules and Lennard-Jones, exact forces and strain derivative.

    E_SR = sum 1/2 k (r - r0)² + sum 1/2 k (theta - theta0)² + sum over pairs E_LJ(r_ij)

Lennard-Jones acts between all atoms and images within the cut-off except the pairs in `exclusions`; the
Coulomb part of the energy belongs to the Coulomb operator, which takes charges and exclusions from here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from grahame.hybrid.shortrange.base import FloatArray, IntArray, ShortRangeResult
from grahame.hybrid.shortrange.bonded import bonded_terms, nearest_shifts
from grahame.hybrid.shortrange.lennard_jones import Truncation, lennard_jones, make_switch
from grahame.hybrid.shortrange.literature import build_tables
from grahame.hybrid.shortrange.tables import ForceFieldTables, Mixing, mixed_coefficients
from grahame.hybrid.shortrange.topology import find_topology
from grahame.kernels.cpu_lennard_jones import SortedRows, sorted_rows
from grahame.kernels.neighbors import NeighborList, Pairs


class ClassicalForceField:
    """Bonds, angles and Lennard-Jones of one fixed topology.

    Molecules are decided when the object is made and never change afterwards; atoms may be wrapped or not.

    Args:
        tables: types, charges and bonded terms; `from_atoms` makes them from the literature, `load_lammps`
            from a LAMMPS data file.
        mixing: "lorentz-berthelot" or "geometric".
        cutoff: Å, of Lennard-Jones.
        truncation: "force-switch" (force and its slope go smoothly to zero) or "plain" (for comparisons).
        switch_distance: Å, where the switch begins; None for 2 Å below the cut-off.
        electrode_lj: Lennard-Jones between atoms of electrodes. For frozen electrodes it is a constant in
            the energy: leaving it out saves time and changes no force on the electrolyte.
        skin: Å, how much further than the cut-off the neighbour list reaches.
        sources: where the parameters come from, for the provenance record.

    Raises:
        ValueError: parameters out of range, each named.
    """

    def __init__(
        self,
        tables: ForceFieldTables,
        *,
        mixing: Mixing = "lorentz-berthelot",
        cutoff: float = 10.0,
        truncation: Truncation = "force-switch",
        switch_distance: float | None = None,
        electrode_lj: bool = True,
        skin: float = 1.0,
        sources: Mapping[str, str] | None = None,
    ) -> None:
        self.tables = tables
        self.mixing: Mixing = mixing
        self.truncation: Truncation = truncation
        self.electrode_lj = electrode_lj
        self.sources = dict(sources or {})
        self._switch = make_switch(cutoff, switch_distance, truncation)
        epsilon, sigma = mixed_coefficients(tables.epsilon, tables.sigma, mixing)
        self._c12: FloatArray = 4.0 * epsilon * sigma**12
        self._c6: FloatArray = 4.0 * epsilon * sigma**6
        # Most atoms of water are hydrogens without Lennard-Jones: the neighbour list never sees them.
        self._active: IntArray = np.flatnonzero(tables.epsilon[tables.types] > 0).astype(np.int64)
        place = np.full(len(tables.numbers), -1, dtype=np.int64)
        place[self._active] = np.arange(len(self._active))
        excluded = place[tables.exclusions]
        self._excluded: IntArray = np.sort(excluded[(excluded >= 0).all(axis=1)], axis=1)
        self._neighbors = NeighborList(self.cutoff, skin)
        self._pairs: Pairs | None = None
        self._rows: SortedRows | None = None

    @classmethod
    def from_atoms(
        cls,
        atoms: Atoms,
        electrodes: Sequence[Sequence[int]] | None = None,
        *,
        water: str = "spc/fw",
        mixing: Mixing = "lorentz-berthelot",
        cutoff: float = 10.0,
        truncation: Truncation = "force-switch",
        switch_distance: float | None = None,
        electrode_lj: bool = True,
        skin: float = 1.0,
    ) -> "ClassicalForceField":
        """Find the molecules of a structure and give them literature parameters.

        Args:
            atoms: water, Na, Cl and metal atoms; Å.
            electrodes: index groups, one per electrode; None takes `atoms.arrays["electrode"]`.
            water: "spc/fw" (flexible) or "spc/e-rigid" (no bonded terms: add `rigid_water_constraints`).
                Na+ and Cl- are those fitted for SPC/E with either water.
            mixing, cutoff, truncation, switch_distance, electrode_lj, skin: as for the class.

        Returns:
            The force field of this structure.

        Raises:
            ValueError: unknown water model or element, a fragment that is neither water nor ion nor metal.

        Source: Wu, Tepper, Voth (2006); Berendsen, Grigera, Straatsma (1987); Joung, Cheatham (2008);
            Heinz et al. (2008): see `parameters`.
        """
        tables, sources = build_tables(atoms.numbers.copy(), find_topology(atoms, electrodes), water)
        return cls(
            tables,
            mixing=mixing,
            cutoff=cutoff,
            truncation=truncation,
            switch_distance=switch_distance,
            electrode_lj=electrode_lj,
            skin=skin,
            sources=sources,
        )

    @property
    def cutoff(self) -> float:
        """Lennard-Jones cut-off in Å."""
        return self._switch.cutoff

    @property
    def charges(self) -> FloatArray:
        """(n,) e; electrode atoms 0 unless the tables say otherwise."""
        return self.tables.charges

    @property
    def exclusions(self) -> IntArray:
        """(m,2) pairs inside molecules that the Coulomb operator leaves out."""
        return self.tables.exclusions

    @property
    def molecules(self) -> IntArray:
        """(n,) molecule of each atom, counted from 0."""
        return self.tables.molecules

    @property
    def neighbor_builds(self) -> int:
        """How often the neighbour list was found anew."""
        return self._neighbors.builds

    def compute(
        self,
        positions: FloatArray,
        numbers: IntArray,
        cell: FloatArray,
        pbc: tuple[bool, bool, bool],
        stress: bool = False,
    ) -> ShortRangeResult:
        """Energy, forces and, on request, the strain derivative of one frame.

        Args:
            positions: (n,3) Å, wrapped or not.
            numbers: (n,) atomic numbers, those of the topology.
            cell: (3,3) rows, Å.
            pbc: periodic directions.
            stress: also dE/d(strain).

        Returns:
            The result; charges, smearing (points) and exclusions are those of the tables.

        Raises:
            ValueError: other atoms than the topology's, positions that are not finite, coincident atoms.
        """
        x: FloatArray = np.ascontiguousarray(positions, dtype=np.float64)
        h: FloatArray = np.ascontiguousarray(cell, dtype=np.float64)
        periodic = (bool(pbc[0]), bool(pbc[1]), bool(pbc[2]))
        self._check(x, np.asarray(numbers))
        t = self.tables

        bonded, forces, strain = bonded_terms(
            x,
            h,
            periodic,
            t.bonds,
            t.bond_constants,
            t.bond_lengths,
            t.angles,
            t.angle_constants,
            t.angle_values,
        )
        pair = 0.0
        if len(self._active):
            active = np.ascontiguousarray(x[self._active])
            rows = self._current_rows(active, h, periodic)
            types = t.types[self._active]
            pair, pair_forces, pair_strain = lennard_jones(
                active, h, rows, types, self._c12, self._c6, self._switch, stress
            )
            forces[self._active] += pair_forces
            strain += pair_strain
        energy = bonded + pair
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            self._report_coincident(x, h, periodic)
        n = len(x)
        return ShortRangeResult(
            energy=energy,
            forces=forces,
            virial=0.5 * (strain + strain.T) if stress else None,
            charges=t.charges.copy(),
            smearing=np.zeros(n),
            exclusions=t.exclusions,
        )

    def describe(self) -> dict[str, Any]:
        """Parameters, sources and sizes, ready for JSON."""
        t = self.tables
        types = []
        for kind in range(len(t.epsilon)):
            members = np.flatnonzero(t.types == kind)
            types.append(
                {
                    "element": chemical_symbols[t.numbers[members[0]]] if len(members) else None,
                    "atoms": len(members),
                    "epsilon_eV": float(t.epsilon[kind]),
                    "sigma_A": float(t.sigma[kind]),
                    "charge_e": float(t.charges[members[0]]) if len(members) else None,
                }
            )
        return {
            "name": "classical",
            "sources": dict(self.sources),
            "mixing": self.mixing,
            "cutoff_A": self.cutoff,
            "truncation": self.truncation,
            "switch_distance_A": self._switch.start if self.truncation == "force-switch" else None,
            "electrode_lj": self.electrode_lj,
            "types": types,
            "bonds": len(t.bonds),
            "angles": len(t.angles),
            "exclusions": len(t.exclusions),
        }

    def state(self) -> dict[str, NDArray[Any]]:
        """The neighbour list: a restart that loads it continues with the same list."""
        return dict(self._neighbors.state())

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Restore the neighbour list of `state`."""
        self._neighbors.load_state(dict(state))
        self._pairs = None
        self._rows = None

    def _current_rows(self, active: FloatArray, cell: FloatArray, pbc: tuple[bool, bool, bool]) -> SortedRows:
        """Rows of the neighbour list without excluded and switched-off pairs."""
        pairs = self._neighbors.update(active, cell, pbc)
        if self._rows is not None and pairs is self._pairs:
            return self._rows
        keep = np.ones(len(pairs.i), dtype=bool)
        if not self.electrode_lj:
            in_electrode = self.tables.electrode[self._active] >= 0
            keep &= ~(in_electrode[pairs.i] & in_electrode[pairs.j])
        if len(self._excluded):
            a, b = self._excluded.T
            n = len(active)
            key = a * n + b
            order = np.argsort(key)
            nearest = nearest_shifts(active[b] - active[a], cell, pbc)[order]
            low, high = np.minimum(pairs.i, pairs.j), np.maximum(pairs.i, pairs.j)
            toward = np.where((pairs.i <= pairs.j)[:, None], pairs.shifts, -pairs.shifts)
            where = np.minimum(np.searchsorted(key[order], low * n + high), len(key) - 1)
            match = key[order][where] == low * n + high
            # Only the nearest image is the bonded partner; further images interact.
            keep &= ~(match & (nearest[where] == toward).all(axis=1))
        first, second, shifts = (a[keep].astype(np.int64) for a in (pairs.i, pairs.j, pairs.shifts))
        self._rows = sorted_rows(len(active), first, second, shifts)
        self._pairs = pairs
        return self._rows

    def _check(self, x: FloatArray, numbers: NDArray[Any]) -> None:
        n = len(self.tables.numbers)
        if x.shape != (n, 3):
            raise ValueError(
                f"shape of positions = {x.shape} must be ({n}, 3): the topology is fixed when the force "
                "field is made, make a new one for another structure"
            )
        if len(numbers) != n or not np.array_equal(numbers, self.tables.numbers):
            if len(numbers) != n:
                raise ValueError(
                    f"length of numbers = {len(numbers)} must be {n}: make a new force "
                    "field for another structure"
                )
            bad = int(np.flatnonzero(numbers != self.tables.numbers)[0])
            raise ValueError(
                f"element of atom {bad} = {chemical_symbols[numbers[bad]]} must be "
                f"{chemical_symbols[self.tables.numbers[bad]]} as in the topology: make a new force field "
                "for another structure"
            )
        bad_rows = np.flatnonzero(~np.isfinite(x).all(axis=1))
        if len(bad_rows):
            raise ValueError(
                f"positions[{bad_rows[0]}] = {x[bad_rows[0]]} Å must be finite: check the structure"
            )

    def _report_coincident(self, x: FloatArray, cell: FloatArray, pbc: tuple[bool, bool, bool]) -> None:
        """Raise with the pair of atoms behind an energy that is not finite."""
        closest = NeighborList(1e-3, 0.0).update(x, cell, pbc)
        if len(closest.i):
            vectors = x[closest.j] + closest.shifts @ cell - x[closest.i]
            r = np.linalg.norm(vectors, axis=1)
            worst = int(np.argmin(r))
            raise ValueError(
                f"distance = {r[worst]:.3g} Å of atoms {closest.i[worst]} and {closest.j[worst]} must be "
                "above 0.001 Å: move one of the coincident atoms"
            )
        raise FloatingPointError(
            "energy = inf eV must be finite: atoms are too close, minimise with a smaller step"
        )
