"""Reference set of the model in the box: molecular dynamics of the teacher, labelled and checksummed.

    python examples/box_model/generate.py --out box_data              # about 1,800 frames, half an hour of one core
    python examples/box_model/generate.py --out box_quick --quick     # a few seconds
    python examples/box_model/generate.py --out box_second --config examples/box_model/surroundings.yaml

Every run of `runs.yaml` writes one extended-XYZ file (and one with responses) and a JSON record beside it; a
finished run is not repeated. `index.json` lists all files with their SHA256 and how they came about. The labels
are those of a classical constant-potential reference with polarisable water, not of electronic structure. In the runs
of `surroundings.yaml` electronegativity and hardness of every gold atom follow its neighbours too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # small cells: a second thread costs more than it saves

import numpy as np  # noqa: E402
import yaml  # noqa: E402
from ase import Atoms, units  # noqa: E402
from ase.constraints import FixAtoms  # noqa: E402
from ase.md.langevin import Langevin  # noqa: E402
from ase.optimize import FIRE  # noqa: E402
from structures import distorted, start_cell  # noqa: E402

from grahame.electrostatics import Coulomb  # noqa: E402
from grahame.hybrid.calculator import HybridCalculator  # noqa: E402
from grahame.hybrid.files import replacing  # noqa: E402
from grahame.hybrid.shortrange.parameters import IONS  # noqa: E402
from grahame.hybrid.shortrange.surroundings import GOLD_IN_WATER  # noqa: E402
from grahame.hybrid.teacher import default_coulomb, teacher_calculator  # noqa: E402
from grahame.hybrid.teacher_frames import (  # noqa: E402
    field_response,
    frame_text,
    label,
    responses,
    rounded,
)

HERE = Path(__file__).resolve().parent
LABEL_ACCURACY = 1e-7
LABEL_TOLERANCE = 1e-10
# Dynamics only samples: its charges and forces need no more digits than the thermostat's noise leaves.
SAMPLING_ACCURACY = 1e-3
SAMPLING_TOLERANCE = 1e-4
LARGEST_FORCE = 25.0  # eV/Å; distorted geometries beyond are not worth a model's capacity


def calculator(
    atoms: Atoms, spec: dict[str, Any], coulomb: Coulomb, tolerance: float, **held: Any
) -> HybridCalculator:
    """The teacher under the conditions of a run; `held` overrides them."""
    options: dict[str, Any] = {key: spec.get(key) for key in ("potentials", "charges", "field")} | held
    metal = bool((atoms.arrays["electrode"] >= 0).any())
    if not metal:
        options = {}
    ions = sum(int((atoms.symbols == name).sum()) * ion.charge for name, ion in IONS.items())
    total = 0.0 if metal else float(ions)
    if spec.get("surroundings"):
        options["surroundings"] = GOLD_IN_WATER
    return teacher_calculator(atoms, coulomb=coulomb, tolerance=tolerance, total_charge=total, **options)


def reference(atoms: Atoms, spec: dict[str, Any], **held: Any) -> HybridCalculator:
    """The teacher with the digits of the labels."""
    return calculator(atoms, spec, default_coulomb(atoms, LABEL_ACCURACY), LABEL_TOLERANCE, **held)


class Run:
    """One run: dynamics, labels, files."""

    def __init__(self, spec: dict[str, Any], seed: int, folder: Path) -> None:
        self.spec, self.seed, self.folder = spec, seed, folder
        self.rng = np.random.default_rng([seed, *spec["name"].encode()])
        self.texts: dict[str, list[str]] = {"": [], "-responses": []}
        self.counts: dict[str, int] = {}
        self.charges: dict[str, list[float]] = {"O": [], "H": [], "Au": []}
        self.refused = 0
        self.downhill: list[Atoms] = []

    def execute(self) -> dict[str, Any]:
        """Everything; returns the record."""
        began = time.perf_counter()
        spec = self.spec
        atoms, motion = self._prepare()
        motion.run(spec["equilibrate_steps"])
        steps = spec["frames"] * spec["frame_interval_steps"]
        sources: list[Atoms] = []
        labelled = reference(atoms, spec)
        with_responses = set(range(spec["frames"] - 1, -1, -1)[: spec["responses"]])
        sampling = time.perf_counter()
        waiting = 0.0
        for k in range(spec["frames"]):
            motion.run(spec["frame_interval_steps"])
            self._check(atoms, k)
            paused = time.perf_counter()
            frame = rounded(atoms)
            sources.append(frame)
            step = spec["equilibrate_steps"] + (k + 1) * spec["frame_interval_steps"]
            self._add(frame, labelled, "dynamics", step, k in with_responses)
            waiting += time.perf_counter() - paused
        per_step = (time.perf_counter() - sampling - waiting) / max(steps, 1)
        for frame in self.downhill:
            self._add(frame, labelled, "minimisation", 0)
        for kind, count in spec["distorted"].items():
            self._distort(sources, kind, count)
        files = self._write()
        return {
            "name": spec["name"],
            "split": spec["split"],
            "seed": self.seed,
            "spec": spec,
            "atoms": len(atoms),
            "formula": atoms.get_chemical_formula(),
            "files": files,
            "frames": self.counts,
            "refused_distortions": self.refused,
            "charges_e": {
                e: {"mean": float(np.mean(v)), "std": float(np.std(v))} for e, v in self.charges.items() if v
            },
            "teacher": labelled.potential.short_range.describe() | {"metal_width_A": 0.392},
            "labels": {"accuracy": LABEL_ACCURACY, "tolerance": LABEL_TOLERANCE},
            "sampling": {"accuracy": SAMPLING_ACCURACY, "tolerance": SAMPLING_TOLERANCE},
            "ms_per_step": round(1e3 * per_step, 3),
            "seconds": round(time.perf_counter() - began, 2),
        }

    def _prepare(self) -> tuple[Atoms, Langevin]:
        spec = self.spec
        atoms = start_cell(spec, int(self.rng.integers(2**31)))
        coulomb = default_coulomb(atoms, SAMPLING_ACCURACY)
        atoms.calc = calculator(atoms, spec, coulomb, SAMPLING_TOLERANCE)
        if not spec["mobile_metal"]:
            atoms.set_constraint(FixAtoms(np.flatnonzero(atoms.arrays["electrode"] >= 0)))
        with FIRE(atoms, logfile=None) as downhill:
            for _ in range(4):
                self.downhill.append(rounded(atoms))
                downhill.run(fmax=0.5, steps=spec["minimise_steps"] // 4)
        masses = atoms.get_masses()
        masses[atoms.numbers == 1] = spec["hydrogen_mass_amu"]
        masses[atoms.numbers == 8] = 18.015 - 2 * spec["hydrogen_mass_amu"]
        atoms.set_masses(masses)
        kT = units.kB * spec["temperature_K"]
        atoms.set_momenta(self.rng.normal(size=(len(atoms), 3)) * np.sqrt(masses * kT)[:, None])
        motion = Langevin(
            atoms,
            spec["timestep_fs"] * units.fs,
            temperature_K=spec["temperature_K"],
            friction=spec["friction_per_ps"] / (1000 * units.fs),
            fixcm=False,
            rng=self.rng,
        )
        return atoms, motion

    def _check(self, atoms: Atoms, frame: int) -> None:
        moving = len(atoms) - sum(len(c.index) for c in atoms.constraints)
        temperature = 2 * atoms.get_kinetic_energy() / (3 * moving * units.kB)
        if not temperature < 3 * self.spec["temperature_K"]:
            raise RuntimeError(
                f"temperature = {temperature:.0f} K of run {self.spec['name']}, frame {frame} must be near "
                f"{self.spec['temperature_K']} K: shorten the time step or minimise longer"
            )

    def _add(
        self, frame: Atoms, calc: HybridCalculator, kind: str, step: int, response: bool = False
    ) -> None:
        columns, info = label(frame, calc)
        if kind != "dynamics" and np.abs(columns["forces"]).max() > LARGEST_FORCE:
            self.refused += 1
            return
        if kind == "dynamics":
            for element, values in self.charges.items():
                values.extend(columns["charges"][frame.symbols == element].tolist())
        info |= {"run": self.spec["name"], "kind": kind, "step": step, "seed": self.seed}
        info |= {"temperature_K": float(self.spec["temperature_K"])}
        where = ""
        if response:
            more, facts = responses(frame, calc)
            held = info["electrode_charges"].tolist()
            by_field, born = field_response(
                frame, lambda field: reference(frame, self.spec, potentials=None, charges=held, field=field)
            )
            columns, info = columns | more | by_field, info | facts | born
            where = "-responses"
        self.texts[where].append(frame_text(frame, columns, info))
        self.counts[kind + where] = self.counts.get(kind + where, 0) + 1

    def _distort(self, sources: list[Atoms], kind: str, count: int) -> None:
        made = 0
        for _ in range(4 * count):
            if made == count:
                break
            number = int(self.rng.integers(len(sources)))
            new = distorted(sources[number], kind, self.rng)
            if new is None:
                self.refused += 1
                continue
            frame = rounded(new)
            before = self.counts.get(kind, 0)
            self._add(frame, reference(frame, self.spec), kind, -1)
            made += self.counts.get(kind, 0) - before

    def _write(self) -> list[dict[str, Any]]:
        files = []
        for suffix, texts in self.texts.items():
            if texts:
                path = self.folder / f"{self.spec['name']}{suffix}.extxyz"
                data = "".join(texts).encode()
                with replacing(path) as temporary:
                    temporary.write_bytes(data)
                digest = hashlib.sha256(data).hexdigest()
                files.append({"file": path.name, "frames": len(texts), "sha256": digest})
        return files


def execute(job: tuple[dict[str, Any], int, str]) -> dict[str, Any]:
    """One run, unless its record and files are there already."""
    import torch

    torch.set_num_threads(1)
    spec, seed, out = job
    record_path = Path(out) / f"{spec['name']}.json"
    if record_path.exists():
        record: dict[str, Any] = json.loads(record_path.read_text())
        if (
            record["spec"] == spec
            and record["seed"] == seed
            and all(_intact(out, f) for f in record["files"])
        ):
            return record | {"repeated": False}
    record = Run(spec, seed, Path(out)).execute()
    with replacing(record_path) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")
    return record | {"repeated": True}


def _intact(out: str, file: dict[str, Any]) -> bool:
    path = Path(out) / file["file"]
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == str(file["sha256"])


def specifications(path: Path, quick: bool, frames: int | None) -> list[dict[str, Any]]:
    """Runs of the configuration with its defaults; `frames` scales all of them to a total."""
    config = yaml.safe_load(path.read_text())
    runs = [config["defaults"] | run for run in config["quick" if quick else "runs"]]
    if frames is not None:
        if frames < 1:
            raise ValueError(f"frames = {frames} must be at least 1: give the total wanted")
        total = sum(r["frames"] + sum(r["distorted"].values()) for r in runs)
        for run in runs:
            run["frames"] = max(1, math.ceil(run["frames"] * frames / total))
            run["distorted"] = {k: math.ceil(v * frames / total) for k, v in run["distorted"].items()}
            run["responses"] = min(run["responses"], run["frames"])
    return runs


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the files; made if missing")
    parser.add_argument("--config", type=Path, default=HERE / "runs.yaml", help="the runs")
    parser.add_argument("--quick", action="store_true", help="two tiny runs")
    parser.add_argument("--frames", type=int, help="total number of frames, instead of the configuration's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="runs at the same time")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    runs = specifications(options.config, options.quick, options.frames)
    jobs = [(spec, options.seed, str(options.out)) for spec in runs]
    records = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=spawn) as pool:
        mapped = pool.map(execute, jobs) if options.workers > 1 else map(execute, jobs)
        for record in mapped:
            fresh = record.pop("repeated")
            count = sum(f["frames"] for f in record["files"])
            state = (
                f"{record['ms_per_step']:.1f} ms/step, {record['seconds']:.0f} s" if fresh else "was there"
            )
            print(
                f"{record['name']:24s} {count:4d} frames of about {record['atoms']} atoms  {state}",
                flush=True,
            )
            records.append(record)
            files = write_index(options.out, options.seed, records)
    print(f"{sum(f['frames'] for f in files)} frames in {options.out}, listed in index.json")
    return 0


def write_index(out: Path, seed: int, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The list of all files so far, with what they were made by."""
    files = [f | {"run": r["name"], "split": r["split"]} for r in records for f in r["files"]]
    index = {"seed": seed, "versions": versions(), "files": files, "runs": records}
    with replacing(out / "index.json") as temporary:
        temporary.write_text(json.dumps(index, indent=1) + "\n")
    return files


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in ("grahame", "numpy", "torch", "numba", "ase", "vesin"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


if __name__ == "__main__":
    sys.exit(main())
