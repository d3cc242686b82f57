"""Atoms as a local model sees them: neighbours within a cut-off, of one frame or of a batch of frames.

Neighbours stand in a table with one row per atom, filled up to the longest row. Sums over neighbours are then
matrix products instead of scattered additions, on which fast first and second derivatives rest. Entries that
fill a row point to the atom itself, moved out of every cut-off, so that they contribute exact zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grahame.kernels.neighbors import Pairs, neighbor_pairs

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
PBC = tuple[bool, bool, bool]


@dataclass(frozen=True)
class Graph:
    """Positions and neighbours of B frames with n atoms in all.

    Attributes:
        positions: (n,3) Å, float64.
        cells: (B,3,3) rows in Å; zero for frames without a cell.
        species: (n,) index into the model's elements.
        frame: (n,) index of the frame of each atom, ascending.
        neighbors: (n,K) index of each neighbour; the atom's own index where the row is filled up.
        images: (n,K,3) lattice shifts of the neighbours, as floats.
        beyond: (n,K) 0 for neighbours, and a distance outside every cut-off (Å) where the row is filled up.
        pairs: (p,2) each pair of neighbours once; pair_images: (p,3) the lattice shift of its second atom.
        solved: (n,) True for atoms whose charge a solver sets (electrodes), which exchange no charge with
            others.
    """

    positions: Tensor
    cells: Tensor
    species: Tensor
    frame: Tensor
    neighbors: Tensor
    images: Tensor
    beyond: Tensor
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
        x, table = self.positions, self.neighbors
        ends = x.index_select(0, table.reshape(-1)).reshape(*table.shape, 3)
        shifts = torch.bmm(self.images.reshape(len(x), -1, 3), self.cells[self.frame])
        away = torch.nn.functional.pad(self.beyond[..., None], (0, 2))
        return ends - x[:, None, :] + shifts + away

    def pair_vectors(self) -> Tensor:
        """(p,3) from the first to the second atom of each pair, Å."""
        first, second = self.pairs.unbind(1)
        shifts = (self.pair_images[:, None, :] @ self.cells[self.frame[first]])[:, 0]
        return self.positions[second] - self.positions[first] + shifts

    def per_frame(self, values: Tensor) -> Tensor:
        """(B,...) sums of (n,...) values over the atoms of each frame."""
        return values.new_zeros((self.frames, *values.shape[1:])).index_add(0, self.frame, values)


def neighbor_table(
    pairs: Pairs, atoms: int, widths: int = 1
) -> tuple[Ints, NDArray[np.int32], NDArray[np.bool_]]:
    """Rows of neighbours of a half list: indices (n,K), lattice shifts (n,K,3), and where rows are filled up.

    Args:
        pairs: each pair once, as `neighbor_pairs(half=True)` gives them.
        atoms: n.
        widths: K is a multiple of this.
    """
    i = np.concatenate([pairs.i, pairs.j]).astype(np.int64)
    j = np.concatenate([pairs.j, pairs.i]).astype(np.int64)
    shifts = np.concatenate([pairs.shifts, -pairs.shifts])
    order = np.argsort(i, kind="stable")
    i, j, shifts = i[order], j[order], shifts[order]
    counts = np.bincount(i, minlength=atoms)
    width = -(-max(1, int(counts.max(initial=0))) // widths) * widths
    column = np.arange(len(i)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.repeat(np.arange(atoms, dtype=np.int64)[:, None], width, axis=1)
    images = np.zeros((atoms, width, 3), dtype=np.int32)
    table[i, column] = j
    images[i, column] = shifts
    return table, images, np.arange(width) >= counts[:, None]


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
    table, images, filled = neighbor_table(pairs, len(positions), widths)
    pair_index = np.stack([pairs.i, pairs.j], axis=1).astype(np.int64)
    return Graph(
        positions=torch.tensor(positions, dtype=torch.float64),
        cells=torch.tensor(h[None]),
        species=torch.as_tensor(species),
        frame=torch.zeros(len(positions), dtype=torch.long),
        neighbors=torch.as_tensor(table),
        images=torch.as_tensor(images, dtype=torch.float64),
        beyond=torch.as_tensor(filled * (2.0 * cutoff + 1.0)),
        pairs=torch.as_tensor(pair_index),
        pair_images=torch.as_tensor(pairs.shifts, dtype=torch.float64),
        solved=torch.zeros(len(positions), dtype=torch.bool) if solved is None else torch.as_tensor(solved),
    )


def batch(graphs: Sequence[Graph]) -> Graph:
    """Several graphs as one; frames keep their order."""
    width = max(g.neighbors.shape[1] for g in graphs)
    starts = np.cumsum([0] + [len(g.positions) for g in graphs])
    firsts = np.cumsum([0] + [g.frames for g in graphs])
    reach = max((float(g.beyond.max()) for g in graphs if g.beyond.numel()), default=0.0)

    def filled(g: Graph, start: int) -> tuple[Tensor, Tensor, Tensor]:
        n, k = g.neighbors.shape
        if k == width:
            return g.neighbors + start, g.images, g.beyond
        own = torch.arange(start, start + n, device=g.neighbors.device)[:, None].expand(n, width - k)
        pad = torch.nn.functional.pad
        return (
            torch.cat([g.neighbors + start, own], dim=1),
            pad(g.images, (0, 0, 0, width - k)),
            pad(g.beyond, (0, width - k), value=reach or 1e3),
        )

    rows = [filled(g, int(s)) for g, s in zip(graphs, starts)]
    return Graph(
        positions=torch.cat([g.positions for g in graphs]),
        cells=torch.cat([g.cells for g in graphs]),
        species=torch.cat([g.species for g in graphs]),
        frame=torch.cat([g.frame + int(f) for g, f in zip(graphs, firsts)]),
        neighbors=torch.cat([r[0] for r in rows]),
        images=torch.cat([r[1] for r in rows]),
        beyond=torch.cat([r[2] for r in rows]),
        pairs=torch.cat([g.pairs + int(s) for g, s in zip(graphs, starts)]),
        pair_images=torch.cat([g.pair_images for g in graphs]),
        solved=torch.cat([g.solved for g in graphs]),
    )
