"""The teacher: exact derivatives, neutral molecules, charges that answer, responses, and the reference set."""

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import read
from numpy.typing import NDArray

from grahame.electrostatics import Coulomb
from grahame.hybrid.calculator import HybridCalculator
from grahame.hybrid.shortrange.base import ShortRange
from grahame.hybrid.shortrange.fluctuating import SPC_FQ, FluctuatingWater
from grahame.hybrid.shortrange.surroundings import GOLD_IN_WATER, SurroundingsModel
from grahame.hybrid.teacher import default_coulomb, metal_groups, teacher_calculator
from grahame.hybrid.teacher_frames import field_response, frame_text, label, responses, rounded
from tests.hybrid.small_cells import small_cell

BOX_MODEL = Path(__file__).resolve().parents[2] / "examples" / "box_model"
POTENTIALS = [-0.4, 0.7]


def teacher(atoms: Atoms, **options: object) -> HybridCalculator:
    held = {} if "charges" in options else {"potentials": POTENTIALS}
    coulomb = default_coulomb(atoms, accuracy=1e-8)
    return teacher_calculator(atoms, coulomb=coulomb, solver="direct", **(held | options))  # type: ignore[arg-type]


def numerical_force(atoms: Atoms, calc: HybridCalculator, atom: int, axis: int) -> float:
    """Fourth-order difference of Omega."""

    def energy(shift: float) -> float:
        moved = atoms.copy()
        moved.positions[atom, axis] += shift
        moved.calc = calc
        return float(moved.get_potential_energy())

    h = 4e-3
    return -(8 * (energy(h) - energy(-h)) - (energy(2 * h) - energy(-2 * h))) / (12 * h)


def bulk(seed: int = 0) -> Atoms:
    """Twenty-six waters and an ion pair on a lattice of 3.1 Å, turned at random."""
    rng = np.random.default_rng(seed)
    sites = 3.1 * np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3)
    half = np.radians(109.47) / 2
    local = np.array([[0, 0, 0], [np.sin(half), np.cos(half), 0], [-np.sin(half), np.cos(half), 0]])
    waters = [s + local @ np.linalg.qr(rng.normal(size=(3, 3)))[0] for s in sites[:25]]
    atoms = Atoms("OH2" * 25 + "NaCl", np.concatenate([*waters, sites[25:]]), cell=[9.3] * 3, pbc=True)
    atoms.positions += rng.normal(scale=0.03, size=atoms.positions.shape)
    return atoms


def molecule_charges(atoms: Atoms, calc: HybridCalculator) -> NDArray[np.float64]:
    short_range = calc.potential.short_range
    assert isinstance(short_range, FluctuatingWater)
    return np.asarray(calc.results["charges"][short_range.waters].sum(axis=1))


@pytest.mark.parametrize("surroundings", [None, GOLD_IN_WATER], ids=["constants", "surroundings"])
@pytest.mark.parametrize("held", ["potentials", "charges"])
def test_forces_equal_minus_the_gradient_of_omega(held: str, surroundings: SurroundingsModel | None) -> None:
    atoms = small_cell()
    options = {} if held == "potentials" else {"charges": [-0.3, 0.3]}
    calc = teacher(atoms, surroundings=surroundings, **options)
    atoms.calc = calc
    forces = atoms.get_forces().copy()
    o, h = int(np.flatnonzero(atoms.numbers == 8)[0]), int(np.flatnonzero(atoms.numbers == 1)[3])
    for atom, axis in ((o, 0), (h, 2), (1, 2), (len(atoms) - 1, 1)):
        assert forces[atom, axis] == pytest.approx(numerical_force(atoms, calc, atom, axis), abs=1e-7)


