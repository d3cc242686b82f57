"""What a model is, all but its weights: elements, sizes, where charges come from, how nothing counts twice.

It is stored with the weights and is all that is needed to rebuild the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from grahame.hybrid.config_errors import explain
from grahame.hybrid.heads import Widths
from grahame.hybrid.shortrange.equivariant import Architecture

__all__ = ["FORMAL_CHARGES", "ChargeSpec", "ModelSpec", "sentences"]

# Closed-shell aqueous species: H2O, OH-, H3O+ and these ions come out right.
FORMAL_CHARGES: dict[str, float] = {
    "H": 1.0, "O": -2.0, "Li": 1.0, "Na": 1.0, "K": 1.0, "Rb": 1.0, "Cs": 1.0, "Mg": 2.0, "Ca": 2.0,
    "F": -1.0, "Cl": -1.0, "Br": -1.0, "I": -1.0,
}  # fmt: skip
_WIDTH = 0.5
Hardness = Annotated[float, Field(ge=0.0)]


def sentences(error: ValidationError, model: type[BaseModel]) -> str:
    """What is wrong with a specification, one sentence for each key.

    Args:
        error: what pydantic raised for `model`.
    """
    details = error.errors(include_url=False)
    if any(d["type"] != "finite_number" for d in details):
        return explain(error, model)
    # With level and element, of tables by these.
    named = [f"{'.'.join(map(str, d['loc']))} = {d['input']} must be finite: correct it" for d in details]
    return "\n".join(named)


class _Spec(BaseModel):
    """A specification; what it refuses in Python is said in sentences, not in pydantic's list."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ValueError(sentences(error, type(self))) from None

    # Within other blocks, as from files, pydantic checks by itself and says where in the file an error is.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]


