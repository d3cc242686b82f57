"""The electric state of a frame: nothing lost, nothing guessed, scales converted or refused."""

import numpy as np
import pytest

from grahame.hybrid.conditions import field_from_atomic_units, rhe_from_she, she_from_work_function
from grahame.hybrid.schema import ElectricState

FULL = {
    "total_charge": -1.0, "n_electrons": 101.0, "excess_charge": -1.0, "electrode_charge": np.array([0.5, -1.5]),
    "potential": np.array([0.3, -0.2]), "potential_reference": "RHE+pH", "pH": 7.0, "work_function": 4.9,
    "fermi_level": -4.1, "external_field": np.array([0.0, 0.0, 0.01]), "field_kind": "sawtooth",
    "field_unit": "a.u.", "countercharge": "uniform_background", "solvation": "explicit water", "slab_axis": "z",
    "dipole_correction": True, "polarization": np.array([0.1, 0.2, 0.3]), "branch": np.array([1.0, 0.0, 0.0]),
    "energy_kind": "Omega", "born_kind": "at_psi", "code": "CP2K", "functional": "PBE", "dispersion": "D3",
    "basis": "DZVP", "k_points": "1x1x1", "smearing": 0.026, "work_function_side": "+n",
}  # fmt: skip


def test_a_state_survives_a_round_trip() -> None:
    state = ElectricState.from_info(FULL)
    assert ElectricState.from_info(state.to_info()) == state
    assert set(state.to_info()) == set(FULL) == set(ElectricState.names())


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("countercharge", "the cell has total_charge = -1 e: add the key, one of explicit_ions, uniform_background, planar_gate, jellium_slab, poisson_boltzmann, none"),
        ("potential_reference", "a potential has a meaning on a scale only: add the key, one of vacuum, SHE, RHE+pH, PZC, internal"),
        ("pH", "RHE depends on it: add the key"),
        ("field_kind", "there is an external_field: add the key, one of E, D, sawtooth"),
        ("field_unit", "there is an external_field: add the key, one of V/Å, a.u."),
        ("branch", "a polarization is known up to a quantum: add the key"),
    ],
)  # fmt: skip
def test_a_missing_key_is_named(missing: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=missing) as error:
        ElectricState.from_info({k: v for k, v in FULL.items() if k != missing})
    assert str(error.value) == f"{missing} = nothing must be given, {sentence}"


def test_required_keys_are_demanded() -> None:
    with pytest.raises(ValueError, match="functional") as error:
        ElectricState.from_info({"total_charge": 0}, ("functional",))
    assert str(error.value) == "functional = nothing must be given, it is required: add the key"
    with pytest.raises(ValueError, match="require") as error:
        ElectricState.from_info({"total_charge": 0}, ("functionl",))
    assert str(error.value) == "require = functionl must be a key of the schema: did you mean functional?"


def test_unknown_words_and_wrong_numbers_are_refused() -> None:
    for key, value, sentence in (
        ("countercharge", "explicit", "countercharge = explicit must be one of explicit_ions, uniform_background, planar_gate, jellium_slab, poisson_boltzmann, none: did you mean explicit_ions?"),
        ("total_charge", "one", "total_charge = 'one' must be a number: correct the key"),
        ("total_charge", True, "total_charge = True must be a number: correct the key"),
        ("potential", np.nan, "potential = nan V must be finite: correct the key"),
        ("external_field", 0.1, "external_field = 1 numbers must be three, one per axis: correct the key"),
        ("excess_charge", 2.0, "excess_charge = 2 e must equal total_charge = -1 e: correct one of the two"),
        ("dipole_correction", "maybe", "dipole_correction = 'maybe' must be true or false: correct the key"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=key) as error:
            ElectricState.from_info(FULL | {key: value})
        assert str(error.value) == sentence


def test_potentials_convert_between_scales() -> None:
    state = ElectricState.from_info(FULL)
    she = state.on_scale("SHE")
    assert she.potential == pytest.approx((0.3 - 0.4144, -0.2 - 0.4144))
    assert she.on_scale("vacuum").potential == pytest.approx(tuple(v + 4.44 for v in she.potential or ()))
    assert she.on_scale("RHE+pH", pH=7.0).potential == pytest.approx(state.potential)


def test_scales_without_a_known_distance_are_refused() -> None:
    state = ElectricState.from_info(FULL | {"potential_reference": "PZC"})
    with pytest.raises(ValueError, match="PZC") as error:
        state.on_scale("SHE")
    assert str(error.value) == (
        "potential_reference = PZC must be one of vacuum, SHE, RHE+pH: its distance to SHE is not known; give potentials "
        "on one of these scales"
    )
    with pytest.raises(ValueError, match="pH") as error:
        ElectricState.from_info(FULL).on_scale("RHE+pH")
    assert str(error.value) == (
        "pH = nothing must be given, RHE depends on it: pass the pH of the target scale"
    )


def test_known_conversions() -> None:
    assert she_from_work_function(4.44) == 0.0
    assert rhe_from_she(0.0, 14.0) == pytest.approx(0.8288)
    assert round(field_from_atomic_units(0.01), 5) == 0.51422
    field = ElectricState.from_info(FULL).field()
    assert field is not None
    assert round(field[2], 5) == 0.51422
