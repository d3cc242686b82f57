"""Record of how numbers came about: versions, configuration, structure, parameters, seeds."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from grahame.hybrid.config import RunConfig
from grahame.hybrid.engines.setup import Simulation

_PACKAGES = ("grahame", "numpy", "scipy", "torch", "numba", "ase", "vesin")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def provenance(config: RunConfig, simulation: Simulation) -> dict[str, Any]:
    """Everything needed to do the run again, ready for JSON; no host or user names."""
    start, calculator = simulation.start, simulation.calculator
    path = config.structure_path
    potential = calculator.potential
    return {
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in _PACKAGES},
        "platform": {
            "system": platform.system(),
            "machine": platform.machine(),
            "torch_threads": torch.get_num_threads(),
        },
        "config": json.loads(config.model_dump_json()),
        "structure": {
            "formula": start.get_chemical_formula(),
            "atoms": len(start),
            "cell_A": [[float(x) for x in row] for row in start.cell],
            "pbc": [bool(p) for p in start.pbc],
            "sha256": None if path is None else hashlib.sha256(path.read_bytes()).hexdigest(),
        },
        "electrodes": [{"atoms": len(e.indices)} for e in potential.electrodes],
        "short_range": potential.short_range.describe(),
        "energy_at_start_eV": float(calculator.results["energy"]),
    }
