"""Water whose charges answer their surroundings: SPC-FQ with flexible molecules, as solved atoms.

Every molecule is one group of solved atoms of total charge zero. Its charges minimise

    U = sum_i (chi_i q_i + 1/2 J_i q_i²) + k sum_{i<j} q_i q_j erf(g_ij r_ij)/r_ij + the rest of the cell,

with Gaussian charges whose two widths reproduce the published intramolecular Coulomb integrals at the
reference geometry. The same Gaussians act between molecules, where the published model has points: at the
length of a hydrogen bond (1.8 Å) the interaction is 1 % and its force 10 % weaker, and the pair of molecules
is bound by 4.06 kcal/mol at 3.01 Å between the oxygens. Bonds and the angle are harmonic with
SPC/Fw's constants; their reference values are shifted so that the isolated molecule, charge energy
included, stays at the published geometry. Nothing is excluded inside a molecule.

Sources: S. W. Rick, S. J. Stuart and B. J. Berne, J. Chem. Phys. 101, 6141 (1994); bonded constants of
Y. Wu, H. L. Tepper and G. A. Voth, J. Chem. Phys. 124, 024503 (2006). The combination, the widths and the
shifted reference values are this package's.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from grahame.electrostatics import Electrode
from grahame.electrostatics.units import COULOMB_CONSTANT
from grahame.hybrid.shortrange.base import FloatArray, IntArray, Response, ShortRangeResult
from grahame.hybrid.shortrange.classical import ClassicalForceField
from grahame.hybrid.shortrange.literature import build_tables
from grahame.hybrid.shortrange.parameters import KCAL_PER_MOL, WATER
from grahame.hybrid.shortrange.surroundings import Surroundings, SurroundingsModel
from grahame.hybrid.shortrange.topology import find_topology


def screened(distance: float, squared_widths: float) -> float:
    """k erf(r/sqrt(2 (si² + sj²)))/r in eV/e², of the sum of the squared widths in Å²."""
    return COULOMB_CONSTANT * math.erf(distance / math.sqrt(2.0 * squared_widths)) / distance


def screened_slope(distance: float, squared_widths: float) -> float:
    """d/dr of `screened`, eV/(e² Å)."""
    g = 1.0 / math.sqrt(2.0 * squared_widths)
    bell = 2.0 * g / math.sqrt(math.pi) * math.exp(-((g * distance) ** 2))
    return (COULOMB_CONSTANT * bell - screened(distance, squared_widths)) / distance


def _squared_widths(distance: float, integral: float) -> float:
    """si² + sj² (Å²) at which the screened interaction is `integral` (eV/e²), by bisection."""
    low, high = 1e-6, 100.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if screened(distance, middle) > integral else (low, middle)
    return 0.5 * (low + high)


@dataclass(frozen=True)
class FluctuatingWaterModel:
    """Published constants of a three-site fluctuating-charge water, and what follows from them.

    Attributes:
        electronegativity: chi_O - chi_H, V.
        hardness_oo, hardness_hh: on-site Coulomb integrals J_ii (energy 1/2 J q²), V/e.
        coulomb_oh, coulomb_hh: integrals between the sites of one molecule at the reference geometry, V/e.
        bond_length: Å; angle: rad; of the isolated molecule.
        epsilon: eV; sigma: Å; Lennard-Jones of O.
        bond_constant: eV/Å²; angle_constant: eV/rad².
        source: where the numbers come from.
    """

    electronegativity: float
    hardness_oo: float
    hardness_hh: float
    coulomb_oh: float
    coulomb_hh: float
    bond_length: float
    angle: float
    epsilon: float
    sigma: float
    bond_constant: float
    angle_constant: float
    source: str

    @property
    def hydrogen_distance(self) -> float:
        """Distance of the two hydrogens at the reference geometry, Å."""
        return 2.0 * self.bond_length * math.sin(0.5 * self.angle)

    @cached_property
    def width_h(self) -> float:
        """Gaussian width of H, Å: gives `coulomb_hh`."""
        return math.sqrt(0.5 * _squared_widths(self.hydrogen_distance, self.coulomb_hh))

    @cached_property
    def width_o(self) -> float:
        """Gaussian width of O, Å: gives `coulomb_oh` together with that of H."""
        return math.sqrt(_squared_widths(self.bond_length, self.coulomb_oh) - self.width_h**2)

    @property
    def extra_hardness_o(self) -> float:
        """J_OO less the Gaussian's own k/(sqrt(pi) s), V/e; negative: only the whole matrix is stable."""
        return self.hardness_oo - COULOMB_CONSTANT / (math.sqrt(math.pi) * self.width_o)

    @property
    def extra_hardness_h(self) -> float:
        """J_HH less the Gaussian's own k/(sqrt(pi) s), V/e."""
        return self.hardness_hh - COULOMB_CONSTANT / (math.sqrt(math.pi) * self.width_h)

    @property
    def gas_charge_h(self) -> float:
        """Charge of each H in the isolated molecule, e: chi/(2 J_OO + J_HH - 4 J_OH + J_HH')."""
        stiffness = 2.0 * self.hardness_oo + self.hardness_hh - 4.0 * self.coulomb_oh + self.coulomb_hh
        return self.electronegativity / stiffness

    @property
    def gas_dipole(self) -> float:
        """Dipole of the isolated molecule, e Å."""
        return 2.0 * self.gas_charge_h * self.bond_length * math.cos(0.5 * self.angle)

    @property
    def gas_energy(self) -> float:
        """Charge energy of the isolated molecule relative to uncharged atoms, eV."""
        return -self.electronegativity * self.gas_charge_h

    @cached_property
    def harmonic_reference(self) -> tuple[float, float]:
        """r0 (Å) and theta0 (rad) of the harmonic terms: their pull cancels that of the charges.

        At the minimum the charges' own response does not count (U is stationary in them).
        """
        q, half = self.gas_charge_h, 0.5 * self.angle
        pull_oh = -2.0 * q * q * screened_slope(self.bond_length, self.width_o**2 + self.width_h**2)
        pull_hh = q * q * screened_slope(self.hydrogen_distance, 2.0 * self.width_h**2)
        by_bond = pull_oh + pull_hh * math.sin(half)
        by_angle = pull_hh * self.bond_length * math.cos(half)
        return self.bond_length + by_bond / self.bond_constant, self.angle + by_angle / self.angle_constant


