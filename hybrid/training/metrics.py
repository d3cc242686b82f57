"""Errors by label, element, level of theory and distance from the metal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise, product
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from ase.geometry import complete_cell, minkowski_reduce, wrap_positions
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from grahame.hybrid.frames import LABELS, Batch, Frame
from grahame.hybrid.model import ModelSpec

__all__ = ["DISTANCES", "ErrorRow", "ErrorTable", "reference_energy", "surface_distances"]

DISTANCES = (0.0, 2.5, 4.0, 6.0, 10.0)
"""Lower ends of the shells around the metal, Å; the last one has no end."""

# Errors are shown in thousandths, energies per atom.
SHOWN: dict[str, str] = {
    "energy": "meV/atom", "forces": "meV/Å", "stress": "meV/Å³", "charges": "me", "dipole": "me Å", "born": "me",
    "field_response": "me", "work_function": "meV",
}  # fmt: skip


@dataclass(frozen=True)
class ErrorRow:
    """Errors of one label over one group of values.

    Attributes:
        quantity: the label; group: "all", an element, a level, or a distance from the metal.
        unit: of the three numbers.
        rmse, mae: root mean square and mean absolute error of components.
        spread: root mean square of the label around its mean, an error of no model at all; of energies, what the
            reference energies of the elements leave.
        count: number of values.
    """

    quantity: str
    group: str
    unit: str
    rmse: float
    mae: float
    spread: float
    count: int

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


class ErrorTable:
    """Sums of errors, filled batch by batch.

    Args:
        spec: of the model: its elements, levels of theory and reference energies.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec, self.elements, self.levels = spec, spec.elements, spec.levels
        ends = [f"{a:g} - {b:g} Å" for a, b in pairwise(DISTANCES)]
        shells = [*ends, f"over {DISTANCES[-1]:g} Å"]
        self.groups = ["all", *self.elements, "metal", *shells, *(f"level {v}" for v in self.levels)]
        # Squared error, absolute error, label, squared label, count.
        self.sums: NDArray[np.float64] = np.zeros((len(LABELS), len(self.groups), 5))

    def add(self, predictions: Mapping[str, Tensor], batch: Batch) -> None:
        """Take in the predictions of a batch."""
        atoms = batch.atoms.cpu().numpy()
        frame = batch.graph.frame.cpu().numpy()
        level = np.array([self.levels.index(v) for v in batch.levels])
        by_atom = _groups(batch, self.elements)
        first_level = len(self.groups) - len(self.levels)
        for q, (name, (per, _, _)) in enumerate(LABELS.items()):
            if name not in predictions:
                continue
            label = batch.labels[name].cpu().numpy()
            error = predictions[name].detach().double().cpu().numpy() - label
            if name == "energy":
                references = np.array([reference_energy(self.spec, f) for f in batch.frames])
                label, error = (label - references) / atoms, error / atoms
            label, error = label.reshape(len(label), -1), error.reshape(len(error), -1)
            # By the label alone: a prediction that is not finite must show.
            there = ~np.isnan(label)
            label, error = np.where(there, label, 0.0), np.where(there, error, 0.0)
            known, width = there.any(axis=1), there.sum(axis=1).astype(float)
            columns = [(error**2).sum(1), np.abs(error).sum(1), label.sum(1), (label**2).sum(1), width]
            values = np.column_stack(columns)[known]
            self.sums[q, 0] += values.sum(axis=0)
            if per == "frame":
                np.add.at(self.sums[q], first_level + level[known], values)
                continue
            np.add.at(self.sums[q], first_level + level[frame[known]], values)
            for column in by_atom:
                inside = column[known] >= 0
                np.add.at(self.sums[q], 1 + column[known][inside], values[inside])

    def value(self, name: str) -> float:
        """Root mean square error over everything, in the label's own unit (energies per atom); NaN without labels."""
        squared, *_, count = self.sums[list(LABELS).index(name), 0]
        return float(np.sqrt(squared / count)) if count else float("nan")

    def rows(self) -> list[ErrorRow]:
        """Everything there are labels for."""
        out = []
        for q, name in enumerate(LABELS):
            for g, group in enumerate(self.groups):
                squared, absolute, total, total_squared, count = self.sums[q, g]
                if not count or (group.startswith("level ") and len(self.levels) == 1):
                    continue
                spread = np.sqrt(max(0.0, total_squared / count - (total / count) ** 2))
                rmse, mae = np.sqrt(squared / count), absolute / count
                out.append(
                    ErrorRow(
                        name,
                        group,
                        SHOWN[name],
                        1e3 * float(rmse),
                        1e3 * float(mae),
                        1e3 * float(spread),
                        int(count),
                    )
                )
        return out


def reference_energy(spec: ModelSpec, frame: Frame) -> float:
    """Sum of the reference energies of a frame's elements at its level, eV."""
    energies = spec.reference_energies.get(frame.level, {})
    return float(sum(energies.get(chemical_symbols[z], 0.0) for z in frame.numbers))


def _groups(batch: Batch, elements: Sequence[str]) -> list[NDArray[np.int64]]:
    """For each atom the number of its element, and of metal or shell; -1 for none. Counted after "all"."""
    place = {e: k for k, e in enumerate(elements)}
    numbers = batch.numbers.cpu().numpy()
    element = np.array([place[chemical_symbols[z]] for z in numbers], dtype=np.int64)
    shells = np.concatenate([_shell(f) for f in batch.frames])
    return [element, np.where(shells >= 0, shells + len(elements), -1)]


def _shell(frame: Frame) -> NDArray[np.int64]:
    """0 for metal atoms, 1, 2, ... by distance from it; -1 without metal."""
    distances = surface_distances(frame)
    if distances is None:
        return np.full(len(frame), -1, dtype=np.int64)
    shell = np.searchsorted(DISTANCES, distances, side="right")
    return np.where(frame.conditions.solved(len(frame)), 0, shell).astype(np.int64)


def surface_distances(frame: Frame) -> NDArray[np.float64] | None:
    """(n,) distance of each atom to the nearest electrode atom, Å; None without electrodes."""
    solved = frame.conditions.solved(len(frame))
    if not solved.any():
        return None
    positions, metal = frame.positions, frame.positions[solved]
    if any(frame.pbc):
        # In a reduced cell, two images in each direction hold the nearest of any two wrapped places.
        cell = minkowski_reduce(complete_cell(frame.cell), frame.pbc)[0]
        positions = wrap_positions(positions, cell, frame.pbc, eps=0.0)
        images = np.array(list(product(*(range(-2, 3) if p else (0,) for p in frame.pbc)))) @ cell
        metal = (positions[solved] + images[:, None]).reshape(-1, 3)
    return np.asarray(cKDTree(metal).query(positions)[0])
