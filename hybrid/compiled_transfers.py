"""Charges that pairs exchange by compiled kernels, where the head's weights are not learned: molecular dynamics.

Forces pull the slopes of the energy by charges back to the atoms and to what their surroundings say. Where somebody asks
for second derivatives, as for force constants, they are taken from the plain formula.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from grahame.hybrid.graph import Graph
from grahame.kernels.cpu_transfers import Transfers
from grahame.kernels.operators import array, compiled

__all__ = ["compiled_transfers", "serves"]

Formula = Callable[[Tensor, Tensor, Tensor], Tensor]


def serves(graph: Graph, *weights: Tensor) -> bool:
    """Whether the compiled kernels do for this graph and these weights."""
    return compiled(graph.positions, graph.cells) and not any(w.requires_grad for w in weights)


def compiled_transfers(
    graph: Graph,
    solved: Tensor,
    both: Tensor,
    cutoff: float,
    plain: Tensor,
    weights: Tensor,
    formula: Formula,
) -> Tensor:
    """(p,) e, charge that the first atom of each pair gains from the second.

    Args:
        graph: one that the kernels serve; solved: (n,) True for atoms that exchange nothing.
        both: (n, 2 terms) u and v of every atom; cutoff: Å.
        plain: (species², N) D and weights: (N, terms) W, as `kernels.cpu_transfers` names them.
        formula: the same of positions (n,3), cells (B,3,3) and `both`, in torch.
    """
    sums = Transfers(
        graph.frame.numpy(), graph.species.numpy(), solved.numpy(), graph.pairs.numpy(), graph.pair_images.numpy(),
        cutoff, array(plain.double()), array(weights.double()),
    )  # fmt: skip
    out: Tensor = _Gained.apply(graph.positions, graph.cells, both, sums, formula)  # type: ignore[no-untyped-call]
    return out


class _Gained(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, cells: Tensor, both: Tensor, sums: Transfers, formula: Formula
    ) -> Tensor:
        ctx.save_for_backward(x, cells, both)
        ctx.sums, ctx.formula = sums, formula
        return torch.from_numpy(sums.gained(array(x), array(cells), array(both.double())))

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, ...]:
        x, cells, both = ctx.saved_tensors
        if torch.is_grad_enabled():
            # Aliases: what these depend on is differentiated by the outer graph.
            aliases = [t.view_as(t) for t in (x, cells, both)]
            found = torch.autograd.grad(
                ctx.formula(*aliases),
                aliases,
                slopes,
                create_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            return (*found, None, None)
        by_x, by_cells, by_both = ctx.sums.pull(array(x), array(cells), array(both.double()), array(slopes))
        return (
            torch.from_numpy(by_x), torch.from_numpy(by_cells), torch.from_numpy(by_both).to(both.dtype), None, None,
        )  # fmt: skip
