"""A small differentiable model with features and charges of its own, in the place of one trained elsewhere."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from grahame.hybrid.adapters.trunk import TrunkOutput, edges_within, species_index
from grahame.hybrid.graph import PBC, Graph
from grahame.hybrid.shortrange.radial import bessel

NUMBERS = (1, 8, 11, 17, 79)


class PairTrunk:
    """Sums over neighbours of smooth functions of distance: an energy, three features and charges."""

    cutoff = 4.0
    features = 3
    identity = "pairs"

    def __init__(self) -> None:
        made = torch.Generator().manual_seed(3)
        self.weights = torch.randn(len(NUMBERS), len(NUMBERS), 5, 5, generator=made, dtype=torch.float64)

    def __call__(self, graph: Graph, numbers: Tensor, pbc: Sequence[PBC]) -> TrunkOutput:
        assert len(pbc) == graph.frames
        species = species_index(numbers, NUMBERS, "the pair model")
        edges = edges_within(graph, self.cutoff)
        r = torch.linalg.vector_norm(edges.vectors, dim=1)
        mixed = self.weights[species[edges.center], species[edges.neighbor]]
        values = (mixed @ bessel(r, self.cutoff, 5)[:, :, None])[:, :, 0]
        sums = r.new_zeros((len(numbers), 5)).index_add(0, edges.center, values).tanh()
        return TrunkOutput(graph.per_frame(sums[:, 0]), sums[:, 1:4], 0.1 * sums[:, 4])

    def describe(self) -> dict[str, Any]:
        return {"kind": "pairs"}
