"""A model of another program as a configuration file names it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from ase import Atoms

from grahame.electrostatics import Coulomb
from grahame.hybrid.adapters.charges import ChargeSource, FixedCharges, ModelCharges
from grahame.hybrid.adapters.counting import LabelEnsemble, Switched
from grahame.hybrid.adapters.foreign import ForeignShortRange
from grahame.hybrid.adapters.heads_file import load_heads
from grahame.hybrid.adapters.trunk import Trunk
from grahame.hybrid.config_short_range import ForeignConfig
from grahame.hybrid.frames import Conditions

__all__ = ["open_foreign"]


def open_foreign(
    config: ForeignConfig,
    path: Callable[[str], Path],
    atoms: Atoms,
    accuracy: float,
    total_charge: float = 0.0,
    solver: Mapping[str, Any] = MappingProxyType({}),
    coulomb_constant: float | None = None,
) -> ForeignShortRange:
    """The short range of a `program:` block.

    Args:
        config: the block.
        path: from a name in the file to a path.
        atoms: the structure, whose cell gives the direction of the labels' field.
        accuracy: of the labels' Coulomb operator.
        total_charge: of the cell, e.
        solver: smearing, hardness, ... of the run's electrodes, as `ConstantPotential` takes them: the labels' ensemble
            has the same.
        coulomb_constant: k of the run, eV Å/e²; None for the usual one.
    Raises:
        ImportError: without the program. FileNotFoundError: without a file.
        ValueError: for files that are not trusted, for Coulomb energy that would count twice, and for electrodes that
            would differ between the run and the labels.
    """
    charges: ChargeSource | None = None
    if config.heads is not None:
        charges = load_heads(path(config.heads))
    elif config.charges == "formal":
        charges = FixedCharges.formal(config.widths)
    elif config.charges == "model":
        charges = ModelCharges(total_charge, config.widths)
    elif not isinstance(config.charges, str):
        charges = FixedCharges(config.charges, config.widths)
    removed: Switched | LabelEnsemble | None = None
    if config.switch is not None:
        removed = Switched(*config.switch)
    elif config.labels is not None:
        labels = config.labels
        normal = np.cross(atoms.cell[0], atoms.cell[1])
        field = None if labels.field is None else labels.field * normal / np.linalg.norm(normal)
        coulomb = Coulomb(labels.boundary, accuracy=accuracy, coulomb_constant=coulomb_constant)
        removed = LabelEnsemble(
            coulomb,
            labels.total_charge,
            field=field,
            displacement=labels.displacement,
            **_same_electrodes(solver),
        )
    return ForeignShortRange(
        _trunk(config, path),
        charges,
        contains_coulomb=config.contains_coulomb,
        removed=removed,
        conditions=Conditions(total_charge=total_charge),
    )


def _same_electrodes(solver: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the run's solver for the one group of the labels.

    Raises:
        ValueError: for a width beside that of the charges, and values per electrode.
    """
    options = {k: v for k, v in solver.items() if v is not None}
    if "smearing" in options:
        raise ValueError(
            f"solver.smearing = {options['smearing']} Å must be left out with short_range.labels: give short_range.widths, "
            "which the run and the labels then share"
        )
    for name, value in options.items():
        if isinstance(value, tuple):
            raise ValueError(
                f"solver.{name} = {value} must be one value with short_range.labels: there all metal is one group"
            )
    return options


def _trunk(config: ForeignConfig, path: Callable[[str], Path]) -> Trunk:
    file = path(config.model)
    if not config.trust:
        raise ValueError(
            f"short_range.trust = false must be true to read {file}, since a {config.program} file can run any code: "
            "set it if you trust the file"
        )
    if config.program == "mace":
        from grahame.hybrid.adapters.mace import MACETrunk

        return MACETrunk.load(file, config.head, allow_pickle=True)
    if config.program == "metatomic":
        from grahame.hybrid.adapters.metatomic import MetatomicTrunk

        extensions = None if config.extensions is None else path(config.extensions)
        return MetatomicTrunk.load(file, extensions, trust=True)
    from grahame.hybrid.adapters.nequip import NequIPTrunk

    return NequIPTrunk.load(file, allow_pickle=True)
