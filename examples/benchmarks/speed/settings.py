"""Found settings, kept in the results folder so that a second run does not search again.

Keys hold the version of the engine (of ours a digest of the sources), so that a setting's error stays what it was; it
is measured again in every run all the same.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from examples.benchmarks.speed.turns import ROOT


class Settings:
    """A file of settings by key."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, key: str) -> Any | None:
        """What was put there, None if nothing was."""
        return self._held.get(key)

    def put(self, key: str, value: Any) -> None:
        """Keep a value under a key."""
        self._held[key] = value
        self._path.write_text(json.dumps(self._held, indent=1) + "\n")


def our_sources() -> str:
    """Digest of our sums' sources: what they need to meet a target may change with them."""
    found = hashlib.sha256()
    for folder in ("kernels", "electrostatics"):
        for path in sorted((ROOT / folder).glob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()[:12]
