"""What can be wrong with frames beyond one file: found before the first epoch, listed by file and index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray

from grahame.electrostatics.cells import SLABS
from grahame.hybrid.coupling import LongRangeTerms
from grahame.hybrid.crossing import refuse_periodic_field, refuse_shared
from grahame.hybrid.exchange import refuse_exchange
from grahame.hybrid.frames import Frame
from grahame.hybrid.model import FORMAL_CHARGES, ChargeSpec
from grahame.hybrid.reading import Problem
from grahame.hybrid.training.dataset import Splits
from grahame.hybrid.training.duplicates import twins
from grahame.hybrid.training.references import composition, fit_level
from grahame.hybrid.training.sources import ChecksConfig

__all__ = ["check_frames"]

_NET = 5.0  # standard deviations of the stated noise


def check_frames(splits: Splits, checks: ChecksConfig, charges: ChargeSpec, cutoff: float) -> list[Problem]:
    """Everything that is wrong, one entry per fault.

    Args:
        splits: the frames.
        checks: limits.
        charges: where the model's charges come from.
        cutoff: of the model, Å; the neighbours found for the check of distances are kept for the training.
    """
    found: list[Problem] = []
    for frame in splits.frames:
        texts = [
            *_forces(frame, checks),
            *_charges(frame, checks, charges),
            *_work_function(frame, charges),
            *_periodic(frame, charges),
            *_distances(frame, checks, cutoff),
        ]
        if not frame.labels:
            texts.append("labels = none must be one at least: name the file's keys")
        # What a solve would refuse is most often named better, with the label or key it comes from.
        texts = texts or list(_conditions(frame, charges))
        found += [Problem(frame.source, frame.index, text) for text in texts]
    return found + _duplicates(splits) + _energies(splits.frames, checks)


def _forces(frame: Frame, checks: ChecksConfig) -> Iterator[str]:
    forces = frame.labels.get("forces")
    if forces is None:
        return
    if checks.largest_force is not None and np.abs(forces).max() > checks.largest_force:
        atom = int(np.abs(forces).max(axis=1).argmax())
        yield (
            f"forces = {np.abs(forces).max():.4g} eV/Å on atom {atom} must not exceed {checks.largest_force:g} eV/Å: "
            "leave the frame out or raise data.checks.largest_force"
        )
    charged = frame.conditions.total_charge != 0 and frame.conditions.field is not None
    if checks.force_noise is not None and not charged:
        # Independent errors of n components add up to noise * sqrt(n).
        net = np.abs(forces.sum(axis=0)).max() / np.sqrt(len(forces))
        if net > _NET * checks.force_noise:
            yield (
                f"forces = {net * np.sqrt(len(forces)):.4g} eV/Å in sum of {len(forces)} atoms must not exceed "
                f"{_NET:g} sqrt(n) times the noise of {checks.force_noise:g} eV/Å: leave the frame out or state the "
                "noise in data.checks.force_noise"
            )


def _charges(frame: Frame, checks: ChecksConfig, spec: ChargeSpec) -> Iterator[str]:
    c, kind = frame.conditions, spec.kind
    if abs(c.total_charge - round(c.total_charge)) > 1e-6:
        yield f"total_charge = {c.total_charge:g} e must be a whole number: correct it, a cell has whole electrons"
    if kind == "transfer" and not c.electrodes:
        own = _formal(frame, spec)
        if abs(own.sum() - c.total_charge) > 1e-6:
            yield (
                f"formal charges = {own.sum():g} e in sum must equal total_charge = {c.total_charge:g} e: set "
                "model.charges.formal, give formal_charges per atom, or use charges of kind projected or solved"
            )
    if kind == "projected":
        if c.electrodes and c.fragments is None:
            yield "fragments = nothing must be given for projected charges beside electrodes: name them in the source"
        if not c.electrodes and c.fragment_charges is not None:
            total = float(c.fragment_charges.sum())
            if abs(total - c.total_charge) > 1e-6:
                yield (
                    f"fragment_charges = {total:g} e in sum must equal total_charge = {c.total_charge:g} e: correct "
                    "one of the two"
                )
    charges = frame.labels.get("charges")
    if charges is not None and checks.charge_sum is not None:
        error = float(charges.sum()) - c.total_charge
        if abs(error) > checks.charge_sum:
            yield (
                f"charges = {charges.sum():.4g} e in sum must be within {checks.charge_sum:g} e of total_charge = "
                f"{c.total_charge:g} e: correct one of the two or raise data.checks.charge_sum"
            )


def _work_function(frame: Frame, spec: ChargeSpec) -> Iterator[str]:
    """What the frame's conditions forbid is found when it is read."""
    if "work_function" in frame.labels and spec.kind in ("none", "solved"):
        yield (
            f"work_function = {float(frame.labels['work_function']):g} eV must not be given with charges of kind "
            f"{spec.kind}: no conductor stands apart there; use transfer or projected"
        )


