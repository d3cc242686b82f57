"""Atoms on the wrong side of the boundary: put right where one answer exists, refused by name elsewhere."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111, molecule
from numpy.typing import NDArray

from grahame.hybrid.unwrap import image_shifts

Ints = NDArray[np.int64]


def cell(tilt: float = 0.0, handed: float = 1.0) -> tuple[Atoms, list[Ints]]:
    """Two Au(111) electrodes of two layers, two waters and an ion between them, 10 Å of vacuum below."""
    bottom = fcc111("Au", (3, 3, 2), a=4.08)
    top = bottom.copy()
    top.positions[:, 2] += 18.0
    liquid = Atoms()
    for x, z in ((2.0, 6.0), (5.0, 12.0)):
        water = molecule("H2O")
        water.translate([x, 3.0, z])
        liquid += water
    liquid += Atoms("Na", positions=[(4.0, 3.0, 9.0)])
    atoms = bottom + top + liquid
    atoms.positions[:, 2] += 5.0 - atoms.positions[:, 2].min()
    atoms.cell = np.vstack([bottom.cell[:2], [tilt, 0.3 * tilt, 30.4]])
    if handed < 0:
        atoms.positions[:, 2] *= -1.0
        atoms.cell[2, 2] *= -1.0
    atoms.pbc = True
    return atoms, [np.arange(18), np.arange(18, 36)]


@pytest.mark.parametrize("handed", [1.0, -1.0], ids=["right-handed", "left-handed"])
@pytest.mark.parametrize("tilt", [0.0, 3.0], ids=["straight", "tilted"])
def test_cut_and_displaced_atoms_return_to_their_side(tilt: float, handed: float) -> None:
    atoms, electrodes = cell(tilt, handed)
    moved = {
        "one layer of the bottom electrode": electrodes[0][:9],
        "a hydrogen": np.array([37]),
        "a whole molecule": np.array([39, 40, 41]),
        "an ion": np.array([42]),
        "a layer, a hydrogen and an ion": np.r_[electrodes[0][:9], 37, 42],
    }
    for what, indices in moved.items():
        for step in (-1, 1):
            wrong = atoms.positions.copy()
            wrong[indices] += step * atoms.cell[2]
            shifts = image_shifts(wrong, atoms.numbers, np.array(atoms.cell), electrodes)
            assert (np.flatnonzero(shifts) == indices).all(), what
            assert (shifts[indices] == -step).all(), what


def test_a_good_structure_is_left_alone() -> None:
    atoms, electrodes = cell()
    for boundary in ("slab", "slab-exact", "finite-field", "displacement", "3d", "open"):
        assert not image_shifts(
            atoms.positions, atoms.numbers, np.array(atoms.cell), electrodes, boundary
        ).any()


def test_a_perfect_slab_cut_by_the_boundary_stays_two_electrodes() -> None:
    """In a finite-field cell the electrodes touch back to back through the boundary."""
    bottom = fcc111("Au", (3, 3, 2), a=4.08)
    spacing = 4.08 / np.sqrt(3)
    top = bottom.copy()
    top.positions[:, 2] += 20.0
    atoms = bottom + top
    atoms.cell = np.vstack([bottom.cell[:2], [0, 0, 20.0 + 2 * spacing]])
    electrodes = [np.arange(18), np.arange(18, 36)]
    shifts = image_shifts(atoms.positions, atoms.numbers, np.array(atoms.cell), electrodes, "finite-field")
    assert not shifts.any()


def test_a_molecule_at_a_film_follows_its_surroundings() -> None:
    film = Atoms()
    for z in (0.3, 3.3, 6.3):
        water = molecule("H2O")
        water.translate([2.0, 2.0, z])
        film += water
    film.cell = [6.0, 6.0, 40.0]
    wrapped = film.copy()
    wrapped.wrap(pbc=True)
    cut = np.flatnonzero(np.abs(wrapped.positions[:, 2] - film.positions[:, 2]) > 1.0)
    assert len(cut) == 2  # the hydrogens of the lowest molecule
    shifts = image_shifts(wrapped.positions, wrapped.numbers, np.array(film.cell))
    assert (np.flatnonzero(shifts) == cut).all()
    assert (shifts[cut] == -1).all()


def test_electrolyte_through_the_boundary_is_refused_by_name() -> None:
    liquid = Atoms()
    for z in (0.2, 3.0, 6.0, 9.0):
        water = molecule("H2O")
        water.translate([2.0, 2.0, z])
        liquid += water
    liquid.cell = [6.0, 6.0, 12.0]
    liquid.wrap(pbc=True)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        image_shifts(liquid.positions, liquid.numbers, np.array(liquid.cell))
    assert str(caught.value) == (
        "atom 0 (O) = on the cell boundary along the surface normal must belong to one side: its molecule is cut and both "
        "sides have matter close by; translate the atoms along c so that the boundary lies in vacuum, then wrap"
    )


def test_uncut_electrolyte_in_contact_through_the_boundary_is_refused_when_periodic() -> None:
    liquid = Atoms("Na4", positions=[(0, 0, z) for z in (1.0, 4.0, 7.0, 10.0)], cell=[6, 6, 12])
    box = np.array(liquid.cell)
    assert not image_shifts(liquid.positions, liquid.numbers, box).any()
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        image_shifts(liquid.positions, liquid.numbers, box, wrapped=True)
    assert str(caught.value) == (
        "atom 0 (Na) = on the cell boundary along the surface normal must belong to one side: it touches atom 3 (Na) "
        "through the boundary; translate the atoms along c so that the boundary lies in vacuum, then wrap"
    )


def test_half_an_electrode_on_either_side_is_refused_by_name() -> None:
    atoms, electrodes = cell()
    wrong = atoms.positions.copy()
    wrong[:9] += atoms.cell[2]
    with pytest.raises(
        ValueError, match=r"^atom 0 \(Au\) = on the cell boundary .* its electrode is cut in halves"
    ):
        image_shifts(wrong[:18], atoms.numbers[:18], np.array(atoms.cell), electrodes[:1])


def test_metal_without_end_along_the_normal_is_refused_by_name() -> None:
    slab = fcc111("Au", (2, 2, 3), a=4.08)
    slab.cell[2, 2] = 3 * 4.08 / np.sqrt(3)
    arguments = slab.positions, slab.numbers, np.array(slab.cell), [np.arange(12)], "slab"
    with pytest.raises(ValueError, match=r"^atom \d+ \(Au\) = .* continues through the boundary without end"):
        image_shifts(*arguments, wrapped=True)
    assert not image_shifts(*arguments, wrapped=False).any()


@pytest.mark.parametrize("electrodes", ["one", "two", "none"])
def test_two_slabs_that_a_short_cell_brings_together_stay_where_c_does_not_repeat(electrodes: str) -> None:
    bottom = fcc111("Au", (3, 3, 2), a=4.08)
    top = fcc111("Au", (3, 3, 3), a=4.08)
    top.positions[:, 2] += 12.0
    both = bottom + top
    both.cell = np.vstack([bottom.cell[:2], [0.0, 0.0, np.ptp(both.positions[:, 2]) + 1.0]])
    slabs = [np.arange(18), np.arange(18, 45)]
    groups = {"one": [np.arange(45)], "two": slabs, "none": []}[electrodes]
    assert not image_shifts(both.positions, both.numbers, np.array(both.cell), groups).any()


def test_at_constant_displacement_a_molecule_stays_in_the_image_it_is_mostly_in() -> None:
    water = molecule("H2O")
    water.cell = [8.0, 8.0, 10.0]
    water.positions[:, 2] += 0.1
    water.wrap(pbc=True)
    shifts = image_shifts(water.positions, water.numbers, np.array(water.cell), boundary="displacement")
    whole = water.positions + shifts[:, None] * water.cell[2]
    assert np.ptp(whole[:, 2]) < 1.0
    assert np.count_nonzero(shifts) == 1
