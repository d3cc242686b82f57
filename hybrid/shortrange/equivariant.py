"""A strictly local equivariant network: what an atom's surroundings look like, as invariant features.

Each layer turns neighbours into a density on the sphere around every atom, and multiplies densities:

    A_i(u)  = sum over j of e_d(ij) B_n(r_ij) Y(u_ij) . Y(u), mixed over (d, n) into channels    2 bodies
    P_i(u)  = (w1 A)(w2 A), projected back onto l <= l_max                                        3 bodies
    features from the overlaps <A A>_l, <A P>_l, <P P>_l                                          3, 4, 5 bodies

e_d(ij) is the element of the neighbour in the first layer; in further layers also the neighbour's own density
in the direction of the bond, f_d,j(u_ji), so that each layer adds one cut-off to the receptive field. Products
are taken pointwise on a grid of directions that integrates them exactly (`sphere`), which makes every feature
invariant under rotation and reflection to rounding.

Sources: Drautz, Phys. Rev. B 99, 014104 (2019) for the atomic cluster expansion; Batatia et al., NeurIPS 2022
(arXiv 2206.07697) for products of densities in a message-passing network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor, nn

from grahame.hybrid.graph import Graph
from grahame.hybrid.shortrange import first_layer, radial, sphere
from grahame.hybrid.shortrange.parts import in_parts
from grahame.kernels.threads import available, torch_is_alone


@dataclass(frozen=True)
class Architecture:
    """Sizes of the network.

    Attributes:
        cutoff: Å.
        channels: densities per atom.
        l_max: largest angular momentum, 1 ... 3.
        radial: radial functions per kind of neighbour.
        layers: 1 is strictly local within the cut-off; each further layer adds one cut-off.
        messages: densities a neighbour sends in layers after the first.
        hidden: width of the readout.
    Raises:
        ValueError: for sizes that no network has.
    """

    cutoff: float = 5.0
    channels: int = 32
    l_max: int = 2
    radial: int = 8
    layers: int = 1
    messages: int = 8
    hidden: int = 64

    def __post_init__(self) -> None:
        if not (math.isfinite(self.cutoff) and self.cutoff > 0.0):
            raise ValueError(f"cutoff = {self.cutoff:g} Å must be positive and finite: 5 Å is usual")
        usual = {"channels": 32, "radial": 8, "layers": 1, "messages": 8, "hidden": 64}
        for name, value in usual.items():
            given = getattr(self, name)
            if not isinstance(given, Integral) or given < 1:
                raise ValueError(f"{name} = {given} must be a whole number of at least 1: {value} is usual")
        if self.l_max not in (1, 2, 3):
            raise ValueError(f"l_max = {self.l_max} must be 1, 2 or 3: 2 is usual")

    @property
    def receptive_field(self) -> float:
        """Distance beyond which atoms do not matter, Å."""
        return self.cutoff * self.layers


@dataclass(frozen=True)
class Features:
    """What the heads see.

    Attributes:
        scalars: (n,F) invariant.
        vectors: (n,3,channels) equivariant, in the axes x, y, z.
    """

    scalars: Tensor
    vectors: Tensor


class ChannelMixing(nn.Module):
    """A linear map of channels for each l; (L,n,C) -> (L,n,C')."""

    degree: Tensor

    def __init__(self, l_max: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("degree", torch.as_tensor(sphere.degrees(l_max)), persistent=False)
        self.weight = nn.Parameter(torch.randn(l_max + 1, inputs, outputs) / math.sqrt(inputs))

    def forward(self, density: Tensor) -> Tensor:
        return torch.bmm(density, self.weight.index_select(0, self.degree))


class Interaction(nn.Module):
    """One layer: neighbours to density, density to products, products to invariants."""

    values: Tensor
    projector: Tensor
    degree: Tensor
    means: Tensor

    def __init__(self, sizes: Architecture, species: int, kinds: int, neighbors: float) -> None:
        super().__init__()
        c, l_max = sizes.channels, sizes.l_max
        # The density of n neighbours at random directions has a mean square of about n.
        self.scale = 1.0 / math.sqrt(neighbors)
        self.gather = ChannelMixing(l_max, kinds * sizes.radial, c)
        # What a density means depends on the element at its centre.
        self.centre = nn.Parameter(1.0 + 0.1 * torch.randn(species, l_max + 1, c))
        self.left = ChannelMixing(l_max, c, c)
        self.right = ChannelMixing(l_max, c, c)
        self.product = ChannelMixing(l_max, c, c)
        self.first = ChannelMixing(l_max, c, c)
        self.second = ChannelMixing(l_max, c, c)
        values, projector = sphere.product_grid(l_max)
        self.register_buffer("values", torch.as_tensor(values), persistent=False)
        self.register_buffer("projector", torch.as_tensor(projector), persistent=False)
        degree = torch.as_tensor(sphere.degrees(l_max))
        self.register_buffer("degree", degree, persistent=False)
        # Sums over m of one l, over the root of how many there are.
        one = nn.functional.one_hot(degree).T.to(torch.float64)
        self.register_buffer("means", one / one.sum(1, keepdim=True).sqrt(), persistent=False)

    @staticmethod
    def invariants(sizes: Architecture) -> int:
        """Number of invariant features of one layer."""
        return sizes.channels * (1 + 4 * (sizes.l_max + 1))

    def _on_grid(self, density: Tensor) -> Tensor:
        shape = density.shape[1:]
        return (self.values @ density.reshape(len(density), -1)).reshape(-1, *shape)

    def forward(self, density: Tensor, species: Tensor) -> tuple[Tensor, Tensor]:
        """Invariants (n,I) and density (L,n,C), from that of neighbours (L,n,D*N)."""
        density = density * self.scale
        centre = self.centre[:, self.degree].transpose(0, 1).index_select(1, species)
        a = self.gather(density) * centre
        on_grid = self._on_grid(self.left(a)) * self._on_grid(self.right(a))
        p = self.product((self.projector @ on_grid.reshape(len(on_grid), -1)).reshape_as(a))
        x, y = self.first(a), self.second(p)
        # One product after the other: all four side by side would be the largest array of the network.
        overlaps = [self._overlap(u, v) for u in (a, p) for v in (x, y)]
        return torch.cat([a[0], *overlaps], dim=1), a + p

    def _overlap(self, u: Tensor, v: Tensor) -> Tensor:
        """(n,(l_max+1) C) sums of u v over m, for each l."""
        sums = self.means @ (u * v).reshape(len(u), -1)
        found: Tensor = sums.reshape(-1, *u.shape[1:]).transpose(0, 1).reshape(u.shape[1], -1)
        return found


def density_of(kinds: Tensor, basis: Tensor, harmonics: Tensor) -> Tensor:
    """(L,n,D*N) sums over neighbours; kinds (n,K,D) of neighbours, basis (n,K,N), harmonics (n,K,L)."""
    n, k, _ = kinds.shape
    filled = (kinds[..., :, None] * basis[..., None, :]).reshape(n, k, -1)
    return torch.bmm(harmonics.transpose(1, 2), filled).transpose(0, 1)


class LocalNetwork(nn.Module):
    """Invariant and vector features of atoms from their neighbours.

    Args:
        sizes: the architecture.
        species: number of elements.
        neighbors: mean number of neighbours within the cut-off, from the training data.
    """

    def __init__(self, sizes: Architecture, species: int, neighbors: float) -> None:
        super().__init__()
        self.sizes = sizes
        self.species = species
        interactions, readouts, senders = [], [], []
        for layer in range(sizes.layers):
            kinds = species if layer == 0 else species + sizes.messages
            interactions.append(Interaction(sizes, species, kinds, neighbors))
            readouts.append(Readout(species, Interaction.invariants(sizes), sizes.hidden))
            if layer:
                senders.append(ChannelMixing(sizes.l_max, sizes.channels, sizes.messages))
        self.interactions = nn.ModuleList(interactions)
        self.readouts = nn.ModuleList(readouts)
        self.senders = nn.ModuleList(senders)
        self._of_vectors: Callable[..., tuple[Tensor, Tensor]]
        self._of_densities: Callable[..., tuple[Tensor, Tensor]]
        self.run_plain()

    @property
    def features(self) -> int:
        """Number of scalar features."""
        return self.sizes.hidden * self.sizes.layers

    def run_plain(self) -> None:
        """Run as written from now on, not as torch.compile translates it."""
        self._translated = False
        self._of_vectors = self._from_vectors
        self._of_densities = self._from_densities

    def compile_features(self) -> None:
        """Have torch.compile make one program of forward and one of backward; the first call of a shape pays.

        Only for first derivatives: training, which takes second ones, must run without.
        """
        self._translated = True
        self._of_vectors = torch.compile(self._from_vectors, dynamic=False)
        self._of_densities = torch.compile(self._from_densities, dynamic=False)

    def first(self, graph: Graph) -> Tensor | None:
        """Densities (L,n,species * N) of the first layer by compiled kernels; None where these do not serve.

        Nor do they where torch.compile translates several layers: without elements beside them it makes messages
        again for every radial function.
        """
        z = self.sizes
        if not first_layer.serves(graph) or (self._translated and z.layers > 1):
            return None
        dtype = next(self.parameters()).dtype
        return first_layer.first_densities(graph, self.species, z.cutoff, z.radial, z.l_max, dtype)

    def forward(self, graph: Graph, first: Tensor | None = None) -> Features:
        """Features of all atoms.

        Args:
            graph: neighbours.
            first: what `first` gave, if it is known.
        """
        first = self.first(graph) if first is None else first
        if first is not None and self.sizes.layers == 1:
            frozen = not any(p.requires_grad for p in self.parameters())
            if torch_is_alone() and frozen and available() > 1:
                # Faster than the translated network, which they could not divide.
                return Features(*in_parts(self._from_densities, first, graph.species))
            if torch_is_alone() and frozen and not self._translated:
                return Features(*in_parts(self._of_densities, first, graph.species))
            return Features(*self._of_densities(first, graph.species))
        return self.of_vectors(graph.around.table.neighbors, graph.species, graph.vectors(), first)

    def of_vectors(
        self, neighbors: Tensor, species: Tensor, vectors: Tensor, first: Tensor | None = None
    ) -> Features:
        """The same from the table of neighbours (n,K), species (n,), vectors (n,K,3), and densities if they are known."""
        return Features(*self._of_vectors(neighbors, species, vectors, first))

    def _from_densities(self, first: Tensor, species: Tensor) -> tuple[Tensor, Tensor]:
        invariants, density = self.interactions[0](first, species)
        return self.readouts[0](invariants, species), _vector(density)

    def _from_vectors(
        self, neighbors: Tensor, species: Tensor, vectors: Tensor, first: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        dtype = next(self.parameters()).dtype
        # Differences are taken in double precision, the network runs in its own.
        r = torch.linalg.vector_norm(vectors, dim=-1)
        unit = (vectors / r[..., None]).to(dtype)
        basis = radial.bessel(r.to(dtype), self.sizes.cutoff, self.sizes.radial)
        harmonics = sphere.harmonics(unit, self.sizes.l_max)
        elements = None
        around = first
        if around is None:
            # One-hot by comparison, which a compiler can merge into what follows.
            numbered = torch.arange(self.species, device=species.device)
            elements = (species[neighbors][..., None] == numbered).to(dtype)
            around = density_of(elements, basis, harmonics)
        invariants, density = self.interactions[0](around, species)
        scalars = [self.readouts[0](invariants, species)]
        for layer in range(1, self.sizes.layers):
            # Further layers see the elements around as well.
            said = self._messages(layer, density, neighbors, harmonics)
            if elements is not None:
                around = density_of(torch.cat([elements, said], dim=-1), basis, harmonics)
            elif first is not None:
                around = torch.cat([first, density_of(said, basis, harmonics)], dim=2)
            invariants, density = self.interactions[layer](around, species)
            scalars.append(self.readouts[layer](invariants, species))
        return torch.cat(scalars, dim=1), _vector(density)

    def _messages(self, layer: int, density: Tensor, neighbors: Tensor, harmonics: Tensor) -> Tensor:
        """(n,K,D) the neighbours' densities in the direction of the bond."""
        sent = self.senders[layer - 1](density).transpose(0, 1)
        n, k = neighbors.shape
        received = sent.index_select(0, neighbors.reshape(-1)).reshape(n, k, *sent.shape[1:])
        # Looking from the neighbour, the bond points the other way: odd harmonics change sign.
        parity = torch.ones(harmonics.shape[-1], dtype=harmonics.dtype, device=harmonics.device)
        for odd in sphere.slices(self.sizes.l_max)[1::2]:
            parity[odd] = -1.0
        return torch.einsum("nkl,nkld->nkd", harmonics * parity, received)


def _vector(density: Tensor) -> Tensor:
    """(n,3,C) in the axes x, y, z; harmonics of l = 1 stand in the order y, z, x."""
    return density[1:4].transpose(0, 1)[:, [2, 0, 1]]


class Readout(nn.Module):
    """Invariants of one layer to scalar features; the element of the atom shifts the first map."""

    def __init__(self, species: int, inputs: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden)
        self.element = nn.Embedding(species, hidden)
        self.second = nn.Linear(hidden, hidden)

    def forward(self, invariants: Tensor, species: Tensor) -> Tensor:
        hidden = nn.functional.silu(self.first(invariants) + self.element(species))
        out: Tensor = hidden + nn.functional.silu(self.second(hidden))
        return out
