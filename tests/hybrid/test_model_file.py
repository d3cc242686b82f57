"""Model files: what comes back, what the header says, and what is refused without running any code."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from grahame.hybrid import HybridCalculator, model_file
from grahame.hybrid.model import HybridModel
from grahame.hybrid.model_file import BOXED, find_model, load_model, open_model, read_header, save_model
from tests.hybrid.model_cells import batch_of, frame, held, make_model, slab, water_box

MODELS: dict[str, dict[str, Any]] = {
    "transfer": {},
    "single precision": {"dtype": "float32", "layers": 2},
    "switched": {"double_counting": "switched", "switch": (1.5, 3.5)},
    "projected": {"charges": {"kind": "projected"}},
    "environment": {"charges": {"site_constants": "environment", "hardness": 0.7, "train_widths": True}},
    "dipoles": {"charges": {"dipoles": {"O": 1.0, "Cl": 0.5}}},
    "solved": {"charges": {"kind": "solved", "hardness": 8.0}},
    "levels": {"levels": ("pbe", "rpbe"), "reference_energies": {"pbe": {"O": -432.1}, "rpbe": {"H": -13.6}}},
    "local": {"charges": {"kind": "none"}, "repulsion": False},
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_read_back_predicts_the_same_bits(name: str, tmp_path: Path) -> None:
    model = make_model(**MODELS[name])
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    again = load_model(path)
    assert again.spec == model.spec
    assert not again.training
    frames = [frame(water_box())]
    if name not in ("projected", "solved"):
        atoms, groups = slab()
        frames.append(frame(atoms, boundary="slab", electrodes=held(groups)))
    if name == "local":
        frames = frames[:1]
    level = model.spec.levels[-1]
    before, after = (m.predict(batch_of(m, *frames), stress=True, level=level) for m in (model, again))
    for field in ("energy", "forces", "stress", "charges", "dipole"):
        np.testing.assert_array_equal(getattr(before, field), getattr(after, field))
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
        assert value.dtype == again.state_dict()[key].dtype


def test_the_header_says_what_the_weights_mean(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = make_model(layers=2, provenance={"data": "Å and é stay readable", "frames": 12})
    save_model(model, path)
    header = read_header(path)
    assert header["format"] == "grahame hybrid model"
    assert header["version"] == 1
    assert header["units"]["energy"] == "eV"
    assert header["receptive_field"] == model.spec.architecture.receptive_field == 8.0
    assert header["spec"] == model.spec.model_dump(mode="json")
    assert header["spec"]["double_counting"] == "smeared"
    assert header["spec"]["architecture"]["cutoff"] == 4.0
    assert header["spec"]["provenance"]["frames"] == 12
    assert "Å and é" in path.read_bytes().decode("utf-8", errors="ignore")


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    save_model(make_model(), path)
    before = path.read_bytes()

    def full(weights: object, name: str, metadata: object) -> None:
        Path(name).write_bytes(b"part")
        raise OSError("No space left on device")

    monkeypatch.setattr(model_file, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_model(make_model(1), path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    assert path.read_bytes() == before


class Bomb:
    """Code that a pickle would run."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (pytest.fail, ("the pickle ran",))


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_pickle_is_refused_unread(tmp_path: Path, how: str) -> None:
    path = tmp_path / "model.pt"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Bomb()))
    else:
        torch.save(Bomb(), path)
    with pytest.raises(ValueError, match="pickle") as caught:
        load_model(path)
    assert str(caught.value) == (
        f"model = {path} must be a safetensors file, not a pickle, which may run any code when it is read: "
        "load_model(path, allow_pickle=True) reads one you trust"
    )


def test_a_trusted_pickle_can_be_read(tmp_path: Path) -> None:
    path, model = tmp_path / "model.pt", make_model()
    torch.save(model, path)
    again = load_model(path, allow_pickle=True)
    assert torch.equal(again.readout.weight, model.readout.weight)
    assert not again.training
    torch.save({"weights": 1}, path)
    with pytest.raises(ValueError, match="HybridModel") as caught:
        load_model(path, allow_pickle=True)
    assert str(caught.value) == (
        f"model = {path} must hold a HybridModel, not dict: other models are used through adapters"
    )
    save_model(model, tmp_path / "model.safetensors")
    load_model(tmp_path / "model.safetensors", allow_pickle=True)
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(ValueError, match="must be a model that") as caught:
        load_model(path, allow_pickle=True)
    assert str(caught.value) == (
        f"model = {path} must be a model that torch.save wrote (Invalid magic number; corrupt file?): use save_model, whose "
        "files any version reads"
    )


