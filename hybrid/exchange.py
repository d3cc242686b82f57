"""Charge that the electrolyte exchanges with electrodes, and which reservoir pays for it.

With `boundary_transfer` an atom of the electrolyte keeps what it gains from an atom of an electrode, and the electrodes,
whose charges are solved, carry total_charge - Q_L(R). An electrode at a held potential is fed by its reservoir. What its
atoms gave away left the reservoir as well, so the work of the reservoirs is

    Omega = E_SR + U - sum over groups at held potentials of psi_g (Q_g + T_g)

with T_g the charge that the electrolyte has from group g. With Q_g alone, shifting all potentials by the same constant
would change forces: the sum of Q_g depends on positions, that of Q_g + T_g does not. A group at a held charge keeps it;
what its atoms exchange comes from the groups at held potentials in equal parts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["refuse_exchange", "reservoirs", "supplied"]

Floats = NDArray[np.float64]


def reservoirs(
    groups: Sequence[NDArray[np.int64]],
    potentials: Sequence[float],
    by_charge: Sequence[bool],
    atoms: int,
) -> Floats:
    """(n,) V, potential of the reservoir that supplies what each atom of an electrode gives away; 0 for other atoms.

    Args:
        groups: indices of each electrode's atoms; potentials: held ones, V; by_charge: groups held at a charge instead.
        atoms: n.
    Raises:
        ValueError: if all groups are held at charges.
    """
    if all(by_charge):
        refuse_exchange()
    mean = float(np.mean([v for v, fixed in zip(potentials, by_charge) if not fixed]))
    out = np.zeros(atoms)
    for members, value, fixed in zip(groups, potentials, by_charge):
        out[members] = mean if fixed else value
    return out


def supplied(groups: Sequence[NDArray[np.int64]], by_charge: Sequence[bool], given: Floats) -> Floats:
    """(groups,) e that each group's reservoir has supplied for what the electrolyte has from electrodes; 0 at held charges.

    With Q_g, this is -dOmega/dpsi_g.

    Args:
        groups: indices of each electrode's atoms; by_charge: groups held at a charge; given: (n,) e from each atom.
    """
    own = np.array([given[members].sum() for members in groups])
    fixed = np.asarray(by_charge, dtype=bool)
    share = own[fixed].sum() / max(1, int((~fixed).sum()))
    return np.where(fixed, 0.0, own + share)


def refuse_exchange() -> None:
    """Raise for electrodes that are all held at charges beside an electrolyte that exchanges charge with them.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        "electrodes = all held at charges must leave one at a potential with boundary_transfer: the charge they exchange with "
        "the electrolyte needs somewhere to go"
    )
