"""Every wrong input is refused in one sentence that names the value, the rule and the remedy."""

import re
from collections.abc import Callable

import numpy as np
import pytest

from grahame.electrostatics import ConstantPotential, Coulomb, Electrode, ThermoPotentiostat, switch

X = np.array([[1.0, 1.0, 3.0], [3.0, 1.5, 4.0], [1.5, 3.0, 9.0], [3.2, 3.4, 8.0]])
Q = np.array([0.4, -0.4, 0.3, -0.3])
CELL = np.diag([5.0, 5.5, 14.0])


def changed(array: np.ndarray, where: object, value: object) -> np.ndarray:
    out = array.copy()
    out[where] = value
    return out


def evaluate(boundary: str = "3d", **changes: object) -> object:
    given: dict[str, object] = {"positions": X, "charges": Q, "cell": CELL} | changes
    options = {k: given.pop(k) for k in ("method", "cutoff", "vacuum") if k in given}
    return Coulomb(boundary, **options)(**given)  # type: ignore[arg-type]


def solve(boundary: str = "slab", electrodes: list[Electrode] | None = None, **changes: object) -> object:
    given: dict[str, object] = {"positions": X, "charges": Q, "cell": CELL} | changes
    options = {
        k: given.pop(k) for k in ("hardness", "solver", "thomas_fermi_length", "voronoi_volume") if k in given
    }
    widths = given.pop("widths", 0.5)
    groups = electrodes or [Electrode([0, 1], potential=0.0), Electrode([2, 3], potential=1.0)]
    return ConstantPotential(groups, Coulomb(boundary), smearing=widths, **options).solve(**given)  # type: ignore[arg-type]


Case = tuple[Callable[[], object], str]

