"""Do the energies and forces of successive frames belong together?

Along a trajectory conservative forces do the work by which the energy falls: r = E(2) - E(0) + W with W = ∫ F·dR is
zero. From three frames at equal intervals the trapezoidal rule with one and with two intervals gives W to fourth order,
(4 T(h) - T(2h)) / 3, and T(h) - T(2h) says what is left.

Friction mixed into the labels, F - γ m v, leaves r = -γ ∫ m v² dt: of one sign at every step, where the error of the
integration changes its sign with the direction of time and averages out. Where frames lie too far apart for integrals
their momenta still tell: in equilibrium forces do no work on the mean, <F·v> = 0, and with friction -γ <m v²>.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.geometry import find_mic
from numpy.typing import NDArray

from grahame.hybrid.reading import label_of

__all__ = ["LabelAudit", "audit_labels"]

Array = NDArray[np.float64]

_ROUNDING = 1e-7  # eV per atom: energies and forces of files have so many digits
_NOISE = 0.01  # residual relative to the work that converged electronic structure may leave
_COARSE = 0.3  # error of the integration relative to the work, from which on nothing can be said
_SIGMA = 5.0


@dataclass(frozen=True)
class LabelAudit:
    """What the labels of a series of frames are.

    Attributes:
        frames: read; triples: of successive frames under the same conditions, which were compared.
        residual: rms of E(2) - E(0) + W over the triples, eV.
        drift: mean of the same, eV; drift_error: its standard error.
        integration: rms error of the trapezoidal rule, eV; its square over the work is what the distance of the frames
            leaves of it.
        work: rms of W, eV.
        friction: γ of -γ m v in the forces, 1/ps, from the drift, or from <F·v> where frames lie too far apart; None
            without momenta. friction_error: its standard error.
        net_force: rms over frames of the length of the summed forces, eV/Å; 0 but for a field on a charged system, or
            atoms that something outside holds.
        verdict: "consistent"; "friction" where the forces take energy at every step; "inconsistent" where they are not those
            of this energy in another way; "unknown" where frames lie too far apart, or are too few, for an integral, and momenta say nothing.
    """

    frames: int
    triples: int
    residual: float
    drift: float
    drift_error: float
    integration: float
    work: float
    friction: float | None
    friction_error: float | None
    net_force: float
    verdict: str

    def as_dict(self) -> dict[str, Any]:
        """All attributes."""
        return asdict(self)


@dataclass
class _Labelled:
    """One frame's numbers."""

    atoms: Atoms
    energy: float
    forces: Array


def audit_labels(frames: Iterable[Atoms], energy: str = "energy", forces: str = "forces") -> LabelAudit:
    """Test whether forces are minus the gradient of the energies along successive frames.

    Args:
        frames: in the order of time, at equal intervals, with labels; read once.
        energy: key of the energy, eV, of what is constant where nothing outside changes (Ω at held potentials).
        forces: key of the forces, eV/Å.
    Returns:
        Residuals, drift and the verdict. Triples between which the cell, the elements, or what electrodes are held at
        change are left out.
    Raises:
        ValueError: when a frame lacks a label, or there is no frame.
    """
    last: list[_Labelled] = []
    rows: list[tuple[float, float, float, float]] = []
    powers: list[tuple[float, float]] = []
    net: list[float] = []
    atoms = 1
    for number, image in enumerate(frames):
        frame = _Labelled(image, *_labels(image, energy, forces, number))
        net.append(float(np.linalg.norm(frame.forces.sum(axis=0))))
        atoms = max(atoms, len(image))
        velocities = image.get_velocities()
        powers.append(
            (float((frame.forces * velocities).sum()), float((image.get_momenta() * velocities).sum()))
        )
        last = [*last[-2:], frame]
        if len(last) == 3 and _comparable(last):
            rows.append(_triple(last))
    if not net:
        raise ValueError("frames = 0 must be at least one: give a trajectory with frames")
    left, work, rough, path = np.array(rows).reshape(-1, 4).T
    # Neighbouring triples share an interval.
    drift, error = _mean(left, len(left) / 2)
    power, power_error = _mean(np.array(powers)[:, 0], len(powers))
    rounding = _ROUNDING * atoms
    coarse = len(left) < 4 or _rms(rough) > max(_COARSE * _rms(work), rounding)
    # Close frames share what F·v is at a time, so that only distant ones show its mean.
    mean, spread, square = (power, power_error, np.array(powers)[:, 1]) if coarse else (drift, error, path)
    known = np.isfinite(spread) and _average(square) > 0.0
    friction, friction_error = (np.array([-mean, spread]) / _average(square)) if known else (None, None)
    per_ps = 1e3 * units.fs
    return LabelAudit(
        frames=len(net),
        triples=len(left),
        residual=_rms(left),
        drift=drift,
        drift_error=error,
        integration=_rms(rough),
        work=_rms(work),
        friction=None if friction is None else float(friction) * per_ps,
        friction_error=None if friction_error is None else float(friction_error) * per_ps,
        net_force=_rms(np.array(net)),
        verdict=_verdict(coarse, mean, spread, _rms(left), _rms(rough), _rms(work), rounding),
    )


