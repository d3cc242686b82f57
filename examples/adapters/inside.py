"""What `exercise.py` runs inside the environment it has built: train, load, check, run dynamics."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from ase import Atoms
from ase.calculators.lj import LennardJones
from ase.io import write
from reference import (
    ELEMENTS,
    METAL,
    SPC,
    Labelled,
    check,
    frames_for_heads,
    labelled_frames,
    write_frames,
)

from grahame.electrostatics import Coulomb
from grahame.hybrid import HybridCalculator
from grahame.hybrid.adapters import (
    ASETrunk,
    FeatureHeads,
    FixedCharges,
    ForeignModel,
    ForeignShortRange,
    LabelEnsemble,
    MACETrunk,
    MetatomicTrunk,
    ModelCharges,
    NequIPTrunk,
    Trunk,
    export_metatomic,
    load_heads,
    save_heads,
)
from grahame.hybrid.frames import make_batch
from grahame.hybrid.model import ChargeSpec, HybridModel, ModelSpec
from grahame.hybrid.shortrange.equivariant import Architecture
from grahame.hybrid.shortrange.learned import LearnedShortRange

HERE = Path(__file__).resolve().parent
EPOCHS = 40


def versions(*names: str) -> None:
    """Print what is installed."""
    print(", ".join(f"{n} {importlib.metadata.version(n)}" for n in (*names, "torch", "ase")), flush=True)


def command(arguments: Sequence[str]) -> None:
    """A program of the other package; its failure ends this one with the last lines it printed."""
    begin = time.perf_counter()
    done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        print(done.stdout[-3000:])
        raise SystemExit(f"command = {arguments[0]} must succeed: see its output above")
    print(f"{arguments[0]}: {time.perf_counter() - begin:.0f} s", flush=True)


def train_mace(data: Path, name: str) -> Path:
    """MACE's own training command; MACE switches unsafe unpickling on, in that process only."""
    command(
        [
            "mace_run_train",
            f"--name={name}",
            f"--train_file={data}",
            "--valid_fraction=0.1",
            "--E0s=average",
            "--energy_key=REF_energy",
            "--forces_key=REF_forces",
            "--num_channels=8",
            "--max_L=1",
            "--max_ell=2",
            "--correlation=2",
            "--num_interactions=2",
            "--num_radial_basis=6",
            "--r_max=4.0",
            "--batch_size=4",
            f"--max_num_epochs={EPOCHS}",
            "--eval_interval=10",
            "--lr=0.02",
            "--default_dtype=float64",
            "--device=cpu",
            "--seed=1",
            "--plot=False",
        ]
    )
    return Path(f"{name}.model")


def train_nequip(data: Path, name: str, allegro: bool, mean: float) -> Path:
    """NequIP's own training command on a configuration written here."""
    kind = (
        """
    _target_: allegro.model.AllegroModel
    l_max: 1
    num_layers: 1
    num_scalar_features: 16
    num_tensor_features: 8
    radial_chemical_embed: {_target_: allegro.nn.TwoBodyBesselScalarEmbed, num_bessels: 6}"""
        if allegro
        else """
    _target_: nequip.model.NequIPGNNModel
    num_layers: 2
    l_max: 1
    parity: false
    num_features: 8
    radial_mlp_depth: 1
    radial_mlp_width: 16"""
    )
    symbols = ", ".join(ELEMENTS)
    text = f"""
run: [train]
data:
  _target_: nequip.data.datamodule.ASEDataModule
  seed: 1
  train_file_path: {data.resolve()}
  val_file_path: {data.resolve()}
  transforms:
    - {{_target_: nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper, model_type_names: [{symbols}]}}
    - {{_target_: nequip.data.transforms.NeighborListTransform, r_max: 4.0}}
  key_mapping: {{REF_energy: total_energy, REF_forces: forces}}
  train_dataloader: {{_target_: torch.utils.data.DataLoader, batch_size: 4}}
  val_dataloader: {{_target_: torch.utils.data.DataLoader, batch_size: 4}}
trainer:
  _target_: lightning.Trainer
  accelerator: cpu
  max_epochs: {EPOCHS}
  logger: false
  enable_progress_bar: false
  callbacks:
    - {{_target_: lightning.pytorch.callbacks.ModelCheckpoint, dirpath: {Path(name).resolve()}, save_last: true}}
training_module:
  _target_: nequip.train.EMALightningModule
  loss: {{_target_: nequip.train.EnergyForceLoss, per_atom_energy: true, coeffs: {{total_energy: 1.0, forces: 1.0}}}}
  val_metrics: {{_target_: nequip.train.EnergyForceMetrics, coeffs: {{total_energy_mae: 1.0}}}}
  optimizer: {{_target_: torch.optim.Adam, lr: 0.02}}
  model:{kind}
    seed: 1
    model_dtype: float64
    r_max: 4.0
    type_names: [{symbols}]
    avg_num_neighbors: 10.0
    per_type_energy_scales: 1.0
    per_type_energy_shifts: {mean}
"""
    Path(f"{name}.yaml").write_text(text)
    command(["nequip-train", "-cp", str(Path.cwd()), "-cn", name])
    return Path(name) / "last.ckpt"


