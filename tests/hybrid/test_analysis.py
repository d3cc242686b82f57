"""The analysis of a run, on files written as a run writes them, with known charges and fields."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import read, write
from numpy.typing import NDArray

from grahame.electrostatics.units import COULOMB_CONSTANT
from grahame.hybrid.analysis import analyse
from grahame.hybrid.charge_series import charge_series
from grahame.hybrid.engines.files import frame_text
from grahame.hybrid.statistics import series_mean
from grahame.hybrid.trajectories import atom_charges, electrode_groups, frame_time, read_frames, read_log

Array = NDArray[np.float64]

AREA, GAP = 36.0, 14.0
UNIT = 1.602176634e3  # e/(V Å²) in µF/cm²
VACUUM_CHARGE = AREA / (4 * math.pi * COULOMB_CONSTANT * GAP)  # of the empty cell at 1 V


def cell_of_plates(charge: float) -> Atoms:
    """Two plates of two layers, the charge on the inner ones, and one neutral molecule between them."""
    x = [[1, 1, 3.0], [3, 3, 5.0], [1, 1, 5.0 + GAP], [3, 3, 7.0 + GAP]]
    water = molecule("H2O")
    water.translate([2.0, 2.0, 12.0] - water.positions[0])
    atoms = Atoms("Au4", positions=x) + water
    atoms.set_cell([6.0, 6.0, 30.0])
    atoms.pbc = (True, True, False)
    atoms.set_array("electrode", np.array([0, 0, 1, 1, -1, -1, -1]))
    atoms.info["charges"] = np.array([0, -charge, charge, 0, 0, 0, 0])
    return atoms


def write_run(
    folder: Path, name: str, charges: Array, voltage: float = 1.0, boundary: str | None = "slab"
) -> Path:
    """Trajectory, log and provenance as `grahame run` leaves them; every second sample is a frame."""
    frames, rows = [], []
    for step, charge in enumerate(charges):
        for stage in ("equilibrate", "produce"):
            atoms = cell_of_plates(charge)
            q = atoms.info.pop("charges")
            time = 10.0 * (step + (len(charges) if stage == "produce" else 0))
            results: dict[str, Any] = {
                "energy": -1.0, "internal_energy": -2.0, "dipole": np.zeros(3), "forces": np.zeros((7, 3)),
                "charges": q, "electrode_charges": np.array([-charge, charge]),
                "electrode_potentials": np.array([-0.5 * voltage, 0.5 * voltage]),
            }  # fmt: skip
            row = f"{step},{stage},{1e-3 * time},{300 + step % 2},{-charge},{charge},{-voltage / 2},{voltage / 2}"
            rows.append((stage, row))
            if step % 2 == 0:
                text = frame_text(atoms, results, {"step": step, "stage": stage, "time_fs": time})
                frames.append((stage, text))
    order = ("equilibrate", "produce")
    path = folder / f"{name}.extxyz"
    path.write_text("".join(text for s in order for stage, text in frames if stage == s))
    header = (
        "step,stage,time_ps,temperature_K,electrode_0_charge_e,electrode_1_charge_e,electrode_0_potential_V,"
        "electrode_1_potential_V"
    )
    lines = [header, *(row for s in order for stage, row in rows if stage == s)]
    path.with_suffix(".csv").write_text("\n".join(lines) + "\n")
    if boundary is not None:
        config = {"coulomb": {"boundary": boundary}, "solver": {"smearing": 0.5}}
        (folder / f"{name}.provenance.json").write_text(json.dumps({"config": config}))
    return path


@pytest.fixture
def noise() -> Array:
    return np.random.default_rng(4).normal(0.0, 0.01, size=200)


def test_charge_and_capacitance_come_from_the_log_of_the_production(tmp_path: Path, noise: Array) -> None:
    path = write_run(tmp_path, "run", 0.2 + noise)
    result = analyse(path)
    cell = result["cell"]
    assert result["log"] == str(tmp_path / "run.csv")
    assert (cell["bottom"], cell["top"]) == (0, 1)
    assert cell["charge_e"]["samples"] == 200
    assert cell["charge_e"]["value"] == pytest.approx((0.2 + noise).mean(), abs=1e-12)
    assert cell["charge_e"]["error"] == pytest.approx(0.01 / math.sqrt(200), rel=0.3)
    assert cell["voltage_V"]["value"] == pytest.approx(1.0)
    capacitance = cell["capacitance_uF_per_cm2"]
    assert capacitance["value"] == pytest.approx((0.2 + noise).mean() / AREA * UNIT, rel=1e-12)
    assert capacitance["error"] == pytest.approx(cell["charge_e"]["error"] / AREA * UNIT, rel=1e-12)
    assert capacitance["definition"] == "Q/(A U)"
    assert result["temperature_K"]["value"] == pytest.approx(300.5)
    # Rows are 0.01 ps apart; the correlation time is in ps, as that of the charge.
    in_rows = series_mean(300.0 + np.arange(200) % 2).correlation_time
    assert result["temperature_K"]["correlation_time"] == pytest.approx(0.01 * in_rows, abs=1e-12)
    assert result["time_ps"] == pytest.approx(1.98)
    assert result["frames"] == 100


def test_result_is_json(tmp_path: Path, noise: Array) -> None:
    result = analyse(write_run(tmp_path, "run", noise))
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_reference_run_is_subtracted(tmp_path: Path, noise: Array) -> None:
    base = write_run(tmp_path, "zero", 0.05 - noise, voltage=0.0)
    out = analyse(write_run(tmp_path, "one", 0.2 + noise), reference=base)["cell"]["capacitance_uF_per_cm2"]
    assert out["value"] == pytest.approx((0.15 + 2 * noise.mean()) / AREA * UNIT, rel=1e-9)
    assert out["error"] == pytest.approx(math.sqrt(2) * 0.01 / math.sqrt(200) / AREA * UNIT, rel=0.3)
    assert out["definition"] == "(Q - Q_ref)/(A (U - U_ref))"


def test_without_voltage_there_is_no_integral_capacitance(tmp_path: Path, noise: Array) -> None:
    out = analyse(write_run(tmp_path, "zero", noise, voltage=0.0))["cell"]["capacitance_uF_per_cm2"]
    assert out == {
        "value": None,
        "error": None,
        "definition": "none: there is no voltage difference; give a run at another voltage",
    }


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (
            {"boundary": "displacement", "displacement": 0.1},
            "none: at constant displacement the field drives the charge, not the voltage",
        ),
        ({"field": 0.1}, "none: an applied field charges the electrodes as well"),
    ],
)
def test_what_else_drives_charge_leaves_no_capacitance(
    tmp_path: Path, noise: Array, options: dict[str, Any], why: str
) -> None:
    out = analyse(write_run(tmp_path, "run", 0.2 + noise), **options)["cell"]["capacitance_uF_per_cm2"]
    assert out == {"value": None, "error": None, "definition": why}


def test_a_reference_of_another_cell_is_refused(tmp_path: Path, noise: Array) -> None:
    base = write_run(tmp_path, "zero", 0.05 - noise, voltage=0.0)
    base.write_text(base.read_text().replace('Lattice="', 'Lattice="1'))
    with pytest.raises(ValueError, match="same cell") as refused:
        analyse(write_run(tmp_path, "one", 0.2 + noise), reference=base)
    assert str(refused.value).startswith(f"reference = {base}, ")
    assert str(refused.value).endswith("only then is the difference of charges that of the voltages")


def test_potential_stands_on_the_scale_of_the_electrodes(tmp_path: Path) -> None:
    """Charges of the empty capacitor at 1 V: the profile meets both held potentials."""
    result = analyse(write_run(tmp_path, "run", np.full(8, VACUUM_CHARGE)))
    e = result["profiles"]["electrostatic"]
    z, potential = np.array(e["z_A"]), np.array(e["potential_V"])
    # Gaussian planes see each other as points, so that the gap is the whole capacitor.
    assert np.interp(3.0, z, potential) == pytest.approx(-0.5, abs=1e-6)
    assert np.interp(7.0 + GAP, z, potential) == pytest.approx(0.5, abs=1e-6)
    assert e["potential_reference"] == "the outermost layer of electrode 0 is at its electrode potential"
    assert np.interp(9.0, z, e["field_V_per_A"]) == pytest.approx(-1.0 / GAP, rel=1e-6)
    bottom, top = result["electrodes"]
    assert (bottom["layers_A"], bottom["surface_A"], bottom["back_A"]) == ([3.0, 5.0], 5.0, 3.0)
    assert (top["surface_A"], top["back_A"]) == (5.0 + GAP, 7.0 + GAP)
    assert top["surface_charge_uC_per_cm2"]["value"] == pytest.approx(
        VACUUM_CHARGE / AREA * 1.602176634e3, rel=1e-9
    )


def test_widths_of_the_run_smear_the_electrode_charges(tmp_path: Path) -> None:
    path = write_run(tmp_path, "run", np.full(4, 0.3))
    z = np.array(analyse(path)["profiles"]["electrostatic"]["z_A"])
    for options, width in (({}, 0.5), ({"smearing": [0.5, 0.2]}, 0.2)):
        e = analyse(path, **options)["profiles"]["electrostatic"]  # type: ignore[arg-type]
        rho = np.array(e["charge_density_e_per_A3"])
        at = np.abs(z - (5.0 + GAP)) < 3.0
        centre = (z[at] * rho[at]).sum() / rho[at].sum()
        variance = ((z[at] - centre) ** 2 * rho[at]).sum() / rho[at].sum()
        assert math.sqrt(variance - 0.1**2 / 12) == pytest.approx(width, rel=1e-3)


def test_profiles_hold_what_the_frames_hold(tmp_path: Path, noise: Array) -> None:
    profiles = analyse(write_run(tmp_path, "run", 0.2 + noise), spacing=0.25)["profiles"]
    density = profiles["density"]
    width = density["z_A"][1] - density["z_A"][0]
    assert list(density["number_per_A3"]) == ["O", "H"]
    assert np.sum(density["number_per_A3"]["H"]) * width * AREA == pytest.approx(2.0)
    seen = [c for c in profiles["orientation"]["cos_theta"] if c is not None]
    assert seen == [pytest.approx(-1.0)]  # ASE's molecule points its hydrogens along -z
    assert profiles["missing"] is None


def test_charges_come_from_the_frames_when_there_is_no_log(tmp_path: Path, noise: Array) -> None:
    path = write_run(tmp_path, "run", 0.2 + noise, boundary=None)
    path.with_suffix(".csv").unlink()
    result = analyse(path)
    assert result["log"] is None
    assert result["boundary"] == "slab"
    assert result["cell"]["charge_e"]["value"] == pytest.approx((0.2 + noise)[::2].mean(), abs=1e-9)
    assert result["cell"]["voltage_V"]["value"] == 1.0


def test_skipped_time_and_stages_select_rows_and_frames(tmp_path: Path, noise: Array) -> None:
    path = write_run(tmp_path, "run", 0.2 + noise)
    part = charge_series(path, skip_ps=1.0)
    assert part is not None
    assert len(part.time) == 100
    assert part.interval == pytest.approx(0.01)
    assert analyse(path, skip_ps=1.0)["frames"] == 50
    assert analyse(path, stage=None)["frames"] == 200
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        analyse(path, stage="minimise")
    assert str(caught.value) == (
        "stage = minimise with skip_ps = 0 ps must leave at least one frame: "
        "the trajectory has the stages equilibrate, produce; choose another or skip less"
    )


def test_all_stages_leave_out_minimisation_and_count_shared_steps_once(tmp_path: Path, noise: Array) -> None:
    """The first step of production is the last of equilibration; before both stands a minimisation."""
    path = write_run(tmp_path, "run", 0.2 + noise)
    text = path.read_text()
    first = text.index(" step=0 stage=produce")
    text = text[:first] + text[first:].replace(" step=0 ", " step=198 ", 1)
    minimised = text[: text.index("\n7\n", 3) + 1].replace("stage=equilibrate", "stage=minimise")
    path.write_text(minimised + text)
    log = path.with_suffix(".csv")
    header, *rows = log.read_text().splitlines()
    produced = next(i for i, row in enumerate(rows) if ",produce," in row)
    rows[produced] = "199," + rows[produced].partition(",")[2]
    low = rows[0].split(",")
    low[1], low[3:6] = "minimise", ["", "-90.0", "90.0"]
    log.write_text("\n".join([header, ",".join(low), *rows]) + "\n")
    out = analyse(path, stage=None)
    assert out["frames"] == 199
    assert out["cell"]["charge_e"]["samples"] == 399
    assert out["cell"]["charge_e"]["value"] == pytest.approx(0.2, abs=0.01)
    assert analyse(path, stage="minimise")["frames"] == 1


def test_the_temperature_of_a_run_without_electrodes_is_reported(tmp_path: Path, noise: Array) -> None:
    path = write_run(tmp_path, "run", 0.2 + noise)
    path.write_text(re.sub(r"(Au.*?) +[01] ", r"\1  -1 ", path.read_text()))
    rows = [row.split(",")[:4] for row in path.with_suffix(".csv").read_text().splitlines()]
    path.with_suffix(".csv").write_text("\n".join(",".join(r) for r in rows) + "\n")
    result = analyse(path)
    assert result["electrodes"] == []
    assert result["temperature_K"]["value"] == pytest.approx(300.5)
    assert result["log"] == str(path.with_suffix(".csv"))
    # Another program's table of the same name is no log.
    path.with_suffix(".csv").write_text("name,value\nwater,good\n")
    assert analyse(path)["temperature_K"] is None


def as_ase_trajectory(path: Path) -> Path:
    """The same frames in ASE's format, as `output.ase_trajectory` leaves them."""
    write(path.with_suffix(".traj"), read(path, ":"))
    return path.with_suffix(".traj")


