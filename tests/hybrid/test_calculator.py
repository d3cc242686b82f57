"""The ASE calculator: derivatives, caching, held potentials, files, and what it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.io import read, write
from ase.io.trajectory import Trajectory

from grahame.electrostatics import Coulomb, Electrode
from grahame.hybrid.calculator import HybridCalculator
from tests.hybrid.small_cells import calculator, small_cell

BOTTOM, TOP = np.arange(4), np.arange(4, 8)


def ready(boundary: str = "slab", **options: Any) -> Atoms:
    atoms = small_cell()
    if boundary in ("3d", "finite-field", "displacement"):
        atoms.pbc = True
    if boundary == "open":
        atoms.pbc = False
    atoms.calc = calculator(atoms, boundary, **options)
    return atoms


def counted(atoms: Atoms) -> list[bool]:
    """A list that gains one entry (stress asked for or not) per evaluation."""
    calls: list[bool] = []
    evaluate = atoms.calc.potential.evaluate

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs["stress"])
        return evaluate(*args, **kwargs)

    atoms.calc.potential.evaluate = counting
    return calls


ENSEMBLES = {
    "held potentials": ("slab", {}),
    "held charges": (
        "slab",
        {"electrodes": [Electrode(BOTTOM, charge=-0.3), Electrode(TOP, charge=0.3)]},
    ),
    "a charge and a potential": (
        "slab",
        {"electrodes": [Electrode(BOTTOM, charge=-0.3), Electrode(TOP, potential=1.0)]},
    ),
    "finite field": ("finite-field", {}),
    "displacement": (
        "displacement",
        {"displacement": 0.05, "electrodes": [Electrode(np.arange(8), charge=0.0)]},
    ),
    "no electrodes": ("slab", {"electrodes": []}),
    "a field": ("slab", {"field": 0.05}),
    "a field without electrodes": ("slab", {"field": 0.05, "electrodes": []}),
}


@pytest.mark.parametrize("name", ENSEMBLES)
def test_forces_and_stress_are_derivatives_of_the_energy(name: str) -> None:
    boundary, options = ENSEMBLES[name]
    atoms = ready(boundary, accuracy=1e-9, **options)
    chosen = [5, 9, 20]
    forces = atoms.get_forces()[chosen]
    numeric = calculate_numerical_forces(atoms, eps=1e-4, iatoms=chosen)
    assert np.abs(forces - numeric).max() < 2e-6
    stress = atoms.get_stress()
    assert np.abs(stress - calculate_numerical_stress(atoms, eps=1e-5)).max() < 1e-7


def test_nothing_is_computed_twice_for_another_property() -> None:
    atoms = ready()
    calls = counted(atoms)
    energy = atoms.get_potential_energy()
    atoms.get_forces()
    atoms.get_charges()
    atoms.get_dipole_moment()
    atoms.get_potential_energy(force_consistent=True)
    assert calls == [False]
    atoms.get_stress()
    atoms.get_stress()
    assert calls == [False, True]
    assert atoms.get_potential_energy() == energy


@pytest.mark.parametrize("what", ["positions", "cell", "potentials", "pbc"])
def test_everything_is_computed_anew_after_a_change(what: str) -> None:
    atoms = ready()
    calls = counted(atoms)
    before = atoms.get_potential_energy()
    if what == "positions":
        atoms.positions[8, 0] += 0.1
    elif what == "cell":
        atoms.cell[0, 0] *= 1.01
    elif what == "pbc":
        atoms.pbc = True
    else:
        atoms.calc.set_potentials([0.0, 1.5])
    after = atoms.get_potential_energy()
    assert len(calls) == 2
    if what != "pbc":
        assert abs(after - before) > 1e-3
    fresh = atoms.copy()
    fresh.calc = calculator(fresh)
    if what == "potentials":
        fresh.calc.set_potentials([0.0, 1.5])
    assert abs(fresh.get_potential_energy() - after) < 1e-6


def test_other_elements_are_refused() -> None:
    atoms = ready()
    atoms.get_potential_energy()
    atoms.numbers[20] = 19
    with pytest.raises(ValueError, match="element of atom 20 = K must be Na as in the topology"):
        atoms.get_potential_energy()
    assert atoms.calc.results == {}


def test_unchanged_potentials_keep_the_results() -> None:
    atoms = ready()
    calls = counted(atoms)
    atoms.get_potential_energy()
    atoms.calc.set_potentials([0.0, 1.0])
    atoms.get_potential_energy()
    assert len(calls) == 1


def test_a_property_without_atoms_belongs_to_the_last_atoms_and_the_new_potentials() -> None:
    atoms = ready()
    atoms.get_potential_energy()
    atoms.calc.set_potentials([0.0, 2.0])
    assert atoms.calc.get_property("energy") == atoms.get_potential_energy()
    with pytest.raises(ValueError, match=r"^atoms = None must be given: nothing was computed"):
        calculator(atoms).get_property("energy")


def test_a_held_charge_replaces_a_held_potential() -> None:
    atoms = ready()
    atoms.get_potential_energy()
    charges = atoms.calc.results["electrode_charges"].copy()
    forces = atoms.get_forces()
    atoms.calc.set_electrode_charges(charges)
    assert np.abs(atoms.get_forces() - forces).max() < 1e-6
    potentials = atoms.calc.results["electrode_potentials"]
    assert potentials[1] - potentials[0] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([1.0], "potentials = 1 values must be one per electrode (2): put None where nothing changes"),
        ([0.0, np.inf], "potentials = [0.0, inf] V must be finite: check the input"),
        (
            {0: 0.5, 1: 1.5},
            "potentials = {0: 0.5, 1: 1.5} V must be numbers, one per electrode: write [0.0, 1.0]",
        ),
        ({0.5, 1.5}, "potentials = {0.5, 1.5} V must be numbers, one per electrode: write [0.0, 1.0]"),
    ],
)
def test_wrong_potentials_get_one_sentence(values: Any, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        ready().calc.set_potentials(values)
    assert str(caught.value) == sentence


def test_results_hold_what_electrochemists_ask_for() -> None:
    atoms = ready()
    atoms.get_potential_energy()
    r = atoms.calc.results
    assert r["energy"] == pytest.approx(r["internal_energy"] - r["work"], abs=1e-12)
    assert r["free_energy"] == r["energy"]
    assert r["work"] == pytest.approx(r["electrode_charges"] @ r["electrode_potentials"], abs=1e-12)
    assert r["electrode_charges"].sum() == pytest.approx(0.0, abs=1e-10)
    assert r["electrode_charges"][1] > 0
    assert r["charges"][4:8].sum() == pytest.approx(r["electrode_charges"][1], abs=1e-12)
    assert r["electrode_potentials"].tolist() == [0.0, 1.0]
    assert r["dipole"] == pytest.approx(r["charges"] @ atoms.positions, abs=1e-10)


def test_implemented_properties_are_honest() -> None:
    atoms = ready()
    assert atoms.calc.implemented_properties == [
        "energy",
        "free_energy",
        "forces",
        "stress",
        "dipole",
        "charges",
    ]
    for name in atoms.calc.implemented_properties:
        assert atoms.calc.get_property(name, atoms) is not None
    with pytest.raises(PropertyNotImplementedError):
        atoms.calc.get_property("magmoms", atoms)
    assert set(atoms.calc.export_properties()) >= set(atoms.calc.implemented_properties)


def test_an_open_system_offers_no_stress() -> None:
    atoms = ready("open", method="exact", electrodes=[])
    atoms.get_forces()
    assert "stress" not in atoms.calc.implemented_properties
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


@pytest.mark.parametrize("format", ["traj", "extxyz"])
def test_files_give_back_what_was_computed(tmp_path: Path, format: str) -> None:
    atoms = ready()
    atoms.get_stress()
    path = tmp_path / f"frame.{format}"
    if format == "traj":
        with Trajectory(path, "w", atoms) as trajectory:
            trajectory.write()
    else:
        write(path, atoms)
    frame = read(path)
    assert isinstance(frame, Atoms)
    digits = 1e-12 if format == "traj" else 1e-8
    assert frame.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=digits)
    for name in ("forces", "charges", "stress", "dipole"):
        assert np.abs(frame.calc.get_property(name) - atoms.calc.get_property(name, atoms)).max() <= digits
    assert (frame.pbc == atoms.pbc).all()


@pytest.mark.parametrize("pbc", [(True, True, False), (True, True, True)])
def test_wrapped_atoms_give_the_same_energy_and_keep_their_positions(pbc: tuple[bool, bool, bool]) -> None:
    atoms = ready()
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    wrong = atoms.copy()
    wrong.pbc = pbc
    wrong.calc = atoms.calc
    wrong.positions[[8, 21]] += wrong.cell[2]  # an oxygen and the chloride
    wrong.positions[:4] -= wrong.cell[0]
    before = wrong.positions.copy()
    assert wrong.get_potential_energy() == pytest.approx(energy, abs=1e-6)
    assert np.abs(wrong.get_forces() - forces).max() < 1e-5
    assert (wrong.positions == before).all()


WRONG_PBC = [
    ("3d", (True, True, False), "pbc = (True, True, False) must be (True, True, True) with boundary 3d"),
    ("slab", (False, False, False), "pbc = (False, False, False) must be (True, True, False) with boundary slab"),
    ("finite-field", (True, True, False), "pbc = (True, True, False) must be (True, True, True) with boundary finite-field"),
]  # fmt: skip


@pytest.mark.parametrize(("boundary", "pbc", "sentence"), WRONG_PBC, ids=[b for b, _, _ in WRONG_PBC])
def test_wrong_pbc_is_refused(boundary: str, pbc: tuple[bool, bool, bool], sentence: str) -> None:
    atoms = ready(boundary)
    atoms.pbc = pbc
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        atoms.get_potential_energy()
    assert str(caught.value) == f"{sentence}: set atoms.pbc or choose another boundary"


def test_positions_that_are_not_finite_are_named() -> None:
    atoms = ready()
    atoms.positions[9, 1] = np.nan
    with pytest.raises(
        ValueError, match=r"^positions\[9\] = \[.* nan .*\] Å must be finite: check the structure"
    ):
        atoms.get_potential_energy()


def test_a_cell_without_volume_is_refused() -> None:
    atoms = ready()
    atoms.cell[1] = atoms.cell[0]
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        atoms.get_potential_energy()
    assert str(caught.value) == (
        "cell volume = 0 Å³ must be positive with boundary slab: give three independent cell vectors"
    )


def test_the_package_imports_without_its_heavy_parts() -> None:
    import subprocess
    import sys

    code = "import grahame.hybrid, sys; print([m for m in ('torch', 'ase', 'numba') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
    import grahame.hybrid

    assert grahame.hybrid.HybridCalculator is HybridCalculator


def test_what_is_no_operator_and_no_electrode_is_refused() -> None:
    atoms = ready()
    short_range = atoms.calc.potential.short_range
    for options, message in (
        (
            {"coulomb": "slab"},
            "coulomb = 'slab' must be a Coulomb: write e.g. Coulomb('slab', accuracy=1e-5)",
        ),
        (
            {"coulomb": Coulomb("slab"), "electrodes": [0, 1]},
            "electrodes[0] = 0 must be an Electrode: pass Electrode(indices, potential=...)",
        ),
    ):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
            HybridCalculator(short_range, **options)
        assert str(caught.value) == message


def test_nothing_is_set_by_name() -> None:
    calculator = ready().calc
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        calculator.set(potentials=[0.0, 2.0])
    assert str(caught.value) == (
        "potentials = [0.0, 2.0] must be given to HybridCalculator(...): only what is held changes afterwards, by set_potentials "
        "and set_electrode_charges"
    )
    assert calculator.set() == {}


def test_electrodes_that_the_atoms_do_not_have_and_no_list_of_them_are_refused() -> None:
    atoms = ready()
    short_range = atoms.calc.potential.short_range
    atoms.calc = HybridCalculator(short_range, Coulomb("slab"), [Electrode([200], potential=0.0)])
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        atoms.get_potential_energy()
    assert str(caught.value) == (
        "electrode 0 = atom 200 must be an atom of the structure, which has 22: check the indices"
    )
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        HybridCalculator(short_range, Coulomb("slab"), Electrode([0], potential=1.0))  # type: ignore[arg-type]
    assert str(caught.value) == (
        "electrodes = Electrode(1 atoms, potential=1.0 V) must be a list of Electrode: write "
        "[Electrode(indices, potential=...), ...]"
    )
