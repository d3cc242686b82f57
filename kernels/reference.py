"""Every sum of the compiled kernels as its formula, in float64: the truth that the fast kernels are tested against.

Written with torch operations so that derivatives of any order follow from the formula itself. All values
are without the Coulomb constant: matrices in 1/Å, energies in e²/Å for charges in e. Lists of pairs are
made by comparing every atom with every image; nothing here is meant to be fast. What kernels do to lists of
integers and to rigid molecules stands at the end in numpy.
"""

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import root
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


def pair_energy(
    positions: Tensor,
    charges: Tensor,
    cell: Tensor,
    smearing: Tensor,
    i: Tensor,
    j: Tensor,
    shifts: Tensor,
    alpha: float,
    cutoff: float,
) -> Tensor:
    """Sum over the listed pairs with r < cutoff of q_i q_j [K(r) - e(rc) - e'(rc) (r - rc)], e = erfc(alpha r)/r.

    K is the `screened_kernel`. A half list gives the energy, e²/Å.
    """
    r = pair_distances(positions, cell, i, j, shifts)
    edge = torch.tensor(cutoff, dtype=r.dtype, requires_grad=True)
    with torch.enable_grad():
        value = torch.special.erfc(alpha * edge) / edge
    (slope,) = torch.autograd.grad(value, edge)
    kernel = screened_kernel(r, smearing[i], smearing[j], alpha) - value.detach() - slope * (r - cutoff)
    return torch.where(r < cutoff, charges[i] * charges[j] * kernel, torch.zeros_like(r)).sum()


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


def spline(x: Tensor, order: int) -> Tensor:
    """The cardinal B-spline M_p(x) from M_2(x) = max(0, 1 - |x - 1|).

    M_p(x) = [x M_{p-1}(x) + (p - x) M_{p-1}(x - 1)]/(p - 1)
    """
    if order == 2:
        return torch.clamp(1.0 - torch.abs(x - 1.0), min=0.0)
    return (x * spline(x, order - 1) + (order - x) * spline(x - 1.0, order - 1)) / (order - 1)


