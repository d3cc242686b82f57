"""A trained NequIP or Allegro model as a trunk, with the scalar features its energies are read from.

Sources: Batzner et al., Nat. Commun. 13, 2453 (2022); Musaelian et al., Nat. Commun. 14, 579 (2023). Needs the extra
`nequip`, for Allegro models its package as well.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from ase.data import atomic_numbers
from torch import Tensor

from grahame.hybrid.adapters.optional import require
from grahame.hybrid.adapters.trunk import TrunkOutput, edges_within, fingerprint, freeze, species_index
from grahame.hybrid.graph import PBC, Graph
from grahame.hybrid.shortrange.radial import envelope


@contextmanager
def _precision() -> Iterator[None]:
    """NequIP builds and runs its models with double precision as the default; elsewhere it stays what it was."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _random_numbers_kept() -> Iterator[None]:
    """NequIP seeds every random number generator of the process; they go on as if it had not."""
    numbers, python = torch.get_rng_state(), random.getstate()
    others = np.random.get_state()  # noqa: NPY002 - the generator that NequIP seeds
    try:
        yield
    finally:
        torch.set_rng_state(numbers)
        random.setstate(python)
        np.random.set_state(others)  # noqa: NPY002


class NequIPTrunk:
    """Energies and invariant features of a model of the NequIP framework.

    Args:
        model: a `GraphModel`, in eager mode; its weights are frozen and it computes no derivatives of its own.
        elements: chemical symbol of each of its type names; those not named are symbols themselves.
        source: where it comes from, for the logs.
    Raises:
        ValueError: for other models, and type names that are no symbols.
    """

    def __init__(
        self, model: torch.nn.Module, elements: Mapping[str, str] | None = None, source: str = ""
    ) -> None:
        metadata = getattr(model, "metadata", None)
        if not isinstance(metadata, Mapping) or "r_max" not in metadata or "type_names" not in metadata:
            raise ValueError(
                f"model = {type(model).__name__} must be a GraphModel of NequIP: load it with NequIPTrunk.load"
            )
        derivatives = [m for m in model.modules() if hasattr(m, "do_derivatives")]
        if not derivatives:
            raise ValueError(
                "model = without derivatives of its own must be an energy model in eager mode: compiled files cannot be "
                "differentiated again, load the checkpoint or package"
            )
        for module in derivatives:
            # Its own derivatives would end where ours must go on.
            module.do_derivatives = False  # type: ignore[assignment]
        freeze(model)
        self.model = cast(Any, model)
        self.source = source
        self.cutoff = float(metadata["r_max"])
        self.identity = fingerprint(model.state_dict())
        names = str(metadata["type_names"]).split()
        symbols = [(elements or {}).get(name, name) for name in names]
        for name, symbol in zip(names, symbols):
            if symbol not in atomic_numbers:
                raise ValueError(
                    f"type name = {name} must be a chemical symbol: say which with elements={{'{name}': symbol}}"
                )
        self._numbers = [int(atomic_numbers[s]) for s in symbols]
        irreps = self.model.irreps_out
        # Allegro's node features are tensors on their way; its scalars stand on edges.
        self.kind = "allegro" if "edge_energy" in irreps else "nequip"
        key = "edge_features" if self.kind == "allegro" else "node_features"
        shape = irreps.get(key)
        scalar = shape is not None and all(part.ir.l == 0 and part.ir.p == 1 for part in shape)
        self._key = key if scalar else None
        self.features = int(shape.dim) if scalar else 0

    @classmethod
    def load(
        cls, path: str | Path, elements: Mapping[str, str] | None = None, *, allow_pickle: bool = False
    ) -> NequIPTrunk:
        """Read a checkpoint (`.ckpt`) or package (`.nequip.zip`).

        NequIP's other entry points expect torch's default precision to be float64 from then on; this one leaves it
        as it was, and sets it only while its models run.

        Args:
            path, elements: as above.
            allow_pickle: both can run any code when read: only True, and only for files you trust, reads them.
        Raises:
            ImportError: without NequIP. FileNotFoundError: without the file. ValueError: without `allow_pickle`.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"model = {path} must be an existing file: check the path")
        if not allow_pickle:
            raise ValueError(
                f"model = {path} must be trusted before it is read, since a NequIP file can run any code: give "
                "allow_pickle=True if you trust it"
            )
        module = require("nequip.model", "nequip")
        package = path.name.endswith(".nequip.zip")
        loader = module.ModelFromPackage if package else module.ModelFromCheckpoint
        state = require("nequip.utils.global_state", "nequip")
        with _random_numbers_kept(), _precision():
            state.set_global_state()
            loaded: Any = loader(str(path.resolve()), compile_mode="eager")
        # A training module may hold several models by name; the evaluation model of one is `sole_model`.
        if isinstance(loaded, torch.nn.ModuleDict):
            loaded = next(iter(loaded.values()))
        return cls(loaded, elements, str(path))

    def __call__(self, graph: Graph, numbers: Tensor, pbc: Sequence[PBC]) -> TrunkOutput:
        """Energies and features of a batch."""
        species = species_index(numbers, self._numbers, "the NequIP model")
        edges = edges_within(graph, self.cutoff)
        data = {
            "pos": graph.positions,
            "cell": graph.cells,
            "edge_index": torch.stack([edges.center, edges.neighbor]),
            "edge_cell_shift": edges.images,
            "edge_vectors": edges.vectors,
            "atom_types": species,
            "batch": graph.frame,
            "num_atoms": torch.bincount(graph.frame, minlength=graph.frames),
        }
        with _precision():
            out = self.model(data)
        energy = out["total_energy"].reshape(-1).to(torch.float64)
        if self._key is None:
            return TrunkOutput(energy)
        features = out[self._key]
        if self.kind == "allegro":
            r = torch.linalg.vector_norm(edges.vectors, dim=1, keepdim=True)
            weighted = features.to(torch.float64) * envelope(r / self.cutoff)
            features = weighted.new_zeros((len(numbers), weighted.shape[1])).index_add(
                0, edges.center, weighted
            )
        return TrunkOutput(energy, features)

    def describe(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "kind": self.kind,
            "source": self.source,
            "identity": self.identity,
            "cutoff": self.cutoff,
            "dtype": str(self.model.metadata.get("model_dtype", "")),
            "elements": self._numbers,
        }
