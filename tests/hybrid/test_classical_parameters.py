"""The literature table, number by number, and what follows from it."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from grahame.hybrid.shortrange.classical import ClassicalForceField
from grahame.hybrid.shortrange.parameters import IONS, KCAL_PER_MOL, METALS, WATER, water_model
from tests.hybrid.classical_systems import compute

# Heinz et al. 2008: r_min in Å, epsilon in kcal/mol; measured lattice constant in Å.
HEINZ = {
    "Ag": (2.955, 4.56, 4.0862),
    "Al": (2.925, 4.02, 4.0495),
    "Au": (2.951, 5.29, 4.0782),
    "Cu": (2.616, 4.72, 3.6149),
    "Ni": (2.552, 5.65, 3.5240),
    "Pb": (3.565, 2.93, 4.9508),
    "Pd": (2.819, 6.15, 3.8907),
    "Pt": (2.845, 7.80, 3.9242),
}
MASSES = {
    "H": 1.008, "O": 15.999, "Na": 22.990, "Cl": 35.45, "Ag": 107.868, "Al": 26.982, "Au": 196.967,
    "Cu": 63.546, "Ni": 58.693, "Pb": 207.2, "Pd": 106.42, "Pt": 195.084,
}  # fmt: skip


def test_a_kilocalorie_per_mole_is_43_meV() -> None:
    assert pytest.approx(0.0433641, abs=1e-7) == KCAL_PER_MOL


def test_spc_fw_is_that_of_wu_tepper_and_voth() -> None:
    model = WATER["spc/fw"]
    assert model.bond_constant == pytest.approx(1059.162 * KCAL_PER_MOL, rel=1e-15)
    assert model.angle_constant == pytest.approx(75.90 * KCAL_PER_MOL, rel=1e-15)
    assert np.degrees(model.angle) == pytest.approx(113.24, rel=1e-14)
    assert (model.bond_length, model.charge_oxygen, model.charge_hydrogen) == (1.012, -0.82, 0.41)
    assert (model.epsilon / KCAL_PER_MOL, model.sigma) == (pytest.approx(0.1554253, rel=1e-14), 3.165492)


def test_spc_e_has_the_dipole_of_its_paper() -> None:
    model = WATER["spc/e-rigid"]
    assert model.bond_constant is None
    assert model.angle_constant is None
    dipole = 2 * model.charge_hydrogen * model.bond_length * np.cos(0.5 * model.angle) / 0.2081943
    assert dipole == pytest.approx(2.35, abs=0.005)  # debye
    assert model.hydrogen_distance == pytest.approx(1.633, abs=1e-4)
    # The paper's form (B/r)^12 - (A/r)^6 with A, B in (kJ/mol)^(1/n) nm.
    a, b = 0.37122, 0.3428
    assert model.sigma == pytest.approx(10 * b**2 / a, rel=3e-4)
    assert model.epsilon / KCAL_PER_MOL == pytest.approx(a**12 / (4 * b**12) / 4.184, rel=2e-3)


def test_ions_are_those_of_joung_and_cheatham_for_spc_e() -> None:
    assert IONS["Na"].sigma == pytest.approx(2.159538, abs=1e-6)
    assert IONS["Cl"].sigma == pytest.approx(4.830453, abs=1e-6)
    assert IONS["Na"].epsilon / KCAL_PER_MOL == pytest.approx(0.3526418, rel=1e-14)
    assert IONS["Cl"].epsilon / KCAL_PER_MOL == pytest.approx(0.0127850, rel=1e-14)
    assert (IONS["Na"].charge, IONS["Cl"].charge) == (1.0, -1.0)


@pytest.mark.parametrize("element", HEINZ)
def test_metals_are_those_of_heinz(element: str) -> None:
    r_min, epsilon, _ = HEINZ[element]
    metal = METALS[element]
    assert metal.epsilon / KCAL_PER_MOL == pytest.approx(epsilon, rel=1e-14)
    assert metal.sigma * 2 ** (1 / 6) == pytest.approx(r_min, rel=1e-14)
    assert metal.charge == 0.0
    assert set(METALS) == set(HEINZ)


@pytest.mark.parametrize("element", ["Au", "Pb"])
def test_metals_are_relaxed_at_their_measured_lattice_constant(element: str) -> None:
    """Within 1.5 % at 0 K, where r_min taken for sigma would be 12 % off."""
    a = HEINZ[element][2]
    energies = []
    for scale in (0.97, 0.99, 1.01):
        crystal = bulk(element, a=a * scale)
        field = ClassicalForceField.from_atoms(crystal, cutoff=24.0, truncation="plain")
        energies.append(compute(field, crystal).energy)
    assert energies[1] < min(energies[0], energies[2])


@pytest.mark.parametrize("element", MASSES)
def test_masses_are_those_of_ase(element: str) -> None:
    assert Atoms(element).get_masses()[0] == pytest.approx(MASSES[element], abs=2e-3)


def test_every_species_names_its_source() -> None:
    assert "J. Chem. Phys. 124, 024503 (2006)" in WATER["spc/fw"].source
    assert "J. Phys. Chem. 91, 6269 (1987)" in WATER["spc/e-rigid"].source
    assert "J. Phys. Chem. B 112, 9020 (2008)" in IONS["Na"].source
    assert "J. Phys. Chem. C 112, 17281 (2008)" in METALS["Au"].source


def test_an_unknown_water_is_refused() -> None:
    with pytest.raises(ValueError, match="water") as error:
        water_model("tip3p")
    assert str(error.value) == "water = 'tip3p' must be one of 'spc/fw', 'spc/e-rigid': choose one of them"
