"""One result whether a kernel was compiled in this process or read back from numba's cache."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from numba.core.dispatcher import Dispatcher

from grahame.kernels import cpu_density, cpu_molecules

ROOT = Path(__file__).parents[2]
KERNELS = [
    "grahame.kernels.cpu_density",
    "grahame.kernels.cpu_lennard_jones",
    "grahame.kernels.cpu_mesh",
    "grahame.kernels.cpu_molecules",
    "grahame.kernels.cpu_neighbors",
    "grahame.kernels.cpu_pair_matrix",
    "grahame.kernels.cpu_pairs",
    "grahame.kernels.cpu_splines",
    "grahame.kernels.cpu_structure_factor",
    "grahame.kernels.neighbors",
    "grahame.kernels.pair_rows",
]
# They handle indices only, and integers do not round.
INDICES_ONLY = {"_longer"}

SCRIPT = """
import sys
import numpy as np
from grahame.hybrid.shortrange import bonded
from grahame.hybrid.shortrange.lennard_jones import lennard_jones, make_switch
from grahame.kernels import cpu_density, cpu_lennard_jones, cpu_mesh, cpu_molecules, cpu_neighbors, cpu_pair_matrix, cpu_pairs, cpu_structure_factor, pair_rows

rng = np.random.default_rng(1)
n, wrap = 600, (True, True, True)
cell = np.array([[18.0, 0, 0], [3.0, 19, 0], [1.0, 2, 20]])
x, q, s = rng.random((n, 3)) @ cell, rng.normal(size=n), np.where(rng.random(n) < 0.5, 0.0, 0.4)
pairs = cpu_neighbors.half_rows(x, cell, wrap, 7.0, 1.1)
i, j, shifts = pairs.triples()
found = [i, j, shifts, pairs.near]
d = cpu_pairs.PairSum(x, q, cell, s, pairs, 0.35, 7.0, True, widths=True)(True, True)
found += [d.energy, d.positions, d.charges, d.cell, d.smearing]
found += [cpu_pair_matrix.PairMatrix(x, cell, s, i, j, shifts, 0.35, 7.0, True)(q)]
steps = np.arange(-4, 5)
m = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)[365:].copy()
for waves in (cpu_structure_factor.WaveSum(x, cell, 0.35, m), cpu_mesh.MeshSum(x, cell, 0.35, (24, 25, 27), 6)):
    d = waves(q, True, True, True)
    found += [d.energy, d.positions, d.charges, d.cell, waves(q, False, True, False).charges]
around = pair_rows.full_rows(n, i, j, shifts)
sums = cpu_density.Densities(around, np.zeros(n, np.int64), np.arange(n) % 3, 3, 7.0, 5, 3)
density, changed = np.empty(sums.shape), np.empty(sums.shape)
sums.density(x, cell[None], density)
sums.push(x, cell[None], x, cell[None], changed)
found += [around.j, around.shifts, density, changed, *sums.pull(x, cell[None], density)]
rows = cpu_lennard_jones.sorted_rows(n, i.astype(np.int64), j.astype(np.int64), shifts.astype(np.int64))
types = np.arange(n) % 2
found += lennard_jones(x, cell, rows, types, np.full((2, 2), 1e4), np.full((2, 2), 30.0), make_switch(7.0, None, "force-switch"), True)
triples = np.arange(n).reshape(-1, 3)
bonds, ones = triples[:, :2].copy(), np.ones(n // 3)
found += bonded.bonded_terms(x, cell, wrap, bonds, 40 * ones, ones, triples, 3 * ones, 1.9 * ones)
old = np.tile([[1.0, 0.0, 0.0], [-1 / 3, 0.94, 0.0], [-4 / 3, 0.94, 0.0]], (n // 3, 1, 1))
new, lengths, masses = old + 0.05 * rng.normal(size=old.shape), np.tile([1.0, 1.0, 1.63], (n // 3, 1)), np.tile([16.0, 1, 1], n // 3)
moved, momenta = x.copy(), rng.normal(size=(n, 3))
cpu_molecules.shake(moved, triples, old, new, lengths, masses, 1e-3, 50)
cpu_molecules.rattle(momenta, triples, old, masses)
found += [moved, momenta]
sys.stdout.buffer.write(b"".join(np.ascontiguousarray(a).tobytes() for a in found))
"""


def test_kernels_are_compiled_once_and_cached_ones_give_the_same_bytes(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    bytes_, files = [], []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], cwd=ROOT, env=environment, check=True, capture_output=True
        )
        bytes_.append(done.stdout)
        files.append({path.name for path in tmp_path.rglob("*.nbc")})
    assert len(bytes_[0]) > 100_000
    assert bytes_[0] == bytes_[1]
    assert files[0]
    assert files[0] == files[1]


@pytest.mark.parametrize("module", KERNELS)
def test_functions_that_a_cached_kernel_calls_are_inlined(module: str) -> None:
    functions = vars(importlib.import_module(module))
    cached = [f for f in functions.values() if isinstance(f, Dispatcher) and f.__module__ == module]
    for kernel in cached:
        for name in kernel.py_func.__code__.co_names:
            called = kernel.py_func.__globals__.get(name)
            if isinstance(called, Dispatcher) and name not in INDICES_ONLY:
                options = called.targetoptions
                assert options.get("forceinline") or options.get("inline") == "always", f"{kernel}: {name}"


def test_the_check_of_inlining_sees_the_functions() -> None:
    for function in (cpu_density._near, cpu_molecules._solve):
        assert isinstance(function, Dispatcher)
        assert function.targetoptions["forceinline"]
