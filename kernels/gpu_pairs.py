"""Pair sums on the GPU: the formulas of `pairs` in Triton, with the first derivatives that are wanted.

Two kernels give the same sums. `half_list` has one lane per pair of a half list and adds to both atoms with atomics,
in an order, and so with last bits, that differ from run to run. `grouped` has one program per atom, which owns what
is summed for it: a full list grouped by atom, twice the arithmetic, no atomics, the same bits in every run.

Tensors are float64 or float32 throughout; in float32 energies are still added in float64. No call waits for the
device or has a shape that depends on the numbers, so that a CUDA graph can capture it. While the arrays of a captured
list keep their length, places left over are filled with pairs beyond the cut-off, such as i = j = 0 with a far shift.

What should limit them, from counts and not from measurements: for each half pair 20 bytes of the list are read in
int32 (40 in int64), once by `half_list`, while `grouped` reads 16 twice; positions, charges and widths of a
neighbourhood stay in the cache. Compiled for compute capability 9.0 a pair takes about 220 instructions of float64
with forces, some 80 of them only where a block has Gaussians within reach: arithmetic is the limit there, the more so
on chips with few float64 units. In float32 it is about 100, and the list's bytes and the latency of gathered
positions are the limit. `half_list` adds 2 numbers with atomics per near pair and 6 more with forces; many of one
atom meet there. Below some ten thousand pairs the launch is all.
"""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from grahame.kernels.gpu_erfc import gauss_and_erfc
from grahame.kernels.pairs import TWO_OVER_SQRT_PI, shift_terms

__all__ = ["INTERPRETED", "Grouped", "PairDerivatives", "group", "grouped", "half_list"]

_SLOPE = tl.constexpr(-TWO_OVER_SQRT_PI)  # of erfc at 0
_REACH = tl.constexpr(2.0 * 6.4**2)  # r² beyond which erfc(g r) < 1e-19, over s_i² + s_j²
_PAIRS = 128  # of one program of `half_list`
_NEIGHBORS = 64  # of one atom at a time in `grouped`


@dataclass(frozen=True)
class PairDerivatives:
    """Energy in e²/Å (float64, 0-d), potential (n,) in e/Å and the other derivatives that were asked for."""

    energy: Tensor
    charges: Tensor
    positions: Tensor | None
    cell: Tensor | None
    smearing: Tensor | None


@dataclass(frozen=True)
class Grouped:
    """A full list, grouped by the first atom.

    Attributes:
        start: (n+1,) int64; the neighbours of atom i are at start[i] .. start[i+1] - 1.
        j: (2p,) int32 second atoms.
        shifts: (2p,3) int32 lattice shifts of these.
    """

    start: Tensor
    j: Tensor
    shifts: Tensor


def group(n: int, i: Tensor, j: Tensor, shifts: Tensor) -> Grouped:
    """The full list of a half list, both directions of each pair; neighbours keep the order of the half list.

    Args:
        n: number of atoms.
        i: (p,) first atoms.
        j: (p,) second atoms.
        shifts: (p,3) lattice shifts of the second atoms.

    Returns:
        `Grouped` on the same device.
    """
    first, order = torch.sort(torch.cat([i, j]), stable=True)
    start = torch.searchsorted(first, torch.arange(n + 1, dtype=first.dtype, device=first.device))
    second, images = torch.cat([j, i])[order], torch.cat([shifts, -shifts])[order]
    return Grouped(start, second.to(torch.int32), images.to(torch.int32).contiguous())


@triton.jit
def _cell_rows(h: tl.tensor) -> tl.tensor:
    """The nine numbers of the cell."""
    ax, ay, az = tl.load(h), tl.load(h + 1), tl.load(h + 2)
    bx, by, bz = tl.load(h + 3), tl.load(h + 4), tl.load(h + 5)
    cx, cy, cz = tl.load(h + 6), tl.load(h + 7), tl.load(h + 8)
    return ax, ay, az, bx, by, bz, cx, cy, cz


