"""A frozen trunk with heads that are being trained: energies, forces and charges of batches of frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from grahame.hybrid.adapters.charges import ChargeSource
from grahame.hybrid.adapters.counting import Switched
from grahame.hybrid.adapters.feature_heads import FeatureHeads
from grahame.hybrid.adapters.trunk import Trunk, TrunkOutput
from grahame.hybrid.coupling import LongRangeTerms, removed_pairs
from grahame.hybrid.frames import Batch, Frame, make_batch
from grahame.hybrid.graph import Graph
from grahame.hybrid.heads import LocalOutput


@dataclass(frozen=True)
class ForeignPrediction:
    """What a trunk with charges says of a batch.

    Attributes:
        energy: (B,) eV, Omega in the ensemble of each frame; forces: (n,3) eV/Å or None.
        charges: (n,) e, of all atoms; dipole: (B,3) e Å of the predicted charges.
    """

    energy: Tensor
    forces: Tensor | None
    charges: Tensor
    dipole: Tensor


class ForeignModel(nn.Module):
    """A frozen trunk and heads to be trained on it, over batches of frames.

    Its parameters are those of the heads. The loss and the optimiser are yours.

    Args:
        trunk: the model; heads: on its features, or any other source of charges.
        removed: as for `ForeignShortRange`; None where the model was trained without the long range.
        accuracy: of the Coulomb operator.
    """

    def __init__(
        self, trunk: Trunk, heads: ChargeSource, removed: Switched | None = None, accuracy: float = 1e-5
    ) -> None:
        super().__init__()
        if len(heads.exclusions()):
            raise ValueError(
                f"exclusions = {len(heads.exclusions())} pairs must be left out here: they name atoms of one structure, and "
                "frames may be any; use ForeignShortRange"
            )
        self.trunk, self.heads, self.removed = trunk, heads, removed
        solved = isinstance(heads, FeatureHeads) and heads.spec.kind == "solved"
        across = isinstance(heads, FeatureHeads) and heads.spec.boundary_transfer
        self.long_range = LongRangeTerms(accuracy, solved, across)

    def batch(self, frames: Sequence[Frame]) -> Batch:
        """Frames with the neighbours that trunk and heads need."""
        outer = self.removed.outer if self.removed is not None else 0.0
        reach = max(self.trunk.cutoff, self.heads.cutoff, outer)
        if isinstance(self.heads, FeatureHeads):
            elements: Sequence[Any] = self.heads.elements
        else:
            elements = sorted({int(z) for f in frames for z in f.numbers})
        return make_batch(frames, elements, reach)

    def features(self, batch: Batch) -> TrunkOutput:
        """What the trunk says, without a graph; enough for losses of charges and dipoles, and the same in every epoch."""
        with torch.no_grad():
            out = self._trunk(batch, batch.graph)

        def cut(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.detach()

        return TrunkOutput(out.energy.detach(), cut(out.features), cut(out.charges))

    def charges(self, batch: Batch, out: TrunkOutput | None = None) -> LocalOutput:
        """Charges and constants before any solve; `out` from `features`, if known already."""
        r = torch.linalg.vector_norm(batch.graph.pair_vectors(), dim=-1)
        said = self.features(batch) if out is None else out
        return self.heads.local(said, batch.graph, batch.numbers, batch.conditions, r)

    def predict(self, batch: Batch, *, forces: bool = True, train: bool = False) -> ForeignPrediction:
        """Energies and forces, each frame under its own conditions.

        Args:
            batch: of `batch`.
            forces: whether wanted; train: keep the graph, so that a loss can be differentiated.
        """
        with torch.set_grad_enabled(forces or train):
            x = batch.graph.positions.detach().requires_grad_(forces)
            graph = replace(batch.graph, positions=x)
            ends = graph.pair_vectors()
            r = torch.linalg.vector_norm(ends, dim=-1)
            said = self._trunk(batch, graph)
            out = self.heads.local(said, graph, batch.numbers, batch.conditions, r)
            energy = out.energy
            if self.removed is not None:
                energy = energy - removed_pairs(graph, out, r, self.removed.inner, self.removed.outer)
            far = self.long_range(graph, out, batch.conditions)
            energy = energy + far.energy
            force = None
            if forces:
                force = -torch.autograd.grad(energy.sum(), x, create_graph=train)[0]
            moment = out.dipole(graph, ends)
        if train:
            return ForeignPrediction(energy, force, far.charges, moment)
        return ForeignPrediction(energy.detach(), force, far.charges.detach(), moment.detach())

    def _trunk(self, batch: Batch, graph: Graph) -> TrunkOutput:
        pbc = [f.pbc for f in batch.frames]
        if len(pbc) != graph.frames:
            raise ValueError(
                f"frames = {len(pbc)} of the batch must be all {graph.frames}: make it with `batch`, which keeps them"
            )
        return self.trunk(graph, batch.numbers, pbc)
