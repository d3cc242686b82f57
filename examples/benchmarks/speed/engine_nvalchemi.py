"""nvalchemi-toolkit-ops: particle_mesh_ewald with its own neighbour list, float64."""

import importlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from examples.benchmarks.speed.systems import Box

Floats = NDArray[np.float64]


class Batch:
    """Several boxes of one size in one call."""

    def __init__(self, boxes: list[Box], setting: dict[str, Any], threads: int = 1) -> None:
        importlib.import_module("warp").config.quiet = True
        package = "nvalchemiops.torch"
        self._sum = importlib.import_module(f"{package}.interactions.electrostatics").particle_mesh_ewald
        self._find = importlib.import_module(f"{package}.neighbors").neighbor_list
        torch.set_num_threads(threads)
        self.setting = setting
        self.constant = float(boxes[0].constant)
        self.x = torch.as_tensor(np.concatenate([b.positions for b in boxes]))
        self.q = torch.as_tensor(np.concatenate([b.charges for b in boxes]))
        self.cell = torch.as_tensor(np.stack([b.cell for b in boxes]))
        self.periodic = torch.ones(len(boxes), 3, dtype=torch.bool)
        owners = np.repeat(np.arange(len(boxes)), [len(b.charges) for b in boxes])
        self.owner = torch.as_tensor(owners, dtype=torch.int32) if len(boxes) > 1 else None
        self.label = f"cut-off {setting['cutoff']:g} Å, mesh {setting['mesh']}, order {setting['order']}"
        self._list()

    def _list(self) -> None:
        self.pairs, self.start, self.shifts = self._find(
            self.x,
            cutoff=self.setting["cutoff"],
            cell=self.cell,
            pbc=self.periodic,
            batch_idx=self.owner,
            return_neighbor_list=True,
        )[:3]

    def forces(self) -> Floats:
        _, forces = self._sum(
            self.x,
            self.q,
            self.cell,
            alpha=self.setting["splitting"],
            mesh_dimensions=(self.setting["mesh"],) * 3,
            spline_order=self.setting["order"],
            batch_idx=self.owner,
            neighbor_list=self.pairs,
            neighbor_ptr=self.start,
            neighbor_shifts=self.shifts,
            compute_forces=True,
        )
        found: Floats = forces.numpy() * self.constant
        return found

    def steps(self, count: int, rebuild: bool) -> None:
        for _ in range(count):
            if rebuild:
                self._list()
            self.forces()

    def close(self) -> None:
        """Nothing to give back."""


class Water(Batch):
    """One box."""

    def __init__(self, box: Box, setting: dict[str, Any], threads: int) -> None:
        super().__init__([box], setting, threads)