def test_ase_trajectories_take_their_electrodes_from_the_files_beside(tmp_path: Path, noise: Array) -> None:
    path = write_run(tmp_path, "run", 0.2 + noise)
    expected, found = analyse(path), analyse(as_ase_trajectory(path))
    assert expected["electrodes_from"] is None
    assert found["electrodes_from"] == str(path)
    differ = {k for k in expected if expected[k] != found[k]}
    assert differ == {"trajectory", "electrodes_from"}


def test_ase_trajectories_whose_electrodes_nobody_names_are_refused(tmp_path: Path, noise: Array) -> None:
    path = write_run(tmp_path, "run", 0.2 + noise)
    trajectory = as_ase_trajectory(path)
    path.unlink()
    record = path.with_name("run.provenance.json")
    record.write_text(json.dumps({"electrodes": [{"atoms": 2}, {"atoms": 2}]}))
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        analyse(trajectory)
    assert str(caught.value) == (
        f"electrode = no array in {trajectory} must name the atoms of the 2 electrodes of this run: analyse run.extxyz, or put "
        "it or run.checkpoint.npz beside"
    )


def test_electrodes_that_are_not_numbered_from_zero_are_refused(tmp_path: Path) -> None:
    atoms = cell_of_plates(0.1)
    atoms.info.clear()
    atoms.set_array("electrode", np.array([1, 1, 3, 3, -1, -1, -1]))
    write(tmp_path / "run.extxyz", [atoms] * 3)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        analyse(tmp_path / "run.extxyz")
    assert str(caught.value) == (
        "electrode = numbers 1, 3 in the frames must count from 0 without gaps: number the electrodes anew, -1 for atoms in none"
    )


