"""Models trained elsewhere as the short range: MACE, NequIP and Allegro, metatomic, any ASE calculator.

    trunk = MACETrunk.load("water.model", allow_pickle=True)
    short_range = ForeignShortRange(trunk, FixedCharges.formal(), contains_coulomb=False)
    atoms.calc = HybridCalculator(short_range, Coulomb("slab"), electrodes)

A trunk gives an energy and, where the model shows them, features and charges. Charges beside it are fixed
(`FixedCharges`), the model's own (`ModelCharges`), or our heads trained on its features (`FeatureHeads` in a
`ForeignModel`). Whoever uses a model must say whether its energy holds Coulomb energy already; see `counting`.
Each program is an optional extra, imported when its trunk is used.
"""

from typing import TYPE_CHECKING

from grahame.hybrid.lazy import lazy

if TYPE_CHECKING:
    from grahame.hybrid.adapters.ase_calculator import ASETrunk
    from grahame.hybrid.adapters.charges import FixedCharges, ModelCharges, NoCharges
    from grahame.hybrid.adapters.counting import LabelEnsemble, Switched
    from grahame.hybrid.adapters.export import export_metatomic
    from grahame.hybrid.adapters.feature_heads import FeatureHeads
    from grahame.hybrid.adapters.foreign import ForeignShortRange
    from grahame.hybrid.adapters.foreign_model import ForeignModel, ForeignPrediction
    from grahame.hybrid.adapters.heads_file import load_heads, save_heads
    from grahame.hybrid.adapters.mace import MACETrunk
    from grahame.hybrid.adapters.metatomic import MetatomicTrunk
    from grahame.hybrid.adapters.nequip import NequIPTrunk
    from grahame.hybrid.adapters.residual import Residual, residual_labels
    from grahame.hybrid.adapters.trunk import Trunk, TrunkOutput

_HOMES = {
    "ASETrunk": "ase_calculator",
    "FeatureHeads": "feature_heads",
    "FixedCharges": "charges",
    "ForeignModel": "foreign_model",
    "ForeignPrediction": "foreign_model",
    "ForeignShortRange": "foreign",
    "LabelEnsemble": "counting",
    "MACETrunk": "mace",
    "MetatomicTrunk": "metatomic",
    "ModelCharges": "charges",
    "NequIPTrunk": "nequip",
    "NoCharges": "charges",
    "Residual": "residual",
    "Switched": "counting",
    "Trunk": "trunk",
    "TrunkOutput": "trunk",
    "export_metatomic": "export",
    "load_heads": "heads_file",
    "residual_labels": "residual",
    "save_heads": "heads_file",
}

__all__ = [
    "ASETrunk",
    "FeatureHeads",
    "FixedCharges",
    "ForeignModel",
    "ForeignPrediction",
    "ForeignShortRange",
    "LabelEnsemble",
    "MACETrunk",
    "MetatomicTrunk",
    "ModelCharges",
    "NequIPTrunk",
    "NoCharges",
    "Residual",
    "Switched",
    "Trunk",
    "TrunkOutput",
    "export_metatomic",
    "load_heads",
    "residual_labels",
    "save_heads",
]


__getattr__ = lazy(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
