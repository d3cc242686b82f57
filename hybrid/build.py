"""Electrode cells: one or two face-centred cubic metal slabs with salt water between or above them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import fcc100, fcc111
from ase.units import _Nav as AVOGADRO
from numpy.typing import NDArray

from grahame.hybrid.packing import Region, place_centres, place_hydrogens

Floats = NDArray[np.float64]

LATTICE_CONSTANTS: dict[str, float] = {
    "Ag": 4.086,
    "Al": 4.050,
    "Au": 4.078,
    "Cu": 3.615,
    "Ni": 3.524,
    "Pb": 4.951,
    "Pd": 3.891,
    "Pt": 3.924,
}
"""Measured lattice constants at room temperature, Å (CRC Handbook of Chemistry and Physics, section 12); the
Lennard-Jones metals of Heinz et al. (2008) were fitted to them."""

FACETS = ("111", "100")
WATER_MASS = 18.01528  # g/mol
_LITRE = 1e27  # Å³
_CM3 = 1e24  # Å³
_NARROWEST = 3.3  # Å; the hydrogens of a water, 1.63 Å apart, keep 1.65 Å from those of its image
_DENSEST = 2.0  # g/cm³; beyond it, packing would try for long before it fails


@dataclass(frozen=True)
class _Surface:
    element: str
    facet: str

    @property
    def lattice_constant(self) -> float:
        return LATTICE_CONSTANTS[self.element]

    @property
    def radius(self) -> float:
        """Half the distance of nearest neighbours, Å: where the metal ends and the liquid's volume begins."""
        return self.lattice_constant / math.sqrt(8.0)

    @property
    def layer_spacing(self) -> float:
        return self.lattice_constant / (math.sqrt(3.0) if self.facet == "111" else 2.0)


