"""The operator in one step of a solve: potentials where charges are solved, then potentials and forces everywhere.

In real space solved atoms feel the pairs that they take part in, which are picked from the list once as long as it stays the
same.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from grahame.electrostatics.system import HalfList, System, Triple
from grahame.kernels import dispatch
from grahame.kernels.neighbors import RowPairs


def _same_list(one: Triple, other: Triple) -> bool:
    if isinstance(one, HalfList) or isinstance(other, HalfList):
        return isinstance(one, HalfList) and isinstance(other, HalfList) and one.found is other.found
    return one[0].data_ptr() == other[0].data_ptr()


class SolvedPairs:
    """The pairs with a solved atom, and those of two, kept while the list of pairs stays the same."""

    def __init__(self) -> None:
        self._solved: Tensor | None = None
        self._place = torch.zeros(0, dtype=torch.int32)
        self._list: Triple | None = None
        self._felt: Triple | None = None
        self._inner: Triple | None = None

    def felt(self, system: System, solved: Tensor) -> Triple | None:
        """The pairs with a solved atom, all that solved atoms feel; None where there is no list to shorten."""
        if system.pairs is None or system.parameters.method == "exact":
            return None
        place = self.places(system, solved)
        # The old list is held here, so that no other one can have its identity.
        if self._felt is None or self._list is None or not _same_list(self._list, system.pairs):
            self._list, self._inner = system.pairs, None
            if isinstance(system.pairs, HalfList):
                rows = system.pairs.found.rows.with_atoms((place >= 0).numpy())
                self._felt = HalfList(RowPairs(rows))
            else:
                i, j, shifts = system.pairs
                near = ((place[i.long()] >= 0) | (place[j.long()] >= 0)).nonzero()[:, 0]
                self._felt = (i[near], j[near], shifts[near])
        return self._felt

    def inner(self, system: System, solved: Tensor) -> Triple | None:
        """The pairs of two solved atoms in the numbering of `solved`; None in an open system, which has no list."""
        if system.pairs is None:
            return None
        felt = self.felt(system, solved)
        if felt is None:
            return self.both(system.pairs, system, solved)
        if self._inner is None:
            self._inner = self.both(felt, system, solved)
        return self._inner

    def both(self, pairs: Triple, system: System, solved: Tensor) -> Triple:
        """Those of any pairs whose atoms are both solved, in the numbering of `solved`."""
        place = self.places(system, solved).to(pairs[0].dtype)
        i, j = place[pairs[0].long()], place[pairs[1].long()]
        inside = ((i >= 0) & (j >= 0)).nonzero()[:, 0]
        return i[inside], j[inside], pairs[2][inside]

    def places(self, system: System, solved: Tensor) -> Tensor:
        """Place of every atom among the solved ones, -1 for the others, (n,)."""
        n, known = len(system.positions), self._solved
        same = known is not None and known.device == solved.device and torch.equal(known, solved)
        if not same or len(self._place) != n:
            place = torch.full((n,), -1, dtype=torch.int32, device=solved.device)
            place[solved] = torch.arange(len(solved), dtype=torch.int32, device=solved.device)
            self._solved, self._place = solved, place
            self._list, self._felt, self._inner = None, None, None
        return self._place


class Evaluation:
    """One geometry without graph, for charges that change on the solved atoms only.

    Args:
        system: the operator.
        solved: (s,) atoms whose charges are solved.
        pairs: kept from step to step.
    """

    def __init__(self, system: System, solved: Tensor, pairs: SolvedPairs) -> None:
        self._system = system.detached()
        self._solved, self._pairs = solved, pairs
        self._product: Callable[[Tensor], Tensor] | None = None

    def at_solved(self, charges: Tensor) -> Tensor:
        """dE/dq (s,) in V of the solved atoms, for charges (n,)."""
        return self._system.potential(charges, self._pairs.felt(self._system, self._solved))[self._solved]

    def first(self, charges: Tensor, forces: bool) -> dispatch.First:
        """As `System.first`."""
        return self._system.first(charges, forces)

    def product(self, v: Tensor) -> Tensor:
        """Potentials (s,) in V of charges (s,) on the solved atoms alone, at these atoms."""
        if self._product is None:
            s, solved = self._system, self._solved
            part = replace(
                s,
                positions=s.positions[solved],
                smearing=s.smearing[solved],
                pairs=self._pairs.inner(s, solved),
                excluded=None if s.excluded is None else self._pairs.both(s.excluded, s, solved),
            )
            self._product = part.operator()
        return self._product(v)