OPERATOR: dict[str, Case] = {
    "unknown boundary": (
        lambda: Coulomb("1d"),
        'boundary = "1d" must be one of 3d, slab, slab-exact, finite-field, displacement, open: '
        "one periodic direction is not computed; use one of these",
    ),
    "unknown method": (
        lambda: Coulomb("3d", "p3m"),
        'method = "p3m" must be one of auto, exact, ewald, pme with boundary = "3d": choose one of these',
    ),
    "mesh without a mesh boundary": (
        lambda: Coulomb("slab-exact", "pme"),
        'method = "pme" must be one of auto, exact with boundary = "slab-exact": choose one of these',
    ),
    "ewald in the open": (
        lambda: Coulomb("open", "ewald"),
        'method = "ewald" must be one of auto, exact with boundary = "open": choose one of these',
    ),
    "negative accuracy": (
        lambda: Coulomb("3d", accuracy=-1e-5),
        "accuracy = -1e-05 must lie between 0 and 0.1: it is a relative force error, 1e-4 to 1e-8 are usual",
    ),
    "NaN accuracy": (
        lambda: Coulomb("3d", accuracy=float("nan")),
        "accuracy = nan must lie between 0 and 0.1: it is a relative force error, 1e-4 to 1e-8 are usual",
    ),
    "negative vacuum": (
        lambda: Coulomb("slab", vacuum=-1.0),
        "vacuum = -1 Å must not be negative: it is the padding added to the cell",
    ),
    "unknown background": (
        lambda: Coulomb("3d", background="none"),
        'background = "none" must be gaussian or point: choose one of these',
    ),
    "NaN position": (
        lambda: evaluate(positions=changed(X, (2, 1), np.nan)),
        "positions[2] = (1.5, nan, 9) Å must be finite: check the structure or the previous step",
    ),
    "NaN charge": (
        lambda: evaluate(charges=changed(Q, 1, np.nan)),
        "charges[1] = nan e must be finite: check where it comes from",
    ),
    "infinite charge": (
        lambda: evaluate(charges=changed(Q, 1, np.inf)),
        "charges[1] = inf e must be finite: check where it comes from",
    ),
    "one charge too few": (
        lambda: evaluate(charges=Q[:3]),
        "charges = array of shape (3,) must have shape (4,): pass one value in e per atom",
    ),
    "flat positions": (
        lambda: evaluate(positions=X[0]),
        "positions = array of shape (3,) must have shape (n, 3): pass one row per atom",
    ),
    "negative width": (
        lambda: evaluate(smearing=np.array([0.1, 0.2, -0.3, 0.0])),
        "smearing[2] = -0.3 Å must not be negative: use 0 for a point charge",
    ),
    "NaN width": (
        lambda: evaluate(smearing=np.array([0.1, np.nan, 0.3, 0.0])),
        "smearing[1] = nan Å must be finite: check where it comes from",
    ),
    "coincident atoms, exact": (
        lambda: evaluate(positions=changed(X, 3, X[1]), method="exact"),
        "distance of atoms 1 and 3 = 0 Å must exceed 0.001 Å: two atoms lie on one place; remove one of them",
    ),
    "coincident atoms, ewald": (
        lambda: evaluate(positions=changed(X, 3, X[1]), method="ewald"),
        "distance of atoms 1 and 3 = 0 Å must exceed 0.001 Å: two atoms lie on one place; remove one of them",
    ),
    "coincident images, mesh": (
        lambda: evaluate(positions=changed(X, 3, X[1] + CELL[0]), method="pme"),
        "distance of atoms 1 and 3 = 0 Å must exceed 0.001 Å: two atoms lie on one place; remove one of them",
    ),
    "coincident atoms, open": (
        lambda: evaluate("open", positions=changed(X, 3, X[1]), cell=None),
        "distance of atoms 1 and 3 = 0 Å must exceed 0.001 Å: two atoms lie on one place; remove one of them",
    ),
    "cell without volume": (
        lambda: evaluate(cell=np.diag([5.0, 5.0, 0.0])),
        "cell volume = 0 Å³ must be greater than zero: its vectors are missing or lie in one plane; "
        "give three independent vectors",
    ),
    "coplanar cell": (
        lambda: evaluate(cell=np.array([[5.0, 0, 0], [0, 5, 0], [5, 5, 0]])),
        "cell volume = 0 Å³ must be greater than zero: its vectors are missing or lie in one plane; "
        "give three independent vectors",
    ),
    "NaN cell": (
        lambda: evaluate(cell=changed(CELL, (1, 1), np.nan)),
        "cell must be finite: it holds NaN or infinity; check the structure",
    ),
    "missing cell": (
        lambda: evaluate(cell=None),
        'cell = None must be a (3, 3) array with boundary = "3d": only "open" has no cell',
    ),
    "cell in the open": (
        lambda: evaluate("open"),
        f'cell = {CELL.tolist()} Å must be None with boundary = "open": nothing repeats there; use "3d" or "slab" for a cell',
    ),
    "width that the cut-off cannot carry": (
        lambda: evaluate(smearing=np.full(4, 2.0), method="ewald", cutoff=6.0),
        r"cutoff = 6 Å must be at least .* Å for the widest Gaussian, smearing = 2 Å: "
        "increase the cut-off, leave it out, or narrow the Gaussian",
    ),
    "exclusion of a missing atom": (
        lambda: evaluate(exclusions=np.array([[0, 1], [2, 9]])),
        "exclusions[1] = (2, 9) must name atoms between 0 and 3: correct the index",
    ),
    "exclusion of an atom with itself": (
        lambda: evaluate(exclusions=np.array([[2, 2]])),
        "exclusions[0] = (2, 2) must name two different atoms: an atom does not exclude itself",
    ),
    "exclusion listed twice": (
        lambda: evaluate(exclusions=np.array([[0, 1], [1, 0]])),
        "exclusions = (0, 1) must list each pair once: it appears 2 times",
    ),
    "field in a charged slab": (
        lambda: evaluate("slab", charges=changed(Q, 0, 0.9), field=np.array([0, 0, 0.1])),
        "sum of charges = 0.5 e must be zero with a field: the energy would depend on the origin; add counter charges",
    ),
    "field in a charged cell": (
        lambda: evaluate("3d", charges=changed(Q, 0, 0.9), field=np.array([0, 0, 0.1])),
        "sum of charges = 0.5 e must be zero with a field: the energy would depend on the origin; add counter charges",
    ),
    "displacement of charged atoms": (
        lambda: evaluate("displacement", charges=changed(Q, 0, 0.9), displacement=0.1),
        "sum of charges = 0.5 e must be zero with constant displacement: "
        "the energy would depend on the origin; add counter charges",
    ),
    "displacement elsewhere": (
        lambda: evaluate("slab", displacement=0.1),
        'displacement = 0.1 V/Å must be left out with boundary = "slab": use boundary = "displacement"',
    ),
    "field in the plane of a slab": (
        lambda: evaluate("slab", field=np.array([0.1, 0, 0])),
        'field = [0.1, 0.0, 0.0] V/Å must be parallel to the surface normal with boundary = "slab": '
        "a component in the periodic plane has no potential",
    ),
    "field with finite field": (
        lambda: evaluate("finite-field", field=np.array([0, 0, 0.1])),
        'field = [0.0, 0.0, 0.1] V/Å must be left out with boundary = "finite-field": '
        "there the field follows the potentials",
    ),
    "NaN field": (
        lambda: evaluate(field=np.array([0, np.nan, 0.1])),
        "field = [0.0, nan, 0.1] V/Å must be finite: check where it comes from",
    ),
    "slab thicker than its cell": (
        lambda: evaluate("slab", cell=np.diag([5.0, 5.5, 5.0]), vacuum=0.0),
        "extent of the charges along the normal = 6 Å must be smaller than the height of the k-space cell, 5 Å: "
        "increase `vacuum` or use vacuum='auto'",
    ),
    "step instead of a switch": (
        lambda: switch(1.0, 3.0, 3.0),
        "inner, outer = 3, 3 Å must satisfy 0 <= inner < outer: a step is not a switch, give the switch a width",
    ),
}

