"""Smooth particle mesh Ewald: the waves of the Ewald sum on a regular mesh.

The phase factor of an atom at fractional coordinate u (in mesh units, along each direction) is interpolated
with cardinal B-splines M_p,

    exp(2 pi i m u/n)  ~  b(m) sum_l M_p(u - l) exp(2 pi i m l/n),
    b(m) = exp(2 pi i (p - 1) m/n) / sum_{l=0}^{p-2} M_p(l + 1) exp(2 pi i m l/n),

so that the structure factor is the discrete Fourier transform of the charges spread on the mesh,

    S(G) ~ b(m1) b(m2) b(m3) FFT[Q](m),     Q(l) = sum_j q_j M_p(u_1j - l_1) M_p(u_2j - l_2) M_p(u_3j - l_3),

and the energy of the waves is

    E = (2 pi/V) sum over m != 0 of exp(-G²/4 alpha²)/G² |b(m)|² |FFT[Q](m)|².

Its derivative with respect to u goes through M_p', an explicit function: forces are the exact gradient of
this energy and conserve it. The mesh belongs to the k-space cell, which in a slab is longer than the user's.

Source: Essmann, Perera, Berkowitz, Darden, Lee and Pedersen, J. Chem. Phys. 103, 8577 (1995).
"""

from torch import Tensor

from grahame.electrostatics import ewald
from grahame.electrostatics.accuracy import Parameters
from grahame.kernels import dispatch


def energy(
    x: Tensor, q: Tensor, h: Tensor, s: Tensor, pairs: tuple[Tensor, Tensor, Tensor], p: Parameters
) -> Tensor:
    """Mesh Ewald energy in e²/Å of the half list `pairs`, without background and on-site terms."""
    i, j, shifts = pairs
    near = dispatch.pair_energy(x, q, h, s, i, j, shifts, p.splitting, p.cutoff)
    waves = dispatch.mesh_energy(x, q, h, p.splitting, p.mesh, p.order)
    return near + waves - 0.5 * ewald.SELF * p.splitting * (q**2).sum()
