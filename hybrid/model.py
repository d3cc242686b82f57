"""The hybrid model: a local network, its heads, and what they mean.

    Omega(R) = sum over atoms of [E0_Z + scale epsilon_i(R)] + repulsion + U(q_s, q_L(R), R) - U_dc (+ E_q(R, q_s))

What a model is but for its weights stands in `specification`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from grahame.electrostatics.gaussians import on_site_diagonal
from grahame.electrostatics.units import COULOMB_CONSTANT
from grahame.hybrid.charge_energy import ChargeEnergy
from grahame.hybrid.charge_heads import head_charges
from grahame.hybrid.coupling import LongRangeTerms, removed_pairs
from grahame.hybrid.frames import Batch, Conditions
from grahame.hybrid.graph import Graph
from grahame.hybrid.heads import (
    AtomicDipoles,
    LocalOutput,
    ProjectedCharges,
    SiteConstants,
    TransferCharges,
    Widths,
)
from grahame.hybrid.shortrange.equivariant import LocalNetwork
from grahame.hybrid.shortrange.repulsion import NuclearRepulsion
from grahame.hybrid.sites import sites_of
from grahame.hybrid.specification import FORMAL_CHARGES, ChargeSpec, ModelSpec
from grahame.hybrid.work_functions import work_functions

__all__ = ["FORMAL_CHARGES", "ChargeSpec", "HybridModel", "ModelSpec", "Prediction"]


@dataclass(frozen=True)
class Prediction:
    """What a model says of a batch.

    Dipole, Born charges and field response of models with `charges.in_energy` are of the charges alone: what the energy of
    charges adds to the derivative of the energy with the field is not in them.

    Attributes:
        energy: (B,) eV, Omega in the ensemble of each frame.
        forces: (n,3) eV/Å, -dOmega/dR in total, or None.
        stress: (B,3,3) eV/Å³, NaN in frames without a cell, or None.
        charges: (n,) e.
        dipole: (B,3) e Å, atomic dipoles included; depends on the origin in charged frames.
        electrode_charges, electrode_potentials: per frame (groups,) e and V.
        born: (n,3,3) dF_a/dE_b = dM_b/dR_a at fixed charges of the electrodes, e, or None.
        field_response: (n,3) dF_a/dE along the surface normal, e, or None.
        atomic_dipoles: (n,3) e Å, 0 for atoms without, or None for models without.
        work_functions: (B,2) eV on the sides + and - of n = a x b; NaN for frames that have none (`work_functions`).
    """

    energy: Tensor
    forces: Tensor | None
    stress: Tensor | None
    charges: Tensor
    dipole: Tensor
    electrode_charges: list[Tensor]
    electrode_potentials: list[Tensor]
    born: Tensor | None
    field_response: Tensor | None
    atomic_dipoles: Tensor | None
    work_functions: Tensor


class HybridModel(nn.Module):
    """Local network and heads.

    Args:
        spec: everything but the weights.
    """

    references: Tensor
    formal: Tensor
    hardness: Tensor
    longest: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        count = len(spec.elements)
        self.network = LocalNetwork(spec.architecture, count, spec.neighbors)
        self.charge_network: LocalNetwork | None = None
        if spec.charges.own_network:
            self.charge_network = LocalNetwork(spec.architecture, count, spec.neighbors)
        width = self.network.features
        self.readout = nn.Linear(width, len(spec.levels))
        self.shift = nn.Embedding(count, len(spec.levels))
        nn.init.zeros_(self.shift.weight)
        self.repulsion = NuclearRepulsion(spec.numbers.tolist()) if spec.repulsion else None
        c = spec.charges
        self.charge_head: TransferCharges | ProjectedCharges | None = None
        if c.kind == "transfer":
            a = spec.architecture
            self.charge_head = TransferCharges(
                width, count, a.cutoff, a.radial, c.rank, across=c.boundary_transfer
            )
        elif c.kind == "projected":
            self.charge_head = ProjectedCharges(width, count, [c.formal.get(e, 0.0) for e in spec.elements])
        trained = c.kind == "solved" or c.site_constants != "fixed"
        environment = c.kind == "solved" or c.site_constants == "environment"
        self.sites = (
            SiteConstants(
                width, count, c.hardness_of(spec.elements), environment, c.constant_of(spec.elements)
            )
            if trained
            else None
        )
        self.dipoles: AtomicDipoles | None = None
        if c.dipoles:
            self.dipoles = AtomicDipoles(width, spec.architecture.channels, count)
        self.charge_energy = ChargeEnergy(width, count, spec.scale) if c.in_energy else None
        self.widths = Widths([spec.width(e) for e in spec.elements], c.train_widths)
        references = [
            [spec.reference_energies.get(level, {}).get(e, 0.0) for level in spec.levels]
            for e in spec.elements
        ]
        self.register_buffer("references", torch.tensor(references, dtype=torch.float64), persistent=False)
        formal = [spec.formal_charge(e) for e in spec.elements]
        self.register_buffer("formal", torch.tensor(formal, dtype=torch.float64), persistent=False)
        hardness = torch.tensor(c.hardness_of(spec.elements), dtype=torch.float64)
        self.register_buffer("hardness", hardness, persistent=False)
        longest = [c.dipoles.get(e, 0.0) for e in spec.elements]
        self.register_buffer("longest", torch.tensor(longest, dtype=torch.float64), persistent=False)
        self.long_range = LongRangeTerms(spec.accuracy, c.kind == "solved", c.boundary_transfer)
        self.set_precision()

    def predict(
        self,
        batch: Batch,
        *,
        forces: bool = True,
        stress: bool = False,
        train: bool = False,
        level: str | None = None,
        born: bool = False,
        field_response: bool = False,
    ) -> Prediction:
        """Energies and their derivatives, each frame under its own conditions.

        Args:
            batch: frames.
            forces, stress, born, field_response: what is wanted beside energy, charges and dipole.
            train: keep the graph, so that a loss of any of these can be differentiated.
            level: evaluate all frames at this level of theory; None takes each frame's own.
        Raises:
            ValueError: for levels the model does not have, and charges the frame's conditions do not allow.
        """
        names = batch.levels if level is None else (level,) * len(batch)
        levels = torch.tensor([self.level(n) for n in names], device=batch.graph.positions.device)
        differentiate = forces or stress or born or field_response
        with torch.set_grad_enabled(differentiate or train):
            x = batch.graph.positions.detach().requires_grad_(differentiate)
            graph = replace(batch.graph, positions=x)
            strain = x.new_zeros((graph.frames, 3, 3)).requires_grad_() if stress else None
            if strain is not None:
                graph = graph.strained(strain)
            ends = graph.pair_vectors()
            out = self.local(graph, levels, batch.conditions, ends)
            energy, moment = out.energy, out.dipole(graph, ends)
            charges = out.charges
            totals = potentials = [energy.new_zeros(0)] * graph.frames
            fermi = energy.new_full((graph.frames,), torch.nan)
            if self.spec.long_range:
                if self.spec.switch is not None:
                    r = torch.linalg.vector_norm(ends, dim=-1)
                    energy = energy - removed_pairs(graph, out, r, *self.spec.switch)
                # Derivatives of the dipole, and of energies that depend on solved charges, need those of the charges one
                # order further.
                further = self.charge_energy is not None or (train and (born or field_response))
                far = self.long_range(graph, out, batch.conditions, orders=2 if further else 1)
                energy, charges = energy + far.energy, far.charges
                energy = energy + graph.per_frame(self.energy_of_charges(out, graph, charges))
                totals, potentials, fermi = far.electrode_charges, far.electrode_potentials, far.fermi
                solved = (charges - out.charges)[:, None] * graph.positions
                moment = moment + graph.per_frame(solved)
            works = work_functions(fermi, moment, graph.cells, batch.conditions)
            wanted = ([x] if forces else []) + ([] if strain is None else [strain])
            gradients: list[Tensor] = []
            if wanted:
                gradients = list(
                    torch.autograd.grad(
                        energy.sum(), wanted, create_graph=train, retain_graph=train or born or field_response
                    )
                )
            force = -gradients.pop(0) if forces else None
            tension = None
            if strain is not None:
                volume = torch.linalg.det(batch.graph.cells).abs()[:, None, None]
                # Frames without a cell have none; dividing by one keeps their NaN out of a loss' gradient.
                tension = gradients.pop(0) / torch.where(volume > 0.0, volume, torch.ones_like(volume))
                tension = 0.5 * (tension + tension.transpose(1, 2))
                tension = torch.where(volume > 0.0, tension, torch.nan)
            response = self._slope(moment, x, graph, train) if field_response else None
            tensors = None
            if born:
                parts = [
                    torch.autograd.grad(moment[:, b].sum(), x, create_graph=train, retain_graph=True)[0]
                    for b in range(3)
                ]
                tensors = torch.stack(parts, dim=2)
        dipoles = out.moments
        if not train:
            energy, charges, moment = energy.detach(), charges.detach(), moment.detach()
            totals, potentials = [t.detach() for t in totals], [p.detach() for p in potentials]
            dipoles, works = None if dipoles is None else dipoles.detach(), works.detach()
        return Prediction(
            energy, force, tension, charges, moment, totals, potentials, tensors, response, dipoles, works
        )

    def energy_of_charges(self, out: LocalOutput, graph: Graph, charges: Tensor) -> Tensor:
        """(n,) eV that atoms owe to their solved charges (n,) beyond electrostatics; 0 for models without such a term."""
        if self.charge_energy is None or out.scalars is None:
            return torch.zeros_like(charges)
        found: Tensor = self.charge_energy(out.scalars, graph.species, charges)
        return found

    @staticmethod
    def _slope(moment: Tensor, x: Tensor, graph: Graph, train: bool) -> Tensor:
        """(n,3) derivative of the moment along each frame's surface normal a x b; NaN in frames without a cell."""
        cells = graph.cells.detach()
        normal = torch.linalg.cross(cells[:, 0], cells[:, 1])
        area = torch.linalg.vector_norm(normal, dim=1, keepdim=True)
        normal = normal / torch.where(area > 0.0, area, torch.ones_like(area))
        along = (moment * normal).sum()
        slope = torch.autograd.grad(along, x, create_graph=train, retain_graph=True)[0]
        return torch.where((area > 0.0)[graph.frame], slope, torch.nan)

    def compile_features(self) -> None:
        """Have the networks compiled when they are first used; see `LocalNetwork.compile_features`."""
        for network in (self.network, self.charge_network):
            if network is not None:
                network.compile_features()

    def set_precision(self) -> None:
        """Put the weights of network and heads into the precision of the specification."""
        dtype = torch.float64 if self.spec.dtype == "float64" else torch.float32
        parts = [
            self.network,
            self.charge_network,
            self.readout,
            self.shift,
            self.charge_head,
            self.sites,
            self.dipoles,
            self.charge_energy,
        ]
        for part in parts:
            if part is not None:
                part.to(dtype)

    def level(self, name: str | None) -> int:
        """Index of a level of theory.

        Raises:
            ValueError: for a name the model does not have.
        """
        if name is None:
            return 0
        if name not in self.spec.levels:
            raise ValueError(
                f"level = {name} must be one of {', '.join(self.spec.levels)}: the model has one readout for each"
            )
        return self.spec.levels.index(name)

    def local(
        self,
        graph: Graph,
        levels: Tensor,
        conditions: tuple[Conditions, ...] | None = None,
        pair_vectors: Tensor | None = None,
    ) -> LocalOutput:
        """Energies, charges, atomic dipoles and site constants.

        Args:
            graph: atoms and neighbours.
            levels: (B,) index of each frame's level of theory.
            conditions: per frame; None where charges need none (no total charge, no fragments).
            pair_vectors: (p,3) Å if they are known already.
        """
        # Both networks see the same densities first.
        first = self.network.first(graph)
        found = self.network(graph, first)
        seen = found if self.charge_network is None else self.charge_network(graph, first)
        level = levels[graph.frame]
        atomic = (self.readout(found.scalars) + self.shift(graph.species)).gather(1, level[:, None])[:, 0]
        per_atom = self.spec.scale * atomic.to(torch.float64) + self.references[graph.species, level]
        r = None if pair_vectors is None else torch.linalg.vector_norm(pair_vectors, dim=-1)
        if self.repulsion is not None:
            close = graph.close_pairs(self.repulsion.reach)
            near = torch.linalg.vector_norm(graph.pair_vectors(close), dim=-1)
            per_atom = per_atom + self.repulsion(near, graph.pairs.index_select(0, close), graph.species)
        said = head_charges(
            self.charge_head,
            seen.scalars,
            graph,
            r,
            self.formal,
            conditions,
            self.spec.charges.kind == "solved",
        )
        moments = sites = None
        if self.dipoles is not None:
            # Solved atoms have none: what their charge does is the solver's.
            atoms = ((self.longest[graph.species] > 0) & ~graph.solved).nonzero()[:, 0]
            own = self.dipoles(seen, graph.species, atoms, self.longest[graph.species[atoms]])
            moments = torch.zeros_like(graph.positions).index_add(0, atoms, own)
            sites = sites_of(own, atoms)
        if self.sites is not None:
            chi, hardness = self.sites(seen.scalars, graph.species)
            if self.spec.charges.from_rest:
                alone = hardness + COULOMB_CONSTANT * on_site_diagonal(self.widths(graph.species))
                every = self.spec.charges.kind == "solved"
                per_atom = per_atom + torch.where(graph.solved | every, 0.5 * chi**2 / alone, 0.0)
        else:
            chi = torch.zeros_like(per_atom)
            hardness = self.hardness[graph.species]
        return LocalOutput(
            energy=graph.per_frame(per_atom),
            charges=said.charges,
            gained=said.gained,
            formal=said.formal,
            widths=self.widths(graph.species),
            electronegativity=chi,
            hardness=hardness,
            moments=moments,
            sites=sites,
            shared=said.shared,
            given=said.given,
            scalars=None if self.charge_energy is None else found.scalars,
        )
