"""Averaged weights, which err less than those of any single step.

    a <- a + (1 - d) (w - a),   d = min(decay, (1 + n) / (10 + n)) after n steps

In this form weights that do not change keep their average to the last bit.

Source: Polyak and Juditsky, SIAM J. Control Optim. 30, 838 (1992).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["Average"]


class Average:
    """Averaged weights of a module.

    Args:
        module: whose weights are averaged, from now on.
        decay: memory; 0 keeps the last weights.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, steps: int) -> None:
        """Take in the weights after `steps` steps."""
        keep = min(self.decay, (1.0 + steps) / (10.0 + steps))
        for name, value in module.state_dict().items():
            average = self.weights[name]
            if average.is_floating_point():
                average.add_(value - average, alpha=1.0 - keep)
            else:
                average.copy_(value)

    def load(self, weights: dict[str, Tensor]) -> None:
        """Continue from saved weights."""
        for name, value in weights.items():
            self.weights[name].copy_(value)

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Within the block the module has the averaged weights."""
        own = {k: v.detach().clone() for k, v in module.state_dict().items()}
        module.load_state_dict(self.weights)
        try:
            yield
        finally:
            module.load_state_dict(own)
