"""Converged forces and charges that every engine's error is measured against, and checks on them.

Water up to 12,288 atoms: our Ewald sum at 1e-10. Larger boxes: our mesh sum at 1e-8, a hundred times tighter than the
tightest target. Either is compared with `direct_forces` on a random subset of atoms, an Ewald sum written down here
without any of our kernels, and refused if it is farther off than a tenth of the tightest target.

Electrodes, whose targets are 1e-4: our Ewald sum at 1e-10 up to 3,000 atoms, beyond that our mesh sum at 1e-8.
"""

import hashlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfc

from examples.benchmarks.speed.measures import relative_error
from examples.benchmarks.speed.systems import CHECKED, SMEARING, VOLTAGE, Box, Cell
from grahame.electrostatics import ConstantPotential, Coulomb, Electrode
from grahame.electrostatics.units import COULOMB_CONSTANT

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

EWALD_ATOMS = 13_000
EWALD_CELL_ATOMS = 3_000
SUBSET = 12
ALLOWED = 1e-7
_REACH = 6.0  # erfc(6) = 2e-17


def direct_forces(box: Box, chosen: Ints, splitting: float | None = None) -> Floats:
    """Forces on some atoms from the Ewald sum as it is written in textbooks, eV/Å.

        F_i = k q_i sum_j q_j [erfc(a r)/r² + 2a/sqrt(pi) exp(-a² r²)/r] r/r
            + k q_i (4 pi/V) sum_G G/G² exp(-G²/4a²) Im[exp(iG.r_i) S(G)*],  S(G) = sum_j q_j exp(iG.r_j),

    with both sums carried to double precision. The splitting is small: the sum over pairs is only for a few atoms,
    the structure factor is for all.
    """
    edge, x, q = float(box.edge), box.positions, box.charges
    a = 0.36 * (3000 / len(q)) ** (1 / 6) if splitting is None else splitting
    reach, largest = _REACH / a, 2 * a * _REACH
    forces = np.zeros((len(chosen), 3))
    images = np.arange(-math.ceil(reach / edge) - 1, math.ceil(reach / edge) + 2)
    for row, i in enumerate(chosen):
        nearest = x[i] - x
        nearest -= edge * np.round(nearest / edge)
        for shift in np.stack(np.meshgrid(images, images, images), -1).reshape(-1, 3) * edge:
            d = nearest + shift
            r = np.sqrt((d**2).sum(1))
            near = (r > 1e-9) & (r < reach)
            r = r[near]
            size = erfc(a * r) / r + 2 * a / math.sqrt(math.pi) * np.exp(-((a * r) ** 2))
            forces[row] += q[i] * ((q[near] * size / r**2) @ d[near])
    top = math.floor(largest * edge / (2 * math.pi))
    step = 2 * math.pi / edge
    whole = np.arange(-top, top + 1)
    # exp(iG.r) is a product over the three directions: the structure factor is one matrix product per plane.
    waves = [np.exp(1j * step * np.outer(whole, x[:, axis])) for axis in range(3)]
    for plane, m in enumerate(whole):
        s = (waves[0][plane] * q * waves[1]) @ waves[2].T
        g = step * np.stack(np.broadcast_arrays(m, whole[:, None], whole[None, :]), -1).astype(np.float64)
        g2 = (g**2).sum(-1)
        wanted = (g2 > 0) & (g2 < largest**2)
        weight = np.zeros_like(g2)
        weight[wanted] = 4 * math.pi / edge**3 * np.exp(-g2[wanted] / (4 * a * a)) / g2[wanted]
        for row, i in enumerate(chosen):
            phase = waves[0][plane, i] * np.outer(waves[1][:, i], waves[2][:, i])
            forces[row] += q[i] * np.einsum("jk,jkc->c", weight * (phase * s.conj()).imag, g)
    return COULOMB_CONSTANT * forces


def with_truth(box: Box, folder: Path) -> tuple[Box, dict[str, object]]:
    """The box with its converged forces, and what they are; kept in `folder`."""
    n = len(box.charges)
    method, accuracy = ("ewald", 1e-10) if n <= EWALD_ATOMS else ("pme", 1e-8)
    kept = folder / f"truth-{_digest(box.positions, box.charges)}.npz"
    known = kept.exists()
    if known:
        with np.load(kept) as held:
            truth, off = held["forces"], float(held["off"])
    else:
        truth = np.asarray(Coulomb("3d", method, accuracy)(box.positions, box.charges, box.cell).forces)
        chosen = np.sort(np.random.default_rng(3).choice(n, min(SUBSET, n), replace=False))
        off = relative_error(truth[chosen], direct_forces(box, chosen))
    if not off < ALLOWED:
        raise RuntimeError(
            f"reference = {off:.1e} off the direct sum must be below {ALLOWED:g}: the converged forces of "
            f"{n} atoms cannot be trusted"
        )
    if not known:
        np.savez(kept, forces=truth, off=off)
    description = {
        "method": method,
        "accuracy": accuracy,
        "atoms_checked": min(SUBSET, n),
        "off_direct_sum": off,
    }
    return replace(box, truth=truth, constant=np.array(COULOMB_CONSTANT)), description


def solver(cell: Cell, accuracy: float, method: str = "pme", mode: str = "auto") -> ConstantPotential:
    """Our solver for the electrodes of a cell at 0 and 1 V."""
    held = [Electrode(g, potential=v) for g, v in ((cell.bottom, 0.0), (cell.top, VOLTAGE))]
    return ConstantPotential(held, Coulomb(cell.boundary, method, accuracy), smearing=SMEARING, solver=mode)


def cell_with_truth(cell: Cell, folder: Path) -> tuple[Cell, dict[str, object]]:
    """The cell with its converged charges and forces after `CHECKED` steps, and what they are."""
    n = len(cell.charges)
    method, accuracy = ("ewald", 1e-10) if n <= EWALD_CELL_ATOMS else ("pme", 1e-8)
    description: dict[str, object] = {"method": method, "accuracy": accuracy}
    kept = folder / f"truth-{_digest(cell.positions, cell.stride, cell.cell)}.npz"
    if kept.exists():
        with np.load(kept) as held:
            return replace(cell, true_charges=held["charges"], true_forces=held["forces"]), description
    found = solver(cell, accuracy, method, "direct").solve(
        cell.at(CHECKED), cell.charges, cell.cell, exclusions=cell.exclusions
    )
    charges, forces = np.asarray(found.charges)[cell.solved], np.asarray(found.forces)
    np.savez(kept, charges=charges, forces=forces)
    return replace(cell, true_charges=charges, true_forces=forces), description


def _digest(*arrays: Floats) -> str:
    found = hashlib.sha256()
    for a in arrays:
        found.update(np.ascontiguousarray(a).tobytes())
    return found.hexdigest()[:16]