@pytest.mark.parametrize("skip", [math.nan, -1.0, math.inf])
def test_times_that_cannot_be_left_out_are_refused(tmp_path: Path, noise: Array, skip: float) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        analyse(write_run(tmp_path, "run", noise), skip_ps=skip)
    assert str(caught.value) == (
        f"skip_ps = {skip:g} ps must be finite and not negative: give a time to leave out"
    )


def test_a_ramp_has_no_integral_capacitance(tmp_path: Path, noise: Array) -> None:
    path = write_run(tmp_path, "run", 0.2 + noise)
    log = path.with_suffix(".csv")
    rows = [line.split(",") for line in log.read_text().splitlines()]
    for number, row in enumerate(rows[1:]):
        row[-1] = f"{0.01 * number}"
    log.write_text("\n".join(",".join(r) for r in rows) + "\n")
    out = analyse(path)["cell"]["capacitance_uF_per_cm2"]
    assert out["definition"] == "none: neither the voltage nor the charge was constant"


def held_charge(folder: Path, name: str, charge: float, voltage: float, noise: float) -> Path:
    """A run of 100 rows whose charge is held and whose voltage fluctuates."""
    path = write_run(folder, name, np.full(100, charge))
    log = path.with_suffix(".csv")
    rows = [line.split(",") for line in log.read_text().splitlines()]
    volts = voltage + np.random.default_rng(0).normal(0, noise, size=len(rows))
    for row, volt in zip(rows[1:], volts):
        row[-2:] = [f"{-volt / 2}", f"{volt / 2}"]
    log.write_text("\n".join(",".join(r) for r in rows) + "\n")
    return path


