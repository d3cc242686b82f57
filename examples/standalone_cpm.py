# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Constant potential on plain arrays
#
# `grahame.electrostatics` needs no molecular dynamics: positions, charges and a cell go in as arrays, electrode
# charges, the energy Omega and forces come out. Here two gold plates are made into a capacitor whose answers are
# known from textbooks.
#
# Units: Å, e, V, eV. As a script, `python standalone_cpm.py --quick` does the same with fewer points.

# %%
import argparse
import math
import os
import sys
from pathlib import Path

import numpy as np

from grahame.electrostatics import ConstantPotential, Coulomb, Electrode, ThermoPotentiostat
from grahame.electrostatics.profiles import planar_profiles
from grahame.electrostatics.units import COULOMB_CONSTANT

IN_NOTEBOOK = "ipykernel" in sys.modules
parser = argparse.ArgumentParser(description="The charge solver alone: a parallel-plate capacitor of gold.")
parser.add_argument("--quick", action="store_true", help="fewer points, the same code")
parser.add_argument("--output", type=Path, default=Path("results"), help="folder of the figure")
options = parser.parse_args([] if IN_NOTEBOOK else None)
quick = options.quick or os.environ.get("GRAHAME_QUICK", "") not in ("", "0")

EPS0 = 1 / (4 * math.pi * COULOMB_CONSTANT)  # e/(V Å)

# %% [markdown]
# ## Two plates of Au(111)
#
# Each plate is a rectangular Au(111) surface with its layers stacked ABC; the upper one is the mirror image of the
# lower one, so that the facing layers are equal. Only `a x b` of the cell matters in slab geometry: nothing needs a
# vacuum, the solver pads the cell of its waves by itself.

# %%
LATTICE = 4.0782  # Å, gold
NEIGHBOUR = LATTICE / math.sqrt(2)
LAYER = LATTICE / math.sqrt(3)


def au111(nx, ny, layers):
    """Positions of an Au(111) plate, lowest layer first, and the sides of its rectangle."""
    side = np.array([NEIGHBOUR, math.sqrt(3) * NEIGHBOUR])
    corners = np.stack(np.meshgrid(np.arange(nx), np.arange(ny), indexing="ij"), -1).reshape(-1, 1, 2)
    plane = ((corners + np.array([[0.0, 0.0], [0.5, 0.5]])) * side).reshape(-1, 2)
    shifts = [[0.0, k * NEIGHBOUR / math.sqrt(3)] for k in range(layers)]
    return (
        np.concatenate(
            [np.column_stack([plane + s, np.full(len(plane), k * LAYER)]) for k, s in enumerate(shifts)]
        ),
        side * [nx, ny],
    )


def capacitor(gap, layers=3, nx=3, ny=2):
    """Positions of two facing plates, the indices of both, and the cell (rows)."""
    lower, sides = au111(nx, ny, layers)
    upper = lower * [1, 1, -1] + [0, 0, 2 * lower[:, 2].max() + gap]
    positions = np.concatenate([lower, upper])
    n = len(lower)
    height = positions[:, 2].max() + LAYER
    return positions, np.arange(n), np.arange(n, 2 * n), np.diag([*sides, height])


positions, bottom, top, cell = capacitor(gap=15.0)
area = cell[0, 0] * cell[1, 1]
print(f"{len(positions)} atoms, area {area:.2f} Å²")

# %% [markdown]
# ## One solve
#
# Potentials -0.5 and +0.5 V are held; the charges follow. The parallel-plate formula is
# $Q = \varepsilon_0 A U/d$, with $d$ the distance of the facing layers of nuclei.

# %%
coulomb = Coulomb(boundary="slab", method="ewald", accuracy=1e-8)
cpm = ConstantPotential(
    [Electrode(bottom, potential=-0.5), Electrode(top, potential=0.5)], coulomb, smearing=0.392
)
none = np.zeros(len(positions))  # the charges of electrode atoms are ignored: they are solved for
one_volt = cpm.solve(positions, none, cell)

