"""The Coulomb operator K bound to one geometry: energy, potential and matrix from the same terms.

    K/k = real space + waves - 2 alpha/sqrt(pi) d_ij + d_ij/(sqrt(pi) s_i) + background + slab
          + displacement - excluded pairs

Every number that the package returns is this energy or a derivative of it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from grahame.electrostatics import cells, ewald, exact, fields, gaussians, pme, slab
from grahame.electrostatics.accuracy import Parameters
from grahame.electrostatics.compiled_step import CompiledStep, Geometry
from grahame.electrostatics.moments import Moments
from grahame.kernels import derivatives, dispatch, operators
from grahame.kernels.neighbors import RowPairs
from grahame.kernels.pair_rows import PairRows

Triple: TypeAlias = tuple[Tensor, Tensor, Tensor]


class HalfList(tuple[Tensor, Tensor, Tensor]):
    """A half list on the CPU in the short form of the compiled kernels; i, j, shifts are made when they are read."""

    found: RowPairs

    def __new__(cls, found: RowPairs) -> "HalfList":
        out = super().__new__(cls, ())
        out.found = found
        return out

    def __iter__(self) -> Iterator[Tensor]:
        return (torch.as_tensor(column) for column in (self.found.i, self.found.j, self.found.shifts))

    def __getitem__(self, k: Any) -> Any:
        return tuple(self)[k]

    def __len__(self) -> int:
        return 3

    def __bool__(self) -> bool:
        return True


Felt: TypeAlias = tuple[Triple, Triple | None]
"""Pairs and excluded pairs that some atoms feel."""


@dataclass(frozen=True)
class System:
    """One geometry, ready for any charges.

    Attributes:
        boundary: name of the boundary.
        background: "gaussian" or "point".
        coulomb_constant: k in eV Å/e².
        parameters: what the accuracy was turned into.
        positions: (n,3) Å; may require gradients, as may cell and smearing.
        cell: (3,3) the user's cell, rows in Å; None for "open".
        smearing: (n,) Gaussian widths in Å.
        pairs: i, j, shifts in the k-space cell: every pair twice for "exact", once for the others, in a list's short form
            where the compiled kernels find one; None for "open".
        waves: (m,3) integer triples of the Ewald sum, fixed when the parameters were chosen.
        excluded: i, j, shifts in the user's cell of the pairs whose bare interaction is removed; in short form as well.
        step: the compiled kernels with their arrays, shared by the systems of one operator.
    """

    boundary: str
    background: str
    coulomb_constant: float
    parameters: Parameters
    positions: Tensor
    cell: Tensor | None
    smearing: Tensor
    pairs: Triple | None
    waves: Tensor | None
    excluded: Triple | None
    step: CompiledStep = field(default_factory=CompiledStep, compare=False, repr=False)

    @property
    def k_cell(self) -> Tensor:
        """The cell whose waves are summed: longer than the user's along the slab normal."""
        assert self.cell is not None
        return cells.extend_along_normal(self.cell, self.parameters.padding)

    @property
    def _has_background(self) -> bool:
        return self.boundary in ("3d", "finite-field", "displacement", "slab")

    def energy(self, charges: Tensor) -> Tensor:
        """1/2 q'Kq in eV, on-site Gaussian energy included, linear field terms not."""
        x, s = self.positions, self.smearing
        on_site = 0.5 * (gaussians.on_site_diagonal(s) * charges**2).sum()
        total = on_site + self._interaction(charges)
        if self.excluded is not None:
            i, j, shifts = self.excluded
            h = x.new_zeros((3, 3)) if self.cell is None else self.cell
            total = total + dispatch.exclusion_energy(x, charges, h, s, i, j, shifts)
        if self._has_background:
            plane = self._plane()
            total = total + slab.background_energy(charges, plane, self.parameters.splitting)
            if self.boundary == "slab":
                total = total + slab.slab_energy(charges, plane)
            if self.boundary == "displacement":
                total = total + fields.polarization_energy(charges, plane)
        return self.coulomb_constant * total

    def _plane(self) -> slab.Plane:
        """With the graph of the geometry."""
        return slab.Plane.of(self.positions, self.smearing, self.k_cell, self.background == "gaussian")

    @cached_property
    def _moments(self) -> Moments:
        """Of a geometry without graph, for all products with it."""
        return Moments.of(self._plane(), self.parameters.splitting, self.boundary)

    @cached_property
    def _diagonal(self) -> Tensor:
        """(n,) in 1/Å: the Gaussians' own energies less what the splitting counts; of a geometry without graph."""
        return gaussians.on_site_diagonal(self.smearing) - ewald.SELF * self.parameters.splitting

    def _interaction(self, charges: Tensor) -> Tensor:
        """Real space, waves and the self-interaction of the splitting, in e²/Å."""
        x, s, p = self.positions, self.smearing, self.parameters
        if self.boundary == "open":
            return exact.open_energy(x, charges, s)
        h = self.k_cell
        assert self.pairs is not None
        if self.boundary == "slab-exact":
            return exact.planar_energy(x, charges, h, s, self.pairs, p)
        if p.method == "exact":
            return exact.periodic_energy(x, charges, h, s, self.pairs, p)
        if self.waves is not None:
            return ewald.energy(x, charges, h, s, self.pairs, self.waves, p)
        return pme.energy(x, charges, h, s, self.pairs, p)

    def _interaction_matrix(self) -> Tensor:
        x, s, p, h = self.positions, self.smearing, self.parameters, self.k_cell
        assert self.pairs is not None
        if self.boundary == "slab-exact":
            return exact.planar_matrix(x, h, s, self.pairs, p)
        if p.method == "exact":
            return exact.periodic_matrix(x, h, s, self.pairs, p)
        assert self.waves is not None
        return ewald.matrix(x, h, s, self.pairs, self.waves, p)

    def potential(self, charges: Tensor, felt: Felt | None = None) -> Tensor:
        """(n,) dE/dq_i = (Kq)_i in V, without graph; `felt` is all that the atoms feel whose potentials are wanted."""
        return self.first(charges, forces=False, felt=felt).potential

    def first(self, charges: Tensor, forces: bool, felt: Felt | None = None) -> derivatives.First:
        """Energy in eV, its derivatives by charges (n,) in V and, where wanted, positions (n,3) in eV/Å, without graph.

        The compiled kernels give derivatives along with the energy; elsewhere torch takes them of `energy`.

        Args:
            charges: (n,) e; forces: whether the derivatives by positions are wanted.
            felt: pairs instead of those of the system.
        """
        pairs, excluded = (self.pairs, self.excluded) if felt is None else felt
        p, fixed, q = self.parameters, self.detached(), charges.detach()
        direct = self.pairs is not None and p.method in ("ewald", "pme") and p.backend != "torch-pme"
        if not (direct and derivatives.direct(fixed.positions, q, fixed.smearing)):
            with torch.enable_grad():
                x = fixed.positions.detach().requires_grad_(forces)
                leaves = [q.requires_grad_(), x] if forces else [q.requires_grad_()]
                energy = replace(fixed, positions=x, pairs=pairs, excluded=excluded).energy(q)
                found = torch.autograd.grad(energy, leaves, materialize_grads=True)
            return derivatives.First(energy.detach(), found[0], found[1] if forces else None)
        rows = rows_of(pairs)
        if rows is not None and fixed.compiled:
            return self.step.first(fixed.geometry, q, forces, rows, rows_of(excluded))
        with torch.no_grad():
            return fixed._direct(q, forces, cast(Triple, pairs), excluded)

    @property
    def compiled(self) -> bool:
        """Whether the compiled kernels serve all of this geometry (one without graph) at once: the mesh, on the CPU."""
        short = isinstance(self.pairs, HalfList) and self.waves is None and self.cell is not None
        short = short and (self.excluded is None or isinstance(self.excluded, HalfList))
        return (
            short
            and self.parameters.backend != "torch-pme"
            and operators.compiled(self.positions, self.smearing)
        )

    @cached_property
    def geometry(self) -> Geometry:
        """Of a system that is `compiled`."""
        p = self.parameters
        assert self.cell is not None
        return Geometry(
            self.boundary, self.background, self.coulomb_constant, p.splitting, p.cutoff, p.mesh, p.order,
            *(operators.array(t) for t in (self.positions, self.smearing, self.k_cell)),
        )  # fmt: skip

    def _direct(self, q: Tensor, forces: bool, pairs: Triple, excluded: Triple | None) -> derivatives.First:
        """`first` from the derivatives of each term; the energy is quadratic, E = 1/2 q.dE/dq."""
        x, s, p, smooth = self.positions, self.smearing, self.parameters, self._moments
        h = smooth.plane.cell
        near = (p.splitting, p.cutoff)
        if isinstance(pairs, HalfList):
            parts = [derivatives.row_derivatives(x, q, h, s, pairs.found.rows, *near, forces)]
        else:
            parts = [derivatives.pair_derivatives(x, q, h, s, *pairs, *near, forces)]
        if self.waves is not None:
            parts.append(derivatives.ewald_derivatives(x, q, h, p.splitting, self.waves, forces))
        else:
            parts.append(derivatives.mesh_derivatives(x, q, h, p.splitting, p.mesh, p.order, forces))
        if excluded is not None:
            assert self.cell is not None
            if isinstance(excluded, HalfList):
                parts.append(
                    derivatives.excluded_row_derivatives(x, q, self.cell, s, excluded.found.rows, forces)
                )
            else:
                parts.append(derivatives.exclusion_derivatives(x, q, self.cell, s, *excluded, forces))
        weights = smooth.weights(q)
        potential = torch.addcmul(smooth.potential(weights), self._diagonal, q)
        energy = 0.5 * (q @ potential)
        for part in parts:
            energy = energy + part.energy
            potential += part.potential
        k = self.coulomb_constant
        potential *= k
        if not forces:
            return derivatives.First(k * energy, potential, None)
        gradient, *others = (cast(Tensor, part.gradient) for part in parts)
        for other in others:
            gradient += other
        pull = smooth.gradient(q, weights)
        if pull is not None:
            gradient += pull
        gradient *= k
        return derivatives.First(k * energy, potential, gradient)

    def operator(self) -> Callable[[Tensor], Tensor]:
        """The function charges -> Kq in V, with the geometry bound once, for many products without graph."""
        p = self.parameters
        if self.pairs is None or p.method == "exact":
            return self.potential
        fixed = self.detached()
        smooth = fixed._moments
        x, s, h = fixed.positions, fixed.smearing, smooth.plane.cell
        parts = [dispatch.pair_operator(x, h, s, *self.pairs, p.splitting, p.cutoff)]
        if self.waves is not None:
            parts.append(dispatch.ewald_operator(x, h, p.splitting, self.waves))
        else:
            parts.append(dispatch.mesh_operator(x, h, p.splitting, p.mesh, p.order))
        if self.excluded is not None:
            assert fixed.cell is not None
            parts.append(dispatch.exclusion_operator(x, fixed.cell, s, *self.excluded))

        def product(charges: Tensor) -> Tensor:
            q = charges.detach()
            total = torch.addcmul(smooth.potential(smooth.weights(q)), fixed._diagonal, q)
            for part in parts:
                total = total + part(q)
            return self.coulomb_constant * total

        return product

    def product(self, charges: Tensor) -> Tensor:
        """KQ in V, the same shape as Q (n,) or (n,m), with the graph of Q and of the geometry where they have one."""
        columns = charges.reshape(len(charges), -1)
        if self.pairs is None or self.parameters.method == "exact":
            return (self.matrix() @ columns).reshape(charges.shape)
        geometry = [t for t in (self.positions, self.cell, self.smearing) if t is not None]
        if torch.is_grad_enabled() and any(t.requires_grad for t in geometry) and columns.numel():
            return torch.stack([self._gradient(q) for q in columns.T], dim=1).reshape(charges.shape)
        other = self.parameters.backend == "torch-pme"
        out: Tensor = _Product.apply(self.potential if other else self.operator(), columns)  # type: ignore[no-untyped-call]
        return out.reshape(charges.shape)

    def _gradient(self, charges: Tensor) -> Tensor:
        """(n,) dE/dq_i in V with its graph."""
        leaf = charges.view_as(charges) if charges.requires_grad else charges.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.energy(leaf), leaf, create_graph=True)
        return gradient

    def detached(self) -> "System":
        """The same system without graph; itself where there is none."""
        return self._detached

    @cached_property
    def _detached(self) -> "System":
        geometry = [t for t in (self.positions, self.cell, self.smearing) if t is not None]
        if not any(t.requires_grad for t in geometry):
            return self
        cell = None if self.cell is None else self.cell.detach()
        return replace(self, positions=self.positions.detach(), cell=cell, smearing=self.smearing.detach())

    def matrix(self) -> Tensor:
        """K (n,n) in eV/e², differentiable with respect to positions, cell and smearing.

        For "pme" the columns are the mesh's own potentials of unit charges.
        """
        x, s, p = self.positions, self.smearing, self.parameters
        n = len(x)
        if p.method == "pme":
            return self.product(torch.eye(n, dtype=x.dtype, device=x.device))
        total = torch.diag(gaussians.on_site_diagonal(s))
        if self.boundary == "open":
            total = total + exact.open_matrix(x, s)
        else:
            total = total + self._interaction_matrix()
        if self.excluded is not None:
            total = total - exact.exclusion_matrix(x, self.cell, s, self.excluded)
        if self._has_background:
            plane = self._plane()
            total = total + slab.background_matrix(plane, p.splitting)
            if self.boundary == "slab":
                total = total + slab.slab_matrix(plane)
            if self.boundary == "displacement":
                total = total + fields.polarization_matrix(plane)
        return self.coulomb_constant * total


def rows_of(listed: Triple | None) -> PairRows | None:
    """A list in its short form."""
    return listed.found.rows if isinstance(listed, HalfList) else None


class _Product(torch.autograd.Function):
    """Many products with one operator, which is symmetric: its derivative is the operator again."""

    @staticmethod
    def forward(ctx: Any, operator: Callable[[Tensor], Tensor], columns: Tensor) -> Tensor:
        ctx.operator = operator
        out = torch.empty_like(columns)
        for k in range(columns.shape[1]):
            out[:, k] = operator(columns[:, k].contiguous())
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        found: Tensor = _Product.apply(ctx.operator, grad)  # type: ignore[no-untyped-call]
        return None, found
