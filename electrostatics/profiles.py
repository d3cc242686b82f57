"""Planar averages along the slab normal: charge density, field and potential, in closed form.

With n = a x b/|a x b|, z = r.n, A = |a x b|, L = |c.n| and the plane-averaged charge density rho(z),

    dE/dz = 4 pi k rho(z),    dphi/dz = -E(z)

A plane of charge q seen from a distance u along n gives, without periodic images along n (`slab`,
`slab-exact`),

    phi = -(2 pi k/A) q F(u),    F(u) = |u| - |u| erfc(|u|/(sqrt2 s)) + s sqrt(2/pi) exp(-u²/2s²)

(|u| for a point), and with images and their neutralising background (`3d`, `finite-field`, `displacement`;
the potential's mean is zero)

    phi = -(2 pi k/A) q [|u| - u²/L - L/6 - s²/L + sum over images (F - |u|)],    -L <= u <= L

plus -E z of the uniform field. Nothing is integrated on a grid, so values do not depend on the bins, and no
gauge is left open: these are the plane averages of the potential that the Coulomb operator gives.

Sources: Yeh and Berkowitz, J. Chem. Phys. 111, 3155 (1999); Ballenegger, Arnold and Cerda, J. Chem. Phys.
131, 094107 (2009).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import erfc

from grahame.electrostatics import cells, checks
from grahame.electrostatics.arrays import numbers
from grahame.electrostatics.units import COULOMB_CONSTANT

__all__ = ["PlanarCharges", "PlanarProfiles", "planar_charges", "planar_profiles", "surface_normal"]

Array = NDArray[np.float64]

PLANAR = cells.SLABS
PERIODIC = ("3d", "finite-field", "displacement")
_REACH = 8.5  # erfc(8.5/sqrt2) = 2e-17: further away a Gaussian is a point
_CHUNK = 2_000_000  # numbers per temporary array
_NEUTRAL = 1e-6  # e


@dataclass(frozen=True)
class PlanarProfiles:
    """Plane averages on a grid along the normal.

    Attributes:
        z: (m,) centres of the bins along n, Å.
        charge_density: (m,) mean over each bin, e/Å³, without the neutralising background.
        field: (m,) component along n at the centres, V/Å.
        potential: (m,) at the centres, V.
    """

    z: Array
    charge_density: Array
    field: Array
    potential: Array


def surface_normal(cell: ArrayLike) -> tuple[Array, float, float]:
    """Unit normal n = a x b/|a x b|, area |a x b| in Å² and height |c.n| in Å of any cell.

    Args:
        cell: (3,3) rows in Å; left-handed, tilted and rotated cells included.
    Raises:
        ValueError: if the shape is wrong or a and b do not span a plane.

    >>> surface_normal([[2, 0, 0], [1, 3, 0], [5, 0, -7]])[1:]
    (6.0, 7.0)
    """
    h = numbers(cell)
    if h.shape != (3, 3):
        raise ValueError(f"cell = shape {h.shape} must be (3, 3): give the cell vectors as rows in Å")
    cross = np.cross(h[0], h[1])
    area = float(np.linalg.norm(cross))
    if not (np.isfinite(area) and area > 0.0):
        raise ValueError(f"cell = area {area:g} Å² must be positive: give two in-plane cell vectors a and b")
    n = cross / area
    return n, area, abs(float(h[2] @ n))


@dataclass(frozen=True)
class PlanarCharges:
    """Charges as seen along the normal: plane averages at any height, exact.

    Attributes:
        z: (n,) heights r.n, Å.
        charges: (n,) e.
        smearing: (n,) Gaussian widths, Å; 0 is a point.
        area: Å².
        period: height L of the cell in Å, or None without images along n.
        field: uniform field along n besides the charges' own, V/Å.
        coulomb_constant: k in eV Å/e².
    """

    z: Array
    charges: Array
    smearing: Array
    area: float
    period: float | None
    field: float
    coulomb_constant: float

    def charge_density(self, edges: ArrayLike) -> Array:
        """Mean of rho in e/Å³ over each bin between ascending edges (m+1,) in Å, exact for points too."""
        e = np.asarray(edges, dtype=np.float64)
        if e.ndim != 1 or len(e) < 2 or not (np.diff(e) > 0).all():
            raise ValueError(
                f"edges = shape {e.shape} must be two or more ascending heights: give bin edges in Å"
            )
        enclosed = np.diff(self._half_slopes(e)) / np.diff(e)
        if self.period is not None:
            # The neutralising background acts on the field but is no charge of the system.
            enclosed = enclosed + self.charges.sum() / self.period
        return np.asarray(enclosed / self.area, dtype=np.float64)

    def field_at(self, z: ArrayLike) -> Array:
        """Plane-averaged field along n at heights z in Å, in V/Å."""
        slope = (
            4
            * math.pi
            * self.coulomb_constant
            / self.area
            * self._half_slopes(np.asarray(z, dtype=np.float64))
        )
        return np.asarray(slope + self.field, dtype=np.float64)

    def potential_at(self, z: ArrayLike) -> Array:
        """Plane-averaged potential at heights z in Å, in V."""
        u = np.asarray(z, dtype=np.float64)
        kernel = -2 * math.pi * self.coulomb_constant / self.area * self._kernels(u)
        return np.asarray(kernel - self.field * u, dtype=np.float64)

    def _reduced(self, z: Array) -> tuple[Array, Array, Array, Array]:
        """Flat heights, and heights, charges and widths of the charges, ascending; within one period."""
        # Near the charges the large terms that cancel for a neutral cell stay small.
        origin = self.z.mean() if len(self.z) else 0.0
        u, v = z.ravel() - origin, self.z - origin
        if self.period is not None:
            u, v = np.mod(u, self.period), np.mod(v, self.period)
        order = np.argsort(v, kind="stable")
        return u, v[order], self.charges[order], self.smearing[order]

    def _half_slopes(self, z: Array) -> Array:
        """Sum over charges of q P'(z - z_j)/2, P the kernel of the potential."""
        u, v, q, s = self._reduced(z)
        below = np.concatenate([[0.0], np.cumsum(q)])
        left, right = np.searchsorted(v, u, side="left"), np.searchsorted(v, u, side="right")
        out = 0.5 * (below[left] + below[right] - q.sum())
        if self.period is not None:
            out = out - (q.sum() * u - (q * v).sum()) / self.period
        return np.asarray(
            (out + self._gaussian_part(u, v, q, s, slope=True)).reshape(z.shape), dtype=np.float64
        )

    def _kernels(self, z: Array) -> Array:
        """Sum over charges of q P(z - z_j), P = F or its periodic form."""
        u, v, q, s = self._reduced(z)
        below = np.concatenate([[0.0], np.cumsum(q)])
        below_moment = np.concatenate([[0.0], np.cumsum(q * v)])
        at = np.searchsorted(v, u, side="left")
        total, first = q.sum(), (q * v).sum()
        out = 2 * (u * below[at] - below_moment[at]) + first - u * total
        if self.period is not None:
            length = self.period
            squared = total * u**2 - 2 * first * u + (q * v**2).sum()
            out = out - (squared + (q * s**2).sum()) / length - total * length / 6
        return np.asarray(
            (out + self._gaussian_part(u, v, q, s, slope=False)).reshape(z.shape), dtype=np.float64
        )

    def _gaussian_part(self, u: Array, v: Array, q: Array, s: Array, *, slope: bool) -> Array:
        """What Gaussians add to points, images included: it ends after a few widths."""
        out = np.zeros_like(u)
        wide = s > 0.0
        if not wide.any():
            return out
        v, s, q = v[wide], s[wide], q[wide]
        images = 0 if self.period is None else 1 + math.ceil(_REACH * float(s.max()) / self.period)
        rows = max(1, _CHUNK // len(v))
        for start in range(0, len(u), rows):
            part = u[start : start + rows, None] - v
            for m in range(-images, images + 1):
                shifted = part + m * (self.period or 0.0)
                where, which = (np.abs(shifted) < _REACH * s).nonzero()
                d, width = shifted[where, which], s[which]
                tail = erfc(np.abs(d) / (math.sqrt(2.0) * width))
                if slope:
                    value = -0.5 * np.sign(d) * tail
                else:
                    value = (
                        width * math.sqrt(2 / math.pi) * np.exp(-0.5 * (d / width) ** 2) - np.abs(d) * tail
                    )
                weights = q[which] * value
                out[start : start + rows] += np.bincount(where, weights=weights, minlength=len(part))
        return out


def planar_charges(
    positions: ArrayLike,
    charges: ArrayLike,
    cell: ArrayLike,
    *,
    smearing: ArrayLike = 0.0,
    boundary: str = "slab",
    field: float = 0.0,
    displacement: float | None = None,
    coulomb_constant: float = COULOMB_CONSTANT,
) -> PlanarCharges:
    """The charges of a cell, ready to give plane averages at any height.

    Args:
        positions: (n,3) Å; heights along n are taken as given.
        charges: (n,) e.
        cell: (3,3) rows in Å, any shape.
        smearing: Gaussian widths in Å, (n,) or one value; 0 is a point.
        boundary: "slab", "slab-exact", "3d", "finite-field" or "displacement".
        field: uniform field along n, V/Å: the vacuum field of a slab, the total macroscopic field otherwise;
            of a finite-field cell E = -(psi_top - psi_bot)/L.
        displacement: D/eps0 along n, V/Å, for "displacement": E = D - 4 pi k M_z/V.
        coulomb_constant: k in eV Å/e².
    Raises:
        ValueError: for wrong shapes, numbers that are not finite, or a boundary or field that does not fit.
    """
    x, q = numbers(positions), numbers(charges)
    if x.ndim != 2 or x.shape[1] != 3:
        raise ValueError(f"positions = shape {x.shape} must be (n, 3): give one row of coordinates per atom")
    if q.shape != (len(x),):
        raise ValueError(f"charges = shape {q.shape} must be ({len(x)},): give one charge in e per atom")
    s = numbers(smearing)
    if s.shape not in ((), (len(x),)):
        raise ValueError(f"smearing = shape {s.shape} must be ({len(x)},) or one value: give widths in Å")
    s = np.broadcast_to(s, q.shape)
    for name, values, unit in (("positions", x, "Å"), ("charges", q, "e"), ("smearing", s, "Å")):
        if not np.isfinite(values).all():
            bad = values[~np.isfinite(values)][0]
            raise ValueError(f"{name} = {bad} {unit} must be finite: remove nan and inf")
    if (s < 0).any():
        raise ValueError(f"smearing = {s.min():g} Å must not be negative: give widths >= 0, 0 for points")
    if boundary not in PLANAR + PERIODIC:
        known = ", ".join(PLANAR + PERIODIC)
        raise ValueError(f"boundary = {boundary!r} must be one of {known}: choose one with a slab normal")
    if (boundary == "displacement") != (displacement is not None):
        given = "nothing" if displacement is None else f"{displacement:g} V/Å"
        raise ValueError(
            f"displacement = {given} must be given with boundary 'displacement' and only there: "
            f"the boundary is {boundary!r}"
        )
    field = checks.finite("field", field, "V/Å", "give its component along n")
    checks.positive("coulomb_constant", coulomb_constant, "eV Å/e²", "leave it out for CODATA's")
    if displacement is not None:
        displacement = checks.finite("displacement", displacement, "V/Å", "give its component along n")
    if displacement is not None and field != 0.0:
        raise ValueError(
            f"field = {field:g} V/Å must be 0 at constant displacement, which sets the field: remove it"
        )
    n, area, length = surface_normal(cell)
    z = x @ n
    period = None
    if boundary in PERIODIC:
        if not length > 0.0:
            raise ValueError("cell = height 0 Å must be positive: give a third vector that leaves the plane")
        period = length
    if displacement is not None:
        if abs(q.sum()) > _NEUTRAL:
            raise ValueError(
                f"charges = {q.sum():g} e in all must be 0 e at constant displacement: add the counter-charge"
            )
        field = displacement - 4 * math.pi * coulomb_constant * float(q @ z) / (area * length)
    return PlanarCharges(z, q, np.array(s), area, period, float(field), coulomb_constant)


def planar_profiles(
    positions: ArrayLike,
    charges: ArrayLike,
    cell: ArrayLike,
    *,
    smearing: ArrayLike = 0.0,
    boundary: str = "slab",
    field: float = 0.0,
    displacement: float | None = None,
    limits: tuple[float, float] | None = None,
    spacing: float = 0.1,
    coulomb_constant: float = COULOMB_CONSTANT,
) -> PlanarProfiles:
    """Charge density, field and potential along the normal, averaged over the plane.

    Args:
        positions, charges, cell, smearing, boundary, field, displacement, coulomb_constant:
            as for `planar_charges`.
        limits: lowest and highest height in Å; by default one period around the atoms, or the atoms and 5 Å
            on both sides in a slab.
        spacing: width of the bins in Å (made a little smaller to fill the limits evenly).
    Returns:
        PlanarProfiles: the density is the mean over each bin, field and potential are values at the centres.
    Raises:
        ValueError: as `planar_charges`, and for limits or a spacing that are not positive.
    """
    source = planar_charges(
        positions, charges, cell, smearing=smearing, boundary=boundary, field=field,
        displacement=displacement, coulomb_constant=coulomb_constant,
    )  # fmt: skip
    edges = bin_edges(source.z, source.period, limits, spacing)
    centres = 0.5 * (edges[1:] + edges[:-1])
    return PlanarProfiles(
        centres, source.charge_density(edges), source.field_at(centres), source.potential_at(centres)
    )


def bin_edges(z: Array, period: float | None, limits: tuple[float, float] | None, spacing: float) -> Array:
    """Edges of equal bins no wider than `spacing` over the limits, or over all heights z (see above)."""
    if not (np.isfinite(spacing) and spacing > 0.0):
        raise ValueError(f"spacing = {spacing:g} Å must be positive: give the width of the bins")
    if limits is None:
        low, high = (float(z.min()), float(z.max())) if len(z) else (0.0, 0.0)
        half = 0.5 * (high - low) + 5.0 if period is None else 0.5 * period
        limits = (0.5 * (low + high) - half, 0.5 * (low + high) + half)
    low, high = limits
    if not (np.isfinite(low) and np.isfinite(high) and high > low):
        raise ValueError(f"limits = ({low:g}, {high:g}) Å must ascend: give the lower height first")
    return np.linspace(low, high, max(1, math.ceil((high - low) / spacing - 1e-9)) + 1)
