"""Bad frames are found before the first epoch, each named by file and index."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.io import write

from grahame.electrostatics import Electrode
from grahame.hybrid.frames import Conditions, Frame
from grahame.hybrid.model import ChargeSpec
from grahame.hybrid.training.checks import check_frames
from grahame.hybrid.training.config import parse_training
from grahame.hybrid.training.dataset import Splits
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
