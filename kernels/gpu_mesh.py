"""Smooth particle mesh Ewald on the GPU: the formulas of `mesh` in Triton, with first derivatives; torch transforms.

Four steps: charges to the mesh, transform, weights and energy of the waves, transform back and potentials and forces
at the atoms; the derivatives are those of `cpu_mesh`. One program spreads or gathers a few atoms, plane by plane of the
points that each touches. A B-spline is evaluated at a point from its polynomial there,

    M_p(w + k) = sum over m of c_km w^m,  0 <= w < 1,

whose coefficients are made in rational arithmetic. Tensors are float64 or float32 throughout; energies are added in
float64. No call waits for the device or has a shape that depends on the numbers, so that a CUDA graph can capture it
after one call has made the tables and the plans of the transforms.

Atoms share mesh points, and charges are added with atomics, in an order, and so with last bits, that differ from run
to run. With `deterministic` they are added as integers, whose sum does not depend on the order: charges in units of
2^-s, s the largest with n max|q| 2^s <= 2^62, so that no sum overflows whatever the charges are. s is found on the
device; for 10^5 charges of 1 e it is 45, a step of 3e-14 e.

What should limit them, from counts and not from measurements, for n atoms, order p and N mesh points of b bytes:
spreading makes n p³ atomic additions in the cache, gathering as many reads; both wait for memory more than they
compute (2 to 4 operations per point, and 6 p² per atom for its splines). Weights read and write b N bytes and take
about 90 instructions per wave, an exponential among them; the transforms move several times b N bytes each. Below some
10^4 atoms and 64³ points the latency of the launches is all, which a captured graph lowers.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from grahame.kernels.mesh import Mesh, axis_factors

__all__ = ["INTERPRETED", "MeshDerivatives", "fixed_point_scale", "mesh_sum", "spread"]

_TWO_PI = tl.constexpr(6.283185307179586)
_WAVES = 256  # of one program
_BITS = 62  # of the largest sum in fixed point; the sign has one more


@dataclass(frozen=True)
class MeshDerivatives:
    """Energy in e²/Å (float64, 0-d) and the derivatives that were asked for (None otherwise)."""

    energy: Tensor
    positions: Tensor | None
    charges: Tensor | None
    cell: Tensor | None


@lru_cache(maxsize=64)
def _polynomials(order: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(p,p): row k has the coefficients of M_p(w + k), the highest power of w first."""
    pieces = [[Fraction(0), Fraction(1)], [Fraction(1), Fraction(-1)]]  # M_2: w and 1 - w, lowest power first
    for p in range(3, order + 1):
        # M_p(w + k) = [(w + k) M_{p-1}(w + k) + (p - w - k) M_{p-1}(w + k - 1)]/(p - 1)
        lower = [*pieces, [Fraction(0)] * (p - 1)]
        before = [[Fraction(0)] * (p - 1), *pieces]
        pieces = [
            [
                ((a[m] * k if m < p - 1 else 0) + (a[m - 1] if m else 0)
                 + (b[m] * (p - k) if m < p - 1 else 0) - (b[m - 1] if m else 0)) / Fraction(p - 1)
                for m in range(p)
            ]
            for k, (a, b) in enumerate(zip(lower, before))
        ]  # fmt: skip
    rows = [[float(c) for c in reversed(piece)] for piece in pieces]
    return torch.tensor(rows, dtype=dtype, device=device)


@triton.jit
def _reciprocal(h: tl.tensor) -> tl.tensor:
    """The columns of inv(h), three vectors, and det(h)."""
    ax, ay, az = tl.load(h), tl.load(h + 1), tl.load(h + 2)
    bx, by, bz = tl.load(h + 3), tl.load(h + 4), tl.load(h + 5)
    cx, cy, cz = tl.load(h + 6), tl.load(h + 7), tl.load(h + 8)
    ux, uy, uz = by * cz - bz * cy, bz * cx - bx * cz, bx * cy - by * cx
    volume = ax * ux + ay * uy + az * uz
    v = 1.0 / volume
    return (
        ux * v, uy * v, uz * v,
        (cy * az - cz * ay) * v, (cz * ax - cx * az) * v, (cx * ay - cy * ax) * v,
        (ay * bz - az * by) * v, (az * bx - ax * bz) * v, (ax * by - ay * bx) * v,
        volume,
    )  # fmt: skip


