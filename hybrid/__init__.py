"""Hybrid models of electrified interfaces: potentials, ASE calculator, structures, runs and analysis."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grahame.hybrid.calculator import HybridCalculator
    from grahame.hybrid.conditions import Ramp, voltammogram
    from grahame.hybrid.config import RunConfig, load_config, parse_config
    from grahame.hybrid.potential import HybridPotential, HybridResult

# Imported on first use: `import grahame.hybrid` must not wait for torch, ASE and numba.
_HOMES = {
    "HybridCalculator": "calculator",
    "HybridPotential": "potential",
    "HybridResult": "potential",
    "Ramp": "conditions",
    "RunConfig": "config",
    "load_config": "config",
    "parse_config": "config",
    "voltammogram": "conditions",
}

__all__ = [
    "HybridCalculator",
    "HybridPotential",
    "HybridResult",
    "Ramp",
    "RunConfig",
    "load_config",
    "parse_config",
    "voltammogram",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
