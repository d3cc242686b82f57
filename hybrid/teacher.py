"""The teacher: an exact constant-potential reference with polarisable water, for training and for tests.

Metal electrodes at potentials or charges, flexible SPC-FQ water (`shortrange.fluctuating`), Na+ and Cl- of
fixed charge, Lennard-Jones; charges of metal and water are solved together, so they answer to each other,
to the ions and to the potentials. A classical reference, not density functional theory.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms

from grahame.electrostatics import Coulomb, Electrode
from grahame.hybrid.calculator import HybridCalculator
from grahame.hybrid.shortrange.fluctuating import SPC_FQ, FluctuatingWater, FluctuatingWaterModel
from grahame.hybrid.shortrange.surroundings import SurroundingsModel
from grahame.hybrid.shortrange.topology import electrode_indices

METAL_WIDTH = 0.392
"""Å, Gaussian width of metal atoms; usual for gold."""


def metal_groups(atoms: Atoms) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
    """Atom indices of each electrode of `atoms.arrays["electrode"]`, numbered from 0 without gaps."""
    owner = electrode_indices(atoms, None)
    present = sorted(set(owner[owner >= 0].tolist()))
    if present != list(range(len(present))):
        raise ValueError(
            f'arrays["electrode"] = {present} must number the electrodes from 0 without gaps: renumber them'
        )
    return [np.flatnonzero(owner == g).astype(np.int64) for g in present]


def teacher_calculator(
    atoms: Atoms,
    potentials: Sequence[float] | None = None,
    charges: Sequence[float] | None = None,
    coulomb: Coulomb | None = None,
    *,
    field: float | Sequence[float] | None = None,
    displacement: float | None = None,
    total_charge: float = 0.0,
    model: FluctuatingWaterModel = SPC_FQ,
    cutoff: float = 6.0,
    electrode_lj: bool = True,
    solver: str = "auto",
    tolerance: float | None = None,
    surroundings: SurroundingsModel | None = None,
) -> HybridCalculator:
    """The teacher for one structure, as an ASE calculator.

    Args:
        atoms: water, Na, Cl and metal; the metal's electrodes in `arrays["electrode"]`.
        potentials: V, one per electrode; or
        charges: e, one per electrode. Neither means 0 V on all.
        coulomb: the operator; None for a slab, a bulk or an open system as `atoms.pbc` says, accuracy 1e-6.
        field, displacement: as `HybridCalculator` takes them.
        total_charge: e, of the whole cell.
        model: constants of the water.
        cutoff: Å, of the Lennard-Jones.
        electrode_lj: Lennard-Jones between metal atoms.
        solver, tolerance: of the charges.
        surroundings: how electronegativity and hardness of metal atoms follow their neighbours; None for constants.

    Returns:
        The calculator. Its groups are the electrodes in their order, then one of charge zero per molecule.

    Raises:
        ValueError: both potentials and charges, a wrong number of them, unknown elements.
    """
    metals = _held(metal_groups(atoms), potentials, charges)
    short_range = FluctuatingWater.from_atoms(
        atoms,
        [m.indices.tolist() for m in metals],
        model=model,
        cutoff=cutoff,
        electrode_lj=electrode_lj,
        surroundings=surroundings,
    )
    return HybridCalculator(
        short_range,
        coulomb or default_coulomb(atoms),
        [*metals, *short_range.groups],
        field=field,
        displacement=displacement,
        total_charge=total_charge,
        solver=solver,
        tolerance=tolerance,
        **short_range.solve_options(metals, METAL_WIDTH),
    )


def default_coulomb(atoms: Atoms, accuracy: float = 1e-6) -> Coulomb:
    """The operator for the periodic directions of a structure: slab (T, T, F), 3d (T, T, T) or open."""
    pbc = tuple(bool(p) for p in atoms.pbc)
    boundaries = {(True, True, False): "slab", (True, True, True): "3d", (False, False, False): "open"}
    if pbc not in boundaries:
        raise ValueError(
            f"pbc = {pbc} must be (True, True, False), all True or all False: set atoms.pbc or give coulomb"
        )
    return Coulomb(boundaries[pbc], accuracy=accuracy)


def _held(
    groups: Sequence[Any], potentials: Sequence[float] | None, charges: Sequence[float] | None
) -> list[Electrode]:
    if potentials is not None and charges is not None:
        raise ValueError(
            "potentials, charges = both must be one of the two: hold the potentials or the charges"
        )
    for name, values in (("potentials", potentials), ("charges", charges)):
        if values is not None and len(values) != len(groups):
            raise ValueError(
                f"{name} = {len(values)} values must be one per electrode ({len(groups)}): "
                'number the electrodes in arrays["electrode"]'
            )
    if charges is not None:
        return [Electrode(group, charge=float(q)) for group, q in zip(groups, charges)]
    held = [0.0] * len(groups) if potentials is None else potentials
    return [Electrode(group, potential=float(v)) for group, v in zip(groups, held)]
