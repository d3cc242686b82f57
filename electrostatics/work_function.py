"""Vacuum levels and work functions of slabs, with the side always named.

A neutral slab with dipole M_z along n = a x b/|a x b| has, in the gauge of the slab operator,

    phi_vac(+n) = +2 pi k M_z/A,    phi_vac(-n) = -2 pi k M_z/A

far outside on the two sides, plus -E z in an applied field. An electron taken out on one side costs

    W(side) = Phi - phi_vac(side),    Phi = dE/dQ = (A q + b)_g

A dipole that points out of the surface (positive end outside) raises phi_vac there and lowers W.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from grahame.electrostatics import checks
from grahame.electrostatics.arrays import numbers
from grahame.electrostatics.profiles import surface_normal
from grahame.electrostatics.units import COULOMB_CONSTANT

__all__ = ["slab_potential_step", "vacuum_potential", "work_function"]

Side = Literal["+", "-"]
_NEUTRAL = 1e-6  # e


def vacuum_potential(
    moment: float,
    area: float,
    side: Side,
    *,
    field: float = 0.0,
    plane: float | None = None,
    coulomb_constant: float = COULOMB_CONSTANT,
) -> float:
    """Potential in the vacuum on one side of a neutral slab, ±2 pi k M_z/A - E z.

    Args:
        moment: M_z = sum q z along n, e Å.
        area: of the surface cell, Å².
        side: "+" for the side that n points to, "-" for the other.
        field: applied field along n, V/Å.
        plane: height z in Å at which the potential is meant; must be named when there is a field.
        coulomb_constant: k in eV Å/e².
    Returns:
        V, in the gauge of boundary "slab".
    Raises:
        ValueError: for another side, an area that is not positive, or a field without a plane.

    >>> round(vacuum_potential(0.1, 10.0, "+"), 6)
    0.904756
    """
    checks.finite("moment", moment, "e Å", "it is sum q z of the neutral slab")
    checks.finite("field", field, "V/Å", "give its component along n")
    if side not in ("+", "-"):
        raise ValueError(f"side = {side!r} must be '+' or '-': '+' is the side that n = a x b points to")
    if not (math.isfinite(area) and area > 0.0):
        raise ValueError(f"area = {area:g} Å² must be positive: give |a x b|")
    if field != 0.0 and plane is None:
        raise ValueError(
            f"plane = None must be a height in Å when a field of {field:g} V/Å acts: "
            "the potential of the vacuum is not constant there"
        )
    sign = 1.0 if side == "+" else -1.0
    return sign * 2 * math.pi * coulomb_constant * moment / area - field * (plane or 0.0)


def work_function(
    fermi_potential: float,
    moment: float,
    area: float,
    side: Side,
    *,
    field: float = 0.0,
    plane: float | None = None,
    coulomb_constant: float = COULOMB_CONSTANT,
) -> float:
    """Work function of one side of a neutral slab, W = Phi - phi_vac(side).

    Args:
        fermi_potential: Phi = dE/dQ = (A q + b)_g of the metal, V, in the gauge of boundary "slab".
        moment, area, side, field, plane, coulomb_constant: as for `vacuum_potential`.
    Returns:
        eV; the electron arrives at rest in the vacuum of that side.
    Raises:
        ValueError: as `vacuum_potential`.

    >>> round(work_function(5.0, 0.1, 10.0, "+"), 6), round(work_function(5.0, 0.1, 10.0, "-"), 6)
    (4.095244, 5.904756)
    """
    checks.finite("fermi_potential", fermi_potential, "V", "it is dE/dQ of the metal")
    return fermi_potential - vacuum_potential(
        moment, area, side, field=field, plane=plane, coulomb_constant=coulomb_constant
    )


def slab_potential_step(
    positions: ArrayLike, charges: ArrayLike, cell: ArrayLike, *, coulomb_constant: float = COULOMB_CONSTANT
) -> float:
    """Potential step across a neutral slab, phi(+n) - phi(-n) = 4 pi k M_z/A.

    Args:
        positions: (n,3) Å, not wrapped through the slab's vacuum.
        charges: (n,) e, neutral in all.
        cell: (3,3) rows in Å; only a and b matter.
        coulomb_constant: k in eV Å/e².
    Returns:
        V; without an applied field.
    Raises:
        ValueError: for a charged slab, which has no vacuum level.

    >>> round(slab_potential_step([[0, 0, 0], [0, 0, 1]], [-0.1, 0.1], [[5, 0, 0], [0, 2, 0], [0, 0, 9]]), 6)
    1.809513
    """
    q, x = numbers(charges), numbers(positions)
    if x.ndim != 2 or x.shape[1] != 3 or q.shape != (len(x),):
        raise ValueError(
            f"positions, charges = arrays of shapes {x.shape} and {q.shape} must be (n, 3) and (n,): give one row and one charge "
            "per atom"
        )
    if not (np.isfinite(x).all() and np.isfinite(q).all()):
        raise ValueError("positions, charges must be finite: they hold NaN or infinity; check the structure")
    if abs(q.sum()) > _NEUTRAL:
        raise ValueError(
            f"charges = {q.sum():g} e in all must be 0 e: a charged slab has a field, not a level, outside"
        )
    n, area, _ = surface_normal(cell)
    return 4 * math.pi * coulomb_constant * float(q @ (x @ n)) / area
