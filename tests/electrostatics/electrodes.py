"""Dense solutions of the electrode equations, written once more in numpy, and the ways to hold an electrode."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grahame.electrostatics import ConstantPotential, Coulomb, Electrode
from tests.electrostatics.numerics import COULOMB
from tests.systems import ElectrodeCell, plates

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Mode:
    """What is held, per group: ("potential", V) or ("charge", e); and fields."""

    name: str
    boundary: str
    held: tuple[tuple[str, float], ...]
    total: float = 0.0
    field: float = 0.0  # along the normal, V/Å
    displacement: float | None = None


MODES = [
    Mode("potentials in a slab", "slab", (("potential", -0.4), ("potential", 0.7))),
    Mode("charges in a slab", "slab", (("charge", -0.35), ("charge", 0.35))),
    Mode("mixed in a slab", "slab", (("potential", 0.3), ("charge", 0.25))),
    Mode("one of three floats", "slab", (("potential", -0.4), ("potential", 0.7), ("charge", 0.2))),
    Mode(
        "four, two float", "slab", (("potential", 0.1), ("charge", -0.1), ("potential", 0.8), ("charge", 0.2))
    ),
    Mode("potentials in a field", "slab", (("potential", -0.4), ("potential", 0.7)), field=0.09),
    Mode("charges in a field", "slab", (("charge", -0.35), ("charge", 0.35)), field=0.09),
    Mode("charged slab", "slab", (("potential", -0.4), ("potential", 0.7)), total=0.6),
    Mode("exact slab", "slab-exact", (("potential", -0.4), ("potential", 0.7))),
    Mode("short circuit in 3d", "3d", (("potential", 0.2), ("potential", 0.2))),
    Mode("charges in 3d", "3d", (("charge", -0.35), ("charge", 0.35))),
    Mode("finite field", "finite-field", (("potential", -0.4), ("potential", 0.7))),
    Mode("finite field, charges", "finite-field", (("charge", -0.35), ("charge", 0.35))),
    Mode("displacement", "displacement", (("potential", -0.4), ("potential", 0.7)), displacement=0.11),
    Mode("displacement, charges", "displacement", (("charge", -0.35), ("charge", 0.35)), displacement=0.11),
    Mode("open", "open", (("potential", -0.4), ("potential", 0.7))),
]
BY_NAME = {m.name: m for m in MODES}


def cell_for(mode: Mode, **changes: object) -> ElectrodeCell:
    """A small cell of plates; ion charges sum to what the mode's held charges leave."""
    settings: dict[str, object] = {"gap": 8.0, "ions": 4, "height": 20.0, "groups": len(mode.held)}
    if mode.boundary in ("finite-field", "3d", "displacement"):
        settings["height"] = 16.0
    if all(kind == "charge" for kind, _ in mode.held):
        settings["ion_charge"] = mode.total - sum(value for _, value in mode.held)
    settings.update(changes)
    return plates(**settings)  # type: ignore[arg-type]


def cell_argument(mode: Mode, cell: Array) -> Array | None:
    return None if mode.boundary == "open" else cell


def solver(
    mode: Mode, atoms: ElectrodeCell, method: str, accuracy: float = 1e-12, **options: object
) -> ConstantPotential:
    """The package's solver for a mode."""
    operator = {k: options.pop(k) for k in ("order", "background", "vacuum") if k in options}
    if method == "pme":
        operator.setdefault("order", 8)
    coulomb = Coulomb(mode.boundary, method, accuracy, **operator)  # type: ignore[arg-type]
    electrodes = [Electrode(g, **{kind: value}) for g, (kind, value) in zip(atoms.groups, mode.held)]
    options.setdefault("smearing", float(atoms.smearing[atoms.groups[0][0]]))
    return ConstantPotential(electrodes, coulomb, **options)  # type: ignore[arg-type]


def arguments(mode: Mode, cell: Array) -> dict[str, object]:
    """What `solve` takes beside the atoms."""
    out: dict[str, object] = {"total_charge": mode.total}
    if mode.field:
        out["field"] = mode.field * normal(cell)
    if mode.displacement is not None:
        out["displacement"] = mode.displacement
    return out


def normal(cell: Array) -> Array:
    n = np.cross(cell[0], cell[1])
    return np.asarray(n / np.linalg.norm(n))


def height(cell: Array) -> float:
    return abs(float(cell[2] @ normal(cell)))


