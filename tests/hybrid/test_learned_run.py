"""Runs with a trained model: every condition, exact restart, what is recorded, and what is refused."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import read, write

from grahame.electrostatics import Coulomb, Electrode
from grahame.hybrid import HybridCalculator, model_file
from grahame.hybrid.analysis import analyse
from grahame.hybrid.cli import main
from grahame.hybrid.config import RunConfig, parse_config
from grahame.hybrid.engines.run import run
from grahame.hybrid.engines.setup import load_structure, prepare
from grahame.hybrid.model import HybridModel
from grahame.hybrid.model_file import load_model, save_model
from grahame.hybrid.shortrange.learned import LearnedShortRange
from grahame.hybrid.solve import solve_structure
from tests.hybrid.model_cells import make_model, slab
from tests.hybrid.small_cells import small_cell, small_run
from tests.hybrid.test_learned import no_compiler
from tests.hybrid.test_restart import contents, killed_at

BOTTOM, TOP = np.arange(4), np.arange(4, 8)


def gentle(**options: Any) -> HybridModel:
    """Random weights whose energies are small beside the repulsion of nuclei, so that a few steps stay harmless."""
    charges = {"kind": "transfer", "widths": {"Au": 0.45}} | options.pop("charges", {})
    model = make_model(charges=charges, accuracy=options.pop("accuracy", 1e-6), **options)
    with torch.no_grad():
        model.readout.weight *= 0.1
        model.shift.weight *= 0.1
        if model.charge_head is not None:
            model.charge_head.environment.weight *= 0.3
    return model


def learned_run(
    folder: Path, produce: dict[str, Any], model: HybridModel | None = None, **blocks: Any
) -> RunConfig:
    """The small run with a model beside its structure."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.safetensors"
    if model is not None or not path.exists():
        save_model(gentle() if model is None else model, path)
    short = {"model": "model.safetensors"}
    dynamics = {"minimise": {"steps": 3}, "equilibrate": {"steps": 3}, "produce": produce}
    return small_run(folder, produce, **({"short_range": short, "dynamics": dynamics} | blocks))


def rows(path: Path, stage: str = "produce") -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return [r for r in csv.DictReader(file) if r["stage"] == stage]


RAMP = [
    {"group": 0, "potential": 0.0, "mobile": True},
    {"group": 1, "ramp": [[0, 0], [0.005, 1]], "mobile": True},
]
CHARGED = [{"group": 0, "charge": -0.2}, {"group": 1, "charge": 0.2}]
ONE_METAL = [{"indices": list(range(8)), "charge": 0.0}]
EWALD = {"method": "ewald", "accuracy": 1e-4}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "constant potential": ({"ensemble": "langevin"}, {}),
    "constant charge": ({"ensemble": "nose-hoover"}, {"electrodes": CHARGED}),
    "ramp and mobile electrodes": ({"ensemble": "nve"}, {"electrodes": RAMP}),
    "thermo-potentiostat": (
        {"ensemble": "langevin"},
        {"thermo_potentiostat": {"temperature_K": 300, "time_constant_fs": 10}},
    ),
    "field": ({"ensemble": "nve"}, {"field": 0.05, "electrodes": ONE_METAL}),
    "finite field": ({"ensemble": "nve"}, {"coulomb": {"boundary": "finite-field", "accuracy": 1e-4}}),
    "displacement": (
        {"ensemble": "nve"},
        {
            "coulomb": {"boundary": "displacement", **EWALD},
            "displacement": 0.05,
            "electrodes": ONE_METAL,
        },
    ),
    "mesh": ({"ensemble": "nve"}, {"coulomb": {"method": "pme", "accuracy": 1e-4}}),
    "no electrodes": ({"ensemble": "nve"}, {"electrodes": []}),
}
MODELS: dict[str, dict[str, Any]] = {
    "single precision": {"dtype": "float32"},
    "switched": {"double_counting": "switched", "switch": (1.5, 3.5)},
    "two layers": {"layers": 2},
    "environment": {"charges": {"site_constants": "environment", "hardness": 1.0}},
    "boundary transfer": {"charges": {"boundary_transfer": True}},
}


def periodic(blocks: dict[str, Any], folder: Path) -> None:
    """Boundaries in three dimensions need a structure that repeats there."""
    if blocks.get("coulomb", {}).get("boundary") in ("finite-field", "displacement"):
        folder.mkdir(parents=True, exist_ok=True)
        atoms = small_cell()
        atoms.pbc = True
        write(folder / "cell.xyz", atoms, format="extxyz")


