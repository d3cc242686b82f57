"""Any ASE calculator as a trunk: its forces and stress become the derivatives of its energy.

    dE/dR = -F,   dE/dh at fixed Cartesian positions = h^-T (V sigma - R^T dE/dR)   (rows of h: cell vectors)

An ASE calculator tells no derivatives of charges, so charges beside it are fixed ones. Those it computes itself
may be taken only if they do not depend on positions; that is checked at every step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, PropertyNotImplementedError
from numpy.typing import ArrayLike
from torch import Tensor

from grahame.hybrid.adapters.charges import WIDTH, FixedCharges
from grahame.hybrid.adapters.trunk import TrunkOutput
from grahame.hybrid.graph import PBC, Graph
from grahame.hybrid.shortrange.base import FloatArray

_CHANGE = 1e-8  # e


class ASETrunk:
    """Energies and derivatives of an ASE calculator.

    Args:
        calculator: energies in eV, forces in eV/Å, stress in eV/Å³ with ASE's sign.
        charges_fixed: says that the calculator's `charges` are the same for all positions. They are then read at
            every step, and a change is an error.
    """

    cutoff = 0.0
    features = 0

    def __init__(self, calculator: BaseCalculator, *, charges_fixed: bool = False) -> None:
        self.calculator = calculator
        self.charges_fixed = charges_fixed
        self.identity = type(calculator).__name__
        self._atoms: Atoms | None = None
        self._charges: FloatArray | None = None

    def __call__(self, graph: Graph, numbers: Tensor, pbc: Sequence[PBC]) -> TrunkOutput:
        """Energies of a batch, one calculation after the other."""
        counts = torch.bincount(graph.frame, minlength=graph.frames).tolist()
        energies = []
        start = 0
        for k, count in enumerate(counts):
            part = slice(start, start + count)
            atoms = self._set(numbers[part].numpy(), graph.positions[part], graph.cells[k], pbc[k])
            energy: Tensor = _Energy.apply(  # type: ignore[no-untyped-call]
                graph.positions[part], graph.cells[k], atoms
            )
            energies.append(energy)
            if self.charges_fixed:
                self._check_charges(atoms)
            start += count
        return TrunkOutput(torch.stack(energies))

    def _set(self, numbers: FloatArray, positions: Tensor, cell: Tensor, pbc: PBC) -> Atoms:
        """The same Atoms every step, so that the calculator can reuse what it keeps."""
        atoms = self._atoms
        if atoms is None or len(atoms) != len(numbers) or not np.array_equal(atoms.numbers, numbers):
            atoms = self._atoms = Atoms(numbers=numbers)
            atoms.calc = self.calculator
            self._charges = None
        atoms.set_cell(cell.detach().numpy())
        atoms.pbc = pbc
        atoms.positions = positions.detach().numpy()
        return atoms

    def _check_charges(self, atoms: Atoms) -> None:
        charges = np.array(atoms.get_charges(), dtype=float)
        if self._charges is None:
            self._charges = charges
        change = float(np.abs(charges - self._charges).max(initial=0.0))
        if change > _CHANGE:
            atom = int(np.argmax(np.abs(charges - self._charges)))
            raise ValueError(
                f"charges[{atom}] = {charges[atom]:.9g} e must stay {self._charges[atom]:.9g} e: the calculator's charges "
                "depend on positions, and forces without their derivatives would be wrong; give FixedCharges"
            )

    def fixed_charges(
        self, atoms: Atoms, widths: Mapping[str, float] | ArrayLike = WIDTH, exclusions: ArrayLike = ()
    ) -> FixedCharges:
        """The calculator's own charges, which must not depend on positions.

        Args:
            atoms: the structure; widths, exclusions: as for `FixedCharges`.
        Raises:
            ValueError: unless `charges_fixed` was said.
        """
        if not self.charges_fixed:
            raise ValueError(
                "charges_fixed = False must be True to take the calculator's charges: say that they do not depend on "
                "positions, or give FixedCharges; without their derivatives forces would be wrong"
            )
        copy = atoms.copy()
        copy.calc = self.calculator
        return FixedCharges(np.array(copy.get_charges(), dtype=float), widths, exclusions)

    def describe(self) -> dict[str, Any]:
        """Name and parameters of the calculator."""
        parameters = getattr(self.calculator, "parameters", None) or {}
        return {
            "kind": "ase",
            "calculator": f"{type(self.calculator).__module__}.{type(self.calculator).__name__}",
            "parameters": {str(k): repr(v) for k, v in dict(parameters).items()},
            "charges_fixed": self.charges_fixed,
        }


class _Energy(torch.autograd.Function):
    """An ASE calculation with its first derivatives."""

    @staticmethod
    def forward(ctx: Any, positions: Tensor, cell: Tensor, atoms: Atoms) -> Tensor:
        energy = float(atoms.get_potential_energy())
        forces = np.array(atoms.get_forces(apply_constraint=False), dtype=float)
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            raise ValueError(
                f"energy = {energy} eV and forces of {type(atoms.calc).__name__} must be finite: check the structure"
            )
        slope = positions.new_zeros((3, 3))
        if ctx.needs_input_grad[1]:
            try:
                stress = np.array(atoms.get_stress(voigt=False, apply_constraint=False))
            except PropertyNotImplementedError as error:
                raise ValueError(
                    f"stress of {type(atoms.calc).__name__} = none must be there: run without stress, or use a "
                    "calculator that has one"
                ) from error
            virial = stress * atoms.get_volume() + atoms.positions.T @ forces
            slope = torch.tensor(np.linalg.solve(np.array(atoms.cell).T, virial))
        ctx.save_for_backward(torch.tensor(-forces), slope)
        return positions.new_tensor(energy)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor, Tensor, None]:
        by_position, by_cell = ctx.saved_tensors
        return weight * by_position, weight * by_cell, None
