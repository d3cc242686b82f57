"""The command `grahame audit`. Everything heavy is imported when it runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from grahame.hybrid.cli_output import print_json, print_table

__all__ = ["register"]

_ANSWERS = {True: "yes", False: "NO", None: "unknown: the noise is larger"}


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(audit)


def audit(
    file: Annotated[
        Path,
        typer.Argument(help="A run's YAML, whose force field is tested, or a trajectory, whose labels are."),
    ],
    key: Annotated[
        list[str] | None,
        typer.Option(help="Label and the trajectory's key: energy=REF_energy, forces=REF_forces. Repeat."),
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="Stage of a run's trajectory. Default: all but minimise.")
    ] = None,
    directions: Annotated[int, typer.Option(help="Random directions; 6 evaluations for each.", min=2)] = 6,
    step: Annotated[float, typer.Option(help="Change of a coordinate, Å.")] = 1e-3,
    tolerance: Annotated[
        float, typer.Option(help="Largest ratio that counts as zero; 1e-3 for models in single precision.")
    ] = 1e-6,
    seed: Annotated[int, typer.Option(help="Seed of the directions.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Test whether forces are the gradient of the energy: of a run's force field, or of labelled frames."""
    if file.suffix.lower() in (".yaml", ".yml"):
        if key or stage:
            name, value = ("key", key[0]) if key else ("stage", stage)
            raise ValueError(
                f"{name} = {value} must be given with a trajectory: {file} is a "
                "configuration, whose forces are computed; leave it out"
            )
        found, failed = _force_field(file, directions, step, tolerance, seed)
    else:
        found, failed = _labels(file, key or (), stage)
    if as_json:
        print_json({"file": str(file)} | found)
    else:
        print_table(f"{file}", ["", ""], _rows(found))
    if failed:
        raise typer.Exit(1)


def _force_field(
    file: Path, directions: int, step: float, tolerance: float, seed: int
) -> tuple[dict[str, Any], bool]:
    from grahame.hybrid.audit import audit_forces
    from grahame.hybrid.config import load_config
    from grahame.hybrid.engines.setup import load_structure, prepare

    config = load_config(file)
    simulation = prepare(config, load_structure(config))
    result = audit_forces(simulation.atoms, directions, step, tolerance, seed)
    return result.as_dict(), result.conservative is False


def _labels(file: Path, keys: Sequence[str], stage: str | None) -> tuple[dict[str, Any], bool]:
    from grahame.hybrid.audit_labels import audit_labels
    from grahame.hybrid.cli_options import pairs_of
    from grahame.hybrid.trajectories import read_frames

    named = pairs_of("key", keys)
    for label in named:
        if label not in ("energy", "forces"):
            raise ValueError(f"key = {label} must be energy or forces: name the label first")
    result = audit_labels(read_frames(file, stage), **named)
    return result.as_dict(), result.verdict in ("friction", "inconsistent")


_TEXTS = {
    "symmetric": "Jacobian of the forces is symmetric",
    "asymmetry": "asymmetry of the Jacobian",
    "gradient": "forces are the gradient of the energy",
    "energy_mismatch": "relative error of dE = -F dR",
    "atoms": "free atoms",
    "step": "step / Å",
    "residual": "rms of dE + F dR / eV",
    "drift": "mean of dE + F dR / eV",
    "integration": "error of the trapezoidal rule / eV",
    "work": "rms of F dR / eV",
    "friction": "friction in the forces / 1/ps",
    "net_force": "sum of the forces / eV/Å",
}
_NOISE = {
    "asymmetry": "asymmetry_noise",
    "energy_mismatch": "energy_noise",
    "drift": "drift_error",
    "friction": "friction_error",
}


def _rows(found: dict[str, Any]) -> list[list[str]]:
    """Name and value of each result, noise and errors behind their values."""
    rows = []
    for name, value in found.items():
        if name in _NOISE.values():
            continue
        noise = found.get(_NOISE.get(name, ""))
        if value is None and name == "friction":
            text = "unknown: the frames have no momenta"
        elif value is None or isinstance(value, bool):
            text = _ANSWERS[value]
        else:
            text = f"{value:.3g}" if isinstance(value, float) else str(value)
        rows.append([_TEXTS.get(name, name), text if noise is None else f"{text} ± {noise:.2g}"])
    return rows
