"""What this machine has: cores and GPUs, and how workers share them."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from . import provenance


def local_slots(
    jobs: int, wanted: int | None = None, device: str = "auto", each: int = 1
) -> list[dict[str, str]]:
    """The workers' environments on this machine: `each` GPUs, or groups of cores; `wanted` sets
    their number.

    On a CPU a worker gets one thread where there are up to 4 cores, two up to 16, else four; more
    where jobs are few.
    """
    gpus = [] if device == "cpu" else visible_gpus()
    gpus = (
        [",".join(gpus[n : n + each]) for n in range(0, len(gpus) - each + 1, each)]
        or [",".join(gpus)]
        if gpus
        else []
    )
    if gpus:
        count = min(wanted or len(gpus), jobs) or 1
        return [
            {"CUDA_VISIBLE_DEVICES": gpus[n % len(gpus)]} | _threads(max(1, cores() // count))
            for n in range(count)
        ]
    threads = 1 if cores() <= 4 else 2 if cores() <= 16 else 4
    count = max(1, min(wanted or cores() // threads, jobs))
    return [_threads(max(1, cores() // count)) for _ in range(count)]


def facts(slot: dict[str, str]) -> dict[str, str | int | None]:
    """The machine's facts that speeds depend on, as the record of a job in
    this slot will hold them."""
    names = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    gpu = None
    # nvidia-smi is asked, because torch would allocate GPU memory in this process
    if "CUDA_VISIBLE_DEVICES" in slot:
        gpu = (
            subprocess.run(names, capture_output=True, text=True).stdout.partition("\n")[0] or None
        )
    known = provenance.hardware()
    return {key: known[key] for key in ("processor", "cores")} | {
        "threads": int(slot["OMP_NUM_THREADS"]),
        "gpu": gpu,
    }


def describe(slots: Sequence[dict[str, str]]) -> str:
    """The slots as a text for people."""
    threads = int(slots[0]["OMP_NUM_THREADS"])
    gpus = (
        len(slots[0].get("CUDA_VISIBLE_DEVICES", "").split(","))
        if "CUDA_VISIBLE_DEVICES" in slots[0]
        else 0
    )
    each = f"{gpus} GPU{'s' * (gpus > 1)}" if gpus else f"{threads} thread{'s' * (threads > 1)}"
    return f"this machine, {len(slots)} job{'s' * (len(slots) > 1)} at once with {each} each"


def _threads(count: int) -> dict[str, str]:
    return {f"{name}_NUM_THREADS": str(count) for name in ("OMP", "MKL", "OPENBLAS")}


def cores() -> int:
    """Processor cores this process may use: limited by CPU affinity and a container's quota."""
    count = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(count, int(quota) // int(period)))
    except (OSError, ValueError):
        return count


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may say: the GPUs torch can use here."""
    import torch

    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return listed.split(",")[:count] if listed else [str(n) for n in range(count)]
