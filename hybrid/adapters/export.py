"""The local part of our own model as a metatomic model: energies, charges and features for any metatomic engine.

The long range is not part of it: the energy is E_SR (less what a `switched` model removes), and an engine that adds
the Coulomb energy of the charges, with the Gaussian widths named in the description, has the whole model at fixed
electrode charges. Learned electronegativities and hardness of electrode atoms stay in the model's own file.

The network is traced, since it is written for speed in ways TorchScript does not parse; what depends on the number
of atoms and pairs in control flow is written again in TorchScript (`metatomic_module`). `export_metatomic` compares
both on structures of other sizes than the traced one before anything is written.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor, nn

from grahame.electrostatics.units import COULOMB_CONSTANT
from grahame.hybrid.adapters.metatomic import MetatomicTrunk
from grahame.hybrid.adapters.optional import require
from grahame.hybrid.coupling import removed_pairs
from grahame.hybrid.graph import Graph, make_graph
from grahame.hybrid.heads import TransferCharges
from grahame.hybrid.model import HybridModel

_AGREE = {torch.float64: 1e-9, torch.float32: 1e-4}


def export_metatomic(
    model: HybridModel,
    path: str | Path,
    *,
    level: str | None = None,
    electrodes: Sequence[str] = (),
    name: str = "hybrid model, local part",
) -> Path:
    """Write the local part of a model as a metatomic file.

    Args:
        model: with charges by transfer, or without any.
        path: ending in .pt.
        level: level of theory; None takes the first.
        electrodes: elements whose charges a solver owns; they exchange no charge and get none. An engine that does
            not know electrodes cannot say which atoms these are, so it goes by element.
        name: in the metadata.
    Raises:
        ImportError: without metatomic.
        ValueError: for projected or solved charges, which no local output can hold, atomic dipoles, a charge network of its
            own, energies counted from rest, and unknown electrodes.
        RuntimeError: if the exported model does not give the numbers of the original.
    """
    spec = model.spec
    if spec.charges.dipoles:
        raise ValueError(
            f"dipoles = {', '.join(spec.charges.dipoles)} must be none to be exported: an engine would add the Coulomb energy "
            "of the charges alone"
        )
    if spec.charges.own_network:
        raise ValueError(
            "own_network = true must be false to be exported: an engine is given one network; train charges on the features of the "
            "energy"
        )
    if spec.charges.from_rest:
        raise ValueError(
            "from_rest = true must be false to be exported: an engine is not given chi and J, whose energy at rest is counted"
        )
    require("metatomic.torch", "metatomic")
    if spec.charges.kind not in ("transfer", "none"):
        raise ValueError(
            f"charges = {spec.charges.kind} must be transfer or none to be exported: the others depend on all atoms of "
            "a system, which an engine may not show to the model"
        )
    unknown = [e for e in electrodes if e not in spec.elements]
    if unknown:
        raise ValueError(
            f"electrodes = {', '.join(unknown)} must be elements of the model ({', '.join(spec.elements)}): correct the "
            "symbols"
        )
    # A copy on the processor and without compiled parts, which cannot be traced; the model stays as it is.
    copy = HybridModel(spec)
    copy.load_state_dict({k: v.cpu() for k, v in model.state_dict().items()})
    model = copy.eval()
    module = _module(model, model.level(level), electrodes)
    _save(model, module, Path(path), electrodes, name)
    _check(model, Path(path), level, electrodes)
    return Path(path)


class _Network(nn.Module):
    """What is traced: energies of atoms without the repulsion, and scalars."""

    def __init__(self, model: HybridModel, level: int) -> None:
        super().__init__()
        self.network, self.readout, self.shift = model.network, model.readout, model.shift
        self.level, self.scale = level, model.spec.scale
        self.register_buffer("references", model.references.clone())

    def forward(self, vectors: Tensor, species: Tensor, neighbors: Tensor) -> tuple[Tensor, Tensor]:
        scalars = self.network.of_vectors(neighbors, species, vectors).scalars
        atomic = (self.readout(scalars) + self.shift(species))[:, self.level]
        references = torch.as_tensor(self.references)[species, self.level]
        return self.scale * atomic.to(torch.float64) + references, scalars


class _Transfer(nn.Module):
    def __init__(self, head: TransferCharges) -> None:
        super().__init__()
        self.head = head

    def forward(self, scalars: Tensor, species: Tensor, pairs: Tensor, r: Tensor, solved: Tensor) -> Tensor:
        out: Tensor = self.head(scalars, species, pairs, solved, r)
        return out


def _traced(module: nn.Module, *example: Tensor) -> torch.nn.Module:
    with warnings.catch_warnings():
        # Sizes that are the same for all structures become constants, as they should.
        warnings.simplefilter("ignore")
        traced: torch.nn.Module = torch.jit.trace(module.eval(), example, check_trace=False)  # type: ignore[no-untyped-call]
    return traced


def _module(model: HybridModel, level: int, electrodes: Sequence[str]) -> nn.Module:
    from grahame.hybrid.adapters import metatomic_module as scripted

    spec, count = model.spec, len(model.spec.elements)
    cutoff = spec.architecture.cutoff
    graph = _example(model, 4 * count)
    r = torch.linalg.vector_norm(graph.pair_vectors(), dim=1)
    network = _traced(_Network(model, level), graph.vectors(), graph.species, graph.around.table.neighbors)
    scalars = model.network(graph).scalars.detach()
    transfer: nn.Module = scripted.NoTransfer()
    if isinstance(model.charge_head, TransferCharges):
        transfer = _traced(_Transfer(model.charge_head), scalars, graph.species, graph.pairs, r, graph.solved)
    repulsion: nn.Module = scripted.NoRepulsion()
    if model.repulsion is not None:
        repulsion = _traced(model.repulsion, r, graph.pairs, graph.species)
    table = torch.full((len(chemical_symbols),), -1, dtype=torch.long)
    table[torch.as_tensor(spec.numbers)] = torch.arange(count)
    module: nn.Module = scripted.LocalModule(
        network,
        transfer,
        repulsion,
        table,
        model.formal.clone(),
        torch.tensor([e in electrodes for e in spec.elements]),
        model.widths(torch.arange(count)).detach(),
        cutoff,
        [0.0, 0.0] if spec.switch is None else list(spec.switch),
        COULOMB_CONSTANT,
        isinstance(model.charge_head, TransferCharges),
    )
    return module.eval()


def _example(model: HybridModel, atoms: int, electrodes: Sequence[str] = (), seed: int = 0) -> Graph:
    """Random atoms of all elements, some of them close and some alone."""
    rng = np.random.default_rng(seed)
    spec = model.spec
    species = rng.permutation(np.arange(atoms) % len(spec.elements))
    edge = spec.architecture.cutoff * (atoms / 12.0) ** (1 / 3)
    solved = np.array([e in electrodes for e in spec.elements])[species]
    positions = rng.uniform(0.0, edge, size=(atoms, 3))
    return make_graph(
        positions, np.eye(3) * edge, (True, True, True), species, spec.architecture.cutoff, solved
    )


def _save(model: HybridModel, module: nn.Module, path: Path, electrodes: Sequence[str], name: str) -> None:
    m: Any = require("metatomic.torch", "metatomic")
    spec = model.spec
    outputs = {
        "energy": m.ModelOutput(unit="eV", sample_kind="atom", description="without the long range"),
        "feature": m.ModelOutput(sample_kind="atom", description="invariant scalars of the network"),
    }
    reach = spec.architecture.receptive_field
    if spec.long_range:
        outputs["charge"] = m.ModelOutput(unit="e", sample_kind="atom", description="of Gaussian width")
        # A transfer sees the surroundings of both its atoms.
        reach += spec.architecture.cutoff
    widths = model.widths(torch.arange(len(spec.elements))).tolist()
    text = "; ".join(
        [
            "energy without the long range",
            f"double counting: {spec.double_counting}",
            "Gaussian widths in Å: " + ", ".join(f"{e} {w:.6g}" for e, w in zip(spec.elements, widths)),
            "charges owned by a solver: " + (", ".join(electrodes) or "none"),
        ]
    )
    capabilities = m.ModelCapabilities(
        outputs=outputs,
        atomic_types=[int(z) for z in spec.numbers],
        interaction_range=reach,
        length_unit="angstrom",
        supported_devices=["cpu"],
        dtype=spec.dtype,
    )
    exported = m.AtomisticModel(module, m.ModelMetadata(name=name, description=text), capabilities)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        exported.save(str(path))


def _check(model: HybridModel, path: Path, level: str | None, electrodes: Sequence[str]) -> None:
    """Compare what was written with the model, on larger and smaller structures than the traced one."""
    trunk = MetatomicTrunk.load(path, trust=True)
    dtype = torch.float64 if model.spec.dtype == "float64" else torch.float32
    for atoms, seed in ((1, 1), (3 * len(model.spec.elements), 2), (9 * len(model.spec.elements), 3)):
        graph = _example(model, atoms, electrodes, seed)
        # Positions that both precisions can hold.
        graph = replace(graph, positions=graph.positions.to(dtype).to(torch.float64))
        ends = graph.pair_vectors()
        with torch.no_grad():
            ours = model.local(graph, torch.tensor([model.level(level)]), None, ends)
            energy = ours.energy
            if model.spec.switch is not None:
                r = torch.linalg.vector_norm(ends, dim=1)
                energy = energy - removed_pairs(graph, ours, r, *model.spec.switch)
            said = trunk(graph, torch.as_tensor(model.spec.numbers)[graph.species], [(True, True, True)])
        off = float((said.energy - energy).abs() / max(1.0, float(energy.abs())))
        if said.charges is not None:
            off = max(off, float((said.charges - ours.charges).abs().max()))
        if not off <= _AGREE[dtype]:
            path.unlink()
            raise RuntimeError(
                f"exported model = {off:.3g} away from the original must agree within {_AGREE[dtype]:g}: nothing was "
                "written; use the model's own file"
            )
