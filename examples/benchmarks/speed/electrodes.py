"""Part "electrodes": charges and forces of one more step of gold/water/salt cells, at equal measured errors.

The electrolyte (and gold that moves) flies on straight lines at 300 K, so that every step is a new geometry near the last.
Errors are measured some steps after the start: relative rms of the electrode charges, and rms of the forces in eV/Å.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.benchmarks.speed import engines
from examples.benchmarks.speed.builders import electrode_cell
from examples.benchmarks.speed.reference import cell_with_truth
from examples.benchmarks.speed.settings import Settings, our_sources
from examples.benchmarks.speed.systems import CELL_SIZES, Cell
from examples.benchmarks.speed.turns import Failed, Turn, Worker, started, take_turns

Say = Callable[[str], None]
Row = dict[str, Any]

CHARGE_TARGET = 1e-4  # relative
FORCE_TARGET = 1e-4  # eV/Å
SECONDS = 0.5  # of one turn
_SLOW = "not measured: its set-up takes minutes, --slow measures it"
_NOTHING_SEEN = (float("inf"), float("inf"))
# From this many atoms on, peers build an electrode matrix only when asked to: it takes them minutes.
SLOW_ATOMS = 20_000

OURS = (5e-3, 3e-3, 2e-3, 1e-3, 7e-4, 5e-4, 3e-4, 2e-4, 1e-4, 7e-5, 5e-5, 3e-5, 2e-5, 1e-5)
LAMMPS_ACCURACIES = (1e-5, 5e-6, 3e-6, 1.5e-6, 1e-6, 5e-7, 2e-7, 1e-7)
LAMMPS_TOLERANCES = ("1e-4", "1e-5", "1e-6", "3e-7", "1e-7", "3e-8", "1e-8", "3e-9")
TIGHT = "1e-9"
OPENMM_ACCURACIES = (1e-4, 5e-5, 2e-5, 1e-5, 5e-6, 2e-6, 1e-6)
OPENMM_TOLERANCES = (1.0, 0.1, 1e-2, 1e-3, 1e-4)


@dataclass(frozen=True)
class Case:
    """One cell in one boundary, with rigid or moving electrodes."""

    size: str
    periodic: bool
    moving: bool

    @property
    def name(self) -> str:
        """For tables and files."""
        return f"{self.size} {'finite-field' if self.periodic else 'slab'} {'moving' if self.moving else 'rigid'}"


CASES = ((False, False), (True, False), (False, True))  # periodic, moving


class Search:
    """Settings of one engine for one case."""

    def __init__(self, worker: Worker, case: Path, settings: Settings, key: str) -> None:
        self.worker, self.case, self.settings, self.key = worker, case, settings, key
        self.best = _NOTHING_SEEN

    def errors(self, setting: Row, slot: str = "try") -> Row | None:
        """Its errors if it can be set up and meets both targets; else `best` takes note of them."""
        try:
            found = self.worker.ask("open_cell", slot=slot, case=str(self.case), setting=setting)
        except Failed:
            return None
        if found["charge_error"] <= CHARGE_TARGET and found["force_error"] <= FORCE_TARGET:
            return found
        self.best = min(self.best, (found["charge_error"], found["force_error"]))
        self.worker.ask("close", slot=slot)
        return None

    def first(self, ladder: list[Row]) -> Row | None:
        """The first setting of a ladder that meets the targets."""
        for setting in ladder:
            if self.errors(setting):
                self.worker.ask("close", slot="try")
                return setting
        return None

    def cheapest(self, ladders: list[list[Row]]) -> list[Row]:
        """The first that meets the targets of every ladder, cheapest step first."""
        found: list[tuple[float, Row]] = []
        for ladder in ladders:
            for setting in ladder:
                if self.errors(setting):
                    taken = [self.worker.ask("steps", slot="try", count=2)["cpu_ms"] for _ in range(2)]
                    self.worker.ask("close", slot="try")
                    found.append((min(taken), setting))
                    break
        return [setting for _, setting in sorted(found, key=lambda pair: pair[0])]

    def kept(self, find: Callable[[list[Row]], list[Row]], smaller: list[str], keep: int) -> list[Row]:
        """Settings from the file, else from a search that starts at a smaller cell's."""
        held: list[Row] | None = self.settings.get(f"{self.key}/{self._size}")
        if held:
            return held[:keep]
        known: list[Row] = next((k for s in smaller if (k := self.settings.get(f"{self.key}/{s}"))), [])
        found = find(known)
        if found:
            self.settings.put(f"{self.key}/{self._size}", found)
        return found[:keep]

    @property
    def _size(self) -> str:
        return self.case.stem.split("-")[1]


def ours(search: Search) -> list[Row]:
    """The loosest accuracy."""
    found = search.kept(lambda _: _listed(search.first([{"accuracy": a} for a in OURS])), [], 1)
    return found


