"""The public door: inputs are converted and checked here once, and nowhere else.

Messages read `<name> = <value> <unit> must <rule>: <what to do>`.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from numbers import Integral, Real
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grahame.electrostatics.arrays import host

Array: TypeAlias = NDArray[Any] | Tensor | Sequence[Any]

# Closer than this two atoms are one atom by mistake: no chemistry happens below it.
COINCIDENT = 1e-3


def to_tensor(value: Any, like: Tensor | None = None) -> Tensor:
    """Float64 tensor of numpy, sequence or torch input, on the device of `like`; a graph is kept."""
    if isinstance(value, Tensor):
        if value.is_complex():
            raise ValueError(
                f"array of type {value.dtype} must hold real numbers: check what is passed, and that its rows are equally long"
            )
        # A copy of what was made in inference mode may take part in a graph.
        t: Tensor = value.clone() if value.is_inference() else value
        return t.to(torch.float64) if like is None else t.to(like.device, torch.float64)
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"array of type {array.dtype} must hold real numbers: check what is passed, and that its rows are equally long"
        )
    array = array.astype(np.float64, copy=False)
    # Torch takes neither arrays that run backwards nor such that must not be written to.
    backwards = any(step < 0 for step in array.strides)
    tensor = torch.as_tensor(array.copy() if backwards or not array.flags.writeable else array)
    return tensor if like is None else tensor.to(like.device)


def positions_of(
    value: Any, device: torch.device | str | None = None, name: str = "positions", what: str = "atom"
) -> Tensor:
    """Positions (n,3) in Å, finite, on a device (None: where they are); `name` and `what` say of what they are."""
    x = to_tensor(value)
    x = x if device is None else x.to(device)
    if x.ndim != 2 or x.shape[1] != 3:
        raise ValueError(
            f"{name} = array of shape {tuple(x.shape)} must have shape (n, 3): pass one row per {what}"
        )
    if len(x) == 0:
        raise ValueError(f"{name} = 0 {what}s must hold at least one {what}: pass the {what}s of the system")
    if not _all_finite(x):
        index = int((~torch.isfinite(x)).any(1).nonzero()[0, 0])
        shown = ", ".join(f"{v:g}" for v in x[index].tolist())
        raise ValueError(
            f"{name}[{index}] = ({shown}) Å must be finite: check the structure or the previous step"
        )
    return x


def per_atom(name: str, value: Any, n: int, unit: str, like: Tensor) -> Tensor:
    """One finite number per atom; a scalar serves all."""
    v = to_tensor(value, like)
    if v.ndim == 0:
        v = v.expand(n)
    if v.shape != (n,):
        raise ValueError(
            f"{name} = array of shape {tuple(v.shape)} must have shape ({n},): pass one value in {unit} per atom"
        )
    if not _all_finite(v):
        index = int((~torch.isfinite(v)).nonzero()[0, 0])
        raise ValueError(
            f"{name}[{index}] = {float(v[index]):g} {unit} must be finite: check where it comes from"
        )
    return v


def _all_finite(v: Tensor) -> bool:
    """One pass where all is well: a sum is finite only then, but for sums that overflow."""
    return math.isfinite(v.detach().sum().item()) or bool(torch.isfinite(v).all())


def columns_of(name: str, value: Any, n: int, unit: str, like: Tensor) -> Tensor:
    """One finite number per atom (n,), or one per atom and column (n,m)."""
    v = to_tensor(value, like)
    if v.ndim < 2:
        return per_atom(name, v, n, unit, like)
    if v.ndim > 2 or len(v) != n:
        raise ValueError(
            f"{name} = array of shape {tuple(v.shape)} must have shape ({n},) or ({n}, m): "
            f"pass one value in {unit} per atom, or a column of them for each set"
        )
    bad = (~torch.isfinite(v)).nonzero()
    if len(bad):
        row, column = bad[0].tolist()
        raise ValueError(
            f"{name}[{row}, {column}] = {float(v[row, column]):g} {unit} must be finite: check where it comes from"
        )
    return v


def smearing_of(value: Any, n: int, like: Tensor) -> Tensor:
    """Gaussian widths (n,) in Å, not negative; None means points."""
    if value is None:
        return _points(n, like.device)
    s = per_atom("smearing", value, n, "Å", like)
    bad = (s < 0).nonzero()
    if len(bad):
        index = int(bad[0, 0])
        raise ValueError(
            f"smearing[{index}] = {float(s[index]):g} Å must not be negative: use 0 for a point charge"
        )
    return s


@lru_cache(maxsize=4)
def _points(n: int, device: torch.device) -> Tensor:
    """The widths of points, the same in every step; nobody writes to them."""
    return torch.zeros(n, dtype=torch.float64, device=device)


def all_points(smearing: Tensor) -> bool:
    """Whether no widths were given; without looking at them, so that widths that are all 0 may count as given."""
    if smearing.device.type != "cpu":
        return False  # memory elsewhere may have no address
    return smearing.data_ptr() == _points(len(smearing), smearing.device).data_ptr()


def cell_of(value: Any, boundary: str, like: Tensor) -> Tensor | None:
    """Cell (3,3) with rows in Å and a volume; None for "open"."""
    if boundary == "open":
        if value is not None and bool(torch.any(to_tensor(value, like) != 0)):
            raise ValueError(
                f'cell = {to_tensor(value, like).tolist()} Å must be None with boundary = "open": nothing repeats there; '
                'use "3d" or "slab" for a cell'
            )
        return None
    if value is None:
        raise ValueError(
            f'cell = None must be a (3, 3) array with boundary = "{boundary}": only "open" has no cell'
        )
    h = to_tensor(value, like)
    if h.shape == (3,):
        h = torch.diag(h)
    if h.shape != (3, 3):
        raise ValueError(
            f"cell = array of shape {tuple(h.shape)} must have shape (3, 3): pass the cell vectors as rows, in Å"
        )
    _check_cell(h.detach().cpu().numpy().tobytes())
    return h


@lru_cache(maxsize=16)
def _check_cell(rows: bytes) -> None:
    """Raise for a cell without a volume; a cell that was found right is so in the next step."""
    h = np.frombuffer(rows).reshape(3, 3)
    if not np.isfinite(h).all():
        raise ValueError("cell must be finite: it holds NaN or infinity; check the structure")
    volume = float(abs(np.cross(h[0], h[1]) @ h[2]))
    if volume <= 1e-6 * float(np.linalg.norm(h, axis=1).prod()) or volume == 0.0:
        raise ValueError(
            f"cell volume = {volume:g} Å³ must be greater than zero: its vectors are missing or lie in one plane; "
            "give three independent vectors"
        )


def exclusions_of(value: Any, n: int) -> NDArray[np.int64] | None:
    """Excluded pairs (m,2), each once, of two different existing atoms; None if there are none."""
    if value is None:
        return None
    raw = host(value)
    if raw.size == 0:
        return None
    if raw.ndim != 2 or raw.shape[1] != 2 or not np.issubdtype(raw.dtype, np.integer):
        raise ValueError(
            f"exclusions = array of shape {raw.shape} and type {raw.dtype} must be integers of shape (m, 2): "
            "pass one pair of atom indices per row"
        )
    pairs = raw.astype(np.int64)
    outside = ((pairs < 0) | (pairs >= n)).any(1)
    if outside.any():
        row = int(np.argmax(outside))
        raise ValueError(
            f"exclusions[{row}] = ({pairs[row, 0]}, {pairs[row, 1]}) must name atoms between 0 and {n - 1}: correct the index"
        )
    same = pairs[:, 0] == pairs[:, 1]
    if same.any():
        row = int(np.argmax(same))
        raise ValueError(
            f"exclusions[{row}] = ({pairs[row, 0]}, {pairs[row, 1]}) must name two different atoms: an atom does not exclude itself"
        )
    key = pairs.min(axis=1) * n + pairs.max(axis=1)
    _, first, counts = np.unique(key, return_index=True, return_counts=True)
    if (counts > 1).any():
        row = int(first[np.argmax(counts > 1)])
        raise ValueError(
            f"exclusions = ({pairs[row, 0]}, {pairs[row, 1]}) must list each pair once: it appears {counts.max()} times"
        )
    return pairs


def indices_of(name: str, value: Any, n: int) -> Tensor:
    """Atom indices (m,), from integers or from a mask of all atoms."""
    raw = host(value)
    if raw.dtype == bool:
        if raw.shape != (n,):
            raise ValueError(
                f"{name} = mask of shape {raw.shape} must have shape ({n},): pass one flag per atom"
            )
        raw = np.flatnonzero(raw)
    if raw.ndim > 1:
        raise ValueError(f"{name} = array of shape {raw.shape} must be a list of integers: pass atom indices")
    if raw.size and not np.issubdtype(raw.dtype, np.integer):
        raise ValueError(f"{name} = array of type {raw.dtype} must be integers: pass atom indices")
    outside = np.flatnonzero((raw < 0) | (raw >= n))
    if len(outside):
        raise ValueError(
            f"{name} = {int(raw[outside[0]])} must lie between 0 and {n - 1}: the system has {n} atoms"
        )
    return torch.as_tensor(raw.astype(np.int64))


def vector_of(name: str, value: Any, unit: str, like: Tensor) -> Tensor | None:
    """A finite vector (3,), or None if it is None."""
    if value is None:
        return None
    v = to_tensor(value, like)
    if v.shape != (3,):
        raise ValueError(
            f"{name} = array of shape {tuple(v.shape)} must have shape (3,): pass a Cartesian vector in {unit}"
        )
    if not bool(torch.isfinite(v).all()):
        raise ValueError(f"{name} = {v.tolist()} {unit} must be finite: check where it comes from")
    return v


def refuse_coincident(i: int, j: int, r: float) -> None:
    """Raise for two atoms closer than `COINCIDENT` Å."""
    raise ValueError(
        f"distance of atoms {min(i, j)} and {max(i, j)} = {r:.3g} Å must exceed {COINCIDENT:g} Å: "
        "two atoms lie on one place; remove one of them"
    )


def is_real(value: object) -> bool:
    """Whether it is one real number, of Python or numpy."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_whole(value: object) -> bool:
    """Whether it is one whole number, of Python or numpy."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def finite(name: str, value: Any, unit: str, remedy: str) -> float:
    """A finite number."""
    if isinstance(value, str) or not hasattr(value, "__float__") or np.ndim(value) != 0:
        raise ValueError(f"{name} = {value!r} must be one number: {remedy}")
    if not math.isfinite(value):
        raise ValueError(f"{name} = {value:g} {unit} must be finite: {remedy}")
    return float(value)


def positive(name: str, value: float, unit: str, remedy: str) -> float:
    """A finite number greater than zero."""
    if isinstance(value, str) or not hasattr(value, "__float__"):
        raise ValueError(f"{name} = {value!r} must be a number: {remedy}")
    if not (math.isfinite(value) and value > 0.0):
        unit = f" {unit}" if unit else ""
        raise ValueError(f"{name} = {value:g}{unit} must be greater than zero: {remedy}")
    return float(value)
