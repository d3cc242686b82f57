"""Every Coulomb sum as its formula, in float64: the truth that the fast kernels are tested against.

Written with torch operations so that derivatives of any order follow from the formula itself. All values
are without the Coulomb constant: matrices in 1/Å, energies in e²/Å for charges in e. Lists of pairs are
made by comparing every atom with every image; nothing here is meant to be fast.
"""

import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_CHUNK = 4_000_000  # numbers per temporary array


def image_pairs(
    positions: Tensor, cell: Tensor, periodic: tuple[bool, bool, bool], cutoff: float
) -> tuple[Tensor, Tensor, Tensor]:
    """All ordered pairs (i, j, S) with 0 < |x_j + S.cell - x_i| < cutoff, every image counted.

    Args:
        positions: (n,3) Å.
        cell: (3,3) rows in Å; rows of directions that do not repeat are ignored.
        periodic: which cell vectors repeat the atoms.
        cutoff: Å.

    Returns:
        i (p,), j (p,) and the lattice shifts S (p,3), all int64; each pair appears in both directions.
    """
    x = positions.detach()
    n = len(x)
    axes = [d for d in range(3) if periodic[d]]
    base = torch.zeros((n, 3), dtype=x.dtype, device=x.device)
    reach = [0, 0, 0]
    if axes:
        inverse = torch.linalg.pinv(cell.detach()[axes])
        base[:, axes] = -torch.floor(x @ inverse)
        for column, d in enumerate(axes):
            reach[d] = math.ceil(cutoff * float(torch.linalg.vector_norm(inverse[:, column]))) + 1
    # Shifts that move every atom into the cell; pair shifts follow by difference.
    wrapped = x + base @ cell.detach()
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    rows = max(1, _CHUNK // max(n, 1))
    for shift in itertools.product(*(range(-m, m + 1) for m in reach)):
        step = torch.tensor(shift, dtype=x.dtype, device=x.device) @ cell.detach()
        for start in range(0, n, rows):
            delta = wrapped[None, :, :] + step - wrapped[start : start + rows, None, :]
            near = (delta**2).sum(-1) < cutoff**2
            if shift == (0, 0, 0):
                span = torch.arange(start, min(start + rows, n), device=x.device)
                near[span - start, span] = False
            i, j = near.nonzero(as_tuple=True)
            i = i + start
            if len(i):
                s = torch.tensor(shift, dtype=x.dtype, device=x.device) + base[j] - base[i]
                found.append((i, j, s.to(torch.int64)))
    if not found:
        empty = torch.zeros(0, dtype=torch.int64, device=x.device)
        return empty, empty, empty.reshape(0, 3)
    return tuple(torch.cat(part) for part in zip(*found))  # type: ignore[return-value]


def pair_distances(positions: Tensor, cell: Tensor, i: Tensor, j: Tensor, shifts: Tensor) -> Tensor:
    """|x_j + S.cell - x_i| for listed pairs, in Å."""
    delta = positions[j] - positions[i] + shifts.to(positions.dtype) @ cell
    return torch.sqrt((delta**2).sum(-1))


def gaussian_erfc(r: Tensor, smearing_i: Tensor, smearing_j: Tensor) -> Tensor:
    """erfc(g r) with g = 1/sqrt(2 (s_i² + s_j²)), and 0 for two points."""
    squared = smearing_i**2 + smearing_j**2
    point = squared == 0
    g = 1.0 / torch.sqrt(2.0 * torch.where(point, torch.ones_like(squared), squared))
    return torch.where(point, torch.zeros_like(r), torch.special.erfc(g * r))


def screened_kernel(r: Tensor, smearing_i: Tensor, smearing_j: Tensor, alpha: float) -> Tensor:
    """[erfc(alpha r) - erfc(g r)]/r: what the reciprocal sum leaves to real space, in 1/Å."""
    screened: Tensor = torch.special.erfc(alpha * r)
    return (screened - gaussian_erfc(r, smearing_i, smearing_j)) / r


def bare_kernel(r: Tensor, smearing_i: Tensor, smearing_j: Tensor) -> Tensor:
    """erf(g r)/r, and 1/r for two points: the interaction of two charges in open space, in 1/Å."""
    return (1.0 - gaussian_erfc(r, smearing_i, smearing_j)) / r


def half_reciprocal_indices(cell: Tensor, cutoff: float, axes: int = 3) -> Tensor:
    """Integer triples m (k,3), one of each pair ±m, with 0 < |G| <= cutoff for G = 2 pi m.inv(cell)^T.

    With `axes` = 2 the third index is 0 and G lies in the plane of a and b.
    """
    rows = cell.detach()[:axes]
    bounds = [math.floor(cutoff * float(torch.linalg.vector_norm(v)) / (2 * math.pi)) for v in rows]
    ranges = [torch.arange(-b, b + 1, device=cell.device) for b in bounds]
    m = torch.cartesian_prod(*ranges).reshape(-1, axes).to(cell.dtype)
    g = 2 * math.pi * m @ torch.linalg.pinv(rows).T
    first = (m != 0).to(torch.int64).argmax(1)
    leading = m.gather(1, first[:, None])[:, 0]
    keep = (leading > 0) & ((g**2).sum(1) <= cutoff**2)
    out = torch.zeros((int(keep.sum()), 3), dtype=torch.int64, device=cell.device)
    out[:, :axes] = m[keep].to(torch.int64)
    return out


def reciprocal_weights(cell: Tensor, indices: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """G (k,3) and 2 (4 pi/V) exp(-G²/4 alpha²)/G² (k,), the factor 2 counting -G."""
    g = 2 * math.pi * indices.to(cell.dtype) @ torch.linalg.inv(cell).T
    g2 = (g**2).sum(1)
    volume = torch.abs(torch.linalg.det(cell))
    return g, 8 * math.pi / volume * torch.exp(-g2 / (4 * alpha**2)) / g2


def planar_kernel(k: Tensor, z: Tensor, alpha: float) -> Tensor:
    """exp(k z) erfc(k/2a + a z) + exp(-k z) erfc(k/2a - a z), written so that nothing overflows."""

    def one_side(height: Tensor) -> Tensor:
        u = k / (2 * alpha) + alpha * height
        gauss = torch.exp(-((k / (2 * alpha)) ** 2) - (alpha * height) ** 2)
        ahead = u >= 0
        small = torch.special.erfcx(torch.where(ahead, u, torch.zeros_like(u))) * gauss
        mirrored = torch.special.erfcx(torch.where(ahead, torch.zeros_like(u), -u)) * gauss
        grow = torch.exp(torch.where(ahead, torch.zeros_like(u), k * height))
        return torch.where(ahead, small, 2 * grow - mirrored)

    return one_side(z) + one_side(-z)


def pair_matrix(n: int, i: Tensor, j: Tensor, value: Tensor) -> Tensor:
    """Sum pair values into an (n,n) matrix."""
    return value.new_zeros((n, n)).index_put((i, j), value, accumulate=True)


def reciprocal_matrix(positions: Tensor, cell: Tensor, alpha: float, indices: Tensor) -> Tensor:
    """(4 pi/V) sum over G != 0 of exp(-G²/4a²)/G² cos G.(r_i - r_j), (n,n) in 1/Å; half list `indices`."""

    def part(x: Tensor, h: Tensor, chunk: Tensor) -> Tensor:
        g, w = reciprocal_weights(h, chunk, alpha)
        phase = x @ g.T
        c, s = torch.cos(phase), torch.sin(phase)
        return (c * w) @ c.T + (s * w) @ s.T

    n = len(positions)
    total = positions.new_zeros((n, n))
    return _accumulate(total, part, positions, cell, indices, max(1, _CHUNK // max(n, 1)))


def reciprocal_energy(
    positions: Tensor, charges: Tensor, cell: Tensor, alpha: float, indices: Tensor
) -> Tensor:
    """(2 pi/V) sum over G != 0 of exp(-G²/4a²)/G² |sum_j q_j exp(i G.r_j)|², in e²/Å; half list `indices`."""

    def part(x: Tensor, h: Tensor, chunk: Tensor) -> Tensor:
        g, w = reciprocal_weights(h, chunk, alpha)
        phase = x @ g.T
        return 0.5 * (w * ((charges @ torch.cos(phase)) ** 2 + (charges @ torch.sin(phase)) ** 2)).sum()

    rows = max(1, _CHUNK // max(len(positions), 1))
    return _accumulate(positions.new_zeros(()), part, positions, cell, indices, rows)


def planar_matrix(positions: Tensor, cell: Tensor, alpha: float, cutoff: float) -> Tensor:
    """Reciprocal part of the exact two-dimensional Ewald sum, the k = 0 term included, (n,n) in 1/Å.

    (pi/A) sum over k != 0 of cos(k.r_ij)/k [exp(k z) erfc(k/2a + a z) + exp(-k z) erfc(k/2a - a z)]
    - (2 sqrt(pi)/A) [exp(-a² z²)/a + sqrt(pi) z erf(a z)], z = (r_i - r_j).n

    Source: D. E. Parry, Surf. Sci. 49, 433 (1975); de Leeuw and Perram, Mol. Phys. 37, 1313 (1979).
    """
    indices = half_reciprocal_indices(cell, cutoff, axes=2)

    def part(x: Tensor, h: Tensor, chunk: Tensor) -> Tensor:
        return _planar_waves(x, h, alpha, chunk)

    rows = max(1, _CHUNK // max(len(positions) ** 2, 1))
    return _accumulate(_planar_zero(positions, cell, alpha), part, positions, cell, indices, rows)


def planar_energy(positions: Tensor, charges: Tensor, cell: Tensor, alpha: float, cutoff: float) -> Tensor:
    """1/2 q'Kq of `planar_matrix`, summed chunk by chunk, in e²/Å."""
    indices = half_reciprocal_indices(cell, cutoff, axes=2)

    def part(x: Tensor, h: Tensor, chunk: Tensor) -> Tensor:
        return 0.5 * charges @ _planar_waves(x, h, alpha, chunk) @ charges

    zero = 0.5 * charges @ _planar_zero(positions, cell, alpha) @ charges
    rows = max(1, _CHUNK // max(len(positions) ** 2, 1))
    return _accumulate(zero, part, positions, cell, indices, rows)


def _surface(cell: Tensor) -> tuple[Tensor, Tensor]:
    """Unit normal and area of the surface cell."""
    plane = torch.linalg.cross(cell[0], cell[1])
    surface = torch.linalg.vector_norm(plane)
    return plane / surface, surface


def _planar_waves(x: Tensor, h: Tensor, alpha: float, indices: Tensor) -> Tensor:
    unit, surface = _surface(h)
    z = x @ unit
    dz = z[:, None] - z[None, :]
    g = 2 * math.pi * indices[:, :2].to(h.dtype) @ torch.linalg.pinv(h[:2]).T
    k = torch.sqrt((g**2).sum(1))
    phase = x @ g.T
    c, s = torch.cos(phase).T, torch.sin(phase).T
    cosine = c[:, :, None] * c[:, None, :] + s[:, :, None] * s[:, None, :]
    kernel = planar_kernel(k[:, None, None], dz[None], alpha)
    return 2 * math.pi / surface * (cosine * kernel / k[:, None, None]).sum(0)


def _planar_zero(x: Tensor, h: Tensor, alpha: float) -> Tensor:
    unit, surface = _surface(h)
    z = x @ unit
    dz = z[:, None] - z[None, :]
    zero = torch.exp(-((alpha * dz) ** 2)) / alpha + math.sqrt(math.pi) * dz * torch.erf(alpha * dz)
    return -2 * math.sqrt(math.pi) / surface * zero


def _accumulate(
    total: Tensor,
    part: Callable[[Tensor, Tensor, Tensor], Tensor],
    positions: Tensor,
    cell: Tensor,
    indices: Tensor,
    rows: int,
) -> Tensor:
    """Add the parts chunk by chunk; with gradients each chunk is recomputed instead of stored."""
    for chunk in _chunks(indices, rows):
        if torch.is_grad_enabled() and len(indices) > rows:
            total = total + checkpoint(
                part, positions, cell, chunk, use_reentrant=False, preserve_rng_state=False
            )
        else:
            total = total + part(positions, cell, chunk)
    return total


def _chunks(indices: Tensor, rows: int) -> Iterator[Tensor]:
    for start in range(0, len(indices), rows):
        yield indices[start : start + rows]