def test_errors_of_both_voltages_count_at_held_charges(tmp_path: Path) -> None:
    base = held_charge(tmp_path, "zero", 0.0, 0.1, 0.08)
    runs = [held_charge(tmp_path, "run", 0.2, 1.1, 0.05), base]
    own, other = (analyse(p)["cell"]["voltage_V"] for p in runs)
    out = analyse(runs[0], reference=base)["cell"]["capacitance_uF_per_cm2"]
    difference = own["value"] - other["value"]
    assert out["value"] == pytest.approx(0.2 / AREA * UNIT / difference, rel=1e-9)
    assert out["error"] / out["value"] == pytest.approx(
        math.hypot(own["error"], other["error"]) / difference, rel=1e-9
    )


def test_the_coulomb_constant_of_the_run_is_that_of_its_potentials(tmp_path: Path) -> None:
    path = write_run(tmp_path, "run", np.full(8, VACUUM_CHARGE))
    record = path.with_name("run.provenance.json")
    config = {"coulomb": {"boundary": "slab", "coulomb_constant": 2.0 * COULOMB_CONSTANT}}
    record.write_text(json.dumps({"config": config}))
    e = analyse(path)["profiles"]["electrostatic"]
    assert np.interp(9.0, e["z_A"], e["field_V_per_A"]) == pytest.approx(-2.0 / GAP, rel=1e-6)


