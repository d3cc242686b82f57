"""The electric state that comes with a frame: a typed mapping of its keys, none of them guessed.

A charged cell without its countercharge, a potential without its reference scale, a field without its kind or
unit mean nothing; each is an error that names the missing key. Potentials convert between vacuum, SHE and RHE;
other scales are refused, not guessed.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from grahame.hybrid.conditions import ABSOLUTE_SHE, field_from_atomic_units, rhe_from_she, she_from_rhe

__all__ = ["CHOICES", "ElectricState"]

CHOICES: dict[str, tuple[str, ...]] = {
    "potential_reference": ("vacuum", "SHE", "RHE+pH", "PZC", "internal"),
    "field_kind": ("E", "D", "sawtooth"),
    "field_unit": ("V/Å", "a.u."),
    "countercharge": (
        "explicit_ions", "uniform_background", "planar_gate", "jellium_slab", "poisson_boltzmann", "none",
    ),
    "energy_kind": ("E", "Omega", "enthalpy"),
    "born_kind": ("at_Q", "at_psi", "at_E", "at_D"),
    "slab_axis": ("x", "y", "z"),
    "work_function_side": ("+", "-", "+n", "-n"),
}  # fmt: skip
"""Keys whose values are words, and the words."""

_NUMBERS = ("total_charge", "n_electrons", "excess_charge", "pH", "work_function", "fermi_level", "smearing")
_LISTS = ("electrode_charge", "potential", "external_field", "polarization", "branch")
_SCALES = ("vacuum", "SHE", "RHE+pH")


@dataclass(frozen=True)
class ElectricState:
    """Charge, potential and field of a frame, and how its labels were computed.

    Attributes:
        total_charge: e, of the cell. excess_charge: e, + = electrons removed. n_electrons: number of electrons.
        electrode_charge: e, and potential: V, per electrode group.
        potential_reference: scale of `potential`; with "RHE+pH" the key `pH` is needed.
        work_function, fermi_level: eV; work_function_side: +n for the side that n = a x b points to, -n for the other.
        external_field: (3,) in `field_unit`; field_kind: which field that is.
        countercharge: what neutralises a charged cell.
        slab_axis, dipole_correction, solvation: of the cell.
        polarization: e/Å² or e Å as the file says; branch: the quantum it is known up to.
        energy_kind, born_kind: what energies and Born charges are at fixed.
        code, functional, dispersion, basis, k_points, smearing (eV): of the calculation.
    """

    total_charge: float | None = None
    n_electrons: float | None = None
    excess_charge: float | None = None
    electrode_charge: tuple[float, ...] | None = None
    potential: tuple[float, ...] | None = None
    potential_reference: str | None = None
    pH: float | None = None
    work_function: float | None = None
    work_function_side: str | None = None
    fermi_level: float | None = None
    external_field: tuple[float, ...] | None = None
    field_kind: str | None = None
    field_unit: str | None = None
    countercharge: str | None = None
    solvation: str | None = None
    slab_axis: str | None = None
    dipole_correction: bool | None = None
    polarization: tuple[float, ...] | None = None
    branch: tuple[float, ...] | None = None
    energy_kind: str | None = None
    born_kind: str | None = None
    code: str | None = None
    functional: str | None = None
    dispersion: str | None = None
    basis: str | None = None
    k_points: str | None = None
    smearing: float | None = None

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of all keys."""
        return tuple(f.name for f in fields(cls))

    @classmethod
    def from_info(
        cls, info: Mapping[str, Any], required: tuple[str, ...] = (), periodic: bool = True
    ) -> ElectricState:
        """The state that a frame's info states; other keys of the info are left alone.

        Args:
            info: of ASE atoms.
            required: keys that must be there beside those that follow from others.
            periodic: whether the cell repeats; only then a charge needs its countercharge.
        Raises:
            ValueError: for a missing key, a value of the wrong kind or an unknown word, naming the key.
        """
        found = {name: _value(name, info[name]) for name in cls.names() if info.get(name) is not None}
        state = cls(**found)
        if state.total_charge is None and state.excess_charge is not None:
            state = replace(state, total_charge=state.excess_charge)
        state._complete(required, periodic)
        return state

    def _complete(self, required: tuple[str, ...], periodic: bool) -> None:
        for name in required:
            if name not in self.names():
                near = difflib.get_close_matches(name, self.names(), n=1)
                remedy = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(self.names())}"
                raise ValueError(f"require = {name} must be a key of the schema: {remedy}")
        needs = [(name, "it is required") for name in ("total_charge", *required)]
        if self.total_charge and periodic:
            needs.append(("countercharge", f"the cell has total_charge = {self.total_charge:g} e"))
        if self.potential is not None:
            needs.append(("potential_reference", "a potential has a meaning on a scale only"))
        if self.potential_reference == "RHE+pH":
            needs.append(("pH", "RHE depends on it"))
        if self.external_field is not None:
            needs.append(("field_kind", "there is an external_field"))
            needs.append(("field_unit", "there is an external_field"))
        if self.polarization is not None:
            needs.append(("branch", "a polarization is known up to a quantum"))
        for name, reason in needs:
            if getattr(self, name) is None:
                choice = f", one of {', '.join(CHOICES[name])}" if name in CHOICES else ""
                raise ValueError(f"{name} = nothing must be given, {reason}: add the key{choice}")
        if self.excess_charge is not None and self.excess_charge != self.total_charge:
            raise ValueError(
                f"excess_charge = {self.excess_charge:g} e must equal total_charge = {self.total_charge:g} e: "
                "correct one of the two"
            )

    def to_info(self) -> dict[str, Any]:
        """What `from_info` reads back without loss; keys without a value are left out."""
        values = {name: getattr(self, name) for name in self.names()}
        return {k: np.array(v) if isinstance(v, tuple) else v for k, v in values.items() if v is not None}

    def field(self) -> tuple[float, float, float] | None:
        """The external field in V/Å."""
        if self.external_field is None:
            return None
        unit = field_from_atomic_units if self.field_unit == "a.u." else float
        x, y, z = (unit(v) for v in self.external_field)
        return x, y, z

    def on_scale(self, scale: str, pH: float | None = None) -> ElectricState:
        """The same state with its potentials on another reference scale.

            U_SHE = psi_vacuum - 4.44 V,  U_RHE = U_SHE + 0.0592 V pH

        Args:
            scale: "vacuum", "SHE" or "RHE+pH".
            pH: of the target; needed for "RHE+pH".
        Raises:
            ValueError: for scales that have no fixed distance to SHE, or without the pH.
        """
        for name, value in (("potential_reference", self.potential_reference), ("scale", scale)):
            if value not in _SCALES:
                raise ValueError(
                    f"{name} = {value} must be one of {', '.join(_SCALES)}: its distance to SHE is not known; give "
                    "potentials on one of these scales"
                )
        if scale == "RHE+pH" and pH is None:
            raise ValueError("pH = nothing must be given, RHE depends on it: pass the pH of the target scale")
        values = []
        for u in self.potential or ():
            she = u - ABSOLUTE_SHE if self.potential_reference == "vacuum" else u
            if self.potential_reference == "RHE+pH":
                assert self.pH is not None
                she = she_from_rhe(u, self.pH)
            if scale == "RHE+pH":
                assert pH is not None
                she = rhe_from_she(she, pH)
            values.append(she + ABSOLUTE_SHE if scale == "vacuum" else she)
        new = tuple(values) if self.potential is not None else None
        return replace(
            self, potential=new, potential_reference=scale, pH=pH if scale == "RHE+pH" else self.pH
        )


