"""Parallel plates: the slope of 1/C, published charges of LAMMPS' analytic capacitors."""

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from grahame.electrostatics import ConstantPotential, Coulomb, Electrode
from tests.shared_data import SHARED, needs_shared

COULOMB = 14.399645351950545
Array = NDArray[np.float64]


def capacitor(
    gap: float, layers: int = 2, spacing: float = 2.9, repeat: int = 2
) -> tuple[Array, list[Array], float]:
    """Two plates of a square lattice facing each other; positions, groups and area."""
    grid = np.array([[i, j] for i in range(repeat) for j in range(repeat)], dtype=float) * spacing
    blocks = []
    for sign, origin in ((-1, 10.0), (1, 10.0 + gap)):
        for k in range(layers):
            z = origin + sign * k * spacing
            blocks.append(np.column_stack([grid + 0.5 * spacing * (k % 2), np.full(len(grid), z)]))
    n = layers * len(grid)
    return np.concatenate(blocks), [np.arange(n), np.arange(n, 2 * n)], (repeat * spacing) ** 2


@pytest.mark.parametrize("boundary", ["slab", "slab-exact", "finite-field"])
def test_inverse_capacitance_grows_with_the_gap_as_four_pi_k_over_the_area(boundary: str) -> None:
    inverse, gaps = [], [9.0, 12.0, 15.0]
    for gap in gaps:
        x, groups, area = capacitor(gap)
        cell = np.diag([math.sqrt(area), math.sqrt(area), gap + 26.0])
        method = "exact" if boundary == "slab-exact" else "ewald"
        cpm = ConstantPotential(
            [Electrode(groups[0], potential=0.0), Electrode(groups[1], potential=1.0)],
            Coulomb(boundary, method, 1e-12),
            smearing=0.5,
        )
        sol = cpm.solve(x, np.zeros(len(x)), cell)
        charge = float(sol.electrode_charges[1])
        if boundary == "finite-field":  # less the field that leaks through the thin plates
            moment = float(sol.charges @ x[:, 2])
            d = float(sol.field[2]) + 4 * math.pi * COULOMB * moment / (area * cell[2, 2])
            charge -= area * d / (4 * math.pi * COULOMB)
        assert charge > 0  # the more positive electrode carries the more positive charge
        inverse.append(1.0 / charge)
    expected = 4 * math.pi * COULOMB / area
    np.testing.assert_allclose(np.diff(inverse) / np.diff(gaps), expected, rtol=1e-6)


def test_energy_of_a_capacitor_is_half_c_v_squared() -> None:
    x, groups, area = capacitor(9.0)
    cell = np.diag([math.sqrt(area), math.sqrt(area), 36.0])
    cpm = ConstantPotential(
        [Electrode(groups[0], potential=0.0), Electrode(groups[1], potential=1.6)],
        Coulomb("slab", "ewald", 1e-12),
        smearing=0.5,
    )
    sol = cpm.solve(x, np.zeros(len(x)), cell)
    c = cpm.capacitance[1, 1]
    assert sol.electrode_charges[1] == pytest.approx(1.6 * c, abs=1e-10)
    assert sol.internal_energy == pytest.approx(0.5 * c * 1.6**2, abs=1e-10)
    assert sol.energy == pytest.approx(-0.5 * c * 1.6**2, abs=1e-10)


def test_plates_attract_with_the_pressure_of_their_field() -> None:
    x, groups, area = capacitor(12.0)
    cell = np.diag([math.sqrt(area), math.sqrt(area), 40.0])
    cpm = ConstantPotential(
        [Electrode(groups[0], potential=0.0), Electrode(groups[1], potential=2.0)],
        Coulomb("slab", "ewald", 1e-12),
        smearing=0.5,
    )
    sol = cpm.solve(x, np.zeros(len(x)), cell)
    q = float(sol.electrode_charges[1])
    force = sol.forces[groups[1]].sum(0)
    assert force[2] == pytest.approx(-2 * math.pi * COULOMB * q**2 / area, rel=1e-6)
    np.testing.assert_allclose(force[:2], 0.0, atol=1e-9)


