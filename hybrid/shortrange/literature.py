"""Force-field tables from the literature for a found topology."""

import numpy as np
from ase.data import atomic_numbers

from grahame.hybrid.shortrange.base import IntArray
from grahame.hybrid.shortrange.parameters import IONS, METALS, water_model
from grahame.hybrid.shortrange.tables import ForceFieldTables
from grahame.hybrid.shortrange.topology import Topology


def build_tables(
    numbers: IntArray, topology: Topology, water: str
) -> tuple[ForceFieldTables, dict[str, str]]:
    """Types, charges and bonded terms of waters, ions and metals.

    Args:
        numbers: (n,) atomic numbers.
        topology: what `find_topology` found.
        water: "spc/fw" or "spc/e-rigid".

    Returns:
        The tables and, for each species that occurs, where its numbers come from.

    Raises:
        ValueError: an unknown water model.
    """
    model = water_model(water)
    n = len(numbers)
    types = np.zeros(n, dtype=np.int64)
    charges = np.zeros(n)
    epsilon: list[float] = []
    sigma: list[float] = []
    sources: dict[str, str] = {}

    def add_type(atoms: IntArray, depth: float, size: float, charge: float) -> None:
        types[atoms] = len(epsilon)
        charges[atoms] = charge
        epsilon.append(depth)
        sigma.append(size)

    waters = topology.waters
    if len(waters):
        add_type(waters[:, 0], model.epsilon, model.sigma, model.charge_oxygen)
        add_type(waters[:, 1:].ravel(), 0.0, 0.0, model.charge_hydrogen)
        sources["water"] = f"{water}: {model.source}"
    for group in (IONS, METALS):
        for element, species in group.items():
            members = np.flatnonzero(numbers == atomic_numbers[element]).astype(np.int64)
            if len(members):
                add_type(members, species.epsilon, species.sigma, species.charge)
                sources[element] = species.source

    bonds = np.concatenate([waters[:, [0, 1]], waters[:, [0, 2]]])
    angles = waters[:, [1, 0, 2]]
    exclusions = np.concatenate([bonds, waters[:, [1, 2]]])
    molecules = np.arange(n, dtype=np.int64)
    molecules[waters[:, 1]] = waters[:, 0]
    molecules[waters[:, 2]] = waters[:, 0]
    _, molecules = np.unique(molecules, return_inverse=True)
    flexible = model.bond_constant is not None and model.angle_constant is not None
    if not flexible:
        bonds, angles = bonds[:0], angles[:0]
    tables = ForceFieldTables(
        numbers=np.asarray(numbers, dtype=np.int64),
        types=types,
        epsilon=np.array(epsilon),
        sigma=np.array(sigma),
        charges=charges,
        bonds=bonds,
        bond_constants=np.full(len(bonds), model.bond_constant or 0.0),
        bond_lengths=np.full(len(bonds), model.bond_length),
        angles=angles,
        angle_constants=np.full(len(angles), model.angle_constant or 0.0),
        angle_values=np.full(len(angles), model.angle),
        exclusions=exclusions,
        electrode=topology.electrode,
        molecules=molecules,
    )
    return tables, sources
