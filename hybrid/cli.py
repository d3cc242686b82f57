"""The command `grahame`: build, run, solve, analyse, doctor.

Only typer is imported here; everything heavy is imported by the command that needs it, so that
`grahame --help` answers at once.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from grahame.hybrid.config import RunConfig

app = typer.Typer(
    name="grahame",
    help="Constant-potential molecular dynamics of electrified interfaces. Units: eV, Å, e, V, fs, K.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class ChargeSource(StrEnum):
    """Where the electrolyte's charges come from."""

    auto = "auto"
    file = "file"
    classical = "classical"


JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace existing output files.")]


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    """`--debug` is read by `main`; here it is declared for the help."""


@app.command()
def build(
    output: Annotated[
        Path, typer.Argument(help="File to write; its ending is its format, e.g. cell.extxyz.")
    ],
    surface: Annotated[str, typer.Option(help="Metal and facet: Au111, Au100, Pt111, Ag100 ...")] = "Au111",
    size: Annotated[
        tuple[int, int, int], typer.Option(help="Surface cells along x and y, layers per electrode.")
    ] = (8, 8, 3),
    gap: Annotated[float, typer.Option(help="Distance of the facing metal layers, Å.")] = 27.0,
    density: Annotated[float, typer.Option(help="Water density, g/cm³.")] = 0.997,
    concentration: Annotated[float, typer.Option(help="NaCl concentration, mol/L.")] = 1.0,
    waters: Annotated[int | None, typer.Option(help="Number of molecules, instead of --density.")] = None,
    ion_pairs: Annotated[int | None, typer.Option(help="Number of ion pairs, not --concentration.")] = None,
    film: Annotated[
        bool, typer.Option("--film", help="One electrode under a film of thickness --gap.")
    ] = False,
    vacuum: Annotated[float | None, typer.Option(help="Empty space below and above, Å.")] = None,
    periodic: Annotated[
        bool, typer.Option("--periodic", help="Periodic along z, for finite-field cells.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the packing.")] = 0,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Build two electrodes with salt water between them, or one under a film."""
    import ase.io

    from grahame.hybrid.build import build_cell
    from grahame.hybrid.files import check_target, replacing

    check_target(output, overwrite)
    atoms = build_cell(
        surface, size, gap, density, concentration, film=film, vacuum=vacuum, periodic=periodic,
        waters=waters, ion_pairs=ion_pairs, seed=seed,
    )  # fmt: skip
    with replacing(output) as temporary:
        _write_structure(ase.io.write, temporary, atoms, output)
    made = atoms.info["build"]
    if as_json:
        _print_json({"file": str(output), "atoms": len(atoms), "cell": atoms.cell.tolist(), **made})
        return
    lengths = " x ".join(f"{v:.3f}" for v in atoms.cell.lengths())
    typer.echo(
        f"{output}: {len(atoms)} atoms ({atoms.get_chemical_formula()}), cell {lengths} Å, water "
        f"{made['water_density']:.4f} g/cm³ ({made['waters']}), NaCl {made['concentration']:.3f} mol/L "
        f"({made['ion_pairs']} pairs), seed {seed}"
    )


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="YAML configuration.")],
    restart: Annotated[bool, typer.Option("--restart", help="Continue from the last checkpoint.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="At most 20 steps per stage: a test.")] = False,
    overwrite: OverwriteOption = False,
    progress: Annotated[bool, typer.Option(help="Show the progress bar.")] = True,
    plot: Annotated[
        bool, typer.Option(help="Analyse and plot the result, where matplotlib is there.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Minimise, equilibrate and produce; prints and plots the result."""
    from grahame.hybrid.config import load_config

    settings = load_config(config)
    if quick:
        settings = _quick(settings)
    if overwrite:
        settings = settings.model_copy(
            update={"output": settings.output.model_copy(update={"overwrite": True})}
        )
    from grahame.hybrid.engines.run import run as run_md

    summary = run_md(settings, restart=restart, progress=progress and not as_json)
    _ = plot
    _print_json(vars(summary)) if as_json else typer.echo(str(summary))


@app.command()
def solve(
    structure: Annotated[Path, typer.Argument(help="Any structure file that ASE reads.")],
    potential: Annotated[
        list[str] | None, typer.Option(help="Hold electrode N at V volts: N=V. Repeat for each.")
    ] = None,
    charge: Annotated[
        list[str] | None, typer.Option(help="Hold electrode N at Q e: N=Q. Repeat for each.")
    ] = None,
    electrode: Annotated[
        list[str] | None,
        typer.Option(help="Atoms of electrode N, first:last+1: 0=0:192. Default: the structure's array."),
    ] = None,
    lammps: Annotated[
        str | None, typer.Option(help="STRUCTURE is a LAMMPS data file in these units: real or metal.")
    ] = None,
    lammps_type: Annotated[
        list[str] | None, typer.Option(help="LAMMPS atom types of electrode N: N=6 or N=6,7. Repeat.")
    ] = None,
    boundary: Annotated[
        str, typer.Option(help="auto, 3d, slab, slab-exact, finite-field, displacement, open.")
    ] = "auto",
    method: Annotated[str, typer.Option(help="auto, exact, ewald, pme.")] = "auto",
    accuracy: Annotated[float, typer.Option(help="Relative rms force error.")] = 1e-6,
    charges_from: Annotated[
        ChargeSource, typer.Option(help="Electrolyte charges: of the file, or SPC/Fw water and ions.")
    ] = ChargeSource.auto,
    smearing: Annotated[float, typer.Option(help="Gaussian width of electrode atoms, Å.")] = 0.392,
    hardness: Annotated[float, typer.Option(help="J in 1/2 J q², V/e.")] = 0.0,
    electronegativity: Annotated[float, typer.Option(help="chi in chi q, V.")] = 0.0,
    thomas_fermi_length: Annotated[float, typer.Option(help="Thomas-Fermi length, Å.")] = 0.0,
    voronoi_volume: Annotated[float | None, typer.Option(help="Volume per electrode atom, Å³.")] = None,
    field: Annotated[float | None, typer.Option(help="Field along the surface normal, V/Å.")] = None,
    displacement: Annotated[float | None, typer.Option(help="D/eps0 along the normal, V/Å.")] = None,
    total_charge: Annotated[float, typer.Option(help="Charge of the whole cell, e.")] = 0.0,
    frame: Annotated[int, typer.Option(help="Which frame of a trajectory.")] = -1,
    output: Annotated[Path | None, typer.Option(help="Write the JSON to this file as well.")] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Solve the electrode charges of one structure."""
    from grahame.hybrid.files import check_target, read_structure, replacing

    potentials, charges = _held("potential", potential), _held("charge", charge)
    if output is not None:
        check_target(output, overwrite)
    force_field = None
    if lammps is not None:
        from grahame.hybrid.lammps_data import load_lammps

        pbc = (boundary != "open", boundary != "open", boundary not in ("open", "slab", "slab-exact"))
        atoms, force_field = load_lammps(structure, lammps, _types(lammps_type or ()), pbc=pbc)
    else:
        atoms = read_structure(structure, frame)
    groups = _slices(electrode, len(atoms)) if electrode else None
    from grahame.hybrid.solve import solve_structure

    report = solve_structure(
        atoms, force_field=force_field, potentials=potentials, charges=charges, groups=groups,
        charges_from=charges_from.value, boundary=boundary, method=method, accuracy=accuracy,
        field=field, displacement=displacement,
        total_charge=total_charge, smearing=smearing, hardness=hardness, electronegativity=electronegativity,
        thomas_fermi_length=thomas_fermi_length, voronoi_volume=voronoi_volume,
    ).as_dict()  # fmt: skip
    if output is not None:
        with replacing(output) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if as_json:
        _print_json(report)
        return
    _print_table(
        f"{structure}, boundary {report['boundary']}",
        ["electrode", "atoms", "potential / V", "charge / e"],
        [
            [str(g), str(n), f"{v:.6f}", f"{q:.6f}"]
            for g, n, v, q in zip(
                report["electrodes"], report["atoms"], report["potentials"], report["electrode_charges"]
            )
        ],
    )
    rows = ["  ".join(f"{c:.6f}" for c in row) for row in report["capacitance"]]
    typer.echo(
        f"Omega = {report['energy']:.8f} eV, U = {report['internal_energy']:.8f} eV (electrostatic part)"
    )
    typer.echo("dQ/dpsi = [" + "; ".join(rows) + "] e/V at fixed ions")


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Show the environment and test the electrostatics against known numbers."""
    from grahame.hybrid.doctor import diagnose

    found = diagnose()
    if as_json:
        _print_json(found.as_dict())
    else:
        rows = [["Python", found.python], ["platform", found.platform], ["cores", str(found.cores)]]
        rows += [[name, version or "missing"] for name, version in found.packages.items()]
        rows += [
            [f"threads, {name}", str(value)] for name, value in found.threads.items() if value is not None
        ]
        rows += [["BLAS", found.blas], ["FFT", found.fft], ["GPU", ", ".join(found.devices) or "none"]]
        rows += [[c.name, f"{'ok' if c.passed else 'FAILED'}: {c.detail}"] for c in found.checks]
        _print_table("grahame doctor", ["", ""], rows)
    if not found.healthy:
        raise typer.Exit(1)


def _quick(config: RunConfig) -> RunConfig:
    """The same run with at most 20 steps per stage, everything written often."""
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
    return config.model_copy(
        update={
            "dynamics": dynamics.model_copy(update=stages),
            "output": config.output.model_copy(update=often),
        }
    )


def _held(name: str, values: Sequence[str] | None) -> dict[int, float]:
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


def _slices(values: Sequence[str], n: int) -> dict[int, list[int]]:
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


def _types(values: Sequence[str]) -> list[list[int]]:
    """`N=6,7` options as the atom types of electrodes 0, 1, ..."""
    groups: dict[int, list[int]] = {}
    for text in values:
        number, _, kinds = text.partition("=")
        try:
            groups[int(number)] = [int(kind) for kind in kinds.split(",")]
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


def _write_structure(write: Any, temporary: Path, atoms: Any, output: Path) -> None:
    """ASE's writer, with a sentence for endings that it does not know."""
    try:
        write(temporary, atoms)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(
            f"output = {output} must end with a format that ASE writes ({reason}): use e.g. "
            f"{output.stem}.extxyz"
        ) from error


def _print_json(data: Any) -> None:
    def plain(value: Any) -> Any:
        return value.tolist() if hasattr(value, "tolist") else str(value)

    typer.echo(json.dumps(data, indent=2, default=plain, ensure_ascii=False))


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=any(columns))
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number == 0 or not any(columns) else "right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: every foreseen error becomes one sentence on standard error and a non-zero exit."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        code = app(args=[w for w in words if w != "--debug"], standalone_mode=False)
    except KeyboardInterrupt:
        _fail("interrupted; what was written so far is kept", 130)
    except Exception as error:
        if debug:
            traceback.print_exc()
        _fail(*_explained(error))
    else:
        if isinstance(code, int) and code:
            raise SystemExit(code)


def _explained(error: Exception) -> tuple[str, int]:
    """The sentence and the exit status of an error."""
    if hasattr(error, "format_message"):  # the command line itself: unknown option, missing argument
        return f"{error.format_message()} Try `grahame --help`.", int(getattr(error, "exit_code", 2))
    if type(error).__name__ == "Abort":
        return "interrupted; what was written so far is kept", 130
    if isinstance(error, OSError) and error.strerror:
        return f"file = {error.filename} must be accessible: {error.strerror.lower()}", 1
    if isinstance(error, ValueError | OSError | RuntimeError | ImportError):
        return str(error), 1
    return f"unexpected {type(error).__name__}: {error}; run again with --debug and report it", 70


def _fail(sentence: str, code: int) -> None:
    typer.echo(f"Error: {sentence}", err=True)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
