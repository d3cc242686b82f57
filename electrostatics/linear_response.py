"""The linear system of one electrode solve, and what is kept between solves.

The unknowns are the charges of the solved atoms and, with held charges in finite field, the field strength E
along the normal, which obeys E L = -(psi_top - psi_bot). A state (q, E) is judged by its mismatch,

    r = psi - (Aq+b)       on the solved atoms, and
    E L + psi_top - psi_bot,

evaluated with the operator itself, and corrected through the inverse of A in the null space of the
constraints. The inverse may belong to a slightly different discretisation (an Ewald sum under a mesh) or
geometry (electrodes that moved a little): the corrections converge all the same, to the operator's own answer.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grahame.electrostatics.arrays import host
from grahame.electrostatics.coulomb import Coulomb
from grahame.electrostatics.electrode_matrix import solved_matrix
from grahame.electrostatics.equilibration import (
    ConstrainedInverse,
    Constraints,
    Factor,
    conjugate_gradients,
    symmetric_product,
)
from grahame.electrostatics.evaluation import Evaluation, SolvedPairs
from grahame.electrostatics.system import System

# Largest dense matrix that "auto" factorises: 4000² numbers are 128 MB.
_LARGEST_DENSE = 4000
# Below this many solved atoms a new factor is cheaper than iterating on an old one.
_ALWAYS_DENSE = 24
# More iterations than this say that the factor has aged.
_AGED = 12
_MAX_ITERATIONS = 2000
_SAME_PLACE = 1e-9
_SIZED = 9  # solves that the size of a right-hand side serves...
_LIKE_THE_LAST = 1e-2  # ...while guesses miss no more of it than this
_NO_HELP = 0.5  # of what is to be answered: a guess that leaves more belongs to another problem


@dataclass(frozen=True)
class LinearProblem:
    """One solve, without graph.

    Attributes:
        system: the operator at this geometry.
        solved, group_of: (s,) indices of the solved atoms and their electrodes.
        group_sizes: (groups,) solved atoms of each electrode.
        by_charge: which electrodes are held at a charge.
        constraints, sums: sets of solved atoms and what their charges add up to, e.
        drive: (s,) psi - chi + E.r, without the field that follows charges, V.
        hardness: (s,) J in V/e.
        charges: (n,) charges of the electrolyte, 0 on the solved atoms.
        follows: whether the field strength is an unknown.
        heights, length, order: z of the solved atoms, L, and (bottom, top), in finite field.
    """

    system: System
    solved: Tensor
    group_of: Tensor
    group_sizes: Tensor
    by_charge: tuple[bool, ...]
    constraints: Constraints
    sums: Tensor
    drive: Tensor
    hardness: Tensor
    charges: Tensor
    follows: bool
    heights: Tensor | None
    length: float | None
    order: tuple[int, int] | None

    def group_means(self, v: Tensor) -> Tensor:
        """Mean of v (s,) over each electrode."""
        return v.new_zeros(len(self.group_sizes)).index_add(0, self.group_of, v) / self.group_sizes

    def difference(self, means: Tensor) -> Tensor:
        """Top minus bottom."""
        assert self.order is not None
        return means[self.order[1]] - means[self.order[0]]


@dataclass(frozen=True)
class Mismatch:
    """psi - (Aq+b) on the solved atoms, (Aq+b) averaged per electrode (may be empty without a field that follows), that field."""

    residual: Tensor
    means: Tensor
    strength: Tensor | None


@dataclass(frozen=True)
class Answer:
    """Charges of the solved atoms, following field strength, iterations and corrections so far."""

    charges: Tensor
    strength: Tensor | None
    iterations: int
    rounds: int


class LinearSolver:
    """Keeps the factor, the last charges and the pairs of the solved atoms between solves."""

    def __init__(self, coulomb: Coulomb, mode: str) -> None:
        self.coulomb = coulomb
        self.mode = mode
        self.factorizations = 0
        self._factor: Factor | None = None
        self._matrix: Tensor | None = None
        self._place: tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor] | None = None
        # The matrix without hardness, of one geometry: a hardness that changes costs a factorisation, no sums.
        self._bare: tuple[tuple[Tensor | None, ...], Tensor] | None = None
        self._alone = False
        self._aged = False
        self._inner = torch.zeros((0, 2), dtype=torch.int64)
        self._history: list[Tensor] = []
        self._pairs = SolvedPairs()
        self._problem: LinearProblem | None = None
        # Whether `_problem` was solved; what was refused says nothing of electrodes.
        self._answered = False
        self._evaluation: Evaluation | None = None
        # Whether the factor fits the problem, to rounding and exactly, once that was asked.
        self._fits: dict[bool, bool] = {}
        # The size of the last right-hand side, and how many more solves it serves.
        self._scale, self._sized = 1.0, 0

    # ------------------------------------------------------------------ the factor

    def forget(self) -> None:
        """Let the next answer depend on its own problem alone, to the last bit: no earlier charges, no older factor."""
        self._history, self._aged, self._alone, self._sized = [], False, True, 0

    def prepare(self, problem: LinearProblem) -> None:
        """Make the factor if there is none, or if this geometry wants a new one."""
        alone, self._alone = self._alone, False
        self._problem, self._fits, self._answered = problem, {}, False
        self._evaluation = Evaluation(problem.system, problem.solved, self._pairs)
        self._follow(problem.drive.device)
        self._inner = self._pairs.excluded_numbers(problem.system, problem.solved)
        if self.mode == "iterative" or self._factor_fits(problem, exactly=alone):
            return
        n = len(problem.solved)
        if self.mode == "auto" and self._factor is None and n > _LARGEST_DENSE:
            return
        rigid_sets = self._factor is not None and bool(
            (self._factor.constraints.set_of.shape == problem.constraints.set_of.shape)
            and (self._factor.constraints.set_of == problem.constraints.set_of).all()
        )
        dense = self.mode == "direct" or n <= _ALWAYS_DENSE or problem.system.parameters.method == "exact"
        if not dense and rigid_sets and not self._aged and not alone:
            return
        self._build(problem)

    def _follow(self, device: torch.device) -> None:
        """Move what is kept to the device of the problem."""
        self._history = [q.to(device) for q in self._history]
        if self._factor is not None and self._matrix is not None and self._place is not None:
            if self._matrix.device == device:
                return
            x, h, hardness, s, excluded = self._place
            self._place = (
                x.to(device), None if h is None else h.to(device), hardness.to(device), s.to(device), excluded.to(device),
            )  # fmt: skip
            c = self._factor.constraints
            self._matrix = self._matrix.to(device)
            self._factor = Factor(self._matrix, Constraints(c.set_of.to(device), c.count))

    def _build(self, problem: LinearProblem) -> None:
        system, solved, inner = problem.system, problem.solved, self._inner
        x, s, h = system.positions[solved], system.smearing[solved], system.cell
        place = (x, h, s, inner)
        if self._bare is not None and _equal(self._bare[0], place):
            matrix = self._bare[1]
        else:
            matrix = solved_matrix(self.coulomb, system, solved, inner)
        self._bare = (place, matrix)
        if bool(problem.hardness.any()):
            matrix = matrix + torch.diag(problem.hardness)
        self._factor = Factor(matrix, problem.constraints)
        self._matrix = matrix
        self._place = (x, h, problem.hardness, s, self._inner)
        self._aged, self._fits = False, {}
        self.factorizations += 1

    @property
    def evaluation(self) -> Evaluation:
        """The operator in the step that was prepared last."""
        assert self._evaluation is not None
        return self._evaluation

    def _factor_fits(self, problem: LinearProblem, exactly: bool = False) -> bool:
        """Whether the factor belongs to this geometry and these constraints, to rounding or `exactly`."""
        if problem is not self._problem:
            return self._compare(problem, exactly)
        if exactly not in self._fits:
            self._fits[exactly] = self._compare(problem, exactly)
        return self._fits[exactly]

    def _compare(self, problem: LinearProblem, exactly: bool) -> bool:
        if self._factor is None or self._place is None:
            return False
        x, h, hardness, s, excluded = self._place
        now = problem.system
        if len(x) != len(problem.solved) or not torch.equal(
            self._factor.constraints.set_of, problem.constraints.set_of
        ):
            return False
        if (h is None) != (now.cell is None):
            return False
        if excluded is not self._inner and not torch.equal(excluded, self._inner):
            return False
        near = [
            (x, now.positions[problem.solved]),
            (hardness, problem.hardness),
            (s, now.smearing[problem.solved]),
        ]
        if h is not None and now.cell is not None:
            near.append((h, now.cell))
        if exactly:
            return all(torch.equal(a, b) for a, b in near)
        return all(torch.equal(a, b) or torch.allclose(a, b, rtol=0.0, atol=_SAME_PLACE) for a, b in near)

    def factor(self, name: str) -> Factor:
        """The factor, made now if the last solve needed none."""
        problem = self._last(name)
        if not self._factor_fits(problem):
            self._build(problem)
        assert self._factor is not None
        return self._factor

    def _last(self, name: str) -> LinearProblem:
        """The problem of the last solve, which `name` depends on."""
        if self._problem is None:
            raise RuntimeError(
                f"{name} must be asked for after a solve: it depends on the geometry; call solve first"
            )
        return self._problem

    def _solved(self, name: str) -> LinearProblem:
        """The same, if it has an answer."""
        problem = self._last(name)
        if not self._answered:
            raise RuntimeError(
                f"{name} must be asked for after a solve: the last one failed; call solve with what it can answer"
            )
        return problem

    # ------------------------------------------------------------------- products

    def _product(self, problem: LinearProblem, v: Tensor) -> Tensor:
        """A v, from the matrix where it belongs to this geometry, else from the operator."""
        if self._matrix is not None and self._factor_fits(problem):
            return symmetric_product(self._matrix, v)
        return self._operate(problem, v)

    def _roughly(self, problem: LinearProblem, v: Tensor) -> Tensor:
        """A v where only its size matters: an aged matrix knows it, without a product with the operator."""
        matrix = self._matrix
        if matrix is not None and len(matrix) == len(v) and matrix.device == v.device:
            return symmetric_product(matrix, v)
        return self._product(problem, v)

    def _operate(self, problem: LinearProblem, v: Tensor) -> Tensor:
        """A v from the operator on the solved atoms."""
        return self.evaluation.product(v) + problem.hardness * v

    def inverse(
        self, problem: LinearProblem, r: Tensor, tolerance: float, iterate: bool = False
    ) -> tuple[Tensor, int]:
        """(P A P)^-1 P r: by the factor where it fits, else by conjugate gradients.

        `iterate` asks for conjugate gradients on the operator itself, with the factor to precondition them:
        nearly singular matrices magnify the difference between the factor's sum and the operator's.
        """
        if self._factor is not None and self._factor_fits(problem) and not iterate:
            return self._factor.solve(r), 0
        factor = self._factor
        fits = factor is not None and torch.equal(factor.constraints.set_of, problem.constraints.set_of)
        scale = float(problem.constraints.project(r).norm())
        if scale <= 1e-14 * float(r.norm()):
            # Constant over every held set: nothing for the charges to answer, and only rounding to iterate on.
            return torch.zeros_like(r), 0
        result = conjugate_gradients(
            lambda v: self._operate(problem, v),
            factor.solve if factor is not None and fits else lambda v: v,
            problem.constraints,
            r,
            scale,
            tolerance,
            _MAX_ITERATIONS,
        )
        if result.iterations > _AGED and fits:
            self._aged = True
        return result.solution, result.iterations

    # ------------------------------------------------------------------ the solve

    def start(self, problem: LinearProblem, tolerance: float) -> Answer:
        """First answer: the extrapolated charges, corrected once."""
        guess, inner = self._guessed(problem)
        residual = problem.drive - inner
        missing = self._unanswered(problem, residual)
        scale = self._size(problem, guess, residual, inner, missing)
        if self._history and missing > _NO_HELP * scale:
            # The charges before answered another problem. Beside them the potentials of this one could look small.
            self._history, self._sized = [], 0
            guess, inner = self._guessed(problem)
            residual = problem.drive - inner
            scale = self._size(problem, guess, residual, inner, self._unanswered(problem, residual))
        self._scale = scale
        strength = guess.new_zeros(()) if problem.follows else None
        # Asked for by a field that follows only.
        means = problem.group_means(-residual) if problem.follows else residual.new_zeros(0)
        return self.correct(
            problem, Answer(guess, strength, 0, 0), Mismatch(residual, means, strength), tolerance
        )

    def _guessed(self, problem: LinearProblem) -> tuple[Tensor, Tensor]:
        """The extrapolated charges with the sums that are held, and Aq + b of them, (s,) each."""
        c = problem.constraints
        guess = self._extrapolated(problem.drive)
        if c.count:
            guess = c.shifted(guess, problem.sums)
        charges = problem.charges.index_put((problem.solved,), guess)
        return guess, self.evaluation.at_solved(charges) + problem.hardness * guess

    def _unanswered(self, problem: LinearProblem, residual: Tensor) -> float:
        """|P r| in V, without what a field that follows takes away."""
        left = problem.constraints.project(residual)
        if problem.heights is not None and problem.follows:
            along = problem.constraints.project(problem.heights)
            squared = float(along @ along)
            left = left - float(left @ along) / squared * along if squared > 0.0 else left
        return float(left.norm())

    def _size(
        self, problem: LinearProblem, guess: Tensor, residual: Tensor, inner: Tensor, missing: float
    ) -> float:
        """What residuals are relative to, in V.

        The residual without solved charges is the natural scale of this right-hand side; where nothing but
        held charges drives (an empty capacitor), the potentials that these make are. Symmetry can make both
        vanish: rounding then knows the potentials themselves. Where the guess is good the right-hand side is nearly
        that of the solve before, and its size is found anew, by a product with the matrix, in every tenth solve only.
        `missing` is what the guess leaves unanswered.
        """
        c = problem.constraints
        known = self._sized > 0 and len(self._history) == 3
        if known and missing < _LIKE_THE_LAST * self._scale:
            self._sized -= 1
            return self._scale
        driving = residual + self._roughly(problem, guess)
        whole = max(float(driving.norm()), float(inner.norm()))
        varying = max(float(c.project(driving).norm()), float((inner - inner.mean()).norm()))
        self._sized = _SIZED
        return max(varying, 1e-3 * whole, 1e-10)

    def correct(self, problem: LinearProblem, answer: Answer, mismatch: Mismatch, tolerance: float) -> Answer:
        """One correction of the charges (and of the following field) from the mismatch."""
        size = float(problem.constraints.project(mismatch.residual).norm())
        # The correction needs only the digits that the mismatch lacks.
        wanted = min(0.1, max(1e-14, 0.3 * tolerance * self._scale / max(size, 1e-300)))
        step, iterations = self.inverse(problem, mismatch.residual, wanted, answer.rounds >= 2)
        charges, strength = answer.charges + step, answer.strength
        if problem.follows:
            assert strength is not None
            y, more = self._field_response(problem)
            gap = self._gap(problem, strength, mismatch.means, problem.length) + problem.difference(
                problem.group_means(self._product(problem, step))
            )
            change = -gap / self._stiffness(problem, y)
            charges, strength = charges + change * y, strength + change
            iterations += more
        return Answer(charges, strength, answer.iterations + iterations, answer.rounds + 1)

    def newton(
        self,
        problem: LinearProblem,
        solved: Tensor,
        strength: Tensor | None,
        residual: Tensor,
        means: Tensor,
        length: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """`correct` with a graph: the inverse is held, the mismatch carries the derivatives."""

        def apply(r: Tensor) -> Tensor:
            return self.inverse(problem, r, 1e-13)[0]

        step: Tensor = ConstrainedInverse.apply(residual, apply)  # type: ignore[no-untyped-call]
        if strength is None or length is None:
            return solved + step, None
        y, _ = self._field_response(problem)
        # Top minus bottom of A times the step, with A held: its gradient is A times the difference vector.
        weights = self._product(problem, self._difference_vector(problem))
        gap = strength * length + problem.difference(means) + weights @ step
        change = -gap / self._stiffness(problem, y)
        return solved + step + change * y, strength + change

    def relative_residual(self, problem: LinearProblem, mismatch: Mismatch) -> float:
        """|P r| (and the field's own condition) relative to the scale of the right-hand side."""
        size = float(problem.constraints.project(mismatch.residual).norm())
        if problem.follows:
            assert mismatch.strength is not None
            gap = self._gap(problem, mismatch.strength, mismatch.means, problem.length)
            size = math.hypot(size, float(gap))
        return size / self._scale

    def remember(self, answer: Answer) -> None:
        """Keep the charges for the next solve's first guess."""
        self._history = [answer.charges.detach(), *self._history[:2]]
        self._answered = True

    @property
    def held_at_charge(self) -> tuple[bool, ...]:
        """Which electrodes the last solve held at a charge."""
        return self._solved("capacitance").by_charge

    def capacitance(self) -> Tensor:
        """dQ_g/dpsi_h at fixed ions, (groups, groups) in e/V."""
        problem = self._solved("capacitance")
        groups = len(problem.by_charge)
        out = problem.drive.new_zeros((groups, groups))
        for g in range(groups):
            if problem.by_charge[g]:
                continue
            drive = (problem.group_of == g).to(torch.float64)
            if problem.order is not None:
                assert problem.heights is not None
                assert problem.length is not None
                sign = 1.0 if g == problem.order[1] else -1.0
                drive = drive - sign * problem.heights / problem.length
            response = self.inverse(problem, drive, 1e-12)[0]
            out[:, g] = response.new_zeros(groups).index_add(0, problem.group_of, response)
        keep = torch.tensor([not b for b in problem.by_charge], device=out.device)
        shown: Tensor = out * keep[:, None] * keep[None, :]
        return shown

    def difference_capacitance(self) -> Tensor:
        """dQ_1/d(psi_1 - psi_0) of two groups at fixed ions, Q_0 + Q_1 held, in e/V; both at potentials or both at charges."""
        problem = self._solved("difference_capacitance")
        moved = torch.tensor([-1.0, 1.0], dtype=torch.float64, device=problem.drive.device)
        if not any(problem.by_charge):
            # Singular where the whole charge is held.
            potentials: Tensor = torch.linalg.pinv(self.capacitance(), rtol=1e-9, hermitian=True) @ moved
            return 1.0 / (moved @ potentials)
        if not all(problem.by_charge):
            raise ValueError(
                "electrodes = one at a potential and one at a charge must be held alike for a difference_capacitance: no "
                "charge can move between them"
            )
        # One charge from group 0 to group 1, first evenly, then as the atoms of each group want it.
        charges = (moved / problem.group_sizes)[problem.group_of]
        charges = charges + self.inverse(problem, -self._product(problem, charges), 1e-12)[0]
        psi = problem.group_means(self._product(problem, charges))
        if not problem.follows:
            return 1.0 / (psi[1] - psi[0])
        assert problem.length is not None
        assert problem.order is not None
        y, _ = self._field_response(problem)
        strength = -problem.difference(psi) / self._stiffness(problem, y)
        # E L = -(psi_top - psi_bot)
        return (1.0 if problem.order[1] == 0 else -1.0) / (strength * problem.length)

    # -------------------------------------------------------------- following field

    def _gap(self, problem: LinearProblem, strength: Tensor, means: Tensor, length: Any) -> Tensor:
        """E L + psi_top - psi_bot, V."""
        gap: Tensor = strength * length + problem.difference(means)
        return gap

    def _field_response(self, problem: LinearProblem) -> tuple[Tensor, int]:
        """Charges per unit of the following field, at held sums."""
        assert problem.heights is not None
        return self.inverse(problem, problem.heights, 1e-12)

    def _stiffness(self, problem: LinearProblem, y: Tensor) -> Tensor:
        """d(E L + psi_top - psi_bot)/dE."""
        assert problem.heights is not None
        assert problem.length is not None
        inner = self._product(problem, y) - problem.heights
        stiffness: Tensor = problem.length + problem.difference(problem.group_means(inner))
        return stiffness

    def _difference_vector(self, problem: LinearProblem) -> Tensor:
        """w with w.v = top mean - bottom mean of v."""
        assert problem.order is not None
        sign = torch.zeros_like(problem.group_sizes)
        sign[problem.order[1]], sign[problem.order[0]] = 1.0, -1.0
        return (sign / problem.group_sizes)[problem.group_of]

    # --------------------------------------------------------------------- history

    def _extrapolated(self, like: Tensor) -> Tensor:
        """Quadratic extrapolation of the last three solutions, or what there is."""
        h = [q for q in self._history if len(q) == len(like)]
        if len(h) == 0:
            return torch.zeros_like(like)
        if len(h) < 3:
            return h[0].clone()
        return 3.0 * h[0] - 3.0 * h[1] + h[2]

    def state(self) -> dict[str, NDArray[Any]]:
        """Last charges and the factor's geometry, for an exact restart."""
        out: dict[str, NDArray[Any]] = {f"history_{i}": host(q) for i, q in enumerate(self._history)}
        out["numbers"] = np.array([self.factorizations, self._aged, self._scale, self._sized])
        if self._factor is not None and self._place is not None and self._matrix is not None:
            x, h, hardness, s, excluded = self._place
            out["excluded"] = host(excluded)
            out |= {"x": host(x), "hardness": host(hardness), "s": host(s), "matrix": host(self._matrix)}
            out["set_of"] = host(self._factor.constraints.set_of)
            out["set_count"] = np.array(self._factor.constraints.count)
            if h is not None:
                out["h"] = host(h)
        return out

    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Take over a `state()`."""
        self._factor, self._matrix, self._place, self._fits = None, None, None, {}
        count = sum(key.startswith("history_") for key in state)
        self._history = [torch.as_tensor(np.array(state[f"history_{i}"])) for i in range(count)]
        numbers = state["numbers"].tolist()
        self.factorizations, self._aged = int(numbers[0]), bool(numbers[1])
        # Checkpoints of earlier versions hold no size.
        self._scale, self._sized = (float(numbers[2]), int(numbers[3])) if len(numbers) > 2 else (1.0, 0)
        if "matrix" in state:

            def tensor(name: str) -> Tensor:
                return torch.as_tensor(np.array(state[name]))

            constraints = Constraints(tensor("set_of"), int(state["set_count"]))
            self._matrix = tensor("matrix")
            self._factor = Factor(self._matrix, constraints)
            self._place = (
                tensor("x"),
                tensor("h") if "h" in state else None,
                tensor("hardness"),
                tensor("s"),
                tensor("excluded"),
            )


def _equal(a: tuple[Tensor | None, ...], b: tuple[Tensor | None, ...]) -> bool:
    """Whether two places hold the same numbers on the same device."""

    def same(x: Tensor | None, y: Tensor | None) -> bool:
        if x is None or y is None:
            return x is y
        return x.device == y.device and x.shape == y.shape and torch.equal(x, y)

    return all(same(x, y) for x, y in zip(a, b))
