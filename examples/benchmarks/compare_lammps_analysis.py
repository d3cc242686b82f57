"""Analysis of `compare_lammps_dynamics.py`: its statistics, table and figure.

Its description says what is compared and how the errors come about.
"""

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import t as student
from scipy.stats import ttest_ind

from grahame.hybrid.plots import BLUE, ORANGE, new_figure

Array = NDArray[np.float64]

BIN = 0.5  # Å
RAREST = 0.02  # of the bulk density: emptier bins are left out
CODES = ("grahame", "lammps")


@dataclass
class Series:
    """What one run leaves: charge of the top electrode and heights of the liquid's atoms.

    Attributes:
        time: (m,) ps from the start; charge: (m,) e; temperature: (m,) K of all motion.
        frame_time: (k,) ps; heights: (k,n) Å of the electrolyte's atoms.
        translation: (k,) K, of the centres of mass of molecules and ions.
    """

    time: Array
    charge: Array
    temperature: Array
    frame_time: Array
    heights: Array
    translation: Array

    @classmethod
    def load(cls, path: Path) -> "Series | None":
        """The series of a file, or None."""
        if not path.exists():
            return None
        with np.load(path) as data:
            return cls(*(data[name] for name in cls.__dataclass_fields__))

    def save(self, path: Path) -> None:
        """Write the whole file or nothing."""
        temporary = path.with_suffix(".tmp.npz")
        np.savez_compressed(temporary, **self.__dict__)
        temporary.replace(path)

    def joined(self, later: "Series") -> "Series":
        """This and its continuation, which repeats the last moment."""
        return Series(
            *(
                np.concatenate([getattr(self, name), getattr(later, name)[1:]])
                for name in self.__dataclass_fields__
            )
        )


def compare_means(name: str, unit: str, ours: Array, theirs: Array) -> dict[str, Any]:
    """One number per run of each program: means, standard errors, their difference and Welch's p."""
    error = [float(x.std(ddof=1) / len(x) ** 0.5) for x in (ours, theirs)]
    difference = float(ours.mean() - theirs.mean())
    return {
        "name": name,
        "unit": unit,
        "grahame": float(ours.mean()),
        "grahame_error": error[0],
        "lammps": float(theirs.mean()),
        "lammps_error": error[1],
        "difference": difference,
        "difference_error": math.hypot(*error),
        "p": float(ttest_ind(ours, theirs, equal_var=False).pvalue),
        "judged": True,
    }


def statistics(values: Array, first: tuple[int, ...], least: float) -> Array:
    """t (m,) per bin between the runs `first` and the others of values (runs,m), pooled variance.

    `least` is the smallest standard error taken for true: one atom in one frame.
    """
    ours = np.isin(np.arange(len(values)), first)
    a, b = values[ours], values[~ours]
    spread = ((a - a.mean(0)) ** 2).sum(0) + ((b - b.mean(0)) ** 2).sum(0)
    variance = spread / (len(values) - 2) * (1.0 / len(a) + 1.0 / len(b))
    ratio: Array = (a.mean(0) - b.mean(0)) / np.maximum(np.sqrt(variance), least)
    return ratio


def compare_profiles(name: str, ours: Array, theirs: Array, bulk: float, least: float) -> dict[str, Any]:
    """Profiles (runs,m) of each program: t per bin and how unusual it is among all ways to deal the runs."""
    values = np.concatenate([ours, theirs])
    kept = np.flatnonzero(values.mean(0) > RAREST * bulk)
    seeds = len(ours)
    t = statistics(values[:, kept], tuple(range(seeds)), least)
    # The first run stays in the first group: exchanging the groups only turns the sign.
    deals = [(0, *rest) for rest in itertools.combinations(range(1, 2 * seeds), seeds - 1)]
    dealt = [statistics(values[:, kept], deal, least) for deal in deals]
    freedom = 2 * seeds - 2
    return {
        "name": name,
        "bins": len(kept),
        "chi2_per_bin": float((t**2).mean()),
        # t of f degrees of freedom has the variance f/(f - 2).
        "expected_chi2_per_bin": freedom / (freedom - 2) if freedom > 2 else None,
        "p_chi2": float(np.mean([(d**2).mean() >= (t**2).mean() - 1e-12 for d in dealt])),
        "largest_t": float(np.abs(t).max()),
        "deals": len(deals),
        "p_largest_t": float(min(1.0, len(kept) * 2.0 * student.sf(np.abs(t).max(), freedom))),
        "kept": kept.tolist(),
        "t": t.tolist(),
    }