_FLEXIBLE = WATER["spc/fw"]

SPC_FQ = FluctuatingWaterModel(
    electronegativity=73.33 * KCAL_PER_MOL,
    hardness_oo=367.0 * KCAL_PER_MOL,
    hardness_hh=392.2 * KCAL_PER_MOL,
    coulomb_oh=276.0 * KCAL_PER_MOL,
    coulomb_hh=196.0 * KCAL_PER_MOL,
    bond_length=1.0,
    angle=math.radians(109.47),
    epsilon=0.2941 * KCAL_PER_MOL,
    sigma=3.176,
    bond_constant=_FLEXIBLE.bond_constant or 0.0,
    angle_constant=_FLEXIBLE.angle_constant or 0.0,
    source="Rick, Stuart, Berne, J. Chem. Phys. 101, 6141 (1994), SPC-FQ; bonded constants of "
    + _FLEXIBLE.source,
)
"""SPC-FQ with flexible molecules. Published dipole of the isolated molecule: 1.85 D; these constants, rounded
as published, give 1.864 D."""

ION_WIDTH = 0.5
"""Å, Gaussian width of Na+ and Cl-: at contact with water (2.3 Å) the interaction is that of a point to
0.1 %, and it stays finite where two charges are forced together."""


class FluctuatingWater:
    """Short range and charge model of metal, fluctuating-charge water and ions of fixed charge.

    The short range is Lennard-Jones and harmonic molecules; the water's charges are left to the solve:

        HybridCalculator(water, coulomb, electrodes=[*metals, *water.groups], **water.solve_options(metals))

    Args:
        field: bonds, angles and Lennard-Jones; its charges are those of the ions, it excludes nothing.
        waters: (w,3) atoms O, H, H.
        model: constants of the water.
        smearing: (n,) Å, widths of the atoms that are not solved for.
        surroundings: what electronegativity and hardness of metal atoms gain from their neighbours; None for nothing.
    """

    def __init__(
        self,
        field: ClassicalForceField,
        waters: IntArray,
        model: FluctuatingWaterModel,
        smearing: FloatArray,
        surroundings: Surroundings | None = None,
    ) -> None:
        self.field = field
        self.waters = waters
        self.model = model
        self.surroundings = surroundings
        self._smearing = smearing

    @classmethod
    def from_atoms(
        cls,
        atoms: Atoms,
        electrodes: Sequence[Sequence[int]] | None = None,
        *,
        model: FluctuatingWaterModel = SPC_FQ,
        cutoff: float = 6.0,
        switch_distance: float | None = None,
        electrode_lj: bool = True,
        ion_width: float = ION_WIDTH,
        surroundings: SurroundingsModel | None = None,
    ) -> "FluctuatingWater":
        """Find the molecules of a structure.

        Args:
            atoms: water, Na, Cl and metal atoms; Å.
            electrodes: index groups, one per electrode; None takes `atoms.arrays["electrode"]`.
            model: constants of the water.
            cutoff, switch_distance: Å, of the force-switched Lennard-Jones. Everything but Coulomb ends at
                the cut-off, so that a local model with the same cut-off can learn it.
            electrode_lj: Lennard-Jones between metal atoms.
            ion_width: Å, Gaussian width of the ions; 0 makes them points.
            surroundings: how electronegativity and hardness of metal atoms follow their neighbours; None for constants.

        Returns:
            The short range with the charge model.

        Raises:
            ValueError: unknown elements, incomplete molecules, parameters out of range.
        """
        if not (math.isfinite(ion_width) and ion_width >= 0.0):
            raise ValueError(f"ion_width = {ion_width} Å must not be negative: use 0 for point charges")
        topology = find_topology(atoms, electrodes)
        tables, sources = build_tables(atoms.numbers.copy(), topology, "spc/fw")
        waters = topology.waters
        epsilon, sigma, charges = tables.epsilon.copy(), tables.sigma.copy(), tables.charges.copy()
        if len(waters):
            kind = tables.types[waters[0, 0]]
            epsilon[kind], sigma[kind] = model.epsilon, model.sigma
            charges[waters] = 0.0
            sources["water"] = model.source
        r0, theta0 = model.harmonic_reference
        tables = replace(
            tables,
            epsilon=epsilon,
            sigma=sigma,
            charges=charges,
            bond_constants=np.full(len(tables.bonds), model.bond_constant),
            bond_lengths=np.full(len(tables.bonds), r0),
            angle_constants=np.full(len(tables.angles), model.angle_constant),
            angle_values=np.full(len(tables.angles), theta0),
            exclusions=np.zeros((0, 2), dtype=np.int64),
        )
        field = ClassicalForceField(
            tables,
            cutoff=cutoff,
            switch_distance=switch_distance,
            electrode_lj=electrode_lj,
            sources=sources,
        )
        smearing = np.zeros(len(atoms))
        smearing[topology.ions] = ion_width
        found = None
        if surroundings is not None:
            metal = np.zeros(len(atoms), dtype=np.bool_)
            metal[topology.electrode >= 0] = True
            found = Surroundings(surroundings, metal)
        return cls(field, waters, model, smearing, found)

    @property
    def groups(self) -> list[Electrode]:
        """One group of charge zero per molecule, in the order of `waters`."""
        return [Electrode(molecule, charge=0.0) for molecule in self.waters]

    @property
    def charges(self) -> FloatArray:
        """(n,) e; those of the ions, 0 on solved atoms."""
        return self.field.charges

    @property
    def ion_smearing(self) -> FloatArray:
        """(n,) Å, widths of the ions, 0 on solved atoms."""
        return self._smearing.copy()

    def solve_options(self, metals: Sequence[Electrode] = (), metal_width: float = 0.392) -> dict[str, Any]:
        """Width, hardness and electronegativity of every solved atom, metals first, then the molecules.

        Args:
            metals: the electrodes that come before `groups`.
            metal_width: Å, Gaussian width of metal atoms.

        Returns:
            smearing (Å), hardness (V/e) and electronegativity (V) as `ConstantPotential` takes them.
        """
        metal_atoms = sum(len(e) for e in metals)
        m, w = self.model, len(self.waters)

        def column(metal: float, oxygen: float, hydrogen: float) -> FloatArray:
            return np.concatenate([np.full(metal_atoms, metal), np.tile([oxygen, hydrogen, hydrogen], w)])

        return {
            "smearing": column(metal_width, m.width_o, m.width_h),
            "hardness": column(0.0, m.extra_hardness_o, m.extra_hardness_h),
            "electronegativity": column(0.0, m.electronegativity, 0.0),
        }

    def compute(
        self,
        positions: FloatArray,
        numbers: IntArray,
        cell: FloatArray,
        pbc: tuple[bool, bool, bool],
        stress: bool = False,
    ) -> ShortRangeResult:
        """Energy, forces and strain derivative of one frame; see `ClassicalForceField.compute`."""
        result = self.field.compute(positions, numbers, cell, pbc, stress)
        result = replace(result, smearing=self._smearing.copy())
        if self.surroundings is None:
            return result
        found = self.surroundings(positions, numbers, cell, pbc)

        def respond(response: Response) -> tuple[FloatArray, FloatArray | None]:
            forces, virial = found.derivatives(response.charges, response.half_squares)
            assert result.forces is not None
            return result.forces + forces, None if result.virial is None else result.virial + virial

        chi, hardness = self._constants(len(positions))
        return replace(
            result,
            electronegativity=chi + found.electronegativity,
            hardness=hardness + found.hardness,
            respond=respond,
        )

    def _constants(self, atoms: int) -> tuple[FloatArray, FloatArray]:
        """(n,) electronegativity (V) and hardness (V/e) of water, 0 for other atoms."""
        m, chi, hardness = self.model, np.zeros(atoms), np.zeros(atoms)
        oxygens, hydrogens = self.waters[:, 0], self.waters[:, 1:]
        chi[oxygens] = m.electronegativity
        hardness[oxygens], hardness[hydrogens] = m.extra_hardness_o, m.extra_hardness_h
        return chi, hardness

    def describe(self) -> dict[str, Any]:
        """Parameters, sources and sizes, ready for JSON."""
        m = self.model
        r0, theta0 = m.harmonic_reference
        water = {
            "electronegativity_V": m.electronegativity,
            "width_O_A": m.width_o,
            "width_H_A": m.width_h,
            "hardness_O_V_per_e": m.extra_hardness_o,
            "hardness_H_V_per_e": m.extra_hardness_h,
            "bond_reference_A": r0,
            "angle_reference_rad": theta0,
            "bond_constant_eV_per_A2": m.bond_constant,
            "angle_constant_eV_per_rad2": m.angle_constant,
        }
        rest: dict[str, Any] = {"ion_width_A": float(self._smearing.max(initial=0.0))}
        if self.surroundings is not None:
            rest["surroundings"] = self.surroundings.model.describe()
        return self.field.describe() | {"name": "fluctuating-charge water", "water": water} | rest

    def state(self) -> dict[str, NDArray[Any]]:
        """The neighbour lists: a restart that loads them continues with the same ones."""
        return self.field.state() | ({} if self.surroundings is None else self.surroundings.state())

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `state` returned."""
        self.field.load_state(state)
        if self.surroundings is not None:
            self.surroundings.load_state(state)