def build_cell(
    surface: str = "Au(111)",
    size: tuple[int, int, int] = (8, 8, 3),
    gap: float = 27.0,
    water_density: float = 0.997,
    concentration: float = 1.0,
    ions: tuple[str, str] = ("Na", "Cl"),
    film: bool = False,
    vacuum: float | None = None,
    periodic: bool = False,
    contact: float = 2.7,
    waters: int | None = None,
    ion_pairs: int | None = None,
    seed: int = 0,
) -> Atoms:
    """A metal | salt water | metal cell, or a water film on one metal slab.

        N_water = density V N_A / M,  N_pairs = concentration V N_A,  V = A (gap - 2 r_metal)

    with r_metal half the nearest-neighbour distance of the metal (once, not twice, for a film, whose upper
    surface is vacuum). The defaults give about 1,500 atoms. The liquid is a start that nothing overlaps in,
    not an equilibrated one.

    Args:
        surface: element and facet of a face-centred cubic metal, "Au(111)", "Pt(100)" or "Pt100".
        size: surface cells along x and y (an even number along y for (111), which makes the cell
            rectangular), and atomic layers of each electrode.
        gap: distance of the facing layers of metal nuclei, Å; for a film from the metal to its surface.
        water_density: mass of water per volume V, g/cm³.
        concentration: ion pairs per volume V, mol/L.
        ions: cation and anion, ("Na", "Cl").
        film: one electrode under a film instead of two with the gap filled.
        vacuum: empty space below and above, Å each. Default 5, or 0 between two periodic electrodes. The slab
            boundary adds what it needs by itself; this is for the eye, and for a displacement boundary, where
            metal must not cross the cell boundary.
        periodic: periodic along z too. Without vacuum the two electrodes are the two halves of one
            perfect slab that the cell boundary cuts, as a finite-field cell needs.
        contact: smallest distance of oxygens and ions from a plane of metal nuclei, Å.
        waters: number of molecules, instead of `water_density`.
        ion_pairs: number of ion pairs, instead of `concentration`.
        seed: of the packing; equal seeds give equal cells.
    Returns:
        Atoms, c along z, pbc (T, T, periodic): bottom electrode, top electrode, water as O, H, H, cations,
        anions. Arrays `electrode` (0 bottom, 1 top, -1 electrolyte) and `molecule` (-1 metal, one number
        per molecule and ion). `info["build"]` holds the arguments and what came out (`water_density`,
        `concentration`, `waters`, `ion_pairs`, `liquid_volume`).
    Raises:
        ValueError: for an unknown surface or ion, numbers out of range, and a liquid that does not fit.

    >>> cell = build_cell("Au(111)", size=(4, 4, 2), gap=16.0, concentration=0.0, seed=1)
    >>> cell.get_chemical_formula(), cell.info["build"]["waters"]
    ('H102O51Au64', 51)
    """
    metal = _surface(surface)
    _check(
        size, gap, water_density, concentration, ions, vacuum, contact, waters, ion_pairs, seed, metal, film
    )
    empty = (0.0 if periodic and not film else 5.0) if vacuum is None else float(vacuum)
    if film and periodic and empty < 0.5 * contact:
        raise ValueError(
            f"vacuum = {empty:g} Å must be at least {0.5 * contact:g} Å for a periodic film: its surface "
            "would meet the next image of the metal"
        )
    if periodic and not film and 0.0 < empty < 0.5 * metal.layer_spacing:
        raise ValueError(
            f"vacuum = {empty:g} Å must be 0 or at least {0.5 * metal.layer_spacing:.3f} Å in a periodic "
            "cell: the backs of the electrodes would overlap; use 0 to join them as one perfect slab"
        )
    lattice, sides = _layers(metal, size, 2 if not film else 1)
    bottom = lattice[-size[2] * size[0] * size[1] :].copy()
    margin = empty if empty > 0.0 or film else 0.5 * metal.layer_spacing
    bottom[:, 2] += margin - bottom[:, 2].min()
    floor = float(bottom[:, 2].max())
    if film:
        top = np.zeros((0, 3))
        height = floor + gap + margin
    else:
        # The crystal continues through the backs: the lower half of one slab is the upper electrode.
        top = lattice[: size[2] * size[0] * size[1]].copy()
        top[:, 2] += floor + gap - top[:, 2].min()
        height = float(top[:, 2].max()) + margin

    volume = sides[0] * sides[1] * (gap - metal.radius * (1 if film else 2))
    n_water, n_pairs = _amounts(volume, water_density, concentration, waters, ion_pairs)
    if n_water + n_pairs:
        _refuse_narrow(size, sides)
    high = floor + gap - (0.5 * contact if film else contact)
    region = Region(sides, floor + contact, high, floor, None if film else floor + gap)
    oxygens, hydrogens, charged = _liquid(n_water, n_pairs, ions, region, seed, volume)

    molecules = np.concatenate([oxygens[:, None], hydrogens], axis=1).reshape(-1, 3)
    positions = np.concatenate([bottom, top, molecules, charged])
    symbols = (
        [metal.element] * (len(bottom) + len(top))
        + ["O", "H", "H"] * n_water
        + [ions[0]] * n_pairs
        + [ions[1]] * n_pairs
    )
    atoms = Atoms(symbols, positions=positions, cell=[*sides, height], pbc=(True, True, periodic))
    n_liquid = len(molecules) + len(charged)
    atoms.set_array("electrode", np.array([0] * len(bottom) + [1] * len(top) + [-1] * n_liquid))
    molecule = np.concatenate([np.repeat(np.arange(n_water), 3), n_water + np.arange(2 * n_pairs)])
    atoms.set_array("molecule", np.concatenate([np.full(len(bottom) + len(top), -1), molecule]).astype(int))
    atoms.info["build"] = {
        "surface": f"{metal.element}({metal.facet})",
        "lattice_constant": metal.lattice_constant,
        "size": [int(n) for n in size],
        "gap": float(gap),
        "film": film,
        "vacuum": empty,
        "periodic": periodic,
        "contact": float(contact),
        "ions": list(ions),
        "seed": seed,
        "liquid_volume": volume,
        "waters": n_water,
        "ion_pairs": n_pairs,
        "water_density": n_water * WATER_MASS / AVOGADRO / volume * _CM3,
        "concentration": n_pairs / AVOGADRO / volume * _LITRE,
    }
    return atoms


def _surface(name: str) -> _Surface:
    match = re.fullmatch(r"\s*([A-Za-z]{2})\s*(?:\((\d{3})\)|(\d{3}))\s*", name)
    element, facet = (match[1].capitalize(), match[2] or match[3]) if match else ("", "")
    if element not in LATTICE_CONSTANTS or facet not in FACETS:
        raise ValueError(
            f"surface = {name} must be one of {', '.join(LATTICE_CONSTANTS)} with (111) or (100): write e.g. "
            "Au(111)"
        )
    return _Surface(element, facet)


def _check(
    size: tuple[int, int, int], gap: float, density: float, concentration: float, ions: tuple[str, str],
    vacuum: float | None, contact: float, waters: int | None, pairs: int | None, seed: int, metal: _Surface,
    film: bool,
) -> None:  # fmt: skip
    """Every argument of `build_cell` that can be wrong by itself."""
    if len(size) != 3 or any(int(n) != n or n < 1 for n in size):
        raise ValueError(
            f"size = {tuple(size)} must be three positive whole numbers: give the surface cells along x and "
            "y and the layers"
        )
    if metal.facet == "111" and size[1] % 2:
        raise ValueError(
            f"size = {tuple(size)} must have an even second number for (111): only then is the cell "
            "rectangular"
        )
    for name, value, unit in (
        ("gap", gap, "Å"), ("water_density", density, "g/cm³"), ("concentration", concentration, "mol/L"),
        ("contact", contact, "Å"), ("vacuum", vacuum, "Å"),
    ):  # fmt: skip
        if value is not None and not (math.isfinite(value) and value >= 0.0):
            raise ValueError(
                f"{name} = {value:g} {unit} must be finite and not negative: give {name} in {unit}"
            )
    for name, count in (("waters", waters), ("ion_pairs", pairs), ("seed", seed)):
        if count is not None and (int(count) != count or count < 0):
            raise ValueError(f"{name} = {count} must be a whole number, not negative: give a count")
    if contact < metal.radius:
        raise ValueError(
            f"contact = {contact:g} Å must be at least {metal.radius:.3f} Å, the radius of {metal.element}: "
            "2.7 Å is the first layer of water"
        )
    least = 1.5 * contact if film else 2.0 * contact
    if gap < least:
        raise ValueError(
            f"gap = {gap:g} Å must be at least {least:g} Å, which leaves room for one layer of water: widen "
            "the gap"
        )
    if tuple(ions) != ("Na", "Cl"):
        raise ValueError(
            f"ions = {', '.join(map(str, ions))} must be Na, Cl: the built-in force field knows these two; "
            "for others build without ions and place them yourself"
        )


