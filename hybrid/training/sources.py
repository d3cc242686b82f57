"""The `data` block of `grahame train`: files, their keys, how they are split, and what makes a frame a bad one."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from grahame.hybrid.config_base import AnyCase, Block, unit, wrong
from grahame.hybrid.frames import LABELS
from grahame.hybrid.model import FORMAL_CHARGES, ChargeSpec
from grahame.hybrid.reading import Reading, not_an_element
from grahame.hybrid.schema import ElectricState

__all__ = ["ChecksConfig", "DataConfig", "KeysConfig", "SourceConfig", "SplitConfig", "words"]

Words = str | tuple[str, ...]


def words(value: Words) -> tuple[str, ...]:
    """One word or several, as several."""
    return (value,) if isinstance(value, str) else tuple(value)


def _nearest(name: str, known: Sequence[str]) -> str:
    near = [k for k in known if k.lower() == name.lower()] or difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"they are {', '.join(known)}"


class KeysConfig(Block):
    """Which key of the file holds which label; what is not named is not read."""

    energy: str | None = Field(default=None, description="eV per frame")
    forces: str | None = Field(default=None, description="eV/Å per atom")
    stress: str | None = Field(default=None, description="eV/Å³, sign of ASE")
    charges: str | None = Field(default=None, description="e per atom")
    dipole: str | None = Field(
        default=None, description="e Å per frame, up to e times a cell vector that repeats"
    )
    born: str | None = Field(default=None, description="Born charges dF_a/dE_b, e, 9 per atom")
    field_response: str | None = Field(default=None, description="dF/dE along the normal, e, 3 per atom")
    work_function: str | None = Field(default=None, description="eV per frame, of the side the source names")

    def named(self) -> dict[str, str]:
        """The labels that are read."""
        return self.model_dump(exclude_none=True)


class SplitConfig(Block):
    """How frames of one source, all its files together, go to training and validation."""

    key: str | None = Field(default=None, description="info key that says where a frame belongs")
    train: Words = Field(default="train", description="values of `key` for training")
    valid: Words = Field(default=("valid", "val", "validation"), description="values of `key` for validation")
    fraction: Annotated[float, unit("", "part of the groups for validation", gt=0.0, lt=1.0)] | None = None
    group: str | None = Field(
        default=None, description="info key of what stays together, e.g. the snapshot; left out: each frame"
    )

    @model_validator(mode="after")
    def _one_way(self) -> SplitConfig:
        if (self.key is None) == (self.fraction is None):
            given = "key and fraction" if self.key is not None else "nothing"
            raise wrong("", given, "be by exactly one of `key` and `fraction`", "write one of the two")
        return self


class SourceConfig(Block):
    """Frames of one file: their labels, and what these were computed under."""

    file: str = Field(description="path, relative to the configuration file; its name may be a shell pattern")
    use: Literal["train", "valid"] = Field(
        default="train", description="where the frames go, without `split`"
    )
    split: SplitConfig | None = None
    keys: KeysConfig = KeysConfig(energy="energy", forces="forces")
    optional: tuple[str, ...] = Field(default=(), description="labels that some frames may lack")
    level: str = Field(
        default="default", description="level of theory: frames of one level share an energy zero"
    )
    boundary: Annotated[
        Literal["auto", "3d", "slab", "slab-exact", "finite-field", "displacement", "open"], AnyCase
    ] = Field(default="auto", description="boundary of the reference calculation")
    total_charge: Annotated[float, unit("e", "charge of the cell, where frames do not state it")] | None = (
        None
    )
    electrode_elements: tuple[str, ...] = Field(
        default=(), description="elements whose atoms form one group that takes the remaining charge"
    )
    electrode_groups: str | None = Field(default=None, description="array with the electrode of each atom")
    formal_charges: str | None = Field(default=None, description="array of formal charges, e")
    fragments: str | None = Field(default=None, description="array of fragments, or `connected`")
    fragment_charges: tuple[str, ...] = Field(default=(), description="info keys with fragment charges, e")
    field: str | None = Field(default=None, description="info key of the field in V/Å, vector or along z")
    displacement: str | None = Field(default=None, description="info key of D/eps0 in V/Å")
    born_transposed: bool = Field(default=False, description="the file's Born charges have the field first")
    work_function_side: Literal["+", "-"] | None = Field(
        default=None,
        description="side of the work functions, + where n = a x b points, if frames do not state it",
    )
    select: dict[str, Words] = Field(default_factory=dict, description="info key to patterns to keep")
    state: dict[str, Any] = Field(default_factory=dict, description="schema keys that hold for all frames")
    require: tuple[str, ...] = Field(default=(), description="schema keys every frame must give")
    ignore: tuple[str, ...] = Field(default=(), description="schema keys the file uses for something else")

    @model_validator(mode="after")
    def _one_role(self) -> SourceConfig:
        if self.split is not None and "use" in self.model_fields_set:
            raise wrong("", "use and split", "have one of the two", "remove `use`")
        return self

    def reading(self, charges: ChargeSpec) -> Reading:
        """How the file is read for a model with these charges."""
        return Reading(
            keys=self.keys.named(),
            optional=self.optional,
            level=self.level,
            boundary=self.boundary,
            total_charge=self.total_charge,
            electrode_elements=self.electrode_elements,
            electrode_groups=self.electrode_groups,
            formal=FORMAL_CHARGES | charges.formal,
            boundary_transfer=charges.boundary_transfer,
            formal_charges=self.formal_charges,
            fragments=self.fragments,
            fragment_charges=self.fragment_charges,
            field_key=self.field,
            displacement_key=self.displacement,
            born_transposed=self.born_transposed,
            work_function_side=self.work_function_side,
            select={k: words(v) for k, v in self.select.items()},
            state=self.state,
            require=self.require,
            ignore=self.ignore,
        )


class ChecksConfig(Block):
    """What makes a frame a bad one."""

    force_noise: Annotated[float, unit("eV/Å", "noise of force components", gt=0.0)] | None = Field(
        default=0.1, description="stated noise; forces that add up to more than 5 times of it are refused"
    )
    energy_outliers: Annotated[float, unit("", "robust standard deviations", gt=0.0)] | None = 6.0
    energy_floor: Annotated[float, unit("eV/atom", "smallest distance of an outlier", ge=0.0)] = 0.03
    largest_force: Annotated[float, unit("eV/Å", "largest force component", gt=0.0)] | None = 100.0
    closest: Annotated[float, unit("Å", "smallest distance of two atoms", ge=0.0)] = 0.3
    charge_sum: Annotated[float, unit("e", "largest error of summed charges", gt=0.0)] | None = 0.1


class DataConfig(Block):
    """The frames."""

    sources: tuple[SourceConfig, ...] = Field(description="files")
    checks: ChecksConfig = ChecksConfig()
    drop_bad: bool = Field(default=False, description="leave bad frames out instead of stopping")

    @model_validator(mode="after")
    def _some(self) -> DataConfig:
        if not self.sources:
            raise wrong("sources", "[]", "name at least one file", "add an entry with `file`")
        return self

    @model_validator(mode="after")
    def _known_names(self) -> DataConfig:
        # Not in the sources themselves: models that were trained before it was asked for must still be read.
        for number, source in enumerate(self.sources):
            where = f"sources[{number}]"
            for element in source.electrode_elements:
                remedy = not_an_element(element)
                if remedy:
                    raise wrong(f"{where}.electrode_elements", element, "be a chemical symbol", remedy)
            names = {"optional": tuple(LABELS)}
            names |= dict.fromkeys(("require", "ignore", "state"), ElectricState.names())
            for key, known in names.items():
                for name in getattr(source, key):
                    if name not in known:
                        what = "a label" if key == "optional" else "a key of the schema"
                        raise wrong(f"{where}.{key}", name, f"name {what}", _nearest(name, known))
        return self

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, data: Any) -> Any:
        """`train: a.xyz, valid: b.xyz` or `file: a.xyz` with the keys of a source is one or two sources."""
        if not isinstance(data, dict) or "sources" in data:
            return data
        own = {k: v for k, v in data.items() if k in ("checks", "drop_bad")}
        rest = {k: v for k, v in data.items() if k not in (*own, "train", "valid")}
        files = {k: data[k] for k in ("train", "valid") if k in data}
        if not files:
            return own | {"sources": [rest]}
        return own | {"sources": [{"file": path, "use": use, **rest} for use, path in files.items()]}
