"""Input that says one thing twice, or half of it: cut slabs, fields along repeating directions, rigid water, labels."""

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bcc100, fcc111
from ase.calculators.singlepoint import SinglePointCalculator

from grahame.hybrid.analysis import analyse
from grahame.hybrid.cli import main
from grahame.hybrid.engines.integrators import draw_momenta
from grahame.hybrid.engines.run import run
from grahame.hybrid.engines.setup import load_structure, prepare
from grahame.hybrid.evaluate import evaluate, write_predictions
from grahame.hybrid.profiles import DensityCounter, Grid
from grahame.hybrid.reading import Reading, make_frame
from grahame.hybrid.shortrange.rigid import rigid_water_constraints
from grahame.hybrid.solve import solve_structure
from tests.hybrid.model_cells import make_model, slab, water_box
from tests.hybrid.small_cells import small_cell, small_run

NVE = {"steps": 6, "ensemble": "nve"}


@pytest.mark.parametrize("metal", ["Au", "Li", "Na", "Pb"])
def test_slabs_that_the_cells_face_cuts_are_refused(metal: str) -> None:
    lattice = {"Au": 4.08, "Li": 3.51, "Na": 4.29, "Pb": 4.95}[metal]
    if metal in ("Li", "Na"):
        atoms = bcc100(metal, (3, 3, 5), a=lattice)
    else:
        atoms = fcc111(metal, (2, 2, 4), a=lattice, orthogonal=True)
    atoms.cell[2] = (0.0, 0.0, np.ptp(atoms.positions[:, 2]) + 15.0)
    atoms.pbc = True
    atoms.positions[:, 2] -= atoms.positions[:, 2].mean()
    atoms.wrap()
    atoms.info["total_charge"] = 0.0
    atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.zeros((len(atoms), 3)))
    with pytest.raises(ValueError, match="must not be bonded across the face of the cell along z"):
        make_frame(atoms, Reading(boundary="slab", electrode_elements=(metal,)))


def test_a_field_along_a_repeating_direction_is_refused_whatever_the_charges() -> None:
    atoms = small_cell()
    atoms.pbc = True
    atoms = atoms[[i for i in range(len(atoms)) if not 4 <= i < 8]]
    with pytest.raises(ValueError, match="must be left out with boundary 3d"):
        solve_structure(atoms, groups={0: [0, 1, 2, 3]}, potentials={0: 0.0}, boundary="3d", field=0.05)


def test_rigid_water_of_a_structure_file_is_held_once(tmp_path: Path) -> None:
    counts = []
    for name in ("cell.xyz", "cell.traj"):
        atoms = small_cell()
        atoms.set_constraint(rigid_water_constraints(atoms))
        folder = tmp_path / name
        folder.mkdir()
        config = small_run(
            folder,
            NVE,
            electrodes=[
                {"indices": [0, 1, 2, 3], "potential": 0.0},
                {"indices": [4, 5, 6, 7], "potential": 1.0},
            ],
            structure={"file": name},
            short_range={"kind": "classical", "cutoff": 5.0, "water": "spc/e-rigid"},
        )
        ase.io.write(folder / name, atoms)
        counts.append(prepare(config, load_structure(config)).atoms.get_number_of_degrees_of_freedom())
    assert counts[0] == counts[1]


def test_rigid_water_alone_is_drawn_without_momentum_of_the_whole() -> None:
    atoms = water_box()
    atoms.set_constraint(rigid_water_constraints(atoms))
    draw_momenta(atoms, 300.0, np.random.default_rng(0))
    np.testing.assert_allclose(atoms.get_momenta().sum(axis=0), 0.0, atol=1e-12)


def test_limits_without_electrode_0_leave_the_potential_in_its_gauge(tmp_path: Path) -> None:
    trajectory = run(small_run(tmp_path, NVE), progress=False).trajectory
    whole, part = (
        analyse(trajectory, limits=limits)["profiles"]["electrostatic"] for limits in (None, (9.0, 20.0))
    )
    assert whole["potential_reference"] == "the outermost layer of electrode 0 is at its electrode potential"
    assert part["potential_reference"] == "gauge of the boundary"


