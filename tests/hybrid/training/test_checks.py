"""Bad frames are found before the first epoch, each named by file and index."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write

from grahame.electrostatics import Electrode
from grahame.hybrid.frames import Conditions, Frame
from grahame.hybrid.model import ChargeSpec
from grahame.hybrid.reading import Reading, make_frame
from grahame.hybrid.training.building import provenance
from grahame.hybrid.training.checks import check_frames
from grahame.hybrid.training.config import parse_training
from grahame.hybrid.training.dataset import Splits
from grahame.hybrid.training.duplicates import twins
from grahame.hybrid.training.run import checked_frames
from grahame.hybrid.training.sources import ChecksConfig
from tests.hybrid.training.tiny import frames, settings, write_data
from tests.shared_data import SHARED


def problems(folder: Path, spoil: Callable[[list[Atoms]], None], **checks: object) -> list[tuple[int, str]]:
    """What is said of training frames after something was done to them."""
    some = frames(20, 1)
    spoil(some)
    write(folder / "train.xyz", some)
    write(folder / "valid.xyz", frames(4, 2))
    config = settings(folder, data={"drop_bad": True, "checks": checks})
    return [(p.index, p.text) for p in checked_frames(parse_training(config, folder)).problems]


def test_good_frames_pass(tmp_path: Path) -> None:
    assert problems(tmp_path, lambda some: None) == []


def test_an_absurd_energy_is_found(tmp_path: Path) -> None:
    def spoil(some: list[Atoms]) -> None:
        some[7].info["REF_energy"] += 3.0

    ((index, text),) = problems(tmp_path, spoil)
    assert index == 7
    assert text.startswith("energy = +")
    assert text.endswith(": leave the frame out or raise data.checks.energy_outliers")


def test_charged_frames_have_their_own_energies() -> None:
    some = frames(40, 1)
    for k, atoms in enumerate(some):
        if k % 5 == 0:
            atoms.info |= {"total_charge": 1.0, "REF_energy": atoms.info["REF_energy"] + 9.0}
    some[7].info["REF_energy"] += 3.0
    read = [make_frame(a, Reading({"energy": "REF_energy"}), "a", k) for k, a in enumerate(some)]
    found = check_frames(Splits(read), ChecksConfig(), ChargeSpec(kind="none"), 3.0)
    assert [p.index for p in found] == [7]


def test_forces_that_do_not_cancel_are_found(tmp_path: Path) -> None:
    def spoil(some: list[Atoms]) -> None:
        some[3].arrays["REF_forces"][0, 1] += 9.0

    assert problems(tmp_path, spoil) == [
        (
            3,
            "forces = 9 eV/Å in sum of 3 atoms must not exceed 5 sqrt(n) times the noise of 0.1 eV/Å: leave the frame "
            "out or state the noise in data.checks.force_noise",
        )
    ]
    assert problems(tmp_path, spoil, force_noise=2.0) == []


def test_a_huge_force_is_found(tmp_path: Path) -> None:
    def spoil(some: list[Atoms]) -> None:
        some[4].arrays["REF_forces"][1, 0] += 500.0
        some[4].arrays["REF_forces"][2, 0] -= 500.0

    ((index, text),) = problems(tmp_path, spoil, energy_outliers=None)
    assert index == 4
    assert text.endswith("must not exceed 100 eV/Å: leave the frame out or raise data.checks.largest_force")


def test_wrong_charges_are_found(tmp_path: Path) -> None:
    def spoil(some: list[Atoms]) -> None:
        some[1].info["total_charge"] = 0.5
        some[2].arrays["REF_charges"][0] += 0.7

    formal = "formal charges = 0 e in sum must equal total_charge = 0.5 e: set model.charges.formal, give formal_charges per atom, or use charges of kind projected or solved"  # fmt: skip
    assert problems(tmp_path, spoil) == [
        (1, "total_charge = 0.5 e must be a whole number: correct it, a cell has whole electrons"),
        (1, formal),
        (1, "charges = 0 e in sum must be within 0.1 e of total_charge = 0.5 e: correct one of the two or raise data.checks.charge_sum"),
        (2, "charges = 0.7 e in sum must be within 0.1 e of total_charge = 0 e: correct one of the two or raise data.checks.charge_sum"),
    ]  # fmt: skip


def test_a_geometry_in_both_splits_is_found(tmp_path: Path) -> None:
    def spoil(some: list[Atoms]) -> None:
        some[5] = frames(4, 2)[2]

    assert problems(tmp_path, spoil) == [
        (5, "geometry = that of valid.xyz, frame 2 must not be in training and validation: split by geometry")
    ]


def moved(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """The same geometry with another origin, other images and another order."""
    out = atoms[rng.permutation(len(atoms))]
    shift = rng.uniform(-5.0, 5.0, 3)
    out.positions += shift
    steps = rng.integers(-2, 3, (len(out), 3)) * np.array(out.pbc)
    out.positions += steps @ np.array(out.cell)
    return out


@pytest.mark.parametrize("pbc", [(False,) * 3, (True, True, False), (True,) * 3])
def test_a_geometry_is_found_wherever_it_lies(pbc: tuple[bool, bool, bool]) -> None:
    rng = np.random.default_rng(3)
    atoms = frames(3, 1)[2]
    atoms.cell, atoms.pbc = [[12.0, 0.0, 0.0], [2.0, 11.0, 0.0], [-1.0, 0.5, 9.0]], pbc
    near = atoms.copy()
    near.positions[4] += [0.0, 0.002, 0.0]
    far = atoms.copy()
    far.positions[6:] += [0.0, 0.0, 1.5]
    first = [make_frame(a, Reading({}), "a", k) for k, a in enumerate((atoms, near, far))]
    second = [make_frame(moved(a, rng), Reading({}), "b", k) for k, a in enumerate((far, atoms))]
    assert [(f.index, g.index) for f, g in twins(first, second)] == [(0, 1), (2, 0)]


def test_displaced_atoms_of_a_crystal_are_other_geometries() -> None:
    """A lattice has no long waves: what single displacements leave of them is all there is to tell frames apart."""
    crystal = bulk("Cu", cubic=True) * (2, 2, 2)
    crystal.info["total_charge"] = 0.0
    some = [crystal.copy() for _ in range(3)]
    for k, step in enumerate(([0.01, 0.0, 0.0], [0.02, 0.0, 0.0], [0.01, 0.01, 0.0])):
        some[k].positions[3] += step
    made = [make_frame(a, Reading({}), "a", k) for k, a in enumerate(some)]
    assert twins(made[:1], made[1:]) == []
    again = make_frame(moved(some[0], np.random.default_rng(1)), Reading({}), "b", 7)
    assert [(f.index, g.index) for f, g in twins(made, [again])] == [(0, 7)]


def test_coincident_atoms_are_found(tmp_path: Path) -> None:
    def spoil(some: list[Atoms]) -> None:
        some[0].positions[2] = some[0].positions[1] + [0.0, 0.0, 0.1]

    assert problems(tmp_path, spoil) == [
        (0, "distance = 0.1 Å of atoms 1 and 2 must be at least 0.3 Å: leave the frame out")
    ]


def test_all_bad_frames_come_in_one_error(tmp_path: Path) -> None:
    some = frames(20, 1)
    some[3].arrays["REF_forces"][0, 1] = np.nan
    del some[8].info["REF_energy"]
    write(tmp_path / "train.xyz", some)
    write(tmp_path / "valid.xyz", frames(4, 2))
    with pytest.raises(ValueError, match="bad ones") as error:
        checked_frames(parse_training(settings(tmp_path), tmp_path))
    assert str(error.value) == (
        "frames = 2 bad ones must be corrected or left out:\n"
        "train.xyz, frame 3: forces = REF_forces must be finite: it holds NaN or infinity (eV/Å)\n"
        "train.xyz, frame 8: energy = nothing under the key REF_energy must be given: the keys there are total_charge\n"
        "set data.drop_bad: true to leave them out"
    )


def test_no_frame_left_is_said(tmp_path: Path) -> None:
    write_data(tmp_path)
    source = {"file": "train.xyz", "split": {"key": "total_charge", "train": "0.0"}}
    config = settings(tmp_path)
    config["data"] = {**source, "keys": {"energy": "REF_energy"}}
    config["loss"] = {"forces": 0}
    with pytest.raises(ValueError, match="valid") as error:
        checked_frames(parse_training(config, tmp_path))
    assert str(error.value) == "valid = 0 frames must be at least one: add a source or a split"


def test_frames_of_one_group_stay_together(tmp_path: Path) -> None:
    some = frames(20, 1)
    for k, atoms in enumerate(some):
        atoms.info["snapshot"] = f"s{k // 4}"
    write(tmp_path / "all.xyz", some)
    config = settings(tmp_path)
    config["data"] = {
        "file": "all.xyz", "split": {"fraction": 0.4, "group": "snapshot"},
        "keys": {"energy": "REF_energy", "forces": "REF_forces", "charges": "REF_charges"},
    }  # fmt: skip
    splits = checked_frames(parse_training(config, tmp_path))
    groups = [{f.info["snapshot"] for f in part} for part in (splits.train, splits.valid)]
    assert (len(splits.train), len(splits.valid)) == (12, 8)
    assert not groups[0] & groups[1]


KEYS = {"energy": "REF_energy", "forces": "REF_forces", "charges": "REF_charges"}


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder, seed in (("a", 1), ("b", 2)):
        some = frames(10, seed)
        if folder == "a":
            some[3].info["REF_energy"] = np.nan
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "f.xyz", some)
    config = settings(tmp_path)
    sources = [{"file": f, "split": {"fraction": 0.2}, "keys": KEYS} for f in ("a/f.xyz", "b/f.xyz")]
    config["data"] = {"sources": sources, "drop_bad": True, "checks": {"energy_outliers": None}}
    parsed = parse_training(config, tmp_path)
    splits = checked_frames(parsed)
    assert [(p.source, p.index) for p in splits.problems] == [("a/f.xyz", 3)]
    kept = {(f.source, f.index) for f in splits.frames}
    assert kept == {(f"{d}/f.xyz", k) for d in "ab" for k in range(10)} - {("a/f.xyz", 3)}
    files = provenance(parsed, splits.frames)["training_files"]
    assert {name: v["frames"] for name, v in files.items()} == {"f.xyz": 9, "f.xyz (2)": 10}


def test_a_file_that_is_read_twice_is_told_apart(tmp_path: Path) -> None:
    some = frames(10, 1)
    for atoms in some:
        atoms.info["other"] = atoms.info["REF_energy"] + 1.0
    some[2].info["other"] = np.nan
    write(tmp_path / "f.xyz", some)
    config = settings(tmp_path, model={"charges": {"kind": "none"}}, loss={"charges": 0})
    config["data"] = {
        "sources": [
            {"file": "f.xyz", "split": {"fraction": 0.3}, "keys": {"energy": k}, "level": k}
            for k in ("REF_energy", "other")
        ],
        "drop_bad": True,
        "checks": {"energy_outliers": None},
    }
    config["loss"] = {"forces": 0}
    splits = checked_frames(parse_training(config, tmp_path))
    assert [(p.source, p.index) for p in splits.problems] == [("f.xyz (sources[1])", 2)]
    sides = [{(f.level, f.index) for f in part} for part in (splits.train, splits.valid)]
    assert [len(s) for s in sides] == [13, 6]
    assert not {k for _, k in sides[0]} & {k for _, k in sides[1]}


@pytest.mark.parametrize("order", [("few", "many"), ("many", "few")])
def test_groups_of_several_files_are_drawn_together(tmp_path: Path, order: tuple[str, str]) -> None:
    some = frames(20, 1)
    for k, atoms in enumerate(some):
        atoms.info["snapshot"] = f"s{k}"
    write(tmp_path / "many.xyz", some)
    write(tmp_path / "few.xyz", some[5:15])
    config = settings(tmp_path)
    split = {"fraction": 0.2, "group": "snapshot"}
    sources = [{"file": f"{n}.xyz", "split": split, "keys": KEYS, "level": n} for n in order]
    config["data"] = {"sources": sources, "checks": {"energy_outliers": None}}
    splits = checked_frames(parse_training(config, tmp_path))
    drawn = {n: {f.info["snapshot"] for f in splits.valid if f.level == n} for n in order}
    assert (len(drawn["few"]), len(drawn["many"])) == (2, 4)
    assert drawn["few"] <= drawn["many"]
    assert len(splits.frames) == 30
    assert not drawn["many"] & {f.info["snapshot"] for f in splits.train}


def test_an_electrode_that_no_frame_has_is_refused(tmp_path: Path) -> None:
    write_data(tmp_path)
    config = settings(tmp_path)
    config["data"] |= {"electrode_elements": ["Au"]}
    with pytest.raises(ValueError, match="electrode") as error:
        checked_frames(parse_training(config, tmp_path))
    assert str(error.value).splitlines() == [
        f"data.sources[{k}].electrode_elements = Au must occur in its frames, of H, O: correct the symbols"
        for k in range(2)
    ]


@pytest.mark.skipif(
    SHARED is None or not (SHARED / "data/nacl_aq").is_dir(), reason="the NaCl(aq) frames are absent"
)
def test_the_known_outliers_of_a_real_set_are_found_and_no_others() -> None:
    assert SHARED is not None
    config = settings(Path("."))
    config["data"] = {
        "file": str(SHARED / "data/nacl_aq/revPBE0-D3_partial.xyz"), "split": {"key": "split"},
        "keys": {"energy": "REF_energy", "forces": "REF_forces"}, "drop_bad": True,
    }  # fmt: skip
    config["loss"] = {}
    config["model"]["architecture"]["cutoff"] = 2.0
    splits = checked_frames(parse_training(config))
    assert sorted(p.index for p in splits.problems) == [753, 796, 844]
    assert (len(splits.train), len(splits.valid)) == (758, 94)
    assert not check_frames(splits, ChecksConfig(energy_outliers=None), ChargeSpec(), 2.0)


@pytest.mark.parametrize(
    ("charges", "conditions", "labels", "start"),
    [
        ({"kind": "projected"}, {"field": (0.0, 0.0, 0.1)}, {}, "field = (0.0, 0.0, 0.1) V/Å must be left out with boundary 3d"),
        (
            {"kind": "transfer"},
            {"field": (0.0, 0.0, 0.1), "electrodes": (Electrode([0], charge=0.0),)},
            {},
            "field = (0.0, 0.0, 0.1) V/Å must be left out with boundary 3d",
        ),
        (
            {"kind": "solved"},
            {"boundary": "displacement", "displacement": 0.1},
            {},
            "boundary = displacement must come with charges made of transfers or held per fragment",
        ),
        (
            {"kind": "transfer", "boundary_transfer": True},
            {"electrodes": (Electrode([0], charge=0.0),)},
            {},
            "electrodes = all held at charges must leave one at a potential with boundary_transfer",
        ),
        (
            {"kind": "projected"},
            {},
            {"born": np.zeros((2, 3, 3))},
            "born = given must be left out with charges of kind projected that all atoms of a periodic cell share",
        ),
        (
            {"kind": "solved"},
            {},
            {"dipole": np.array([0.0, 0.0, 0.1])},
            "dipole = [0.0, 0.0, 0.1] e Å must be nan along directions that repeat with charges of kind solved that all",
        ),
        (
            {"kind": "projected"},
            {"boundary": "slab"},
            {"dipole": np.array([0.2, np.nan, 0.1])},
            "dipole = [0.2, nan, 0.1] e Å must be nan along directions that repeat with charges of kind projected that all",
        ),
        (
            {"kind": "solved"},
            {},
            {"field_response": np.zeros((2, 3))},
            "field_response = given must be left out with boundary 3d and charges of kind solved that all atoms of a periodic "
            "cell share: it depends on where the cell is cut; use transfer",
        ),
        (
            {"kind": "projected"},
            {},
            {"field_response": np.zeros((2, 3))},
            "field_response = given must be left out with boundary 3d and charges of kind projected that all atoms of a "
            "periodic cell share: it depends on where the cell is cut; use transfer",
        ),
        (
            {"kind": "transfer"},
            {"electrodes": (Electrode([0, 1], charge=0.0),)},
            {"field_response": np.zeros((2, 3))},
            "field_response = given must be left out with boundary 3d beside electrodes: it depends on which image of a metal "
            "atom the file holds; use boundary slab",
        ),
        (
            {"kind": "transfer"},
            {"boundary": "slab", "electrodes": (Electrode([0, 1], charge=0.0),)},
            {"born": np.zeros((2, 3, 3))},
            "born = given must be left out beside electrodes in a periodic cell: it depends on which image of a metal atom the "
            "file holds; give field_response, along the normal",
        ),
        (
            {"kind": "transfer"},
            {"boundary": "slab", "electrodes": (Electrode([0, 1], charge=0.0),)},
            {"dipole": np.array([0.0, 0.0, 0.1])},
            "dipole = [0.0, 0.0, 0.1] e Å must be nan along directions that repeat beside electrodes: it depends on which image "
            "of a metal atom the file holds; set those components to nan",
        ),
        (
            {"kind": "solved", "in_energy": True},
            {},
            {"dipole": np.full(3, np.nan), "born": np.zeros((2, 3, 3)), "field_response": np.zeros((2, 3))},
            "dipole, born, field_response = given must be left out with model.charges.in_energy: those of such a model are of "
            "its charges alone, without what their energy adds; leave them out, or train without in_energy",
        ),
    ],
)  # fmt: skip
def test_what_the_charges_have_no_answer_for_is_found(
    charges: dict[str, Any], conditions: dict[str, Any], labels: dict[str, Any], start: str
) -> None:
    places = np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    known = {"energy": np.array(0.0)} | labels
    frame = Frame(
        np.array([79, 79]),
        places,
        6.0 * np.eye(3),
        (True,) * 3,
        conditions=Conditions(**conditions),
        labels=known,
    )
    splits, free = Splits(train=[frame]), replace(frame, labels=known, conditions=Conditions())
    (problem,) = check_frames(splits, ChecksConfig(), ChargeSpec(**charges), 3.0)
    assert problem.text.startswith(start)
    if not labels:
        assert not check_frames(Splits(train=[free]), ChecksConfig(), ChargeSpec(**charges), 3.0)


def test_the_normal_component_of_a_slabs_dipole_is_a_label_for_all_charges() -> None:
    labels = {"energy": np.array(0.0), "dipole": np.array([np.nan, np.nan, 0.1])}
    places = np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    conditions = Conditions(boundary="slab")
    frame = Frame(
        np.array([79, 79]), places, 6.0 * np.eye(3), (True,) * 3, conditions=conditions, labels=labels
    )
    assert not check_frames(Splits(train=[frame]), ChecksConfig(), ChargeSpec(kind="projected"), 3.0)
    metal = replace(conditions, electrodes=(Electrode([0, 1], charge=0.0),))
    beside = replace(frame, conditions=metal, labels=labels | {"field_response": np.zeros((2, 3))})
    assert not check_frames(Splits(train=[beside]), ChecksConfig(), ChargeSpec(), 3.0)


def two_electrodes(kind: str, values: tuple[float, float]) -> tuple[Electrode, ...]:
    return tuple(Electrode([k], **{kind: v}) for k, v in enumerate(values))


BAD_CONDITIONS = {
    "held charges that do not add up": (
        {"kind": "transfer"},
        {"boundary": "slab", "electrodes": two_electrodes("charge", (-0.2, 0.3))},
        "electrode charges + electrolyte charges = 0.1 + 0 e must equal total_charge = 0 e: change a held charge or "
        "total_charge, or hold one electrode at a potential",
    ),
    "one charge that neutrality forbids": (
        {"kind": "projected"},
        {
            "boundary": "slab",
            "electrodes": (Electrode([0, 1], charge=0.5),),
            "fragments": np.array([-1, -1, 0, 0]),
            "fragment_charges": np.zeros(1),
        },
        "electrode charges + electrolyte charges = 0.5 + 0 e must equal total_charge = 0 e: change a held charge or "
        "total_charge, or hold one electrode at a potential",
    ),
    "unequal potentials in 3d": (
        {"kind": "transfer"},
        {"boundary": "3d", "electrodes": two_electrodes("potential", (0.0, 1.0))},
        'potentials = 0, 1 V must be equal with boundary = "3d": the cell repeats through the electrodes; use boundary = '
        '"finite-field" or "slab"',
    ),
    "a charged slab in a field": (
        {"kind": "solved"},
        {"boundary": "slab", "total_charge": 1.0, "field": (0.0, 0.0, 0.1)},
        "sum of charges = 1 e must be zero with a field: the energy would depend on the origin; add counter charges",
    ),
    "a charged molecule in a field": (
        {"kind": "projected"},
        {"boundary": "open", "total_charge": 1.0, "field": (0.0, 0.0, 0.1)},
        "sum of charges = 1 e must be zero with a field: the energy would depend on the origin; add counter charges",
    ),
    "an in-plane field": (
        {"kind": "transfer"},
        {"boundary": "slab", "field": (0.1, 0.0, 0.0)},
        'field = [0.1, 0.0, 0.0] V/Å must be parallel to the surface normal with boundary = "slab": a component in the periodic '
        "plane has no potential",
    ),
    "a field in finite field": (
        {"kind": "transfer"},
        {
            "boundary": "finite-field",
            "electrodes": two_electrodes("potential", (0.0, 1.0)),
            "field": (0.0, 0.0, 0.1),
        },
        'field = [0.0, 0.0, 0.1] V/Å must be left out with boundary = "finite-field": there the field follows the potentials',
    ),
    "solved charges beside potentials": (
        {"kind": "solved"},
        {"boundary": "slab", "electrodes": two_electrodes("potential", (0.0, 1.0))},
        "electrodes = held at a potential must not stand beside solved charges of the other atoms in training: hold their "
        "charge, which is what the label fixes",
    ),
    "a slab without a height": (
        {"kind": "solved"},
        {"boundary": "slab"},
        "cell volume = 0 Å³ must be greater than zero: its vectors are missing or lie in one plane; give three independent "
        "vectors",
    ),
}


@pytest.mark.parametrize("name", BAD_CONDITIONS)
def test_conditions_that_the_solver_refuses_are_found_before_training(name: str) -> None:
    charges, conditions, sentence = BAD_CONDITIONS[name]
    places = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 9.0], [0.0, 0.0, 3.0], [0.0, 0.0, 6.0]])
    held = Conditions(**conditions)  # type: ignore[arg-type]
    repeats = held.boundary != "open"
    cell = np.diag([6.0, 6.0, 0.0 if name.endswith("height") else 12.0])
    frame = Frame(
        np.array([79, 79, 10, 10]),
        places,
        cell,
        (repeats, repeats, repeats and not held.boundary.startswith("slab")),
        conditions=held,
        labels={"energy": np.array(0.0)},
    )
    formal = {"formal": {"Au": 0.0, "Ne": 0.0}} if charges["kind"] == "transfer" else {}
    (problem,) = check_frames(Splits([frame]), ChecksConfig(), ChargeSpec(**charges, **formal), 3.0)  # type: ignore[arg-type]
    assert problem.text == sentence


def test_frames_with_such_conditions_are_dropped_where_bad_ones_are(tmp_path: Path) -> None:
    some = frames(6, 1)
    for k, atoms in enumerate(some):
        atoms.cell, atoms.pbc = [30.0, 30.0, 30.0], True
        atoms.info["external_field"] = [0.1 if k == 4 else 0.0, 0.0, 0.1]
        atoms.info |= {"field_unit": "V/Å", "field_kind": "E"}
    write(tmp_path / "train.xyz", some)
    write(tmp_path / "valid.xyz", frames(4, 2))
    config = settings(tmp_path, loss={"charges": 0})
    sources = [
        {"file": "train.xyz", "boundary": "slab", "keys": KEYS},
        {"file": "valid.xyz", "use": "valid", "keys": KEYS},
    ]
    config["data"] = {"sources": sources, "drop_bad": True, "checks": {"energy_outliers": None}}
    splits = checked_frames(parse_training(config, tmp_path))
    assert [(p.source, p.index) for p in splits.problems] == [("train.xyz", 4)]
    assert [f.index for f in splits.train] == [0, 1, 2, 3, 5]
