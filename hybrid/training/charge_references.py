"""Where charges and work functions start before the first step: from labels, or from formal charges.

Projected charges start from the mean label of each element, transfers from what two elements exchange at a distance,

    min over t_abn of sum over atoms i of (q_i - q_i^0 - sum over j, n of t_{a(i) a(j) n} B_n(r_ij))^2,  t_abn = -t_ban

q^0 are the charges of the untrained model. Linear least squares with a small ridge; formal charges are far from
those of any partition, and gradient steps would take long to bridge what one solve does.

Solved charges would be the labels if chi_i + J_i q_i + (Kq)_i were the same for all atoms of a group that holds its
charge: electronegativities start from the one value per element that comes nearest to that.

Without such labels solved charges of neutral frames without a field would all be 0 before training, and with them every
derivative with chi, of energies and of forces: nothing would ever move them, see `leave_zero`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from grahame.electrostatics.gaussians import on_site_diagonal
from grahame.electrostatics.units import COULOMB_CONSTANT
from grahame.hybrid.coupling import make_coulomb
from grahame.hybrid.frames import Frame, make_batch
from grahame.hybrid.graph import Graph
from grahame.hybrid.heads import ProjectedCharges, TransferCharges
from grahame.hybrid.model import HybridModel
from grahame.hybrid.shortrange import radial
from grahame.hybrid.training.predicting import predict

__all__ = ["leave_zero", "start_charges", "start_work_functions"]

_SAMPLE = 60  # frames
_RIDGE = 1e-6  # of the mean diagonal of the normal equations
_PART = 0.05  # of its formal charge, for an atom alone


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


@torch.no_grad()
def leave_zero(model: HybridModel, frames: Sequence[Frame]) -> str | None:
    """Move solved charges off 0 where energies and forces could not.

        chi_a = -0.05 q_a (J_a + k/(sqrt(pi) s_a)),  q_a the formal charge of element a

    An energy is the same with all charges reversed, and at no charge flat: the start says which sign is meant. Where all
    elements have the same formal charge the surroundings start with small random weights instead.

    Args:
        model: untrained; changed in place.
        frames: for training.
    Returns:
        A sentence that says so, or None where charges are not solved, or are something else than 0 already.
    """
    sites, spec = model.sites, model.spec
    if spec.charges.kind != "solved" or sites is None or sites.environment is None:
        return None
    if bool(sites.element.weight[:, 0].any()) or any(_driven(f) for f in frames):
        return None
    formal = [spec.formal_charge(e) for e in spec.elements]
    if len(set(formal)) > 1:
        widths = torch.tensor([spec.width(e) for e in spec.elements], dtype=torch.float64)
        alone = model.hardness + COULOMB_CONSTANT * on_site_diagonal(widths)
        sites.element.weight[:, 0] = -_PART * torch.tensor(formal) * alone.to(torch.float32)
        return "solved charges start from formal charges: energies and forces alone would leave them at 0"
    torch.nn.init.normal_(sites.environment.weight, std=0.1 / math.sqrt(sites.environment.in_features))
    return "solved charges start at random: energies and forces alone would leave them at 0"


@torch.no_grad()
def start_work_functions(model: HybridModel, frames: Sequence[Frame]) -> str | None:
    """Move the electronegativities of metals to where the work functions of neutral slabs are those of their labels.

    W = Phi - phi_vac is some 5 eV and Phi moves as chi of all the metal's atoms does, which steps would take long for:

        min over chi_a of sum over frames of (W - W^0 - sum over elements a of x_a chi_a)²,  x_a the metal's composition

    Args:
        model: untrained; changed in place.
        frames: for training.
    Returns:
        A sentence that says how well it went, or None where there was nothing to do.
    """
    labelled = [f for f in frames if "work_function" in f.labels]
    if model.sites is None or model.charge_head is None or not labelled:
        return None
    parts, missing = [], []
    for k in np.unique(np.linspace(0, len(labelled) - 1, min(len(labelled), _SAMPLE)).astype(int)):
        batch = make_batch([labelled[k]], model.spec.elements, model.spec.architecture.cutoff)
        found = predict(model, batch, {"work_function"})["work_function"]
        missing.append(batch.labels["work_function"].reshape(()) - found.reshape(()))
        kinds = torch.nn.functional.one_hot(batch.graph.species[batch.graph.solved], len(model.spec.elements))
        parts.append(kinds.to(torch.float64).mean(0))
    design, right = torch.stack(parts), torch.stack(missing)
    solution = torch.linalg.lstsq(design, right, driver="gelsd").solution
    model.sites.element.weight[:, 0] += solution.to(model.sites.element.weight)
    left = float((right - design @ solution).square().mean().sqrt())
    return f"electronegativities of metals start from work functions: {left:.3g} eV are left of {float(right.square().mean().sqrt()):.3g}"


def _driven(frame: Frame) -> bool:
    """Whether solved charges are something else than 0 without any electronegativity."""
    held = frame.conditions
    if held.total_charge or held.displacement or np.any(held.field or 0.0):
        return True
    potentials = {float(e.potential) for e in held.electrodes if e.potential is not None}
    return len(potentials) > 1 or any(e.charge for e in held.electrodes)


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
