"""Two figures: cost against size, and time against error."""

from pathlib import Path
from typing import Any

import numpy as np

from examples.benchmarks.speed.engines import ENGINES
from examples.benchmarks.speed.measures import fitted_exponent

Row = dict[str, Any]

TITLES = {
    "ours": "Grahame",
    "lammps": "LAMMPS PPPM",
    "openmm": "OpenMM CPU",
    "nvalchemi": "nvalchemi-toolkit-ops, CPU",
    "torch-pme": "torch-pme",
    "mlipops": "mlipops, CPU",
}
COLOURS = dict(zip(ENGINES, ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#8c564b", "#7f7f7f")))
MARKERS = dict(zip(ENGINES, "osD^vP"))


def draw(results: Row, folder: Path) -> list[Path]:
    """Write both figures; those without data are left out."""
    import matplotlib

    matplotlib.use("Agg")
    return [p for p in (size_figure(results, folder), error_figure(results, folder)) if p is not None]


def _style(engine: str) -> dict[str, Any]:
    return {
        "color": COLOURS[engine],
        "marker": MARKERS[engine],
        "ms": 6,
        "lw": 2.2 if engine == "ours" else 1.3,
        "zorder": 5 if engine == "ours" else 3,
        "capsize": 2,
    }


def _point(one: Row) -> tuple[float, float, float]:
    """Median and distances to the quartiles, ms, with a new list in every step."""
    wall = one["new"]["wall_ms"]
    return wall["median"], wall["median"] - wall["low"], wall["high"] - wall["median"]


def size_figure(results: Row, folder: Path) -> Path | None:
    """Energy, forces and list against the number of atoms, one panel for each target, with fitted exponents."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter

    rows = list(results.get("water", {}).values())
    wanted = sorted({r["target"] for r in rows}, reverse=True)
    wanted = [t for t in wanted if len({r["atoms"] for r in rows if r["target"] == t}) > 1] or wanted[:1]
    if not rows:
        return None
    figure, axes = plt.subplots(1, len(wanted), figsize=(5.6 * len(wanted), 4.8), squeeze=False, sharey=True)
    for axis, target in zip(axes[0], wanted):
        for engine in ENGINES:
            some = sorted(
                (r["atoms"], *_point(r["engines"][engine]))
                for r in rows
                if r["target"] == target and r["engines"].get(engine, {}).get("status") == "measured"
            )
            if not some:
                continue
            n, t, low, high = (np.array(v) for v in zip(*some))
            p = fitted_exponent(n.tolist(), t.tolist())
            label = TITLES[engine] + (f", $n^{{{p:.2f}}}$" if p is not None else "")
            axis.errorbar(n, t, yerr=[low, high], label=label, **_style(engine))
        for one in results["published"]:
            if one["target"] == target:
                axis.plot(one["atoms"], one["ms"], "*", ms=11, mfc="none", color=COLOURS[one["engine"]])
                axis.annotate(
                    f"{one['device']}, {one['system']}\n(published)", (one["atoms"], one["ms"]),
                    textcoords="offset points", xytext=(-8, -4), ha="right", fontsize=7,
                )  # fmt: skip
        axis.set(xscale="log", yscale="log", xlabel="atoms")
        sizes = sorted({r["atoms"] for r in rows if r["target"] == target})
        if any(one["target"] == target for one in results["published"]):
            sizes.append(100_000)
        axis.set_xticks(sizes, [f"{n:,}" for n in sizes])
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_title(f"relative rms force error ≤ {target:.0e}", fontsize=10)
        axis.grid(alpha=0.3, which="both", lw=0.4)
        # Below the axes: nothing is hidden.
        axis.legend(fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3)
    axes[0][0].set_ylabel("energy + forces + neighbour list, ms")
    figure.suptitle(f"Water, one thread, {results['machine']['processor']}", fontsize=10)
    figure.tight_layout()
    path = folder / "results_speed_size.png"
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def error_figure(results: Row, folder: Path) -> Path | None:
    """Time against measured error at the size with most targets."""
    import matplotlib.pyplot as plt

    rows = list(results.get("water", {}).values())
    if not rows:
        return None
    counts: dict[int, set[float]] = {}
    for r in rows:
        counts.setdefault(r["atoms"], set()).add(r["target"])
    atoms = max(counts, key=lambda n: (len(counts[n]), n))
    figure, axis = plt.subplots(figsize=(8.2, 4.8))
    for engine in ENGINES:
        some = sorted(
            (r["engines"][engine]["error"], *_point(r["engines"][engine]))
            for r in rows
            if r["atoms"] == atoms and r["engines"].get(engine, {}).get("status") == "measured"
        )
        if some:
            e, t, low, high = (np.array(v) for v in zip(*some))
            axis.errorbar(e, t, yerr=[low, high], label=TITLES[engine], **_style(engine))
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="measured relative rms force error",
        ylabel="energy + forces + neighbour list, ms",
    )
    axis.invert_xaxis()
    axis.set_title(f"Water, {atoms:,} atoms, one thread, {results['machine']['processor']}", fontsize=10)
    axis.grid(alpha=0.3, which="both", lw=0.4)
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.tight_layout()
    path = folder / "results_speed_error.png"
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path
