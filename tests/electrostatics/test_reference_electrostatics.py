"""The operator against converged sums that were computed outside this project."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from grahame.electrostatics import ConstantPotential, Coulomb, Electrode
from tests.electrostatics.numerics import COULOMB, force_error
from tests.shared_data import SHARED, needs_shared

pytestmark = needs_shared
Arrays = dict[str, NDArray[np.float64]]

BULK = ["p3d_neutral_ortho", "p3d_charged_ortho", "p3d_neutral_triclinic", "p3d_gauss_neutral"]
PADDED = ["slab_ew3dc_neutral_dipole", "slab_ew3dc_charged", "electrode_ew3dc_neutral"]
PLANAR = ["slab_ew2d_neutral_dipole", "electrode_ew2d_neutral"]


@cache
def reference(name: str) -> Arrays:
    assert SHARED is not None
    with np.load(Path(SHARED) / "reference" / "electrostatics" / f"{name}.npz") as data:
        return {key: np.asarray(data[key]) for key in data.files}


def operator(name: str, method: str, accuracy: float) -> Coulomb:
    if name in PLANAR:
        return Coulomb(boundary="slab-exact", method="exact", accuracy=accuracy)
    if name in PADDED:
        return Coulomb(boundary="slab", method=method, accuracy=accuracy, vacuum=0.0)
    return Coulomb(boundary="3d", method=method, accuracy=accuracy)


def on_site(case: Arrays) -> NDArray[np.float64]:
    """k q/(sqrt(pi) s): what the files leave out of the potential."""
    s = case["sigmas"]
    wide = np.where(s > 0, s, 1.0)
    return np.where(s > 0, COULOMB * case["charges"] / (np.sqrt(np.pi) * wide), 0.0)


EXACT_CASES = [(name, method) for name in BULK + PADDED for method in ("exact", "ewald")] + [
    (name, "exact") for name in PLANAR
]


@pytest.mark.parametrize(("name", "method"), EXACT_CASES)
def test_energy_potential_forces_and_strain_derivative_equal_the_converged_sums(
    name: str, method: str
) -> None:
    case = reference(name)
    out = operator(name, method, 1e-13)(
        case["positions"], case["charges"], case["cell"], smearing=case["sigmas"], stress=True
    )
    assert out.energy - out.self_energy.sum() == pytest.approx(float(case["energy"]), rel=1e-10, abs=0)
    np.testing.assert_allclose(out.self_energy, case["gauss_self_energy"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(out.potential, case["potential"] + on_site(case), rtol=0, atol=1e-9)
    np.testing.assert_allclose(out.forces, case["forces"], rtol=0, atol=1e-9)
    volume = abs(np.linalg.det(case["cell"]))
    got, expected = out.stress, case["dE_dstrain"] / volume
    if name in PLANAR:
        np.testing.assert_allclose(got[:2, :2], expected[:2, :2], rtol=0, atol=1e-8)
        assert got[2, 2] == pytest.approx(expected[2, 2], abs=1e-8)
    else:
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-8)
        np.testing.assert_allclose(got * volume, case["dE_dstrain"], rtol=0, atol=1e-8)


@pytest.mark.parametrize("accuracy", [1e-4, 1e-7])
@pytest.mark.parametrize("name", BULK + PADDED)
def test_the_mesh_is_within_the_requested_accuracy(name: str, accuracy: float) -> None:
    case = reference(name)
    out = operator(name, "pme", accuracy)(
        case["positions"], case["charges"], case["cell"], smearing=case["sigmas"]
    )
    volume = abs(np.linalg.det(case["cell"]))
    assert force_error(out.forces, case["forces"], case["charges"], volume) <= accuracy
    size = 0.5 * np.abs(case["charges"] * case["potential"]).sum()
    assert abs(out.energy - out.self_energy.sum() - float(case["energy"])) <= 10 * accuracy * size


@pytest.mark.parametrize("accuracy", [1e-4, 1e-7, 1e-10])
@pytest.mark.parametrize("name", PLANAR)
@pytest.mark.parametrize("method", ["exact", "ewald"])
def test_automatic_vacuum_reaches_the_exact_two_dimensional_sum(
    name: str, method: str, accuracy: float
) -> None:
    case = reference(name)
    coulomb = Coulomb(boundary="slab", method=method, accuracy=accuracy, vacuum="auto")
    out = coulomb(case["positions"], case["charges"], case["cell"], smearing=case["sigmas"])
    volume = abs(np.linalg.det(case["cell"]))
    assert force_error(out.forces, case["forces"], case["charges"], volume) <= accuracy
    size = 0.5 * np.abs(case["charges"] * case["potential"]).sum()
    assert abs(out.energy - out.self_energy.sum() - float(case["energy"])) <= 10 * accuracy * size


@pytest.mark.parametrize("method", ["exact", "ewald"])
def test_solved_electrodes_equal_the_dense_reference_solution(method: str) -> None:
    case = reference("cpm_ew3dc")
    n = int(case["n_electrode"])
    psi = case["psi"]
    low, high = np.flatnonzero(psi == psi.min()), np.flatnonzero(psi == psi.max())
    charges = np.concatenate([np.zeros(n), case["ion_charges"]])
    coulomb = Coulomb(boundary="slab", method=method, accuracy=1e-13, vacuum=0.0)
    matrix = coulomb.matrix(
        case["positions"], case["cell"], smearing=case["sigmas"], rows=np.arange(n), columns=np.arange(n)
    )
    np.testing.assert_allclose(matrix, case["A"], rtol=0, atol=1e-10)
    toward = coulomb.matrix(
        case["positions"],
        case["cell"],
        smearing=case["sigmas"],
        rows=np.arange(n),
        columns=np.arange(n, len(charges)),
    )
    np.testing.assert_allclose(toward @ case["ion_charges"], case["b"], rtol=0, atol=1e-10)
    cpm = ConstantPotential(
        [Electrode(low, potential=float(psi.min())), Electrode(high, potential=float(psi.max()))],
        coulomb,
        smearing=float(case["sigmas"][0]),
    )
    sol = cpm.solve(case["positions"], charges, case["cell"], smearing=case["sigmas"])
    np.testing.assert_allclose(sol.charges[:n], case["electrode_charges"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(sol.forces, case["forces"], rtol=0, atol=1e-9)
    assert sol.multiplier == pytest.approx(float(case["lagrange"]), abs=1e-9)
    expected = float(case["energy_nogaussself"]) + case["gauss_self_energy"].sum()
    assert sol.internal_energy == pytest.approx(expected, rel=1e-10)