def _triple(three: list[_Labelled]) -> tuple[float, float, float, float]:
    """Residual, work, error of the work (eV), and ∫ m v² dt (eV times ASE's time) of three frames."""
    first, middle, end = three
    one, two = _way(first, middle), _way(middle, end)
    fine = 0.5 * float(
        ((first.forces + middle.forces) * one).sum() + ((middle.forces + end.forces) * two).sum()
    )
    coarse = 0.5 * float(((first.forces + end.forces) * (one + two)).sum())
    work = (4 * fine - coarse) / 3
    momenta = [f.atoms.get_momenta() for f in three]
    way = 0.5 * float(((momenta[0] + momenta[1]) * one).sum() + ((momenta[1] + momenta[2]) * two).sum())
    return end.energy - first.energy + work, work, abs(fine - coarse) / 3, way


def _way(start: _Labelled, end: _Labelled) -> Array:
    """Displacements, the shortest ones along periodic directions, Å."""
    steps: Array = end.atoms.get_positions() - start.atoms.get_positions()
    if not start.atoms.pbc.any():
        return steps
    shortest: Array = np.asarray(find_mic(steps, start.atoms.cell, start.atoms.pbc)[0], dtype=np.float64)
    return shortest


def _comparable(three: list[_Labelled]) -> bool:
    """Whether work alone changes the energy between these frames."""
    one = three[0].atoms
    for other in (f.atoms for f in three[1:]):
        if not np.array_equal(one.numbers, other.numbers) or not np.allclose(one.cell, other.cell, atol=1e-9):
            return False
        if one.info.get("stage") != other.info.get("stage") or not _same_held(one, other):
            return False
    return True


def _same_held(one: Atoms, other: Atoms) -> bool:
    """Whether each electrode kept its potential or its charge: the other of the two follows the atoms."""
    same = np.zeros(1, dtype=bool)
    stated = False
    for key in ("electrode_potentials", "electrode_charges"):
        a, b = (_stored(x, key) for x in (one, other))
        if a is not None and b is not None and a.shape == b.shape:
            same, stated = same | (np.abs(a - b) < 1e-7), True
    return bool(same.all()) if stated else True


def _stored(atoms: Atoms, key: str) -> Array | None:
    results = {} if atoms.calc is None else atoms.calc.results
    value = atoms.info.get(key, results.get(key))
    return None if value is None else np.atleast_1d(np.asarray(value, dtype=np.float64))


def _labels(atoms: Atoms, energy: str, forces: str, number: int) -> tuple[float, Array]:
    """Energy and forces of a frame."""
    try:
        e, f = label_of(atoms, "energy", energy), label_of(atoms, "forces", forces)
    except (KeyError, ValueError) as error:
        raise ValueError(f"frame {number}: {error.args[0]}") from None
    return float(e), f


def _average(values: Array) -> float:
    return float(values.mean()) if len(values) else 0.0


def _mean(values: Array, independent: float) -> tuple[float, float]:
    """Mean and its standard error; of less than two values the error is infinite."""
    error = float(values.std(ddof=1)) / sqrt(independent) if len(values) > 1 else float("inf")
    return _average(values), error


def _rms(values: Array) -> float:
    return sqrt(float((values**2).mean())) if len(values) else 0.0


def _verdict(
    coarse: bool, mean: float, error: float, residual: float, rough: float, work: float, rounding: float
) -> str:
    """What is left of energy and work says: mean is that of F·v for distant frames, else that of dE + F dR."""
    # The trapezoidal rule errs by a part rough / work, the extrapolated one by its square.
    limit = max(rough**2 / work if work > 0.0 else 0.0, rounding)
    if -mean > max(_SIGMA * error, 0.0 if coarse else limit):
        return "friction"
    if coarse:
        return "unknown"
    return "inconsistent" if residual > max(3.0 * limit, _NOISE * work) else "consistent"
