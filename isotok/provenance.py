"""Where a number comes from: code, package versions, hardware."""

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import isotok

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "accelerate",
    "deepspeed",
    "lm_eval",
    "numpy",
    "pyarrow",
    "numba",
    "hydra-core",
)


@functools.cache
def provenance() -> dict[str, Any]:
    """isotok's version and git commit, the versions of what it stands on, and the machine. No dates, no host names."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "isotok": isotok.__version__,
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
        "python": platform.python_version(),
        "packages": versions,
        "machine": {
            "system": platform.system(),
            "arch": platform.machine(),
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
        },
    }


def _git(*args: str) -> str:
    root = Path(isotok.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return ""
    try:
        done = subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()
