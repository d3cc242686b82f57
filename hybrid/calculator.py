"""The hybrid potential as an ASE calculator: caching and names, no physics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.outputs import Properties, all_outputs
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray

from grahame.electrostatics import Coulomb, Electrode
from grahame.hybrid.potential import HybridPotential, HybridResult
from grahame.hybrid.shortrange.base import ShortRange

_PROPERTIES = ("energy", "free_energy", "forces", "stress", "dipole", "charges")


class HybridCalculator(Calculator):  # type: ignore[misc]
    """ASE calculator of a short range, the Coulomb operator and electrodes held at potentials or charges.

    `energy` is Omega = E_SR + U - sum of psi_g Q_g, whose gradient the forces are; `free_energy` is the same.
    `results` holds beside ASE's names: electrode_charges (e), electrode_potentials (V), internal_energy (eV),
    short_range_energy (eV), work (eV), iterations and residual of the charge solve. `dipole` (e Å) is defined
    up to lattice vectors along periodic directions.

    Args:
        short_range: energy without Coulomb; gives the electrolyte's charges, widths and exclusions.
        coulomb: `Coulomb(boundary, ...)`.
        electrodes: `Electrode(indices, potential=V)` or `Electrode(indices, charge=e)`.
        field: V/Å, a vector or its component along the surface normal a x b.
        displacement: D/eps0 along the surface normal, V/Å, with boundary "displacement".
        smearing, hardness, electronegativity, thomas_fermi_length, voronoi_volume: of the electrode atoms, in
            Å, V/e, V, Å, Å³; one value, one per electrode or one per electrode atom.
        solver: "auto", "direct" or "iterative"; tolerance: relative residual of the iteration.
        total_charge: of the whole cell, e.
    Raises:
        ValueError: what the terms refuse, each with its name, value and remedy.
    """

    ignored_changes: ClassVar[set[str]] = {"initial_charges", "initial_magmoms"}

    def __init__(
        self,
        short_range: ShortRange,
        coulomb: Coulomb,
        electrodes: Sequence[Electrode] = (),
        field: Any = None,
        displacement: float | None = None,
        smearing: Any = 0.392,
        hardness: Any = 0.0,
        electronegativity: Any = 0.0,
        thomas_fermi_length: Any = 0.0,
        voronoi_volume: Any = None,
        solver: str = "auto",
        total_charge: float | None = 0.0,
        tolerance: float | None = None,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {}
        if electrodes:
            options = {
                "smearing": smearing,
                "hardness": hardness,
                "electronegativity": electronegativity,
                "thomas_fermi_length": thomas_fermi_length,
                "voronoi_volume": voronoi_volume,
                "solver": solver,
                "tolerance": tolerance,
            }
        self.potential = HybridPotential(
            short_range,
            coulomb,
            electrodes,
            field=field,
            displacement=displacement,
            total_charge=total_charge,
            **options,
        )
        self._potentials: NDArray[np.float64] | None = None
        self._electrode_charges: NDArray[np.float64] | None = None
        no_stress = coulomb.boundary == "open"
        self.implemented_properties = [p for p in _PROPERTIES if not (no_stress and p == "stress")]

    def set_potentials(self, potentials: Any) -> None:
        """Hold other potentials from now on, V, in the order of the electrodes; nan where a charge is held.

        Results are dropped if anything changed, so the next property asked for is computed anew.
        """
        self._hold("_potentials", "potential", "V", potentials)

    def set_electrode_charges(self, charges: Any) -> None:
        """Hold other charges from now on, e, in the order of the electrodes; nan where a potential is held."""
        self._hold("_electrode_charges", "charge", "e", charges)

    def _hold(self, attribute: str, kind: str, unit: str, values: Any) -> None:
        electrodes = self.potential.electrodes
        new = np.array(values, dtype=float)
        if new.shape != (len(electrodes),):
            raise ValueError(
                f"{kind}s = {new.tolist()} {unit} must hold one value per electrode ({len(electrodes)}): put nan "
                f"where no {kind} is held"
            )
        for g, electrode in enumerate(electrodes):
            if (getattr(electrode, kind) is None) != bool(np.isnan(new[g])) or np.isinf(new[g]):
                held = kind if getattr(electrode, kind) is not None else "other quantity"
                raise ValueError(
                    f"{kind}s[{g}] = {new[g]:g} {unit} must fit electrode {g}, which holds its {held}: give "
                    f"{'a finite number' if held == kind else 'nan'} there"
                )
        old = getattr(self, attribute)
        if old is None or not np.array_equal(old, new, equal_nan=True):
            setattr(self, attribute, new)
            self.results = {}

    @property
    def potentials(self) -> NDArray[np.float64]:
        """Held potentials, V; nan where a charge is held."""
        if self._potentials is not None:
            return self._potentials.copy()
        held = [e.potential for e in self.potential.electrodes]
        return np.array([np.nan if p is None else float(p) for p in held])

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill `results`; the stress only where it is asked for, everything else always."""
        super().calculate(atoms, list(properties), list(system_changes))
        if self.atoms is None:
            raise ValueError("atoms = None must be given: nothing was computed with this calculator before")
        # A property asked for later must not change those already handed out: only what is new is added.
        known = {} if system_changes else self.results
        self.results = known
        fresh = self._results("stress" in properties)
        self.results = fresh | known

    def _results(self, stress: bool) -> dict[str, Any]:
        atoms = self.atoms
        result: HybridResult = self.potential.evaluate(
            atoms.get_positions(),
            atoms.numbers.astype(np.int64),
            np.array(atoms.cell),
            tuple(bool(p) for p in atoms.pbc),
            potentials=self._potentials,
            electrode_charges=self._electrode_charges,
            stress=stress,
        )
        results: dict[str, Any] = {
            "energy": result.energy,
            "free_energy": result.energy,
            "forces": result.forces,
            "dipole": result.dipole,
            "charges": result.charges,
            "electrode_charges": result.electrode_charges,
            "electrode_potentials": result.electrode_potentials,
            "internal_energy": result.internal_energy,
            "short_range_energy": result.short_range_energy,
            "work": result.work,
            "iterations": result.iterations,
            "residual": result.residual,
        }
        if result.stress is not None:
            results["stress"] = full_3x3_to_voigt_6_stress(result.stress)
        return results

    def export_properties(self) -> Properties:
        """The results that ASE has a name for."""
        return Properties({k: v for k, v in self.results.items() if k in all_outputs})

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything a restart needs to continue with the same bits: the terms' state and the last results."""
        state = {f"potential.{k}": v for k, v in self.potential.state().items()}
        state |= {f"results.{k}": np.asarray(v) for k, v in self.results.items()}
        for name in ("_potentials", "_electrode_charges"):
            if getattr(self, name) is not None:
                state[f"held.{name}"] = getattr(self, name)
        return state

    def load_state(self, state: Mapping[str, NDArray[Any]], atoms: Atoms) -> None:
        """Restore what `state` returned; `atoms` are those the last results belong to."""
        parts: dict[str, dict[str, NDArray[Any]]] = {"potential": {}, "results": {}, "held": {}}
        for key, value in state.items():
            kind, _, name = key.partition(".")
            parts[kind][name] = value
        self.potential.load_state(parts["potential"])
        for name, value in parts["held"].items():
            setattr(self, name, np.array(value))
        self.atoms = atoms.copy()
        self.results = {k: v.item() if v.ndim == 0 else np.array(v) for k, v in parts["results"].items()}
