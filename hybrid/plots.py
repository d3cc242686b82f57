"""Figures of an analysis, worth printing. Needs matplotlib, which the extra `plot` installs.

Colours are those of Okabe and Ito, told apart also by colour-blind readers and on grey paper by their line
styles. Heights are shown from the surface layer of the bottom electrode; electrodes are shaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.constants import Avogadro

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["charge_figure", "new_figure", "overview", "profile_figure", "save"]

Array = NDArray[np.float64]

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000",
)  # fmt: skip
_SPECIES = {"O": RED, "H": BLACK, "Na": PURPLE, "Cl": GREEN}
_RUNS = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
_STYLES = ("-", (0, (4, 1.5)), (0, (1, 1)), "-.")
_MOL_PER_L = 1e27 / Avogadro  # 1/Å³ in mol/L
_STYLE: Any = {
    "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "legend.fontsize": 8, "legend.frameon": False,
    "axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 1.2, "axes.linewidth": 0.8,
    "xtick.labelsize": 8, "ytick.labelsize": 8, "figure.dpi": 120,
}  # fmt: skip


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, width and height in inches.

    Raises:
        ImportError: when matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            "matplotlib = not installed must be there to draw: run `pip install 'grahame[plot]'`"
        ) from None
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure; the ending of the path is the format (png, pdf, svg)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=200)
    return path


def overview(result: dict[str, Any] | Sequence[dict[str, Any]], path: str | Path | None = None) -> Figure:
    """All profiles and the electrode charge of one or several runs on one page.

    Args:
        result: what `grahame.hybrid.analysis.analyse` returns; of several runs of the same cell, a list.
        path: where to write it (png, pdf, svg); None draws only.
    Returns:
        The matplotlib figure.
    Raises:
        ImportError: when matplotlib is not installed.
        ValueError: for an empty list.
    """
    runs = _runs(result)
    figure = new_figure(7.2, 9.0)
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        grid = figure.add_gridspec(4, 2)
        axes = [figure.add_subplot(grid[row, column]) for row in range(3) for column in range(2)]
        _profiles(axes, runs)
        _charge(figure.add_subplot(grid[3, :]), runs)
        for letter, axis in zip("abcdefg", figure.axes):
            axis.set_title(letter, loc="left", fontweight="bold")
        if path is not None:
            save(figure, path)
    return figure


def profile_figure(
    result: dict[str, Any] | Sequence[dict[str, Any]], path: str | Path | None = None
) -> Figure:
    """Densities, orientation, charge density, field and potential along the normal; as `overview`."""
    figure = new_figure(7.2, 7.0)
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        axes = list(figure.subplots(3, 2).ravel())
        _profiles(axes, _runs(result))
        for letter, axis in zip("abcdef", axes):
            axis.set_title(letter, loc="left", fontweight="bold")
        if path is not None:
            save(figure, path)
    return figure


def charge_figure(
    result: dict[str, Any] | Sequence[dict[str, Any]], path: str | Path | None = None
) -> Figure:
    """Electrode charge against time with its mean; as `overview`."""
    figure = new_figure(5.0, 3.0)
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        _charge(figure.add_subplot(), _runs(result))
        if path is not None:
            save(figure, path)
    return figure


def _runs(result: dict[str, Any] | Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    runs = [result] if isinstance(result, dict) else list(result)
    if not runs:
        raise ValueError("result = [] must hold at least one analysis: give what `analyse` returned")
    return runs


def _array(values: Any) -> Array:
    """Numbers with None as nan."""
    return np.array(values, dtype=np.float64)


def _label(run: dict[str, Any]) -> str:
    cell = run["cell"]
    value = None if cell is None else cell["voltage_V"]["value"]
    return Path(run["trajectory"]).stem if value is None else f"{value:.3g} V"


def _origin(run: dict[str, Any]) -> float:
    electrodes = run["electrodes"]
    return min(e["surface_A"] for e in electrodes) if electrodes else 0.0


def _profiles(axes: Sequence[Axes], runs: Sequence[dict[str, Any]]) -> None:
    water, ions, angle, charge, field, potential = axes
    densities = runs[-1]["profiles"]["density"]["number_per_A3"]
    largest = max((_array(v).sum() for v in densities.values()), default=0.0)
    many = [s for s, v in densities.items() if _array(v).sum() > 0.05 * largest]
    few = [s for s in densities if s not in many]
    for number, run in enumerate(runs):
        style: Any = _STYLES[(len(runs) - 1 - number) % len(_STYLES)]
        colour = _RUNS[(len(runs) - 1 - number) % len(_RUNS)] if len(runs) > 1 else BLUE
        origin, profiles = _origin(run), run["profiles"]
        density = profiles["density"]
        z = _array(density["z_A"]) - origin
        for axis, species, factor in ((water, many, 1.0), (ions, few, _MOL_PER_L)):
            for rank, s in enumerate(species):
                values, errors = (
                    _array(density["number_per_A3"][s]),
                    _array(density["number_error_per_A3"][s]),
                )
                hue = _SPECIES.get(s, _RUNS[rank % len(_RUNS)])
                label = s if number == len(runs) - 1 else None
                axis.plot(z, factor * values, color=hue, linestyle=style, label=label)
                axis.fill_between(
                    z,
                    factor * (values - errors),
                    factor * (values + errors),
                    color=hue,
                    alpha=0.2,
                    linewidth=0,
                )
        if not few:
            ions.plot(z, _array(density["mass_g_per_cm3"]), color=colour, linestyle=style, label=_label(run))
        turned, e = profiles["orientation"], profiles["electrostatic"]
        if turned is not None:
            zo, c, d = (_array(turned[k]) for k in ("z_A", "cos_theta", "cos_theta_error"))
            angle.plot(zo - origin, c, color=colour, linestyle=style, label=_label(run))
            angle.fill_between(zo - origin, c - d, c + d, color=colour, alpha=0.2, linewidth=0)
        if e is not None:
            ze = _array(e["z_A"]) - origin
            for axis, key in (
                (charge, "charge_density_e_per_A3"), (field, "field_V_per_A"), (potential, "potential_V"),
            ):  # fmt: skip
                axis.plot(ze, _array(e[key]), color=colour, linestyle=style, label=_label(run))
    water.set_ylabel("number density (Å$^{-3}$)")
    ions.set_ylabel("concentration (mol/L)" if few else "mass density (g/cm$^3$)")
    angle.set_ylabel(r"$\langle\cos\theta\rangle$ of water")
    charge.set_ylabel("charge density (e/Å$^3$)")
    field.set_ylabel("field (V/Å)")
    potential.set_ylabel("potential (V)")
    for axis in axes:
        axis.set_xlabel("distance from the bottom electrode (Å)" if runs[-1]["electrodes"] else "z (Å)")
        _shade(axis, runs[-1])
        if axis.get_legend_handles_labels()[1] and (axis in (water, ions) or len(runs) > 1):
            axis.legend(loc="best", ncols=2)
        if not axis.lines:
            axis.text(0.5, 0.5, "no data", ha="center", va="center", transform=axis.transAxes, color="0.5")
    for axis in (angle, charge, field):
        axis.axhline(0.0, color="0.6", linewidth=0.6, zorder=0)


def _shade(axis: Axes, run: dict[str, Any]) -> None:
    """Grey electrodes; the axis ends just behind them."""
    electrodes, origin = run["electrodes"], _origin(run)
    if not electrodes:
        return
    ends = []
    for e in electrodes:
        low, high = sorted((e["surface_A"] - origin, e["back_A"] - origin))
        ends += [low, high]
        axis.axvspan(low, high, color="0.9", zorder=-2, linewidth=0)
        for layer in e["layers_A"]:
            axis.axvline(layer - origin, color="0.78", linewidth=0.7, zorder=-1)
    z = _array(run["profiles"]["density"]["z_A"]) - origin
    single = len(electrodes) == 1
    axis.set_xlim(max(min(ends) - 2.0, z[0]), z[-1] if single else min(max(ends) + 2.0, z[-1]))


def _charge(axis: Axes, runs: Sequence[dict[str, Any]]) -> None:
    """Charge of the cell (or of the only electrode) against time, its mean and standard error."""
    for number, run in enumerate(runs):
        colour = _RUNS[(len(runs) - 1 - number) % len(_RUNS)] if len(runs) > 1 else BLUE
        if run["series"] is None:
            continue
        time, charges = _array(run["series"]["time_ps"]), _array(run["series"]["electrode_charge_e"])
        time = time - time[0]
        cell = run["cell"]
        if cell is not None:
            charge, mean = 0.5 * (charges[cell["top"]] - charges[cell["bottom"]]), cell["charge_e"]
        else:
            charge, mean = charges[-1], run["electrodes"][-1]["charge_e"]
        axis.plot(time, charge, color=colour, alpha=0.45, linewidth=0.7)
        error = mean["error"]
        text = f"{_label(run)}: {mean['value']:.3f} e"
        if error is not None:
            text = f"{_label(run)}: {mean['value']:.3f} ± {error:.3f} e"
            text += "" if mean["converged"] else " (error at least)"
            band = (mean["value"] - error, mean["value"] + error)
            axis.axhspan(*band, color=colour, alpha=0.25, linewidth=0)
        axis.axhline(mean["value"], color=colour, label=text)
    both = any(r["cell"] is not None for r in runs)
    axis.set_xlabel("time (ps)")
    axis.set_ylabel(r"$(Q_\mathrm{top}-Q_\mathrm{bottom})/2$ (e)" if both else "electrode charge (e)")
    if axis.lines:
        axis.margins(x=0.01)
        axis.legend(loc="best", ncols=len(runs))
    else:
        axis.text(0.5, 0.5, "no data", ha="center", va="center", transform=axis.transAxes, color="0.5")
