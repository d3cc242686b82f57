"""The long range of a batch of frames, with a graph: what training differentiates.

    U(q_s, q_L(R), R) - sum of psi_g Q_g  over the frame's own boundary, electrodes, field and total charge
    U_dc = sum over predicted pairs and images with r < r2 of S(r) q_i q_j k erf(g_ij r) / r

U_dc is what `switched` models leave to the network; `smeared` ones have none. Charges of electrodes answer to
everything they are solved from, so a force loss reaches the weights through the solve as well.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from grahame.electrostatics import ConstantPotential, Coulomb, Electrode, switch
from grahame.electrostatics.checks import cell_of
from grahame.electrostatics.units import COULOMB_CONSTANT
from grahame.hybrid.crossing import (
    effective_displacement,
    in_field,
    refuse_following,
    refuse_periodic_field,
    refuse_shared,
)
from grahame.hybrid.exchange import refuse_exchange, reservoirs
from grahame.hybrid.frames import Conditions
from grahame.hybrid.graph import Graph
from grahame.hybrid.heads import LocalOutput
from grahame.hybrid.sites import own_shift

# Second derivatives through a mesh need splines that are smooth enough.
_SPLINE_ORDER = 6
_FRAMES_KEPT = 2000


@dataclass(frozen=True)
class LongRange:
    """Electrostatics of a batch.

    Attributes:
        energy: (B,) eV, U - sum of psi_g (Q_g + T_g) (+ the field energy of finite field), T_g of `hybrid.exchange`.
        charges: (n,) e of all atoms.
        electrode_charges, electrode_potentials: per frame (groups,) e and V.
        fermi: (B,) V, Phi = (Aq+b)_g of frames with one conductor, whatever it is held at; NaN for others.
    """

    energy: Tensor
    charges: Tensor
    electrode_charges: list[Tensor]
    electrode_potentials: list[Tensor]
    fermi: Tensor


def make_coulomb(boundary: str, accuracy: float) -> Coulomb:
    """The operator models are trained with."""
    if boundary in ("open", "slab-exact"):
        return Coulomb(boundary, accuracy=accuracy)
    return Coulomb(boundary, accuracy=accuracy, order=_SPLINE_ORDER)


def removed_pairs(graph: Graph, out: LocalOutput, r: Tensor, inner: float, outer: float) -> Tensor:
    """(B,) U_dc, eV.

    Args:
        graph: holds every pair within `outer`.
        out: charges and widths; r: (p,) Å distances of the graph's pairs.
        inner, outer: radii of the switch, Å.
    """
    i, j = graph.pairs.unbind(1)
    near = (r.detach() < outer) & ~graph.solved[i] & ~graph.solved[j]
    keep = near.nonzero()[:, 0]
    i, j, r = i[keep], j[keep], r[keep]
    squared = out.widths[i] ** 2 + out.widths[j] ** 2
    point = squared == 0.0
    g = 1.0 / torch.sqrt(2.0 * torch.where(point, torch.ones_like(squared), squared))
    bare = COULOMB_CONSTANT * torch.where(point, torch.ones_like(r), torch.erf(g * r)) / r
    pairs = switch(r, inner, outer) * out.charges[i] * out.charges[j] * bare
    return out.energy.new_zeros(graph.frames).index_add(0, graph.frame[i], pairs)


@dataclass
class _Kept:
    """What a frame's electrostatics can use again: parameters and lists of the operator, factor of the solver."""

    conditions: weakref.ref[Conditions]
    coulomb: Coulomb
    solver: ConstantPotential | None = None
    place: tuple[Tensor, Tensor] | None = None

    def solver_of(self, groups: list[Electrode], index: Tensor, widths: Tensor) -> ConstantPotential:
        """The solver of these groups, solved atoms (s,) and their widths (s,); the last one where it was for the same.

        Several frames may share their conditions, and widths change when a model learns or is loaded.
        """
        kept = self.place is not None and not widths.requires_grad
        if self.solver is not None and kept and all(map(torch.equal, self.place or (), (index, widths))):
            return self.solver
        made = ConstantPotential(groups, self.coulomb, smearing=widths)
        if not widths.requires_grad:  # one with a graph belongs to this step alone
            self.solver, self.place = made, (index, widths)
        return made


