"""Charges that answer to what is far away: solved from learned electronegativities, and what fails without.

    python examples/benchmarks/nonlocal_charges.py [gold] [carbon] [--data DIR] [--out DIR] [--quick] [--publish]

gold    Au2 on MgO, standing or lying, 18 frames; in ten of them three Al atoms, 11 Å below the gold, stand for Mg
        and turn the preferred geometry around.
carbon  C10H2 and C10H3+ in one model; the third hydrogen sits at one end, the charge spreads over the chain.

One network with five kinds of charges, trained on the same frames:

    local       none
    predicted   from the surroundings of each atom, adding up by exchange between neighbours
    projected   predicted charges that are moved together until they add up to the total charge
    solved      minimum of the electrostatic energy with learned chi and J at the frame's total charge
    felt        solved, and the local energy of an atom depends on its charge (fourth-generation potentials)

A demonstration on few frames, no claim of accuracy. Prints tables, writes JSON; with --publish also beside this
file. Skips with the reason where the data are absent (default: shared/data beside the repository). --quick only
shows that it works.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray
from scipy.optimize import minimize

from grahame.hybrid.evaluate import evaluate
from grahame.hybrid.frames import Frame, make_batch
from grahame.hybrid.model import HybridModel
from grahame.hybrid.model_file import load_model
from grahame.hybrid.reading import read_frames
from grahame.hybrid.training.config import TrainConfig, parse_training
from grahame.hybrid.training.run import train

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[2] / "shared" / "data"
FILES = {"gold": "AlAuMgO_4G.xyz", "carbon": "Carbon_chain_4G.xyz"}
KINDS = ("local", "predicted", "projected", "solved", "felt")
# Formal charges that add up to the total charge of both systems of a case, so that exchange can reach it.
FORMAL = {"gold": {"Mg": 0.36, "Al": 0.36, "O": -0.36, "Au": 0.0}, "carbon": {"H": 1.0, "C": -0.2}}
# Of the 18 frames with gold: two of each class are kept from training where there are enough, one chooses.
HELD = {"doped lying": 1, "doped standing": 2, "undoped lying": 1, "undoped standing": 1}
CHOOSE = ("doped standing", "undoped lying")
QUANTITIES = {"forces": "meV_per_A", "charges": "me", "energy": "meV"}
LYING = 1.0  # Å, difference in height of the two gold atoms


def class_of(atoms: Atoms) -> str:
    """Which system, and for gold which geometry."""
    symbols = np.array(atoms.get_chemical_symbols())
    if "Au" not in symbols:
        return "C10H3+" if (symbols == "H").sum() == 3 else "C10H2"
    heights = atoms.positions[symbols == "Au", 2]
    lying = abs(heights[0] - heights[1]) < LYING
    return ("doped " if "Al" in symbols else "undoped ") + ("lying" if lying else "standing")


def prepare(case: str, data: Path, out: Path, quick: bool) -> None:
    """All frames of a case in one file that says which part each belongs to."""
    from ase.io import read, write

    images = read(data / "n2p2_4g_samples" / FILES[case], ":")
    names = [class_of(a) for a in images]
    for name in sorted(set(names)):
        mine = [a for a, n in zip(images, names) if n == name]
        held = HELD.get(name, len(mine) // 4)
        choose = int(name in CHOOSE) if case == "gold" else len(mine) // 8
        for k, atoms in enumerate(mine):
            part = "held" if k < held else "choose" if k < held + choose else "train"
            atoms.info |= {"part": part, "class": name, "total_charge": round(atoms.info["total_charge"])}
    if quick and case == "carbon":
        images = images[::4]
    write(out / f"{case}.extxyz", images, format="extxyz")


def configurations(case: str, kind: str, out: Path, options: argparse.Namespace) -> list[TrainConfig]:
    """The trainings of one model: the case's file, with other charges for the kinds it is compared with.

    Where an energy is to follow from charges that are learned before it, a second file says how, and that it starts from
    what the first training wrote.
    """
    tree = _tree(case, out)
    charges = tree["model"]["charges"]
    widths = {"widths": charges["widths"]} if "widths" in charges else {}
    if kind == "local":
        charges = {"kind": "none"}
        tree["loss"] |= {"charges": 0.0}
    elif kind == "predicted":
        charges = {"kind": "transfer", "formal": FORMAL[case]} | widths
    elif kind == "projected":
        charges = {"kind": "projected"} | widths
    elif kind == "felt":
        charges = charges | {"in_energy": True}
    tree["model"]["charges"] = charges
    tree["output"]["name"] = f"{case}_{kind}"
    trees = [tree]
    if kind == "felt" and (HERE / "nonlocal_charges" / f"{case}_felt.yaml").is_file():
        # Its energies are the second training's.
        tree.pop("stage_two", None)
        tree["output"]["name"] = f"{case}_felt_charges"
        trees.append(_tree(f"{case}_felt", out))
    for one in trees:
        if options.quick:
            one["optimiser"]["epochs"] = 2
        elif options.epochs is not None:
            one["optimiser"]["epochs"] = options.epochs
    shared = {"seed": options.seed, "threads": options.threads}
    return [parse_training(one | shared, out) for one in trees]


def _tree(name: str, out: Path) -> dict[str, Any]:
    text = (HERE / "nonlocal_charges" / f"{name}.yaml").read_text()
    tree: dict[str, Any] = yaml.safe_load(text.replace("{out}", str(out)))
    return tree


def rms(parts: Sequence[NDArray[np.float64]]) -> float:
    """In thousandths."""
    return 1e3 * float(np.sqrt(np.mean(np.concatenate([np.ravel(p) for p in parts]) ** 2)))


def errors(
    frames: list[Frame], found: list[dict[str, NDArray[np.float64]]], charged: bool
) -> dict[str, dict[str, float]]:
    """Per class, and per system: force, charge and energy errors, on frames trained on and held out."""
    out: dict[str, dict[str, float]] = {}
    classes = sorted({str(f.info["class"]) for f in frames})
    systems = sorted({c.split()[0] for c in classes})
    for name in dict.fromkeys(classes + systems):
        for part in ("train", "held"):
            place = [
                k
                for k, f in enumerate(frames)
                if f.info["part"] == part and str(f.info["class"]).startswith(name)
            ]
            row: dict[str, float] = {"frames": len(place)}
            for label, unit in QUANTITIES.items():
                if label != "charges" or charged:
                    parts = [found[k][label] - frames[k].labels[label] for k in place]
                    row[f"{label}_{unit}"] = rms(parts)
            out[f"{name} {part}"] = row
    return out


def predict(model: HybridModel, frame: Frame) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Energy (eV), forces (eV/Å), charges (e) of one frame."""
    p = model.predict(make_batch([frame], model.spec.elements, model.spec.architecture.cutoff))
    assert p.forces is not None
    return float(p.energy[0]), p.forces.numpy(), p.charges.numpy()


