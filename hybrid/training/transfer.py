"""Groups of weights that training holds fixed for some time.

embedding     what tells elements apart: `centre` and element embeddings of the network
interactions  from neighbours to densities and products
readout       from invariants to energies and charges; two parts of it can be named alone:
features      from invariants to the features that all heads share
charges       from features to charges, site constants, widths and dipoles, and the network of their own where they have one
"""

from __future__ import annotations

from torch import nn

from grahame.hybrid.training.config import TransferConfig

__all__ = ["freeze", "groups_of"]

_CHARGES = ("charge_head", "sites", "widths", "dipoles")


def groups_of(name: str) -> set[str]:
    """The groups of a parameter, by its name in the model."""
    parts = name.split(".")
    if parts[0] in ("network", "charge_network"):
        owner = {"charges"} if parts[0] == "charge_network" else set()
        if "centre" in parts or "element" in parts:
            return owner | {"embedding"}
        if parts[1] in ("interactions", "senders"):
            return owner | {"interactions"}
        return owner | {"readout", "features"}
    return {"readout", "charges"} if parts[0] in _CHARGES else {"readout"}


def freeze(model: nn.Module, transfer: TransferConfig | None, fixed: set[str], epoch: int) -> None:
    """Set which parameters train in an epoch (counted from 0).

    Args:
        model: whose parameters are set.
        transfer: which groups are frozen, and from which epoch on no more.
        fixed: names of parameters that never train.
        epoch: the coming one.
    Raises:
        ValueError: when nothing is left to train.
    """
    frozen = set()
    if transfer is not None:
        frozen = {g for g in transfer.freeze if epoch < transfer.unfreeze.get(g, epoch + 1)}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in fixed and not groups_of(name) & frozen)
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(
            f"transfer.freeze = {sorted(frozen)} must leave something to train: remove a group or unfreeze it later"
        )