Q = one_volt.electrode_charges[1]
print(f"Q = {Q:+.6f} e, eps0 A U/d = {EPS0 * area / 15.0:+.6f} e")
print(f"Omega = {one_volt.energy:.8f} eV, -Q U/2 = {-0.5 * Q:.8f} eV")
pull = one_volt.forces[bottom, 2].sum()
print(f"force between the plates {pull:.6f} eV/Å, Q²/(2 eps0 A) = {Q**2 / (2 * EPS0 * area):.6f} eV/Å")
print(f"smallest eigenvalue {cpm.smallest_eigenvalue:.3f} eV/e², condition number {cpm.condition:.1f}")

# %% [markdown]
# Where does the charge sit? Practically all of it in the layer that faces the other plate: a metal of Gaussian
# charges screens within one layer. So the plates need no more than two or three layers.

# %%
for layers in (1, 2, 3) if quick else (1, 2, 3, 4, 5):
    x, lower, upper, box = capacitor(15.0, layers, nx=2, ny=1)
    solver = ConstantPotential([Electrode(lower, potential=-0.5), Electrode(upper, potential=0.5)], coulomb)
    q = solver.solve(x, np.zeros(len(x)), box, forces=False)
    by_layer = q.charges[upper].reshape(layers, -1).sum(1)[::-1] / q.electrode_charges[1]
    shares = "  ".join(f"{share:+.1e}" for share in by_layer)
    print(
        f"{layers} layers: Q/A = {q.electrode_charges[1] / (box[0, 0] * box[1, 1]):.8f} e/Å², inside out: {shares}"
    )
layer_shares = np.abs(by_layer)  # facing layer first

# %% [markdown]
# ## The effective gap
#
# $\varepsilon_0 A U/Q$ is the distance that an ideal capacitor of this charge would have. Against the distance of
# the nuclei it is a line of slope exactly 1; its offset says where the charge of a plate effectively sits (outside
# the nuclei when negative), and depends on the Gaussian width.

# %%
gaps = np.array([8.0, 15.0, 30.0]) if quick else np.array([5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0])
widths = (0.392, 0.8)
effective = {}
for width in widths:
    effective[width] = []
    for gap in gaps:
        x, lower, upper, box = capacitor(gap, 2, nx=2, ny=1)
        plates = [Electrode(lower, potential=-0.5), Electrode(upper, potential=0.5)]
        q = ConstantPotential(plates, coulomb, smearing=width).solve(x, np.zeros(len(x)), box, forces=False)
        effective[width].append(EPS0 * box[0, 0] * box[1, 1] / q.electrode_charges[1])
    slope, offset = np.polyfit(gaps, effective[width], 1)
    print(f"s = {width} Å: effective gap = {slope:.8f} d {offset:+.5f} Å")

# %% [markdown]
# ## Field and potential between the plates
#
# Exact plane averages of the Gaussian charges, in V and V/Å: inside the metal the potential is what was set, in the
# gap the field is constant.

# %%
profile = planar_profiles(positions, one_volt.charges, cell, smearing=0.392)
middle = np.abs(profile.z - positions[:, 2].mean()) < 5.0
print(
    f"field in the gap {profile.field[middle].mean():+.8f} V/Å (spread {np.ptp(profile.field[middle]):.1e})"
)
print(f"potential step across the cell {profile.potential[-1] - profile.potential[0]:+.8f} V")

# %% [markdown]
# ## Held charge and held potential are the same capacitor
#
# Holding the charge just found must give the potentials back, and the two energies differ by the work
# $\sum_g \psi_g Q_g$. The electrode matrix is factorised once per kind of constraint (potentials, charges, one of
# each) and then serves any number of solves, as long as the electrodes do not move.

