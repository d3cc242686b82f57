"""The untrained model of a configuration, with the scales and reference energies of its data."""

from __future__ import annotations

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols

from grahame.hybrid.frames import Frame, make_batch
from grahame.hybrid.model import ChargeSpec, HybridModel, ModelSpec
from grahame.hybrid.model_file import find_model, load_model
from grahame.hybrid.training.charge_references import leave_zero, start_charges, start_work_functions
from grahame.hybrid.training.config import TrainConfig
from grahame.hybrid.training.dataset import source_names
from grahame.hybrid.training.predicting import predict
from grahame.hybrid.training.references import fit_references, force_scale, mean_neighbors, move_references

__all__ = ["build_model", "charges_of", "check_known"]

_SAMPLE = 40  # frames per level


def charges_of(config: TrainConfig) -> ChargeSpec:
    """Where the charges of the configured model, or of the one it starts from, come from."""
    if config.transfer is None:
        return config.model.charges
    return load_model(find_model(config.transfer.initial, config.path("."))).spec.charges


def build_model(config: TrainConfig, frames: Sequence[Frame]) -> tuple[HybridModel, list[str]]:
    """The model that training starts from.

    Args:
        config: of the training.
        frames: for training.
    Returns:
        The model, and what there is to say about where it starts.
    Raises:
        ValueError: when the initial model lacks an element or level of the data.
    """
    if config.transfer is not None:
        return _continued(config, frames)
    m = config.model
    numbers = sorted({int(z) for f in frames for z in np.unique(f.numbers)})
    levels = tuple(dict.fromkeys(f.level for f in frames))
    symbols = [chemical_symbols[z] for z in numbers]
    for element, longest in m.charges.dipoles.items():
        if element not in symbols:
            raise ValueError(
                f"model.charges.dipoles.{element} = {longest:g} e Å must belong to an element of the training frames "
                f"({', '.join(symbols)}): correct the symbol"
            )
    cutoff = m.architecture.cutoff
    spec = ModelSpec(
        elements=tuple(symbols),
        architecture=m.architecture.sizes(),
        dtype=m.dtype,
        levels=levels,
        neighbors=mean_neighbors(frames, cutoff),
        scale=force_scale(frames),
        repulsion=m.repulsion,
        charges=m.charges,
        double_counting=m.double_counting,
        switch=m.switch,
        accuracy=m.accuracy,
        provenance=provenance(config, frames),
    )
    torch.manual_seed(config.seed)
    bare = HybridModel(spec)
    # Labels that the loss does not count are for comparison only.
    started = start_charges(bare, frames) if config.loss.charges > 0.0 else None
    if not any(config.loss.weights()[name] > 0.0 for name in ("dipole", "born", "field_response")):
        started = started or leave_zero(bare, frames)
    raised = start_work_functions(bare, frames) if config.loss.work_function > 0.0 else None
    references, notes = fit_references(frames, numbers, levels)
    explained, _ = fit_references(_predicted(bare, _sample(frames, levels)), numbers, levels)
    for level, energies in references.items():
        for element in energies:
            energies[element] -= explained[level].get(element, 0.0)
    model = HybridModel(spec.model_copy(update={"reference_energies": references}))
    model.load_state_dict(bare.state_dict())
    return model, notes + [said for said in (started, raised) if said]


def _sample(frames: Sequence[Frame], levels: Sequence[str]) -> list[Frame]:
    """Some frames with energies of each level."""
    out = []
    for level in levels:
        some = [f for f in frames if f.level == level and "energy" in f.labels]
        out += [
            some[k] for k in np.unique(np.linspace(0, len(some) - 1, min(len(some), _SAMPLE)).astype(int))
        ]
    return out


def _predicted(model: HybridModel, frames: Sequence[Frame]) -> list[Frame]:
    """Frames with the energies of a model; those of an untrained one are large, by its repulsion and charges."""
    out = []
    for frame in frames:
        batch = make_batch([frame], model.spec.elements, model.spec.architecture.cutoff)
        energy = predict(model, batch, {"energy"})["energy"].detach().numpy()[0]
        out.append(replace(frame, labels={"energy": energy}))
    return out


