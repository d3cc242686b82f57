"""Model files: weights as safetensors, and one JSON text in the file's header that says what they mean.

The text holds the specification of the model, its units and receptive field, and where it comes from. Reading
a model runs no code that came with the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from grahame.hybrid.config_base import located
from grahame.hybrid.files import replacing
from grahame.hybrid.model import HybridModel, ModelSpec
from grahame.hybrid.specification import sentences

FORMAT = "grahame hybrid model"
VERSION = 1
UNITS = {"length": "Å", "energy": "eV", "charge": "e", "potential": "V", "field": "V/Å", "mass": "amu"}
BOXED = "au-water-nacl"
"""Name of the model that comes with the package."""


def _pickled(path: Path) -> bool:
    """Whether a file begins like a pickle, bare or in torch's zip, and not like safetensors: a length, then JSON."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[8:] != b"{")


def save_model(model: HybridModel, path: str | Path) -> None:
    """Write a model; the file appears whole or not at all.

    Args:
        model: to be written.
        path: usually ending in .safetensors.
    """
    path = Path(path)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "units": UNITS,
        "receptive_field": model.spec.architecture.receptive_field,
        "spec": model.spec.model_dump(mode="json"),
    }
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    text = json.dumps(header, ensure_ascii=False)
    with replacing(path) as temporary:
        save_file(weights, str(temporary), metadata={"grahame": text, "sha256": _checksum(text, weights)})