ELECTRODES: dict[str, Case] = {
    "no atom": (
        lambda: Electrode([], potential=0.0),
        "indices = [] must name at least one atom: an electrode without atoms has no potential",
    ),
    "one atom twice": (
        lambda: Electrode([1, 2, 1], potential=0.0),
        "indices = 1 must be named once: remove the repetition",
    ),
    "nothing held": (
        lambda: Electrode([1]),
        "potential, charge = none must be exactly one of the two: hold the potential or the charge",
    ),
    "both held": (
        lambda: Electrode([1], potential=0.0, charge=0.0),
        "potential, charge = both must be exactly one of the two: hold the potential or the charge",
    ),
    "NaN potential": (
        lambda: Electrode([1], potential=float("nan")),
        "potential = nan V must be one finite number: check the input",
    ),
    "no electrode": (
        lambda: ConstantPotential([], Coulomb("slab")),
        "electrodes = [] must hold at least one Electrode: use Coulomb if nothing is solved for",
    ),
    "overlapping electrodes": (
        lambda: solve(electrodes=[Electrode([0, 1], potential=0.0), Electrode([1, 2], potential=1.0)]),
        "electrodes[1] = atom 1 must belong to one electrode: it is in electrodes[0] too; remove it from one of them",
    ),
    "index out of range": (
        lambda: solve(electrodes=[Electrode([0, 1], potential=0.0), Electrode([2, 7], potential=1.0)]),
        "electrodes[1] = atom 7 must lie between 0 and 3: the system has 4 atoms; correct the indices",
    ),
    "negative index": (
        lambda: solve(electrodes=[Electrode([-1], potential=0.0), Electrode([2], potential=1.0)]),
        "electrodes[0] = atom -1 must lie between 0 and 3: the system has 4 atoms; correct the indices",
    ),
    "width 0 on solved atoms": (
        lambda: solve(widths=0.0),
        "smearing = 0 Å must be greater than zero on solved atoms: "
        "a point charge has no finite self-energy; 0.392 Å is usual for gold",
    ),
    "width 0 on one solved atom": (
        lambda: solve(widths=[0.5, 0.5, 0.0, 0.5]),
        "smearing = 0 Å must be greater than zero on solved atoms: "
        "a point charge has no finite self-energy; 0.392 Å is usual for gold",
    ),
    "negative width on solved atoms": (
        lambda: solve(widths=[0.5, -0.2]),
        "smearing = -0.2 Å must be greater than zero on solved atoms: "
        "a point charge has no finite self-energy; 0.392 Å is usual for gold",
    ),
    "NaN width on solved atoms": (
        lambda: solve(widths=[0.5, np.nan]),
        "smearing must be finite: it holds NaN or infinity, in Å",
    ),
    "three widths for two electrodes of two atoms": (
        lambda: solve(widths=[0.5, 0.4, 0.5]),
        "smearing = array of shape (3,) must be one value, 2 (one per electrode) or 4 (one per electrode atom): "
        "pass one of these, in Å",
    ),
    "negative Thomas-Fermi length": (
        lambda: solve(thomas_fermi_length=-1.0, voronoi_volume=17.0),
        "thomas_fermi_length = -1 Å must not be negative: use 0 for a perfect metal",
    ),
    "Thomas-Fermi length without a volume": (
        lambda: solve(thomas_fermi_length=1.0),
        "voronoi_volume = None must be given with a thomas_fermi_length: it is the volume per electrode atom in Å³",
    ),
    "negative volume": (
        lambda: solve(thomas_fermi_length=1.0, voronoi_volume=-17.0),
        "voronoi_volume = -17 Å³ must be greater than zero: it is a volume per atom",
    ),
    "unknown solver": (
        lambda: solve(solver="cg"),
        'solver = "cg" must be auto, direct or iterative: choose one of these',
    ),
    "unequal potentials in 3d": (
        lambda: solve("3d"),
        'potentials = 0, 1 V must be equal with boundary = "3d": the cell repeats through the electrodes; '
        'use boundary = "finite-field" or "slab"',
    ),
    "charges that do not add up": (
        lambda: solve(electrodes=[Electrode([0], charge=0.5), Electrode([1], charge=0.1)]),
        "electrode charges + electrolyte charges = 0.6 + 0 e must equal total_charge = 0 e: "
        "change a held charge or total_charge, or hold one electrode at a potential",
    ),
    "free total charge in a slab": (
        lambda: solve(total_charge=None),
        'total_charge = None must be a number with boundary = "slab": '
        "only open and 3d cells may exchange charge with nothing",
    ),
    "charged finite field": (
        lambda: solve("finite-field", total_charge=0.5),
        'total_charge = 0.5 e must be 0 with boundary = "finite-field": a field needs a neutral cell',
    ),
    "one electrode in finite field": (
        lambda: solve("finite-field", electrodes=[Electrode([0, 1], potential=0.0)]),
        "electrodes = held by potential must be two, both at a potential or both at a charge, with boundary = "
        '"finite-field": the field follows the potential difference of exactly two',
    ),
    "mixed finite field": (
        lambda: solve("finite-field", electrodes=[Electrode([0], potential=0.0), Electrode([2], charge=0.0)]),
        "electrodes = held by potential, charge must be two, both at a potential or both at a charge, with boundary = "
        '"finite-field": the field follows the potential difference of exactly two',
    ),
    "field with finite field": (
        lambda: solve("finite-field", field=np.array([0, 0, 0.1])),
        'field = [0.0, 0.0, 0.1] V/Å must be left out with boundary = "finite-field": '
        "there the field follows the potentials",
    ),
    "electrodes that overlap along the normal": (
        lambda: solve("finite-field", positions=changed(X, (1, 2), 8.5)),
        "electrodes 0 and 1 reach from 3 to 8.5 Å and from 8 to 9 Å along the normal and must not overlap: "
        "unwrap the electrode that crosses the boundary",
    ),
    "field on a charged slab": (
        lambda: solve(total_charge=0.5, field=np.array([0, 0, 0.1])),
        "sum of charges = 0.5 e must be zero with a field: the energy would depend on the origin; add counter charges",
    ),
    "charged displacement": (
        lambda: solve("displacement", total_charge=0.5, displacement=0.1),
        "sum of charges = 0.5 e must be zero with constant displacement: "
        "the energy would depend on the origin; add counter charges",
    ),
    "too few potentials": (
        lambda: solve(potentials=[0.3]),
        "potentials = 1 values must be one per electrode, 2: use None where nothing changes",
    ),
    "potential and charge in one call": (
        lambda: solve(potentials=[0.3, 0.0], electrode_charges=[0.1, None]),
        "electrode 0 must be held at a potential or a charge: both are given in this call",
    ),
    "NaN in an electrolyte charge": (
        lambda: solve(
            electrodes=[Electrode([0], potential=0.0), Electrode([2], potential=1.0)],
            charges=changed(Q, 3, np.nan),
        ),
        "charges[3] = nan e must be finite: check where it comes from",
    ),
    "coincident electrode atoms": (
        lambda: solve(positions=changed(X, 1, X[0])),
        "distance of atoms 0 and 1 = 0 Å must exceed 0.001 Å: two atoms lie on one place; remove one of them",
    ),
    "three electrodes for a thermo-potentiostat": (
        lambda: ThermoPotentiostat(
            ConstantPotential([Electrode([i], potential=0.0) for i in range(3)], Coulomb("slab")),
            300.0,
            50.0,
            1,
        ),
        "electrodes = 3 must be 2 for a thermo-potentiostat: it moves charge from one to the other",
    ),
    "temperature below zero": (
        lambda: ThermoPotentiostat(
            ConstantPotential([Electrode([i], potential=0.0) for i in range(2)], Coulomb("slab")),
            -1.0,
            50.0,
            1,
        ),
        "temperature = -1 K must be greater than zero: it is the electrodes' temperature",
    ),
}


