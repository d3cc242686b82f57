"""Errors of a model on frames, and its predictions for them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from grahame.electrostatics import cells
from grahame.hybrid.cli_options import pairs_of
from grahame.hybrid.files import read_structure, replacing
from grahame.hybrid.frames import LABELS, Frame, make_batch
from grahame.hybrid.model import HybridModel, ModelSpec
from grahame.hybrid.reading import Reading, elements_of
from grahame.hybrid.training.metrics import ErrorTable, reference_energy
from grahame.hybrid.training.predicting import labelled, predict
from grahame.hybrid.training.sources import SourceConfig

__all__ = ["Evaluation", "arrays_of", "check_metal", "evaluate", "reading_of", "write_predictions"]


@dataclass
class Evaluation:
    """What a model says for frames.

    Attributes:
        errors: table of errors.
        predictions: per frame, by the names of `LABELS`; of the labels there are, and energy, forces, charges.
        frames: what was predicted.
    """

    errors: ErrorTable
    predictions: list[dict[str, NDArray[np.float64]]] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)

    def pairs(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Labels and predictions of one quantity, flat; energies per atom above the reference energies."""
        labels, values = [], []
        for frame, found in zip(self.frames, self.predictions):
            if name in frame.labels and name in found:
                label, value = np.ravel(frame.labels[name]), np.ravel(found[name])
                if name == "energy":
                    own = reference_energy(self.errors.spec, frame)
                    label, value = (label - own) / len(frame), (value - own) / len(frame)
                labels.append(label)
                values.append(value)
        if not labels:
            return np.empty(0), np.empty(0)
        return np.concatenate(labels), np.concatenate(values)


def evaluate(
    model: HybridModel, frames: Sequence[Frame], batch_size: int = 4, keep: bool = True
) -> Evaluation:
    """Predict frames and compare with their labels.

    Args:
        model: in the state that is to be judged.
        frames: with labels or without.
        batch_size: frames at a time.
        keep: whether to keep the predictions beside the errors.
    Raises:
        ValueError: for an element or a level of theory that the model does not know.
    """
    spec, device = model.spec, next(model.parameters()).device
    errors = ErrorTable(spec)
    out = Evaluation(errors)
    for frame in frames:
        model.level(frame.level)
    for start in range(0, len(frames), batch_size):
        some = frames[start : start + batch_size]
        batch = make_batch(some, spec.elements, spec.architecture.cutoff).to(device)
        wanted = labelled(batch)
        basic = {"energy", "forces"} | ({"charges", "dipole"} if spec.long_range else set())
        found = predict(model, batch, wanted | basic if keep else wanted)
        errors.add({k: v for k, v in found.items() if k in wanted}, batch)
        if keep:
            out.frames += list(some)
            arrays = {k: v.detach().double().cpu().numpy() for k, v in found.items()}
            ends = np.cumsum([0] + [len(f) for f in some])
            for k in range(len(some)):
                out.predictions.append(
                    {
                        n: a[ends[k] : ends[k + 1]] if LABELS[n][0] == "atom" else a[k]
                        for n, a in arrays.items()
                    }
                )
    return out


def write_predictions(evaluation: Evaluation, path: Path, overwrite: bool = False) -> None:
    """Frames with labels as `REF_...`, predictions as `model_...` and what is held (`electrode`: groups), extended XYZ."""
    import ase.io

    images = []
    for frame, found in zip(evaluation.frames, evaluation.predictions):
        atoms = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)
        info, arrays = _state(frame, len(atoms))
        atoms.info |= info | {"source": frame.source, "index": frame.index, "level": frame.level}
        atoms.arrays |= arrays
        for prefix, values in (("REF_", frame.labels), ("model_", found)):
            for name, value in values.items():
                target = atoms.arrays if LABELS[name][0] == "atom" else atoms.info
                array = np.asarray(value)
                target[prefix + name] = array.reshape(len(atoms), -1) if array.ndim == 3 else array
                if array.ndim == 0:
                    atoms.info[prefix + name] = float(array)
        images.append(atoms)
    with replacing(path, overwrite) as temporary:
        ase.io.write(temporary, images, format="extxyz")