@pytest.mark.parametrize("name", CASES)
def test_a_killed_run_ends_with_the_same_bytes(tmp_path: Path, name: str) -> None:
    produce, blocks = CASES[name]
    folders = tmp_path / "whole", tmp_path / "killed"
    for folder in folders:
        periodic(blocks, folder)
    whole, config = (learned_run(f, {"steps": 7, **produce}, **blocks) for f in folders)
    assert run(whole, progress=False).completed
    killed_at(config, 12)
    assert contents(folders[1]) != contents(folders[0])
    assert run(config, progress=False, restart=True).completed
    assert contents(folders[1]) == contents(folders[0])


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_model_restarts_exactly(tmp_path: Path, name: str) -> None:
    folders = tmp_path / "whole", tmp_path / "killed"
    configs = [learned_run(f, {"steps": 7, "ensemble": "nve"}, gentle(**MODELS[name])) for f in folders]
    assert run(configs[0], progress=False).completed
    killed_at(configs[1], 12)
    assert run(configs[1], progress=False, restart=True).completed
    assert contents(folders[1]) == contents(folders[0])


def test_a_run_follows_the_forces_of_the_calculator(tmp_path: Path) -> None:
    summary = run(learned_run(tmp_path, {"steps": 3, "ensemble": "nve"}), progress=False)
    last = read(summary.trajectory, -1)
    same = last.copy()
    same.calc = HybridCalculator(
        LearnedShortRange(load_model(tmp_path / "model.safetensors")),
        Coulomb("slab", "ewald", 1e-4),
        [Electrode(BOTTOM, potential=0.0), Electrode(TOP, potential=1.0)],
    )
    assert np.abs(same.get_forces(apply_constraint=False) - last.calc.results["forces"]).max() < 1e-6
    np.testing.assert_allclose(same.get_charges(), last.calc.results["charges"], atol=1e-7)
    assert last.info["electrode_potentials"].tolist() == [0.0, 1.0]
    assert abs(float(last.calc.results["charges"][8:].sum())) < 1e-8


@pytest.mark.parametrize("name", ["ramp and mobile electrodes", "constant charge"])
def test_the_conserved_energy_is_conserved(tmp_path: Path, name: str) -> None:
    blocks = CASES[name][1] | {"coulomb": {"method": "ewald", "accuracy": 1e-7}}
    produce = {"steps": 40, "ensemble": "nve", "timestep_fs": 0.1}
    log = rows(run(learned_run(tmp_path, produce, **blocks), progress=False).log)
    conserved = np.array([float(r["conserved_eV"]) for r in log])
    kinetic = np.array([float(r["kinetic_eV"]) for r in log])
    assert np.ptp(kinetic) > 0.05
    assert np.ptp(conserved) < 0.01 * np.ptp(kinetic)


def test_frozen_electrodes_stay_and_mobile_ones_move(tmp_path: Path) -> None:
    electrodes = [{"group": 0, "potential": 0.0}, {"group": 1, "potential": 1.0, "mobile": True}]
    summary = run(learned_run(tmp_path, {"steps": 3}, electrodes=electrodes), progress=False)
    moved = np.abs(read(summary.trajectory, -1).positions - small_cell().positions).max(axis=1)
    assert moved[BOTTOM].max() < 1e-8
    assert moved[TOP].min() > 1e-6


def test_the_record_names_the_model_file_its_specification_and_widths(tmp_path: Path) -> None:
    summary = run(learned_run(tmp_path, {"steps": 1}), progress=False)
    record = json.loads(summary.provenance.read_text())["short_range"]
    path = tmp_path / "model.safetensors"
    assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert record["spec"] == load_model(path).spec.model_dump(mode="json")
    assert record["widths_A"] == pytest.approx({"H": 0.5, "O": 0.5, "Na": 0.5, "Cl": 0.5, "Au": 0.45})


def test_a_restart_refuses_another_model(tmp_path: Path) -> None:
    config = learned_run(tmp_path, {"steps": 6})
    killed_at(config, 10)
    save_model(gentle(layers=2), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"short_range\.model") as caught:
        run(config, progress=False, restart=True)
    assert str(caught.value) == (
        f"short_range.model = {tmp_path}/model.safetensors must be the file that the checkpoint was computed with (its "
        "SHA-256 differs): restore it, or start a new run under another output.name"
    )


