"""Record of how numbers came about: versions, configuration, structure, parameters, seeds."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols

from grahame.hybrid.config import RunConfig
from grahame.hybrid.engines.setup import Simulation
from grahame.hybrid.shortrange.base import SeesElectrodes
from grahame.hybrid.shortrange.learned import LearnedShortRange

_PACKAGES = ("grahame", "numpy", "scipy", "torch", "numba", "ase", "vesin")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def provenance(config: RunConfig, simulation: Simulation) -> dict[str, Any]:
    """Everything needed to do the run again, ready for JSON; no host or user names."""
    start, calculator = simulation.start, simulation.calculator
    path = config.structure_path
    potential = calculator.potential
    short_range = potential.short_range.describe()
    if config.model_path is not None:
        short_range["sha256"] = file_hash(config.model_path)
    short = potential.short_range
    if isinstance(short, SeesElectrodes):
        numbers = (
            short.model.spec.numbers if isinstance(short, LearnedShortRange) else np.unique(start.numbers)
        )
        widths = short.widths(numbers).tolist()
        short_range["widths_A"] = {chemical_symbols[z]: w for z, w in zip(numbers.tolist(), widths)}
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
            "sha256": None if path is None else file_hash(path),
        },
        "electrodes": [{"atoms": len(e.indices)} for e in potential.electrodes],
        "short_range": short_range,
        "energy_at_start_eV": float(calculator.results["energy"]),
    }
