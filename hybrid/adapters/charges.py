"""Charges beside a model that has none: fixed ones, or those the model itself predicts.

Everything here turns the output of a trunk into a `LocalOutput`, the same as the heads of our own model do, so
that the long range treats all of them alike. Charges learned on a model's features are in `feature_heads`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from grahame.hybrid.adapters.trunk import TrunkOutput
from grahame.hybrid.frames import Conditions
from grahame.hybrid.graph import Graph
from grahame.hybrid.heads import LocalOutput
from grahame.hybrid.model import FORMAL_CHARGES
from grahame.hybrid.shortrange.base import FloatArray, IntArray

WIDTH = 0.5
"""Å, Gaussian width where none is given; that of our own models before training."""


class ChargeSource(Protocol):
    """Where charges, widths and constants of solved atoms come from.

    Attributes:
        charged: whether there are any charges.
    """

    charged: bool

    @property
    def cutoff(self) -> float:
        """Neighbours it needs, Å."""
        ...

    @property
    def constants(self) -> bool:
        """Whether it predicts electronegativity and hardness of solved atoms."""
        ...

    def local(
        self, out: TrunkOutput, graph: Graph, numbers: Tensor, conditions: tuple[Conditions, ...], r: Tensor
    ) -> LocalOutput:
        """Charges and widths of a batch; r (p,) Å, distances of the graph's pairs."""
        ...

    def widths(self, numbers: IntArray) -> FloatArray:
        """(n,) Å."""
        ...

    def exclusions(self) -> IntArray:
        """(m,2) pairs of atoms without Coulomb interaction."""
        ...

    def describe(self) -> dict[str, Any]:
        """Ready for JSON."""
        ...


def _without_constants(
    out: TrunkOutput, charges: Tensor, widths: FloatArray, formal: Tensor | None = None
) -> LocalOutput:
    zeros = torch.zeros_like(charges)
    return LocalOutput(
        energy=out.energy,
        charges=charges,
        gained=None,
        formal=formal,
        widths=torch.as_tensor(widths, device=charges.device),
        electronegativity=zeros,
        hardness=zeros,
    )


def _by_element(name: str, unit: str, table: Mapping[str, float], default: float | None) -> FloatArray:
    """Value of each atomic number; nan where none is known."""
    values = np.full(len(chemical_symbols), np.nan if default is None else default)
    for element, value in table.items():
        if element not in atomic_numbers:
            raise ValueError(
                f"{name} of {element} = {value:g} {unit} must belong to a chemical symbol: correct it"
            )
        values[atomic_numbers[element]] = value
    return values


def _per_atom(name: str, unit: str, given: Any, default: float | None, numbers: IntArray) -> FloatArray:
    if isinstance(given, Mapping):
        return np.asarray(_by_element(name, unit, given, default)[numbers])
    values = np.asarray(given, dtype=float)
    if values.ndim == 0:
        return np.full(len(numbers), float(values))
    if values.shape != (len(numbers),):
        raise ValueError(
            f"{name} = {values.shape[0]} values must be one per atom ({len(numbers)}), or a mapping by element: correct "
            "the length"
        )
    return values


def _check_widths(widths: Any) -> None:
    values = np.asarray(list(widths.values()) if isinstance(widths, Mapping) else widths, dtype=float)
    if not (np.isfinite(values).all() and (values >= 0.0).all()):
        raise ValueError(
            f"widths = {values[~(np.isfinite(values) & (values >= 0))][0]:g} Å must be zero or positive: give Gaussian "
            "widths"
        )


class NoCharges:
    """No charges at all: the model is used alone."""

    cutoff = 0.0
    charged = False
    constants = False

    def local(
        self, out: TrunkOutput, graph: Graph, numbers: Tensor, conditions: tuple[Conditions, ...], r: Tensor
    ) -> LocalOutput:
        """Zeros."""
        return _without_constants(out, torch.zeros_like(graph.positions[:, 0]), np.full(len(numbers), WIDTH))

    def widths(self, numbers: IntArray) -> FloatArray:
        """(n,) Å, 0.5 everywhere; electrodes have these unless the calculator is told others."""
        return np.full(len(numbers), WIDTH)

    def exclusions(self) -> IntArray:
        """None."""
        return np.zeros((0, 2), dtype=np.int64)

    def describe(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"kind": "none"}