def test_accuracy_and_smearing_come_from_the_model_unless_they_are_given(tmp_path: Path) -> None:
    def prepared(**blocks: Any) -> HybridCalculator:
        config = learned_run(tmp_path, {"steps": 1}, **blocks)
        return prepare(config, load_structure(config)).calculator

    own = prepared(coulomb={"method": "ewald"}).potential
    assert own.coulomb.accuracy == 1e-6
    assert own.solver is not None
    np.testing.assert_allclose(own.solver.smearing, 0.45)
    given = prepared(solver={"smearing": [0.5, 0.6]}).potential
    assert given.coulomb.accuracy == 1e-4
    assert given.solver is not None
    np.testing.assert_allclose(given.solver.smearing, [0.5] * 4 + [0.6] * 4)
    classical = small_run(tmp_path, {"steps": 1}, coulomb={})
    potential = prepare(classical, load_structure(classical)).calculator.potential
    assert potential.coulomb.accuracy == 1e-5
    assert potential.solver is not None
    np.testing.assert_allclose(potential.solver.smearing, 0.392)


def test_the_model_in_the_box_is_named_not_found_by_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = tmp_path / "elsewhere.safetensors"
    save_model(gentle(), box)
    monkeypatch.setattr(model_file, "boxed_model", lambda: box)
    config = learned_run(tmp_path / "run", {"steps": 1}, short_range={"model": "au-water-nacl"})
    assert config.model_path == box
    summary = run(config, progress=False)
    text = summary.provenance.read_text()
    assert json.loads(text)["config"]["short_range"]["model"] == "au-water-nacl"
    assert str(tmp_path / "elsewhere") not in text


def test_a_run_without_a_compiler_goes_on_uncompiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = run(learned_run(tmp_path / "plain", {"steps": 2}), progress=False)
    monkeypatch.setattr(torch, "compile", no_compiler)
    short = {"model": "model.safetensors", "compile": True}
    with pytest.warns(UserWarning, match=r"^compile = true must find what torch.compile needs") as said:
        found = run(learned_run(tmp_path / "compiled", {"steps": 2}, short_range=short), progress=False)
    assert sum("compile = true" in str(w.message) for w in said) == 1
    assert found.completed
    assert Path(found.trajectory).read_bytes() == Path(wanted.trajectory).read_bytes()


def test_levels_choose_the_energy(tmp_path: Path) -> None:
    def energy(level: str | None) -> float:
        model = gentle(levels=("pbe", "rpbe"))
        short = {"model": "model.safetensors"} | ({} if level is None else {"level": level})
        config = learned_run(tmp_path, {"steps": 1}, model, short_range=short)
        atoms = prepare(config, load_structure(config)).atoms
        return float(atoms.get_potential_energy())

    assert energy(None) == energy("pbe")
    assert abs(energy("pbe") - energy("rpbe")) > 1e-3
    with pytest.raises(ValueError, match="level = b3lyp must be one of pbe, rpbe"):
        energy("b3lyp")


def test_a_model_that_solves_all_charges_runs_and_restarts(tmp_path: Path) -> None:
    model = gentle(charges={"kind": "solved", "hardness": 8.0})
    folders = tmp_path / "whole", tmp_path / "killed"
    configs = [
        learned_run(f, {"steps": 7, "ensemble": "nve"}, model, electrodes=CHARGED[:1]) for f in folders
    ]
    summary = run(configs[0], progress=False)
    last = read(summary.trajectory, -1)
    np.testing.assert_allclose(last.info["electrode_charges"], [-0.2, 0.2], atol=1e-8)
    killed_at(configs[1], 8)
    run(configs[1], progress=False, restart=True)
    assert contents(folders[1]) == contents(folders[0])
    with pytest.raises(ValueError, match="electrodes = held at a potential must hold charges"):
        run(learned_run(tmp_path / "held", {"steps": 1}, model), progress=False)


@pytest.mark.parametrize("width", [0.45, [0.45, 0.45]])
def test_widths_of_electrodes_are_not_those_of_atoms_that_the_model_solves(
    tmp_path: Path, width: Any
) -> None:
    model = gentle(charges={"kind": "solved", "hardness": 8.0})

    def energy(**solver: Any) -> float:
        config = learned_run(tmp_path, {"steps": 1}, model, electrodes=CHARGED, solver=solver)
        return float(prepare(config, load_structure(config)).atoms.get_potential_energy())

    assert energy(smearing=width) == pytest.approx(energy(), abs=1e-10)


