"""The run loop: ensembles, ramps, files, and what is refused before anything is written."""

import csv
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.harmonic import SpringCalculator
from ase.constraints import FixAtoms
from ase.io import read, write

from grahame.hybrid.config import parse_config
from grahame.hybrid.engines.integrators import NoseHooverChain, draw_momenta, langevin
from grahame.hybrid.engines.run import run
from grahame.hybrid.engines.setup import load_structure, prepare
from tests.hybrid.small_cells import small_cell, small_run


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_writes_its_files_with_every_stage(tmp_path: Path) -> None:
    summary = run(small_run(tmp_path, {"steps": 6, "ensemble": "nve"}), progress=False)
    assert summary.completed
    assert summary.steps == 18
    assert summary.time_ps == pytest.approx(0.006)
    frames = read(summary.trajectory, ":")
    assert [f.info["stage"] for f in frames] == ["equilibrate"] * 3 + ["produce"] * 3
    last = frames[-1]
    assert last.info["time_fs"] == pytest.approx(6.0)
    assert last.info["electrode_charges"].shape == (2,)
    assert last.info["electrode_potentials"].tolist() == [0.0, 1.0]
    assert last.calc.results["charges"][4:8].sum() == pytest.approx(
        last.info["electrode_charges"][1], abs=1e-8
    )
    assert last.arrays["electrode"].tolist() == [0] * 4 + [1] * 4 + [-1] * 14
    assert last.get_velocities() is not None
    assert (last.constraints[0].index == np.arange(8)).all()
    log = rows(summary.log)
    assert [r["stage"] for r in log] == ["minimise"] * 4 + ["equilibrate"] * 4 + ["produce"] * 4
    assert float(log[-1]["omega_eV"]) == pytest.approx(last.get_potential_energy(), abs=1e-8)
    assert float(log[-1]["electrode_1_charge_e"]) == pytest.approx(
        last.info["electrode_charges"][1], abs=1e-9
    )
    record = json.loads(summary.provenance.read_text())
    assert record["structure"]["atoms"] == 22
    assert record["config"]["dynamics"]["seed"] == 0
    assert record["short_range"]["name"] == "classical"
    start = small_cell()
    assert (np.abs(last.positions[:8] - start.positions[:8]) < 1e-8).all()


def test_trajectory_frames_carry_the_forces_of_their_positions(tmp_path: Path) -> None:
    config = small_run(tmp_path, {"steps": 3})
    summary = run(config, progress=False)
    last = read(summary.trajectory, -1)
    again = prepare(config, load_structure(config))
    again.atoms.positions = last.positions
    assert np.abs(again.calculator.get_forces(again.atoms) - last.calc.results["forces"]).max() < 1e-6


@pytest.mark.parametrize("ensemble", ["nve", "nose-hoover"])
def test_the_conserved_energy_is_conserved_under_a_ramp(tmp_path: Path, ensemble: str) -> None:
    electrodes = [{"group": 0, "potential": 0.0, "mobile": True}, {"group": 1, "ramp": [[0, 0], [0.02, 3]]}]
    produce = {"steps": 40, "ensemble": ensemble, "timestep_fs": 0.25, "relaxation_time_fs": 20}
    config = small_run(
        tmp_path, produce, electrodes=electrodes, coulomb={"method": "ewald", "accuracy": 1e-6}
    )
    log = [r for r in rows(run(config, progress=False).log) if r["stage"] == "produce"]
    conserved = np.array([float(r["conserved_eV"]) for r in log])
    omega = np.array([float(r["omega_eV"]) for r in log])
    potential = np.array([float(r["electrode_1_potential_V"]) for r in log])
    assert potential[-1] == pytest.approx(1.5)
    assert np.ptp(omega) > 0.1
    assert np.ptp(conserved) < 2e-3


