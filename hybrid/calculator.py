"""The hybrid potential as an ASE calculator: caching and names, no physics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.outputs import Properties, all_outputs
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray

from grahame.electrostatics import Coulomb, Electrode
from grahame.hybrid.potential import HybridPotential, HybridResult
from grahame.hybrid.shortrange.base import ShortRange

Floats = NDArray[np.float64]
_PROPERTIES = ("energy", "free_energy", "forces", "stress", "dipole", "charges")


def _held(values: Sequence[Any]) -> Floats:
    return np.array([np.nan if v is None else float(v) for v in values], dtype=float)


class HybridCalculator(Calculator):
    """ASE calculator of a short range, the Coulomb operator and electrodes held at potentials or charges.

    `energy` is Omega = E_SR + U - sum of psi_g Q_g, whose gradient the forces are; `free_energy` is the same.
    `results` holds beside ASE's names: electrode_charges (e), electrode_potentials (V), internal_energy (eV),
    short_range_energy, work, field_energy (eV), iterations and residual of the charge solve. `dipole` (e Å) is defined
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

    ignored_changes = {"initial_charges", "initial_magmoms"}  # noqa: RUF012 - ASE's own declaration

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
        super().__init__()  # type: ignore[no-untyped-call]
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
        self._potentials = _held([e.potential for e in electrodes])
        self._electrode_charges = _held([e.charge for e in electrodes])
        no_stress = coulomb.boundary == "open"
        self.implemented_properties = [p for p in _PROPERTIES if not (no_stress and p == "stress")]

    def set_potentials(self, potentials: Any) -> None:
        """Hold electrodes at other potentials from now on.

        Results are dropped if anything changed, so the next property asked for is computed anew.

        Args:
            potentials: one per electrode, V; None or nan leaves an electrode as it is held.
        Raises:
            ValueError: for a wrong number of values, or infinity.
        """
        self._hold("potentials", "V", potentials, self._potentials, self._electrode_charges)

    def set_electrode_charges(self, charges: Any) -> None:
        """Hold electrodes at total charges from now on, e; otherwise like `set_potentials`."""
        self._hold("electrode_charges", "e", charges, self._electrode_charges, self._potentials)

    def _hold(self, name: str, unit: str, values: Any, held: Floats, other: Floats) -> None:
        new = np.array([np.nan if v is None else v for v in values], dtype=float)
        if new.shape != held.shape:
            raise ValueError(
                f"{name} = {len(new)} values must be one per electrode ({len(held)}): put None where nothing changes"
            )
        if np.isinf(new).any():
            raise ValueError(f"{name} = {new.tolist()} {unit} must be finite: check the input")
        given = ~np.isnan(new)
        if not np.array_equal(held[given], new[given]):
            held[given] = new[given]
            other[given] = np.nan
            self.results = {}

    @property
    def potentials(self) -> Floats:
        """(groups,) held potentials, V; nan where a charge is held."""
        return self._potentials.copy()

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill `results`; the stress only where it is asked for, everything else always."""
        super().calculate(atoms, list(properties), list(system_changes))  # type: ignore[no-untyped-call]
        if self.atoms is None:
            raise ValueError("atoms = None must be given: nothing was computed with this calculator before")
        # A property asked for later must not change those already handed out: only what is new is added.
        known = {} if system_changes else self.results
        self.results = known
        fresh = self._results(self.atoms, "stress" in properties)
        self.results = fresh | known

    def _results(self, atoms: Atoms, stress: bool) -> dict[str, Any]:
        result: HybridResult = self.potential.evaluate(
            atoms.get_positions(),
            atoms.numbers.astype(np.int64),
            np.array(atoms.cell),
            (bool(atoms.pbc[0]), bool(atoms.pbc[1]), bool(atoms.pbc[2])),
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
            "field_energy": result.field_energy,
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
        if self.atoms is not None:
            state["held.positions"] = self.atoms.get_positions()
        return state | {"held.potentials": self._potentials, "held.charges": self._electrode_charges}

    def load_state(self, state: Mapping[str, NDArray[Any]], atoms: Atoms) -> None:
        """Restore what `state` returned; results are kept if they belong to the positions of `atoms`."""
        parts: dict[str, dict[str, NDArray[Any]]] = {"potential": {}, "results": {}, "held": {}}
        for key, value in state.items():
            kind, _, name = key.partition(".")
            parts[kind][name] = value
        self.potential.load_state(parts["potential"])
        self._potentials = np.array(parts["held"]["potentials"])
        self._electrode_charges = np.array(parts["held"]["charges"])
        self.reset()  # type: ignore[no-untyped-call]
        if not np.array_equal(parts["held"].get("positions", np.zeros(0)), atoms.positions):
            return
        self.atoms = atoms.copy()
        self.results = {k: v.item() if v.ndim == 0 else np.array(v) for k, v in parts["results"].items()}
