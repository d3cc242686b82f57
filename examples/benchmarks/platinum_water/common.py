"""What the parts share: frames of the reference in their conditions, layers of the metal, slopes, figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from grahame.electrostatics.units import COULOMB_CONSTANT
from grahame.hybrid import plots
from grahame.hybrid.evaluate import reading_of
from grahame.hybrid.frames import Frame
from grahame.hybrid.model import HybridModel
from grahame.hybrid.reading import read_frames

Array = NDArray[np.float64]
FOUR_PI_K = 4 * np.pi * COULOMB_CONSTANT  # V Å/e
LAYERS = 6  # of the reference's slabs
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#777777"


def frames_of(
    model: HybridModel, path: Path, boundary: str, keys: Sequence[str], *select: str, field: str | None = None
) -> list[Frame]:
    """Frames of a file in which all metal is one conductor of zero charge."""
    reading = reading_of(
        model.spec,
        path.name,
        keys=keys,
        boundary=boundary,
        total_charge=0.0,
        electrodes=["Pt"],
        field=field,
        select=select,
    )
    return read_frames(path, reading)


def task_frames(model: HybridModel, folder: Path, split: str, quick: bool) -> dict[str, list[Frame]]:
    """Frames in applied fields, by geometry (snapshot and side of the full cell), fields ascending."""
    found = frames_of(
        model,
        folder / "half_field.xyz",
        "slab",
        ["forces=REF_forces", "charges=REF_hirshfeld"],
        f"split={split}",
        "calc=task_*",
        field="E_vac",
    )
    groups: dict[str, list[Frame]] = {}
    for frame in sorted(found, key=lambda f: float(f.info["E_vac"])):
        groups.setdefault(f"{frame.info['snapshot']}{str(frame.info['calc'])[4:7]}", []).append(frame)
    # Of a quick run two geometries with their outermost fields.
    return {k: [v[0], v[-1]] for k, v in list(groups.items())[:2]} if quick else groups


def field_of(frame: Frame) -> float:
    """Field in the vacuum, V/Å."""
    return float(frame.info["E_vac"])


def layers_of(frame: Frame | Atoms) -> list[NDArray[np.int64]]:
    """Metal atoms of each layer, the lowest first."""
    metal = np.flatnonzero(frame.numbers == 78)
    order = metal[np.argsort(frame.positions[metal, 2])]
    return list(order.reshape(LAYERS, -1))


def area_of(cell: Array) -> float:
    """Area of the surface cell, Å²."""
    return float(np.linalg.norm(np.cross(cell[0], cell[1])))


def slope(x: Array, y: Array, group: NDArray[np.int64]) -> list[float]:
    """Slope with one intercept per group, and its standard error."""
    x, y = x.copy(), y.copy()
    for g in np.unique(group):
        x[group == g] -= x[group == g].mean()
        y[group == g] -= y[group == g].mean()
    value = float(x @ y / (x @ x))
    rest = y - value * x
    freedom = max(1, len(x) - len(np.unique(group)) - 1)
    return [value, float(np.sqrt(rest @ rest / freedom / (x @ x)))]


def rms(values: Array) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


def new_figure(width: float, height: float) -> Any:
    """A figure, or None where matplotlib is not installed."""
    try:
        return plots.new_figure(width, height)
    except ImportError as error:
        print(error)
        return None


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure and say where."""
    print(f"figure: {plots.save(figure, path)}")
