"""Fields along periodic directions, and charge that neighbours exchange through the faces of the cell.

In a periodic direction sum q r depends on where the cell is cut, and with charges that depend on positions so would
forces. Where charges are made of transfers the dipole that does not is

    M = sum q r + X,    X = - sum over pairs p_ij S_ij

(`heads.crossing_of_transfers`). Charge that an electrode gives away comes from the image that is the neighbour. X enters
the energy of a given field as -E.X, and that of constant displacement, V/(8 pi k) (D - 4 pi k M.n/V)², as if D were

    D_eff = D - 4 pi k X.n/V,    dU/dX = -E,   E = D - 4 pi k M.n/V along n
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grahame.electrostatics import cells

Linear = Callable[[Tensor, Tensor], Tensor]
"""From X (3,) in e Å and cell (3,3) in Å to an energy in eV whose derivatives are those of the whole."""


def effective_displacement(
    displacement: float | Tensor, crossing: Tensor, cell: Tensor, coulomb_constant: float
) -> Tensor:
    """D_eff in V/Å.

    Args:
        displacement: D/eps0, V/Å; crossing: X (3,), e Å; cell: (3,3) rows in Å; coulomb_constant: k, eV Å/e².
    """
    along = crossing @ cells.normal(cell)
    return displacement - 4.0 * math.pi * coulomb_constant * along / cells.volume(cell)


def seen_by_operator(
    boundary: str,
    displacement: float | None,
    crossing: NDArray[np.float64] | None,
    cell: NDArray[np.float64],
    coulomb_constant: float,
) -> float | None:
    """D_eff where the boundary holds D and charges are exchanged through faces, else the displacement as it is.

    Args:
        boundary: of the Coulomb operator; displacement: D/eps0, V/Å, None for 0; crossing: X (3,), e Å, or None.
        cell: (3,3) rows in Å; coulomb_constant: k, eV Å/e².
    """
    if boundary != "displacement" or crossing is None:
        return displacement
    x, h = torch.as_tensor(crossing), torch.as_tensor(np.asarray(cell, dtype=float))
    return float(effective_displacement(displacement or 0.0, x, h, coulomb_constant))


def in_displacement(strength: float, cell: Tensor) -> Linear:
    """-E X.n V_0/V: what constant displacement gains from X, with E (V/Å, along n) held; V_0 of this cell (3,3)."""
    start = float(cells.volume(cell))

    def gained(crossing: Tensor, now: Tensor) -> Tensor:
        return -strength * (crossing @ cells.normal(now)) * start / cells.volume(now)

    return gained


def in_field(field: Tensor) -> Linear:
    """-E.X of a given field E (3,), V/Å."""

    def gained(crossing: Tensor, now: Tensor) -> Tensor:
        return -torch.dot(crossing, field)

    return gained


def in_finite_field(strength: float, cell: Tensor) -> Linear:
    """-E X.n of the field between two held potentials, which goes with 1/L; E (V/Å, along n) in this cell (3,3)."""
    start = float(cells.height(cell))

    def gained(crossing: Tensor, now: Tensor) -> Tensor:
        return -strength * start / cells.height(now) * (crossing @ cells.normal(now))

    return gained


def energy_of_crossing(
    boundary: str,
    charges: Tensor,
    places: Tensor,
    cell: Tensor,
    field: Tensor | None,
    displacement: float | None,
    coulomb_constant: float,
) -> Linear | None:
    """How the energy of solved charges follows X; None where it does not.

    Args:
        boundary: of the Coulomb operator; charges: (n,) e, after the solve; places: (n,3) Å; cell: (3,3) rows in Å.
        field: (3,) V/Å that acts, given or between two electrodes; displacement: D_eff, V/Å.
        coulomb_constant: k, eV Å/e².
    """
    if boundary == "displacement":
        # In the terms of D_eff: E = D_eff - 4 pi k (sum q r).n/V.
        moment = float((charges[:, None] * places).sum(0) @ cells.normal(cell))
        polarisation = 4.0 * math.pi * coulomb_constant * moment / float(cells.volume(cell))
        return in_displacement((displacement or 0.0) - polarisation, cell)
    if field is None or boundary not in ("3d", "finite-field"):
        return None
    if boundary == "finite-field":
        return in_finite_field(float(field @ cells.normal(cell)), cell)
    return in_field(field)


def refuse_periodic_field(field: object) -> None:
    """Raise for a field that no boundary holds apart from the cell's cut.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        f"field = {field} V/Å must be left out with boundary 3d: atoms that cross the boundary would change the energy; use "
        "boundary slab or displacement, or a model whose charges are transfers, without electrodes"
    )


def refuse_shared() -> None:
    """Raise for constant displacement of charges that atoms share without a path: their dipole has no meaning there.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        "boundary = displacement must come with charges made of transfers or held per fragment: the dipole of others depends "
        "on where the cell is cut; use such a model, name fragments, or use boundary slab with a field"
    )


def refuse_following(crossing: Tensor, cell: Tensor) -> None:
    """Raise where a field that follows held charges would have to see the charge exchanged through the cell's faces.

    Raises:
        ValueError: if X.n is not zero.
    """
    along = float((crossing @ cells.normal(cell)).detach())
    if abs(along) > 1e-9:
        raise ValueError(
            f"charge exchanged through the cell's face = {along:g} e Å must be zero in finite field at held charges: make "
            "the electrodes thicker than the model's cut-off, or hold potentials"
        )