def _state(frame: Frame, atoms: int) -> tuple[dict[str, Any], dict[str, NDArray[np.int64]]]:
    """Keys and arrays that say what is held, by the names of the schema: who reads them gets the frame's conditions again."""
    held = frame.conditions
    info: dict[str, Any] = {**frame.info, "total_charge": held.total_charge}
    field, kind = held.field, "E"
    if held.displacement is not None:
        kind, field = "D", tuple(held.displacement * np.asarray(cells.normal(torch.as_tensor(frame.cell))))
    if field is not None:
        info |= {"external_field": np.asarray(field), "field_unit": "V/Å", "field_kind": kind}
    groups = np.full(atoms, -1)
    for g, electrode in enumerate(held.electrodes):
        groups[electrode.indices] = g
    charges = [e.charge for e in held.electrodes]
    if charges and None not in charges:
        info["electrode_charge"] = np.asarray(charges, dtype=float)
    potentials = [e.potential for e in held.electrodes]
    if "potential" not in info and len(potentials) > 1 and None not in potentials:
        info |= {"potential": np.asarray(potentials, dtype=float), "potential_reference": "internal"}
    return info, {"electrode": groups} if held.electrodes else {}


def reading_of(
    spec: ModelSpec,
    file: str,
    *,
    source: int | None = None,
    keys: Sequence[str] = (),
    level: str | None = None,
    boundary: str | None = None,
    total_charge: float | None = None,
    electrodes: Sequence[str] = (),
    field: str | None = None,
    select: Sequence[str] = (),
    arrays: Collection[str] = (),
) -> Reading:
    """How to read frames for a model: as one of the sources it was trained on, with changes.

    Args:
        spec: of the model; its provenance holds the sources.
        file: name of the file, to find the source that read it.
        source: number of the source; None takes the one with this file's name, or the first that finds electrodes among
            the arrays of the frames, or the first.
        arrays: names of the frames' arrays.
        keys: label=key, instead of all of the source's; select: key=pattern, instead of the source's.
        level, boundary, total_charge, electrodes, field: instead of the source's; the field "none" is no field.
    Raises:
        ValueError: for a source that is not there, text that is no label=key, and electrodes of elements that the model
            does not know.
    """
    foreign = [e for e in electrodes if e not in spec.elements]
    if foreign:
        raise ValueError(
            f"electrode = {foreign[0]} must be an element of the model ({', '.join(spec.elements)}): correct the symbol"
        )
    known = spec.provenance.get("config", {}).get("data", {}).get("sources", [])
    if source is not None and not 0 <= source < len(known):
        raise ValueError(
            f"source = {source} must be one of the model's {len(known)} sources: leave it out to read by name"
        )
    named = [s for s in known if fnmatchcase(file, s["file"])]
    fitting = [s for s in known if s.get("electrode_groups") in arrays]
    chosen = known[source] if source is not None else (named or fitting or known or [{"file": file}])[0]
    reading = SourceConfig.model_validate(
        {k: v for k, v in chosen.items() if k != "use" or chosen.get("split") is None}
    ).reading(spec.charges)
    if source is None and not named:
        # A selection belongs to the file it was made for.
        reading = replace(reading, select={})
    if reading.level not in spec.levels:
        reading = replace(reading, level=spec.levels[0])
    if keys:
        pairs = pairs_of("key", keys)
        for label in pairs:
            if label not in LABELS:
                raise ValueError(f"key = {label} must be one of {', '.join(LABELS)}: name the label first")
        reading = replace(reading, keys=pairs)
    if select:
        reading = replace(reading, select={k: (v,) for k, v in pairs_of("select", select).items()})
    changes = {"level": level, "boundary": boundary, "total_charge": total_charge, "field_key": field}
    reading = replace(reading, **{k: v for k, v in changes.items() if v is not None})  # type: ignore[arg-type]
    if field == "none":
        reading = replace(reading, field_key=None)
    if electrodes:
        reading = replace(reading, electrode_elements=tuple(electrodes), electrode_groups=None)
    return reading


def arrays_of(path: str | Path) -> list[str]:
    """Names of the arrays of a file's first frame.

    Raises:
        FileNotFoundError, ValueError: for what is no file of structures, as `read_structure`.
    """
    return sorted(read_structure(path, 0, name="frames").arrays)


def check_metal(frames: Sequence[Frame], electrodes: Sequence[str]) -> None:
    """Refuse an electrode's element that no frame has: without metal, errors would be those of another system."""
    present = elements_of(frames)
    for element in electrodes:
        if element not in present:
            raise ValueError(
                f"electrode = {element} must be an element of the frames ({', '.join(present)}): name the metal, or leave "
                "the option out"
            )