def check(case: Case) -> None:
    call, message = case
    pattern = message if ".*" in message else re.escape(message)
    with pytest.raises(ValueError, match=f"^{pattern}$"):
        call()


@pytest.mark.parametrize("name", OPERATOR)
def test_the_operator_refuses(name: str) -> None:
    check(OPERATOR[name])


@pytest.mark.parametrize("name", ELECTRODES)
def test_the_solver_refuses(name: str) -> None:
    check(ELECTRODES[name])


@pytest.mark.parametrize("message", [m for cases in (OPERATOR, ELECTRODES) for _, m in cases.values()])
def test_messages_state_a_rule_and_a_remedy(message: str) -> None:
    assert re.match(r"^.+ must .+: .+$", message)
    assert not message.endswith(".")


def test_atoms_that_move_onto_each_other_between_calls_are_refused() -> None:
    coulomb = Coulomb("3d", "ewald")
    coulomb(X, Q, CELL)
    near = changed(X, 1, X[0] + [1e-4, 0, 0])
    for step in np.linspace(0, 1, 12):  # in steps shorter than the neighbour list's skin
        last = X + (near - X) * step
        if step < 1:
            coulomb(last, Q, CELL)
    with pytest.raises(ValueError, match=r"^distance of atoms 0 and 1 = 0.0001 Å must exceed 0.001 Å: "):
        coulomb(last, Q, CELL)


