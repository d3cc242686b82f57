"""Two frames that look the same from where the probe is, with other ions out of sight.

    python examples/benchmarks/indistinguishable.py [fixed] [polarisable] [--model FILE] [--out DIR] [--quick]

Au | water | Au at constant potential, with Na+ and Cl- near the upper electrode only. The probe is the lower metal
surface and the water on it. Then something changes at the ions, further from every atom of the probe than a local
network can see (twice its cut-off for forces):

    exchanged   Na+ and Cl- trade places
    replaced    Cl- instead of Na+; the electrodes take up the difference

dF is what the change does to the forces on the probe; a local model gives 0. Printed is the part of it that a model
recovers, 1 - |dF_model - dF_ref| / |dF_ref|, over all atoms of the probe. Models are trained here, on cells of
another size that the reference makes:

    local       no charges
    predicted   charges from the surroundings; the metal solved
    solved      all charges solved from learned chi and J, each molecule and ion keeping its own total

The reference is a classical force field: `fixed` with SPC/Fw water, whose charges never change, `polarisable` with
water of fluctuating charges (the teacher of the model in the box), which answers a far field with its electrons.
Predicted charges cannot: `polarisation` is what the reference itself loses when the water keeps the charges of the
first frame. --model compares one more model, a file or au-water-nacl, with the polarisable reference.

Needs no data but its own. Prints tables, writes JSON; with --publish also beside this file. --quick only shows that
it works.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ase import Atoms, units
from ase.constraints import FixAtoms
from ase.md.langevin import Langevin
from ase.optimize import FIRE
from numpy.typing import NDArray

from grahame.electrostatics import ConstantPotential, Coulomb, Electrode
from grahame.hybrid.build import build_cell
from grahame.hybrid.calculator import HybridCalculator
from grahame.hybrid.model import HybridModel
from grahame.hybrid.model_file import load_model, open_model
from grahame.hybrid.shortrange.classical import ClassicalForceField
from grahame.hybrid.shortrange.fluctuating import FluctuatingWater
from grahame.hybrid.shortrange.learned import LearnedShortRange
from grahame.hybrid.shortrange.topology import find_topology
from grahame.hybrid.teacher import METAL_WIDTH, metal_groups, teacher_calculator
from grahame.hybrid.teacher_frames import widths
from grahame.hybrid.training.config import TrainConfig, parse_training
from grahame.hybrid.training.run import train

HERE = Path(__file__).resolve().parent
Floats = NDArray[np.float64]
SIZE = (2, 4, 2)
PROBE_HEIGHT = 5.0  # Å above the lower metal
IONS_ABOVE = 19.5  # Å above the lower metal
CHARGES = {"Na": 1.0, "Cl": -1.0}
SAMPLING, EXACT = 1e-3, 1e-7


@dataclass(frozen=True)
class Cell:
    """One run of dynamics: gap (Å), molecules, ions, potentials (V), temperature (K)."""

    gap: float
    waters: int
    ion_pairs: int
    potentials: tuple[float, float]
    temperature: float = 300.0
    remove: str | None = None


TRAINING = (
    Cell(15.0, 22, 1, (0.0, 0.0), 350.0),
    Cell(15.0, 21, 2, (0.0, 2.0), 350.0),
    Cell(15.0, 22, 1, (0.0, -1.0), 400.0, "Cl"),
    Cell(15.0, 22, 1, (0.0, 1.0), 400.0, "Na"),
)


KINDS: dict[str, tuple[str, ...]] = {
    "fixed": ("local", "predicted"),
    "polarisable": ("local", "predicted", "solved"),
}


def groups(atoms: Atoms, potentials: tuple[float, float]) -> list[Electrode]:
    """The metal."""
    return [Electrode(m, potential=v) for m, v in zip(metal_groups(atoms), potentials)]


def fragments(atoms: Atoms) -> tuple[list[NDArray[np.int64]], list[float]]:
    """Molecules and ions, and their charges."""
    found = find_topology(atoms)
    ions = [np.array([k]) for k in found.ions]
    charges = [CHARGES[atoms.symbols[int(k)]] for k in found.ions]
    return [*found.waters, *ions], [0.0] * len(found.waters) + charges


def reference(
    atoms: Atoms, potentials: tuple[float, float], accuracy: float, teacher: bool
) -> HybridCalculator:
    """The force field that is right here."""
    coulomb = Coulomb("slab", accuracy=accuracy)
    if teacher:
        return teacher_calculator(atoms, potentials=potentials, coulomb=coulomb)
    field = ClassicalForceField.from_atoms(atoms, cutoff=6.0)
    return HybridCalculator(field, coulomb, groups(atoms, potentials), smearing=METAL_WIDTH)


def student(model: HybridModel, atoms: Atoms, potentials: tuple[float, float]) -> HybridCalculator:
    """A model under the same conditions; one without charges has no electrodes."""
    held = groups(atoms, potentials) if model.spec.long_range else None
    if held is not None and model.spec.charges.kind == "solved":
        held += [Electrode(m, charge=q) for m, q in zip(*fragments(atoms))]
    return HybridCalculator(LearnedShortRange(model), Coulomb("slab", accuracy=EXACT, order=6), held)


def sample(
    cell: Cell, seed: int, frames: int, stride: int, settle: int, teacher: bool, low: float = 0.0
) -> list[Atoms]:
    """Snapshots of constant-potential dynamics; ions stay above `low` (Å over the lower metal)."""
    atoms = build_cell(
        size=SIZE, gap=cell.gap, waters=cell.waters, ion_pairs=max(cell.ion_pairs, 1), seed=seed
    )
    if cell.remove is not None:
        del atoms[[int(np.flatnonzero(atoms.symbols == cell.remove)[0])]]
    if low:
        lift(atoms, low)
    bare = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    bare.set_array("electrode", atoms.arrays["electrode"].astype(int))
    bare.calc = reference(bare, cell.potentials, SAMPLING, teacher)
    ions = np.flatnonzero(np.isin(bare.symbols, list(CHARGES)))
    still = np.flatnonzero(bare.arrays["electrode"] >= 0)
    bare.set_constraint(FixAtoms(np.concatenate([still, ions]) if low else still))
    with FIRE(bare, logfile=None) as downhill:
        downhill.run(fmax=0.5, steps=100)
    rng = np.random.default_rng(seed)
    masses = bare.get_masses()
    masses[bare.numbers == 1], masses[bare.numbers == 8] = 3.0, 12.015
    bare.set_masses(masses)
    kT = units.kB * cell.temperature
    bare.set_momenta(rng.normal(size=(len(bare), 3)) * np.sqrt(masses * kT)[:, None])
    motion = Langevin(
        bare, units.fs, temperature_K=cell.temperature, friction=0.02 / units.fs, fixcm=False, rng=rng
    )
    motion.run(settle)
    out = []
    for _ in range(frames):
        motion.run(stride)
        out.append(bare.copy())
        out[-1].set_constraint()
    return out


def lift(atoms: Atoms, low: float) -> None:
    """Trade ions for the molecules that are nearest to two places above `low`, one 5 Å over the other."""
    floor = atoms.positions[atoms.arrays["electrode"] == 0, 2].max()
    oxygens = np.flatnonzero(atoms.numbers == 8)
    ions = np.flatnonzero(np.isin(atoms.symbols, list(CHARGES)))
    used: set[int] = set(ions.tolist())
    for k, ion in enumerate(ions):
        height = floor + low + 0.8 + 5.0 * k
        order = oxygens[np.argsort(np.abs(atoms.positions[oxygens, 2] - height))]
        chosen = next(int(o) for o in order if int(o) not in used)
        used.add(chosen)
        shift = atoms.positions[ion] - atoms.positions[chosen]
        atoms.positions[ion] -= shift
        atoms.positions[chosen : chosen + 3] += shift


def changed(atoms: Atoms) -> dict[str, Atoms]:
    """The second frames."""
    na, cl = (int(np.flatnonzero(atoms.symbols == s)[0]) for s in ("Na", "Cl"))
    exchanged, replaced = atoms.copy(), atoms.copy()
    exchanged.positions[[na, cl]] = atoms.positions[[cl, na]]
    replaced.symbols[na] = "Cl"
    return {"exchanged": exchanged, "replaced": replaced}


def probe_of(atoms: Atoms, sight: float) -> NDArray[np.int64]:
    """Lower surface and the molecules on it, all of them out of sight of the ions."""
    lower = atoms.arrays["electrode"] == 0
    top = atoms.positions[lower, 2].max()
    surface = np.flatnonzero(lower & (atoms.positions[:, 2] > top - 0.5))
    oxygens = np.flatnonzero((atoms.numbers == 8) & (atoms.positions[:, 2] < top + PROBE_HEIGHT))
    members = np.concatenate([surface, oxygens, oxygens + 1, oxygens + 2])
    ions = np.flatnonzero(np.isin(atoms.symbols, list(CHARGES)))
    d = atoms.get_all_distances(mic=True)[np.ix_(members, ions)].min(axis=1)
    return members[d > sight]


def frozen_forces(atoms: Atoms, charges: Floats, width: Floats, potentials: tuple[float, float]) -> Floats:
    """Coulomb forces at given charges of water and ions, the metal solved."""
    solver = ConstantPotential(groups(atoms, potentials), Coulomb("slab", accuracy=EXACT), METAL_WIDTH)
    q = charges.copy()
    for symbol, value in CHARGES.items():
        q[atoms.symbols == symbol] = value
    return np.asarray(solver.solve(atoms.positions, q, np.array(atoms.cell), smearing=width).forces)


def part(found: Floats, wanted: Floats) -> float:
    """1 - |found - wanted| / |wanted|."""
    return float(1.0 - np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def compare(
    snapshots: list[Atoms], potentials: tuple[float, float], models: dict[str, HybridModel], teacher: bool
) -> list[dict[str, Any]]:
    """One row per snapshot and change."""
    sight = 2 * max(m.spec.architecture.receptive_field for m in models.values())
    rows = []
    for k, first in enumerate(snapshots):
        probe = probe_of(first, sight)
        calc = reference(first, potentials, EXACT, teacher)
        first.calc = calc
        before = first.get_forces()[probe]
        charges = np.array(calc.results["charges"])
        start = {n: _forces(student(m, first, potentials), first)[probe] for n, m in models.items()}
        for name, second in changed(first).items():
            wanted = _forces(reference(second, potentials, EXACT, teacher), second)[probe] - before
            row: dict[str, Any] = {
                "snapshot": k,
                "change": name,
                "atoms": len(first),
                "probe": len(probe),
                "sight": sight,
                "dF_rms": float(np.sqrt(np.mean(wanted**2))),
            }
            best = wanted
            if teacher:
                short_range = calc.potential.short_range
                assert isinstance(short_range, FluctuatingWater)
                w = widths(first, short_range)
                best = (
                    frozen_forces(second, charges, w, potentials)
                    - frozen_forces(first, charges, w, potentials)
                )[probe]
                row["polarisation"] = 1.0 - part(best, wanted)
            for n, m in models.items():
                found = _forces(student(m, second, potentials), second)[probe] - start[n]
                row[n] = {
                    "dF_rms": float(np.sqrt(np.mean(found**2))),
                    "recovered": part(found, wanted),
                    "rest": 1.0 - part(found, best),
                    "slope": float((found * wanted).sum() / (wanted**2).sum()),
                }
            rows.append(row)
    return rows


def _forces(calc: HybridCalculator, atoms: Atoms) -> Floats:
    work = atoms.copy()
    work.calc = calc
    return np.asarray(work.get_forces())


def write_frames(
    path: Path, frames: list[tuple[Atoms, tuple[float, float]]], teacher: bool, all_solved: bool
) -> None:
    """Label and write; metal, and with `all_solved` every molecule and ion, is a group at the charge it had."""
    from ase.io import write

    images = []
    for atoms, potentials in frames:
        work = atoms.copy()
        work.calc = reference(work, potentials, 1e-6, teacher)
        forces, results = work.get_forces(), work.calc.results
        group = atoms.arrays["electrode"].copy()
        held = [float(results["charges"][group == g].sum()) for g in (0, 1)]
        if all_solved:
            for k, (members, charge) in enumerate(zip(*fragments(atoms))):
                group[members] = 2 + k
                held.append(charge)
        image = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        image.arrays |= {"electrode": group, "forces": forces, "charges": np.array(results["charges"])}
        # The energy of the same atoms with the electrodes' charges held.
        energy = float(results["internal_energy"])
        image.info |= {"energy": energy, "total_charge": 0.0, "electrode_charge": np.array(held)}
        images.append(image)
    write(path, images, format="extxyz")


def trained(
    case: str, out: Path, options: argparse.Namespace
) -> tuple[dict[str, HybridModel], dict[str, Any]]:
    """Models of all kinds, from the same frames."""
    teacher = case == "polarisable"
    if options.reuse:
        return {k: load_model(out / f"{case}_{k}.safetensors") for k in KINDS[case]}, {}
    frames, settle = (2, 20) if options.quick else (16, 300)
    sets: dict[str, list[tuple[Atoms, tuple[float, float]]]] = {"train": [], "valid": []}
    for k, cell in enumerate(TRAINING):
        found = sample(cell, options.seed + 10 + k, frames, 5 if options.quick else 30, settle, teacher)
        cut = max(1, frames // 8)
        sets["valid"] += [(a, cell.potentials) for a in found[-cut:]]
        sets["train"] += [(a, cell.potentials) for a in found[:-cut]]
    models, facts = {}, {}
    for kind in KINDS[case]:
        for name, some in sets.items():
            write_frames(out / f"{name}.extxyz", some, teacher, kind == "solved")
        config = configuration(kind, case, out, options, mean_charges(out / "train.extxyz"))
        start = time.process_time()
        done = train(config, progress=sys.stderr.isatty())
        if not done.completed:
            sys.exit(f"stopped after {done.epochs} epochs: {done.model} is not finished")
        rmse = {r.quantity: r.rmse for r in done.table if r.group == "all"}
        facts[kind] = {
            "frames": done.train_frames,
            "epochs": done.epochs,
            "cpu_seconds": round(time.process_time() - start),
            "valid_forces_meV_per_A": rmse["forces"],
        }
        line = f"{case}, {kind}: {done.epochs} epochs of {done.train_frames} frames, {facts[kind]['cpu_seconds']} s of CPU"
        print(f"{line}; validation: forces {rmse['forces']:.1f} meV/Å", end="")
        if kind != "local":
            facts[kind]["valid_charges_me"] = rmse["charges"]
            print(f", charges {rmse['charges']:.1f} me", end="")
        print()
        models[kind] = load_model(done.model)
    return models, facts


def mean_charges(path: Path) -> dict[str, float]:
    """Mean label of each element that is not metal, e: what charges start from, neutral for a molecule of water."""
    from ase.io import read

    found: dict[str, list[float]] = {}
    for atoms in read(path, ":"):
        for symbol, q in zip(atoms.symbols, atoms.get_charges()):
            found.setdefault(symbol, []).append(float(q))
    return {symbol: float(np.mean(values)) for symbol, values in found.items() if symbol != "Au"}


def configuration(
    kind: str, case: str, out: Path, options: argparse.Namespace, formal: dict[str, float]
) -> TrainConfig:
    """The training of one model: the file beside this program, with the charges of its kind."""
    text = (HERE / "indistinguishable" / "model.yaml").read_text()
    tree = yaml.safe_load(text.replace("{out}", str(out)))
    if kind == "local":
        tree["model"]["charges"] = {"kind": "none"}
        tree["loss"] |= {"charges": 0.0}
    elif kind == "predicted":
        tree["model"]["charges"]["formal"] = formal
    elif kind == "solved":
        # Wide enough that what the hardness adds to the Gaussian's own is positive.
        wide = dict.fromkeys(("O", "H"), 0.7) | {"Na": 0.5, "Cl": 0.5, "Au": METAL_WIDTH}
        tree["model"]["charges"] = {"kind": "solved", "hardness": 0.5, "widths": wide}
    if options.quick:
        tree["optimiser"]["epochs"] = 2
    tree["output"]["name"] = f"{case}_{kind}"
    return parse_training(tree | {"seed": options.seed, "threads": 1}, out)


def show(case: str, rows: list[dict[str, Any]], names: list[str]) -> None:
    """The table."""
    extra = case == "polarisable"
    print(f"\n{case}: dF of {rows[0]['probe']} atoms, no closer than {rows[0]['sight']:g} Å to what changes")
    print(
        f"{'snapshot':>8s} {'change':10s}{'dF meV/Å':>9s}"
        + (f"{'polarisation':>14s}" if extra else "")
        + "".join(f"{n + ': dF':>15s}{'recovered':>11s}" for n in names)
    )
    for row in rows:
        line = f"{row['snapshot']:8d} {row['change']:10s}{1e3 * row['dF_rms']:9.1f}"
        if extra:
            line += f"{100 * row['polarisation']:13.1f}%"
        for n in names:
            line += f"{1e3 * row[n]['dF_rms']:15.2f}{100 * row[n]['recovered']:10.1f}%"
        print(line)


def summary(rows: list[dict[str, Any]], names: list[str]) -> dict[str, Any]:
    """Over all rows: how much is recovered, and how far the model is from the best predicted charges can do."""
    out: dict[str, Any] = {}
    for n in names:
        recovered = [r[n]["recovered"] for r in rows]
        out[n] = {"smallest_recovered": min(recovered), "mean_recovered": float(np.mean(recovered))}
        out[n]["mean_slope"] = float(np.mean([r[n]["slope"] for r in rows]))
        if "polarisation" in rows[0]:
            out[n]["mean_rest"] = float(np.mean([r[n]["rest"] for r in rows]))
    if "polarisation" in rows[0]:
        out["mean_polarisation"] = float(np.mean([r["polarisation"] for r in rows]))
    return out


def run(case: str, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One reference: train, sample, compare."""
    teacher = case == "polarisable"
    if options.model is not None and teacher and options.no_training:
        models, facts = {}, {}
    else:
        models, facts = trained(case, out, options)
    if options.model is not None and teacher:
        path = Path(options.model)
        models["given"] = load_model(path) if path.is_file() else open_model(options.model)
    potentials = (0.0, 0.0)
    count, stride, settle = (1, 10, 20) if options.quick else (options.snapshots, 150, 500)
    cell = Cell(31.0, 50, 1, potentials)
    snapshots = sample(cell, options.seed, count, stride, settle, teacher, low=IONS_ABOVE)
    rows = compare(snapshots, potentials, models, teacher)
    show(case, rows, list(models))
    total = summary(rows, list(models))
    for n in models:
        numbers = ", ".join(f"{k.replace('_', ' ')} {100 * v:.1f} %" for k, v in total[n].items())
        print(f"{n}: {numbers}")
    return {"trained": facts, "summary": total, "rows": rows}


def main() -> int:
    """Sample, train, compare, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(KINDS)} (default: both)")
    parser.add_argument(
        "--model", help="one more model for the polarisable reference: a file, or au-water-nacl"
    )
    parser.add_argument("--no-training", action="store_true", help="polarisable: only the given model")
    parser.add_argument("--reuse", action="store_true", help="compare the models of an earlier run")
    parser.add_argument("--snapshots", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/indistinguishable"))
    parser.add_argument("--quick", action="store_true", help="one snapshot, two epochs: to see that it works")
    parser.add_argument("--publish", action="store_true", help="keep the numbers beside this program")
    options = parser.parse_args()
    unknown = set(options.cases) - set(KINDS)
    if unknown:
        parser.error(f"case = {', '.join(sorted(unknown))} must be one of {', '.join(KINDS)}")
    if options.no_training and options.model is None:
        parser.error("--no-training must go with --model: there is nothing to compare without either")
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"seed": options.seed, "quick": options.quick}
    for case in options.cases or list(KINDS):
        result[case] = run(case, out, options)
    for path in [out / "results.json"] + (
        [HERE / "results_indistinguishable.json"] if options.publish else []
    ):
        path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nwrote {out / 'results.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
