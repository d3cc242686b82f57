"""Text options of the command line as values, and the shortened run of `--quick`. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grahame.hybrid.config import RunConfig


def pairs_of(name: str, texts: Sequence[str]) -> dict[str, str]:
    """`a=b` options as a dict."""
    out = {}
    for text in texts:
        left, sign, right = text.partition("=")
        if not sign or not left or not right:
            raise ValueError(f"{name} = {text} must be left=right: write e.g. --{name} energy=REF_energy")
        out[left] = right
    return out


def held_values(name: str, values: Sequence[str] | None) -> dict[int, float]:
    """`N=value` options as a dict."""
    unit = "V" if name == "potential" else "e"
    held: dict[int, float] = {}
    for text in values or ():
        number, sign, value = text.partition("=")
        try:
            key, amount = int(number), float(value)
        except ValueError:
            sign = ""
        if not sign or key < 0:
            raise ValueError(
                f"{name} = {text} must be N=value: write e.g. --{name} 0=1.0 for electrode 0, in {unit}"
            )
        if key in held:
            raise ValueError(f"{name} = {text} must be given once for electrode {key}: remove one of them")
        held[key] = amount
    return held


def atom_ranges(values: Sequence[str], n: int) -> dict[int, list[int]]:
    """`N=first:last+1` options as indices."""
    groups: dict[int, list[int]] = {}
    for text in values:
        number, _, range_ = text.partition("=")
        first, colon, last = range_.partition(":")
        try:
            key, indices = int(number), list(range(int(first), int(last)))
        except ValueError:
            key, colon = -1, ""
        if not colon or key < 0:
            raise ValueError(f"electrode = {text} must be N=first:last+1: write e.g. --electrode 0=0:192")
        if key in groups:
            raise ValueError(f"electrode = {text} must be given once for electrode {key}: remove one of them")
        if not indices or indices[-1] >= n or indices[0] < 0:
            raise ValueError(
                f"electrode = {text} must name atoms between 0 and {n - 1}, at least one: the last index is "
                "not included"
            )
        groups[key] = indices
    return groups


def lammps_types(values: Sequence[str]) -> list[list[int]]:
    """`N=6,7` options as the atom types of electrodes 0, 1, ...; several options for one electrode add up."""
    groups: dict[int, list[int]] = {}
    for text in values:
        number, _, kinds = text.partition("=")
        try:
            found = groups.setdefault(int(number), [])
            found += [kind for kind in map(int, kinds.split(",")) if kind not in found]
        except ValueError:
            raise ValueError(
                f"lammps_type = {text} must be N=type,type: write e.g. --lammps-type 0=6 for electrode 0"
            ) from None
    if sorted(groups) != list(range(len(groups))):
        raise ValueError(
            f"lammps_type = electrodes {', '.join(map(str, sorted(groups)))} must be numbered from 0 without "
            "gaps: renumber them"
        )
    return [groups[g] for g in range(len(groups))]


def shortened(config: RunConfig) -> RunConfig:
    """The same run with at most 20 steps per stage, everything written often, to files of another name."""
    dynamics = config.dynamics
    stages: dict[str, Any] = {}
    for name in ("equilibrate", "produce"):
        stage = getattr(dynamics, name)
        if stage is not None:
            stages[name] = stage.model_copy(update={"steps": min(stage.n_steps, 20), "time_ps": None})
    if dynamics.minimise is not None:
        steps = min(dynamics.minimise.steps, 20)
        stages["minimise"] = dynamics.minimise.model_copy(update={"steps": steps})
    often = {"trajectory_interval": 5, "log_interval": 5, "checkpoint_interval": 10}
    # A test may be repeated, and leaves the files of the real run alone.
    files = {"name": f"{config.output.name}-quick", "overwrite": True}
    return config.model_copy(
        update={
            "dynamics": dynamics.model_copy(update=stages),
            "output": config.output.model_copy(update=often | files),
        }
    )
