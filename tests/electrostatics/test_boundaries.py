"""Slab, displacement, field and open boundaries in every cell geometry."""

import math

import numpy as np
import pytest
import torch

from grahame.electrostatics import Coulomb
from tests.electrostatics.numerics import COULOMB, derivative
from tests.systems import (
    SLAB_GEOMETRIES,
    System,
    ions_3d,
    rotation,
    slab,
    supercell,
    system,
    transformed,
)

EXACT_METHODS = ["exact", "ewald"]


def run(coulomb: Coulomb, atoms: System, **options: object):  # type: ignore[no-untyped-def]
    return coulomb(atoms.positions, atoms.charges, atoms.cell, smearing=atoms.smearing, **options)


def slab_operator(method: str, accuracy: float = 1e-12, **options: object) -> Coulomb:
    return Coulomb(boundary="slab", method=method, accuracy=accuracy, **options)  # type: ignore[arg-type]


EXACT_SLAB = Coulomb(boundary="slab-exact", method="exact", accuracy=1e-13)


# ---------------------------------------------------------------- one slab energy, however it is written


@pytest.mark.parametrize("total", [0.0, 0.6])
@pytest.mark.parametrize("geometry", SLAB_GEOMETRIES)
@pytest.mark.parametrize("method", EXACT_METHODS)
def test_padded_slab_equals_the_exact_two_dimensional_sum(method: str, geometry: str, total: float) -> None:
    atoms = slab(geometry, total=total)
    got, truth = run(slab_operator(method), atoms, stress=True), run(EXACT_SLAB, atoms, stress=True)
    assert got.energy == pytest.approx(truth.energy, abs=1e-9)
    np.testing.assert_allclose(got.forces, truth.forces, rtol=0, atol=1e-9)
    np.testing.assert_allclose(got.potential, truth.potential, rtol=0, atol=1e-9)
    n = np.cross(atoms.cell[0], atoms.cell[1])
    n /= np.linalg.norm(n)
    plane = np.eye(3) - np.outer(n, n)
    np.testing.assert_allclose(plane @ got.stress @ plane, plane @ truth.stress @ plane, rtol=0, atol=1e-9)


@pytest.mark.parametrize("geometry", ["tilted-c", "rotated", "left-handed", "reversed-c", "unwrapped"])
@pytest.mark.parametrize(
    ("boundary", "method"), [("slab", "exact"), ("slab", "ewald"), ("slab-exact", "exact")]
)
def test_writing_the_slab_down_differently_changes_nothing(boundary: str, method: str, geometry: str) -> None:
    plain = slab("orthorhombic", total=0.6)
    other = transformed(plain, geometry, seed=2)
    coulomb = Coulomb(boundary=boundary, method=method, accuracy=1e-13)
    first, second = run(coulomb, plain), run(coulomb, other)
    assert second.energy == pytest.approx(first.energy, abs=1e-9)
    np.testing.assert_allclose(second.potential, first.potential, rtol=0, atol=1e-9)
    turn = rotation(7) if geometry == "rotated" else np.eye(3)
    np.testing.assert_allclose(second.forces, first.forces @ turn.T, rtol=0, atol=1e-9)


@pytest.mark.parametrize("accuracy", [1e-4])
@pytest.mark.parametrize("geometry", SLAB_GEOMETRIES)
def test_mesh_slab_agrees_within_its_accuracy_in_every_geometry(geometry: str, accuracy: float) -> None:
    atoms = slab(geometry, total=0.6)
    truth = run(EXACT_SLAB, atoms)
    got = run(slab_operator("pme", accuracy), atoms)
    scale = max(
        np.sqrt((truth.forces**2).sum(1).mean()),
        COULOMB * (atoms.charges**2).mean() * (len(atoms.charges) / atoms.volume) ** (2 / 3),
    )
    assert np.sqrt(((got.forces - truth.forces) ** 2).sum(1).mean()) <= accuracy * scale


def test_error_of_the_padded_slab_decays_with_the_shortest_reciprocal_vector() -> None:
    atoms = slab("orthorhombic", widths="points", height=12.0)
    truth = run(EXACT_SLAB, atoms).energy
    z = atoms.positions[:, 2]
    g = 2 * math.pi / max(np.linalg.norm(atoms.cell[0]), np.linalg.norm(atoms.cell[1]))
    padding = np.array([2.0, 6.0, 10.0])
    errors = [abs(run(slab_operator("exact", vacuum=float(p)), atoms).energy - truth) for p in padding]
    slopes = np.diff(np.log(errors)) / np.diff(padding)
    assert np.ptp(z) < 12.0
    assert errors[0] > 1e-6
    np.testing.assert_allclose(slopes, -g, rtol=0.35)


