"""Energies of solved charges counted from those the atoms would have alone."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms

from grahame.electrostatics import Coulomb, Electrode
from grahame.electrostatics.units import COULOMB_CONSTANT
from grahame.hybrid import HybridCalculator
from grahame.hybrid.adapters.export import export_metatomic
from grahame.hybrid.adapters.feature_heads import FeatureHeads
from grahame.hybrid.model import ChargeSpec, HybridModel
from grahame.hybrid.shortrange.learned import LearnedShortRange
from tests.hybrid.model_cells import batch_of, frame, make_model, water_box

STIFF: dict[str, Any] = {"kind": "solved", "hardness": 400.0}
CHI = 90.0  # V
STEP = 1e-4


def pair_of_models(**charges: Any) -> tuple[HybridModel, HybridModel]:
    """One network, its energy counted from rest and not."""
    counted = make_model(charges=STIFF | charges | {"from_rest": True})
    plain = make_model(charges=STIFF | charges)
    with torch.no_grad():
        assert counted.sites is not None
        counted.sites.element.weight[:, 0] += CHI
    plain.load_state_dict(counted.state_dict())
    return counted, plain


def test_the_difference_is_the_energy_of_each_charge_alone() -> None:
    """Far from all others an atom has the charge -chi/(J + k/(sqrt(pi) s)), and no energy from it."""
    counted, plain = pair_of_models()
    one = frame(water_box())
    both, bare = counted.predict(batch_of(counted, one)), plain.predict(batch_of(plain, one))
    np.testing.assert_allclose(both.charges, bare.charges, rtol=0, atol=1e-12)
    out = counted.local(batch_of(counted, one).graph, torch.tensor([0]), (one.conditions,))
    chi, hardness, s = (v.detach().numpy() for v in (out.electronegativity, out.hardness, out.widths))
    alone = 0.5 * chi**2 / (hardness + COULOMB_CONSTANT / (math.sqrt(math.pi) * s))
    assert alone.sum() > 1e-3
    assert float(both.energy[0] - bare.energy[0]) == pytest.approx(float(alone.sum()), rel=1e-10)


def test_an_atom_alone_rests_where_its_energy_is_zero() -> None:
    counted, plain = pair_of_models(site_constants="environment", widths={"O": 0.6})
    atom = Atoms("O", cell=[40.0, 40.0, 40.0], pbc=False)
    energies, charges = [], []
    for made in (counted, plain):
        atom.calc = HybridCalculator(
            LearnedShortRange(made), Coulomb("open"), [Electrode([0], potential=0.0)], total_charge=None
        )
        energies.append(atom.get_potential_energy())
        charges.append(float(atom.calc.results["charges"][0]))
    chi, alone = CHI, 400.0 + COULOMB_CONSTANT / (math.sqrt(math.pi) * 0.6)
    # Before training chi and J depend a little on what surrounds an atom.
    assert charges == pytest.approx([-chi / alone] * 2, rel=0.1)
    assert charges[0] == charges[1]
    assert energies[0] - energies[1] == pytest.approx(0.5 * charges[0] ** 2 * alone, rel=1e-3)


@pytest.mark.parametrize("own", [False, True])
def test_forces_are_derivatives(own: bool) -> None:
    made, _ = pair_of_models(own_network=own)
    atoms = water_box()
    atoms.calc = HybridCalculator(
        LearnedShortRange(made), Coulomb("3d", "ewald", 1e-12), [Electrode(np.arange(len(atoms)), charge=0.0)]
    )
    forces, start = atoms.get_forces(), atoms.get_positions()
    for atom, axis in ((0, 0), (1, 2)):
        ends = []
        for sign in (1, -1):
            moved = start.copy()
            moved[atom, axis] += sign * STEP
            atoms.set_positions(moved)
            ends.append(atoms.get_potential_energy())
        assert forces[atom, axis] == pytest.approx(-(ends[0] - ends[1]) / (2 * STEP), abs=2e-6)


def test_an_export_without_chi_is_refused(tmp_path: Path) -> None:
    made = make_model(charges={"kind": "transfer", "site_constants": "environment", "from_rest": True})
    with pytest.raises(ValueError, match="from_rest") as refused:
        export_metatomic(made, tmp_path / "model.pt")
    assert str(refused.value) == (
        "from_rest = true must be false to be exported: an engine is not given chi and J, whose energy at rest is counted"
    )
    assert list(tmp_path.iterdir()) == []


def test_what_has_no_such_energy_is_refused() -> None:
    with pytest.raises(ValueError, match="from_rest") as refused:
        ChargeSpec(kind="transfer", from_rest=True)
    assert (
        "from_rest = true must be left out where no chi or J sees the surroundings: there the energy of a charge alone is "
        "a constant; use kind solved or site_constants environment"
    ) in str(refused.value)
    with pytest.raises(ValueError, match="from_rest") as refused:
        FeatureHeads(3, ["H"], ChargeSpec(kind="solved", from_rest=True), 4.0, "other")
    assert str(refused.value) == (
        "from_rest = true must be left out: the energy is another model's, and these heads add no local one"
    )
