"""Reference energies from compositions: exact where they are determined, robust, and honest where they are not."""

import numpy as np

from grahame.hybrid.frames import Frame
from grahame.hybrid.training.references import (
    composition,
    fit_level,
    fit_references,
    force_scale,
    mean_neighbors,
)

Z = [1, 8, 11]
TRUE = np.array([-13.6, -430.0, -5.0])


def some(counts: np.ndarray, energies: np.ndarray, level: str = "default") -> list[Frame]:
    """Frames of a composition with energies."""
    out = []
    for k, (row, energy) in enumerate(zip(counts.astype(int), energies)):
        numbers = np.repeat(Z, row)
        positions = 3.0 * np.arange(3 * len(numbers), dtype=float).reshape(-1, 3)
        labels = {"energy": np.array(energy), "forces": np.full((len(numbers), 3), 2.0)}
        out.append(
            Frame(numbers, positions, np.zeros((3, 3)), (False,) * 3, labels=labels, level=level, index=k)
        )
    return out


def random_counts(count: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 9, size=(count, 3)).astype(float)


def test_independent_compositions_give_exact_energies() -> None:
    counts = random_counts()
    fit = fit_level(counts, counts @ TRUE)
    assert fit.rank == 3
    np.testing.assert_allclose(fit.energies, TRUE, rtol=0, atol=1e-9)


def test_a_few_absurd_energies_do_not_move_the_fit() -> None:
    counts, rng = random_counts(), np.random.default_rng(1)
    energies = counts @ TRUE + counts.sum(1) * rng.normal(scale=0.002, size=len(counts))
    clean = fit_level(counts, energies)
    energies[[3, 17]] += [500.0, -80.0]
    spoiled = fit_level(counts, energies)
    np.testing.assert_allclose(spoiled.energies, clean.energies, rtol=0, atol=0.01)
    assert set(np.argsort(-np.abs(spoiled.residuals))[:2]) == {3, 17}


def test_water_alone_keeps_its_energy_and_says_what_is_undetermined() -> None:
    counts = np.array([[2.0 * m, m, 0.0] for m in range(1, 8)])
    frames = some(counts, counts @ TRUE)
    references, notes = fit_references(frames, Z, ["default"])
    found = references["default"]
    assert set(found) == {"H", "O"}
    assert abs(2 * found["H"] + found["O"] - (2 * TRUE[0] + TRUE[1])) < 1e-9
    # The smallest distance from the mean energy per atom, not from zero.
    assert abs(found["H"] - found["O"]) < 1e-9
    (note,) = notes
    assert note.startswith("level default: 7 energies, ")
    assert note.endswith(
        " meV/atom around the references; compositions determine 1 of 2 elements, the others lie as close to the mean as "
        "possible: energies of other compositions have no meaning"
    )


def test_each_level_has_its_own_energies() -> None:
    counts = random_counts(20)
    frames = some(counts, counts @ TRUE, "a") + some(counts, counts @ (TRUE + 1.0), "b")
    references, _ = fit_references(frames, Z, ["a", "b"])
    for element, energy in references["a"].items():
        assert abs(references["b"][element] - energy - 1.0) < 1e-8


def test_a_level_without_energies_has_no_references() -> None:
    frames = [Frame(np.array([1]), np.zeros((1, 3)), np.zeros((3, 3)), (False,) * 3)]
    references, notes = fit_references(frames, Z, ["default"])
    assert references == {"default": {}}
    assert notes == ["level default: no energies, reference energies are zero"]


def test_scales_come_from_the_frames() -> None:
    frames = some(np.array([[2.0, 1.0, 0.0]]), np.array([0.0]))
    assert force_scale(frames) == 2.0
    assert mean_neighbors(frames, 3.0) == 1.0  # atoms lie 15 Å apart: the smallest value
    assert mean_neighbors(frames, 16.0) == 4.0 / 3.0
    np.testing.assert_array_equal(composition(frames, Z), [[2, 1, 0]])