@pytest.mark.parametrize("metal", [False, True], ids=["water", "gold that follows its surroundings"])
def test_stress_of_bulk_is_the_strain_derivative(metal: bool) -> None:
    atoms = bulk()
    coulomb = Coulomb("3d", "ewald", accuracy=1e-8)
    if metal:
        del atoms[-2:]  # the ions make room for gold
        atoms += Atoms("Au2", [[6.2, 6.2, 3.1], [6.2, 6.2, 6.2]])
        atoms.set_array("electrode", np.array([-1] * (len(atoms) - 2) + [0, 0]))
    calc = teacher_calculator(
        atoms,
        charges=[0.0] if metal else None,
        coulomb=coulomb,
        surroundings=GOLD_IN_WATER if metal else None,
    )
    atoms.calc = calc
    stress = atoms.get_stress(voigt=False)
    for a, b in ((0, 0), (2, 2), (0, 1)):
        energies = []
        for e in (1e-4, -1e-4):
            strain = np.eye(3)
            strain[a, b] += e / 2
            strain[b, a] += e / 2
            moved = atoms.copy()
            moved.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            moved.calc = calc
            energies.append(moved.get_potential_energy())
        slope = (energies[0] - energies[1]) / 2e-4 / atoms.get_volume()
        assert stress[a, b] == pytest.approx(slope, abs=1e-6)


def test_every_molecule_is_neutral_and_the_cell_too() -> None:
    atoms = small_cell()
    atoms.calc = teacher(atoms)
    charges = atoms.get_charges()
    assert np.abs(molecule_charges(atoms, atoms.calc)).max() < 1e-12
    assert abs(charges.sum()) < 1e-12
    assert charges[atoms.numbers == 11] == pytest.approx([1.0])


def test_charges_spread_in_a_liquid() -> None:
    atoms = bulk()
    atoms.calc = teacher_calculator(atoms)
    charges = atoms.get_charges()
    oxygen, hydrogen = charges[atoms.numbers == 8], charges[atoms.numbers == 1]
    assert -1.05 < oxygen.mean() < -0.7
    assert oxygen.std() > 0.04
    assert hydrogen.std() > 0.04
    assert np.abs(molecule_charges(atoms, atoms.calc)).max() < 1e-12


def test_the_matrix_of_metal_and_water_is_positive_definite() -> None:
    atoms = small_cell()
    atoms.calc = teacher(atoms)
    atoms.get_potential_energy()
    solver = atoms.calc.potential.solver
    assert solver is not None
    assert solver.smallest_eigenvalue > 1.0


def test_water_answers_the_potential() -> None:
    atoms = small_cell()
    calc = teacher(atoms)
    atoms.calc = calc
    before = atoms.get_charges().copy()
    calc.set_potentials([-0.4, 2.7, *[None] * 4])
    change = atoms.get_charges() - before
    water = np.isin(atoms.numbers, (1, 8))
    assert np.abs(change[water]).max() > 1e-3
    assert np.abs(molecule_charges(atoms, calc)).max() < 1e-12


def test_responses_are_derivatives_of_the_charge_and_of_each_other() -> None:
    atoms = rounded(small_cell())
    calc = teacher(atoms)
    columns, info = responses(atoms, calc)
    by_psi, by_charge, capacitance = columns["dF_dpsi"], columns["dF_dQ"], info["capacitance"]
    assert capacitance > 0.0
    assert by_charge * capacitance == pytest.approx(by_psi, abs=1e-8)
    assert np.abs(by_psi).max() > 1e-3
    atoms.calc = calc
    atoms.get_forces()
    assert calc.potentials[:2].tolist() == POTENTIALS
    charge = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[9, 2] += sign * 1e-4
        moved.calc = calc
        moved.get_forces()
        charge.append(calc.results["electrode_charges"][1])
    assert by_psi[9, 2] == pytest.approx((charge[0] - charge[1]) / 2e-4, abs=1e-6)


def test_surroundings_decide_how_much_charge_a_potential_drives() -> None:
    atoms = rounded(small_cell())
    constant, follows = teacher(atoms), teacher(atoms, surroundings=GOLD_IN_WATER)
    columns, info = responses(atoms, follows)
    assert columns["dF_dQ"] * info["capacitance"] == pytest.approx(columns["dF_dpsi"], abs=1e-8)
    # Most of the voltage drops in the vacuum between the slabs of this cell, whatever the metal is made of.
    assert 0.0 < info["capacitance"] < 0.998 * responses(atoms, constant)[1]["capacitance"]
    labels, _ = label(atoms, follows)
    chi, hardness = labels["electronegativity"], labels["hardness"]
    gold = atoms.numbers == 79
    assert np.ptp(chi[gold]) > 0.1
    assert np.ptp(hardness[gold]) > 0.1
    assert (chi[atoms.numbers == 8] == SPC_FQ.electronegativity).all()
    # By hand, for one atom: all images within the cut-off.
    model, expected = GOLD_IN_WATER, [0.0, 0.0]
    box = atoms.cell.array
    for j in range(len(atoms)):
        for a in range(-2, 3):
            for b in range(-2, 3):
                r = float(np.linalg.norm(atoms.positions[j] + a * box[0] + b * box[1] - atoms.positions[5]))
                if 0.0 < r < model.cutoff:
                    pair = ("Au", atoms.symbols[j])
                    f = (1.0 - (r / model.cutoff) ** 2) ** 3
                    expected[0] += model.electronegativity[pair] * f
                    expected[1] += model.hardness[pair] * f
    assert [chi[5], hardness[5]] == pytest.approx(expected, abs=1e-12)


