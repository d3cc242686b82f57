"""Every reference case by every method: a table of the largest errors, non-zero exit outside the tolerances.

    python examples/benchmarks/check_references.py [--only electrostatics|cpm|openmm]

Needs the outside reference numbers: set GRAHAME_SHARED to the folder that holds `reference`, or keep it beside
the repository as `../shared`.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from tests.electrostatics.numerics import force_error  # noqa: E402
from tests.electrostatics.reference_cpm import CASES, OPENMM, compare, compare_openmm  # noqa: E402
from tests.electrostatics.test_reference_electrostatics import (  # noqa: E402
    BULK,
    PADDED,
    PLANAR,
    on_site,
    operator,
    reference,
)
from tests.shared_data import SHARED  # noqa: E402


@dataclass(frozen=True)
class Row:
    """One line of the table: errors with their tolerances (None: not compared)."""

    case: str
    method: str
    values: dict[str, tuple[float, float]]
    seconds: float

    @property
    def passed(self) -> bool:
        return all(value <= limit for value, limit in self.values.values())


COLUMNS = ["charges e", "energy rel.", "potential V", "forces eV/Å", "strain eV/Å³", "force error/target"]


def electrostatics() -> Iterator[Row]:
    """Converged sums: exact and ewald to machine precision, pme within the requested accuracy."""
    for name in BULK + PADDED + PLANAR:
        case = reference(name)
        volume = abs(np.linalg.det(case["cell"]))
        for method in ("exact",) if name in PLANAR else ("exact", "ewald"):
            start = time.perf_counter()
            out = operator(name, method, 1e-13)(
                case["positions"], case["charges"], case["cell"], smearing=case["sigmas"], stress=True
            )
            strain = out.stress - case["dE_dstrain"] / volume
            if name in PLANAR:  # only these components have a meaning in the file
                strain = np.append(strain[:2, :2].ravel(), strain[2, 2])
            energy = float(case["energy"])
            values = {
                "energy rel.": (abs(out.energy - out.self_energy.sum() - energy) / abs(energy), 1e-10),
                "potential V": (_max(out.potential - case["potential"] - on_site(case)), 1e-9),
                "forces eV/Å": (_max(out.forces - case["forces"]), 1e-9),
                "strain eV/Å³": (_max(strain), 1e-8),
            }
            yield Row(name, method, values, time.perf_counter() - start)
        for accuracy in () if name in PLANAR else (1e-4, 1e-7):
            start = time.perf_counter()
            out = operator(name, "pme", accuracy)(
                case["positions"], case["charges"], case["cell"], smearing=case["sigmas"]
            )
            error = force_error(out.forces, case["forces"], case["charges"], volume)
            values = {"force error/target": (error / accuracy, 1.0)}
            yield Row(name, f"pme {accuracy:g}", values, time.perf_counter() - start)


def cpm() -> Iterator[Row]:
    """Gold/water cells and capacitors."""
    for file, boundary, key in CASES:
        for method in ("exact",) if boundary == "ew2d" else ("exact", "ewald"):
            start = time.perf_counter()
            errors = compare(file, boundary, key, method=method)
            values = {
                "charges e": (errors.charges, 1e-9),
                "energy rel.": (errors.energy, 1e-9),
                "potential V": (errors.potential, 1e-8),
                "forces eV/Å": (errors.forces, 1e-8),
            }
            if errors.gradient > 5e-5:
                values["forces eV/Å"] = (errors.gradient, 5e-5)
            yield Row(f"{file} {boundary} {key}", method, values, time.perf_counter() - start)


def openmm() -> Iterator[Row]:
    """OpenMM's published constant-potential tests."""
    for test in OPENMM:
        start = time.perf_counter()
        errors = compare_openmm(test)
        values = {
            "charges e": (errors.charges, 1e-9),
            "energy rel.": (errors.energy, 1e-9),
            "potential V": (errors.potential, 1e-8),
            "forces eV/Å": (errors.forces, 1e-8),
        }
        yield Row(f"01 {test}", "exact", values, time.perf_counter() - start)


def _max(values: object) -> float:
    return float(np.abs(np.asarray(values)).max())


def main() -> int:
    """Print the table; 0 if every case is within its tolerance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=("electrostatics", "cpm", "openmm"), help="one part of the table")
    only = parser.parse_args().only
    if SHARED is None:
        print(
            "the outside reference numbers are absent: set GRAHAME_SHARED to the folder that holds `reference`"
        )
        return 2
    parts = {"electrostatics": electrostatics, "cpm": cpm, "openmm": openmm}
    print("| case | method | " + " | ".join(COLUMNS) + " | s | |")
    print("|---|---|" + "---|" * (len(COLUMNS) + 2))
    failed = 0
    for name, part in parts.items():
        if only not in (None, name):
            continue
        for row in part():
            cells = [f"{row.values[c][0]:.1e}" if c in row.values else "" for c in COLUMNS]
            mark = "ok" if row.passed else "OUTSIDE"
            failed += not row.passed
            line = f"| {row.case} | {row.method} | {' | '.join(cells)} | {row.seconds:.1f} | {mark} |"
            print(line, flush=True)
    print(f"\n{failed} outside the tolerance" if failed else "\nall within the tolerance")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
