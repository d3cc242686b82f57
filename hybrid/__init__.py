"""Hybrid models of electrified interfaces: potentials, ASE calculator, structures, runs and analysis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grahame.hybrid.lazy import lazy

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


__getattr__ = lazy(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
