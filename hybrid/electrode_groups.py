"""Which atoms of a structure are electrodes: the metal slabs, found by bonds, in the order of their heights."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from grahame.electrostatics import Electrode
from grahame.hybrid.bonds import NO_METALS, bonds

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def metallic(elements: Collection[str], formal: Collection[float]) -> list[str]:
    """Elements that can be an electrode: metals whose formal charge is zero.

    Args:
        elements: chemical symbols; formal: formal charge of each, e. A metal with one (Na⁺) is an ion here.
    """
    return [e for e, q in zip(elements, formal) if e not in NO_METALS and q == 0.0]


def connected_slabs(atoms: Atoms, elements: Collection[str]) -> list[Ints]:
    """Atoms of each metal slab, the lowest slab along the normal a x b first.

    Two metal atoms are bonded below 1.3 times the sum of their covalent radii, whichever metals they are and
    through the cell's boundaries where it repeats. A slab is what is joined by bonds, its own images along two
    independent cell vectors included. A slab that the boundary along c cuts counts with the height of the
    whole slab's middle, taken into the cell.

    Args:
        atoms: Å, with cell and pbc.
        elements: symbols of the metals.
    Returns:
        per slab its atom indices, ascending; none without metal.
    Raises:
        ValueError: for metal atoms in no slab (an atom or a cluster by itself): what charge or potential such
            a piece has does not follow from the structure.

    >>> from ase.build import fcc111
    >>> [len(s) for s in connected_slabs(fcc111("Au", (3, 3, 3), vacuum=10.0), ["Au"])]
    [27]
    """
    chosen = np.flatnonzero(np.isin(atoms.numbers, [atomic_numbers[e] for e in elements])).astype(np.int64)
    if len(chosen) == 0:
        return []
    positions, numbers = atoms.get_positions()[chosen], atoms.numbers[chosen].astype(np.int64)
    cell, pbc = np.array(atoms.cell), (bool(atoms.pbc[0]), bool(atoms.pbc[1]), bool(atoms.pbc[2]))
    i, j, shifts = bonds(positions, numbers, cell, pbc)
    n = len(chosen)
    graph = csr_array(coo_array((np.ones(len(i)), (i, j)), shape=(n, n)))
    count, label = connected_components(graph, directed=False)
    offsets = _offsets(graph, label, count, i, j, shifts)
    cycles = offsets[i] + shifts - offsets[j]
    slabs: list[tuple[float, Ints]] = []
    for piece in range(count):
        members = np.flatnonzero(label == piece)
        around = cycles[label[i] == piece]
        if len(around) == 0 or np.linalg.matrix_rank(np.unique(around, axis=0)) < 2:
            atom, size = int(chosen[members[0]]), len(members)
            kind = "alone" if size == 1 else f"in a cluster of {size} metal atoms"
            raise ValueError(
                f"atoms[{atom}] = {chemical_symbols[int(atoms.numbers[atom])]} {kind} must be bonded to a metal slab "
                "that repeats along two cell vectors: its charge does not follow from the structure; name the "
                "electrodes, electrodes=[Electrode(indices, ...), ...]"
            )
        whole = positions[members] + offsets[members] @ cell
        slabs.append((_height(whole, cell, pbc[2]), chosen[members]))
    return [members for _, members in sorted(slabs, key=lambda s: (s[0], int(s[1][0])))]


def _offsets(graph: csr_array, label: NDArray[np.int32], count: int, i: Ints, j: Ints, shifts: Ints) -> Ints:
    """(n,3) cell vectors that make every piece whole along a spanning tree of its bonds."""
    offsets = np.zeros((len(label), 3), dtype=np.int64)
    step: dict[tuple[int, int], Ints] = {}
    for a, b, s in zip(i.tolist(), j.tolist(), shifts):
        step.setdefault((a, b), s)
        step.setdefault((b, a), -s)
    for piece in range(count):
        root = int(np.argmax(label == piece))
        order, parents = breadth_first_order(graph, root, directed=False)
        for atom in order[1:].tolist():
            parent = int(parents[atom])
            offsets[atom] = offsets[parent] + step[parent, atom]
    return offsets


def _height(positions: Floats, cell: Floats, periodic: bool) -> float:
    """Height of the middle along a x b, inside the cell where c repeats."""
    normal = np.cross(cell[0], cell[1])
    normal /= np.linalg.norm(normal)
    heights = positions @ normal
    middle = 0.5 * float(heights.min() + heights.max())
    return middle % abs(float(cell[2] @ normal)) if periodic else middle


def natural_boundary(pbc: Sequence[bool], potentials: Floats) -> str:
    """The boundary that periodic directions and held potentials mean.

        (T,T,F) slab    (F,F,F) open    (T,T,T) 3d, or finite-field for two electrodes at unequal potentials

    In "3d" electrodes at one potential are one conductor: together they carry what the electrolyte leaves of the
    total charge, and only the common zero of potential is a convention.

    Args:
        pbc: of the atoms; potentials: (groups,) V, nan where a charge is held.
    Raises:
        ValueError: for other combinations of periodic directions.
    """
    flags = tuple(bool(p) for p in pbc)
    if flags == (True, True, False):
        return "slab"
    if flags == (False, False, False):
        return "open"
    if flags == (True, True, True):
        unequal = (
            len(potentials) == 2 and bool(np.isfinite(potentials).all()) and potentials[0] != potentials[1]
        )
        return "finite-field" if unequal else "3d"
    raise ValueError(
        f"pbc = ({', '.join(map(str, flags))}) must be (True, True, False) for a slab, (True, True, True) or "
        "(False, False, False): reorder the cell so that its third vector leaves the surface"
    )


def rest_of(atoms: int, electrodes: Sequence[Electrode], total_charge: float | None) -> list[Electrode]:
    """The electrodes, and behind them one group of all other atoms that carries what is left of the total charge.

    For models whose charges are all solved (`charges.kind` = "solved").

    Args:
        atoms: number of atoms.
        electrodes: at held charges.
        total_charge: of the cell, e.
    Raises:
        ValueError: with an electrode at a potential, or without a total charge.
    """
    if any(e.charge is None for e in electrodes) or total_charge is None:
        given = "held at a potential" if total_charge is not None else "without a total charge"
        raise ValueError(
            f"electrodes = {given} must hold charges, and the cell a total charge, with a model whose charges are all "
            "solved: only then is the charge of the other atoms known"
        )
    free = np.ones(atoms, dtype=bool)
    for electrode in electrodes:
        free[electrode.indices] = False
    if not free.any():
        return list(electrodes)
    left = total_charge - sum(float(e.charge) for e in electrodes)
    return [*electrodes, Electrode(np.flatnonzero(free), charge=left)]


def of_given(
    options: Mapping[str, Any], given: int, electrodes: Sequence[Electrode], widths: Floats
) -> dict[str, Any]:
    """Solver options of given electrodes for all groups, where `rest_of` added one: that one has what the model says.

    Args:
        options: smearing, hardness, ... by name, one value, one per given electrode or one per atom of these.
        given: number of electrodes without the added one; none leaves the options as they are.
        electrodes: all groups, the added one last.
        widths: (n,) Å, of all atoms in the model.
    """
    out = dict(options)
    if given in (0, len(electrodes)):
        return out
    counts, rest = [len(e) for e in electrodes[:given]], np.asarray(electrodes[-1].indices)
    none = np.zeros(len(rest))
    # A volume counts only with a Thomas-Fermi length, which the other atoms have not.
    others = {
        "smearing": widths[rest],
        "hardness": none,
        "electronegativity": none,
        "thomas_fermi_length": none,
        "voronoi_volume": none + 1.0,
    }
    for name, value in others.items():
        if options.get(name) is None:
            continue
        own = np.asarray(options[name], dtype=float)
        if own.ndim == 0:
            own = np.full(sum(counts), own)
        elif own.shape == (given,):
            own = np.repeat(own, counts)
        if own.shape == (sum(counts),):  # the solver says what is wrong with others
            out[name] = np.concatenate([own, value])
    return out
