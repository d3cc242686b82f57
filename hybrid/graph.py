"""Atoms as a local model sees them: neighbours within a cut-off, of one frame or of a batch of frames.

Compiled kernels go through the neighbours row by row. Torch wants a table with one row per atom, filled up to the longest
row: sums over neighbours are then matrix products instead of scattered additions, on which fast first and second
derivatives rest. Entries that fill a row point to the atom itself, moved out of every cut-off, so that they contribute
exact zeros. The table is made when it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grahame.kernels.neighbors import Pairs, close_pairs, neighbor_pairs
from grahame.kernels.operators import array, compiled
from grahame.kernels.pair_rows import Rows, full_rows

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
PBC = tuple[bool, bool, bool]


@dataclass(frozen=True)
class Table:
    """Rows of equal length.

    Attributes:
        neighbors: (n,K) index of each neighbour; the atom's own index where the row is filled up.
        images: (n,K,3) lattice shifts of the neighbours, as floats.
        beyond: (n,K) 0 for neighbours, and a distance outside every cut-off (Å) where the row is filled up.
    """

    neighbors: Tensor
    images: Tensor
    beyond: Tensor


class Neighborhood:
    """Neighbours of every atom, in both forms.

    Args:
        rows: one after the other.
        far: distance outside every cut-off, Å.
        widths: K of the table is a multiple of this.
        device: where the table is wanted.
    """

    def __init__(self, rows: Rows, far: float, widths: int = 1, device: torch.device | str = "cpu") -> None:
        self.rows, self.far, self.widths, self.device = rows, far, widths, torch.device(device)

    @cached_property
    def table(self) -> Table:
        """Made once."""
        neighbors, images, filled = neighbor_table(self.rows, self.widths)
        parts = (neighbors, images.astype(np.float64), filled * self.far)
        return Table(*(torch.as_tensor(part, device=self.device) for part in parts))

    def to(self, device: torch.device | str) -> Neighborhood:
        """With its table on another device."""
        return Neighborhood(self.rows, self.far, self.widths, device)

    @staticmethod
    def joined(parts: Sequence[Neighborhood], starts: Ints) -> Neighborhood:
        """Several frames one after the other; `starts` are their first atoms."""
        places = np.cumsum([0] + [len(p.rows.j) for p in parts])
        rows = Rows(
            np.concatenate([[0], *(p.rows.start[1:] + place for p, place in zip(parts, places))]),
            np.concatenate([p.rows.j + np.int32(start) for p, start in zip(parts, starts)]),
            np.concatenate([p.rows.shifts for p in parts]),
        )
        return Neighborhood(rows, max(p.far for p in parts), parts[0].widths, parts[0].device)


@dataclass(frozen=True)
class Graph:
    """Positions and neighbours of B frames with n atoms in all.

    Attributes:
        positions: (n,3) Å, float64.
        cells: (B,3,3) rows in Å; zero for frames without a cell.
        species: (n,) index into the model's elements.
        frame: (n,) index of the frame of each atom, ascending.
        around: neighbours of every atom, in both directions.
        pairs: (p,2) each pair of neighbours once; pair_images: (p,3) the lattice shift of its second atom.
        solved: (n,) True for atoms whose charge a solver sets (electrodes), which exchange no charge with
            others.
    """

    positions: Tensor
    cells: Tensor
    species: Tensor
    frame: Tensor
    around: Neighborhood
    pairs: Tensor
    pair_images: Tensor
    solved: Tensor

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.cells)

    def to(self, device: torch.device | str) -> Graph:
        """The same graph on another device."""
        return replace(self, **{k: v.to(device) for k, v in self.__dict__.items()})

    def strained(self, strain: Tensor) -> Graph:
        """The graph with every frame deformed by r -> r (1 + strain), strain (B,3,3)."""
        moved = self.positions + (self.positions[:, None, :] @ strain[self.frame])[:, 0]
        return replace(self, positions=moved, cells=self.cells + self.cells @ strain)

    def vectors(self) -> Tensor:
        """(n,K,3) from each atom to its neighbours, Å."""
        x, t = self.positions, self.around.table
        ends = x.index_select(0, t.neighbors.reshape(-1)).reshape(*t.neighbors.shape, 3)
        shifts = torch.bmm(t.images.reshape(len(x), -1, 3), self.cells[self.frame])
        away = torch.nn.functional.pad(t.beyond[..., None], (0, 2))
        return ends - x[:, None, :] + shifts + away

    def pair_vectors(self, some: Tensor | None = None) -> Tensor:
        """(p,3) from the first to the second atom of each pair, Å; or (m,3) of some, given by (m,) places."""
        x, pairs, images = self.positions, self.pairs, self.pair_images
        if some is not None:
            pairs, images = pairs.index_select(0, some), images.index_select(0, some)
        first, second = pairs.unbind(1)
        if self.frames == 1:
            shifts = images @ self.cells[0]
        else:
            shifts = (images[:, None, :] @ self.cells[self.frame[first]])[:, 0]
        return x.index_select(0, second) - x.index_select(0, first) + shifts

    def close_pairs(self, reach: float) -> Tensor:
        """(m,) places of the pairs closer than `reach`, Å, rising."""
        x, cells = self.positions.detach(), self.cells.detach()
        if not compiled(x, cells):
            with torch.no_grad():
                r: Tensor = torch.linalg.vector_norm(self.pair_vectors(), dim=-1)
                return (r < reach).nonzero()[:, 0]
        lists = (self.frame.numpy(), self.pairs.numpy(), self.pair_images.numpy())
        return torch.from_numpy(close_pairs(array(x), array(cells), *lists, reach))

    def per_frame(self, values: Tensor) -> Tensor:
        """(B,...) sums of (n,...) values over the atoms of each frame."""
        return values.new_zeros((self.frames, *values.shape[1:])).index_add(0, self.frame, values)


def neighbor_table(rows: Rows, widths: int = 1) -> tuple[Ints, NDArray[np.int32], NDArray[np.bool_]]:
    """Rows of neighbours as a table: indices (n,K), lattice shifts (n,K,3), and where rows are filled up.

    Args:
        rows: neighbours of every atom; widths: K is a multiple of this.
    """
    counts = np.diff(rows.start)
    atoms = len(counts)
    width = -(-max(1, int(counts.max(initial=0))) // widths) * widths
    inside = np.arange(width) < counts[:, None]
    table = np.repeat(np.arange(atoms, dtype=np.int64)[:, None], width, axis=1)
    images = np.zeros((atoms, width, 3), dtype=np.int32)
    table[inside] = rows.j
    images[inside] = rows.shifts
    return table, images, ~inside


def make_graph(
    positions: Floats,
    cell: Floats | None,
    pbc: PBC,
    species: Ints,
    cutoff: float,
    solved: NDArray[np.bool_] | None = None,
    pairs: Pairs | None = None,
    widths: int = 1,
) -> Graph:
    """The graph of one frame.

    Args:
        positions: (n,3) Å; cell: (3,3) rows in Å or None; pbc: directions that repeat.
        species: (n,) index into the model's elements.
        cutoff: Å.
        solved: (n,) True for atoms whose charge a solver sets; None for none.
        pairs: a half list that holds at least the pairs within the cut-off; None finds them.
        widths: rows of the table are filled up to a multiple of this.
    """
    h = np.zeros((3, 3)) if cell is None else np.asarray(cell, dtype=float)
    pairs = neighbor_pairs(positions, h, pbc, cutoff) if pairs is None else pairs
    pair_index = np.stack([pairs.i, pairs.j], axis=1).astype(np.int64)
    return Graph(
        positions=torch.tensor(positions, dtype=torch.float64),
        cells=torch.tensor(h[None]),
        species=torch.as_tensor(species),
        frame=torch.zeros(len(positions), dtype=torch.long),
        around=Neighborhood(
            full_rows(len(positions), pairs.i, pairs.j, pairs.shifts), 2.0 * cutoff + 1.0, widths
        ),
        pairs=torch.as_tensor(pair_index),
        pair_images=torch.as_tensor(pairs.shifts, dtype=torch.float64),
        solved=torch.zeros(len(positions), dtype=torch.bool) if solved is None else torch.as_tensor(solved),
    )


def batch(graphs: Sequence[Graph]) -> Graph:
    """Several graphs as one; frames keep their order."""
    starts = np.cumsum([0] + [len(g.positions) for g in graphs])
    firsts = np.cumsum([0] + [g.frames for g in graphs])
    return Graph(
        positions=torch.cat([g.positions for g in graphs]),
        cells=torch.cat([g.cells for g in graphs]),
        species=torch.cat([g.species for g in graphs]),
        frame=torch.cat([g.frame + int(f) for g, f in zip(graphs, firsts)]),
        around=Neighborhood.joined([g.around for g in graphs], starts),
        pairs=torch.cat([g.pairs + int(s) for g, s in zip(graphs, starts)]),
        pair_images=torch.cat([g.pair_images for g in graphs]),
        solved=torch.cat([g.solved for g in graphs]),
    )
