"""The hybrid model: a local network, its heads, and what they mean.

    Omega(R) = sum over atoms of [E0_Z + scale epsilon_i(R)] + repulsion + U(q_s, q_L(R), R) - U_dc

`ModelSpec` is everything but the weights: elements, sizes, where charges come from, how nothing is counted
twice. It is stored with the weights and is all that is needed to rebuild the model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from grahame.hybrid.coupling import LongRangeTerms, removed_pairs
from grahame.hybrid.frames import Batch, Conditions
from grahame.hybrid.graph import Graph
from grahame.hybrid.heads import (
    LocalOutput,
    ProjectedCharges,
    SiteConstants,
    TransferCharges,
    Widths,
    charges_of_transfers,
)
from grahame.hybrid.held_charges import formal_charges, fragment_charges
from grahame.hybrid.shortrange.equivariant import Architecture, LocalNetwork
from grahame.hybrid.shortrange.repulsion import NuclearRepulsion

# Closed-shell aqueous species: H2O, OH-, H3O+ and these ions come out right.
FORMAL_CHARGES: dict[str, float] = {
    "H": 1.0, "O": -2.0, "Li": 1.0, "Na": 1.0, "K": 1.0, "Rb": 1.0, "Cs": 1.0, "Mg": 2.0, "Ca": 2.0,
    "F": -1.0, "Cl": -1.0, "Br": -1.0, "I": -1.0,
}  # fmt: skip
_WIDTH = 0.5


class ChargeSpec(BaseModel):
    """Where charges come from.

    Attributes:
        kind: "none" (no long range), "transfer", "projected", or "solved".
        formal: formal charge of elements (e); those not named have the usual ones of aqueous chemistry, or 0.
        widths: Gaussian width of elements (Å); those not named have 0.5 Å, metals 0.392 Å is usual.
        train_widths: whether training changes the widths.
        rank: terms of a transfer.
        boundary_transfer: electrolyte atoms exchange charge with solved atoms.
        hardness: J of solved atoms before training, V/e.
        site_constants: "fixed" (chi = 0, J = hardness), "element", or "environment".
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["none", "transfer", "projected", "solved"] = "transfer"
    formal: dict[str, float] = Field(default_factory=dict, description="formal charge of elements, e")
    widths: dict[str, float] = Field(default_factory=dict, description="Gaussian width of elements, Å")
    train_widths: bool = False
    rank: int = Field(default=16, ge=1)
    boundary_transfer: bool = False
    hardness: float = Field(default=0.0, ge=0.0, description="of solved atoms before training, V/e")
    site_constants: Literal["fixed", "element", "environment"] = "fixed"


