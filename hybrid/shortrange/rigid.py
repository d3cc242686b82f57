"""Rigid water for ASE: three fixed distances per molecule, solved exactly and quickly.

ASE's `FixBondLengths` does the right thing for three distances but loops over bonds in Python, which costs
seconds per step for thousands of molecules, and `FixLinearTriatomic` is for linear molecules. `RigidWater`
is a `FixBondLengths` (so ASE and its file formats know it) whose position and momentum steps are solved per
molecule: Newton's method for the positions, one linear 3x3 system for the momenta. No pair is ever left at
a tolerance that depends on its neighbours, and the result does not depend on the number of threads.

Source: RATTLE, H. C. Andersen, J. Comput. Phys. 52, 24 (1983); the matrix form, V. Kräutler,
W. F. van Gunsteren, P. H. Hünenberger, J. Comput. Chem. 22, 501 (2001).
"""

from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixBondLengths
from numpy.typing import ArrayLike

from grahame.hybrid.shortrange.base import FloatArray, IntArray
from grahame.hybrid.shortrange.bonded import nearest_vectors
from grahame.hybrid.shortrange.parameters import water_model
from grahame.hybrid.shortrange.topology import find_waters
from grahame.kernels.cpu_molecules import rattle, shake

_ITERATIONS = 50


class RigidWater(FixBondLengths):
    """Keep triples of atoms (O, H, H) at fixed mutual distances.

    Args:
        triples: (w,3) atom indices: centre, end, end.
        bond_length: Å, centre to ends; one value or (w,).
        end_distance: Å, between the ends; one value or (w,).
        tolerance: largest relative error of a distance after a step.

    Raises:
        ValueError: lengths that make no triangle.
    """

    def __init__(
        self,
        triples: ArrayLike,
        bond_length: ArrayLike,
        end_distance: ArrayLike,
        tolerance: float = 1e-13,
    ) -> None:
        self.triples: IntArray = np.asarray(triples, dtype=np.int64).reshape(-1, 3)
        w = len(self.triples)
        bond = np.broadcast_to(np.asarray(bond_length, dtype=np.float64), (w,))
        ends = np.broadcast_to(np.asarray(end_distance, dtype=np.float64), (w,))
        bad = np.flatnonzero(~((ends > 0) & (ends < 2 * bond)))
        if len(bad):
            raise ValueError(
                f"end_distance = {ends[bad[0]]} Å must be above 0 and below twice the bond length "
                f"{bond[bad[0]]} Å: a linear molecule needs ase.constraints.FixLinearTriatomic"
            )
        self._lengths: FloatArray = np.column_stack([bond, bond, ends])
        pairs = self.triples[:, [[0, 1], [0, 2], [1, 2]]].reshape(-1, 2)
        super().__init__(pairs, tolerance=tolerance, bondlengths=self._lengths.ravel())  # type: ignore[no-untyped-call]

    def adjust_positions(self, atoms: Atoms, new: FloatArray) -> None:
        """Move `new` back to the fixed distances along the present bond directions."""
        old = self._vectors(atoms, atoms.positions)
        stuck = shake(
            new,
            self.triples,
            old,
            self._vectors(atoms, new),
            self._lengths,
            atoms.get_masses(),
            self.tolerance,
            _ITERATIONS,
        )
        if stuck >= 0:
            raise RuntimeError(
                f"displacement of the rigid molecule at atom {self.triples[stuck, 0]} must be small against "
                "its bonds: use a shorter time step or minimise first"
            )

    def adjust_momenta(self, atoms: Atoms, momenta: FloatArray) -> None:
        """Remove the momentum components that would change a fixed distance."""
        rattle(momenta, self.triples, self._vectors(atoms, atoms.positions), atoms.get_masses())

    def todict(self) -> dict[str, Any]:
        """As ASE's FixBondLengths, with the exact lengths: readable where this package is absent."""
        return {
            "name": "FixBondLengths",
            "kwargs": {
                "pairs": self.pairs.tolist(),
                "tolerance": self.tolerance,
                "bondlengths": self._lengths.ravel().tolist(),
            },
        }

    def index_shuffle(self, atoms: Atoms, ind: ArrayLike | slice) -> None:
        """Follow atoms into a slice; molecules that are not whole there are dropped."""
        place = np.full(len(atoms), -1, dtype=np.int64)
        chosen = np.arange(len(atoms))[ind if isinstance(ind, slice) else np.asarray(ind)]
        place[chosen] = np.arange(len(chosen))
        triples = place[self.triples]
        whole = (triples >= 0).all(axis=1)
        if not whole.any():
            raise IndexError("Constraint not part of slice")
        lengths = self._lengths[whole]
        self.__init__(triples[whole], lengths[:, 0], lengths[:, 2], self.tolerance)  # type: ignore[misc]

    def _vectors(self, atoms: Atoms, positions: FloatArray) -> FloatArray:
        pbc = (bool(atoms.pbc[0]), bool(atoms.pbc[1]), bool(atoms.pbc[2]))
        flat = nearest_vectors(positions, self.pairs, atoms.cell.array, pbc)
        return flat.reshape(-1, 3, 3)


