"""Learned models on published data: errors after a stated training time.

    python examples/benchmarks/learned.py [CASE ...] [--data DIR] [--minutes M] [--threads N] [--out DIR]
    torchrun --nproc-per-node 2 examples/benchmarks/learned.py ...

Each case is a configuration of `grahame train` in the folder `learned` beside this file, which names its files
relative to --data (default: shared/data beside the repository). A case without its data is skipped with the
reason. Under torchrun the processes share the frames of each step. Models of the dipeptides are chosen on a tenth
of the training file; what is printed is measured on the validation file, which they never saw. Prints a table, writes
JSON beside the models, and with --publish also `results_learned.json` beside this file.
"""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from grahame.hybrid.evaluate import evaluate
from grahame.hybrid.frames import Frame, make_batch
from grahame.hybrid.model import HybridModel
from grahame.hybrid.model_file import load_model
from grahame.hybrid.reading import Problem, Reading, read_frames
from grahame.hybrid.training.config import TrainConfig, parse_training
from grahame.hybrid.training.run import checked_frames, train

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[2] / "shared" / "data"
PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))
# Where the judge is another file than the one the configuration validates on.
JUDGE = {"dipeptides": "les_polar_dipeptides/cace_lr_fit_val.xyz"}


def configuration(case: str, data: Path, out: Path, minutes: float | None, threads: int) -> TrainConfig:
    """The case's configuration with its folders filled in."""
    text = (HERE / "learned" / f"{case}.yaml").read_text()
    tree = yaml.safe_load(text.replace("{data}", str(data)).replace("{out}", str(out)))
    if minutes is not None:
        tree["optimiser"]["max_minutes"] = minutes
    tree["threads"] = threads
    tree["optimiser"]["batch_size"] = max(1, tree["optimiser"]["batch_size"] // PROCESSES)
    return parse_training(tree, out)


def judged(case: str, config: TrainConfig, data: Path) -> list[Frame]:
    """The frames whose errors are printed."""
    for prefix, name in JUDGE.items():
        if case.startswith(prefix):
            source = config.data.sources[0]
            keys = source.keys.named() | {"charges": "mbi_charges", "born": "bec"}
            # The file has the displacement first and the field second: only so does the rotational sum rule hold.
            reading = Reading(keys=keys, boundary="open", total_charge=0.0)
            problems: list[Problem] = []
            frames = read_frames(data / name, reading, problems)
            if problems:
                sys.exit(f"{name}: {problems[0]}")
            return frames
    return checked_frames(config).valid


def milliseconds(model: HybridModel, frame: Frame) -> float:
    """Median time of energy and forces of one frame."""
    batch = make_batch([frame], model.spec.elements, model.spec.architecture.cutoff)
    times = []
    for _ in range(8):
        start = time.perf_counter()
        model.predict(batch)
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def run(case: str, data: Path, out: Path, minutes: float | None, threads: int) -> dict[str, Any] | None:
    """Train one case and measure it; None on all processes but the first."""
    config = configuration(case, data, out, minutes, threads)
    frames = judged(case, config, data)
    summary = train(config, progress=sys.stderr.isatty())
    if not summary.main:
        return None
    model = load_model(summary.model)
    errors = evaluate(model, frames, keep=False).errors
    rows = [row.as_dict() for row in errors.rows() if row.group == "all"]
    return {
        "case": case,
        "minutes": round(summary.seconds / 60, 1),
        "epochs": summary.epochs,
        "train_frames": summary.train_frames,
        "judged_frames": len(frames),
        "parameters": summary.parameters,
        "ms_per_frame": round(milliseconds(model, frames[0]), 1),
        "atoms_of_that_frame": len(frames[0]),
        "errors": rows,
        "processes": PROCESSES,
        "threads": threads,
        "torch": torch.__version__,
        "machine": platform.machine(),
    }


def show(result: dict[str, Any]) -> None:
    """One block of the table."""
    print(
        f"{result['case']}: {result['minutes']} min on {result['processes']} process(es) of {result['threads']} thread(s), {result['epochs']} epochs, "
        f"{result['train_frames']} frames, {result['parameters']} weights, {result['ms_per_frame']} ms for "
        f"{result['atoms_of_that_frame']} atoms"
    )
    for row in result["errors"]:
        print(
            f"    {row['quantity']:15s} rmse {row['rmse']:9.3f}  mae {row['mae']:9.3f} {row['unit']}  (n = {row['count']})"
        )


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cases = sorted(p.stem for p in (HERE / "learned").glob("*.yaml"))
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(cases)} (default: all)")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--minutes", type=float, help="training time of each case instead of its own")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/learned"))
    parser.add_argument("--publish", action="store_true", help="keep the numbers beside this program")
    options = parser.parse_args()
    unknown = set(options.cases) - set(cases)
    if unknown:
        parser.error(f"case = {', '.join(sorted(unknown))} must be one of {', '.join(cases)}")
    if not options.data.is_dir():
        print(f"skipped: {options.data} is not there; --data names the folder with the published frames")
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    for case in options.cases or cases:
        result = run(case, options.data.resolve(), options.out.resolve(), options.minutes, options.threads)
        if result is None:
            continue
        show(result)
        for path in [options.out / f"{case}.json"] + (
            [HERE / "results_learned.json"] if options.publish else []
        ):
            known = json.loads(path.read_text()) if path.is_file() and options.publish else {}
            path.write_text(json.dumps(known | {case: result}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
