"""The configuration of `grahame run`: one YAML file, every key checked, every unit in its name or description.

Unknown keys are refused with the nearest known one; `explain` turns a validation error into sentences of the
form `<name> = <value> <unit> must <rule>: <what to do>`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator

from grahame.hybrid.conditions import Ramp
from grahame.hybrid.config_base import (
    AnyCase,
    Block,
    Count,
    Interval,
    Potential,
    Temperature,
    located,
    read_yaml,
    unit,
    wrong,
)
from grahame.hybrid.config_errors import explain, show
from grahame.hybrid.config_short_range import (
    Boundary,
    ClassicalConfig,
    ForeignConfig,
    ShortRangeConfig,
)

__all__ = ["RunConfig", "explain", "load_config", "parse_config"]


DISPLACEMENT_VACUUM = 5.0
"""Vacuum (Å) below and above the electrodes of a cell that is built for constant displacement."""


class BuildConfig(Block):
    """Arguments of `grahame.hybrid.build.build_cell`; what is left out keeps that function's default."""

    surface: str = Field(default="Au(111)", description="electrode surface, element and facet")
    size: tuple[Count, Count, Count] = Field(
        default=(8, 8, 3), description="surface cells along a and b, and layers"
    )
    gap: Annotated[float, unit("Å", "distance of the facing metal layers", gt=0.0)] = 27.0
    water_density: Annotated[float, unit("g/cm³", "water density", gt=0.0, le=5.0)] = 0.997
    concentration: Annotated[float, unit("mol/L", "salt concentration", ge=0.0, le=20.0)] = 1.0
    ions: tuple[str, str] = Field(default=("Na", "Cl"), description="cation and anion")
    film: bool = Field(default=False, description="a water film on one electrode instead of a filled gap")
    vacuum: Annotated[float, unit("Å", "empty space below and above", ge=0.0)] | None = Field(
        default=None, description="left out: as the boundary needs"
    )
    periodic: bool | None = Field(
        default=None, description="periodic along c; left out: as the boundary needs"
    )
    contact: Annotated[float, unit("Å", "closest approach of the liquid to the metal", gt=0.0)] = 2.7
    waters: int | None = Field(
        default=None, ge=0, description="number of molecules, instead of water_density"
    )
    ion_pairs: int | None = Field(
        default=None, ge=0, description="number of ion pairs, instead of concentration"
    )
    seed: int = Field(default=0, ge=0, description="seed of the packing")

    @model_validator(mode="after")
    def _one_amount(self) -> BuildConfig:
        if self.model_fields_set == set(type(self).model_fields):
            return self  # the record of a run, which holds defaults too
        for key, unit_, count in (
            ("water_density", "g/cm³", "waters"),
            ("concentration", "mol/L", "ion_pairs"),
        ):
            number = getattr(self, count)
            if key in self.model_fields_set and number is not None:
                value = f"{getattr(self, key):g} {unit_}"
                rule = f"be left out beside {count} = {number}"
                raise wrong(key, value, rule, "one of them says it; give one")
        return self

    def arguments(self, boundary: str) -> dict[str, Any]:
        """Keywords for the builder: the keys that were written, and what the boundary needs.

        In "3d" and "finite-field" the electrodes are the two halves of one slab that the cell boundary cuts.
        Constant displacement takes each charge where it stands, so there metal must not cross the boundary:
        vacuum separates the backs of the electrodes.
        """
        given = self.model_dump(exclude_unset=True, exclude_none=True)
        needed: dict[str, Any] = {"periodic": boundary in ("3d", "finite-field", "displacement")}
        if boundary == "displacement":
            needed["vacuum"] = DISPLACEMENT_VACUUM
        return needed | given


class StructureConfig(Block):
    """Where the atoms come from: a file ASE reads, or a cell built here."""

    file: str | None = Field(default=None, description="path, relative to the configuration file")
    build: BuildConfig | None = Field(default=None, description="arguments of the cell builder")

    @model_validator(mode="after")
    def _one_source(self) -> StructureConfig:
        if (self.file is None) == (self.build is None):
            given = "file and build" if self.file is not None else "nothing"
            raise wrong("", given, "be exactly one of `file` and `build`", "write one of the two blocks")
        return self


