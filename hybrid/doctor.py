"""What this installation consists of, and whether its electrostatics gives a known number."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

PACKAGES = (
    "grahame", "numpy", "scipy", "torch", "numba", "ase", "vesin", "torch-pme", "typer", "rich", "pydantic",
    "pyyaml", "matplotlib", "ducc0",
)  # fmt: skip
MADELUNG_NACL = 1.7475645946331822
"""Rock salt, referred to the nearest-neighbour distance (OEIS A085469)."""


@dataclass(frozen=True)
class Check:
    """One self-test: its name, whether it passed, and the number it found."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Diagnosis:
    """The environment and the self-tests.

    Attributes:
        python, platform: versions.
        packages: version of every package that is used, None where it is missing.
        cores: processors this process may use.
        threads: number of threads of torch and numba, and the variables that set them.
        blas, fft: libraries of numpy and torch.
        devices: names of the GPUs torch sees.
        checks: the self-tests.
    """

    python: str
    platform: str
    packages: dict[str, str | None]
    cores: int
    threads: dict[str, Any]
    blas: str
    fft: str
    devices: list[str]
    checks: list[Check]

    @property
    def healthy(self) -> bool:
        """Whether every self-test passed."""
        return all(check.passed for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return asdict(self) | {"healthy": self.healthy}


def diagnose() -> Diagnosis:
    """Look at the environment and run the self-tests (about two seconds)."""
    import numpy as np
    import torch

    config = np.show_config(mode="dicts")
    blas = config.get("Build Dependencies", {}).get("blas", {}) if isinstance(config, dict) else {}
    fft = "MKL" if "USE_MKL=ON" in torch.__config__.show() else "pocketfft"
    cuda = torch.cuda.is_available()
    return Diagnosis(
        python=sys.version.split()[0],
        platform=platform.platform(),
        packages={name: _version(name) for name in PACKAGES},
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads={
            "torch": torch.get_num_threads(),
            "numba": _of_numba(),
            **{v: os.environ.get(v) for v in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")},
        },
        blas=f"numpy {blas.get('name', 'unknown')} {blas.get('version', '')}".strip(),
        fft=f"torch {fft}",
        devices=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
        checks=[_checked("Madelung constant of NaCl", _madelung), _checked("parallel plates", _capacitor)],
    )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _checked(name: str, test: Any) -> Check:
    """Run one self-test; whatever goes wrong is the finding."""
    start = time.perf_counter()
    try:
        passed, detail = test()
    except Exception as error:
        passed, detail = False, f"{type(error).__name__}: {error}"
    return Check(name, passed, f"{detail}, {time.perf_counter() - start:.2f} s")


def _madelung() -> tuple[bool, str]:
    """Energy of 64 ions by Ewald and by mesh against the literature constant."""
    import numpy as np

    from grahame.electrostatics import Coulomb

    n, length = 4, 2.82
    index = np.stack(np.meshgrid(*[np.arange(n)] * 3, indexing="ij"), -1).reshape(-1, 3)
    charges = 1.0 - 2.0 * (index.sum(1) % 2)
    cell = np.eye(3) * n * length
    errors = {}
    for method, accuracy in (("ewald", 1e-10), ("pme", 1e-6)):
        coulomb = Coulomb("3d", method=method, accuracy=accuracy)
        energy = coulomb(index * length + 0.3, charges, cell, forces=False).energy
        constant = -energy / (len(index) / 2) * length / coulomb.coulomb_constant
        errors[method] = abs(constant / MADELUNG_NACL - 1.0)
    passed = errors["ewald"] < 1e-9 and errors["pme"] < 1e-5
    return passed, f"relative error {errors['ewald']:.1e} (ewald), {errors['pme']:.1e} (pme)"


def _capacitor() -> tuple[bool, str]:
    """Two planes of Gaussians in vacuum: dQ of moving them apart against eps0 A/d."""
    import numpy as np

    from grahame.electrostatics import ConstantPotential, Coulomb, Electrode

    side, n = 2.0, 4
    grid = side * np.stack(np.meshgrid(np.arange(n), np.arange(n), indexing="ij"), -1).reshape(-1, 2)
    plane = np.column_stack([grid, np.full(len(grid), 10.0)])
    cell = np.diag([n * side, n * side, 40.0])
    elastance = []
    for gap in (10.0, 15.0):
        positions = np.concatenate([plane, plane + np.array([0.0, 0.0, gap])])
        electrodes = [Electrode(np.arange(16), potential=0.0), Electrode(np.arange(16, 32), potential=1.0)]
        solver = ConstantPotential(electrodes, Coulomb("slab", method="ewald", accuracy=1e-8), smearing=0.5)
        charge = solver.solve(positions, np.zeros(32), cell, forces=False).electrode_charges[1]
        elastance.append(1.0 / charge)
        k = solver.coulomb.coulomb_constant
    # The planes' own thickness drops out of the difference: d(1/C) = 4 pi k d(gap)/A.
    ratio = (elastance[1] - elastance[0]) / (4.0 * math.pi * k * 5.0 / (n * side) ** 2)
    return abs(ratio - 1.0) < 1e-6, f"relative error of d/(eps0 A) {abs(ratio - 1.0):.1e}"


def _of_numba() -> int:
    """Threads of numba; asked for them it starts its own, and with them sets those of torch where both use OpenMP."""
    import numba
    import torch

    before = torch.get_num_threads()
    found = int(numba.get_num_threads())
    torch.set_num_threads(before)
    return found
