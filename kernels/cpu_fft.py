"""Real Fourier transforms of a mesh on the CPU, the same bits whenever the number of threads is the same.

ducc0 where it is installed (it is the faster one), else scipy: both are the work of one author and neither, unlike
torch's, keeps threads spinning in between. ducc0 may round differently with another number of threads; scipy does not.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

try:
    import ducc0
except ImportError:
    ducc0 = None

__all__ = ["forward", "inverse"]

Floats = NDArray[np.float64]
Waves = NDArray[np.complex128]


def forward(values: Floats, threads: int) -> Waves:
    """FFT[Q](m) = sum over l of Q(l) exp(-2 pi i m l/n), (n1, n2, n3//2 + 1), of (n1, n2, n3) values."""
    if ducc0 is None:
        scipy_waves: Waves = fft.rfftn(values, workers=threads)
        return scipy_waves
    n1, n2, n3 = values.shape
    out = np.empty((n1, n2, n3 // 2 + 1), np.complex128)
    waves: Waves = ducc0.fft.r2c(values, forward=True, nthreads=threads, out=out)
    return waves


def inverse(waves: Waves, mesh: tuple[int, int, int], threads: int) -> Floats:
    """Sum over all m of waves(m) exp(2 pi i m l/n), (n1, n2, n3); `waves` is overwritten."""
    found: Any
    if ducc0 is None:
        found = fft.irfftn(waves, s=mesh, norm="forward", overwrite_x=True, workers=threads)
    else:
        found = ducc0.fft.c2r(
            waves,
            lastsize=mesh[2],
            forward=False,
            nthreads=threads,
            out=np.empty(mesh),
            allow_overwriting_input=True,
        )
    out: Floats = found
    return out
