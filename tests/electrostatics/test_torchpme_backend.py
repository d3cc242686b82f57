"""torch-pme evaluates the same Ewald sum: two implementations, written by different people, one number."""

import re
import sys

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from grahame.electrostatics import ConstantPotential, Coulomb, Electrode
from grahame.kernels import torchpme_backend
from tests.electrostatics.numerics import COULOMB
from tests.systems import CELLS_3D, SLAB_GEOMETRIES, System, crystals, ions_3d, slab

THEIRS = {"method": "ewald", "ewald_backend": "torch-pme"}


def compare(atoms: System, boundary: str, accuracy: float, **settings: object) -> None:
    """Energy, potential, forces and stress of our kernels and of torch-pme to 1e-10."""
    args = (atoms.positions, atoms.charges, atoms.cell)
    ours = Coulomb(boundary, "ewald", accuracy, **settings)(*args, smearing=atoms.smearing, stress=True)  # type: ignore[arg-type]
    theirs = Coulomb(boundary, accuracy=accuracy, **THEIRS, **settings)(  # type: ignore[arg-type]
        *args, smearing=atoms.smearing, stress=True
    )
    scale = max(1.0, abs(float(ours.energy)))
    assert float(theirs.energy) == pytest.approx(float(ours.energy), abs=1e-10 * scale)
    np.testing.assert_allclose(theirs.potential, ours.potential, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(theirs.forces, ours.forces, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(theirs.stress, ours.stress, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("accuracy", [1e-4, 1e-12])
@pytest.mark.parametrize("widths", ["points", "gaussian", "mixed"])
@pytest.mark.parametrize("cell", sorted(CELLS_3D))
def test_both_agree_in_every_periodic_cell(cell: str, widths: str, accuracy: float) -> None:
    compare(ions_3d(cell, widths=widths), "3d", accuracy)


@pytest.mark.parametrize("total", [0.0, 0.7])
@pytest.mark.parametrize("geometry", sorted(SLAB_GEOMETRIES))
def test_both_agree_in_every_slab(geometry: str, total: float) -> None:
    compare(slab(geometry, total=total), "slab", 1e-8)


@pytest.mark.parametrize("background", ["gaussian", "point"])
def test_both_agree_on_charged_cells_in_either_background(background: str) -> None:
    compare(ions_3d("orthorhombic", total=1.3), "3d", 1e-10, background=background)


def test_both_agree_at_constant_displacement() -> None:
    compare(ions_3d("orthorhombic"), "displacement", 1e-10)


@pytest.mark.parametrize("scale", [0.6, 1.0, 2.5])
@pytest.mark.parametrize("name", [c.name for c in crystals()])
def test_lattice_energy_is_the_madelung_constant(name: str, scale: float) -> None:
    crystal = {c.name: c for c in crystals(scale)}[name]
    atoms = crystal.atoms
    out = Coulomb(accuracy=1e-13, **THEIRS)(atoms.positions, atoms.charges, atoms.cell)  # type: ignore[arg-type]
    assert out.energy == pytest.approx(crystal.energy(COULOMB), rel=max(crystal.digits, 1e-11))


@pytest.mark.parametrize("cell", ["orthorhombic", "triclinic"])
def test_the_waves_that_torch_pme_would_choose_give_the_same_potential(cell: str) -> None:
    # Nothing but the positions and pairs is shared here: neither our waves nor our cut-off's shift.
    import torchpme

    from grahame.kernels.neighbors import neighbor_pairs

    atoms = ions_3d(cell, widths="points")
    alpha, cutoff, largest = 0.9, 7.5, 11.0
    pairs = neighbor_pairs(atoms.positions, atoms.cell, (True, True, True), cutoff)
    vectors = atoms.positions[pairs.j] + pairs.shifts @ atoms.cell - atoms.positions[pairs.i]
    calculator = torchpme.EwaldCalculator(
        torchpme.CoulombPotential(smearing=2**-0.5 / alpha), lr_wavelength=np.pi / largest
    ).to(torch.float64)
    half = calculator(
        charges=torch.tensor(atoms.charges)[:, None],
        cell=torch.tensor(atoms.cell),
        positions=torch.tensor(atoms.positions),
        neighbor_indices=torch.tensor(np.stack([pairs.i, pairs.j], axis=1)),
        neighbor_distances=torch.tensor(np.linalg.norm(vectors, axis=1)),
    )
    ours = Coulomb("3d", "ewald", 1e-13)(atoms.positions, atoms.charges, atoms.cell)
    np.testing.assert_allclose(2 * COULOMB * half[:, 0].numpy(), ours.potential, rtol=0, atol=1e-9)


def test_first_and_second_derivatives_are_exact() -> None:
    atoms = ions_3d("triclinic", n=5, widths="mixed")
    coulomb = Coulomb(accuracy=1e-6, cutoff=6.0, splitting=0.7, **THEIRS)  # type: ignore[arg-type]
    x, q, h, s = (
        torch.tensor(v, requires_grad=True)
        for v in (
            atoms.positions,
            atoms.charges,
            atoms.cell,
            np.where(atoms.smearing > 0, atoms.smearing, 0.3),
        )
    )

    def energy(x: torch.Tensor, q: torch.Tensor, h: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = coulomb(x, q, h, s).energy
        return out

    assert gradcheck(energy, (x, q, h, s), eps=1e-5, atol=1e-6)
    assert gradgradcheck(energy, (x, q, h, s), eps=1e-5, atol=1e-5)


def test_electrodes_are_solved_with_the_same_operator() -> None:
    atoms = slab("orthorhombic", widths="gaussian", total=0.0)
    order = np.argsort(atoms.positions[:, 2])
    groups = [Electrode(order[:3], potential=0.0), Electrode(order[-3:], potential=1.0)]
    q = atoms.charges.copy()
    q[order[:3]] = q[order[-3:]] = 0.0
    rest = order[3:-3]
    q[rest] -= q[rest].mean()
    found = [
        ConstantPotential(
            groups, coulomb=Coulomb("slab", "ewald", 1e-8, ewald_backend=name), smearing=0.4
        ).solve(atoms.positions, q, atoms.cell)
        for name in ("auto", "torch-pme")
    ]
    np.testing.assert_allclose(found[1].charges, found[0].charges, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found[1].forces, found[0].forces, rtol=0, atol=1e-9)
    assert found[1].energy == pytest.approx(found[0].energy, abs=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"method": "pme", "ewald_backend": "torch-pme"},
            'ewald_backend = "torch-pme" must go with method = "ewald", not "pme": '
            'set method = "ewald" or leave ewald_backend out',
        ),
        (
            {"ewald_backend": "torch-pme"},
            'ewald_backend = "torch-pme" must go with method = "ewald", not "auto": '
            'set method = "ewald" or leave ewald_backend out',
        ),
        (
            {"method": "ewald", "ewald_backend": "mine"},
            'ewald_backend = "mine" must be auto or torch-pme: choose one of these',
        ),
    ],
)
def test_bad_choices_are_named(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Coulomb(**settings)  # type: ignore[arg-type]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchpme", None)
    message = (
        'ewald_backend = "torch-pme" must find the package torch-pme: install it with "pip install torch-pme"'
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Coulomb(**THEIRS)  # type: ignore[arg-type]


def test_a_system_too_large_for_its_tables_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchpme_backend, "_LARGEST", 100)
    atoms = ions_3d("orthorhombic")
    with pytest.raises(
        ValueError,
        match=r'^waves times atoms = \S+ must not exceed 100 with ewald_backend = "torch-pme": '
        r'use ewald_backend = "auto"$',
    ):
        Coulomb(accuracy=1e-6, **THEIRS)(atoms.positions, atoms.charges, atoms.cell)  # type: ignore[arg-type]