def _value(name: str, value: Any) -> Any:
    """A value of an info mapping as its key has it."""
    if name in _NUMBERS or name in _LISTS:
        unit = "V" if name == "potential" else "V/Å" if name == "external_field" else ""
        try:
            if np.asarray(value).dtype == np.bool_:
                raise TypeError  # a key without a value reads as true, which is no 1
            numbers = np.atleast_1d(np.asarray(value, dtype=float)).ravel()
        except (TypeError, ValueError):
            raise ValueError(f"{name} = {value!r} must be a number: correct the key") from None
        if not np.isfinite(numbers).all():
            raise ValueError(f"{name} = {value} {unit}".rstrip() + " must be finite: correct the key")
        if name in _NUMBERS:
            if len(numbers) != 1:
                raise ValueError(f"{name} = {value} must be one number: correct the key")
            return float(numbers[0])
        if name == "external_field" and len(numbers) != 3:
            raise ValueError(f"{name} = {len(numbers)} numbers must be three, one per axis: correct the key")
        return tuple(float(v) for v in numbers)
    if name == "dipole_correction":
        if isinstance(value, bool | np.bool_):
            return bool(value)
        raise ValueError(f"{name} = {value!r} must be true or false: correct the key")
    text = str(value)
    if name in CHOICES and text not in CHOICES[name]:
        near = difflib.get_close_matches(text, CHOICES[name], n=1)
        remedy = f"did you mean {near[0]}?" if near else "correct the key"
        raise ValueError(f"{name} = {text} must be one of {', '.join(CHOICES[name])}: {remedy}")
    return text
