"""Two processes with half the frames each take the steps of one process, and hold the same weights."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from grahame.hybrid.training.config import parse_training
from grahame.hybrid.training.dataset import epoch_order, shards
from grahame.hybrid.training.distributed import processes
from grahame.hybrid.training.run import train
from tests.hybrid.training.tiny import settings, write_data

# 7 frames in steps of 3 + 3: the last step leaves one process without a frame.
SCRIPT = """
import sys
from pathlib import Path
import torch
from grahame.hybrid.training import loop, run
from grahame.hybrid.training.config import parse_training
from tests.hybrid.training.tiny import settings

folder = Path(sys.argv[1])
ended = loop.Trainer.run

def wrapped(self, hooks, bar):
    ended(self, hooks, bar)
    torch.save(self.model.state_dict(), folder / f"rank{self.processes.rank}.pt")

loop.Trainer.run = wrapped
run.train(parse_training(settings(folder / "two", optimiser={"batch_size": 3, "epochs": 2}), folder), progress=False)
tasks = Path("/proc/self/task")
threads = [(t / "comm").read_text() for t in tasks.iterdir()] if tasks.exists() else []
assert not any("gloo" in name for name in threads), threads  # they abort the interpreter when it ends
"""


def test_two_processes_equal_one_with_the_double_batch(tmp_path: Path) -> None:
    write_data(tmp_path, train=7)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    root = Path(__file__).resolve().parents[3]
    code = subprocess.run(
        [*command, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", str(script), str(tmp_path)],
        cwd=root, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert code.returncode == 0, code.stderr
    first, second = (torch.load(tmp_path / f"rank{k}.pt", weights_only=True) for k in (0, 1))
    assert all(torch.equal(first[k], second[k]) for k in first)
    config = parse_training(settings(tmp_path / "one", optimiser={"batch_size": 6, "epochs": 2}), tmp_path)
    summary = train(config, progress=False)
    assert summary.steps == 4
    saved = torch.load(tmp_path / "one" / "model.checkpoint.pt", weights_only=True)["model"]
    for name, value in saved.items():
        torch.testing.assert_close(first[name], value, rtol=1e-9, atol=1e-12)


def test_processes_share_the_frames_of_each_step() -> None:
    order = epoch_order(seed=3, epoch=1, frames=11)
    alone = list(shards(order, 6))
    both = zip(shards(order, 3, 0, 2), shards(order, 3, 1, 2))
    assert [sorted([*a, *b]) for a, b in both] == [sorted(step) for step in alone]
    assert sorted(order) == list(range(11))


def test_one_process_needs_no_group() -> None:
    with processes("cpu") as group:
        assert (group.rank, group.world, group.main) == (0, 1, True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said() -> None:
    with pytest.raises(ValueError, match="cuda") as error, processes("cuda"):
        pass
    assert str(error.value) == "device = cuda must be available: torch sees no GPU; use `device: cpu`"