class LongRangeTerms:
    """Evaluates the electrostatics of frames.

    Frames come again in every epoch, with the same geometry: the operator and the solver of the last frames are
    kept, so that parameters, pair lists and factors are found once.

    Args:
        accuracy: relative force error of the Coulomb operator.
        solved: whether all charges of frames without electrodes are solved, at the frame's total charge.
        boundary_transfer: whether electrolyte atoms exchange charge with electrodes.
    """

    def __init__(self, accuracy: float, solved: bool, boundary_transfer: bool) -> None:
        self.accuracy, self.solved, self.boundary_transfer = accuracy, solved, boundary_transfer
        self._kept: dict[int, _Kept] = {}

    def __getstate__(self) -> dict[str, object]:
        """Copies start with nothing kept."""
        return self.__dict__ | {"_kept": {}}

    def _of(self, held: Conditions) -> _Kept:
        """What is kept of a frame, known by its conditions; the oldest make room for new ones."""
        found = self._kept.pop(id(held), None)
        if found is None or found.conditions() is not held:
            found = _Kept(weakref.ref(held), make_coulomb(held.boundary, self.accuracy))
        self._kept[id(held)] = found
        if len(self._kept) > _FRAMES_KEPT:
            del self._kept[next(iter(self._kept))]
        return found

    def __call__(
        self, graph: Graph, out: LocalOutput, conditions: tuple[Conditions, ...], *, orders: int = 1
    ) -> LongRange:
        """Frame by frame: each has its own cell and its own solve.

        Args:
            graph, out, conditions: of all frames.
            orders: of exact derivatives of solved charges; 1 serves second derivatives of the energy.
        """
        counts = torch.bincount(graph.frame, minlength=graph.frames).tolist()
        energies, charges, totals, potentials, levels = [], [], [], [], []
        start = 0
        for k, (count, held) in enumerate(zip(counts, conditions)):
            energy, q, total, potential, level = self._frame(
                graph, out, held, k, slice(start, start + count), orders
            )
            energies.append(energy)
            charges.append(q)
            totals.append(total)
            potentials.append(potential)
            levels.append(level)
            start += count
        return LongRange(torch.stack(energies), torch.cat(charges), totals, potentials, torch.stack(levels))

    def _frame(
        self, graph: Graph, out: LocalOutput, held: Conditions, frame: int, atoms: slice, orders: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        kept = self._of(held)
        coulomb = kept.coulomb
        x, q, widths = graph.positions[atoms], out.charges[atoms], out.widths[atoms]
        cell = None if held.boundary == "open" else graph.cells[frame]
        field = None if held.field is None else torch.tensor(held.field, dtype=torch.float64, device=x.device)
        groups = self._groups(len(x), held)
        no_level = q.new_full((), torch.nan)
        count = len(x)
        beside = None if out.sites is None else out.sites.of(atoms.start, atoms.stop)
        if beside is not None:
            # Atoms come first, so that the electrodes' indices stay what they are.
            x = torch.cat([x, x[beside.atoms] + beside.offsets])
            q, widths = torch.cat([q, beside.charges]), torch.cat([widths, widths[beside.atoms]])

        def own_energy() -> Tensor:
            """What the cut-off of the sum adds to dipoles, from the operator's parameters at this geometry."""
            if beside is None:
                return x.new_zeros(())
            found = coulomb.parameters(x.detach(), None, None if cell is None else cell.detach())
            return own_shift(found, coulomb.coulomb_constant) * (beside.charges**2).sum()

        displacement: Tensor | float | None = held.displacement
        crossed = out.crossing(graph)
        if held.boundary == "displacement" and out.shared and out.shared[frame]:
            refuse_shared()
        in_field_3d = held.boundary == "3d" and field is not None and bool((field != 0.0).any())
        if in_field_3d and (groups or crossed is None):
            refuse_periodic_field(held.field)
        along = q.new_zeros(())
        if crossed is not None and cell is not None:
            if held.boundary == "displacement":
                displacement = effective_displacement(
                    held.displacement or 0.0, crossed[frame], cell, coulomb.coulomb_constant
                )
            if held.boundary == "3d" and field is not None:
                along = in_field(field)(crossed[frame], cell)
        if not groups:
            self._check_total(q, held)
            e_field, d_field = coulomb.check_fields(q, cell, field, displacement)
            energy = coulomb.bind(x, cell, widths, None).energy(q) + along
            energy = energy + coulomb.field_energy(x, q, cell, e_field, d_field)
            return energy - own_energy(), q[:count], q.new_zeros(0), q.new_zeros(0), no_level
        if self.boundary_transfer and all(g.potential is None for g in groups):
            refuse_exchange()
        index = torch.as_tensor(np.concatenate([g.indices for g in groups]), device=x.device)
        solver = kept.solver_of(groups, index, widths[index])
        # A field that follows held charges is no minimum: second derivatives of Omega need those of the charges.
        follows = held.boundary == "finite-field" and all(g.potential is None for g in groups)
        solver.response_steps = 2 if follows else orders
        # A training that is resumed must meet the same bits, whatever was solved before.
        solver.forget()
        solution = solver.solve(
            x,
            q,
            cell,
            electronegativity=out.electronegativity[atoms][index],
            hardness=out.hardness[atoms][index],
            field=field,
            displacement=displacement,
            smearing=widths,
            total_charge=held.total_charge,
            forces=False,
        )
        if held.boundary == "finite-field" and crossed is not None and cell is not None:
            if follows:
                refuse_following(crossed[frame], cell)
            along = -(solution.field @ crossed[frame])
        exchanged = q.new_zeros(())
        if out.given is not None:
            supply = reservoirs(
                [np.asarray(g.indices) for g in groups],
                [0.0 if g.potential is None else float(g.potential) for g in groups],
                [g.potential is None for g in groups],
                count,
            )
            exchanged = (out.given[atoms] * torch.as_tensor(supply, device=x.device)).sum()
        level = no_level
        if len(groups) == 1 and not self.solved:
            level = solution.potentials[0] - solution.multiplier
        return (
            solution.energy + along - own_energy() - exchanged,
            solution.charges[:count],
            solution.electrode_charges,
            solution.potentials,
            level,
        )

    def check(self, positions: Tensor, charges: Tensor, cell: Tensor, held: Conditions) -> None:
        """Refuse conditions that a solve refuses, without one.

        Args:
            positions: (n,3) Å; cell: (3,3) rows in Å.
            charges: (n,) e with the sum that a model's will have; those of solved atoms are ignored.
            held: conditions of the frame.
        Raises:
            ValueError: for what has no right answer.
        """
        coulomb, groups = make_coulomb(held.boundary, self.accuracy), self._groups(len(positions), held)
        h = cell_of(None if held.boundary == "open" else cell, held.boundary, positions)
        if groups:
            ConstantPotential(groups, coulomb).check(
                positions, charges, h, field=held.field, displacement=held.displacement, total_charge=held.total_charge
            )  # fmt: skip
        else:
            coulomb.check_fields(charges, h, held.field, held.displacement)

    def _groups(self, atoms: int, held: Conditions) -> list[Electrode]:
        """What is solved for: electrodes, and where a model solves all charges the other atoms."""
        groups = list(held.electrodes)
        rest = torch.as_tensor(~held.solved(atoms))
        if self.solved and bool(rest.any()):
            groups.append(self._remainder(rest, groups, held))
        return groups

    @staticmethod
    def _check_total(q: Tensor, held: Conditions) -> None:
        total = float(q.detach().sum())
        if abs(total - held.total_charge) > 1e-6:
            raise ValueError(
                f"total_charge = {held.total_charge:g} e must be the sum of the model's charges, {total:g} e: give "
                "formal_charges per atom or fragments with their charges, or use projected or solved charges"
            )

    @staticmethod
    def _remainder(rest: Tensor, groups: list[Electrode], held: Conditions) -> Electrode:
        """All atoms that are in no electrode, as one group that carries what is left of the total charge."""
        if any(g.charge is None for g in groups):
            raise ValueError(
                "electrodes = held at a potential must not stand beside solved charges of the other atoms in training: hold "
                "their charge, which is what the label fixes"
            )
        left = held.total_charge - sum(float(g.charge) for g in groups)
        return Electrode(torch.nonzero(rest)[:, 0], charge=left)