def moved(frame: Frame, **changes: Any) -> Frame:
    """A frame with something else in it, without labels and neighbours of the old one."""
    return replace(frame, labels={}, _pairs={}, **changes)


def preference(frames: list[Frame], energies: NDArray[np.float64]) -> dict[str, float]:
    """Lying minus standing, eV: means over all frames of a class. Thermal noise is part of them."""
    mean = {c: energies[[f.info["class"] == c for f in frames]].mean() for c in HELD}
    return {s: float(mean[f"{s} lying"] - mean[f"{s} standing"]) for s in ("doped", "undoped")}


def relaxed(model: HybridModel, frames: list[Frame]) -> dict[str, float]:
    """Lying minus standing, eV, of Au2 relaxed on a rigid slab: the mean one of all frames, doped and not.

    Sets out from the mean geometry of each class, and keeps the lowest energy that is lying or standing.
    """
    out = {}
    gold = frames[0].numbers == 79
    slab = np.mean([f.positions for f in frames], axis=0)
    for system in ("doped", "undoped"):
        energy = {}
        for pose in ("lying", "standing"):
            mine = [f for f in frames if f.info["class"] == f"{system} {pose}"]
            start = slab.copy()
            start[gold] = np.mean([upright(f, gold) for f in mine], axis=0)

            def function(x: NDArray[np.float64], base: Frame = mine[0]) -> tuple[float, NDArray[np.float64]]:
                positions = slab.copy()
                positions[gold] = x.reshape(2, 3)
                value, forces, _ = predict(model, moved(base, positions=positions))
                return value, -forces[gold].ravel()

            x0 = start[gold].ravel()
            # Few frames know little of what lies beyond them.
            box = [(v - 0.4, v + 0.4) for v in x0]
            found = minimize(
                function, x0, jac=True, method="L-BFGS-B", bounds=box, options={"maxiter": 30, "ftol": 1e-9}
            )
            energy[pose] = float(found.fun)
        out[system] = energy["lying"] - energy["standing"]
    return out