class CoulombConfig(Block):
    """Boundary, method and accuracy of the Coulomb operator."""

    boundary: Annotated[Boundary, AnyCase] = "slab"
    method: Annotated[Literal["auto", "exact", "ewald", "pme"], AnyCase] = "auto"
    accuracy: Annotated[float, unit("", "relative rms force error", gt=0.0, le=0.1)] | None = (
        None  # 1e-5, or what the model was trained with
    )
    vacuum: Literal["auto"] | Annotated[float, unit("Å", "padding of the k-space cell", ge=0.0)] = "auto"
    background: Literal["gaussian", "point"] = "gaussian"
    coulomb_constant: Annotated[float, unit("eV Å/e²", "k", gt=0.0)] | None = None


class ElectrodeConfig(Block):
    """One electrode: which atoms, what is held, whether its atoms move."""

    group: int | None = Field(default=None, ge=0, description="value in the atoms' array `electrode`")
    indices: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        default=None, description="atom indices from 0"
    )
    element: str | None = Field(default=None, description="all atoms of an element, with `side`")
    side: Literal["bottom", "top"] | None = Field(
        default=None, description="which side of the widest gap along n"
    )
    potential: Potential | None = None
    charge: Annotated[float, unit("e", "held total charge")] | None = None
    ramp: tuple[tuple[float, Potential], ...] | None = Field(
        default=None, description="[time in ps from the start of `produce`, potential in V] points"
    )
    mobile: bool = Field(
        default=False,
        description="whether the atoms of this electrode move; layers that the structure holds stay, unless it holds all",
    )

    @model_validator(mode="after")
    def _selected_and_held(self) -> ElectrodeConfig:
        chosen = [k for k in ("group", "indices", "element") if getattr(self, k) is not None]
        if len(chosen) != 1:
            raise wrong(
                "",
                " and ".join(chosen) or "no atoms",
                "select its atoms by exactly one of `group`, `indices` and `element` with `side`",
                "in a built cell `group: 0` is the bottom and `group: 1` the top electrode",
            )
        if self.indices is not None and len(set(self.indices)) != len(self.indices):
            twice = next(i for i in self.indices if self.indices.count(i) > 1)
            raise wrong("indices", f"{twice} twice", "name every atom once", "remove the repetition")
        if self.indices == ():
            raise wrong(
                "indices", "[]", "name at least one atom", "list atom indices or remove the electrode"
            )
        if (self.element is None) != (self.side is None):
            given = "element" if self.element is not None else "side"
            raise wrong("", f"{given} alone", "give `element` and `side` together", "add the missing one")
        held = [k for k in ("potential", "charge", "ramp") if getattr(self, k) is not None]
        if len(held) != 1:
            raise wrong(
                "",
                " and ".join(held) or "nothing held",
                "hold exactly one of `potential` (V), `charge` (e) and `ramp` ([ps, V] points)",
                "write e.g. `potential: 1.0`",
            )
        if self.ramp is not None:
            try:
                Ramp.from_points(self.ramp)
            except ValueError as error:
                shown, _, message = str(error).partition(" must ")
                rule, _, remedy = message.partition(": ")
                raise wrong("ramp", shown.partition(" = ")[2], rule, remedy) from error
        return self


Parameter = float | tuple[float, ...]


class SolverConfig(Block):
    """Electrode charges: one value for all electrodes or one per electrode."""

    smearing: Annotated[Parameter, unit("Å", "Gaussian width s of the electrode charges")] | None = (
        None  # 0.392 Å, or the model's
    )
    hardness: Annotated[Parameter, unit("V/e", "J in 1/2 J q²")] = 0.0
    electronegativity: Annotated[Parameter, unit("V", "chi")] = 0.0
    thomas_fermi_length: Annotated[Parameter, unit("Å", "Thomas-Fermi length")] = 0.0
    voronoi_volume: Annotated[Parameter, unit("Å³", "volume per electrode atom")] | None = None
    method: Literal["auto", "direct", "iterative"] = "auto"
    tolerance: Annotated[float, unit("", "relative residual of the iteration", gt=0.0, lt=1.0)] | None = None
    total_charge: Annotated[float, unit("e", "charge of the whole cell")] | None = 0.0


