"""The Coulomb operator as users meet it: `Coulomb(boundary, ...)(positions, charges, cell, ...)`."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grahame.electrostatics import accuracy as accuracy_law
from grahame.electrostatics import cells, checks, exact, fields, gaussians, slab
from grahame.electrostatics.accuracy import Parameters
from grahame.electrostatics.system import System
from grahame.electrostatics.units import COULOMB_CONSTANT
from grahame.kernels import reference
from grahame.kernels.neighbors import NeighborList, neighbor_pairs

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
# Parameters serve until the cell is strained by this much, or the slab thicker than planned.
_STRAIN = 0.02
_ROOM = 2.0


@dataclass(frozen=True)
class CoulombResult:
    """Result of one evaluation; numpy arrays for numpy input, tensors for torch input.

    Attributes:
        energy: eV, on-site Gaussian energy included.
        potential: (n,) dE/dq_i in V, on-site part included.
        forces: (n,3) -dE/dr at fixed charges in eV/Å, or None if not asked for.
        stress: (3,3) (1/V) dE/dstrain in eV/Å³ with the volume of the user's cell, or None.
        self_energy: (n,) k q²/(2 sqrt(pi) s), the part of `energy` of each Gaussian with itself, eV.
    """

    energy: Any
    potential: Any
    forces: Any
    stress: Any
    self_energy: Any


@dataclass(frozen=True)
class _Plan:
    """Parameters with the geometry they were chosen for."""

    parameters: Parameters
    cell: NDArray[np.float64]
    atoms: int
    widest: float
    extent: float


class Coulomb:
    """Coulomb operator K of point and Gaussian charges in 0, 2 or 3 periodic dimensions.

    E = 1/2 sum_ij q_i K_ij q_j - E.sum q r, with K as `electrostatics.system` composes it.

    Args:
        boundary: "3d" (tin-foil), "slab" (charged-slab-corrected Ewald), "slab-exact" (two-dimensional
            Ewald), "finite-field" (for ConstantPotential), "displacement" (constant D), "open".
        method: "exact", "ewald", "pme", or "auto".
        accuracy: rms force error relative to max(rms Coulomb force, k (sum q²/N)(N/V)^(2/3)).
        vacuum: "slab" only: "auto" pads the k-space cell as the accuracy needs; a number is added padding
            in Å; 0.0 takes the cell as given.
        background: "gaussian" (zero mean potential) or "point" (as LAMMPS and OpenMM); matters for charged
            cells of Gaussians in three dimensions only. In "3d", "point" also takes what these programs take
            and what has no meaning of its own there: fields in charged cells, and unequal held potentials.
        coulomb_constant: k in eV Å/e².
        dtype: accepted for float64 only: sums are in double precision.
        device: torch device of the evaluation; None takes that of the input.
        cutoff, splitting, mesh, order: fix the real-space cut-off (Å), the Ewald splitting (1/Å), the mesh
            points and the B-spline order instead of deriving them from `accuracy`.

    Raises:
        ValueError: for unknown names or values out of range.
    """

    def __init__(
        self,
        boundary: str = "3d",
        method: str = "auto",
        accuracy: float = 1e-6,
        vacuum: float | str = "auto",
        background: str = "gaussian",
        coulomb_constant: float | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        *,
        cutoff: float | None = None,
        splitting: float | None = None,
        mesh: tuple[int, int, int] | None = None,
        order: int | None = None,
    ) -> None:
        if boundary not in METHODS:
            raise ValueError(
                f'boundary = "{boundary}" must be one of {", ".join(METHODS)}: '
                "one periodic direction is not computed; use one of these"
            )
        if method != "auto" and method not in METHODS[boundary]:
            raise ValueError(
                f'method = "{method}" must be one of auto, {", ".join(METHODS[boundary])} '
                f'with boundary = "{boundary}": choose one of these'
            )
        if not (isinstance(accuracy, int | float) and 0.0 < accuracy <= 0.1):
            raise ValueError(
                f"accuracy = {accuracy} must lie between 0 and 0.1: it is a relative force error, 1e-4 to 1e-8 are usual"
            )
        if background not in ("gaussian", "point"):
            raise ValueError(f'background = "{background}" must be gaussian or point: choose one of these')
        if isinstance(vacuum, str):
            if vacuum != "auto":
                raise ValueError(f'vacuum = "{vacuum}" must be auto or a length in Å: choose one of these')
        elif not (math.isfinite(vacuum) and vacuum >= 0.0):
            raise ValueError(
                f"vacuum = {vacuum:g} Å must not be negative: it is the padding added to the cell"
            )
        if dtype not in (None, torch.float64, torch.float32):
            raise ValueError(f"dtype = {dtype} must be torch.float64 or torch.float32: choose one of these")
        for name, value, unit in (("cutoff", cutoff, "Å"), ("splitting", splitting, "1/Å")):
            if value is not None:
                checks.positive(name, value, unit, "leave it out to derive it from `accuracy`")
        if order is not None and order not in range(4, 11):
            raise ValueError(f"order = {order} must lie between 4 and 10: 6 or more for second derivatives")
        if mesh is not None and (len(mesh) != 3 or min(mesh) < (order or 4)):
            raise ValueError(
                f"mesh = {tuple(mesh)} must be three numbers not below the order: refine the mesh"
            )
        k = COULOMB_CONSTANT if coulomb_constant is None else coulomb_constant
        self.boundary = boundary
        self.method = method
        self.accuracy = float(accuracy)
        self.vacuum = vacuum
        self.background = background
        self.coulomb_constant = checks.positive("coulomb_constant", k, "eV Å/e²", "leave it out for CODATA's")
        self.dtype = dtype
        self.device = device
        self._fixed = {"cutoff": cutoff, "splitting": splitting, "mesh": mesh, "order": order}
        self._plan: _Plan | None = None
        self._waves: Tensor | None = None
        self._neighbors: NeighborList | None = None

    # ------------------------------------------------------------------ public

    def __call__(
        self,
        positions: Any,
        charges: Any,
        cell: Any,
        smearing: Any = None,
        exclusions: Any = None,
        field: Any = None,
        displacement: Any = None,
        forces: bool = True,
        stress: bool = False,
    ) -> CoulombResult:
        """Energy, potential, forces and stress of given charges.

        Args:
            positions: (n,3) Å, or (B,n,3) with a leading axis on charges (and cell) as well.
            charges: (n,) e.
            cell: (3,3) rows in Å; None for "open".
            smearing: (n,) Gaussian widths in Å; a number serves all; None for points.
            exclusions: (m,2) pairs whose bare interaction (nearest image) is removed.
            field: (3,) V/Å: macroscopic field in "3d", the field in the vacuum along n in "slab".
            displacement: D/eps0 along n in V/Å, for "displacement" (default 0).
            forces: whether forces are wanted.
            stress: whether the stress is wanted.

        Returns:
            CoulombResult.

        Raises:
            ValueError: for input that has no right answer; the message names the value and the remedy.
        """
        if np.ndim(positions) == 3 if not isinstance(positions, Tensor) else positions.ndim == 3:
            return self._batched(
                positions, charges, cell, smearing, exclusions, field, displacement, forces, stress
            )
        kind = Kind(positions, charges, cell, smearing, field, displacement)
        x, h, s = self._checked(positions, cell, smearing)
        q = checks.per_atom("charges", charges, len(x), "e", x)
        e_field, d_field = self.check_fields(q, h, field, displacement)
        if stress and h is None:
            raise ValueError(
                'stress = True must be False with boundary = "open": an open system has no volume'
            )
        track = torch.is_grad_enabled() and kind.requires_grad
        with torch.enable_grad():
            leaf_q = variable(q, track)
            leaf_x = variable(x, track) if forces else x
            strain = x.new_zeros((3, 3), requires_grad=True) if stress else None
            sx, sh = apply_strain(leaf_x, h, strain)
            system = self.bind(sx, sh, s, exclusions)
            energy = system.energy(leaf_q) + self.field_energy(sx, leaf_q, sh, e_field, d_field)
            wanted = [leaf_q] + ([leaf_x] if forces else []) + ([strain] if strain is not None else [])
            gradients = list(torch.autograd.grad(energy, wanted, create_graph=track))
        potential = gradients.pop(0)
        force = -gradients.pop(0) if forces else None
        tension = None
        if strain is not None:
            assert h is not None
            tension = gradients.pop(0) / cells.volume(h)
        self_energy = 0.5 * self.coulomb_constant * gaussians.on_site_diagonal(s) * q**2
        return CoulombResult(*(kind.out(v, track) for v in (energy, potential, force, tension, self_energy)))

    def potential_at(
        self,
        points: Any,
        positions: Any,
        charges: Any,
        cell: Any,
        smearing: Any = None,
        field: Any = None,
        displacement: Any = None,
    ) -> Any:
        """Electrostatic potential at any points, in V.

        phi(p) = k sum_j q_j K(p, r_j) - E.p, seen by a point charge of vanishing size.

        Args:
            points: (m,3) Å, not on top of a point charge.
            positions, charges, cell, smearing, field, displacement: as in a call.

        Returns:
            (m,) V.

        Raises:
            ValueError: as a call does.
        """
        kind = Kind(points, positions, charges, cell, smearing)
        x, h, s = self._checked(positions, cell, smearing)
        q = checks.per_atom("charges", charges, len(x), "e", x)
        p = checks.positions_of(points)
        e_field, d_field = self.check_fields(q, h, field, displacement)
        all_x = torch.cat([x, p])
        all_q = torch.cat([q, q.new_zeros(len(p))])
        all_s = torch.cat([s, s.new_zeros(len(p))])
        track = torch.is_grad_enabled() and kind.requires_grad
        with torch.enable_grad():
            leaf_q = variable(all_q, track)
            # Probes on top of each other do not see each other (they carry no charge).
            energy = self.bind(all_x, h, all_s, None, probes=len(p)).energy(leaf_q)
            energy = energy + self.field_energy(all_x, leaf_q, h, e_field, d_field)
            (potential,) = torch.autograd.grad(energy, leaf_q, create_graph=track)
        return kind.out(potential[len(x) :], track)

    def matrix(
        self,
        positions: Any,
        cell: Any,
        smearing: Any = None,
        exclusions: Any = None,
        rows: Any = None,
        columns: Any = None,
    ) -> Any:
        """The operator K as a matrix, on-site Gaussian part included.

        Args:
            positions, cell, smearing, exclusions: as in a call.
            rows, columns: indices of the atoms wanted; None for all.

        Returns:
            K[rows, columns] in eV/e².

        Raises:
            ValueError: as a call does.
        """
        kind = Kind(positions, cell, smearing)
        x, h, s = self._checked(positions, cell, smearing)
        track = torch.is_grad_enabled() and kind.requires_grad
        with torch.set_grad_enabled(track):
            k = self.bind(x, h, s, exclusions).matrix()
        if rows is not None:
            k = k[torch.as_tensor(np.asarray(rows), dtype=torch.int64)]
        if columns is not None:
            k = k[:, torch.as_tensor(np.asarray(columns), dtype=torch.int64)]
        return kind.out(k, track)

    def parameters(
        self, positions: Any, charges: Any = None, cell: Any = None, smearing: Any = None
    ) -> Parameters:
        """What `accuracy` was turned into for this geometry (the charges do not matter)."""
        x, h, s = self._checked(positions, cell, smearing)
        return self._parameters(x.detach(), None if h is None else h.detach(), s.detach())

    # ------------------------------------------------------------- for the package

    def bind(
        self,
        x: Tensor,
        h: Tensor | None,
        s: Tensor,
        exclusions: Any,
        probes: int = 0,
        parameters: Parameters | None = None,
        neighbors: NeighborList | None = None,
    ) -> System:
        """The operator at one geometry.

        Args:
            x, h, s: positions, cell and widths; may carry a graph.
            exclusions: excluded pairs.
            probes: how many of the last atoms are probes that may lie on top of each other.
            parameters: use these (those of a larger system, whose part this is) instead of choosing.
            neighbors: use this list instead of the operator's own.
        """
        fixed_x, fixed_h = x.detach(), None if h is None else h.detach()
        if parameters is None:
            parameters = self._parameters(fixed_x, fixed_h, s.detach())
        periodic = cells.PERIODIC[self.boundary]
        excluded = None
        listed = checks.exclusions_of(exclusions, len(x))
        if listed is not None:
            i, j = (torch.as_tensor(column, device=x.device) for column in listed.T)
            frame = fixed_x.new_zeros((3, 3)) if fixed_h is None else fixed_h
            excluded = i, j, cells.nearest_image_shifts(fixed_x[j] - fixed_x[i], frame, periodic)
        pairs, waves = None, None
        if fixed_h is None:
            self._refuse_coincident(fixed_x, None, probes)
        else:
            k_cell = cells.extend_along_normal(fixed_h, parameters.padding)
            pairs = self._pairs(fixed_x, k_cell, parameters, neighbors, probes)
            if parameters.method == "ewald":
                waves = self._half_waves(parameters)
        return System(
            self.boundary, self.background, self.coulomb_constant, parameters, x, h, s, pairs, waves, excluded
        )

    def field_energy(
        self, x: Tensor, q: Tensor, h: Tensor | None, field: Tensor | None, displacement: Tensor | None
    ) -> Tensor:
        """-E.M of a given field, or the part of constant displacement that is not in K, in eV."""
        energy = x.new_zeros(())
        if field is not None:
            energy = energy + (q * fields.external_potential(x, field)).sum()
        if self.boundary == "displacement" and displacement is not None:
            assert h is not None
            moment = (q * (x @ cells.normal(h))).sum()
            energy = energy - displacement * moment
            energy = energy + fields.displacement_energy(h, displacement, self.coulomb_constant)
        return energy

    def state(self) -> dict[str, NDArray[Any]]:
        """What an exact restart needs: the parameters' geometry and the neighbour list."""
        out: dict[str, NDArray[Any]] = {}
        if self._plan is not None:
            p = self._plan
            out["plan_cell"], out["plan_numbers"] = p.cell, np.array([p.atoms, p.widest, p.extent])
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
            )
            atoms, widest, extent = state["plan_numbers"]
            self._plan = _Plan(
                parameters, np.asarray(state["plan_cell"]), int(atoms), float(widest), float(extent)
            )
            entries = {key[5:]: value for key, value in state.items() if key.startswith("list_")}
            if entries:
                self._neighbors = NeighborList(parameters.cutoff)
                self._neighbors.load_state(entries)

    # ------------------------------------------------------------------ private

    def _checked(self, positions: Any, cell: Any, smearing: Any) -> tuple[Tensor, Tensor | None, Tensor]:
        x = checks.positions_of(positions)
        if self.device is not None:
            x = x.to(self.device)
        return x, checks.cell_of(cell, self.boundary, x), checks.smearing_of(smearing, len(x), x)

    def check_fields(
        self, q: Tensor, h: Tensor | None, field: Any, displacement: Any
    ) -> tuple[Tensor | None, Tensor | None]:
        """The field and the displacement as tensors, after all that can be wrong with them."""
        e_field = checks.vector_of("field", field, "V/Å", q)
        if self.boundary == "displacement":
            d_field: Tensor | None = checks.to_tensor(0.0 if displacement is None else displacement, q)
            assert d_field is not None
            if d_field.ndim != 0 or not bool(torch.isfinite(d_field)):
                raise ValueError(
                    "displacement must be one finite number in V/Å: it is D/eps0 along the normal"
                )
        elif displacement is not None:
            raise ValueError(
                f'displacement must be left out with boundary = "{self.boundary}": use boundary = "displacement"'
            )
        else:
            d_field = None
        if e_field is not None and bool((e_field != 0).any()):
            if self.boundary in ("finite-field", "displacement"):
                what = (
                    "follows the potentials"
                    if self.boundary == "finite-field"
                    else "follows the displacement"
                )
                raise ValueError(
                    f'field = {e_field.tolist()} V/Å must be left out with boundary = "{self.boundary}": there the field {what}'
                )
            if self.boundary in ("slab", "slab-exact"):
                assert h is not None
                n = cells.normal(h.detach())
                along = float((e_field.detach() @ n).abs())
                if float(
                    torch.linalg.vector_norm(e_field.detach() - (e_field.detach() @ n) * n)
                ) > 1e-9 * max(along, 1e-9):
                    raise ValueError(
                        f'field = {e_field.tolist()} V/Å must be parallel to the surface normal with boundary = "{self.boundary}": '
                        "a component in the periodic plane has no potential"
                    )
            if not self.as_other_programs:
                self.require_neutral(q, "a field")
        if self.boundary == "displacement":
            self.require_neutral(q, "constant displacement")
        return e_field, d_field

    @property
    def as_other_programs(self) -> bool:
        """Whether a plain periodic cell is taken as LAMMPS and OpenMM take it."""
        return self.boundary == "3d" and self.background == "point"

    def require_neutral(self, q: Tensor, reason: str) -> None:
        """Raise unless the charges add up to zero."""
        total = float(q.detach().sum())
        if abs(total) > 1e-8 * max(1.0, float(q.detach().abs().sum())):
            raise ValueError(
                f"sum of charges = {total:.6g} e must be zero with {reason}: "
                "the energy would depend on the origin; add counter charges"
            )

    def _parameters(self, x: Tensor, h: Tensor | None, s: Tensor) -> Parameters:
        widest = float(s.max())
        if h is None:
            return Parameters("exact", math.inf, 0.0)
        z = x @ cells.normal(h)
        extent = float(z.max() - z.min())
        frame = h.cpu().numpy()
        plan = self._plan
        if plan is not None and plan.atoms == len(x) and widest <= plan.widest and extent <= plan.extent:
            strain = np.abs(np.linalg.solve(plan.cell, frame) - np.eye(3)).max()
            if strain < _STRAIN:
                return plan.parameters
        self._waves = None
        self._plan = self._make_plan(x, h, widest, extent)
        return self._plan.parameters

    def _make_plan(self, x: Tensor, h: Tensor, widest: float, extent: float) -> _Plan:
        frame = h.cpu().numpy().copy()
        slab_like = self.boundary == "slab"
        room = extent + _ROOM if self.boundary in ("slab", "displacement", "finite-field") else math.inf
        padding = self._padding(h, extent) if slab_like else 0.0
        k_cell = cells.extend_along_normal(h, padding)
        method = self.method
        if method == "auto":
            small = len(x) <= _SMALL or self.accuracy < 1e-9
            method = "exact" if len(METHODS[self.boundary]) == 1 else "ewald" if small else "pme"
        smallest = 1.0 / (2.0 * widest) if widest > 0 else math.inf
        if method == "exact":
            volume = float(cells.volume(k_cell))
            found = exact.parameters(volume, len(x), smallest, self.boundary == "slab-exact")
        else:
            matter = accuracy_law.occupied_volume(x.cpu().numpy(), k_cell.cpu().numpy())
            request = accuracy_law.Request(
                len(x),
                k_cell.cpu().numpy(),
                float(cells.volume(h)),
                matter,
                smallest,
                max(self.accuracy, accuracy_law.SMALLEST_ACCURACY),
                **self._fixed,  # type: ignore[arg-type]
            )
            self._refuse_narrow_cutoff(request, widest)
            found = (
                accuracy_law.choose_ewald(request) if method == "ewald" else accuracy_law.choose_pme(request)
            )
        return _Plan(replace(found, padding=padding), frame, len(x), widest, room)

    def _padding(self, h: Tensor, extent: float) -> float:
        length = float(cells.height(h))
        if self.vacuum != "auto":
            padding = float(self.vacuum)
            if extent >= length + padding:
                raise ValueError(
                    f"extent of the charges along the normal = {extent:.6g} Å must be smaller than the height of the k-space "
                    f"cell, {length + padding:.6g} Å: increase `vacuum` or use vacuum='auto'"
                )
            return padding
        g = cells.smallest_in_plane_reciprocal(h)
        target = 1e-13 if self.method == "exact" else self.accuracy
        gap = slab.gap_for(max(target, 1e-13), g)
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
        self, x: Tensor, k_cell: Tensor, p: Parameters, given: NeighborList | None, probes: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        real = x[: len(x) - probes]
        if p.method == "exact":
            all_pairs = neighbor_pairs(
                x.cpu().numpy(), k_cell.cpu().numpy(), cells.PERIODIC_K[self.boundary], p.cutoff, half=False
            )
            self._refuse_coincident(real, k_cell, 0)
            i, j, shifts = (
                torch.as_tensor(a, device=x.device) for a in (all_pairs.i, all_pairs.j, all_pairs.shifts)
            )
            return i, j, shifts
        if given is not None:
            neighbors = given
        elif probes:
            neighbors = NeighborList(p.cutoff, skin=0.0)
        else:
            if self._neighbors is None or self._neighbors.cutoff != p.cutoff:
                self._neighbors = NeighborList(p.cutoff)
            neighbors = self._neighbors
        before = neighbors.builds
        pairs = neighbors.update(x.cpu().numpy(), k_cell.cpu().numpy(), cells.PERIODIC_K[self.boundary])
        if neighbors.builds != before:
            self._refuse_coincident(real, k_cell, 0)
        i, j, shifts = (torch.as_tensor(a, device=x.device) for a in (pairs.i, pairs.j, pairs.shifts))
        return i, j, shifts

    def _half_waves(self, p: Parameters) -> Tensor:
        """Waves of the Ewald sum: a list of the cell the parameters were chosen for, so that it does not
        change under a small strain."""
        if self._waves is None:
            assert self._plan is not None
            k_frame = cells.extend_along_normal(torch.as_tensor(self._plan.cell), p.padding)
            self._waves = reference.half_reciprocal_indices(k_frame, p.reciprocal_cutoff)
        return self._waves

    def _refuse_coincident(self, x: Tensor, h: Tensor | None, probes: int) -> None:
        """Raise if two atoms (not probes) lie on one place, images included."""
        real = x[: len(x) - probes].cpu().numpy()
        frame = np.zeros((3, 3)) if h is None else h.cpu().numpy()
        close = neighbor_pairs(real, frame, cells.PERIODIC_K[self.boundary], checks.COINCIDENT)
        if len(close.i):
            vectors = real[close.j] + close.shifts @ frame - real[close.i]
            checks.refuse_coincident(int(close.i[0]), int(close.j[0]), float(np.linalg.norm(vectors[0])))

    def _batched(
        self,
        positions: Any,
        charges: Any,
        cell: Any,
        smearing: Any,
        exclusions: Any,
        field: Any,
        displacement: Any,
        forces: bool,
        stress: bool,
    ) -> CoulombResult:
        results = []
        for b in range(len(positions)):
            h = (
                cell[b]
                if cell is not None and np.ndim(cell if not isinstance(cell, Tensor) else cell.detach()) == 3
                else cell
            )
            s = smearing[b] if smearing is not None and np.ndim(smearing) == 2 else smearing
            results.append(
                self(positions[b], charges[b], h, s, exclusions, field, displacement, forces, stress)
            )
        return CoulombResult(
            *(stack([getattr(r, name) for r in results]) for name in CoulombResult.__dataclass_fields__)
        )