def upright(frame: Frame, gold: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Positions of the gold atoms in one order."""
    x = frame.positions[gold]
    axis = 2 if abs(x[0, 2] - x[1, 2]) > LYING else 0
    return x[np.argsort(x[:, axis])]


def far_gold(model: HybridModel, frames: list[Frame]) -> dict[str, float]:
    """What the gold atoms of the doped frames feel of Mg put in the place of Al."""
    force, charge = [], []
    for frame in frames:
        if not str(frame.info["class"]).startswith("doped"):
            continue
        gold = frame.numbers == 79
        other = moved(frame, numbers=np.where(frame.numbers == 13, 12, frame.numbers))
        (_, f0, q0), (_, f1, q1) = predict(model, frame), predict(model, other)
        force.append((f0 - f1)[gold])
        charge.append((q0 - q1)[gold].sum())
    return {
        "forces_meV_per_A": rms(force),
        "largest_force_meV_per_A": 1e3 * float(np.abs(force).max()),
        "charge_me": 1e3 * float(np.mean(charge)),
    }


def far_carbon(model: HybridModel, frames: list[Frame]) -> dict[str, float]:
    """What the C-H at the other end of C10H3+ feels when one of the two hydrogens leaves as a proton."""
    force, charge = [], []
    for frame in [f for f in frames if f.info["class"] == "C10H3+"]:
        near, far = ends(frame)
        keep = np.arange(len(frame)) != near
        held = replace(frame.conditions, total_charge=0.0)
        other = moved(frame, numbers=frame.numbers[keep], positions=frame.positions[keep], conditions=held)
        (_, f0, q0), (_, f1, q1) = predict(model, frame), predict(model, other)
        place = np.flatnonzero(keep)
        full_f, full_q = np.zeros_like(f0), np.zeros_like(q0)
        full_f[place], full_q[place] = f1, q1
        force.append((f0 - full_f)[far])
        charge.append((q0 - full_q)[far].sum())
    return {
        "forces_meV_per_A": rms(force),
        "largest_force_meV_per_A": 1e3 * float(np.abs(force).max()),
        "charge_me": 1e3 * float(np.mean(charge)),
    }


def ends(frame: Frame) -> tuple[int, NDArray[np.int64]]:
    """One hydrogen of the CH2 end, and carbon and hydrogen of the other end."""
    d = np.linalg.norm(frame.positions[:, None] - frame.positions, axis=2)
    hydrogens = np.flatnonzero(frame.numbers == 1)
    carbons = np.flatnonzero(frame.numbers == 6)
    owner = {int(h): int(carbons[d[h, carbons].argmin()]) for h in hydrogens}
    alone = [h for h in owner if list(owner.values()).count(owner[h]) == 1]
    pair = [h for h in owner if h not in alone]
    return max(pair, key=lambda h: float(d[h, alone[0]])), np.array([owner[alone[0]], alone[0]])


def reference_far(frames: list[Frame]) -> float:
    """Mean charge of the C-H end that stays, C10H3+ minus C10H2, in thousandths of e."""
    charged = [f.labels["charges"][ends(f)[1]].sum() for f in frames if f.info["class"] == "C10H3+"]
    neutral = []
    for f in frames:
        if f.info["class"] == "C10H2":
            # Both ends of the neutral chain are alike: half of what two of them carry.
            d = np.linalg.norm(f.positions[:, None] - f.positions, axis=2)
            for h in np.flatnonzero(f.numbers == 1):
                c = np.flatnonzero(f.numbers == 6)
                neutral.append(f.labels["charges"][[h, c[d[h, c].argmin()]]].sum())
    return 1e3 * float(np.mean(charged) - np.mean(neutral))


def reference_gold(frames: list[Frame]) -> float:
    """Mean charge of Au2, doped minus undoped, over both geometries, in thousandths of e."""

    def of(name: str) -> float:
        mine = [f for f in frames if f.info["class"] == name]
        return float(np.mean([f.labels["charges"][f.numbers == 79].sum() for f in mine]))

    return 1e3 * float(np.mean([of(f"doped {p}") - of(f"undoped {p}") for p in ("lying", "standing")]))


def run(case: str, options: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Train and judge all kinds."""
    prepare(case, options.data.resolve(), out, options.quick)
    result: dict[str, Any] = {"kinds": {}}
    for kind in options.kinds:
        configs = configurations(case, kind, out, options)
        start = time.process_time()
        model_path = out / f"{case}_{kind}.safetensors"
        if not (options.reuse and model_path.is_file()):
            for config in configs:
                done = train(config, progress=sys.stderr.isatty())
                if not done.completed:
                    sys.exit(f"stopped after {done.epochs} epochs: {done.model} is not finished")
                print(
                    f"{case}, {kind}: {done.epochs} epochs of {done.train_frames} frames, {done.parameters} weights, "
                    f"{time.process_time() - start:.0f} s of CPU"
                )
        model = load_model(model_path)
        reading = configs[0].data.sources[0].reading(configs[0].model.charges)
        frames = read_frames(out / f"{case}.extxyz", reading)
        found = evaluate(model, frames).predictions
        row: dict[str, Any] = {
            "errors": errors(frames, found, model.spec.long_range),
            "cpu_seconds": round(time.process_time() - start),
            "epochs": [c.optimiser.epochs for c in configs],
        }
        if case == "gold":
            energies = np.array([float(p["energy"]) for p in found])
            row["preference"], row["lowest"] = preference(frames, energies), lowest(frames, energies)
            row["relaxed"] = relaxed(model, frames)
            row["far"] = far_gold(model, frames)
        else:
            row["far"] = far_carbon(model, frames)
        result["kinds"][kind] = row
    result["elements"] = sorted({chemical_symbols[z] for f in frames for z in f.numbers})
    if case == "gold":
        labels = np.array([float(f.labels["energy"]) for f in frames])
        result["reference_preference"] = preference(frames, labels)
        result["reference_lowest"] = lowest(frames, labels)
        result["reference_far_charge_me"] = reference_gold(frames)
    else:
        result["reference_far_charge_me"] = reference_far(frames)
    return result


def lowest(frames: list[Frame], energies: NDArray[np.float64]) -> dict[str, float]:
    """Lying minus standing, eV: lowest frame of each class."""
    low = {c: energies[[f.info["class"] == c for f in frames]].min() for c in HELD}
    return {s: low[f"{s} lying"] - low[f"{s} standing"] for s in ("doped", "undoped")}


def show(case: str, result: dict[str, Any]) -> None:
    """Tables of one case."""
    kinds = result["kinds"]
    print(f"\n{case}: root mean square errors, trained on / held out")
    print(f"{'system':18s}{'':9s}" + "".join(f"{k:>20s}" for k in kinds))
    first = next(iter(kinds.values()))["errors"]
    for system in [n.removesuffix(" held") for n in first if n.endswith(" held")]:
        for name, unit in (
            ("forces_meV_per_A", "F meV/Å"),
            ("charges_me", "q me"),
            ("energy_meV", "E meV"),
        ):
            cells = []
            for row in kinds.values():
                a, b = (row["errors"][f"{system} {part}"].get(name) for part in ("train", "held"))
                cells.append("-" if a is None else f"{a:.1f} / {b:.1f}")
            print(f"{system:18s}{unit:9s}" + "".join(f"{c:>20s}" for c in cells))
    if case == "gold":
        print("\nlying minus standing, meV (negative: Au2 lies down)")
        wanted = result["reference_preference"], result["reference_lowest"]
        print(
            f"{'':8s}{'DFT, mean':>11s}{'lowest':>8s}"
            + "".join(f"{k + ', mean':>17s}{'lowest':>8s}{'relaxed':>9s}" for k in kinds)
        )
        for s in ("doped", "undoped"):
            print(
                f"{s:8s}{1e3 * wanted[0][s]:11.0f}{1e3 * wanted[1][s]:8.0f}"
                + "".join(
                    f"{1e3 * r['preference'][s]:17.0f}{1e3 * r['lowest'][s]:8.0f}{1e3 * r['relaxed'][s]:9.0f}"
                    for r in kinds.values()
                )
            )
    what = (
        "Au2, of Al instead of Mg 11 Å away" if case == "gold" else "far C-H, of the third H and its charge"
    )
    print(
        f"\nwhat is felt by {what}; charge moves by {result['reference_far_charge_me']:.0f} me in the reference"
    )
    for kind, row in kinds.items():
        far = row["far"]
        print(
            f"{kind:12s}force {far['forces_meV_per_A']:9.3f} meV/Å rms, {far['largest_force_meV_per_A']:9.3f} at most; "
            f"charge {far['charge_me']:7.1f} me"
        )


def main() -> int:
    """Train, judge, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="of gold, carbon (default: both)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--epochs", type=int, help="instead of those of the configurations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/nonlocal_charges"))
    parser.add_argument("--reuse", action="store_true", help="judge models of an earlier run")
    parser.add_argument("--quick", action="store_true", help="two epochs: to see that everything works")
    parser.add_argument("--publish", action="store_true", help="keep the numbers beside this program")
    options = parser.parse_args()
    unknown = set(options.cases) - set(FILES)
    if unknown:
        parser.error(f"case = {', '.join(sorted(unknown))} must be one of {', '.join(FILES)}")
    if not (options.data / "n2p2_4g_samples").is_dir():
        print(f"skipped: {options.data / 'n2p2_4g_samples'} is not there; --data names its folder")
        return 0
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"seed": options.seed, "quick": options.quick}
    for case in options.cases or list(FILES):
        results[case] = run(case, options, out)
        show(case, results[case])
    for path in [out / "results.json"] + (
        [HERE / "results_nonlocal_charges.json"] if options.publish else []
    ):
        path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"\nwrote {out / 'results.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
