"""Where the outside numbers lie: tests that need them skip with the reason when they are absent."""

import os
from pathlib import Path

import pytest

_candidate = Path(os.environ.get("GRAHAME_SHARED", Path(__file__).resolve().parents[2] / "shared"))
SHARED: Path | None = _candidate if (_candidate / "reference").is_dir() else None

needs_shared = pytest.mark.skipif(
    SHARED is None,
    reason="the outside reference numbers are absent: set GRAHAME_SHARED to the folder that holds `reference`",
)
