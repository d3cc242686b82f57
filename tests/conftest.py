"""One thread per test process, and a choice of kernels: GRAHAME_BACKEND=torch runs every test on the formulas."""

import os

# The processes already share the cores, and with one thread reductions keep one order.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import subprocess
import sys
from collections.abc import Iterator

import pytest

_WARM_UP = """
import tempfile
from pathlib import Path
from grahame.hybrid.engines.run import run
from tests.hybrid.small_cells import small_run
run(small_run(Path(tempfile.mkdtemp()), {"steps": 2, "ensemble": "langevin"}), progress=False)
"""


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile the kernels of a run once, so that the processes read them back instead of each compiling all."""
    worker = hasattr(session.config, "workerinput")
    if not worker and session.config.getoption("numprocesses", None):
        subprocess.run([sys.executable, "-c", _WARM_UP], cwd=session.config.rootpath, check=False)


@pytest.fixture(autouse=True, scope="session")
def chosen_backend() -> Iterator[None]:
    """The kernels that the environment names for the whole session; the compiled ones by default."""
    from grahame.kernels import dispatch

    with dispatch.backend(os.environ.get("GRAHAME_BACKEND", "auto")):  # type: ignore[arg-type]
        yield