def test_held_charge_gives_the_capacitance_from_the_mean_voltage(tmp_path: Path) -> None:
    path = held_charge(tmp_path, "run", 0.2, 1.0, 0.05)
    out = analyse(path)["cell"]["capacitance_uF_per_cm2"]
    assert out["value"] == pytest.approx(0.2 / AREA * UNIT, rel=0.02)
    assert out["error"] / out["value"] == pytest.approx(0.05 / math.sqrt(100), rel=0.4)


def test_charges_count_on_the_mean_area_of_cells_that_change(tmp_path: Path) -> None:
    frames = []
    for side in (6.0, 6.3):
        atoms = cell_of_plates(0.2)
        atoms.arrays["charges"] = atoms.info.pop("charges")
        atoms.info["electrode_potentials"] = np.array([0.0, 1.0])
        atoms.set_cell([side, 6.0, 30.0 + side])
        frames.append(atoms)
    write(tmp_path / "breathing.extxyz", frames)
    result = analyse(tmp_path / "breathing.extxyz")
    assert result["area_A2"] == pytest.approx(36.9)
    assert result["height_A"] == pytest.approx(36.15)
    assert result["cell"]["capacitance_uF_per_cm2"]["value"] == pytest.approx(0.2 / 36.9 * UNIT)
    surface = result["electrodes"][1]["surface_charge_uC_per_cm2"]["value"]
    assert surface == pytest.approx(0.2 / 36.9 * UNIT)


@pytest.mark.parametrize("boundary", [None, "slab"])
def test_a_surface_along_another_axis_is_refused(tmp_path: Path, boundary: str | None) -> None:
    """Profiles along a x b would be profiles within the surface."""
    atoms = cell_of_plates(0.2)
    atoms.arrays["charges"] = atoms.info.pop("charges")
    atoms.set_cell(np.array(atoms.cell)[[2, 0, 1]])
    atoms.pbc = (False, True, True)
    write(tmp_path / "turned.extxyz", [atoms] * 2)
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        analyse(tmp_path / "turned.extxyz", boundary=boundary)
    assert str(refused.value) == (
        "pbc = (False, True, True) must be (True, True, False) for a slab, (True, True, True) or (False, False, False): reorder "
        "the cell so that its third vector leaves the surface"
    )


