"""The operator by the compiled kernels alone: real space, mesh and excluded pairs side by side on the threads.

A step of molecular dynamics is so short that Python and fresh memory would take a good part of it: arrays and the tasks of
the threads are made once and used again. The formulas are those of `System` and `Moments`.
"""

from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grahame.electrostatics import cells, ewald
from grahame.electrostatics.moments import form
from grahame.kernels import cpu_assembly, cpu_memory
from grahame.kernels.cpu_mesh import MeshSum
from grahame.kernels.cpu_pairs import PairSum
from grahame.kernels.derivatives import First
from grahame.kernels.operators import array
from grahame.kernels.pair_rows import PairRows
from grahame.kernels.threads import Steps, together

Floats = NDArray[np.float64]
Short = NDArray[np.int32]

_KINDS = {"slab": cpu_assembly.SLAB, "displacement": cpu_assembly.POLAR}
_ALONE = 500  # atoms below which a second thread does not pay
_NONE, _NO_GRADIENT = np.empty(0), np.empty((0, 3))
_BARE = (0.0, np.inf, False)  # no splitting, no cut-off, no shift


@dataclass(frozen=True)
class Geometry:
    """One geometry without graph, in float64 on the CPU.

    Attributes:
        boundary, background: names of both; k: Coulomb constant in eV Å/e².
        alpha, cutoff, mesh, order: splitting in 1/Å, Å, points and order of the splines.
        x, s: (n,3) and (n,) Å; cell, k_cell: (3,3) rows in Å, the user's and the one whose waves are summed.
    """

    boundary: str
    background: str
    k: float
    alpha: float
    cutoff: float
    mesh: tuple[int, int, int]
    order: int
    x: Floats
    s: Floats
    cell: Floats
    k_cell: Floats


