"""The Thomas-Fermi term of electrode atoms: metals whose electrons screen over a length instead of at once.

    energy = 1/2 (4 pi k l²/v) q² for each atom

l is the screening length and v the volume that an atom has in the metal; l = 0 is a perfect metal.

Source: Scalfi, Dufils, Reeves, Rotenberg and Salanne, J. Chem. Phys. 153, 174704 (2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grahame.electrostatics.coulomb import Coulomb
from grahame.electrostatics.electrodes import Electrode, expand

__all__ = ["Screening"]


@dataclass(frozen=True)
class Screening:
    """The Thomas-Fermi term of electrode atoms: length l (s,) in Å and volume v (s,) in Å³; None where there is none."""

    length: Tensor
    volume: Tensor | None
    coulomb_constant: float

    @staticmethod
    def of(
        electrodes: Sequence[Electrode], coulomb: Coulomb, length: Any, volume: Any, home: torch.device
    ) -> Screening:
        """From what the user gave, checked."""
        l = expand("thomas_fermi_length", length, electrodes, "Å", home)
        if bool((l.detach() < 0).any()):
            raise ValueError(
                f"thomas_fermi_length = {float(l.min()):g} Å must not be negative: use 0 for a perfect metal"
            )
        if not bool((l.detach() > 0).any()):
            return Screening(l, None, coulomb.coulomb_constant)
        if volume is None:
            raise ValueError(
                "voronoi_volume = None must be given with a thomas_fermi_length: it is the volume per electrode atom in Å³"
            )
        v = expand("voronoi_volume", volume, electrodes, "Å³", home)
        if bool((v.detach() <= 0).any()):
            raise ValueError(
                f"voronoi_volume = {float(v.min()):g} Å³ must be greater than zero: it is a volume per atom"
            )
        return Screening(l, v, coulomb.coulomb_constant)

    def hardness(self) -> Tensor:
        """(s,) 4 pi k l²/v, V/e."""
        if self.volume is None:
            return torch.zeros_like(self.length)
        return 4 * math.pi * self.coulomb_constant * self.length**2 / self.volume
