"""Planar potentials of a model against Hartree potentials; the comparisons (a), (b), (c) of `platinum_water.py`."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d

from grahame.electrostatics.profiles import planar_charges
from grahame.electrostatics.work_function import slab_potential_step
from grahame.hybrid.evaluate import evaluate
from grahame.hybrid.frames import Frame
from grahame.hybrid.model import HybridModel
from platinum_water.common import (
    BLUE,
    GREY,
    Array,
    area_of,
    field_of,
    layers_of,
    new_figure,
    rms,
    save_figure,
    task_frames,
)  # fmt: skip

SMOOTHING = 1.0  # Å, Gaussian that both sides of (c) are convolved with


class Planar:
    """Planar potentials of one geometry in its fields, reference and model, on the reference's grid.

    Args:
        frames: the geometry, fields ascending; charges: the model's in each, e; widths: of the atoms, Å.
        z: (m,) Å; hartree: energy of an electron in each field, (m,) eV.
    """

    def __init__(
        self, frames: list[Frame], charges: list[Array], widths: Array, z: Array, hartree: list[Array]
    ) -> None:
        self.frame, self.charges, self.widths, self.z = frames[0], charges, widths, z
        self.fields = np.array([field_of(f) for f in frames])
        self.reference = -np.array(hartree)
        layers = layers_of(self.frame)
        height = self.frame.positions[:, 2]
        self.floor, self.face = (float(height[layers[k]].mean()) for k in (0, -1))
        self.top = float(height.max())
        self.metal = (z > height[layers[1]].mean()) & (z < height[layers[-2]].mean())
        self.below = (z > self.floor - 8.0) & (z < self.floor - 4.0)
        self.above = (z > self.top + 4.0) & (z < self.top + 8.0)
        self.film = (z > self.face + 5.0) & (z < height[self.frame.numbers == 8].max() - 4.0)
        self.near = (z > self.floor - 6.0) & (z < self.top + 6.0)
        # Three widths of the smoothing away from the metal, whose cores are no atoms' of water.
        self.water = (z > self.face + 3.0) & (z < self.top + 6.0)

    def model(self, smoothing: float) -> Array:
        """(fields, m) potential of the charges, V: a Gaussian convolved with a Gaussian is a wider one."""
        rows = []
        for q, field in zip(self.charges, self.fields):
            source = planar_charges(
                self.frame.positions,
                q,
                self.frame.cell,
                smearing=np.hypot(self.widths, smoothing),
                boundary="slab",
                field=float(field),
            )
            rows.append(source.potential_at(self.z))
        return np.array(rows)

    def smooth_reference(self) -> Array:
        """(fields, m) the reference convolved with the Gaussian, V."""
        step = float(self.z[1] - self.z[0])
        return np.asarray(gaussian_filter1d(self.reference, SMOOTHING / step, axis=1, mode="nearest"))

    def densities(self) -> Array:
        """(2, m) of O and H, convolved with the Gaussian, 1/Å³."""
        rows = []
        for z in (8, 1):
            u = self.z[:, None] - self.frame.positions[self.frame.numbers == z, 2]
            rows.append(np.exp(-0.5 * (u / SMOOTHING) ** 2).sum(axis=1))
        return np.array(rows) / (np.sqrt(2 * np.pi) * SMOOTHING * area_of(self.frame.cell))

    def at_zero(self, values: Array) -> Array:
        """Values in all fields, extrapolated to none."""
        return np.asarray(np.polyfit(self.fields, values, 1)[1])

    def steps(self) -> Array:
        """(2,) potential above less potential below at zero field, reference and model, V."""
        free = self.reference + self.fields[:, None] * self.z
        found = free[:, self.above].mean(axis=1) - free[:, self.below].mean(axis=1)
        own = [slab_potential_step(self.frame.positions, q, self.frame.cell) for q in self.charges]
        return self.at_zero(np.column_stack([found, own]))


def planar_geometries(model: HybridModel, folder: Path, split: str, quick: bool) -> list[Planar]:
    """Potentials of all geometries of a split."""
    stored = np.load(folder / "half_field_profiles.npz")
    place = {str(name): k for k, name in enumerate(stored["source"])}
    out = []
    for frames in task_frames(model, folder, split, quick).values():
        found = evaluate(model, frames, 1).predictions
        species = torch.as_tensor(model.spec.species(frames[0].numbers))
        index = [place[str(f.info["source"])] for f in frames]
        out.append(
            Planar(
                frames,
                [p["charges"] for p in found],
                model.widths(species).detach().numpy(),
                stored[f"z_{index[0]}"],
                [stored[f"hartree_{k}"] for k in index],
            )
        )
    return out


def profiles(model: HybridModel, folder: Path, out: Path, quick: bool) -> dict[str, Any]:
    """Planar potentials against the reference's."""
    train, valid = (planar_geometries(model, folder, split, quick) for split in ("train", "val"))
    changes = [_change(p) for p in valid]
    difference = {
        key: {"mean": float(np.mean(column)), "spread": float(np.std(column))}
        for key in changes[0][1]
        for column in [[numbers[key] for _, numbers in changes]]
    }
    for name, entry in difference.items():
        print(f"two fields, {name}: {entry['mean']:+.3f} (spread {entry['spread']:.3f})")
    steps = [np.array([p.steps() for p in group]) for group in (train, valid)]
    both = np.concatenate(steps)
    step = {
        "slope_of_reference_against_model": float(np.polyfit(both[:, 1], both[:, 0], 1)[0]),
        "correlation": float(np.corrcoef(both.T)[0, 1]),
        "spread_V": both.std(axis=0).tolist(),
        "rms_after_a_constant_V": float((both[:, 0] - both[:, 1]).std()),
        "geometries": len(both),
    }
    print(
        f"step across the slab at zero field ({len(both)} geometries, no label of the training): slope "
        f"{step['slope_of_reference_against_model']:.2f}, correlation {step['correlation']:.3f}, spread of reference and "
        f"model {both[:, 0].std():.3f} and {both[:, 1].std():.3f} V, rms {step['rms_after_a_constant_V']:.3f} V "
        "after a constant"
    )
    cores = _fit_cores(train)
    rest = [_without_cores(p, cores) for p in valid]
    absolute: dict[str, Any] = {
        "smoothing_A": SMOOTHING,
        "core_constants_V_A3": dict(zip(("O", "H"), cores.tolist())),
    }
    for name in ("at zero field", "in the fields"):
        wrong = np.concatenate([(r[name][0] - r[name][1]).ravel() for r in rest])
        size = np.concatenate([r[name][0].ravel() for r in rest])
        absolute[name] = {"rms_V": rms(wrong), "spread_V": rms(size)}
        print(f"potential of the water {name}, cores fitted: rms {rms(wrong):.3f} V of {rms(size):.3f} V")
    _profile_figure(valid, changes, steps, rest, out / "profiles.png")
    return {"difference_of_fields": difference, "step_at_zero_field": step, "absolute": absolute}


