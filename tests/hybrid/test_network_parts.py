"""Parts of the local network against closed forms: radial functions, functions on the sphere, neighbour tables."""

import math
import shutil

import numpy as np
import pytest
import torch
from ase.data import covalent_radii
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import lebedev_rule
from scipy.spatial.transform import Rotation

from grahame.electrostatics.units import COULOMB_CONSTANT
from grahame.hybrid.frames import make_batch
from grahame.hybrid.graph import batch, make_graph, neighbor_table
from grahame.hybrid.model import ChargeSpec, HybridModel, ModelSpec
from grahame.hybrid.shortrange import radial, sphere
from grahame.hybrid.shortrange.base import Response
from grahame.hybrid.shortrange.equivariant import Architecture
from grahame.hybrid.shortrange.learned import LearnedShortRange
from grahame.hybrid.shortrange.repulsion import NuclearRepulsion
from grahame.kernels.neighbors import neighbor_pairs
from grahame.kernels.pair_rows import full_rows
from tests.hybrid.model_cells import frame, held, make_model, slab, water_box


def test_radial_functions_are_sines_times_the_envelope() -> None:
    r = torch.linspace(0.3, 5.9, 57, dtype=torch.float64)
    found = radial.bessel(r, 5.0, 7)
    for n in range(1, 8):
        x = (r / 5.0).clamp(max=1.0)
        envelope = 1 - 28 * x**6 + 48 * x**7 - 21 * x**8
        wanted = math.sqrt(2 / 5.0) * torch.sin(n * math.pi * r / 5.0) / r * envelope
        np.testing.assert_allclose(found[:, n - 1], wanted, atol=1e-13)
    assert bool((found[r >= 5.0] == 0).all())


def test_the_envelope_ends_with_two_derivatives() -> None:
    x = torch.tensor([1.0 - 1e-9], dtype=torch.float64, requires_grad=True)
    value = radial.envelope(x)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    assert abs(float(value.detach())) < 1e-15
    assert abs(float(slope.detach())) < 1e-12
    assert abs(float(bend)) < 1e-5