@triton.jit
def _pair(
    r2: tl.tensor,
    near: tl.tensor,
    squared: tl.tensor,
    alpha: tl.tensor,
    origin: tl.tensor,
    edge: tl.tensor,
    edge_slope: tl.tensor,
) -> tl.tensor:
    """f(r), f'(r)/r and (df/ds_i)/s_i of near pairs; `squared` is s_i² + s_j²."""
    safe = tl.where(near, r2, 1.0)
    r = tl.sqrt(safe)
    inverse = 1.0 / r
    gauss, screened = gauss_and_erfc(alpha * r)
    slope = alpha * gauss * _SLOPE
    width = r * 0.0
    reached = near & (squared > 0.0) & (safe < squared * _REACH)
    if tl.sum(reached.to(tl.int32), 0) > 0:
        g = 1.0 / tl.sqrt(2.0 * tl.where(reached, squared, 1.0))
        gauss, erfc = gauss_and_erfc(g * r)
        derivative = tl.where(reached, gauss * _SLOPE, 0.0)
        screened -= tl.where(reached, erfc, 0.0)
        slope -= g * derivative
        # d/dg of -erfc(g r)/r is -erfc'(g r), and dg/ds_i = -2 g³ s_i.
        width = 2.0 * g * g * g * derivative
    value = screened * inverse
    slope = ((slope - value) * inverse - edge_slope) * inverse
    return value - edge - edge_slope * (r - origin), slope, width


