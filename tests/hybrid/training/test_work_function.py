"""Work functions as labels: what is predicted, how it learns, and which frames have none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import write

from grahame.electrostatics import Coulomb, Electrode
from grahame.electrostatics.work_function import work_function
from grahame.hybrid.evaluate import evaluate
from grahame.hybrid.frames import Frame
from grahame.hybrid.model import HybridModel
from grahame.hybrid.model_file import load_model
from grahame.hybrid.reading import Reading, make_frame, read_frames
from grahame.hybrid.training.building import build_model
from grahame.hybrid.training.config import parse_training
from grahame.hybrid.training.loss import error_sums
from grahame.hybrid.training.predicting import predict
from grahame.hybrid.training.run import checked_frames, train
from tests.hybrid.model_cells import batch_of, frame, make_model, slab

READING = Reading(
    {"work_function": "W"}, electrode_elements=("Au",), total_charge=0.0, formal={"H": 1.0, "O": -2.0}
)
CHARGES = {"kind": "transfer", "site_constants": "element", "dipoles": {"O": 1.0}}


def film(seed: int = 0) -> Atoms:
    """One gold slab with two waters on one side."""
    atoms, groups = slab()
    keep = np.setdiff1d(np.arange(len(atoms)), groups[1])
    atoms = atoms[keep]
    atoms.positions += np.random.default_rng(seed).normal(scale=0.05, size=atoms.positions.shape)
    atoms.cell[2, 2] = 20.0
    return atoms


def neutral(atoms: Atoms, **conditions: Any) -> Frame:
    metal = np.flatnonzero(atoms.numbers == 79)
    held = {"boundary": "slab", "electrodes": (Electrode(metal, charge=0.0),)}
    return frame(atoms, **held | conditions)


def both(model: HybridModel, one: Frame) -> np.ndarray:
    return model.predict(batch_of(model, one), forces=False).work_functions[0].numpy()


@pytest.mark.parametrize("boundary", ["slab", "slab-exact"])
def test_it_is_the_work_function_of_the_charges(boundary: str) -> None:
    model, atoms = make_model(charges=CHARGES), film()
    one = neutral(atoms, boundary=boundary)
    found = model.predict(batch_of(model, one))
    assert found.atomic_dipoles is not None
    area = float(np.linalg.norm(np.cross(atoms.cell[0], atoms.cell[1])))
    moment = float(found.charges.numpy() @ one.positions[:, 2]) + float(found.atomic_dipoles[:, 2].sum())
    phi = float(found.electrode_potentials[0][0])
    wanted = [work_function(phi, moment, area, "+"), work_function(phi, moment, area, "-")]
    np.testing.assert_allclose(found.work_functions[0], wanted, atol=1e-10)
    assert abs(wanted[0] - wanted[1]) > 0.1
    # What the metal is held at is a gauge in a neutral cell.
    gauge = neutral(atoms, boundary=boundary, electrodes=(Electrode(np.arange(8), potential=0.7),))
    np.testing.assert_allclose(both(model, gauge), wanted, atol=1e-8)


def test_it_is_the_energy_to_take_charge_to_the_vacuum_of_that_side() -> None:
    model, atoms = make_model(charges={"kind": "transfer", "site_constants": "element"}), film()
    found = model.predict(batch_of(model, neutral(atoms)))

    def charged(q: float) -> float:
        one = neutral(atoms, electrodes=(Electrode(np.arange(8), charge=q),), total_charge=q)
        return float(model.predict(batch_of(model, one), forces=False).energy)

    phi = (charged(0.01) - charged(-0.01)) / 0.02
    widths = model.widths(batch_of(model, neutral(atoms)).graph.species).detach().numpy()
    x, _, _ = np.array(atoms.cell)
    outside = [x * 0.5 + [0, 0, 60.0], x * 0.5 + [0, 0, -60.0]]
    vacuum = Coulomb("slab-exact").potential_at(
        np.array(outside), atoms.positions, found.charges.numpy(), np.array(atoms.cell), smearing=widths
    )
    np.testing.assert_allclose(found.work_functions[0], phi - vacuum, atol=1e-6)


def test_its_gradient_reaches_the_weights() -> None:
    model = make_model(charges=CHARGES | {"train_widths": True, "site_constants": "environment"})
    batch = batch_of(model, neutral(film()))
    assert model.sites is not None
    assert model.dipoles is not None
    inner = next(model.network.parameters())
    chosen = [model.sites.element.weight, model.dipoles.element.weight, model.widths.raw, inner]
    rng = np.random.default_rng(1)

    def loss() -> torch.Tensor:
        return (model.predict(batch, forces=False, train=True).work_functions ** 2).sum()

    for weight, gradient in zip(chosen, torch.autograd.grad(loss(), chosen)):
        step = torch.as_tensor(rng.normal(size=weight.shape))
        start = weight.detach().clone()

        def along(t: float, w: Any = weight, s: Any = step, w0: Any = start) -> float:
            with torch.no_grad():
                w.copy_(w0 + t * s)
            return float(loss().detach())

        h = 1e-3
        numeric = (along(-2 * h) - 8 * along(-h) + 8 * along(h) - along(2 * h)) / (12 * h)
        along(0.0)
        assert float(gradient.abs().max()) > 0.0
        assert numeric == pytest.approx(float((gradient * step).sum()), rel=2e-6, abs=1e-6)


def test_frames_without_the_label_count_nowhere() -> None:
    model, atoms = make_model(charges=CHARGES), film()
    atoms.info["W"] = 4.5
    labelled = make_frame(atoms, Reading(READING.keys, electrode_elements=("Au",), total_charge=0.0,
                                         formal=READING.formal, work_function_side="-"))  # fmt: skip
    free = frame(Atoms("OHH", [[0, 0, 0], [0.9, 0.2, 0], [-0.3, 0.9, 0]]), boundary="open")
    batch = batch_of(model, labelled, free)
    found = predict(model, batch, {"work_function"}, train=True)["work_function"]
    assert found[1].isnan()
    (squared,) = error_sums({"work_function": found}, batch, ["work_function"])
    assert float(squared.detach()) == pytest.approx((both(model, neutral(film()))[1] - 4.5) ** 2, rel=1e-9)
    squared.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(torch.isfinite(g).all()) for g in gradients)


def labels(count: int, side: int, seed: int) -> list[Atoms]:
    """Frames with the work functions that another model has for them."""
    teacher = make_model(7, charges=CHARGES)
    assert teacher.sites is not None
    with torch.no_grad():
        teacher.sites.element.weight[4, 0] = 1.0
    out = []
    for k in range(count):
        atoms = film(seed + k)
        one = teacher.predict(batch_of(teacher, neutral(atoms)))
        atoms.info |= {"total_charge": 0.0, "W": float(one.work_functions[0, side]), "E": float(one.energy)}
        out.append(atoms)
    return out


def settings(folder: Path, **source: Any) -> dict[str, Any]:
    return {
        "data": {
            "train": "train.xyz", "valid": "valid.xyz", "keys": {"energy": "E", "work_function": "W"},
            "electrode_elements": ["Au"], "work_function_side": "+", "checks": {"energy_outliers": None}, **source,
        },
        "model": {
            "architecture": {"cutoff": 3.0, "channels": 3, "l_max": 1, "radial": 3, "hidden": 4},
            "dtype": "float64", "charges": CHARGES,
        },
        "loss": {"energy": 0.0, "forces": 0.0, "work_function": 1.0},
        "optimiser": {"epochs": 12, "batch_size": 2, "learning_rate": 0.05, "ema": 0.5},
        "output": {"plots": False, "folder": str(folder / "out")},
    }  # fmt: skip


def test_training_lowers_its_error(tmp_path: Path) -> None:
    write(tmp_path / "train.xyz", labels(6, 0, 0))
    write(tmp_path / "valid.xyz", labels(2, 0, 50))
    config = parse_training(settings(tmp_path), tmp_path)
    summary = train(config, progress=False)
    row = next(r for r in summary.table if r.quantity == "work_function")
    assert (row.unit, row.count) == ("meV", 2)
    first = settings(tmp_path) | {"output": {"plots": False, "folder": str(tmp_path / "first")}}
    first["optimiser"] |= {"epochs": 1, "learning_rate": 1e-300}
    untrained = train(parse_training(first, tmp_path), progress=False)
    before = next(r for r in untrained.table if r.quantity == "work_function")
    assert row.rmse < 0.5 * before.rmse
    model = load_model(summary.model)
    frames = read_frames(tmp_path / "valid.xyz", config.data.sources[1].reading(model.spec.charges))
    assert [f.work_function_side for f in frames] == ["+", "+"]
    table = evaluate(model, frames).errors
    assert 1e3 * table.value("work_function") == pytest.approx(row.rmse, rel=1e-6)


def test_the_metal_starts_at_the_work_function_of_the_labels(tmp_path: Path) -> None:
    frames = labels(4, 0, 0)
    for atoms in frames:
        atoms.info["W"] += 5.0
    write(tmp_path / "train.xyz", frames)
    write(tmp_path / "valid.xyz", labels(2, 0, 50))
    config = parse_training(settings(tmp_path), tmp_path)
    splits = checked_frames(config)
    model, notes = build_model(config, splits.train)
    assert notes[-1].startswith("electronegativities of metals start from work functions: ")
    batch = batch_of(model, *splits.train)
    left = predict(model, batch, {"work_function"})["work_function"] - batch.labels["work_function"]
    assert abs(float(left.mean())) < 1e-6
    assert float(left.abs().max()) < 1.0


def test_a_metal_whose_electronegativity_stays_0_learns_no_work_function(tmp_path: Path) -> None:
    fixed = settings(tmp_path)
    fixed["model"]["charges"] = {"kind": "transfer", "dipoles": {"O": 1.0}}
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        parse_training(fixed, tmp_path)
    assert str(refused.value) == (
        "loss.work_function = 1 must come with an electronegativity of the metal that is learned, not one that stays 0: set "
        "model.charges.site_constants: element, or environment"
    )


SPOILED: dict[str, tuple[Callable[[Atoms], Any], str]] = {
    "3d": (
        lambda a: a.set_pbc(True),
        "must not be given with boundary 3d: only a slab has a vacuum level; state boundary slab, or leave the label "
        "out",
    ),
    "charged": (
        lambda a: a.info.update(total_charge=-1.0, countercharge="none"),
        "must not be given with total_charge = -1 e: a charged slab has a field, not a level, outside; leave the label "
        "out",
    ),
    "field": (
        lambda a: a.info.update(external_field=[0.0, 0.0, 0.1], field_kind="E", field_unit="V/Å"),
        "must not be given with field = [0.0, 0.0, 0.1] V/Å: the level outside depends on the plane it is taken in; "
        "leave the label out",
    ),
    "no conductor": (
        lambda a: a.numbers.__setitem__(slice(0, 8), 11),
        "must not be given with 0 conductors: it belongs to exactly one; name the metal's elements or leave the label "
        "out",
    ),
}


@pytest.mark.parametrize("name", SPOILED)
def test_frames_without_a_work_function_are_listed(name: str, tmp_path: Path) -> None:
    spoil, sentence = SPOILED[name]
    frames = labels(2, 0, 0)
    spoil(frames[1])
    value = frames[1].info["W"]
    write(tmp_path / "some.xyz", frames)
    reading = Reading(READING.keys, electrode_elements=("Au",), formal=READING.formal, work_function_side="+")
    with pytest.raises(ValueError, match="bad ones") as caught:
        read_frames(tmp_path / "some.xyz", reading)
    assert str(caught.value) == (
        "frames = 1 bad ones must be corrected or left out:\n"
        f"some.xyz, frame 1: work_function = {value:g} eV {sentence}"
    )


def test_two_conductors_have_none(tmp_path: Path) -> None:
    atoms, groups = slab()
    atoms.info |= {"W": 4.0, "total_charge": 0.0, "electrode_charge": [0.0, 0.0]}
    atoms.arrays["group"] = np.full(len(atoms), -1)
    for k, group in enumerate(groups):
        atoms.arrays["group"][group] = k
    reading = Reading(READING.keys, electrode_groups="group", formal=READING.formal, work_function_side="+")
    with pytest.raises(ValueError, match="conductors") as caught:
        make_frame(atoms, reading)
    assert str(caught.value) == (
        "work_function = 4 eV must not be given with 2 conductors: it belongs to exactly one; name the metal's elements "
        "or leave the label out"
    )


def test_the_side_is_part_of_the_label() -> None:
    atoms = film()
    atoms.info["W"] = 4.0
    with pytest.raises(ValueError, match="side") as caught:
        make_frame(atoms, READING)
    assert str(caught.value) == (
        "work_function_side = nothing must be + or - beside a work_function: + is the side that n = a x b points to"
    )
    atoms.info["work_function_side"] = "-n"
    assert make_frame(atoms, READING).work_function_side == "-"
    plus = Reading(READING.keys, electrode_elements=("Au",), total_charge=0.0, work_function_side="+")
    with pytest.raises(ValueError, match="contradict") as caught:
        make_frame(atoms, plus)
    assert str(caught.value) == (
        "work_function_side = -n of the frame must not contradict the + that is asked for: correct one of the two, or "
        "ignore the key"
    )


def test_models_without_a_conductor_of_their_own_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.xyz", labels(1, 0, 0))
    write(tmp_path / "valid.xyz", labels(1, 0, 3))
    config = settings(tmp_path)
    config["model"]["charges"] = {"kind": "none"}
    values = [labels(1, 0, seed)[0].info["W"] for seed in (0, 3)]
    with pytest.raises(ValueError, match="kind none") as caught:
        checked_frames(parse_training(config, tmp_path))
    rest = "eV must not be given with charges of kind none: no conductor stands apart there; use transfer or projected"
    assert str(caught.value) == (
        "frames = 2 bad ones must be corrected or left out:\n"
        f"train.xyz, frame 0: work_function = {values[0]:g} {rest}\n"
        f"valid.xyz, frame 0: work_function = {values[1]:g} {rest}\n"
        "set data.drop_bad: true to leave them out"
    )
    atoms = film()
    atoms.info["W"] = 4.0
    model = make_model(charges={"kind": "none"})
    one = make_frame(atoms, Reading(READING.keys, electrode_elements=("Au",), total_charge=0.0,
                                    formal=READING.formal, work_function_side="+"))  # fmt: skip
    with pytest.raises(ValueError, match="predicted charges") as caught:
        evaluate(model, [one])
    assert str(caught.value) == (
        "work_function of frame, frame 0 must not be given to a model without predicted charges: leave the label out"
    )