def force_error(title: str, trunk: Trunk, frames: Sequence[Labelled], residual: bool) -> None:
    """RMSE of a trunk's forces on the frames it was trained on, beside the size of these forces."""
    errors, sizes = [], []
    for f in frames:
        batch = make_batch([frames_for_heads([f])[0]], ELEMENTS, max(trunk.cutoff, 1.0))
        x = batch.graph.positions.requires_grad_()
        energy = trunk(batch.graph, batch.numbers, [(True, True, False)]).energy
        forces = -torch.autograd.grad(energy.sum(), x)[0].numpy()
        wanted = f.residual_forces if residual else f.forces
        errors.append(forces - wanted)
        sizes.append(wanted)
    rms = [1000 * float(np.sqrt(np.mean(np.square(v)))) for v in (errors, sizes)]
    print(
        f"{title}: force error {rms[0]:.0f} meV/Å on its training frames (forces {rms[1]:.0f} meV/Å)",
        flush=True,
    )


def train_heads(trunk: Trunk, frames: Sequence[Labelled], path: Path) -> FeatureHeads:
    """Charges of the reference, learned on frozen features; the last two frames are kept for testing."""
    torch.manual_seed(3)
    spec = ChargeSpec(kind="transfer", widths={"Au": 0.392})
    heads = FeatureHeads.on(trunk, ELEMENTS, spec)
    model = ForeignModel(trunk, heads)
    given = frames_for_heads(frames)
    train, test = model.batch(given[:-2]), model.batch(given[-2:])
    known, unseen = model.features(train), model.features(test)
    assert known.features is not None
    heads.standardise(known.features)

    def error(batch: Any, said: Any) -> torch.Tensor:
        free = ~batch.graph.solved
        wanted = batch.labels["charges"]
        return ((model.charges(batch, said).charges - wanted)[free] ** 2).mean()

    before = 1000 * float(error(test, unseen).detach().sqrt())
    optimiser = torch.optim.Adam(heads.parameters(), lr=0.01)
    begin = time.perf_counter()
    for _ in range(300):
        optimiser.zero_grad()
        loss = error(train, known)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    after = 1000 * float(error(test, unseen).detach().sqrt())
    total = float(model.charges(test, unseen).charges.detach().sum().abs())
    spread = float(np.std([f.charges[f.atoms.numbers == 8] for f in frames]))
    print(
        f"charge heads on {trunk.features} frozen features: error on unseen frames {before:.0f} -> {after:.1f} me "
        f"(spread of O {1000 * spread:.0f} me), sum of charges {total:.1e} e, {time.perf_counter() - begin:.0f} s",
        flush=True,
    )
    save_heads(heads, path)
    return load_heads(path)