# %%
held = cpm.solve(positions, none, cell, electrode_charges=[-Q, Q])
print(f"potential difference {held.potentials[1] - held.potentials[0]:+.12f} V")
print(f"U(Q) - psi Q = {held.energy - Q:.10f} eV, Omega(psi) = {one_volt.energy:.10f} eV")
mixed = cpm.solve(positions, none, cell, potentials=[0.0, None], electrode_charges=[None, 2 * Q])
print(f"bottom held at 0 V, top at 2 Q: top floats to {mixed.potentials[1]:+.10f} V")
print(f"factorisations of the electrode matrix so far: {cpm.factorizations}")

# %% [markdown]
# ## Slab and finite field
#
# In a fully periodic cell the potential difference is carried by a uniform field $E = -(\psi_{top}-\psi_{bot})/L$.
# The electrodes then touch each other through the boundary, and the charge that the slab would have is
# $Q_{top} - A D/4\pi k$ with $D = E + 4\pi k M_z/V$; the last term is what leaks through electrodes that are too
# thin to screen.

# %%
print("layers   slab Q (e)       Q_top (e)        Q_top - AD/4 pi k")
for layers in (1, 3) if quick else (1, 2, 3, 4):
    x, lower, upper, box = capacitor(15.0, layers, nx=2, ny=1)
    plates = [Electrode(lower, potential=-0.5), Electrode(upper, potential=0.5)]
    a, volume = box[0, 0] * box[1, 1], np.linalg.det(box)
    slab = ConstantPotential(plates, coulomb).solve(x, np.zeros(len(x)), box, forces=False)
    periodic = ConstantPotential(plates, Coulomb("finite-field", "ewald", 1e-8))
    closed = periodic.solve(x, np.zeros(len(x)), box, forces=False)
    D = closed.field[2] + 4 * math.pi * COULOMB_CONSTANT * (closed.charges @ x[:, 2]) / volume
    charge = closed.electrode_charges[1]
    print(
        f"{layers:6d}   {slab.electrode_charges[1]:.10f}     {charge:.10f}     "
        f"{charge - a * D / (4 * math.pi * COULOMB_CONSTANT):.10f}"
    )

# %% [markdown]
# ## An ion between grounded plates
#
# A charge $q$ at height $z$ between plates at equal potential induces $-q\,z/d$ on the far one (Green's
# reciprocity). Moving it through the gap therefore transfers its whole charge from one plate to the other: this is
# what the ammeter of an electrochemical cell sees (Shockley and Ramo).

# %%
x, lower, upper, box = capacitor(15.0, 2)
faces = x[lower, 2].max(), x[upper, 2].min()
with_ion = ConstantPotential([Electrode(lower, potential=0.0), Electrode(upper, potential=0.0)], coulomb)
heights = np.linspace(faces[0] + 2.5, faces[1] - 2.5, 5 if quick else 21)
induced = []
for z in heights:
    atoms = np.concatenate([x, [[0.5 * box[0, 0], 0.5 * box[1, 1], z]]])
    solution = with_ion.solve(atoms, np.append(np.zeros(len(x)), 1.0), box, forces=False)
    induced.append(solution.electrode_charges)
induced = np.array(induced)
ideal = -(heights - faces[0]) / (faces[1] - faces[0])
print(f"largest distance from -z/d: {np.abs(induced[:, 1] - ideal).max():.4f} e")
print(f"both plates together carry {induced.sum(1).min():+.10f} to {induced.sum(1).max():+.10f} e")

# %% [markdown]
# ## Fluctuations: the thermo-potentiostat
#
# A potentiostat that is reset in every step has no noise of its own. The thermo-potentiostat gives the electrodes
# the thermal fluctuations that the potential difference of a capacitor must have, $\mathrm{Var}(U) = kT/C$.

