"""Errors of a model on validation frames: forces, response to the field, charges of metal and water."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from numpy.typing import NDArray

from grahame.hybrid.evaluate import evaluate
from grahame.hybrid.frames import Frame
from grahame.hybrid.model import HybridModel
from platinum_water.common import (
    FOUR_PI_K,
    LAYERS,
    Array,
    area_of,
    field_of,
    frames_of,
    layers_of,
    rms,
    slope,
    task_frames,
)  # fmt: skip


def errors(model: HybridModel, folder: Path, quick: bool) -> dict[str, Any]:
    """Table of errors on validation frames."""
    aimd = frames_of(
        model,
        folder / "aimd_pt_water.xyz",
        "3d",
        ["energy=REF_energy", "forces=REF_forces"],
        "split=val",
    )
    rows = evaluate(model, aimd[:2] if quick else aimd, 1, keep=False).errors.rows()
    out: dict[str, Any] = {f"aimd_{r.quantity}": asdict(r) for r in rows if r.group == "all"}
    for name in ("energy", "forces"):
        row = out[f"aimd_{name}"]
        print(
            f"zero-field dynamics, {name}: rmse {row['rmse']:.2f} {row['unit']} (spread {row['spread']:.1f})"
        )
    out["response"] = _response(model, folder, quick)
    groups = task_frames(model, folder, "val", quick)
    frames = [f for g in groups.values() for f in g]
    owner = np.repeat(np.arange(len(groups)), [len(g) for g in groups.values()])
    found = evaluate(model, frames, 1).predictions
    out["added_force"] = _added_force(frames, found, owner)
    out["metal"] = _metal(frames, found, owner)
    out["charges"] = _water_charges(folder, frames, found)
    return out


def _response(model: HybridModel, folder: Path, quick: bool) -> dict[str, Any]:
    """dF/dE along the normal and its in-plane components."""
    frames = frames_of(
        model, folder / "half_field_response.xyz", "slab", ["field_response=REF_dFdE"], "split=val"
    )
    frames = frames[:2] if quick else frames
    found = [p["field_response"] for p in evaluate(model, frames, 1).predictions]
    labels = [f.labels["field_response"] for f in frames]
    out: dict[str, Any] = {
        "geometries": len(frames),
        "rmse_e": rms(np.concatenate([a - b for a, b in zip(found, labels)])),
        "spread_e": float(np.std(np.concatenate(labels))),
    }
    print(
        f"dF/dE: rmse {1e3 * out['rmse_e']:.1f} me of all components (spread {1e3 * out['spread_e']:.0f} me)"
    )
    for z, symbol in ((8, "O"), (1, "H"), (78, "Pt")):
        pairs = [(a[f.numbers == z, 2], b[f.numbers == z, 2]) for a, b, f in zip(labels, found, frames)]
        means = np.array([[a.mean(), b.mean()] for a, b in pairs])
        a, b = (np.concatenate(p) for p in zip(*pairs))
        error = means.std(axis=0, ddof=1) / np.sqrt(len(means))
        out[symbol] = {
            "reference_e": [float(a.mean()), float(error[0])],
            "model_e": [float(b.mean()), float(error[1])],
            "rmse_e": rms(b - a),
            "spread_e": float(a.std()),
        }
        print(
            f"    {symbol:2s} along the normal: reference {a.mean():+.3f} ± {error[0]:.3f}, model {b.mean():+.3f} ± "
            f"{error[1]:.3f} e; rmse {1e3 * rms(b - a):.1f} me (spread {1e3 * a.std():.0f} me)"
        )
    return out


def _added_force(
    frames: list[Frame], found: list[dict[str, Array]], owner: NDArray[np.int64]
) -> dict[str, Any]:
    """What the field adds to the forces, largest against smallest field: the reference's noise cancels there."""
    label, value = [], []
    for g in np.unique(owner):
        first, last = np.flatnonzero(owner == g)[[0, -1]]
        label.append(frames[last].labels["forces"] - frames[first].labels["forces"])
        value.append(found[last]["forces"] - found[first]["forces"])
    wrong, size = (np.concatenate(v) for v in ([b - a for a, b in zip(label, value)], label))
    out = {"rmse_meV_per_A": 1e3 * rms(wrong), "spread_meV_per_A": 1e3 * float(size.std())}
    print(
        f"force that the field adds: rmse {out['rmse_meV_per_A']:.1f} meV/Å (spread {out['spread_meV_per_A']:.1f})"
    )
    return out


def _metal(frames: list[Frame], found: list[dict[str, Array]], owner: NDArray[np.int64]) -> dict[str, Any]:
    """Charges of the metal's layers against the field, one intercept per geometry."""
    field = np.array([field_of(f) for f in frames])
    expected = -area_of(frames[0].cell) / FOUR_PI_K
    out: dict[str, Any] = {"expected_e_A_per_V": expected}
    for name, charges in (
        ("model", [p["charges"] for p in found]),
        ("hirshfeld", [f.labels["charges"] for f in frames]),
    ):
        layers = np.array([[q[i].sum() for i in layers_of(f)] for f, q in zip(frames, charges)])
        half = layers[:, : LAYERS // 2].sum(axis=1)
        out[name] = {
            "vacuum_half_e_A_per_V": slope(field, half, owner),
            "of_expected": slope(field, half / expected, owner),
            "layers_e_A_per_V": [slope(field, column, owner)[0] for column in layers.T],
        }
        value, error = out[name]["vacuum_half_e_A_per_V"]
        print(
            f"charge of the vacuum-side half, {name}: {value:+.4f} ± {error:.4f} e Å/V = "
            f"{out[name]['of_expected'][0]:.4f} ± {out[name]['of_expected'][1]:.4f} of -eps0 A = {expected:+.4f}"
        )
    return out


def _water_charges(folder: Path, frames: list[Frame], found: list[dict[str, Array]]) -> dict[str, Any]:
    """The model's charges of water against two partitions of the reference's density.

    The model's charges answer for dF/dE. Partitions are other quantities, so beside the raw error stands that
    after the best linear map of each element.
    """
    images = ase.io.read(folder / "half_field.xyz", index=":")
    numbers = np.concatenate([f.numbers for f in frames])
    q = np.concatenate([p["charges"] for p in found])
    out: dict[str, Any] = {}
    for name in ("hirshfeld", "mulliken"):
        label = np.concatenate([images[f.index].arrays[f"REF_{name}"] for f in frames])
        out[name] = {}
        for z, symbol in ((8, "O"), (1, "H")):
            a, b = label[numbers == z], q[numbers == z]
            factor, shift = np.polyfit(b, a, 1)
            out[name][symbol] = {
                "reference_e": [float(a.mean()), float(a.std())],
                "model_e": [float(b.mean()), float(b.std())],
                "rmse_e": rms(b - a),
                "mapped_rmse_e": rms(factor * b + shift - a),
                "correlation": float(np.corrcoef(a, b)[0, 1]),
            }
            print(
                f"charge of {symbol}, {name}: {a.mean():+.3f} e (spread {a.std():.3f}), model {b.mean():+.3f} "
                f"({b.std():.3f}); rmse {rms(b - a):.3f}, after a linear map {rms(factor * b + shift - a):.3f} e, "
                f"correlation {out[name][symbol]['correlation']:+.2f}"
            )
    return out
