"""Several processes that train one model, as `torchrun` starts them; one process is the plain case.

Every process computes part of a step's frames. Sums of errors and their counts are added over processes before
anything is divided, so that n processes take exactly the step of one process with n times the frames.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import import_module

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["Processes", "processes"]


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        rank: of this process; world: how many there are; device: where this one computes.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, the same bits on each."""
        if self.world == 1:
            return values
        moved = values.to(self.device)
        dist.all_reduce(moved)
        return moved.to(values.device)

    def share_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add gradients over all processes; a parameter without one counts as zero."""
        for p in parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        if self.world == 1 or not parameters:
            return
        flat = torch.cat([p.grad.reshape(-1).to(torch.float64) for p in parameters if p.grad is not None])
        dist.all_reduce(flat)
        start = 0
        for p in parameters:
            assert p.grad is not None
            p.grad.copy_(flat[start : start + p.numel()].reshape(p.shape))
            start += p.numel()

    def same(self, module: nn.Module) -> None:
        """Give all processes the weights of the first."""
        if self.world > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, 0)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def processes(device: str = "auto") -> Iterator[Processes]:
    """Join the processes that `torchrun` started, or be the only one.

    Args:
        device: "cpu", "cuda", or "auto" for a GPU where there is one.
    Raises:
        ValueError: when "cuda" is asked for and absent.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    found = torch.cuda.is_available()
    if device == "cuda" and not found:
        raise ValueError("device = cuda must be available: torch sees no GPU; use `device: cpu`")
    gpu = found and device != "cpu"
    place = torch.device("cuda", local) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(place)
    if world == 1:
        yield Processes(device=place)
        return
    # torch imports this module by itself later, and its functions then keep the group as a default argument: the
    # group's threads would outlive destroy_process_group and abort the interpreter when it ends.
    import_module("torch.distributed.nn.functional")
    # Only the first process writes and draws at the end: the others wait for it longer than the usual limit.
    dist.init_process_group("nccl" if gpu else "gloo", timeout=timedelta(days=1))
    try:
        yield Processes(dist.get_rank(), world, place)
    finally:
        dist.destroy_process_group()