def spline_shares(positions: Tensor, cell: Tensor, mesh: tuple[int, int, int], order: int) -> list[Tensor]:
    """M_p(u - l) of every atom and every point of each direction, images added up: three of (n, points)."""
    out = []
    for d, n in enumerate(mesh):
        u = (positions @ torch.linalg.inv(cell))[:, d] * n
        away = torch.remainder(u[:, None] - torch.arange(n, dtype=u.dtype), n)
        out.append(torch.stack([spline(away + k * n, order) for k in range(-(-order // n))]).sum(0))
    return out


def spread_charges(
    positions: Tensor, charges: Tensor, cell: Tensor, mesh: tuple[int, int, int], order: int
) -> Tensor:
    """Q(l) = sum_j q_j M_p(u_1j - l_1) M_p(u_2j - l_2) M_p(u_3j - l_3), (n1,n2,n3) in e."""
    return torch.einsum("a,ai,aj,ak->ijk", charges, *spline_shares(positions, cell, mesh, order))


def gathered_potential(positions: Tensor, cell: Tensor, potential: Tensor, order: int) -> Tensor:
    """Sum over l of phi(l) M_p(u_1j - l_1) M_p(u_2j - l_2) M_p(u_3j - l_3), (n,): `spread_charges` transposed."""
    n1, n2, n3 = potential.shape
    return torch.einsum("ijk,ai,aj,ak->a", potential, *spline_shares(positions, cell, (n1, n2, n3), order))


def transform(values: Tensor, sign: int = -1) -> Tensor:
    """Sum over l of Q(l) exp(sign 2 pi i (m_1 l_1/n_1 + m_2 l_2/n_2 + m_3 l_3/n_3)), (n1,n2,n3) complex."""
    waves = values.to(torch.complex128)
    for d, n in enumerate(values.shape):
        l = torch.arange(n, dtype=torch.float64)
        phases = torch.exp(sign * 2j * math.pi * l[:, None] * l / n)
        waves = torch.movedim(torch.tensordot(phases, waves, dims=([1], [d])), 0, d)
    return waves


def mesh_weights(cell: Tensor, alpha: float, mesh: tuple[int, int, int], order: int) -> Tensor:
    """(2 pi/V) exp(-G²/4 alpha²)/(G² D²), (n1,n2,n3) in 1/Å, D = product of sum_l M_p(p/2 + l) cos(2 pi m l/n).

    0 for G = 0 and for waves at the edge of the mesh, of which it cannot tell the sign.
    """
    indices, factors = [], []
    for n in mesh:
        m = torch.arange(n, dtype=torch.float64)
        l = torch.arange(-order, order + 1, dtype=torch.float64)
        d = torch.cos(2 * math.pi * m[:, None] * l / n) @ spline(0.5 * order + l, order)
        factors.append(torch.where(2 * m == n, torch.zeros_like(m), d**-2))
        indices.append(torch.where(2 * m < n, m, m - n))
    g = 2 * math.pi * torch.stack(torch.meshgrid(*indices, indexing="ij"), -1) @ torch.linalg.inv(cell).T
    g2 = (g**2).sum(-1)
    zero = g2 == 0
    g2 = torch.where(zero, torch.ones_like(g2), g2)
    weights = 2 * math.pi / torch.abs(torch.linalg.det(cell)) * torch.exp(-g2 / (4 * alpha**2)) / g2
    return torch.where(zero, torch.zeros_like(g2), weights * torch.einsum("i,j,k->ijk", *factors))


def mesh_energy(
    positions: Tensor, charges: Tensor, cell: Tensor, alpha: float, mesh: tuple[int, int, int], order: int
) -> Tensor:
    """Sum over m of `mesh_weights` |`transform` of `spread_charges`|², in e²/Å.

    Source: Essmann, Perera, Berkowitz, Darden, Lee and Pedersen, J. Chem. Phys. 103, 8577 (1995).
    """
    waves = transform(spread_charges(positions, charges, cell, mesh, order))
    return (mesh_weights(cell, alpha, mesh, order) * (waves.real**2 + waves.imag**2)).sum()


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


def densities(
    positions: Tensor, cell: Tensor, species: Tensor, kinds: int, cutoff: float, radial: int, l_max: int
) -> Tensor:
    """A_i(s, lm, n) = sum over neighbours j of species s with r < cutoff of Y_lm(u) B_n(r), in the order (lm, i, s n).

        B_n(r) = sqrt(2/r_c) sin(n pi r/r_c)/r f(r/r_c),  f(t) = 1 - 28 t^6 + 48 t^7 - 21 t^8
        Y_lm(u) = sqrt(2l + 1) P_l^|m| {sqrt(2) sin(|m| phi), 1, sqrt(2) cos(m phi)} for m < 0, 0 and > 0

    With P_l^m normalised to sqrt((l - m)!/(l + m)!) and without the sign (-1)^m, the mean square of Y_lm is 1.
    """
    i, j, shifts = image_pairs(positions, cell, (True, True, True), cutoff)
    v = positions[j] + shifts.to(positions) @ cell - positions[i]
    r = torch.linalg.vector_norm(v, dim=1)
    basis = radial_functions(r, cutoff, radial)
    x, y, z = (v / r[:, None]).unbind(1)
    parts: list[Tensor] = []
    for l in range(l_max + 1):
        for m in range(-l, l + 1):
            # sin^k(theta) e^(i k phi) = (x + i y)^k; what is left of P_l^k is a derivative of a polynomial in z.
            k = abs(m)
            left = np.polynomial.Legendre.basis(l).convert(kind=np.polynomial.Polynomial).deriv(k).coef
            value = sum((float(c) * z**p for p, c in enumerate(left)), torch.zeros_like(z))
            turned = torch.complex(x, y) ** k if k else torch.ones_like(torch.complex(x, y))
            factor = math.sqrt((2 * l + 1) * math.factorial(l - k) / math.factorial(l + k))
            parts.append(
                factor * value * (math.sqrt(2.0) * (turned.imag if m < 0 else turned.real) if m else 1.0)
            )
    harmonics = torch.stack(parts, dim=1)
    products = (harmonics[:, :, None] * basis[:, None, :]).reshape(len(r), -1)
    sums = products.new_zeros((len(positions) * kinds, products.shape[1])).index_add(
        0, i * kinds + species[j], products
    )
    split = sums.reshape(len(positions), kinds, len(parts), radial)
    out: Tensor = split.permute(2, 0, 1, 3).reshape(len(parts), len(positions), kinds * radial)
    return out


def radial_functions(r: Tensor, cutoff: float, count: int) -> Tensor:
    """B_n (p,count) of distances (p,) below the cut-off; the formula stands in `densities`."""
    t = r / cutoff
    n = torch.arange(1, count + 1).to(t)
    waves = math.sqrt(2.0 / cutoff) * torch.sin(n * math.pi * t[:, None]) / r[:, None]
    found: Tensor = waves * (1.0 - 28.0 * t**6 + 48.0 * t**7 - 21.0 * t**8)[:, None]
    return found


def transfers(
    positions: Tensor,
    cell: Tensor,
    both: Tensor,
    i: Tensor,
    j: Tensor,
    shifts: Tensor,
    species: Tensor,
    solved: Tensor,
    cutoff: float,
    plain: Tensor,
    weights: Tensor,
) -> Tensor:
    """p (p,) of pairs, 0 beyond the cut-off and with solved atoms; u and v (n,d) stand side by side in `both`.

    p_ij = sum over n of B_n(r) [D_ab,n + sum over d of W_nd (u_d(i) v_d(j) - v_d(i) u_d(j))],  plain (kinds²,N) D, weights (N,d) W.
    """
    r = torch.linalg.vector_norm(positions[j] + shifts.to(positions) @ cell - positions[i], dim=1)
    u, v = both.chunk(2, dim=1)
    turned = u[i] * v[j] - v[i] * u[j]
    kinds = round(math.sqrt(len(plain)))
    amounts = plain[species[i] * kinds + species[j]] + turned @ weights.T
    gained = (radial_functions(r, cutoff, len(weights)) * amounts).sum(1)
    exchanged: Tensor = gained * ((r < cutoff) & ~solved[i] & ~solved[j])
    return exchanged


def lennard_jones(
    positions: Tensor,
    cell: Tensor,
    i: Tensor,
    j: Tensor,
    shifts: Tensor,
    types: Tensor,
    c12: Tensor,
    c6: Tensor,
    cutoff: float,
    begin: float,
    polynomials: Tensor,
) -> Tensor:
    """Energy of the pairs with r < cutoff: c12 [r^-12 - P_12(r)] - c6 [r^-6 - P_6(r)].

    P = a (r - begin)³ + b (r - begin)^4 + c beyond `begin` and c below; polynomials (3,2) holds a, b and c of both powers.
    """
    r = torch.linalg.vector_norm(positions[j] + shifts.to(positions) @ cell - positions[i], dim=1)
    near = r < cutoff
    r, first, second = r[near], types[i[near]], types[j[near]]
    t = (r - begin).clamp(min=0.0)
    a, b, c = polynomials
    ends = [a[p] * t**3 + b[p] * t**4 + c[p] for p in range(2)]
    energy: Tensor = (c12[first, second] * (r**-12 - ends[0]) - c6[first, second] * (r**-6 - ends[1])).sum()
    return energy


def bond_energy(d: Tensor, k: Tensor, lengths: Tensor) -> Tensor:
    """sum of k (|d| - length)²/2 of bonds d (b,3)."""
    missed: Tensor = torch.linalg.vector_norm(d, dim=1) - lengths
    return (0.5 * k * missed.square()).sum()


def angle_energy(u: Tensor, v: Tensor, k: Tensor, values: Tensor) -> Tensor:
    """sum of k (angle(u, v) - value)²/2 of vectors (a,3)."""
    unit = [a / torch.linalg.vector_norm(a, dim=1, keepdim=True) for a in (u, v)]
    return (0.5 * k * (torch.arccos((unit[0] * unit[1]).sum(1)) - values).square()).sum()


Integers = NDArray[np.integer]
Floats = NDArray[np.float64]
Triples = tuple[Integers, Integers, Integers]


def sorted_pairs(i: Integers, j: Integers, shifts: Integers) -> Triples:
    """Pairs in ascending order of i, then j, then the shift."""
    order = np.lexsort((shifts[:, 2], shifts[:, 1], shifts[:, 0], j, i))
    return i[order], j[order], shifts[order]


def rows_of_both(
    atoms: int, i: Integers, j: Integers, shifts: Integers
) -> tuple[Integers, Integers, Integers]:
    """First places (atoms + 1,), seconds and shifts of a half list with every pair in the rows of both atoms."""
    first, second = np.stack([i, j], axis=1).ravel(), np.stack([j, i], axis=1).ravel()
    both = np.stack([shifts, -shifts], axis=1).reshape(-1, 3)
    order = np.argsort(first, kind="stable")
    return np.searchsorted(first[order], np.arange(atoms + 1)), second[order], both[order]


def pairs_with(marked: NDArray[np.bool_], i: Integers, j: Integers, shifts: Integers) -> Triples:
    """The pairs of which one atom, or both, are marked, in their order."""
    chosen = marked[i] | marked[j]
    return i[chosen], j[chosen], shifts[chosen]


def first_pairs(i: Integers, shifts: Integers) -> Integers:
    """Places where the first atom or the shift differs from those of the pair before, and the number of pairs."""
    key = np.column_stack([i, shifts])
    new = (key[1:] != key[:-1]).any(axis=1)
    begins = np.concatenate([np.zeros(min(len(i), 1), np.int64), np.flatnonzero(new) + 1])
    return np.append(begins, len(i))


def first_rows(
    positions: Tensor, cell: Tensor, mesh: tuple[int, int, int], order: int
) -> tuple[Integers, Integers]:
    """The row l_1 n_2 + l_2 of the mesh that every atom touches first, (n,), and atoms sorted by it, (n,)."""
    u = (positions @ torch.linalg.inv(cell)).numpy() * np.asarray(mesh)
    first = (np.floor(u).astype(np.int64) - (order - 1)) % np.asarray(mesh)
    row = first[:, 0] * mesh[1] + first[:, 1]
    return row, np.argsort(row, kind="stable")


def farthest_move(new: NDArray[np.float64], old: NDArray[np.float64]) -> float:
    """Largest squared distance of two positions of one atom, Å²; NaN if there is one."""
    return float(((new - old) ** 2).sum(axis=1).max())


def symmetric_product(upper: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """A x of the symmetric A whose upper triangle is given; what lies below is not looked at."""
    whole = np.triu(upper) + np.triu(upper, 1).T
    return np.asarray(whole @ x)


def row_order(rows: int, i: Integers, j: Integers, image: Integers) -> tuple[Integers, Integers]:
    """Places (rows + 1,) where the pairs of every i begin when sorted by i, j and image, and the pairs in that order."""
    order = np.lexsort((image, j, i))
    return np.searchsorted(i[order], np.arange(rows + 1)), order


def charge_moments(
    kind: int, positions: Tensor, smearing: Tensor, charges: Tensor, normal: Tensor, origin: float
) -> Tensor:
    """Sums (3,) of charges times 1 and two numbers of each atom: s² and nothing; z and z²; s² and the height h.

    h = r.n and z = h - origin; the kinds are those of `cpu_assembly`.
    """
    height, one = positions @ normal - origin, torch.ones_like(charges)
    numbers = {
        0: (one, smearing**2, torch.zeros_like(one)),
        1: (one, height, height**2),
        2: (one, smearing**2, height),
    }
    return torch.stack([(charges * each).sum() for each in numbers[kind]])


def together_energy(moments: Tensor, form: Tensor, charges: Tensor, smearing: Tensor, own: float) -> Tensor:
    """1/2 m'Cm + 1/2 sum_i q_i² [1/(sqrt(pi) s_i) - own], the first term in brackets for charges with a width, in e²/Å."""
    point = smearing == 0
    width = torch.where(point, torch.ones_like(smearing), smearing)
    diagonal = torch.where(point, torch.zeros_like(width), 1.0 / (math.sqrt(math.pi) * width)) - own
    return 0.5 * (moments @ form @ moments + (diagonal * charges**2).sum())


def held_distances(new: Floats, old: Floats, lengths: Floats, masses: Floats) -> Floats:
    """Places (3,3) of three atoms with the given distances 01, 02, 12: x = new + sum over distances of lambda/m dg/dx(old).

    g is half a squared distance; new and old (3,3) are places after and before a step.
    """
    pull = _slopes_of_distances(old) / np.repeat(masses, 3)

    def moved(multipliers: Floats) -> Floats:
        return new + (multipliers @ pull).reshape(3, 3)

    def missed(multipliers: Floats) -> Floats:
        x = moved(multipliers)
        return np.asarray([np.sum((x[b] - x[a]) ** 2) for a, b in _DISTANCES]) - lengths**2

    return moved(root(missed, np.zeros(3), tol=1e-14).x)


def held_momenta(momenta: Floats, x: Floats, masses: Floats) -> Floats:
    """Momenta (3,3) of atoms at x (3,3) that change no distance: p - J^T (J M^-1 J^T)^-1 J M^-1 p, J the slopes of distances."""
    slopes = _slopes_of_distances(x)
    over_mass = slopes / np.repeat(masses, 3)
    multipliers = np.linalg.solve(over_mass @ slopes.T, over_mass @ momenta.ravel())
    return momenta - (multipliers @ slopes).reshape(3, 3)


_DISTANCES = ((0, 1), (0, 2), (1, 2))


def _slopes_of_distances(x: Floats) -> Floats:
    """Derivatives (3,9) of half the squared distances by the places."""
    slopes = np.zeros((3, 3, 3))
    for k, (a, b) in enumerate(_DISTANCES):
        slopes[k, b], slopes[k, a] = x[b] - x[a], x[a] - x[b]
    return slopes.reshape(3, 9)
