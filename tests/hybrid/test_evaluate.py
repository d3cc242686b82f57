"""How frames are read to be compared with a model, and what is refused before any error is counted."""

from pathlib import Path

import pytest

from grahame.hybrid.cli import main
from grahame.hybrid.evaluate import arrays_of, check_metal, reading_of
from grahame.hybrid.model_file import save_model
from tests.hybrid.model_cells import frame, make_model, slab, water_box


def test_the_field_none_is_no_field() -> None:
    sources = [{"file": "a.xyz", "field": "E", "total_charge": 0.0}]
    spec = make_model(provenance={"config": {"data": {"sources": sources}}}).spec
    assert reading_of(spec, "b.xyz").field_key == "E"
    assert reading_of(spec, "b.xyz", field="F").field_key == "F"
    assert reading_of(spec, "b.xyz", field="none").field_key is None


def test_electrodes_of_elements_that_are_not_there_are_refused() -> None:
    spec = make_model().spec
    with pytest.raises(ValueError, match="electrode") as refused:
        reading_of(spec, "a.xyz", electrodes=["Au", "Xx"])
    assert str(refused.value) == (
        "electrode = Xx must be an element of the model (H, O, Na, Cl, Au): correct the symbol"
    )
    box, interface = frame(water_box()), frame(slab()[0])
    check_metal([box, interface], ["Au"])
    with pytest.raises(ValueError, match="electrode") as refused:
        check_metal([box], ["Au"])
    assert str(refused.value) == (
        "electrode = Au must be an element of the frames (Cl, H, Na, O): name the metal, or leave the option out"
    )


def test_arrays_are_those_of_the_first_frame(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    atoms = water_box()
    atoms.set_array("electrode", atoms.numbers)
    atoms.write(path, format="extxyz")
    assert arrays_of(path) == ["electrode", "numbers", "positions"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.yaml", b"", "Empty file: PATH"),
        ("a.yaml", b"data: {sources: []}\n", "yaml"),
        ("a.png", bytes(range(256)), "Can't read from png-format"),
    ],
)
def test_files_without_structures_get_one_sentence(
    tmp_path: Path, name: str, content: bytes, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model, path = tmp_path / "model.safetensors", tmp_path / name
    save_model(make_model(), model)
    path.write_bytes(content)
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", str(model), str(path)])
    assert stopped.value.code == 1
    assert capsys.readouterr().err == (
        f"Error: frames = {path} must be a complete structure file that ASE reads: {reason.replace('PATH', str(path))}; check "
        "that it is not cut off and that its name ends with its format\n"
    )