@triton.jit(do_not_specialize=["count"])
def _half_list(
    x: tl.tensor,
    q: tl.tensor,
    h: tl.tensor,
    s: tl.tensor,
    i: tl.tensor,
    j: tl.tensor,
    shifts: tl.tensor,
    count: tl.tensor,
    alpha: tl.float64,
    limit: tl.float64,
    origin: tl.float64,
    edge: tl.float64,
    edge_slope: tl.float64,
    energy: tl.tensor,
    potential: tl.tensor,
    gradient: tl.tensor,
    cell: tl.tensor,
    smearing: tl.tensor,
    forces: tl.constexpr,
    strain: tl.constexpr,
    widths: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """One block of pairs: its energy and cell derivative, and what it adds to its atoms."""
    program = tl.program_id(0)
    k = program.to(tl.int64) * block + tl.arange(0, block)
    listed = k < count
    a = tl.load(i + k, mask=listed, other=0)
    b = tl.load(j + k, mask=listed, other=0)
    ax, ay, az, bx, by, bz, cx, cy, cz = _cell_rows(h)
    kind: tl.constexpr = x.dtype.element_ty
    s0 = tl.load(shifts + 3 * k, mask=listed, other=0).to(kind)
    s1 = tl.load(shifts + 3 * k + 1, mask=listed, other=0).to(kind)
    s2 = tl.load(shifts + 3 * k + 2, mask=listed, other=0).to(kind)
    dx = tl.load(x + 3 * b) - tl.load(x + 3 * a) + s0 * ax + s1 * bx + s2 * cx
    dy = tl.load(x + 3 * b + 1) - tl.load(x + 3 * a + 1) + s0 * ay + s1 * by + s2 * cy
    dz = tl.load(x + 3 * b + 2) - tl.load(x + 3 * a + 2) + s0 * az + s1 * bz + s2 * cz
    r2 = dx * dx + dy * dy + dz * dz
    near = listed & (r2 < tl.full((1,), limit, kind))
    sa, sb = tl.load(s + a), tl.load(s + b)
    f, slope, width = _pair(
        r2,
        near,
        sa * sa + sb * sb,
        tl.full((1,), alpha, kind),
        tl.full((1,), origin, kind),
        tl.full((1,), edge, kind),
        tl.full((1,), edge_slope, kind),
    )
    qa, qb = tl.load(q + a), tl.load(q + b)
    both = tl.where(near, qa * qb, 0.0)
    tl.store(energy + program, tl.sum(tl.where(near, (both * f).to(tl.float64), 0.0), 0))
    tl.atomic_add(potential + a, qb * f, mask=near, sem="relaxed")
    tl.atomic_add(potential + b, qa * f, mask=near, sem="relaxed")
    if forces:
        w = both * slope
        tl.atomic_add(gradient + 3 * a, -w * dx, mask=near, sem="relaxed")
        tl.atomic_add(gradient + 3 * a + 1, -w * dy, mask=near, sem="relaxed")
        tl.atomic_add(gradient + 3 * a + 2, -w * dz, mask=near, sem="relaxed")
        tl.atomic_add(gradient + 3 * b, w * dx, mask=near, sem="relaxed")
        tl.atomic_add(gradient + 3 * b + 1, w * dy, mask=near, sem="relaxed")
        tl.atomic_add(gradient + 3 * b + 2, w * dz, mask=near, sem="relaxed")
    if strain:
        w = tl.where(near, both * slope, 0.0)
        _store_outer(cell + 9 * program, s0, s1, s2, w * dx, w * dy, w * dz)
    if widths:
        tl.atomic_add(smearing + a, both * width * sa, mask=near, sem="relaxed")
        tl.atomic_add(smearing + b, both * width * sb, mask=near, sem="relaxed")


@triton.jit
def _store_outer(
    out: tl.tensor,
    s0: tl.tensor,
    s1: tl.tensor,
    s2: tl.tensor,
    vx: tl.tensor,
    vy: tl.tensor,
    vz: tl.tensor,
) -> None:
    """Sums over the lanes of S v^T, nine numbers in float64."""
    tl.store(out, tl.sum((s0 * vx).to(tl.float64), 0))
    tl.store(out + 1, tl.sum((s0 * vy).to(tl.float64), 0))
    tl.store(out + 2, tl.sum((s0 * vz).to(tl.float64), 0))
    tl.store(out + 3, tl.sum((s1 * vx).to(tl.float64), 0))
    tl.store(out + 4, tl.sum((s1 * vy).to(tl.float64), 0))
    tl.store(out + 5, tl.sum((s1 * vz).to(tl.float64), 0))
    tl.store(out + 6, tl.sum((s2 * vx).to(tl.float64), 0))
    tl.store(out + 7, tl.sum((s2 * vy).to(tl.float64), 0))
    tl.store(out + 8, tl.sum((s2 * vz).to(tl.float64), 0))


@triton.jit
def _grouped(
    x: tl.tensor,
    q: tl.tensor,
    h: tl.tensor,
    s: tl.tensor,
    start: tl.tensor,
    j: tl.tensor,
    shifts: tl.tensor,
    alpha: tl.float64,
    limit: tl.float64,
    origin: tl.float64,
    edge: tl.float64,
    edge_slope: tl.float64,
    energy: tl.tensor,
    potential: tl.tensor,
    gradient: tl.tensor,
    cell: tl.tensor,
    smearing: tl.tensor,
    forces: tl.constexpr,
    strain: tl.constexpr,
    widths: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """All neighbours of one atom: half of its energy and cell derivative, and all of its own derivatives."""
    atom = tl.program_id(0)
    begin, end = tl.load(start + atom), tl.load(start + atom + 1)
    ax, ay, az, bx, by, bz, cx, cy, cz = _cell_rows(h)
    kind: tl.constexpr = x.dtype.element_ty
    x0, y0, z0 = tl.load(x + 3 * atom), tl.load(x + 3 * atom + 1), tl.load(x + 3 * atom + 2)
    qa, sa = tl.load(q + atom), tl.load(s + atom)
    lanes = tl.arange(0, block).to(tl.int64)
    zero = tl.zeros((block,), dtype=kind)
    pot, gx, gy, gz, gs = zero, zero, zero, zero, zero
    vxx, vxy, vxz, vyx, vyy, vyz, vzx, vzy, vzz = zero, zero, zero, zero, zero, zero, zero, zero, zero
    for first in range(begin, end, block):
        k = first + lanes
        listed = k < end
        b = tl.load(j + k, mask=listed, other=0)
        s0 = tl.load(shifts + 3 * k, mask=listed, other=0).to(kind)
        s1 = tl.load(shifts + 3 * k + 1, mask=listed, other=0).to(kind)
        s2 = tl.load(shifts + 3 * k + 2, mask=listed, other=0).to(kind)
        dx = tl.load(x + 3 * b) - x0 + s0 * ax + s1 * bx + s2 * cx
        dy = tl.load(x + 3 * b + 1) - y0 + s0 * ay + s1 * by + s2 * cy
        dz = tl.load(x + 3 * b + 2) - z0 + s0 * az + s1 * bz + s2 * cz
        r2 = dx * dx + dy * dy + dz * dz
        near = listed & (r2 < tl.full((1,), limit, kind))
        sb = tl.load(s + b)
        f, slope, width = _pair(
            r2,
            near,
            sa * sa + sb * sb,
            tl.full((1,), alpha, kind),
            tl.full((1,), origin, kind),
            tl.full((1,), edge, kind),
            tl.full((1,), edge_slope, kind),
        )
        qb = tl.load(q + b)
        pot += tl.where(near, qb * f, 0.0)
        if forces or strain:
            w = tl.where(near, qb * slope, 0.0)
            gx += w * dx
            gy += w * dy
            gz += w * dz
            if strain:
                vxx += s0 * w * dx
                vxy += s0 * w * dy
                vxz += s0 * w * dz
                vyx += s1 * w * dx
                vyy += s1 * w * dy
                vyz += s1 * w * dz
                vzx += s2 * w * dx
                vzy += s2 * w * dy
                vzz += s2 * w * dz
        if widths:
            gs += tl.where(near, qb * width, 0.0)
    total = tl.sum(pot.to(tl.float64), 0)
    charge = qa.to(tl.float64)
    tl.store(energy + atom, 0.5 * charge * total)
    tl.store(potential + atom, total.to(kind))
    if forces:
        tl.store(gradient + 3 * atom, (-charge * tl.sum(gx.to(tl.float64), 0)).to(kind))
        tl.store(gradient + 3 * atom + 1, (-charge * tl.sum(gy.to(tl.float64), 0)).to(kind))
        tl.store(gradient + 3 * atom + 2, (-charge * tl.sum(gz.to(tl.float64), 0)).to(kind))
    if strain:
        out = cell + 9 * atom
        tl.store(out, 0.5 * charge * tl.sum(vxx.to(tl.float64), 0))
        tl.store(out + 1, 0.5 * charge * tl.sum(vxy.to(tl.float64), 0))
        tl.store(out + 2, 0.5 * charge * tl.sum(vxz.to(tl.float64), 0))
        tl.store(out + 3, 0.5 * charge * tl.sum(vyx.to(tl.float64), 0))
        tl.store(out + 4, 0.5 * charge * tl.sum(vyy.to(tl.float64), 0))
        tl.store(out + 5, 0.5 * charge * tl.sum(vyz.to(tl.float64), 0))
        tl.store(out + 6, 0.5 * charge * tl.sum(vzx.to(tl.float64), 0))
        tl.store(out + 7, 0.5 * charge * tl.sum(vzy.to(tl.float64), 0))
        tl.store(out + 8, 0.5 * charge * tl.sum(vzz.to(tl.float64), 0))
    if widths:
        tl.store(smearing + atom, (charge * sa * tl.sum(gs.to(tl.float64), 0)).to(kind))


INTERPRETED = not isinstance(
    _half_list, triton.JITFunction
)  # by Triton's interpreter, for tensors on the CPU


def half_list(
    x: Tensor,
    q: Tensor,
    h: Tensor,
    s: Tensor,
    i: Tensor,
    j: Tensor,
    shifts: Tensor,
    alpha: float,
    cutoff: float,
    shift: bool,
    forces: bool,
    strain: bool,
    widths: bool,
) -> PairDerivatives:
    """Energy and derivatives of `pairs.screened_energy` over a half list, with atomics.

    Args:
        x: (n,3) Å; all of x, q, h, s in float64 or all in float32, on one device, contiguous.
        q: (n,) e.
        h: (3,3) rows in Å.
        s: (n,) Gaussian widths in Å; 0 is a point.
        i: (p,) first atoms, int32 or int64 as j and shifts; contiguous.
        j: (p,) second atoms.
        shifts: (p,3) lattice shifts of the second atoms.
        alpha: splitting parameter in 1/Å; 0 for the bare interaction of excluded pairs, with its sign turned.
        cutoff: Å; may be infinite where `shift` is False.
        shift: whether energy and force go to zero at the cut-off.
        forces: whether dE/dx is wanted.
        strain: whether dE/dh at fixed positions is wanted.
        widths: whether dE/ds is wanted.

    Returns:
        `PairDerivatives`.
    """
    programs = triton.cdiv(len(i), _PAIRS)
    out = _Outputs.of(x, programs, forces, strain, widths)
    if programs and len(x):
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
            _half_list[(programs,)](
                x, q, h, s, i, j, shifts, len(i), *_parameters(alpha, cutoff, shift), *out.arrays(),
                forces, strain, widths, _PAIRS, num_warps=4, enable_fp_fusion=True,
            )  # fmt: skip
    return out.derivatives(x.dtype, forces, strain, widths)


def grouped(
    x: Tensor,
    q: Tensor,
    h: Tensor,
    s: Tensor,
    pairs: Grouped,
    alpha: float,
    cutoff: float,
    shift: bool,
    forces: bool,
    strain: bool,
    widths: bool,
) -> PairDerivatives:
    """The same over the full list of `group`, without atomics: every call gives the same bits; see `half_list`."""
    out = _Outputs.of(x, len(x), forces, strain, widths)
    if len(x):
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
            _grouped[(len(x),)](
                x, q, h, s, pairs.start, pairs.j, pairs.shifts, *_parameters(alpha, cutoff, shift), *out.arrays(),
                forces, strain, widths, _NEIGHBORS, num_warps=2, enable_fp_fusion=True,
            )  # fmt: skip
    return out.derivatives(x.dtype, forces, strain, widths)


def _parameters(alpha: float, cutoff: float, shift: bool) -> tuple[float, float, float, float, float]:
    """alpha, the square of the cut-off, the point where the shift is zero, its value and its slope."""
    if not shift:
        # The cut-off may be infinite: 0 times infinity must not appear.
        return float(alpha), float(cutoff) ** 2, 0.0, 0.0, 0.0
    if not math.isfinite(cutoff):
        raise ValueError(f"cutoff = {cutoff} Å must be finite with a shift: give a length such as 6.0")
    return float(alpha), float(cutoff) ** 2, float(cutoff), *shift_terms(alpha, cutoff)


@dataclass(frozen=True)
class _Outputs:
    """What the kernels write: energy and cell of each program, the rest of each atom."""

    energy: Tensor
    potential: Tensor
    gradient: Tensor
    cell: Tensor
    smearing: Tensor

    @staticmethod
    def of(x: Tensor, programs: int, forces: bool, strain: bool, widths: bool) -> "_Outputs":
        n = len(x)
        return _Outputs(
            x.new_zeros(programs, dtype=torch.float64),
            x.new_zeros(n),
            x.new_zeros((n if forces else 0, 3)),
            x.new_zeros((programs if strain else 0, 9), dtype=torch.float64),
            x.new_zeros(n if widths else 0),
        )

    def arrays(self) -> tuple[Tensor, ...]:
        return self.energy, self.potential, self.gradient, self.cell, self.smearing

    def derivatives(self, dtype: torch.dtype, forces: bool, strain: bool, widths: bool) -> PairDerivatives:
        return PairDerivatives(
            self.energy.sum(),
            self.potential,
            self.gradient if forces else None,
            self.cell.sum(0).reshape(3, 3).to(dtype) if strain else None,
            self.smearing if widths else None,
        )
