"""The hybrid potential as an ASE calculator: caching and names, no physics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.outputs import Properties, all_outputs
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray

from grahame.electrostatics import Coulomb, Electrode
from grahame.electrostatics.arrays import outside_inference
from grahame.electrostatics.electrodes import check_types
from grahame.hybrid.automatic import Automatic
from grahame.hybrid.electrode_groups import of_given
from grahame.hybrid.model import HybridModel
from grahame.hybrid.potential import HybridPotential, HybridResult
from grahame.hybrid.shortrange.base import ShortRange

Floats = NDArray[np.float64]
_PROPERTIES = ("energy", "free_energy", "forces", "stress", "dipole", "charges")


def _held_by(electrodes: Sequence[Electrode]) -> tuple[Floats, Floats]:
    """Held potentials (V) and charges (e) of electrodes, nan where the other one is held."""

    def values(held: list[Any]) -> Floats:
        return np.array([np.nan if v is None else float(v) for v in held], dtype=float)

    return values([e.potential for e in electrodes]), values([e.charge for e in electrodes])


def _refuse_potentials(potentials: Any, electrodes: Sequence[Electrode] | None) -> None:
    if electrodes is not None:
        raise ValueError(
            f"potentials = {potentials} V must be left out with electrodes: each Electrode says what it is held at"
        )


def _refuse_no_list(electrodes: Any) -> None:
    if electrodes is not None and not isinstance(electrodes, Sequence):
        raise ValueError(
            f"electrodes = {electrodes!r} must be a list of Electrode: write [Electrode(indices, potential=...), ...]"
        )


def _refuse_no_short_range(given: Any) -> None:
    if isinstance(given, ShortRange):
        return
    if isinstance(given, str | Path | HybridModel):
        raise ValueError(
            f"short_range = {given if isinstance(given, str | Path) else 'a HybridModel'} must be a short range: models go by "
            "name, HybridCalculator(model=...)"
        )
    raise ValueError(
        f"short_range = {type(given).__name__} must be a short range: wrap an ASE calculator or a model of another program, "
        "ForeignShortRange(ASETrunk(calculator), charges, contains_coulomb=...) of grahame.hybrid.adapters"
    )


def _refuse_beside_short_range(coulomb: Any, model: Any, level: Any, potentials: Any) -> None:
    """A short range of one's own needs its Coulomb operator, and nothing is found for it."""
    if coulomb is None:
        raise ValueError(
            "coulomb = None must be given with a short_range: write e.g. Coulomb('slab', accuracy=1e-5)"
        )
    for name, value in (("model", model), ("level", level), ("potentials", potentials)):
        if value is not None:
            remedy = "use electrodes" if name == "potentials" else "give one of the two"
            raise ValueError(f"{name} = {value} must be left out with a short_range: {remedy}")


