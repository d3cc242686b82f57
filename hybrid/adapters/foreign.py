"""A model trained elsewhere as the short range: its energy, charges beside it, one pass back for both.

    F = -d/dR [ E(R) + sum over L of phi_i q_i(R) + sum over solved of (q chi(R) + q²/2 J(R)) ]

E is the model's energy, less what the long range would count twice (`counting`); phi = dU/dq, q and q²/2 are held.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grahame.hybrid.adapters.charges import ChargeSource, ModelCharges, NoCharges
from grahame.hybrid.adapters.counting import Counted, LabelEnsemble, Switched
from grahame.hybrid.adapters.feature_heads import FeatureHeads
from grahame.hybrid.adapters.trunk import Trunk, freeze
from grahame.hybrid.coupling import removed_pairs
from grahame.hybrid.frames import Conditions
from grahame.hybrid.graph import PBC, Graph, make_graph
from grahame.hybrid.shortrange.base import FloatArray, IntArray, Response, ShortRangeResult
from grahame.kernels.neighbors import NeighborList, Pairs

_SKIN = 0.5


class ForeignShortRange:
    """Any trunk as a `ShortRange`.

    Args:
        trunk: `MACETrunk`, `NequIPTrunk`, `MetatomicTrunk` or `ASETrunk`.
        charges: `FixedCharges`, `ModelCharges`, trained `FeatureHeads`, or None for none.
        contains_coulomb: whether the model's energy holds the Coulomb energy of its charges already. True for models
            trained on whole energies (of density functional theory, of a force field with charges); False where the
            training energies were what is left without the long range (`residual_labels`), or the model never had
            charges. Nobody but you can know.
        removed: with contains_coulomb, how what would be counted twice is taken out: `Switched` or `LabelEnsemble`.
        conditions: formal charges per atom, fragments and their charges, total charge, for heads that need them.
    Raises:
        ValueError: where Coulomb energy would be counted twice, or heads belong to another model.
    """

    def __init__(
        self,
        trunk: Trunk,
        charges: ChargeSource | None = None,
        *,
        contains_coulomb: bool,
        removed: Switched | LabelEnsemble | None = None,
        conditions: Conditions | None = None,
    ) -> None:
        self.trunk = trunk
        self.charges: ChargeSource = NoCharges() if charges is None else charges
        self.contains_coulomb, self.removed = contains_coulomb, removed
        if not contains_coulomb and removed is not None:
            raise ValueError(
                f"removed = {type(removed).__name__} must be left out with contains_coulomb = False: nothing is counted "
                "twice there"
            )
        if isinstance(removed, Switched) and len(self.charges.exclusions()):
            raise ValueError(
                f"exclusions = {len(self.charges.exclusions())} pairs must be left out with removed = Switched: near pairs are "
                "left to the model already"
            )
        if contains_coulomb and removed is None and self.charges.charged:
            raise ValueError(_TWICE.format("charges"))
        if isinstance(removed, Switched) and trunk.cutoff and removed.outer > trunk.cutoff:
            raise ValueError(
                f"switch = {removed.outer:g} Å must not exceed the model's cut-off of {trunk.cutoff:g} Å: beyond it the "
                "model holds no pair that could replace what is removed"
            )
        if isinstance(charges, FeatureHeads):
            if charges.trunk != trunk.identity:
                raise ValueError(
                    f"heads = trained on model {charges.trunk[:12]} must be trained on this one, {trunk.identity[:12]}: its "
                    "features mean something else"
                )
            freeze(charges)
        self._conditions = (conditions or Conditions(),)
        outer = removed.outer if isinstance(removed, Switched) else 0.0
        self._reach = max(trunk.cutoff, self.charges.cutoff, outer)
        self._list = NeighborList(self._reach, skin=_SKIN) if self._reach else None
        self._solved = np.zeros(0, dtype=np.int64)
        self._graph: tuple[Pairs, IntArray, Graph] | None = None

    def set_solved(self, indices: IntArray) -> None:
        """Name the atoms whose charges a solver sets; called by the potential that owns the solver."""
        if len(indices) and self.contains_coulomb and not isinstance(self.removed, LabelEnsemble):
            raise ValueError(_TWICE_METAL if self.removed is not None else _TWICE.format("electrodes"))
        self._solved = np.asarray(indices, dtype=np.int64)
        self._graph = None

    @property
    def also_seen_in(self) -> str | None:
        """The boundary of the labels, whose electrostatics are evaluated at the positions of the run; None for none."""
        return self.removed.coulomb.boundary if isinstance(self.removed, LabelEnsemble) else None

    @property
    def exchanges(self) -> bool:
        """Whether the electrolyte exchanges charge with electrodes."""
        if isinstance(self.charges, ModelCharges):
            return self.charges.total is None
        return isinstance(self.charges, FeatureHeads) and self.charges.spec.boundary_transfer

    def widths(self, numbers: IntArray) -> FloatArray:
        """(n,) Å, Gaussian width of every atom."""
        return self.charges.widths(numbers)

    def compute(
        self, positions: FloatArray, numbers: IntArray, cell: FloatArray, pbc: PBC, stress: bool
    ) -> ShortRangeResult:
        """Evaluate one frame; forces follow from `respond` once the charges' potential is known."""
        kept = self._update(positions, numbers, cell, pbc)
        with torch.enable_grad():
            x = torch.tensor(positions, dtype=torch.float64, requires_grad=True)
            graph = replace(kept, positions=x, cells=torch.tensor(np.asarray(cell, dtype=float)[None]))
            strain = torch.zeros((1, 3, 3), dtype=torch.float64, requires_grad=True) if stress else None
            if strain is not None:
                graph = graph.strained(strain)
            z = torch.as_tensor(numbers)
            said = self.trunk(graph, z, (pbc,))
            r = torch.linalg.vector_norm(graph.pair_vectors(), dim=-1)
            out = self.charges.local(said, graph, z, self._conditions, r)
            energy = out.energy.sum()
            if isinstance(self.removed, Switched):
                energy = energy - removed_pairs(graph, out, r, self.removed.inner, self.removed.outer).sum()
        wanted = [x] if strain is None else [x, strain]
        charges, widths = out.charges.detach().numpy(), out.widths.detach().numpy()
        chi = out.electronegativity.detach().numpy() if self.charges.constants else None
        hardness = out.hardness.detach().numpy() if self.charges.constants else None
        exclusions = self.charges.exclusions()
        with torch.enable_grad():
            crossing = out.crossing(graph)
        crossed = None if crossing is None else crossing[0].detach().numpy()
        before: Counted | None = None
        if isinstance(self.removed, LabelEnsemble):
            self.removed.refuse(any(out.shared), crossing is None and out.charges.requires_grad)
            before = self.removed(
                positions, cell, charges, widths, chi, hardness, self._solved, exclusions, stress, crossed
            )

        def respond(response: Response) -> tuple[FloatArray, FloatArray | None]:
            gained = response if before is None else _less(response, before, self._solved)
            total = energy
            for value, weight in (
                (out.charges, gained.potential),
                (out.electronegativity, gained.charges),
                (out.hardness, gained.half_squares),
            ):
                if value.requires_grad:
                    total = total + (value * torch.as_tensor(weight)).sum()
            if out.given is not None and response.given is not None:
                total = total + (out.given * torch.as_tensor(response.given)).sum()
            if crossing is not None:
                if response.crossing is not None:
                    total = total + response.crossing(crossing[0], graph.cells[0])
                if before is not None and before.crossing is not None:
                    total = total - before.crossing(crossing[0], graph.cells[0])
            slopes: list[Tensor] = list(torch.autograd.grad(total, wanted))
            forces = -slopes[0].numpy()
            virial = None if strain is None else slopes[1][0].numpy()
            if before is not None:
                forces = forces - before.forces
                if virial is not None and before.virial is not None:
                    virial = virial - before.virial
            return forces, virial

        return ShortRangeResult(
            energy=float(energy.detach()) - (0.0 if before is None else before.energy),
            forces=None,
            virial=None,
            charges=charges,
            smearing=widths,
            exclusions=exclusions,
            electronegativity=chi,
            hardness=hardness,
            respond=respond,
            crossing=crossed,
            shared=any(out.shared),
            given=None if out.given is None else out.given.detach().numpy(),
        )

    def _update(self, positions: FloatArray, numbers: IntArray, cell: FloatArray, pbc: PBC) -> Graph:
        """The graph of the current neighbour list; its tables change only when the list does."""
        if self._list is None:
            none = np.zeros(0, dtype=np.int32)
            pairs, reach = Pairs(none, none, np.zeros((0, 3), dtype=np.int32)), 0.0
        else:
            pairs = self._list.update(positions, cell, pbc)
            reach = self._list.cutoff + self._list.skin
        kept = self._graph
        if kept is None or self._list is None or kept[0] is not pairs or not np.array_equal(kept[1], numbers):
            solved = np.zeros(len(positions), dtype=np.bool_)
            solved[self._solved] = True
            species = np.zeros(len(positions), dtype=np.int64)
            if isinstance(self.charges, FeatureHeads):
                if self.charges.spec.kind == "solved" and len(self._solved) < len(positions):
                    raise ValueError(
                        f"electrodes = {len(self._solved)} atoms must be all {len(positions)} with heads whose charges are "
                        "all solved: put the other atoms in one more electrode at a held charge"
                    )
                species = self.charges.species(torch.as_tensor(numbers)).numpy()
            graph = make_graph(positions, cell, pbc, species, reach, solved, pairs)
            self._graph = kept = (pairs, numbers.copy(), graph)
        return kept[2]

    def describe(self) -> dict[str, Any]:
        """The model, its charges, and how nothing counts twice."""
        removed: Any = None
        if isinstance(self.removed, Switched):
            removed = {"kind": "switched", "inner": self.removed.inner, "outer": self.removed.outer}
        elif self.removed is not None:
            removed = self.removed.describe()
        return {
            "kind": "foreign",
            "model": self.trunk.describe(),
            "charges": self.charges.describe(),
            "contains_coulomb": self.contains_coulomb,
            "removed": removed,
        }

    def state(self) -> dict[str, NDArray[Any]]:
        """Neighbour list and, where there is one, the solver of the label's ensemble."""
        state = {} if self._list is None else {f"list.{k}": v for k, v in self._list.state().items()}
        if isinstance(self.removed, LabelEnsemble):
            state |= {f"label.{k}": v for k, v in self.removed.state().items()}
        return state

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `state` returned."""
        if self._list is not None:
            self._list.load_state({k[5:]: v for k, v in state.items() if k.startswith("list.")})
        if isinstance(self.removed, LabelEnsemble):
            self.removed.load_state({k[6:]: v for k, v in state.items() if k.startswith("label.")})
        self._graph = None


def _less(response: Response, before: Counted, solved: IntArray) -> Response:
    """What Omega gains beyond what the label's ensemble already did."""
    q = np.zeros(len(before.charges))
    q[solved] = before.charges[solved]
    return Response(
        potential=response.potential - before.potential,
        charges=response.charges - q,
        half_squares=response.half_squares - 0.5 * q**2,
    )


_TWICE = (
    "contains_coulomb = True must not go with {} unless something is removed: the long range would count Coulomb energy "
    "twice. Train the model on `residual_labels`, or give removed=LabelEnsemble(...) or removed=Switched(...)"
)
_TWICE_METAL = (
    "removed = Switched must not go with electrodes: the model holds what near metal atoms do to the electrolyte, which "
    "is never removed. Give removed=LabelEnsemble(...), or train the model on `residual_labels`"
)
