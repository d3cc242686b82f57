"""What a calculator that was given only a model makes of a structure: electrodes, boundary, short range."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii
from ase.geometry import find_mic
from numpy.typing import NDArray

from grahame.electrostatics import Coulomb, Electrode
from grahame.hybrid.coupling import make_coulomb
from grahame.hybrid.electrode_groups import connected_slabs, metallic, natural_boundary, rest_of
from grahame.hybrid.model import HybridModel
from grahame.hybrid.model_file import open_model
from grahame.hybrid.shortrange.learned import LearnedShortRange


def _same(found: Sequence[Electrode], before: Sequence[Electrode]) -> bool:
    """Whether electrodes are made of the same atoms in the same order."""
    return len(found) == len(before) and all(
        np.array_equal(a.indices, b.indices) for a, b in zip(found, before)
    )


class Automatic:
    """Finds what was not said, once per kind of structure.

    Args:
        model: a model, its file, or None for the model in the box.
        level: level of theory; None takes the model's first.
        coulomb: None chooses the boundary by the periodic directions, at the model's accuracy.
        electrodes: None takes the metal slabs.
        total_charge: of the cell, e.
    Raises:
        FileNotFoundError, ValueError: for files that are no models, unknown levels, and electrodes beside a model
            without charges.
    """

    def __init__(
        self,
        model: HybridModel | str | Path | None,
        level: str | None,
        coulomb: Coulomb | None,
        electrodes: Sequence[Electrode] | None,
        total_charge: float | None,
    ) -> None:
        self._model = model if isinstance(model, HybridModel) else open_model(model)
        self._level, self._coulomb, self._total = level, coulomb, total_charge
        self._given = None if electrodes is None else list(electrodes)
        spec = self._model.spec
        self._model.level(level)
        if self._given and not spec.long_range:
            raise ValueError(
                f"electrodes = {len(self._given)} must be left out with a model without charges: it has nothing that "
                "an electrode's charge could act on"
            )
        self.metals = metallic(spec.elements, [spec.formal_charge(e) for e in spec.elements])
        self.added = 0
        self._seen: tuple[bytes, tuple[bool, ...]] | None = None
        self._electrodes: list[Electrode] = []
        self._before: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        self._coulombs: dict[str, Coulomb] = {}

    def electrodes(self, atoms: Atoms) -> list[Electrode]:
        """The groups of solved atoms; the same list as long as elements and periodic directions stay, and the slabs.

        Slabs are looked for anew where a metal atom is more than its radius from where it was in the call before: that is
        another structure, while a trajectory keeps its electrodes. Metal slabs are held at 0 V. Where the model solves all
        charges, all atoms (or those beside given electrodes) are one group at the total charge.

        Raises:
            ValueError: for no atoms, metal outside slabs, and what `rest_of` refuses.
        """
        if len(atoms) == 0:
            raise ValueError(
                "atoms = 0 must be at least one: a model has nothing to say of an empty structure"
            )
        seen = (atoms.numbers.tobytes(), tuple(bool(p) for p in atoms.pbc))
        jumped = self._jumped(atoms, seen == self._seen)
        if seen == self._seen and not jumped:
            return self._electrodes
        charges = self._model.spec.charges.kind
        found = list(self._given or ())
        if charges == "solved":
            found = rest_of(len(atoms), found, self._total)
        elif charges != "none" and self._given is None:
            found = [Electrode(slab, potential=0.0) for slab in connected_slabs(atoms, self.metals)]
        self.added = len(found) - len(self._given) if self._given is not None else 0
        if seen == self._seen and _same(found, self._electrodes):
            return self._electrodes
        self._seen, self._electrodes = seen, found
        return found

    def _jumped(self, atoms: Atoms, same: bool) -> bool:
        """Whether a metal atom or the cell is elsewhere than in the call before, by more than a step of a trajectory.

        Args:
            same: whether elements and periodic directions are those of the call before.
        """
        if self._given is not None:
            return False
        metal = np.flatnonzero(np.isin(atoms.numbers, [atomic_numbers[e] for e in self.metals]))
        before, now = self._before, (atoms.positions[metal], np.array(atoms.cell))
        self._before = now
        if before is None or not same or not len(metal):
            return False
        radii = covalent_radii[atoms.numbers[metal]]
        if np.abs(now[1] - before[1]).max() > radii.min():
            return True
        moved = now[0] - before[0]
        if not (moved**2).sum(axis=1).max() > radii.min() ** 2:
            return False
        # Moving by a cell vector, as wrapping does, is no move.
        return bool((find_mic(moved, now[1], atoms.pbc)[1] > radii).any())

    def coulomb(self, pbc: Sequence[bool], potentials: NDArray[np.float64]) -> Coulomb:
        """The operator for these periodic directions and held potentials (V, nan where a charge is held)."""
        if self._coulomb is not None:
            return self._coulomb
        boundary = natural_boundary(pbc, potentials)
        if boundary not in self._coulombs:
            self._coulombs[boundary] = make_coulomb(boundary, self._model.spec.accuracy)
        return self._coulombs[boundary]

    def short_range(self) -> LearnedShortRange:
        """The model, with a neighbour list of its own."""
        return LearnedShortRange(self._model, self._level, total_charge=self._total or 0.0)
