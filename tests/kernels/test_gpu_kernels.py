"""The kernels for GPUs: run by Triton's interpreter, compiled without a GPU, and on a GPU where there is one.

The cases are in `gpu_cases`, which needs processes of its own: Triton decides when it is imported whether it interprets.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from grahame.kernels import dispatch, operators

ROOT = Path(__file__).parents[2]
CASES = Path(__file__).with_name("gpu_cases.py")
installed = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")

# Every call of a kernel as it is made, compiled but not launched: a stand-in says for which chip.
COMPILE = """
import re
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction
from grahame.kernels import dispatch, gpu_mesh, gpu_pairs

x = torch.rand((5, 3), dtype=torch.float64)
q, h, s = x[:, 0].contiguous(), torch.eye(3, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
with dispatch.backend("triton"):
    try:
        dispatch.mesh_energy(x, q, h, 0.5, (8, 8, 8), 4)
    except ValueError as error:
        print(error)

class Chip:
    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)
    def get_current_device(self):
        return 0
    def get_current_stream(self, device):
        return 0

launch = JITFunction.run
def compile_only(self, *arguments, grid, warmup, **options):
    ptx = launch(self, *arguments, grid=grid, warmup=True, **options).asm["ptx"]
    arithmetic = "(?:add|sub|mul|fma|div|rcp|sqrt|ex2)[.a-z0-9]*[.]f"
    counts = [len(re.findall(rf"\\b{arithmetic}{bits}", ptx)) for bits in (32, 64)]
    print(arguments[1].dtype, self.__name__, *counts, len(re.findall(r"\\b(?:atom|red)[.]global", ptx)))

driver.set_active(Chip())
JITFunction.run = compile_only
i, t = torch.zeros(7, dtype=torch.int32), torch.zeros((7, 3), dtype=torch.int32)
every = (0.5, 5.0, True, True, True, True)
gpu_pairs.half_list(x, q, h, s, i, i, t, *every)
gpu_pairs.grouped(x, q, h, s, gpu_pairs.group(5, i, i, t), *every)
gpu_mesh.mesh_sum(x, q, h, 0.5, (8, 8, 9), 4, True, True, True, False)
gpu_mesh.spread(x, q, h, (8, 8, 9), 4, True)
gpu_pairs.half_list(x.float(), q.float(), h.float(), s.float(), i, i, t, *every)
gpu_mesh.spread(x.float(), q.float(), h.float(), (8, 8, 9), 4, False)
"""


def run(command: list[str], environment: dict[str, str]) -> str:
    # The tests choose their backends themselves.
    inherited = {k: v for k, v in os.environ.items() if k not in ("GRAHAME_BACKEND", "TRITON_INTERPRET")}
    found = subprocess.run(
        command,
        cwd=ROOT,
        env={**inherited, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout[-20_000:] + found.stderr[-5_000:]
    return found.stdout


def run_cases(environment: dict[str, str]) -> str:
    return run(
        [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", str(CASES)],
        environment,
    )


@installed
def test_interpreted_kernels_equal_the_formulas() -> None:
    found = run_cases({"TRITON_INTERPRET": "1"})
    passed = re.search(r"(\d+) passed", found)
    assert passed is not None
    assert int(passed[1]) > 50
    assert "skipped" not in found


@installed
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is available")
def test_kernels_on_a_gpu_equal_the_formulas() -> None:
    assert re.search(r"(\d+) passed", run_cases({}))


@installed
def test_compiled_kernels_refuse_tensors_on_the_cpu_and_compute_in_the_precision_of_their_input(
    tmp_path: Path,
) -> None:
    """What the interpreter cannot show: numbers in double precision must not pass through single precision."""
    message, *lines = run([sys.executable, "-c", COMPILE], {"TRITON_CACHE_DIR": str(tmp_path)}).splitlines()
    assert message == (
        "backend = 'triton' must be given float64 or float32 tensors on one GPU, not torch.float64 on cpu: use 'auto', "
        "or set TRITON_INTERPRET=1 before the start to interpret the kernels on the CPU"
    )
    found = [line.split() for line in lines]
    assert [name for _, name, *_ in found] == [
        "_half_list", "_grouped", "_spread", "_weigh", "_gather", "_spread", "_half_list", "_spread"
    ]  # fmt: skip
    for dtype, name, single, double, atomics in found:
        assert (int(single) == 0) == (dtype == "torch.float64"), name
        # In single precision the energies are added in double precision.
        assert (int(double) == 0) == (dtype == "torch.float32" and name == "_spread"), name
        assert (int(atomics) > 0) == (name in ("_half_list", "_spread")), name


def test_triton_is_refused_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    missing: Callable[[str], None] = lambda name: None  # noqa: E731
    monkeypatch.setattr(operators, "find_spec", missing)
    message = "^backend = 'triton' must find the package triton: install it, or use 'auto'$"
    with pytest.raises(ValueError, match=message), dispatch.backend("triton"):
        pass
