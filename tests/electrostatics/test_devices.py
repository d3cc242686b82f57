"""The electrostatics on another device: the numbers of the CPU, on the device of the input or the one asked for.

A pretended device stands in where there is no GPU (`tests.foreign_device`); with one, the same tests run on it too.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from grahame.electrostatics import (
    ConstantPotential,
    Coulomb,
    Electrode,
    ThermoPotentiostat,
    fluctuation_capacitance,
    planar_profiles,
    slab_potential_step,
    switch,
)
from grahame.electrostatics.arrays import host
from tests.electrostatics.electrodes import MODES, Mode, arguments, cell_argument, cell_for, solver
from tests.foreign_device import FOREIGN, Transfers, foreign_device
from tests.hybrid.small_cells import calculator, small_cell
from tests.systems import ElectrodeCell, System, ions_3d, slab

CUDA = torch.device("cuda")
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
OPERATORS = [
    ("3d", "exact"), ("3d", "ewald"), ("3d", "pme"), ("slab", "exact"), ("slab", "ewald"), ("slab", "pme"),
    ("slab-exact", "exact"), ("finite-field", "ewald"), ("displacement", "pme"), ("displacement", "exact"),
    ("open", "exact"),
]  # fmt: skip
EXCLUDED = np.array([[0, 1], [2, 5]])


@dataclass(frozen=True)
class Place:
    """Where a test runs, and the copies to and from there."""

    device: torch.device
    transfers: Transfers

    def put(self, value: Any) -> Any:
        """An array, or a dictionary of arguments, as tensors there; the rest as it is."""
        if isinstance(value, dict):
            return {key: self.put(v) for key, v in value.items()}
        if isinstance(value, np.ndarray):
            return torch.as_tensor(value).to(self.device)
        return value

    def counted(self) -> Transfers:
        """The copies, counted from now on."""
        self.transfers.up.clear()
        self.transfers.down.clear()
        return self.transfers

    def same(self, found: Any, expected: Any, digits: float = 1e-12) -> None:
        """The values of the CPU, in a tensor that lives there."""
        if expected is None:
            assert found is None
            return
        assert isinstance(found, Tensor)
        assert found.device.type == self.device.type
        close(host(found), expected, digits)


def close(found: Any, expected: Any, digits: float = 1e-12) -> None:
    wanted = np.asarray(host(expected), dtype=float)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=digits * max(1.0, np.abs(wanted).max(initial=0)))


@pytest.fixture(params=[pytest.param(FOREIGN, id="pretended"), pytest.param(CUDA, id="cuda", marks=NO_GPU)])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with foreign_device() if request.param == FOREIGN else nullcontext(Transfers()) as transfers:
        yield Place(request.param, transfers)


def atoms_for(boundary: str) -> System:
    return slab(n=12) if boundary.startswith("slab") else ions_3d(n=12)


def operator_arguments(boundary: str, atoms: System) -> dict[str, Any]:
    out = {"smearing": atoms.smearing, "exclusions": EXCLUDED}
    if boundary in ("3d", "slab", "open"):
        out["field"] = np.array([0.0, 0.0, 0.05])
    if boundary == "displacement":
        out["displacement"] = np.array(0.07)
    return out


def in_cell(boundary: str, atoms: System) -> Any:
    return None if boundary == "open" else atoms.cell


# The pretence itself.


def test_the_device_refuses_what_cuda_refuses(place: Place) -> None:
    there, here = torch.arange(3.0).to(place.device), torch.arange(3.0)
    mixtures: list[Callable[[], Tensor]] = [
        lambda: there + here,
        lambda: here[there.long()],
        lambda: there.index_add(0, torch.tensor([0]), there[:1]),
        lambda: torch.stack([there.sum(), torch.tensor(0.0)]),
        lambda: here.index_put((torch.tensor([0]),), there[:1]),
        lambda: torch.tensor(1.0).add_(there[0]),
    ]
    for mixed in mixtures:
        with pytest.raises(RuntimeError, match="device"):
            mixed()
    with pytest.raises(TypeError, match=r"can't convert .* device type tensor to numpy"):
        there.numpy()
    with pytest.raises(TypeError, match=r"can't convert .* device type tensor to numpy"):
        np.asarray(there)


def test_the_device_allows_what_cuda_allows(place: Place) -> None:
    there = torch.arange(3.0).to(place.device)
    assert (torch.tensor(2.0) * there).tolist() == [0.0, 2.0, 4.0]
    assert there[torch.tensor([2, 0])].tolist() == [2.0, 0.0]
    assert there.index_put((torch.tensor([0]),), torch.tensor(5.0)).tolist() == [5.0, 1.0, 2.0]
    assert torch.where(there > 1.0, there, torch.tensor(0.0)).tolist() == [0.0, 0.0, 2.0]
    assert torch.tensor([1, 2], device=place.device).device.type == place.device.type
    leaf = there.clone().requires_grad_()
    (slope,) = torch.autograd.grad((leaf.cpu() ** 2).sum().to(place.device) + leaf.sum(), leaf)
    assert slope.device.type == place.device.type
    assert slope.tolist() == [1.0, 3.0, 5.0]


# The operator.


@pytest.mark.parametrize(("boundary", "method"), OPERATORS)
def test_every_sum_gives_the_numbers_of_the_cpu(place: Place, boundary: str, method: str) -> None:
    atoms = atoms_for(boundary)
    given = (atoms.positions, atoms.charges, in_cell(boundary, atoms))
    options = operator_arguments(boundary, atoms) | {"stress": True}
    x, q, h = (place.put(v) for v in given)
    here = Coulomb(boundary, method, 1e-8)(given[0], given[1], given[2], **options)
    there = Coulomb(boundary, method, 1e-8)(x, q, h, **place.put(options))
    for name in ("energy", "potential", "forces", "stress", "self_energy"):
        place.same(getattr(there, name), getattr(here, name))


@pytest.mark.parametrize(("boundary", "method"), OPERATORS)
def test_matrix_and_potentials_are_those_of_the_cpu(place: Place, boundary: str, method: str) -> None:
    atoms, coulomb = atoms_for(boundary), Coulomb(boundary, method, 1e-6)
    cell, rows = in_cell(boundary, atoms), np.arange(12) % 3 == 0
    here = coulomb.matrix(atoms.positions, cell, atoms.smearing, EXCLUDED, rows, [1, 2])
    x, q, s = (place.put(v) for v in (atoms.positions, atoms.charges, atoms.smearing))
    place.same(coulomb.matrix(x, place.put(cell), s, place.put(EXCLUDED), place.put(rows), [1, 2]), here)
    on_centre = int(np.flatnonzero(atoms.smearing)[0])
    # Beside a nucleus of a Gaussian the sum has large terms that cancel.
    for points, digits in ((atoms.positions[:3] + 0.7, 1e-12), (atoms.positions[[on_centre]], 1e-9)):
        here = coulomb.potential_at(points, atoms.positions, atoms.charges, cell, atoms.smearing)
        place.same(coulomb.potential_at(place.put(points), x, q, place.put(cell), s), here, digits)


@pytest.mark.parametrize(("boundary", "method"), OPERATORS)
def test_products_are_those_of_the_cpu(place: Place, boundary: str, method: str) -> None:
    atoms, coulomb = atoms_for(boundary), Coulomb(boundary, method, 1e-6)
    cell, columns = in_cell(boundary, atoms), np.random.default_rng(3).normal(size=(12, 2))
    columns -= columns.mean(axis=0)
    x, s = place.put(atoms.positions), place.put(atoms.smearing)
    here = coulomb.product(atoms.positions, columns, cell, atoms.smearing, EXCLUDED)
    place.same(coulomb.product(x, place.put(columns), place.put(cell), s, EXCLUDED), here)


def test_numpy_in_gives_numpy_out_on_any_device(place: Place) -> None:
    atoms = atoms_for("slab")
    given = (atoms.positions, atoms.charges, atoms.cell)
    for method in ("exact", "ewald", "pme"):
        here = Coulomb("slab", method)(*given, atoms.smearing, stress=True)
        there = Coulomb("slab", method, device=place.device)(*given, atoms.smearing, stress=True)
        assert isinstance(there.energy, float)
        assert isinstance(there.forces, np.ndarray)
        close(there.forces, here.forces)
        close(there.stress, here.stress)


def test_the_device_asked_for_takes_input_from_anywhere(place: Place) -> None:
    atoms = atoms_for("3d")
    coulomb = Coulomb("3d", "pme", device=place.device)
    here = Coulomb("3d", "pme")(atoms.positions, atoms.charges, atoms.cell, atoms.smearing, EXCLUDED)
    x, q, h = (torch.as_tensor(v) for v in (atoms.positions, atoms.charges, atoms.cell))
    place.same(coulomb(x, place.put(atoms.charges), atoms.cell, atoms.smearing, EXCLUDED).forces, here.forces)
    place.same(
        coulomb(atoms.positions, q, place.put(atoms.cell), atoms.smearing, EXCLUDED).potential, here.potential
    )
    mixed = Coulomb("3d", "pme")(place.put(atoms.positions), q, h, atoms.smearing, EXCLUDED)
    place.same(mixed.forces, here.forces)
    assert coulomb.parameters(x, q, h, atoms.smearing) == Coulomb("3d", "pme").parameters(
        x, q, h, atoms.smearing
    )


@pytest.mark.parametrize(
    ("boundary", "method"), [("3d", "ewald"), ("3d", "pme"), ("slab", "pme"), ("slab-exact", "exact")]
)
def test_derivatives_of_forces_are_those_of_the_cpu(place: Place, boundary: str, method: str) -> None:
    atoms = atoms_for(boundary)

    def derivatives(put: Any) -> tuple[Tensor, ...]:
        leaves = [
            put(v).requires_grad_()
            for v in (atoms.positions, atoms.charges, atoms.cell, atoms.smearing + 0.3)
        ]
        x, q, h, s = leaves
        out = Coulomb(boundary, method, 1e-6)(x, q, h, s, stress=True)
        return torch.autograd.grad(out.energy + (out.forces**2).sum() + out.stress.sum(), leaves)

    here = derivatives(lambda v: torch.as_tensor(v).clone())
    for found, expected in zip(derivatives(lambda v: place.put(v).clone()), here):
        place.same(found, expected, 1e-11)


def test_batches_live_where_their_input_does(place: Place) -> None:
    atoms = atoms_for("3d")
    x, q = np.stack([atoms.positions, atoms.positions + 0.1]), np.stack([atoms.charges, -atoms.charges])
    here = Coulomb("3d", "ewald")(x, q, atoms.cell)
    place.same(Coulomb("3d", "ewald")(place.put(x), place.put(q), place.put(atoms.cell)).forces, here.forces)
    numbers = Coulomb("3d", "ewald", device=place.device)(x, q, atoms.cell).forces
    assert isinstance(numbers, np.ndarray)
    close(numbers, here.forces)


def test_the_precision_asked_for_is_that_of_the_result(place: Place) -> None:
    atoms = atoms_for("3d")
    single = Coulomb("3d", "ewald", dtype=torch.float32, device=place.device)
    double = Coulomb("3d", "ewald", dtype=torch.float64)
    given = (atoms.positions, atoms.charges, atoms.cell)
    assert single(*given).forces.dtype == np.float32
    assert single(*(place.put(v) for v in given)).forces.dtype == torch.float32
    x, q, h = (v.astype(np.float32) for v in given)
    assert Coulomb("3d", "ewald")(x, q, h).forces.dtype == np.float32
    assert double(x, q, h).forces.dtype == np.float64
    close(single(*given).forces, double(*given).forces, 1e-6)


def test_lists_are_copied_to_the_device_once(place: Place) -> None:
    if place.device != FOREIGN:
        pytest.skip("only the pretended device counts copies")
    atoms, coulomb = atoms_for("slab"), Coulomb("slab", "pme")
    x, q, h, s = (place.put(v) for v in (atoms.positions, atoms.charges, atoms.cell, atoms.smearing))
    coulomb(x, q, h, s, EXCLUDED)
    copies = place.counted()
    coulomb(x + 0.01, q, h, s, EXCLUDED)
    assert copies.up == []
    # The cell, to be checked, and the geometry, for the lists: positions and cell.
    assert copies.down == [9, 36, 9]


# Electrodes.

RESULTS = (
    "charges", "electrode_charges", "potentials", "multiplier", "energy", "internal_energy", "work",
    "field_energy", "forces", "forces_at_fixed_field", "stress", "field", "potential",
)  # fmt: skip
ITERATED = ("mixed in a slab", "charges in a field", "finite field, charges", "displacement", "open")


def solve(cpm: ConstantPotential, mode: Mode, atoms: ElectrodeCell, put: Any = lambda v: v) -> Any:
    return cpm.solve(
        put(atoms.positions), put(atoms.charges), put(cell_argument(mode, atoms.cell)), smearing=put(atoms.smearing),
        stress=mode.boundary != "open", **{k: put(v) for k, v in arguments(mode, atoms.cell).items()},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "how"),
    [(m, "direct") for m in MODES] + [(m, "iterative") for m in MODES if m.name in ITERATED],
    ids=lambda v: getattr(v, "name", v),
)
def test_electrodes_give_the_numbers_of_the_cpu(place: Place, mode: Mode, how: str) -> None:
    atoms = cell_for(mode)
    method = "exact" if mode.boundary in ("open", "slab-exact") else "ewald"
    here_cpm = solver(mode, atoms, method, 1e-10, solver=how, tolerance=1e-13)
    there_cpm = solver(mode, atoms, method, 1e-10, solver=how, tolerance=1e-13)
    here, there = solve(here_cpm, mode, atoms), solve(there_cpm, mode, atoms, place.put)
    for name in RESULTS:
        place.same(getattr(there, name), getattr(here, name))
    close(there_cpm.capacitance, here_cpm.capacitance)
    close(there_cpm.condition, here_cpm.condition, 1e-9)


@pytest.mark.parametrize("method", ["exact", "pme"])
@pytest.mark.parametrize("name", ["potentials in a slab", "finite field, charges", "displacement"])
def test_electrodes_on_the_device_asked_for_take_numpy(place: Place, name: str, method: str) -> None:
    mode = next(m for m in MODES if m.name == name)
    atoms = cell_for(mode)
    electrodes = [Electrode(g, **{kind: value}) for g, (kind, value) in zip(atoms.groups, mode.held)]
    order = 8 if method == "pme" else None
    coulombs = [Coulomb(mode.boundary, method, 1e-8, device=d, order=order) for d in (None, place.device)]
    here, there = (solve(ConstantPotential(electrodes, c, smearing=0.5), mode, atoms) for c in coulombs)
    for key in RESULTS:
        assert isinstance(getattr(there, key), float | np.ndarray)
        close(getattr(there, key), getattr(here, key), 1e-10)


def test_held_values_and_parameters_may_lie_anywhere(place: Place) -> None:
    mode = MODES[2]
    atoms = cell_for(mode)
    total = len(atoms.solved)
    rng = np.random.default_rng(4)
    parameters: dict[str, Any] = {
        "smearing": rng.uniform(0.4, 0.6, total), "hardness": 0.3, "electronegativity": rng.normal(size=2),
        "thomas_fermi_length": 0.4, "voronoi_volume": np.full(total, 17.0),
    }  # fmt: skip
    given = (atoms.positions, atoms.charges, atoms.cell)
    held: dict[str, Any] = {"potentials": np.array([0.4, np.nan]), "electrode_charges": [None, 0.1]}

    def electrodes(put: Any) -> list[Electrode]:
        return [
            Electrode(put(atoms.groups[0]), potential=put(np.array(0.2))),
            Electrode(atoms.groups[1], charge=0.1),
        ]

    here = ConstantPotential(electrodes(lambda v: v), Coulomb("slab", "ewald"), **parameters).solve(
        *given, **held
    )
    for put in (place.put, lambda v: v):
        cpm = ConstantPotential(electrodes(put), Coulomb("slab", "ewald"), **put(parameters))
        there = cpm.solve(*(place.put(v) for v in given), **put(held))
        place.same(there.charges, here.charges)
        place.same(there.potentials, here.potentials)


@pytest.mark.parametrize(
    ("name", "how"),
    [("mixed in a slab", "direct"), ("finite field", "direct"), ("finite field, charges", "iterative")],
)
def test_derivatives_through_the_solve_are_those_of_the_cpu(place: Place, name: str, how: str) -> None:
    mode = next(m for m in MODES if m.name == name)
    atoms = cell_for(mode)
    held = np.array([value for _, value in mode.held])
    kinds = [kind for kind, _ in mode.held]

    def derivatives(put: Any) -> tuple[Tensor, ...]:
        arrays = (atoms.positions, atoms.cell, held, np.full(len(atoms.solved), 0.5), np.array(0.2))
        leaves = [put(v).requires_grad_() for v in arrays]
        x, h, values, widths, hardness = leaves
        electrodes = [Electrode(g, **{k: v}) for g, k, v in zip(atoms.groups, kinds, values)]
        cpm = ConstantPotential(
            electrodes, Coulomb(mode.boundary, "ewald", 1e-10), widths, hardness, solver=how, tolerance=1e-13
        )
        out = cpm.solve(x, put(atoms.charges), h, total_charge=mode.total, stress=True)
        (first,) = torch.autograd.grad(out.energy, x, retain_graph=True)
        goal = out.energy + (out.charges**2).sum() + out.potentials.sum() + (out.forces**2).sum()
        return first, *torch.autograd.grad(goal + out.stress.sum(), leaves)

    expected = derivatives(lambda v: torch.as_tensor(v).clone())
    for found, wanted in zip(derivatives(lambda v: place.put(v).clone()), expected):
        place.same(found, wanted, 1e-10)


def test_a_batch_of_solves_lives_where_its_input_does(place: Place) -> None:
    mode = MODES[0]
    atoms = cell_for(mode)
    x = np.stack([atoms.positions, atoms.positions + 0.01])
    q = np.stack([atoms.charges, 0.5 * atoms.charges])
    volts = np.array([[-0.4, 0.7], [0.0, 0.2]])
    here = solver(mode, atoms, "ewald").solve(x, q, atoms.cell, potentials=volts)
    there = solver(mode, atoms, "ewald").solve(
        place.put(x), place.put(q), place.put(atoms.cell), potentials=place.put(volts)
    )
    for key in ("charges", "potentials", "energy", "forces"):
        place.same(getattr(there, key), getattr(here, key))


def moving(cpm: ConstantPotential, atoms: ElectrodeCell, steps: Any, put: Any = lambda v: v) -> Any:
    """The last of some solves with electrodes that move."""
    for step in steps:
        x = atoms.positions + 0.02 * np.sin(step + np.arange(len(atoms.positions)))[:, None]
        out = cpm.solve(put(x), put(atoms.charges), put(atoms.cell))
    return out


def test_one_solver_serves_both_devices_and_restarts_on_either(place: Place) -> None:
    """The factor, the last charges and the lists follow the input, or a stored state."""
    atoms = cell_for(MODES[0], repeat=8, spacing=2.9)
    cpms = [solver(MODES[0], atoms, "ewald", 1e-6, solver="auto", tolerance=1e-12) for _ in range(3)]
    here = moving(cpms[0], atoms, range(5))
    moving(cpms[1], atoms, range(2), place.put)
    moving(cpms[1], atoms, [2])
    assert isinstance(moving(cpms[1], atoms, [3], place.put).charges, Tensor)
    cpms[2].load_state(cpms[1].state())
    for cpm in cpms[1:]:
        there = moving(cpm, atoms, [4], place.put)
        place.same(there.charges, here.charges, 1e-10)
    assert [cpm.factorizations for cpm in cpms] == [1, 1, 1]
    for cpm in cpms[1:]:
        close(cpm.smallest_eigenvalue, cpms[0].smallest_eigenvalue, 1e-10)


def test_a_solve_copies_no_lists_to_the_device_again(place: Place) -> None:
    if place.device != FOREIGN:
        pytest.skip("only the pretended device counts copies")
    atoms = cell_for(MODES[0])
    cpm = solver(MODES[0], atoms, "pme", 1e-6, solver="direct")
    x, q, h = (place.put(v) for v in (atoms.positions, atoms.charges, atoms.cell))
    cpm.solve(x, q, h)
    copies = place.counted()
    cpm.solve(x, q, h)
    # What the two electrodes are held at, and nothing that grows with the system.
    assert max(copies.up) <= 2
    assert copies.down == [9, x.numel(), 9]


def test_a_matrix_that_is_not_positive_definite_is_refused_there_too(place: Place) -> None:
    atoms = cell_for(MODES[0])
    cpm = solver(MODES[0], atoms, "ewald", 1e-6, hardness=-90.0)
    with pytest.raises(
        ValueError, match=r"smallest eigenvalue of the electrode matrix = .* must be greater than zero"
    ):
        cpm.solve(*(place.put(v) for v in (atoms.positions, atoms.charges, atoms.cell)))


def test_the_thermopotentiostat_runs_there(place: Place) -> None:
    atoms = cell_for(MODES[0])
    given = (atoms.positions, atoms.charges, atoms.cell)
    here, there, numpy = (
        ThermoPotentiostat(ConstantPotential([Electrode(g, potential=v) for g, v in zip(atoms.groups, (0.0, 1.0))],
                           Coulomb("slab", "ewald", device=d), smearing=0.5), 300.0, 50.0, seed=3)
        for d in (None, None, place.device)
    )  # fmt: skip
    for _ in range(2):
        expected = here.step(*given, 1.0)
        x, q, h = (place.put(v) for v in given)
        found = there.step(x, q, h, 1.0)
        place.same(found.charges, expected.charges, 1e-11)
        place.same(found.forces, expected.forces, 1e-11)
        close(numpy.step(*given, 1.0).forces, expected.forces, 1e-11)
    assert there.charge == pytest.approx(here.charge, abs=1e-11)


def test_fluctuations_of_charges_there_give_the_capacitance_there(place: Place) -> None:
    atoms, samples = cell_for(MODES[0]), np.random.default_rng(2).normal(size=(50, 2))
    cpm = solver(MODES[0], atoms, "ewald")
    solve(cpm, MODES[0], atoms, place.put)
    expected = fluctuation_capacitance(samples, 300.0, cpm)
    place.same(fluctuation_capacitance(place.put(samples), 300.0, cpm), expected)
    expected = fluctuation_capacitance(samples[:, 0], 300.0, cpm)
    place.same(fluctuation_capacitance(place.put(samples[:, 0]), 300.0, cpm), expected)


# What else takes tensors.


def test_profiles_and_steps_read_tensors_of_any_device(place: Place) -> None:
    atoms = slab(n=12)
    given = (atoms.positions, atoms.charges, atoms.cell)
    there = [place.put(v).requires_grad_() for v in given]
    here = planar_profiles(*given, smearing=atoms.smearing)
    found = planar_profiles(*there, smearing=place.put(atoms.smearing))
    np.testing.assert_array_equal(found.potential, here.potential)
    assert slab_potential_step(*there) == slab_potential_step(*given)
    place.same(switch(place.put(np.linspace(0, 5, 11)), 1.0, 4.0), switch(np.linspace(0, 5, 11), 1.0, 4.0))


def test_torch_pme_runs_there(place: Place) -> None:
    atoms = atoms_for("slab")
    given = (atoms.positions, atoms.charges, atoms.cell, atoms.smearing)
    here = Coulomb("slab", "ewald", ewald_backend="torch-pme")(*given)
    there = Coulomb("slab", "ewald", ewald_backend="torch-pme")(*(place.put(v) for v in given))
    place.same(there.forces, here.forces)


@pytest.mark.parametrize("boundary", ["slab", "finite-field"])
def test_the_calculator_runs_on_the_device_of_its_operator(place: Place, boundary: str) -> None:
    atoms, found = small_cell(), []
    atoms.pbc = (True, True, boundary == "finite-field")
    for device in (None, place.device):
        atoms.calc = calculator(atoms, boundary)
        atoms.calc.potential.coulomb.device = device
        found.append((atoms.get_potential_energy(), atoms.get_forces(), atoms.calc.results["charges"]))
    for there, here in zip(found[1], found[0]):
        close(there, here, 1e-10)
    assert place.transfers.up or place.device != FOREIGN
