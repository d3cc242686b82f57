"""From a geometry to a `System`: parameters, neighbour pairs, waves, excluded pairs.

The parameters are chosen once and kept while the cell is strained by less than 2 % and the slab is not
thicker than planned: along a trajectory nothing jumps, and the tables of a fixed cell are kept.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grahame.electrostatics import accuracy as accuracy_law
from grahame.electrostatics import cells, checks, exact, slab
from grahame.electrostatics.accuracy import Parameters
from grahame.electrostatics.arrays import host
from grahame.electrostatics.compiled_step import CompiledStep
from grahame.electrostatics.system import HalfList, System
from grahame.kernels import reference
from grahame.kernels.cpu_pairs import as_rows
from grahame.kernels.neighbors import NeighborList, Pairs, RowPairs, neighbor_pairs

Triple: TypeAlias = tuple[Tensor, Tensor, Tensor]

METHODS = {
    "3d": ("exact", "ewald", "pme"),
    "slab": ("exact", "ewald", "pme"),
    "slab-exact": ("exact",),
    "finite-field": ("exact", "ewald", "pme"),
    "displacement": ("exact", "ewald", "pme"),
    "open": ("exact",),
}
# Below this number of atoms the Ewald sum is faster than a mesh.
_SMALL = 120
# A wider Gaussian needs a real-space cut-off of more than ten times this, with too many pairs to list.
WIDEST = 5.0
# A probe nearer than this to an atom lies on it, in Å.
_ON_TOP = 1e-6
# Parameters serve until the cell is strained by this much, or the slab thicker than planned.
_STRAIN = 0.02
_ROOM = 2.0
# No slab is thicker than this, in Å.
_FARTHEST = 1e5


@dataclass(frozen=True)
class Plan:
    """Parameters with the geometry they were chosen for."""

    parameters: Parameters
    cell: NDArray[np.float64]
    atoms: int
    widest: float
    extent: float


@dataclass(frozen=True)
class Settings:
    """What the user chose, checked.

    Attributes:
        boundary, method, accuracy, vacuum, background, coulomb_constant: as in `Coulomb`.
        ewald_backend: "auto" or "torch-pme".
        fixed: cutoff, splitting, mesh and order where they are not derived from the accuracy.
    """

    boundary: str
    method: str
    accuracy: float
    vacuum: float | str
    background: str
    coulomb_constant: float
    ewald_backend: str
    fixed: dict[str, Any]


class Binder:
    """Keeps the plan, the waves and the neighbour list between evaluations."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._plan: Plan | None = None
        self._waves: Tensor | None = None
        self._neighbors: NeighborList | None = None
        self._on_device = OnDevice()
        self._excluded = Excluded()
        self._step = CompiledStep()

    def bind(
        self,
        x: Tensor,
        h: Tensor | None,
        s: Tensor,
        exclusions: Any,
        probes: int = 0,
        parameters: Parameters | None = None,
        neighbors: NeighborList | None = None,
        waves: Tensor | None = None,
    ) -> System:
        """The operator at one geometry.

        Args:
            x, h, s: positions, cell and widths; may carry a graph.
            exclusions: excluded pairs.
            probes: how many of the last atoms are probes that may lie on top of each other.
            parameters: use these (those of a larger system, whose part this is) instead of choosing.
            neighbors: use this list instead of the operator's own.
            waves: the waves that belong to given `parameters` of an Ewald sum.
        """
        # What depends on the data is decided on the host: one copy of the geometry serves it all.
        fixed_x, fixed_h = x.detach().cpu(), None if h is None else h.detach().cpu()
        if parameters is None:
            parameters = self.parameters(fixed_x, fixed_h, s.detach())
        periodic = cells.PERIODIC[self.settings.boundary]
        excluded = None
        listed = self._excluded.checked(exclusions, len(x))
        if listed is not None:
            frame = np.zeros((3, 3)) if fixed_h is None else fixed_h.numpy()
            excluded = self._excluded.nearest(listed, fixed_x.numpy(), frame, periodic, x.device)
        pairs = None
        if fixed_h is None:
            self._refuse_coincident(fixed_x, None, probes)
        else:
            k_cell = cells.extend_along_normal(fixed_h, parameters.padding)
            pairs = self._pairs(fixed_x, k_cell, parameters, neighbors, probes, x.device)
            if parameters.method == "ewald" and waves is None:
                waves = self._half_waves(parameters, x.device)
        return System(
            self.settings.boundary,
            self.settings.background,
            self.settings.coulomb_constant,
            parameters,
            x,
            h,
            s,
            pairs,
            waves,
            excluded,
            self._step,
        )

    def parameters(self, x: Tensor, h: Tensor | None, s: Tensor) -> Parameters:
        """The kept parameters if they still fit this geometry (on the CPU), else newly chosen ones."""
        widest = 0.0 if checks.all_points(s) else float(s.max())
        if h is None:
            return Parameters("exact", math.inf, 0.0)
        extent, overlap = 0.0, math.inf
        if self.settings.boundary in cells.SLABS:
            extent = float(np.ptp(x.numpy() @ cells.normal(h).numpy()))
            _refuse_far(extent)
            if self.settings.boundary == "slab" and self.settings.vacuum != "auto":
                # Images of so thick a slab overlap, in the cell as it is now: refused where a plan is made.
                overlap = float(cells.height(h)) + float(self.settings.vacuum)
        frame = h.numpy()
        plan = self._plan
        fits = plan is not None and plan.atoms == len(x) and widest <= plan.widest and extent < overlap
        if plan is not None and fits and extent <= plan.extent:
            same = np.array_equal(plan.cell, frame)
            if same or np.abs(np.linalg.solve(plan.cell, frame) - np.eye(3)).max() < _STRAIN:
                return plan.parameters
        self._waves = None
        self._plan = self._make_plan(x, h, widest, extent)
        return self._plan.parameters

    def _make_plan(self, x: Tensor, h: Tensor, widest: float, extent: float) -> Plan:
        if widest > WIDEST:
            raise ValueError(
                f"smearing = {widest:g} Å must not exceed {WIDEST:g} Å: no real-space cut-off carries a Gaussian that wide; "
                "use a narrower one"
            )
        frame = h.numpy().copy()
        slab_like = self.settings.boundary == "slab"
        room = extent + _ROOM if slab_like else math.inf
        padding = self._padding(h, extent, widest) if slab_like else 0.0
        k_cell = cells.extend_along_normal(h, padding)
        method = self.settings.method
        if method == "auto":
            small = len(x) <= _SMALL or self.settings.accuracy < 1e-9
            method = "exact" if len(METHODS[self.settings.boundary]) == 1 else "ewald" if small else "pme"
        smallest = 1.0 / (2.0 * widest) if widest > 0 else math.inf
        if method == "exact":
            volume = float(cells.volume(k_cell))
            found = exact.parameters(volume, len(x), smallest, self.settings.boundary == "slab-exact")
        else:
            matter = accuracy_law.occupied_volume(x.numpy(), k_cell.numpy())
            request = accuracy_law.Request(
                len(x),
                k_cell.numpy(),
                float(cells.volume(h)),
                matter,
                smallest,
                max(self.settings.accuracy, accuracy_law.SMALLEST_ACCURACY),
                **self.settings.fixed,
            )
            self._refuse_narrow_cutoff(request, widest)
            found = (
                accuracy_law.choose_ewald(request) if method == "ewald" else accuracy_law.choose_pme(request)
            )
        found = replace(found, padding=padding, backend=self.settings.ewald_backend)
        return Plan(found, frame, len(x), widest, room)

    def _padding(self, h: Tensor, extent: float, widest: float) -> float:
        length = float(cells.height(h))
        if self.settings.vacuum != "auto":
            padding = float(self.settings.vacuum)
            if extent >= length + padding:
                raise ValueError(
                    f"extent of the charges along the normal = {extent:.6g} Å must be smaller than the height of the k-space "
                    f"cell, {length + padding:.6g} Å: increase `vacuum` or use vacuum='auto'"
                )
            return padding
        g = cells.smallest_in_plane_reciprocal(h)
        target = 1e-13 if self.settings.method == "exact" else self.settings.accuracy
        gap = slab.gap_for(max(target, 1e-13), g, widest)
        # The cell is kept a whole number of Å longer, so that small strains do not change the choice.
        return float(math.ceil(extent + _ROOM + gap - length))

    def _refuse_narrow_cutoff(self, request: accuracy_law.Request, widest: float) -> None:
        least = accuracy_law.carrying_cutoff(request)
        if request.cutoff is not None and request.cutoff < least:
            raise ValueError(
                f"cutoff = {request.cutoff:g} Å must be at least {least:.4g} Å for the widest Gaussian, smearing = {widest:g} Å: "
                "increase the cut-off, leave it out, or narrow the Gaussian"
            )

    def _pairs(
        self,
        x: Tensor,
        k_cell: Tensor,
        p: Parameters,
        given: NeighborList | None,
        probes: int,
        device: torch.device,
    ) -> Triple:
        """Pairs of a geometry on the host, as tensors on the device."""
        real = x[: len(x) - probes]
        if p.method == "exact":
            all_pairs = neighbor_pairs(
                x.numpy(),
                k_cell.numpy(),
                cells.PERIODIC_K[self.settings.boundary],
                p.cutoff,
                half=False,
            )
            self._refuse_coincident(real, k_cell, 0)
            return _list_tensors(_without_probes(all_pairs, len(real), len(x)), device)
        if given is not None:
            neighbors = given
        elif probes:
            neighbors = NeighborList(p.cutoff, skin=0.0)
        else:
            if self._neighbors is None or self._neighbors.cutoff != p.cutoff:
                self._neighbors = self._new_list(p.cutoff)
            neighbors = self._neighbors
        places, frame = np.ascontiguousarray(x.numpy()), np.ascontiguousarray(k_cell.numpy())
        pairs = neighbors.update(places, frame, cells.PERIODIC_K[self.settings.boundary])
        if probes:
            self._refuse_coincident(real, k_cell, 0)
        else:
            first, second, r = neighbors.closest(places, frame)
            if r < checks.COINCIDENT:
                checks.refuse_coincident(first, second, r)
        if probes:
            return _list_tensors(_without_probes(pairs, len(real), len(x)), device)
        return self._on_device.pairs(pairs, device)

    def _new_list(self, cutoff: float) -> NeighborList:
        return NeighborList(cutoff, before_finding=self._step.let_go)

    def off_centre(self, points: Tensor, x: Tensor, h: Tensor | None, s: Tensor) -> Tensor:
        """How far to go (m,3) from probes on a Gaussian's centre, to both sides, for their mean potential; 0 elsewhere.

        Not so near that differences of large terms lose digits, nor so far that the Gaussian's own potential changes.

        Raises:
            ValueError: for a probe on a point charge.
        """
        frame = np.zeros((3, 3)) if h is None else h.detach().cpu().numpy()
        together = torch.cat([x, points]).detach().cpu().numpy()
        close = neighbor_pairs(together, frame, cells.PERIODIC[self.settings.boundary], _ON_TOP)
        widths = s.detach().tolist()
        moved = torch.zeros(points.shape, dtype=points.dtype)
        for i, j in zip(np.minimum(close.i, close.j), np.maximum(close.i, close.j)):
            if i < len(x) <= j:
                if widths[i] == 0.0:
                    raise ValueError(
                        f"points[{j - len(x)}] must not lie on the point charge of atom {i}: the potential is infinite there; "
                        "move the point, or give the charge a width"
                    )
                moved[j - len(x), 0] = min(3e-6, 1e-5 * widths[i])
        return moved.to(points.device)

    def _half_waves(self, p: Parameters, device: torch.device) -> Tensor:
        """Waves of the Ewald sum: a list of the cell the parameters were chosen for, so that it does not
        change under a small strain."""
        if self._waves is None:
            assert self._plan is not None
            k_frame = cells.extend_along_normal(torch.as_tensor(self._plan.cell), p.padding)
            self._waves = reference.half_reciprocal_indices(k_frame, p.reciprocal_cutoff)
        self._waves = self._waves.to(device)
        return self._waves

    def _refuse_coincident(self, x: Tensor, h: Tensor | None, probes: int) -> None:
        """Raise if two atoms (not probes) lie on one place, images included."""
        real = x[: len(x) - probes].numpy()
        frame = np.zeros((3, 3)) if h is None else h.numpy()
        close = neighbor_pairs(real, frame, cells.PERIODIC_K[self.settings.boundary], checks.COINCIDENT)
        if len(close.i):
            vectors = real[close.j] + close.shifts @ frame - real[close.i]
            checks.refuse_coincident(int(close.i[0]), int(close.j[0]), float(np.linalg.norm(vectors[0])))

    def state(self) -> dict[str, NDArray[Any]]:
        """What an exact restart needs: the parameters' geometry and the neighbour list."""
        out: dict[str, NDArray[Any]] = {}
        if self._plan is not None:
            p = self._plan
            out["plan_cell"], out["plan_numbers"] = p.cell.copy(), np.array([p.atoms, p.widest, p.extent])
            c = p.parameters
            out["plan_parameters"] = np.array(
                [c.cutoff, c.splitting, c.reciprocal_cutoff, *c.mesh, c.order, c.padding, c.estimated_error]
            )
            out["plan_method"] = np.array(c.method)
        if self._neighbors is not None:
            out |= {f"list_{key}": value for key, value in self._neighbors.state().items()}
        return out

    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Take over a `state()`."""
        self._plan, self._waves, self._neighbors = None, None, None
        if "plan_cell" in state:
            v = state["plan_parameters"]
            mesh = (int(v[3]), int(v[4]), int(v[5]))
            parameters = Parameters(
                str(state["plan_method"]),
                float(v[0]),
                float(v[1]),
                float(v[2]),
                mesh,
                int(v[6]),
                float(v[7]),
                float(v[8]),
                self.settings.ewald_backend,
            )
            atoms, widest, extent = state["plan_numbers"]
            self._plan = Plan(
                parameters, np.array(state["plan_cell"]), int(atoms), float(widest), float(extent)
            )
            entries = {key[5:]: value for key, value in state.items() if key.startswith("list_")}
            if entries:
                self._neighbors = self._new_list(parameters.cutoff)
                self._neighbors.load_state(entries)


class OnDevice:
    """Lists of pairs on the device of the evaluation, copied there once as long as they stay the same."""

    def __init__(self) -> None:
        # Two: the operator's own list and that of the electrodes.
        self._pairs: list[tuple[Pairs, Triple]] = []

    def pairs(self, found: Pairs, device: torch.device) -> Triple:
        """The pairs of a neighbour list, which gives the same object until it is made anew."""
        if device.type == "cpu" and isinstance(found, RowPairs):
            return HalfList(found)
        if device.type == "cpu":
            return _list_tensors(found, device)
        for pairs, tensors in self._pairs:
            if pairs is found and tensors[0].device == device:
                return tensors
        self._pairs = [(found, _list_tensors(found, device)), *self._pairs[:1]]
        return self._pairs[0][1]


class Excluded:
    """The excluded pairs: checked once as long as the same ones are given, listed once while their images stay the same."""

    def __init__(self) -> None:
        self._given: tuple[NDArray[Any], int, NDArray[np.int64] | None] | None = None
        self._listed: tuple[int, NDArray[np.int64], NDArray[np.int64], Triple] | None = None

    def checked(self, value: Any, atoms: int) -> NDArray[np.int64] | None:
        """As `checks.exclusions_of`."""
        if value is None:
            return None
        raw = host(value)
        if self._given is not None:
            known, number, found = self._given
            if number == atoms and known.dtype == raw.dtype and np.array_equal(known, raw):
                return found
        found = checks.exclusions_of(raw, atoms)
        self._given = raw.copy(), atoms, found
        return found

    def nearest(
        self,
        listed: NDArray[np.int64],
        places: NDArray[np.float64],
        frame: NDArray[np.float64],
        periodic: tuple[bool, bool, bool],
        device: torch.device,
    ) -> Triple:
        """Pairs (m,2) with the shifts (m,3) of their nearest images: the same object until one of them changes."""
        if self._listed is not None:
            number, atoms, images, tensors = self._listed
            # The list has a place for every atom, also for those without excluded pairs.
            same = number == len(places) and (device.type == "cpu") == isinstance(tensors, HalfList)
            same = same and (device.type == "cpu" or tensors[0].device == device)
            same = same and (atoms is listed or np.array_equal(atoms, listed))
            if same and cells.nearest_images_stay(listed, images, places, frame, periodic):
                return tensors
        shifts = cells.nearest_image_shifts(places[listed[:, 1]] - places[listed[:, 0]], frame, periodic)
        if self._listed is not None and same and np.array_equal(images, shifts):
            return tensors
        if device.type == "cpu":
            short = (np.ascontiguousarray(c, dtype=np.int32) for c in (*listed.T, shifts))
            found: Triple = HalfList(RowPairs(as_rows(len(places), *short)))
        else:
            found = _tensors(*listed.T, shifts, device=device)
        self._listed = len(places), listed, shifts, found
        return found


def _refuse_far(extent: float) -> None:
    """Refuse a slab whose mesh or list would take all memory: an atom has flown away."""
    if extent > _FARTHEST:
        raise ValueError(
            f"extent of the charges along the normal = {extent:.6g} Å must be at most {_FARTHEST:g} Å: an atom has left the "
            "slab; check the structure or the previous step"
        )


def _without_probes(pairs: Pairs, atoms: int, points: int) -> Pairs:
    """The list without pairs of two probes: they carry no charge and may lie on one place."""
    if atoms == points:
        return pairs
    keep = (pairs.i < atoms) | (pairs.j < atoms)
    return Pairs(pairs.i[keep], pairs.j[keep], pairs.shifts[keep])


def _list_tensors(pairs: Pairs, device: torch.device) -> Triple:
    return _tensors(pairs.i, pairs.j, pairs.shifts, device=device)


def _tensors(*columns: NDArray[np.integer], device: torch.device) -> Triple:
    """The list as tensors: the arrays' own memory on the CPU, and the 64-bit indices of torch elsewhere."""
    i, j, shifts = (torch.as_tensor(c) for c in columns)
    if device.type == "cpu":
        return i, j, shifts
    return i.to(device).long(), j.to(device).long(), shifts.to(device).long()