def _refuse_narrow(size: tuple[int, int, int], sides: tuple[float, float]) -> None:
    """Packing keeps molecules apart, not those of one that stands beside itself."""
    for axis, side in zip("xy", sides):
        if side < _NARROWEST:
            raise ValueError(
                f"size = {tuple(size)} must make a cell of at least {_NARROWEST:g} Å along {axis}, not {side:.2f} Å: a molecule "
                "would touch its own image; use more surface cells"
            )


def _layers(metal: _Surface, size: tuple[int, int, int], slabs: int) -> tuple[Floats, tuple[float, float]]:
    """Positions (lowest layer first) of `slabs` times the layers of one electrode, and the rectangle."""
    maker: Any = fcc111 if metal.facet == "111" else fcc100
    n = (int(size[0]), int(size[1]), int(size[2]) * slabs)
    # A vacuum only so that the cell has a third vector; one layer has no thickness of its own.
    slab = maker(metal.element, size=n, a=metal.lattice_constant, orthogonal=True, vacuum=1.0)
    return np.asarray(slab.positions, dtype=np.float64), (float(slab.cell[0, 0]), float(slab.cell[1, 1]))


def _amounts(
    volume: float, density: float, concentration: float, waters: int | None, pairs: int | None
) -> tuple[int, int]:
    """Whole numbers of molecules and ion pairs; a wish that rounds to none is refused."""
    exact_water = density / WATER_MASS * AVOGADRO * volume / _CM3
    exact_pairs = concentration * AVOGADRO * volume / _LITRE
    n_water = round(exact_water) if waters is None else int(waters)
    n_pairs = round(exact_pairs) if pairs is None else int(pairs)
    if waters is None and n_water == 0 and density > 0.0:
        raise ValueError(
            f"water_density = {density:g} g/cm³ must give at least one molecule in {volume:.0f} Å³, not "
            f"{exact_water:.2f}: enlarge the cell or use 0 for none"
        )
    found = n_water * WATER_MASS / AVOGADRO / volume * _CM3
    if found > _DENSEST:
        raise ValueError(
            f"water_density = {found:g} g/cm³ ({n_water} molecules in {volume:.0f} Å³) must be at most {_DENSEST:g} g/cm³, as no "
            "liquid water is denser: give g/cm³, or fewer molecules"
        )
    if pairs is None and n_pairs == 0 and concentration > 0.0:
        raise ValueError(
            f"concentration = {concentration:g} mol/L must give at least one ion pair in {volume:.0f} Å³, "
            f"not {exact_pairs:.2f}: enlarge the cell or use 0 for none"
        )
    return n_water, n_pairs


def _liquid(
    n_water: int, n_pairs: int, ions: tuple[str, str], region: Region, seed: int, volume: float
) -> tuple[Floats, Floats, Floats]:
    """Oxygens (w,3), hydrogens (w,2,3) and ions (2 pairs,3); a few attempts, then an error."""
    kinds = ["O"] * n_water + [ions[0]] * n_pairs + [ions[1]] * n_pairs
    rng = np.random.default_rng(seed)
    if not kinds:
        return np.zeros((0, 3)), np.zeros((0, 2, 3)), np.zeros((0, 3))
    for _ in range(5):
        centres = place_centres(kinds, region, rng)
        if centres is None:
            break
        hydrogens = place_hydrogens(centres, kinds, region, rng)
        if hydrogens is not None:
            return centres[:n_water], hydrogens, centres[n_water:]
    density = n_water * WATER_MASS / AVOGADRO / volume * _CM3
    raise ValueError(
        f"water_density = {density:.3f} g/cm³ with {n_pairs} ion pairs must leave the molecules their "
        f"smallest distances: {n_water} molecules do not fit between z = {region.low:.1f} and "
        f"{region.high:.1f} Å; widen the gap, or lower the density or the concentration"
    )
