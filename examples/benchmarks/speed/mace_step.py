"""Energy and forces of MACE for the cell of part "hybrid", in an environment of its own: run there, not imported.

    python mace_step.py CELL.npz STEPS ROUNDS

32 scalars and 32 vectors, l <= 2, correlation 2, cut-off 5 Å, float32, random weights: speed only. Its neighbours are
found once and kept, as ours are between steps. Prints milliseconds per step, of one layer and of two, in turns.
"""

import json
import sys
import time

import numpy as np
import torch
from e3nn import o3
from mace import data, modules, tools


def model(layers: int, numbers: list[int], neighbors: float) -> torch.nn.Module:
    """MACE with random weights."""
    torch.manual_seed(0)
    found: torch.nn.Module = modules.ScaleShiftMACE(
        r_max=5.0,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=2,
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
        num_interactions=layers,
        num_elements=len(numbers),
        hidden_irreps=o3.Irreps("32x0e + 32x1o"),
        MLP_irreps=o3.Irreps("16x0e"),
        gate=torch.nn.functional.silu,
        atomic_energies=np.zeros(len(numbers)),
        avg_num_neighbors=neighbors,
        atomic_numbers=numbers,
        correlation=2,
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    for parameter in found.parameters():
        parameter.requires_grad_(False)
    return found


def main() -> None:
    """Measure and print."""
    file, steps, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_default_dtype(torch.float32)
    cell = np.load(file)
    numbers = sorted({int(z) for z in cell["numbers"]})
    configuration = data.Configuration(
        atomic_numbers=cell["numbers"],
        positions=cell["positions"],
        cell=cell["cell"],
        pbc=tuple(bool(p) for p in cell["pbc"]),
        properties={},
        property_weights={},
    )
    graph = data.AtomicData.from_config(configuration, z_table=tools.AtomicNumberTable(numbers), cutoff=5.0)
    batch = next(iter(tools.torch_geometric.dataloader.DataLoader([graph], batch_size=1))).to_dict()
    neighbors = batch["edge_index"].shape[1] / len(cell["numbers"])
    models = {str(layers): model(layers, numbers, neighbors) for layers in (1, 2)}
    found: dict[str, list[float]] = {name: [] for name in models}
    for one in models.values():
        one(batch, compute_force=True)
    for _ in range(rounds):
        for name, one in models.items():
            begin = time.perf_counter()
            for _ in range(steps):
                one(batch, compute_force=True)
            found[name].append(1e3 * (time.perf_counter() - begin) / steps)
    print(json.dumps({"threads": torch.get_num_threads(), "torch": torch.__version__, "ms": found}))


if __name__ == "__main__":
    main()
