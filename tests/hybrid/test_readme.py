"""What the README shows is what runs."""

import re
import shlex
from pathlib import Path

import pytest

from grahame.hybrid.config import load_config

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_python_of_the_readme_runs(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[number]
    exec(compile(code, f"README.md, block {number}", "exec"), {})
    assert capsys.readouterr().out


def test_the_main_job_of_the_readme_is_a_configuration_that_loads() -> None:
    main_job = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)[0]
    name = shlex.split(main_job)[-1]
    config = load_config(ROOT / name)
    assert config.output.name + ".png" in README


def test_ci_installs_and_tests_with_the_commands_of_the_readme() -> None:
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    install, test = blocks[1].strip().split(" && ")
    steps = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert install.replace("pip install", "pip install --quiet") in steps
    assert test in steps
