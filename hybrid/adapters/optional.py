"""Packages that only one adapter needs: imported when that adapter is used, named when they are missing."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

_UNSAFE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def require(module: str, extra: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: dotted name; extra: of this package, that installs it.
    Raises:
        ImportError: when it is not installed, naming the extra.
    """
    before = os.environ.get(_UNSAFE)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
            raise
        raise ImportError(
            f"module = {module} must be installed for this adapter: pip install 'grahame[{extra}]'"
        ) from error
    finally:
        # MACE lets every later torch.load of the process run code from the file; only its own import needs it.
        if before is None:
            os.environ.pop(_UNSAFE, None)
        else:
            os.environ[_UNSAFE] = before