@pytest.mark.parametrize("ensemble", ["nve", "langevin", "nose-hoover"])
def test_rigid_water_stays_rigid_and_conserves_energy(tmp_path: Path, ensemble: str) -> None:
    config = small_run(
        tmp_path,
        {"steps": 40, "ensemble": ensemble, "timestep_fs": 0.5},
        short_range={"cutoff": 5.0, "water": "spc/e-rigid"},
        dynamics={"minimise": {"steps": 60, "fmax": 0.1}, "produce": {"steps": 40, "ensemble": ensemble}},
    )
    summary = run(config, progress=False)
    x = read(summary.trajectory, -1).positions[8:20].reshape(4, 3, 3)
    assert np.abs(np.linalg.norm(x[:, 1:] - x[:, :1], axis=2) - 1.0).max() < 1e-6
    if ensemble != "langevin":
        conserved = [float(r["conserved_eV"]) for r in rows(summary.log) if r["stage"] == "produce"]
        assert np.ptp(conserved) < 5e-3


def springs(frozen: int = 0) -> Atoms:
    rng = np.random.default_rng(3)
    positions = rng.uniform(0, 10, (12, 3))
    atoms = Atoms("Ar12", positions=positions + rng.normal(0, 0.1, (12, 3)))
    atoms.calc = SpringCalculator(positions, 2.0)
    if frozen:
        atoms.set_constraint(FixAtoms(np.arange(frozen)))
    return atoms


def test_the_chain_agrees_with_ase_where_nothing_is_frozen() -> None:
    chain = pytest.importorskip("ase.md.nose_hoover_chain")
    ours, theirs = springs(), springs()
    for atoms in (ours, theirs):
        atoms.set_momenta(np.random.default_rng(1).normal(0, 2, (12, 3)))
    a = NoseHooverChain(ours, 1.0 * units.fs, 300.0, 50.0 * units.fs, 3)
    b = chain.NoseHooverChainNVT(theirs, 1.0 * units.fs, 300.0, 50.0 * units.fs, 3)
    for _ in range(100):
        a.step()
        b.step()
    assert np.abs(ours.positions - theirs.positions).max() < 1e-10


def test_the_chain_does_not_count_frozen_atoms() -> None:
    atoms = springs(frozen=6)
    draw_momenta(atoms, 300.0, np.random.default_rng(0))
    integrator = NoseHooverChain(atoms, 2.0 * units.fs, 300.0, 50.0 * units.fs, 3)
    before = atoms.get_total_energy() + integrator.thermostat_energy()
    temperatures = []
    for _ in range(6000):
        integrator.step()
        temperatures.append(atoms.get_temperature())
    assert np.mean(temperatures) == pytest.approx(300.0, rel=0.06)
    assert abs(atoms.get_total_energy() + integrator.thermostat_energy() - before) < 2e-3


def test_momenta_start_at_the_temperature_without_drift() -> None:
    free = springs()
    draw_momenta(free, 250.0, np.random.default_rng(0))
    # The whole stands still: 33 of 36 degrees of freedom are warm.
    assert free.get_temperature() == pytest.approx(250.0 * 33 / 36)
    assert NoseHooverChain(free, 1.0, 250.0, 50.0).freedom == 33
    assert np.abs(free.get_momenta().sum(axis=0)).max() < 1e-12
    frozen = springs(frozen=4)
    draw_momenta(frozen, 250.0, np.random.default_rng(0))
    assert frozen.get_temperature() == pytest.approx(250.0)
    assert (frozen.get_momenta()[:4] == 0).all()


@pytest.mark.parametrize(("ensemble", "counted"), [("nve", 63), ("nose-hoover", 63), ("langevin", 66)])
def test_a_cell_that_nothing_holds_does_not_count_its_momentum(
    tmp_path: Path, ensemble: str, counted: int
) -> None:
    """22 atoms, all of them moving; a restart counts as the run before it did."""
    electrodes = [{"group": g, "potential": 0.0, "mobile": True} for g in (0, 1)]
    stage = {"steps": 4, "ensemble": ensemble, "timestep_fs": 0.1}
    config = small_run(tmp_path, stage, electrodes=electrodes, dynamics={"produce": stage})
    log = rows(run(config, progress=False).log)
    kelvin = [2 * float(r["kinetic_eV"]) / (counted * units.kB) for r in log]
    assert [float(r["temperature_K"]) for r in log] == pytest.approx(kelvin, rel=1e-8)
    longer = small_run(
        tmp_path, {**stage, "steps": 8}, electrodes=electrodes, dynamics={"produce": {**stage, "steps": 8}}
    )
    again = rows(run(longer, progress=False, restart=True).log)
    assert again[: len(log)] == log
    assert float(again[-1]["temperature_K"]) == pytest.approx(
        2 * float(again[-1]["kinetic_eV"]) / (counted * units.kB), rel=1e-8
    )