def lammps_meshes(search: Search, cell: Cell, smaller: list[str], keep: int, quick: bool) -> list[Row]:
    """Accuracy of pppm/electrode, cut-off and slab factor.

    In a slab they are found with tightly converged conjugate gradients, which need no set-up; in finite field, where
    those end up 40 % off in the charges whatever their tolerance, with the inverse of the matrix.
    """
    periodic = bool(cell.periodic)
    how: Row = {"algorithm": "mat_inv"} if periodic else {"algorithm": "cg", "tolerance": TIGHT}

    def find(known: list[Row]) -> list[Row]:
        slabs: list[float | None] = [None] if periodic else [2.0, 3.0]
        pairs = [(c, s) for c in (8.0, 10.0, 12.0) for s in slabs]
        if known:
            pairs = [(k["cutoff"], k.get("slab")) for k in known[: 1 if periodic else 2]]
        elif quick:
            pairs = pairs[:1]
        loosest = max((k["accuracy"] for k in known), default=1.0)
        ladders = [
            [
                how | {"accuracy": a, "cutoff": c} | ({"slab": s} if s else {})
                for a in LAMMPS_ACCURACIES
                if a <= 2.1 * loosest
            ]
            for c, s in pairs
        ]
        return search.cheapest(ladders)

    return search.kept(find, smaller, keep)


def openmm_meshes(search: Search, cell: Cell, smaller: list[str], quick: bool) -> list[Row]:
    """Ewald tolerance and cut-off, found with the matrix where it is cheap and with conjugate gradients elsewhere."""
    half = 0.499 * float(cell.cell.diagonal().min())
    large = len(cell.charges) >= SLOW_ATOMS
    how: Row = {"algorithm": "cg", "tolerance": OPENMM_TOLERANCES[-1]} if large else {"algorithm": "matrix"}

    def find(known: list[Row]) -> list[Row]:
        lengths = (
            [k["cutoff"] for k in known[:2]] or [c for c in (7.0, 8.0, 9.0, 10.0, 12.0) if c < half] or [half]
        )
        if quick:
            lengths = lengths[-1:]
        ladders = [[how | {"accuracy": a, "cutoff": c} for a in OPENMM_ACCURACIES] for c in lengths]
        return search.cheapest(ladders)

    return search.kept(find, smaller, 1)


def _listed(setting: Row | None) -> list[Row]:
    return [] if setting is None else [setting]


def _but(setting: Row, algorithm: str) -> Row:
    """A setting with another algorithm, whose tolerance is its own."""
    return {k: v for k, v in setting.items() if k != "tolerance"} | {"algorithm": algorithm}


def wanted(
    name: str, search: Search, cell: Cell, size: str, moving: bool, slow: bool, quick: bool
) -> dict[str, list[Row] | str]:
    """By algorithm, the settings of an engine that take part, cheapest first, or why there are none."""
    sizes = list(CELL_SIZES)
    smaller = sizes[: sizes.index(size)][::-1]
    matrix = slow or len(cell.charges) < SLOW_ATOMS
    if name == "ours":
        return {"ours": ours(search)}
    out: dict[str, list[Row] | str] = {}
    if name == "lammps":
        if bool(cell.periodic) and not matrix:
            return {"mat_inv": _SLOW}
        meshes = lammps_meshes(search, cell, smaller, 2, quick)
        if not moving:
            # A matrix takes long to set up: two of them only for small cells.
            some = meshes[: 2 if len(cell.charges) < 3000 else 1]
            out["mat_inv"] = [_but(m, "mat_inv") for m in some] if matrix else _SLOW
        search.best = _NOTHING_SEEN
        ladder = [_but(m, "cg") | {"tolerance": t} for m in meshes[:1] for t in (*LAMMPS_TOLERANCES, TIGHT)]
        # Where even the tightest does not help, the others need not be tried.
        out["cg"] = _listed(search.first(ladder)) if ladder and search.first(ladder[-1:]) else []
        return out
    meshes = openmm_meshes(search, cell, smaller, quick)
    out["Matrix"] = [_but(m, "matrix") for m in meshes] if matrix else _SLOW
    ladder = [_but(m, "cg") | {"tolerance": t} for m in meshes for t in OPENMM_TOLERANCES]
    out["CG"] = _listed(search.first(ladder))
    return out


