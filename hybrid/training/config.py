"""The configuration of `grahame train`: one YAML file, every key checked, every unit in its description."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from grahame.hybrid.config_base import AnyCase, Block, located, read_yaml, unit, wrong
from grahame.hybrid.config_errors import explain, show
from grahame.hybrid.model import ChargeSpec, ModelSpec
from grahame.hybrid.reading import not_an_element
from grahame.hybrid.shortrange.equivariant import Architecture
from grahame.hybrid.training.sources import DataConfig

__all__ = ["LossConfig", "ModelConfig", "OptimiserConfig", "TrainConfig", "load_training", "parse_training"]

Weight = Annotated[float, unit("", "weight of this part of the loss", ge=0.0)]
Memory = Annotated[float, unit("", "memory of Adam's two averages", ge=0.0, lt=1.0)]
ChargeKind = Literal["mulliken", "hirshfeld", "mbis", "ddec", "teacher"]


class ArchitectureConfig(Block):
    """Sizes of the local network, as `grahame.hybrid.shortrange.equivariant.Architecture`."""

    cutoff: Annotated[float, unit("Å", "cut-off", gt=0.5, le=20.0)] = 5.0
    channels: int = Field(default=32, ge=1, description="densities per atom")
    l_max: int = Field(default=2, ge=1, le=3, description="largest angular momentum")
    radial: int = Field(default=8, ge=1, description="radial functions per kind of neighbour")
    layers: int = Field(default=1, ge=1, le=4, description="interaction layers")
    messages: int = Field(default=8, ge=1, description="densities a neighbour sends in later layers")
    hidden: int = Field(default=64, ge=1, description="width of the readout")

    def sizes(self) -> Architecture:
        """As the network takes them."""
        return Architecture(**self.model_dump())


class ModelConfig(Block):
    """Sizes, charges and precision of the model; `initial` takes them from a trained one."""

    architecture: ArchitectureConfig = ArchitectureConfig()
    charges: ChargeSpec = ChargeSpec()
    dtype: Literal["float32", "float64"] = "float32"
    repulsion: bool = True
    double_counting: Literal["smeared", "switched"] = "smeared"
    switch: tuple[float, float] | None = Field(default=None, description="inner and outer radius, Å")
    accuracy: Annotated[float, unit("", "relative force error of the electrostatics", gt=0.0, le=0.1)] = 1e-5

    @model_validator(mode="after")
    def _elements(self) -> ModelConfig:
        c = self.charges
        hardness = c.hardness if isinstance(c.hardness, dict) else {}
        for key, values, unit_ in (
            ("formal", c.formal, "e"),
            ("widths", c.widths, "Å"),
            ("hardness", hardness, "V/e"),
        ):
            for element, value in values.items():
                remedy = not_an_element(element)
                if remedy:
                    name = f"charges.{key}.{element}"
                    raise wrong(name, f"{value:g} {unit_}", "belong to a chemical symbol", remedy)
        return self

    @model_validator(mode="after")
    def _as_the_model_wants(self) -> ModelConfig:
        """What the specification of the model refuses by itself is refused before any frame is read."""
        try:
            ModelSpec(
                elements=tuple(self.charges.dipoles) or ("H",),
                architecture=self.architecture.sizes(),
                charges=self.charges,
                double_counting=self.double_counting,
                switch=self.switch,
            )
        except ValueError as error:
            sentence = str(error).splitlines()[0]
            raise ValueError(f"charges.{sentence}" if sentence.startswith("dipoles") else sentence) from None
        return self


class LossConfig(Block):
    """Weights of mean squared errors in eV/atom, eV/Å, eV/Å³, e, e Å, and eV for work functions."""

    energy: Weight = 1.0
    forces: Weight = 1.0
    stress: Weight = 0.0
    charges: Weight = 0.0
    dipole: Weight = 0.0
    born: Weight = 0.0
    field_response: Weight = 0.0
    work_function: Weight = 0.0
    charge_kind: ChargeKind | None = Field(default=None, description="partition of the charge labels")
    huber: (
        Annotated[float, unit("", "errors beyond it count linearly, in the label's unit", gt=0.0)] | None
    ) = None

    @model_validator(mode="after")
    def _stated(self) -> LossConfig:
        if self.charges > 0 and self.charge_kind is None:
            raise wrong(
                "charge_kind",
                "nothing",
                "be given with a weight on charges",
                "state one of mulliken, hirshfeld, mbis, ddec, teacher",
            )
        if not any(self.weights().values()):
            raise wrong("", "0 for every label", "weigh at least one label", "set energy or forces")
        return self

    def weights(self) -> dict[str, float]:
        """Weight of each label."""
        return self.model_dump(exclude={"charge_kind", "huber"})


class StageTwoConfig(Block):
    """Other weights in the last part of training, usually with more weight on energies."""

    start: Annotated[float, unit("", "part of the training that is over", gt=0.0, lt=1.0)] = 0.75
    energy: Weight = 100.0
    forces: Weight | None = None
    charges: Weight | None = None
    learning_rate: Annotated[float, unit("", "factor on the learning rate", gt=0.0)] = 1.0


class ScheduleConfig(Block):
    """How the learning rate changes."""

    kind: Annotated[Literal["constant", "one-cycle", "exponential", "plateau"], AnyCase] = "one-cycle"
    warm_up: Annotated[float, unit("", "part of the training that the rate rises", ge=0.0, lt=1.0)] = 0.05
    final: Annotated[float, unit("", "last rate over the largest", gt=0.0, le=1.0)] = 0.01
    factor: Annotated[float, unit("", "factor on the rate, of kind plateau", gt=0.0, lt=1.0)] = 0.5
    patience: int = Field(default=10, ge=1, description="epochs without improvement, of kind plateau")
    pace: Literal["epochs", "time"] = Field(
        default="epochs", description="the training's length: its epochs, or the time limit"
    )


class OptimiserConfig(Block):
    """Steps through the loss."""

    kind: Annotated[Literal["adam", "adamw", "amsgrad"], AnyCase] = "adam"
    learning_rate: Annotated[float, unit("", "largest learning rate", gt=0.0, le=10.0)] = 5e-3
    betas: tuple[Memory, Memory] = Field(default=(0.9, 0.99), description="memory of Adam's two averages")
    weight_decay: Annotated[float, unit("", "decay of the weights, adamw only", ge=0.0)] = 0.0
    schedule: ScheduleConfig = ScheduleConfig()
    ema: Annotated[float, unit("", "memory of the averaged weights; 0 for none", ge=0.0, lt=1.0)] = 0.99
    clip: Annotated[float, unit("", "largest norm of the gradient", gt=0.0)] | None = 10.0
    batch_size: int = Field(default=4, ge=1, description="frames per step and process")
    epochs: int = Field(default=100, ge=1, description="passes over the training frames")
    patience: int | None = Field(default=None, ge=1, description="epochs without improvement before the end")
    max_minutes: Annotated[float, unit("min", "time limit", gt=0.0)] | None = None

    @model_validator(mode="after")
    def _decays(self) -> OptimiserConfig:
        if self.weight_decay > 0.0 and self.kind != "adamw":
            # There it would be a penalty on the loss, which the scales of Adam divide out: another thing of another size.
            raise wrong(
                "weight_decay", f"{self.weight_decay:g}", f"be 0 with kind {self.kind}", "set kind: adamw"
            )
        return self


Group = Literal["embedding", "interactions", "readout", "features", "charges"]


class TransferConfig(Block):
    """Start from a trained model, parts of it held fixed for some time.

    Reference energies stay, but for levels whose new energies count from another zero: there they move to it.
    """

    initial: str = Field(description="model file, relative to the configuration file, or au-water-nacl")
    freeze: tuple[Group, ...] = Field(default=(), description="groups of weights that do not change")
    unfreeze: dict[Group, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict, description="epoch from which a frozen group trains"
    )

    @model_validator(mode="after")
    def _frozen_first(self) -> TransferConfig:
        for name in self.unfreeze:
            if name not in self.freeze:
                raise wrong(
                    f"unfreeze.{name}",
                    self.unfreeze[name],
                    "name a group of `freeze`",
                    f"add {name} to `freeze`",
                )
        return self


class TrainingOutput(Block):
    """What is written where."""

    name: str = Field(
        default="model", pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", description="stem of all file names"
    )
    folder: str = Field(
        default=".", description="relative to the working directory, ~ is the home; made if absent"
    )
    checkpoint_minutes: Annotated[float, unit("min", "longest time between checkpoints", gt=0.0)] = 10.0
    plots: bool = Field(default=True, description="draw learning curve and parity, where matplotlib is there")
    overwrite: bool = Field(default=False, description="replace the files of an earlier training")

    @property
    def place(self) -> Path:
        """The folder of all files."""
        return located(self.folder, Path())


class TrainConfig(Block):
    """Everything `grahame train` needs."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    stage_two: StageTwoConfig | None = None
    optimiser: OptimiserConfig = OptimiserConfig()
    transfer: TransferConfig | None = None
    seed: int = Field(default=0, ge=0, description="seed of the weights and of the order of frames")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="where the model trains")
    threads: int | None = Field(default=None, ge=1, description="threads per process; left out: torch's own")
    output: TrainingOutput = TrainingOutput()
    _folder: Path = PrivateAttr(default_factory=Path)

    def path(self, file: str) -> Path:
        """A path of the configuration, which is relative to its folder; `~` is the home."""
        return located(file, self._folder)

    def paths(self, file: str) -> list[Path]:
        """The files a source names: one, or all that a shell pattern fits, by name.

        Raises:
            FileNotFoundError: when no file fits the pattern.
        """
        path = self.path(file)
        if not any(c in path.name for c in "*?["):
            return [path]
        found = sorted(path.parent.glob(path.name))
        if not found:
            raise FileNotFoundError(
                f"file = {file} must fit at least one file in {path.parent}: check the pattern"
            )
        return found

    def with_output(self, output: TrainingOutput) -> TrainConfig:
        """The same training with other output settings."""
        copy = self.model_copy(update={"output": output})
        copy._folder = self._folder
        return copy

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        if self.optimiser.schedule.pace == "time" and self.optimiser.max_minutes is None:
            raise wrong(
                "optimiser.max_minutes", "nothing", "be given with `pace: time`", "set the time limit"
            )
        if self.transfer is not None and "model" in self.model_fields_set:
            raise wrong("model", "given with transfer", "be left out", "the initial model brings its own")
        labels = {name for s in self.data.sources for name in s.keys.named()}
        charges = self.model.charges
        learned = (
            charges.site_constants != "fixed"
            or charges.kind in ("none", "solved")
            or self.transfer is not None
        )
        if self.loss.work_function > 0 and not learned:
            raise wrong(
                "loss.work_function",
                f"{self.loss.work_function:g}",
                "come with an electronegativity of the metal that is learned, not one that stays 0",
                "set model.charges.site_constants: element, or environment",
            )
        for name, weight in self.loss.weights().items():
            if weight > 0 and name not in labels and name in self.loss.model_fields_set:
                raise wrong(
                    f"loss.{name}",
                    f"{weight:g}",
                    "weigh a label that is read",
                    f"add `{name}` to `keys` of a source, or set the weight to 0",
                )
        return self


def parse_training(data: object, folder: Path | str = ".") -> TrainConfig:
    """A checked configuration from nested dicts.

    Args:
        data: what a YAML reader returns.
        folder: what the files in it are relative to.
    Raises:
        ValueError: one sentence per wrong key.
    """
    if not isinstance(data, dict):
        raise ValueError(
            f"configuration = {show(data)} must be a mapping of keys: start with a `data:` block that names files"
        )
    try:
        config = TrainConfig.model_validate(data)
    except ValidationError as error:
        raise ValueError(explain(error, TrainConfig)) from None
    config._folder = Path(folder)
    return config


def load_training(path: str | Path) -> TrainConfig:
    """Read and check the configuration of a training.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is not YAML, or one sentence per wrong key.
    """
    data, folder = read_yaml(path, TrainConfig)
    return parse_training(data, folder)
