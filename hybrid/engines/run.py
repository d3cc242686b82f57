"""The run loop: minimise, equilibrate, produce, with files that survive a kill and an exact restart."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import units
from ase.io import iread, write
from numpy.typing import NDArray

from grahame.electrostatics import ThermoPotentiostat
from grahame.hybrid.conditions import Ramp, potentials_at
from grahame.hybrid.config import MinimiseConfig, RunConfig, StageConfig, parse_config
from grahame.hybrid.engines.checkpoint import (
    Checkpoint,
    Progress,
    changed_keys,
    load_checkpoint,
    save_checkpoint,
)
from grahame.hybrid.engines.files import Output, frame_text, write_atomically
from grahame.hybrid.engines.integrators import (
    NoseHooverChain,
    degrees_of_freedom,
    draw_momenta,
    integrator_state,
    load_integrator_state,
    make_integrator,
    make_optimizer,
    stands_still,
)
from grahame.hybrid.engines.progress import Bar, StopFlag
from grahame.hybrid.engines.provenance import file_hash, provenance
from grahame.hybrid.engines.setup import load_structure, prepare
from grahame.hybrid.engines.summary import Paths, RunSummary, log_columns, summarise
from grahame.hybrid.shortrange.base import SeesElectrodes

STAGES = ("minimise", "equilibrate", "produce")


class _Run:
    """One run in progress: the simulation, where it stands, its random numbers and its files."""

    def __init__(self, config: RunConfig, restart: bool) -> None:
        self.config = config
        self.paths = Paths.of(config)
        self.rng = np.random.default_rng(config.dynamics.seed)
        self.progress = Progress()
        self.integrator: Any = None
        self.integrator_state: dict[str, NDArray[Any]] = {}
        self.last_checkpoint = 0
        self.capacitance: float | None = None
        path = config.model_path
        self.model = None if path is None else file_hash(path)
        self._refuse_inputs()
        self.continued = restart and self.paths.checkpoint.exists()
        if restart and not self.continued and (self.paths.trajectory.exists() or self.paths.log.exists()):
            raise FileNotFoundError(
                f"checkpoint = {self.paths.checkpoint} must exist beside the trajectory: start again under another "
                "output.name or with output.overwrite: true"
            )
        if self.continued:
            self._continue(load_checkpoint(self.paths.checkpoint))
        else:
            self._refuse_existing()
            self.simulation = prepare(config, load_structure(config))
            self.simulation.atoms.get_forces()  # what the terms refuse is said before any file exists
            self._check_finite()
        self.potentiostat: ThermoPotentiostat | None = None
        block = config.thermo_potentiostat
        if block is not None:
            solver = self.simulation.calculator.potential.solver
            assert solver is not None
            short = self.simulation.calculator.potential.short_range
            if isinstance(short, SeesElectrodes) and short.exchanges:
                raise ValueError(
                    "thermo_potentiostat = given must be left out with a model whose electrolyte exchanges charge with the "
                    "electrodes (boundary_transfer): it holds their charges"
                )
            self.potentiostat = ThermoPotentiostat(solver, block.temperature_K, block.time_constant_fs, 0)
            self.potentiostat.random = self.rng

    def _written(self) -> list[Path]:
        """Files that the run makes, and those that an analysis of it leaves."""
        ours = [self.paths.checkpoint, self.paths.trajectory, self.paths.log, *self.paths.later]
        return [*ours, self.paths.ase_trajectory] if self.config.output.ase_trajectory else ours

    def _refuse_inputs(self) -> None:
        given = {p.resolve() for p in (self.config.structure_path, self.config.model_path) if p is not None}
        for path in self._written():
            if path.resolve() in given:
                raise ValueError(
                    f"output = {path} must not be a file that the run reads: choose another output.name"
                )

    def _refuse_existing(self) -> None:
        existing = [p for p in self._written() if p.exists()]
        if existing and not self.config.output.overwrite:
            raise FileExistsError(
                f"output = {existing[0]} must not exist yet: continue that run with restart, choose another "
                "output.name, or set output.overwrite: true"
            )

    def _continue(self, saved: Checkpoint) -> None:
        new = json.loads(self.config.model_dump_json())
        changed = changed_keys(saved.config, new)
        produce = self.config.dynamics.produce
        before = parse_config(saved.config).dynamics.produce
        if produce is not None and before is not None and produce.n_steps >= before.n_steps:
            # A longer production changes nothing that was computed.
            changed = [k for k in changed if k not in ("dynamics.produce.steps", "dynamics.produce.time_ps")]
        if changed:
            raise ValueError(
                f"config = changed in {', '.join(changed)} must equal that of the checkpoint: change it back, or "
                "start a new run under another output.name"
            )
        if saved.model != self.model:
            raise ValueError(
                f"short_range.model = {self.config.model_path} must be the file that the checkpoint was computed with "
                "(its SHA-256 differs): restore it, or start a new run under another output.name"
            )
        self.progress = saved.progress
        self.last_checkpoint = saved.progress.step
        self.rng.bit_generator.state = saved.rng
        self.integrator_state = saved.integrator
        if "capacitance" in saved.potentiostat:
            self.capacitance = float(saved.potentiostat["capacitance"])
        self.simulation = prepare(self.config, saved.start)
        atoms = self.simulation.atoms
        atoms.positions[:] = saved.positions
        atoms.set_momenta(saved.momenta, apply_constraint=False)
        self.simulation.calculator.load_state(saved.calculator, atoms)

    # ------------------------------------------------------------------ loop

    def go(self, progress: bool) -> RunSummary:
        if not self.continued:
            self._start_files()
        p = self.progress
        began = time.perf_counter()
        before, started_fs = p.wall_s, p.time_fs
        columns = log_columns(len(self.config.electrodes))
        lengths = (p.trajectory_bytes, p.log_bytes)
        dynamics_s = 0.0
        with (
            StopFlag() as stop,
            Output(self.paths.trajectory, self.paths.log, columns, lengths) as output,
            Bar(progress) as bar,
        ):
            if getattr(self.config.short_range, "compile", False):
                bar.say("compiling the model: up to a minute, seconds when it was compiled here before")
            for name in STAGES:
                block = getattr(self.config.dynamics, name)
                if block is None or STAGES.index(name) < (STAGES.index(p.stage) if p.stage else 0):
                    continue
                if p.stage != name:
                    self._enter(name, block)
                else:
                    self._make_integrator(block)
                    load_integrator_state(self.integrator, self.integrator_state)
                bar.stage(name, p.stage_step, self._length(block), getattr(block, "timestep_fs", None))
                stage_began = time.perf_counter()
                step = self._minimise if isinstance(block, MinimiseConfig) else self._advance
                done = self._loop(
                    name, block, step, output, bar, stop, lambda: before + time.perf_counter() - began
                )
                if name != "minimise":
                    dynamics_s += time.perf_counter() - stage_began
                if not done:
                    break
                if name == "minimise" and not p.finished and not self._moves():
                    # The relaxed structure, which no stage begins with.
                    self._write(name, output, log=False, frame=True)
            else:
                p.finished = True
            p.wall_s = before + time.perf_counter() - began
            self._save(output)
        if p.finished and self.config.output.ase_trajectory:
            self._write_ase_trajectory()
        speed = 1e-6 * (p.time_fs - started_fs) / dynamics_s * 86400.0 if dynamics_s > 0 else 0.0
        return summarise(self.config, p, self.paths, len(self.simulation.atoms), speed)

    def _moves(self) -> bool:
        """Whether there are stages of dynamics."""
        return self.config.dynamics.equilibrate is not None or self.config.dynamics.produce is not None

    def _loop(
        self,
        name: str,
        block: MinimiseConfig | StageConfig,
        advance: Callable[[Any], bool],
        output: Output,
        bar: Bar,
        stop: StopFlag,
        wall: Callable[[], float],
    ) -> bool:
        """Steps of one stage; True when the stage is complete."""
        p, out = self.progress, self.config.output
        total = self._length(block)
        # Checkpoints of earlier versions do not say whether the stage has begun; within it, it has.
        if p.stage_step == 0 and not p.begun:
            self._write(name, output, log=True, frame=name != "minimise")
            p.begun = True
        while p.stage_step < total:
            if stop.requested:
                return False
            try:
                if not advance(block):
                    break
                self.capacitance = None  # solved since
                p.stage_step += 1
                p.step += 1
                self._check_finite()
            except (ValueError, RuntimeError, ArithmeticError) as error:
                raise RuntimeError(
                    f"{error} (in step {p.stage_step} of {name}; the files hold what came before, the last "
                    f"checkpoint is at step {self.last_checkpoint} of the run)"
                ) from error
            self._write(
                name,
                output,
                log=p.stage_step % out.log_interval == 0,
                frame=name != "minimise" and p.stage_step % out.trajectory_interval == 0,
            )
            if p.stage_step % out.checkpoint_interval == 0:
                p.wall_s = wall()
                self._save(output)
            bar.update(p.stage_step, self.simulation.calculator.results["electrode_charges"])
        return True

    def _enter(self, name: str, block: MinimiseConfig | StageConfig) -> None:
        self.progress.stage, self.progress.stage_step, self.progress.begun = name, 0, False
        atoms = self.simulation.atoms
        if isinstance(block, StageConfig) and not np.any(atoms.get_momenta()):
            draw_momenta(atoms, block.temperature_K, self.rng)
        self.progress.still = self._keeps_momentum(block) and stands_still(atoms)
        self._make_integrator(block)

    def _keeps_momentum(self, block: MinimiseConfig | StageConfig) -> bool:
        """Whether a stage keeps the momentum of atoms that nothing holds: no noise, no force on the whole."""
        c = self.config
        driven = (c.field or c.displacement) and c.solver.total_charge != 0.0
        return isinstance(block, StageConfig) and block.ensemble != "langevin" and not driven

    def _freedom(self) -> int:
        return degrees_of_freedom(self.simulation.atoms, self.progress.still)

    def _make_integrator(self, block: MinimiseConfig | StageConfig) -> None:
        atoms = self.simulation.atoms
        if isinstance(block, MinimiseConfig):
            self.integrator = make_optimizer(atoms)
        else:
            self.integrator = make_integrator(atoms, block, self.rng, self._freedom())

    @staticmethod
    def _length(block: MinimiseConfig | StageConfig) -> int:
        return block.steps if isinstance(block, MinimiseConfig) else block.n_steps

    def _minimise(self, block: MinimiseConfig) -> bool:
        """One step downhill; False when the largest force is small enough."""
        if self._fmax() <= block.fmax:
            return False
        self.integrator.step()
        self.simulation.atoms.get_forces()
        return True

    def _advance(self, block: StageConfig) -> bool:
        """One time step under the potentials or charges of its end."""
        s, p = self.simulation, self.progress
        # The forces in hand belong to what was held before, as the energy balance of a ramp needs.
        forces = s.atoms.get_forces(md=True)
        charges = s.calculator.results["electrode_charges"]
        supplied = s.calculator.results["reservoir_charges"]
        ramped = p.stage == "produce" and any(isinstance(h, Ramp) for h in s.held)
        time_ps = 1e-3 * block.timestep_fs * (p.stage_step + 1) if p.stage == "produce" else 0.0
        old, new = s.calculator.potentials, potentials_at(s.held, time_ps)
        if self.potentiostat is not None:
            self._move_charge(self.potentiostat, charges, new, block.timestep_fs)
        elif ramped:
            s.calculator.set_potentials(new)
        self.integrator.step(forces)
        s.atoms.get_forces()
        if ramped and self.potentiostat is None:
            mean = 0.5 * (supplied + s.calculator.results["reservoir_charges"])
            p.drive -= float(np.nansum(mean * (new - old)))
        p.time_fs += block.timestep_fs
        return True

    def _move_charge(
        self,
        potentiostat: ThermoPotentiostat,
        charges: NDArray[np.float64],
        target: NDArray[np.float64],
        timestep: float,
    ) -> None:
        calculator = self.simulation.calculator
        potentials = calculator.results["electrode_potentials"]
        potentiostat.potential_difference = float(target[1] - target[0])
        voltage = float(potentials[1] - potentials[0])
        charge = potentiostat.move(float(charges[1]), voltage, self._capacitance(potentiostat), timestep)
        calculator.set_electrode_charges([float(charges.sum()) - charge, charge])

    def _capacitance(self, potentiostat: ThermoPotentiostat) -> float:
        """dQ/dV at the ions of now, e/V; a run that goes on has not solved yet and takes that of its checkpoint."""
        return potentiostat.cpm.difference_capacitance if self.capacitance is None else self.capacitance

    def _fmax(self) -> float:
        return float(np.sqrt((self.simulation.atoms.get_forces() ** 2).sum(axis=1).max()))

    def _check_finite(self) -> None:
        results = self.simulation.calculator.results
        bad = np.flatnonzero(~np.isfinite(results["forces"]).all(axis=1))
        if len(bad):
            raise FloatingPointError(
                f"forces[{bad[0]}] = {results['forces'][bad[0]]} eV/Å must be finite: minimise longer, or use a "
                "shorter timestep_fs"
            )

    # ------------------------------------------------------------------ files

    def _start_files(self) -> None:
        paths = self.paths
        paths.trajectory.parent.mkdir(parents=True, exist_ok=True)
        # An analysis of the run that is replaced would pass for one of this run.
        for path in self._written():
            path.unlink(missing_ok=True)
        record = provenance(self.config, self.simulation)
        write_atomically(paths.provenance, (json.dumps(record, indent=1) + "\n").encode())
        self._write_checkpoint()

    def _save(self, output: Output) -> None:
        self.progress.trajectory_bytes, self.progress.log_bytes = output.lengths()
        self._write_checkpoint()

    def _write_checkpoint(self) -> None:
        s = self.simulation
        save_checkpoint(
            self.paths.checkpoint,
            Checkpoint(
                config=json.loads(self.config.model_dump_json()),
                progress=replace(self.progress),
                rng=dict(self.rng.bit_generator.state),
                start=s.start,
                positions=s.atoms.get_positions(),
                momenta=s.atoms.get_momenta(),
                model=self.model,
                integrator={} if self.integrator is None else integrator_state(self.integrator),
                calculator=s.calculator.state(),
                potentiostat={}
                if self.potentiostat is None
                else {"capacitance": np.array(self._capacitance(self.potentiostat))},
            ),
        )
        self.last_checkpoint = self.progress.step

    def _write(self, name: str, output: Output, log: bool, frame: bool) -> None:
        s, p = self.simulation, self.progress
        results = s.calculator.results
        if frame:
            output.frame(frame_text(s.atoms, results, {"step": p.step, "stage": name, "time_fs": p.time_fs}))
        if not log:
            return
        kinetic = float(s.atoms.get_kinetic_energy())
        row: dict[str, Any] = {
            "step": p.step,
            "stage": name,
            "time_ps": 1e-3 * p.time_fs,
            "omega_eV": results["energy"],
            "internal_eV": results["internal_energy"],
            "work_eV": results["work"],
            "solver_iterations": int(results["iterations"]),
        }
        for g, (q, v) in enumerate(zip(results["electrode_charges"], results["electrode_potentials"])):
            row |= {f"electrode_{g}_charge_e": float(q), f"electrode_{g}_potential_V": float(v)}
        if name == "minimise":
            row["fmax_eV_per_A"] = self._fmax()
        else:
            row |= {
                "kinetic_eV": kinetic,
                "temperature_K": 2.0 * kinetic / (self._freedom() * units.kB),
                "conserved_eV": self._conserved(results["energy"] + kinetic),
            }
        output.log(row)

    def _conserved(self, total: float) -> float | None:
        """Omega + kinetic + what thermostat and ramps hold; None where nothing is conserved."""
        block = getattr(self.config.dynamics, self.progress.stage)
        ramped = any(isinstance(h, Ramp) for h in self.simulation.held)
        if (
            block.ensemble == "langevin"
            or self.potentiostat is not None
            or (ramped and self.config.coulomb.boundary == "finite-field")
        ):
            return None
        if isinstance(self.integrator, NoseHooverChain):
            total += self.integrator.thermostat_energy()
        return total - self.progress.drive

    def _write_ase_trajectory(self) -> None:
        frames = list(iread(self.paths.trajectory, format="extxyz"))
        write(self.paths.ase_trajectory, frames, format="traj")


def run(config: RunConfig, *, progress: bool = True, restart: bool = False) -> RunSummary:
    """Minimise, equilibrate and produce as a configuration says.

    Args:
        config: from `load_config` or `parse_config`.
        progress: show a progress bar on stderr.
        restart: continue from the last checkpoint; without one, start from the beginning.
    Returns:
        What was done, with means over production.
    Raises:
        ValueError, FileNotFoundError: for wrong input, before any file is written.
        FileExistsError: when output of this name exists and neither restart nor overwrite is asked for.
        RuntimeError: when a step fails; the files then hold everything before it.
    """
    return _Run(config, restart).go(progress)
