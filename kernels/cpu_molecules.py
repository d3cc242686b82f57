"""Bonds, angles and rigid triples on the CPU: one molecule after the other, on one thread.

    E = sum of k (r - r0)²/2 + sum of k (theta - theta0)²/2

A rigid triple keeps three distances: `shake` moves its atoms along the distances they had before until the new ones are
right (Newton's method for three multipliers), `rattle` takes from momenta what would change them (one linear system).

With 12,288 atoms bonds reach an eighth of what memory gives, angles an eighth of the arctangents (counted as
exponentials), rigid molecules an eleventh of the flops, each step of which waits for the last
(`python -m examples.benchmarks limits`, one thread, AVX2).

Source: H. C. Andersen, J. Comput. Phys. 52, 24 (1983); V. Kräutler, W. F. van Gunsteren, P. H. Hünenberger, J. Comput.
Chem. 22, 501 (2001), for the matrix form.
"""

import numpy as np
from numpy.typing import NDArray

from grahame.kernels.compiling import inlined, kernel

__all__ = ["angle_sum", "bond_sum", "rattle", "shake"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@kernel()
def bond_sum(d: Floats, bonds: Ints, k: Floats, r0: Floats, forces: Floats, strain: Floats) -> float:
    """Energy of bonds (b,2) with vectors d (b,3); adds to forces (n,3) and dE/d(strain) (3,3)."""
    energy = 0.0
    for p in range(len(bonds)):
        r = np.sqrt(d[p, 0] ** 2 + d[p, 1] ** 2 + d[p, 2] ** 2)
        energy += 0.5 * k[p] * (r - r0[p]) ** 2
        g = k[p] * (r - r0[p]) / r
        for a in range(3):
            forces[bonds[p, 0], a] += g * d[p, a]
            forces[bonds[p, 1], a] -= g * d[p, a]
            for b in range(3):
                strain[a, b] += g * d[p, a] * d[p, b]
    return energy


@kernel()
def angle_sum(
    u: Floats,
    v: Floats,
    angles: Ints,
    k: Floats,
    theta0: Floats,
    forces: Floats,
    strain: Floats,
) -> float:
    """Energy of angles (a,3) between u and v (a,3), from the vertex in the middle; adds as `bond_sum`."""
    energy = 0.0
    for p in range(len(angles)):
        ux, uy, uz = u[p, 0], u[p, 1], u[p, 2]
        vx, vy, vz = v[p, 0], v[p, 1], v[p, 2]
        uu = ux * ux + uy * uy + uz * uz
        vv = vx * vx + vy * vy + vz * vz
        dot = ux * vx + uy * vy + uz * vz
        cx, cy, cz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        cross = np.sqrt(cx * cx + cy * cy + cz * cz)
        # atan2 keeps all digits where the cosine is flat.
        theta = np.arctan2(cross, dot)
        energy += 0.5 * k[p] * (theta - theta0[p]) ** 2
        # d(theta)/du = [u dot/uu - v]/cross and the same with u and v exchanged.
        # On a line both vectors say the same of it, and what is left is no force: at 180 degrees, where linear molecules are
        # at rest, and where any direction away is as good as another.
        g = k[p] * (theta - theta0[p]) / cross if cross > 0.0 else 0.0
        for a in range(3):
            du = g * (u[p, a] * dot / uu - v[p, a])
            dv = g * (v[p, a] * dot / vv - u[p, a])
            forces[angles[p, 0], a] -= du
            forces[angles[p, 2], a] -= dv
            forces[angles[p, 1], a] += du + dv
            for b in range(3):
                strain[a, b] += du * u[p, b] + dv * v[p, b]
    return energy


# Inlined, as every function that a kernel calls: see `compiling`.
@inlined()
def _mass_matrix(inverse_mass: Floats, out: Floats) -> None:
    """M_kl of d_k += M_kl lambda_l d0_l for the distances centre-end, centre-end, end-end."""
    c, a, b = inverse_mass[0], inverse_mass[1], inverse_mass[2]
    out[0, 0], out[0, 1], out[0, 2] = c + a, c, -a
    out[1, 0], out[1, 1], out[1, 2] = c, c + b, b
    out[2, 0], out[2, 1], out[2, 2] = -a, b, a + b


@inlined()
def _solve(m: Floats, y: Floats, out: Floats) -> None:
    """Cramer's rule for a 3x3 system."""
    det = 0.0
    for a in range(3):
        b, c = (a + 1) % 3, (a + 2) % 3
        # Component a of the cross products of the rows.
        r0 = m[1, b] * m[2, c] - m[1, c] * m[2, b]
        r1 = m[2, b] * m[0, c] - m[2, c] * m[0, b]
        r2 = m[0, b] * m[1, c] - m[0, c] * m[1, b]
        out[a] = r0 * y[0] + r1 * y[1] + r2 * y[2]
        det += m[0, a] * r0
    for a in range(3):
        out[a] /= det


@inlined()
def _apply(x: Floats, t: Ints, weight: Floats, d: Floats, m: Floats) -> None:
    """x_first -= w d, x_second += w d for the three distances of molecule t with multipliers m."""
    for axis in range(3):
        x[t[0], axis] -= weight[0] * (m[0] * d[0, axis] + m[1] * d[1, axis])
        x[t[1], axis] += weight[1] * (m[0] * d[0, axis] - m[2] * d[2, axis])
        x[t[2], axis] += weight[2] * (m[1] * d[1, axis] + m[2] * d[2, axis])


@kernel()
def shake(
    x: Floats,
    triples: Ints,
    old: Floats,
    new: Floats,
    lengths: Floats,
    masses: Floats,
    tolerance: float,
    iterations: int,
) -> int:
    """Moves x (n,3) in place; the number of a molecule that did not converge, or -1.

    Molecules `triples` (w,3) have the distances first-second, first-third, second-third: `old` and `new` (w,3,3) before and
    after the step, and `lengths` (w,3) to be kept.
    """
    inverse, mass, slope, d = np.empty(3), np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
    multiplier, change, miss = np.empty(3), np.empty(3), np.empty(3)
    for w in range(len(triples)):
        for k in range(3):
            inverse[k] = 1.0 / masses[triples[w, k]]
        _mass_matrix(inverse, mass)
        multiplier[:] = 0.0
        d[:] = new[w]
        for step in range(iterations + 1):
            worst = 0.0
            for k in range(3):
                square = d[k, 0] ** 2 + d[k, 1] ** 2 + d[k, 2] ** 2
                miss[k] = 0.5 * (lengths[w, k] ** 2 - square)
                worst = max(worst, abs(miss[k]) / lengths[w, k] ** 2)
            if worst <= tolerance:
                break
            if step == iterations or not worst < 1e6:
                return w
            for k in range(3):
                for m in range(3):
                    dot = d[k, 0] * old[w, m, 0] + d[k, 1] * old[w, m, 1] + d[k, 2] * old[w, m, 2]
                    slope[k, m] = mass[k, m] * dot
            _solve(slope, miss, change)
            for k in range(3):
                multiplier[k] += change[k]
            for k in range(3):
                for axis in range(3):
                    d[k, axis] = new[w, k, axis]
                    for m in range(3):
                        d[k, axis] += mass[k, m] * multiplier[m] * old[w, m, axis]
        _apply(x, triples[w], inverse, old[w], multiplier)
    return -1


@kernel()
def rattle(p: Floats, triples: Ints, d: Floats, masses: Floats) -> None:
    """Takes from momenta p (n,3), in place, what would change the distances d (w,3,3)."""
    inverse, mass, slope, speed = np.empty(3), np.empty((3, 3)), np.empty((3, 3)), np.empty(3)
    multiplier, ones = np.empty(3), np.ones(3)
    for w in range(len(triples)):
        t = triples[w]
        for k in range(3):
            inverse[k] = 1.0 / masses[t[k]]
        _mass_matrix(inverse, mass)
        for k in range(3):
            first, second = (0, k + 1) if k < 2 else (1, 2)
            speed[k] = 0.0
            for axis in range(3):
                dv = p[t[second], axis] * inverse[second] - p[t[first], axis] * inverse[first]
                speed[k] -= dv * d[w, k, axis]
            for m in range(3):
                dot = d[w, k, 0] * d[w, m, 0] + d[w, k, 1] * d[w, m, 1] + d[w, k, 2] * d[w, m, 2]
                slope[k, m] = mass[k, m] * dot
        _solve(slope, speed, multiplier)
        _apply(p, t, ones, d[w], multiplier)