def test_a_header_of_any_length_is_no_pickle(tmp_path: Path) -> None:
    # The file starts with the length of its header, whose lowest byte may be that of a pickle.
    path = tmp_path / "model.safetensors"
    for more in range(256):
        save_model(make_model(provenance={"note": "x" * more}), path)
        if path.read_bytes()[0] == 0x80:
            break
    else:
        pytest.fail("no header had the length wanted")
    assert load_model(path).spec.provenance == {"note": "x" * more}


def parts(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights and header of a saved model."""
    save_model(make_model(), path)
    with safe_open(str(path), framework="pt") as file:
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    return weights, read_header(path)


def rewritten(path: Path, weights: dict[str, torch.Tensor], header: object) -> None:
    save_file(weights, str(path), metadata={"grahame": json.dumps(header)})


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "bytes"])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "model.safetensors"
    save_model(make_model(), path)
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut": content[: len(content) // 2],
            "empty": b"",
            "text": b"elements: [H, O]\n",
            "bytes": b"\xff" * 8 + content[8:],
        }[damage]
    )
    with pytest.raises(ValueError, match="damaged") as caught:
        load_model(path)
    assert str(caught.value) == (
        f"model = {path} must be a whole safetensors file: it is damaged or cut off, copy it again"
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"format": "another model"},
            "model = PATH of format another model must be a grahame hybrid model: give the file of a model",
        ),
        (
            {"version": 2},
            "model = PATH of version 2 must not be newer than 1: update the package",
        ),
        ({"version": "new"}, "model = PATH must have a readable header: it is damaged, copy it again"),
        (
            {"format": None},
            "model = PATH of format None must be a grahame hybrid model: give the file of a model",
        ),
    ],
)
def test_a_header_of_something_else_is_refused(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    path = tmp_path / "model.safetensors"
    weights, header = parts(path)
    rewritten(path, weights, header | change)
    with pytest.raises(ValueError, match="model") as caught:
        load_model(path)
    assert str(caught.value) == sentence.replace("PATH", str(path))


def test_files_without_a_header_of_ours_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(2)}, str(path))
    with pytest.raises(ValueError, match="adapters") as caught:
        load_model(path)
    assert str(caught.value) == (
        f"model = {path} must be written by this program: its header names no specification; other models are used "
        "through adapters"
    )
    for broken in ("{", "[]", "{}"):
        save_file({"a": torch.zeros(2)}, str(path), metadata={"grahame": broken})
        with pytest.raises(ValueError, match="readable header"):
            load_model(path)


def test_a_specification_of_another_version_is_refused_by_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    weights, header = parts(path)
    spec = header["spec"]
    rewritten(path, weights, header | {"spec": spec | {"elementz": ["H"]}})
    with pytest.raises(ValueError, match="specification") as caught:
        load_model(path)
    assert str(caught.value) == (
        f"model = {path} must hold a specification this version understands: elementz = ['H'] must be a known key: did "
        "you mean `elements`?"
    )
    rewritten(path, weights, {k: v for k, v in header.items() if k != "spec"})
    with pytest.raises(ValueError, match="specification") as caught:
        load_model(path)
    assert str(caught.value) == (
        f"model = {path} must hold a specification: its header has none, copy it again"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("missing", "readout.weight is nothing and should be [1, 12]"),
        ("shape", "readout.weight is [3, 3] and should be [1, 12]"),
        ("more", "extra is [2] and should be nothing"),
        ("precision", "readout.weight is in float32 and should be in float64"),
        ("layers", "there are 1 layers and should be 1000000"),
        ("hidden", "network.readouts.0.second.weight is [12, 12] and should be [10000000, 10000000]"),
        ("rank", "charge_head.radial.weight is [16, 4] and should be [1000000000, 4]"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, change: str, words: str) -> None:
    path = tmp_path / "model.safetensors"
    weights, header = parts(path)
    if change == "missing":
        del weights["readout.weight"]
    elif change == "shape":
        weights["readout.weight"] = torch.zeros(3, 3, dtype=torch.float64)
    elif change == "precision":
        weights["readout.weight"] = weights["readout.weight"].float()
    elif change == "layers":
        header["spec"]["architecture"]["layers"] = 1000000
        header["receptive_field"] = 4e6
    elif change == "hidden":
        header["spec"]["architecture"]["hidden"] = 10000000
    elif change == "rank":
        header["spec"]["charges"]["rank"] = 1000000000
    else:
        weights["extra"] = torch.zeros(2)
    rewritten(path, weights, header)
    with pytest.raises(ValueError, match="weights") as caught:
        load_model(path)
    assert str(caught.value) == (
        f"model = {path} must hold the weights of its specification: {words}; copy the file again"
    )


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    weights, header = parts(path)
    weights["readout.weight"][0, 3] = np.nan
    rewritten(path, weights, header)
    with pytest.raises(ValueError, match="finite") as caught:
        load_model(path)
    assert str(caught.value) == (
        f"model = {path} must hold finite weights: readout.weight has NaN or infinity, copy the file or train it again"
    )


@pytest.mark.parametrize(
    ("entry", "value", "sentence"),
    [
        ("units", None, "must state the units Å, eV, e, V, V/Å, amu: its header has None, copy it again"),
        (
            "units",
            {"length": "bohr"},
            "must state the units Å, eV, e, V, V/Å, amu: its header has {'length': 'bohr'}, copy it again",
        ),
        (
            "receptive_field",
            5.5,
            "must have the receptive field of its specification, 4 Å: its header has 5.5, copy it again",
        ),
        (
            "spec.scale",
            -1.0,
            "must hold a specification this version understands: scale = -1.0 eV must be greater than 0 eV: give the scale of "
            "energies in eV",
        ),
        (
            "spec.elements",
            ["H", "H"],
            "must hold a specification this version understands: elements = ['H', 'H'] must be chemical symbols, each once: "
            "name every element of the data",
        ),
        (
            "spec.architecture",
            {"cutoff": -1.0},
            "must hold a specification this version understands: architecture.cutoff = -1 Å must be positive and finite: 5 Å is usual",
        ),
        (
            "spec.reference_energies",
            {"default": {"O": float("nan")}},
            "must hold a specification this version understands: reference_energies.default.O = nan must be finite: correct it",
        ),
    ],
)
def test_headers_that_contradict_themselves_are_refused(
    tmp_path: Path, entry: str, value: object, sentence: str
) -> None:
    path = tmp_path / "model.safetensors"
    weights, header = parts(path)
    block, _, key = entry.rpartition(".")
    (header[block] if block else header)[key] = value
    rewritten(path, weights, header)
    with pytest.raises(ValueError, match="must") as caught:
        load_model(path)
    assert str(caught.value) == f"model = {path} {sentence}"


@pytest.mark.parametrize("change", ["elements", "weights"])
def test_what_was_changed_after_writing_is_noticed(tmp_path: Path, change: str) -> None:
    path = tmp_path / "model.safetensors"
    weights, header = parts(path)
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata()
    if change == "elements":
        header["spec"]["elements"] = ["O", "H", "Na", "Cl", "Au"]
    else:
        weights["readout.weight"][0, 3] += 1e-3
    save_file(weights, str(path), metadata=metadata | {"grahame": json.dumps(header, ensure_ascii=False)})
    with pytest.raises(ValueError, match="written") as caught:
        load_model(path)
    assert str(caught.value) == (
        f"model = {path} must be as it was written: its header or weights were changed since, copy it again"
    )
    # Files of earlier versions have no checksum.
    rewritten(path, weights, header)
    load_model(path)


def test_unknown_elements_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(make_model(), path)
    atoms = water_box()
    atoms.numbers[9] = 19
    atoms.calc = HybridCalculator(model=path)
    with pytest.raises(ValueError, match="element of the model") as caught:
        atoms.get_potential_energy()
    assert str(caught.value) == (
        "numbers[9] = K must be an element of the model (H, O, Na, Cl, Au): train a model that knows it"
    )


def test_a_model_is_found_by_path_or_in_the_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    save_model(make_model(), path)
    assert find_model("a.safetensors", tmp_path) == path
    assert find_model(path, "elsewhere") == path
    monkeypatch.setattr(model_file, "boxed_model", lambda: path)
    assert find_model(BOXED, "elsewhere") == path
    assert isinstance(open_model(), HybridModel)
    for wrong in ("b.safetensors", "."):
        with pytest.raises(FileNotFoundError) as caught:
            find_model(wrong, tmp_path)
        assert str(caught.value) == (
            f"model = {tmp_path / wrong} must be an existing file: check the path, or use au-water-nacl"
        )
    with pytest.raises(FileNotFoundError) as caught:
        read_header(tmp_path / "b.safetensors")
    assert str(caught.value) == f"model = {tmp_path}/b.safetensors must be an existing file: check the path"
