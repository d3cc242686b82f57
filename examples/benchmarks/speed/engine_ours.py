"""Grahame: `Coulomb` and `ConstantPotential`, set by the one number `accuracy`."""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from examples.benchmarks.speed.reference import solver
from examples.benchmarks.speed.systems import Box, Cell
from grahame.electrostatics import Coulomb

Floats = NDArray[np.float64]

# A shift of everything by so much moves every atom farther than a kept list allows, or not at all far (Å). The small
# one is there so that no two steps in a row have the same positions.
FAR, NEAR = 0.6, 0.01


class Water:
    """Method pme in the fully periodic boundary; on a GPU with the setting `device`."""

    def __init__(self, box: Box, setting: dict[str, Any], threads: int) -> None:
        torch.set_num_threads(threads)
        self.box = box
        self.device = setting.get("device", "cpu")
        self.coulomb = Coulomb("3d", "pme", setting["accuracy"])
        self._held = [self._there(box.positions + shift) for shift in (0.0, NEAR, FAR)]
        self._charges, self._cell = self._there(box.charges), self._there(box.cell)
        self._turn = 0
        p = self.coulomb.parameters(box.positions, box.charges, box.cell)
        self.parameters = asdict(p)
        self.label = (
            f"accuracy {setting['accuracy']:.1e}: cut-off {p.cutoff} Å, mesh {p.mesh[0]}, order {p.order}"
        )

    def _there(self, values: Floats) -> Any:
        """An array as it is for the CPU, a tensor for a GPU."""
        return values if self.device == "cpu" else torch.as_tensor(values, device=self.device)

    def forces(self) -> Floats:
        found = self.coulomb(self._held[0], self._charges, self._cell).forces
        return np.asarray(found if self.device == "cpu" else found.cpu())

    def steps(self, count: int, rebuild: bool) -> None:
        for _ in range(count):
            self._turn ^= 1
            self.coulomb(self._held[self._turn * (2 if rebuild else 1)], self._charges, self._cell)
        if self.device != "cpu":
            torch.cuda.synchronize()

    def close(self) -> None:
        """Nothing to give back."""


class Electrodes:
    """`ConstantPotential` in its mode "auto"."""

    def __init__(self, cell: Cell, setting: dict[str, Any], threads: int) -> None:
        torch.set_num_threads(threads)
        self.cell, self.solver = cell, solver(cell, setting["accuracy"])
        self.label = f"accuracy {setting['accuracy']:.0e}"
        self._step = 0

    def _solve(self) -> Any:
        x = self.cell.at(self._step)
        return self.solver.solve(x, self.cell.charges, self.cell.cell, exclusions=self.cell.exclusions)

    def first(self) -> None:
        self._last = self._solve()

    def steps(self, count: int) -> None:
        for _ in range(count):
            self._step += 1
            self._last = self._solve()

    def observe(self) -> tuple[Floats, Floats]:
        return np.asarray(self._last.charges)[self.cell.solved], np.asarray(self._last.forces)

    def close(self) -> None:
        """Nothing to give back."""


class Batch:
    """`Coulomb` with a leading axis for the boxes."""

    def __init__(self, boxes: list[Box], setting: dict[str, Any]) -> None:
        torch.set_num_threads(1)
        self.coulomb = Coulomb("3d", setting.get("method", "pme"), setting["accuracy"])
        self._x = np.stack([b.positions for b in boxes])
        self._q = np.stack([b.charges for b in boxes])
        self._h = np.stack([b.cell for b in boxes])
        self.label = f"accuracy {setting['accuracy']:.1e}, {self.coulomb.method}"
        self._turn = 0

    def forces(self) -> Floats:
        return np.asarray(self.coulomb(self._x, self._q, self._h).forces).reshape(-1, 3)

    def steps(self, count: int, rebuild: bool) -> None:
        for _ in range(count):
            self._turn ^= 1
            self.coulomb(self._x + FAR * self._turn if rebuild else self._x, self._q, self._h)

    def close(self) -> None:
        """Nothing to give back."""