def compare(title: str, theirs: Any, trunk: Trunk, atoms: Atoms) -> None:
    """The model alone, through its own calculator and through the adapter."""
    one, other = atoms.copy(), atoms.copy()
    one.calc = theirs
    other.calc = HybridCalculator(
        ForeignShortRange(trunk, contains_coulomb=True), Coulomb("slab", accuracy=1e-6)
    )
    energies = [a.get_potential_energy() for a in (one, other)]
    forces = [a.get_forces(apply_constraint=False) for a in (one, other)]
    print(
        f"{title} and the adapter differ by {abs(energies[0] - energies[1]):.1e} eV and "
        f"{np.abs(forces[0] - forces[1]).max():.1e} eV/Å",
        flush=True,
    )


def learned(program: str, load: Any, calculator: Any, frames: Sequence[Labelled], make: Any) -> None:
    """Both ways to use a model: trained without the long range, and trained on whole energies."""
    begin = frames[-1].atoms
    for residual in (True, False):
        name = "residual" if residual else "whole"
        write_frames(frames, Path(f"{name}.xyz"), residual)
        energies = [f.residual_energy if residual else f.energy for f in frames]
        path = make(Path(f"{name}.xyz"), name, float(np.mean(energies)) / len(begin))
        trunk = load(path)
        force_error(f"model trained on {name} energies", trunk, frames, residual)
        compare("its own calculator", calculator(path), trunk, begin)
        if residual:
            short_range = ForeignShortRange(trunk, SPC, contains_coulomb=False)
            check("residual energies + fixed charges + long range", short_range, begin)
            fixed = {"charges": {"O": -0.82, "H": 0.41, "Na": 1.0, "Cl": -1.0}, "widths": {"Au": 0.392}}
            from_configuration(program, path, begin, **fixed)
            continue
        heads = train_heads(trunk, frames, Path("heads.safetensors"))
        removed = LabelEnsemble(Coulomb("slab", accuracy=1e-6))
        try:
            ForeignShortRange(trunk, heads, contains_coulomb=True)
        except ValueError as error:
            print(f"refused: {error}")
        short_range = ForeignShortRange(trunk, heads, contains_coulomb=True, removed=removed)
        check("whole energies + learned charges, less the label's ensemble", short_range, begin)


def from_configuration(program: str, model: Path, atoms: Atoms, **charges: Any) -> None:
    """The same by `grahame run`: a few steps at 1 V, and on from its checkpoint."""
    write(f"{program}_cell.extxyz", atoms)
    tree = {
        "structure": {"file": f"{program}_cell.extxyz"},
        "short_range": {"program": program, "model": str(model), "trust": True, "contains_coulomb": False}
        | charges,
        "coulomb": {"accuracy": 1e-5},
        "electrodes": [{"group": 0, "potential": 0.0}, {"group": 1, "potential": 1.0}],
        "dynamics": {
            "produce": {"ensemble": "langevin", "steps": 10, "timestep_fs": 0.25, "temperature_K": 150}
        },
        "output": {
            "name": f"{program}_run",
            "log_interval": 5,
            "trajectory_interval": 5,
            "checkpoint_interval": 5,
        },
    }
    path = Path(f"{program}.yaml")
    path.write_text(yaml.safe_dump(tree))
    command(["grahame", "run", str(path), "--no-progress"])
    last = Path(f"{program}_run.csv").read_text().splitlines()[-1]
    print(f"  last line of its log: {last}", flush=True)


def mace() -> None:
    """MACE, trained by its own command."""
    versions("mace-torch", "e3nn")
    frames = labelled_frames()

    def calculator(path: Path) -> Any:
        from mace.calculators import MACECalculator

        return MACECalculator(models=[MACETrunk.load(path, allow_pickle=True).model], default_dtype="float64")

    learned(
        "mace",
        lambda path: MACETrunk.load(path, allow_pickle=True),
        calculator,
        frames,
        lambda data, name, mean: train_mace(data, name),
    )


def nequip(allegro: bool) -> None:
    """NequIP or Allegro, trained by its own command."""
    versions("nequip", "e3nn", *(["nequip-allegro"] if allegro else []))
    frames = labelled_frames()

    def calculator(path: Path) -> Any:
        from nequip.integrations.ase import NequIPCalculator

        torch.set_default_dtype(torch.float64)  # as NequIP expects
        return NequIPCalculator._from_saved_model(
            path, device="cpu", chemical_species_to_atom_type_map={e: e for e in ELEMENTS}
        )

    learned(
        "allegro" if allegro else "nequip",
        lambda path: NequIPTrunk.load(path, allow_pickle=True),
        calculator,
        frames,
        lambda data, name, mean: train_nequip(data, name, allegro, mean),
    )


