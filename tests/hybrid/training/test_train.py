"""Training and evaluation from outside: what they learn, write and print."""

import json
import re
import shlex
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.build import fcc111
from ase.io import read, write

from grahame.electrostatics import Coulomb, Electrode
from grahame.hybrid import HybridCalculator
from grahame.hybrid.build import build_cell
from grahame.hybrid.cli import main
from grahame.hybrid.evaluate import evaluate, reading_of
from grahame.hybrid.model import HybridModel, ModelSpec
from grahame.hybrid.model_file import load_model, open_model, save_model
from grahame.hybrid.reading import Reading, make_frame, read_frames
from grahame.hybrid.shortrange.learned import LearnedShortRange
from grahame.hybrid.training.config import parse_training
from grahame.hybrid.training.metrics import surface_distances
from grahame.hybrid.training.report import read_curve
from grahame.hybrid.training.run import train
from tests.hybrid.training.tiny import frames, settings, water, write_data

KEYS = {"energy": "REF_energy", "forces": "REF_forces", "charges": "REF_charges"}


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a configuration, and what `grahame train` made of it."""
    folder = tmp_path_factory.mktemp("train")
    write_data(folder, train=16, valid=6)
    config = settings(
        folder / "out", output={"plots": True},
        optimiser={"epochs": 20, "learning_rate": 0.02, "batch_size": 4}, stage_two={"start": 0.75, "energy": 10.0},
        loss={"charges": 5.0},
    )  # fmt: skip
    (folder / "train.yaml").write_text(yaml.safe_dump(config))
    main(["train", str(folder / "train.yaml"), "--no-progress"])
    return folder


def test_training_learns_the_law_of_the_frames(folder: Path) -> None:
    curve = read_curve(folder / "out" / "model.csv")
    assert len(curve["epoch"]) == 20
    spread = np.concatenate([a.arrays["REF_forces"].ravel() for a in frames(16, 1)]).std()
    assert curve["valid_forces_meV_per_A"][-1] < 0.7 * 1e3 * spread
    assert curve["valid_charges_me"].min() < 100.0
    assert curve["stage"].tolist() == [1] * 15 + [2] * 5
    assert np.argmax(curve["learning_rate"]) == 0  # the end of the warm-up
    assert {p.name for p in (folder / "out").iterdir()} == {
        "model.safetensors", "model.checkpoint.pt", "model.csv", "model.errors.csv", "model.curve.png",
        "model.parity.png",
    }  # fmt: skip


def test_the_best_model_is_the_one_that_is_written(folder: Path) -> None:
    curve = read_curve(folder / "out" / "model.csv")
    best = int(np.flatnonzero(curve["best"])[-1])
    model = load_model(folder / "out" / "model.safetensors")
    valid = [make_frame(a, Reading(KEYS)) for a in frames(6, 2)]
    errors = evaluate(model, valid).errors
    assert 1e3 * errors.value("forces") == pytest.approx(curve["valid_forces_meV_per_A"][best], rel=1e-6)
    assert 1e3 * errors.value("energy") == pytest.approx(curve["valid_energy_meV_per_atom"][best], rel=1e-6)


def test_evaluate_reads_frames_as_the_training_did(folder: Path, capsys: Any) -> None:
    line = f"evaluate {folder}/out/model.safetensors {folder}/valid.xyz --json --output {folder}/said.xyz --overwrite"
    main(shlex.split(line))
    said = json.loads(capsys.readouterr().out)
    rows = {(r["quantity"], r["group"]): r for r in said["errors"]}
    assert set(rows) == {(q, g) for q in ("energy", "forces", "charges") for g in ("all", "H", "O")} - {
        ("energy", "H"),
        ("energy", "O"),
    }
    written = (folder / "out" / "model.errors.csv").read_text().splitlines()
    assert f"forces,H,meV/Å,{rows['forces', 'H']['rmse']:.6g}," in "\n".join(written)
    images = read(folder / "said.xyz", ":")
    forces = np.concatenate([a.arrays["model_forces"] - a.arrays["REF_forces"] for a in images])
    assert 1e3 * np.sqrt((forces**2).mean()) == pytest.approx(rows["forces", "all"]["rmse"], rel=1e-6)
    elements = np.concatenate([a.numbers for a in images])
    assert 1e3 * np.abs(forces[elements == 8]).mean() == pytest.approx(rows["forces", "O"]["mae"], rel=1e-6)
    assert all(abs(a.arrays["model_charges"].sum()) < 1e-7 for a in images)


def test_evaluate_takes_other_keys(folder: Path, capsys: Any) -> None:
    write(folder / "other.xyz", frames(3, 9))
    main(shlex.split(f"evaluate {folder}/out/model.safetensors {folder}/other.xyz --key energy=REF_energy"))
    out = capsys.readouterr().out
    assert "energy" in out
    assert "forces" not in out


def test_evaluate_says_what_is_wrong(folder: Path, capsys: Any) -> None:
    for options, sentence in (
        ("--key energy", "key = energy must be left=right: write e.g. --key energy=REF_energy"),
        ("--key enrgy=E", "key = enrgy must be one of energy, forces, stress, charges, dipole, born, field_response, work_function: name the label first"),
        ("--source 7", "source = 7 must be one of the model's 2 sources: leave it out to read by name"),
        ("--level PBE", "level = PBE must be one of default: the model has one readout for each"),
    ):  # fmt: skip
        with pytest.raises(SystemExit):
            main(shlex.split(f"evaluate {folder}/out/model.safetensors {folder}/valid.xyz {options}"))
        assert capsys.readouterr().err == f"Error: {sentence}\n"


def test_frames_with_electrodes_are_read_like_the_source_that_had_some() -> None:
    spec = open_model().spec  # its first source is bulk
    assert reading_of(spec, "mine.xyz").electrode_groups is None
    assert reading_of(spec, "mine.xyz", arrays=("numbers", "electrode")).electrode_groups == "electrode"
    assert reading_of(spec, "bulk-mine.extxyz", arrays=("electrode",)).electrode_groups is None
    named = reading_of(spec, "mine.xyz", arrays=("electrode",), electrodes=["Au"])
    assert (named.electrode_elements, named.electrode_groups) == (("Au",), None)


def test_the_model_in_the_box_is_evaluated_by_name(tmp_path: Path, capsys: Any) -> None:
    atoms = build_cell("Au(111)", size=(2, 2, 2), gap=13.0, waters=6, ion_pairs=1)
    groups = [Electrode(atoms.arrays["electrode"] == g, potential=v) for g, v in ((0, 0.0), (1, 1.0))]
    atoms.calc = HybridCalculator(LearnedShortRange(open_model()), Coulomb("slab", accuracy=1e-6), groups)
    forces, results = atoms.get_forces(apply_constraint=False), atoms.calc.results
    image = atoms.copy()
    image.calc = None
    image.set_constraint()
    image.arrays |= {"forces": forces, "charges": results["charges"]}
    image.info |= {"energy": results["internal_energy"], "total_charge": 0.0}
    image.info["electrode_charge"] = results["electrode_charges"]
    write(tmp_path / "mine.extxyz", image)
    main(["evaluate", "au-water-nacl", str(tmp_path / "mine.extxyz"), "--json"])
    errors = json.loads(capsys.readouterr().out)["errors"]
    rmse = {r["quantity"]: r["rmse"] for r in errors if r["group"] == "all"}
    # The file's own model: what is left is the accuracy of the electrostatics and the digits of the file.
    assert rmse["forces"] < 0.5
    assert rmse["charges"] < 0.05


def test_frames_are_checked_without_training(folder: Path, capsys: Any) -> None:
    main(["train", str(folder / "train.yaml"), "--check", "--json"])
    assert json.loads(capsys.readouterr().out) == {"train": 16, "valid": 6, "left_out": {}, "dropped": []}


def refused(folder: Path, config: dict[str, Any], options: str, capsys: Any) -> str:
    """What `grahame train` prints on standard error for a configuration that it refuses."""
    (folder / "t.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit):
        main(shlex.split(f"train {folder}/t.yaml {options}"))
    said: str = capsys.readouterr().err
    return said


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"model": {"charges": {"dipoles": {"Au": 1.0}}}},
            "model.charges.dipoles.Au = 1 e Å must belong to an element of the training frames (H, O): correct the symbol",
        ),
        (
            {"transfer": {"initial": "narrow.safetensors"}},
            "elements = O of train.xyz, frame 0 must be among those of the training frames or of the initial model (H): train on "
            "frames that have them, or leave these frames out",
        ),
        (
            {"transfer": {"initial": "wide.safetensors", "freeze": ["embedding", "interactions", "readout"]}},
            "transfer.freeze = ['embedding', 'interactions', 'readout'] must leave something to train: remove a group or "
            "unfreeze it later",
        ),
        (
            {"output": {"folder": "{folder}/train.xyz/out"}},
            "output.folder = {folder}/train.xyz/out must be a folder that can be written to: {folder}/train.xyz is none; choose "
            "another one",
        ),
    ],
)
def test_a_check_refuses_what_the_training_refuses(
    tmp_path: Path, capsys: Any, changes: dict[str, Any], sentence: str
) -> None:
    write_data(tmp_path)
    for name, elements in (("narrow", ("H",)), ("wide", ("H", "O"))):
        save_model(HybridModel(ModelSpec(elements=elements)), tmp_path / f"{name}.safetensors")
    config = settings(tmp_path / "out", **changes)
    if "transfer" in changes:
        del config["model"]
    if "output" in changes:
        config["output"]["folder"] = changes["output"]["folder"].format(folder=tmp_path)
    files = sorted(tmp_path.rglob("*"))
    said = [refused(tmp_path, config, options, capsys) for options in ("--check", "--no-progress")]
    assert said == 2 * [f"Error: {sentence.format(folder=tmp_path)}\n"]
    assert sorted(tmp_path.rglob("*")) == sorted([*files, tmp_path / "t.yaml"])


def test_a_check_writes_nothing(tmp_path: Path, capsys: Any) -> None:
    write_data(tmp_path)
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(settings(tmp_path / "out")))
    files = sorted(tmp_path.rglob("*"))
    main(["train", str(tmp_path / "t.yaml"), "--check"])
    assert capsys.readouterr().out == "10 frames to train, 4 to validate\n"
    assert sorted(tmp_path.rglob("*")) == files


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_check_refuses_a_gpu_that_is_not_there(tmp_path: Path, capsys: Any) -> None:
    write_data(tmp_path)
    config = settings(tmp_path / "out") | {"device": "cuda"}
    assert refused(tmp_path, config, "--check", capsys) == (
        "Error: device = cuda must be available: torch sees no GPU; use `device: cpu`\n"
    )


def test_validation_frames_of_other_elements_are_refused_before_training(tmp_path: Path, capsys: Any) -> None:
    write_data(tmp_path)
    strange = frames(4, 2)
    for atoms in strange[2:]:
        atoms.symbols[0] = "S"
    write(tmp_path / "valid.xyz", strange)
    config = settings(tmp_path / "out", model={"charges": {"formal": {"S": -2.0}}})
    assert refused(tmp_path, config, "--check", capsys) == (
        "Error: elements = S of valid.xyz, frame 2 must be among those of the training frames or of the initial model (H, O): "
        "train on frames that have them, or leave these frames out\n"
    )


def test_all_bad_frames_come_as_json(tmp_path: Path, capsys: Any) -> None:
    write_data(tmp_path, train=60)
    some = read(tmp_path / "train.xyz", ":")
    for atoms in some[1:]:
        del atoms.info["REF_energy"]
    write(tmp_path / "train.xyz", some)
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(settings(tmp_path / "out")))
    for options in ("--check --json", "--json"):
        with pytest.raises(SystemExit) as ended:
            main(shlex.split(f"train {tmp_path}/t.yaml {options}"))
        said = capsys.readouterr()
        assert (ended.value.code, said.err) == (1, "")
        found = json.loads(said.out)
        assert found["error"] == "frames = 59 bad ones must be corrected or left out:"
        assert [b["index"] for b in found["bad"]] == list(range(1, 60))
        assert found["bad"][0] == {
            "source": "train.xyz",
            "index": 1,
            "text": "energy = nothing under the key REF_energy must be given: the keys there are total_charge",
        }


def test_a_training_that_diverges_says_so(tmp_path: Path) -> None:
    write_data(tmp_path)
    config = settings(tmp_path / "out", optimiser={"learning_rate": 9.9, "clip": None, "epochs": 30})
    with pytest.raises(ValueError, match="diverged") as error:
        train(parse_training(config, tmp_path), progress=False)
    assert re.fullmatch(
        r"optimiser.learning_rate = 9.9 must be lower: after \d+ steps the training has diverged, charges (reach \S+ e|are no numbers); "
        r"try a tenth of it",
        str(error.value),
    )


def test_two_levels_of_theory_train_together(tmp_path: Path) -> None:
    write_data(tmp_path)
    shifted = frames(10, 5)
    for atoms in shifted:
        atoms.info["REF_energy"] += 7.0 * len(atoms)
    write(tmp_path / "other.xyz", shifted)
    config = settings(tmp_path / "out", model={"charges": {"kind": "none"}}, loss={"charges": 0.0})
    keys = {"energy": "REF_energy", "forces": "REF_forces", "charges": "REF_charges"}
    sources = [("train.xyz", "train", "PBE"), ("valid.xyz", "valid", "PBE"), ("other.xyz", "train", "MP2")]
    config["data"] = {"sources": [{"file": f, "use": u, "level": v, "keys": keys} for f, u, v in sources]}
    train(parse_training(config, tmp_path), progress=False)
    model = load_model(tmp_path / "out" / "model.safetensors")
    assert model.spec.levels == ("PBE", "MP2")
    table = evaluate(model, [make_frame(a, Reading(KEYS, level="MP2")) for a in shifted]).errors
    assert table.value("energy") < 0.1
    assert {"level MP2"} == {r.group for r in table.rows() if r.group.startswith("level")}
    # A model without charges says nothing of charge labels, rather than 0.
    assert {r.quantity for r in table.rows()} == {"energy", "forces"}


@pytest.mark.parametrize("label", ["charges", "field_response"])
def test_charges_of_a_model_without_any_cannot_be_trained(label: str, tmp_path: Path) -> None:
    write_data(tmp_path)
    config = settings(
        tmp_path / "out", model={"charges": {"kind": "none"}}, loss={"charges": 0.0, label: 2.0}
    )
    # What the label holds does not matter.
    config["data"]["keys"] = config["data"]["keys"] | {
        label: {"charges": "REF_charges"}.get(label, "REF_forces")
    }
    with pytest.raises(ValueError, match="kind none") as error:
        train(parse_training(config, tmp_path), progress=False)
    assert str(error.value) == (
        f"loss.{label} = 2 must be 0 with charges of kind none: set it to 0, or choose another model.charges.kind"
    )


@pytest.mark.parametrize("huber", [None, 0.05])
def test_the_validation_loss_is_the_loss_of_the_training(huber: float | None, tmp_path: Path) -> None:
    write_data(tmp_path)
    config = settings(
        tmp_path / "out", loss={"charges": 0.0, "forces": 3.0, "huber": huber}, optimiser={"epochs": 1}
    )
    summary = train(parse_training(config, tmp_path), progress=False)
    found = evaluate(load_model(summary.model), read_frames(tmp_path / "valid.xyz", Reading(KEYS)))
    wanted = 0.0
    for name, weight in (("energy", 1.0), ("forces", 3.0)):
        labels, values = found.pairs(name)
        off = np.abs(values - labels)
        rho = off**2 if huber is None else np.where(off < huber, off**2, 2 * huber * (off - 0.5 * huber))
        wanted += weight * float(rho.mean())
    assert summary.best == pytest.approx(wanted, rel=1e-9)


def test_early_stopping_and_the_time_limit_end_a_training(tmp_path: Path) -> None:
    write_data(tmp_path)
    slow = {"epochs": 500, "batch_size": 3, "learning_rate": 1e-300, "patience": 2}
    patient = train(parse_training(settings(tmp_path / "a", optimiser=slow), tmp_path), progress=False)
    assert patient.epochs == 3
    timed = {"epochs": 500, "max_minutes": 0.01, "schedule": {"pace": "time"}}
    short = train(parse_training(settings(tmp_path / "b", optimiser=timed), tmp_path), progress=False)
    assert short.epochs < 500
    assert 0.6 <= short.seconds < 5.0


def test_a_validation_set_without_labels_is_refused(tmp_path: Path) -> None:
    write_data(tmp_path)
    config = settings(tmp_path / "out")
    config["data"] = {
        "sources": [
            {"file": "train.xyz", "keys": {"energy": "REF_energy", "forces": "REF_forces"}},
            {"file": "valid.xyz", "use": "valid", "keys": {"charges": "REF_charges"}},
        ]
    }
    config["loss"] = {}
    with pytest.raises(ValueError, match="valid") as error:
        train(parse_training(config, tmp_path), progress=False)
    assert str(error.value) == (
        "valid = frames without energy and forces must have a label that the loss weighs: add its key to a validation "
        "source"
    )


def test_distances_from_the_metal_respect_the_cell() -> None:
    metal = fcc111("Au", (3, 3, 1), vacuum=10.0)
    atoms = metal + water(np.random.default_rng(0), 1)
    atoms.positions[9:] += metal.positions[0] - atoms.positions[9] + [-0.5, 0.0, 3.0]
    atoms.set_pbc((True, True, False))
    atoms.info["total_charge"] = 0.0
    frame = make_frame(atoms, Reading({}, electrode_elements=("Au",)))
    distances = surface_distances(frame)
    assert distances is not None
    expected = [atoms.get_distances(k, range(9), mic=True).min() for k in (9, 10, 11)]
    np.testing.assert_allclose(distances[9:], expected, rtol=0, atol=1e-9)
    assert surface_distances(make_frame(water(np.random.default_rng(0)), Reading({}))) is None


def test_distances_from_the_metal_are_those_of_the_nearest_image_in_skewed_cells() -> None:
    cell = [[4.0, 0.0, 0.0], [7.1, 3.9, 0.0], [9.3, 5.2, 6.0]]
    atoms = Atoms("AuOH2", np.random.default_rng(3).normal(scale=6.0, size=(4, 3)), cell=cell, pbc=True)
    atoms.info["total_charge"] = 0.0
    found = surface_distances(make_frame(atoms, Reading({}, electrode_elements=("Au",))))
    images = np.array(list(product(range(-40, 41), range(-9, 10), range(-9, 10)))) @ np.array(cell)
    expected = [np.linalg.norm(atoms.positions[0] + images - x, axis=1).min() for x in atoms.positions]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
