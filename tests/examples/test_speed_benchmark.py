"""The parts of the speed benchmark that numbers pass through, and its command line."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.benchmarks.speed import calls, limits, meshes, program, rates, summary, systems
from examples.benchmarks.speed.engines import ENGINES, missing, unable
from examples.benchmarks.speed.measures import fitted_exponent, relative_error, rms_error, spread
from examples.benchmarks.speed.reference import direct_forces, with_truth
from examples.benchmarks.speed.settings import Settings
from examples.benchmarks.speed.systems import Box, small, water
from examples.benchmarks.speed.targets import Target, judge, water_target

ROOT = Path(__file__).resolve().parents[2]


def test_errors_are_those_of_their_formulas() -> None:
    wanted = np.array([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
    found = wanted + np.array([[0.0, 0.3, 0.0], [0.0, 0.0, 0.4]])
    assert relative_error(found, wanted) == pytest.approx(0.1, rel=1e-12)
    assert rms_error(found, wanted) == pytest.approx(np.sqrt(0.25 / 6), rel=1e-12)


@given(st.floats(0.2, 3.0), st.floats(1e-3, 1e3))
def test_the_fitted_exponent_is_that_of_a_power_law(p: float, scale: float) -> None:
    sizes = [3000.0, 12288.0, 46875.0]
    assert fitted_exponent(sizes, [scale * n**p for n in sizes]) == pytest.approx(p, abs=1e-9)


def test_one_size_has_no_exponent() -> None:
    assert fitted_exponent([3000, 3000], [1.0, 2.0]) is None


def test_a_spread_is_the_median_between_the_quartiles() -> None:
    assert spread([5.0, 1.0, 4.0, 2.0, 3.0]) == {"median": 3.0, "low": 2.0, "high": 4.0, "rounds": 5}


@pytest.mark.parametrize(
    ("value", "at_least", "met", "verdict"),
    [
        (0.5, False, True, "must met by 50 %, goal met by 17 %"),
        (0.9, False, True, "must met by 10 %, goal missed by 50 %"),
        (1.3, False, False, "must missed by 30 %, goal missed by 117 %"),
        (0.8, True, False, "must missed by 20 %, goal met by 33 %"),
        (None, False, None, "not measured"),
    ],
)
def test_a_target_says_by_how_much_it_is_met(
    value: float | None, at_least: bool, met: bool | None, verdict: str
) -> None:
    row = judge(Target("a ratio", 1.0, 0.6, at_least=at_least), value)
    assert (row["met"], row["verdict"]) == (met, verdict)


def test_water_targets_are_those_of_two_sizes_and_two_errors() -> None:
    found = {(s, t): water_target(s, t) for s in ("3k", "12k", "48k", "192k") for t in (1e-4, 1e-5, 1e-6)}
    goals = {key: (target.must, target.goal) for key, target in found.items() if target}
    assert goals == {
        ("12k", 1e-4): (1.0, 0.6),
        ("12k", 1e-6): (1.0, 0.5),
        ("48k", 1e-4): (1.0, 0.6),
        ("48k", 1e-6): (1.0, 0.5),
    }


def _row(atoms: int, size: str, ours: float, lammps: float) -> dict[str, Any]:
    def engine(ms: float) -> dict[str, Any]:
        timed = {"wall_ms": {"median": ms}}
        ratios = {f"{mode}_wall_ms": ours / ms for mode in ("kept", "new")}
        return {"status": "measured", "kept": timed, "new": timed, "ours_over_this": ratios}

    engines = {"ours": engine(ours), "lammps": engine(lammps), "openmm": {"status": "not installed"}}
    return {"size": size, "atoms": atoms, "target": 1e-4, "engines": engines}


def test_targets_are_judged_from_the_rows_of_the_results() -> None:
    rows = {"3k": _row(3000, "3k", 6.0, 6.0), "12k": _row(12_000, "12k", 24.0, 30.0)}
    found = {row["name"]: row["measured"] for row in summary.judged({"water": rows})}
    for words in ("list kept", "new list in every step"):
        assert found[f"water 12k at 1e-04, time over LAMMPS PPPM, {words}"] == pytest.approx(0.8)
        name = f"exponent of time against size, 3,000 to 12,000 atoms at 1e-04, {words}"
        assert found[name] == pytest.approx(1.0)
    assert found["set-up with 864 electrode atoms"] is None


def test_the_direct_sum_does_not_depend_on_the_splitting_and_agrees_with_the_reference(
    tmp_path: Path,
) -> None:
    box, description = with_truth(water(3), tmp_path)
    chosen = np.array([0, 7, 40])
    once, again = (direct_forces(box, chosen, splitting) for splitting in (0.35, 0.5))
    np.testing.assert_allclose(once, again, rtol=0, atol=1e-12 * np.abs(once).max())
    np.testing.assert_allclose(once, box.truth[chosen], rtol=0, atol=1e-9 * np.abs(once).max())
    assert description["off_direct_sum"] < 1e-9  # type: ignore[operator]


def test_a_box_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    box = small(3)
    assert len(box.charges) == 200
    assert box.charges.sum() == pytest.approx(0.0, abs=1e-12)
    box.save(tmp_path / "box.npz")
    again = Box.load(tmp_path / "box.npz")
    np.testing.assert_array_equal(again.positions, box.positions)
    np.testing.assert_array_equal(again.cell, box.cell)


@given(st.floats(2.0, 500.0))
def test_meshes_are_even_products_of_small_primes_or_powers_of_two(least: float) -> None:
    n = meshes.even_smooth(least)
    assert n >= least
    assert n % 2 == 0
    for factor in (2, 3, 5):
        while n % factor == 0:
            n //= factor
    assert n == 1
    power = meshes.power_of_two(least)
    assert power / 2 < least <= power


def test_settings_are_kept(tmp_path: Path) -> None:
    Settings(tmp_path / "settings.json").put("engine/size", [{"accuracy": 1e-4}])
    assert Settings(tmp_path / "settings.json").get("engine/size") == [{"accuracy": 1e-4}]
    assert Settings(tmp_path / "settings.json").get("engine/other") is None


def test_an_engine_that_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing("ours") is None
    monkeypatch.setattr("examples.benchmarks.speed.engines.find_spec", lambda _: None)
    for name, peer in ENGINES.items():
        assert missing(name) == f"not installed: pip install {peer.install}"


def test_an_engine_says_why_it_is_not_timed_with_many_atoms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("examples.benchmarks.speed.engines.find_spec", lambda _: True)
    assert unable("lammps", 192_000) is None
    assert unable("mlipops", 3_000) is None
    assert unable("mlipops", 12_288) == (
        "not measured: its neighbour list on a CPU is dense: about a minute for 12,288 atoms, 26 GB for 46,875"
    )


def test_sizes_are_sorted_to_the_parts_that_have_them() -> None:
    options = program.parse(["water", "setup", "--sizes", "12k", "8k", "--peers"])
    assert (options.water_sizes, options.cell_sizes, options.peers) == (["12k"], ["8k"], [])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["speed"],
            "part = speed must be one of water, electrodes, setup, hybrid, batches, memory, start, limits: choose some of these",
        ),
        (["--quick", "--publish"], "--publish must go without --quick: tiny systems show nothing"),
        (
            ["--rounds", "0"],
            "--threads and --rounds must be at least 1 and --targets between 0 and 1: correct them",
        ),
    ],
)
def test_wrong_options_are_refused(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        program.parse(arguments)
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"error: {sentence}")


def test_the_program_explains_itself_from_the_root_of_the_repository() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.benchmarks", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for word in (*program.PARTS, "--sizes", "--targets", "--threads", "--peers", "--quick", "--publish"):
        assert re.search(rf"(^|\W){word}\b", done.stdout)


# Called from within compiled code, as a part of what calls them; and those that are not found by their names.
WITHIN = {"cpu_neighbors._longer"}
OTHERS = {f"cpu_splines.{name}" for name in ("spread", "potential", "gradient")} | {
    "cpu_fft.across",
    "cpu_fft.along",
    "cpu_fft.back_along",
    "cpu_density.density",
    "cpu_density.pull",
    "cpu_density.push",
    "cpu_transfers.gained",
    "cpu_transfers.pull",
}


def test_the_work_of_every_compiled_kernel_is_counted() -> None:
    assert limits.KERNELS.keys() == (calls.kernels().keys() - WITHIN) | OTHERS
    assert limits.FRACTIONS.keys() <= limits.KERNELS.keys()


def test_kernels_are_called_again_with_what_the_sums_gave_them() -> None:
    box = water(2)
    sums = calls.Sums(0.5, 3.0, 0.5, (8, 8, 8), 5, np.array([[0, 0, 1], [1, 0, 0]]))
    held = calls.recorded(lambda: calls.evaluate(box, sums))
    assert held.keys() == limits.KERNELS.keys()
    sizes = limits.sizes_of(box, sums)
    list_of_seconds = held["cpu_neighbors._search"].fresh()()
    assert isinstance(list_of_seconds, tuple)
    assert list_of_seconds[4] == sizes.listed
    # Transforms write into their arrays, but not into those that are kept.
    call = held["cpu_fft.along"]
    mesh = call.arguments[2]
    before = mesh.copy()
    call.fresh()()
    np.testing.assert_array_equal(mesh, before)
    assert (sizes.n, sizes.points, sizes.lines, sizes.half, sizes.waves, sizes.powers) == (
        24,
        512,
        64,
        320,
        2,
        2,
    )
    assert sizes.near < sizes.listed


def test_the_longest_of_the_times_that_work_takes_at_least_is_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, rate in (("flops", 1e9), ("exponentials", 1e6)):
        monkeypatch.setattr(rates, name, lambda rate=rate: rate)
    for name, rate in (("reading", 2e6), ("writing", 1e6), ("gathering", 4e6)):
        monkeypatch.setattr(rates, name, lambda size, rate=rate: rate)
    work = limits.Work(flops=3e9, read=8e6, written=5e6, loaded=1e6, stored=2e6, random=8e6, exponentials=7e6)
    assert limits.bounds(work) == {
        "flops": 3.0,
        "memory": 5.0,
        "first cache": 2.0,
        "random reads": 2.0,
        "exponentials": 7.0,
    }


def test_a_kernel_far_slower_than_it_was_is_named_in_the_quick_run() -> None:
    kernels = {name: {"fraction": known / 2.0} for name, known in limits.FRACTIONS.items()}
    row = {"size": "1k", "known_processor": True, "kernels": kernels}
    assert limits.too_slow(row) == []
    kernels["cpu_splines.spread"]["fraction"] = 0.08
    sentence = (
        "cpu_splines.spread = 0.080 of what the processor does must be at least 0.096: find what slows it, or change "
        "the fraction in limits.py where it must do more"
    )
    assert limits.too_slow(row) == [sentence]
    assert limits.too_slow(row | {"known_processor": False}) == []
    assert limits.too_slow(row | {"size": "12k"}) == []


def test_atoms_fly_there_and_back() -> None:
    whole = np.zeros((1, 3))
    cell = systems.Cell(
        whole, np.zeros(1), np.eye(3), np.zeros((0, 2), dtype=np.int64), np.zeros(0, dtype=np.int64),
        np.zeros(0, dtype=np.int64), whole + 0.1, np.array(False), np.array(1.0),
    )  # fmt: skip
    end = systems.FLIGHT
    for step, distance in ((0, 0), (7, 7), (end, end), (end + 3, end - 3), (2 * end, 0), (2 * end + 5, 5)):
        np.testing.assert_allclose(cell.at(step), whole + 0.1 * distance, atol=1e-14)