def test_a_restart_restores_the_list_of_the_surroundings() -> None:
    atoms = small_cell()
    first, second = (teacher(atoms, surroundings=GOLD_IN_WATER).potential.short_range for _ in range(2))

    def constants(short_range: ShortRange) -> NDArray[np.float64]:
        found = short_range.compute(
            atoms.positions, atoms.numbers, atoms.cell.array, (True, True, False), False
        )
        return np.array([found.electronegativity, found.hardness])

    constants(first)
    kept = first.state()
    atoms.positions[8:] += 0.1
    wanted = constants(first)
    second.load_state(kept)
    assert np.array_equal(constants(second), wanted)
    assert int(second.state()["surroundings_builds"]) == 1


def test_constants_of_the_surroundings_are_checked() -> None:
    with pytest.raises(ValueError, match="cutoff") as error:
        SurroundingsModel(0.0)
    assert str(error.value) == "cutoff = 0.0 Å must be positive and finite: 5 Å is usual"
    with pytest.raises(ValueError, match="hardness") as error:
        SurroundingsModel(5.0, hardness={("Au", "O"): -0.1})
    assert str(error.value) == (
        "hardness[Au, O] = -0.1 V/e must not be negative: crowded atoms would become unstable"
    )


def test_field_response_sums_to_the_charge_of_the_cell() -> None:
    atoms = rounded(small_cell())
    columns, info = field_response(atoms, lambda field: teacher(atoms, charges=[-0.3, 0.3], field=field))
    response = columns["field_response"]
    assert info == {"born_kind": "at_Q"}
    assert response.sum(axis=0) == pytest.approx([0, 0, 0], abs=1e-8)
    assert response[atoms.numbers == 11, 2] > 0.3


def test_label_states_what_is_held() -> None:
    atoms = rounded(small_cell())
    _, info = label(atoms, teacher(atoms))
    assert (info["energy_kind"], info["potential"].tolist()) == ("Omega", POTENTIALS)
    assert "electrode_charge" not in info
    work = float(info["electrode_charges"] @ info["electrode_potentials"])
    assert info["internal_energy"] - info["energy"] == pytest.approx(work, abs=1e-10)
    columns, fixed = label(atoms, teacher(atoms, charges=info["electrode_charges"].tolist()))
    assert (fixed["energy_kind"], "potential" in fixed) == ("E", False)
    # The same atoms with the same charges, held: U is the energy, forces and charges stay.
    assert fixed["energy"] == pytest.approx(info["internal_energy"], abs=1e-8)
    assert columns["forces"] == pytest.approx(label(atoms, teacher(atoms))[0]["forces"], abs=1e-8)


def test_work_function_is_measured_from_the_vacuum_of_the_named_side() -> None:
    film = rounded(small_cell())
    film = film[np.flatnonzero((film.arrays["electrode"] != 1) & (film.positions[:, 2] < 16.0))]
    film = film[np.flatnonzero(~np.isin(film.numbers, (11, 17)))]
    calc = teacher(film, charges=[0.0])
    columns, info = label(film, calc)
    top, bottom = film.positions[:, 2].max() + 12.0, film.positions[:, 2].min() - 12.0
    points = [[1.0, 2.0, top], [1.0, 2.0, bottom]]
    vacuum = calc.potential.coulomb.potential_at(
        points, film.positions, columns["charges"], film.cell.array, columns["smearing"]
    )
    metal = info["electrode_potentials"][0]
    assert info["work_function_side"] == "+n"
    assert info["work_function"] == pytest.approx(metal - vacuum[0], abs=1e-4)
    assert info["work_function_other_side"] == pytest.approx(metal - vacuum[1], abs=1e-4)
    assert abs(info["work_function"] - info["work_function_other_side"]) > 0.1
    assert "work_function" not in label(film, teacher(film, potentials=[0.0]))[1]