def test_wrong_input_leaves_the_solver_usable() -> None:
    cpm = ConstantPotential(
        [Electrode([0, 1], potential=0.0), Electrode([2, 3], potential=1.0)],
        Coulomb("slab", "ewald"),
        smearing=0.5,
    )
    before = cpm.solve(X, Q, CELL)
    with pytest.raises(ValueError, match="must be finite"):
        cpm.solve(changed(X, (0, 0), np.nan), Q, CELL)
    after = cpm.solve(X, Q, CELL)
    np.testing.assert_allclose(after.charges, before.charges, rtol=0, atol=1e-12)
    assert cpm.factorizations == 1


def test_the_default_cutoff_carries_any_width() -> None:
    widths = np.array([0.0, 2.5, 0.0, 2.5])
    for boundary in ("3d", "slab"):
        got = Coulomb(boundary, "ewald", 1e-10)(X, Q, CELL, smearing=widths)
        truth = Coulomb("slab-exact" if boundary == "slab" else "3d", "exact", 1e-13)(
            X, Q, CELL, smearing=widths
        )
        np.testing.assert_allclose(got.forces, truth.forces, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("boundary", "changes"),
    [
        ("slab", {"positions": changed(X, (0, 0), np.nan)}),
        ("slab", {"cell": None}),
        ("slab", {"electrode_charges": [0.5, 0.1]}),
        ("slab", {"field": np.array([0.1, 0.0, 0.0])}),
        ("slab", {"total_charge": None}),
        ("slab", {"exclusions": [[0, 9]]}),
        ("slab", {"hardness": [1.0, 2.0, 3.0]}),
        ("3d", {}),
        ("finite-field", {"total_charge": 0.5}),
    ],
)
def test_a_check_says_what_a_solve_says(boundary: str, changes: dict[str, object]) -> None:
    given = {"positions": X, "charges": Q, "cell": CELL} | changes
    said = []
    for name in ("check", "solve"):
        groups = [Electrode([0, 1], potential=0.0), Electrode([2, 3], potential=1.0)]
        cpm = ConstantPotential(groups, Coulomb(boundary), smearing=0.5)
        with pytest.raises(ValueError, match="must") as error:
            getattr(cpm, name)(**given)
        said.append(str(error.value))
    assert said[0] == said[1]


def test_a_check_solves_nothing() -> None:
    cpm = ConstantPotential(
        [Electrode([0, 1], potential=0.0), Electrode([2, 3], charge=0.3)], Coulomb("slab")
    )
    cpm.check(X, Q, CELL)
    assert cpm.factorizations == 0
