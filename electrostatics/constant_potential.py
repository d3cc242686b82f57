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

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grahame.electrostatics import cells, checks, fields
from grahame.electrostatics.arrays import (
    Kind,
    check_batch,
    depth,
    entry,
    host,
    outside_inference,
    stack,
    variable,
)
from grahame.electrostatics.coulomb import Coulomb
from grahame.electrostatics.electrodes import Electrode, check_electrodes, expand, what_is_held
from grahame.electrostatics.linear_response import Answer, LinearProblem, LinearSolver, Mismatch
from grahame.electrostatics.problem import OnSite, Problem, make_problem
from grahame.electrostatics.screening import Screening
from grahame.electrostatics.system import System
from grahame.kernels.threads import kernels_only

# Double precision cannot be asked for more than this of the residual.
_ROUNDING = 1e-11


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
        potential: (n,) electrostatic potential at all atoms, field included, V: dU/dq_i less chi_i + J_i q_i of the solved ones.
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

    Tensors may carry a graph. They are copied: after an optimiser has changed them in place, a new solver knows them, and
    `solve` takes electronegativity and hardness anew in every call. First and second derivatives of everything that a solve
    returns are exact; third ones only of the energy.

    Raises:
        ValueError: for overlapping electrodes, zero widths and values out of range.
    """

    @outside_inference
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
        if not isinstance(coulomb, Coulomb):
            raise ValueError(f"coulomb = {coulomb!r} must be a Coulomb: pass Coulomb(boundary, ...)")
        self.electrodes = list(electrodes)
        self.coulomb = coulomb
        tensors = [v for v in (smearing, electronegativity, hardness, thomas_fermi_length, voronoi_volume)
                   if isinstance(v, Tensor)]  # fmt: skip
        home = torch.device(coulomb.device or (tensors[0].device if tensors else "cpu"))
        self.smearing = expand("smearing", smearing, electrodes, "Å", home)
        wrong = (self.smearing.detach() <= 0).nonzero()
        if len(wrong):
            value = float(self.smearing[int(wrong[0, 0])])
            raise ValueError(
                f"smearing = {value:g} Å must be greater than zero on solved atoms: "
                "a point charge has no finite self-energy; 0.392 Å is usual for gold"
            )
        self.electronegativity = expand("electronegativity", electronegativity, electrodes, "V", home)
        self.hardness = expand("hardness", hardness, electrodes, "V/e", home)
        self._screening = Screening.of(electrodes, coulomb, thomas_fermi_length, voronoi_volume, home)
        if solver not in ("auto", "direct", "iterative"):
            raise ValueError(f'solver = "{solver}" must be auto, direct or iterative: choose one of these')
        if tolerance is not None:
            checks.positive("tolerance", tolerance, "", "it is a residual relative to the right-hand side")
        self.tolerance = tolerance
        # Newton steps that carry derivatives, see `_responding`.
        self.response_steps = 2
        self.solved = torch.as_tensor(np.concatenate([e.indices for e in electrodes]))
        self.group_of = torch.cat([torch.full((len(e),), g) for g, e in enumerate(electrodes)])
        self._site = OnSite(
            self.solved,
            self.group_of,
            self.smearing,
            self.electronegativity,
            self.hardness + self.thomas_fermi,
        )
        self._linear = LinearSolver(coulomb, solver)

    # ------------------------------------------------------------------ public

    @property
    def thomas_fermi(self) -> Tensor:
        """(s,) 4 pi k l²/v in V/e, with the graph of l and v where they have one; 0 for perfect metals."""
        return self._screening.hardness()

    @outside_inference
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
        electronegativity: Any = None,
        hardness: Any = None,
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
            electronegativity, hardness: in this call, in the forms the constructor takes; None leaves its values.
                The Thomas-Fermi term is added to the hardness here as well.

        Returns:
            ConstantPotentialResult.

        Raises:
            ValueError: for input that has no right answer; the message names the value and the remedy.
            RuntimeError: if the solver does not converge.
        """
        if depth(positions) == 3:
            return self._batched(
                positions, charges, cell, potentials, electrode_charges, field, displacement, smearing, exclusions,
                total_charge, forces, stress, electronegativity, hardness,
            )  # fmt: skip
        kind = Kind(
            positions, charges, cell, field, displacement, smearing, total_charge, dtype=self.coulomb.dtype
        )
        device = torch.device(self.coulomb.device or kind.device or "cpu")
        held = what_is_held(self.electrodes, potentials, electrode_charges, device)
        site = self._site_on(device, electronegativity, hardness)
        extras = (held.potentials, held.charges, site.smearing, site.electronegativity, site.hardness)
        wants_graph = kind.requires_grad or any(t.requires_grad for t in extras)
        kind.torch = kind.torch or wants_graph
        track = torch.is_grad_enabled() and wants_graph
        with kernels_only(not track):
            problem = make_problem(
                self.coulomb, self.electrodes, site, held, positions, charges, cell, smearing, exclusions, field,
                displacement, total_charge, kind.rounded,
            )  # fmt: skip
            # An open system has no volume: its stress is None.
            values = self._evaluate(problem, track, forces, stress and problem.h is not None)
        values = {key: kind.out(v, track) if isinstance(v, Tensor) else v for key, v in values.items()}
        return ConstantPotentialResult(**values)

    @outside_inference
    def check(
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
        electronegativity: Any = None,
        hardness: Any = None,
    ) -> None:
        """Refuse what `solve` refuses of its arguments, without solving.

        Args:
            As `solve`, for one system.

        Raises:
            ValueError: for input that has no right answer; the message names the value and the remedy.
        """
        kind = Kind(
            positions, charges, cell, field, displacement, smearing, total_charge, dtype=self.coulomb.dtype
        )
        device = torch.device(self.coulomb.device or kind.device or "cpu")
        with torch.no_grad():
            held = what_is_held(self.electrodes, potentials, electrode_charges, device)
            site = self._site_on(device, electronegativity, hardness)
            problem = make_problem(
                self.coulomb, self.electrodes, site, held, positions, charges, cell, smearing, exclusions, field,
                displacement, total_charge, kind.rounded,
            )  # fmt: skip
            checks.exclusions_of(exclusions, len(problem.x))

    @property
    @outside_inference
    def capacitance(self) -> NDArray[np.float64]:
        """dQ_g/dpsi_h at fixed ions in e/V, (groups, groups); rows and columns of charge-held groups are 0.

        In finite field the field follows the potentials.
        """
        return host(self._linear.capacitance())

    @property
    @outside_inference
    def difference_capacitance(self) -> float:
        """dQ_1/d(psi_1 - psi_0) of two electrodes at fixed ions, Q_0 + Q_1 held, in e/V; also of held charges.

        Raises:
            RuntimeError: before the first solve.
            ValueError: for other than two electrodes, or one held at a potential and one at a charge.
        """
        if len(self.electrodes) != 2:
            raise ValueError(
                f"electrodes = {len(self.electrodes)} must be 2 for a difference_capacitance: ask for capacitance, the matrix"
            )
        return float(self._linear.difference_capacitance())

    @property
    def held_at_charge(self) -> tuple[bool, ...]:
        """Which electrodes the last solve held at a charge.

        Raises:
            RuntimeError: before the first solve.
        """
        return self._linear.held_at_charge

    @property
    def factorizations(self) -> int:
        """How often the electrode matrix was factorised."""
        return self._linear.factorizations

    @property
    @outside_inference
    def smallest_eigenvalue(self) -> float:
        """Smallest eigenvalue of the electrode matrix in the null space of the constraints, eV/e².

        Raises:
            RuntimeError: before a first solve.
            ValueError: where the constraints fix every charge: an empty space has no eigenvalue.
        """
        return self._linear.factor("smallest_eigenvalue").spectrum[0]

    @property
    @outside_inference
    def condition(self) -> float:
        """Condition number of the electrode matrix in the null space of the constraints.

        Raises:
            RuntimeError, ValueError: as `smallest_eigenvalue`.
        """
        low, high = self._linear.factor("condition").spectrum
        return high / low

    def forget(self) -> None:
        """Let the next solve depend on its own arguments alone, to the last bit.

        A solve starts from the charges of earlier ones and may use a factor of another geometry or hardness; the answer is
        the same within the tolerance, but not in its last digits. The operator keeps its lists and parameters.
        """
        self._linear.forget()

    def state(self) -> dict[str, NDArray[Any]]:
        """What an exact restart needs beside the positions."""
        out = {f"coulomb_{key}": value for key, value in self.coulomb.state().items()}
        return out | {f"linear_{key}": value for key, value in self._linear.state().items()}

    @outside_inference
    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Take over a `state()`."""
        self.coulomb.load_state({k[8:]: v for k, v in state.items() if k.startswith("coulomb_")})
        self._linear.load_state({k[7:]: v for k, v in state.items() if k.startswith("linear_")})

    # ---------------------------------------------------------------- evaluation

    def _site_on(self, device: torch.device, electronegativity: Any, hardness: Any) -> OnSite:
        """The solved atoms' properties on a device, those given in this call among them."""
        site = self._kept_site(device)
        if electronegativity is not None:
            chi = expand("electronegativity", electronegativity, self.electrodes, "V", device)
            site = replace(site, electronegativity=chi)
        if hardness is not None:
            own = expand("hardness", hardness, self.electrodes, "V/e", device)
            site = replace(site, hardness=own + self.thomas_fermi.to(device))
        return site

    def _kept_site(self, device: torch.device) -> OnSite:
        """The constructor's properties on a device, kept there unless they carry a graph."""
        if any(
            t.requires_grad for t in (self._site.smearing, self._site.electronegativity, self._site.hardness)
        ):
            # Computed anew: a graph serves one backward pass.
            return replace(self._site, hardness=self.hardness + self.thomas_fermi).to(device)
        if self._site.solved.device != device:
            self._site = self._site.to(device)
        return self._site

    def _evaluate(self, p: Problem, track: bool, forces: bool, stress: bool) -> dict[str, Any]:
        """Solve, then take Omega's derivatives; correct the charges again if the residual asks for it."""
        # With held charges in finite field the field moves with the atoms and Omega is not stationary in it:
        # the response is then needed for the forces as well.
        respond = track or p.follows
        if not track:
            # Under no_grad the input's own flags mean nothing.
            p = replace(p, x=p.x.detach(), h=None if p.h is None else p.h.detach(), s=p.s.detach())
        tolerance = self.tolerance or min(1e-8, max(1e-12, 1e-2 * self.coulomb.accuracy))
        with torch.enable_grad():
            # Where no graph is needed, the operator gives the forces itself.
            leaf_x = variable(p.x, track) if respond or (forces and stress) else p.x
            strain = p.x.new_zeros((3, 3), requires_grad=True) if stress else None
            x, h = cells.apply_strain(leaf_x, p.h, strain)
            system = self.coulomb.bind(x, h, p.s, p.exclusions)
            linear = p.linear(system.detached())
            self._linear.prepare(linear)
            answer = self._linear.start(linear, tolerance)
            wanted = ([leaf_x] if forces else []) + ([] if strain is None else [strain])
            while True:
                q, strength = p.q.index_put((p.site.solved,), answer.charges), answer.strength
                if respond:
                    q, strength = self._responding(p, system, linear, answer)
                out, gradients, mismatch = self._derivatives(p, system, q, strength, wanted, track)
                residual = self._linear.relative_residual(linear, mismatch)
                if residual <= tolerance or answer.rounds >= 6:
                    break
                answer = self._linear.correct(linear, answer, mismatch, tolerance)
            out["forces"] = -gradients.pop(0) if forces else None
            out["forces_at_fixed_field"] = out["forces"]
            if p.follows and forces:
                # Of places that charges and field do not follow.
                held = replace(system, positions=system.positions.view_as(system.positions))
                fixed = self._derivatives(p, held, q, strength, [held.positions], track)[1]
                out["forces_at_fixed_field"] = -fixed[0]
            if strain is not None:
                assert p.h is not None
                out["stress"] = gradients.pop(0) / cells.volume(p.h)
        if residual > max(tolerance, _ROUNDING):
            raise RuntimeError(
                f"residual of the electrode charges = {residual:.3g} must be below {tolerance:.3g}: "
                "loosen `tolerance`, or tighten the operator's accuracy"
            )
        self._linear.remember(answer)
        return out | {"iterations": answer.iterations, "residual": residual}

    def _responding(
        self, p: Problem, system: System, linear: LinearProblem, answer: Answer
    ) -> tuple[Tensor, Tensor | None]:
        """Charges (and following field) as functions of all inputs, by Newton steps from the solution.

        Each step with the exact inverse adds one order of derivatives; the second also removes what an
        inverse of a slightly different discretisation leaves in the first. Where only Omega is differentiated, and
        not more than twice, `response_steps` = 1 will do: Omega is stationary, so that second derivatives of the
        charges, whose sums are held, drop out of it.
        """
        solved, strength = answer.charges, answer.strength
        wanted = p.held_sums()
        c = p.constraints
        for _ in range(self.response_steps):
            solved = solved + c.spread((wanted - c.sums(solved)) / c.sizes()) if c.count else solved
            q = p.q.index_put((p.site.solved,), solved)
            leaf = q.view_as(q) if q.requires_grad else q.detach().requires_grad_()
            (kq,) = torch.autograd.grad(system.energy(leaf), leaf, create_graph=True)
            external = p.external(system, strength)
            potential = kq if external is None else kq + external
            mismatch, means = p.stationarity(potential, q)
            assert system.cell is not None or strength is None
            length = None if strength is None or system.cell is None else cells.height(system.cell)
            solved, strength = self._linear.newton(linear, solved, strength, mismatch, means, length)
        return p.q.index_put((p.site.solved,), solved), strength

    def _derivatives(
        self,
        p: Problem,
        system: System,
        q: Tensor,
        strength: Tensor | None,
        wanted: list[Tensor],
        track: bool,
    ) -> tuple[dict[str, Any], list[Tensor], Mismatch]:
        """Omega at the given charges, its gradients with respect to `wanted`, and what is not stationary.

        A graph that `q` carries is part of the function: then gradients are total derivatives.
        """
        k, h = self.coulomb.coulomb_constant, system.cell
        # Without a graph to keep, and at a fixed cell, the operator knows its derivatives itself.
        graph = track or q.requires_grad or system.detached() is not system
        found = None if graph else self._linear.evaluation.first(q, bool(wanted))
        charges = q.view_as(q) if q.requires_grad else q.detach().requires_grad_(found is None)
        site, on_solved = p.site, charges[p.site.solved]
        inner = system.energy(charges) if found is None else found.energy
        along = strength if strength is not None else p.strength(h)
        acting = p.acting(h, along)
        external = None if acting is None else fields.external_potential(system.positions, acting)
        if external is not None:
            inner = inner + charges @ external
        if not site.bare:
            inner = inner + (site.electronegativity * on_solved + 0.5 * site.hardness * on_solved**2).sum()
        field_energy, field = inner.new_zeros(()), inner.new_zeros(3)
        if p.field is not None:
            field = p.field.clone()  # the caller's own memory otherwise
        if along is not None:
            assert h is not None
            field_energy = fields.finite_field_energy(h, along, k)
            field = along * cells.normal(h)
        if p.displacement is not None:
            assert h is not None
            inner = inner + fields.displacement_energy(h, p.displacement, k)
            field = fields.displaced_field(system.positions, charges, h, p.displacement, k)
        psi = p.held.psi()
        group_charges = charges.new_zeros(len(self.electrodes)).index_add(0, site.group_of, on_solved)
        work = (psi * group_charges).sum()
        omega = inner - work + field_energy
        if found is None:
            every = [charges, *wanted]
            gradients = list(
                torch.autograd.grad(
                    omega, every, create_graph=track, retain_graph=True, materialize_grads=True
                )
            )
            # dOmega/dq = dU/dq - psi; dU/dq without the electrodes' own chi and J is the potential.
            on_site = site.electronegativity + site.hardness * on_solved - psi[site.group_of]
            potential = gradients.pop(0).index_add(0, site.solved, -on_site)
        else:
            potential = found.potential
            if external is not None:
                potential = potential + external
            gradients = [] if found.gradient is None else [found.gradient]
            if gradients and acting is not None:
                gradients[0] = gradients[0] - charges[:, None] * acting
        mismatch, means = p.stationarity(potential, charges)
        multiplier = mismatch.new_zeros(())
        some = any(p.held.by_charge)
        if p.total_charge is not None and not all(p.held.by_charge):
            multiplier = (mismatch[~p.held.at_charge()[site.group_of]] if some else mismatch).mean()
        out = {
            "charges": charges,
            "electrode_charges": group_charges,
            "potentials": torch.where(p.held.at_charge(), means + multiplier, psi) if some else psi.clone(),
            "multiplier": multiplier,
            "energy": omega,
            "internal_energy": inner,
            "work": work,
            "field_energy": field_energy,
            "forces": None,
            "forces_at_fixed_field": None,
            "stress": None,
            "field": field,
            "potential": potential,
        }
        frozen = None if strength is None else strength.detach()
        return out, gradients, Mismatch(mismatch.detach(), means.detach(), frozen)

    def _batched(
        self,
        positions: Any,
        charges: Any,
        cell: Any,
        potentials: Any,
        electrode_charges: Any,
        field: Any,
        displacement: Any,
        smearing: Any,
        exclusions: Any,
        total_charge: Any,
        forces: bool,
        stress: bool,
        electronegativity: Any,
        hardness: Any,
    ) -> ConstantPotentialResult:
        """One solve per entry of the leading axis, stacked."""
        check_batch(
            positions, charges=(charges, 1), cell=(cell, 2), potentials=(potentials, 1),
            electrode_charges=(electrode_charges, 1), field=(field, 1), displacement=(displacement, 0), smearing=(smearing, 1),
            total_charge=(total_charge, 0), electronegativity=(electronegativity, 1), hardness=(hardness, 1),
        )  # fmt: skip
        results = [
            self.solve(
                positions[b],
                entry(charges, b, 1),
                entry(cell, b, 2),
                entry(potentials, b, 1),
                entry(electrode_charges, b, 1),
                entry(field, b, 1),
                entry(displacement, b, 0),
                entry(smearing, b, 1),
                exclusions,
                entry(total_charge, b, 0),
                forces,
                stress,
                entry(electronegativity, b, 1),
                entry(hardness, b, 1),
            )
            for b in range(len(positions))
        ]
        values: dict[str, Any] = {}
        for name in ConstantPotentialResult.__dataclass_fields__:
            entries = [getattr(r, name) for r in results]
            values[name] = max(entries) if name in ("iterations", "residual") else stack(entries)
        return ConstantPotentialResult(**values)
