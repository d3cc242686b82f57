"""Fourth-order differences and the error measure of the operator's `accuracy`."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
COULOMB = 14.399645351950545  # ase.units.Hartree * ase.units.Bohr, eV Å/e²


def derivative(function: Callable[[float], object], h: float) -> Array:
    """d function/dx at 0 by fourth-order central differences; the function may return an array."""
    f = {m: np.asarray(function(m * h), dtype=float) for m in (-2, -1, 1, 2)}
    return (8 * (f[1] - f[-1]) - (f[2] - f[-2])) / (12 * h)


def gradient(energy: Callable[[Array], float], x: Array, atoms: list[int], h: float = 2e-3) -> Array:
    """d energy/dx for the listed rows of x, (len(atoms), 3)."""
    out = np.zeros((len(atoms), 3))
    for row, i in enumerate(atoms):
        for c in range(3):

            def along(step: float, i: int = i, c: int = c) -> float:
                y = x.copy()
                y[i, c] += step
                return energy(y)

            out[row, c] = derivative(along, h)
    return out


def strain_derivative(
    energy: Callable[[Array, Array], float], x: Array, cell: Array, h: float = 1e-3
) -> Array:
    """d energy/d(symmetric strain) in eV, positions and cell strained together, (3,3)."""
    out = np.zeros((3, 3))
    for a in range(3):
        for b in range(a, 3):

            def along(step: float, a: int = a, b: int = b) -> float:
                e = np.zeros((3, 3))
                e[a, b] += 0.5 * step
                e[b, a] += 0.5 * step
                f = np.eye(3) + e
                return energy(x @ f, cell @ f)

            out[a, b] = out[b, a] = derivative(along, h)
    return out


def force_error(forces: Array, reference: Array, charges: Array, volume: float, k: float = COULOMB) -> float:
    """rms force error / max(rms Coulomb force, k (sum q²/N)(N/V)^(2/3)): what `accuracy` bounds."""
    n = len(charges)
    rms = np.sqrt(((forces - reference) ** 2).sum(1).mean())
    scale = max(np.sqrt((reference**2).sum(1).mean()), k * (charges**2).mean() * (n / volume) ** (2 / 3))
    return float(rms / scale)