class FixedCharges:
    """Charges that never change.

    Args:
        values: e, by element or (n,) per atom; entries of solved atoms are ignored, and solved elements need none.
        widths: Å, Gaussian: one value, by element (others 0.5) or (n,) per atom. 0 is a point charge.
        exclusions: (m,2) pairs whose Coulomb interaction the model replaces, as bonded force fields need.
    Raises:
        ValueError: for charges that are not finite, negative widths, unknown symbols.

    >>> FixedCharges({"Na": 1.0, "Cl": -1.0}).of(np.array([11, 17])).tolist()
    [1.0, -1.0]
    """

    cutoff = 0.0
    charged = True
    constants = False

    def __init__(
        self,
        values: Mapping[str, float] | ArrayLike,
        widths: Mapping[str, float] | ArrayLike = WIDTH,
        exclusions: ArrayLike = (),
    ) -> None:
        self._values, self._widths = values, widths
        self._exclusions = np.asarray(exclusions, dtype=np.int64).reshape(-1, 2)
        _check_widths(widths)
        given = np.asarray(list(values.values()) if isinstance(values, Mapping) else values, dtype=float)
        if not np.isfinite(given).all():
            raise ValueError("charges = nan e must be finite: give one number for each element or atom")
        if isinstance(values, Mapping):
            _by_element("charge", "e", values, None)

    @classmethod
    def formal(cls, widths: Mapping[str, float] | ArrayLike = WIDTH, **others: float) -> FixedCharges:
        """The usual formal charges of aqueous chemistry (H 1, O -2, Na 1, Cl -1, ...), and others by symbol."""
        return cls(FORMAL_CHARGES | others, widths)

    def of(self, numbers: IntArray, solved: NDArray[np.bool_] | None = None) -> FloatArray:
        """(n,) e.

        Raises:
            ValueError: for an atom without a charge that no solver owns.
        """
        charges = _per_atom("charges", "e", self._values, None, numbers)
        free = np.zeros(len(numbers), dtype=np.bool_) if solved is None else solved
        missing = np.isnan(charges) & ~free
        if missing.any():
            atom = int(np.argmax(missing))
            raise ValueError(
                f"charges[{atom}] = nothing for {chemical_symbols[int(numbers[atom])]} must be given: name the element's "
                "charge, or make the atom part of an electrode"
            )
        return np.where(free, 0.0, charges)

    def local(
        self, out: TrunkOutput, graph: Graph, numbers: Tensor, conditions: tuple[Conditions, ...], r: Tensor
    ) -> LocalOutput:
        """The charges, whatever the positions."""
        z = numbers.cpu().numpy()
        charges = torch.as_tensor(self.of(z, graph.solved.cpu().numpy()), device=graph.positions.device)
        return _without_constants(out, charges, self.widths(z), formal=charges)

    def widths(self, numbers: IntArray) -> FloatArray:
        """(n,) Å."""
        return _per_atom("widths", "Å", self._widths, WIDTH, numbers)

    def exclusions(self) -> IntArray:
        """(m,2)."""
        return self._exclusions

    def describe(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "kind": "fixed",
            "charges": _plain(self._values),
            "widths": _plain(self._widths),
            "exclusions": len(self._exclusions),
        }


class ModelCharges:
    """Charges that the model itself predicts as a function of positions; its derivatives enter the forces.

    Args:
        total: charge of all atoms that no solver owns, e. What the model misses is shared equally among them, so
            that the cell's charge is exact. None takes charges as they are: what the electrolyte gains, the
            electrodes lose.
        widths: Å, as for `FixedCharges`.
        tolerance: e per atom; charges further from `total` are refused.
    """

    cutoff = 0.0
    charged = True
    constants = False

    def __init__(
        self,
        total: float | None,
        widths: Mapping[str, float] | ArrayLike = WIDTH,
        tolerance: float = 0.01,
    ) -> None:
        _check_widths(widths)
        self.total, self.tolerance = total, tolerance
        self._widths = widths

    def local(
        self, out: TrunkOutput, graph: Graph, numbers: Tensor, conditions: tuple[Conditions, ...], r: Tensor
    ) -> LocalOutput:
        """The model's charges.

        Raises:
            ValueError: if the model has none, or they are far from the total.
        """
        if out.charges is None:
            raise ValueError(
                "charges = none in the model's outputs must be there: use FixedCharges, or heads on its features"
            )
        free = (~graph.solved).to(torch.float64)
        charges = out.charges * free
        if self.total is not None:
            count = graph.per_frame(free)
            missing = (self.total - graph.per_frame(charges)) / count
            worst = float(missing.detach().abs().max())
            if worst > self.tolerance:
                raise ValueError(
                    f"charges = {worst:.3g} e per atom away from a total of {self.total:g} e must be within "
                    f"{self.tolerance:g} e: check the total, or that the electrodes are those the model was trained with"
                )
            charges = charges + missing[graph.frame] * free
        found = _without_constants(out, charges, self.widths(numbers.cpu().numpy()))
        given = None
        if self.total is None and bool(graph.solved.any()):
            # No path says which metal atom gave what: all alike.
            metal = graph.solved.to(torch.float64)
            count = graph.per_frame(metal).clamp(min=1.0)
            given = (graph.per_frame(charges) / count)[graph.frame] * metal
        return replace(found, shared=(True,) * graph.frames, given=given)

    def widths(self, numbers: IntArray) -> FloatArray:
        """(n,) Å."""
        return _per_atom("widths", "Å", self._widths, WIDTH, numbers)

    def exclusions(self) -> IntArray:
        """None."""
        return np.zeros((0, 2), dtype=np.int64)

    def describe(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"kind": "of the model", "total": self.total, "widths": _plain(self._widths)}


def _plain(value: Any) -> Any:
    """A mapping or array, ready for JSON."""
    return dict(value) if isinstance(value, Mapping) else np.asarray(value, dtype=float).tolist()
