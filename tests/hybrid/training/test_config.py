"""The configuration of a training: what is accepted, and the sentence for everything that is not."""

import copy
from pathlib import Path
from typing import Any

import pytest

from grahame.hybrid.model import ChargeSpec
from grahame.hybrid.training.config import (
    ModelConfig,
    OptimiserConfig,
    TrainConfig,
    load_training,
    parse_training,
)

BASE: dict[str, Any] = {"data": {"train": "a.xyz", "valid": "b.xyz", "keys": {"energy": "E", "forces": "F"}}}


def changed(path: str, value: object) -> dict[str, Any]:
    """BASE with one key set; `path` is dotted."""
    data = copy.deepcopy(BASE)
    *parents, last = path.split(".")
    block: Any = data
    for part in parents:
        block = block.setdefault(part, {})
    block[last] = value
    return data


def test_two_files_are_two_sources_with_the_same_keys() -> None:
    sources = parse_training(BASE).data.sources
    assert [(s.file, s.use, s.keys.named()) for s in sources] == [
        ("a.xyz", "train", {"energy": "E", "forces": "F"}),
        ("b.xyz", "valid", {"energy": "E", "forces": "F"}),
    ]


def test_a_configuration_survives_its_own_json() -> None:
    config = parse_training(BASE)
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


def test_a_source_becomes_what_the_reader_takes() -> None:
    data = {"file": "a.xyz", "select": {"calc": "task_*"}, "field": "E_vac", "electrode_elements": ["Pt"]}
    reading = parse_training({"data": data}).data.sources[0].reading(ChargeSpec(formal={"O": -1.5}))
    assert reading.select == {"calc": ("task_*",)}
    assert reading.field_key == "E_vac"
    assert (reading.formal["O"], reading.formal["H"]) == (-1.5, 1.0)


SENTENCES = [
    ("data", {"file": "a", "kyes": {}}, "data.sources[0].kyes = {} must be a known key: did you mean `keys`?"),
    ("model.architecture.channel", 8, "model.architecture.channel = 8 must be a known key: did you mean `channels`?"),
    (
        "model.architecture.cutoff",
        "five",
        "model.architecture.cutoff = 'five' must be a number: give the cut-off in Å, without writing the unit",
    ),
    (
        "loss.charges",
        1.0,
        "loss.charge_kind = nothing must be given with a weight on charges: state one of mulliken, hirshfeld, mbis, ddec, "
        "teacher",
    ),
    (
        "loss.stress",
        1.0,
        "loss.stress = 1 must weigh a label that is read: add `stress` to `keys` of a source, or set the weight to 0",
    ),
    ("loss", {"energy": 0, "forces": 0}, "loss = 0 for every label must weigh at least one label: set energy or forces"),
    (
        "optimiser.schedule",
        {"kind": "one_cycle"},
        "optimiser.schedule.kind = 'one_cycle' must be one of constant, one-cycle, exponential, plateau: did you mean "
        "`one-cycle`?",
    ),
    (
        "optimiser.schedule",
        {"pace": "time"},
        "optimiser.max_minutes = nothing must be given with `pace: time`: set the time limit",
    ),
    (
        "transfer",
        {"initial": "m", "unfreeze": {"readout": 2}},
        "transfer.unfreeze.readout = 2 must name a group of `freeze`: add readout to `freeze`",
    ),
    ("data", {"sources": []}, "data.sources = [] must name at least one file: add an entry with `file`"),
    (
        "data",
        {"file": "a", "split": {"key": "s", "fraction": 0.1}},
        "data.sources[0].split = key and fraction must be by exactly one of `key` and `fraction`: write one of the two",
    ),
    (
        "data",
        {"file": "a", "use": "train", "split": {"key": "s"}},
        "data.sources[0] = use and split must have one of the two: remove `use`",
    ),
    (
        "data",
        {"file": "a", "electrode_elements": ["Pt", "au"]},
        "data.sources[0].electrode_elements = au must be a chemical symbol: did you mean Au?",
    ),
    (
        "data",
        {"file": "a", "electrode_elements": ["Nax"]},
        "data.sources[0].electrode_elements = Nax must be a chemical symbol: correct the symbol",
    ),
    ("data", {"file": "a", "electrode_elements": ["X"]}, "data.sources[0].electrode_elements = X must be a chemical symbol: correct the symbol"),
    ("data", {"file": "a", "optional": ["energi"]}, "data.sources[0].optional = energi must name a label: did you mean energy?"),
    (
        "data",
        {"file": "a", "require": ["functionl"]},
        "data.sources[0].require = functionl must name a key of the schema: did you mean functional?",
    ),
    ("data", {"file": "a", "ignore": ["potental"]}, "data.sources[0].ignore = potental must name a key of the schema: did you mean potential?"),
    ("data", {"file": "a", "state": {"ph": 7}}, "data.sources[0].state = ph must name a key of the schema: did you mean pH?"),
    ("model.charges", {"widths": {"Zz": 1.0}}, "model.charges.widths.Zz = 1 Å must belong to a chemical symbol: correct the symbol"),
    ("model.charges", {"formal": {"NA": 1.0}}, "model.charges.formal.NA = 1 e must belong to a chemical symbol: did you mean Na?"),
    ("model.charges", {"formal": {"O": "x"}}, "model.charges.formal.O = 'x' must be a number: give the formal charge of elements, e"),
    ("model.charges", {"hardness": {"Qq": 1.0}}, "model.charges.hardness.Qq = 1 V/e must belong to a chemical symbol: correct the symbol"),
    (
        "model.charges",
        {"hardness": {"O": -1.0}},
        "model.charges.hardness.O = -1.0 must be at least 0: give the hardness of solved atoms before training, V/e; one number "
        "or by element",
    ),
    (
        "model.charges",
        {"widths": {"O": 0.0}},
        "model.charges.widths.O = 0 Å must be above 0.2 Å: 0.5 Å is usual, 0.392 Å of metals",
    ),
    (
        "model.charges",
        {"dipoles": {"O": 0.0}},
        "model.charges.dipoles.O = 0 e Å must be positive and belong to a chemical symbol: 1 is usual",
    ),
    (
        "model",
        {"double_counting": "switched"},
        "model.switch = None Å must be two radii, 0 <= inner < outer: double_counting switched removes the bare interaction "
        "between them",
    ),
    (
        "model",
        {"double_counting": "switched", "switch": [1.0, 9.0]},
        "model.switch = 9 Å must not exceed the cut-off of 5 Å: beyond it the network sees no pair that could make up for what "
        "is removed",
    ),
    (
        "model",
        {"double_counting": "switched", "switch": [1.0, 2.0], "charges": {"dipoles": {"O": 1.0}}},
        "model.charges.dipoles = O must be left out with double_counting switched: only pairs of charges are removed there; use "
        "smeared",
    ),
    ("optimiser.weight_decay", 0.5, "optimiser.weight_decay = 0.5 must be 0 with kind adam: set kind: adamw"),
    (
        "optimiser",
        {"kind": "amsgrad", "weight_decay": 0.5},
        "optimiser.weight_decay = 0.5 must be 0 with kind amsgrad: set kind: adamw",
    ),
    ("optimiser.betas", [2.0, 0.99], "optimiser.betas[0] = 2.0 must be less than 1: give the memory of Adam's two averages"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "sentence"), SENTENCES)
