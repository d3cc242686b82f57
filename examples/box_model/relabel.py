"""Part of the reference set computed again by OpenMM: the engine does not grade itself.

    python examples/box_model/relabel.py --data box_data [--frames 2] [--runs narrow-2V bulk-salt ...]

OpenMM knows neither fluctuating charges nor this package. What it gets are the positions and the charges of the
labels, the constants that `index.json` records, and its own forces: harmonic molecules, force-switched Lennard-Jones
written out as an expression, particle mesh Ewald between point charges, and what Gaussian charges lack against
points. Slabs have vacuum and the dipole term 2 pi k M_z²/V. Charges that minimise the energy contribute nothing to
the forces, so these must agree as they are; that the charges do minimise it is seen by moving charge between two
atoms: between two atoms of one molecule or electrode the energy must be stationary, between two electrodes its
slope must be the potential difference.

Needs OpenMM (`pip install openmm`). Prints a table; writes JSON with --out.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import read
from numpy.typing import NDArray

Floats = NDArray[np.float64]
COULOMB = 14.399645478425668  # eV Å/e², CODATA 2018
EV = 96.48533212331002  # kJ/mol
REACH = 6.0  # Å; beyond it Gaussians are points, and the reference's Lennard-Jones has ended
RUNS = (
    "narrow-2V",
    "wide-2V",
    "film-salt-field",
    "film-charged",
    "bulk-salt",
    "metal-400K",
    "wide-charged",
    "film-field",
)


@dataclass(frozen=True)
class Law:
    """Constants of one run, from its record."""

    types: dict[str, tuple[float, float]]
    water: dict[str, float]
    cutoff: float
    start: float
    surroundings: dict[str, Any] | None

    @classmethod
    def of(cls, record: dict[str, Any]) -> Law:
        """From an entry of `runs` in index.json."""
        t = record["teacher"]
        types = {x["element"]: (x["epsilon_eV"], x["sigma_A"]) for x in t["types"]}
        return cls(types, t["water"], t["cutoff_A"], t["switch_distance_A"], t.get("surroundings"))


def repeats(atoms: Atoms) -> tuple[int, int, int]:
    """Cells side by side, so that a sphere of `REACH` fits twice along each repeated direction."""
    lengths = np.array(atoms.cell.lengths())
    n = [math.ceil(2.05 * REACH / x) if p else 1 for x, p in zip(lengths, atoms.pbc)]
    return n[0], n[1], n[2]


def pair_sum(law: Law) -> str:
    """Force-switched Lennard-Jones and the lack of the Gaussians, kJ/mol and nm, of one pair."""
    rc, r1 = 0.1 * law.cutoff, 0.1 * law.start
    terms = []
    for p in (12, 6):
        a = -p * ((p + 4) * rc - (p + 1) * r1) / (rc ** (p + 2) * (rc - r1) ** 2)
        b = p * ((p + 3) * rc - (p + 1) * r1) / (rc ** (p + 2) * (rc - r1) ** 3)
        shift = rc**-p - a / 3 * (rc - r1) ** 3 - b / 4 * (rc - r1) ** 4
        beyond = f"step(r-{r1!r})*({a / 3!r}*(r-{r1!r})^3+{b / 4!r}*(r-{r1!r})^4)"
        terms.append(f"(r^(-{p})-{beyond}-({shift!r}))")
    lj = f"step({rc!r}-r)*4*sqrt(eps1*eps2)*(s^12*{terms[0]}-s^6*{terms[1]})"
    lack = f"-{0.1 * COULOMB * EV!r}*q1*q2*erfc(r/sqrt(2*(w1*w1+w2*w2)))/r"
    return f"{lj}{lack}; s=0.5*(sig1+sig2)"


def surroundings(law: Law, atoms: Atoms, periodic: bool) -> Any:
    """chi_i q_i + J_i q_i²/2 of gold, whose constants are sums over its neighbours: an energy of pairs, in OpenMM."""
    import openmm as mm

    constants = law.surroundings
    assert constants is not None
    kinds = sorted(set(atoms.get_chemical_symbols()))
    force = mm.CustomNonbondedForce(
        "f*(a(k1,k2)*q1+a(k2,k1)*q2+0.5*(b(k1,k2)*q1^2+b(k2,k1)*q2^2));"
        f"f=(1-(r/{0.1 * constants['cutoff_A']!r})^2)^3"
    )
    for symbol, name in (("a", "electronegativity_V"), ("b", "hardness_V_per_e")):
        # Element (x, y) of the table stands at x + size*y.
        values = [EV * constants[name].get(f"{x}-{y}", 0.0) for y in kinds for x in kinds]
        force.addTabulatedFunction(symbol, mm.Discrete2DFunction(len(kinds), len(kinds), values))
    force.addPerParticleParameter("q")
    force.addPerParticleParameter("k")
    ends = mm.CustomNonbondedForce.CutoffPeriodic if periodic else mm.CustomNonbondedForce.CutoffNonPeriodic
    force.setNonbondedMethod(ends)
    force.setCutoffDistance(0.1 * constants["cutoff_A"])
    for s in atoms.get_chemical_symbols():
        force.addParticle([0.0, kinds.index(s)])
    return force


class Other:
    """OpenMM's energy of one structure as a function of its charges.

    Args:
        atoms: one frame, with its labels; law: of its run.
    """

    def __init__(self, atoms: Atoms, law: Law) -> None:
        import openmm as mm

        self.atoms, self.law = atoms, law
        self.copies = repeats(atoms)
        self.count = math.prod(self.copies)
        whole = atoms.repeat(self.copies)
        periodic = bool(atoms.pbc.any())
        slab = periodic and not atoms.pbc[2]
        cell = np.array(whole.cell)
        if slab:
            extent = float(np.ptp(whole.positions[:, 2]))
            # Images of a neutral layer act through exp(-G gap), here below 1e-10.
            cell[2, 2] = extent + max(
                3.0 * extent, 23.0 * max(np.linalg.norm(atoms.cell[k]) for k in (0, 1)) / 6.28
            )
        self.area = float(np.linalg.norm(np.cross(cell[0], cell[1])))
        system = mm.System()
        if periodic:
            system.setDefaultPeriodicBoxVectors(*(0.1 * cell))
        for _ in whole:
            system.addParticle(1.0)
        self.scale = math.sqrt(0.1 * COULOMB * EV / 138.93545764438198)  # OpenMM's constant, kJ nm/mol/e²
        self.points = mm.NonbondedForce()
        self.points.setNonbondedMethod(mm.NonbondedForce.PME if periodic else mm.NonbondedForce.NoCutoff)
        self.points.setCutoffDistance(0.1 * REACH)
        self.points.setEwaldErrorTolerance(2e-7)
        self.pairs = mm.CustomNonbondedForce(pair_sum(law))
        ends = mm.CustomNonbondedForce.CutoffPeriodic if periodic else mm.CustomNonbondedForce.NoCutoff
        self.pairs.setNonbondedMethod(ends)
        self.pairs.setCutoffDistance(0.1 * REACH)
        for name in ("q", "w", "eps", "sig"):
            self.pairs.addPerParticleParameter(name)
        self.widths = whole.arrays["smearing"]
        self.lj = [law.types[s] for s in whole.get_chemical_symbols()]
        for k in range(len(whole)):
            self.points.addParticle(0.0, 1.0, 0.0)
            self.pairs.addParticle([0.0, 0.1 * self.widths[k], self.lj[k][0] * EV, 0.1 * self.lj[k][1]])
        bonds, angles = mm.HarmonicBondForce(), mm.HarmonicAngleForce()
        w = law.water
        for oxygen in np.flatnonzero(whole.numbers == 8):
            # Molecules stand as O, H, H; a bond may cross the cell.
            o = int(oxygen)
            for h in (o + 1, o + 2):
                bonds.addBond(o, h, 0.1 * w["bond_reference_A"], 100 * EV * w["bond_constant_eV_per_A2"])
            angles.addAngle(o + 1, o, o + 2, w["angle_reference_rad"], EV * w["angle_constant_eV_per_rad2"])
        for force in (bonds, angles):
            force.setUsesPeriodicBoundaryConditions(periodic)
        for force in (self.points, self.pairs, bonds, angles):
            system.addForce(force)
        self.around = None
        if law.surroundings is not None:
            self.around = surroundings(law, whole, periodic)
            system.addForce(self.around)
        self.kinds = [
            sorted(set(whole.get_chemical_symbols())).index(s) for s in whole.get_chemical_symbols()
        ]
        self.volume = self.area * float(cell[2, 2])
        self.field = float(np.ravel(atoms.info.get("external_field", [0.0]))[-1])
        self.slab = slab
        self.context = mm.Context(
            system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference")
        )
        self.context.setPositions(0.1 * whole.positions)

    def __call__(self, charges: Floats) -> tuple[float, Floats]:
        """Energy in eV and forces (n,3) in eV/Å of one cell at given charges."""
        for k, q in enumerate(np.tile(charges, self.count)):
            self.points.setParticleParameters(k, float(q) * self.scale, 1.0, 0.0)
            self.pairs.setParticleParameters(
                k, [float(q), 0.1 * self.widths[k], self.lj[k][0] * EV, 0.1 * self.lj[k][1]]
            )
            if self.around is not None:
                self.around.setParticleParameters(k, [float(q), self.kinds[k]])
        if self.around is not None:
            self.around.updateParametersInContext(self.context)
        self.points.updateParametersInContext(self.context)
        self.pairs.updateParametersInContext(self.context)
        state = self.context.getState(getEnergy=True, getForces=True)
        energy = state.getPotentialEnergy()._value / EV / self.count
        forces = state.getForces(asNumpy=True)._value[: len(self.atoms)] * 0.1 / EV
        if self.slab:
            z = self.atoms.positions[:, 2]
            moment = float(charges @ z)
            # Of one cell: the volume is that of all copies.
            strength = 2.0 * math.pi * COULOMB * self.count / self.volume
            energy += strength * moment**2 - self.field * moment
            forces[:, 2] += charges * (self.field - 2.0 * strength * moment)
        return energy + self._on_site(charges), forces

    def _on_site(self, charges: Floats) -> float:
        """chi q + J q²/2 of the water, and the Gaussians' own energies, eV."""
        atoms, w = self.atoms, self.law.water
        own = 0.5 * COULOMB * charges**2 / (math.sqrt(math.pi) * atoms.arrays["smearing"])
        chi = np.where(atoms.numbers == 8, w["electronegativity_V"], 0.0)
        hardness = np.where(atoms.numbers == 8, w["hardness_O_V_per_e"], 0.0)
        hardness = np.where(atoms.numbers == 1, w["hardness_H_V_per_e"], hardness)
        return float((own + chi * charges + 0.5 * hardness * charges**2).sum())

    def slope(self, giver: int, taker: int) -> float:
        """dE per charge moved from one atom to another, V; exact, since the energy is quadratic in charges."""
        change = np.zeros(len(self.atoms))
        change[taker], change[giver] = 0.01, -0.01
        q = self.atoms.arrays["charges"]
        return (self(q + change)[0] - self(q - change)[0]) / 0.02


