"""What is imposed on a cell, and when: held potentials, ramps, reference scales and their units.

Potentials are in V, on the inner scale of the cell (only differences between electrodes act; no reference
electrode is implied), charges in e, times in ps. Every program part that changes a held potential with time
asks here, so that a ramp means the same everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Ramp:
    """A potential that follows straight lines between points in time.

        psi(t) = psi_k + (psi_{k+1} - psi_k) (t - t_k) / (t_{k+1} - t_k),   t_k <= t <= t_{k+1}

    Before the first point the first potential holds, after the last point the last one.

    Args:
        times: (m,) ps, strictly increasing.
        potentials: (m,) V.
    Raises:
        ValueError: for no point, unequal lengths, values that are not finite or times that do not increase.

    >>> Ramp((0.0, 10.0), (0.0, 2.0)).at(2.5)
    0.5
    """

    times: tuple[float, ...]
    potentials: tuple[float, ...]

    def __post_init__(self) -> None:
        times = np.asarray(self.times, dtype=float)
        values = np.asarray(self.potentials, dtype=float)
        if times.ndim != 1 or times.shape != values.shape or len(times) == 0:
            raise ValueError(
                f"ramp = {len(self.times)} times and {len(self.potentials)} potentials must be pairs, at least "
                "one: give a list of [time in ps, potential in V]"
            )
        if not (np.isfinite(times).all() and np.isfinite(values).all()):
            raise ValueError(
                f"ramp = {list(zip(self.times, self.potentials))} must hold finite numbers: give "
                "[time in ps, potential in V] pairs"
            )
        for k in np.flatnonzero(np.diff(times) <= 0):
            raise ValueError(
                f"ramp = {times[k + 1]:g} ps after {times[k]:g} ps must increase: order the points by time and "
                "give each time once"
            )

    @classmethod
    def from_points(cls, points: Sequence[Sequence[float]]) -> Ramp:
        """A ramp from a list of [time in ps, potential in V]."""
        return cls(tuple(float(p[0]) for p in points), tuple(float(p[1]) for p in points))

    def at(self, time_ps: float) -> float:
        """The potential (V) at a time (ps)."""
        return float(np.interp(time_ps, self.times, self.potentials))


def voltammogram(low: float, high: float, rate: float, cycles: int = 1) -> list[tuple[float, float]]:
    """Points of a triangular sweep low -> high -> low, as a `Ramp` takes them.

    Args:
        low, high: the turning potentials, V.
        rate: V/ps, positive.
        cycles: number of full triangles.
    Returns:
        list of (time in ps, potential in V).
    Raises:
        ValueError: for equal turning potentials, a rate or a number of cycles that is not positive.

    >>> voltammogram(0.0, 1.0, 0.5)
    [(0.0, 0.0), (2.0, 1.0), (4.0, 0.0)]
    """
    if rate <= 0:
        raise ValueError(f"rate = {rate:g} V/ps must be positive: the direction follows from low and high")
    if low == high:
        raise ValueError(f"high = {high:g} V must differ from low: a constant potential needs no sweep")
    if cycles < 1:
        raise ValueError(f"cycles = {cycles} must be at least 1: give the number of full triangles")
    half = abs(high - low) / rate
    return [(k * half, high if k % 2 else low) for k in range(2 * cycles + 1)]


def potentials_at(held: Sequence[float | Ramp | None], time_ps: float) -> NDArray[np.float64]:
    """Held potentials of all electrodes at a time.

    Args:
        held: per electrode a constant (V), a ramp, or None where the charge is held.
        time_ps: time since the start of production, ps.
    Returns:
        (groups,) V, nan where no potential is held.
    """
    return np.array(
        [np.nan if h is None else h.at(time_ps) if isinstance(h, Ramp) else float(h) for h in held]
    )


ABSOLUTE_SHE = 4.44
"""Work function (eV) of an electrode at 0 V against SHE; Trasatti, Pure Appl. Chem. 58, 955 (1986)."""
NERNST = 0.0592
"""V per unit of pH at 298 K."""
_ATOMIC_FIELD = 51.422067476  # V/Å in one atomic unit of field, CODATA 2018


def she_from_work_function(work_function: float) -> float:
    """U_SHE = (W - 4.44 eV) / e of one stated electrode and side, V.

    >>> she_from_work_function(4.44)
    0.0
    """
    return work_function - ABSOLUTE_SHE


def rhe_from_she(potential: float, ph: float) -> float:
    """U_RHE = U_SHE + 0.0592 V pH.

    >>> rhe_from_she(0.0, 10.0)
    0.592
    """
    return potential + NERNST * ph


def she_from_rhe(potential: float, ph: float) -> float:
    """U_SHE = U_RHE - 0.0592 V pH."""
    return potential - NERNST * ph


def field_from_atomic_units(field: float) -> float:
    """A field in atomic units (hartree / e bohr) in V/Å.

    >>> round(field_from_atomic_units(0.01), 5)
    0.51422
    """
    return field * _ATOMIC_FIELD
