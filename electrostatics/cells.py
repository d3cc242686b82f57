"""Geometry of any cell: rows a, b, c; right- or left-handed, tilted or rotated in space.

The slab normal is n = a x b / |a x b| and the height along it L = |c.n|. Nothing here assumes that a
lies along x or that c is perpendicular to the surface.
"""

import itertools
import math
from functools import lru_cache

import numpy as np
import torch
from ase.geometry import is_minkowski_reduced, minkowski_reduce
from numpy.typing import NDArray
from torch import Tensor

from grahame.kernels.neighbors import all_below

SLABS = ("slab", "slab-exact")
PERIODIC = {
    "3d": (True, True, True),
    "finite-field": (True, True, True),
    "displacement": (True, True, True),
    "slab": (True, True, False),
    "slab-exact": (True, True, False),
    "open": (False, False, False),
}
"""Which cell vectors repeat the charges, per boundary."""

PERIODIC_K = PERIODIC | {"slab": (True, True, True)}
"""The same for the k-space cell: a slab is summed in three dimensions, and corrected."""


def normal(cell: Tensor) -> Tensor:
    """Unit normal of the surface, n = a x b / |a x b|."""
    cross: Tensor = torch.linalg.cross(cell[0], cell[1])
    unit: Tensor = cross / torch.linalg.vector_norm(cross)
    return unit


def area(cell: Tensor) -> Tensor:
    """Area of the surface cell, |a x b|, in Å²."""
    surface: Tensor = torch.linalg.vector_norm(torch.linalg.cross(cell[0], cell[1]))
    return surface


def height(cell: Tensor) -> Tensor:
    """Height of the cell along the surface normal, |c.n|, in Å."""
    return torch.abs(torch.dot(cell[2], normal(cell)))


def volume(cell: Tensor) -> Tensor:
    """Volume |det(cell)| in Å³, also for left-handed cells."""
    triple: Tensor = torch.linalg.cross(cell[0], cell[1]) @ cell[2]
    return torch.abs(triple)


def plane_distances(cell: Tensor) -> Tensor:
    """Distances between opposite faces of the cell, (3,) in Å."""
    distances: Tensor = 1.0 / torch.linalg.vector_norm(torch.linalg.inv(cell), dim=0)
    return distances


def extend_along_normal(cell: Tensor, padding: float) -> Tensor:
    """The cell with its third vector lengthened by `padding` Å along the normal (negative: shortened)."""
    if padding == 0.0:
        return cell
    if not cell.requires_grad and cell.device.type == "cpu" and cell.dtype == torch.float64:
        return torch.from_numpy(_extended(cell.numpy().tobytes(), padding).copy())
    return _extend(cell, padding)


@lru_cache(maxsize=4)
def _extended(cell: bytes, padding: float) -> NDArray[np.float64]:
    """The same of a cell without graph, which stays the same from step to step."""
    h = torch.from_numpy(np.frombuffer(cell).reshape(3, 3).copy())
    return np.asarray(_extend(h, padding).numpy())


def _extend(cell: Tensor, padding: float) -> Tensor:
    outward = torch.sign(torch.dot(cell[2], normal(cell))).detach() * normal(cell)
    return torch.stack([cell[0], cell[1], cell[2] + padding * outward])


def smallest_in_plane_reciprocal(cell: Tensor) -> float:
    """Length of the shortest non-zero reciprocal vector of the surface cell, in 1/Å."""
    a, b = cell[0].detach(), cell[1].detach()
    gram = torch.stack([torch.stack([a @ a, a @ b]), torch.stack([a @ b, b @ b])])
    metric = torch.linalg.inv(gram) * (2 * math.pi) ** 2
    span = torch.arange(-3, 4, dtype=cell.dtype, device=cell.device)
    m = torch.cartesian_prod(span, span)
    squared = ((m @ metric) * m).sum(1)
    return float(squared[squared > 1e-12 * metric.diagonal().max()].min().sqrt())


def nearest_image_shifts(
    vectors: NDArray[np.float64], cell: NDArray[np.float64], periodic: tuple[bool, bool, bool]
) -> NDArray[np.int64]:
    """Lattice shifts (m,3) that make each vector (m,3) shortest, along the periodic directions only.

    Rounding fractional coordinates is right when the result is shorter than half the smallest distance
    between periodic faces; the few others are searched over the neighbouring images, in a basis of short vectors.
    """
    shifts = np.zeros(vectors.shape, dtype=np.int64)
    axes = [d for d in range(3) if periodic[d]]
    if not axes or len(vectors) == 0:
        return shifts
    # The pseudo-inverse projects out the directions that do not repeat.
    basis = _short_vectors(np.ascontiguousarray(cell[axes]).tobytes(), len(axes))
    rows = basis @ cell[axes]
    inverse, faces = _pseudo_inverse(rows.tobytes(), len(axes))
    fractional = vectors @ inverse
    near = np.rint(fractional)
    in_plane = (fractional - near) @ rows
    unsure = np.flatnonzero(np.einsum("ij,ij->i", in_plane, in_plane) > (0.5 * faces) ** 2)
    if len(unsure):
        steps = np.array(list(itertools.product(range(-2, 3), repeat=len(axes))), dtype=float)
        trial = in_plane[unsure][:, None, :] - (steps @ rows)[None]
        near[unsure] += steps[(trial**2).sum(-1).argmin(1)]
    shifts[:, axes] = -near.astype(np.int64) @ basis
    return shifts


@lru_cache(maxsize=4)
def _short_vectors(rows: bytes, count: int) -> NDArray[np.int64]:
    """(count,count) whole numbers that make a Minkowski-reduced basis of `count` cell vectors: skewed cells have far images."""
    cell, periodic = np.zeros((3, 3)), np.arange(3) < count
    cell[:count] = np.frombuffer(rows).reshape(count, 3)
    if count == 1 or is_minkowski_reduced(cell, periodic):
        return np.eye(count, dtype=np.int64)
    if count == 2:
        cell[2] = np.cross(cell[0], cell[1])
    operation = np.asarray(minkowski_reduce(cell, periodic)[1], dtype=np.int64)
    return operation[:count, :count]


def nearest_images_stay(
    pairs: NDArray[np.int64],
    shifts: NDArray[np.int64],
    places: NDArray[np.float64],
    cell: NDArray[np.float64],
    periodic: tuple[bool, bool, bool],
) -> bool:
    """Whether `shifts` (m,3) surely still make the vectors of pairs (m,2) of atoms shortest; may be false where they do.

    They do where no vector is half as long as faces are distant.
    """
    axes = [d for d in range(3) if periodic[d]]
    if not axes:
        return True
    rows = np.ascontiguousarray(cell[axes])
    inverse, faces = _pseudo_inverse(rows.tobytes(), len(axes))
    return bool(all_below(0.5 * faces, pairs, shifts, places, cell, inverse @ rows))


@lru_cache(maxsize=4)
def _pseudo_inverse(rows: bytes, count: int) -> tuple[NDArray[np.float64], float]:
    """Of `count` cell vectors, which stay the same from step to step; and the smallest distance of faces."""
    inverse = np.asarray(np.linalg.pinv(np.frombuffer(rows).reshape(count, 3)), dtype=np.float64)
    return inverse, float((1.0 / np.linalg.norm(inverse, axis=0)).min())


def apply_strain(x: Tensor, h: Tensor | None, strain: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Positions and cell under a symmetric strain, x (1 + eps)."""
    if strain is None or h is None:
        return x, h
    symmetric = 0.5 * (strain + strain.T)
    return x + x @ symmetric, h + h @ symmetric
