"""Whether a frame fits the boundary of its electrostatics, and the directions in which its short range repeats."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
PBC = tuple[bool, bool, bool]

__all__ = ["PBC", "check_frame"]

# (needed periodic directions, directions the short range repeats in). Along a slab's normal nothing repeats,
# whatever the atoms' flag says: the flag only tells that positions may have been wrapped there.
_PBC: dict[str, tuple[tuple[bool | None, bool | None, bool | None], PBC]] = {
    "3d": ((True, True, True), (True, True, True)),
    "finite-field": ((True, True, True), (True, True, True)),
    "displacement": ((True, True, True), (True, True, True)),
    "slab": ((True, True, None), (True, True, False)),
    "slab-exact": ((True, True, None), (True, True, False)),
    "open": ((False, False, False), (False, False, False)),
}


def check_frame(boundary: str, positions: Floats, cell: Floats, pbc: PBC) -> PBC:
    """The directions in which a frame repeats under a boundary, (True, True, False) for a slab.

    Args:
        boundary: of the Coulomb operator.
        positions: (n, 3) Å; cell: (3, 3) Å rows; pbc: the atoms' periodic directions.
    Raises:
        ValueError: for positions that are not finite, pbc that does not fit, a cell without volume.
    """
    if not np.isfinite(positions).all():
        bad = int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])
        raise ValueError(
            f"positions[{bad}] = {positions[bad]} Å must be finite: check the structure, or the time step of the run"
        )
    needed, repeated = _PBC[boundary]
    if any(n is not None and n != p for n, p in zip(needed, pbc)):
        flags = ", ".join(str(bool(n)) if n is not None else "False" for n in needed)
        raise ValueError(
            f"pbc = ({', '.join(str(bool(p)) for p in pbc)}) must be ({flags}) with boundary "
            f"{boundary}: set atoms.pbc or choose another boundary"
        )
    if boundary != "open" and abs(float(np.linalg.det(cell))) < 1e-12:
        raise ValueError(
            f"cell volume = {abs(float(np.linalg.det(cell))):g} Å³ must be positive with boundary "
            f"{boundary}: give three independent cell vectors"
        )
    return repeated
