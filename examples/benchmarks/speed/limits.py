"""Part "limits": what every compiled kernel does, on one thread, beside what the processor could do at best.

The least that a kernel must do is counted from sizes: flops, bytes to and from memory, bytes between the first cache
and the registers, numbers at random places, exponentials. Each divided by the rate of a plain loop that does nothing
else (`rates`, same process) takes a time; the longest of these is the bound, and what it counts is the limit. The
fraction is bound over measured time, 1 for a kernel that does as much as the processor can.

Reading and writing overlap: the bound of bytes is the longer of reading at the rate of a sum and writing at that of
changing an array in place, of arrays as large as all that the kernel touches. Kernels are timed as those loops are: on
what they have just worked on.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from llvmlite import binding

from examples.benchmarks.speed import calls, rates
from examples.benchmarks.speed.calls import ALL, Sums
from examples.benchmarks.speed.machine import machine
from examples.benchmarks.speed.measures import spread
from examples.benchmarks.speed.systems import WATER_SIDES, Box, water
from grahame.electrostatics import Coulomb
from grahame.kernels.neighbors import NeighborList, RowPairs, neighbor_pairs
from grahame.kernels.structure_factor import half_space_kvectors

Row = dict[str, Any]

TARGET = 1e-4
SKIN = 1.0  # Å
WAVES = 1000
# Of the quick box, on an Intel processor with AVX-512 (the first two on one of AMD with AVX2, where more is slow); others
# differ by more than what is to be found.
QUICK = "1k"
FRACTIONS = {
    "cpu_pairs._chunk": 0.15,
    "cpu_pair_matrix._values": 0.10,
    "cpu_pair_matrix._product": 0.44,
    "cpu_neighbors._search": 0.14,
    "cpu_splines.spread": 0.24,
    "cpu_splines.potential": 0.20,
    "cpu_splines.gradient": 0.32,
    "cpu_mesh._weigh_lines": 0.46,
    "cpu_mesh._fill_weights": 0.84,
    "cpu_structure_factor._sum_waves": 0.34,
    "cpu_structure_factor._sum_atoms": 0.37,
    "cpu_density.density": 0.14,
    "cpu_density.pull": 0.15,
    "cpu_density.push": 0.11,
}
SLOWER = 2.5  # times; noise stays far below, as both sides are the fastest of many in turns


@dataclass(frozen=True)
class Sizes:
    """What work is counted from.

    Attributes:
        n: atoms.
        listed, rows: pairs within cut-off and skin, in so many rows.
        near: pairs within the cut-off.
        chosen: listed pairs of marked atoms.
        compared: distances between an atom and what lies ahead of it in the bins around.
        bins: of the neighbour search.
        p: order of the splines.
        points, lines: of the mesh; lines run along the third vector.
        held: numbers of the mesh in memory, whose lines are longer.
        half: waves of the mesh, one of each pair ±G.
        waves, powers: of the sum without mesh, and the powers of three phases that it tabulates.
    """

    n: int
    listed: int
    rows: int
    near: int
    chosen: int
    compared: float
    bins: int
    p: int
    points: int
    lines: int
    held: int
    half: int
    waves: int
    powers: int


@dataclass(frozen=True)
class Work:
    """The least that a kernel must do.

    Attributes:
        flops: sums and products; a division, a root and a comparison count as one.
        read, written: bytes, each once however often it is used.
        loaded, stored: bytes between the first cache and the registers.
        random: numbers read from places that nothing tells in advance...
        among: ...of so many bytes.
        exponentials: exp.
    """

    flops: float = 0
    read: float = 0
    written: float = 0
    loaded: float = 0
    stored: float = 0
    random: float = 0
    among: float = 0
    exponentials: float = 0


@dataclass(frozen=True)
class Counted:
    """A kernel's work and the formula in words; f flops, b bytes, c bytes of the first cache, r random reads."""

    formula: str
    work: Callable[[Sizes], Work]


def _splines(s: Sizes) -> float:
    """Three polynomials of degree p - 1 at p points, for each atom."""
    return s.n * 6 * s.p * (s.p - 1)


