"""Exact restart: a run that was killed, wherever, ends with the same bytes as one that was not."""

import gc
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from grahame.hybrid.config import RunConfig
from grahame.hybrid.engines import run as engine
from grahame.hybrid.engines.run import run
from tests.hybrid.small_cells import small_run

FILES = ("small.extxyz", "small.csv")


class KilledError(BaseException):
    """Stands for a kill inside the process: nothing handles it."""


def contents(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES]


def killed_at(config: RunConfig, step: int) -> None:
    """Run until the given step is computed, then stop without any clean-up of the run's own."""
    begun = engine._Run(config, restart=False)
    check, done = begun._check_finite, [0]

    def dying() -> None:
        done[0] += 1
        if done[0] == step:
            raise KilledError
        check()

    begun._check_finite = dying  # type: ignore[method-assign]
    with pytest.raises(KilledError):
        begun.go(progress=False)


RAMP = [
    {"group": 0, "potential": 0.0, "mobile": True},
    {"group": 1, "ramp": [[0, 0], [0.005, 1]], "mobile": True},
]
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nve": ({"steps": 12, "ensemble": "nve"}, {}),
    "langevin": ({"steps": 12, "ensemble": "langevin"}, {}),
    "nose-hoover": ({"steps": 12, "ensemble": "nose-hoover"}, {}),
    "moving electrodes under a ramp": ({"steps": 6, "ensemble": "nve"}, {"electrodes": RAMP}),
    "mesh": ({"steps": 6, "ensemble": "nve"}, {"coulomb": {"method": "pme", "accuracy": 1e-4}}),
    "thermo-potentiostat": (
        {"steps": 12, "ensemble": "langevin"},
        {"thermo_potentiostat": {"temperature_K": 300, "time_constant_fs": 10}},
    ),
    "thermo-potentiostat, mobile electrodes": (
        {"steps": 12, "ensemble": "langevin"},
        {
            "thermo_potentiostat": {"temperature_K": 300, "time_constant_fs": 10},
            "electrodes": [{"group": g, "potential": 1.0 * g, "mobile": True} for g in (0, 1)],
        },
    ),
    "rigid water": (
        {"steps": 12, "ensemble": "nose-hoover"},
        {"short_range": {"cutoff": 5.0, "water": "spc/e-rigid"}},
    ),
    "no electrodes": ({"steps": 8, "ensemble": "langevin"}, {"electrodes": []}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_killed_run_ends_with_the_same_bytes(tmp_path: Path, name: str) -> None:
    produce, blocks = CASES[name]
    run(small_run(tmp_path / "whole", produce, **blocks), progress=False)
    # In the minimisation, in the equilibration, in the production.
    for step in (3, 9, 16) if len(blocks) == 0 or "mobile" in name else (15,):
        folder = tmp_path / f"killed at {step}"
        config = small_run(folder, produce, **blocks)
        killed_at(config, step)
        assert contents(folder) != contents(tmp_path / "whole")
        assert run(config, progress=False, restart=True).completed
        assert contents(folder) == contents(tmp_path / "whole"), f"killed at step {step}"


def test_kill_9_at_random_moments_changes_no_byte(tmp_path: Path) -> None:
    produce = {"steps": 60, "ensemble": "langevin"}
    whole = small_run(tmp_path / "whole", produce)
    run(whole, progress=False)
    folder = tmp_path / "killed"
    config = small_run(folder, produce)
    (folder / "config.json").write_text(config.model_dump_json())
    code = (
        "import sys, pathlib; from grahame.hybrid.config import parse_config; import json;"
        "from grahame.hybrid.engines.run import run; p = pathlib.Path(sys.argv[1]);"
        "run(parse_config(json.loads((p / 'config.json').read_text()), p), progress=False, restart=True)"
    )
    rng = random.Random(7)
    log = folder / "small.csv"
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code, str(folder)])
        size = log.stat().st_size if log.exists() else 0
        deadline = time.monotonic() + 120.0
        # Wait until it writes, then a random moment more: inside a step, a writing or a checkpoint.
        while process.poll() is None and time.monotonic() < deadline:
            if log.exists() and log.stat().st_size != size:
                break
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.3))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert run(config, progress=False, restart=True).completed
    assert contents(folder) == contents(tmp_path / "whole")