class CompiledStep:
    """The compiled kernels with their arrays and tasks, kept from geometry to geometry while sizes, cell and widths stay.

    A geometry is placed when it is first asked about and stays until another one is.
    """

    def __init__(self) -> None:
        self._made_for: tuple[Any, ...] | None = None
        self._solved: Short | None = None
        self._placed: Geometry | None = None
        self._s = _NONE
        self._lists: dict[str, PairSum] = {}
        self._one_at_a_time = Lock()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """Copies make their own arrays."""
        return CompiledStep, ()

    def first(
        self, g: Geometry, q: Tensor, forces: bool, pairs: PairRows, excluded: PairRows | None
    ) -> First:
        """Energy in eV, its derivatives by the charges (n,) in V and, where wanted, by the positions (n,3) in eV/Å.

        Args:
            g: the geometry.
            q: (n,) e.
            forces: whether the derivatives by the positions are wanted.
            pairs, excluded: half lists in the k-space cell and in the user's.
        """
        with self._one_at_a_time:
            self._place(g)
            lists = self._listed(g, pairs, excluded, "pairs", "excluded")
            return self._summed(g, array(q), forces, self._every, False, *lists)

    def at_solved(
        self, g: Geometry, q: Tensor, solved: Tensor, pairs: PairRows, excluded: PairRows | None
    ) -> Tensor:
        """Derivatives by the charges (s,) of the solved atoms in V.

        The lists need only hold pairs with one of them. At the same geometry the charges of all others are best the same
        from call to call: what they have on the mesh is kept.
        """
        with self._one_at_a_time:
            atoms = solved.numpy()
            if self._solved is None or not np.array_equal(self._solved, atoms):
                self._solved, self._made_for = atoms.astype(np.int32), None
            self._place(g)
            lists = self._listed(g, pairs, excluded, "felt", "felt excluded")
            return self._summed(g, array(q), False, self._solved, True, *lists).potential

    def _place(self, g: Geometry) -> None:
        """The arrays hold this geometry; made anew for another cell, other widths or other atoms."""
        if self._placed is g and self._made_for is not None:
            return
        self._placed = None
        made_for = (len(g.x), g.k_cell.tobytes(), g.cell.tobytes(), g.alpha, g.cutoff, g.mesh, g.order)
        if made_for != self._made_for or not np.array_equal(self._s, g.s):
            n = len(g.x)
            self._x, self._q = cpu_memory.empty((n, 3)), cpu_memory.empty(n)
            self._s, self._every = g.s.copy(), np.arange(n, dtype=np.int32)
            self._mesh = MeshSum(self._x, g.k_cell, g.alpha, g.mesh, g.order, self._q, self._solved)
            self._lists = {}
            self._made_for = made_for
        self._x[:] = g.x
        self._mesh.moved()
        self._form, self._normal = _form(made_for[1], g.alpha, g.boundary, g.background)
        # Heights from their mean: the origin drops out of the exact sum; near the charges it keeps large terms small.
        self._origin = float((g.x @ self._normal).mean()) if g.boundary == "slab" else 0.0
        self._placed = g

    def _listed(
        self, g: Geometry, pairs: PairRows, excluded: PairRows | None, *names: str
    ) -> tuple[PairSum, PairSum | None]:
        """The sums over both lists."""
        near = self._kept(names[0], pairs, g.k_cell, g.alpha, g.cutoff, True)
        return near, None if excluded is None else self._kept(names[1], excluded, g.cell, *_BARE)

    def _kept(self, name: str, pairs: PairRows, cell: Floats, *terms: Any) -> PairSum:
        """The sum over one list, made anew with it."""
        kept = self._lists.get(name)
        if kept is None or kept.pairs is not pairs:
            kept = self._lists[name] = PairSum(self._x, self._q, cell, self._s, pairs, *terms)
        return kept

    def _summed(
        self,
        g: Geometry,
        q: Floats,
        forces: bool,
        atoms: Short,
        few: bool,
        pairs: PairSum,
        excluded: PairSum | None,
    ) -> First:
        """Of some atoms, with the energy of all where these are all."""
        self._q[:] = q
        sums: list[Steps[Any]] = [self._mesh.steps(forces, True, few=few), pairs.steps(forces, True)]
        if excluded is not None:
            # First, as it is short: the others have something left for both threads at the end.
            sums.insert(0, excluded.steps(forces, True))
        *less, far, near = together(*sums, small=len(q) < _ALONE)
        kind = _KINDS.get(g.boundary, cpu_assembly.UNIFORM)
        where = (kind, self._x, self._s, self._q, self._normal, self._origin)
        w = self._form @ cpu_assembly.moments(*where)
        potential, gradient = np.empty(len(atoms)), np.empty((len(atoms) if forces else 0, 3))
        own = cpu_assembly.assemble(
            atoms, *where, ewald.SELF * g.alpha, w, g.k,
            far.charges, near.charges, less[0].charges if less else _NONE,
            far.positions if forces else _NO_GRADIENT,
            near.positions if forces else _NO_GRADIENT,
            less[0].positions if forces and less else _NO_GRADIENT,
            potential, gradient,
        )  # fmt: skip
        energy = g.k * (0.5 * own + far.energy + near.energy - sum(part.energy for part in less))
        pull = torch.from_numpy(gradient) if forces else None
        return First(torch.from_numpy(np.array(energy)), torch.from_numpy(potential), pull)


@lru_cache(maxsize=8)
def _form(cell: bytes, alpha: float, boundary: str, background: str) -> tuple[Floats, Floats]:
    """C (3,3) of the k-space cell and its normal (3,); kept while the cell stays the same."""
    h = torch.from_numpy(np.frombuffer(cell).reshape(3, 3).copy())
    found = form(boundary, alpha, float(cells.height(h)), float(cells.volume(h)), background == "gaussian")
    whole = np.zeros((3, 3))
    whole[: len(found), : len(found)] = found
    return whole, cells.normal(h).numpy()
