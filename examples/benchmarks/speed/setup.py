"""Part "setup": from a new solver to the first charges of a cell, the electrode matrix included."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from examples.benchmarks.speed import engines
from examples.benchmarks.speed.builders import electrode_cell
from examples.benchmarks.speed.electrodes import SLOW_ATOMS
from examples.benchmarks.speed.measures import spread
from examples.benchmarks.speed.settings import Settings, our_sources
from examples.benchmarks.speed.turns import Failed, Worker

Row = dict[str, Any]

# Where the part "electrodes" has not found what meets its targets yet.
OUR_DEFAULT = 3e-4
PEER_DEFAULTS = {
    "lammps": {"accuracy": 1e-6, "cutoff": 10.0, "slab": 3.0},
    "openmm": {"accuracy": 1e-5, "cutoff": 9.0},
}


def measure(
    size: str,
    names: list[str],
    rounds: int,
    settings: Settings,
    folder: Path,
    slow: bool,
    say: Callable[[str], None],
) -> Row:
    """One size: seconds in the slab (finite field for OpenMM) on one thread, at the settings of the steps."""
    rows: dict[str, Row] = {}
    atoms = electrode_atoms = 0
    for name in names:
        if name not in ("ours", "lammps", "openmm"):
            continue
        absent = engines.missing(name)
        if absent:
            rows[name] = {"status": absent}
            continue
        periodic = name == "openmm"
        cell = electrode_cell(size, periodic, False)
        atoms, electrode_atoms = len(cell.charges), len(cell.solved)
        if name != "ours" and atoms >= SLOW_ATOMS and not slow:
            rows[name] = {"status": "not measured: takes minutes, --slow measures it"}
            continue
        say(f"set-up {size}: {name}")
        file, tiny = folder / f"setup-{size}-{name}.npz", folder / f"setup-tiny-{name}.npz"
        cell.save(file)
        electrode_cell("0.4k", periodic, False).save(tiny)
        setting, known = _setting(name, size, settings)
        if periodic:  # it takes no more than half the cell
            setting["cutoff"] = min(setting["cutoff"], 0.499 * float(cell.cell.diagonal().min()))
        # Peers build the same matrix each time; once is enough for what takes them long.
        count = rounds if name == "ours" else 1
        try:
            with Worker(name) as worker:
                worker.ask("open_cell", slot="tiny", case=str(tiny), setting=_tiny(setting))
                worker.ask("close", slot="tiny")
                taken = []
                for _ in range(count):
                    found = worker.ask("open_cell", slot="one", case=str(file), setting=setting)
                    worker.ask("close", slot="one")
                    taken.append(found["set_up_s"])
            rows[name] = {
                "status": "measured",
                "seconds": spread(taken),
                "label": found["label"],
                "boundary": cell.boundary,
                "at_targets": known,
            }
        except Failed as failure:
            rows[name] = {"status": f"failed: {failure}"}
    return {"size": size, "atoms": atoms, "electrode_atoms": electrode_atoms, "engines": rows}


def _tiny(setting: Row) -> Row:
    """The same for a cell too narrow for the cut-off of a large one."""
    return setting | ({"cutoff": min(setting["cutoff"], 4.9)} if "cutoff" in setting else {})


def _setting(name: str, size: str, settings: Settings) -> tuple[Row, bool]:
    """What the part "electrodes" found for this size, else a default; and whether it was found there."""
    version = our_sources() if name == "ours" else engines.versions()[name]
    kind = {"ours": "slab rigid", "lammps": "slab", "openmm": "finite-field"}[name]
    kept = (settings.get(f"electrodes/{name}/{version}/{kind}/{mode}/{size}") for mode in ("full", "quick"))
    held = next((k for k in kept if k), None)
    if name == "ours":
        return (held[0] if held else {"accuracy": OUR_DEFAULT}), bool(held)
    algorithm = {"algorithm": "mat_inv" if name == "lammps" else "matrix"}
    return (held[0] if held else PEER_DEFAULTS[name]) | algorithm, bool(held)
