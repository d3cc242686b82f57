"""Energies of isolated elements from the compositions of frames, and the scales of a data set.

    min over e_Z of sum over frames f of rho((E_f - sum over Z of n_fZ e_Z) / n_f)

with Huber's rho, by iteratively reweighted least squares, so that single absurd energies do not move the fit.
Where compositions do not tell elements apart (pure water: two hydrogens for each oxygen), the energies closest to
the mean energy per atom are taken, and `rank` says so.

Source: Huber, Ann. Math. Stat. 35, 73 (1964).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from grahame.hybrid.frames import Frame

__all__ = [
    "LevelFit",
    "composition",
    "fit_level",
    "fit_references",
    "force_scale",
    "mean_neighbors",
    "move_references",
]

Floats = NDArray[np.float64]
_HUBER = 1.345  # standard deviations; 95 % efficient for normal errors
# Another energy zero, and not an error of the model: residuals (eV/atom, root mean square) that are large, and of whose
# mean square constants per element leave no more than this part.
_LARGE, _LEFT = 0.05, 0.1


@dataclass(frozen=True)
class LevelFit:
    """Reference energies of one level of theory.

    Attributes:
        energies: (elements,) eV.
        residuals: (frames,) eV/atom.
        deviation: robust standard deviation of the residuals, eV/atom.
        rank: how many combinations of elements the compositions determine.
    """

    energies: Floats
    residuals: Floats
    deviation: float
    rank: int


def composition(frames: Sequence[Frame], elements: Sequence[int]) -> Floats:
    """(frames, elements) number of atoms of each element."""
    return np.array([[np.count_nonzero(f.numbers == z) for z in elements] for f in frames], dtype=float)


def fit_level(counts: Floats, energies: Floats, extra: Floats | None = None) -> LevelFit:
    """Robust energies per element.

    Args:
        counts: (frames, elements) atoms of each element.
        energies: (frames,) eV.
        extra: (frames,) or (frames, m), something else that energies per atom may follow linearly.
    """
    atoms = counts.sum(axis=1)
    parts, values = counts / atoms[:, None], energies / atoms
    if extra is not None:
        parts = np.column_stack([parts, extra - np.median(extra, axis=0)])
    middle = float(np.median(values))
    weights = np.ones(len(values))
    solution = np.zeros(parts.shape[1])
    rank = 0
    for _ in range(100):
        root = np.sqrt(weights)
        # Shares add up to one, so the shift by the middle is exact, and the smallest solution is nearest to it.
        new, _, rank, _ = np.linalg.lstsq(parts * root[:, None], (values - middle) * root, rcond=1e-10)
        residuals = values - middle - parts @ new
        converged = np.abs(new - solution).max(initial=0.0) < 1e-10 * max(
            1.0, float(np.abs(new).max(initial=0.0))
        )
        solution = new
        deviation = 1.4826 * float(np.median(np.abs(residuals - np.median(residuals))))
        if converged or deviation == 0.0:
            break
        weights = np.minimum(1.0, _HUBER * deviation / np.maximum(np.abs(residuals), 1e-300))
    return LevelFit(middle + solution[: counts.shape[1]], residuals, deviation, int(rank))


def fit_references(
    frames: Sequence[Frame], elements: Sequence[int], levels: Sequence[str]
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Reference energies of all levels, and what there is to say about them.

    Args:
        frames: for training.
        elements: atomic numbers of the model.
        levels: names.
    Returns:
        {level: {symbol: eV}}, and one sentence per level.
    """
    out: dict[str, dict[str, float]] = {}
    notes = []
    for level in levels:
        some = [f for f in frames if f.level == level and "energy" in f.labels]
        if not some:
            out[level] = {}
            notes.append(f"level {level}: no energies, reference energies are zero")
            continue
        present = [z for z in elements if any((f.numbers == z).any() for f in some)]
        energies = np.array([float(f.labels["energy"]) for f in some])
        fit = fit_level(composition(some, present), energies)
        out[level] = {chemical_symbols[z]: float(e) for z, e in zip(present, fit.energies)}
        note = (
            f"level {level}: {len(some)} energies, {1e3 * fit.deviation:.3g} meV/atom around the references"
        )
        if fit.rank < len(present):
            note += (
                f"; compositions determine {fit.rank} of {len(present)} elements, the others lie as close to the "
                "mean as possible: energies of other compositions have no meaning"
            )
        notes.append(note)
    return out, notes


def move_references(
    held: Mapping[str, float], frames: Sequence[Frame], predicted: Sequence[Frame]
) -> tuple[dict[str, float], str | None]:
    """Reference energies of a level for labels that may count from another zero than a trained model.

    Args:
        held: {symbol: eV} of the model.
        frames: with energies as labels; predicted: the same with those that the model says.
    Returns:
        What to use: `held`, unless constants per element explain nearly all of a large difference; and a sentence where they do.
    """
    if not frames:
        return dict(held), None
    present = sorted({int(z) for f in frames for z in np.unique(f.numbers)})
    counts = composition(frames, present)
    energies = [np.array([float(f.labels["energy"]) for f in some]) for some in (frames, predicted)]
    fit = fit_level(counts, energies[0] - energies[1])
    before = float(np.mean(((energies[0] - energies[1]) / counts.sum(axis=1)) ** 2))
    after = float(np.mean(fit.residuals**2))
    if not (before > _LARGE**2 and after < _LEFT * before):
        return dict(held), None
    steps = {chemical_symbols[z]: float(e) for z, e in zip(present, fit.energies)}
    note = (
        f"energies lie {np.sqrt(before):.4g} eV/atom from the initial model's: its reference energies move, by "
        f"{', '.join(f'{e} {step:.4g}' for e, step in steps.items())} eV, which leaves {np.sqrt(after):.3g} eV/atom"
    )
    stay = [e for e in held if e not in steps]
    if stay:
        note += f"; those of {', '.join(stay)} stay, no frame has them: energies across both have no meaning"
    return dict(held) | {e: held.get(e, 0.0) + step for e, step in steps.items()}, note


def force_scale(frames: Sequence[Frame]) -> float:
    """Root mean square of all force components (eV/Å) times 1 Å; 1 eV without forces."""
    parts = [f.labels["forces"].ravel() for f in frames if "forces" in f.labels]
    rms = float(np.sqrt(np.mean(np.concatenate(parts) ** 2))) if parts else 0.0
    return rms if rms > 0 else 1.0


def mean_neighbors(frames: Sequence[Frame], cutoff: float) -> float:
    """Mean number of neighbours within the cut-off (Å), at least 1."""
    total = sum(2 * len(f.pairs(cutoff).i) for f in frames)
    return max(1.0, total / sum(len(f) for f in frames))
