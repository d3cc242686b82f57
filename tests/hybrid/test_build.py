"""Cells are what was asked for: amounts, distances, geometry, reproducibility; refusals are one sentence."""

from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.units import _Nav as AVOGADRO
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from grahame.hybrid.build import LATTICE_CONSTANTS, build_cell

SURFACES = [f"{element}({facet})" for element in LATTICE_CONSTANTS for facet in ("111", "100")]


def distances(atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of atoms of different molecules: index pairs (p,2) and nearest-image distances (p,)."""
    i, j = np.triu_indices(len(atoms), 1)
    molecule = atoms.arrays["molecule"]
    keep = (molecule[i] != molecule[j]) | (molecule[i] < 0)
    i, j = i[keep], j[keep]
    v = atoms.positions[j] - atoms.positions[i]
    lengths = atoms.cell.lengths()
    v -= np.round(v / lengths) * lengths * atoms.pbc
    return np.column_stack([i, j]), np.linalg.norm(v, axis=1)


def test_the_documented_default_has_about_1500_atoms() -> None:
    atoms = build_cell()
    assert atoms.get_chemical_formula() == "H740Au384Cl7Na7O370"
    assert atoms.info["build"]["water_density"] == pytest.approx(0.997, rel=0.01)
    assert tuple(atoms.pbc) == (True, True, False)


@settings(max_examples=60, deadline=None)
@given(
    surface=st.sampled_from(SURFACES),
    nx=st.integers(3, 6),
    ny=st.sampled_from([4, 6]),
    layers=st.integers(1, 3),
    gap=st.floats(8.0, 26.0),
    density=st.floats(0.3, 1.1),
    concentration=st.sampled_from([0.0, 2.0]),
    film=st.booleans(),
    periodic=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_every_cell_keeps_amounts_distances_and_order(
    surface: str, nx: int, ny: int, layers: int, gap: float, density: float, concentration: float, film: bool,
    periodic: bool, seed: int,
) -> None:  # fmt: skip
    try:
        atoms = build_cell(
            surface, (nx, ny, layers), gap, density, concentration, film=film, periodic=periodic, seed=seed
        )
    except ValueError as error:
        # A concentration that is less than half an ion pair in this volume is refused, not rounded away.
        if "must give at least one ion pair" not in str(error):
            raise
        reject()
    made = atoms.info["build"]
    electrode, symbols = atoms.arrays["electrode"], np.array(atoms.get_chemical_symbols())
    metal = nx * ny * layers

    # Amounts: the nearest whole number of molecules and ion pairs, and so a neutral cell.
    n_water = (symbols == "O").sum()
    volume = made["liquid_volume"]
    assert abs(n_water - density * volume * AVOGADRO * 1e-24 / 18.01528) <= 0.5
    assert made["water_density"] == pytest.approx(n_water * 18.01528 / AVOGADRO / volume * 1e24, rel=1e-12)
    assert abs((symbols == "Na").sum() - concentration * volume * AVOGADRO * 1e-27) <= 0.5
    assert (symbols == "Na").sum() == (symbols == "Cl").sum() == made["ion_pairs"]
    radius = LATTICE_CONSTANTS[surface[:2]] / np.sqrt(8.0)
    area = atoms.cell[0, 0] * atoms.cell[1, 1]
    assert volume == pytest.approx(area * (gap - radius * (1 if film else 2)), rel=1e-12)

    # Order: bottom, top, O H H, cations, anions.
    assert (electrode[:metal] == 0).all()
    assert (electrode == 1).sum() == (0 if film else metal)
    liquid = symbols[electrode == -1]
    assert "".join(liquid[: 3 * n_water]) == "OHH" * n_water
    assert list(liquid[3 * n_water :]) == ["Na"] * made["ion_pairs"] + ["Cl"] * made["ion_pairs"]
    assert (np.bincount(atoms.arrays["molecule"][electrode == -1])[:n_water] == 3).all()

    # Geometry: rigid water, the gap as asked, everything inside the cell.
    first = 2 * metal if not film else metal
    water = atoms.positions[first : first + 3 * n_water].reshape(-1, 3, 3)
    np.testing.assert_allclose(np.linalg.norm(water[:, 1:] - water[:, :1], axis=2), 1.0, atol=1e-12)
    z = atoms.positions[:, 2]
    if not film:
        assert z[electrode == 1].min() - z[electrode == 0].max() == pytest.approx(gap, abs=1e-9)
    assert z.min() > 0.0
    assert z.max() < atoms.cell[2, 2]

    # Distances: metal neighbours exact, nothing else too near.
    pairs, r = distances(atoms)
    kinds = np.sort(symbols[pairs], axis=1)
    both_metal = (electrode[pairs] >= 0).all(axis=1)
    assert r[both_metal].min() == pytest.approx(2 * radius, rel=1e-9)
    assert r[~both_metal].min() > 1.6
    hydrogen = (kinds == "H").any(axis=1)
    assert r[~both_metal & ~hydrogen].min() > 2.29


def test_equal_seeds_give_equal_cells_and_others_do_not() -> None:
    kwargs: dict[str, Any] = {"size": (4, 4, 2), "gap": 14.0, "concentration": 2.0}
    first, again, other = (build_cell(seed=s, **kwargs) for s in (3, 3, 4))
    np.testing.assert_array_equal(first.positions, again.positions)
    assert not np.array_equal(first.positions, other.positions)


def test_two_electrodes_of_a_periodic_cell_join_to_a_perfect_crystal() -> None:
    atoms = build_cell("Pt(100)", (3, 3, 2), gap=12.0, concentration=0.0, periodic=True)
    metal = atoms[atoms.arrays["electrode"] >= 0]
    v = metal.positions[:, None] - metal.positions[None]
    lengths = metal.cell.lengths()
    r = np.linalg.norm(v - np.round(v / lengths) * lengths, axis=2)
    neighbours = (np.abs(r - 3.924 / np.sqrt(2)) < 1e-9).sum(axis=1)
    # Two electrodes of two layers: two surface layers with 8 neighbours, two bulk layers with 12.
    assert sorted(set(neighbours)) == [8, 12]
    assert (neighbours == 12).sum() == 18
    assert tuple(atoms.pbc) == (True, True, True)


def test_vacuum_is_what_lies_below_and_above() -> None:
    atoms = build_cell(size=(4, 4, 2), gap=12.0, concentration=0.0, vacuum=7.0)
    assert atoms.positions[:, 2].min() == pytest.approx(7.0)
    assert atoms.cell[2, 2] - atoms.positions[:, 2].max() == pytest.approx(7.0)


def test_numbers_may_be_given_instead_of_densities() -> None:
    atoms = build_cell(size=(4, 4, 2), gap=14.0, waters=30, ion_pairs=2)
    assert atoms.get_chemical_formula() == "H60Au64Cl2Na2O30"
    empty = build_cell(size=(4, 4, 2), gap=14.0, waters=0, ion_pairs=0)
    assert empty.get_chemical_formula() == "Au64"


def test_a_cell_survives_a_file(tmp_path: Any) -> None:
    from ase.io import read, write

    atoms = build_cell("Au111", (4, 4, 2), gap=12.0, concentration=2.0)
    write(tmp_path / "cell.extxyz", atoms)
    back = read(tmp_path / "cell.extxyz")
    assert back.info["build"] == atoms.info["build"]
    assert back.info["build"]["surface"] == "Au(111)"
    np.testing.assert_array_equal(back.arrays["electrode"], atoms.arrays["electrode"])
    np.testing.assert_array_equal(back.arrays["molecule"], atoms.arrays["molecule"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"surface": "Fe(110)"},
            "surface = Fe(110) must be one of Ag, Al, Au, Cu, Ni, Pb, Pd, Pt with (111) or (100): write e.g. "
            "Au(111)",
        ),
        (
            {"size": (4, 3, 2)},
            "size = (4, 3, 2) must have an even second number for (111): only then is the cell rectangular",
        ),
        (
            {"size": (0, 4, 2)},
            "size = (0, 4, 2) must be three positive whole numbers: give the surface cells along x and y and "
            "the layers",
        ),
        (
            {"size": (1, 4, 2), "concentration": 0.0},
            "size = (1, 4, 2) must make a cell of at least 3.3 Å along x, not 2.88 Å: a molecule would touch its own image; "
            "use more surface cells",
        ),
        (
            {"surface": "Pt(100)", "size": (3, 1, 2), "concentration": 0.0},
            "size = (3, 1, 2) must make a cell of at least 3.3 Å along y, not 2.77 Å: a molecule would touch its own image; "
            "use more surface cells",
        ),
        ({"gap": float("nan")}, "gap = nan Å must be finite and not negative: give gap in Å"),
        (
            {"gap": 3.0},
            "gap = 3 Å must be at least 5.4 Å, which leaves room for one layer of water: widen the gap",
        ),
        (
            {"water_density": -1.0},
            "water_density = -1 g/cm³ must be finite and not negative: give water_density in g/cm³",
        ),
        (
            {"concentration": -1.0},
            "concentration = -1 mol/L must be finite and not negative: give concentration in mol/L",
        ),
        (
            {"concentration": 0.01},
            "concentration = 0.01 mol/L must give at least one ion pair in 1626 Å³, not 0.01: enlarge the "
            "cell or use 0 for none",
        ),
        (
            {"water_density": 1e-4},
            "water_density = 0.0001 g/cm³ must give at least one molecule in 1626 Å³, not 0.01: enlarge the "
            "cell or use 0 for none",
        ),
        ({"vacuum": -2.0}, "vacuum = -2 Å must be finite and not negative: give vacuum in Å"),
        (
            {"vacuum": 0.5, "periodic": True},
            "vacuum = 0.5 Å must be 0 or at least 1.177 Å in a periodic cell: the backs of the electrodes "
            "would overlap; use 0 to join them as one perfect slab",
        ),
        (
            {"vacuum": 0.0, "periodic": True, "film": True},
            "vacuum = 0 Å must be at least 1.35 Å for a periodic film: its surface would meet the next image "
            "of the metal",
        ),
        ({"seed": -1}, "seed = -1 must be a whole number, not negative: give a count"),
        ({"waters": 2.5}, "waters = 2.5 must be a whole number, not negative: give a count"),
        (
            {"contact": 1.0},
            "contact = 1 Å must be at least 1.442 Å, the radius of Au: 2.7 Å is the first layer of water",
        ),
        (
            {"ions": ("K", "Cl")},
            "ions = K, Cl must be Na, Cl: the built-in force field knows these two; for others build without "
            "ions and place them yourself",
        ),
        (
            {"water_density": 1.9},
            "water_density = 1.894 g/cm³ with 1 ion pairs must leave the molecules their smallest distances: "
            "103 molecules do not fit between z = 10.1 and 21.7 Å; widen the gap, or lower the density or "
            "the concentration",
        ),
        (
            {"water_density": 997.0},
            "water_density = 997.006 g/cm³ (54206 molecules in 1626 Å³) must be at most 2 g/cm³, as no liquid water "
            "is denser: give g/cm³, or fewer molecules",
        ),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_sentence(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared
        build_cell(**{"size": (4, 4, 2), "gap": 17.0, "concentration": 1.0, **arguments})
    assert str(error.value) == message


def test_metal_alone_may_be_one_surface_cell_wide() -> None:
    atoms = build_cell("Pt(100)", (1, 1, 3), gap=12.0, water_density=0.0, concentration=0.0)
    assert atoms.get_chemical_formula() == "Pt6"
