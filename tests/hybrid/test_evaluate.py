"""How frames are read to be compared with a model, and what is refused before any error is counted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grahame.electrostatics import Electrode
from grahame.hybrid.cli import main
from grahame.hybrid.evaluate import Evaluation, arrays_of, check_metal, reading_of, write_predictions
from grahame.hybrid.frames import Conditions, Frame
from grahame.hybrid.model_file import save_model
from grahame.hybrid.reading import Reading, read_frames
from grahame.hybrid.training.metrics import ErrorTable
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


@pytest.mark.parametrize(
    ("boundary", "state"),
    [
        ("slab", {"field": (0.0, 0.0, 0.12)}),
        ("3d", {"field": (0.01, -0.02, 0.03)}),
        ("displacement", {"displacement": -0.2}),
        ("slab", {}),
    ],
)
def test_predictions_are_written_with_what_is_held(
    tmp_path: Path, boundary: str, state: dict[str, Any]
) -> None:
    """Who reads the frames again reads the same conditions: field, displacement, electrodes and total charge."""
    metal = Electrode([0, 1], charge=0.3)
    held = Conditions(boundary=boundary, total_charge=0.3, electrodes=(metal,), **state)
    numbers, cell = np.array([79, 79, 8, 1, 1]), np.diag([9.0, 9.0, 20.0])
    positions = np.random.default_rng(0).uniform(2.0, 7.0, (5, 3))
    pbc = (True, True, boundary != "slab")
    frame = Frame(
        numbers, positions, cell, pbc, held, {"energy": np.array(-1.0)}, info={"countercharge": "none"}
    )
    found = {"energy": np.array(-1.1), "forces": np.zeros((5, 3))}
    write_predictions(Evaluation(ErrorTable(make_model().spec), [found], [frame]), tmp_path / "said.xyz")
    reading = Reading({"energy": "REF_energy"}, boundary=boundary, electrode_groups="electrode")
    (again,) = read_frames(tmp_path / "said.xyz", reading)
    assert again.conditions.total_charge == held.total_charge
    np.testing.assert_array_equal(again.conditions.electrodes[0].indices, metal.indices)
    for name in ("field", "displacement"):
        one, other = getattr(again.conditions, name), getattr(held, name)
        assert (one is None) == (other is None)
        np.testing.assert_allclose(
            np.zeros(3) if one is None else one, np.zeros(3) if other is None else other
        )
    assert again.labels["energy"] == -1.0