def _checksum(text: str, weights: Mapping[str, Tensor]) -> str:
    """Of the header's text and the weights: neither can be changed alone."""
    found = hashlib.sha256(text.encode())
    for key in sorted(weights):
        value = weights[key]
        found.update(f"{key} {value.dtype} {list(value.shape)}".encode())
        found.update(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def read_header(path: str | Path) -> dict[str, Any]:
    """The JSON text of a model file: format, version, units, receptive_field (Å), spec.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for pickles, other files, and files that are cut off.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"model = {path} must be an existing file: check the path")
    if _pickled(path):
        raise ValueError(
            f"model = {path} must be a safetensors file, not a pickle, which may run any code when it is read: "
            "load_model(path, allow_pickle=True) reads one you trust"
        )
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"model = {path} must be a whole safetensors file: it is damaged or cut off, copy it again"
        ) from error
    if "grahame" not in metadata:
        raise ValueError(
            f"model = {path} must be written by this program: its header names no specification; other models "
            "are used through adapters"
        )
    try:
        header: dict[str, Any] = json.loads(metadata["grahame"])
        known, version = header["format"] == FORMAT, int(header["version"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"model = {path} must have a readable header: it is damaged, copy it again"
        ) from error
    if not known:
        raise ValueError(
            f"model = {path} of format {header['format']} must be a {FORMAT}: give the file of a model"
        )
    if version > VERSION:
        raise ValueError(
            f"model = {path} of version {version} must not be newer than {VERSION}: update the package"
        )
    return header


def load_model(path: str | Path, allow_pickle: bool = False) -> HybridModel:
    """Read a model.

    Args:
        path: written by `save_model`.
        allow_pickle: also read a pickled `HybridModel`, which can run any code: only for files you trust.
    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for files that are not models of this program, were changed, or do not fit their own specification.
    """
    if allow_pickle and Path(path).is_file() and _pickled(Path(path)):
        return _unpickled(Path(path))
    header = read_header(path)
    spec = _specification(Path(path), header)
    with safe_open(str(path), framework="pt") as file:
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        metadata = file.metadata()
    _check_sizes(Path(path), spec, weights)
    model = HybridModel(spec)
    _check_weights(Path(path), model.state_dict(), weights)
    if metadata.get("sha256", "") not in ("", _checksum(metadata["grahame"], weights)):
        raise ValueError(
            f"model = {path} must be as it was written: its header or weights were changed since, copy it again"
        )
    model.load_state_dict(weights)
    model.eval()
    return model


def _unpickled(path: Path) -> HybridModel:
    """A model that torch.save wrote."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # whatever the code of a pickle raises
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(
            f"model = {path} must be a model that torch.save wrote ({reason}): use save_model, whose files any version reads"
        ) from error
    if not isinstance(loaded, HybridModel):
        raise ValueError(
            f"model = {path} must hold a HybridModel, not {type(loaded).__name__}: other models are used "
            "through adapters"
        )
    # Written by another version, it may lack what this one's objects have beside their weights.
    model = HybridModel(loaded.spec)
    model.load_state_dict(loaded.state_dict())
    return model.eval()


def _specification(path: Path, header: Mapping[str, Any]) -> ModelSpec:
    """The specification of a header whose other entries agree with it."""
    try:
        spec = ModelSpec.model_validate(header["spec"])
    except KeyError:
        raise ValueError(
            f"model = {path} must hold a specification: its header has none, copy it again"
        ) from None
    except ValidationError as error:
        raise ValueError(
            f"model = {path} must hold a specification this version understands: {sentences(error, ModelSpec)}"
        ) from error
    if header.get("units") != UNITS:
        raise ValueError(
            f"model = {path} must state the units {', '.join(UNITS.values())}: its header has {header.get('units', 'none')}, "
            "copy it again"
        )
    reach = spec.architecture.receptive_field
    if header.get("receptive_field") != reach:
        raise ValueError(
            f"model = {path} must have the receptive field of its specification, {reach:g} Å: its header has "
            f"{header.get('receptive_field', 'none')}, copy it again"
        )
    return spec


def _check_sizes(path: Path, spec: ModelSpec, weights: Mapping[str, Tensor]) -> None:
    """Refuse a specification whose sizes are not the weights', before anything of the stated size is made."""
    z = spec.architecture
    layers = len({key.split(".")[2] for key in weights if key.startswith("network.interactions.")})
    if layers != z.layers:
        _refuse_weights(path, f"there are {layers} layers and should be {z.layers}")
    wanted = {
        "network.interactions.0.gather.weight": [z.l_max + 1, len(spec.elements) * z.radial, z.channels],
        "network.readouts.0.second.weight": [z.hidden, z.hidden],
    }
    if layers > 1:
        wanted["network.senders.0.weight"] = [z.l_max + 1, z.channels, z.messages]
    if spec.charges.kind == "transfer":
        wanted["charge_head.radial.weight"] = [spec.charges.rank, z.radial]
    for key, shape in wanted.items():
        found = list(weights[key].shape) if key in weights else "nothing"
        if found != shape:
            _refuse_weights(path, f"{key} is {found} and should be {shape}")


def _check_weights(path: Path, own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not those of a model by name, shape and precision, or not finite."""
    for key in sorted({*own, *weights}):
        shapes = [list(w[key].shape) if key in w else "nothing" for w in (weights, own)]
        if shapes[0] != shapes[1]:
            _refuse_weights(path, f"{key} is {shapes[0]} and should be {shapes[1]}")
        given, wanted = (str(w[key].dtype).removeprefix("torch.") for w in (weights, own))
        if given != wanted:
            _refuse_weights(path, f"{key} is in {given} and should be in {wanted}")
        if not bool(torch.isfinite(weights[key]).all()):
            raise ValueError(
                f"model = {path} must hold finite weights: {key} has NaN or infinity, copy the file or train it again"
            )


def _refuse_weights(path: Path, what: str) -> NoReturn:
    raise ValueError(
        f"model = {path} must hold the weights of its specification: {what}; copy the file again"
    )


def find_model(name: str | Path, folder: str | Path = ".") -> Path:
    """Path of a model.

    Args:
        name: "au-water-nacl" for the model in the box, or a path, relative to `folder`; `~` is the home.
    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for what is no path.
    """
    if not isinstance(name, str | PathLike):
        raise ValueError(
            f"model = {name!r} must be a HybridModel or the path of a model file: leave it out for {BOXED}, the one in the box"
        )
    if str(name) == BOXED:
        path = boxed_model()
        if not path.is_file():
            raise FileNotFoundError(
                f"model = {BOXED} must come with the package, whose file {path.name} is missing: install the package "
                "again, or give the path of a model file"
            )
        return path
    path = located(str(name), Path(folder))
    if not path.is_file():
        raise FileNotFoundError(f"model = {path} must be an existing file: check the path, or use {BOXED}")
    return path


def open_model(name: str | Path | None = None) -> HybridModel:
    """The model in the box, or one from a file; as `find_model` and `load_model`."""
    return load_model(find_model(BOXED if name is None else name))


def boxed_model() -> Path:
    """Path of the model that comes with the package."""
    with resources.as_file(
        resources.files("grahame.hybrid") / "models" / "au_water_nacl.safetensors"
    ) as path:
        return path