def _continued(config: TrainConfig, frames: Sequence[Frame]) -> tuple[HybridModel, list[str]]:
    assert config.transfer is not None
    model = load_model(find_model(config.transfer.initial, config.path(".")))
    spec = model.spec
    check_known(spec, frames)
    # Energies that the loss does not count are for comparison only.
    counted = config.loss.energy > 0.0 or (config.stage_two is not None and config.stage_two.energy > 0.0)
    references, moved = _own_zero(model, frames if counted else [])
    known = provenance(config, frames) | {"initial": dict(spec.provenance)}
    renewed = HybridModel(spec.model_copy(update={"provenance": known, "reference_energies": references}))
    renewed.load_state_dict(model.state_dict())
    kept = "elements and levels" if moved else "elements, levels and reference energies"
    return renewed, [f"starting from {config.transfer.initial}, with its {kept}", *moved]


def _own_zero(model: HybridModel, frames: Sequence[Frame]) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Reference energies of a trained model, moved to the energy zero of new frames where that is another one."""
    references, notes = dict(model.spec.reference_energies), []
    for level in model.spec.levels:
        some = _sample(frames, [level])
        moved, note = move_references(references.get(level, {}), some, _predicted(model, some))
        if note is not None:
            references[level] = moved
            notes.append(f"level {level}: {note}")
    return references, notes


def check_known(spec: ModelSpec, frames: Sequence[Frame]) -> None:
    """Refuse frames of elements or levels of theory that a model does not know, and energies that it has no zero for.

    Raises:
        ValueError: naming the first frame, and what the model lacks for all of them.
    """
    for what, known, held in (
        ("elements", spec.elements, [{chemical_symbols[z] for z in np.unique(f.numbers)} for f in frames]),
        ("levels", spec.levels, [{f.level} for f in frames]),
    ):
        strange = [k for k, some in enumerate(held) if not some <= set(known)]
        if strange:
            missing = sorted(set().union(*held) - set(known))
            raise ValueError(
                f"{what} = {', '.join(missing)} of {frames[strange[0]].name} must be among those of the training frames or of "
                f"the initial model ({', '.join(known)}): train on frames that have them, or leave these frames out"
            )
    for frame in frames:
        missing = spec.without_reference(frame.level, frame.numbers)
        if missing and "energy" in frame.labels:
            raise ValueError(
                f"elements = {', '.join(missing)} of {frame.name} must have reference energies at level {frame.level}, which has "
                f"those of {', '.join(spec.reference_energies[frame.level])}: train on energies of that level with them, or leave "
                "these frames out"
            )


def provenance(config: TrainConfig, frames: Sequence[Frame]) -> dict[str, Any]:
    """Where the model comes from, ready for JSON; no host or user names."""
    packages = {}
    for package in ("grahame", "torch", "numpy", "ase"):
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            packages[package] = "unknown"
    settings = json.loads(config.model_dump_json(exclude={"output"}))
    if settings["transfer"] is not None:
        settings["transfer"]["initial"] = settings["transfer"]["initial"].rpartition("/")[2]
    for source in settings["data"]["sources"]:
        source["file"] = source["file"].rpartition("/")[2]
    files: dict[str, dict[str, Any]] = {}
    known: dict[Path, str] = {}
    count = Counter(f.source for f in frames)
    for path, name in [file for files_ in source_names(config) for file in files_]:
        place = path.absolute()
        if place not in known:
            alike = sum(p.name == path.name for p in known)
            # Folders have names of people and machines: files of one name are told apart by numbers.
            known[place] = f"{path.name} ({alike + 1})" if alike else path.name
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            files[known[place]] = {"sha256": digest, "frames": 0}
        files[known[place]]["frames"] += count[name]
    return {
        "versions": {"python": platform.python_version()} | packages,
        "config": settings,
        "training_files": files,
        "training_frames": len(frames),
        "charge_labels": config.loss.charge_kind,
    }
