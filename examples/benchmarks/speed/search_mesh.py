"""Search for the cheapest setting of a particle-mesh engine that meets a measured error.

Ours is set by `accuracy`: the loosest that meets the target is taken. A peer is set by cut-off, order and kind of
its method: for every choice of these the splitting follows from the target (`meshes.splitting`) and the coarsest mesh
that meets it is taken; then all take some steps, each with a new neighbour list, and the cheapest stay.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from examples.benchmarks.speed import meshes
from examples.benchmarks.speed.systems import Box
from examples.benchmarks.speed.turns import Failed

Open = Callable[[str, dict[str, Any]], dict[str, Any]]
Setting = dict[str, Any]

FACTORS = (16.0, 12.0, 9.0, 7.0, 5.0, 4.0, 3.0, 2.5, 2.0, 1.6, 1.3, 1.0, 0.7, 0.5, 0.3)
# Cut-offs in Å by target: those around which peers are fastest on a CPU.
CUTOFFS = {
    1e-3: (4.0, 5.0, 6.0, 7.0),
    1e-4: (5.0, 6.0, 7.0, 8.0),
    1e-5: (6.0, 7.0, 8.0, 9.0),
    0.0: (7.0, 8.0, 9.0, 10.5, 12.0),
}
VARIANTS: dict[str, list[Setting]] = {
    "lammps": [{"order": o, "diff": d} for o in (5, 7) for d in ("ik", "ad")],
    "openmm": [{"order": 5}],
    "nvalchemi": [{"order": o} for o in (4, 5, 6)],
    "torch-pme": [{"kind": "p3m", "order": 4}, {"kind": "p3m", "order": 5}, {"kind": "pme", "order": 6}],
    "mlipops": [{"order": o} for o in (5, 6)],
}
FINEST = 0.12  # smallest product of mesh spacing and splitting that is tried


@dataclass
class Found:
    """Settings that meet the target, cheapest first, and the smallest error seen on the way."""

    settings: list[Setting]
    best_error: float


def our_setting(open_one: Open, close: Callable[[str], Any], target: float) -> Found:
    """The loosest accuracy that meets the target."""
    best = float("inf")
    for factor in FACTORS:
        setting = {"accuracy": factor * target}
        error = open_one("try", setting)["error"]
        close("try")
        best = min(best, error)
        if error <= target:
            return Found([setting | {"error": error}], best)
    return Found([], best)


def cutoffs(target: float) -> tuple[float, ...]:
    """The cut-offs that are tried at a target, Å."""
    return next(c for least, c in CUTOFFS.items() if target >= 0.99 * least)


def choices(engine: str, box: Box, target: float, quick: bool) -> list[Setting]:
    """Cut-offs, orders and kinds of a peer; no cut-off beyond half the box."""
    tried = [c for c in cutoffs(target) if c < 0.499 * float(box.edge)]
    variants = VARIANTS[engine]
    if quick:
        tried, variants = tried[1:2], variants[-1:]
    return [{"cutoff": c} | v for c in tried for v in variants]


def peer_settings(
    engine: str,
    box: Box,
    target: float,
    open_one: Open,
    close: Callable[[str], Any],
    cost: Callable[[str], float],
    known: list[Setting],
    keep: int,
    quick: bool,
) -> Found:
    """The cheapest settings of a peer; `known`, those of a smaller box, limit what is tried."""
    found: list[tuple[float, Setting]] = []
    best = float("inf")
    for choice in known or choices(engine, box, target, quick):
        setting = {k: v for k, v in choice.items() if k not in ("mesh", "error", "spacing", "splitting")}
        setting["splitting"] = meshes.splitting(box, setting["cutoff"], target)
        met, error = _coarsest(engine, box, target, setting, choice.get("spacing"), open_one, close)
        best = min(best, error)
        if met is None:
            continue
        found.append((cost("try"), met))
        close("try")
    found.sort(key=lambda pair: pair[0])
    return Found([setting for _, setting in found[:keep]], best)


def _coarsest(
    engine: str,
    box: Box,
    target: float,
    setting: Setting,
    spacing: float | None,
    open_one: Open,
    close: Callable[[str], Any],
) -> tuple[Setting | None, float]:
    """The coarsest mesh that meets the target, left open as "try", or None and the smallest error."""
    edge, alpha = float(box.edge), setting["splitting"]
    fit = meshes.power_of_two if engine == "torch-pme" else meshes.even_smooth
    # What just met the target in a smaller box may be a little finer than needed here.
    widest = 1.08 * spacing if spacing else (0.9 if target > 5e-5 else 0.6) / alpha
    mesh = fit(edge / widest)
    mesh = max(mesh, fit(setting["order"] + 2))
    best = float("inf")
    while edge / mesh * alpha > FINEST:
        tried = setting | {"mesh": mesh}
        try:
            error = open_one("try", tried)["error"]
        except Failed:
            return None, best
        if error <= target:
            return tried | {"error": error, "spacing": edge / mesh * 1.001}, error
        close("try")
        if error > 0.98 * best:
            break  # a finer mesh no longer helps: pairs or single precision limit it
        best = min(best, error)
        # The error falls with the power `order` of the spacing; a little less is taken than that promises.
        refine = 0.93 * (error / target) ** (1 / setting["order"])
        mesh = fit(mesh * min(2.0, max(1.05, refine)) + 0.5)
    return None, best
