"""Files of trained heads: safetensors, with one JSON text that says what they mean and which model they belong to."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from grahame.hybrid.adapters.feature_heads import FeatureHeads
from grahame.hybrid.model import ChargeSpec

FORMAT = "grahame feature heads"
VERSION = 1


def save_heads(heads: FeatureHeads, path: str | Path) -> None:
    """Write heads; the file appears whole or not at all."""
    path = Path(path)
    header = {"format": FORMAT, "version": VERSION, **heads.describe()}
    weights = {k: v.detach().cpu().contiguous() for k, v in heads.state_dict().items()}
    part = path.with_name(path.name + ".part")
    save_file(weights, str(part), metadata={"grahame": json.dumps(header, ensure_ascii=False)})
    part.replace(path)


def load_heads(path: str | Path) -> FeatureHeads:
    """Read heads; runs no code that came with the file.

    Raises:
        FileNotFoundError: without the file. ValueError: for other files, and damaged ones.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"heads = {path} must be an existing file: check the path")
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("grahame", "{}"))
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"heads = {path} must be a whole safetensors file: it is damaged or of another kind"
        ) from error
    if header.get("format") != FORMAT:
        raise ValueError(f"heads = {path} must be written by `save_heads`: its header names another format")
    if header.get("version", 0) > VERSION:
        raise ValueError(
            f"heads = {path} of version {header['version']} must not be newer than {VERSION}: update the package"
        )
    try:
        spec = ChargeSpec.model_validate(header["charges"])
        heads = FeatureHeads(header["features"], header["elements"], spec, header["cutoff"], header["trunk"])
        heads.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        what = str(error).splitlines()[0]
        raise ValueError(
            f"heads = {path} must hold what `save_heads` writes: its header or weights were changed ({what})"
        ) from error
    return heads
