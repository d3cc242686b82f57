"""What features of an atom become: energies, charges, and the constants of a charge solve.

Charges that must add up exactly are built so, not corrected afterwards:

    transfer    q_i = formal_i + sum over pairs of p_ij,  p_ij = -p_ji, zero where a solver owns either charge
    projected   q_i = a_i + w_i / sum(w) (Q_fragment - sum(a)) over the atoms of each fragment
    solved      q minimises the electrostatic energy with chi_i and J_i at fixed total charge

Atoms may carry dipoles beside them, which have no charge.

Source: Ko et al., Nat. Commun. 12, 398 (2021) for learned electronegativities in a charge equilibration.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from grahame.hybrid.compiled_transfers import compiled_transfers, serves
from grahame.hybrid.graph import Graph
from grahame.hybrid.shortrange import radial
from grahame.hybrid.shortrange.equivariant import Features
from grahame.hybrid.sites import Sites


class TransferCharges(nn.Module):
    """Charge that pairs of neighbours exchange; the sum over all atoms is that of the formal charges.

        p_ij = sum over n of (T_abn - T_ban) B_n(r_ij) + sum over d of w_d(r_ij) (u_d(i) v_d(j) - v_d(i) u_d(j))
        w_d(r) = sum over n of W_dn B_n(r)

    with a, b the elements of i and j: what two elements exchange anywhere, and what their surroundings change.
    Each pair is computed once and added with both signs in double precision, so the sum is exact to rounding in
    whatever precision the network runs.

    Args:
        features: scalar features per atom; species: number of elements; cutoff: Å.
        count: radial functions; rank: number of terms d.
        across: let electrolyte atoms keep their half of what they exchange with solved atoms
            (`boundary_transfer`); the solver's atoms then take the opposite through the total charge.
    """

    def __init__(
        self, features: int, species: int, cutoff: float, count: int, rank: int = 16, across: bool = False
    ) -> None:
        super().__init__()
        self.cutoff, self.count, self.rank, self.across = cutoff, count, rank, across
        self.element = nn.Embedding(species, 2 * rank)
        self.environment = nn.Linear(features, 2 * rank, bias=False)
        self.radial = nn.Linear(count, rank, bias=False)
        self.pairs = nn.Parameter(torch.zeros(species, species, count))
        nn.init.normal_(self.element.weight, std=1.0)
        nn.init.normal_(self.environment.weight, std=0.1 / math.sqrt(features))
        nn.init.normal_(self.radial.weight, std=0.3 / math.sqrt(rank * count))

    def forward(self, scalars: Tensor, species: Tensor, pairs: Tensor, solved: Tensor, r: Tensor) -> Tensor:
        """(p,) e, charge that the first atom of each pair gains from the second.

        Args:
            scalars: (n,F); species: (n,).
            pairs: (p,2) atoms; solved: (n,) True for atoms whose charge a solver sets; r: (p,) Å.
        """
        return self._plain(self._said(scalars, species), species, pairs, solved, r)

    def of_graph(self, scalars: Tensor, graph: Graph) -> Tensor:
        """The same for the pairs of a graph; compiled kernels take the sums where the weights are not learned."""
        both, silent = self._said(scalars, graph.species), graph.solved
        if self.across:
            silent = torch.zeros_like(silent)

        def formula(x: Tensor, cells: Tensor, both: Tensor) -> Tensor:
            moved = replace(graph, positions=x, cells=cells)
            r = torch.linalg.vector_norm(moved.pair_vectors(), dim=-1)
            return self._plain(both, graph.species, graph.pairs, silent, r)

        if not serves(graph, self.pairs, self.radial.weight):
            return formula(graph.positions, graph.cells, both)
        return compiled_transfers(
            graph, silent, both, self.cutoff, self._exchanged(), self.radial.weight.T, formula
        )

    def _said(self, scalars: Tensor, species: Tensor) -> Tensor:
        """u and v of every atom side by side, (n, 2 rank)."""
        both: Tensor = self.element(species) + self.environment(scalars)
        return both

    def _exchanged(self) -> Tensor:
        """(species², count) what two elements exchange anywhere."""
        return (self.pairs - self.pairs.transpose(0, 1)).reshape(-1, self.count)

    def _plain(self, both: Tensor, species: Tensor, pairs: Tensor, solved: Tensor, r: Tensor) -> Tensor:
        # A list that is kept holds pairs beyond the cut-off as well; solved atoms are often many, and exchange nothing.
        exchanging = r.detach() < self.cutoff
        if not self.across:
            exchanging &= ~solved.index_select(0, pairs.reshape(-1)).reshape(-1, 2).any(1)
        some = exchanging.nonzero()[:, 0]
        i, j = pairs.index_select(0, some).unbind(1)
        basis = radial.bessel(r.index_select(0, some).to(both.dtype), self.cutoff, self.count)
        kinds = species.index_select(0, i) * len(self.pairs) + species.index_select(0, j)
        (u_i, v_i), (u_j, v_j) = (both.index_select(0, k).chunk(2, dim=1) for k in (i, j))
        varied = self.radial(basis) * (u_i * v_j - v_i * u_j)
        plain = self._exchanged().index_select(0, kinds) * basis
        gained = plain.sum(1).to(torch.float64) + varied.sum(1).to(torch.float64)
        return torch.zeros_like(r).index_add(0, some, gained)


def charges_of_transfers(formal: Tensor, gained: Tensor, graph: Graph) -> Tensor:
    """(n,) e from formal charges and what pairs exchange; entries of solved atoms carry no meaning."""
    i, j = graph.pairs.unbind(1)
    return formal.index_add(0, i, gained).index_add(0, j, -gained)


def dipole_of_transfers(formal: Tensor, gained: Tensor, graph: Graph, pair_vectors: Tensor) -> Tensor:
    """(B,3) e Å: sum formal_i r_i - sum over pairs p_ij d_ij, the same wherever atoms are wrapped pairwise.

    Args:
        formal: (n,) e, zero on solved atoms; gained: (p,) e; graph: of the atoms; pair_vectors: (p,3) first to second
            atom, Å.
    """
    i, j = graph.pairs.unbind(1)
    inner = ~(graph.solved[i] | graph.solved[j])
    x = graph.positions
    moment = graph.per_frame(formal[:, None] * x)
    exchanged = -(gained * inner)[:, None] * pair_vectors
    moment = moment.index_add(0, graph.frame[i], exchanged)
    # A pair with a solved atom counts only with its electrolyte half, at the image that is the solved atom's neighbour.
    first = (gained * (~graph.solved[i] & graph.solved[j]))[:, None] * (x[j] - pair_vectors)
    second = -(gained * (graph.solved[i] & ~graph.solved[j]))[:, None] * (x[i] + pair_vectors)
    return moment.index_add(0, graph.frame[i], first + second)


def given_by_solved(gained: Tensor, graph: Graph) -> Tensor:
    """(n,) e that the electrolyte has from each solved atom; 0 for other atoms."""
    i, j = graph.pairs.unbind(1)
    first = gained * (graph.solved[i] & ~graph.solved[j])
    second = gained * (~graph.solved[i] & graph.solved[j])
    return gained.new_zeros(len(graph.species)).index_add(0, i, -first).index_add(0, j, second)


def crossing_of_transfers(gained: Tensor, graph: Graph) -> Tensor:
    """(B,3) e Å: - sum over pairs p_ij S_ij, S_ij the lattice shift between the two atoms.

    What `dipole_of_transfers` has beyond sum q_i r_i: charge that a pair exchanges moves along the bond, also where the
    bond leaves the cell through one face and comes back through the other. What an electrolyte atom keeps of an exchange
    with a solved one counts as well: the solver gives it to the solved atoms of this cell, it came from an image.
    """
    i, j = graph.pairs.unbind(1)
    given = ~(graph.solved[i] & graph.solved[j])
    through = (given & (graph.pair_images != 0).any(dim=1)).nonzero()[:, 0]
    frame = graph.frame[i[through]]
    shifts = (graph.pair_images[through][:, None, :] @ graph.cells[frame])[:, 0]
    moment = gained.new_zeros((graph.frames, 3))
    return moment.index_add(0, frame, -gained[through][:, None] * shifts)


class ProjectedCharges(nn.Module):
    """Scalar charges moved, with learned weights, so that each fragment carries exactly its charge.

    Args:
        features: scalar features per atom; species: number of elements.
        start: (species) e, charge of each element before training. An energy is the same with all charges reversed: without
            charge labels the start says which sign is meant.
    """

    def __init__(self, features: int, species: int, start: Sequence[float]) -> None:
        super().__init__()
        self.element = nn.Embedding(species, 2)
        self.environment = nn.Linear(features, 2, bias=False)
        nn.init.zeros_(self.element.weight)
        with torch.no_grad():
            self.element.weight[:, 0] = torch.tensor(start)
        nn.init.normal_(self.environment.weight, std=0.1 / math.sqrt(features))

    def forward(self, scalars: Tensor, species: Tensor, fragment: Tensor, wanted: Tensor) -> Tensor:
        """(n,) e.

        Args:
            scalars: (n,F); species: (n,).
            fragment: (n,) index of each atom's fragment, -1 for atoms that carry no predicted charge.
            wanted: (fragments,) e.
        """
        guess, weight = (self.element(species) + self.environment(scalars)).to(torch.float64).unbind(1)
        inside = fragment >= 0
        guess = guess * inside
        weight = nn.functional.softplus(weight) * inside
        f = fragment.clamp(min=0)
        sums = wanted.new_zeros(len(wanted))
        missing = wanted - sums.index_add(0, f, guess)
        shares = sums.index_add(0, f, weight)
        charges: Tensor = guess + weight * (missing / shares.clamp(min=1e-300))[f]
        return charges


class SiteConstants(nn.Module):
    """Electronegativity chi (V) and hardness J (V/e, positive) of atoms whose charges are solved.

    Args:
        features: scalar features per atom; species: number of elements.
        hardness: (species) J of each element before training, V/e.
        environment: whether chi and J see the surroundings; without, both are constants of the element, and
            the electrode matrix of a rigid electrode stays the same. Where J is large, so is what a charge costs: there
            chi follows the surroundings in steps of J/20 e.
        constant: (species) whose constants are those of the element even so; none by default.
    """

    scale: Tensor

    def __init__(
        self,
        features: int,
        species: int,
        hardness: Sequence[float],
        environment: bool,
        constant: Sequence[bool] | None = None,
    ) -> None:
        super().__init__()
        self.element = nn.Embedding(species, 2)
        nn.init.zeros_(self.element.weight)
        with torch.no_grad():
            raw = [j if j > 20 else math.log(math.expm1(max(j, 1e-6))) for j in hardness]
            self.element.weight[:, 1] = torch.tensor(raw)
        self.environment = nn.Linear(features, 2, bias=False) if environment else None
        if self.environment is not None:
            nn.init.zeros_(self.environment.weight)
        fixed = constant or [False] * species
        steps = [[0.0, 0.0] if f else [max(1.0, j / 20.0), 1.0] for j, f in zip(hardness, fixed)]
        self.register_buffer("scale", torch.tensor(steps), persistent=False)

    def forward(self, scalars: Tensor, species: Tensor) -> tuple[Tensor, Tensor]:
        """chi (n,) V and J (n,) V/e."""
        both = self.element(species)
        if self.environment is not None:
            both = both + self.environment(scalars) * self.scale[species].to(scalars)
        chi, raw = both.to(torch.float64).unbind(1)
        return chi, nn.functional.softplus(raw)


class Widths(nn.Module):
    """Gaussian width of each element, never below `smallest`; s = smallest + softplus(parameter).

    Args:
        widths: per species, Å; trainable: whether training changes them.
    """

    smallest = 0.2

    def __init__(self, widths: list[float], trainable: bool) -> None:
        super().__init__()
        raw = [math.log(math.expm1(w - self.smallest)) for w in widths]
        self.raw = nn.Parameter(torch.tensor(raw, dtype=torch.float64), requires_grad=trainable)

    def forward(self, species: Tensor) -> Tensor:
        """(n,) Å."""
        widths = self.smallest + nn.functional.softplus(self.raw.to(torch.float64))
        return widths[species]


class AtomicDipoles(nn.Module):
    """Dipole of each atom: its vectors, weighed by gates that see element and surroundings, below a largest length.

        mu = w/sqrt(1 + |w|²/a²),   w = sum over channels c of g_c V_c

    Args:
        features: scalar features per atom; channels: vectors per atom; species: number of elements.
    """

    def __init__(self, features: int, channels: int, species: int) -> None:
        super().__init__()
        self.element = nn.Embedding(species, channels)
        self.environment = nn.Linear(features, channels, bias=False)
        # Small, but not zero: a product of two zeros would never learn.
        nn.init.normal_(self.element.weight, std=0.03 / math.sqrt(channels))
        nn.init.normal_(self.environment.weight, std=0.03 / math.sqrt(features * channels))

    def forward(self, found: Features, species: Tensor, atoms: Tensor, longest: Tensor) -> Tensor:
        """(k,3) e Å of the atoms with these indices (k,); longest: (k,) a, e Å."""
        gates = self.element(species[atoms]) + self.environment(found.scalars[atoms])
        w = (found.vectors[atoms] * gates[:, None, :]).sum(2).to(torch.float64)
        moments: Tensor = w / torch.sqrt(1.0 + (w * w).sum(1) / longest**2)[:, None]
        return moments


@dataclass(frozen=True)
class LocalOutput:
    """What the surroundings of each atom say.

    Attributes:
        energy: (B,) eV: references, network and repulsion.
        charges: (n,) e, predicted ones; 0 where a solver owns the charge.
        gained: (p,) e exchanged by pairs, or None without transfers.
        formal: (n,) e, 0 where a solver owns the charge, or None without transfers.
        widths: (n,) Å.
        electronegativity: (n,) V; hardness: (n,) V/e; of atoms whose charge is solved.
        moments: (n,3) e Å, dipoles of atoms, 0 for those without; sites: the charges that make them; None for none.
        shared: per frame whether charges depend on positions and add up over all atoms only: no path says how they
            moved, and no fragment keeps them apart. Empty where no frame has such charges.
        given: (n,) e that the electrolyte has from each solved atom, or None where it exchanges nothing with them.
        scalars: (n,F) features, where a local energy depends on solved charges (`charge_energy`), else None.
    """

    energy: Tensor
    charges: Tensor
    gained: Tensor | None
    formal: Tensor | None
    widths: Tensor
    electronegativity: Tensor
    hardness: Tensor
    moments: Tensor | None = None
    sites: Sites | None = None
    shared: tuple[bool, ...] = ()
    given: Tensor | None = None
    scalars: Tensor | None = None

    def dipole(self, graph: Graph, pair_vectors: Tensor) -> Tensor:
        """(B,3) e Å of the predicted charges and dipoles."""
        if self.gained is None or self.formal is None:
            moment = graph.per_frame(self.charges[:, None] * graph.positions)
        else:
            moment = dipole_of_transfers(self.formal, self.gained, graph, pair_vectors)
        return moment if self.moments is None else moment + graph.per_frame(self.moments)

    def crossing(self, graph: Graph) -> Tensor | None:
        """(B,3) e Å that the dipole has beyond sum q r, from transfers through the cell's faces; None without transfers."""
        return None if self.gained is None else crossing_of_transfers(self.gained, graph)
