"""What the commands print and write: JSON, tables, numbers with errors, an analysis with its figure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import floor, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from ase import Atoms

ROUNDING = 1e-12
"""What a held value moves by in the arithmetic, in any unit that is printed here."""


def print_json(data: Any) -> None:
    """JSON on standard output; arrays become lists, paths become text."""

    def plain(value: Any) -> Any:
        return value.tolist() if hasattr(value, "tolist") else str(value)

    typer.echo(json.dumps(data, indent=2, default=plain, ensure_ascii=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table, first column left, the others right; without column names both are left."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=any(columns))
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number == 0 or not any(columns) else "right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def write_structure(path: Path, atoms: Atoms) -> None:
    """Write a structure whole or not at all; an ending that ASE does not know gets a sentence."""
    import ase.io

    from grahame.hybrid.files import replacing

    with replacing(path) as temporary:
        try:
            ase.io.write(temporary, atoms)
        except Exception as error:  # ASE's writers raise whatever they meet
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk, not the format
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise ValueError(
                f"output = {path} must end with a format that ASE writes ({reason}): use e.g. {path.stem}.extxyz"
            ) from error


def analysed(
    trajectory: Path,
    options: dict[str, Any],
    plot: bool,
    output: Path | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Analyse a trajectory; write <name>.analysis.json and, if wanted and possible, <name>.png beside it.

    Args:
        output: instead of <name>.analysis.json, which is renewed; a file that exists, or a figure that exists in another
            folder, only with `overwrite`.
    Raises:
        FileExistsError, FileNotFoundError, ValueError: for an output that must not be written, before any work.
    """
    from importlib.util import find_spec

    from grahame.hybrid.analysis import analyse as analyse_trajectory
    from grahame.hybrid.files import check_target, replacing

    target = output or trajectory.with_suffix(".analysis.json")
    figure = target.with_name(trajectory.stem + ".png") if plot and find_spec("matplotlib") else None
    _refuse_inputs(target, figure, trajectory, options)
    check_target(target, overwrite=overwrite or output is None)
    if figure is not None:  # that of the run itself is renewed, one elsewhere may be anybody's
        check_target(
            figure, overwrite=overwrite or figure.resolve() == trajectory.with_suffix(".png").resolve()
        )
    result = analyse_trajectory(trajectory, **options)
    result["files"] = {"analysis": str(target)}
    if figure is not None:
        from grahame.hybrid.plots import overview

        with replacing(figure) as temporary:
            overview(result, temporary)
        result["files"]["figure"] = str(figure)
    with replacing(target) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _refuse_inputs(target: Path, figure: Path | None, trajectory: Path, options: Mapping[str, Any]) -> None:
    """The analysis must not be written over what it reads, nor over its own figure."""
    from grahame.hybrid.trajectories import files_of_run

    runs = [trajectory] if options.get("reference") is None else [trajectory, Path(options["reference"])]
    given = [Path(options["log"])] if options.get("log") is not None else []
    read = {path.resolve() for path in given + [file for run in runs for file in files_of_run(run)]}
    if target.resolve() in read:
        raise ValueError(f"output = {target} must not be a file of the analysed runs: choose another name")
    if figure is not None and target.resolve() == figure.resolve():
        raise ValueError(f"output = {target} must not be the file of the figure: end its name with .json")


def print_analysis(result: dict[str, Any]) -> None:
    """Electrodes, voltage, charge and capacitance with their errors."""
    length = "" if result["time_ps"] is None else f", {result['time_ps']:g} ps"
    count = f"{result['frames']} frame{'s' if result['frames'] != 1 else ''}"
    title = f"{result['formula']}: {count}{length}, boundary {result['boundary']}"
    if not result["electrodes"]:
        typer.echo(f"{title}, no electrodes")
    else:
        _print_electrodes(title, result["electrodes"])
    if result["electrodes_from"] is not None:
        typer.echo(
            f"electrodes as in {result['electrodes_from']}: the trajectory itself does not keep its array `electrode`"
        )
    if result["temperature_K"] is not None:
        typer.echo(f"temperature {with_error(result['temperature_K'])} K")
    if result["cell"] is not None:
        found = result["cell"]["capacitance_uF_per_cm2"]
        value = "" if found["value"] is None else f"{with_error(found)} µF/cm², "
        typer.echo(f"integral capacitance of the cell: {value}{found['definition']}")
    means = [result["temperature_K"]]
    means += [e.get(k) for e in result["electrodes"] for k in ("potential_V", "charge_e")]
    if any(m is not None and (m["error"] or 0.0) > ROUNDING and not m["converged"] for m in means):
        typer.echo(
            "errors are lower bounds: the run is too short to show how long its values stay correlated"
        )
    for kind, path in result["files"].items():
        typer.echo(f"{kind} {path}")


def _print_electrodes(title: str, electrodes: Sequence[dict[str, Any]]) -> None:
    """Potential and charge of each electrode."""
    print_table(
        title,
        ["electrode", "atoms", "potential / V", "charge / e", "charge / µC/cm²"],
        [
            [
                str(e["index"]),
                f"{e['atoms']} {' '.join(e['elements'])}",
                with_error(e.get("potential_V")),
                with_error(e.get("charge_e")),
                with_error(
                    (e.get("charge_e") or {}) | (e.get("surface_charge_uC_per_cm2") or {"value": None})
                ),
            ]
            for e in electrodes
        ],
    )


def with_error(mean: dict[str, Any] | None) -> str:
    """`value ± error` to the digits that mean something; `± ?` where too few values show no error."""
    if mean is None or mean["value"] is None:
        return "-"
    if any(v is not None and v < ROUNDING for v in (mean["error"], mean.get("deviation"))):
        return _rounded(mean["value"])  # held
    if mean["error"] is None:
        return f"{_rounded(mean['value'])} ± ?"
    digits = max(0, 1 - floor(log10(mean["error"])))
    return f"{mean['value']:.{digits}f} ± {mean['error']:.{digits}f}"


def _rounded(value: float) -> str:
    """Six digits, and 0 for what rounding left of it."""
    return "0" if abs(value) < ROUNDING else f"{value:.6g}"
