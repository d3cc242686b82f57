"""Use a model of another program as the short range, from nothing: environment, training, checks, dynamics.

    python examples/adapters/exercise.py mace          # or nequip, allegro, metatomic, ase
    python examples/adapters/exercise.py mace --folder mace_environment --keep

Builds a virtual environment in a temporary folder (or the one given), installs torch, the other program and this
package there, trains a tiny model on a dozen frames that this package's classical reference makes, and prints
errors, forces against finite differences, and the energy drift of constant-potential dynamics. MACE and NequIP need
different versions of e3nn, so each has its own environment. Needs only the standard library to start; downloads
0.5 to 1 GB unless pip has them already.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PEERS = {
    "mace": ["mace-torch==0.3.16"],
    "nequip": ["nequip==0.19.1"],
    "allegro": ["nequip==0.19.1", "nequip-allegro==0.8.3"],
    "metatomic": ["metatomic-torch==0.1.19"],
    "ase": [],
}
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "hybrid", "electrostatics", "kernels")


def run(command: list[str], **options: object) -> None:
    """Run a command; its failure ends this one with the last lines it printed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)  # type: ignore[call-overload]
    if done.returncode:
        print(done.stdout[-4000:])
        raise SystemExit(f"command = {' '.join(command[:6])} ... must succeed: see its output above")


def build(folder: Path, peer: str, torch: str) -> Path:
    """A virtual environment with torch, the peer and this package; its Python."""
    start = time.perf_counter()
    venv.create(folder / "env", with_pip=True, clear=True)
    python = folder / "env" / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, torch])
    # A copy, since building a package leaves files beside its sources.
    copy = folder / "package"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(parents=True)
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    run([*pip, torch, *PEERS[peer], str(copy)])
    print(f"environment built in {time.perf_counter() - start:.0f} s: {folder / 'env'}", flush=True)
    return python


def main() -> None:
    """Build the environment and run the rest inside it."""
    parser = argparse.ArgumentParser(description="train and run a model of another program from nothing")
    parser.add_argument("peer", choices=sorted(PEERS))
    parser.add_argument("--folder", type=Path, help="where the environment goes; a temporary one by default")
    parser.add_argument("--torch", default="torch==2.13.0", help="requirement that pip gets first")
    parser.add_argument(
        "--keep", action="store_true", help="leave the folder behind, and reuse its environment"
    )
    arguments = parser.parse_args()
    folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="adapters-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        python = folder / "env" / "bin" / "python"
        if not (arguments.keep and python.exists()):
            python = build(folder, arguments.peer, arguments.torch)
        work = folder / f"work-{arguments.peer}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        environment = os.environ | {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
        environment.pop("PYTHONPATH", None)
        environment.setdefault("OMP_NUM_THREADS", "1")
        code = subprocess.run(
            [str(python), str(HERE / "inside.py"), arguments.peer], cwd=work, env=environment, check=False
        ).returncode
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
