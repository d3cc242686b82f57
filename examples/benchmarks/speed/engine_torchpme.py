"""torch-pme: P3M or PME with forces by autograd and neighbour lists by vesin, float64."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from examples.benchmarks.speed.systems import Box

Floats = NDArray[np.float64]


class Water:
    """One box."""

    def __init__(self, box: Box, setting: dict[str, Any], threads: int) -> None:
        import torchpme
        from vesin import NeighborList

        torch.set_num_threads(threads)
        self.box = box
        potential = torchpme.CoulombPotential(
            smearing=1 / (setting["splitting"] * 2**0.5), prefactor=float(box.constant)
        )
        kind = {"p3m": torchpme.P3MCalculator, "pme": torchpme.PMECalculator}[setting["kind"]]
        # It takes the power of two that is not below 2 L/spacing + 1.
        self.calculator = kind(
            potential,
            mesh_spacing=2 * float(box.edge) / (setting["mesh"] - 1.5),
            interpolation_nodes=setting["order"],
        ).to(torch.float64)
        self._finder = NeighborList(cutoff=setting["cutoff"], full_list=False)
        self.x = torch.as_tensor(box.positions)
        self.q = torch.as_tensor(box.charges)[:, None]
        self.cell = torch.as_tensor(box.cell)
        self.label = f"{setting['kind']}, cut-off {setting['cutoff']:g} Å, mesh {setting['mesh']}, {setting['order']} nodes"
        self._list()

    def _list(self) -> None:
        i, j, shifts = self._finder.compute(
            points=self.box.positions, box=self.box.cell, periodic=True, quantities="ijS"
        )
        self.pairs = torch.as_tensor(np.stack([i, j], 1).astype(np.int64))
        self.shifts = torch.as_tensor(np.asarray(shifts, dtype=np.float64) @ self.box.cell)

    def forces(self) -> Floats:
        x = self.x.clone().requires_grad_(True)
        distances = torch.linalg.vector_norm(x[self.pairs[:, 1]] - x[self.pairs[:, 0]] + self.shifts, dim=1)
        potential = self.calculator(
            charges=self.q,
            cell=self.cell,
            positions=x,
            neighbor_indices=self.pairs,
            neighbor_distances=distances,
        )
        (gradient,) = torch.autograd.grad((potential * self.q).sum(), x)
        return -np.asarray(gradient)

    def steps(self, count: int, rebuild: bool) -> None:
        for _ in range(count):
            if rebuild:
                self._list()
            self.forces()

    def close(self) -> None:
        """Nothing to give back."""


class Batch:
    """Boxes one after the other: its calculators take one system."""

    def __init__(self, boxes: list[Box], setting: dict[str, Any]) -> None:
        self._one = [Water(b, setting, 1) for b in boxes]
        self.label = self._one[0].label + ", one after the other"

    def forces(self) -> Floats:
        return np.concatenate([one.forces() for one in self._one])

    def steps(self, count: int, rebuild: bool) -> None:
        for _ in range(count):
            for one in self._one:
                one.steps(1, rebuild)

    def close(self) -> None:
        """Nothing to give back."""
