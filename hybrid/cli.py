"""The command `grahame`: build, run, solve, analyse, train, evaluate, audit, doctor.

Only typer is imported here; everything heavy is imported by the command that needs it, so that
`grahame --help` answers at once.
"""

from __future__ import annotations

import errno
import json
import sys
import traceback
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from grahame.hybrid import cli_audit, cli_train
from grahame.hybrid.cli_options import atom_ranges, held_values, lammps_types, shortened
from grahame.hybrid.cli_output import analysed, print_analysis, print_json, print_table, write_structure
from grahame.hybrid.cli_usage import usage_sentence

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


_SOURCES = {
    "file": "of the file",
    "classical": "SPC/Fw water and ions",
    "model": "of the model",
    "none": "none",
}

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace existing output files.")]


def _version(wanted: bool) -> None:
    """Print the installed version and stop, if wanted."""
    if wanted:
        from importlib.metadata import PackageNotFoundError
        from importlib.metadata import version as of

        try:
            typer.echo(f"grahame {of('grahame')}")
        except PackageNotFoundError:
            typer.echo("grahame, not installed as a package")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """`--debug` is read by `main`, `--version` by its callback; here they are declared for the help."""


@app.command()
def build(
    output: Annotated[
        Path, typer.Argument(help="File to write; its ending is its format, e.g. cell.extxyz.")
    ],
    surface: Annotated[
        str, typer.Option(help="Ag, Al, Au, Cu, Ni, Pb, Pd or Pt, with 111 or 100: Au111, Pt100.")
    ] = "Au111",
    size: Annotated[
        tuple[int, int, int],
        typer.Option(help="Surface cells along x and y (along y even for 111), layers per electrode."),
    ] = (8, 8, 3),
    gap: Annotated[float, typer.Option(help="Distance of the facing metal layers, Å.")] = 27.0,
    density: Annotated[float | None, typer.Option(help="Water density, g/cm³ [default: 0.997].")] = None,
    concentration: Annotated[
        float | None, typer.Option(help="NaCl concentration, mol/L [default: 1.0].")
    ] = None,
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
    from grahame.hybrid.build import build_cell
    from grahame.hybrid.files import check_target

    check_target(output, overwrite)
    for name, value, count_name, count in (
        ("density", density, "waters", waters),
        ("concentration", concentration, "ion-pairs", ion_pairs),
    ):
        if value is not None and count is not None:
            raise ValueError(
                f"{name} = {value:g} must be left out beside --{count_name} {count}: one of them says it; give one"
            )
    density = 0.997 if density is None else density
    concentration = 1.0 if concentration is None else concentration
    atoms = build_cell(
        surface, size, gap, density, concentration, film=film, vacuum=vacuum, periodic=periodic,
        waters=waters, ion_pairs=ion_pairs, seed=seed,
    )  # fmt: skip
    write_structure(output, atoms)
    made = atoms.info["build"]
    if output.suffix not in (".extxyz", ".xyz"):
        typer.echo(
            "note: only .extxyz and .xyz keep the array `electrode`, by which `run`, `solve` and `analyse` know the "
            "electrodes, beside the periodic directions",
            err=True,
        )
    if as_json:
        print_json({"file": str(output), "atoms": len(atoms), "cell": atoms.cell.tolist(), **made})
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
    quick: Annotated[
        bool, typer.Option("--quick", help="At most 20 steps per stage, into <name>-quick: a test.")
    ] = False,
    overwrite: OverwriteOption = False,
    progress: Annotated[bool, typer.Option(help="Show the progress bar on standard error.")] = True,
    plot: Annotated[bool, typer.Option(help="Draw <name>.png, where matplotlib is installed.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Minimise, equilibrate and produce; then print and plot what came out."""
    from grahame.hybrid.config import load_config

    settings = load_config(config)
    if quick:
        settings = shortened(settings)
    if overwrite:
        output = settings.output.model_copy(update={"overwrite": True})
        settings = settings.model_copy(update={"output": output})
    from grahame.hybrid.engines.run import run as run_md

    summary = run_md(settings, restart=restart, progress=progress and not as_json)
    result: dict[str, Any] | None = None
    refused: ValueError | None = None
    if summary.completed and settings.dynamics.produce is not None:
        try:
            result = analysed(summary.trajectory, {}, plot)
        except ValueError as error:  # said after what the run itself found
            refused = error
    if as_json:
        units = {"electrode_charges": "e", "electrode_potentials": "V", "drift": "meV/atom/ps"}
        print_json({"run": vars(summary) | {"units": units}, "analysis": result})
        if not summary.completed:
            raise typer.Exit(130)
        if refused is not None:
            raise refused
        return
    speed = f" ({summary.ns_per_day:.2f} ns/day)" if summary.ns_per_day > 0.0 else ""
    typer.echo(
        f"{summary.atoms} atoms, {summary.steps} steps, {summary.time_ps:g} ps in {summary.wall_s:.0f} s{speed}"
    )
    if not summary.completed:
        options = "--quick --restart" if quick else "--restart"
        typer.echo(f"stopped; `grahame run {config} {options}` continues from {summary.checkpoint}")
        raise typer.Exit(130)
    if summary.drift is not None:
        typer.echo(f"drift of the conserved energy {summary.drift:.2e} meV/atom/ps")
    if result is not None:
        print_analysis(result)
    typer.echo(f"trajectory {summary.trajectory}, log {summary.log}, provenance {summary.provenance}")
    if settings.output.ase_trajectory:
        typer.echo(
            f"note: {summary.trajectory.stem}.traj does not keep the array `electrode`; `grahame analyse` takes it from "
            f"{summary.trajectory.name} beside it",
            err=True,
        )
    if refused is not None:
        raise refused


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
        ChargeSource,
        typer.Option(
            help="Electrolyte charges: of the file, or of SPC/Fw water and ions; auto: the file's, where it has any."
        ),
    ] = ChargeSource.auto,
    model: Annotated[
        str | None,
        typer.Option(help="Electrolyte charges of this trained model: a file, or au-water-nacl."),
    ] = None,
    smearing: Annotated[
        float | None,
        typer.Option(help="Gaussian width of electrode atoms, Å; default 0.392, or the model's."),
    ] = None,
    hardness: Annotated[float, typer.Option(help="J in 1/2 J q², V/e.")] = 0.0,
    electronegativity: Annotated[float, typer.Option(help="chi in chi q, V.")] = 0.0,
    thomas_fermi_length: Annotated[float, typer.Option(help="Thomas-Fermi length, Å.")] = 0.0,
    voronoi_volume: Annotated[float | None, typer.Option(help="Volume per electrode atom, Å³.")] = None,
    field: Annotated[float | None, typer.Option(help="Field along the surface normal, V/Å.")] = None,
    displacement: Annotated[float | None, typer.Option(help="D/eps0 along the normal, V/Å.")] = None,
    total_charge: Annotated[float, typer.Option(help="Charge of the whole cell, e.")] = 0.0,
    frame: Annotated[int, typer.Option(help="Frame of a trajectory, from 0; -1 is the last.")] = -1,
    output: Annotated[Path | None, typer.Option(help="Write the JSON to this file as well.")] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Solve the electrode charges of one structure."""
    from grahame.hybrid.files import check_target, read_structure, replacing

    potentials, charges = held_values("potential", potential), held_values("charge", charge)
    if output is not None:
        check_target(output, overwrite)
    force_field = None
    if lammps is not None:
        from grahame.hybrid.lammps_data import load_lammps

        pbc = (boundary != "open", boundary != "open", boundary not in ("open", "slab", "slab-exact"))
        atoms, force_field = load_lammps(structure, lammps, lammps_types(lammps_type or ()), pbc=pbc)
    else:
        atoms = read_structure(structure, frame)
    groups = atom_ranges(electrode, len(atoms)) if electrode else None
    from grahame.hybrid.solve import solve_structure

    learned = None
    if model is not None:
        from grahame.hybrid.model_file import open_model

        learned = open_model(model)
    report = solve_structure(
        atoms, force_field=force_field, model=learned, potentials=potentials, charges=charges, groups=groups,
        charges_from=charges_from.value, boundary=boundary, method=method, accuracy=accuracy,
        field=field, displacement=displacement,
        total_charge=total_charge, smearing=smearing, hardness=hardness, electronegativity=electronegativity,
        thomas_fermi_length=thomas_fermi_length, voronoi_volume=voronoi_volume,
    ).as_dict()  # fmt: skip
    if output is not None:
        with replacing(output) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if as_json:
        print_json(report)
        return
    print_table(
        f"{structure}, boundary {report['boundary']}",
        ["electrode", "atoms", "potential / V", "charge / e"],
        [
            [str(g), str(n), f"{v:.6f}", f"{q:.6f}"]
            for g, n, v, q in zip(
                report["electrodes"], report["atoms"], report["potentials"], report["electrode_charges"]
            )
        ],
    )
    typer.echo(f"electrolyte charges: {_SOURCES[report['charges_from']]}")
    rows = ["  ".join(f"{c:.6f}" for c in row) for row in report["capacitance"]]
    typer.echo(
        f"Omega = {report['energy']:.8f} eV, U = {report['internal_energy']:.8f} eV (electrostatic part)"
    )
    typer.echo(
        "dQ/dpsi = [" + "; ".join(rows) + "] e/V at fixed ions" + ("; 0 for held charges" if charges else "")
    )


@app.command()
def analyse(
    trajectory: Annotated[Path, typer.Argument(help="Trajectory; of a run, <name>.extxyz.")],
    reference: Annotated[
        Path | None, typer.Option(help="Run of the same cell at another voltage, for the capacitance.")
    ] = None,
    skip: Annotated[float, typer.Option(help="Time left out at the beginning, ps.")] = 0.0,
    stage: Annotated[str, typer.Option(help="Stage of the run, or all: every one but minimise.")] = "produce",
    spacing: Annotated[float, typer.Option(help="Bin width of the profiles, Å.")] = 0.1,
    boundary: Annotated[str | None, typer.Option(help="Default: that of the run.")] = None,
    limits: Annotated[
        tuple[float, float] | None, typer.Option(help="Lowest and highest z of the profiles, Å.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="JSON with all profiles; default <name>.analysis.json.")
    ] = None,
    plot: Annotated[bool, typer.Option(help="Draw <name>.png, where matplotlib is installed.")] = True,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Charges with error bars, capacitance, density, orientation, field and potential profiles."""
    options = {
        "reference": reference, "skip_ps": skip, "stage": None if stage == "all" else stage,
        "spacing": spacing, "boundary": boundary, "limits": limits,
    }  # fmt: skip
    result = analysed(trajectory, options, plot, output, overwrite)
    if as_json:
        print_json(result)
    else:
        print_analysis(result)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Show the environment and test the electrostatics against known numbers."""
    from grahame.hybrid.doctor import diagnose

    found = diagnose()
    if as_json:
        print_json(found.as_dict())
    else:
        rows = [["Python", found.python], ["platform", found.platform], ["cores", str(found.cores)]]
        rows += [[name, version or "missing"] for name, version in found.packages.items()]
        rows += [
            [f"threads, {name}", str(value)] for name, value in found.threads.items() if value is not None
        ]
        rows += [["BLAS", found.blas], ["FFT", found.fft], ["GPU", ", ".join(found.devices) or "none"]]
        rows += [[c.name, f"{'ok' if c.passed else 'FAILED'}: {c.detail}"] for c in found.checks]
        print_table("grahame doctor", ["", ""], rows)
    if not found.healthy:
        raise typer.Exit(1)


cli_train.register(app)
cli_audit.register(app)


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
        _fail(*_explained(error, words))
    else:
        if isinstance(code, int) and code:
            raise SystemExit(code)


def _explained(error: Exception, words: Sequence[str]) -> tuple[str, int]:
    """The sentence and the exit status of an error."""
    if hasattr(error, "format_message"):  # the command line itself: unknown option, missing argument
        return usage_sentence(error, words), int(getattr(error, "exit_code", 2))
    if type(error).__name__ == "Abort":
        return "interrupted; what was written so far is kept", 130
    if isinstance(error, OSError) and error.strerror:
        where = error.filename or "the output"
        return (
            f"file = {where} must be accessible: {error.strerror.lower()}; {_REMEDIES.get(error.errno or 0, _CHECK)}",
            1,
        )
    if isinstance(error, ValueError | OSError | RuntimeError | ImportError):
        return str(error), 1
    return f"unexpected {type(error).__name__}: {error}; run again with --debug and report it", 70


_CHECK = "check its name and folder"
_REMEDIES = {
    errno.ENOSPC: "free some space; a run continues with --restart",
    errno.EROFS: "choose a folder that can be written to",
    errno.EACCES: "change its permissions or choose another folder",
    errno.EEXIST: "choose another name, a file has this one",
    errno.ENOTDIR: "choose another folder, a part of this name is a file",
    errno.EISDIR: "name a file in this folder",
}


def _fail(sentence: str, code: int) -> None:
    typer.echo(f"Error: {sentence}", err=True)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