def test_rigid_water_that_is_held_loses_its_freedom_once(tmp_path: Path) -> None:
    atoms = small_cell()
    atoms.set_constraint(FixAtoms([8, 9, 10]))
    write(tmp_path / "cell.xyz", atoms, format="extxyz")
    config = small_run(tmp_path, {"steps": 1}, short_range={"cutoff": 5.0, "water": "spc/e-rigid"})
    simulation = prepare(config, load_structure(config))
    # Three rigid waters and two ions move.
    assert simulation.atoms.get_number_of_degrees_of_freedom() == 3 * 6 + 2 * 3
    assert simulation.atoms.positions[8:11].tolist() == simulation.start.positions[8:11].tolist()


def test_rigid_water_of_which_a_part_is_held_is_refused(tmp_path: Path) -> None:
    atoms = small_cell()
    atoms.set_constraint(FixAtoms([11, 13]))
    write(tmp_path / "cell.xyz", atoms, format="extxyz")
    config = small_run(tmp_path, {"steps": 1}, short_range={"cutoff": 5.0, "water": "spc/e-rigid"})
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        run(config, progress=False)
    assert str(caught.value) == (
        "held atoms = 11 and 13 of the rigid water of atoms 11, 12 and 13 must be all three or none: hold the whole "
        "molecule, let it go, or use the flexible water spc/fw"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["cell.xyz"]


def test_existing_output_is_never_replaced_unasked(tmp_path: Path) -> None:
    config = small_run(tmp_path, {"steps": 1}, dynamics={"produce": {"steps": 1}})
    run(config, progress=False)
    before = (tmp_path / "small.extxyz").read_bytes()
    with pytest.raises(FileExistsError) as caught:
        run(config, progress=False)
    assert str(caught.value) == (
        f"output = {tmp_path}/small.checkpoint.npz must not exist yet: continue that run with restart, choose another "
        "output.name, or set output.overwrite: true"
    )
    assert (tmp_path / "small.extxyz").read_bytes() == before
    output = config.output.model_copy(update={"overwrite": True})
    for ending in ("analysis.json", "png", "notes.txt"):
        (tmp_path / f"small.{ending}").write_text("of the run before", encoding="utf-8")
    run(config.model_copy(update={"output": output}), progress=False)
    assert (tmp_path / "small.extxyz").read_bytes() == before
    # An analysis of the old run would pass for one of the new; alone it is not replaced unasked either.
    for ending in ("checkpoint.npz", "csv", "extxyz"):
        (tmp_path / f"small.{ending}").rename(tmp_path / f"moved.{ending}")
    (tmp_path / "small.png").write_text("of the run before", encoding="utf-8")
    with pytest.raises(FileExistsError, match=r"small\.png must not exist yet"):
        run(config, progress=False)
    (tmp_path / "small.png").unlink()
    for ending in ("checkpoint.npz", "csv", "extxyz"):
        (tmp_path / f"moved.{ending}").rename(tmp_path / f"small.{ending}")
    assert sorted(p.name for p in tmp_path.glob("small.*")) == [
        "small.checkpoint.npz", "small.csv", "small.extxyz", "small.notes.txt", "small.provenance.json",
    ]  # fmt: skip


SELECTIONS: list[tuple[list[dict[str, Any]], str]] = [
    (
        [{"group": 7, "potential": 0}],
        "electrodes[0].group = 7 must name at least one atom: the structure has the groups [0, 1]",
    ),
    (
        [{"indices": [0, 99], "potential": 0}],
        "electrodes[0].indices = 99 must be less than 22, the number of atoms: count from 0",
    ),
    (
        [{"group": 0, "potential": 0}, {"indices": [3, 4], "potential": 1}],
        "electrodes[1] = atom 3 must belong to one electrode: it is in electrodes[0] too; give every atom to one",
    ),
    (
        [{"group": 0, "potential": 0}],
        "electrodes = 1 given must name every atom of the structure's array `electrode`: 4 atoms of the groups [1] are left "
        "out; add an electrode with `group` and what it holds (`charge: 0` keeps it neutral), or take the atoms out of the "
        "array",
    ),
    (
        [{"element": "Xx", "side": "top", "potential": 0}],
        "electrodes[0].element = 'Xx' must be a chemical symbol: write e.g. Au",
    ),
    (
        [{"element": "Na", "side": "top", "potential": 0}],
        "electrodes[0].element = Na must have atoms on two sides: the structure has 1 of it",
    ),
]


@pytest.mark.parametrize(("electrodes", "sentence"), SELECTIONS, ids=[str(e[-1]) for e, _ in SELECTIONS])
def test_a_wrong_selection_is_refused_before_anything_is_written(
    tmp_path: Path, electrodes: list[dict[str, Any]], sentence: str
) -> None:
    config = small_run(tmp_path, {"steps": 1}, electrodes=electrodes)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        run(config, progress=False)
    assert str(caught.value) == sentence
    assert [p.name for p in tmp_path.iterdir()] == ["cell.xyz"]


def test_electrodes_are_found_by_element_and_side(tmp_path: Path) -> None:
    electrodes = [
        {"element": "Au", "side": "top", "potential": 1.0},
        {"element": "Au", "side": "bottom", "potential": 0.0},
    ]
    config = small_run(tmp_path, {"steps": 1}, electrodes=electrodes)
    simulation = prepare(config, load_structure(config))
    assert simulation.calculator.potential.electrodes[0].indices.tolist() == [4, 5, 6, 7]
    assert simulation.atoms.arrays["electrode"].tolist() == [1] * 4 + [0] * 4 + [-1] * 14


def test_a_cut_off_structure_file_is_refused(tmp_path: Path) -> None:
    config = small_run(tmp_path, {"steps": 1})
    text = (tmp_path / "cell.xyz").read_text()
    (tmp_path / "cell.xyz").write_text(text[: len(text) // 2])
    with pytest.raises(
        ValueError, match=r"^structure.file = .*cell.xyz must be a complete structure file that ASE"
    ):
        run(config, progress=False)


def test_a_missing_structure_file_is_named(tmp_path: Path) -> None:
    config = parse_config({"structure": {"file": "no.xyz"}, "dynamics": {}}, tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        run(config, progress=False)
    assert str(caught.value) == (
        f"structure.file = {tmp_path}/no.xyz must be a file: give a path relative to the configuration"
    )


def test_a_failing_step_says_where_and_loses_nothing(tmp_path: Path) -> None:
    produce = {"steps": 400, "ensemble": "langevin", "temperature_K": 9e4, "timestep_fs": 10.0}
    config = small_run(tmp_path, produce, dynamics={"produce": produce})
    with pytest.raises(
        RuntimeError, match=r"\(in step \d+ of produce; the files hold what came before, the last"
    ):
        run(config, progress=False)
    frames = read(tmp_path / "small.extxyz", ":")
    assert len(frames) >= 1
    assert all(np.isfinite(f.positions).all() for f in frames)


@pytest.mark.parametrize(("layer", "held"), [([0], [0, 4, 5, 6, 7, 20]), ([0, 1, 2, 3], [4, 5, 6, 7, 20])])
def test_layers_that_the_file_holds_stay_and_mobile_electrodes_move(
    tmp_path: Path, layer: list[int], held: list[int]
) -> None:
    atoms = small_cell()
    atoms.set_constraint(FixAtoms([*layer, 20]))
    write(tmp_path / "cell.xyz", atoms, format="extxyz")
    electrodes = [{"group": 0, "potential": 0.0, "mobile": True}, {"group": 1, "potential": 1.0}]
    config = small_run(tmp_path, {"steps": 2}, electrodes=electrodes)
    simulation = prepare(config, load_structure(config))
    # A file that holds the whole electrode keeps what a run with a frozen one wrote.
    assert simulation.atoms.constraints[0].index.tolist() == held


def test_the_thermo_potentiostat_lets_charge_and_voltage_fluctuate(tmp_path: Path) -> None:
    block = {"temperature_K": 300, "time_constant_fs": 5}
    config = small_run(tmp_path, {"steps": 60, "ensemble": "nve"}, thermo_potentiostat=block)
    log = [r for r in rows(run(config, progress=False).log) if r["stage"] == "produce"]
    voltage = np.array(
        [float(r["electrode_1_potential_V"]) - float(r["electrode_0_potential_V"]) for r in log]
    )
    charge = np.array([[float(r[f"electrode_{g}_charge_e"]) for g in (0, 1)] for r in log])
    assert np.abs(charge.sum(axis=1)).max() < 1e-9
    assert np.ptp(charge[:, 1]) > 1e-3
    assert 0.05 < voltage.std() < 3.0
    assert all(r["conserved_eV"] == "" for r in log)


def test_an_ase_trajectory_is_written_at_the_end(tmp_path: Path) -> None:
    config = small_run(tmp_path, {"steps": 1}, dynamics={"produce": {"steps": 3}})
    output = config.output.model_copy(update={"ase_trajectory": True})
    summary = run(config.model_copy(update={"output": output}), progress=False)
    binary, text = read(tmp_path / "small.traj", ":"), read(summary.trajectory, ":")
    assert len(binary) == len(text) == 2
    assert (binary[-1].get_forces() == text[-1].get_forces()).all()


def test_metal_does_not_cross_the_boundary_of_a_cell_built_for_constant_displacement() -> None:
    config = parse_config(
        {
            "structure": {"build": {"size": [2, 4, 2], "gap": 12.0, "concentration": 0.0, "waters": 4}},
            "short_range": {"cutoff": 4.0},
            "coulomb": {"boundary": "displacement", "method": "ewald", "accuracy": 1e-4},
            "displacement": 0.1,
            "electrodes": [{"group": 0, "charge": 0.0}, {"group": 1, "charge": 0.0}],
            "dynamics": {"produce": {"steps": 1}},
        }
    )
    atoms = load_structure(config)
    assert atoms.pbc.all()
    heights = atoms.positions[:, 2]
    assert heights.min() == pytest.approx(5.0)
    assert atoms.cell[2, 2] - heights.max() == pytest.approx(5.0)
    ready = prepare(config, atoms)
    assert np.isfinite(ready.atoms.get_forces()).all()
    # Each electrode is polarised by D as a piece of metal of its own.
    charges = ready.calculator.results["charges"]
    for group in (0, 1):
        own = charges[ready.atoms.arrays["electrode"] == group]
        assert own.sum() == pytest.approx(0.0, abs=1e-8)
        assert np.abs(own).max() > 1e-3


def test_langevin_leaves_the_centre_of_mass_free_without_a_warning() -> None:
    atoms = Atoms("Ar2", positions=[[0, 0, 0], [4, 0, 0]])
    atoms.calc = SpringCalculator(atoms.positions.copy(), 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        langevin(atoms, units.fs, 300.0, 0.01 / units.fs, np.random.default_rng(1)).run(5)
    assert np.abs(atoms.get_momenta().sum(axis=0)).max() > 0.01


def test_metal_that_nothing_holds_is_mentioned(tmp_path: Path) -> None:
    config = small_run(tmp_path, {"steps": 1}, electrodes=[])
    with pytest.warns(UserWarning, match="electrodes = none") as said:
        run(config, progress=False)
    assert str(said[0].message) == (
        "electrodes = none hold the structure's groups [0, 1]: their atoms carry no charge; add `electrodes:` to hold them at "
        "potentials or charges"
    )
