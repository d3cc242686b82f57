"""Predicted charges of a batch, by whichever head a model has: of its own features or of another program's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from grahame.hybrid.frames import Conditions
from grahame.hybrid.graph import Graph
from grahame.hybrid.heads import ProjectedCharges, TransferCharges, charges_of_transfers, given_by_solved
from grahame.hybrid.held_charges import formal_charges, fragment_charges

__all__ = ["HeadCharges", "head_charges"]


@dataclass(frozen=True)
class HeadCharges:
    """Charges and how they came about, as `LocalOutput` names them.

    Attributes:
        charges: (n,) e, 0 where a solver owns the charge.
        gained: (p,) e, formal: (n,) e and given: (n,) e of transfers, else None.
        shared: per frame whether charges add up over all atoms only.
    """

    charges: Tensor
    gained: Tensor | None
    formal: Tensor | None
    given: Tensor | None
    shared: tuple[bool, ...]


def head_charges(
    head: nn.Module | None,
    scalars: Tensor,
    graph: Graph,
    r: Tensor | None,
    formal_of: Tensor,
    conditions: tuple[Conditions, ...] | None,
    solved: bool,
) -> HeadCharges:
    """Charges that a head predicts; zeros without one.

    Args:
        head: transfers, projected charges, or None.
        scalars: (n,F) features; graph: of the atoms; r: (p,) Å, distances of its pairs; None takes them from the graph.
        formal_of: (species,) e; conditions: per frame, None where charges need none.
        solved: whether a solver sets the charges of all atoms.
    Raises:
        ValueError: for conditions that projected charges need and do not have.
    """
    gained = formal = given = None
    shared: tuple[bool, ...] = (True,) * graph.frames if solved else ()
    if isinstance(head, TransferCharges):
        if r is None:
            gained = head.of_graph(scalars, graph)
        else:
            gained = head(scalars, graph.species, graph.pairs, graph.solved, r)
        formal = formal_charges(formal_of, graph, conditions) * ~graph.solved
        charges = charges_of_transfers(formal, gained, graph) * ~graph.solved
        given = given_by_solved(gained, graph) if head.across else None
    elif isinstance(head, ProjectedCharges):
        fragment, wanted = fragment_charges(graph, conditions)
        charges = head(scalars, graph.species, fragment, wanted)
        shared = tuple(c.fragments is None for c in conditions or ())
    else:
        charges = torch.zeros(len(graph.species), dtype=torch.float64, device=graph.positions.device)
    return HeadCharges(charges, gained, formal, given, shared)
