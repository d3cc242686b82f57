"""Kernels take no more instructions than they did: counted, not timed, so that a busy machine changes nothing."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from llvmlite import binding

ROOT = Path(__file__).parents[2]
# More than the processors of one width differ by (15 % at most), less than a loop that lost its vectors or a second pass
# over pairs or points costs.
MARGIN = 1.25
# By the vectors that the processor has: instructions for an atom, a wave of the mesh, an atom and a wave, and a pair
# among atoms without images. Print new ones: python -m tests.kernels.count_instructions
KNOWN = {
    "AVX-512": {
        "cpu_splines.spread": 949.0,
        "cpu_splines.gradient": 704.0,
        "cpu_mesh._weigh_lines": 24.4,
        "cpu_structure_factor._sum_atoms": 7.6,
        "cpu_neighbors._search": 19.8,
        "cpu_pairs._chunk": 136.4,
    },
    "AVX2": {
        "cpu_splines.spread": 997.0,
        "cpu_splines.gradient": 1322.0,
        "cpu_mesh._weigh_lines": 25.9,
        "cpu_structure_factor._sum_atoms": 8.4,
        "cpu_neighbors._search": 18.1,
        "cpu_pairs._chunk": 122.6,
    },
}


def vectors_of_this_processor() -> str:
    """A key of `KNOWN`, or what there is instead."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"{platform.machine()} on {sys.platform}"
    features = binding.get_host_cpu_features()
    if all(features.get(name) for name in ("avx512f", "avx512vl", "avx512dq", "avx512bw", "fma")):
        return "AVX-512"
    return "AVX2" if features.get("avx2") and features.get("fma") else "a processor without AVX2"


def counted(program: list[str]) -> dict[str, float]:
    """What a program prints; skips where processes must not be traced."""
    # One thread: the process forks.
    one = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMBA")}
    done = subprocess.run(
        [sys.executable, *program],
        cwd=ROOT,
        env={**os.environ, **one},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and "processes must not be traced here" in done.stderr:
        pytest.skip("processes must not be traced here: instructions cannot be counted")
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_kernels_take_no_more_instructions_than_they_did() -> None:
    width = vectors_of_this_processor()
    if width not in KNOWN:
        pytest.skip(f"no numbers of instructions are known for {width}")
    found = counted(["-m", "tests.kernels.count_instructions"])
    assert found.keys() == KNOWN[width].keys()
    more = {name: round(found[name] / known, 2) for name, known in KNOWN[width].items()}
    assert max(more.values()) < MARGIN, f"instructions relative to known ones: {more}"


SCRIPT = """
import json
import numba, numpy as np
from tests.kernels.steps import instructions

@numba.njit(fastmath={fastmath})
def total(a, passes):
    s = 0.0
    for p in range(passes):
        # A number of this pass: else one pass could serve all. No integers: AVX2 converts none of 64 bits.
        shift = 0.5 * p
        for k in range(len(a)):
            s += (a[k] + shift) * (a[k] + shift)
    return s

short, long = np.ones(1000), np.ones(3000)
total(short, 1)
once, more, twice = instructions([lambda: total(short, 1), lambda: total(long, 1), lambda: total(long, 2)])
print(json.dumps({{"a number": (more - once) / 2000, "a second pass": (twice - more) / 3000}}))
"""


def test_a_second_pass_and_the_loss_of_vectors_are_counted() -> None:
    if vectors_of_this_processor() not in KNOWN:
        pytest.skip(f"no processes are traced on {vectors_of_this_processor()}")
    fast, slow = (counted(["-c", SCRIPT.format(fastmath=f)]) for f in (True, False))
    for found in (fast, slow):
        assert found["a second pass"] == pytest.approx(found["a number"], rel=0.3)
    assert slow["a number"] > 2 * fast["a number"]
