"""Work functions of frames, as labels and as predictions, and which frames have one.

    W(±) = Phi - phi_vac(±),   Phi = dE/dQ = (Aq + b)_g,   phi_vac(±) = ±2 pi k M_z/A,   n = a x b/|a x b|

of a neutral slab with one conductor g; M_z is the dipole of the whole cell along n and A = |a x b|.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from grahame.electrostatics.units import COULOMB_CONSTANT
from grahame.hybrid.frames import Conditions

__all__ = ["SIDES", "why_none", "work_functions"]

SIDES = ("+", "-")
_NEUTRAL = 1e-6  # e


def why_none(held: Conditions) -> str | None:
    """Why a work function has no meaning under these conditions, as the end of a sentence; None where it has one."""
    if held.boundary not in ("slab", "slab-exact"):
        return (
            f"must not be given with boundary {held.boundary}: only a slab has a vacuum level; state boundary slab, or leave "
            "the label out"
        )
    if abs(held.total_charge) > _NEUTRAL:
        return (
            f"must not be given with total_charge = {held.total_charge:g} e: a charged slab has a field, not a level, "
            "outside; leave the label out"
        )
    if held.field is not None and np.any(np.asarray(held.field) != 0.0):
        return (
            f"must not be given with field = {list(held.field)} V/Å: the level outside depends on the plane it is taken "
            "in; leave the label out"
        )
    count = len(held.electrodes)
    if count != 1:
        return (
            f"must not be given with {count} conductors: it belongs to exactly one; name the metal's elements or leave the "
            "label out"
        )
    return None


def work_functions(
    fermi: Tensor, moment: Tensor, cells: Tensor, conditions: tuple[Conditions, ...]
) -> Tensor:
    """(B,2) eV on the sides + and -, NaN for frames without a work function.

    Args:
        fermi: (B,) Phi of frames with one conductor, V.
        moment: (B,3) e Å; cells: (B,3,3) rows in Å; conditions: per frame.
    """
    rows = []
    for phi, m, cell, held in zip(fermi, moment, cells.detach(), conditions):
        if why_none(held) is not None:
            rows.append(moment.new_full((2,), torch.nan))
            continue
        normal = torch.linalg.cross(cell[0], cell[1])
        # Both |a x b|: one makes n of the normal, one is the area.
        half_step = 2.0 * math.pi * COULOMB_CONSTANT * (m @ normal) / (normal @ normal)
        rows.append(torch.stack([phi - half_step, phi + half_step]))
    return torch.stack(rows)