def test_frame_text_keeps_positions_exactly_and_gives_back_the_labels() -> None:
    atoms = rounded(small_cell())
    columns, info = label(atoms, teacher(atoms))
    back = read(io.StringIO(frame_text(atoms, columns, info)), format="extxyz")
    assert isinstance(back, Atoms)
    assert np.array_equal(back.positions, atoms.positions)
    assert np.array_equal(back.cell, atoms.cell)
    assert back.get_potential_energy() == info["energy"]
    assert back.get_forces() == pytest.approx(columns["forces"], abs=1e-10)
    assert back.get_charges() == pytest.approx(columns["charges"], abs=1e-10)
    assert np.array_equal(back.arrays["electrode"], atoms.arrays["electrode"])
    _, again = label(rounded(back), teacher(rounded(back)))
    assert again["energy"] == info["energy"]


@pytest.mark.parametrize("runs", ["runs.yaml", "surroundings.yaml"])
def test_reference_set_is_checksummed_and_finished_runs_are_kept(tmp_path: Path, runs: str) -> None:
    command = [sys.executable, str(BOX_MODEL / "generate.py"), "--out", str(tmp_path), "--quick"]
    command += ["--config", str(BOX_MODEL / runs)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = [subprocess.run(command, capture_output=True, text=True, env=environment) for _ in range(2)]
    assert [d.returncode for d in done] == [0, 0], done[0].stderr + done[1].stderr
    assert "was there" not in done[0].stdout
    assert done[1].stdout.count("was there") == 2
    index = json.loads((tmp_path / "index.json").read_text())
    assert {f["split"] for f in index["files"]} == {"train", "val"}
    for file in index["files"]:
        data = (tmp_path / file["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == file["sha256"]
        frames = read(tmp_path / file["file"], ":")
        assert len(frames) == file["frames"]
        for frame in frames:
            assert np.abs(frame.get_forces().sum(axis=0)).max() < 1e-8
            assert frame.get_charges().sum() == pytest.approx(frame.info["total_charge"], abs=1e-8)


def test_boundary_follows_the_periodic_directions() -> None:
    atoms = small_cell()
    assert default_coulomb(atoms).boundary == "slab"
    atoms.pbc = True
    assert default_coulomb(atoms).boundary == "3d"
    atoms.pbc = False
    assert default_coulomb(atoms).boundary == "open"


def test_what_cannot_be_meant_is_refused() -> None:
    atoms = small_cell()
    with pytest.raises(ValueError, match="both") as error:
        teacher_calculator(atoms, potentials=[0, 1], charges=[0, 0])
    assert str(error.value) == (
        "potentials, charges = both must be one of the two: hold the potentials or the charges"
    )
    with pytest.raises(ValueError, match="values") as error:
        teacher_calculator(atoms, potentials=[0])
    assert str(error.value) == (
        'potentials = 1 values must be one per electrode (2): number the electrodes in arrays["electrode"]'
    )
    with pytest.raises(ValueError, match="must be 2") as error:
        responses(rounded(atoms), teacher(atoms, charges=[0.0, 0.0]))
    assert str(error.value) == (
        "electrodes held at a potential = 0 must be 2: responses are those of one electrode against the other"
    )
    atoms.arrays["electrode"][atoms.arrays["electrode"] == 1] = 3
    with pytest.raises(ValueError, match="gaps") as error:
        metal_groups(atoms)
    assert str(error.value) == (
        'arrays["electrode"] = [0, 3] must number the electrodes from 0 without gaps: renumber them'
    )
    atoms.pbc = (True, False, False)
    with pytest.raises(ValueError, match="pbc") as error:
        default_coulomb(atoms)
    assert str(error.value) == (
        "pbc = (True, False, False) must be (True, True, False), all True or all False: set atoms.pbc or give "
        "coulomb"
    )
