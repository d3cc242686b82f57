"""mlipops: CoulombPME with its own neighbour list; it computes in single precision."""

import importlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from examples.benchmarks.speed.systems import Box

Floats = NDArray[np.float64]


class Batch:
    """Several boxes in one call."""

    def __init__(self, boxes: list[Box], setting: dict[str, Any], threads: int = 1) -> None:
        pme = importlib.import_module("mlipops.coulombpme").CoulombPME
        neighbor_list = importlib.import_module("mlipops.neighborlist").NeighborList
        torch.set_num_threads(threads)
        mesh, order = setting["mesh"], setting["order"]
        # With padding it keeps its list while atoms move by less than half of that.
        self._finder = neighbor_list(cutoff=setting["cutoff"], padding=0.3)
        self.sum = pme(
            self._finder, None, mesh, mesh, mesh, order, setting["splitting"], float(boxes[0].constant)
        )
        single = torch.float32
        many = len(boxes) > 1
        self.x = torch.as_tensor(np.concatenate([b.positions for b in boxes]), dtype=single)
        self.q = torch.as_tensor(np.concatenate([b.charges for b in boxes]), dtype=single)
        cells = np.stack([b.cell for b in boxes])
        self.cell = torch.as_tensor(cells if many else cells[0], dtype=single)
        owners = np.repeat(np.arange(len(boxes)), [len(b.charges) for b in boxes])
        self.owner = torch.as_tensor(owners) if many else None
        self.label = f"cut-off {setting['cutoff']:g} Å, mesh {mesh}, order {order}"
        self._turn = 0

    def _evaluate(self, shift: float) -> torch.Tensor:
        x = (self.x + shift).requires_grad_(True)
        (gradient,) = torch.autograd.grad(self.sum(x, self.q, self.cell, batch=self.owner).sum(), x)
        return gradient

    def forces(self) -> Floats:
        return -self._evaluate(0.0).numpy().astype(np.float64)

    def steps(self, count: int, rebuild: bool) -> None:
        for _ in range(count):
            self._turn ^= 1
            self._evaluate(0.6 * self._turn if rebuild else 0.0)

    def close(self) -> None:
        """Nothing to give back."""


class Water(Batch):
    """One box."""

    def __init__(self, box: Box, setting: dict[str, Any], threads: int) -> None:
        super().__init__([box], setting, threads)