def profiles(
    atoms: Atoms, runs: list[Series], symbol: str, window: tuple[float, float]
) -> tuple[Array, Array, float]:
    """Heights (m,) Å above the lower surface, the number density (runs,m) 1/Å³ of an element, and its grain."""
    electrode, z = atoms.arrays["electrode"], atoms.positions[:, 2]
    low, high = float(z[electrode == 0].max()), float(z[electrode == 1].min())
    edges = np.linspace(0.0, high - low, round((high - low) / BIN) + 1)
    chosen = atoms.numbers[electrode < 0] == {"O": 8, "H": 1}[symbol]
    area = float(atoms.cell[0, 0] * atoms.cell[1, 1])
    rows, grain = [], 0.0
    for series in runs:
        inside = (series.frame_time > window[0] + 1e-9) & (series.frame_time < window[1] + 1e-9)
        heights = series.heights[inside][:, chosen] - low
        grain = float(1.0 / (inside.sum() * area * (edges[1] - edges[0])))
        rows.append(np.histogram(heights, edges)[0] * grain)
    return 0.5 * (edges[1:] + edges[:-1]), np.array(rows), grain


def analyse(atoms: Atoms, runs: dict[str, list[Series]], skip_ps: float) -> dict[str, Any]:
    """Everything compared over the stretch of time that all runs have, without its first part."""
    end = min(float(s.time[-1]) for series in runs.values() for s in series)
    window = (skip_ps, end)

    def means(quantity: str) -> list[Array]:
        rows: dict[str, list[float]] = {code: [] for code in CODES}
        for code in CODES:
            for s in runs[code]:
                time = s.frame_time if quantity == "translation" else s.time
                inside = (time > window[0] + 1e-9) & (time < window[1] + 1e-9)
                rows[code].append(float(getattr(s, quantity)[inside].mean()))
        return [np.array(rows[code]) for code in CODES]

    result: dict[str, Any] = {"window_ps": window, "seeds": len(runs["lammps"])}
    result["charge_at_start_e"] = {code: float(runs[code][0].charge[0]) for code in CODES}
    charges = means("charge")
    result["seed_charges_e"] = {code: q.tolist() for code, q in zip(CODES, charges)}
    result["means"] = [
        compare_means("charge of the top electrode", "e", *charges),
        compare_means("temperature of molecules' centres", "K", *means("translation")),
        # Not judged: the two integrators leave the O-H stretch different kinetic energies, see above.
        compare_means("temperature of all motion", "K", *means("temperature")) | {"judged": False},
    ]
    result["profiles"], result["density"] = [], {}
    for symbol in ("O", "H"):
        z, ours, grain = profiles(atoms, runs["grahame"], symbol, window)
        _, theirs, _ = profiles(atoms, runs["lammps"], symbol, window)
        far = np.abs(z - z.mean()) < 5.0
        result["profiles"].append(
            compare_profiles(f"density of {symbol}", ours, theirs, float(theirs[:, far].mean()), grain)
        )
        if symbol == "O":
            for side, half in (("lower", z < z.mean()), ("upper", z > z.mean())):
                peaks = [
                    1e3 * p[:, half][:, np.argmax((ours + theirs)[:, half].mean(0))] for p in (ours, theirs)
                ]
                result["means"].append(compare_means(f"first O layer, {side} electrode", "1/nm³", *peaks))
        result["density"]["z_A"] = z.tolist()
        for code, rows in (("grahame", ours), ("lammps", theirs)):
            result["density"][f"{symbol}_{code}_per_nm3"] = (1e3 * rows.mean(0)).tolist()
            result["density"][f"{symbol}_{code}_error_per_nm3"] = (
                1e3 * rows.std(0, ddof=1) / len(rows) ** 0.5
            ).tolist()
    every = max(1, len(runs["lammps"][0].time) // 200)
    count = min(len(s.time) for series in runs.values() for s in series)
    result["charge"] = {"time_ps": runs["lammps"][0].time[:count:every].tolist()} | {
        f"{code}_e": [s.charge[:count:every].round(5).tolist() for s in runs[code]] for code in CODES
    }
    return result


def show(result: dict[str, Any]) -> bool:
    """Print the table; True when nothing differs by more than the seeds scatter (p above 1 %)."""
    print(f"from {result['window_ps'][0]:g} to {result['window_ps'][1]:g} ps, {result['seeds']} seeds each")
    start = result["charge_at_start_e"]
    print(f"{'charge in the common first frame':37s} {start['grahame']:10.6f} e {start['lammps']:17.6f} e")
    print(f"{'':37s} {'Grahame':>19s} {'LAMMPS':>19s} {'difference':>21s} {'in errors':>9s} {'p':>6s}")
    for row in result["means"]:
        print(
            f"{row['name'] + ', ' + row['unit']:37s} {row['grahame']:10.4f} ±{row['grahame_error']:7.4f} "
            f"{row['lammps']:10.4f} ±{row['lammps_error']:7.4f} {row['difference']:+12.4f} "
            f"±{row['difference_error']:7.4f} {row['difference'] / row['difference_error']:+9.2f} {row['p']:6.2f}{'' if row['judged'] else '  not judged'}"
        )
    for row in result["profiles"]:
        expected = row["expected_chi2_per_bin"]
        print(
            f"{row['name']:17s} {row['bins']} bins of {BIN} Å: mean t² {row['chi2_per_bin']:.2f}"
            f"{'' if expected is None else f' (expected {expected:.2f})'}, p {row['p_chi2']:.2f} of {row['deals']} deals; "
            f"largest |t| {row['largest_t']:.2f}, p {row['p_largest_t']:.2f}"
        )
    judged = [row["p"] for row in result["means"] if row["judged"]]
    worst = min(judged + [row["p_largest_t"] for row in result["profiles"]])
    # Few seeds have few deals: no p of theirs could be small enough to decide.
    print(f"smallest p of the judged means and the largest |t|: {worst:.3f}")
    return bool(worst > 0.01)


def draw(result: dict[str, Any], path: Path) -> None:
    """Profiles with their errors, t per bin, and charges against time."""
    figure = new_figure(7.2, 6.0)
    top, middle, bottom = figure.subplots(3, 1, height_ratios=(2.2, 1.0, 1.6))
    density, z = result["density"], np.array(result["density"]["z_A"])
    looks = (("grahame", "Grahame", BLUE, "-"), ("lammps", "LAMMPS", ORANGE, "--"))
    for code, label, colour, dashes in looks:
        for symbol, shade in (("O", 1.0), ("H", 0.45)):
            mean = np.array(density[f"{symbol}_{code}_per_nm3"])
            error = np.array(density[f"{symbol}_{code}_error_per_nm3"])
            top.plot(z, mean, color=colour, linestyle=dashes, alpha=shade, label=f"{symbol}, {label}")
            top.fill_between(z, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
    top.set(
        xlabel="height above the lower electrode (Å)", ylabel="density (nm$^{-3}$)", xlim=(0, z[-1] + z[0])
    )
    top.legend(ncols=2, frameon=False)
    for row, colour, mark in zip(result["profiles"], ("#000000", "#999999"), ("o", "s")):
        middle.plot(z[row["kept"]], row["t"], mark, color=colour, ms=3, label=row["name"].split()[-1])
    for level in (-2.0, 2.0):
        middle.axhline(level, color="0.6", linewidth=0.8, linestyle=":")
    middle.axhline(0.0, color="0.6", linewidth=0.8)
    middle.set(
        xlabel="height above the lower electrode (Å)", ylabel="difference / error", xlim=(0, z[-1] + z[0])
    )
    middle.legend(ncols=2, frameon=False, loc="lower right", bbox_to_anchor=(1.0, 0.95), handletextpad=0.1)
    charge = result["charge"]
    for code, label, colour, dashes in looks:
        runs = np.array(charge[f"{code}_e"])
        bottom.plot(charge["time_ps"], runs.T, color=colour, linewidth=0.5, alpha=0.5)
        bottom.plot(
            charge["time_ps"], runs.mean(0), color=colour, linestyle=dashes, linewidth=1.8, label=label
        )
    bottom.set(xlabel="time (ps)", ylabel="electrode charge (e)", xlim=(0, charge["time_ps"][-1]))
    bottom.set_title("thick: mean of the seeds", fontsize=9, loc="left")
    bottom.legend(ncols=2, frameon=False, loc="lower right", bbox_to_anchor=(1.0, 0.97))
    figure.savefig(path, dpi=120)
    # A small file for the documentation: few colours are in it.
    with Image.open(path) as image:
        image.convert("RGB").quantize(64).save(path, optimize=True)


def rounded(value: Any) -> Any:
    """Six digits are enough for a record."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