def _periodic(frame: Frame, spec: ChargeSpec) -> Iterator[str]:
    """What charges of this kind have no answer for: fields along periodic directions, and held charges they exchange."""
    c, shared = frame.conditions, spec.kind == "solved"
    shared = shared or (spec.kind == "projected" and frame.conditions.fragments is None)
    if spec.kind == "none":
        return
    try:
        in_field = c.boundary == "3d" and c.field is not None and any(c.field)
        if in_field and (c.electrodes or spec.kind != "transfer"):
            refuse_periodic_field(c.field)
        if c.boundary == "displacement" and shared:
            refuse_shared()
        if spec.boundary_transfer and c.electrodes and all(e.potential is None for e in c.electrodes):
            refuse_exchange()
    except ValueError as error:
        yield str(error)
    yield from _derived(frame, spec, shared)


def _conditions(frame: Frame, spec: ChargeSpec) -> Iterator[str]:
    """What the solver of the charges refuses, whatever the model will say of them."""
    if spec.kind == "none":
        return
    terms = LongRangeTerms(1e-5, spec.kind == "solved", spec.boundary_transfer)
    try:
        terms.check(
            torch.as_tensor(frame.positions),
            torch.as_tensor(_any_charges(frame, spec)),
            torch.as_tensor(frame.cell),
            frame.conditions,
        )
    except ValueError as error:
        yield str(error)


def _any_charges(frame: Frame, spec: ChargeSpec) -> NDArray[np.float64]:
    """(n,) e, charges that add up to what those of every model of this kind will add up to; 0 on solved atoms."""
    c, free = frame.conditions, ~frame.conditions.solved(len(frame))
    if spec.kind == "solved":
        return np.zeros(len(frame))
    if spec.kind == "transfer":
        return np.where(free, _formal(frame, spec), 0.0)
    if c.fragments is None:
        return np.full(len(frame), c.total_charge / len(frame))
    out = np.zeros(len(frame))
    if c.fragment_charges is not None:
        inside = free & (c.fragments >= 0)
        own = c.fragments[inside]
        out[inside] = c.fragment_charges[own] / np.bincount(own, minlength=len(c.fragment_charges))[own]
    return out


def _formal(frame: Frame, spec: ChargeSpec) -> NDArray[np.float64]:
    """(n,) e, of the frame, else of the elements."""
    if frame.conditions.formal_charges is not None:
        return np.asarray(frame.conditions.formal_charges)
    formal = FORMAL_CHARGES | spec.formal
    return np.array([formal.get(chemical_symbols[z], 0.0) for z in frame.numbers])


