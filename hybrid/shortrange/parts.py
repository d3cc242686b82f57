"""A function of every atom alone, on the threads of the compiled kernels: each thread takes some of the atoms.

Torch divides every single operation among threads of its own, which wait for each other after each of them; a network of
one layer needs no neighbours once it has its densities, so that each thread can go through all of it. Of many atoms it
takes some after the other: larger arrays are paged in anew whenever they are asked for (`kernels.cpu_memory`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from grahame.kernels.threads import chunks, ranges, run

__all__ = ["in_parts"]

Function = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Part = tuple[Tensor, tuple[Tensor, Tensor]]
Result = TypeVar("Result")

_CHUNK = 200  # atoms below which a second thread does not pay
_MOST = 2000  # atoms whose largest array stays far below 32 MB


def in_parts(function: Function, densities: Tensor, species: Tensor) -> tuple[Tensor, Tensor]:
    """function(densities (L,n,k), species (n,)): two tensors whose rows belong to one atom each."""
    if len(species) <= _MOST and len(chunks(len(species), _CHUNK)) == 1:
        return function(densities, species)
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
        ctx.ranges = [_ranges(a, b) for a, b in chunks(len(species), _CHUNK)]
        ctx.parts = _on_threads(part, ctx.ranges)
        one, two = zip(*(found for parts in ctx.parts for _, found in parts))
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

        every = [[(one, *ends) for one, ends in zip(mine, own)] for mine, own in zip(parts, ctx.ranges)]
        return torch.cat([slope for mine in _on_threads(pulled, every) for slope in mine], dim=1), None, None


def _ranges(begin: int, end: int) -> list[tuple[int, int]]:
    """Of one thread, none longer than `_MOST`."""
    count = max(1, -(-(end - begin) // _MOST))
    return [(begin + a, begin + b) for a, b in ranges(end - begin, count)]


def _on_threads(function: Callable[..., Result], arguments: list[list[Any]]) -> list[list[Result]]:
    """The function of all arguments of a thread, one after the other; one list for each thread."""

    def mine(given: list[Any]) -> list[Result]:
        return [function(*one) for one in given]

    return cast(list[list[Result]], run([partial(mine, given) for given in arguments]))
