"""Electrode charges, energies and forces against dense reference solutions and OpenMM's published tests."""

import numpy as np
import pytest

from grahame.electrostatics import ConstantPotential, Coulomb, Electrode
from tests.electrostatics.reference_cpm import FILE_COULOMB, OPENMM, arrays, compare, compare_openmm, width
from tests.shared_data import needs_shared

pytestmark = needs_shared

# A few cells, most of them by `ewald`; examples/benchmarks/check_references.py runs every one by `exact`.
QUICK = [
    ("02", "ew3dc", "g15", "exact"),
    ("02", "3d", "g25", "exact"),
    ("06", "3d", "net+1", "exact"),
    ("02", "ew3dc", "g20", "ewald"),
    ("03", "ew3dc", "V1", "ewald"),
    ("03", "3d", "V2", "ewald"),
    ("04", "ew3dc", "Q+0.5", "ewald"),
    ("04", "3d", "Q-0.5", "ewald"),
    ("06", "ew3dc", "net+1", "ewald"),
]


@pytest.mark.parametrize(("file", "boundary", "key", "method"), QUICK)
def test_charges_energy_and_forces_equal_the_dense_reference(
    file: str, boundary: str, key: str, method: str
) -> None:
    errors = compare(file, boundary, key, method=method)
    assert errors.charges <= 1e-9
    assert errors.energy <= 1e-9
    assert errors.forces <= 1e-8
    assert errors.potential <= 1e-8
    assert errors.gradient <= 5e-5


@pytest.mark.parametrize("test", [t for t in OPENMM if not t.startswith("ref")])
def test_openmm_systems_equal_the_dense_reference(test: str) -> None:
    errors = compare_openmm(test, method="ewald" if test.startswith("cap") else "exact")
    assert errors.charges <= 1e-9
    assert errors.energy <= 1e-9
    assert errors.forces <= 1e-8
    assert errors.potential <= 1e-8


@pytest.mark.parametrize("test", ["small1", "small2", "small4"])
def test_openmm_published_small_charges(test: str) -> None:
    data = arrays("01_openmm_tests")
    group = data[f"{test}_electrode"]
    index, s = np.flatnonzero(group == 0), width(data[f"{test}_eta"])
    coulomb = Coulomb(boundary="3d", method="exact", background="point", coulomb_constant=FILE_COULOMB)
    cpm = ConstantPotential([Electrode(index, potential=0.0)], coulomb, smearing=s[index])
    target = float(data[f"{test}_target"])
    sol = cpm.solve(
        data[f"{test}_pos"],
        data[f"{test}_q_fixed"],
        np.diag(data[f"{test}_box"]),
        smearing=s,
        total_charge=None if np.isnan(target) else target,
    )
    np.testing.assert_allclose(sol.charges, data[f"{test}_expected_q"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("test", ["ref_field", "ref_tf"])
def test_published_charges_of_the_large_openmm_system(test: str) -> None:
    errors = compare_openmm(test, method="ewald")
    assert errors.charges <= 1e-9
    assert errors.energy <= 1e-9
    assert errors.forces <= 1e-8
    data = arrays("01_openmm_tests")
    # the published charges (computed with MetalWalls) themselves agree with the file to 1e-11
    assert np.abs(data[f"{test}_expected_q"] - data[f"{test}_exact_q"]).max() < 1e-10


def test_openmm_crystal_of_electrode_charges() -> None:
    # A CsCl lattice of unit ions and one electrode on the other sites: every solved charge is -1 e.
    data = arrays("01_openmm_tests")
    x, q, group = data["bcc_pos"], data["bcc_q_fixed"], data["bcc_electrode"]
    s = width(data["bcc_eta"])
    cell = np.diag(data["bcc_box"])
    inside = np.all(x < np.diag(cell) / 3 - 1e-6, axis=1)
    small = cell / 3
    index = np.flatnonzero(group[inside] >= 0)
    coulomb = Coulomb(boundary="3d", method="exact", background="point", coulomb_constant=FILE_COULOMB)
    cpm = ConstantPotential([Electrode(index, potential=0.0)], coulomb, smearing=s[inside][index])
    sol = cpm.solve(x[inside], q[inside], small, smearing=s[inside])
    np.testing.assert_allclose(sol.charges[index], -1.0, rtol=0, atol=1e-9)


def test_thomas_fermi_length_and_volume_are_a_hardness() -> None:
    data = arrays("01_openmm_tests")
    index, s = np.flatnonzero(data["update_electrode"] >= 0), width(data["update_eta"])
    tf = data["update_tf"][index]  # 4 pi l²/v in 1/Å
    coulomb = Coulomb(boundary="3d", method="exact", background="point", coulomb_constant=FILE_COULOMB)
    args = (data["update_pos"], data["update_q_fixed"], np.diag(data["update_box"]))
    volumes = np.array([11.0, 7.0])
    electrode = [Electrode(index, potential=0.0)]
    by_length = ConstantPotential(
        electrode,
        coulomb,
        smearing=s[index],
        thomas_fermi_length=np.sqrt(tf * volumes / (4 * np.pi)),
        voronoi_volume=volumes,
    ).solve(*args, smearing=s, total_charge=5.0)
    by_hardness = ConstantPotential(electrode, coulomb, smearing=s[index], hardness=FILE_COULOMB * tf).solve(
        *args, smearing=s, total_charge=5.0
    )
    np.testing.assert_allclose(by_length.charges, by_hardness.charges, rtol=0, atol=1e-12)
    assert by_length.energy == pytest.approx(by_hardness.energy, rel=1e-12)
