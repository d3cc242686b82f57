"""Models of other programs in a configuration file: what is built, what runs and restarts, what is refused."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.io import read, write

from grahame.hybrid.adapters import (
    FixedCharges,
    LabelEnsemble,
    ModelCharges,
    Switched,
    configured,
    save_heads,
)
from grahame.hybrid.adapters.charges import ChargeSource
from grahame.hybrid.adapters.configured import open_foreign
from grahame.hybrid.config import RunConfig, parse_config
from grahame.hybrid.config_short_range import ForeignConfig
from grahame.hybrid.engines.run import run
from grahame.hybrid.engines.setup import load_structure, prepare
from grahame.hybrid.frames import Conditions
from tests.hybrid.foreign_trunks import PairTrunk
from tests.hybrid.model_cells import slab
from tests.hybrid.test_adapters import heads_on

SPC = {"O": -0.82, "H": 0.41, "Na": 1.0, "Cl": -1.0}


@pytest.fixture(autouse=True)
def _another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small model in the place of one that an optional program reads."""
    monkeypatch.setattr(configured, "_trunk", lambda config, path: PairTrunk())


def block(**more: Any) -> ForeignConfig:
    return ForeignConfig.model_validate(
        {"program": "MACE", "model": "m", "trust": True, "contains_coulomb": False} | more
    )


def charges_of(folder: Path, **more: Any) -> ChargeSource:
    atoms, _ = slab()
    return open_foreign(block(**more), lambda name: folder / name, atoms, 1e-6, total_charge=0.0).charges


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    """Two electrodes at 0 and 1 V, a few steps."""
    atoms, groups = slab()
    electrode = np.full(len(atoms), -1)
    for g, members in enumerate(groups):
        electrode[members] = g
    atoms.set_array("electrode", electrode)
    write(folder / "cell.extxyz", atoms)
    (folder / "their.model").write_text("weights")
    short = {
        "program": "mace", "model": "their.model", "trust": True, "contains_coulomb": False,
        "charges": SPC, "widths": {"Au": 0.392},
    }  # fmt: skip
    return {
        "structure": {"file": "cell.extxyz"},
        "short_range": short | more,
        "coulomb": {"accuracy": 1e-3},
        "electrodes": [{"group": 0, "potential": 0.0}, {"group": 1, "potential": 1.0}],
        "dynamics": {"produce": {"ensemble": "langevin", "steps": 6, "timestep_fs": 0.2}},
        "output": {
            "folder": str(folder),
            "trajectory_interval": 2,
            "log_interval": 2,
            "checkpoint_interval": 3,
        },
    }


def configuration(folder: Path, **more: Any) -> RunConfig:
    return parse_config(settings(folder, **more), folder)


def test_charges_come_from_where_the_block_says(tmp_path: Path) -> None:
    numbers = np.array([8, 1, 1])
    formal, own, given = (charges_of(tmp_path, charges=c) for c in ("formal", "model", {"O": -0.8, "H": 0.4}))
    assert isinstance(formal, FixedCharges)
    assert formal.of(numbers).tolist() == [-2.0, 1.0, 1.0]
    assert isinstance(own, ModelCharges)
    assert isinstance(given, FixedCharges)
    assert given.of(numbers).tolist() == [-0.8, 0.4, 0.4]
    assert not charges_of(tmp_path).charged
    assert charges_of(tmp_path, charges="formal", widths={"O": 0.3}).widths(numbers).tolist() == [
        0.3,
        0.5,
        0.5,
    ]


def test_heads_come_from_their_file(tmp_path: Path) -> None:
    heads = heads_on(PairTrunk(), kind="transfer")
    save_heads(heads, tmp_path / "heads.safetensors")
    found = charges_of(tmp_path, heads="heads.safetensors")
    assert found.describe() == heads.describe()


def test_what_the_model_holds_already_is_taken_out_as_the_block_says(tmp_path: Path) -> None:
    atoms, _ = slab()

    def removed(**more: Any) -> Any:
        config = block(charges=SPC, contains_coulomb=True, **more)
        return open_foreign(config, lambda name: tmp_path / name, atoms, 1e-6).removed

    assert removed(switch=[3.0, 4.0]) == Switched(3.0, 4.0)
    ensemble = removed(labels={"boundary": "slab", "total_charge": 1.0, "field": 0.1})
    assert isinstance(ensemble, LabelEnsemble)
    assert (ensemble.coulomb.boundary, ensemble.total_charge) == ("slab", 1.0)
    np.testing.assert_allclose(ensemble.field, [0.0, 0.0, 0.1])