@triton.jit
def _spline(table: tl.tensor, k: tl.tensor, w: tl.tensor, order: tl.constexpr) -> tl.tensor:
    """M_p(w + k) and its derivative, 0 for k >= p."""
    inside = k < order
    value = tl.load(table + k * order, mask=inside, other=0.0)
    slope = value * 0.0
    for m in tl.static_range(1, order):
        slope = slope * w + value
        value = value * w + tl.load(table + k * order + m, mask=inside, other=0.0)
    return value, slope


@triton.jit
def _along(
    x: tl.tensor,
    y: tl.tensor,
    z: tl.tensor,
    rx: tl.tensor,
    ry: tl.tensor,
    rz: tl.tensor,
    n: tl.tensor,
) -> tl.tensor:
    """The mesh point below each atom along one direction, 0 <= point < n, and how far the atom lies above it."""
    u = (x * rx + y * ry + z * rz) * n
    floor = tl.floor(u)
    point = floor.to(tl.int32) % n
    return tl.where(point < 0, point + n, point), u - floor


@triton.jit(do_not_specialize=["atoms"])
def _spread(
    atoms: tl.tensor,
    x: tl.tensor,
    q: tl.tensor,
    h: tl.tensor,
    table: tl.tensor,
    scale: tl.tensor,
    out: tl.tensor,
    n1: tl.tensor,
    n2: tl.tensor,
    n3: tl.tensor,
    order: tl.constexpr,
    wide: tl.constexpr,
    block: tl.constexpr,
    fixed: tl.constexpr,
) -> None:
    """Adds the charges of a block of atoms to the mesh; with `fixed` as integers in units of 1/scale."""
    a = tl.program_id(0) * block + tl.arange(0, block)
    real = a < atoms
    r1x, r1y, r1z, r2x, r2y, r2z, r3x, r3y, r3z, _ = _reciprocal(h)
    x0 = tl.load(x + 3 * a, mask=real, other=0.0)
    y0 = tl.load(x + 3 * a + 1, mask=real, other=0.0)
    z0 = tl.load(x + 3 * a + 2, mask=real, other=0.0)
    p1, w1 = _along(x0, y0, z0, r1x, r1y, r1z, n1)
    p2, w2 = _along(x0, y0, z0, r2x, r2y, r2z, n2)
    p3, w3 = _along(x0, y0, z0, r3x, r3y, r3z, n3)
    k = tl.arange(0, wide)[None, :]
    m2, _ = _spline(table, k, w2[:, None], order)
    m3, _ = _spline(table, k, w3[:, None], order)
    # k < p <= p n: the remainder of a positive number.
    row = ((p2[:, None] - k + order * n2) % n2) * n3
    point = row[:, :, None] + ((p3[:, None] - k + order * n3) % n3)[:, None, :]
    touched = real[:, None, None] & (k < order)[:, :, None] & (k < order)[:, None, :]
    plane = tl.load(q + a, mask=real, other=0.0)[:, None, None] * m2[:, :, None] * m3[:, None, :]
    for l in tl.static_range(order):
        m1, _ = _spline(table, l, w1, order)
        start = ((p1 - l + order * n1) % n1).to(tl.int64) * n2 * n3
        place = out + start[:, None, None] + point
        share = m1[:, None, None] * plane
        if fixed:
            units = tl.floor(share.to(tl.float64) * tl.load(scale) + 0.5).to(tl.int64)
            tl.atomic_add(place, units, mask=touched, sem="relaxed")
        else:
            tl.atomic_add(place, share, mask=touched, sem="relaxed")


