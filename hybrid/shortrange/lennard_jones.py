"""Lennard-Jones over a pair list: plain or force-switched truncation.

    E = c12 [r^-12 + P_12(r)] - c6 [r^-6 + P_6(r)],   c12 = 4 epsilon sigma^12, c6 = 4 epsilon sigma^6.

Plain truncation has P = 0 and simply stops at the cut-off. The force switch adds to the force of r^-p the
polynomial A (r-r1)² + B (r-r1)³ between the switch distance r1 and the cut-off rc, with A and B such that
the force and its slope are zero at rc; the energy is shifted to zero there. Force and slope of the force
are then continuous everywhere, at r1 too, where the older CHARMM form has a kink in the force.

Source: force switch as in D. van der Spoel, P. J. van Maaren, J. Chem. Theory Comput. 2, 1 (2006), and the
GROMACS reference manual, modified non-bonded interactions.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from grahame.hybrid.shortrange.base import FloatArray, IntArray
from grahame.kernels.cpu_lennard_jones import SortedRows, pair_sums

Truncation = Literal["force-switch", "plain"]


@dataclass(frozen=True)
class Switch:
    """Cut-off and switching polynomials.

    Attributes:
        cutoff: rc, Å.
        start: r1, Å; equal to rc for plain truncation.
        cubic, quartic, constant: for p = 12 and 6, the energy terms of r^-p:
            - cubic (r-r1)³ - quartic (r-r1)^4 - constant (r > r1), - constant (r <= r1).
    """

    cutoff: float
    start: float
    cubic: tuple[float, float]
    quartic: tuple[float, float]
    constant: tuple[float, float]


def make_switch(cutoff: float, start: float | None, truncation: Truncation) -> Switch:
    """Coefficients of the truncation.

    Args:
        cutoff: rc, Å.
        start: r1, Å; None for rc - 2 Å (at least 0.8 rc). Refused with plain truncation.
        truncation: "force-switch" or "plain".

    Returns:
        The switch.

    Raises:
        ValueError: distances out of order, or an unknown truncation.
    """
    if not (np.isfinite(cutoff) and cutoff > 0):
        raise ValueError(f"cutoff = {cutoff} Å must be positive: 10 Å is usual for water")
    if truncation == "plain":
        if start is not None:
            raise ValueError(
                f"switch_distance = {start} Å must be left out with truncation='plain': "
                "use truncation='force-switch'"
            )
        return Switch(cutoff, cutoff, (0.0, 0.0), (0.0, 0.0), (0.0, 0.0))
    if truncation != "force-switch":
        raise ValueError(f"truncation = {truncation!r} must be 'force-switch' or 'plain': choose one of them")
    r1 = max(cutoff - 2.0, 0.8 * cutoff) if start is None else start
    if not 0 < r1 < cutoff:
        raise ValueError(
            f"switch_distance = {r1} Å must be above 0 and below the cut-off {cutoff} Å: 2 Å below "
            "it is usual"
        )
    width = cutoff - r1
    cubic, quartic, constant = [], [], []
    for p in (12, 6):
        a = -p * ((p + 4) * cutoff - (p + 1) * r1) / (cutoff ** (p + 2) * width**2)
        b = p * ((p + 3) * cutoff - (p + 1) * r1) / (cutoff ** (p + 2) * width**3)
        cubic.append(a / 3.0)
        quartic.append(b / 4.0)
        constant.append(cutoff**-p - a / 3.0 * width**3 - b / 4.0 * width**4)
    return Switch(cutoff, r1, (cubic[0], cubic[1]), (quartic[0], quartic[1]), (constant[0], constant[1]))


def lennard_jones(
    positions: FloatArray,
    cell: FloatArray,
    rows: SortedRows,
    types: IntArray,
    c12: FloatArray,
    c6: FloatArray,
    switch: Switch,
    virial: bool,
) -> tuple[float, FloatArray, FloatArray]:
    """Energy (eV), forces (n,3) eV/Å and dE/d(strain) (3,3) eV of the listed pairs within the cut-off.

    Args:
        positions: (n,3) Å.
        cell: (3,3) rows, Å.
        rows: half list, pairs within the cut-off (and some beyond).
        types: (n,) type per atom.
        c12: (t,t) eV Å^12.
        c6: (t,t) eV Å^6.
        switch: truncation.
        virial: compute the strain derivative (zeros otherwise).

    Returns:
        energy, forces, strain derivative.
    """
    polynomials = np.array([switch.cubic, switch.quartic, switch.constant])
    return pair_sums(positions, cell, rows, types, c12, c6, switch.cutoff, switch.start, polynomials, virial)