class PotentiostatConfig(Block):
    """Thermo-potentiostat: the cell voltage fluctuates as kT/C demands."""

    temperature_K: Temperature = 300.0
    time_constant_fs: Annotated[float, unit("fs", "R C of the fluctuating charge", gt=0.0)] = 100.0


class MinimiseConfig(Block):
    """Relaxation by FIRE before any dynamics."""

    fmax: Annotated[float, unit("eV/Å", "largest force to stop at", gt=0.0)] = 0.5
    steps: int = Field(default=200, ge=0, description="largest number of steps")


class StageConfig(Block):
    """One stretch of molecular dynamics."""

    ensemble: Annotated[Literal["nve", "langevin", "nose-hoover"], AnyCase] = "langevin"
    temperature_K: Temperature = 300.0
    timestep_fs: Annotated[float, unit("fs", "time step", gt=0.0, le=10.0)] = 0.5
    time_ps: Annotated[float, unit("ps", "length", ge=0.0)] | None = None
    steps: int | None = Field(default=None, ge=0, description="length in steps, instead of time_ps")
    friction_per_ps: Annotated[float, unit("1/ps", "Langevin friction", gt=0.0, le=1000.0)] = 5.0
    relaxation_time_fs: Annotated[float, unit("fs", "Nosé-Hoover relaxation time", gt=0.0)] = 100.0
    chain_length: int = Field(default=3, ge=1, le=20, description="Nosé-Hoover thermostats in the chain")

    @model_validator(mode="after")
    def _one_length(self) -> StageConfig:
        if (self.time_ps is None) == (self.steps is None):
            given = "time_ps and steps" if self.steps is not None else "no length"
            raise wrong("", given, "give exactly one of `time_ps` and `steps`", "write e.g. `time_ps: 10`")
        if self.time_ps and self.n_steps == 0:
            raise wrong(
                "time_ps",
                f"{self.time_ps:g} ps",
                f"hold at least one step of {self.timestep_fs:g} fs",
                "write a longer time, in ps, or a shorter timestep_fs",
            )
        return self

    @property
    def n_steps(self) -> int:
        """Number of time steps."""
        if self.steps is not None:
            return self.steps
        assert self.time_ps is not None
        return round(1000.0 * self.time_ps / self.timestep_fs)


class DynamicsConfig(Block):
    """Minimise, equilibrate, produce: in this order, each one optional."""

    minimise: MinimiseConfig | None = None
    equilibrate: StageConfig | None = None
    produce: StageConfig | None = None
    seed: int = Field(default=0, ge=0, description="seed of velocities, Langevin noise and the potentiostat")


class OutputConfig(Block):
    """What is written and how often."""

    name: str = Field(
        default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", description="stem of all file names"
    )
    folder: str = Field(
        default=".", description="folder of all files, relative to the working directory; ~ is the home"
    )
    trajectory_interval: Interval = 200
    log_interval: Interval = 20
    checkpoint_interval: Interval = 1000
    ase_trajectory: bool = Field(
        default=False, description="at the end also write <name>.traj, ASE's binary format"
    )
    overwrite: bool = Field(default=False, description="replace the files of an earlier run of this name")


