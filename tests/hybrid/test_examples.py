"""The example scripts and their notebooks stay pairs, and tolerate the arguments of a notebook's kernel."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
jupytext = pytest.importorskip("jupytext", reason="jupytext is not installed: the extra `test` has it")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_script_and_notebook_hold_the_same_cells(script: Path) -> None:
    notebook = script.with_suffix(".ipynb")
    assert notebook.is_file(), f"make it: jupytext --to ipynb {script}"
    pairs = [
        [(cell.cell_type, cell.source.strip()) for cell in jupytext.read(path).cells]
        for path in (script, notebook)
    ]
    assert pairs[0] == pairs[1], f"bring them together: jupytext --to ipynb --update {script}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_notebook_holds_no_paths_or_errors(script: Path) -> None:
    text = script.with_suffix(".ipynb").read_text()
    assert str(Path.home()) not in text
    outputs = [o for c in json.loads(text)["cells"] for o in c.get("outputs", [])]
    assert not [o for o in outputs if o["output_type"] == "error"]


def test_standalone_example_reproduces_the_capacitor(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "standalone_cpm.py"), "--quick", "--output", str(tmp_path)],
        capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert "effective gap = 1.0000000" in done.stdout
    assert "potential difference +1.000000000000 V" in done.stdout
    assert "top floats to +2.0000000000 V" in done.stdout
    assert "both plates together carry -1.0000000000 to -1.0000000000 e" in done.stdout
    assert (tmp_path / "standalone_cpm.png").stat().st_size > 20_000