class ChargeSpec(_Spec):
    """Where charges come from.

    Attributes:
        kind: "none" (no long range), "transfer", "projected", or "solved".
        formal: formal charge of elements (e); those not named have the usual ones of aqueous chemistry, or 0. Projected
            charges start from them before training; there elements that are not named start at 0. Solved charges start
            from a part of them where no label would say their sign.
        widths: Gaussian width of elements (Å); those not named have 0.5 Å, metals 0.392 Å is usual.
        train_widths: whether training changes the widths.
        rank: terms of a transfer.
        boundary_transfer: electrolyte atoms exchange charge with solved atoms; electrode charges, and capacitances from
            them, are then those of the metal's own atoms, and reservoirs supply what was given away too (`exchange`).
        hardness: J of solved atoms before training, V/e; one number, or by element (those not named have 0).
        site_constants: "fixed" (chi = 0, J = hardness), "element", or "environment", which solved charges always have.
        constant_sites: elements whose chi and J are those of the element where others' follow the surroundings. A few
            atoms in few frames would otherwise be learned by heart, and what comes from far away with them.
        dipoles: elements whose atoms carry a dipole beside their charge, and the length it stays below (e Å).
        own_network: charges, site constants and dipoles come from a network of their own, as large as that of the energy
            and beside it, so that one can be trained while the other stays; twice the work.
        in_energy: the local energy of an atom depends on its solved charge too (`charge_energy`), as in fourth-generation
            potentials; potentials cannot be held then.
        from_rest: the energy of a solved charge is counted from the one that it would have alone, q0 = -chi/(J + k/(sqrt(pi)
            s)): chi²/(2 (J + k/(sqrt(pi) s))) is part of the local energy. Where J is large the network would have to cancel
            it: J q0 is hundreds of volts, times every change of q0 with the surroundings.
    """

    kind: Literal["none", "transfer", "projected", "solved"] = "transfer"
    formal: dict[str, float] = Field(default_factory=dict, description="formal charge of elements, e")
    widths: dict[str, float] = Field(default_factory=dict, description="Gaussian width of elements, Å")
    train_widths: bool = False
    rank: int = Field(default=16, ge=1)
    boundary_transfer: bool = False
    hardness: Hardness | dict[str, Hardness] = Field(
        default=0.0, description="hardness of solved atoms before training, V/e; one number or by element"
    )
    site_constants: Literal["fixed", "element", "environment"] = "fixed"
    constant_sites: tuple[str, ...] = Field(
        default=(), description="elements whose chi and J do not see the surroundings"
    )
    dipoles: dict[str, float] = Field(
        default_factory=dict, description="largest atomic dipole of elements that have one, e Å"
    )
    own_network: bool = False
    in_energy: bool = False
    from_rest: bool = False

    @model_validator(mode="after")
    def _parts_fit_together(self) -> ChargeSpec:
        for element, width in self.widths.items():
            if width <= Widths.smallest:
                raise ValueError(
                    f"widths.{element} = {width:g} Å must be above {Widths.smallest:g} Å: {_WIDTH:g} Å is usual, 0.392 Å of "
                    "metals"
                )
        for element, longest in self.dipoles.items():
            if element not in atomic_numbers or not (np.isfinite(longest) and longest > 0.0):
                raise ValueError(
                    f"dipoles of {element} = {longest:g} e Å must be positive and belong to a chemical symbol: 1 is usual"
                )
        if self.dipoles and self.kind not in ("transfer", "projected"):
            raise ValueError(
                f"dipoles = {', '.join(self.dipoles)} must be left out with charges of kind {self.kind}: atomic dipoles "
                "stand beside predicted charges, kind transfer or projected"
            )
        if self.own_network and self.kind == "none":
            raise ValueError(
                "own_network = true must be left out with charges of kind none: nothing would come from it"
            )
        environment = self.kind == "solved" or self.site_constants == "environment"
        if self.constant_sites and not environment:
            raise ValueError(
                f"constant_sites = {', '.join(self.constant_sites)} must be left out where no chi or J sees the surroundings: "
                "use kind solved or site_constants environment"
            )
        strange = [e for e in self.constant_sites if e not in atomic_numbers]
        if strange:
            raise ValueError(f"constant_sites = {', '.join(strange)} must be chemical symbols: correct them")
        if self.from_rest and not environment:
            raise ValueError(
                "from_rest = true must be left out where no chi or J sees the surroundings: there the energy of a charge alone is "
                "a constant; use kind solved or site_constants environment"
            )
        if self.in_energy and self.kind != "solved":
            raise ValueError(
                f"in_energy = true must be left out with charges of kind {self.kind}: the local energy sees what predicted "
                "charges are made of already; use kind solved"
            )
        return self

    @property
    def hard(self) -> bool:
        """Whether any solved atom has a hardness before training."""
        values = self.hardness.values() if isinstance(self.hardness, dict) else [self.hardness]
        return any(v > 0.0 for v in values)

    def constant_of(self, elements: Sequence[str]) -> list[bool]:
        """Whether chi and J of each element are those of the element, whatever surrounds its atoms."""
        return [e in self.constant_sites for e in elements]

    def hardness_of(self, elements: Sequence[str]) -> list[float]:
        """J of each element before training, V/e."""
        if isinstance(self.hardness, dict):
            return [self.hardness.get(e, 0.0) for e in elements]
        return [self.hardness] * len(elements)