def _derived(frame: Frame, spec: ChargeSpec, shared: bool) -> Iterator[str]:
    """Labels that follow from charges, where they depend on the images that the file holds, or lack a part."""
    c, labels = frame.conditions, frame.labels
    if spec.in_energy:
        names = [name for name in ("dipole", "born", "field_response") if name in labels]
        if names:
            yield (
                f"{', '.join(names)} = given must be left out with model.charges.in_energy: those of such a model are of its "
                "charges alone, without what their energy adds; leave them out, or train without in_energy"
            )
        return
    if not (shared or c.electrodes) or c.boundary == "open":
        return
    whole = f"charges of kind {spec.kind} that all atoms of a periodic cell share"
    cut, image = "depends on where the cell is cut", "depends on which image of a metal atom the file holds"
    repeats = [p and (d < 2 or c.boundary not in SLABS) for d, p in enumerate(frame.pbc)]
    # A label may leave out, as NaN, what is not defined.
    if "dipole" in labels and (np.abs(frame.cell[repeats]) @ np.isfinite(labels["dipole"]) > 0).any():
        given = (
            f"dipole = {np.asarray(labels['dipole']).tolist()} e Å must be nan along directions that repeat"
        )
        if c.electrodes:
            yield f"{given} beside electrodes: it {image}; set those components to nan"
        else:
            yield f"{given} with {whole}: it {cut}; use transfer"
    if "born" in labels and any(frame.pbc):
        given = "born = given must be left out"
        if c.electrodes:
            yield f"{given} beside electrodes in a periodic cell: it {image}; give field_response, along the normal"
        else:
            yield f"{given} with {whole}: their dipole {cut}; use transfer"
    if "field_response" in labels and c.boundary == "3d":
        given = "field_response = given must be left out with boundary 3d"
        if c.electrodes:
            yield f"{given} beside electrodes: it {image}; use boundary slab"
        else:
            yield f"{given} and {whole}: it {cut}; use transfer"


def _distances(frame: Frame, checks: ChecksConfig, cutoff: float) -> Iterator[str]:
    pairs = frame.pairs(cutoff)
    d = frame.positions[pairs.j] + pairs.shifts @ frame.cell - frame.positions[pairs.i]
    r = np.linalg.norm(d, axis=1)
    if len(r) and r.min() < checks.closest:
        k = int(r.argmin())
        yield (
            f"distance = {r[k]:.3g} Å of atoms {pairs.i[k]} and {pairs.j[k]} must be at least {checks.closest:g} Å: "
            "leave the frame out"
        )


def _duplicates(splits: Splits) -> list[Problem]:
    out = []
    for frame, twin in twins(splits.train, splits.valid):
        text = f"geometry = that of {twin.name} must not be in training and validation: split by geometry"
        out.append(Problem(frame.source, frame.index, text))
    return out


def _energies(frames: Sequence[Frame], checks: ChecksConfig) -> list[Problem]:
    """Energies per atom far from a robust fit of one energy per element, each level for itself.

    Where total charges differ, energies may follow them: to take an electron away costs electronvolts, in any frame. Hot
    frames lie high and have large forces; where forces are known, a frame must also be far from a fit in which energies may
    follow the mean square force.
    """
    out: list[Problem] = []
    if checks.energy_outliers is None:
        return out
    for level in sorted({f.level for f in frames}):
        some = [f for f in frames if f.level == level and "energy" in f.labels]
        if len(some) < 10:
            continue
        elements = sorted({int(z) for f in some for z in np.unique(f.numbers)})
        counts = composition(some, elements)
        energies = np.array([float(f.labels["energy"]) for f in some])
        charges = np.array([f.conditions.total_charge for f in some])
        follows = [charges / counts.sum(axis=1)] if np.ptp(charges) > 0.0 else []
        fit = fit_level(counts, energies, np.column_stack(follows) if follows else None)
        limit = max(checks.energy_outliers * fit.deviation, checks.energy_floor)
        far = np.abs(fit.residuals) > limit
        if all("forces" in f.labels for f in some):
            follows.append(np.array([np.mean(f.labels["forces"] ** 2) for f in some]))
            hot = fit_level(counts, energies, np.column_stack(follows))
            far &= np.abs(hot.residuals) > max(checks.energy_outliers * hot.deviation, checks.energy_floor)
        for k in np.flatnonzero(far):
            text = (
                f"energy = {1e3 * fit.residuals[k]:+.1f} meV/atom from the fit of compositions must be within "
                f"{1e3 * limit:.1f} meV/atom: leave the frame out or raise data.checks.energy_outliers"
            )
            out.append(Problem(some[k].source, some[k].index, text))
    return out
