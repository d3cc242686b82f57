"""kernels <- electrostatics <- hybrid, never back: read from the import statements themselves."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = {"kernels": {"electrostatics", "hybrid"}, "electrostatics": {"hybrid"}}


def imported(file: Path) -> set[str]:
    """Packages of grahame that a file imports, anywhere in it."""
    found: set[str] = set()
    parents = file.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                base = ("grahame", *parents)[: len(parents) + 2 - node.level]
                module = ".".join((*base, module)).rstrip(".")
            names = [f"{module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("grahame.")}
    return found


@pytest.mark.parametrize("folder", sorted(FORBIDDEN))
def test_no_module_imports_a_higher_layer(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    wrong = {str(f.relative_to(ROOT)): found for f in files if (found := imported(f) & FORBIDDEN[folder])}
    assert wrong == {}


def test_relative_and_nested_imports_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "kernels" / "low.py"
    file.parent.mkdir()
    file.write_text("def f():\n    from ..hybrid import cli\n    import grahame.electrostatics.units\n")
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    assert imported(file) == {"hybrid", "electrostatics"}
