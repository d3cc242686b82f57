"""Electrodes at constant potential or constant charge: the stand-alone solver.

    Omega(R; psi, E) = min over q_s of { 1/2 q'Kq + sum_s (chi q + 1/2 J q²) - E.M(q) - sum_g psi_g Q_g }

over the charges q_s of the solved atoms, with the sums of `electrodes` held. Stationarity reads

    (K q + chi + J q - E.r)_i + lambda = psi_g

on every solved atom i: the electrode is an equipotential. Forces are -dOmega/dR: because Omega is
stationary, the response of the charges drops out of them (and only of them: second derivatives need it).

Sources: Siepmann and Sprik, J. Chem. Phys. 102, 511 (1995); Reed, Lanning and Madden, J. Chem. Phys. 126,
084704 (2007); Scalfi et al., Phys. Chem. Chem. Phys. 22, 10480 (2020); Scalfi et al., J. Chem. Phys. 153,
174704 (2020) for the Thomas-Fermi term; Dufils et al., Phys. Rev. Lett. 123, 195501 (2019) for finite field.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grahame.electrostatics import cells, checks, fields
from grahame.electrostatics.coulomb import Coulomb, Kind, apply_strain, stack, variable
from grahame.electrostatics.electrodes import Electrode, Held, check_electrodes, check_indices, expand, what_is_held
from grahame.electrostatics.equilibration import Constraints
from grahame.electrostatics.linear_response import LinearSolver
from grahame.electrostatics.system import System


@dataclass(frozen=True)
class ConstantPotentialResult:
    """One solve; numpy arrays for numpy input, tensors for torch input.

    Attributes:
        charges: (n,) e, all atoms.
        electrode_charges: (groups,) e.
        potentials: (groups,) V: held groups return what was set, floating ones stand on the same scale.
        multiplier: psi_g - (Aq+b)_i of the potential-held groups, V (0 if there are none).
        energy: Omega = internal_energy - work (+ field_energy in finite field), eV.
        internal_energy: U, -E.M included, eV.
        work: sum psi_g Q_g over the potential-held groups, eV.
        field_energy: -V E²/(8 pi k) in finite field, else 0, eV.
        forces: (n,3) -dOmega/dR in eV/Å, or None.
        forces_at_fixed_field: (n,3) the forces with the field held; they differ from `forces` only in finite
            field with held charges, where the field follows the atoms. eV/Å, or None.
        stress: (3,3) eV/Å³, or None.
        field: (3,) the uniform field that acted, V/Å.
        potential: (n,) dU/dq_i at all atoms, field included, V.
        iterations: of the solver.
        residual: |P (psi - Aq - b)| relative to its value without electrode charges.
    """

    charges: Any
    electrode_charges: Any
    potentials: Any
    multiplier: Any
    energy: Any
    internal_energy: Any
    work: Any
    field_energy: Any
    forces: Any
    forces_at_fixed_field: Any
    stress: Any
    field: Any
    potential: Any
    iterations: int
    residual: float


@dataclass(frozen=True)
class _Problem:
    """Everything one solve works on, as tensors."""

    x: Tensor
    h: Tensor | None
    s: Tensor
    q: Tensor
    chi: Tensor
    hardness: Tensor
    held: Held
    constraints: Constraints
    field: Tensor | None
    displacement: Tensor | None
    total_charge: Any
    exclusions: Any


class ConstantPotential:
    """Solver for the charges of electrodes, rigid or moving.

    Args:
        electrodes: the groups and what they are held at.
        coulomb: the operator.
        smearing: Gaussian width of electrode atoms in Å: one value, one per electrode, or one per electrode
            atom in the order of the indices; so for the next four.
        hardness: J in V/e, energy 1/2 J q².
        electronegativity: chi in V, energy chi q.
        thomas_fermi_length: l in Å, energy 1/2 (4 pi k l²/v) q².
        voronoi_volume: v in Å³ per atom, needed with a Thomas-Fermi length.
        solver: "direct" (Cholesky factor of the electrode matrix), "iterative" (conjugate gradients), or
            "auto": direct while the electrodes are rigid, afterwards iterative on the last factor.
        tolerance: relative residual of the solve; None follows the operator's accuracy.

    Raises:
        ValueError: for overlapping electrodes, zero widths and values out of range.
    """

    def __init__(
        self,
        electrodes: Sequence[Electrode],
        coulomb: Coulomb,
        smearing: Any = 0.392,
        hardness: Any = 0.0,
        electronegativity: Any = 0.0,
        thomas_fermi_length: Any = 0.0,
        voronoi_volume: Any = None,
        solver: str = "auto",
        tolerance: float | None = None,
    ) -> None:
        check_electrodes(electrodes)
        self.electrodes = list(electrodes)
        self.coulomb = coulomb
        self.smearing = expand("smearing", smearing, electrodes, "Å")
        wrong = (self.smearing.detach() <= 0).nonzero()
        if len(wrong):
            value = float(self.smearing[int(wrong[0, 0])])
            raise ValueError(
                f"smearing = {value:g} Å must be greater than zero on solved atoms: "
                "a point charge has no finite self-energy; 0.392 Å is usual for gold"
            )
        self.electronegativity = expand("electronegativity", electronegativity, electrodes, "V")
        self.hardness = expand("hardness", hardness, electrodes, "V/e")
        length = expand("thomas_fermi_length", thomas_fermi_length, electrodes, "Å")
        if bool((length.detach() < 0).any()):
            raise ValueError(f"thomas_fermi_length = {float(length.min()):g} Å must not be negative: use 0 for a perfect metal")
        if bool((length.detach() > 0).any()):
            if voronoi_volume is None:
                raise ValueError(
                    "voronoi_volume = None must be given with a thomas_fermi_length: it is the volume per electrode atom in Å³"
                )
            volume = expand("voronoi_volume", voronoi_volume, electrodes, "Å³")
            if bool((volume.detach() <= 0).any()):
                raise ValueError(f"voronoi_volume = {float(volume.min()):g} Å³ must be greater than zero: it is a volume per atom")
            self.thomas_fermi = 4 * math.pi * coulomb.coulomb_constant * length**2 / volume
        else:
            self.thomas_fermi = torch.zeros_like(length)
        if solver not in ("auto", "direct", "iterative"):
            raise ValueError(f'solver = "{solver}" must be auto, direct or iterative: choose one of these')
        if tolerance is not None:
            checks.positive("tolerance", tolerance, "", "it is a residual relative to the right-hand side")
        self.tolerance = tolerance
        self.solved = torch.as_tensor(np.concatenate([e.indices for e in electrodes]))
        self.group_of = torch.cat([torch.full((len(e),), g) for g, e in enumerate(electrodes)])
        self._linear = LinearSolver(coulomb, solver)
        self._capacitance: Tensor | None = None

    # ------------------------------------------------------------------ public

    def solve(
        self,
        positions: Any,
        charges: Any,
        cell: Any,
        potentials: Any = None,
        electrode_charges: Any = None,
        field: Any = None,
        displacement: Any = None,
        smearing: Any = None,
        exclusions: Any = None,
        total_charge: Any = 0.0,
        forces: bool = True,
        stress: bool = False,
    ) -> ConstantPotentialResult:
        """Charges, potentials, Omega and its derivatives.

        Args:
            positions: (n,3) Å; or (B,n,3) with a leading axis on charges (and cell, potentials) as well.
            charges: (n,) e; entries of electrode atoms are ignored.
            cell: (3,3) rows in Å.
            potentials: one per electrode in V, held in this call; None or NaN leaves what the electrode holds.
            electrode_charges: the same for charges in e.
            field, displacement: as in `Coulomb`.
            smearing: (n,) widths in Å; entries of electrode atoms are ignored; None for point charges.
            exclusions: (m,2) excluded pairs.
            total_charge: of all atoms, in e; None leaves it free ("open" and "3d" only).
            forces, stress: what is wanted.

        Returns:
            ConstantPotentialResult.

        Raises:
            ValueError: for input that has no right answer; the message names the value and the remedy.
            RuntimeError: if the solver does not converge.
        """
        ndim = positions.ndim if isinstance(positions, Tensor) else np.ndim(positions)
        if ndim == 3:
            return self._batched(
                positions, charges, cell, potentials, electrode_charges, field, displacement, smearing, exclusions,
                total_charge, forces, stress,
            )  # fmt: skip
        held = what_is_held(self.electrodes, potentials, electrode_charges)
        kind = Kind(positions, charges, cell, field, displacement, smearing)
        extras = (held.potentials, held.charges, self.smearing, self.hardness, self.electronegativity, self.thomas_fermi)
        wants_graph = kind.requires_grad or any(t.requires_grad for t in extras)
        kind.torch = kind.torch or wants_graph
        track = torch.is_grad_enabled() and wants_graph
        problem = self._checked(
            positions, charges, cell, held, field, displacement, smearing, exclusions, total_charge
        )
        if stress and problem.h is None:
            raise ValueError('stress = True must be False with boundary = "open": an open system has no volume')
        values = self._evaluate(problem, track, forces, stress)
        values = {key: kind.out(v, track) if isinstance(v, Tensor) else v for key, v in values.items()}
        return ConstantPotentialResult(**values)

    @property
    def capacitance(self) -> NDArray[np.float64]:
        """dQ_g/dpsi_h at fixed ions in e/V, (groups, groups); rows and columns of charge-held groups are 0.

        In finite field the field follows the potentials.
        """
        if self._capacitance is None:
            raise RuntimeError("capacitance must be asked for after a solve: it depends on the geometry; call solve first")
        return self._capacitance.numpy()

    @property
    def factorizations(self) -> int:
        """How often the electrode matrix was factorised."""
        return self._linear.factorizations

    @property
    def smallest_eigenvalue(self) -> float:
        """Smallest eigenvalue of the electrode matrix in the null space of the constraints, eV/e²."""
        return self._linear.factor("smallest_eigenvalue").spectrum[0]

    @property
    def condition(self) -> float:
        """Condition number of the electrode matrix in the null space of the constraints."""
        low, high = self._linear.factor("condition").spectrum
        return high / low

    def state(self) -> dict[str, NDArray[Any]]:
        """What an exact restart needs beside the positions."""
        out = {f"coulomb_{key}": value for key, value in self.coulomb.state().items()}
        return out | {f"linear_{key}": value for key, value in self._linear.state().items()}

    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Take over a `state()`."""
        self.coulomb.load_state({k[8:]: v for k, v in state.items() if k.startswith("coulomb_")})
        self._linear.load_state({k[7:]: v for k, v in state.items() if k.startswith("linear_")})

    # ----------------------------------------------------------------- checking

    def _checked(
        self,
        positions: Any,
        charges: Any,
        cell: Any,
        held: Held,
        field: Any,
        displacement: Any,
        smearing: Any,
        exclusions: Any,
        total_charge: Any,
    ) -> _Problem:
        x = checks.positions_of(positions)
        n = len(x)
        check_indices(self.electrodes, n)
        boundary = self.coulomb.boundary
        h = checks.cell_of(cell, boundary, x)
        fluid = torch.ones(n, dtype=torch.bool)
        fluid[self.solved] = False
        # Electrode entries are ignored: whatever stands there is replaced before the checks.
        q = checks.to_tensor(charges)
        if q.ndim == 1 and len(q) == n:
            q = torch.where(fluid, q, torch.zeros_like(q))
        q = checks.per_atom("charges", q, n, "e", x)
        s = torch.zeros(n, dtype=torch.float64) if smearing is None else checks.to_tensor(smearing)
        s = s.expand(n) if s.ndim == 0 else s
        if len(s) == n:
            s = torch.where(fluid, s, torch.zeros_like(s))
        s = checks.smearing_of(s, n, x).index_put((self.solved,), self.smearing)
        constraints = self._constraints(held, total_charge, q)
        whole = None if total_charge is None else checks.to_tensor(total_charge)
        neutral_sum = q if whole is None else whole.reshape(1)
        e_field, d_field = self.coulomb._check_fields(neutral_sum, h, field, displacement)
        problem = _Problem(
            x, h, s, q, self.electronegativity, self.hardness + self.thomas_fermi, held, constraints, e_field, d_field,
            total_charge, exclusions,
        )  # fmt: skip
        if boundary == "finite-field":
            self._check_finite_field(problem)
        if boundary == "3d":
            volts = [float(v) for v, by_q in zip(held.potentials, held.by_charge) if not by_q]
            if volts and max(volts) - min(volts) > 1e-12:
                raise ValueError(
                    f'potentials = {", ".join(f"{v:g}" for v in volts)} V must be equal with boundary = "3d": the cell repeats '
                    'through the electrodes; use boundary = "finite-field" or "slab"'
                )
        return problem

    def _constraints(self, held: Held, total_charge: Any, q: Tensor) -> Constraints:
        by_charge = held.by_charge
        if total_charge is None:
            if self.coulomb.boundary not in ("open", "3d"):
                raise ValueError(
                    f'total_charge = None must be a number with boundary = "{self.coulomb.boundary}": '
                    "only open and 3d cells may exchange charge with nothing"
                )
        elif all(by_charge):
            fixed, fluid = float(held.charges.detach().sum()), float(q.detach().sum())
            whole = float(checks.to_tensor(total_charge))
            if abs(fixed + fluid - whole) > 1e-8 * max(1.0, float(q.detach().abs().sum())):
                raise ValueError(
                    f"electrode charges + electrolyte charges = {fixed:.6g} + {fluid:.6g} e must equal total_charge = {whole:.6g} e: "
                    "change a held charge or total_charge, or hold one electrode at a potential"
                )
        label = torch.full((len(self.electrodes),), -1)
        count = 0
        for g, held_by_charge in enumerate(by_charge):
            if held_by_charge:
                label[g] = count
                count += 1
        if not all(by_charge) and total_charge is not None:
            label[[g for g, b in enumerate(by_charge) if not b]] = count
            count += 1
        return Constraints(label[self.group_of], count)

    def _check_finite_field(self, p: _Problem) -> None:
        kinds = p.held.by_charge
        if len(kinds) != 2 or kinds[0] != kinds[1]:
            what = ", ".join("charge" if k else "potential" for k in kinds)
            raise ValueError(
                f'electrodes = held by {what} must be two, both at a potential or both at a charge, with boundary = "finite-field": '
                "the field follows the potential difference of exactly two"
            )
        if p.total_charge is None or abs(float(checks.to_tensor(p.total_charge))) > 1e-10:
            raise ValueError(
                f'total_charge = {p.total_charge} e must be 0 with boundary = "finite-field": a field needs a neutral cell'
            )
        assert p.h is not None
        z = (p.x @ cells.normal(p.h)).detach()[self.solved]
        low, high = ((z[self.group_of == g].min(), z[self.group_of == g].max()) for g in (0, 1))
        if not (low[1] < high[0] or high[1] < low[0]):
            raise ValueError(
                f"electrodes 0 and 1 reach from {float(low[0]):.4g} to {float(low[1]):.4g} Å and from {float(high[0]):.4g} to "
                f"{float(high[1]):.4g} Å along the normal and must not overlap: unwrap the electrode that crosses the boundary"
            )

    # ---------------------------------------------------------------- evaluation

    def _top_and_bottom(self, p: _Problem) -> tuple[int, int]:
        assert p.h is not None
        z = (p.x @ cells.normal(p.h)).detach()[self.solved]
        return (1, 0) if z[self.group_of == 1].mean() > z[self.group_of == 0].mean() else (0, 1)

    def _evaluate(self, p: _Problem, track: bool, forces: bool, stress: bool) -> dict[str, Any]:
        """Solve, then take Omega's derivatives; solve again if the residual asks for it."""
        follows = self.coulomb.boundary == "finite-field" and all(p.held.by_charge)
        # Held charges in finite field: the field moves with the atoms, and Omega is not stationary in it.
        graph = track or follows
        guess, iterations = None, 0
        tolerance = self._tolerance()
        with torch.enable_grad():
            leaf_x = variable(p.x, track) if forces or graph else p.x
            strain = p.x.new_zeros((3, 3), requires_grad=True) if stress else None
            x, h = apply_strain(leaf_x, p.h, strain)
            system = self.coulomb.bind(x, h, p.s, p.exclusions)
            frozen = system.detached()
            for _ in range(8):
                answer = self._linear.solve(frozen, self._linear_problem(p, frozen), guess, tolerance)
                iterations += answer.iterations
                q, strength = answer.charges, answer.strength
                if graph:
                    q, strength = self._responding(p, system, h, q, strength)
                out = self._derivatives(p, system, x, h, leaf_x if forces else None, strain, q, strength, track)
                residual = answer.relative(out.pop("_stationarity").detach())
                if residual <= tolerance * 1.01 or answer.exhausted:
                    break
                guess = answer
            else:
                raise RuntimeError(
                    f"residual of the electrode charges = {residual:.3g} must be below {tolerance:.3g}: "
                    "loosen `tolerance`, or tighten the operator's accuracy"
                )
        self._linear.remember(q.detach()[self.solved])
        self._capacitance = self._linear.capacitance(self, p)
        return out | {"iterations": iterations, "residual": residual}
