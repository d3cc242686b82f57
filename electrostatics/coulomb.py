"""The Coulomb operator as users meet it: `Coulomb(boundary, ...)(positions, charges, cell, ...)`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grahame.electrostatics import cells, checks, fields, gaussians
from grahame.electrostatics.accuracy import Parameters
from grahame.electrostatics.arrays import (
    Kind,
    check_batch,
    depth,
    entry,
    outside_inference,
    stack,
    variable,
)
from grahame.electrostatics.binding import METHODS, Binder, Settings
from grahame.electrostatics.system import System
from grahame.electrostatics.units import COULOMB_CONSTANT
from grahame.kernels import torchpme_backend
from grahame.kernels.neighbors import NeighborList
from grahame.kernels.threads import kernels_only

_SINGLE = 1e-6  # relative: sums and directions of numbers in single precision


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


def _mesh_of(value: Any, least: int) -> tuple[int, int, int]:
    """Three whole numbers of mesh points."""
    points = tuple(value) if isinstance(value, Sequence | np.ndarray) else (value,)
    if len(points) != 3 or not all(checks.is_whole(n) and n >= least for n in points):
        raise ValueError(
            f"mesh = {value} must be three whole numbers not below the order, {least}: give one for each cell vector"
        )
    return int(points[0]), int(points[1]), int(points[2])


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
        dtype: precision of the results, torch.float64 or torch.float32; None takes that of the input. Sums
            are in double precision whatever it is.
        device: torch device of the evaluation, to which all input is moved and on which torch results live;
            None takes that of the first tensor of the input, the CPU for numpy arrays.
        cutoff, splitting, mesh, order: fix the real-space cut-off (Å), the Ewald splitting (1/Å), the mesh
            points and the B-spline order instead of deriving them from `accuracy`.
        ewald_backend: "auto" (our kernels), or "torch-pme" to have energies and their derivatives of method
            "ewald" evaluated by that package: the same sum, as an independent check of small systems.

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
        ewald_backend: str = "auto",
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
        if ewald_backend not in ("auto", "torch-pme"):
            raise ValueError(
                f'ewald_backend = "{ewald_backend}" must be auto or torch-pme: choose one of these'
            )
        if ewald_backend == "torch-pme":
            if method != "ewald":
                raise ValueError(
                    f'ewald_backend = "torch-pme" must go with method = "ewald", not "{method}": '
                    'set method = "ewald" or leave ewald_backend out'
                )
            torchpme_backend.load()
        if not (checks.is_real(accuracy) and 0.0 < float(accuracy) <= 0.1):
            raise ValueError(
                f"accuracy = {accuracy} must lie between 0 and 0.1: it is a relative force error, 1e-4 to 1e-8 are usual"
            )
        if background not in ("gaussian", "point"):
            raise ValueError(f'background = "{background}" must be gaussian or point: choose one of these')
        if isinstance(vacuum, str):
            if vacuum != "auto":
                raise ValueError(f'vacuum = "{vacuum}" must be auto or a length in Å: choose one of these')
        elif not checks.is_real(vacuum):
            raise ValueError(f"vacuum = {vacuum!r} must be auto or a length in Å: choose one of these")
        elif not (math.isfinite(vacuum) and vacuum >= 0.0):
            raise ValueError(
                f"vacuum = {vacuum:g} Å must not be negative: it is the padding added to the cell"
            )
        if dtype not in (None, torch.float64, torch.float32):
            raise ValueError(f"dtype = {dtype} must be torch.float64 or torch.float32: choose one of these")
        for name, value, unit in (("cutoff", cutoff, "Å"), ("splitting", splitting, "1/Å")):
            if value is not None:
                checks.positive(name, value, unit, "leave it out to derive it from `accuracy`")
        if order is not None and not (checks.is_whole(order) and order in range(4, 11)):
            raise ValueError(
                f"order = {order} must be a whole number from 4 to 10: 6 or more for second derivatives"
            )
        if mesh is not None:
            mesh = _mesh_of(mesh, order or 4)
        k = COULOMB_CONSTANT if coulomb_constant is None else coulomb_constant
        self.boundary = boundary
        self.method = method
        self.accuracy = float(accuracy)
        self.vacuum = vacuum
        self.background = background
        self.coulomb_constant = checks.positive("coulomb_constant", k, "eV Å/e²", "leave it out for CODATA's")
        self.dtype = dtype
        self.device = device
        fixed = {"cutoff": cutoff, "splitting": splitting, "mesh": mesh, "order": order}
        self._binder = Binder(
            Settings(
                boundary,
                method,
                self.accuracy,
                vacuum,
                background,
                self.coulomb_constant,
                ewald_backend,
                fixed,
            )
        )

    # ------------------------------------------------------------------ public

    @outside_inference
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
        if depth(positions) == 3:
            return self._batched(
                positions, charges, cell, smearing, exclusions, field, displacement, forces, stress
            )
        kind = Kind(positions, charges, cell, smearing, field, displacement, dtype=self.dtype)
        track = torch.is_grad_enabled() and kind.requires_grad
        with kernels_only(not track):
            x, h, s = self._checked(positions, cell, smearing, kind)
            q = checks.per_atom("charges", charges, len(x), "e", x)
            e_field, d_field = self.check_fields(q, h, field, displacement, kind.rounded)
            # An open system has no volume: its stress is None.
            stress = stress and h is not None
            self_energy = torch.zeros_like(q)
            if not checks.all_points(s):
                self_energy = 0.5 * self.coulomb_constant * gaussians.on_site_diagonal(s) * q**2
            if not (track or stress):
                values = self._first(self.bind(x, h, s, exclusions), q, e_field, d_field, forces)
                return CoulombResult(*(kind.out(v, track) for v in (*values, None, self_energy)))
            with torch.enable_grad():
                leaf_q = variable(q, track)
                leaf_x = variable(x, track) if forces else x
                strain = x.new_zeros((3, 3), requires_grad=True) if stress else None
                sx, sh = cells.apply_strain(leaf_x, h, strain)
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
            return CoulombResult(
                *(kind.out(v, track) for v in (energy, potential, force, tension, self_energy))
            )

    @outside_inference
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
            positions, charges, cell, smearing, field, displacement: as in a call, one system at a time; excluded
                pairs are between atoms and play no part here.

        Returns:
            (m,) V.

        Raises:
            ValueError: as a call does.
        """
        kind = Kind(points, positions, charges, cell, smearing, field, displacement, dtype=self.dtype)
        x, h, s = self._checked(positions, cell, smearing, kind)
        q = checks.per_atom("charges", charges, len(x), "e", x)
        p = checks.positions_of(points, x.device, "points", "point")
        aside = self._binder.off_centre(p, x, h, s)
        between = aside.any(1).nonzero()[:, 0]
        asked, p = len(p), torch.cat([p + aside, p[between] - aside[between]])
        e_field, d_field = self.check_fields(q, h, field, displacement, kind.rounded)
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
        first, second = potential[len(x) : len(x) + asked], potential[len(x) + asked :]
        found = first.index_put((between,), 0.5 * (first[between] + second))
        return kind.out(found, track)

    @outside_inference
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
        kind = Kind(positions, cell, smearing, dtype=self.dtype)
        x, h, s = self._checked(positions, cell, smearing, kind)
        track = torch.is_grad_enabled() and kind.requires_grad
        with torch.set_grad_enabled(track):
            k = self.bind(x, h, s, exclusions).matrix()
        if rows is not None:
            k = k[checks.indices_of("rows", rows, len(x)).to(k.device)]
        if columns is not None:
            k = k[:, checks.indices_of("columns", columns, len(x)).to(k.device)]
        return kind.out(k, track)

    @outside_inference
    def product(
        self, positions: Any, charges: Any, cell: Any, smearing: Any = None, exclusions: Any = None
    ) -> Any:
        """The operator applied to one or many sets of charges, bound to the geometry once.

        V = K Q, on-site Gaussian part included, without the linear terms of a given field.

        Args:
            positions, cell, smearing, exclusions: as in a call.
            charges: (n,) or (n,m) e, a set of charges in each column.

        Returns:
            Potentials of the same shape in V. Derivatives with respect to charges and geometry pass through torch.

        Raises:
            ValueError: as a call does.
        """
        kind = Kind(positions, charges, cell, smearing, dtype=self.dtype)
        x, h, s = self._checked(positions, cell, smearing, kind)
        q = checks.columns_of("charges", charges, len(x), "e", x)
        track = torch.is_grad_enabled() and kind.requires_grad
        with torch.set_grad_enabled(track):
            return kind.out(self.bind(x, h, s, exclusions).product(q), track)

    @outside_inference
    def parameters(
        self, positions: Any, charges: Any = None, cell: Any = None, smearing: Any = None
    ) -> Parameters:
        """What `accuracy` was turned into for this geometry (the charges do not matter)."""
        x, h, s = self._checked(positions, cell, smearing)
        return self._binder.parameters(x.detach().cpu(), None if h is None else h.detach().cpu(), s.detach())

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
        waves: Tensor | None = None,
    ) -> System:
        """The operator at one geometry; see `Binder.bind`."""
        return self._binder.bind(x, h, s, exclusions, probes, parameters, neighbors, waves)

    def state(self) -> dict[str, NDArray[Any]]:
        """What an exact restart needs: the parameters' geometry and the neighbour list."""
        return self._binder.state()

    @outside_inference
    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Take over a `state()`."""
        self._binder.load_state(state)

    def field_energy(
        self, x: Tensor, q: Tensor, h: Tensor | None, field: Tensor | None, displacement: Tensor | None
    ) -> Tensor:
        """-E.M of a given field, or the part of constant displacement that is not in K, in eV."""
        energy = x.new_zeros(())
        if field is not None:
            acting = fields.turning(field, h) if self.boundary in cells.SLABS and h is not None else field
            energy = energy + (q * fields.external_potential(x, acting)).sum()
        if self.boundary == "displacement" and displacement is not None:
            assert h is not None
            moment = (q * (x @ cells.normal(h))).sum()
            energy = energy - displacement * moment
            energy = energy + fields.displacement_energy(h, displacement, self.coulomb_constant)
        return energy

    # ------------------------------------------------------------------ private

    def _first(
        self, system: System, q: Tensor, field: Tensor | None, displacement: Tensor | None, forces: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Energy, potential and forces without graph; what fields add is linear in the charges."""
        with torch.no_grad():
            q, x, h = q.detach(), system.positions.detach(), system.cell
            found = system.first(q, forces)
            energy, potential, gradient = found.energy, found.potential, found.gradient
            acting = field
            if self.boundary == "displacement" and displacement is not None:
                assert h is not None
                acting = displacement * cells.normal(h)
            if acting is not None:
                energy = energy + self.field_energy(x, q, h, field, displacement)
                potential = potential + fields.external_potential(x, acting)
                gradient = None if gradient is None else gradient - q[:, None] * acting
        return energy, potential, None if gradient is None else gradient.neg_()

    def _checked(
        self, positions: Any, cell: Any, smearing: Any, kind: Kind | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Positions, cell and widths on the device of the evaluation, where all else follows the positions."""
        x = checks.positions_of(positions, self.device or (kind.device if kind else None))
        return x, checks.cell_of(cell, self.boundary, x), checks.smearing_of(smearing, len(x), x)

    def check_fields(
        self, q: Tensor, h: Tensor | None, field: Any, displacement: Any, single: bool = False
    ) -> tuple[Tensor | None, Tensor | None]:
        """The field and the displacement as tensors, after all that can be wrong with them.

        `single` says that numbers came in single precision, whose rounding is no mistake.
        """
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
                f'displacement = {displacement} V/Å must be left out with boundary = "{self.boundary}": use boundary = "displacement"'
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
            if self.boundary in cells.SLABS:
                assert h is not None
                n = cells.normal(h.detach())
                along = float((e_field.detach() @ n).abs())
                across = float(torch.linalg.vector_norm(e_field.detach() - (e_field.detach() @ n) * n))
                if across > (_SINGLE if single else 1e-9) * max(along, 1e-9):
                    raise ValueError(
                        f'field = {e_field.tolist()} V/Å must be parallel to the surface normal with boundary = "{self.boundary}": '
                        "a component in the periodic plane has no potential"
                    )
            if not self.as_other_programs:
                self.require_neutral(q, "a field", single)
        if self.boundary == "displacement":
            self.require_neutral(q, "constant displacement", single)
        return e_field, d_field

    @property
    def as_other_programs(self) -> bool:
        """Whether a plain periodic cell is taken as LAMMPS and OpenMM take it."""
        return self.boundary == "3d" and self.background == "point"

    def require_neutral(self, q: Tensor, reason: str, single: bool = False) -> None:
        """Raise unless the charges add up to zero, within the rounding of single precision if they came in that."""
        total = float(q.detach().sum())
        if abs(total) > (_SINGLE if single else 1e-8) * max(1.0, float(q.detach().abs().sum())):
            raise ValueError(
                f"sum of charges = {total:.6g} e must be zero with {reason}: "
                "the energy would depend on the origin; add counter charges"
            )

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
        check_batch(
            positions, charges=(charges, 1), cell=(cell, 2), smearing=(smearing, 1), field=(field, 1),
            displacement=(displacement, 0),
        )  # fmt: skip
        results = [
            self(
                positions[b],
                entry(charges, b, 1),
                entry(cell, b, 2),
                entry(smearing, b, 1),
                exclusions,
                entry(field, b, 1),
                entry(displacement, b, 0),
                forces,
                stress,
            )
            for b in range(len(positions))
        ]
        return CoulombResult(
            *(stack([getattr(r, name) for r in results]) for name in CoulombResult.__dataclass_fields__)
        )
