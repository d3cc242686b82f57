"""The operator in one step of a solve: potentials where charges are solved, then potentials and forces everywhere.

In real space solved atoms feel the pairs that they take part in, which are picked from the list once as long as it stays the
same.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from grahame.electrostatics.system import Felt, HalfList, System, Triple, rows_of
from grahame.kernels.derivatives import First
from grahame.kernels.neighbors import RowPairs


def _same_list(one: Triple, other: Triple) -> bool:
    if isinstance(one, HalfList) or isinstance(other, HalfList):
        return isinstance(one, HalfList) and isinstance(other, HalfList) and one.found is other.found
    return one[0].data_ptr() == other[0].data_ptr()


class _Shortened:
    """What solved atoms see of one list: the pairs with a solved atom, and those of two; kept while it stays the same."""

    def __init__(self) -> None:
        self._list: Triple | None = None
        self._felt: Triple | None = None
        self._inner: Triple | None = None
        self._numbers: Tensor | None = None

    def felt(self, listed: Triple, place: Tensor) -> Triple:
        """Pairs with a solved atom; `place` (n,) is that of every atom among the solved ones, -1 for the others."""
        # The old list is held here, so that no other one can have its identity.
        if self._felt is None or self._list is None or not _same_list(self._list, listed):
            self._list, self._inner, self._numbers = listed, None, None
            if isinstance(listed, HalfList):
                self._felt = HalfList(RowPairs(listed.found.rows.with_atoms((place >= 0).numpy())))
            else:
                i, j, shifts = listed
                near = ((place[i.long()] >= 0) | (place[j.long()] >= 0)).nonzero()[:, 0]
                self._felt = (i[near], j[near], shifts[near])
        return self._felt

    def inner(self, listed: Triple, place: Tensor) -> Triple:
        """Pairs of two solved atoms, in the numbering of these."""
        felt = self.felt(listed, place)
        if self._inner is None:
            self._inner = _both(felt, place)
        return self._inner

    def numbers(self, listed: Triple, place: Tensor) -> Tensor:
        """The same pairs as (m,2) int64."""
        i, j, _ = self.inner(listed, place)
        if self._numbers is None:
            self._numbers = torch.stack([i, j], dim=1).long()
        return self._numbers


def _both(pairs: Triple, place: Tensor) -> Triple:
    i, j, shifts = pairs
    place = place.to(i.dtype)
    i, j = place[i.long()], place[j.long()]
    inside = ((i >= 0) & (j >= 0)).nonzero()[:, 0]
    return i[inside], j[inside], shifts[inside]


class SolvedPairs:
    """The lists of solved atoms, pairs and excluded pairs, kept from step to step."""

    def __init__(self) -> None:
        self._solved: Tensor | None = None
        self._place = torch.zeros(0, dtype=torch.int32)
        self._pairs, self._excluded = _Shortened(), _Shortened()

    def felt(self, system: System, solved: Tensor) -> Felt | None:
        """All pairs that solved atoms feel; None where there is no list to shorten."""
        if system.pairs is None or system.parameters.method == "exact":
            return None
        place = self._places(system, solved)
        excluded = None
        if system.excluded is not None:
            some = self._excluded.felt(system.excluded, place)
            excluded = some if _number(some) else None
        return self._pairs.felt(system.pairs, place), excluded

    def inner(self, system: System, solved: Tensor) -> tuple[Triple | None, Triple | None]:
        """Pairs, and excluded pairs, of two solved atoms in the numbering of `solved`; None where there are none to list."""
        place = self._places(system, solved)
        pairs = None
        if system.pairs is not None:
            # Those of an exact sum are found anew in every step.
            exact = system.parameters.method == "exact"
            pairs = _both(system.pairs, place) if exact else self._pairs.inner(system.pairs, place)
        return pairs, self.inner_excluded(system, solved)

    def inner_excluded(self, system: System, solved: Tensor) -> Triple | None:
        """Excluded pairs of two solved atoms in the numbering of `solved`; None where there are none."""
        if system.excluded is None:
            return None
        inner = self._excluded.inner(system.excluded, self._places(system, solved))
        return inner if len(inner[0]) else None

    def excluded_numbers(self, system: System, solved: Tensor) -> Tensor:
        """Excluded pairs (m,2) of two solved atoms in the numbering of `solved`, int64."""
        if system.excluded is None:
            return torch.zeros((0, 2), dtype=torch.int64, device=solved.device)
        return self._excluded.numbers(system.excluded, self._places(system, solved))

    def _places(self, system: System, solved: Tensor) -> Tensor:
        """Place of every atom among the solved ones, -1 for the others, (n,)."""
        n, known = len(system.positions), self._solved
        same = known is not None and (
            known is solved or (known.device == solved.device and torch.equal(known, solved))
        )
        if not same or len(self._place) != n:
            place = torch.full((n,), -1, dtype=torch.int32, device=solved.device)
            place[solved] = torch.arange(len(solved), dtype=torch.int32, device=solved.device)
            self._solved, self._place = solved, place
            self._pairs, self._excluded = _Shortened(), _Shortened()
        return self._place


def _number(pairs: Triple) -> int:
    """Of the pairs of a list."""
    return pairs.found.rows.pairs if isinstance(pairs, HalfList) else len(pairs[0])


class Evaluation:
    """One geometry without graph, for charges that change on the solved atoms only.

    Args:
        system: the operator.
        solved: (s,) atoms whose charges are solved.
        pairs: kept from step to step.
    """

    def __init__(self, system: System, solved: Tensor, pairs: SolvedPairs) -> None:
        self._system = s = system.detached()
        self._solved, self._pairs = solved, pairs
        self._felt = pairs.felt(s, solved)
        self._product: Callable[[Tensor], Tensor] | None = None

    def __getstate__(self) -> dict[str, object]:
        """Without the bound product, which copies make anew."""
        return self.__dict__ | {"_product": None}

    def at_solved(self, charges: Tensor) -> Tensor:
        """dE/dq (s,) in V of the solved atoms, for charges (n,)."""
        s = self._system
        if self._felt is not None and s.compiled:
            pairs, excluded = (rows_of(listed) for listed in self._felt)
            assert pairs is not None
            return s.step.at_solved(s.geometry, charges, self._solved, pairs, excluded)
        return s.potential(charges, self._felt)[self._solved]

    def first(self, charges: Tensor, forces: bool) -> First:
        """As `System.first`."""
        return self._system.first(charges, forces)

    def product(self, v: Tensor) -> Tensor:
        """Potentials (s,) in V of charges (s,) on the solved atoms alone, at these atoms."""
        if self._product is None:
            s, solved = self._system, self._solved
            pairs, excluded = self._pairs.inner(s, solved)
            part = replace(
                s, positions=s.positions[solved], smearing=s.smearing[solved], pairs=pairs, excluded=excluded
            )
            self._product = part.operator()
        return self._product(v)
