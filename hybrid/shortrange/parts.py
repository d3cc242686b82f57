"""A function of every atom alone, on the threads of the compiled kernels: each thread takes some of the atoms.

Torch divides every single operation among threads of its own, which wait for each other after each of them; a network of
one layer needs no neighbours once it has its densities, so that each thread can go through all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from grahame.kernels.threads import Task, chunks, run

__all__ = ["in_parts"]

Function = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Part = tuple[Tensor, tuple[Tensor, Tensor]]

_CHUNK = 200  # atoms below which a second thread does not pay


def in_parts(function: Function, densities: Tensor, species: Tensor) -> tuple[Tensor, Tensor]:
    """function(densities (L,n,k), species (n,)): two tensors whose rows belong to one atom each; one part for each thread."""
    found: tuple[Tensor, Tensor] = _InParts.apply(densities, species, function)  # type: ignore[no-untyped-call]
    return found


class _InParts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, densities: Tensor, species: Tensor, function: Function) -> tuple[Tensor, Tensor]:
        def part(a: int, b: int) -> Part:
            with torch.enable_grad():
                leaf = densities[:, a:b].detach().requires_grad_()
                return leaf, function(leaf, species[a:b])

        ctx.set_materialize_grads(False)
        ctx.save_for_backward(densities, species)
        ctx.function = function
        ctx.ranges = chunks(len(species), _CHUNK)
        ctx.parts = run([partial(part, a, b) for a, b in ctx.ranges])
        one, two = zip(*(found for _, found in ctx.parts))
        return torch.cat(one).detach(), torch.cat(two).detach()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor | None) -> tuple[Tensor, None, None]:
        again, parts, ctx.parts = torch.is_grad_enabled(), ctx.parts, None
        if again or parts is None:
            # Somebody will differentiate these slopes, or takes others of the same values: all atoms at once.
            densities, species = ctx.saved_tensors
            with torch.enable_grad():
                alias = densities.view_as(densities) if again else densities.detach().requires_grad_()
                some = [(f, s) for f, s in zip(ctx.function(alias, species), slopes) if s is not None]
                found = torch.autograd.grad(
                    [f for f, _ in some], alias, [s for _, s in some], create_graph=again
                )
            return found[0], None, None

        def pulled(part: Part, a: int, b: int) -> Tensor:
            some = [(f, s[a:b]) for f, s in zip(part[1], slopes) if s is not None]
            return torch.autograd.grad([f for f, _ in some], part[0], [s for _, s in some])[0]

        tasks: list[Task] = [partial(pulled, part, a, b) for part, (a, b) in zip(parts, ctx.ranges)]
        return torch.cat(cast(list[Tensor], run(tasks)), dim=1), None, None