@dataclass(frozen=True)
class Dense:
    """The answer of the dense equations."""

    charges: Array
    potentials: Array
    multiplier: float
    internal_energy: float
    work: float
    field_energy: float
    inner: Array  # (Aq+b) on the solved atoms
    field: float

    @property
    def energy(self) -> float:
        return self.internal_energy - self.work + self.field_energy


def dense(
    mode: Mode,
    atoms: ElectrodeCell,
    coulomb: Coulomb,
    chi: Array | float = 0.0,
    hardness: Array | float = 0.0,
) -> Dense:
    """Solve functional.md section 4 with numpy on the operator's own matrix.

    The field that follows two held charges enters as one more unknown, E L = -(psi_top - psi_bot).
    """
    n, m = len(atoms.charges), len(atoms.solved)
    solved, sizes = atoms.solved, [len(g) for g in atoms.groups]
    cell = cell_argument(mode, atoms.cell)
    matrix = coulomb.matrix(atoms.positions, cell, smearing=atoms.smearing)
    label = np.repeat(np.arange(len(sizes)), sizes)
    ions = np.setdiff1d(np.arange(n), solved)
    z = atoms.positions @ normal(atoms.cell)
    length = height(atoms.cell)
    v = atoms.volume
    chi, hard = np.broadcast_to(chi, m), np.broadcast_to(hardness, m)
    external = mode.field
    if mode.displacement is not None:
        external = mode.displacement
    kinds = [kind for kind, _ in mode.held]
    values = [value for _, value in mode.held]
    means = [z[g].mean() for g in atoms.groups]
    top, bottom = int(np.argmax(means)), int(np.argmin(means))
    follow = mode.boundary == "finite-field" and kinds == ["charge", "charge"]
    if mode.boundary == "finite-field" and not follow:
        external = -(values[top] - values[bottom]) / length
    # rows: stationarity, one per held charge, whole cell; columns: charges, multipliers, followed field
    rows = []
    targets = []
    for g, kind in enumerate(kinds):
        if kind == "charge":
            rows.append((label == g).astype(float))
            targets.append(values[g])
    if "potential" in kinds:
        rows.append(np.ones(m))
        targets.append(mode.total - atoms.charges[ions].sum())
    c = np.array(rows)
    a = matrix[np.ix_(solved, solved)] + np.diag(hard)
    b = matrix[np.ix_(solved, ions)] @ atoms.charges[ions] + chi - external * z[solved]
    psi = np.array([values[g] if kinds[g] == "potential" else 0.0 for g in label])
    k = len(c)
    extra = 1 if follow else 0
    big = np.zeros((m + k + extra, m + k + extra))
    big[:m, :m], big[:m, m : m + k], big[m : m + k, :m] = a, c.T, c
    rhs = np.concatenate([psi - b, targets, np.zeros(extra)])
    if follow:
        big[:m, -1] = -z[solved]  # -E z on the solved atoms
        # psi_g = -(multiplier of its row), so E L = multiplier_top - multiplier_bottom
        big[-1, m + top], big[-1, m + bottom], big[-1, -1] = 1.0, -1.0, -length
    x = np.linalg.solve(big, rhs)
    q = atoms.charges.copy()
    q[solved] = x[:m]
    if follow:
        external = float(x[-1])
        b = b - external * z[solved]
    inner = a @ q[solved] + b
    group_inner = np.array([inner[label == g].mean() for g in range(len(sizes))])
    multiplier = (
        float((psi - inner)[np.array(kinds)[label] == "potential"].mean()) if "potential" in kinds else 0.0
    )
    potentials = np.array(
        [values[g] if kinds[g] == "potential" else group_inner[g] + multiplier for g in range(len(sizes))]
    )
    moment = float(q @ z)
    internal = 0.5 * q @ matrix @ q + chi @ q[solved] + 0.5 * hard @ q[solved] ** 2 - external * moment
    field_energy = 0.0
    if mode.boundary == "finite-field":
        field_energy = -v * external**2 / (8 * math.pi * COULOMB)
    if mode.displacement is not None:
        internal += v * mode.displacement**2 / (8 * math.pi * COULOMB)
        external = mode.displacement - 4 * math.pi * COULOMB * moment / v
    work = sum(values[g] * q[atoms.groups[g]].sum() for g in range(len(sizes)) if kinds[g] == "potential")
    return Dense(
        q, potentials, multiplier, float(internal), float(work), field_energy, inner, float(external)
    )
