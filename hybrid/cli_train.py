"""The commands `grahame train` and `grahame evaluate`. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grahame.hybrid.cli_output import print_json

if TYPE_CHECKING:
    from grahame.hybrid.frames import Frame
    from grahame.hybrid.reading import BadFrames
    from grahame.hybrid.specification import ModelSpec

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(train)
    app.command()(evaluate)


def train(
    config: Annotated[Path, typer.Argument(help="YAML configuration.")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Check all, frames too; train nothing.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier training.")] = False,
    progress: Annotated[bool, typer.Option(help="Show progress on standard error.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a model on labelled frames; start with torchrun for several processes."""
    from grahame.hybrid.reading import BadFrames
    from grahame.hybrid.training.config import load_training

    settings = load_training(config)
    if overwrite:
        output = settings.output.model_copy(update={"overwrite": True})
        settings = settings.with_output(output)
    from grahame.hybrid.training.report import print_errors
    from grahame.hybrid.training.run import check as run_check
    from grahame.hybrid.training.run import train as run_training

    if check:
        try:
            splits = run_check(settings, resume)
        except BadFrames as error:
            _list_all(error, as_json)
            raise
        found = {"train": len(splits.train), "valid": len(splits.valid), "left_out": splits.left_out}
        problems = [vars(p) for p in splits.problems]
        if as_json:
            print_json(found | {"dropped": problems})
            return
        typer.echo(f"{len(splits.train)} frames to train, {len(splits.valid)} to validate")
        for p in splits.problems:
            typer.echo(f"left out: {p.source}, frame {p.index}: {p.text}")
        return
    try:
        summary = run_training(settings, resume=resume, progress=progress and not as_json)
    except BadFrames as error:
        _list_all(error, as_json)
        raise
    if not summary.main:
        return
    if as_json:
        rows = [r.as_dict() for r in summary.table]
        dropped = [vars(p) for p in summary.dropped]
        print_json(
            vars(summary) | {"table": rows, "dropped": dropped, "figures": [str(f) for f in summary.figures]}
        )
        if not summary.completed:
            raise typer.Exit(130)
        return
    typer.echo(
        f"{summary.epochs} epochs, {summary.steps} steps in {summary.seconds:.0f} s; best validation loss {summary.best:.6g}"
    )
    if not summary.completed:
        typer.echo(f"stopped; `grahame train {config} --resume` continues from {summary.checkpoint}")
        raise typer.Exit(130)
    print_errors(f"{summary.model} on {summary.valid_frames} validation frames", summary.table)
    written = [summary.model, summary.curve, summary.errors, *summary.figures]
    typer.echo("written: " + ", ".join(str(p) for p in written))


def _list_all(error: BadFrames, as_json: bool) -> None:
    """All bad frames as JSON, where that was asked for; the command then ends without a sentence of its own."""
    if as_json:
        print_json({"error": str(error).splitlines()[0], "bad": [vars(p) for p in error.problems]})
        raise typer.Exit(1)


def evaluate(
    model: Annotated[Path, typer.Argument(help="Model file, or au-water-nacl for the one in the box.")],
    frames: Annotated[Path, typer.Argument(help="Labelled frames, any file that ASE reads.")],
    key: Annotated[
        list[str] | None, typer.Option(help="Label and the file's key: energy=REF_energy. Repeat for each.")
    ] = None,
    level: Annotated[
        str | None, typer.Option(help="Level of theory; default: the source's, or the first.")
    ] = None,
    boundary: Annotated[
        str | None,
        typer.Option(
            help="Boundary of the reference calculation: auto, 3d, slab, slab-exact, finite-field, displacement, open."
        ),
    ] = None,
    total_charge: Annotated[
        float | None, typer.Option(help="Charge of the cell where frames do not state it, e.")
    ] = None,
    electrode: Annotated[
        list[str] | None, typer.Option(help="Element whose atoms are the metal. Repeat for each.")
    ] = None,
    field: Annotated[
        str | None, typer.Option(help="Info key of the field, V/Å; none: there is no field.")
    ] = None,
    select: Annotated[
        list[str] | None, typer.Option(help="Keep frames whose info key matches: split=val. Repeat.")
    ] = None,
    source: Annotated[
        int | None,
        typer.Option(help="Read as this source of the model's training, from 0. Default: by name, or 0."),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Frames at a time.", min=1)] = 4,
    output: Annotated[Path | None, typer.Option(help="Write frames with predictions, extended XYZ.")] = None,
    table: Annotated[Path | None, typer.Option(help="Write the errors as CSV.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing output files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the errors as JSON.")] = False,
) -> None:
    """Errors of a model on labelled frames, by element and by distance from the metal."""
    from grahame.hybrid.files import check_target

    for path in (output, table):
        if path is not None:
            check_target(path, overwrite)
    if boundary is not None:
        _check_boundary(boundary)
    from grahame.hybrid.evaluate import arrays_of, check_metal, reading_of, write_predictions
    from grahame.hybrid.evaluate import evaluate as run_evaluation
    from grahame.hybrid.model_file import open_model
    from grahame.hybrid.reading import BadFrames, read_frames
    from grahame.hybrid.training.report import print_errors, write_errors

    loaded = open_model(model)
    reading = reading_of(
        loaded.spec, frames.name, source=source, keys=key or (), level=level, boundary=boundary,
        total_charge=total_charge, electrodes=electrode or (), field=field, select=select or (),
        arrays=arrays_of(frames),
    )  # fmt: skip
    try:
        labelled = read_frames(frames, reading)
    except BadFrames as error:
        _list_all(error, as_json)
        raise
    if not labelled:
        raise ValueError(
            f"frames = 0 of {frames} must be at least one: change --select, or give another file"
        )
    check_metal(labelled, electrode or ())
    _note_ordinary_metal(loaded.spec, labelled)
    found = run_evaluation(loaded, labelled, batch_size)
    rows = found.errors.rows()
    if output is not None:
        write_predictions(found, output, overwrite)
    if table is not None:
        write_errors(rows, table)
    if as_json:
        print_json({"model": str(model), "frames": len(found.frames), "errors": [r.as_dict() for r in rows]})
        return
    print_errors(f"{model} on {len(found.frames)} frames of {frames.name}", rows)


def _check_boundary(boundary: str) -> None:
    from typing import get_args

    from grahame.hybrid.config_short_range import Boundary

    known = ("auto", *get_args(Boundary))
    if boundary not in known:
        raise ValueError(f"boundary = {boundary} must be one of {', '.join(known)}: choose one of them")


def _note_ordinary_metal(spec: ModelSpec, frames: Sequence[Frame]) -> None:
    """Metal that no electrode holds has other energies and charges than electrodes: that is said, not assumed."""
    from ase.data import chemical_symbols

    from grahame.hybrid.electrode_groups import metallic

    if not spec.long_range:
        return
    metals = metallic(spec.elements, [spec.formal_charge(e) for e in spec.elements])
    ordinary = [
        f
        for f in frames
        if not f.conditions.solved(len(f)).any() and any(chemical_symbols[z] in metals for z in f.numbers)
    ]
    if ordinary:
        typer.echo(
            f"note: in {len(ordinary)} of {len(frames)} frames {' and '.join(metals)} are read as ordinary atoms, not as "
            "electrodes; --electrode names an element that is one, --source a source of the training with electrodes",
            err=True,
        )
