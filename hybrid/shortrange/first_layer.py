"""Densities of a network's first layer by compiled kernels, differentiable as forces and learning from forces need it.

Forces pull the energy's slopes by densities back to the atoms. A loss of forces is differentiated by the weights, which do
not move atoms: only the slopes depend on them, and the derivative by the slopes is the change of densities when atoms move,
`push`. The second derivative of the densities by positions, which that leaves out, is refused.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from grahame.hybrid.graph import Graph
from grahame.kernels.cpu_density import Densities
from grahame.kernels.operators import array, compiled

__all__ = ["first_densities", "serves"]


def serves(graph: Graph) -> bool:
    """Whether the compiled kernels do for this graph."""
    return compiled(graph.positions, graph.cells)


def first_densities(
    graph: Graph, kinds: int, cutoff: float, radial: int, l_max: int, dtype: torch.dtype
) -> Tensor:
    """((l_max+1)², n, kinds * radial) sums of Y_lm B_n over the neighbours of each species.

    Args:
        graph: one that the kernels serve; kinds: number of species; cutoff: Å.
        dtype: of the result; the sums are in double precision.
    """
    frame, species = graph.frame.numpy(), graph.species.numpy()
    sums = Densities(graph.around.rows, frame, species, kinds, cutoff, radial, l_max)
    out: Tensor = _Density.apply(graph.positions, graph.cells, sums, dtype)  # type: ignore[no-untyped-call]
    return out


class _Density(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cells: Tensor, sums: Densities, dtype: torch.dtype) -> Tensor:
        out = torch.empty(sums.shape, dtype=dtype)
        sums.density(array(x), array(cells), out.numpy())
        ctx.save_for_backward(x, cells)
        ctx.sums = sums
        return out

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, cells = (_Once.apply(t) for t in ctx.saved_tensors)  # type: ignore[no-untyped-call]
        return (*_Pull.apply(x, cells, slopes, ctx.sums), None, None)  # type: ignore[no-untyped-call]


class _Pull(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cells: Tensor, slopes: Tensor, sums: Densities) -> tuple[Tensor, Tensor]:
        gradient, strain = sums.pull(array(x), array(cells), array(slopes))
        ctx.save_for_backward(x, cells)
        ctx.sums, ctx.dtype = sums, slopes.dtype
        return torch.from_numpy(gradient), torch.from_numpy(strain)

    @staticmethod
    def backward(ctx: Any, moves: Tensor, strains: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, cells = ctx.saved_tensors
        out: Tensor = _Push.apply(moves, strains, x, cells, ctx.sums, ctx.dtype)  # type: ignore[no-untyped-call]
        # What arrives here for positions and cells is passed to `_Once`, which refuses it.
        return torch.zeros_like(x), torch.zeros_like(cells), out, None


class _Push(torch.autograd.Function):
    """Linear in what moves: its derivative by that is the pull again."""

    @staticmethod
    def forward(
        ctx: Any,
        moves: Tensor,
        strains: Tensor,
        x: Tensor,
        cells: Tensor,
        sums: Densities,
        dtype: torch.dtype,
    ) -> Tensor:
        out = torch.empty(sums.shape, dtype=dtype)
        sums.push(array(x), array(cells), array(moves), array(strains), out.numpy())
        ctx.save_for_backward(x, cells)
        ctx.sums = sums
        return out

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, ...]:
        x, cells = (_Once.apply(t) for t in ctx.saved_tensors)  # type: ignore[no-untyped-call]
        pulled = _Pull.apply(x, cells, slopes, ctx.sums)  # type: ignore[no-untyped-call]
        return (*pulled, None, None, None, None)


class _Once(torch.autograd.Function):
    """The same tensor, whose derivative is refused when it is asked for."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> Tensor:
        raise RuntimeError(
            "second derivatives by positions = of compiled densities must be left to the plain formulas: compute within "
            '`with grahame.kernels.dispatch.backend("torch")`'
        )
