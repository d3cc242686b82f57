"""Instructions of the kernels per pair, atom and wave, printed as JSON: `python -m tests.kernels.count_instructions`.

Each is the difference of two systems, so that what a call costs whatever its size is left out.
"""

import json
import math
import os

import numpy as np
import torch

from examples.benchmarks.speed import calls
from examples.benchmarks.speed.limits import sizes_of
from examples.benchmarks.speed.systems import water
from grahame.kernels.cpu_neighbors import half_rows
from grahame.kernels.cpu_pairs import PairSum
from grahame.kernels.pair_rows import PairRows
from grahame.kernels.structure_factor import half_space_kvectors
from tests.kernels.steps import instructions

ORDER = 6
OPEN = (False, False, False)
CUTOFF = 8.0  # Å


def periodic(side: int, points: int) -> tuple[dict[str, calls.Call], dict[str, int]]:
    """Calls of the sums over a box of water, and how often each does its work."""
    box = water(side)
    # The same waves for both: those of one box.
    waves = half_space_kvectors(torch.from_numpy(water(2).cell), 3.0).numpy()
    sums = calls.Sums(0.5, 3.0, 0.5, (points, points, points), ORDER, waves)
    sizes = sizes_of(box, sums)
    held = calls.recorded(lambda: calls.evaluate(box, sums))
    work = {
        "cpu_splines.spread": sizes.n,
        "cpu_splines.gradient": sizes.n,
        "cpu_mesh._weigh_lines": sizes.half,
        "cpu_structure_factor._sum_atoms": sizes.n * sizes.waves,
    }
    return held, work


def cluster(side: int) -> tuple[dict[str, calls.Call], dict[str, int]]:
    """Calls of the search and of the pair sum among atoms without images, where few pairs are many, and how many."""
    box = water(side)
    x, q, points = box.positions, box.charges, np.zeros(len(box.charges))

    def pairs() -> PairRows:
        rows = half_rows(x, np.zeros((3, 3)), OPEN, CUTOFF)
        PairSum(x, q, box.cell, points, rows, 0.5, CUTOFF, True)(True, True)
        return rows

    listed = pairs().pairs
    return calls.recorded(pairs), {"cpu_neighbors._search": listed, "cpu_pairs._chunk": listed}


def main() -> None:
    """Count and print."""
    torch.set_num_threads(1)
    # Steps are fastest where nobody has to change the processor.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    found = {}
    for systems in ((periodic(1, 8), periodic(2, 10)), (cluster(2), cluster(3))):
        ready, work = [], []
        for held, amounts in systems:
            for name in amounts:
                call = held[name].fresh()
                call()
                ready.append(call)
            work.append(amounts)
        counts = np.array(instructions(ready)).reshape(2, -1)
        for name, few, many in zip(work[0], *counts.tolist()):
            found[name] = (many - few) / (work[1][name] - work[0][name])
    assert all(map(math.isfinite, found.values()))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