def _change(p: Planar) -> tuple[Array, dict[str, float]]:
    """(a): potential of the highest field less that of the lowest, per field, zero in the metal.

    Returns:
        (2, m) reference and model, Å, and what they say.
    """
    span = float(p.fields[-1] - p.fields[0])
    whole = p.model(0.0)
    curves = np.array([p.reference[-1] - p.reference[0], whole[-1] - whole[0]])
    curves = (curves - curves[:, p.metal].mean(axis=1, keepdims=True)) / span
    numbers: dict[str, float] = {}
    for name, curve in zip(("reference", "model"), curves):
        # The vacuum's slope is -1: its line meets zero at the image plane.
        plane = float(np.mean(p.z[p.below] + curve[p.below]))
        numbers[f"image plane outside the metal, {name} (Å)"] = p.floor - plane
        numbers[f"slope in the film, {name}"] = float(np.polyfit(p.z[p.film], curve[p.film], 1)[0])
    wrong = span * (curves[1] - curves[0])
    numbers["rms of the model, all (V)"] = rms(wrong[p.near])
    numbers["rms of the model, below and in the metal (V)"] = rms(wrong[p.near & (p.z < p.face)])
    numbers["fields apart (V/Å)"] = span
    return curves, numbers


def _fit_cores(geometries: list[Planar]) -> Array:
    """(c): constants of O and H in V Å³, each geometry with a constant of its own."""
    rows, values = [], []
    for p in geometries:
        density = p.densities()[:, p.water]
        gap = p.at_zero(p.smooth_reference() - p.model(SMOOTHING))[p.water]
        rows.append((density - density.mean(axis=1, keepdims=True)).T)
        values.append(gap - gap.mean())
    return np.asarray(np.linalg.lstsq(np.concatenate(rows), np.concatenate(values), rcond=None)[0])


def _without_cores(p: Planar, cores: Array) -> dict[str, Any]:
    """Potentials of the water without cores, their zero the mean; reference and model."""
    both = np.array([p.smooth_reference() - cores @ p.densities(), p.model(SMOOTHING)])[:, :, p.water]
    both -= both.mean(axis=2, keepdims=True)
    zero = np.array([p.at_zero(values) for values in both])
    return {"z": p.z[p.water] - p.face, "at zero field": zero, "in the fields": both}


def _profile_figure(
    valid: list[Planar],
    changes: list[tuple[Array, dict[str, float]]],
    steps: list[Array],
    rest: list[dict[str, Any]],
    path: Path,
) -> None:
    figure = new_figure(9.0, 3.2)
    if figure is None:
        return
    a, b, c = figure.subplots(1, 3)
    for number, (p, (curves, _), water) in enumerate(zip(valid, changes, rest)):
        for row, (name, colour) in enumerate((("reference", GREY), ("model", BLUE))):
            label = name if number == 0 else None
            a.plot((p.z - p.face)[p.near], curves[row][p.near], color=colour, lw=0.8, label=label)
            if number < 3:
                shifted = water["at zero field"][row] + 2.0 * number
                c.plot(water["z"], shifted, color=colour, lw=1.0, label=label)
    a.set(title="two fields", xlabel="z over the face (Å)", ylabel="Δφ/ΔE (Å)")
    for values, name, colour in zip(steps, ("train", "val"), (GREY, BLUE)):
        b.plot(values[:, 1], values[:, 0], "o", ms=3, color=colour, label=name)
    both = np.concatenate(steps)
    ends = np.array([both[:, 1].min(), both[:, 1].max()])
    b.plot(ends, ends + (both[:, 0] - both[:, 1]).mean(), "k:", lw=0.8, label="slope 1")
    b.set(title="step across the slab", xlabel="model (V)", ylabel="reference (V)")
    c.set(title="water, three geometries", xlabel="z over the face (Å)")
    c.set_ylabel("φ without cores (V)")
    for axis in (a, b, c):
        axis.legend(fontsize=7, frameon=False)
    save_figure(figure, path)
