"""The operator by the compiled kernels alone: real space, less excluded pairs, and mesh side by side on the threads.

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
from grahame.kernels.threads import together

Floats = NDArray[np.float64]
Short = NDArray[np.int32]

_KINDS = {"slab": cpu_assembly.SLAB, "displacement": cpu_assembly.POLAR}
_ALONE = 500  # atoms below which a second thread does not pay
_LONG_ROWS = 40  # points of the second direction of a slab
_NONE, _NO_GRADIENT = np.empty(0), np.empty((0, 3))


@dataclass(frozen=True)
class Geometry:
    """One geometry without graph, in float64 on the CPU.

    Attributes:
        boundary, background: names of both; k: Coulomb constant in eV Å/e².
        alpha, cutoff, mesh, order: splitting in 1/Å, Å, points and order of the splines.
        x, s: (n,3) and (n,) Å; k_cell: (3,3) rows in Å, the cell whose waves are summed.
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
        self._sums: dict[str, PairSum] = {}
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
            pairs, excluded: half lists; excluded pairs have no shift along the normal of a slab, where the user's cell is
                another one.
        """
        with self._one_at_a_time:
            self._place(g)
            near = self._near("all", g, pairs, excluded)
            return self._summed(g, array(q), forces, self._every, False, near)

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
            near = self._near("felt", g, pairs, excluded)
            return self._summed(g, array(q), False, self._solved, True, near).potential

    def _place(self, g: Geometry) -> None:
        """The arrays hold this geometry; made anew for another cell, other widths or other atoms."""
        if self._placed is g and self._made_for is not None:
            return
        self._placed = None
        made_for = (len(g.x), g.k_cell.tobytes(), g.alpha, g.cutoff, g.mesh, g.order)
        if made_for != self._made_for or not np.array_equal(self._s, g.s):
            n = len(g.x)
            self._x, self._q = cpu_memory.empty((n, 3)), cpu_memory.empty(n)
            self._s, self._every = g.s.copy(), np.arange(n, dtype=np.int32)
            h, mesh = g.k_cell, g.mesh
            if g.boundary == "slab" and mesh[1] >= _LONG_ROWS:
                # The normal first: planes of the vacuum are left out. Short rows would cost more than that saves.
                h, mesh = np.roll(h, 1, axis=0), (mesh[2], *mesh[:2])
            self._mesh = MeshSum(self._x, h, g.alpha, mesh, g.order, self._q, self._solved)
            self._sums = {}
            self._made_for = made_for
        self._x[:] = g.x
        self._mesh.moved()
        self._form, self._normal = _form(made_for[1], g.alpha, g.boundary, g.background)
        # Heights from their mean: the origin drops out of the exact sum; near the charges it keeps large terms small.
        self._origin = float((g.x @ self._normal).mean()) if g.boundary == "slab" else 0.0
        self._placed = g

    def let_go(self) -> None:
        """Of the lists, which are about to be found anew."""
        with self._one_at_a_time:
            self._sums.clear()

    def _near(self, name: str, g: Geometry, pairs: PairRows, excluded: PairRows | None) -> PairSum:
        """The sum in real space over a list, less excluded pairs; made anew with either."""
        kept = self._sums.get(name)
        if kept is None or kept.pairs is not pairs or kept.less is not excluded:
            kept = PairSum(self._x, self._q, g.k_cell, self._s, pairs, g.alpha, g.cutoff, True, less=excluded)
            self._sums[name] = kept
        return kept

    def _summed(self, g: Geometry, q: Floats, forces: bool, atoms: Short, few: bool, pairs: PairSum) -> First:
        """Of some atoms, with the energy of all where these are all."""
        self._q[:] = q
        far, near = together(
            self._mesh.steps(forces, True, few=few), pairs.steps(forces, True), small=len(q) < _ALONE
        )
        kind = _KINDS.get(g.boundary, cpu_assembly.UNIFORM)
        where = (kind, self._x, self._s, self._q, self._normal, self._origin)
        w = self._form @ cpu_assembly.moments(*where)
        potential, gradient = np.empty(len(atoms)), np.empty((len(atoms) if forces else 0, 3))
        own = cpu_assembly.assemble(
            atoms, *where, ewald.SELF * g.alpha, w, g.k,
            far.charges, near.charges,
            far.positions if forces else _NO_GRADIENT,
            near.positions if forces else _NO_GRADIENT,
            potential, gradient,
        )  # fmt: skip
        energy = g.k * (0.5 * own + far.energy + near.energy)
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
