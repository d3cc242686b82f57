"""What a model trained elsewhere gives: an energy, perhaps features and charges, all differentiable.

A trunk sees the same graph as our own network. Its energy must carry the graph of its computation, so that one
pass back gives forces, the virial and the response of everything that was built on its features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from ase.data import chemical_symbols
from torch import Tensor

from grahame.hybrid.graph import PBC, Graph


@dataclass(frozen=True)
class TrunkOutput:
    """What a model says of a batch.

    Attributes:
        energy: (B,) eV, float64.
        features: (n,F) invariant under rotation, or None where the model shows none.
        charges: (n,) e, float64, or None where the model predicts none.
    """

    energy: Tensor
    features: Tensor | None = None
    charges: Tensor | None = None


class Trunk(Protocol):
    """A model trained elsewhere.

    Attributes:
        cutoff: neighbours it needs, Å; 0 where it finds its own.
        features: number of features of an atom; 0 for none.
        identity: changes when the weights do; heads trained on one trunk refuse another.
    """

    cutoff: float
    features: int
    identity: str

    def __call__(self, graph: Graph, numbers: Tensor, pbc: Sequence[PBC]) -> TrunkOutput:
        """Evaluate a batch: atoms, (n,) atomic numbers, periodic directions of each frame."""
        ...

    def describe(self) -> dict[str, Any]:
        """What it is, ready for JSON."""
        ...


@dataclass(frozen=True)
class Edges:
    """Pairs of neighbours in both directions.

    Attributes:
        center, neighbor: (e,) atoms; images: (e,3) lattice shift of the neighbour.
        vectors: (e,3) from centre to neighbour, Å, float64.
    """

    center: Tensor
    neighbor: Tensor
    images: Tensor
    vectors: Tensor


def edges_within(graph: Graph, cutoff: float) -> Edges:
    """All directed pairs of a graph closer than `cutoff` (Å); each pair of atoms stands in both directions."""
    vectors = graph.pair_vectors()
    near = (torch.linalg.vector_norm(vectors.detach(), dim=1) < cutoff).nonzero()[:, 0]
    first, second = graph.pairs[near].unbind(1)
    vectors, images = vectors[near], graph.pair_images[near]
    return Edges(
        center=torch.cat([first, second]),
        neighbor=torch.cat([second, first]),
        images=torch.cat([images, -images]),
        vectors=torch.cat([vectors, -vectors]),
    )


def species_index(numbers: Tensor, known: Sequence[int], owner: str) -> Tensor:
    """(n,) position of each atomic number among those that `owner` ("the MACE model", "the heads") was trained on.

    Raises:
        ValueError: for another element.
    """
    table = torch.full((max(max(known), int(numbers.max())) + 1,), -1, dtype=torch.long)
    table[torch.as_tensor(list(known))] = torch.arange(len(known))
    index = table.to(numbers.device)[numbers]
    if bool((index < 0).any()):
        atom = int(torch.argmax((index < 0).to(torch.int)))
        raise ValueError(
            f"numbers[{atom}] = {chemical_symbols[int(numbers[atom])]} must be an element of {owner} "
            f"({', '.join(chemical_symbols[z] for z in known)}): use what was trained on it"
        )
    return index


def fingerprint(weights: Mapping[str, Any]) -> str:
    """SHA256 of the names and values of all tensors of a state dictionary."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name]
        if isinstance(value, Tensor):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def freeze(module: torch.nn.Module) -> None:
    """Switch training mode and gradients of all weights off."""
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