def test_a_wrong_key_gets_a_sentence(path: str, value: object, sentence: str) -> None:
    with pytest.raises(ValueError, match="must") as error:
        parse_training(changed(path, value))
    assert str(error.value) == sentence


def test_an_initial_model_brings_its_own_sizes() -> None:
    with pytest.raises(ValueError, match="transfer") as error:
        parse_training(BASE | {"transfer": {"initial": "m"}, "model": {}})
    assert (
        str(error.value) == "model = given with transfer must be left out: the initial model brings its own"
    )


def test_files_are_relative_to_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("data: {train: a.xyz, valid: b.xyz}\n")
    assert load_training(path).path("a.xyz") == tmp_path / "a.xyz"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("data: [", "config = {path}, line 2, column 1 must be YAML: expected the node content, but found '<stream end>'; check the indentation, colons and quotes there"),
        ("- 1", "configuration = [1] must be a mapping of keys: start with a `data:` block that names files"),
        (
            "3\nProperties=species:S:1:pos:R:3 pbc=F\n" + 40 * "O 0.0 0.0 0.0\n",
            "configuration = '3 Properties=species:S:1:pos:R:3 pbc=F O 0.0 0.0 0.0 O 0.0 0.0 0.0 O 0.0 0.0... must be a mapping of keys: start with a `data:` block that names files",
        ),
        ("seed: 1\nseed: 2", "seed = given in lines 1 and 2 must appear once: remove one of the two"),
    ],
)  # fmt: skip
def test_a_broken_file_gets_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(text + "\n")
    with pytest.raises(ValueError, match="must") as error:
        load_training(path)
    assert str(error.value) == sentence.format(path=path)


def test_blocks_with_nothing_in_them_have_their_defaults(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(
        "data: {train: a.xyz, valid: b.xyz, checks: }\nmodel:\n  architecture:\n  charges:\nloss:\nstage_two:\n"
        "optimiser:\n  schedule:\ntransfer:\noutput:\n"
    )
    config = load_training(path)
    assert config.optimiser == OptimiserConfig()
    assert config.model == ModelConfig()
    assert config.data.checks.closest == 0.3
    # Written down, it is meant, also with nothing below it.
    assert config.stage_two is not None
    assert config.stage_two.energy == 100.0
    assert config.transfer is None


def test_a_tilde_in_a_path_is_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    config = parse_training(BASE | {"output": {"folder": "~/models"}}, tmp_path)
    assert config.output.place == tmp_path / "home" / "models"
    assert config.path("~/frames.xyz") == tmp_path / "home" / "frames.xyz"
    assert config.path("frames.xyz") == tmp_path / "frames.xyz"
    assert config.path("/data/frames.xyz") == Path("/data/frames.xyz")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "1.xyz").touch()
    assert config.paths("~/*.xyz") == [tmp_path / "home" / "1.xyz"]
