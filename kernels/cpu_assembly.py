"""The end of a Coulomb sum on the CPU: its parts added up, with what every atom feels of itself and of all charges together.

    E = near + far + 1/2 sum_i d_i q_i² + 1/2 m'Cm,    d_i = 1/(sqrt(pi) s_i) - own  (only -own for points)

The moments m of the charges are, with heights h = r.n and z = h - origin, by kind

    UNIFORM (sum q, sum q s², 0),    SLAB (sum q, sum q z, sum q z²),    POLAR (sum q, sum q s², sum q h).

With w = Cm, and b the three numbers of one atom whose sums they are, k dE/dq_i = k (parts + d_i q_i + w.b_i) and
k dE/dr_i = k (parts + q_i w.b_i'(h) n).

Both are limited by memory, at two fifths and a quarter of its rate (`python -m examples.benchmarks limits`: 12,288
atoms with widths, one thread, AVX2).
"""

import math

import numpy as np
from numpy.typing import NDArray

from grahame.kernels.compiling import FAST, kernel

__all__ = ["POLAR", "SLAB", "UNIFORM", "assemble", "moments"]

Floats = NDArray[np.float64]
Short = NDArray[np.int32]

UNIFORM, SLAB, POLAR = 0, 1, 2
_ROOT = math.sqrt(math.pi)


@kernel(FAST)
def moments(kind: int, x: Floats, s: Floats, q: Floats, normal: Floats, origin: float) -> Floats:
    """m (3,) of the charges q (n,) at x (n,3) Å with the widths s (n,) Å."""
    total, second, third = 0.0, 0.0, 0.0
    if kind == UNIFORM:
        for a in range(len(q)):
            total += q[a]
            second += q[a] * s[a] * s[a]
    else:
        for a in range(len(q)):
            z = x[a, 0] * normal[0] + x[a, 1] * normal[1] + x[a, 2] * normal[2] - origin
            total += q[a]
            second += q[a] * (z if kind == SLAB else s[a] * s[a])
            third += q[a] * (z * z if kind == SLAB else z)
    found = np.empty(3)
    found[0], found[1], found[2] = total, second, third
    return found


@kernel(FAST)
def assemble(
    atoms: Short,
    kind: int,
    x: Floats,
    s: Floats,
    q: Floats,
    normal: Floats,
    origin: float,
    own: float,
    w: Floats,
    k: float,
    far: Floats,
    near: Floats,
    far_gradient: Floats,
    near_gradient: Floats,
    potential: Floats,
    gradient: Floats,
) -> float:
    """k dE/dq (m,) and, unless it is empty, k dE/dr (m,3) of m atoms, and their sum of q (d q + w.b) without k."""
    energy = 0.0
    for c in range(len(atoms)):
        a = atoms[c]
        d = -own
        if s[a] > 0.0:
            d += 1.0 / (_ROOT * s[a])
        felt, slope = d * q[a] + w[0], 0.0
        if kind == UNIFORM:
            felt += w[1] * s[a] * s[a]
        else:
            z = x[a, 0] * normal[0] + x[a, 1] * normal[1] + x[a, 2] * normal[2] - origin
            if kind == SLAB:
                felt += (w[1] + w[2] * z) * z
                slope = q[a] * (w[1] + 2.0 * w[2] * z)
            else:
                felt += w[1] * s[a] * s[a] + w[2] * z
                slope = q[a] * w[2]
        energy += q[a] * felt
        potential[c] = k * (far[a] + near[a] + felt)
        if len(gradient) > 0:
            for e in range(3):
                gradient[c, e] = k * (far_gradient[a, e] + near_gradient[a, e] + slope * normal[e])
    return energy
