"""Splittings and meshes for engines that are told them: the same rules for every peer."""

import math

import numpy as np

from examples.benchmarks.speed.systems import Box

REAL_SHARE = 0.6  # of the target that the real-space error may take


def splitting(box: Box, cutoff: float, target: float) -> float:
    """Ewald splitting in 1/Å at which the real-space force error is 0.6 of the target.

    Source: Kolafa and Perram, Mol. Simul. 9, 351 (1992).
    """
    rms_force = float(np.sqrt((box.truth**2).sum(1).mean()))
    squares = float((box.charges**2).sum())
    scale = 2 * float(box.constant) * squares / math.sqrt(len(box.charges) * cutoff * float(box.edge) ** 3)
    return math.sqrt(math.log(scale / (REAL_SHARE * target * rms_force))) / cutoff


def even_smooth(least: float) -> int:
    """Smallest even integer >= least with the factors 2, 3 and 5.

    >>> even_smooth(31.2), even_smooth(14)
    (32, 16)
    """
    n = 2 * math.ceil(least / 2)
    while True:
        rest = n
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return n
        n += 2


def power_of_two(least: float) -> int:
    """Smallest power of two >= least."""
    return 1 << math.ceil(math.log2(least))
