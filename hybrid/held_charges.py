"""Formal charges and fragments of a batch: what the conditions of its frames say, atom by atom."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from grahame.hybrid.frames import Conditions
from grahame.hybrid.graph import Graph


def formal_charges(by_species: Tensor, graph: Graph, conditions: tuple[Conditions, ...] | None) -> Tensor:
    """(n,) e: those of the frame where it has some, else those of the elements.

    Args:
        by_species: (species,) e; graph: atoms; conditions: per frame, or None.

    Raises:
        ValueError: for another number of charges than atoms.
    """
    formal = by_species[graph.species]
    if conditions is None or all(c.formal_charges is None for c in conditions):
        return formal
    parts = []
    for k, c in enumerate(conditions):
        own = formal[graph.frame == k]
        if c.formal_charges is not None:
            if np.shape(c.formal_charges) != (len(own),):
                raise ValueError(
                    f"formal_charges = array of shape {np.shape(c.formal_charges)} must have shape ({len(own)},): "
                    f"pass one value in e for each atom of frame {k}"
                )
            own = torch.as_tensor(c.formal_charges).to(own)
        parts.append(own)
    return torch.cat(parts)


def fragment_charges(graph: Graph, conditions: tuple[Conditions, ...] | None) -> tuple[Tensor, Tensor]:
    """Fragment of each atom (n,), numbered over the batch, -1 for none, and the charge of each fragment, e.

    Raises:
        ValueError: without conditions, and beside electrodes without fragments.
    """
    if conditions is None:
        raise ValueError("conditions = None must be given with projected charges: they name total charges")
    indices, wanted, start = [], [], 0
    for k, c in enumerate(conditions):
        mine = graph.frame == k
        solved = graph.solved[mine]
        if c.fragments is None:
            if bool(solved.any()):
                raise ValueError(
                    "fragments = None must be given with projected charges beside electrodes: say which atoms "
                    "belong together and what charge they carry"
                )
            own = torch.zeros(int(mine.sum()), dtype=torch.long, device=solved.device)
            sums = [c.total_charge]
        else:
            own = torch.as_tensor(c.fragments, device=solved.device)
            sums = [0.0] * (int(own.max()) + 1) if c.fragment_charges is None else list(c.fragment_charges)
        indices.append(torch.where(solved | (own < 0), torch.full_like(own, -1), own + start))
        wanted += [float(s) for s in sums]
        start += len(sums)
    return torch.cat(indices), torch.tensor(wanted, dtype=torch.float64, device=graph.positions.device)
