"""What the speeds are wanted to be, and by how much a measured one meets or misses that."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A bound that must hold and one that would be good; both upper bounds unless `at_least`."""

    name: str
    must: float
    goal: float
    unit: str = ""
    at_least: bool = False


def water_target(size: str, target: float) -> Target | None:
    """Energy and forces of water against LAMMPS PPPM, as a ratio of times."""
    if size not in ("12k", "48k") or target not in (1e-4, 1e-6):
        return None
    goal = 0.6 if target == 1e-4 else 0.5
    return Target(f"water {size} at {target:.0e}, time over LAMMPS PPPM", 1.0, goal)


RIGID_SLAB = Target("rigid electrodes, slab, step over LAMMPS mat_inv", 0.4, 0.2)
FINITE_FIELD = Target("rigid electrodes, finite field, step over OpenMM Matrix", 1.0, 0.5)
MOVING_SLAB = Target("moving electrodes, slab, step over LAMMPS cg", 0.3, 0.12)
SETUP = {
    864: Target("set-up with 864 electrode atoms", 2.0, 0.5, "s"),
    3200: Target("set-up with 3,200 electrode atoms", 30.0, 8.0, "s"),
}
ADDED = Target("electrostatics and electrodes over the local model alone", 0.15, 0.07)
HYBRID = Target("hybrid step, compiled, over two layers of MACE alone", 1.0, 0.5)
EXPONENT = Target("exponent of time against size, 3k to 192k", 1.05, 1.05)
THREADS = Target("two threads over one", 1.7, 1.85, at_least=True)
MEMORY = Target("peak memory of one evaluation", 2.0, 1.0, "kB/atom")


def judge(target: Target, value: float | None) -> dict[str, object]:
    """A target with what was measured and a sentence on it.

    >>> judge(Target("time", 1.0, 0.5), 0.75)["verdict"]
    'must met by 25 %, goal missed by 50 %'
    >>> judge(Target("gain", 1.7, 1.85, at_least=True), 1.53)["verdict"]
    'must missed by 10 %, goal missed by 17 %'
    """
    row: dict[str, object] = {
        "name": target.name,
        "must": target.must,
        "goal": target.goal,
        "bound": "at least" if target.at_least else "at most",
        "unit": target.unit,
        "measured": value,
    }
    if value is None:
        return row | {"met": None, "verdict": "not measured"}
    words = [f"must {_distance(target.must, value, target.at_least)}"]
    if target.goal != target.must:
        words.append(f"goal {_distance(target.goal, value, target.at_least)}")
    met = value >= target.must if target.at_least else value <= target.must
    return row | {"met": met, "verdict": ", ".join(words)}


def _distance(bound: float, value: float, at_least: bool) -> str:
    met = value >= bound if at_least else value <= bound
    return f"{'met' if met else 'missed'} by {100 * abs(value / bound - 1):.0f} %"