@pytest.mark.parametrize("formal", [True, False])
def test_projected_charges_take_fragments_and_formal_charges_of_the_structure(
    tmp_path: Path, formal: bool
) -> None:
    atoms = small_cell()
    atoms.set_array("piece", np.array([-1] * 8 + [k for k in range(4) for _ in range(3)] + [4, 5]))
    atoms.set_array("formal", np.array([0.0] * 20 + [1.0, -1.0]))
    short = {"model": "model.safetensors", "fragments": "piece"} | (
        {"formal_charges": "formal"} if formal else {}
    )
    model = gentle(charges={"kind": "projected"})
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "cell.xyz", atoms, format="extxyz")
        config = learned_run(tmp_path / name, {"steps": 7, "ensemble": "nve"}, model, short_range=short)
        if name == "killed":
            killed_at(config, 10)
        summary = run(config, progress=False, restart=name == "killed")
    assert contents(tmp_path / "whole") == contents(tmp_path / "killed")
    q = read(summary.trajectory, -1).calc.results["charges"]
    np.testing.assert_allclose(q[8:20].reshape(4, 3).sum(1), 0.0, atol=1e-7)
    np.testing.assert_allclose(q[20:], [1.0, -1.0] if formal else [0.0, 0.0], atol=1e-7)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "other element": (
        {"short_range": {"model": "narrow.safetensors"}},
        "numbers[20] = Na must be an element of the model (H, O, Au): train a model that knows it",
    ),
    "no array": (
        {"short_range": {"model": "model.safetensors", "fragments": "piece"}},
        "short_range.fragments = piece must be an array of the structure, which has electrode, numbers, positions: "
        "add it, or name one of these",
    ),
    "no file": (
        {"short_range": {"model": "other.safetensors"}},
        "model = FOLDER/other.safetensors must be an existing file: check the path, or use au-water-nacl",
    ),
    "no charges": (
        {"short_range": {"model": "local.safetensors"}},
        "electrodes = 8 atoms must be left out with a model without charges: it has nothing that an electrode's charge could "
        "act on",
    ),
    "exchanged charge": (
        {"short_range": {"model": "giving.safetensors"}, "thermo_potentiostat": {"time_constant_fs": 100.0}},
        "thermo_potentiostat = given must be left out with a model whose electrolyte exchanges charge with the electrodes "
        "(boundary_transfer): it holds their charges",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_model_cannot_do_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    blocks, sentence = WRONG[name]
    config = learned_run(tmp_path, {"steps": 1}, **blocks)
    narrow = gentle().spec.model_copy(update={"elements": ("H", "O", "Au")})
    save_model(HybridModel(narrow), tmp_path / "narrow.safetensors")
    save_model(gentle(charges={"kind": "none"}), tmp_path / "local.safetensors")
    save_model(gentle(charges={"boundary_transfer": True}), tmp_path / "giving.safetensors")
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        run(config, progress=False)
    assert str(caught.value) == sentence.replace("FOLDER", str(tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("block", "sentence"),
    [
        (
            {"model": "a", "cutoff": 8.0},
            "short_range.cutoff = 8.0 must be a known key: the keys here are compile, formal_charges, fragments, kind, level, "
            "model",
        ),
        (
            {"model": "a", "lvel": "x"},
            "short_range.lvel = 'x' must be a known key: did you mean `level`?",
        ),
        ({"kind": "learned"}, "short_range.model = nothing must be given: add the key `model`"),
        (
            {"kind": "classical", "model": "a"},
            "short_range = kind classical and a model must be one of the two: remove `kind` or `model`",
        ),
        (
            {"kind": "neural"},
            "short_range.kind = 'neural' must be classical, learned or foreign: for a trained model write `model:`, for one of another program also `program:`",
        ),
        (
            {"model": 3},
            "short_range.model = 3 must be text: give the path of a model file, relative to the configuration file, or "
            "au-water-nacl for the one in the box",
        ),
        (
            {"cuttoff": 8.0},
            "short_range.cuttoff = 8.0 must be a known key: did you mean `cutoff`?",
        ),
        (
            {"water": "tip3p"},
            "short_range.water = 'tip3p' must be one of spc/fw, spc/e-rigid: choose one of them",
        ),
        (
            {"cutoff": -1},
            "short_range.cutoff = -1 Å must be greater than 0 Å: give the Lennard-Jones cut-off in Å",
        ),
        (3, "short_range = 3 must be a block of keys: write the keys below it, indented"),
    ],
)
def test_a_wrong_short_range_gets_one_sentence(block: object, sentence: str) -> None:
    with pytest.raises(ValueError, match="short_range") as caught:
        parse_config({"structure": {"build": {}}, "dynamics": {}, "short_range": block})
    assert str(caught.value) == sentence


def test_a_configuration_with_a_model_survives_its_own_json() -> None:
    data = {"structure": {"build": {}}, "dynamics": {}, "short_range": {"model": "a", "level": "b"}}
    config = parse_config(data)
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


def test_profiles_of_a_run_take_the_widths_of_its_model(tmp_path: Path) -> None:
    summary = run(learned_run(tmp_path, {"steps": 6}), progress=False)
    found = analyse(summary.trajectory)["profiles"]["electrostatic"]
    record = json.loads(summary.provenance.read_text())
    record["short_range"]["widths_A"] = dict.fromkeys(record["short_range"]["widths_A"], 0.9)
    summary.provenance.write_text(json.dumps(record))
    wider = analyse(summary.trajectory)["profiles"]["electrostatic"]
    peaks = [np.abs(e["electrolyte_charge_density_e_per_A3"]).max() for e in (found, wider)]
    assert peaks[1] < 0.7 * peaks[0]


def start() -> Atoms:
    atoms = small_cell()
    atoms.positions += np.random.default_rng(0).normal(scale=0.05, size=atoms.positions.shape)
    return atoms


@pytest.mark.parametrize("name", ["transfer", "environment"])
def test_solve_takes_charges_and_widths_from_a_model(name: str) -> None:
    model, atoms = gentle(**MODELS.get(name, {})), start()
    report = solve_structure(atoms, model=model, potentials={0: 0.0, 1: 1.0}, accuracy=1e-8)
    assert report.charges_from == "model"
    moving = atoms.copy()
    electrodes = [Electrode(BOTTOM, potential=0.0), Electrode(TOP, potential=1.0)]
    moving.calc = HybridCalculator(model=model, coulomb=Coulomb("slab", accuracy=1e-8), electrodes=electrodes)
    np.testing.assert_allclose(report.charges, moving.get_charges(), atol=1e-6)
    assert report.energy == pytest.approx(
        moving.get_potential_energy() - moving.calc.results["short_range_energy"], abs=1e-5
    )
    given = solve_structure(atoms, model=model, potentials={0: 0.0, 1: 1.0}, accuracy=1e-8, smearing=0.6)
    assert abs(given.electrode_charges[1] - report.electrode_charges[1]) > 1e-3


def test_solve_sees_neighbours_of_atoms_that_were_wrapped_along_the_normal() -> None:
    atoms, groups = slab()
    atoms.cell[2, 2] = 24.0
    options: dict[str, Any] = {
        "model": gentle(), "groups": dict(enumerate(groups)), "potentials": {0: 0.0, 1: 1.0}, "accuracy": 1e-8,
    }  # fmt: skip
    whole = solve_structure(atoms, boundary="slab", **options)
    atoms.pbc = True
    atoms.positions[:, 2] -= 1.7
    atoms.wrap()
    assert np.ptp(atoms.positions[groups[0], 2]) > 15.0
    cut = solve_structure(atoms, boundary="slab", **options)
    np.testing.assert_allclose(cut.charges, whole.charges, atol=1e-7)


def test_solve_refuses_two_sources_of_charges_and_models_without() -> None:
    held = {0: 0.0, 1: 1.0}
    with pytest.raises(ValueError, match="model") as caught:
        solve_structure(start(), model=gentle(), potentials=held, charges_from="file")
    assert str(caught.value) == (
        "model = given with charges_from file must be the only source of charges: remove one"
    )
    for kind in ("none", "solved"):
        with pytest.raises(ValueError, match="model") as caught:
            solve_structure(start(), model=gentle(charges={"kind": kind}), potentials=held)
        assert str(caught.value) == (
            f"model = with charges of kind {kind} must predict the electrolyte's charges, kind transfer or projected: "
            "take another model, or charges_from"
        )


def test_the_command_solves_with_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    atoms, model = start(), gentle()
    write(tmp_path / "cell.extxyz", atoms)
    save_model(model, tmp_path / "model.safetensors")
    words = ["solve", str(tmp_path / "cell.extxyz"), "--potential", "0=0", "--potential", "1=1", "--json"]
    main([*words, "--model", str(tmp_path / "model.safetensors")])
    printed = json.loads(capsys.readouterr().out)
    report = solve_structure(read(tmp_path / "cell.extxyz"), model=model, potentials={0: 0.0, 1: 1.0})
    np.testing.assert_allclose(printed["electrode_charges"], report.electrode_charges, atol=1e-10)
    with pytest.raises(SystemExit):
        main([*words, "--model", str(tmp_path / "none.safetensors")])
    assert capsys.readouterr().err == (
        f"Error: model = {tmp_path}/none.safetensors must be an existing file: check the path, or use au-water-nacl\n"
    )