def test_plain_trajectories_of_other_programs_are_read(tmp_path: Path) -> None:
    """No electrodes, no charges, no times: densities remain, and what is missing is said."""
    box = molecule("H2O", cell=[8.0, 8.0, 8.0], pbc=True)
    box.center()
    for name in ("water.traj", "water.xyz"):
        write(tmp_path / name, [box] * 3)
        result = analyse(tmp_path / name)
        assert (result["electrodes"], result["cell"], result["series"]) == ([], None, None)
        assert result["boundary"] == "3d"
        assert result["frames"] == 3
        assert result["profiles"]["electrostatic"] is None
        assert result["profiles"]["missing"] == (
            "charges = nothing must be in every frame: write them as the array `charges`, as `grahame run` does"
        )


def test_frames_give_back_charges_groups_and_times(tmp_path: Path) -> None:
    path = write_run(tmp_path, "run", np.array([0.25, 0.5]))
    (atoms,) = read_frames(path, "produce")
    np.testing.assert_allclose(atom_charges(atoms), [0, -0.25, 0.25, 0, 0, 0, 0])
    assert [g.tolist() for g in electrode_groups(atoms)] == [[0, 1], [2, 3]]
    assert frame_time(atoms) == pytest.approx(0.02)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    path = write_run(tmp_path, "run", np.array([0.25, 0.5]))
    with pytest.raises(FileNotFoundError) as lost:
        analyse(tmp_path / "other.extxyz")
    assert (
        str(lost.value)
        == f"trajectory = {tmp_path}/other.extxyz must be a file: give the path of a trajectory"
    )
    with pytest.raises(FileNotFoundError) as no_log:
        analyse(path, log=tmp_path / "other.csv")
    assert str(no_log.value) == f"log = {tmp_path}/other.csv must be a file: give the path of a run's CSV log"
    text = path.read_text()
    path.write_text(text[:-300])
    with pytest.raises(ValueError) as cut:  # noqa: PT011
        analyse(path)
    start = f"trajectory = {path} must be complete: after 1 frames ASE cannot read on ("
    end = "); continue the run with restart, which repairs its end, or remove the last frame"
    assert str(cut.value).startswith(start)
    assert str(cut.value).endswith(end)
    path.write_text("")
    with pytest.raises(ValueError) as empty:  # noqa: PT011
        analyse(path)
    assert str(empty.value) == f"trajectory = {path} must hold at least one frame: it is empty"


def test_damaged_logs_are_named(tmp_path: Path) -> None:
    log = tmp_path / "run.csv"
    log.write_text("")
    with pytest.raises(ValueError) as empty:  # noqa: PT011
        read_log(log)
    assert str(empty.value) == f"log = {log} must have a header line: the file is empty"
    log.write_text("step,time_ps\n0,0.0\n1\n")
    with pytest.raises(ValueError) as cut:  # noqa: PT011
        read_log(log)
    assert str(cut.value) == (
        f"log = {log}, line 3: 1 cells must be 2, as in the header: the file is cut off or damaged; remove that line"
    )
    log.write_text("step,time_ps\n0,zero\n")
    with pytest.raises(ValueError) as word:  # noqa: PT011
        read_log(log)
    assert str(word.value) == (
        f"log = {log}, column time_ps must hold numbers: could not convert string to float: 'zero'; correct the file"
    )
    write_run(tmp_path, "run", np.array([0.25, 0.5]))
    log.write_text("time_ps,stage\n0.0,produce\n")
    with pytest.raises(ValueError) as column:  # noqa: PT011
        analyse(tmp_path / "run.extxyz")
    assert str(column.value) == (
        f"log = {log} must have the column electrode_0_charge_e: give the log of this trajectory, or remove it"
    )


def test_wrong_number_of_widths_is_named(tmp_path: Path) -> None:
    path = write_run(tmp_path, "run", np.array([0.25, 0.5]))
    result = analyse(path, smearing=[0.3, 0.4])
    assert result["profiles"]["missing"] is None
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        analyse(path, smearing=[0.3])
    assert str(caught.value) == "smearing = 1 values must be one or one per electrode (2): give widths in Å"