def test_a_terminated_run_finishes_its_step_and_can_continue(tmp_path: Path) -> None:
    produce = {"steps": 8, "ensemble": "nose-hoover"}
    run(small_run(tmp_path / "whole", produce), progress=False)
    config = small_run(tmp_path / "stopped", produce)
    begun = engine._Run(config, restart=False)
    check, done = begun._check_finite, [0]

    def terminated() -> None:
        done[0] += 1
        if done[0] == 10:
            os.kill(os.getpid(), signal.SIGTERM)
        check()

    begun._check_finite = terminated  # type: ignore[method-assign]
    summary = begun.go(progress=False)
    assert not summary.completed
    assert summary.steps == 10
    assert run(config, progress=False, restart=True).completed
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    config = small_run(tmp_path, {"steps": 4})
    first = run(config, progress=False)
    before = contents(tmp_path)
    again = run(config, progress=False, restart=True)
    assert again.completed
    assert again.steps == first.steps
    assert contents(tmp_path) == before


def test_a_longer_production_continues_as_if_planned(tmp_path: Path) -> None:
    run(small_run(tmp_path / "long", {"steps": 9, "ensemble": "nve"}), progress=False)
    run(small_run(tmp_path / "short", {"steps": 4, "ensemble": "nve"}), progress=False)
    run(small_run(tmp_path / "short", {"steps": 9, "ensemble": "nve"}), progress=False, restart=True)
    assert contents(tmp_path / "short") == contents(tmp_path / "long")


def test_a_restart_under_another_configuration_is_refused_with_the_keys(tmp_path: Path) -> None:
    run(small_run(tmp_path, {"steps": 4}), progress=False)
    before = contents(tmp_path)
    other = small_run(
        tmp_path,
        {"steps": 4, "temperature_K": 350},
        electrodes=[{"group": 0, "potential": 0.0}, {"group": 1, "potential": 1.5}],
    )
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        run(other, progress=False, restart=True)
    assert str(caught.value) == (
        "config = changed in dynamics.produce.temperature_K, electrodes must equal that of the checkpoint: change it back, "
        "or start a new run under another output.name"
    )
    assert contents(tmp_path) == before


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    config = small_run(tmp_path, {"steps": 4})
    path = run(config, progress=False).checkpoint
    path.write_bytes(path.read_bytes()[:-100])
    with warnings.catch_warnings():
        # A file left open says so when it is collected; pytest turns that into an error.
        warnings.simplefilter("error", ResourceWarning)
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
            run(config, progress=False, restart=True)
        gc.collect()
    assert str(caught.value) == (
        f"checkpoint = {path} must be a complete file of `grahame run`: it is damaged; start again under another "
        "output.name"
    )


def test_a_shortened_trajectory_is_refused(tmp_path: Path) -> None:
    config = small_run(tmp_path, {"steps": 4})
    path = run(config, progress=False).trajectory
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        run(config, progress=False, restart=True)
    assert str(caught.value) == (
        f"{path} = {size - 100} bytes must hold the {size} bytes of the checkpoint: restore the file, or start again "
        "under another output.name"
    )


def test_a_restart_without_a_checkpoint_starts_from_the_beginning(tmp_path: Path) -> None:
    config = small_run(tmp_path, {"steps": 2}, dynamics={"produce": {"steps": 2}})
    assert run(config, progress=False, restart=True).completed


def test_a_restart_whose_checkpoint_was_removed_is_refused(tmp_path: Path) -> None:
    config = small_run(tmp_path, {"steps": 2}, dynamics={"produce": {"steps": 2}})
    run(config, progress=False).checkpoint.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        run(config, progress=False, restart=True)
    assert str(caught.value) == (
        f"checkpoint = {tmp_path}/small.checkpoint.npz must exist beside the trajectory: start again under another "
        "output.name or with output.overwrite: true"
    )
