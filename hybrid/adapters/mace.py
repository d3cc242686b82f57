"""A trained MACE model as a trunk, with the scalar features of all its layers.

Source: Batatia et al., NeurIPS 2022 (arXiv 2206.07697). Needs the extra `mace`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from grahame.hybrid.adapters.optional import require
from grahame.hybrid.adapters.trunk import (
    TrunkOutput,
    edges_within,
    fingerprint,
    freeze,
    species_index,
)
from grahame.hybrid.graph import PBC, Graph


class MACETrunk:
    """Energies and invariant features of a MACE model.

    Args:
        model: a `MACE` or `ScaleShiftMACE` module; its weights are frozen.
        head: name of the energy head; None takes the first.
        source: where it comes from, for the logs.
    Raises:
        ValueError: for a head it does not have, and models that need more than atoms and a cell.
    """

    def __init__(self, model: torch.nn.Module, head: str | None = None, source: str = "") -> None:
        for name in ("r_max", "atomic_numbers", "products", "num_interactions"):
            if not hasattr(model, name):
                raise ValueError(
                    f"model = {type(model).__name__} must be a MACE energy model: it has no {name}"
                )
        if hasattr(model, "joint_embedding"):
            raise ValueError(
                "model = MACE with further inputs (total charge, spin, ...) must need atoms and a cell only: use one trained "
                "without embedding_specs"
            )
        freeze(model)
        self.model = cast(Any, model)
        self.source = source
        heads = list(getattr(model, "heads", None) or ["Default"])
        if head is not None and head not in heads:
            raise ValueError(f"head = {head} must be one of {', '.join(heads)}: name a head of the model")
        self.head = 0 if head is None else heads.index(head)
        self._heads = heads
        self.cutoff = float(self.model.r_max)
        self.dtype: torch.dtype = next(model.parameters()).dtype
        self.identity = fingerprint(model.state_dict())
        self._numbers = [int(z) for z in self.model.atomic_numbers]
        columns: list[int] = []
        start = 0
        for product in self.model.products:
            for irrep, part in zip(product.linear.irreps_out, product.linear.irreps_out.slices()):
                if irrep.ir.l == 0 and irrep.ir.p == 1:
                    columns += range(start + part.start, start + part.stop)
            start += product.linear.irreps_out.dim
        self._columns = torch.tensor(columns)
        self.features = len(columns)

    @classmethod
    def load(cls, path: str | Path, head: str | None = None, *, allow_pickle: bool = False) -> MACETrunk:
        """Read a `.model` file of MACE.

        Args:
            path, head: as above.
            allow_pickle: MACE stores whole Python objects, which can run any code when read: only True, and only
                for files you trust, reads them.
        Raises:
            ImportError: without MACE. FileNotFoundError: without the file. ValueError: without `allow_pickle`.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"model = {path} must be an existing file: check the path")
        if not allow_pickle:
            raise ValueError(
                f"model = {path} must be trusted before it is read, since a MACE file can run any code: give "
                "allow_pickle=True if you trust it"
            )
        # Its classes must be known before its pickle is read.
        require("mace.modules.models", "mace")
        model = torch.load(path, map_location="cpu", weights_only=False)
        return cls(model, head, str(path))

    def __call__(self, graph: Graph, numbers: Tensor, pbc: Sequence[PBC]) -> TrunkOutput:
        """Energies and features of a batch."""
        species = species_index(numbers, self._numbers, "the MACE model")
        edges = edges_within(graph, self.cutoff)
        x = graph.positions
        counts = torch.bincount(graph.frame, minlength=graph.frames)
        # MACE takes vectors as positions[receiver] - positions[sender] + shift, in its own precision. Lattice
        # shifts follow from our vectors, so that strain enters through them.
        shifts = edges.vectors - (x[edges.neighbor] - x[edges.center])
        data = {
            "positions": x.to(self.dtype),
            "cell": graph.cells.reshape(-1, 3).to(self.dtype),
            "edge_index": torch.stack([edges.center, edges.neighbor]),
            "shifts": shifts.to(self.dtype),
            "unit_shifts": edges.images.to(self.dtype),
            "node_attrs": torch.nn.functional.one_hot(species, len(self._numbers)).to(self.dtype),
            "batch": graph.frame,
            "ptr": torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
            "head": torch.full((graph.frames,), self.head, dtype=torch.long),
        }
        if not data["positions"].requires_grad:
            # MACE asks for gradients of its input; it must not ask for those of ours.
            data["positions"] = data["positions"].detach()
        out = self.model(data, training=False, compute_force=False)
        return TrunkOutput(out["energy"].to(torch.float64), out["node_feats"][:, self._columns])

    def describe(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "kind": "mace",
            "source": self.source,
            "identity": self.identity,
            "head": self._heads[self.head],
            "cutoff": self.cutoff,
            "layers": int(self.model.num_interactions),
            "dtype": str(self.dtype).removeprefix("torch."),
            "elements": self._numbers,
        }