def lammps_atoms(path: Path) -> tuple[Array, Array, Array, Array]:
    """Cell, types, charges and positions (as written, unwrapped by nothing) of an `atom_style full` file."""
    lines = path.read_text().splitlines()
    edges = []
    for line in lines:
        words = line.split()
        if len(words) == 4 and words[2].endswith("lo"):
            edges.append((float(words[0]), float(words[1])))
    start = next(i for i, line in enumerate(lines) if line.startswith("Atoms")) + 2
    rows = []
    for line in lines[start:]:
        words = line.split("#")[0].split()
        if not words:
            break
        rows.append([float(w) for w in words[:7]])
    data = np.array(rows)
    return np.diag([b - a for a, b in edges]), data[:, 2], data[:, 3], data[:, 4:7]


@needs_shared
@pytest.mark.parametrize(
    ("boundary", "published", "tolerance"),
    [("slab-exact", 0.27921413, 5e-8), ("slab", 0.27921413, 5e-8), ("finite-field", 0.28716023, 5e-7)],
)
@pytest.mark.parametrize("method", ["exact", "ewald"])
def test_four_atom_capacitor_has_its_published_charge(
    boundary: str, published: float, tolerance: float, method: str
) -> None:
    if boundary == "slab-exact" and method != "exact":
        pytest.skip("the exact slab has one method")
    assert SHARED is not None
    cell, kinds, charges, x = lammps_atoms(
        SHARED / "data" / "lammps_electrode_au_aq" / "madelung" / "data.au-elyt"
    )
    charges[kinds != 3] = 0.0
    cpm = ConstantPotential(
        [
            Electrode(np.flatnonzero(kinds == 1), potential=0.0),
            Electrode(np.flatnonzero(kinds == 2), potential=1.0),
        ],
        Coulomb(boundary, method, 1e-12),
        smearing=1 / (math.sqrt(2) * 2.0),
    )
    sol = cpm.solve(x, charges, cell)
    np.testing.assert_allclose(sol.electrode_charges, [-published, published], rtol=0, atol=tolerance)


@needs_shared
def test_four_atom_capacitor_with_unequal_widths() -> None:
    assert SHARED is not None
    cell, kinds, charges, x = lammps_atoms(
        SHARED / "data" / "lammps_electrode_au_aq" / "madelung" / "data.au-elyt"
    )
    charges[kinds != 3] = 0.0
    widths = [1 / (math.sqrt(2) * eta) for eta in (0.5, 3.0)]
    cpm = ConstantPotential(
        [
            Electrode(np.flatnonzero(kinds == 1), potential=0.0),
            Electrode(np.flatnonzero(kinds == 2), potential=1.0),
        ],
        Coulomb("slab", "ewald", 1e-10),
        smearing=widths,
    )
    sol = cpm.solve(x, charges, cell)
    # computed by LAMMPS with EW3DC in a cell eight times as high, at an accuracy of 1e-8
    assert float(sol.electrode_charges[1]) == pytest.approx(0.29521535, abs=2e-6)


@needs_shared
@pytest.mark.parametrize(("boundary", "published"), [("slab", 0.3091778), ("finite-field", 0.3090238)])
def test_planar_gold_at_two_volts(boundary: str, published: float) -> None:
    assert SHARED is not None
    cell, _, _, x = lammps_atoms(SHARED / "data" / "lammps_electrode_au_aq" / "planar" / "data.au-vac")
    middle = 0.5 * (x[:, 2].min() + x[:, 2].max())
    bottom, top = np.flatnonzero(x[:, 2] < middle), np.flatnonzero(x[:, 2] >= middle)
    cpm = ConstantPotential(
        [Electrode(bottom, potential=0.0), Electrode(top, potential=2.0)],
        Coulomb(boundary, "ewald", 1e-10),
        smearing=1 / (math.sqrt(2) * 1.979),
    )
    sol = cpm.solve(x, np.zeros(len(x)), cell)
    assert float(sol.electrode_charges[1]) == pytest.approx(published, abs=2e-7)
    assert cpm.factorizations == 1
    out = cpm.coulomb(x, sol.charges, cell, smearing=np.full(len(x), 1 / (math.sqrt(2) * 1.979)))
    inner = out.potential - (x @ sol.field if boundary == "finite-field" else 0.0)
    np.testing.assert_allclose(inner[bottom] + sol.multiplier, 0.0, rtol=0, atol=1e-8)
    np.testing.assert_allclose(inner[top] + sol.multiplier, 2.0, rtol=0, atol=1e-8)