class ModelSpec(BaseModel):
    """Everything of a model but its weights.

    Attributes:
        elements: chemical symbols, in the order of the species index.
        architecture: sizes of the network.
        dtype: precision of the network; sums and charges are in double precision.
        levels: levels of theory, one energy readout each; the first is the default.
        reference_energies: per level and element, eV.
        neighbors: mean number of neighbours in the training data.
        scale: of energies, eV.
        repulsion: whether the nuclear repulsion is part of the model.
        charges: where charges come from.
        double_counting: "smeared", or "switched" between the two radii `switch` (Å).
        accuracy: of the Coulomb operator the model was trained with.
        provenance: training data, code and history, for people to read.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    elements: tuple[str, ...]
    architecture: Architecture = Architecture()
    dtype: Literal["float32", "float64"] = "float32"
    levels: tuple[str, ...] = ("default",)
    reference_energies: dict[str, dict[str, float]] = Field(default_factory=dict)
    neighbors: float = Field(default=40.0, gt=0.0)
    scale: float = Field(default=1.0, gt=0.0, description="eV")
    repulsion: bool = True
    charges: ChargeSpec = ChargeSpec()
    double_counting: Literal["smeared", "switched"] = "smeared"
    switch: tuple[float, float] | None = None
    accuracy: float = Field(default=1e-5, gt=0.0, le=0.1)
    provenance: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> ModelSpec:
        unknown = [e for e in self.elements if e not in atomic_numbers]
        if unknown or not self.elements or len(set(self.elements)) != len(self.elements):
            raise ValueError(
                f"elements = {list(self.elements)} must be chemical symbols, each once: name every element of the data"
            )
        if not self.levels or len(set(self.levels)) != len(self.levels):
            raise ValueError(
                f"levels = {list(self.levels)} must be names, each once: one for each level of theory"
            )
        if self.double_counting == "switched":
            if self.switch is None or not 0.0 <= self.switch[0] < self.switch[1]:
                raise ValueError(
                    f"switch = {self.switch} Å must be two radii, 0 <= inner < outer: double_counting switched removes "
                    "the bare interaction between them"
                )
            if self.switch[1] > self.architecture.cutoff:
                raise ValueError(
                    f"switch = {self.switch[1]:g} Å must not exceed the cut-off of {self.architecture.cutoff:g} Å: "
                    "beyond it the network sees no pair that could make up for what is removed"
                )
            if self.charges.kind == "solved":
                raise ValueError(
                    "double_counting = switched must not go with solved charges: its kernel is not positive; use smeared"
                )
        elif self.switch is not None:
            raise ValueError(
                f"switch = {self.switch} Å must be left out with double_counting smeared: nothing is removed there"
            )
        return self

    @property
    def long_range(self) -> bool:
        """Whether the model has charges."""
        return self.charges.kind != "none"

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Atomic number of each species."""
        return np.array([atomic_numbers[e] for e in self.elements], dtype=np.int64)

    def species(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Species index of each atom.

        Raises:
            ValueError: for an element that the model does not know.
        """
        table = np.full(len(chemical_symbols), -1, dtype=np.int64)
        table[self.numbers] = np.arange(len(self.elements))
        out: NDArray[np.int64] = table[numbers]
        if (out < 0).any():
            index = int(np.argmax(out < 0))
            raise ValueError(
                f"numbers[{index}] = {chemical_symbols[int(numbers[index])]} must be an element of the model "
                f"({', '.join(self.elements)}): train a model that knows it"
            )
        return out

    def formal_charge(self, element: str) -> float:
        """Formal charge of an element, e."""
        return self.charges.formal.get(element, FORMAL_CHARGES.get(element, 0.0))

    def width(self, element: str) -> float:
        """Gaussian width of an element before training, Å."""
        return self.charges.widths.get(element, _WIDTH)


@dataclass(frozen=True)
class Prediction:
    """What a model says of a batch.

    Attributes:
        energy: (B,) eV, Omega in the ensemble of each frame.
        forces: (n,3) eV/Å, -dOmega/dR in total, or None.
        stress: (B,3,3) eV/Å³, or None.
        charges: (n,) e.
        dipole: (B,3) e Å; depends on the origin in charged frames.
        electrode_charges, electrode_potentials: per frame (groups,) e and V.
        born: (n,3,3) dF_a/dE_b = dM_b/dR_a at fixed charges of the electrodes, e, or None.
        field_response: (n,3) dF_a/dE along the surface normal, e, or None.
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


class HybridModel(nn.Module):
    """Local network and heads.

    Args:
        spec: everything but the weights.
    """

    references: Tensor
    formal: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        count = len(spec.elements)
        self.network = LocalNetwork(spec.architecture, count, spec.neighbors)
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
            self.charge_head = ProjectedCharges(width, count)
        trained = c.kind == "solved" or c.site_constants != "fixed"
        environment = c.kind == "solved" or c.site_constants == "environment"
        self.sites = SiteConstants(width, count, c.hardness, environment) if trained else None
        self.widths = Widths([spec.width(e) for e in spec.elements], c.train_widths)
        references = [
            [spec.reference_energies.get(level, {}).get(e, 0.0) for level in spec.levels]
            for e in spec.elements
        ]
        self.register_buffer("references", torch.tensor(references, dtype=torch.float64), persistent=False)
        formal = [spec.formal_charge(e) for e in spec.elements]
        self.register_buffer("formal", torch.tensor(formal, dtype=torch.float64), persistent=False)
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
            charges, totals, potentials = out.charges, [], []
            if self.spec.long_range:
                if self.spec.switch is not None:
                    r = torch.linalg.vector_norm(ends, dim=-1)
                    energy = energy - removed_pairs(graph, out, r, *self.spec.switch)
                # Derivatives of the dipole need those of the solved charges one order further.
                orders = 2 if train and (born or field_response) else 1
                far = self.long_range(graph, out, batch.conditions, orders=orders)
                energy, charges = energy + far.energy, far.charges
                totals, potentials = far.electrode_charges, far.electrode_potentials
                solved = (charges - out.charges)[:, None] * graph.positions
                moment = moment + graph.per_frame(solved)
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
                tension = gradients.pop(0) / torch.linalg.det(batch.graph.cells).abs()[:, None, None]
                tension = 0.5 * (tension + tension.transpose(1, 2))
            response = self._slope(moment, x, graph, train) if field_response else None
            tensors = None
            if born:
                parts = [
                    torch.autograd.grad(moment[:, b].sum(), x, create_graph=train, retain_graph=True)[0]
                    for b in range(3)
                ]
                tensors = torch.stack(parts, dim=2)
        if not train:
            energy, charges, moment = energy.detach(), charges.detach(), moment.detach()
            totals, potentials = [t.detach() for t in totals], [p.detach() for p in potentials]
        return Prediction(energy, force, tension, charges, moment, totals, potentials, tensors, response)

    @staticmethod
    def _slope(moment: Tensor, x: Tensor, graph: Graph, train: bool) -> Tensor:
        """(n,3) derivative of the moment along each frame's surface normal a x b."""
        cells = graph.cells.detach()
        normal = torch.linalg.cross(cells[:, 0], cells[:, 1])
        normal = normal / torch.linalg.vector_norm(normal, dim=1, keepdim=True)
        along = (moment * normal).sum()
        return torch.autograd.grad(along, x, create_graph=train, retain_graph=True)[0]

    def set_precision(self) -> None:
        """Put the weights of network and heads into the precision of the specification."""
        dtype = torch.float64 if self.spec.dtype == "float64" else torch.float32
        parts = [self.network, self.readout, self.shift, self.charge_head, self.sites]
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
        """Energies, charges and site constants.

        Args:
            graph: atoms and neighbours.
            levels: (B,) index of each frame's level of theory.
            conditions: per frame; None where charges need none (no total charge, no fragments).
            pair_vectors: (p,3) Å if they are known already.
        """
        found = self.network(graph, graph.vectors())
        level = levels[graph.frame]
        atomic = (self.readout(found.scalars) + self.shift(graph.species)).gather(1, level[:, None])[:, 0]
        per_atom = self.spec.scale * atomic.to(torch.float64) + self.references[graph.species, level]
        ends = graph.pair_vectors() if pair_vectors is None else pair_vectors
        r = torch.linalg.vector_norm(ends, dim=-1)
        if self.repulsion is not None:
            per_atom = per_atom + self.repulsion(r, graph.pairs, graph.species)
        gained = formal = None
        if isinstance(self.charge_head, TransferCharges):
            gained = self.charge_head(found.scalars, graph, r)
            formal = formal_charges(self.formal, graph, conditions) * ~graph.solved
            charges = charges_of_transfers(formal, gained, graph) * ~graph.solved
        elif isinstance(self.charge_head, ProjectedCharges):
            fragment, wanted = fragment_charges(graph, conditions)
            charges = self.charge_head(found.scalars, graph.species, fragment, wanted)
        else:
            charges = torch.zeros_like(per_atom)
        if self.sites is not None:
            chi, hardness = self.sites(found.scalars, graph.species)
        else:
            chi = torch.zeros_like(per_atom)
            hardness = chi + self.spec.charges.hardness
        return LocalOutput(
            energy=graph.per_frame(per_atom),
            charges=charges,
            gained=gained,
            formal=formal,
            widths=self.widths(graph.species),
            electronegativity=chi,
            hardness=hardness,
        )
