"""A trained model as the short range of molecular dynamics: one pass forward, one pass back per step.

The network runs once and keeps its graph. The charge solver then says what the energy wins per charge, and one
vector-Jacobian product gives forces and virial of everything the network made:

    F = -d/dR [ E_local(R) + sum over L of phi_i q_i(R) + sum over solved of (q chi(R) + q²/2 J(R)) ]

with phi = dU/dq, q and q²/2 held. Charges beside atoms, which make atomic dipoles, are predicted ones; the solver says
in addition how Omega changes when they move, dU/d(offset).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray
from torch import Tensor

from grahame.hybrid.coupling import removed_pairs
from grahame.hybrid.frames import Conditions
from grahame.hybrid.graph import Graph, make_graph
from grahame.hybrid.heads import LocalOutput
from grahame.hybrid.model import HybridModel
from grahame.hybrid.shortrange.base import ChargeSites, FloatArray, IntArray, Response, ShortRangeResult
from grahame.kernels.cpu_memory import keep_freed
from grahame.kernels.neighbors import NeighborList, Pairs
from grahame.kernels.operators import chosen
from grahame.kernels.threads import kernels_only

_SKIN = 0.5
_COMPILED_WIDTHS = 16
_ONE_PLACE = 1e-3  # Å; no two nuclei come so close


class LearnedShortRange:
    """Energies and charges of a `HybridModel`.

    Args:
        model: trained model.
        level: level of theory; None takes the model's first.
        formal_charges, fragments, fragment_charges: as in `Conditions`, for models that need them.
        total_charge: of the cell, e, for projected charges of a single fragment.
        compile: have torch.compile translate the network. The first step of a structure takes up to a minute,
            less when the same was compiled before (torch keeps it on disk); later steps are faster, of two layers by
            half, of one, whose neighbours compiled kernels go through, by a tenth on one thread; several threads divide
            such a network among them instead. Needs a C++ compiler; without one it is said once, and the network runs
            uncompiled. Results agree to 1e-6 with those without.
    """

    def __init__(
        self,
        model: HybridModel,
        level: str | None = None,
        *,
        formal_charges: FloatArray | None = None,
        fragments: IntArray | None = None,
        fragment_charges: FloatArray | None = None,
        total_charge: float = 0.0,
        compile: bool = False,
    ) -> None:
        self.model = model.eval()
        # The network's intermediate values take so much memory that every step would page it in anew.
        keep_freed()
        # Gradients with respect to the weights are not wanted and would be paid for.
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        self._compiled = compile
        # Compiled code is for one shape: tables keep their width while neighbours come and go.
        self._widths = _COMPILED_WIDTHS if compile else 1
        self.level = torch.tensor([model.level(level)])
        self._conditions = (
            Conditions(
                total_charge=total_charge,
                formal_charges=formal_charges,
                fragments=fragments,
                fragment_charges=fragment_charges,
            ),
        )
        self._list = NeighborList(model.spec.architecture.cutoff, skin=_SKIN)
        self._solved = np.zeros(0, dtype=np.int64)
        self._graph: tuple[Pairs, IntArray, Graph] | None = None
        if compile:
            try:
                self.model.compile_features()
            except (ImportError, RuntimeError) as error:  # Pythons and platforms without torch.compile
                self._run_uncompiled(error)

    def set_solved(self, indices: IntArray) -> None:
        """Name the atoms whose charges a solver sets; called by the potential that owns the solver.

        Raises:
            ValueError: for a model without charges.
        """
        if len(indices) and not self.model.spec.long_range:
            raise ValueError(
                f"electrodes = {len(indices)} atoms must be left out with a model without charges: it has nothing that an "
                "electrode's charge could act on"
            )
        self._solved = np.asarray(indices, dtype=np.int64)
        self._graph = None

    @property
    def exchanges(self) -> bool:
        """Whether the electrolyte exchanges charge with electrodes."""
        return self.model.spec.charges.boundary_transfer

    @property
    def also_seen_in(self) -> str | None:
        """None: a model of ours is evaluated in the boundary of the run alone."""
        return None

    def widths(self, numbers: IntArray) -> FloatArray:
        """(n,) Å, Gaussian width of every atom."""
        species = torch.as_tensor(self.model.spec.species(numbers))
        return np.asarray(self.model.widths(species).detach().numpy())

    def compute(
        self,
        positions: FloatArray,
        numbers: IntArray,
        cell: FloatArray,
        pbc: tuple[bool, bool, bool],
        stress: bool,
    ) -> ShortRangeResult:
        """Evaluate one frame; forces follow from `respond` once the charges' potential is known.

        Raises:
            ValueError: for no atoms, elements that are unknown or have no energy zero at the level, values per atom of another
                number of atoms, and atoms at one place.
        """
        try:
            with kernels_only(self._divides):
                return self._evaluate(positions, numbers, cell, pbc, stress)
        except RuntimeError as error:
            if not (self._compiled and _of_translation(error)):
                raise
            self._run_uncompiled(error)
        return self._evaluate(positions, numbers, cell, pbc, stress)

    @property
    def _divides(self) -> bool:
        """Whether threads take parts of the atoms: of one layer, whose densities the compiled kernels make."""
        pays = not self._compiled or torch.get_num_threads() > 1
        return pays and chosen() in ("auto", "numba") and self.model.spec.architecture.layers == 1

    def _run_uncompiled(self, error: Exception) -> None:
        """Say why the network is not translated, and let it run as it is written."""
        reason = (str(error).splitlines() or [""])[0].rstrip(".") or type(error).__name__
        warnings.warn(
            f"compile = true must find what torch.compile needs ({reason}): the network goes on uncompiled, with the same "
            "numbers and more slowly; install a C++ compiler, or leave `compile` out",
            stacklevel=3,
        )
        for network in (self.model.network, self.model.charge_network):
            if network is not None:
                network.run_plain()
        self._compiled, self._widths, self._graph = False, 1, None

    def _evaluate(
        self,
        positions: FloatArray,
        numbers: IntArray,
        cell: FloatArray,
        pbc: tuple[bool, bool, bool],
        stress: bool,
    ) -> ShortRangeResult:
        """What `compute` gives, by the network as it runs now."""
        graph = self._update(positions, numbers, cell, pbc)
        with torch.enable_grad():
            x = torch.tensor(positions, dtype=torch.float64, requires_grad=True)
            graph = replace(graph, positions=x, cells=torch.tensor(cell[None]))
            strain = torch.zeros((1, 3, 3), dtype=torch.float64, requires_grad=True) if stress else None
            if strain is not None:
                graph = graph.strained(strain)
            out = self.model.local(graph, self.level, self._conditions)
            energy = out.energy.sum()
            if self.model.spec.switch is not None:
                r = torch.linalg.vector_norm(graph.pair_vectors(), dim=-1)
                energy = energy - removed_pairs(graph, out, r, *self.model.spec.switch).sum()
        if not (torch.isfinite(energy) and bool(torch.isfinite(out.charges).all())):
            _refuse_one_place(graph, numbers)
        wanted = [x] if strain is None else [x, strain]
        charges, widths, sites = _with_sites(out)
        with torch.enable_grad():
            crossing = out.crossing(graph)

        def respond(response: Response) -> tuple[FloatArray, FloatArray | None]:
            total = energy
            for value, weight in (
                (charges, response.potential),
                (out.electronegativity, response.charges),
                (out.hardness, response.half_squares),
            ):
                if value.requires_grad:
                    total = total + (value * torch.as_tensor(weight)).sum()
            if response.solved is not None:
                solved = torch.as_tensor(response.solved)
                total = total + self.model.energy_of_charges(out, graph, solved).sum()
            if out.given is not None and response.given is not None:
                total = total + (out.given * torch.as_tensor(response.given)).sum()
            if out.sites is not None and response.pulls is not None:
                offsets = out.sites.offsets
                # The operator's stress takes the sites along with the cell; they go where the network puts them.
                moved = offsets if strain is None else offsets - offsets.detach() @ strain[0]
                total = total + (moved * torch.as_tensor(response.pulls)).sum()
            if crossing is not None and response.crossing is not None:
                total = total + response.crossing(crossing[0], graph.cells[0])
            try:
                with kernels_only(self._divides):
                    slopes: list[Tensor] = list(torch.autograd.grad(total, wanted))
            except RuntimeError as error:
                # What goes back may be translated only now.
                if not (self._compiled and _of_translation(error)):
                    raise
                self._run_uncompiled(error)
                return self._evaluate(positions, numbers, cell, pbc, stress).derivatives(response)
            virial = None if strain is None else slopes[1][0].numpy()
            return -slopes[0].numpy(), virial

        def of_charges(solved: FloatArray) -> tuple[float, FloatArray]:
            with torch.enable_grad():
                q = torch.tensor(solved, requires_grad=True)
                found = self.model.energy_of_charges(out, graph, q).sum()
                (slopes,) = torch.autograd.grad(found, q, retain_graph=True)
            return float(found.detach()), slopes.numpy()

        constants = self.model.sites is not None
        hardness = constants or self.model.spec.charges.hard
        return ShortRangeResult(
            energy=float(energy.detach()),
            forces=None,
            virial=None,
            charges=charges.detach().numpy(),
            smearing=widths.detach().numpy(),
            exclusions=np.zeros((0, 2), dtype=np.int64),
            electronegativity=out.electronegativity.detach().numpy() if constants else None,
            hardness=out.hardness.detach().numpy() if hardness else None,
            respond=respond,
            sites=sites,
            crossing=None if crossing is None else crossing[0].detach().numpy(),
            shared=any(out.shared),
            given=None if out.given is None else out.given.detach().numpy(),
            of_charges=None if self.model.charge_energy is None else of_charges,
        )

    def _update(
        self, positions: FloatArray, numbers: IntArray, cell: FloatArray, pbc: tuple[bool, bool, bool]
    ) -> Graph:
        """The graph of the current neighbour list; its tables change only when the list does."""
        if self.model.spec.charges.kind == "solved" and len(self._solved) < len(positions):
            raise ValueError(
                f"electrodes = {len(self._solved)} atoms must be all {len(positions)} with a model whose charges are all "
                "solved: put the other atoms in one more electrode at a held charge, or give only the model"
            )
        self._check_atoms(len(positions))
        pairs = self._list.update(positions, cell, pbc)
        species = self.model.spec.species(numbers)
        if self._graph is None or not np.array_equal(self._graph[1], species):
            self._check_elements(numbers)
        if self._graph is None or self._graph[0] is not pairs or not np.array_equal(self._graph[1], species):
            solved = np.zeros(len(positions), dtype=np.bool_)
            solved[self._solved] = True
            reach = self._list.cutoff + self._list.skin
            graph = make_graph(positions, cell, pbc, species, reach, solved, pairs, self._widths)
            self._graph = (pairs, species, graph)
        return self._graph[2]

    def _check_elements(self, numbers: IntArray) -> None:
        """Refuse elements that the model met at other levels only: their energy would count from another zero."""
        spec = self.model.spec
        level = spec.levels[int(self.level[0])]
        missing = spec.without_reference(level, numbers)
        if missing:
            others = [v for v in spec.levels if not spec.without_reference(v, numbers)]
            remedy = f"choose level {others[0]}" if others else "choose another level"
            raise ValueError(
                f"elements = {', '.join(missing)} must have reference energies at level {level}, which has those of "
                f"{', '.join(spec.reference_energies[level])}: {remedy}, or train on energies of this one with them"
            )

    def _check_atoms(self, atoms: int) -> None:
        """Refuse no atoms, and values per atom that are another structure's."""
        if atoms == 0:
            raise ValueError(
                "atoms = 0 must be at least one: a model has nothing to say of an empty structure"
            )
        conditions = self._conditions[0]
        for name in ("formal_charges", "fragments"):
            values = getattr(conditions, name)
            if values is not None and np.shape(values) != (atoms,):
                raise ValueError(
                    f"{name} = values of shape {np.shape(values)} must be one per atom, {atoms}: give those of this structure"
                )
        fragments, charges = conditions.fragments, conditions.fragment_charges
        count = 0 if fragments is None else int(np.max(fragments, initial=-1)) + 1
        if charges is not None and len(charges) < count:
            raise ValueError(
                f"fragment_charges = {len(charges)} values must be one per fragment, {count}: fragments are numbered from 0"
            )

    def describe(self) -> dict[str, Any]:
        """The model's specification."""
        return {"kind": "learned", "spec": self.model.spec.model_dump(mode="json")}

    def state(self) -> dict[str, NDArray[Any]]:
        """The neighbour list, whose order of pairs decides the last digits."""
        return dict(self._list.state())

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `state` returned."""
        self._list.load_state(dict(state))
        self._graph = None


def _of_translation(error: RuntimeError) -> bool:
    """Whether torch could not translate the network: its compilers' own errors, not those of a computation."""
    own = ("torch._dynamo", "torch._inductor", "torch._functorch")
    return any(kind.__module__.startswith(own) for kind in type(error).__mro__)


def _refuse_one_place(graph: Graph, numbers: IntArray) -> None:
    """Raises: where two atoms are at one place, which makes numbers of a network that are not finite."""
    r = torch.linalg.vector_norm(graph.pair_vectors().detach(), dim=1)
    nearest = int(r.argmin()) if len(r) else 0
    if len(r) and float(r[nearest]) < _ONE_PLACE:
        i, j = graph.pairs[nearest].tolist()
        first, second = chemical_symbols[int(numbers[i])], chemical_symbols[int(numbers[j])]
        raise ValueError(
            f"distance = {float(r[nearest]):.3g} Å of atoms {i} ({first}) and {j} ({second}) must be positive: move one of them, "
            "or remove it"
        )


def _with_sites(out: LocalOutput) -> tuple[Tensor, Tensor, ChargeSites | None]:
    """Charges and widths of atoms and, after them, of the sites; and where the sites are."""
    if out.sites is None:
        return out.charges, out.widths, None
    s = out.sites
    where = ChargeSites(s.atoms.numpy(), s.offsets.detach().numpy())
    return torch.cat([out.charges, s.charges]), torch.cat([out.widths, out.widths[s.atoms]]), where
