"""Figures are drawn from analyses of every kind and say what they need."""

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import molecule
from ase.io import write

from grahame.hybrid import plots
from grahame.hybrid.analysis import analyse

pytest.importorskip("matplotlib", reason="matplotlib is not installed: the extra `plot` has it")


@pytest.fixture
def bulk(tmp_path: Path) -> dict[str, Any]:
    """Water without electrodes and charges: most panels have nothing to show."""
    box = molecule("H2O", cell=[8.0, 8.0, 8.0], pbc=True)
    write(tmp_path / "water.xyz", [box] * 3)
    return analyse(tmp_path / "water.xyz")


def electrode_run(voltage: float) -> dict[str, Any]:
    """An analysis with everything, by hand."""
    z = np.linspace(0, 30, 61)
    mean = {"value": 0.1 * voltage, "error": 0.02, "converged": voltage > 0}
    electrode = {"layers_A": [2.0, 4.0], "surface_A": 4.0, "back_A": 2.0, "charge_e": mean}
    other = {"layers_A": [26.0, 28.0], "surface_A": 26.0, "back_A": 28.0, "charge_e": mean}
    error = {s: np.full(61, 1e-3).tolist() for s in ("O", "Na")}
    number = {"O": np.full(61, 0.03).tolist(), "Na": np.full(61, 6e-4).tolist()}
    density = {"z_A": z.tolist(), "number_per_A3": number, "number_error_per_A3": error}
    values = {"z_A": z.tolist(), "potential_V": (voltage * z / 30).tolist()}
    values |= {"charge_density_e_per_A3": z.tolist(), "field_V_per_A": z.tolist()}
    turned = {"z_A": z.tolist(), "cos_theta": [None, *z[1:].tolist()], "cos_theta_error": [None] * 61}
    return {
        "trajectory": "run.extxyz",
        "electrodes": [electrode, other],
        "cell": {"bottom": 0, "top": 1, "voltage_V": {"value": voltage}, "charge_e": mean},
        "series": {"time_ps": [0.0, 0.1, 0.2], "electrode_charge_e": [[-0.1, -0.2, -0.1], [0.1, 0.2, 0.1]]},
        "profiles": {"density": density, "orientation": turned, "electrostatic": values},
    }


def test_overview_draws_one_and_several_runs(tmp_path: Path) -> None:
    one = plots.overview(electrode_run(2.0), tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    labels = [axis.get_ylabel() for axis in one.axes]
    assert labels == [
        "number density (Å$^{-3}$)", "concentration (mol/L)", r"$\langle\cos\theta\rangle$ of water",
        "charge density (e/Å$^3$)", "field (V/Å)", "potential (V)", r"$(Q_\mathrm{top}-Q_\mathrm{bottom})/2$ (e)",
    ]  # fmt: skip
    two = plots.overview([electrode_run(0.0), electrode_run(2.0)], tmp_path / "sub" / "two.pdf")
    assert (tmp_path / "sub" / "two.pdf").read_bytes().startswith(b"%PDF")
    texts = [t.get_text() for t in two.axes[-1].get_legend().get_texts()]
    assert texts == ["0 V: 0.000 ± 0.020 e (error at least)", "2 V: 0.200 ± 0.020 e"]


def test_parts_can_be_drawn_alone(tmp_path: Path) -> None:
    assert len(plots.profile_figure(electrode_run(1.0), tmp_path / "profiles.png").axes) == 6
    assert len(plots.charge_figure(electrode_run(1.0), tmp_path / "charge.svg").axes) == 1
    assert "<svg" in (tmp_path / "charge.svg").read_text()


def test_what_an_analysis_lacks_is_said_in_its_panel(bulk: dict[str, Any], tmp_path: Path) -> None:
    figure = plots.overview(bulk, tmp_path / "bulk.png")
    empty = [axis.get_ylabel() for axis in figure.axes if any(t.get_text() == "no data" for t in axis.texts)]
    assert empty == ["charge density (e/Å$^3$)", "field (V/Å)", "potential (V)", "electrode charge (e)"]


def test_drawing_leaves_the_global_style_alone() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    plots.overview(electrode_run(1.0))
    assert dict(matplotlib.rcParams) == before


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        plots.overview([])
    assert str(caught.value) == "result = [] must hold at least one analysis: give what `analyse` returned"


def test_missing_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError) as caught:
        plots.overview(electrode_run(1.0))
    assert str(caught.value) == (
        "matplotlib = not installed must be there to draw: run `pip install 'grahame[plot]'`"
    )