class ModelSpec(_Spec):
    """Everything of a model but its weights.

    Attributes:
        elements: chemical symbols, in the order of the species index.
        architecture: sizes of the network.
        dtype: precision of the network; sums and charges are in double precision.
        levels: levels of theory, one energy readout each; the first is the default.
        reference_energies: per level and element, eV.
        neighbors: mean number of neighbours in the training data.
        scale: of energies, eV.
        repulsion: whether the nuclear repulsion is part of the model.
        charges: where charges come from.
        double_counting: "smeared", or "switched" between the two radii `switch` (Å).
        accuracy: of the Coulomb operator the model was trained with.
        provenance: training data, code and history, for people to read.
    """

    elements: tuple[str, ...]
    architecture: Architecture = Architecture()
    dtype: Literal["float32", "float64"] = "float32"
    levels: tuple[str, ...] = ("default",)
    reference_energies: dict[str, dict[str, float]] = Field(default_factory=dict)
    neighbors: float = Field(default=40.0, gt=0.0, description="mean number of neighbours")
    scale: float = Field(
        default=1.0, gt=0.0, description="scale of energies", json_schema_extra={"unit": "eV"}
    )
    repulsion: bool = True
    charges: ChargeSpec = ChargeSpec()
    double_counting: Literal["smeared", "switched"] = "smeared"
    switch: tuple[float, float] | None = None
    accuracy: float = Field(
        default=1e-5, gt=0.0, le=0.1, description="relative force error of the electrostatics"
    )
    provenance: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> ModelSpec:
        unknown = [e for e in self.elements if e not in atomic_numbers]
        if unknown or not self.elements or len(set(self.elements)) != len(self.elements):
            raise ValueError(
                f"elements = {list(self.elements)} must be chemical symbols, each once: name every element of the data"
            )
        if not self.levels or len(set(self.levels)) != len(self.levels):
            raise ValueError(
                f"levels = {list(self.levels)} must be names, each once: one for each level of theory"
            )
        for level, energies in self.reference_energies.items():
            foreign = [e for e in energies if e not in self.elements]
            if foreign:
                raise ValueError(
                    f"reference_energies of {', '.join(foreign)} at level {level} must belong to elements of the model "
                    f"({', '.join(self.elements)}): correct the symbols"
                )
        strange = [e for e in self.charges.dipoles if e not in self.elements]
        if strange:
            raise ValueError(
                f"dipoles of {', '.join(strange)} must belong to elements of the model ({', '.join(self.elements)}): "
                "correct the symbols"
            )
        if self.double_counting == "switched":
            if self.charges.dipoles:
                raise ValueError(
                    f"dipoles = {', '.join(self.charges.dipoles)} must be left out with double_counting switched: only "
                    "pairs of charges are removed there; use smeared"
                )
            if self.switch is None or not 0.0 <= self.switch[0] < self.switch[1]:
                raise ValueError(
                    f"switch = {self.switch} Å must be two radii, 0 <= inner < outer: double_counting switched removes "
                    "the bare interaction between them"
                )
            if self.switch[1] > self.architecture.cutoff:
                raise ValueError(
                    f"switch = {self.switch[1]:g} Å must not exceed the cut-off of {self.architecture.cutoff:g} Å: "
                    "beyond it the network sees no pair that could make up for what is removed"
                )
            if self.charges.kind == "solved":
                raise ValueError(
                    "double_counting = switched must not go with solved charges: its kernel is not positive; use smeared"
                )
        elif self.switch is not None:
            raise ValueError(
                f"switch = {self.switch} Å must be left out with double_counting smeared: nothing is removed there"
            )
        return self

    @property
    def long_range(self) -> bool:
        """Whether the model has charges."""
        return self.charges.kind != "none"

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Atomic number of each species."""
        return np.array([atomic_numbers[e] for e in self.elements], dtype=np.int64)

    def species(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Species index of each atom.

        Raises:
            ValueError: for an element that the model does not know.
        """
        table = np.full(len(chemical_symbols), -1, dtype=np.int64)
        table[self.numbers] = np.arange(len(self.elements))
        out: NDArray[np.int64] = table[numbers]
        if (out < 0).any():
            index = int(np.argmax(out < 0))
            raise ValueError(
                f"numbers[{index}] = {chemical_symbols[int(numbers[index])]} must be an element of the model "
                f"({', '.join(self.elements)}): train a model that knows it"
            )
        return out

    def without_reference(self, level: str, numbers: NDArray[np.int64]) -> list[str]:
        """Elements among some atoms whose energy zero at a level is not known, where that of others is."""
        known = self.reference_energies.get(level, {})
        return [e for e in (chemical_symbols[z] for z in np.unique(numbers)) if known and e not in known]

    def formal_charge(self, element: str) -> float:
        """Formal charge of an element, e."""
        return self.charges.formal.get(element, FORMAL_CHARGES.get(element, 0.0))

    def width(self, element: str) -> float:
        """Gaussian width of an element before training, Å."""
        return self.charges.widths.get(element, _WIDTH)
