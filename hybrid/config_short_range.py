"""The short range in the configuration of a run: classical, learned here, or a model of another program."""

from __future__ import annotations

import difflib
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from grahame.hybrid.config_base import AnyCase, Block, unit, wrong

__all__ = [
    "Boundary",
    "ClassicalConfig",
    "ForeignConfig",
    "LabelEnsembleConfig",
    "LearnedConfig",
    "ShortRangeConfig",
]


class ClassicalConfig(Block):
    """The classical short range: flexible or rigid water, ions, Lennard-Jones metals."""

    kind: Literal["classical"] = "classical"
    water: Annotated[Literal["spc/fw", "spc/e-rigid"], AnyCase] = Field(
        default="spc/fw", description="water model"
    )
    mixing: Literal["lorentz-berthelot", "geometric"] = Field(
        default="lorentz-berthelot", description="Lennard-Jones mixing rule"
    )
    cutoff: Annotated[float, unit("Å", "Lennard-Jones cut-off", gt=0.0, le=100.0)] = 10.0
    truncation: Literal["force-switch", "plain"] = Field(
        default="force-switch", description="end of the Lennard-Jones"
    )


class LearnedConfig(Block):
    """A trained model as the short range."""

    kind: Literal["learned"] = "learned"
    model: str = Field(
        description="path of a model file, relative to the configuration file, or au-water-nacl for the one in the box",
    )
    level: str | None = Field(default=None, description="level of theory; left out: the model's first")
    formal_charges: str | None = Field(
        default=None, description="array of the structure with formal charges (e); left out: by element"
    )
    fragments: str | None = Field(
        default=None, description="array of the structure with each atom's fragment, -1 in electrodes"
    )
    compile: bool = Field(
        default=False,
        description="translate the network: up to a minute at first, then faster steps, most with several layers; of one layer "
        "on one thread only",
    )


Boundary = Literal["3d", "slab", "slab-exact", "finite-field", "displacement", "open"]


class LabelEnsembleConfig(Block):
    """Under what a model's training energies were computed: its Coulomb energy is theirs."""

    boundary: Annotated[Boundary, AnyCase] = "3d"
    total_charge: Annotated[float, unit("e", "charge of the labels' cells")] = 0.0
    field: Annotated[float, unit("V/Å", "field of the labels along the surface normal")] | None = None
    displacement: Annotated[float, unit("V/Å", "D/eps0 of the labels along the normal")] | None = None


class ForeignConfig(Block):
    """A model of another program as the short range, with charges beside it."""

    kind: Literal["foreign"] = "foreign"
    program: Annotated[Literal["mace", "nequip", "allegro", "metatomic"], AnyCase] = Field(
        description="the program that the model belongs to, an optional extra of this package"
    )
    model: str = Field(description="path of the model file, relative to the configuration file")
    trust: bool = Field(
        default=False, description="the model file may run code when it is read: say true if you trust it"
    )
    head: str | None = Field(default=None, description="mace: name of the energy head")
    extensions: str | None = Field(default=None, description="metatomic: folder with the model's extensions")
    charges: Literal["none", "formal", "model"] | dict[str, float] = Field(
        default="none", description="by element (e), formal ones, the model's own, or none"
    )
    widths: dict[str, Annotated[float, Field(ge=0.0)]] = Field(
        default_factory=dict, description="Gaussian width of elements (Å); others 0.5"
    )
    heads: str | None = Field(
        default=None, description="file of charge heads trained on this model, instead of charges"
    )
    contains_coulomb: bool = Field(
        description="whether the model's energies hold the Coulomb energy of its charges already"
    )
    switch: tuple[float, float] | None = Field(
        default=None,
        description="with contains_coulomb: radii between which near pairs are left to the model, Å",
    )
    labels: LabelEnsembleConfig | None = Field(
        default=None, description="with contains_coulomb: add only what changes from the labels' ensemble"
    )

    @model_validator(mode="after")
    def _one_of_each(self) -> ForeignConfig:
        if self.heads is not None and self.charges != "none":
            raise wrong("heads", self.heads, "stand alone", "remove `charges` or `heads`")
        if self.switch is not None and self.labels is not None:
            raise wrong("switch", "given with labels", "be one of the two", "remove `switch` or `labels`")
        for key, program in (("head", "mace"), ("extensions", "metatomic")):
            if getattr(self, key) is not None and self.program != program:
                raise wrong(key, getattr(self, key), f"come with program {program}", f"remove `{key}`")
        return self


def _kind(block: object) -> str:
    """Which short range a block of the file describes."""
    if isinstance(block, Block):
        return str(getattr(block, "kind", "classical"))
    if isinstance(block, dict):
        if "program" in block or block.get("kind") == "foreign":
            return "foreign"
        if "model" in block or block.get("kind") == "learned":
            return "learned"
        if "kind" not in block:
            # A mistyped `model` must not be told the keys of the classical force field.
            unknown = [str(key) for key in block if key not in ClassicalConfig.model_fields]
            if any(difflib.get_close_matches(key, ["model"], cutoff=0.7) for key in unknown):
                return "learned"
    return "classical"


ShortRangeConfig = Annotated[
    Annotated[ClassicalConfig, Tag("classical")]
    | Annotated[LearnedConfig, Tag("learned")]
    | Annotated[ForeignConfig, Tag("foreign")],
    Discriminator(_kind),
]
