"""One electrode problem as tensors: everything a solve works on, checked once.

    U(q) = 1/2 q'Kq + sum over solved atoms of (chi q + 1/2 J q²) + sum over all atoms of v q

with v = -E.r of the field that acts. The solved atoms, their groups and what the groups are held at make the
constraints; the linear solver sees the same problem without graph.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grahame.electrostatics import cells, checks, fields
from grahame.electrostatics.arrays import host
from grahame.electrostatics.coulomb import Coulomb
from grahame.electrostatics.electrodes import Electrode, Held, check_indices
from grahame.electrostatics.equilibration import Constraints
from grahame.electrostatics.linear_response import LinearProblem
from grahame.electrostatics.system import System


@dataclass(frozen=True)
class OnSite:
    """Properties of the solved atoms, (s,) each, in the order of the electrodes.

    Attributes:
        solved: atom indices.
        group_of: electrode of each.
        smearing: Å.
        electronegativity: V.
        hardness: V/e, the Thomas-Fermi term included.
    """

    solved: Tensor
    group_of: Tensor
    smearing: Tensor
    electronegativity: Tensor
    hardness: Tensor

    @cached_property
    def sizes(self) -> Tensor:
        """Solved atoms of each electrode."""
        return torch.bincount(self.group_of).to(torch.float64)

    @cached_property
    def bare(self) -> bool:
        """Whether nothing but the operator acts on the solved atoms: no electronegativity and no hardness."""
        if self.electronegativity.requires_grad or self.hardness.requires_grad:
            return False
        return not (bool(self.electronegativity.any()) or bool(self.hardness.any()))

    def fits(self, n: int) -> bool:
        """Whether the indices are known to be right for n atoms."""
        return n in self._masks

    def among(self, n: int) -> Tensor:
        """Whether each of n atoms is solved, (n,)."""
        if n not in self._masks:
            mask = torch.zeros(n, dtype=torch.bool, device=self.solved.device)
            mask[self.solved] = True
            self._masks[n] = mask
        return self._masks[n]

    @cached_property
    def _masks(self) -> dict[int, Tensor]:
        return {}

    @cached_property
    def _sets(self) -> dict[tuple[int, ...], Constraints]:
        return {}

    def constraints(self, label: tuple[int, ...], count: int) -> Constraints:
        """Sets of solved atoms by the label of their electrode, -1 for none; kept, as they seldom change."""
        if label not in self._sets:
            self._sets.clear()
            sets = torch.tensor(label, device=self.group_of.device)[self.group_of]
            self._sets[label] = Constraints(sets, count)
        return self._sets[label]

    def to(self, device: torch.device) -> "OnSite":
        """The same on a device; graphs are kept."""
        return OnSite(
            self.solved.to(device),
            self.group_of.to(device),
            self.smearing.to(device),
            self.electronegativity.to(device),
            self.hardness.to(device),
        )


@dataclass(frozen=True)
class Problem:
    """One electrode problem.

    Attributes:
        boundary: of the operator.
        x, h, s, q: positions, cell, widths and charges of all atoms (q is 0 on the solved ones).
        site: the solved atoms.
        held: what the electrodes are held at.
        constraints: the sums of charges that follow from it.
        field: given uniform field (3,) V/Å, or None.
        displacement: D/eps0 along the normal in V/Å, or None.
        total_charge: of all atoms in e, or None where it is free.
        exclusions: excluded pairs.
    """

    boundary: str
    x: Tensor
    h: Tensor | None
    s: Tensor
    q: Tensor
    site: OnSite
    held: Held
    constraints: Constraints
    field: Tensor | None
    displacement: Tensor | None
    total_charge: Tensor | None
    exclusions: Any

    @property
    def follows(self) -> bool:
        """Whether the field strength is an unknown: held charges in finite field."""
        return self.boundary == "finite-field" and all(self.held.by_charge)

    def held_sums(self) -> Tensor:
        """The sum of charges of every constrained set, differentiable in what is held."""
        if not any(self.held.by_charge):
            if self.constraints.count == 0:
                return self.x.new_zeros(0)
            assert self.total_charge is not None
            return (self.total_charge - self.q.sum()).reshape(1)
        sums: list[Tensor] = [q for q, by_charge in zip(self.held.charges, self.held.by_charge) if by_charge]
        if self.constraints.count > len(sums):
            assert self.total_charge is not None
            sums.append(self.total_charge - self.q.sum() - torch.stack(sums).sum())
        return torch.stack(sums)

    @cached_property
    def heights(self) -> NDArray[np.float64]:
        """(n,) r.n in Å of a finite-field cell, without graph."""
        assert self.h is not None
        return np.asarray(host(self.x.detach() @ cells.normal(self.h.detach())), dtype=np.float64)

    @cached_property
    def spans(self) -> list[tuple[float, float]]:
        """Lowest and highest atom of each electrode along the normal, Å."""
        solved, groups = self.heights[host(self.site.solved)], host(self.site.group_of)
        parts = [solved[groups == g] for g in range(len(self.held.by_charge))]
        return [(float(part.min()), float(part.max())) for part in parts]

    def order(self) -> tuple[int, int]:
        """The two electrodes of a finite-field cell, which do not overlap: bottom and top along the normal."""
        return (0, 1) if self.spans[1] > self.spans[0] else (1, 0)

    def strength(self, h: Tensor | None) -> Tensor | None:
        """Field along the normal that two held potentials set: E = -(psi_top - psi_bot)/L."""
        if self.boundary != "finite-field" or self.follows:
            return None
        assert h is not None
        bottom, top = self.order()
        return -(self.held.potentials[top] - self.held.potentials[bottom]) / cells.height(h)

    def external(self, system: System, known: Tensor | None = None) -> Tensor | None:
        """Potential of the field that acts, (n,) V, or None; `known` as in `acting`."""
        acting = self.acting(system.cell, known)
        return None if acting is None else fields.external_potential(system.positions, acting)

    def acting(self, h: Tensor | None, known: Tensor | None = None) -> Tensor | None:
        """The uniform field (3,) in V/Å that acts as an external one, D in its place at constant displacement; or None.

        `known` is the strength of one that follows charges, or that of potentials where the caller has it.
        """
        along = known if known is not None else self.strength(h)
        if along is None:
            along = self.displacement
        if along is None:
            if self.field is None or h is None or self.boundary not in cells.SLABS:
                return self.field
            return fields.turning(self.field, h)
        assert h is not None
        uniform = along * cells.normal(h)
        return uniform if self.field is None else uniform + self.field

    def stationarity(self, potential: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """psi - (Aq+b) on the solved atoms, and (Aq+b) averaged over each group, V; none where no charge is held."""
        site = self.site
        inner = potential[site.solved]
        if not site.bare:
            inner = inner + site.electronegativity + site.hardness * q[site.solved]
        means = inner.new_zeros(0)
        if any(self.held.by_charge):
            means = inner.new_zeros(len(site.sizes)).index_add(0, site.group_of, inner) / site.sizes
        return self.held.potentials[site.group_of] - inner, means

    def linear(self, frozen: System) -> LinearProblem:
        """The same problem without graph."""
        site = self.site
        drive = self.held.potentials.detach()[site.group_of] - site.electronegativity.detach()
        acting = self.acting(frozen.cell)
        if acting is not None:
            drive = drive - fields.external_potential(frozen.positions[site.solved], acting.detach())
        z, length, order = None, None, None
        if self.boundary == "finite-field":
            assert frozen.cell is not None
            z = (frozen.positions @ cells.normal(frozen.cell))[site.solved]
            length = float(cells.height(frozen.cell))
            order = self.order()
        return LinearProblem(
            system=frozen,
            solved=site.solved,
            group_of=site.group_of,
            group_sizes=site.sizes,
            by_charge=self.held.by_charge,
            constraints=self.constraints,
            sums=self.held_sums().detach(),
            drive=drive,
            hardness=site.hardness.detach(),
            charges=self.q.detach(),
            follows=self.follows,
            heights=z,
            length=length,
            order=order,
        )


def make_problem(
    coulomb: Coulomb,
    electrodes: Sequence[Electrode],
    site: OnSite,
    held: Held,
    positions: Any,
    charges: Any,
    cell: Any,
    smearing: Any,
    exclusions: Any,
    field: Any,
    displacement: Any,
    total_charge: Any,
    single: bool = False,
) -> Problem:
    """Check everything one solve is given; the result lies where `site` and `held` do.

    `single` says that numbers came in single precision, whose rounding is no mistake.

    Raises:
        ValueError: for the first thing that has no right answer.
    """
    # Copies: what is kept of this problem (a factor's geometry, the capacitance) must not follow the caller's arrays.
    x = checks.positions_of(positions, site.solved.device).clone()
    n = len(x)
    if not site.fits(n):
        check_indices(electrodes, n)
    h = checks.cell_of(cell, coulomb.boundary, x)
    h = None if h is None else h.clone()
    # Entries of solved atoms are ignored, so they are replaced before they are checked.
    q = checks.per_atom("charges", _without(charges, site, n, x), n, "e", x)
    s = checks.smearing_of(None if smearing is None else _without(smearing, site, n, x), n, x)
    s = s.index_put((site.solved,), site.smearing)
    whole = None if total_charge is None else checks.to_tensor(total_charge, x)
    if total_charge is None and field is not None and not all(held.by_charge):
        raise ValueError(
            "total_charge = None must be a number with a field and electrodes at a potential: the charge that the cell takes up "
            "would depend on the origin; give total_charge=0"
        )
    if whole is not None and whole.ndim != 0:
        raise ValueError(
            f"total_charge = array of shape {tuple(whole.shape)} must be one number: it is the charge of all atoms together"
        )
    if whole is not None and not bool(torch.isfinite(whole)):
        raise ValueError(
            f"total_charge = {total_charge} e must be finite: it is the charge of all atoms together"
        )
    e_field, d_field = coulomb.check_fields(_known_charge(q, held, whole), h, field, displacement, single)
    constraints = _constraints(coulomb.boundary, held, site, whole, q, 1e-6 if single else 1e-8)
    problem = Problem(
        coulomb.boundary, x, h, s, q, site, held, constraints, e_field, d_field, whole, exclusions
    )
    if coulomb.boundary == "finite-field":
        _check_finite_field(problem)
    if coulomb.boundary == "3d" and not coulomb.as_other_programs:
        volts = [float(v.detach()) for v, by_charge in zip(held.potentials, held.by_charge) if not by_charge]
        if volts and max(volts) - min(volts) > 1e-12:
            raise ValueError(
                f'potentials = {", ".join(f"{v:g}" for v in volts)} V must be equal with boundary = "3d": the cell repeats '
                'through the electrodes; use boundary = "finite-field" or "slab"'
            )
    return problem


def _known_charge(q: Tensor, held: Held, total_charge: Tensor | None) -> Tensor:
    """The charges whose sum the cell has, as far as it is known before the solve."""
    return torch.cat([q, held.charges]) if total_charge is None else total_charge.reshape(1)


def _without(value: Any, site: OnSite, n: int, like: Tensor) -> Tensor:
    """One number per atom with 0 on the solved ones; other shapes are left for the check."""
    v = checks.to_tensor(value, like)
    if v.ndim == 0:
        v = v.expand(n)
    return v.masked_fill(site.among(n), 0.0) if v.shape == (n,) else v


def _constraints(
    boundary: str, held: Held, site: OnSite, total_charge: Tensor | None, q: Tensor, rounding: float
) -> Constraints:
    """The disjoint sets of solved atoms whose sums are held."""
    by_charge = held.by_charge
    if total_charge is None:
        if boundary not in ("open", "3d"):
            raise ValueError(
                f'total_charge = None must be a number with boundary = "{boundary}": '
                "only open and 3d cells may exchange charge with nothing"
            )
    elif all(by_charge):
        fixed, fluid, whole = (float(v.detach().sum()) for v in (held.charges, q, total_charge))
        if abs(fixed + fluid - whole) > rounding * max(1.0, float(q.detach().abs().sum())):
            raise ValueError(
                f"electrode charges + electrolyte charges = {fixed:.6g} + {fluid:.6g} e must equal total_charge = {whole:.6g} e: "
                "change a held charge or total_charge, or hold one electrode at a potential"
            )
    # One set for each electrode at a charge, and one of all electrodes at potentials where the total charge is held.
    count = sum(by_charge)
    together = -1 if total_charge is None or all(by_charge) else count
    own = iter(range(count))
    label = tuple(next(own) if b else together for b in by_charge)
    return site.constraints(label, count + (together >= 0))


def _check_finite_field(p: Problem) -> None:
    kinds = p.held.by_charge
    if len(kinds) != 2 or kinds[0] != kinds[1]:
        what = ", ".join("charge" if k else "potential" for k in kinds)
        raise ValueError(
            f'electrodes = held by {what} must be two, both at a potential or both at a charge, with boundary = "finite-field": '
            "the field follows the potential difference of exactly two"
        )
    if p.total_charge is None or abs(float(p.total_charge.detach())) > 1e-10:
        shown = "None" if p.total_charge is None else f"{float(p.total_charge.detach()):g}"
        raise ValueError(
            f'total_charge = {shown} e must be 0 with boundary = "finite-field": a field needs a neutral cell'
        )
    (low0, high0), (low1, high1) = p.spans
    if not (high0 < low1 or high1 < low0):
        raise ValueError(
            f"electrodes 0 and 1 reach from {low0:.4g} to {high0:.4g} Å and from {low1:.4g} to {high1:.4g} Å along the normal "
            "and must not overlap: unwrap the electrode that crosses the boundary"
        )
    floor, ceiling = (high0, low1) if high0 < low1 else (high1, low0)
    between = (p.heights > floor) & (p.heights < ceiling)
    if len(p.heights) > len(p.site.solved) and not between.any():
        raise ValueError(
            f"electrolyte atoms between the electrodes, from {floor:.4g} to {ceiling:.4g} Å along the normal = 0 must be at "
            "least one: the cell is wrapped so that the electrolyte lies outside; shift it so that the electrodes enclose it"
        )
