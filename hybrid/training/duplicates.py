"""Geometries that two sets of frames share, wherever their origin lies and however their atoms are ordered or wrapped.

    |sum over atoms of w e^(ik.r)| / sqrt(n)  at a few wave vectors k, with two sets of weights w by element

do not change when a frame is moved, wrapped along directions that repeat, or sorted anew. Frames that agree in them
are compared atom by atom: one translation must bring all atoms onto those of the other frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, product

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from grahame.hybrid.frames import Frame

__all__ = ["twins"]

Floats = NDArray[np.float64]

_CLOSE = 1e-4  # Å, between atoms of the same geometry
_ALIKE = 1e-4  # between the waves of two frames
_LENGTH = 11.3  # Å, of waves along directions that do not repeat
_NEAREST = 5  # candidates per frame
_HALF = [k for k in product((-1, 0, 1), repeat=3) if k > (0, 0, 0)]
_WAVES = [*_HALF, (2, 0, 0), (0, 2, 0), (0, 0, 2)]


def twins(first: Sequence[Frame], second: Sequence[Frame]) -> list[tuple[Frame, Frame]]:
    """Frames of the first set with one of the second that has the same geometry."""
    groups: dict[bytes, tuple[list[Frame], list[Frame]]] = {}
    for side, frames in enumerate((first, second)):
        for f in frames:
            key = np.sort(f.numbers).tobytes() + bytes(f.pbc)
            groups.setdefault(key, ([], []))[side].append(f)
    out = []
    for some, others in groups.values():
        if not some or not others:
            continue
        tree = KDTree(np.array([_invariants(f) for f in others]))
        own = np.array([_invariants(f) for f in some])
        _, found = tree.query(own, k=_NEAREST, p=np.inf, distance_upper_bound=_ALIKE)
        near: list[list[int]] = np.asarray(found).tolist()
        for frame, candidates in zip(some, near):
            # Places without a candidate hold the number of frames.
            same = (others[c] for c in candidates if c < len(others) and _same(frame, others[c]))
            out += [(frame, twin) for twin in islice(same, 1)]
    return out


def _cell(frame: Frame) -> Floats:
    """The cell; along directions that do not repeat, a unit of length."""
    if not any(frame.pbc):
        return _LENGTH * np.eye(3)
    if all(frame.pbc):
        return frame.cell
    normal = np.cross(frame.cell[0], frame.cell[1])
    return np.vstack([frame.cell[:2], _LENGTH * normal / np.linalg.norm(normal)])


def _invariants(frame: Frame) -> Floats:
    """The cell, and what all waves come to."""
    cell = _cell(frame)
    x = np.exp(2j * np.pi * np.linalg.inv(cell).T @ frame.positions.T)
    powers = {-1: x.conj(), 0: np.ones_like(x), 1: x, 2: x * x}
    waves = np.array([powers[a][0] * powers[b][1] * powers[c][2] for a, b, c in _WAVES])
    weights = np.stack([np.ones(len(frame)), np.sin(frame.numbers)])
    sums = np.abs(np.einsum("ka,wa->kw", waves, weights)) / np.sqrt(len(frame))
    return np.concatenate([cell.ravel(), sums.ravel()])


def _same(frame: Frame, other: Frame) -> bool:
    """Whether a translation, and along directions that repeat lattice vectors, make one frame of the other."""
    inverse, periodic = np.linalg.inv(_cell(frame)), np.array(frame.pbc)

    def places(positions: Floats) -> Floats:
        found = positions @ inverse
        found = np.where(periodic, found % 1.0, found)
        return np.where(periodic & (found >= 1.0), 0.0, found)

    # Elements are a fourth direction, in which different ones are far apart.
    tree = KDTree(
        np.hstack([places(other.positions), other.numbers[:, None]]), boxsize=np.append(periodic, 0.0)
    )
    elements, counts = np.unique(frame.numbers, return_counts=True)
    rare = elements[counts.argmin()]
    reach = _CLOSE * float(np.abs(inverse).sum(axis=0).max())
    start = frame.positions[np.flatnonzero(frame.numbers == rare)[0]]
    for end in other.positions[other.numbers == rare]:
        moved = np.hstack([places(frame.positions + end - start), frame.numbers[:, None]])
        for some in (moved[:4], moved):
            distance, index = tree.query(some, p=np.inf, distance_upper_bound=reach)
            if not bool(np.isfinite(distance).all()):
                break
        else:
            if len(np.unique(index)) == len(frame):
                return True
    return False
