"""The local part of a hybrid model as a TorchScript module of metatomic. Imported only where metatomic is."""

# Annotations are read by the TorchScript compiler, which knows neither postponed nor new ones.
# ruff: noqa: UP006, UP035, UP045

from typing import Dict, List, Optional

import torch
from metatensor.torch import Labels, TensorBlock, TensorMap
from metatomic.torch import ModelOutput, NeighborListOptions, System


class LocalModule(torch.nn.Module):
    """Energies, charges and features of systems.

    Args:
        network: traced; (vectors, species, neighbors) -> energies of atoms (n,) eV and scalars (n,F).
        transfer: traced; (scalars, species, pairs, r, solved) -> (p,) e, what the first atom of each pair gains.
        repulsion: traced; (r, pairs, species) -> (n,) eV.
        table: species of each atomic number, -1 for unknown ones; formal: e per species; solved: True for species
            whose charges a solver owns; widths: Å per species.
        cutoff: Å; switch: radii between which near pairs are left to the model, Å, or (0, 0) for none.
        coulomb_constant: eV Å/e²; charged: whether the model has charges, which are then an output.
    """

    table: torch.Tensor
    formal: torch.Tensor
    solved: torch.Tensor
    widths: torch.Tensor

    def __init__(
        self,
        network: torch.nn.Module,
        transfer: torch.nn.Module,
        repulsion: torch.nn.Module,
        table: torch.Tensor,
        formal: torch.Tensor,
        solved: torch.Tensor,
        widths: torch.Tensor,
        cutoff: float,
        switch: List[float],
        coulomb_constant: float,
        charged: bool,
    ) -> None:
        super().__init__()
        self.network = network
        self.transfer = transfer
        self.repulsion = repulsion
        self.register_buffer("table", table)
        self.register_buffer("formal", formal)
        self.register_buffer("solved", solved)
        self.register_buffer("widths", widths)
        self.cutoff = cutoff
        self.inner = switch[0]
        self.outer = switch[1]
        self.coulomb_constant = coulomb_constant
        self.charged = charged

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:
        """Each pair once."""
        return [NeighborListOptions(cutoff=self.cutoff, full_list=False, strict=True)]

    def forward(
        self,
        systems: List[System],
        outputs: Dict[str, ModelOutput],
        selected_atoms: Optional[Labels],
    ) -> Dict[str, TensorMap]:
        """Outputs `energy` (eV), `charge` (e) and `feature`, as far as they are asked for."""
        energies: List[torch.Tensor] = []
        charges: List[torch.Tensor] = []
        features: List[torch.Tensor] = []
        samples: List[torch.Tensor] = []
        for k, system in enumerate(systems):
            energy, charge, feature = self.evaluate(system)
            if selected_atoms is None:
                atoms = torch.arange(len(system), device=energy.device)
            else:
                rows = selected_atoms.values
                atoms = rows[rows[:, 0] == k][:, 1].to(torch.long)
            energies.append(energy[atoms])
            charges.append(charge[atoms])
            features.append(feature[atoms])
            samples.append(torch.stack([torch.full_like(atoms, k), atoms], dim=1).to(torch.int32))
        index = torch.cat(samples)
        dtype = systems[0].positions.dtype
        per_atom = torch.cat(energies).to(dtype)
        result: Dict[str, TensorMap] = {}
        if "energy" in outputs:
            if outputs["energy"].sample_kind == "atom":
                result["energy"] = _map(per_atom[:, None], _atoms(index), "energy")
            else:
                zeros = torch.zeros(len(systems), dtype=dtype, device=per_atom.device)
                total = zeros.index_add(0, index[:, 0].to(torch.long), per_atom)
                number = torch.arange(len(systems), dtype=torch.int32, device=per_atom.device)
                result["energy"] = _map(total[:, None], Labels(["system"], number[:, None]), "energy")
        if "charge" in outputs:
            result["charge"] = _map(torch.cat(charges).to(dtype)[:, None], _atoms(index), "charge")
        if "feature" in outputs:
            result["feature"] = _map(torch.cat(features).to(dtype), _atoms(index), "feature")
        return result

    def evaluate(self, system: System) -> List[torch.Tensor]:
        """Energies (n,) eV, charges (n,) e and scalars (n,F) of one system."""
        block = system.get_neighbor_list(self.requested_neighbor_lists()[0])
        pairs = block.samples.values[:, :2].to(torch.long)
        ends = block.values[:, :, 0].to(torch.float64)
        species = self.table[system.types.to(torch.long)]
        n = len(system)
        r = torch.linalg.vector_norm(ends, dim=1)
        neighbors, vectors = self.rows(pairs, ends, n)
        energy, scalars = self.network(vectors, species, neighbors)
        energy = energy + self.repulsion(r, pairs, species)
        charge = torch.zeros_like(energy)
        if self.charged:
            owned = self.solved[species]
            gained = self.transfer(scalars, species, pairs, r, owned)
            charge = (self.formal[species] * ~owned).index_add(0, pairs[:, 0], gained)
            charge = charge.index_add(0, pairs[:, 1], -gained) * ~owned
            if self.outer > 0.0:
                energy = energy - self.removed(charge, species, pairs, r)
        return [energy, charge, scalars]

    def rows(self, pairs: torch.Tensor, ends: torch.Tensor, n: int) -> List[torch.Tensor]:
        """Neighbours of each atom in rows (n,K) and vectors to them (n,K,3); rows are filled up from afar."""
        first = torch.cat([pairs[:, 0], pairs[:, 1]])
        second = torch.cat([pairs[:, 1], pairs[:, 0]])
        both = torch.cat([ends, -ends])
        order = torch.argsort(first, stable=True)
        first, second, both = first[order], second[order], both[order]
        counts = torch.bincount(first, minlength=n)
        width = 1
        if first.shape[0] > 0:
            width = int(counts.max())
        starts = torch.repeat_interleave(torch.cumsum(counts, 0) - counts, counts)
        column = torch.arange(first.shape[0], device=first.device) - starts
        neighbors = torch.arange(n, device=first.device)[:, None].repeat(1, width)
        neighbors = neighbors.index_put((first, column), second)
        vectors = torch.zeros((n, width, 3), dtype=ends.dtype, device=ends.device)
        vectors[:, :, 0] = 2.0 * self.cutoff + 1.0
        return [neighbors, vectors.index_put((first, column), both)]

    def removed(
        self, charge: torch.Tensor, species: torch.Tensor, pairs: torch.Tensor, r: torch.Tensor
    ) -> torch.Tensor:
        """(n,) eV of near pairs that the long range must not count again, half to each atom."""
        i, j = pairs[:, 0], pairs[:, 1]
        x = ((r - self.inner) / (self.outer - self.inner)).clamp(0.0, 1.0)
        share = 1.0 + x * x * x * (-10.0 + x * (15.0 - 6.0 * x))
        w = self.widths[species]
        g = 1.0 / torch.sqrt(2.0 * (w[i] * w[i] + w[j] * w[j]))
        pair = share * self.coulomb_constant * charge[i] * charge[j] * torch.erf(g * r) / r
        out = torch.zeros_like(charge)
        return out.index_add(0, i, 0.5 * pair).index_add(0, j, 0.5 * pair)


class NoRepulsion(torch.nn.Module):
    """Stands for the repulsion of a model without one."""

    def forward(self, r: torch.Tensor, pairs: torch.Tensor, species: torch.Tensor) -> torch.Tensor:
        """(n,) zeros, eV."""
        return torch.zeros(species.shape[0], dtype=r.dtype, device=r.device)


class NoTransfer(torch.nn.Module):
    """Stands for the charge head of a model without one."""

    def forward(
        self,
        scalars: torch.Tensor,
        species: torch.Tensor,
        pairs: torch.Tensor,
        r: torch.Tensor,
        solved: torch.Tensor,
    ) -> torch.Tensor:
        """(p,) zeros."""
        return torch.zeros_like(r)


def _atoms(index: torch.Tensor) -> Labels:
    return Labels(["system", "atom"], index)


def _map(values: torch.Tensor, samples: Labels, name: str) -> TensorMap:
    """One block of values (samples, properties)."""
    device = values.device
    columns = torch.arange(values.shape[1], dtype=torch.int32, device=device)[:, None]
    components: List[Labels] = []
    block = TensorBlock(values, samples, components, Labels([name], columns))
    return TensorMap(Labels(["_"], torch.zeros((1, 1), dtype=torch.int32, device=device)), [block])
