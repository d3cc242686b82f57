"""Background, slab and displacement as moments of the charges, against the derivatives of their energies."""

import numpy as np
import pytest
import torch

from grahame.electrostatics import fields, slab
from grahame.electrostatics.moments import Moments

ALPHA = 0.4
CELL = torch.tensor([[9.0, 0.0, 0.5], [2.0, 8.0, 0.0], [1.0, 0.5, 14.0]], dtype=torch.float64)


def energy(boundary: str, q: torch.Tensor, plane: slab.Plane) -> torch.Tensor:
    total = slab.background_energy(q, plane, ALPHA)
    if boundary == "slab":
        total = total + slab.slab_energy(q, plane)
    if boundary == "displacement":
        total = total + fields.polarization_energy(q, plane)
    return total


@pytest.mark.parametrize("gaussian", [True, False])
@pytest.mark.parametrize("boundary", ["slab", "displacement", "3d", "finite-field"])
def test_moments_give_the_derivatives_of_the_energies(boundary: str, gaussian: bool) -> None:
    rng = np.random.default_rng(5)
    x = torch.as_tensor(rng.uniform(-6.0, 15.0, (12, 3))).requires_grad_()
    # Charged, so that every term takes part.
    q = torch.as_tensor(rng.normal(size=12) + 0.2).requires_grad_()
    s = torch.as_tensor(rng.uniform(0.0, 0.8, 12))
    plane = slab.Plane.of(x, s, CELL, gaussian)
    by_charge, by_position = torch.autograd.grad(energy(boundary, q, plane), (q, x), materialize_grads=True)
    charges = q.detach()
    found = Moments.of(slab.Plane.of(x.detach(), s, CELL, gaussian), ALPHA, boundary)
    weights = found.weights(charges)
    np.testing.assert_allclose(found.potential(weights), by_charge, rtol=1e-12, atol=1e-13)
    gradient = found.gradient(charges, weights)
    if gradient is None:
        assert not by_position.any()
    else:
        assert by_position.abs().max() > 1e-3
        np.testing.assert_allclose(gradient, by_position, rtol=1e-12, atol=1e-13)