@pytest.mark.parametrize("total", [0.0, 0.6])
@pytest.mark.parametrize("method", EXACT_METHODS)
def test_charged_slab_does_not_change_when_shifted_or_padded(method: str, total: float) -> None:
    atoms = slab("hexagonal", total=total)
    base = run(slab_operator(method), atoms)
    for shift in ([0.0, 0.0, 3.3], [1.0, -0.7, -5.1], [0.0, 0.0, 1000.0]):
        moved = System(atoms.positions + np.array(shift), atoms.charges, atoms.cell, atoms.smearing)
        out = run(slab_operator(method), moved)
        tolerance = 1e-9 if shift[2] < 100 else 1e-6
        assert out.energy == pytest.approx(base.energy, abs=tolerance)
        np.testing.assert_allclose(out.forces, base.forces, rtol=0, atol=tolerance)
        np.testing.assert_allclose(out.potential, base.potential, rtol=0, atol=tolerance)
    for vacuum in (45.0, 60.0):
        out = run(slab_operator(method, vacuum=vacuum), atoms)
        assert out.energy == pytest.approx(base.energy, abs=1e-9)
        np.testing.assert_allclose(out.forces, base.forces, rtol=0, atol=1e-9)
        np.testing.assert_allclose(out.potential, base.potential, rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", ["exact", "ewald", "pme"])
def test_the_height_of_the_user_cell_does_not_matter_in_a_slab(method: str) -> None:
    accuracy = 1e-6 if method == "pme" else 1e-12
    atoms = slab("orthorhombic", total=0.6)
    base = run(slab_operator(method, accuracy), atoms)
    cell = atoms.cell.copy()
    cell[2, 2] = 12.0  # less than the extent plus its images would need: the padding makes up for it
    out = run(slab_operator(method, accuracy), System(atoms.positions, atoms.charges, cell, atoms.smearing))
    tolerance = 1e-4 if method == "pme" else 1e-9
    assert out.energy == pytest.approx(base.energy, abs=tolerance)
    np.testing.assert_allclose(out.forces, base.forces, rtol=0, atol=tolerance)


@pytest.mark.parametrize("background", ["gaussian", "point"])
def test_background_convention_does_not_matter_in_a_charged_slab(background: str) -> None:
    atoms = slab("orthorhombic", total=0.6, widths="gaussian")
    out = run(slab_operator("ewald", background=background), atoms)
    truth = run(EXACT_SLAB, atoms)
    assert out.energy == pytest.approx(truth.energy, abs=1e-9)
    np.testing.assert_allclose(out.potential, truth.potential, rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", EXACT_METHODS)
def test_point_background_differs_by_the_stated_terms_in_a_charged_cell(method: str) -> None:
    atoms = ions_3d("triclinic", total=1.3, widths="gaussian")
    gaussian = run(Coulomb("3d", method, 1e-13), atoms)
    point = run(Coulomb("3d", method, 1e-13, background="point"), atoms)
    q, s, v = atoms.charges, atoms.smearing, atoms.volume
    energy = 2 * math.pi * COULOMB * q.sum() * (q * s**2).sum() / v
    potential = 2 * math.pi * COULOMB * ((q * s**2).sum() + q.sum() * s**2) / v
    assert gaussian.energy - point.energy == pytest.approx(energy, abs=1e-10)
    np.testing.assert_allclose(gaussian.potential - point.potential, potential, rtol=0, atol=1e-10)
    np.testing.assert_allclose(gaussian.forces, point.forces, rtol=0, atol=1e-11)


# ---------------------------------------------------------------- small and odd systems


@pytest.mark.parametrize(
    ("boundary", "method"),
    [
        ("3d", "exact"),
        ("3d", "ewald"),
        ("3d", "pme"),
        ("slab", "exact"),
        ("slab", "ewald"),
        ("slab", "pme"),
        ("slab-exact", "exact"),
    ],
)
@pytest.mark.parametrize("width", [0.0, 0.6])
def test_one_atom_feels_no_force_and_only_its_images(boundary: str, method: str, width: float) -> None:
    accuracy = 1e-6 if method == "pme" else 1e-12
    atoms = system([[1.0, 2.0, 3.0]], [0.7], np.diag([5.0, 6.0, 9.0]), width)
    coulomb = Coulomb(boundary=boundary, method=method, accuracy=accuracy)
    out = run(coulomb, atoms)
    np.testing.assert_allclose(out.forces, 0.0, atol=1e-9 if method != "pme" else 1e-4)
    matrix = coulomb.matrix(atoms.positions, atoms.cell, smearing=atoms.smearing)
    tolerance = 1e-10 if method != "pme" else 1e-5
    assert out.energy == pytest.approx(0.5 * 0.7**2 * matrix[0, 0], abs=tolerance)
    double = supercell(atoms, (2, 2, 1) if boundary.startswith("slab") else (2, 2, 2))
    factor = 4 if boundary.startswith("slab") else 8
    other = run(Coulomb(boundary=boundary, method=method, accuracy=accuracy), double)
    assert other.energy == pytest.approx(
        factor * out.energy, abs=factor * (1e-9 if method != "pme" else 1e-4)
    )


@pytest.mark.parametrize("method", ["exact", "ewald", "pme"])
@pytest.mark.parametrize("boundary", ["3d", "slab"])
def test_a_cell_smaller_than_the_cutoff_sees_all_images(boundary: str, method: str) -> None:
    accuracy = 1e-7 if method == "pme" else 1e-12
    x = np.array([[0.1, 0.2, 5.0], [1.4, 1.3, 6.1]])
    cell = np.array([[2.9, 0, 0], [0.4, 2.7, 0], [0, 0, 12.0 if boundary == "slab" else 3.1]])
    atoms = system(x, [1.0, -1.0], cell, [0.0, 0.5])
    small = run(Coulomb(boundary=boundary, method=method, accuracy=accuracy), atoms)
    chosen = Coulomb(boundary=boundary, method=method, accuracy=accuracy)
    assert method == "exact" or chosen.parameters(x, atoms.charges, cell).cutoff > 2.7
    repeats = (3, 3, 1) if boundary == "slab" else (3, 3, 3)
    large = run(Coulomb(boundary=boundary, method=method, accuracy=accuracy), supercell(atoms, repeats))
    cells_in = int(np.prod(repeats))
    tolerance = 1e-4 if method == "pme" else 1e-9
    assert large.energy / cells_in == pytest.approx(small.energy, abs=tolerance)
    np.testing.assert_allclose(large.forces[:2], small.forces, rtol=0, atol=tolerance)


@pytest.mark.parametrize("method", EXACT_METHODS)
@pytest.mark.parametrize("boundary", ["3d", "slab"])
def test_energy_does_not_depend_on_the_splitting(boundary: str, method: str) -> None:
    atoms = ions_3d("triclinic", total=0.9) if boundary == "3d" else slab("tilted-c", total=0.9)
    energies, potentials = [], []
    for splitting in (None, 0.45, 0.62):
        if method == "exact" and splitting is not None:
            continue
        out = run(Coulomb(boundary, method, 1e-13, splitting=splitting), atoms)
        energies.append(out.energy)
        potentials.append(out.potential)
    truth = run(Coulomb(boundary, "exact", 1e-13), atoms)
    np.testing.assert_allclose(energies, truth.energy, rtol=0, atol=1e-9)
    for potential in potentials:
        np.testing.assert_allclose(potential, truth.potential, rtol=0, atol=1e-9)


# ---------------------------------------------------------------- one operator for everything


OPERATORS = [
    ("3d", "exact", 1e-12),
    ("3d", "ewald", 1e-12),
    ("3d", "pme", 1e-5),
    ("slab", "exact", 1e-12),
    ("slab", "ewald", 1e-12),
    ("slab", "pme", 1e-5),
    ("slab-exact", "exact", 1e-12),
    ("finite-field", "ewald", 1e-12),
    ("displacement", "exact", 1e-12),
    ("displacement", "ewald", 1e-12),
    ("displacement", "pme", 1e-5),
    ("open", "exact", 1e-12),
]


def atoms_for(boundary: str, total: float = 0.0) -> System:
    if boundary in ("3d", "finite-field"):
        return ions_3d("triclinic", n=12, total=total)
    return slab("tilted-c", n=12, total=total)


@pytest.mark.parametrize(("boundary", "method", "accuracy"), OPERATORS)
def test_matrix_times_charges_is_the_potential_and_half_the_form_is_the_energy(
    boundary: str, method: str, accuracy: float
) -> None:
    atoms = atoms_for(boundary, 0.0 if boundary == "displacement" else 0.8)
    cell = None if boundary == "open" else atoms.cell
    coulomb = Coulomb(boundary=boundary, method=method, accuracy=accuracy)
    pairs = np.array([[0, 1], [3, 7]])
    out = coulomb(atoms.positions, atoms.charges, cell, smearing=atoms.smearing, exclusions=pairs)
    matrix = coulomb.matrix(atoms.positions, cell, smearing=atoms.smearing, exclusions=pairs)
    np.testing.assert_allclose(matrix, matrix.T, rtol=0, atol=1e-9)
    np.testing.assert_allclose(matrix @ atoms.charges, out.potential, rtol=0, atol=1e-9)
    assert out.energy == pytest.approx(0.5 * atoms.charges @ matrix @ atoms.charges, abs=1e-9)
    rows, columns = np.array([5, 0, 2]), np.array([1, 6])
    part = coulomb.matrix(
        atoms.positions, cell, smearing=atoms.smearing, exclusions=pairs, rows=rows, columns=columns
    )
    np.testing.assert_allclose(part, matrix[np.ix_(rows, columns)], rtol=0, atol=1e-10)


@pytest.mark.parametrize(("boundary", "method", "accuracy"), OPERATORS)
def test_potential_at_a_point_is_that_of_an_infinitesimal_charge(
    boundary: str, method: str, accuracy: float
) -> None:
    atoms = atoms_for(boundary)
    cell = None if boundary == "open" else atoms.cell
    coulomb = Coulomb(boundary=boundary, method=method, accuracy=accuracy)
    points = np.array([[0.3, 1.0, 11.0], [2.0, 5.1, 13.2], [4.4, 0.2, 20.0]])
    got = coulomb.potential_at(points, atoms.positions, atoms.charges, cell, smearing=atoms.smearing)
    x = np.concatenate([atoms.positions, points])
    q, s = np.append(atoms.charges, np.zeros(3)), np.append(atoms.smearing, np.zeros(3))
    out = Coulomb(boundary=boundary, method=method, accuracy=accuracy)(x, q, cell, smearing=s)
    tolerance = 1e-9 if method != "pme" else 1e-3
    np.testing.assert_allclose(got, out.potential[-3:], rtol=0, atol=tolerance)


def test_potential_at_the_atoms_equals_the_potential_without_their_own_part() -> None:
    atoms = atoms_for("slab")
    coulomb = Coulomb("slab", "ewald", 1e-12)
    full = run(coulomb, atoms).potential
    wide = np.flatnonzero(atoms.smearing > 0)
    matrix = coulomb.matrix(atoms.positions, atoms.cell, smearing=atoms.smearing)
    for i in wide[:3]:
        rest = np.delete(np.arange(len(full)), i)
        seen = coulomb.potential_at(
            atoms.positions[[i]] + 1e-9,
            atoms.positions[rest],
            atoms.charges[rest],
            atoms.cell,
            smearing=atoms.smearing[rest],
        )
        # a wide charge averages the potential over its own cloud; only its point-like part is compared here
        point = atoms.smearing.copy()
        point[i] = 0.0
        as_point = coulomb.matrix(atoms.positions, atoms.cell, smearing=point)
        assert seen[0] == pytest.approx(as_point[i, rest] @ atoms.charges[rest], abs=1e-6)
    assert matrix.shape == (len(full), len(full))


@pytest.mark.parametrize("method", EXACT_METHODS)
def test_the_potential_far_from_a_neutral_slab_is_flat_and_steps_by_the_dipole(method: str) -> None:
    atoms = slab("hexagonal", height=60.0)
    coulomb = slab_operator(method)
    z = np.array([0.0, 4.0, 56.0, 60.0])
    points = np.column_stack([np.zeros(4), np.zeros(4), z]) + np.array([0.4, 0.9, 0.0])
    phi = coulomb.potential_at(points, atoms.positions, atoms.charges, atoms.cell, smearing=atoms.smearing)
    area = np.linalg.norm(np.cross(atoms.cell[0], atoms.cell[1]))
    step = 4 * math.pi * COULOMB * (atoms.charges @ atoms.positions[:, 2]) / area
    assert phi[0] == pytest.approx(phi[1], abs=1e-6)
    assert phi[3] - phi[0] == pytest.approx(step, abs=1e-6)
    assert phi[3] == pytest.approx(step / 2, abs=1e-6)


# ---------------------------------------------------------------- exclusions


@pytest.mark.parametrize(("boundary", "method", "accuracy"), OPERATORS)
def test_an_exclusion_removes_the_bare_interaction_of_the_nearest_image(
    boundary: str, method: str, accuracy: float
) -> None:
    atoms = atoms_for(boundary)
    x = atoms.positions.copy()
    if boundary not in ("open",):
        x[1] += atoms.cell[0] - atoms.cell[1]
    cell = None if boundary == "open" else atoms.cell
    pairs = np.array([[1, 0], [3, 7], [5, 6], [4, 5]])
    coulomb = Coulomb(boundary=boundary, method=method, accuracy=accuracy)
    full = coulomb(x, atoms.charges, cell, smearing=atoms.smearing)
    less = coulomb(x, atoms.charges, cell, smearing=atoms.smearing, exclusions=pairs)
    energy, potential, forces = 0.0, np.zeros(len(x)), np.zeros_like(x)
    steps = np.zeros((1, 3))
    if boundary != "open":
        depth = 2 if boundary in ("3d", "finite-field", "displacement") else 0
        steps = (
            np.array(
                [[a, b, c] for a in range(-3, 4) for b in range(-3, 4) for c in range(-depth, depth + 1)]
            )
            @ atoms.cell
        )
    for i, j in pairs:
        images = x[i] - x[j] + steps
        d = images[np.argmin((images**2).sum(1))]
        r = float(np.linalg.norm(d))
        width = 2 * (atoms.smearing[i] ** 2 + atoms.smearing[j] ** 2)
        g = 1 / math.sqrt(width) if width > 0 else math.inf
        bare = COULOMB * (math.erf(g * r) if width > 0 else 1.0) / r
        slope = -bare / r
        if width > 0:
            slope += COULOMB * 2 * g / math.sqrt(math.pi) * math.exp(-((g * r) ** 2)) / r
        qq = atoms.charges[i] * atoms.charges[j]
        energy += qq * bare
        potential[i] += atoms.charges[j] * bare
        potential[j] += atoms.charges[i] * bare
        forces[i] -= qq * slope * d / r
        forces[j] += qq * slope * d / r
    assert full.energy - less.energy == pytest.approx(energy, abs=1e-10)
    np.testing.assert_allclose(full.potential - less.potential, potential, rtol=0, atol=1e-10)
    np.testing.assert_allclose(full.forces - less.forces, forces, rtol=0, atol=1e-10)


# ---------------------------------------------------------------- displacement and field


@pytest.mark.parametrize("method", ["exact", "ewald", "pme"])
@pytest.mark.parametrize("geometry", ["orthorhombic", "rotated", "left-handed", "hexagonal"])
def test_derivative_with_respect_to_the_displacement_is_the_field(geometry: str, method: str) -> None:
    atoms = slab(geometry)
    coulomb = Coulomb("displacement", method, 1e-5 if method == "pme" else 1e-12)
    n = np.cross(atoms.cell[0], atoms.cell[1])
    n /= np.linalg.norm(n)
    v = atoms.volume
    moment = atoms.charges @ atoms.positions @ n
    d0 = 0.13

    def energy(d: float) -> float:
        return float(run(coulomb, atoms, displacement=d0 + d).energy)

    field = d0 - 4 * math.pi * COULOMB * moment / v
    # U_D = U + V/(8 pi k) (D - 4 pi k M/V)², so dU/dD = V E/(4 pi k)
    assert derivative(energy, 0.05) == pytest.approx(v * field / (4 * math.pi * COULOMB), rel=1e-9)
    plain = Coulomb("3d", method, 1e-5 if method == "pme" else 1e-12)
    inside = run(plain, atoms).energy + v / (8 * math.pi * COULOMB) * field**2
    assert energy(0.0) == pytest.approx(inside, abs=1e-9)


@pytest.mark.parametrize("geometry", ["orthorhombic", "tilted-c", "rotated"])
def test_zero_displacement_is_the_neutral_slab_without_padding(geometry: str) -> None:
    atoms = slab(geometry)
    first = run(Coulomb("displacement", "ewald", 1e-12), atoms, displacement=0.0)
    second = run(Coulomb("slab", "ewald", 1e-12, vacuum=0.0), atoms)
    assert first.energy == pytest.approx(second.energy, abs=1e-9)
    np.testing.assert_allclose(first.forces, second.forces, rtol=0, atol=1e-9)


@pytest.mark.parametrize("geometry", ["orthorhombic", "tilted-c", "rotated", "left-handed"])
def test_a_field_adds_minus_the_field_times_the_dipole(geometry: str) -> None:
    atoms = slab(geometry)
    n = np.cross(atoms.cell[0], atoms.cell[1])
    field = 0.21 * n / np.linalg.norm(n)
    for coulomb in (Coulomb("slab", "ewald", 1e-12), EXACT_SLAB, Coulomb("3d", "ewald", 1e-12)):
        off, on = run(coulomb, atoms), run(coulomb, atoms, field=field)
        assert on.energy - off.energy == pytest.approx(-field @ (atoms.charges @ atoms.positions), abs=1e-10)
        np.testing.assert_allclose(on.potential - off.potential, -atoms.positions @ field, rtol=0, atol=1e-10)
        np.testing.assert_allclose(on.forces - off.forces, np.outer(atoms.charges, field), rtol=0, atol=1e-10)


def test_the_slab_field_is_the_field_in_the_vacuum_on_both_sides() -> None:
    atoms = slab("orthorhombic", height=60.0)
    field = np.array([0.0, 0.0, 0.17])
    z = np.array([1.0, 2.0, 58.0, 59.0])
    points = np.column_stack([np.full(4, 0.4), np.full(4, 0.9), z])
    coulomb = Coulomb("slab", "ewald", 1e-12)
    phi = coulomb.potential_at(
        points, atoms.positions, atoms.charges, atoms.cell, smearing=atoms.smearing, field=field
    )
    assert phi[0] - phi[1] == pytest.approx(0.17, abs=1e-5)
    assert phi[2] - phi[3] == pytest.approx(0.17, abs=1e-5)


# ---------------------------------------------------------------- kinds of arrays


def test_numpy_in_is_numpy_out_and_torch_in_is_torch_out() -> None:
    atoms = slab("orthorhombic")
    coulomb = Coulomb("slab", "ewald", 1e-8)
    a = run(coulomb, atoms, stress=True)
    assert isinstance(a.energy, float)
    assert all(isinstance(v, np.ndarray) for v in (a.potential, a.forces, a.stress, a.self_energy))
    t = [torch.as_tensor(v) for v in (atoms.positions, atoms.charges, atoms.cell)]
    b = coulomb(*t, smearing=torch.as_tensor(atoms.smearing), stress=True)
    assert all(
        isinstance(v, torch.Tensor) for v in (b.energy, b.potential, b.forces, b.stress, b.self_energy)
    )
    assert b.energy.ndim == 0
    np.testing.assert_allclose(b.forces.numpy(), a.forces, rtol=0, atol=1e-13)
    single = coulomb(
        *(v.astype(np.float32) for v in (atoms.positions, atoms.charges, atoms.cell)),
        smearing=atoms.smearing.astype(np.float32),
    )
    assert single.forces.dtype == np.float32
    np.testing.assert_allclose(single.forces, a.forces, rtol=0, atol=1e-4)


def test_a_batch_equals_its_members() -> None:
    first, second = slab("orthorhombic", seed=2), slab("hexagonal", seed=4)
    coulomb = Coulomb("slab", "ewald", 1e-11)
    stacked = [
        np.stack([getattr(a, name) for a in (first, second)])
        for name in ("positions", "charges", "cell", "smearing")
    ]
    out = coulomb(*stacked[:3], smearing=stacked[3], stress=True)
    for b, atoms in enumerate((first, second)):
        alone = run(Coulomb("slab", "ewald", 1e-11), atoms, stress=True)
        assert out.energy[b] == pytest.approx(alone.energy, abs=1e-8)
        np.testing.assert_allclose(out.forces[b], alone.forces, rtol=0, atol=1e-8)
        np.testing.assert_allclose(out.stress[b], alone.stress, rtol=0, atol=1e-8)


def test_results_do_not_depend_on_what_was_computed_before() -> None:
    atoms, other = slab("orthorhombic"), slab("hexagonal", n=10, seed=9)
    fresh = run(Coulomb("slab", "ewald", 1e-11), atoms)
    used = Coulomb("slab", "ewald", 1e-11)
    run(used, other)
    run(used, atoms, stress=True)
    again = run(used, atoms)
    assert again.energy == pytest.approx(fresh.energy, abs=1e-9)
    np.testing.assert_allclose(again.forces, fresh.forces, rtol=0, atol=1e-9)
