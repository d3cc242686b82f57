"""Our charge heads on the features of a model trained elsewhere, whose own weights stay as they are.

The heads are those of our own model: transfers or projected charges that add up exactly, electronegativity and
hardness of solved atoms, Gaussian widths. Features of a foreign model have any scale, so they are brought to mean
0 and spread 1 of some training frames first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers
from torch import Tensor, nn

from grahame.hybrid.adapters.trunk import Trunk, TrunkOutput, species_index
from grahame.hybrid.charge_heads import head_charges
from grahame.hybrid.frames import Conditions
from grahame.hybrid.graph import Graph
from grahame.hybrid.heads import (
    LocalOutput,
    ProjectedCharges,
    SiteConstants,
    TransferCharges,
    Widths,
)
from grahame.hybrid.model import FORMAL_CHARGES, ChargeSpec
from grahame.hybrid.shortrange.base import FloatArray, IntArray

_WIDTH = 0.5
_RADIAL = 8


class FeatureHeads(nn.Module):
    """Charges, electronegativities and hardness from invariant features.

    Args:
        features: number of features; elements: chemical symbols.
        charges: which heads, as for our own models; kind "solved" takes charges of all atoms from a solver.
        cutoff: reach of charge transfers, Å.
        trunk: identity of the model whose features these are.
    """

    mean: Tensor
    spread: Tensor
    formal: Tensor
    hardness: Tensor
    charged = True

    def __init__(
        self,
        features: int,
        elements: Sequence[str],
        charges: ChargeSpec,
        cutoff: float,
        trunk: str,
    ) -> None:
        super().__init__()
        if features < 1:
            raise ValueError(
                f"features = {features} must be positive: this model shows none, use FixedCharges instead of heads"
            )
        if charges.kind == "none":
            raise ValueError(
                "charges = none must be transfer, projected or solved: without charges no head is needed"
            )
        if charges.dipoles:
            raise ValueError(
                f"dipoles = {', '.join(charges.dipoles)} must be left out: features of another model are invariant, and a "
                "dipole needs vectors"
            )
        if charges.own_network:
            raise ValueError(
                "own_network = true must be left out: these heads take the features of another model"
            )
        if charges.in_energy:
            raise ValueError(
                "in_energy = true must be left out: the energy is another model's, which does not see these charges"
            )
        if charges.from_rest:
            raise ValueError(
                "from_rest = true must be left out: the energy is another model's, and these heads add no local one"
            )
        self.elements = tuple(elements)
        self.spec = charges
        self.reach = cutoff
        self.trunk = trunk
        count = len(self.elements)
        self.charge_head: TransferCharges | ProjectedCharges | None = None
        if charges.kind == "transfer":
            self.charge_head = TransferCharges(
                features, count, cutoff, _RADIAL, charges.rank, across=charges.boundary_transfer
            )
        elif charges.kind == "projected":
            self.charge_head = ProjectedCharges(
                features, count, [charges.formal.get(e, 0.0) for e in self.elements]
            )
        solved = charges.kind == "solved"
        self.sites: SiteConstants | None = None
        if solved or charges.site_constants != "fixed":
            environment = solved or charges.site_constants == "environment"
            self.sites = SiteConstants(
                features,
                count,
                charges.hardness_of(self.elements),
                environment,
                charges.constant_of(self.elements),
            )
        self.widths_of = Widths([charges.widths.get(e, _WIDTH) for e in self.elements], charges.train_widths)
        formal = [charges.formal.get(e, FORMAL_CHARGES.get(e, 0.0)) for e in self.elements]
        self.register_buffer("formal", torch.tensor(formal, dtype=torch.float64), persistent=False)
        hardness = torch.tensor(charges.hardness_of(self.elements), dtype=torch.float64)
        self.register_buffer("hardness", hardness, persistent=False)
        self.register_buffer("mean", torch.zeros(features, dtype=torch.float64))
        self.register_buffer("spread", torch.ones(features, dtype=torch.float64))
        self.to(torch.float64)

    @classmethod
    def on(
        cls,
        trunk: Trunk,
        elements: Sequence[str],
        charges: ChargeSpec | None = None,
        cutoff: float | None = None,
    ) -> FeatureHeads:
        """Heads for the features of one model; transfers reach as far as its neighbours unless told otherwise."""
        reach = trunk.cutoff if cutoff is None else cutoff
        return cls(trunk.features, elements, charges or ChargeSpec(), reach, trunk.identity)

    @property
    def cutoff(self) -> float:
        """Neighbours the heads need, Å."""
        return self.reach if isinstance(self.charge_head, TransferCharges) else 0.0

    @property
    def constants(self) -> bool:
        """Whether electronegativity and hardness come from here."""
        return self.sites is not None or self.spec.hard

    def standardise(self, features: Tensor) -> None:
        """Bring features to mean 0 and spread 1 of these, (n,F) from training frames."""
        values = features.detach().to(torch.float64)
        self.mean.copy_(values.mean(0))
        # A feature that never changes on the training frames must not explode on others.
        spread = values.std(0, correction=0)
        self.spread.copy_(torch.where(spread > 1e-8, spread, torch.ones_like(spread)))

    def species(self, numbers: Tensor) -> Tensor:
        """(n,) index of each atom's element.

        Raises:
            ValueError: for an element that the heads do not know.
        """
        return species_index(numbers, [atomic_numbers[e] for e in self.elements], "the heads")

    def local(
        self, out: TrunkOutput, graph: Graph, numbers: Tensor, conditions: tuple[Conditions, ...], r: Tensor
    ) -> LocalOutput:
        """Charges and constants of a batch.

        Args:
            out: of the trunk; graph: species must be those of the heads (`species`), so that atomic numbers (n,) say
                nothing more; conditions: per frame; r: (p,) Å.
        """
        if out.features is None:
            raise ValueError("features = none must be given by the model: use FixedCharges instead of heads")
        scalars = (out.features.to(torch.float64) - self.mean) / self.spread
        said = head_charges(
            self.charge_head, scalars, graph, r, self.formal, conditions, self.spec.kind == "solved"
        )
        if self.sites is not None:
            chi, hardness = self.sites(scalars, graph.species)
        else:
            chi = torch.zeros_like(said.charges)
            hardness = self.hardness[graph.species]
        return LocalOutput(
            energy=out.energy,
            charges=said.charges,
            gained=said.gained,
            formal=said.formal,
            widths=self.widths_of(graph.species),
            electronegativity=chi,
            hardness=hardness,
            shared=said.shared,
            given=said.given,
        )

    def widths(self, numbers: IntArray) -> FloatArray:
        """(n,) Å, Gaussian width of every atom."""
        return np.asarray(self.widths_of(self.species(torch.as_tensor(numbers))).detach().numpy())

    def exclusions(self) -> IntArray:
        """None: learned charges are Gaussians, and the model learns the rest."""
        return np.zeros((0, 2), dtype=np.int64)

    def describe(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "kind": "heads",
            "elements": list(self.elements),
            "charges": self.spec.model_dump(mode="json"),
            "cutoff": self.reach,
            "features": len(self.mean),
            "trunk": self.trunk,
        }