# Flops of one pair: vector and squared distance 8. Within the cut-off: root 1, erfc and its slope 79, f and f'/r 14, times
# the vector 3, added to both atoms 16.
DISTANCE, ERFC, VALUE, SUMS = 8, 80, 14, 19
# Of densities: vector and squared distance, with the shift; root, division, sine, cosine and envelope; radial functions and
# harmonics of the benchmark.
RELATIVE, CIRCLE = 26, 61
R, Y, T = calls.RADIAL, (calls.L_MAX + 1) ** 2, calls.TERMS
KERNELS: dict[str, Counted] = {
    "cpu_pairs._move": Counted(
        "r 4 n, b 80 n",
        lambda s: Work(read=48 * s.n, written=32 * s.n, random=4 * s.n, among=32 * s.n),
    ),
    "cpu_pairs._chunk": Counted(
        "f 8 listed + 113 near, r listed + 2 near, c (36 + 32) listed + (72 + 32) near",
        lambda s: Work(
            flops=DISTANCE * s.listed + (ERFC + VALUE + SUMS) * s.near,
            read=4 * s.listed + 24 * s.rows + 64 * s.n,
            written=32 * s.n,
            loaded=36 * s.listed + 72 * s.near,
            stored=32 * s.listed + 32 * s.near,
            # A second atom, and of the near ones its charge and what it collects.
            random=s.listed + 2 * s.near,
            among=32 * s.n,
        ),
    ),
    "cpu_pairs._collect": Counted(
        "b 112 n, r 4 n",
        lambda s: Work(read=80 * s.n, written=32 * s.n, random=4 * s.n, among=32 * s.n),
    ),
    "cpu_pairs._first_pairs": Counted(
        "b 20 listed",
        lambda s: Work(read=20 * s.listed, written=24 * s.rows),
    ),
    "cpu_pair_matrix._values": Counted(
        "f 26 listed + 86 near, r listed, b 20 listed + 16 near",
        lambda s: Work(
            flops=(DISTANCE + 18) * s.listed + (ERFC + 6) * s.near,
            read=20 * s.listed,
            written=16 * s.near,
            loaded=68 * s.listed,
            stored=32 * s.listed,
            random=s.listed,
            among=24 * s.n,
        ),
    ),
    "cpu_pair_matrix._product": Counted(
        "b 16 near, r 2 near",
        lambda s: Work(
            flops=4 * s.near, read=16 * s.near, written=8 * s.n, random=2 * s.near, among=16 * s.n
        ),
    ),
    "cpu_neighbors._count_bins": Counted(
        "r n, b 28 n + 4 bins",
        lambda s: Work(
            flops=24 * s.n, read=24 * s.n, written=4 * s.n + 4 * s.bins, random=s.n, among=4 * s.bins
        ),
    ),
    "cpu_neighbors.first_places": Counted(
        "b 16 lines",
        lambda s: Work(flops=s.lines, read=4 * s.lines, written=12 * s.lines),
    ),
    "cpu_neighbors._place": Counted(
        "r 8 n, b 28 n + 40 n",
        lambda s: Work(flops=24 * s.n, read=28 * s.n, written=40 * s.n, random=8 * s.n, among=40 * s.n),
    ),
    "pair_rows._near_triples": Counted(
        "b 40 n, two near pairs for three atoms",
        lambda s: Work(read=40 * s.n // 3, written=40 * s.n // 3),
    ),
    "cpu_neighbors._search": Counted(
        "f 8 compared, c 28 compared, b 4 listed + 24 rows",
        lambda s: Work(
            flops=DISTANCE * s.compared,
            read=24 * s.n,
            written=4 * s.listed + 24 * s.rows,
            loaded=28 * s.compared,
            stored=4 * s.listed,
        ),
    ),
    "pair_rows._rows_with": Counted(
        "b 4 listed + 4 chosen",
        lambda s: Work(read=4 * s.listed + 24 * s.rows, written=4 * s.chosen, random=s.listed, among=s.n),
    ),
    "neighbors._sorted": Counted(
        "b 24 full read, 20 full written, full = 2 near",
        lambda s: Work(read=48 * s.near, written=40 * s.near),
    ),
    "cpu_assembly.moments": Counted(
        "b 40 n, f 11 n",
        lambda s: Work(flops=11 * s.n, read=40 * s.n),
    ),
    "cpu_assembly.assemble": Counted(
        "b 132 n, f 40 n",
        lambda s: Work(flops=40 * s.n, read=108 * s.n, written=32 * s.n),
    ),
    "neighbors.all_below": Counted(
        "f 44 for one pair of three atoms, b 40 of them",
        lambda s: Work(flops=44 * s.n // 3, read=40 * s.n // 3 + 24 * s.n),
    ),
    "neighbors._shortest": Counted(
        "f 26 n, two near pairs for three atoms",
        lambda s: Work(flops=18 * s.n, read=14 * s.n + 24 * s.n),
    ),
    "pair_rows.stable_order": Counted(
        "r 2 listed, b 16 listed, of one of the keys of Lennard-Jones rows",
        lambda s: Work(read=12 * s.listed, written=4 * s.listed, random=2 * s.listed, among=8 * s.n),
    ),
    "pair_rows._place_both": Counted(
        "r 4 full, b 20 listed read, 16 full written, full = 2 listed",
        lambda s: Work(read=20 * s.listed, written=32 * s.listed, random=8 * s.listed, among=8 * s.n),
    ),
    "cpu_density.density": Counted(
        "f 52 listed + 498 near",
        lambda s: Work(flops=2 * (RELATIVE * s.listed + (CIRCLE + 3 * R + 20 + 2 * Y * R) * s.near)),
    ),
    "cpu_density.pull": Counted(
        "f 52 listed + 1526 near",
        lambda s: Work(
            flops=2 * (RELATIVE * s.listed + (CIRCLE + 7 * R + 40 + 8 * (Y - 1) * R + 8 * R + 30) * s.near)
        ),
    ),
    "cpu_density.push": Counted(
        "f 52 listed + 1068 near",
        lambda s: Work(
            flops=2 * (RELATIVE * s.listed + (CIRCLE + 7 * R + 40 + 35 + Y * (6 + 4 * R)) * s.near)
        ),
    ),
    "cpu_transfers.gained": Counted(
        "f 26 listed + 726 near",
        lambda s: Work(flops=2 * (13 * s.listed + (CIRCLE + R * (T + 3) + 4 * T) * s.near)),
    ),
    "cpu_transfers.pull": Counted(
        "f 26 listed + 1322 near",
        lambda s: Work(flops=2 * (13 * s.listed + (CIRCLE + R * (2 * T + 8) + 10 * T + 15) * s.near)),
    ),
    "neighbors.close_pairs": Counted(
        "f 34 listed, b 40 listed",
        lambda s: Work(flops=34 * s.listed, read=40 * s.listed, written=8 * s.near),
    ),
    "cpu_lennard_jones._pairs": Counted(
        "f 11 listed + (26 + 22 beyond the switch) near, r listed + near, c 56 listed",
        lambda s: Work(
            flops=11 * s.listed + (26 + 22 * (1 - calls.SWITCHED**3)) * s.near,
            read=8 * s.listed + 24 * s.n,
            written=24 * s.n,
            loaded=56 * s.listed + 48 * s.near,
            stored=24 * s.near,
            # A second atom, and what it collects if it is near.
            random=s.listed + s.near,
            among=24 * s.n,
        ),
    ),
    "cpu_molecules.bond_sum": Counted(
        "f 41 bonds, b 56 bonds + 48 n, two bonds for three atoms",
        lambda s: Work(flops=41 * 2 * s.n / 3, read=56 * 2 * s.n / 3 + 24 * s.n, written=24 * s.n),
    ),
    "cpu_molecules.angle_sum": Counted(
        "f 105 angles, one atan2 each, b 88 angles + 48 n, one angle for three atoms",
        lambda s: Work(
            flops=105 * s.n / 3, read=88 * s.n / 3 + 24 * s.n, written=24 * s.n, exponentials=s.n / 3
        ),
    ),
    "cpu_molecules.shake": Counted(
        "f (3 x 215 + 75) molecules, b 88 n read, 24 n written, three turns for one molecule, which has three atoms",
        lambda s: Work(flops=(3 * 215 + 75) * s.n / 3, read=88 * s.n, written=24 * s.n),
    ),
    "cpu_molecules.rattle": Counted(
        "f 185 molecules, b 64 n read, 24 n written, three atoms for one molecule",
        lambda s: Work(flops=185 * s.n / 3, read=64 * s.n, written=24 * s.n),
    ),
    "cpu_symmetric._add_rows": Counted(
        "b 4 rows², f 2 rows²",
        lambda s: Work(flops=2 * calls.ROWS**2, read=4 * calls.ROWS**2),
    ),
    "neighbors._farthest_move": Counted(
        "b 48 n, f 9 n",
        lambda s: Work(flops=9 * s.n, read=48 * s.n),
    ),
    "cpu_splines._count_rows": Counted(
        "r n, b 28 n + 4 lines",
        lambda s: Work(
            flops=16 * s.n, read=24 * s.n, written=4 * s.n + 4 * s.lines, random=s.n, among=4 * s.lines
        ),
    ),
    "cpu_splines._place": Counted(
        "r n, b 8 n",
        lambda s: Work(read=4 * s.n, written=4 * s.n, random=s.n, among=4 * s.n),
    ),
    "cpu_splines.spread": Counted(
        "f n (6 p (p - 1) + 2 p³ + p²), c 8 n p³ loaded and stored, b 8 mesh",
        lambda s: Work(
            flops=_splines(s) + s.n * (2 * s.p**3 + s.p**2),
            read=36 * s.n,
            written=8 * s.held,
            loaded=8 * s.n * s.p**3,
            stored=8 * s.n * s.p**3,
        ),
    ),
    "cpu_splines.potential": Counted(
        "f n (6 p (p - 1) + 2 p³ + 2 p² + 2 p), c 8 n p³ loaded, b 8 mesh",
        lambda s: Work(
            flops=_splines(s) + s.n * (2 * s.p**3 + 2 * s.p**2 + 2 * s.p),
            read=28 * s.n + 8 * s.held,
            written=8 * s.n,
            loaded=8 * s.n * s.p**3,
        ),
    ),
    "cpu_splines.gradient": Counted(
        "f n (12 p (p - 1) + 4 p³ + 6 p² + 8 p), c 8 n p³ loaded, b 8 mesh",
        lambda s: Work(
            flops=2 * _splines(s) + s.n * (4 * s.p**3 + 6 * s.p**2 + 8 * s.p),
            read=36 * s.n + 8 * s.held,
            written=32 * s.n,
            loaded=8 * s.n * s.p**3,
        ),
    ),
    "cpu_fft.along": Counted(
        "f 2.5 mesh log2 plane, b 16 mesh",
        lambda s: Work(flops=5 / 3 * s.points * math.log2(s.points), read=8 * s.held, written=8 * s.held),
    ),
    "cpu_fft.across": Counted(
        "f 2.5 mesh log2 planes, b 16 mesh",
        lambda s: Work(flops=2.5 / 3 * s.points * math.log2(s.points), read=8 * s.held, written=8 * s.held),
    ),
    "cpu_fft.back_along": Counted(
        "f 2.5 mesh log2 plane, b 16 mesh",
        lambda s: Work(flops=5 / 3 * s.points * math.log2(s.points), read=8 * s.held, written=8 * s.held),
    ),
    "cpu_mesh._weigh_lines": Counted(
        "b 40 half, f 9 half",
        lambda s: Work(flops=9 * s.half, read=24 * s.half, written=16 * s.half),
    ),
    "cpu_mesh._fill_weights": Counted(
        "one exp for each of half, f 25 half",
        lambda s: Work(flops=25 * s.half, written=8 * s.half, exponentials=s.half),
    ),
    "cpu_mesh._repeat_rows": Counted(
        "b 16 (mesh in memory - mesh)",
        lambda s: Work(read=8 * (s.held - s.points), written=8 * (s.held - s.points)),
    ),
    "cpu_structure_factor._powers": Counted(
        "f 6 n powers, b 16 n powers",
        lambda s: Work(flops=6 * s.n * s.powers, read=16 * s.n, written=16 * s.n * s.powers),
    ),
    "cpu_structure_factor._sum_waves": Counted(
        "f 8 n waves, c 32 n waves loaded",
        lambda s: Work(flops=8 * s.n * s.waves, read=16 * s.n * s.powers, loaded=32 * s.n * s.waves),
    ),
    "cpu_structure_factor._sum_atoms": Counted(
        "f 19 n waves, c (64 + 32) n waves",
        lambda s: Work(
            flops=19 * s.n * s.waves,
            read=16 * s.n * s.powers,
            written=32 * s.n,
            loaded=64 * s.n * s.waves,
            stored=32 * s.n * s.waves,
        ),
    ),
}


def bounds(work: Work) -> dict[str, float]:
    """Seconds that each of the things takes at least."""
    touched = int(work.read + work.written)
    return {
        "flops": work.flops / rates.flops(),
        "memory": max(
            work.read / rates.reading(touched),
            work.written / rates.writing(touched),
        ),
        "first cache": max(
            work.loaded / rates.reading(rates.CACHE), work.stored / rates.writing(rates.CACHE)
        ),
        "random reads": work.random / rates.gathering(int(work.among)),
        "exponentials": work.exponentials / rates.exponentials(),
    }


def sums_of(box: Box) -> Sums:
    """What `Coulomb` chooses at the target, and waves for the sum without mesh."""
    p = Coulomb("3d", "pme", TARGET).parameters(box.positions, box.charges, box.cell)
    volume = float(np.linalg.det(box.cell))
    # Half of the sphere |G| < c holds V c³/(12 pi²) waves.
    waves = half_space_kvectors(torch.from_numpy(box.cell), (12 * math.pi**2 * WAVES / volume) ** (1 / 3))
    return Sums(p.splitting, p.cutoff, SKIN, p.mesh, p.order, waves.numpy())


def sizes_of(box: Box, sums: Sums) -> Sizes:
    """Numbers of what there is in a box."""
    n, reach = len(box.charges), sums.cutoff + sums.skin
    found = NeighborList(sums.cutoff, sums.skin).update(box.positions, box.cell, ALL)
    assert isinstance(found, RowPairs)
    rows = found.rows
    near = neighbor_pairs(box.positions, box.cell, ALL, sums.cutoff)
    n1, n2, n3 = sums.mesh
    # As the search cuts a cube: slices of about half the reach, and so many around.
    edge = float(box.edge)
    slices = max(1, math.floor(2 * edge / reach))
    around = 2 * math.ceil(reach * slices / edge + 1e-6) + 1
    return Sizes(
        n=n,
        listed=rows.pairs,
        rows=sum(len(piece.rows) for piece in rows.pieces),
        near=len(near.i),
        chosen=rows.with_atoms(calls.marked(n)).pairs,
        compared=n * 0.5 * around**3 * n / slices**3,
        bins=slices**3,
        p=sums.order,
        points=n1 * n2 * n3,
        lines=n1 * n2,
        held=n1 * n2 * 2 * (max(n3 + 2, n3 + sums.order) // 2),
        half=n1 * n2 * (n3 // 2 + 1),
        waves=len(sums.waves),
        powers=int(np.abs(sums.waves).max(axis=0).sum()),
    )


def too_slow(row: Row) -> list[str]:
    """A sentence for every kernel of the quick box that is slower than noise makes it; none on unknown processors."""
    if row["size"] != QUICK or not row["known_processor"]:
        return []
    return [
        f"{name} = {row['kernels'][name]['fraction']:.3f} of what the processor does must be at least "
        f"{known / SLOWER:.3f}: find what slows it, or change the fraction in limits.py where it must do more"
        for name, known in FRACTIONS.items()
        if row["kernels"][name]["fraction"] < known / SLOWER
    ]


def measure(size: str, rounds: int, say: Callable[[str], None]) -> Row:
    """Bound and time of every kernel for a water box, all in turns, on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        box = water(WATER_SIDES[size])
        sums = sums_of(box)
        say(f"limits {size}: sums once, to see what kernels are called with")
        held = calls.recorded(lambda: calls.evaluate(box, sums))
        sizes = sizes_of(box, sums)
        say(f"limits {size}: rates of the processor")
        best = rates.all_rates(2**26 if size == QUICK else rates.beyond_caches())
        least = {name: bounds(counted.work(sizes)) for name, counted in KERNELS.items()}
        say(f"limits {size}: {len(KERNELS)} kernels in turns")
        taken: dict[str, list[float]] = {name: [] for name in KERNELS}
        for _ in range(rounds):
            for name in KERNELS:
                # The second of two calls on arrays of their own: later ones would work on what these have made.
                for _ in range(3):
                    call = held[name].fresh()
                    call()
                    taken[name].append(1e3 * rates.fastest(call, 1))
    finally:
        torch.set_num_threads(before)
    rows = {}
    for name, counted in KERNELS.items():
        limit, bound = max(least[name].items(), key=lambda pair: pair[1])
        rows[name] = {
            "formula": counted.formula,
            "limit": limit,
            "bounds_ms": {key: 1e3 * value for key, value in least[name].items()},
            "bound_ms": 1e3 * bound,
            "fastest_ms": min(taken[name]),
            "ms": spread(taken[name]),
            "fraction": 1e3 * bound / min(taken[name]),
        }
    setting = {"cutoff": sums.cutoff, "skin": sums.skin, "mesh": list(sums.mesh), "order": sums.order}
    features = binding.get_host_cpu_features()
    return {
        "size": size,
        "atoms": sizes.n,
        "target": TARGET,
        "setting": setting,
        "sizes": asdict(sizes),
        "rates": best,
        "kernels": rows,
        "known_processor": "Intel" in machine()["processor"] and bool(features.get("avx512vl")),
    }
