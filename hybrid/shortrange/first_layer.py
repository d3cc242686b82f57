"""Densities of a network's first layer by compiled kernels, with derivatives as energies, forces and learning need them.

Forces pull the energy's slopes by densities back to the atoms. A loss of forces is differentiated by the weights, which do
not move atoms: only the slopes depend on them, and the derivative by the slopes is the change of densities when atoms move,
`push`. The second derivative of the densities by positions is left out of that; where somebody asks for it, as for force
constants, it is taken from the plain formula.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from grahame.hybrid.graph import Graph
from grahame.hybrid.shortrange import radial, sphere
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


@dataclass
class _Asked:
    """What the second derivative is multiplied with, known when `_Pull` is differentiated."""

    moves: Tensor | None = None
    cell_moves: Tensor | None = None
    slopes: Tensor | None = None


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
        x, cells = ctx.saved_tensors
        asked = _Asked()
        if torch.is_grad_enabled():
            x, cells = _Second.apply(x, cells, ctx.sums, asked)  # type: ignore[no-untyped-call]
        return (*_Pull.apply(x, cells, slopes, ctx.sums, asked), None, None)  # type: ignore[no-untyped-call]


class _Pull(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, cells: Tensor, slopes: Tensor, sums: Densities, asked: _Asked
    ) -> tuple[Tensor, Tensor]:
        gradient, by_cells = sums.pull(array(x), array(cells), array(slopes))
        ctx.save_for_backward(x, cells, slopes)
        ctx.sums, ctx.asked = sums, asked
        return torch.from_numpy(gradient), torch.from_numpy(by_cells)

    @staticmethod
    def backward(
        ctx: Any, moves: Tensor, cell_moves: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor, None, None]:
        x, cells, slopes = ctx.saved_tensors
        # For positions and cells zeros go on to `_Second`, which knows the rest.
        ctx.asked.moves, ctx.asked.cell_moves, ctx.asked.slopes = moves, cell_moves, slopes
        out: Tensor = _Push.apply(moves, cell_moves, x, cells, ctx.sums, slopes.dtype)  # type: ignore[no-untyped-call]
        return torch.zeros_like(x), torch.zeros_like(cells), out, None, None


class _Push(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        moves: Tensor,
        cell_moves: Tensor,
        x: Tensor,
        cells: Tensor,
        sums: Densities,
        dtype: torch.dtype,
    ) -> Tensor:
        out = torch.empty(sums.shape, dtype=dtype)
        sums.push(array(x), array(cells), array(moves), array(cell_moves), out.numpy())
        return out

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_third()


class _Second(torch.autograd.Function):
    """Positions and cells as they are; their derivative is the second one of the densities."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cells: Tensor, sums: Densities, asked: _Asked) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, cells)
        ctx.sums, ctx.asked = sums, asked
        return x.view_as(x), cells.view_as(cells)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, Tensor, None, None]:
        if torch.is_grad_enabled():
            _refuse_third()
        asked = ctx.asked
        with torch.enable_grad():
            x, cells = (t.detach().requires_grad_() for t in ctx.saved_tensors)
            total = (_formula(x, cells, ctx.sums) * asked.slopes.detach()).sum()
            first = torch.autograd.grad(total, (x, cells), create_graph=True)
            along = (first[0] * asked.moves.detach()).sum() + (first[1] * asked.cell_moves.detach()).sum()
            by_x, by_cells = torch.autograd.grad(along, (x, cells))
        return by_x, by_cells, None, None


def _formula(x: Tensor, cells: Tensor, sums: Densities) -> Tensor:
    """The densities in torch, in double precision, of positions (n,3) and cells (B,3,3)."""
    rows, n = sums.rows, len(x)
    i = torch.from_numpy(np.repeat(np.arange(n), np.diff(rows.start)))
    j, shifts = torch.from_numpy(rows.j).long(), torch.from_numpy(rows.shifts).to(x)
    frame, species = torch.from_numpy(sums.frame), torch.from_numpy(sums.species)
    v = x[j] - x[i] + (shifts[:, None, :] @ cells[frame[i]])[:, 0]
    r = torch.linalg.vector_norm(v, dim=1)
    basis = radial.bessel(r, sums.cutoff, sums.radial)
    harmonics = sphere.harmonics(v / r[:, None], sums.l_max)
    products = harmonics[:, :, None] * basis[:, None, :]
    total = x.new_zeros((n * sums.kinds, *products.shape[1:])).index_add(
        0, i * sums.kinds + species[j], products
    )
    return total.reshape(n, sums.kinds, *products.shape[1:]).permute(2, 0, 1, 3).reshape(sums.shape)


def _refuse_third() -> NoReturn:
    """Raises: nothing here has third derivatives."""
    raise RuntimeError(
        "third derivatives must be taken from the plain formulas: compute within "
        '`with grahame.kernels.dispatch.backend("torch")`'
    )