@triton.jit(do_not_specialize=["atoms"])
def _gather(
    atoms: tl.tensor,
    x: tl.tensor,
    q: tl.tensor,
    h: tl.tensor,
    table: tl.tensor,
    phi: tl.tensor,
    potential: tl.tensor,
    gradient: tl.tensor,
    n1: tl.tensor,
    n2: tl.tensor,
    n3: tl.tensor,
    order: tl.constexpr,
    wide: tl.constexpr,
    block: tl.constexpr,
    forces: tl.constexpr,
) -> None:
    """Potentials at a block of atoms and, with `forces`, their charges times the gradients."""
    a = tl.program_id(0) * block + tl.arange(0, block)
    real = a < atoms
    r1x, r1y, r1z, r2x, r2y, r2z, r3x, r3y, r3z, _ = _reciprocal(h)
    x0 = tl.load(x + 3 * a, mask=real, other=0.0)
    y0 = tl.load(x + 3 * a + 1, mask=real, other=0.0)
    z0 = tl.load(x + 3 * a + 2, mask=real, other=0.0)
    p1, w1 = _along(x0, y0, z0, r1x, r1y, r1z, n1)
    p2, w2 = _along(x0, y0, z0, r2x, r2y, r2z, n2)
    p3, w3 = _along(x0, y0, z0, r3x, r3y, r3z, n3)
    k = tl.arange(0, wide)[None, :]
    m2, d2 = _spline(table, k, w2[:, None], order)
    m3, d3 = _spline(table, k, w3[:, None], order)
    row = ((p2[:, None] - k + order * n2) % n2) * n3
    point = row[:, :, None] + ((p3[:, None] - k + order * n3) % n3)[:, None, :]
    touched = real[:, None, None] & (k < order)[:, :, None] & (k < order)[:, None, :]
    kind: tl.constexpr = x.dtype.element_ty
    summed = tl.zeros((block, wide, wide), dtype=kind)  # over the planes, with M and with M'
    sloped = tl.zeros((block, wide, wide), dtype=kind)
    for l in tl.static_range(order):
        m1, d1 = _spline(table, l, w1, order)
        start = ((p1 - l + order * n1) % n1).to(tl.int64) * n2 * n3
        value = tl.load(phi + start[:, None, None] + point, mask=touched, other=0.0)
        summed += m1[:, None, None] * value
        sloped += d1[:, None, None] * value
    line = tl.sum(summed * m3[:, None, :], 2)
    tl.store(potential + a, tl.sum(line * m2, 1), mask=real)
    if forces:
        charge = tl.load(q + a, mask=real, other=0.0)
        g1 = charge * n1 * tl.sum(tl.sum(sloped * m3[:, None, :], 2) * m2, 1)
        g2 = charge * n2 * tl.sum(line * d2, 1)
        g3 = charge * n3 * tl.sum(tl.sum(summed * d3[:, None, :], 2) * m2, 1)
        tl.store(gradient + 3 * a, r1x * g1 + r2x * g2 + r3x * g3, mask=real)
        tl.store(gradient + 3 * a + 1, r1y * g1 + r2y * g2 + r3y * g3, mask=real)
        tl.store(gradient + 3 * a + 2, r1z * g1 + r2z * g2 + r3z * g3, mask=real)


