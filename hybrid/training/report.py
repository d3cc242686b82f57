"""What a training leaves behind: the learning curve, tables of errors, figures."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from grahame.hybrid.evaluate import Evaluation
from grahame.hybrid.files import replacing
from grahame.hybrid.training.metrics import SHOWN, ErrorRow

__all__ = ["COLUMNS", "Curve", "print_errors", "read_curve", "write_errors", "write_figures"]

COLUMNS = (
    "epoch", "steps", "stage", "learning_rate", "train_loss", "valid_loss", "valid_energy_meV_per_atom",
    "valid_forces_meV_per_A", "valid_stress_meV_per_A3", "valid_charges_me", "valid_dipole_me_A", "valid_born_me",
    "valid_field_response_me", "valid_work_function_meV", "best", "frames_per_s", "seconds",
)  # fmt: skip


class Curve:
    """The learning curve as a CSV file, appended to, and cut back to a checkpoint.

    Args:
        path: of the file.
        length: bytes at the checkpoint; 0 starts a new file.
    Raises:
        ValueError: when the file is shorter than at the checkpoint.
    """

    def __init__(self, path: Path, length: int = 0) -> None:
        size = path.stat().st_size if path.exists() else 0
        if size < length:
            raise ValueError(
                f"{path} = {size} bytes must hold the {length} bytes of the checkpoint: restore the file, or start "
                "again under another output.name"
            )
        self._file = open(path, "ab")  # noqa: SIM115 - closed in close()
        self._file.truncate(length)
        self._file.seek(length)
        if length == 0:
            self._write(COLUMNS)

    def add(self, row: dict[str, Any]) -> None:
        """Append an epoch; a column without value stays empty."""
        cells = [row.get(c) for c in COLUMNS]
        self._write(
            ["" if v is None or v != v else f"{v:.8g}" if isinstance(v, float) else str(v) for v in cells]
        )

    def _write(self, cells: Sequence[str]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(cells)
        self._file.write(text.getvalue().encode())
        self._file.flush()

    @property
    def length(self) -> int:
        """Bytes, after everything is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_curve(path: Path) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """Columns of a learning curve; empty cells are NaN."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {c: np.array([float(r[c]) if r[c] else np.nan for r in rows]) for c in COLUMNS}


def write_errors(rows: Sequence[ErrorRow], path: Path) -> None:
    """The table of errors as CSV."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["quantity", "group", "unit", "rmse", "mae", "spread", "count"])
        for r in rows:
            writer.writerow(
                [r.quantity, r.group, r.unit, f"{r.rmse:.6g}", f"{r.mae:.6g}", f"{r.spread:.6g}", r.count]
            )


def print_errors(title: str, rows: Sequence[ErrorRow]) -> None:
    """The table of errors on standard output."""
    from grahame.hybrid.cli_output import print_table

    cells, last = [], ""
    for r in rows:
        name = r.quantity.replace("_", " ") if r.quantity != last else ""
        last = r.quantity
        cells.append(
            [name, r.group, f"{r.rmse:.4g}", f"{r.mae:.4g}", f"{r.spread:.4g}", r.unit, str(r.count)]
        )
    print_table(title, ["quantity", "group", "RMSE", "MAE", "spread", "unit", "values"], cells)


def write_figures(curve: Path, evaluation: Evaluation | None, stem: Path) -> list[Path]:
    """<stem>.curve.png with the learning curve and <stem>.parity.png with labels against predictions.

    Raises:
        ImportError: when matplotlib is not installed.
    """
    from grahame.hybrid.plots import BLACK, BLUE, ORANGE, RED, new_figure, save

    columns = read_curve(curve)
    figure = new_figure(7.2, 2.8)
    left, right = figure.subplots(1, 2)
    for name, label, colour in (("train_loss", "training", BLUE), ("valid_loss", "validation", ORANGE)):
        left.semilogy(columns["epoch"], columns[name], color=colour, label=label)
    for name, label, colour in (
        ("valid_energy_meV_per_atom", "energy (meV/atom)", BLACK),
        ("valid_forces_meV_per_A", "forces (meV/Å)", RED),
        ("valid_charges_me", "charges (me)", BLUE),
    ):
        if np.isfinite(columns[name]).any():
            right.semilogy(columns["epoch"], columns[name], color=colour, label=label)
    left.set_ylabel("loss")
    right.set_ylabel("validation RMSE")
    for axis in (left, right):
        axis.set_xlabel("epoch")
        if axis.lines:
            axis.legend(frameon=False)
    written = [save(figure, stem.with_name(stem.name + ".curve.png"))]
    if evaluation is None:
        return written
    panels = [(n, *evaluation.pairs(n)) for n in ("energy", "forces", "charges")]
    panels = [p for p in panels if len(p[1])]
    if panels:
        figure = new_figure(2.6 * len(panels), 2.6)
        for axis, (name, wanted, found) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels):
            unit = {"energy": "eV/atom", "forces": "eV/Å", "charges": "e"}[name]
            axis.plot(wanted, found, ".", color=BLUE, markersize=2, alpha=0.4, rasterized=True)
            ends = [min(wanted.min(), found.min()), max(wanted.max(), found.max())]
            axis.plot(ends, ends, color=BLACK, linewidth=0.8)
            rmse = 1e3 * float(np.sqrt(np.mean((wanted - found) ** 2)))
            axis.set_title(f"{name}: RMSE {rmse:.3g} {SHOWN[name]}", fontsize=9)
            axis.set_xlabel(f"reference ({unit})")
            axis.set_ylabel(f"model ({unit})")
        written.append(save(figure, stem.with_name(stem.name + ".parity.png")))
    return written
