"""The training: epochs, validation, checkpoints, the best model, and what is left behind."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from grahame.hybrid.engines.progress import StopFlag
from grahame.hybrid.frames import LABELS, Batch, Frame, make_batch
from grahame.hybrid.model import HybridModel
from grahame.hybrid.training import loss as losses
from grahame.hybrid.training.config import TrainConfig
from grahame.hybrid.training.dataset import epoch_order, shards
from grahame.hybrid.training.distributed import Processes
from grahame.hybrid.training.ema import Average
from grahame.hybrid.training.hooks import Hooks
from grahame.hybrid.training.metrics import ErrorTable
from grahame.hybrid.training.predicting import OF_CHARGES, labelled, predict
from grahame.hybrid.training.progress import TrainingBar
from grahame.hybrid.training.schedule import Plateau, in_stage_two, learning_rate, loss_weights
from grahame.hybrid.training.transfer import freeze
from grahame.kernels.cpu_memory import keep_freed

__all__ = ["Position", "Trainer"]

_ABSURD = 1e3  # e, charges of a training that has diverged


@dataclass
class Position:
    """Where a training stands.

    Attributes:
        epoch: the current one, from 0; step: steps of it that are done; steps: all steps done.
        elapsed: seconds of training.
        second: whether stage two has begun.
        sums, counts: of the errors of the epoch so far, per label.
        finished: nothing is left to do.
    """

    epoch: int = 0
    step: int = 0
    steps: int = 0
    elapsed: float = 0.0
    second: bool = False
    sums: list[float] = field(default_factory=list)
    counts: list[float] = field(default_factory=list)
    finished: bool = False


class Trainer:
    """A model, its frames, and the state of the optimiser.

    Args:
        config: of the training.
        model: to train, already on its device.
        train, valid: frames; every process holds all of them.
        processes: that train together.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: HybridModel,
        train: Sequence[Frame],
        valid: Sequence[Frame],
        processes: Processes,
    ) -> None:
        keep_freed()  # every step takes the memory of the one before
        self.config, self.model, self.train, self.valid = config, model, train, valid
        self.processes = processes
        self.fixed = {name for name, p in model.named_parameters() if not p.requires_grad}
        o = config.optimiser
        kind = torch.optim.AdamW if o.kind == "adamw" else torch.optim.Adam
        trainable = [p for name, p in model.named_parameters() if name not in self.fixed]
        self.optimiser: torch.optim.Optimizer = kind(
            trainable,
            lr=o.learning_rate,
            betas=o.betas,
            weight_decay=o.weight_decay,
            amsgrad=o.kind == "amsgrad",
        )
        self.average = Average(model, o.ema)
        self.best = {k: v.clone() for k, v in self.average.weights.items()}
        self.plateau = Plateau()
        self.at = Position()
        last = loss_weights(config.loss, config.stage_two, True)
        first = loss_weights(config.loss, config.stage_two, False)
        have = {name for f in train for name in f.labels}
        self.names = [n for n in LABELS if n in have and max(last[n], first[n]) > 0]
        for name in OF_CHARGES:
            if name in self.names and not model.spec.long_range:
                raise ValueError(
                    f"loss.{name} = {max(last[name], first[name]):g} must be 0 with charges of kind none: set it to 0, or choose "
                    "another model.charges.kind"
                )
        judged = {name for f in valid for name in f.labels if last[name] > 0}
        if not judged & set(self.names):
            raise ValueError(
                f"valid = frames without {' and '.join(self.names) or 'labels'} must have a label that the loss weighs: "
                "add its key to a validation source"
            )
        self.steps_per_epoch = -(-len(train) // (o.batch_size * processes.world))
        self._began = time.perf_counter()
        # What cannot train at all is said before the first epoch.
        freeze(model, config.transfer, self.fixed, 0)

    # ---- one step -------------------------------------------------------------------------------------------

    def part(self) -> float:
        """How much of the training is over, 0 ... 1."""
        o = self.config.optimiser
        if o.schedule.pace == "time":
            assert o.max_minutes is not None
            return min(1.0, self.at.elapsed / (60.0 * o.max_minutes))
        return self.at.steps / (o.epochs * self.steps_per_epoch)

    def weights(self) -> list[float]:
        """Weights of the labels in this stage."""
        chosen = loss_weights(self.config.loss, self.config.stage_two, self.at.second)
        return [chosen[n] for n in self.names]

    def rate(self) -> float:
        """The learning rate now."""
        stage = self.config.stage_two
        factor = stage.learning_rate if stage is not None and self.at.second else 1.0
        return factor * learning_rate(self.config.optimiser, self.part(), self.plateau)

    def batch(self, frames: Sequence[Frame]) -> Batch:
        """Frames on this process's device."""
        spec = self.model.spec
        return make_batch(frames, spec.elements, spec.architecture.cutoff).to(self.processes.device)

    def step(self, frames: Sequence[Frame], elapsed: float, stop: bool) -> bool:
        """One step of the optimiser with this process's frames; whether any process wants to stop."""
        batch = self.batch(frames) if frames else None
        local = [
            *losses.label_counts(batch, self.names),
            float(stop),
            elapsed if self.processes.main else 0.0,
        ]
        *counts, stopping, self.at.elapsed = self.processes.sum(
            torch.tensor(local, dtype=torch.float64)
        ).tolist()
        self.optimiser.zero_grad(set_to_none=True)
        sums: list[Tensor] = [torch.zeros((), dtype=torch.float64) for _ in self.names]
        if batch is not None:
            found = self.predict(batch, self.names, train=True)
            sums = losses.error_sums(found, batch, self.names, self.config.loss.huber)
            total = losses.loss(sums, counts, self.weights())
            if total.requires_grad:
                # Positions have gradients too, for the forces; theirs would be computed and thrown away.
                learning = [p for p in self.model.parameters() if p.requires_grad]
                total.backward(inputs=learning)  # type: ignore[no-untyped-call]
        summed = self.processes.sum(torch.stack([s.detach().cpu() for s in sums])).tolist()
        if not all(s == s and abs(s) != float("inf") for s in summed):
            names = ", ".join(f.name for f in frames)
            raise ValueError(
                f"loss = {dict(zip(self.names, summed))} in step {self.at.steps + 1} must be finite: lower "
                f"optimiser.learning_rate or check these frames: {names}"
            )
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.processes.share_gradients(trained)
        if self.config.optimiser.clip is not None:
            torch.nn.utils.clip_grad_norm_(trained, self.config.optimiser.clip)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        self.optimiser.step()
        self.at.step += 1
        self.at.steps += 1
        self.average.update(self.model, self.at.steps)
        self.at.sums = [a + b for a, b in zip(self.at.sums, summed)]
        self.at.counts = [a + b for a, b in zip(self.at.counts, counts)]
        return bool(stopping > 0)

    def predict(self, batch: Batch, wanted: Collection[str], train: bool = False) -> dict[str, Tensor]:
        """What the model says for a batch.

        Raises:
            ValueError: when the weights have left all reason behind, instead of whatever fails on them first.
        """
        try:
            return predict(self.model, batch, wanted, train=train)
        except (ArithmeticError, RuntimeError, ValueError) as error:
            charge = self._largest_charge(batch) if self.at.steps else 0.0
            if charge < _ABSURD:
                raise
            reached = f"charges reach {charge:.2g} e" if charge < float("inf") else "charges are no numbers"
            raise ValueError(
                f"optimiser.learning_rate = {self.config.optimiser.learning_rate:g} must be lower: after {self.at.steps} steps the "
                f"training has diverged, {reached}; try a tenth of it"
            ) from error

    @torch.no_grad()
    def _largest_charge(self, batch: Batch) -> float:
        """Largest charge that the network says, e; infinity where it is no number."""
        levels = torch.tensor([self.model.level(n) for n in batch.levels], device=self.processes.device)
        found = self.model.local(batch.graph, levels, batch.conditions).charges
        largest = 0.0 if found is None or not len(found) else float(found.abs().max())
        finite = all(bool(p.isfinite().all()) for p in self.model.parameters())
        return largest if finite and largest == largest else float("inf")

    def training_loss(self) -> float:
        """Mean loss of the epoch so far, with this stage's weights."""
        parts = zip(self.weights(), self.at.sums, self.at.counts)
        return sum(w * s / n for w, s, n in parts if n > 0)

    # ---- epochs ---------------------------------------------------------------------------------------------

    def validate(self) -> tuple[float, ErrorTable]:
        """Loss, as in training, and errors of the averaged weights on the validation frames."""
        table = ErrorTable(self.model.spec)
        mine = self.valid[self.processes.rank :: self.processes.world]
        size, huber = self.config.optimiser.batch_size, self.config.loss.huber
        both = torch.zeros((2, len(self.names)), dtype=torch.float64)
        with self.average.applied(self.model):
            for start in range(0, len(mine), size):
                batch = self.batch(mine[start : start + size])
                found = self.predict(batch, labelled(batch))
                table.add(found, batch)
                sums = losses.error_sums(found, batch, self.names, huber)
                both[0] += torch.stack([s.detach().cpu() for s in sums])
                both[1] += torch.tensor(losses.label_counts(batch, self.names), dtype=torch.float64)
        table.sums = self.processes.sum(torch.as_tensor(table.sums)).numpy()
        summed, counts = self.processes.sum(both)
        value = float(losses.loss(list(summed), counts.tolist(), self.weights()))
        if not value < float("inf"):
            raise ValueError(
                f"validation loss = {value} in epoch {self.at.epoch + 1} must be finite: lower optimiser.learning_rate"
            )
        return value, table

    def run(self, hooks: Hooks, bar: TrainingBar) -> None:
        """Train until the last epoch, the time limit, early stopping or a signal."""
        o = self.config.optimiser
        limit = float("inf") if o.max_minutes is None else 60.0 * o.max_minutes
        self._began = time.perf_counter() - self.at.elapsed
        saved = self.at.elapsed
        # A limit that is farther now, or more patience, goes on where a smaller one had ended.
        self.at.finished = self.at.finished and self._done(limit)
        with StopFlag() as flag:
            while not self.at.finished:
                self._begin_epoch()
                bar.epoch(self.at.epoch + 1, self.at.step)
                order = epoch_order(self.config.seed, self.at.epoch, len(self.train))
                first, since = self.at.elapsed, 0
                steps = shards(order, o.batch_size, self.processes.rank, self.processes.world)
                for number, chosen in enumerate(steps):
                    if number < self.at.step:
                        continue
                    elapsed = time.perf_counter() - self._began
                    stop = self.step([self.train[k] for k in chosen], elapsed, flag.requested)
                    since += len(chosen)
                    now = time.perf_counter() - self._began
                    bar.step(self.at.step, self.training_loss(), since / max(now - first, 1e-9))
                    if stop:
                        hooks.checkpoint(self.state())
                        hooks.stopped = True
                        return
                    if self.at.elapsed >= limit:
                        break
                    if self.at.elapsed - saved > 60.0 * self.config.output.checkpoint_minutes:
                        hooks.checkpoint(self.state())
                        saved = self.at.elapsed
                speed = since * self.processes.world / max(time.perf_counter() - self._began - first, 1e-9)
                self._end_epoch(hooks, bar, speed, limit)
                hooks.checkpoint(self.state())
                saved = self.at.elapsed

    def _begin_epoch(self) -> None:
        freeze(self.model, self.config.transfer, self.fixed, self.at.epoch)
        if self.at.step == 0:
            self.at.sums, self.at.counts = [0.0] * len(self.names), [0.0] * len(self.names)
        second = in_stage_two(self.config.stage_two, self.part())
        if second and not self.at.second and self.at.step == 0:
            # Losses of the two stages cannot be compared.
            self.at.second, self.plateau = True, Plateau(drops=self.plateau.drops)

    def _end_epoch(self, hooks: Hooks, bar: TrainingBar, speed: float, limit: float) -> None:
        value, table = self.validate()
        o = self.config.optimiser
        better = self.plateau.update(value, o.schedule.patience)
        if better:
            self.best = {k: v.clone() for k, v in self.average.weights.items()}
            with self.average.applied(self.model):
                hooks.better(self.model)
        rmse = {n: 1e3 * table.value(n) for n in LABELS}
        hooks.epoch(
            {
                "epoch": self.at.epoch + 1,
                "steps": self.at.steps,
                "stage": 2 if self.at.second else 1,
                "learning_rate": self.rate(),
                "train_loss": self.training_loss(),
                "valid_loss": value,
                "valid_energy_meV_per_atom": rmse["energy"],
                "valid_forces_meV_per_A": rmse["forces"],
                "valid_stress_meV_per_A3": rmse["stress"],
                "valid_charges_me": rmse["charges"],
                "valid_dipole_me_A": rmse["dipole"],
                "valid_born_me": rmse["born"],
                "valid_field_response_me": rmse["field_response"],
                "valid_work_function_meV": rmse["work_function"],
                "best": int(better),
                "frames_per_s": speed,
                "seconds": self.at.elapsed,
            }
        )
        units = {
            "energy": "meV/atom",
            "forces": "meV/Å",
            "charges": "me",
            "field_response": "me",
            "born": "me",
            "work_function": "meV",
        }
        shown = "  ".join(
            f"{n.replace('_', ' ')} {rmse[n]:.4g} {u}" for n, u in units.items() if rmse[n] == rmse[n]
        )
        bar.say(
            f"epoch {self.at.epoch + 1:4d}  loss {self.training_loss():.4g}  validation {value:.4g}  {shown}  "
            f"{speed:.3g} frames/s{'  best' if better else ''}"
        )
        self.at.epoch += 1
        self.at.step = 0
        self.at.finished = self._done(limit)

    def _done(self, limit: float) -> bool:
        """Whether the last epoch, the time limit (s) or early stopping is reached."""
        o = self.config.optimiser
        waited = o.patience is not None and self.plateau.waited >= o.patience
        # Early stopping waits for stage two, which is part of the training.
        waited = waited and (self.config.stage_two is None or self.at.second)
        return self.at.epoch >= o.epochs or waited or self.at.elapsed >= limit

    # ---- state ----------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything needed to continue with the same bits."""
        return {
            "position": asdict(self.at),
            "plateau": asdict(self.plateau),
            "model": {k: v.detach().clone() for k, v in self.model.state_dict().items()},
            "average": self.average.weights,
            "best": self.best,
            "optimiser": self.optimiser.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.at = Position(**state["position"])
        self.plateau = Plateau(**state["plateau"])
        self.model.load_state_dict(state["model"])
        self.average.load(state["average"])
        for name, value in state["best"].items():
            self.best[name].copy_(value)
        self.optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["random"])
        if torch.cuda.is_available() and state["random_cuda"]:
            torch.cuda.set_rng_state_all(state["random_cuda"])
