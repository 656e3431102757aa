"""A record's provenance: library versions, hardware, the commit of the code."""

import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

import detco

LIBRARIES = (
    "torch",
    "torchvision",
    "numpy",
    "pycocotools",
    "pandas",
    "pillow",
    "fvcore",
    "detectron2",
    "timm",
    "scikit-learn",
)


@cache
def versions() -> dict[str, str]:
    """Installed versions of what a result depends on, as this process found them first."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, str | int]:
    """Host, processor, cores, threads and the GPU, where torch is in use and sees one."""
    facts = {"host": socket.gethostname(), "processor": _processor(), "cores": os.cpu_count() or 1}
    facts["threads"] = int(os.environ.get("OMP_NUM_THREADS", facts["cores"]))
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        facts["gpu"], facts["cuda"] = torch.cuda.get_device_name(), torch.version.cuda
    return facts


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@cache
def code_version() -> str:
    """The commit of this checkout (`-changed` with uncommitted edits) when this process asked
    first, or the installed version."""
    root = Path(detco.__file__).resolve().parents[1]
    if (root / ".git").exists():
        try:
            git = ["git", "-C", str(root)]
            commit = subprocess.run(
                [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
            ).stdout.strip()
            changes = subprocess.run(
                [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
            ).stdout
            return commit + ("-changed" if changes.strip() else "")
        except (OSError, subprocess.CalledProcessError):
            pass
    return own_version()


def own_version() -> str:
    """Version of this package, where it is installed."""
    try:
        return importlib.metadata.version("detco")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
