"""What the numbers depend on, without names of hosts or places."""

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import numba
import numpy
import scipy
import torch


def machine() -> dict[str, Any]:
    """Processor, cores, memory, GPU, and the libraries that our sums use."""
    model = platform.processor() or platform.machine()
    description = Path("/proc/cpuinfo")
    if description.exists():
        names = [line for line in description.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    gpu = torch.cuda.is_available()
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_GB": round(pages / 2**30, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "numba": numba.__version__,
        "gpu": torch.cuda.get_device_name(0) if gpu else "none",
    }


_RESULTS = "examples/benchmarks/results_*"


def commit() -> str:
    """Of this repository, and whether files differ from it, results of benchmarks aside."""
    root = Path(__file__).resolve().parents[3]

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + (
            " with changes" if git("status", "--porcelain", "--", ".", f":(exclude){_RESULTS}") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def moment() -> dict[str, Any]:
    """The day, and how busy the machine is besides."""
    return {
        "day": time.strftime("%Y-%m-%d"),
        "load": round(os.getloadavg()[0], 2),
        "processor": machine()["processor"],
    }
