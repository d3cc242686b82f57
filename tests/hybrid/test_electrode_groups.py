"""Metal slabs as electrodes: found whole, in order, through boundaries; everything else refused."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc100, fcc111, molecule

from grahame.electrostatics import Electrode
from grahame.hybrid.electrode_groups import connected_slabs, metallic, natural_boundary, rest_of

METALS = ["Au", "Pt", "Ag"]


def two_slabs(gap: float = 12.0, size: tuple[int, int, int] = (2, 2, 2)) -> Atoms:
    """The upper slab comes first; water between."""
    top = fcc111("Au", size, orthogonal=True)
    bottom = top.copy()
    thickness = float(np.ptp(top.positions[:, 2]))
    top.positions[:, 2] += thickness + gap
    water = molecule("H2O")
    water.positions += [1.0, 1.0, thickness + gap / 2]
    atoms = top + water + bottom
    atoms.cell = [*bottom.cell.lengths()[:2], 2 * thickness + gap + 14.0]
    atoms.pbc = (True, True, False)
    atoms.positions[:, 2] += 5.0
    return atoms


def test_one_slab_is_found_however_few_atoms_repeat() -> None:
    for size in ((1, 1, 3), (2, 1, 1), (3, 4, 2)):
        slab = fcc111("Pt", size, vacuum=8.0)
        found = connected_slabs(slab, METALS)
        assert [s.tolist() for s in found] == [list(range(len(slab)))]


def test_two_slabs_are_ordered_by_height_not_by_index() -> None:
    atoms = two_slabs()
    n = (len(atoms) - 3) // 2
    low, high = connected_slabs(atoms, METALS)
    assert low.tolist() == list(range(n + 3, len(atoms)))
    assert high.tolist() == list(range(n))


def test_height_is_along_the_normal_of_left_handed_and_tilted_cells() -> None:
    atoms = two_slabs()
    expected = [s.tolist() for s in connected_slabs(atoms, METALS)]
    tilted = atoms.copy()
    tilted.cell[2] += [2.0, -1.0, 0.0]
    assert [s.tolist() for s in connected_slabs(tilted, METALS)] == expected
    swapped = atoms.copy()
    swapped.cell = np.array(atoms.cell)[[1, 0, 2]]  # a x b points down
    assert [s.tolist() for s in connected_slabs(swapped, METALS)] == expected[::-1]


def test_slabs_wrapped_through_every_face_stay_whole() -> None:
    atoms = two_slabs()
    expected = [set(s.tolist()) for s in connected_slabs(atoms, METALS)]
    atoms.pbc = True
    atoms.positions += [1.3, 2.1, 0.4]
    atoms.wrap()
    assert [set(s.tolist()) for s in connected_slabs(atoms, METALS)] == expected
    # The lower slab cut by the boundary along c: its middle counts, taken into the cell.
    atoms.positions[:, 2] -= 6.0
    atoms.wrap()
    assert np.ptp(atoms.positions[sorted(expected[0]), 2]) > 20.0
    assert {frozenset(s.tolist()) for s in connected_slabs(atoms, METALS)} == {frozenset(e) for e in expected}


def test_electrodes_joined_through_the_boundary_are_one_slab() -> None:
    atoms = fcc111("Au", (2, 2, 4), orthogonal=True, vacuum=6.0)
    atoms.pbc = True
    atoms.positions[:, 2] -= atoms.positions[:, 2].mean()
    atoms.wrap()
    assert [len(s) for s in connected_slabs(atoms, METALS)] == [16]
    crystal = bulk("Au", cubic=True)
    assert [len(s) for s in connected_slabs(crystal, METALS)] == [4]


def test_adatoms_and_islands_belong_to_their_slab() -> None:
    slab = fcc111("Au", (3, 3, 2), vacuum=10.0)
    add_adsorbate(slab, "Au", 2.4, "fcc")
    add_adsorbate(slab, "Pt", 2.3, "fcc", offset=(1, 1))
    assert [len(s) for s in connected_slabs(slab, METALS)] == [len(slab)]


def test_mixed_metals_are_one_slab_and_other_elements_none() -> None:
    slab = fcc100("Au", (2, 2, 4), vacuum=8.0)
    slab.numbers[::2] = 47
    slab.numbers[3] = 78
    assert [len(s) for s in connected_slabs(slab, METALS)] == [16]
    assert connected_slabs(molecule("H2O"), METALS) == []
    assert connected_slabs(slab, []) == []


@pytest.mark.parametrize(
    ("extra", "kind"),
    [([(1.0, 1.0, 0.0)], "alone"), ([(1.0, 1.0, 0.0), (1.0, 3.6, 0.0)], "in a cluster of 2 metal atoms")],
)
def test_metal_outside_slabs_is_refused_by_name(extra: list[tuple[float, float, float]], kind: str) -> None:
    atoms = two_slabs(size=(4, 4, 2), gap=16.0)
    n = len(atoms)
    middle = float(atoms.positions[:, 2].mean())
    atoms += Atoms("Au" * len(extra), positions=np.array(extra) + np.array([0.0, 0.0, middle]))
    with pytest.raises(ValueError, match=r"cluster|alone") as caught:
        connected_slabs(atoms, METALS)
    assert str(caught.value) == (
        f"atoms[{n}] = Au {kind} must be bonded to a metal slab that repeats along two cell vectors: its charge does not "
        "follow from the structure; name the electrodes, electrodes=[Electrode(indices, ...), ...]"
    )


def test_a_wire_is_no_slab() -> None:
    wire = Atoms("Au", cell=[2.8, 15.0, 15.0], pbc=True)
    with pytest.raises(
        ValueError, match="must be bonded to a metal slab that repeats along two cell vectors"
    ):
        connected_slabs(wire, METALS)


def test_ions_are_no_metals() -> None:
    assert metallic(["H", "O", "Na", "Cl", "Au", "Ge"], [1.0, -2.0, 1.0, -1.0, 0.0, 0.0]) == ["Au"]


def test_periodic_directions_choose_the_boundary() -> None:
    v = np.array
    assert natural_boundary((True, True, False), v([0.0, 1.0])) == "slab"
    assert natural_boundary((False, False, False), v([])) == "open"
    assert natural_boundary((True, True, True), v([])) == "3d"
    assert natural_boundary((True, True, True), v([0.0, 0.0])) == "3d"
    assert natural_boundary((True, True, True), v([0.0, 1.0])) == "finite-field"
    assert natural_boundary((True, True, True), v([0.0, np.nan])) == "3d"
    with pytest.raises(ValueError, match="pbc") as caught:
        natural_boundary((True, False, True), v([]))
    assert str(caught.value) == (
        "pbc = (True, False, True) must be (True, True, False) for a slab, (True, True, True) or (False, False, False): "
        "reorder the cell so that its third vector leaves the surface"
    )


def test_the_rest_carries_what_electrodes_leave() -> None:
    groups = rest_of(5, [Electrode([1, 2], charge=0.25)], 1.0)
    assert groups[1].indices.tolist() == [0, 3, 4]
    assert groups[1].charge == 0.75
    assert len(rest_of(2, [Electrode([0, 1], charge=0.0)], 0.0)) == 1
    for electrode, total, given in (
        (Electrode([0], potential=0.0), 0.0, "held at a potential"),
        (Electrode([0], charge=0.0), None, "without a total charge"),
    ):
        with pytest.raises(ValueError, match="electrodes") as caught:
            rest_of(3, [electrode], total)
        assert str(caught.value) == (
            f"electrodes = {given} must hold charges, and the cell a total charge, with a model whose charges are all "
            "solved: only then is the charge of the other atoms known"
        )