def test_a_run_restarts_with_the_same_numbers(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    run(configuration(whole), progress=False)
    short = settings(parts)
    short["dynamics"] = {"produce": {"ensemble": "langevin", "steps": 3, "timestep_fs": 0.2}}
    run(parse_config(short, parts), progress=False)
    run(configuration(parts), restart=True, progress=False)
    a, b = (read(f / "run.extxyz", -1) for f in (whole, parts))
    np.testing.assert_array_equal(a.positions, b.positions)
    assert np.abs(a.positions - read(whole / "cell.extxyz").positions).max() > 1e-4


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"trust": "no"}, "short_range.contains_coulomb"),
        ({"heads": "h", "charges": "formal"}, "short_range.heads = h must stand alone: remove `charges` or `heads`"),
        (
            {"program": "nequip", "head": "pbe"},
            "short_range.head = pbe must come with program mace: remove `head`",
        ),
        (
            {"switch": [1.0, 2.0], "labels": {}},
            "short_range.switch = given with labels must be one of the two: remove `switch` or `labels`",
        ),
        ({"kind": "alien"}, "short_range.kind = 'alien' must be classical, learned or foreign: for a trained model "
         "write `model:`, for one of another program also `program:`"),
    ],
)  # fmt: skip
def test_blocks_that_contradict_themselves_are_refused(
    more: dict[str, Any], message: str, tmp_path: Path
) -> None:
    data = settings(tmp_path, **more)
    if more == {"trust": "no"}:
        del data["short_range"]["contains_coulomb"]
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_config(data, tmp_path)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    config = configuration(tmp_path, model="none.model")
    with pytest.raises(FileNotFoundError) as missing:
        run(config, progress=False)
    assert str(missing.value) == f"model = {tmp_path / 'none.model'} must be an existing file: check the path"


def test_a_file_that_is_not_trusted_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(ValueError, match="trust") as refused:
        run(configuration(tmp_path, trust=False), progress=False)
    assert str(refused.value) == (
        f"short_range.trust = false must be true to read {tmp_path / 'their.model'}, since a mace file can run any code: "
        "set it if you trust the file"
    )


def test_conditions_are_those_of_the_cell(tmp_path: Path) -> None:
    atoms, _ = slab()
    short = open_foreign(block(), lambda name: tmp_path / name, atoms, 1e-6, total_charge=1.0)
    assert short._conditions == (Conditions(total_charge=1.0),)


def test_the_labels_have_the_electrodes_of_the_run(tmp_path: Path) -> None:
    labels = {"contains_coulomb": True, "labels": {"boundary": "slab"}}
    held = [{"group": 0, "potential": 0.0}, {"group": 1, "potential": 0.0}]
    parts = [settings(tmp_path, **labels) for _ in range(2)]
    for part, hardness in zip(parts, (0.0, 3.0)):
        part |= {"electrodes": held, "solver": {"hardness": hardness, "electronegativity": 0.4}}
        part["coulomb"] = {"accuracy": 1e-8, "coulomb_constant": 14.0}
    energies = []
    for part in parts:
        config = parse_config(part, tmp_path)
        simulation = prepare(config, load_structure(config))
        energies.append(simulation.atoms.get_potential_energy())
    # Under the labels' own conditions nothing is added, whatever the metal is like.
    alone = block(contains_coulomb=True)
    atoms, _ = slab()
    short = open_foreign(alone, lambda name: tmp_path / name, atoms, 1e-6)
    bare = short.compute(
        atoms.positions, atoms.numbers.astype(np.int64), np.array(atoms.cell), (True, True, False), False
    ).energy
    np.testing.assert_allclose(energies, bare, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("solver", "sentence"),
    [
        (
            {"smearing": 0.4},
            "solver.smearing = 0.4 Å must be left out with short_range.labels: give short_range.widths, which the run and the "
            "labels then share",
        ),
        (
            {"hardness": [1.0, 2.0]},
            "solver.hardness = (1.0, 2.0) must be one value with short_range.labels: there all metal is one group",
        ),
    ],
)
def test_electrodes_that_differ_from_those_of_the_labels_are_refused(
    solver: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    data = settings(tmp_path, contains_coulomb=True, labels={"boundary": "slab"}) | {"solver": solver}
    with pytest.raises(ValueError, match="solver") as refused:
        run(parse_config(data, tmp_path), progress=False)
    assert str(refused.value) == sentence