def test_profiles_of_charges_without_their_dipoles_are_refused(tmp_path: Path) -> None:
    trajectory = Path(run(small_run(tmp_path, NVE), progress=False).trajectory)
    path = trajectory.with_name("small.provenance.json")
    record = json.loads(path.read_text())
    record["short_range"] = {"kind": "learned", "spec": {"charges": {"dipoles": {"O": 1.0}}}}
    path.write_text(json.dumps(record))
    profiles = analyse(trajectory)["profiles"]
    assert profiles["electrostatic"] is None
    assert profiles["missing"] == (
        "frames hold the charges of a model with atomic dipoles, but not these dipoles"
    )


def test_densities_of_the_electrolyte_are_without_the_electrodes() -> None:
    atoms = small_cell()
    electrode = np.full(len(atoms), -1)
    electrode[:4], electrode[4:8] = 0, 1
    atoms.set_array("electrode", electrode)
    atoms.symbols[8] = "Au"
    grid = Grid(atoms, 0.5, None)
    found = []
    for electrolyte in (True, False):
        counter = DensityCounter(grid, ["Au"], electrolyte)
        counter.add(atoms)
        area = np.linalg.norm(np.cross(*atoms.cell[:2]))
        found.append(round(float(counter.result().number["Au"].sum() * area * grid.width)))
    assert found == [1, 9]


def test_a_reference_in_a_field_is_refused(tmp_path: Path) -> None:
    trajectory = Path(run(small_run(tmp_path, NVE), progress=False).trajectory)
    path = trajectory.with_name("small.provenance.json")
    record = json.loads(path.read_text())
    other = tmp_path / "base"
    other.mkdir()
    for file in tmp_path.glob("small.*"):
        (other / file.name).write_bytes(file.read_bytes())
    record["config"]["field"] = 0.1
    (other / path.name).write_text(json.dumps(record))
    with pytest.raises(
        ValueError, match="must be a run whose charge its voltage makes alone: an applied field"
    ):
        analyse(trajectory, reference=other / trajectory.name)


def test_limits_are_given_on_the_command_line(tmp_path: Path) -> None:
    trajectory = run(small_run(tmp_path, NVE), progress=False).trajectory
    main(["analyse", str(trajectory), "--limits", "9", "20", "--no-plot"])
    heights = json.loads((tmp_path / "small.analysis.json").read_text())["profiles"]["density"]["z_A"]
    assert 9.0 < heights[0] < heights[-1] < 20.0


def test_a_dipole_may_be_left_out_along_some_directions() -> None:
    atoms = water_box()
    atoms.info |= {"total_charge": 0.0, "REF_dipole": np.array([np.nan, np.nan, 0.3])}
    frame = make_frame(atoms, Reading(keys={"dipole": "REF_dipole"}))
    np.testing.assert_array_equal(frame.labels["dipole"], [np.nan, np.nan, 0.3])
    atoms.info["REF_dipole"] = np.array([0.0, np.inf, 0.0])
    with pytest.raises(ValueError, match="must be finite"):
        make_frame(atoms, Reading(keys={"dipole": "REF_dipole"}))


def test_predictions_of_frames_at_held_potentials_say_so(tmp_path: Path) -> None:
    atoms, groups = slab()
    electrode = np.full(len(atoms), -1)
    for g, members in enumerate(groups):
        electrode[members] = g
    atoms.set_array("electrode", electrode)
    atoms.info |= {
        "total_charge": 0.0, "potential": np.array([0.0, 1.5]), "potential_reference": "internal", "REF_energy": 0.0,
    }  # fmt: skip
    reading = Reading(
        keys={"energy": "REF_energy"}, electrode_groups="electrode", formal={"H": 1.0, "O": -2.0}
    )
    frame = make_frame(atoms, reading)
    write_predictions(evaluate(make_model(accuracy=1e-8), [frame]), tmp_path / "out.xyz")
    again = make_frame(ase.io.read(tmp_path / "out.xyz"), reading)
    assert [e.potential for e in again.conditions.electrodes] == [0.0, 1.5]