# %%
x, lower, upper, box = capacitor(15.0, 2, nx=3, ny=2)
pair = ConstantPotential([Electrode(lower, potential=-0.5), Electrode(upper, potential=0.5)], coulomb)
noisy = ThermoPotentiostat(pair, temperature=300.0, time_constant=50.0, seed=1)
samples = 50 if quick else 1500
voltages = []
for _ in range(samples):
    state = noisy.step(x, np.zeros(len(x)), box, timestep=150.0, forces=False)
    voltages.append(state.potentials[1] - state.potentials[0])
voltages = np.array(voltages)
pair.solve(x, np.zeros(len(x)), box, potentials=[-0.5, 0.5], forces=False)
half = np.array([-0.5, 0.5])
capacitance = half @ pair.capacitance @ half
expected = 8.617333262e-5 * 300.0 / capacitance
print(f"C = {capacitance:.6f} e/V; <U> = {voltages.mean():.3f} V")
print(
    f"Var(U) = {voltages.var():.4f} V², kT/C = {expected:.4f} V² (statistics: ± {math.sqrt(2 / samples):.0%})"
)

# %% [markdown]
# ## Everything in one picture

# %%
try:
    from grahame.hybrid import plots

    figure = plots.new_figure(7.2, 5.6)
except ImportError as error:
    print(error)
else:
    axes = figure.subplots(2, 2).ravel()
    near = gaps <= 20.0
    for width, colour in zip(widths, (plots.BLUE, plots.ORANGE)):
        distance = np.array(effective[width])
        axes[0].plot(gaps[near], distance[near], "o", color=colour, markersize=4, label=f"s = {width} Å")
        axes[0].plot(gaps[near], gaps[near] + (distance - gaps).mean(), color=colour, linewidth=0.8)
    axes[0].set(xlabel="distance of the facing layers (Å)", ylabel=r"effective gap $\varepsilon_0AU/Q$ (Å)")
    axes[0].legend(frameon=False)
    axes[1].semilogy(np.arange(1, len(layer_shares) + 1), layer_shares, "o-", color=plots.BLUE, markersize=4)
    axes[1].set(xlabel="layer, from the gap inwards", ylabel="share of the charge, magnitude")
    axes[1].set_xticks(np.arange(1, len(layer_shares) + 1))
    z = heights - faces[0]
    axes[2].plot(z, induced[:, 0], "o", color=plots.ORANGE, markersize=3, label="bottom plate")
    axes[2].plot(z, induced[:, 1], "o", color=plots.BLUE, markersize=3, label="top plate")
    axes[2].plot(z, ideal, color="0.3", linewidth=0.8, label="Green's reciprocity")
    axes[2].plot(z, -1 - ideal, color="0.3", linewidth=0.8)
    axes[2].set(xlabel="height of an ion of +1 e (Å)", ylabel="induced charge (e)")
    axes[2].set_ylim(-0.95, 0.5)
    axes[2].legend(frameon=False, loc="upper center")
    u = np.linspace(*np.percentile(voltages, [0, 100]), 200)
    gauss = np.exp(-((u - 1.0) ** 2) / (2 * expected)) / math.sqrt(2 * math.pi * expected)
    axes[3].hist(
        voltages, bins=10 if quick else 30, density=True, color=plots.SKY, label="thermo-potentiostat"
    )
    axes[3].plot(u, gauss, color=plots.RED, label="variance kT/C")
    axes[3].set(xlabel="potential difference (V)", ylabel="probability (1/V)")
    axes[3].set_ylim(0, 1.45 * max(axes[3].get_ylim()[1], gauss.max()))
    axes[3].legend(frameon=False, loc="upper right")
    for letter, axis in zip("abcd", axes):
        axis.set_title(letter, loc="left", fontweight="bold")
        axis.spines[["top", "right"]].set_visible(False)
    path = plots.save(figure, options.output / "standalone_cpm.png")
    print(f"figure: {path}")
    if IN_NOTEBOOK:
        from IPython.display import Image, display

        display(Image(str(path)))
