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
    """Compile the kernels of a run once, before any process runs tests.

    A kernel compiled in the process itself may round differently from the same kernel read back from the
    cache; tests that compare processes to the last bit need all of them to read it back.
    """
    if not hasattr(session.config, "workerinput"):
        subprocess.run([sys.executable, "-c", _WARM_UP], cwd=session.config.rootpath, check=False)


@pytest.fixture(autouse=True, scope="session")
def chosen_backend() -> Iterator[None]:
    """The kernels that the environment names for the whole session; the compiled ones by default."""
    from grahame.kernels import dispatch

    with dispatch.backend(os.environ.get("GRAHAME_BACKEND", "auto")):  # type: ignore[arg-type]
        yield