def measure(
    case: Case,
    names: list[str],
    threads: list[int],
    rounds: int,
    settings: Settings,
    folder: Path,
    slow: bool,
    quick: bool,
    say: Say,
) -> Row:
    """One case: errors, times of a step and set-up times of every engine that has this boundary.

    On more threads the cheapest setting of each algorithm is timed.
    """
    cell, reference = cell_with_truth(electrode_cell(case.size, case.periodic, case.moving), folder)
    file = folder / f"cell-{case.name.replace(' ', '-')}.npz"
    cell.save(file)
    rows: dict[str, Row] = {}
    turns: list[Turn] = []
    # The others have no electrodes, or not in this boundary.
    able = ["ours", "lammps", "openmm"] if case.periodic else ["ours", "lammps"]
    able = [name for name in names if name in able]
    with ExitStack() as stack:
        workers = started([n for n in able if not engines.missing(n)], stack)
        for name in able:
            absent = engines.missing(name)
            if absent:
                rows[name] = {"status": absent}
                continue
            say(f"electrodes {case.name}: settings of {name}")
            version = our_sources() if name == "ours" else engines.versions()[name]
            kind = case.name.split(" ", 1)[1]
            # What a mesh must be does not depend on whether gold moves; what ours must be may.
            kind = kind if name == "ours" else kind.split(" ")[0]
            mode = "quick" if quick and name != "ours" else "full"
            try:
                search = Search(workers[name], file, settings, f"electrodes/{name}/{version}/{kind}/{mode}")
                found = wanted(name, search, cell, case.size, case.moving, slow, quick)
                for algorithm, some in found.items():
                    title = name if algorithm == "ours" else f"{name} {algorithm}"
                    if isinstance(some, str):
                        rows[title] = {"status": some}
                        continue
                    for k, setting in enumerate(some):
                        slot = f"{title}#{k}"
                        row = _opened(search, setting, slot)
                        if row:
                            rows[slot] = row
                            turns.append(Turn(slot, workers[name], slot))
                            for count in [t for t in threads if t > 1] if k == 0 else []:
                                more = _more(stack, name, count, file, row["setting"], title, turns)
                                row.setdefault("threads", {})[str(count)] = more
                    if not any(slot.startswith(f"{title}#") for slot in rows):
                        charges, forces = search.best
                        rows[title] = {
                            "status": f"targets not reached: at best {charges:.1e} and {forces:.1e} eV/Å"
                        }
            except Failed as failure:
                rows[name] = {"status": f"failed: {failure}"}
        say(f"electrodes {case.name}: {len(turns)} timings in turns")
        times = take_turns(turns, rounds, 0.05 if quick else SECONDS, say=say)
    return {
        "size": case.size,
        "atoms": len(cell.charges),
        "electrode_atoms": len(cell.solved),
        "boundary": cell.boundary,
        "moving": case.moving,
        "reference": reference,
        "engines": _chosen(rows, times),
    }


def _more(
    stack: ExitStack, name: str, count: int, case: Path, setting: Row, title: str, turns: list[Turn]
) -> Row:
    """The same engine and setting on more threads."""
    try:
        worker = stack.enter_context(Worker(name, count))
        worker.ask("open_cell", slot="many", case=str(case), setting=setting)
    except Failed as failure:
        return {"status": f"failed: {failure}"}
    turns.append(Turn(f"{title} on {count}", worker, "many"))
    return {"status": "measured"}


def _opened(search: Search, setting: Row, slot: str) -> Row | None:
    """A setting ready for its turns; one with a matrix is tightened where the matrix adds an error of its own."""
    for tighter in (1.0, 0.5, 0.25) if setting.get("algorithm") == "mat_inv" else (1.0,):
        tried = setting | {"accuracy": setting["accuracy"] * tighter}
        found = search.errors(tried, slot)
        if found:
            return {"status": "measured", "setting": tried} | found
    return None


def _chosen(rows: dict[str, Row], times: dict[str, Row]) -> dict[str, Row]:
    """The fastest setting of every engine and algorithm, and our time over its."""
    out: dict[str, Row] = {}
    for slot, row in rows.items():
        name = slot.split("#")[0]
        if row["status"] == "measured":
            row["step"] = times.get(slot, {})
            if "wall_ms" not in row["step"]:
                row = {"status": f"failed: {row['step'].get('failed')}"}
        for count, more in row.get("threads", {}).items():
            if more["status"] == "measured":
                more["step"] = times.get(f"{name} on {count}", {})
                if "wall_ms" not in more["step"]:
                    more["status"] = f"failed: {more['step'].get('failed')}"
                else:
                    more["speedup"] = _median(row) / _median(more)
        before = out.get(name)
        if before is None or before["status"] != "measured":
            out[name] = row
        elif row["status"] == "measured" and _median(row) < _median(before):
            out[name] = row | ({"threads": before["threads"]} if "threads" in before else {})
    ours = out.get("ours", {})
    for row in out.values():
        if row["status"] == "measured" and ours.get("status") == "measured":
            row["ours_over_this"] = {
                c: ours["step"][c]["median"] / row["step"][c]["median"] for c in ("wall_ms", "cpu_ms")
            }
        for count, more in row.get("threads", {}).items():
            mine = ours.get("threads", {}).get(count, {})
            if more["status"] == mine.get("status") == "measured":
                more["ours_over_this"] = {"wall_ms": _median(mine) / _median(more)}
    return out


def _median(row: Row) -> float:
    return float(row["step"]["wall_ms"]["median"])