@triton.jit
def _weigh(
    waves: tl.tensor,
    h: tl.tensor,
    f1: tl.tensor,
    f2: tl.tensor,
    f3: tl.tensor,
    count: tl.tensor,
    n1: tl.tensor,
    n2: tl.tensor,
    stored: tl.tensor,
    alpha: tl.float64,
    energy: tl.tensor,
    tensor: tl.tensor,
    strain: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """FFT[Q] -> 2 W FFT[Q] of one block of waves, in place, with their energy and G G^T sums."""
    program = tl.program_id(0)
    place = program * block + tl.arange(0, block)
    listed = place < count
    m3 = place % stored
    i2 = (place // stored) % n2
    i1 = tl.where(listed, (place // stored) // n2, 0)
    kind: tl.constexpr = h.dtype.element_ty
    m1 = tl.where(2 * i1 < n1, i1, i1 - n1).to(kind)
    m2 = tl.where(2 * i2 < n2, i2, i2 - n2).to(kind)
    r1x, r1y, r1z, r2x, r2y, r2z, r3x, r3y, r3z, volume = _reciprocal(h)
    k3 = m3.to(kind)
    gx = (m1 * r1x + m2 * r2x + k3 * r3x) * _TWO_PI
    gy = (m1 * r1y + m2 * r2y + k3 * r3y) * _TWO_PI
    gz = (m1 * r1z + m2 * r2z + k3 * r3z) * _TWO_PI
    some = listed & ((i1 > 0) | (i2 > 0) | (m3 > 0))
    g2 = tl.where(some, gx * gx + gy * gy + gz * gz, 1.0)
    # 1/D² along each direction, 0 at the edges.
    factor = (tl.load(f1 + i1) * tl.load(f2 + i2) * tl.load(f3 + m3)).to(kind)
    quarter = 0.25 / tl.full((1,), alpha * alpha, tl.float64).to(kind)
    weight = tl.where(some, factor * tl.exp(-g2 * quarter) / (g2 * tl.abs(volume)) * _TWO_PI, 0.0)
    real = tl.load(waves + 2 * place, mask=listed, other=0.0)
    imaginary = tl.load(waves + 2 * place + 1, mask=listed, other=0.0)
    tl.store(waves + 2 * place, 2.0 * weight * real, mask=listed)
    tl.store(waves + 2 * place + 1, 2.0 * weight * imaginary, mask=listed)
    # Waves off the plane m3 = 0 stand for G and -G.
    square = weight * (real * real + imaginary * imaginary) * tl.where(m3 > 0, 2.0, 1.0)
    tl.store(energy + program, tl.sum(square.to(tl.float64), 0))
    if strain:
        part = 2.0 * square * (quarter + 1.0 / g2)
        xx, xy, xz = part * gx * gx, part * gx * gy, part * gx * gz
        yy, yz, zz = part * gy * gy, part * gy * gz, part * gz * gz
        out = tensor + 9 * program
        sxy, sxz = tl.sum(xy.to(tl.float64), 0), tl.sum(xz.to(tl.float64), 0)
        syz = tl.sum(yz.to(tl.float64), 0)
        tl.store(out, tl.sum(xx.to(tl.float64), 0))
        tl.store(out + 1, sxy)
        tl.store(out + 2, sxz)
        tl.store(out + 3, sxy)
        tl.store(out + 4, tl.sum(yy.to(tl.float64), 0))
        tl.store(out + 5, syz)
        tl.store(out + 6, sxz)
        tl.store(out + 7, syz)
        tl.store(out + 8, tl.sum(zz.to(tl.float64), 0))


INTERPRETED = not isinstance(_spread, triton.JITFunction)  # by Triton's interpreter, for tensors on the CPU


def fixed_point_scale(q: Tensor) -> Tensor:
    """2^s, 0-d in float64: n charges of this size, times a spline each, add up to less than 2^62/2^s."""
    largest = q.abs().amax().to(torch.float64) if len(q) else q.new_zeros((), dtype=torch.float64)
    _, exponent = torch.frexp(largest * len(q))
    return torch.ldexp(torch.ones_like(largest), _BITS - exponent)


def spread(x: Tensor, q: Tensor, h: Tensor, mesh: Mesh, order: int, deterministic: bool) -> Tensor:
    """Charges on the mesh, (n1, n2, n3) in e; as `mesh.spread`. Arguments as `mesh_sum`."""
    if not deterministic:
        out = x.new_zeros(mesh)
        _spread_into(out, x, q, h, out, mesh, order, False)
        return out
    scale = fixed_point_scale(q)
    units = x.new_zeros(mesh, dtype=torch.int64)
    _spread_into(units, x, q, h, scale, mesh, order, True)
    return (units.to(torch.float64) / scale).to(x.dtype)


def mesh_sum(
    x: Tensor,
    q: Tensor,
    h: Tensor,
    alpha: float,
    mesh: Mesh,
    order: int,
    forces: bool,
    potential: bool,
    strain: bool,
    deterministic: bool,
) -> MeshDerivatives:
    """Energy of `mesh.wave_energy` and its derivatives.

    Args:
        x: (n,3) Å, inside the cell or not; x, q, h all in float64 or all in float32, on one device, contiguous.
        q: (n,) e.
        h: (3,3) rows in Å.
        alpha: splitting parameter in 1/Å.
        mesh: number of mesh points along the cell vectors.
        order: B-spline order, 4 to 10.
        forces: whether dE/dx is wanted.
        potential: whether dE/dq is wanted.
        strain: whether dE/dh at fixed positions is wanted.
        deterministic: whether charges are added as integers, with the same bits in every run and order of atoms.

    Returns:
        `MeshDerivatives`.

    Raises:
        ValueError: for a mesh of 2^31 points or more.
    """
    n1, n2, n3 = mesh
    stored = n3 // 2 + 1
    if n1 * n2 * 2 * stored >= 2**31:
        raise ValueError(f"mesh = {mesh} points must be fewer than 2147483648 in all: choose a coarser mesh")
    n, count = len(x), n1 * n2 * stored
    transform = torch.fft.rfftn(spread(x, q, h, mesh, order, deterministic)).contiguous()
    programs = triton.cdiv(count, _WAVES)
    energies = x.new_empty(programs, dtype=torch.float64)
    tensors = x.new_empty((programs if strain else 0, 9), dtype=torch.float64)
    factors = [axis_factors(m, order, x.device) for m in mesh]
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        _weigh[(programs,)](
            torch.view_as_real(transform), h, *factors, count, n1, n2, stored, float(alpha), energies, tensors,
            strain, _WAVES, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
    energy = energies.sum()
    if not (forces or potential or strain):
        return MeshDerivatives(energy, None, None, None)
    phi = torch.fft.irfftn(transform, s=mesh, norm="forward").contiguous()
    moved = forces or strain
    at_atoms, gradient = x.new_empty(n), x.new_empty((n if moved else 0, 3))
    if n:
        wide, block = _tile(order)
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
            _gather[(triton.cdiv(n, block),)](
                n, x, q, h, _polynomials(order, x.dtype, x.device), phi, at_atoms, gradient, n1, n2, n3,
                order, wide, block, moved, num_warps=4, enable_fp_fusion=True,
            )  # fmt: skip
    return MeshDerivatives(
        energy,
        gradient if forces else None,
        at_atoms if potential else None,
        _strain(x, h, energy, tensors, gradient) if strain else None,
    )


def _spread_into(
    out: Tensor, x: Tensor, q: Tensor, h: Tensor, scale: Tensor, mesh: Mesh, order: int, fixed: bool
) -> None:
    if len(x):
        wide, block = _tile(order)
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
            _spread[(triton.cdiv(len(x), block),)](
                len(x), x, q, h, _polynomials(order, x.dtype, x.device), scale, out, *mesh,
                order, wide, block, fixed, num_warps=4, enable_fp_fusion=True,
            )  # fmt: skip


def _strain(x: Tensor, h: Tensor, energy: Tensor, tensors: Tensor, gradient: Tensor) -> Tensor:
    """inv(h)^T {sum of 2 W |FFT[Q]|² (1/4 alpha² + 1/G²) G G^T - E 1 - sum_j x_j (dE/dx_j)^T}."""
    unit = torch.eye(3, dtype=torch.float64, device=x.device)
    inner = tensors.sum(0).reshape(3, 3) - energy * unit - (x.T @ gradient).to(torch.float64)
    # Without a look at whether the cell is singular, for which the host would wait.
    inverse = torch.linalg.inv_ex(h.to(torch.float64)).inverse
    out: Tensor = (inverse.T @ inner).to(x.dtype)
    return out


def _tile(order: int) -> tuple[int, int]:
    """Lanes along each side of a plane, and how many atoms share a program: two points of a plane for each lane."""
    wide = triton.next_power_of_2(order)
    return wide, (16 if INTERPRETED else 256 // wide**2)