class RunConfig(Block):
    """Everything `grahame run` needs."""

    structure: StructureConfig
    short_range: ShortRangeConfig = ClassicalConfig()
    coulomb: CoulombConfig = CoulombConfig()
    electrodes: tuple[ElectrodeConfig, ...] = ()
    field: Annotated[float, unit("V/Å", "field along the surface normal")] | None = None
    displacement: Annotated[float, unit("V/Å", "D/eps0 along the surface normal")] | None = None
    solver: SolverConfig = SolverConfig()
    thermo_potentiostat: PotentiostatConfig | None = None
    dynamics: DynamicsConfig
    output: OutputConfig = OutputConfig()
    _folder: Path = PrivateAttr(default_factory=Path)

    @property
    def structure_path(self) -> Path | None:
        """The structure file, or None for a built cell."""
        return None if self.structure.file is None else self.path(self.structure.file)

    @property
    def model_path(self) -> Path | None:
        """The model file, or None with a classical short range.

        Raises:
            FileNotFoundError: if there is no such file.
        """
        if isinstance(self.short_range, ClassicalConfig):
            return None
        if isinstance(self.short_range, ForeignConfig):
            path = self.path(self.short_range.model)
            if not path.is_file():
                raise FileNotFoundError(f"model = {path} must be an existing file: check the path")
            return path
        from grahame.hybrid.model_file import find_model

        return find_model(self.short_range.model, self._folder)

    def path(self, file: str) -> Path:
        """A path of the configuration, which is relative to its folder; `~` is the home."""
        return located(file, self._folder)

    @field_validator("short_range", mode="before")
    @classmethod
    def _known_kind(cls, block: object) -> object:
        if isinstance(block, dict) and block.get("kind", "learned") not in (
            "classical",
            "learned",
            "foreign",
        ):
            raise wrong(
                "kind",
                repr(block["kind"]),
                "be classical, learned or foreign",
                "for a trained model write `model:`, for one of another program also `program:`",
            )
        if isinstance(block, dict) and "model" in block and block.get("kind") == "classical":
            raise wrong("", "kind classical and a model", "be one of the two", "remove `kind` or `model`")
        return block

    @model_validator(mode="after")
    def _fits_together(self) -> RunConfig:
        boundary = self.coulomb.boundary
        if boundary == "displacement" and self.displacement is None:
            raise wrong("displacement", "nothing", "be given with this boundary", "add `displacement` in V/Å")
        if boundary != "displacement" and self.displacement is not None:
            raise wrong(
                "displacement",
                f"{self.displacement:g} V/Å",
                f"come with `boundary: displacement`, not {boundary}",
                "change coulomb.boundary or remove `displacement`",
            )
        built = self.structure.build
        if boundary == "displacement" and built is not None and built.vacuum == 0.0:
            raise wrong(
                "structure.build.vacuum",
                "0 Å",
                "be greater than 0 with `boundary: displacement`, where metal must not cross the cell boundary",
                f"leave it out for {DISPLACEMENT_VACUUM:g} Å",
            )
        if self.field is not None and boundary not in ("3d", "slab", "slab-exact"):
            raise wrong(
                "field",
                f"{self.field:g} V/Å",
                f"come with a boundary that takes a field (3d, slab, slab-exact), not {boundary}",
                "remove `field`",
            )
        count = len(self.electrodes)
        for key in ("smearing", "hardness", "electronegativity", "thomas_fermi_length", "voronoi_volume"):
            value = getattr(self.solver, key)
            if isinstance(value, tuple) and len(value) != count:
                raise wrong(
                    f"solver.{key}",
                    f"{len(value)} values",
                    f"be one value or one per electrode ({count})",
                    f"write one number or {count} numbers",
                )
        groups = [e.group for e in self.electrodes if e.group is not None]
        for group in sorted(set(groups)):
            if groups.count(group) > 1:
                raise wrong(
                    "electrodes", f"group {group} twice", "use every group once", "give each its own group"
                )
        if self.thermo_potentiostat is not None:
            held = sum(e.charge is None for e in self.electrodes)
            if count != 2 or held != 2:
                raise wrong(
                    "thermo_potentiostat",
                    f"{count} electrodes, {held} of them at a potential",
                    "have exactly two electrodes, both at held potentials",
                    "add the second potential or remove `thermo_potentiostat`",
                )
        return self


def parse_config(data: object, folder: Path | str = ".") -> RunConfig:
    """A checked configuration from nested dicts.

    Args:
        data: what a YAML reader returns.
        folder: what `structure.file` is relative to.
    Raises:
        ValueError: one sentence per wrong key.
    """
    if not isinstance(data, dict):
        raise ValueError(
            f"configuration = {show(data)} must be a mapping of keys: start with `structure:` and `dynamics:` blocks"
        )
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        raise ValueError(explain(error)) from None
    config._folder = Path(folder)
    return config


def load_config(path: str | Path) -> RunConfig:
    """Read and check the configuration of a run.

    Args:
        path: a YAML file; `structure.file` in it is relative to its folder.
    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is not YAML, or one sentence per wrong key.
    """
    data, folder = read_yaml(path, RunConfig)
    return parse_config(data, folder)
