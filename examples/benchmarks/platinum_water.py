"""Pt(111)/water: a model trained on density functional theory in electric fields, and dynamics with it.

    python examples/benchmarks/platinum_water.py [PART ...] [--model FILE] [--quick] [--data DIR] [--out DIR]

Parts (default: all, in this order); the first two need only single frames, the last two run dynamics:

errors        forces and energies of the zero-field dynamics, forces that a field adds, dF/dE of every atom, charge of
              the vacuum-side half of the metal against -eps0 A E, charges of the water against two partitions
profiles      planar potential against the Hartree potential
displacement  metal of zero charge in water at D = 0, +D0 and -D0: orientation at its two faces
voltage       Pt | water | Pt at constant potential: profiles, electrode charge, capacitance

Without --model the configuration `learned/pt_field.yaml` is trained first (--minutes). Frames are split by snapshot of
the reference dynamics; what is printed was measured on validation snapshots only, unless it says otherwise.

Which potentials are compared. The reference stores the energy of an electron, minus the potential, and holds pseudo-
cores that no smooth charge gives. Three things are free of them: (a) the difference of two fields at one geometry,
per field, in Å: -1 in the vacuum, 0 in the metal, -1/eps_inf in the film. Its straight part in the vacuum meets the
metal's level at the image plane. (b) the step of the potential across the slab at zero field, up to one constant. (c)
the potential itself, with both sides convolved with the same Gaussian: an atom that is spherical and neutral adds to a
plane average a constant times its density, so one constant per element, fitted on training frames, stands for all
cores. The dynamics runs with frozen metal and hydrogen of three times its mass (1 fs), which changes no average of
positions or charges. Writes JSON and figures; dynamics that is finished is not run again, what was interrupted is
continued.

What charges alone cannot give: the film's eps_inf is 1 here and 1.7 in the reference, and the image plane of Gaussians
on the nuclei lies close to them, in the reference 1.4 Å outside. Forces in a field at fixed geometry know neither, since
dF/dE is learned. At constant D, though, water turns against a depolarising field that eps_inf would have halved; and at
constant potential the gap between the image planes is too wide: `voltage` prints the capacitance with and without the
voltage that drops there, once `profiles` has found both planes.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from learned import DATA, configuration
from platinum_water.dynamics import displacement, voltage
from platinum_water.errors import errors
from platinum_water.profiles import profiles

from grahame.hybrid.model_file import load_model
from grahame.hybrid.training.run import train

FOLDER = "pt111_water_field"
PARTS = ("errors", "profiles", "displacement", "voltage")


def trained(options: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """The model of `learned/pt_field.yaml`: trained, continued or found finished."""
    config = configuration("pt_field", options.data, options.out.resolve(), options.minutes, options.threads)
    begun = (options.out / "pt_field.checkpoint.pt").is_file()
    summary = train(config, resume=begun, progress=sys.stderr.isatty())
    if not summary.completed:
        raise SystemExit("the training was interrupted: start the program again to continue it")
    facts = {
        "steps": summary.steps,
        "epochs": summary.epochs,
        "minutes": round(summary.seconds / 60, 1),
        "threads": options.threads,
        "train_frames": summary.train_frames,
    }
    print(f"model: {summary.model}, " + ", ".join(f"{k} {v}" for k, v in facts.items()))
    return summary.model, facts


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--model", type=Path, help="a trained model file")
    parser.add_argument("--minutes", type=float, help="of training without --model (default: as configured)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, default=Path("results/platinum_water"))
    parser.add_argument("--quick", action="store_true", help="few frames and steps of the same code")
    parser.add_argument("--start", type=int, default=0, help="number of the start geometry, 0 to 9")
    parser.add_argument("--settling", type=float, default=5.0, help="ps of each run that are not analysed")
    parser.add_argument("--production", type=float, default=10.0, help="ps of each run that are analysed")
    parser.add_argument("--displacement", type=float, default=0.4, help="D0/eps0, V/Å")
    parser.add_argument(
        "--vacuum",
        type=float,
        default=0.0,
        help="Å between two surfaces of the water at constant D; 0 lets it continue",
    )
    parser.add_argument(
        "--voltages", type=float, nargs="+", default=[0.0, 1.0, 2.0], help="V, the first is the base"
    )
    parser.add_argument("--accuracy", type=float, default=1e-4, help="of the electrostatics in dynamics")
    parser.add_argument("--compile", action="store_true", help="translate the network (needs a C++ compiler)")
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"part = {', '.join(sorted(unknown))} must be one of {', '.join(PARTS)}")
    options.quick = options.quick or os.environ.get("GRAHAME_QUICK", "") not in ("", "0")
    if options.quick:
        options.out = options.out.with_name(options.out.name + "_quick")
        options.settling, options.production = 0.004, 0.016
        options.minutes = options.minutes or 0.1
    return options


def image_shift(results: dict[str, Any]) -> float | None:
    """From the model's image plane to the reference's, outwards, as `profiles` found it, Å."""
    found = results.get("profiles", {}).get("difference_of_fields")
    if found is None:
        return None
    planes = [found[f"image plane outside the metal, {name} (Å)"]["mean"] for name in ("reference", "model")]
    return float(planes[0] - planes[1])


def main() -> int:
    """Run the parts, print, write."""
    options = parsed()
    options.data = options.data.resolve()
    folder = options.data / FOLDER
    if not folder.is_dir():
        print(f"skipped: {folder} is not there; --data names the folder with the published frames")
        return 0
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "platinum_water.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    if options.model is None:
        options.model, results["training"] = trained(options)
    model = load_model(options.model)
    for part in options.parts or PARTS:
        print(f"---- {part}")
        if part == "errors":
            results[part] = errors(model, folder, options.quick)
        elif part == "profiles":
            results[part] = profiles(model, folder, options.out, options.quick)
        elif part == "displacement":
            results[part] = displacement(options, folder)
        else:
            results[part] = voltage(options, folder, image_shift(results))
        path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"numbers: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
