"""Smooth particle mesh Ewald in torch: the waves of the Ewald sum by fast Fourier transform.

Along each direction let u be an atom's fractional coordinate in mesh units (0 <= u < n). Cardinal B-splines
M_p (degree p - 1, support 0 < u < p) interpolate the phase factors of the waves,

    exp(2 pi i m u/n)  ~  1/D(m) sum over l of M_p(u - l) exp(2 pi i m (l + p/2)/n),
    D(m) = sum over l of M_p(p/2 + l) cos(2 pi m l/n),

which is exact wherever u - p/2 is an integer: D(m) is what the sum gives there. So the structure factor is
the transform of charges spread on the mesh, up to a phase,

    |S(G)| ~ |FFT[Q](m)| / |D(m1) D(m2) D(m3)|,
    Q(l) = sum_j q_j M_p(u_1j - l_1) M_p(u_2j - l_2) M_p(u_3j - l_3),

and the energy of the waves

    E = (2 pi/V) sum over m != 0 of exp(-G²/4 alpha²)/G² |FFT[Q](m)|² / (D(m1) D(m2) D(m3))²

is a smooth function of the coordinates (p - 2 times differentiable), the charges and the cell; its exact
derivatives are the forces, the potential and the stress. For even p this is Essmann's |b(m)|² = 1/D²; for
odd p Essmann interpolates at integer u, where D vanishes at the edge of the Brillouin zone, while the points
between them do not have that defect. Waves at the very edge (m = ±n/2), of which the mesh cannot tell the
sign, are left out: their energy would depend on the sign in a tilted cell.

Source: Essmann, Perera, Berkowitz, Darden, Lee and Pedersen, J. Chem. Phys. 103, 8577 (1995).
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

ORDERS = range(4, 11)
Mesh = tuple[int, int, int]


def spline_values(w: Tensor, order: int) -> Tensor:
    """M_p(w + k) for k = 0..p-1, a new last axis; 0 <= w < 1.

    M_2(w) = w, M_2(w + 1) = 1 - w, and M_p(x) = [x M_{p-1}(x) + (p - x) M_{p-1}(x - 1)]/(p - 1).
    """
    values = [w, 1.0 - w]
    for p in range(3, order + 1):
        lower = [*values, torch.zeros_like(w)]
        values = [
            ((w + k) * lower[k] + ((p - w - k) * lower[k - 1] if k > 0 else 0.0)) / (p - 1) for k in range(p)
        ]
    return torch.stack(values, dim=-1)


def interpolation_factors(n: int, order: int) -> Tensor:
    """D(m) for m = 0..n-1, (n,), float64 on the CPU."""
    half = torch.tensor(0.5 if order % 2 else 0.0, dtype=torch.float64)
    values = spline_values(half, order)  # M_p(half + k); the centre p/2 is at k = (p - 1)//2 or p/2
    l = torch.arange(order, dtype=torch.float64) - (order // 2)
    m = torch.arange(n, dtype=torch.float64)
    out: Tensor = torch.cos(2 * math.pi / n * m[:, None] * l) @ values
    return out


def frequencies(n: int, device: torch.device) -> Tensor:
    """Signed wave numbers m of a transform of length n, -n/2 at the edge; float64."""
    out: Tensor = torch.fft.fftfreq(n, d=1.0 / n, dtype=torch.float64, device=device)
    return out


def wave_vectors(cell: Tensor, mesh: Mesh) -> Tensor:
    """G of the half space that a real transform stores, (n1, n2, n3//2 + 1, 3) in 1/Å."""
    n1, n2, n3 = mesh
    stored = torch.arange(n3 // 2 + 1, dtype=torch.float64, device=cell.device)
    axes = [frequencies(n1, cell.device), frequencies(n2, cell.device), stored]
    m = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).to(cell)
    out: Tensor = 2 * math.pi * m @ torch.linalg.inv(cell).T
    return out


@lru_cache(maxsize=64)
def axis_factors(n: int, order: int, device: torch.device) -> Tensor:
    """D(m)^-2 of one direction, 0 at the edge; made on the CPU and kept on the device."""
    square = interpolation_factors(n, order) ** -2
    if n % 2 == 0:
        square[n // 2] = 0.0
    return square.to(device)


@lru_cache(maxsize=64)
def _sizes(mesh: Mesh, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(mesh, dtype=dtype, device=device)


def mesh_factors(mesh: Mesh, order: int, device: torch.device) -> Tensor:
    """[D(m1) D(m2) D(m3)]^-2 times how often the stored wave counts (1 or 2), 0 for G = 0 and the edges."""
    n3 = mesh[2]
    squares = [axis_factors(n, order, device) for n in mesh]
    twice = torch.full((n3 // 2 + 1,), 2.0, dtype=torch.float64, device=device)
    twice[0] = 1.0
    out = torch.einsum("i,j,k->ijk", squares[0], squares[1], squares[2][: n3 // 2 + 1] * twice)
    out[0, 0, 0] = 0.0
    return out


def influence(cell: Tensor, alpha: float, mesh: Mesh, order: int) -> Tensor:
    """Weight of |FFT[Q]|² in the energy, (n1, n2, n3//2 + 1) in 1/Å."""
    g2 = (wave_vectors(cell, mesh) ** 2).sum(-1)
    zero = g2 == 0
    g2 = torch.where(zero, torch.ones_like(g2), g2)
    factors = mesh_factors(mesh, order, g2.device).to(g2)
    return 2 * math.pi / torch.abs(torch.linalg.det(cell)) * factors * torch.exp(-g2 / (4 * alpha**2)) / g2


def spread(positions: Tensor, charges: Tensor, cell: Tensor, mesh: Mesh, order: int) -> Tensor:
    """Charges spread on the mesh with B-splines, (n1, n2, n3) in e; atoms may lie outside the cell."""
    size = _sizes(mesh, positions.dtype, positions.device)
    u = (positions @ torch.linalg.inv(cell)) * size
    floor = torch.floor(u.detach())
    values = spline_values(u - floor, order)  # (n, 3, p): M_p(u - l) at l = floor - k
    k = torch.arange(order, device=positions.device)
    l = torch.remainder(floor.to(torch.int64)[:, :, None] - k, size.to(torch.int64)[None, :, None])
    flat = (l[:, 0, :, None, None] * mesh[1] + l[:, 1, None, :, None]) * mesh[2] + l[:, 2, None, None, :]
    share = torch.einsum("n,ni,nj,nk->nijk", charges, values[:, 0], values[:, 1], values[:, 2])
    empty = torch.zeros(mesh[0] * mesh[1] * mesh[2], dtype=positions.dtype, device=positions.device)
    return empty.index_add(0, flat.reshape(-1), share.reshape(-1)).reshape(mesh)


def wave_energy(
    positions: Tensor, charges: Tensor, cell: Tensor, alpha: float, mesh: Mesh, order: int
) -> Tensor:
    """Energy of the waves on the mesh in e²/Å."""
    transform = torch.fft.rfftn(spread(positions, charges, cell, mesh, order))
    out: Tensor = (influence(cell, alpha, mesh, order) * (transform.real**2 + transform.imag**2)).sum()
    return out