@pytest.mark.parametrize("l_max", [1, 2, 3])
def test_harmonics_are_orthonormal_and_add_up(l_max: int) -> None:
    points, weights = lebedev_rule(11)
    y = sphere.harmonics(torch.as_tensor(points.T.copy()), l_max).numpy()
    overlap = (y * weights[:, None]).T @ y / (4 * math.pi)
    np.testing.assert_allclose(overlap, np.eye(sphere.size(l_max)), atol=1e-13)
    for l, part in enumerate(sphere.slices(l_max)):
        np.testing.assert_allclose((y[:, part] ** 2).sum(1), 2 * l + 1, atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_products_turn_with_their_factors(seed: int, l_max: int) -> None:
    rng = np.random.default_rng(seed)
    values, projector = sphere.product_grid(l_max)
    # Functions are given by the directions they peak at, which turn with the frame.
    directions = rng.normal(size=(2, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    turn = Rotation.random(random_state=rng).as_matrix()

    def product(d: np.ndarray) -> np.ndarray:
        f, g = sphere.harmonics(torch.as_tensor(d), l_max).numpy()
        return np.asarray(projector @ ((values @ f) * (values @ g)))

    probe = rng.normal(size=(5, 3))
    probe /= np.linalg.norm(probe, axis=1, keepdims=True)
    before = sphere.harmonics(torch.as_tensor(probe), l_max).numpy() @ product(directions)
    after = sphere.harmonics(torch.as_tensor(probe @ turn), l_max).numpy() @ product(directions @ turn)
    np.testing.assert_allclose(before, after, atol=1e-10)


def test_the_product_of_two_vectors_is_their_known_expansion() -> None:
    values, projector = sphere.product_grid(2)
    z = np.zeros(9)
    z[2] = 1.0  # sqrt(3) cos(theta)
    found = projector @ (values @ z) ** 2
    # 3 cos² = 1 + 2 P_2(cos) = 1 + (2 / sqrt 5) Y_20
    wanted = np.zeros(9)
    wanted[0], wanted[6] = 1.0, 2.0 / math.sqrt(5.0)
    np.testing.assert_allclose(found, wanted, atol=1e-13)


def test_l_max_beyond_three_is_refused() -> None:
    with pytest.raises(ValueError, match="l_max") as caught:
        sphere.harmonics(torch.zeros(1, 3), 4)
    assert str(caught.value) == "l_max = 4 must be between 0 and 3: 2 is usual"


def test_neighbor_tables_hold_every_pair_in_both_directions() -> None:
    atoms = water_box()
    cell, cutoff = np.array(atoms.cell), 5.0
    pairs = neighbor_pairs(atoms.positions, cell, (True, True, True), cutoff)
    table, images, filled = neighbor_table(full_rows(len(atoms), pairs.i, pairs.j, pairs.shifts))
    assert (~filled).sum() == 2 * len(pairs.i)
    ends = atoms.positions[table] + images @ cell - atoms.positions[:, None]
    lengths = np.linalg.norm(ends, axis=-1)
    assert lengths[~filled].max() < cutoff
    assert lengths[~filled].min() > 0.5
    full = neighbor_pairs(atoms.positions, cell, (True, True, True), cutoff, half=False)
    ours = {(i, j, *s) for i, row in enumerate(zip(table, images, filled)) for j, s, f in zip(*row) if not f}
    assert ours == {(i, j, *s) for i, j, s in zip(full.i, full.j, full.shifts)}


def test_rows_that_are_filled_up_lie_beyond_the_cutoff() -> None:
    atoms = water_box()
    species = np.zeros(len(atoms), dtype=np.int64)
    small = make_graph(atoms.positions[:3], None, (False,) * 3, species[:3], 3.0)
    large = make_graph(atoms.positions, np.array(atoms.cell), (True,) * 3, species, 3.0)
    both = batch([small, large])
    lengths = torch.linalg.vector_norm(both.vectors(), dim=-1)
    real = both.around.table.beyond == 0
    assert float(lengths[real].max()) < 3.0
    assert float(lengths[~real].min()) > 3.0
    assert bool((both.frame == torch.tensor([0] * 3 + [1] * len(atoms))).all())
    np.testing.assert_allclose(
        torch.linalg.vector_norm(both.pair_vectors(), dim=-1).sort().values,
        torch.cat([torch.linalg.vector_norm(g.pair_vectors(), dim=-1) for g in (small, large)]).sort().values,
    )


def test_nuclei_repel_by_the_screened_coulomb_energy() -> None:
    term = NuclearRepulsion([1, 8])
    r = torch.tensor([0.2], dtype=torch.float64)
    energy = term(r, torch.tensor([[0, 1]]), torch.tensor([0, 1])).sum()
    x = 0.2 * (1 + 8**0.23) / 0.46850
    phi = 0.18175 * math.exp(-3.1998 * x) + 0.50986 * math.exp(-0.94229 * x)
    phi += 0.28022 * math.exp(-0.4029 * x) + 0.02817 * math.exp(-0.20162 * x)
    u = 0.2 / (0.8 * (covalent_radii[1] + covalent_radii[8]))
    wanted = COULOMB_CONSTANT * 8 / 0.2 * phi * (1 - 28 * u**6 + 48 * u**7 - 21 * u**8)
    assert float(energy) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="no C++ compiler")
def test_compiled_inference_gives_the_same_numbers() -> None:
    model, atoms = make_model(), water_box()
    cell, pbc = np.array(atoms.cell), (True, True, True)
    found = []
    for compiled in (False, True):
        short_range = LearnedShortRange(model, compile=compiled)
        result = short_range.compute(atoms.positions, atoms.numbers, cell, pbc, False)
        ones = np.linspace(-1.0, 1.0, len(atoms))
        found.append((result.energy, result.charges, result.derivatives(Response(ones, ones, ones))[0]))
    for eager, fast in zip(*found):
        np.testing.assert_allclose(fast, eager, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("site_constants", ["fixed", "element"])
def test_hardness_starts_as_given_by_element(site_constants: str) -> None:
    spec = {"hardness": {"Au": 3.0, "O": 12.0}, "site_constants": site_constants}
    torch.manual_seed(0)
    model = HybridModel(ModelSpec(elements=("H", "O", "Au"), dtype="float64", charges=ChargeSpec(**spec)))
    atoms, groups = slab()
    one = frame(atoms, boundary="slab", electrodes=held(groups))
    batch = make_batch([one], model.spec.elements, model.spec.architecture.cutoff)
    found = model.local(batch.graph, torch.tensor([0]), batch.conditions).hardness
    wanted = np.select([one.numbers == 79, one.numbers == 8], [3.0, 12.0], 0.0)
    np.testing.assert_allclose(found.detach(), wanted, rtol=0, atol=2e-6)
    assert model.spec.charges.hard
    assert not ChargeSpec(hardness={"Au": 0.0}).hard


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"cutoff": -1.0}, "cutoff = -1 Å must be positive and finite: 5 Å is usual"),
        ({"cutoff": math.nan}, "cutoff = nan Å must be positive and finite: 5 Å is usual"),
        ({"layers": 0}, "layers = 0 must be a whole number of at least 1: 1 is usual"),
        ({"channels": 2.5}, "channels = 2.5 must be a whole number of at least 1: 32 is usual"),
        ({"l_max": 4}, "l_max = 4 must be 1, 2 or 3: 2 is usual"),
    ],
)
def test_sizes_of_no_network_are_refused(sizes: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match="must be") as refused:
        Architecture(**sizes)  # type: ignore[arg-type]
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"accuracy": 1.0},
            "accuracy = 1.0 must be at most 0.1: give the relative force error of the electrostatics",
        ),
        ({"scale": -1.0}, "scale = -1.0 eV must be greater than 0 eV: give the scale of energies in eV"),
        (
            {"double_counting": "switched", "switch": (1.0, 9.0)},
            "switch = 9 Å must not exceed the cut-off of 5 Å: beyond it the network sees no pair that could make up for what is "
            "removed",
        ),
        (
            {"architecture": {"layers": 0}},
            "architecture.layers = 0 must be a whole number of at least 1: 1 is usual",
        ),
        (
            {"charges": {"widths": {"O": 0.1}}},
            "charges.widths.O = 0.1 Å must be above 0.2 Å: 0.5 Å is usual, 0.392 Å of metals",
        ),
        (
            {"charges": {"formal": {"O": math.inf}}},
            "charges.formal.O = inf must be finite: correct it",
        ),
        (
            {"reference_energies": {"default": {"O": math.nan}}},
            "reference_energies.default.O = nan must be finite: correct it",
        ),
        (
            {"reference_energies": {"default": {"H": 1.0, "Au": 2.0}}},
            "reference_energies of Au at level default must belong to elements of the model (H, O): correct the symbols",
        ),
    ],
)
def test_a_wrong_specification_gets_one_sentence(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match="must") as refused:
        ModelSpec(elements=("H", "O"), **values)  # type: ignore[arg-type]
    assert str(refused.value) == sentence
