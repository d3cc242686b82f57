"""Small cells and models that the tests of the learned potential share."""

import numpy as np
import torch
from ase import Atoms
from ase.build import fcc111, molecule
from numpy.typing import NDArray

from grahame.electrostatics import Electrode
from grahame.hybrid.frames import Batch, Conditions, Frame, make_batch
from grahame.hybrid.model import HybridModel, ModelSpec
from grahame.hybrid.shortrange.equivariant import Architecture

ELEMENTS = ("H", "O", "Na", "Cl", "Au")


def make_model(seed: int = 0, *, cutoff: float = 4.0, layers: int = 1, **spec: object) -> HybridModel:
    """A model with random weights, none of them zero, in double precision unless told otherwise."""
    torch.manual_seed(seed)
    sizes = Architecture(cutoff=cutoff, channels=6, radial=4, layers=layers, messages=3, hidden=12)
    options = {"dtype": "float64", "neighbors": 20.0, "accuracy": 1e-11} | spec
    model = HybridModel(ModelSpec(elements=ELEMENTS, architecture=sizes, **options))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter is not model.widths.raw and bool((parameter == 0).all()):
                parameter.normal_(std=0.3)
    return model


def water_box(seed: int = 1) -> Atoms:
    """Three waters, Na and Cl in a triclinic cell that is smaller than two cut-offs."""
    rng = np.random.default_rng(seed)
    cell = np.array([[6.6, 0.0, 0.0], [0.7, 6.1, 0.0], [-0.4, 0.6, 6.9]])
    atoms = Atoms(cell=cell, pbc=True)
    for place in ([0.2, 0.2, 0.2], [0.7, 0.3, 0.6], [0.3, 0.75, 0.75]):
        water = molecule("H2O")
        water.rotate(float(rng.uniform(0, 360)), rng.normal(size=3))
        water.translate(np.array(place) @ cell - water.positions[0])
        atoms += water
    atoms += Atoms("NaCl", positions=np.array([[0.75, 0.8, 0.15], [0.2, 0.2, 0.7]]) @ cell)
    atoms.positions += rng.normal(scale=0.03, size=(len(atoms), 3))
    return atoms


def slab(seed: int = 2) -> tuple[Atoms, list[NDArray[np.int64]]]:
    """Two thin gold slabs with two waters between them, and the atoms of each slab."""
    rng = np.random.default_rng(seed)
    atoms = fcc111("Au", size=(2, 2, 2), orthogonal=True, vacuum=0.0)
    atoms.positions[:, 2] -= atoms.positions[:, 2].min()
    top = atoms.copy()
    top.positions[:, 2] += 10.5
    count = len(atoms)
    atoms += top
    for height, place in ((4.9, (1.0, 1.2)), (7.6, (3.4, 3.3))):
        water = molecule("H2O")
        water.rotate(float(rng.uniform(0, 360)), rng.normal(size=3))
        water.translate(np.array([*place, height]) - water.positions[0])
        atoms += water
    atoms.positions += rng.normal(scale=0.03, size=(len(atoms), 3))
    atoms.positions[:, 2] += 0.5
    cell = np.array(atoms.cell)
    cell[2] = [0.0, 0.0, 16.0]
    atoms.cell = cell
    atoms.pbc = (True, True, False)
    return atoms, [np.arange(count), np.arange(count, 2 * count)]


def frame(atoms: Atoms, positions: NDArray[np.float64] | None = None, **conditions: object) -> Frame:
    """A frame of an ASE structure under given conditions."""
    pbc = (bool(atoms.pbc[0]), bool(atoms.pbc[1]), bool(atoms.pbc[2]))
    return Frame(
        numbers=atoms.numbers.astype(np.int64),
        positions=np.array(atoms.positions if positions is None else positions),
        cell=np.array(atoms.cell),
        pbc=pbc,
        conditions=Conditions(**conditions),  # type: ignore[arg-type]
    )


def batch_of(model: HybridModel, *frames: Frame) -> Batch:
    """Frames as the model takes them."""
    return make_batch(frames, model.spec.elements, model.spec.architecture.cutoff)


def held(groups: list[NDArray[np.int64]], voltage: float = 1.5) -> tuple[Electrode, ...]:
    """Two electrodes at a voltage."""
    return (Electrode(groups[0], potential=0.0), Electrode(groups[1], potential=voltage))
