"""Figures that others published for their GPUs: quoted, not measured here."""

from typing import Any

_NVIDIA = (
    "NVIDIA/nvalchemi-toolkit-ops, docs/benchmarks/benchmark_results/{file}, "
    "commit 354e0c22ad6280b07af4dca704689856c54f2c44 (version 0.4.0, torch 2.12.0, H100 80GB HBM3)"
)
_WORK = "PME energy, forces and charge gradients by autograd, neighbour list not included"

PUBLISHED: list[dict[str, Any]] = [
    {
        "kind": "published",
        "engine": "nvalchemi",
        "device": "H100",
        "system": "NH3",
        "atoms": 131_072,
        "target": 1e-6,
        "ms": 0.08347382536157964e-3 * 131_072,
        "memory_GB": 8.82,
        "work": _WORK,
        "source": _NVIDIA.format(file="el-nh3-system-size-scaling.csv"),
    },
    {
        "kind": "published",
        "engine": "nvalchemi",
        "device": "H100",
        "system": "CsCl",
        "atoms": 137_842,
        "target": 1e-6,
        "ms": 0.44150098772791035e-3 * 137_842,
        "memory_GB": 64.39,
        "work": _WORK,
        "source": _NVIDIA.format(file="el-cscl-system-size-scaling.csv"),
    },
]
"""`target` is the accuracy that its authors asked their parameter estimate for; the error was not published."""
