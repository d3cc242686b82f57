"""Charged molecules drawn apart: trained on the nearest seven distances, judged on the farthest three.

    python examples/benchmarks/charged_dimers.py [--data DIR] [--epochs N] [--out DIR] [--quick] [--publish]

Six pairs of molecules, charged, polar and apolar, at ten distances each (HSE06 in periodic cells of 30 Å). Models
with a cut-off of 5 Å learn the nearest seven distances (the seventh chooses the epoch that is kept); at the farthest
three no atom of one molecule is within the cut-off of the other.

    local       the network alone
    predicted   charges of each atom from its surroundings, adding up to the charge of each molecule
    solved      charges that minimise the electrostatic energy with learned chi and J, the charge of each molecule held

Predicted charges cannot be moved by a molecule that they do not see: a charge beside an apolar molecule is bound by
polarisation, which solved charges have. Dispersion none of them has beyond the cut-off. Each dimer's energies have one
constant, the mean difference over the nearest seven.

Prints a table, draws the binding curves, writes JSON; with --publish also beside this file. Skips with the reason
where the data are absent (default: shared/data beside the repository). --quick only shows that it works.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ase import Atoms
from numpy.typing import NDArray

from grahame.hybrid.evaluate import evaluate
from grahame.hybrid.frames import Frame
from grahame.hybrid.model_file import load_model
from grahame.hybrid.reading import read_frames
from grahame.hybrid.training.config import TrainConfig, parse_training
from grahame.hybrid.training.run import train

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[2] / "shared" / "data"
KINDS = ("local", "predicted", "solved")
NEAR, FAR = 7, 3
# The anion of this dimer is its second molecule, though the file says the first: monomer energies and atoms do.
SWAPPED = (4,)
NAMES = {"C": "charged", "P": "polar", "A": "apolar"}


def prepare(data: Path, out: Path) -> None:
    """All frames in one file that says which part each belongs to."""
    from ase.io import read, write

    images: list[Atoms] = []
    for path in sorted((data / "lode_charged_dimers").glob("train-id*.xyz")):
        frames = read(path, ":")
        frames.sort(key=lambda a: a.info["distance"])
        if len(frames) != NEAR + FAR:
            sys.exit(f"{path.name} = {len(frames)} frames must be {NEAR + FAR}: get the data again")
        for k, atoms in enumerate(frames):
            if int(atoms.info["dimer_id"]) in SWAPPED:
                a, b = atoms.info["chargeA"], atoms.info["chargeB"]
                atoms.info |= {"chargeA": b, "chargeB": a, "label": atoms.info["label"][::-1]}
            atoms.info["part"] = "far" if k >= NEAR else "choose" if k == NEAR - 1 else "near"
            # Every molecule is a group of atoms of its own charge.
            atoms.set_array("molecule", (np.arange(len(atoms)) >= int(atoms.info["indexB"])).astype(int))
            atoms.info["electrode_charge"] = [float(atoms.info[f"charge{m}"]) for m in "AB"]
            atoms.info["total_charge"] = float(atoms.info["chargeA"] + atoms.info["chargeB"])
            if atoms.info["total_charge"]:
                atoms.info["countercharge"] = "uniform_background"
        images += frames
    write(out / "dimers.extxyz", images, format="extxyz")


def configuration(kind: str, out: Path, epochs: int | None, seed: int, threads: int) -> TrainConfig:
    """The training of one model."""
    text = (HERE / "charged_dimers" / f"{kind}.yaml").read_text()
    tree = yaml.safe_load(text.replace("{out}", str(out)))
    if epochs is not None:
        tree["optimiser"]["epochs"] = epochs
    return parse_training(tree | {"seed": seed, "threads": threads}, out)


def gap(frame: Frame) -> float:
    """Smallest distance between atoms of the two molecules, Å; molecules are whole in these files."""
    first = int(frame.info["indexB"])
    a, b = frame.positions[:first], frame.positions[first:]
    return float(np.linalg.norm(a[:, None] - b, axis=2).min())


def energies(frames: list[Frame], found: NDArray[np.float64]) -> NDArray[np.float64]:
    """Model energies of one dimer with its constant, from the near distances, taken out."""
    label = np.array([float(f.labels["energy"]) for f in frames])
    return found - (found - label)[:NEAR].mean()


def rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(values**2)))


def measure(readings: dict[str, list[Frame]], models: dict[str, Path]) -> list[dict[str, Any]]:
    """Per dimer: forces and binding energies of the reference and of all models; each reads the frames its own way."""
    found = {kind: evaluate(load_model(path), readings[kind]).predictions for kind, path in models.items()}
    frames = readings["local"]
    rows = []
    for dimer in sorted({int(f.info["dimer_id"]) for f in frames}):
        place = [k for k, f in enumerate(frames) if int(f.info["dimer_id"]) == dimer]
        place.sort(key=lambda k: float(frames[k].info["distance"]))
        some = [frames[k] for k in place]
        # Binding energies of the data hold the images of charged molecules too; so do the models.
        shift = float(some[-1].info["inter_energy"]) - float(some[-1].labels["energy"])
        row: dict[str, Any] = {
            "dimer": dimer,
            "kind": str(some[0].info["label"]),
            "charges": [float(some[0].info["chargeA"]), float(some[0].info["chargeB"])],
            "distance": [float(f.info["distance"]) for f in some],
            "gap": [gap(f) for f in some],
            "binding": [float(f.labels["energy"]) + shift for f in some],
            "force_far": rms(np.concatenate([f.labels["forces"] for f in some[NEAR:]])),
        }
        for kind, predictions in found.items():
            mine = [predictions[k] for k in place]
            energy = energies(some, np.array([float(p["energy"]) for p in mine])) + shift
            errors = [p["forces"] - f.labels["forces"] for p, f in zip(mine, some)]
            row[kind] = {
                "binding": energy.tolist(),
                "binding_error_far": rms(energy[NEAR:] - np.array(row["binding"])[NEAR:]),
                "force_error_near": rms(np.concatenate(errors[:NEAR])),
                "force_error_far": rms(np.concatenate(errors[NEAR:])),
                "force_error": [rms(e) for e in errors],
            }
        rows.append(row)
    return rows


def title(row: dict[str, Any]) -> str:
    a, b = (NAMES[c] for c in row["kind"])
    signs = " ".join(f"{q:+.0f}" if q else "0" for q in row["charges"])
    return f"{a} - {b} ({signs} e)"


def show(rows: list[dict[str, Any]]) -> None:
    """The table, errors in meV/Å and meV."""
    print(
        "errors at the farthest three distances (root mean square; forces meV/Å, binding energy meV, beside the forces and "
        "the change of the binding energy themselves)"
    )
    columns = "".join(f"{kind:>10s}" for kind in KINDS)
    print(f"{'dimer':31s}{'gap Å':>11s}{'force':>8s}{columns}{'  binding':>11s}{columns}")
    for row in rows:
        low, high = row["gap"][NEAR], row["gap"][-1]
        swing = 1e3 * abs(row["binding"][-1] - row["binding"][NEAR])
        print(
            f"{row['dimer']}  {title(row):28s}{low:5.1f}-{high:4.1f} {1e3 * row['force_far']:8.2f}"
            + "".join(f"{1e3 * row[kind]['force_error_far']:10.2f}" for kind in KINDS)
            + f"{swing:11.1f}"
            + "".join(f"{1e3 * row[kind]['binding_error_far']:10.1f}" for kind in KINDS)
        )


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Over all dimers, in meV/Å and meV."""
    mean = lambda values: 1e3 * float(np.sqrt(np.mean(np.square(values))))  # noqa: E731
    out: dict[str, Any] = {"force_far": mean([r["force_far"] for r in rows])}
    for kind in KINDS:
        for name in ("force_error_near", "force_error_far", "binding_error_far"):
            out[f"{kind}_{name}"] = mean([r[kind][name] for r in rows])
    return out


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Binding curves, what was not trained on shaded."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(10, 5.6), layout="constrained")
    for row, axis in zip(rows, axes.ravel()):
        x = row["distance"]
        axis.axvspan(0.5 * (x[NEAR - 1] + x[NEAR]), x[-1] + 0.3, color="0.92")
        axis.plot(x, row["binding"], "ko", markersize=5, label="HSE06")
        for kind, style, colour in zip(KINDS, ("--", "-", "-"), ("tab:red", "tab:blue", "tab:green")):
            axis.plot(x, row[kind]["binding"], style, color=colour, label=kind)
        axis.set_title(title(row), fontsize=10)
        axis.set_xlim(x[0] - 0.3, x[-1] + 0.3)
    for axis in axes[1]:
        axis.set_xlabel("distance of the molecules / Å")
    for axis in axes[:, 0]:
        axis.set_ylabel("binding energy / eV")
    axes[0, 0].legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> int:
    """Train, judge, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--epochs", type=int, help="instead of those of the configurations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/charged_dimers"))
    parser.add_argument("--quick", action="store_true", help="three epochs: to see that everything works")
    parser.add_argument("--publish", action="store_true", help="keep numbers and figure beside this program")
    options = parser.parse_args()
    if not (options.data / "lode_charged_dimers").is_dir():
        print(f"skipped: {options.data / 'lode_charged_dimers'} is not there; --data names its folder")
        return 0
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    prepare(options.data.resolve(), out)
    models, trained = {}, {}
    readings: dict[str, list[Frame]] = {}
    for kind in KINDS:
        config = configuration(
            kind, out, 3 if options.quick else options.epochs, options.seed, options.threads
        )
        start = time.process_time()
        done = train(config, progress=sys.stderr.isatty())
        if not done.completed:
            sys.exit(f"stopped after {done.epochs} epochs: {done.model} is not finished")
        models[kind] = done.model
        trained[kind] = {
            "epochs": done.epochs,
            "weights": done.parameters,
            "cpu_seconds": round(time.process_time() - start),
        }
        print(
            f"{kind}: {done.epochs} epochs of {done.train_frames} frames, {trained[kind]['cpu_seconds']} s of CPU"
        )
        readings[kind] = read_frames(
            out / "dimers.extxyz", config.data.sources[0].reading(config.model.charges)
        )
    rows = measure(readings, models)
    show(rows)
    total = summary(rows)
    by_kind = ", ".join(
        f"{k} {total[f'{k}_force_error_far']:.2f} meV/Å and {total[f'{k}_binding_error_far']:.1f} meV"
        for k in KINDS
    )
    print(f"all: force {total['force_far']:.2f} meV/Å; errors: {by_kind}")
    result = {
        "summary": total,
        "trained": trained,
        "seed": options.seed,
        "quick": options.quick,
        "dimers": rows,
    }
    targets = [out / "results"] + ([HERE / "results_charged_dimers"] if options.publish else [])
    for stem in targets:
        stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        draw(rows, stem.with_suffix(".png"))
    print(f"wrote {targets[0].with_suffix('.json')} and {targets[0].with_suffix('.png')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
