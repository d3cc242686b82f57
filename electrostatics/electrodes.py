"""Electrodes: which atoms are solved for, and what each group of them is held at.

A group held at a potential exchanges charge with a reservoir; a group held at a charge floats. The rows of
the constraints are: one per group held at a charge, and one for the whole cell if any group is held at a
potential and the total charge is fixed. Taken together they fix the sums over disjoint sets of atoms: each
charge-held group, and the union of the potential-held ones.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grahame.electrostatics import checks
from grahame.electrostatics.arrays import depth, host


class Electrode:
    """A group of atoms at one potential, held at that potential or at a total charge.

    Args:
        indices: atom indices, each once, or a mask of all atoms.
        potential: V, held by a reservoir; or
        charge: e, total charge of the group. Exactly one of the two.

    Raises:
        ValueError: if no atom is named, one twice, or not exactly one of potential and charge is given.
    """

    def __init__(self, indices: Any, potential: Any = None, charge: Any = None) -> None:
        raw = host(indices)
        # What a mask says is known of as many atoms as it has flags.
        self._flags = len(raw) if raw.dtype == bool and raw.ndim == 1 else None
        if raw.dtype == bool:
            raw = np.flatnonzero(raw)
        if raw.size == 0:
            raise ValueError(
                "indices = [] must name at least one atom: an electrode without atoms has no potential"
            )
        if not np.issubdtype(raw.dtype, np.integer) or raw.ndim != 1:
            raise ValueError(
                f"indices = array of type {raw.dtype} and shape {raw.shape} must be a list of integers: pass atom indices"
            )
        values, counts = np.unique(raw, return_counts=True)
        if (counts > 1).any():
            raise ValueError(
                f"indices = {int(values[np.argmax(counts > 1)])} must be named once: remove the repetition"
            )
        if (potential is None) == (charge is None):
            given = "both" if potential is not None else "none"
            raise ValueError(
                f"potential, charge = {given} must be exactly one of the two: hold the potential or the charge"
            )
        held = checks.to_tensor(potential if charge is None else charge)
        if held.ndim != 0 or not math.isfinite(float(held.detach())):
            name, unit = ("potential", "V") if charge is None else ("charge", "e")
            raise ValueError(
                f"{name} = {potential if charge is None else charge} {unit} must be one finite number: check the input"
            )
        self.indices: NDArray[np.int64] = raw.astype(np.int64)
        self.potential = potential
        self.charge = charge

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        held = f"potential={self.potential} V" if self.charge is None else f"charge={self.charge} e"
        return f"Electrode({len(self)} atoms, {held})"


def check_types(electrodes: Sequence[Any]) -> None:
    """Refuse what is no electrode."""
    if isinstance(electrodes, Electrode) or not isinstance(electrodes, Iterable):
        raise ValueError(
            f"electrodes = {electrodes!r} must be a list of Electrode: write [Electrode(indices, potential=...), ...]"
        )
    for g, electrode in enumerate(electrodes):
        if not isinstance(electrode, Electrode):
            raise ValueError(
                f"electrodes[{g}] = {electrode!r} must be an Electrode: pass Electrode(indices, potential=...)"
            )


def check_electrodes(electrodes: Sequence[Electrode]) -> None:
    """Refuse what is no electrode, an empty list, and atoms that belong to two electrodes."""
    check_types(electrodes)
    if len(electrodes) == 0:
        raise ValueError(
            "electrodes = [] must hold at least one Electrode: use Coulomb if nothing is solved for"
        )
    owner: dict[int, int] = {}
    for g, electrode in enumerate(electrodes):
        for index in electrode.indices.tolist():
            if index in owner:
                raise ValueError(
                    f"electrodes[{g}] = atom {index} must belong to one electrode: it is in electrodes[{owner[index]}] too; "
                    "remove it from one of them"
                )
            owner[index] = g


def check_indices(electrodes: Sequence[Electrode], atoms: int) -> None:
    """Refuse indices that name no atom."""
    for g, electrode in enumerate(electrodes):
        if electrode._flags not in (None, atoms):
            raise ValueError(
                f"electrodes[{g}] = mask of {electrode._flags} flags must have one per atom, {atoms}: pass a mask of all atoms, "
                "or their indices"
            )
        outside = (electrode.indices < 0) | (electrode.indices >= atoms)
        if outside.any():
            index = int(electrode.indices[np.argmax(outside)])
            raise ValueError(
                f"electrodes[{g}] = atom {index} must lie between 0 and {atoms - 1}: the system has {atoms} atoms; correct the indices"
            )


def expand(name: str, value: Any, electrodes: Sequence[Electrode], unit: str, device: torch.device) -> Tensor:
    """One value, one per electrode, or one per electrode atom, as one per electrode atom."""
    # A copy: what is checked here, and what is kept of it, must not follow the caller's array.
    v = checks.to_tensor(value).to(device).clone()
    total = sum(len(e) for e in electrodes)
    if v.ndim == 0:
        v = v.expand(total)
    elif v.shape == (total,):
        pass
    elif v.shape == (len(electrodes),):
        v = torch.cat([v[g].expand(len(e)) for g, e in enumerate(electrodes)])
    else:
        raise ValueError(
            f"{name} = array of shape {tuple(v.shape)} must be one value, {len(electrodes)} (one per electrode) or "
            f"{total} (one per electrode atom): pass one of these, in {unit}"
        )
    if not bool(torch.isfinite(v).all()):
        raise ValueError(f"{name} must be finite: it holds NaN or infinity, in {unit}")
    return v


@dataclass(frozen=True)
class Held:
    """What every electrode is held at during one solve.

    Attributes:
        potentials: (groups,) V, where `by_charge` is False.
        charges: (groups,) e, where `by_charge` is True.
        by_charge: (groups,) which groups are held at a charge.
    """

    potentials: Tensor
    charges: Tensor
    by_charge: tuple[bool, ...]

    def at_charge(self) -> Tensor:
        """`by_charge` (groups,) where the potentials are."""
        return torch.tensor(self.by_charge, device=self.potentials.device)

    def psi(self) -> Tensor:
        """(groups,) V: the held potentials, 0 for groups at a charge."""
        if not any(self.by_charge):
            return self.potentials
        return torch.where(self.at_charge(), torch.zeros_like(self.potentials), self.potentials)


def what_is_held(
    electrodes: Sequence[Electrode], potentials: Any, charges: Any, device: torch.device
) -> Held:
    """Held values of this solve: those of the electrodes, overridden by those given.

    Args:
        electrodes: the electrodes with their own held values.
        potentials: None, or one entry per electrode: a number holds the potential, None or NaN leaves it.
        charges: the same for held charges.
        device: of the result.
    """
    plain = _plain(electrodes, potentials, charges)
    if plain is not None:
        return _always_held(plain, device)
    volts, coulombs, by_charge = [], [], []
    override_v = _override("potentials", potentials, len(electrodes))
    override_q = _override("electrode_charges", charges, len(electrodes))
    for g, electrode in enumerate(electrodes):
        v, q = override_v[g], override_q[g]
        if v is not None and q is not None:
            raise ValueError(
                f"electrode {g} must be held at a potential or a charge: both are given in this call"
            )
        if v is None and q is None:
            v = None if electrode.potential is None else checks.to_tensor(electrode.potential)
            q = None if electrode.charge is None else checks.to_tensor(electrode.charge)
        by_charge.append(v is None)
        zero = torch.zeros((), dtype=torch.float64)
        volts.append(zero if v is None else v)
        coulombs.append(zero if q is None else q)
    return Held(_stacked(volts, device), _stacked(coulombs, device), tuple(by_charge))


def _plain(
    electrodes: Sequence[Electrode], potentials: Any, charges: Any
) -> tuple[tuple[float | None, float | None], ...] | None:
    """Potential or charge of every electrode where all are numbers without a graph; None for what needs a closer look."""
    own = [(e.potential, e.charge) for e in electrodes]
    if not all(type(v) in (float, int, type(None)) for two in own for v in two):
        return None
    given: list[list[float | None]] = []
    for values in (potentials, charges):
        if values is None:
            given.append([None] * len(own))
        elif type(values) is np.ndarray and values.dtype == np.float64 and values.shape == (len(own),):
            given.append([None if math.isnan(v) else v for v in values.tolist()])
        else:
            return None
    if any(v is not None and (q is not None or math.isinf(v)) for v, q in zip(*given)):
        return None
    if any(q is not None and math.isinf(q) for q in given[1]):
        return None
    return tuple(old if v is None and q is None else (v, q) for old, v, q in zip(own, *given))


@lru_cache(maxsize=16)
def _always_held(own: tuple[tuple[float | None, float | None], ...], device: torch.device) -> Held:
    """The same of electrodes that are held at numbers: kept for the next step, so nobody may write to it."""
    volts, coulombs = (torch.tensor([v or 0.0 for v in column], dtype=torch.float64) for column in zip(*own))
    return Held(volts.to(device), coulombs.to(device), tuple(v is None for v, _ in own))


def _stacked(values: list[Tensor], device: torch.device) -> Tensor:
    """Numbers from anywhere as one tensor; in one copy if all lie on the CPU."""
    if all(v.device.type == "cpu" for v in values):
        return torch.stack(values).to(device)
    return torch.stack([v.to(device) for v in values])


def _override(name: str, values: Any, groups: int) -> list[Tensor | None]:
    if values is None:
        return [None] * groups
    if depth(values) != 1:
        raise ValueError(
            f"{name} = {values} must be a list with one value per electrode, {groups}: use None where nothing changes"
        )
    entries = list(values) if not isinstance(values, Tensor) else list(values.unbind())
    if len(entries) != groups:
        raise ValueError(
            f"{name} = {len(entries)} values must be one per electrode, {groups}: use None where nothing changes"
        )
    out: list[Tensor | None] = []
    for g, entry in enumerate(entries):
        tensor = None if entry is None else checks.to_tensor(entry)
        if tensor is not None and bool(torch.isnan(tensor.detach())):
            tensor = None
        if tensor is not None and not math.isfinite(float(tensor.detach())):
            raise ValueError(f"{name}[{g}] = {float(tensor):g} must be finite: check the input")
        out.append(tensor)
    return out