def rigid_water_constraints(
    atoms: Atoms, water: str = "spc/e-rigid", place: bool = True, held: ArrayLike = ()
) -> list[RigidWater]:
    """Constraints that keep every water molecule rigid, for `atoms.set_constraint`.

    Combine them with others in a list, as in
    `atoms.set_constraint([FixAtoms(electrode), *rigid_water_constraints(atoms)])`; momenta set afterwards
    obey them. Each molecule loses three degrees of freedom, which ASE's temperature
    takes into account.

    Args:
        atoms: the structure; molecules may be cut by periodic boundaries.
        water: model that gives the geometry.
        place: first move the hydrogens to that geometry (`place_rigid_waters`).
        held: indices of atoms that do not move. A molecule of such atoms stays as it is and is left out: what is held has
            no degrees of freedom that could be lost again.

    Returns:
        One constraint, or none where there is no water that moves.

    Raises:
        ValueError: an unknown model, an O or H that is no water, a molecule of which a part is held.
    """
    model = water_model(water)
    waters = _moving(find_waters(atoms), np.asarray(held, dtype=np.int64))
    if len(waters) == 0:
        return []
    if place:
        place_rigid_waters(atoms, waters, model.bond_length, model.angle)
    return [RigidWater(waters, model.bond_length, model.hydrogen_distance)]


def _moving(waters: IntArray, held: IntArray) -> IntArray:
    """Molecules (w,3) of which no atom is held; those of which one or two are held have no rigid motion."""
    count = np.isin(waters, held).sum(axis=1)
    part = np.flatnonzero((count == 1) | (count == 2))
    if len(part):
        o, first, second = waters[part[0]].tolist()
        names = " and ".join(str(i) for i in (o, first, second) if i in held)
        raise ValueError(
            f"held atoms = {names} of the rigid water of atoms {o}, {first} and {second} must be all three or none: hold the "
            "whole molecule, let it go, or use the flexible water spc/fw"
        )
    moving: IntArray = waters[count == 0]
    return moving


def place_rigid_waters(atoms: Atoms, waters: IntArray, bond_length: float, angle: float) -> None:
    """Give molecules their exact geometry in place: O, the plane and the bisector stay.

    Args:
        atoms: changed in place.
        waters: (w,3) indices O, H, H.
        bond_length: Å.
        angle: rad.

    Raises:
        ValueError: a molecule without a plane (three atoms on a line).
    """
    pbc = (bool(atoms.pbc[0]), bool(atoms.pbc[1]), bool(atoms.pbc[2]))
    first = nearest_vectors(atoms.positions, waters[:, [0, 1]], atoms.cell.array, pbc)
    second = nearest_vectors(atoms.positions, waters[:, [0, 2]], atoms.cell.array, pbc)
    u = first / np.linalg.norm(first, axis=1, keepdims=True)
    v = second / np.linalg.norm(second, axis=1, keepdims=True)
    bisector, across = u + v, u - v
    sizes = np.linalg.norm(bisector, axis=1), np.linalg.norm(across, axis=1)
    bad = np.flatnonzero(~(np.minimum(*sizes) > 1e-6))
    if len(bad):
        raise ValueError(
            f"angle of the water at atom {waters[bad[0], 0]} must be between 0 and 180 degrees: "
            "move one of its hydrogens off the line"
        )
    along = bond_length * np.cos(0.5 * angle) * bisector / sizes[0][:, None]
    aside = bond_length * np.sin(0.5 * angle) * across / sizes[1][:, None]
    # Displacements, so that a hydrogen on the far side of a boundary stays there.
    atoms.positions[waters[:, 1]] += along + aside - first
    atoms.positions[waters[:, 2]] += along - aside - second
