"""Any metatomic model as a trunk: its energy, and its features and charges where it has such outputs.

Needs the extra `metatomic`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from grahame.hybrid.adapters.optional import require
from grahame.hybrid.adapters.trunk import TrunkOutput, fingerprint, freeze
from grahame.hybrid.graph import PBC, Graph, make_graph
from grahame.kernels.neighbors import Pairs

_NAMES = {"features": ("feature", "features"), "charges": ("charge", "charges")}


class MetatomicTrunk:
    """Energies, features and charges of a metatomic `AtomisticModel`.

    Args:
        model: an `AtomisticModel`; its weights are frozen.
        energy: name of the energy output; features, charges: names of per-atom outputs, "auto" for the standard
            ones where the model has them, None for none.
        source: where it comes from, for the logs.
    Raises:
        ImportError: without metatomic. ValueError: for outputs the model does not have, and models that need inputs
        other than atoms, a cell and neighbours.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        energy: str = "energy",
        features: str | None = "auto",
        charges: str | None = "auto",
        source: str = "",
    ) -> None:
        self._metatomic: Any = require("metatomic.torch", "metatomic")
        self._metatensor: Any = require("metatensor.torch", "metatomic")
        self.model = cast(Any, model)
        self.source = source
        capabilities = self.model.capabilities()
        have = list(capabilities.outputs)
        self._outputs: dict[str, str] = {}
        for kind, wish in (("energy", energy), ("features", features), ("charges", charges)):
            if wish == "auto":
                found = [name for name in _NAMES[kind] if name in have]
                wish = found[0] if found else None
            if wish is None:
                continue
            if wish not in have:
                raise ValueError(
                    f"{kind} = {wish} must be an output of the model ({', '.join(have)}): name one of these"
                )
            self._outputs[kind] = wish
        if self.model.requested_inputs(use_new_names=True):
            inputs = ", ".join(self.model.requested_inputs(use_new_names=True))
            raise ValueError(
                f"inputs = {inputs} must not be needed by the model: atoms, a cell and neighbours are all there is"
            )
        freeze(model)
        self.dtype = torch.float64 if capabilities.dtype == "float64" else torch.float32
        self._lists = list(self.model.requested_neighbor_lists())
        self.cutoff = max((float(o.engine_cutoff("angstrom")) for o in self._lists), default=0.0)
        self.identity = fingerprint(self.model.state_dict())
        self.features = 0
        if "features" in self._outputs:
            self.features = self._count_features(list(capabilities.atomic_types))

    @classmethod
    def load(
        cls, path: str | Path, extensions: str | Path | None = None, *, trust: bool = False, **names: Any
    ) -> MetatomicTrunk:
        """Read an exported model (`.pt`).

        Args:
            path: TorchScript, as `AtomisticModel.save` writes it; extensions: folder with the extensions it needs.
            trust: exported models are programs, and extensions are libraries that run when loaded: only True reads
                them.
            names: of outputs, as above.
        Raises:
            ImportError: without metatomic. FileNotFoundError: without the file. ValueError: without `trust`.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"model = {path} must be an existing file: check the path")
        if not trust:
            raise ValueError(
                f"model = {path} must be trusted before it is read, since an exported model is a program: give trust=True "
                "if you trust it"
            )
        module = require("metatomic.torch", "metatomic")
        folder = None if extensions is None else str(extensions)
        return cls(module.load_atomistic_model(str(path), folder), source=str(path), **names)

    def _count_features(self, types: list[int]) -> int:
        """One lone atom says how many features there are."""
        species, none = np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.int32)
        pairs = Pairs(none, none, none.reshape(0, 3))
        graph = make_graph(np.zeros((1, 3)), None, (False, False, False), species, self.cutoff, pairs=pairs)
        found = self(graph, torch.tensor([types[0]]), [(False, False, False)]).features
        assert found is not None
        return int(found.shape[1])

    def __call__(self, graph: Graph, numbers: Tensor, pbc: Sequence[PBC]) -> TrunkOutput:
        """Energies, features and charges of a batch."""
        m = self._metatomic
        systems = [self._system(graph, numbers, k, pbc[k]) for k in range(graph.frames)]
        wanted = {
            name: m.ModelOutput(
                unit={"energy": "eV", "charges": "e"}.get(kind, ""),
                sample_kind="system" if kind == "energy" else "atom",
            )
            for kind, name in self._outputs.items()
        }
        options = m.ModelEvaluationOptions(length_unit="angstrom", outputs=wanted)
        out = self.model(systems, options, check_consistency=False)
        counts = torch.bincount(graph.frame, minlength=graph.frames)
        firsts = torch.cat([counts.new_zeros(1), counts.cumsum(0)[:-1]])

        def per_atom(kind: str) -> Tensor | None:
            if kind not in self._outputs:
                return None
            block = out[self._outputs[kind]].block()
            samples = block.samples.values.to(torch.long)
            values = block.values.reshape(len(samples), -1)
            rows = firsts[samples[:, 0]] + samples[:, 1]
            found: Tensor = values.new_zeros((len(numbers), values.shape[1])).index_add(0, rows, values)
            return found

        energy = out[self._outputs["energy"]].block().values[:, 0].to(torch.float64)
        charges = per_atom("charges")
        return TrunkOutput(
            energy,
            features=per_atom("features"),
            charges=None if charges is None else charges[:, 0].to(torch.float64),
        )

    def _system(self, graph: Graph, numbers: Tensor, frame: int, pbc: PBC) -> Any:
        """One frame with the neighbours the model asks for."""
        mine = graph.frame == frame
        first = int(torch.argmax(mine.to(torch.int)))
        repeats = torch.tensor(pbc)
        system = self._metatomic.System(
            numbers[mine].to(torch.int32),
            graph.positions[mine].to(self.dtype),
            # Directions that do not repeat have no cell vector there.
            (graph.cells[frame] * repeats[:, None]).to(self.dtype),
            repeats,
        )
        inside = (graph.frame[graph.pairs[:, 0]] == frame).nonzero()[:, 0]
        pairs, images = graph.pairs[inside] - first, graph.pair_images[inside]
        vectors = graph.pair_vectors()[inside]
        distances = torch.linalg.vector_norm(vectors.detach(), dim=1)
        for options in self._lists:
            near = (distances < float(options.engine_cutoff("angstrom"))).nonzero()[:, 0]
            p, s, d = pairs[near], images[near], vectors[near]
            if options.full_list:
                p, s, d = torch.cat([p, p.flip(1)]), torch.cat([s, -s]), torch.cat([d, -d])
            system.add_neighbor_list(options, self._block(p, s, d))
        return system

    def _block(self, pairs: Tensor, images: Tensor, vectors: Tensor) -> Any:
        """A neighbour list as metatomic takes it; the vectors keep their graph."""
        t = self._metatensor
        names = ["first_atom", "second_atom", "cell_shift_a", "cell_shift_b", "cell_shift_c"]
        return t.TensorBlock(
            values=vectors.to(self.dtype)[:, :, None],
            samples=t.Labels(names, torch.cat([pairs, images.to(pairs.dtype)], dim=1).to(torch.int32)),
            components=[t.Labels(["xyz"], torch.arange(3, dtype=torch.int32)[:, None])],
            properties=t.Labels(["distance"], torch.zeros((1, 1), dtype=torch.int32)),
        )

    def describe(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "kind": "metatomic",
            "source": self.source,
            "name": str(self.model.metadata().name),
            "identity": self.identity,
            "outputs": self._outputs,
            "cutoff": self.cutoff,
            "dtype": str(self.dtype).removeprefix("torch."),
        }
