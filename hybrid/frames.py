"""Frames: atoms, what their labels were computed under, and the labels; and batches of frames for a model.

A frame is evaluated in the ensemble of its label: the boundary, total charge, fields and electrodes that the
reference calculation had. Labels that a frame lacks are NaN in a batch, so that losses can leave them out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray
from torch import Tensor

from grahame.electrostatics.electrodes import Electrode
from grahame.hybrid.graph import Graph, batch, make_graph
from grahame.kernels.neighbors import Pairs, neighbor_pairs

__all__ = ["LABELS", "Batch", "Conditions", "Frame", "make_batch"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LABELS: dict[str, tuple[str, tuple[int, ...], str]] = {
    "energy": ("frame", (), "eV"),
    "forces": ("atom", (3,), "eV/Å"),
    "stress": ("frame", (3, 3), "eV/Å³"),
    "charges": ("atom", (), "e"),
    "dipole": ("frame", (3,), "e Å"),
    "born": ("atom", (3, 3), "e"),
    "field_response": ("atom", (3,), "e"),
    "work_function": ("frame", (), "eV"),
}
"""Labels: whether one per frame or per atom, its shape, its unit. born[a,b] = dF_a/dE_b; field_response is
dF/dE along the surface normal; work_function belongs to the side that the frame names."""


@dataclass(frozen=True)
class Conditions:
    """What is held, in the ensemble of a frame's labels.

    Attributes:
        boundary: as `Coulomb` names it; "open" for frames that repeat nowhere.
        total_charge: e, of the whole cell.
        electrodes: groups of atoms whose charges are solved, by atom index in the frame.
        field: V/Å, of the vacuum ("slab") or macroscopic ("3d").
        displacement: D/eps0 along the normal, V/Å.
        formal_charges: (n,) e; None takes the model's by element.
        fragments: (n,) index of the connected fragment of each atom, -1 for none; fragment_charges: e.
    """

    boundary: str = "3d"
    total_charge: float = 0.0
    electrodes: tuple[Electrode, ...] = ()
    field: tuple[float, float, float] | None = None
    displacement: float | None = None
    formal_charges: Floats | None = None
    fragments: Ints | None = None
    fragment_charges: Floats | None = None

    def solved(self, atoms: int) -> NDArray[np.bool_]:
        """(n,) True for atoms whose charge a solver sets."""
        mask = np.zeros(atoms, dtype=np.bool_)
        for electrode in self.electrodes:
            mask[electrode.indices] = True
        return mask


@dataclass(frozen=True)
class Frame:
    """One geometry with its labels.

    Attributes:
        numbers: (n,) atomic numbers; positions: (n,3) Å; cell: (3,3) rows in Å; pbc: directions that repeat.
        conditions: what the labels were computed under.
        labels: by the names of `LABELS`.
        level: level of theory.
        source: file the frame comes from; index: its position there, from 0.
        info: what else the file says of the frame.
        work_function_side: "+" for the side that n = a x b points to, "-" for the other; None without the label.
    """

    numbers: Ints
    positions: Floats
    cell: Floats
    pbc: tuple[bool, bool, bool]
    conditions: Conditions = Conditions()
    labels: Mapping[str, Floats] = field(default_factory=dict)
    level: str = "default"
    source: str = ""
    index: int = 0
    info: Mapping[str, Any] = field(default_factory=dict)
    work_function_side: str | None = None
    _pairs: dict[float, Pairs] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def name(self) -> str:
        """`file, frame index`, as messages name it."""
        return f"{self.source or 'frame'}, frame {self.index}"

    def pairs(self, cutoff: float) -> Pairs:
        """The half list within a cut-off (Å), found once and kept."""
        if cutoff not in self._pairs:
            found = neighbor_pairs(self.positions, self.cell, self.pbc, cutoff)
            small = np.int8 if np.abs(found.shifts).max(initial=0) < 128 else np.int32
            # Kept for all frames of a data set: lattice shifts are small numbers.
            self._pairs[cutoff] = replace(found, shifts=found.shifts.astype(small))
        return self._pairs[cutoff]


@dataclass(frozen=True)
class Batch:
    """Frames as a model takes them.

    Attributes:
        graph: atoms and neighbours of all frames.
        numbers: (n,) atomic numbers.
        conditions: per frame.
        labels: all of `LABELS`, stacked over frames or joined over atoms; NaN where a frame has none.
        levels: per frame, level of theory.
        frames: what the batch was made of.
    """

    graph: Graph
    numbers: Tensor
    conditions: tuple[Conditions, ...]
    labels: dict[str, Tensor]
    levels: tuple[str, ...]
    frames: tuple[Frame, ...] = ()

    def __len__(self) -> int:
        return len(self.conditions)

    @property
    def atoms(self) -> Tensor:
        """(B,) number of atoms of each frame, float64."""
        return self.graph.per_frame(torch.ones_like(self.graph.positions[:, 0]))

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return replace(
            self,
            graph=self.graph.to(device),
            numbers=self.numbers.to(device),
            labels={k: v.to(device) for k, v in self.labels.items()},
        )


def make_batch(frames: Sequence[Frame], elements: Sequence[str | int], cutoff: float) -> Batch:
    """Frames as one batch; neighbours of a frame are found the first time and kept with it.

    Args:
        frames: at least one.
        elements: of the model, symbols or atomic numbers, in the order of its species index.
        cutoff: Å.
    Raises:
        ValueError: for no frame, and for an element that is not listed.
    """
    if not frames:
        raise ValueError("frames = [] must hold at least one frame: check the files and the selection")
    table = np.full(len(chemical_symbols), -1, dtype=np.int64)
    for species, element in enumerate(elements):
        number = atomic_numbers[element] if isinstance(element, str) else element
        table[number] = species
    return Batch(
        graph=batch([_graph(f, table, cutoff) for f in frames]),
        numbers=torch.as_tensor(np.concatenate([f.numbers for f in frames])),
        conditions=tuple(f.conditions for f in frames),
        labels={name: torch.as_tensor(_labels(frames, name)) for name in LABELS},
        levels=tuple(f.level for f in frames),
        frames=tuple(frames),
    )


def _graph(frame: Frame, table: Ints, cutoff: float) -> Graph:
    species = table[frame.numbers]
    if (species < 0).any():
        atom = int(np.argmax(species < 0))
        raise ValueError(
            f"{frame.name}, atom {atom} = {chemical_symbols[frame.numbers[atom]]} must be one of "
            f"{', '.join(chemical_symbols[z] for z in np.flatnonzero(table >= 0))}: train a model that knows it"
        )
    pairs = frame.pairs(cutoff)
    solved = frame.conditions.solved(len(frame))
    return make_graph(frame.positions, frame.cell, frame.pbc, species, cutoff, solved, pairs)


def _labels(frames: Sequence[Frame], name: str) -> Floats:
    per, shape, _ = LABELS[name]
    parts = []
    for f in frames:
        full = (len(f), *shape) if per == "atom" else shape
        given = f.labels.get(name)
        parts.append(np.full(full, np.nan) if given is None else given.reshape(full))
    return np.concatenate(parts) if per == "atom" else np.stack(parts)