def transfers(atoms: Atoms, rng: np.random.Generator) -> dict[str, list[tuple[int, int, float]]]:
    """Pairs of atoms and the slope that is right between them, V."""
    out: dict[str, list[tuple[int, int, float]]] = {"molecule": [], "electrode": [], "between": []}
    oxygens = np.flatnonzero(atoms.numbers == 8)
    for o in rng.choice(oxygens, min(3, len(oxygens)), replace=False):
        out["molecule"].append((int(o), int(o) + 1 + int(rng.integers(2)), 0.0))
    group = atoms.arrays["electrode"]
    members = [np.flatnonzero(group == g) for g in range(group.max() + 1)]
    for metal in members:
        a, b = rng.choice(metal, 2, replace=False)
        out["electrode"].append((int(a), int(b), 0.0))
    if len(members) == 2:
        psi = np.ravel(atoms.info["electrode_potentials"])
        out["between"].append(
            (int(rng.choice(members[0])), int(rng.choice(members[1])), float(psi[1] - psi[0]))
        )
    return out


def frames_of(path: Path) -> list[Atoms]:
    """Frames with their labels as arrays and info, where ASE puts some aside."""
    frames: list[Atoms] = read(path, ":")
    for atoms in frames:
        found = dict(atoms.calc.results)
        atoms.calc = None
        atoms.arrays |= {k: found[k] for k in ("forces", "charges")}
        atoms.info["energy"] = found["energy"]
    return frames


