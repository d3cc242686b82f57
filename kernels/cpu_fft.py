"""Real Fourier transforms of a mesh on the CPU, in its own memory, in parts that threads share among them.

A mesh of n1 n2 n3 numbers lies in an array whose rows are longer than n3: an even number, at least n3 + 2, so
that the n3//2 + 1 waves of a row take its place. Limited by memory, or by flops while the mesh fits
into the cache: at 12,288 atoms on one thread a step does a fifth to a quarter of the flops that the processor does
(`python -m examples.benchmarks limits`, AVX2).

A transform is `along` all planes (its first two steps, each plane by itself), then `across` all lines of them (its
last one). The inverse is the same backwards. ducc0 where it is installed (it is the faster one), else scipy: both are the
work of one author. ducc0 may round differently where the mesh is divided at other places; scipy does not.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import fft

try:
    import ducc0
except ImportError:
    ducc0 = None

__all__ = ["across", "along", "back_along"]

Floats = NDArray[np.float64]
Waves = NDArray[np.complex128]


def along(begin: int, end: int, mesh: Floats, length: int) -> None:
    """FFT along the third and the second direction of the planes begin..end, of the first `length` numbers of rows.

    In place; the complex numbers of a row from length//2 + 1 on mean nothing.
    """
    values, found = _parts(mesh[begin:end], length)
    if ducc0 is None:
        found[:] = fft.rfftn(values, axes=(1, 2))
    else:
        # The third direction first: every row becomes its own waves; then complex in place.
        ducc0.fft.r2c(values, axes=(2,), forward=True, nthreads=1, out=found)
        ducc0.fft.c2c(found, axes=(1,), forward=True, nthreads=1, out=found)


def across(begin: int, end: int, mesh: Floats, length: int, forward: bool) -> None:
    """FFT along the first direction of the lines begin..end of every plane, with exp(-2 pi i m l/n) if forward."""
    found = _parts(mesh, length)[1][:, begin:end]
    if ducc0 is None:
        found[:] = fft.fft(found, axis=0) if forward else fft.ifft(found, axis=0, norm="forward")
    else:
        ducc0.fft.c2c(found, axes=(0,), forward=forward, nthreads=1, out=found)


def back_along(begin: int, end: int, mesh: Floats, length: int) -> None:
    """What undoes `along`, times the number of points of a plane."""
    values, found = _parts(mesh[begin:end], length)
    if ducc0 is None:
        values[:] = fft.irfftn(found, s=(mesh.shape[1], length), axes=(1, 2), norm="forward")
    else:
        ducc0.fft.c2c(found, axes=(1,), forward=False, nthreads=1, out=found)
        ducc0.fft.c2r(found, axes=(2,), lastsize=length, forward=False, nthreads=1, out=values)


def _parts(mesh: Floats, length: int) -> tuple[Floats, Waves]:
    """The numbers and the waves that share the memory."""
    waves: Waves = mesh.view(np.complex128)
    return mesh[..., :length], waves[..., : length // 2 + 1]
