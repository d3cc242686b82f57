"""The sums in plain numpy and loops over images, independent of the code under test."""

import itertools
import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Pair = tuple[int, int, int, int, int]

CELLS = {
    "cube": np.diag([6.0, 6.0, 6.0]),
    "tilted": np.array([[6.0, 0.0, 0.0], [2.1, 5.5, 0.0], [-1.0, 1.5, 7.0]]),
    "left-handed": np.array([[6.0, 0.3, 0.0], [0.5, -5.5, 0.2], [-1.0, 1.5, 7.0]]),
    "hexagonal": np.array([[5.2, 0.0, 0.0], [-2.6, 2.6 * math.sqrt(3.0), 0.0], [0.0, 0.0, 8.0]]),
}


def system(n: int, name: str = "tilted", seed: int = 3) -> tuple[Floats, Floats, Floats, Floats]:
    """Positions (some outside the cell, none closer than 1 Å), charges, cell and widths (a third points)."""
    rng = np.random.default_rng(seed)
    cell = CELLS[name]
    x = np.zeros((0, 3))
    while len(x) < n:
        trial = rng.uniform(size=3) @ cell
        delta = (x - trial) @ np.linalg.inv(cell)
        delta = (delta - np.round(delta)) @ cell
        if not len(x) or (delta**2).sum(1).min() > 1.0:
            x = np.vstack([x, trial])
    x += rng.integers(-2, 3, (n, 3)) @ cell
    s = np.where(np.arange(n) % 3 == 0, 0.0, rng.uniform(0.2, 0.5, n))
    return x, rng.normal(size=n), cell, s


def all_pairs(x: Floats, cell: Floats, periodic: tuple[bool, bool, bool], cutoff: float) -> set[Pair]:
    """All ordered pairs (i, j, S) with |x_j + S @ cell - x_i| < cutoff, by trying images far enough."""
    axes = [d for d in range(3) if periodic[d]]
    reach = [0, 0, 0]
    if axes and len(x):
        inverse = np.linalg.pinv(cell[axes])
        spread = np.ptp(x @ inverse, axis=0)
        for column, d in enumerate(axes):
            reach[d] = math.ceil(cutoff * float(np.linalg.norm(inverse[:, column])) + spread[column]) + 1
    found: set[Pair] = set()
    for shift in itertools.product(*(range(-m, m + 1) for m in reach)):
        delta = x[None] + np.array(shift) @ cell - x[:, None]
        for i, j in np.argwhere((delta**2).sum(-1) < cutoff**2):
            if i != j or shift != (0, 0, 0):
                found.add((int(i), int(j), shift[0], shift[1], shift[2]))
    return found


def kernel(r: float, s_i: float, s_j: float, alpha: float) -> float:
    """[erfc(alpha r) - erfc(g r)]/r."""
    squared = s_i**2 + s_j**2
    gaussian = math.erfc(r / math.sqrt(2 * squared)) if squared else 0.0
    return (math.erfc(alpha * r) - gaussian) / r


def pair_energy(
    x: Floats, q: Floats, cell: Floats, s: Floats, alpha: float, cutoff: float, shift: bool
) -> float:
    """1/2 sum over i, j and images, with the energy and force of the alpha part shifted at the cut-off."""
    value = math.erfc(alpha * cutoff) / cutoff
    slope = -value / cutoff - 2 * alpha / math.sqrt(math.pi) * math.exp(-((alpha * cutoff) ** 2)) / cutoff
    total = 0.0
    for i, j, *image in all_pairs(x, cell, (True, True, True), cutoff):
        r = float(np.linalg.norm(x[j] + np.array(image) @ cell - x[i]))
        f = kernel(r, s[i], s[j], alpha)
        if shift:
            f -= value + slope * (r - cutoff)
        total += 0.5 * q[i] * q[j] * f
    return total


def wave_energy(x: Floats, q: Floats, cell: Floats, alpha: float, kcut: float) -> float:
    """(2 pi/V) sum over all G != 0 with |G| <= kcut of exp(-G²/4 alpha²)/G² |S(G)|²."""
    rows = 2 * math.pi * np.linalg.inv(cell).T
    reach = [math.floor(kcut * float(np.linalg.norm(v)) / (2 * math.pi)) for v in cell]
    total = 0.0
    for m in itertools.product(*(range(-b, b + 1) for b in reach)):
        g = np.array(m) @ rows
        g2 = float(g @ g)
        if m != (0, 0, 0) and g2 <= kcut**2:
            total += math.exp(-g2 / (4 * alpha**2)) / g2 * abs(np.sum(q * np.exp(1j * (x @ g)))) ** 2
    return 2 * math.pi / abs(float(np.linalg.det(cell))) * total