class HybridCalculator(Calculator):
    """ASE calculator of a short range, the Coulomb operator and electrodes held at potentials or charges.

    Without a short range it takes a trained model, the one in the box (gold, water, NaCl) unless `model` names
    another, and finds what it was not told when it first sees atoms, and again when their elements or periodic
    directions change:

    - electrodes: the metal slabs (`connected_slabs`), lowest first, all at 0 V unless `potentials` says otherwise;
    - boundary: slab for pbc (T,T,F), open for (F,F,F), and for (T,T,T) 3d, where slabs at one potential are one
      conductor that carries what the electrolyte leaves of the total charge, or finite-field for two slabs at
      unequal potentials; with the accuracy the model was trained with;
    - smearing: the model's widths.

    `energy` is Omega = E_SR + U - sum of psi_g Q_g, whose gradient the forces are; `free_energy` is the same.
    `results` holds beside ASE's names: electrode_charges (e), electrode_potentials (V), reservoir_charges (e), internal_energy (eV),
    short_range_energy, work, field_energy (eV), iterations and residual of the charge solve. `dipole` (e Å) is defined
    up to lattice vectors along periodic directions.

    Args:
        short_range: energy without Coulomb; gives the electrolyte's charges, widths and exclusions.
        coulomb: `Coulomb(boundary, ...)`.
        electrodes: `Electrode(indices, potential=V)` or `Electrode(indices, charge=e)`; None finds them if the
            short range is a model, and means none beside a given `short_range`.
        field: V/Å, a vector or its component along the surface normal a x b.
        displacement: D/eps0 along the surface normal, V/Å, with boundary "displacement".
        smearing, hardness, electronegativity, thomas_fermi_length, voronoi_volume: of the electrode atoms, in
            Å, V/e, V, Å, Å³; one value, one per electrode or one per electrode atom. Without a smearing the atoms have
            the widths of a learned short range, or 0.392 Å. A short range that predicts hardness and
            electronegativity overrules the values given here. They are those of `electrodes`: other atoms that a
            model solves for have the model's.
        solver: "auto", "direct" or "iterative"; tolerance: relative residual of the iteration.
        total_charge: of the whole cell, e.
        model: a model file, "au-water-nacl" for the model in the box, or a `HybridModel`, whose weights then no
            longer take gradients; None is the model in the box if there is no `short_range`.
        level: level of theory of the model; None takes its first.
        potentials: V, one per metal slab that is found, the lowest first.
    Raises:
        FileNotFoundError: for a model that is not there.
        ValueError: what the terms refuse, each with its name, value and remedy.
    """

    ignored_changes = {"initial_charges", "initial_magmoms"}  # noqa: RUF012 - ASE's own declaration

    @outside_inference
    def __init__(
        self,
        short_range: ShortRange | None = None,
        coulomb: Coulomb | None = None,
        electrodes: Sequence[Electrode] | None = None,
        field: Any = None,
        displacement: float | None = None,
        smearing: Any = None,
        hardness: Any = 0.0,
        electronegativity: Any = 0.0,
        thomas_fermi_length: Any = 0.0,
        voronoi_volume: Any = None,
        solver: str = "auto",
        total_charge: float | None = 0.0,
        tolerance: float | None = None,
        *,
        model: HybridModel | str | Path | None = None,
        level: str | None = None,
        potentials: Any = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if coulomb is not None and not isinstance(coulomb, Coulomb):
            raise ValueError(
                f"coulomb = {coulomb!r} must be a Coulomb: write e.g. Coulomb('slab', accuracy=1e-5)"
            )
        _refuse_no_list(electrodes)
        check_types(electrodes or ())
        self._terms: dict[str, Any] = {
            "field": field,
            "displacement": displacement,
            "total_charge": total_charge,
            "smearing": smearing,
            "hardness": hardness,
            "electronegativity": electronegativity,
            "thomas_fermi_length": thomas_fermi_length,
            "voronoi_volume": voronoi_volume,
            "solver": solver,
            "tolerance": tolerance,
        }
        self.implemented_properties = list(_PROPERTIES)
        self._built: HybridPotential | None = None
        self._basis: tuple[Sequence[Electrode], Coulomb] | None = None
        self._automatic: Automatic | None = None
        self._potentials, self._electrode_charges = _held_by(electrodes or ())
        # False as long as each structure that is seen may bring its own number of electrodes.
        self._counted = electrodes is not None or short_range is not None
        # Whether held values were set by hand.
        self._set = False
        if short_range is None:
            self._automatic = Automatic(model, level, coulomb, electrodes, total_charge)
            if potentials is not None:
                _refuse_potentials(potentials, electrodes)
                self.set_potentials(potentials)
            return
        _refuse_no_short_range(short_range)
        _refuse_beside_short_range(coulomb, model, level, potentials)
        assert coulomb is not None
        self._build(short_range, coulomb, electrodes or (), self._terms)

    def _build(
        self,
        short_range: ShortRange,
        coulomb: Coulomb,
        electrodes: Sequence[Electrode],
        terms: Mapping[str, Any],
    ) -> None:
        always = ("field", "displacement", "total_charge")
        needed = {k: v for k, v in terms.items() if electrodes or k in always}
        self._built = HybridPotential(short_range, coulomb, electrodes, **needed)
        self._basis = (electrodes, coulomb)
        # A boundary that follows the atoms may be another one for the next: ASE asks only for what is listed here.
        no_stress = coulomb.boundary == "open" and self._automatic is None
        self.implemented_properties = [p for p in _PROPERTIES if not (no_stress and p == "stress")]

    def _prepare(self, atoms: Atoms) -> None:
        """Find electrodes and boundary where they were not given; nothing happens for atoms that were seen."""
        automatic = self._automatic
        if automatic is None:
            return
        electrodes = automatic.electrodes(atoms)
        potentials, charges = _held_by(electrodes)
        if self._set:
            count = len(self._potentials)
            if count not in (len(electrodes), len(electrodes) - automatic.added):
                raise ValueError(
                    f"potentials = {count} values must be one per electrode ({len(electrodes)}): metal slabs are "
                    "counted from the lowest; if these are not meant, name the electrodes"
                )
            potentials[:count], charges[:count] = self._potentials, self._electrode_charges
        coulomb = automatic.coulomb(atoms.pbc, potentials)
        if self._basis is None or self._basis[0] is not electrodes or self._basis[1] is not coulomb:
            short_range, given = automatic.short_range(), len(electrodes) - automatic.added
            terms = self._terms
            if automatic.added:
                terms = of_given(terms, given, electrodes, short_range.widths(atoms.numbers.astype(np.int64)))
            self._build(short_range, coulomb, electrodes, terms)
        self._potentials, self._electrode_charges = potentials, charges
        self._counted = True

    @property
    def potential(self) -> HybridPotential:
        """The sum of terms.

        Raises:
            RuntimeError: before the first calculation, if electrodes or boundary are found in it.
        """
        if self._built is None:
            raise RuntimeError(
                "potential = None must be asked for after the first calculation: electrodes and boundary follow "
                "from the atoms"
            )
        return self._built

    def set(self, **settings: Any) -> dict[str, Any]:
        """Nothing can be set by name as in ASE's calculators of other programs.

        Raises:
            ValueError: for any keyword.
        """
        if settings:
            raise ValueError(
                f"{next(iter(settings))} = {next(iter(settings.values()))!r} must be given to HybridCalculator(...): only what is "
                "held changes afterwards, by set_potentials and set_electrode_charges"
            )
        return {}

    def set_potentials(self, potentials: Any) -> None:
        """Hold electrodes at other potentials from now on.

        Results are dropped if anything changed, so the next property asked for is computed anew.

        Args:
            potentials: one per electrode, V; None or nan leaves an electrode as it is held.
        Raises:
            ValueError: for a wrong number of values, or infinity.
        """
        self._hold("potentials", "V", potentials)

    def set_electrode_charges(self, charges: Any) -> None:
        """Hold electrodes at total charges from now on, e; otherwise like `set_potentials`."""
        self._hold("electrode_charges", "e", charges)

    def _hold(self, name: str, unit: str, values: Any) -> None:
        try:
            if isinstance(values, Mapping | Set):
                raise TypeError  # they would give their keys, or no order
            new = np.array([np.nan if v is None else v for v in values], dtype=float)
        except (TypeError, ValueError):
            raise ValueError(
                f"{name} = {values!r} {unit} must be numbers, one per electrode: write [0.0, 1.0]"
            ) from None
        potentials, charges = self._potentials, self._electrode_charges
        if not (self._counted or self._set):
            # How many electrodes there are shows with the atoms; they are at 0 V unless told otherwise.
            potentials, charges = np.zeros(len(new)), np.full(len(new), np.nan)
        held, other = (potentials, charges) if name == "potentials" else (charges, potentials)
        if new.shape != held.shape:
            raise ValueError(
                f"{name} = {len(new)} values must be one per electrode ({len(held)}): put None where nothing changes"
            )
        if np.isinf(new).any():
            raise ValueError(f"{name} = {new.tolist()} {unit} must be finite: check the input")
        self._potentials, self._electrode_charges, self._set = potentials, charges, True
        given = ~np.isnan(new)
        if not np.array_equal(held[given], new[given]):
            held[given] = new[given]
            other[given] = np.nan
            self.results = {}

    @property
    def potentials(self) -> Floats:
        """(groups,) held potentials, V; nan where a charge is held. None are known before electrodes were found."""
        return self._potentials.copy()

    # Numbers in, numbers out, whatever torch's modes are: models give their forces through graphs of their own.
    @outside_inference
    @torch.enable_grad()
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
        self._prepare(atoms)
        result: HybridResult = self.potential.evaluate(
            atoms.get_positions(),
            atoms.numbers.astype(np.int64),
            np.array(atoms.cell),
            (bool(atoms.pbc[0]), bool(atoms.pbc[1]), bool(atoms.pbc[2])),
            potentials=self._potentials,
            electrode_charges=self._electrode_charges,
            stress=stress and self.potential.coulomb.boundary != "open",
        )
        results: dict[str, Any] = {
            "energy": result.energy,
            "free_energy": result.energy,
            "forces": result.forces,
            "dipole": result.dipole,
            "charges": result.charges,
            "electrode_charges": result.electrode_charges,
            "electrode_potentials": result.electrode_potentials,
            "reservoir_charges": result.reservoir_charges,
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
        built = {} if self._built is None else self._built.state()
        state = {f"potential.{k}": v for k, v in built.items()}
        state |= {f"results.{k}": np.array(v) for k, v in self.results.items()}
        if self.atoms is not None:
            state["held.positions"] = self.atoms.get_positions()
        held = {"held.potentials": self._potentials, "held.charges": self._electrode_charges}
        return state | {k: v.copy() for k, v in held.items()}

    def load_state(self, state: Mapping[str, NDArray[Any]], atoms: Atoms) -> None:
        """Restore what `state` returned; results are kept if they belong to the positions of `atoms`."""
        parts: dict[str, dict[str, NDArray[Any]]] = {"potential": {}, "results": {}, "held": {}}
        for key, value in state.items():
            kind, _, name = key.partition(".")
            parts[kind][name] = value
        self._potentials = np.array(parts["held"]["potentials"])
        self._electrode_charges = np.array(parts["held"]["charges"])
        if parts["potential"]:
            self._set = True
            self._prepare(atoms)
            self.potential.load_state(parts["potential"])
        self.reset()  # type: ignore[no-untyped-call]
        if not np.array_equal(parts["held"].get("positions", np.zeros(0)), atoms.positions):
            return
        self.atoms = atoms.copy()
        self.results = {k: v.item() if v.ndim == 0 else np.array(v) for k, v in parts["results"].items()}