def compare(atoms: Atoms, law: Law, rng: np.random.Generator) -> dict[str, float]:
    """Differences of one frame."""
    other = Other(atoms, law)
    energy, forces = other(atoms.arrays["charges"])
    wanted = float(atoms.info.get("internal_energy", atoms.info["energy"]))
    off = forces - atoms.arrays["forces"]
    row = {
        "energy_meV_per_atom": 1e3 * (energy - wanted) / len(atoms),
        "force_rms_meV_per_A": 1e3 * float(np.sqrt(np.mean(off**2))),
        "force_label_rms_meV_per_A": 1e3 * float(np.sqrt(np.mean(atoms.arrays["forces"] ** 2))),
    }
    for name, some in transfers(atoms, rng).items():
        if some:
            row[f"{name}_mV"] = 1e3 * max(abs(other.slope(a, b) - right) for a, b, right in some)
    return row


def main() -> int:
    """Relabel and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that generate.py wrote")
    parser.add_argument(
        "--runs", nargs="+", default=None, help=f"default: those of {', '.join(RUNS)} that are there"
    )
    parser.add_argument("--frames", type=int, default=2, help="of each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON with all rows")
    options = parser.parse_args()
    index = json.loads((options.data / "index.json").read_text())
    records = {r["name"]: r for r in index["runs"]}
    chosen = options.runs or [r for r in RUNS if r in records] or list(records)
    unknown = set(chosen) - set(records)
    if unknown:
        parser.error(
            f"run = {', '.join(sorted(unknown))} must be one of {', '.join(records)}: check index.json"
        )
    rng = np.random.default_rng(options.seed)
    rows = []
    print("largest difference between OpenMM and the labels, at the charges of the labels")
    print(
        f"{'run':22s}{'frames':>7s}{'energy':>12s}{'forces rms':>12s}{'of':>8s}{'molecule':>10s}{'electrode':>10s}{'between':>10s}"
    )
    print(f"{'':22s}{'':7s}{'meV/atom':>12s}{'meV/Å':>12s}{'meV/Å':>8s}{'mV':>10s}{'mV':>10s}{'mV':>10s}")
    for name in chosen:
        frames = frames_of(options.data / f"{name}.extxyz")
        some = [
            compare(frames[int(k)], Law.of(records[name]), rng)
            for k in rng.choice(len(frames), min(options.frames, len(frames)), replace=False)
        ]
        worst = {
            k: max((abs(r[k]) for r in some if k in r), default=math.nan)
            for k in {k for r in some for k in r}
        }
        rows.append({"run": name, "frames": len(some)} | worst)
        cells = [worst.get(k, math.nan) for k in ("energy_meV_per_atom", "force_rms_meV_per_A")]
        line = f"{name:22s}{len(some):7d}{cells[0]:12.2e}{cells[1]:12.2e}{worst['force_label_rms_meV_per_A']:8.0f}"
        for key in ("molecule_mV", "electrode_mV", "between_mV"):
            line += f"{worst[key]:10.1e}" if key in worst else f"{'':10s}"
        print(line, flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps({"rows": rows, "box": index["versions"]}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
