"""Real Fourier transforms of a mesh on the CPU, in its own memory; the same bits whenever the number of threads is.

A mesh of n1 n2 n3 numbers lies in an array whose rows are longer than n3: an even number, at least n3 + 2, so
that the n3//2 + 1 waves of a row take its place. Limited by flops, and by memory once the mesh is larger than
the cache: at 12,288 atoms they do an eighth of the flops that the processor does
(`python -m examples.benchmarks limits`).

ducc0 where it is installed (it is the faster one), else scipy: both are the work of one author and neither, unlike
torch's, keeps threads spinning in between. ducc0 may round differently with another number of threads; scipy does not.
"""

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


def forward(mesh: Floats, length: int, threads: int) -> Waves:
    """FFT[Q](m) = sum over l of Q(l) exp(-2 pi i m l/n) in place of Q, of the first `length` numbers of every row.

    Returns:
        The array as complex numbers (n1, n2, rows/2); those from length//2 + 1 on mean nothing.
    """
    waves: Waves = mesh.view(np.complex128)
    values, found = mesh[..., :length], waves[..., : length // 2 + 1]
    if ducc0 is None:
        found[:] = fft.rfftn(values, workers=threads)
    else:
        # The third direction first: every row becomes its own waves; then complex in place.
        ducc0.fft.r2c(values, axes=(2,), forward=True, nthreads=threads, out=found)
        ducc0.fft.c2c(found, axes=(0, 1), forward=True, nthreads=threads, out=found)
    return waves


def inverse(waves: Waves, length: int, threads: int) -> Floats:
    """Sum over all m of waves(m) exp(2 pi i m l/n) in place of the waves; the array as in `forward`."""
    mesh: Floats = waves.view(np.float64)
    found, values = waves[..., : length // 2 + 1], mesh[..., :length]
    if ducc0 is None:
        values[:] = fft.irfftn(found, s=(*mesh.shape[:2], length), norm="forward", workers=threads)
    else:
        ducc0.fft.c2c(found, axes=(0, 1), forward=False, nthreads=threads, out=found)
        ducc0.fft.c2r(found, axes=(2,), lastsize=length, forward=False, nthreads=threads, out=values)
    return mesh