class Kind:
    """Numpy or torch, and the precision, of what came in: the same goes out."""

    def __init__(self, *values: Any) -> None:
        tensors = [v for v in values if isinstance(v, Tensor)]
        self.torch = bool(tensors)
        self.requires_grad = any(t.requires_grad for t in tensors)
        first = tensors[0] if tensors else next(v for v in values if v is not None)
        self.single = str(getattr(first, "dtype", "")).endswith("float32")

    def out(self, value: Tensor | None, track: bool) -> Any:
        """The value as the caller's kind; scalars of numpy input become floats."""
        if value is None:
            return None
        value = value if track else value.detach()
        if self.torch:
            return value.to(torch.float32) if self.single else value
        if value.ndim == 0:
            return float(value)
        array = value.cpu().numpy()
        return array.astype(np.float32) if self.single else array


def stack(values: list[Any]) -> Any:
    """Stack the results of a batch, whatever their kind."""
    if values[0] is None:
        return None
    return torch.stack(values) if isinstance(values[0], Tensor) else np.stack([np.asarray(v) for v in values])


def variable(value: Tensor, track: bool) -> Tensor:
    """A tensor that derivatives can be taken of.

    A caller's tensor with a graph enters as a view: the derivative with respect to the view is at fixed other
    inputs (forces at fixed charges), also when these depend on each other.
    """
    return value.view_as(value) if track and value.requires_grad else value.detach().clone().requires_grad_()


def apply_strain(x: Tensor, h: Tensor | None, strain: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Positions and cell under a symmetric strain, x (1 + eps)."""
    if strain is None or h is None:
        return x, h
    symmetric = 0.5 * (strain + strain.T)
    return x + x @ symmetric, h + h @ symmetric
