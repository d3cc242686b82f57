"""Where predicted charges start before the first step, from charge labels.

Projected charges start from the mean label of each element, transfers from what two elements exchange at a distance,

    min over t_abn of sum over atoms i of (q_i - q_i^0 - sum over j, n of t_{a(i) a(j) n} B_n(r_ij))^2,  t_abn = -t_ban

q^0 are the charges of the untrained model. Linear least squares with a small ridge; formal charges are far from
those of any partition, and gradient steps would take long to bridge what one solve does.

Solved charges would be the labels if chi_i + J_i q_i + (Kq)_i were the same for all atoms of a group that holds its
charge: electronegativities start from the one value per element that comes nearest to that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from grahame.hybrid.coupling import make_coulomb
from grahame.hybrid.frames import Frame, make_batch
from grahame.hybrid.graph import Graph
from grahame.hybrid.heads import ProjectedCharges, TransferCharges
from grahame.hybrid.model import HybridModel
from grahame.hybrid.shortrange import radial

__all__ = ["start_charges"]

_SAMPLE = 60  # frames
_RIDGE = 1e-6  # of the mean diagonal of the normal equations


@torch.no_grad()
def start_charges(model: HybridModel, frames: Sequence[Frame]) -> str | None:
    """Set what a model with transfers or projected charges knows of elements from charge labels.

    Args:
        model: untrained; changed in place.
        frames: for training.
    Returns:
        A sentence that says how well it went, or None where there was nothing to do.
    """
    head = model.charge_head
    labelled = [f for f in frames if "charges" in f.labels]
    if not labelled:
        return None
    chosen = np.unique(np.linspace(0, len(labelled) - 1, min(len(labelled), _SAMPLE)).astype(int))
    if isinstance(head, ProjectedCharges):
        return _start_projected(head, model, [labelled[k] for k in chosen])
    if model.spec.charges.kind == "solved":
        return _start_solved(model, [labelled[k] for k in chosen])
    if not isinstance(head, TransferCharges):
        return None
    species = len(model.spec.elements)
    # One column for each pair of different elements, smaller index first, and each radial function.
    first, second = np.triu_indices(species, 1)
    if not len(first):
        return None
    column = torch.full((species, species), -1)
    column[first, second] = torch.arange(len(first))
    unknowns = len(first) * head.count
    normal = torch.zeros((unknowns, unknowns), dtype=torch.float64)
    right = torch.zeros(unknowns, dtype=torch.float64)
    before = count = 0.0
    for k in chosen:
        batch = make_batch([labelled[k]], model.spec.elements, model.spec.architecture.cutoff)
        levels = torch.tensor([model.level(n) for n in batch.levels])
        found = model.local(batch.graph, levels, batch.conditions).charges
        wanted = batch.labels["charges"] - found
        known = ~wanted.isnan() & ~batch.graph.solved
        design = _design(batch.graph, head, column, len(first))[known]
        normal += design.T @ design
        right += design.T @ wanted[known]
        before += float((wanted[known] ** 2).sum())
        count += float(known.sum())
    if count == 0.0 or not bool(normal.any()):
        return None
    normal.diagonal().add_(_RIDGE * float(normal.diagonal().mean()))
    solution = torch.linalg.solve(normal, right)
    after = before - float(solution @ right)
    start = torch.zeros_like(head.pairs)
    start[first, second] = solution.reshape(len(first), head.count).to(start)
    head.pairs.copy_(start)
    left = np.sqrt(max(after, 0.0) / count)
    return f"transfers between elements start from charge labels: {1e3 * left:.3g} me are left of {1e3 * np.sqrt(before / count):.3g}"


def _start_projected(head: ProjectedCharges, model: HybridModel, frames: Sequence[Frame]) -> str | None:
    """Mean label of each element that has any."""
    batch = make_batch(frames, model.spec.elements, model.spec.architecture.cutoff)
    label = batch.labels["charges"]
    known = ~label.isnan() & ~batch.graph.solved
    if not bool(known.any()):
        return None
    label, species = label[known], batch.graph.species[known]
    count = torch.bincount(species, minlength=len(model.spec.elements))
    mean = label.new_zeros(len(count)).index_add(0, species, label) / count.clamp(min=1)
    start = torch.where(count > 0, mean, head.element.weight[:, 0].to(mean))
    head.element.weight[:, 0] = start.to(head.element.weight)
    named = ", ".join(
        f"{e} {q:.3g}" for e, q, n in zip(model.spec.elements, mean.tolist(), count.tolist()) if n
    )
    return f"charges start from the mean label of each element: {named} e"


def _start_solved(model: HybridModel, frames: Sequence[Frame]) -> str | None:
    """min over chi_a, mu_g of the sum of (chi_a(i) + J_i q_i + (Kq)_i - mu_g(i))², over frames with all their labels."""
    assert model.sites is not None
    species, spec = len(model.spec.elements), model.spec
    designs, rights, seen = [], [], torch.zeros(species, dtype=torch.bool)
    for frame in frames:
        batch = make_batch([frame], spec.elements, spec.architecture.cutoff)
        q, kinds, held = batch.labels["charges"], batch.graph.species, frame.conditions
        if bool(q.isnan().any()):
            continue
        found = model.local(batch.graph, torch.tensor([model.level(frame.level)]), batch.conditions)
        cell = None if held.boundary == "open" else batch.graph.cells[0]
        coulomb = make_coulomb(held.boundary, spec.accuracy)
        potential = coulomb(batch.graph.positions, q, cell, smearing=found.widths, forces=False).potential
        group = torch.zeros_like(kinds)
        for k, electrode in enumerate(held.electrodes):
            group[torch.as_tensor(electrode.indices)] = k + 1
        design = torch.nn.functional.one_hot(kinds, species).to(torch.float64)
        # What is the same for a whole group drops out, and mu_g with it.
        both = torch.cat([design, -(potential + found.hardness * q)[:, None]], dim=1)
        sizes = torch.bincount(group).clamp(min=1)
        means = both.new_zeros((len(sizes), species + 1)).index_add(0, group, both) / sizes[:, None]
        both = both - means[group]
        designs.append(both[:, :species])
        rights.append(both[:, species])
        seen[kinds] = True
    if not designs:
        return None
    design, right = torch.cat(designs), torch.cat(rights)
    solution = torch.linalg.lstsq(design, right, driver="gelsd").solution
    weight = model.sites.element.weight
    weight[:, 0] = torch.where(seen, solution.to(weight), weight[:, 0])
    left = float((right - design @ solution).square().mean().sqrt())
    return f"electronegativities of elements start from charge labels: {left:.3g} V are left of {float(right.square().mean().sqrt()):.3g}"


def _design(graph: Graph, head: TransferCharges, column: Tensor, kinds: int) -> Tensor:
    """(n, kinds * count) what each atom would gain per unit of each unknown."""
    i, j = graph.pairs.unbind(1)
    r = torch.linalg.vector_norm(graph.pair_vectors(), dim=-1)
    if not head.across:
        kept = ~(graph.solved[i] | graph.solved[j])
        i, j, r = i[kept], j[kept], r[kept]
    basis = radial.bessel(r, head.cutoff, head.count)
    a, b = graph.species[i], graph.species[j]
    design = basis.new_zeros((len(graph.species) * kinds, head.count))
    for sign, low, high in ((1.0, a, b), (-1.0, b, a)):
        ordered = low < high
        kind = column[low[ordered], high[ordered]]
        for atom, gain in ((i, sign), (j, -sign)):
            design.index_add_(0, atom[ordered] * kinds + kind, gain * basis[ordered])
    return design.reshape(len(graph.species), kinds * head.count)