def metatomic() -> None:
    """metatomic has no trainer: a tiny model of our own is trained, exported, and used as a foreign one."""
    from metatomic_ase import MetatomicCalculator

    versions("metatomic-torch", "metatensor-torch")
    frames = labelled_frames()
    torch.manual_seed(1)
    means = {e: float(np.mean([f.energy for f in frames])) / 22 for e in ELEMENTS}
    spec = ModelSpec(
        elements=ELEMENTS,
        architecture=Architecture(cutoff=4.0, channels=6, radial=5, hidden=12),
        dtype="float64",
        neighbors=10.0,
        reference_energies={"default": means},
        charges=ChargeSpec(widths={"Au": 0.392}),
    )
    model = HybridModel(spec)
    batches = [make_batch(frames_for_heads(frames[k : k + 4]), ELEMENTS, 4.0) for k in (0, 4, 8)]
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    begin = time.perf_counter()
    for step in range(60):
        part = step % 3
        batch = batches[part]
        forces = torch.tensor(np.concatenate([f.forces for f in frames[4 * part : 4 * part + 4]]))
        optimiser.zero_grad()
        said = model.predict(batch, train=True)
        assert said.forces is not None
        wrong = (said.charges - batch.labels["charges"])[~batch.graph.solved]
        loss = ((said.forces - forces) ** 2).mean() + 10.0 * (wrong**2).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    print(
        f"our own model trained with its long range: {time.perf_counter() - begin:.0f} s, force error "
        f"{1000 * float(((said.forces - forces) ** 2).mean().detach().sqrt()):.0f} meV/Å",
        flush=True,
    )
    path = export_metatomic(model, "local.pt", electrodes=["Au"])
    print(f"exported: {path} ({path.stat().st_size / 1000:.0f} kB), outputs energy, charge, feature")
    trunk = MetatomicTrunk.load(path, trust=True)
    atoms = frames[-1].atoms
    compare(
        "metatomic's own calculator", MetatomicCalculator(str(path), check_consistency=True), trunk, atoms
    )
    check("our own model, from its own file", LearnedShortRange(model), atoms)
    own = ModelCharges(0.0, {e: spec.width(e) for e in ELEMENTS})
    check(
        "the exported model with its own charges",
        ForeignShortRange(trunk, own, contains_coulomb=False),
        atoms,
    )
    widths = {e: spec.width(e) for e in ELEMENTS}
    from_configuration("metatomic", path, atoms, charges="model", widths=widths)
    heads = train_heads(trunk, frames, Path("heads.safetensors"))
    check(
        "the exported model, heads on its features",
        ForeignShortRange(trunk, heads, contains_coulomb=False),
        atoms,
    )


def ase() -> None:
    """An ASE calculator: Lennard-Jones of all atoms, ions as charged spheres between the electrodes."""
    versions()
    frames = labelled_frames(count=1)
    atoms = frames[-1].atoms
    ions = atoms[np.concatenate([METAL, np.flatnonzero(np.isin(atoms.numbers, (11, 17)))])]
    lj = LennardJones(sigma=2.6, epsilon=0.02, rc=6.0, smooth=True)
    charges = FixedCharges({"Na": 1.0, "Cl": -1.0}, {"Au": 0.392})
    check(
        "Lennard-Jones of ASE + ions", ForeignShortRange(ASETrunk(lj), charges, contains_coulomb=False), ions
    )


def main() -> None:
    """One adapter, by name."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    peer = sys.argv[1]
    if peer in ("nequip", "allegro"):
        nequip(peer == "allegro")
    else:
        {"mace": mace, "metatomic": metatomic, "ase": ase}[peer]()
    print("done", flush=True)


if __name__ == "__main__":
    main()
