"""Measures the runner's overhead per job, with many jobs that only wait, and
the time of quick commands.

Run as a program, this module is the worker of those jobs.
"""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from detco.common.errors import InputError
from detco.common.progress import Report

from ..plan.jobs import Job
from ..run import distributed, local, worker

WORKER = (sys.executable, "-m", "detco.benchmarks.speed.runner")
SLOTS = 2


@dataclass(frozen=True)
class Measured:
    """Milliseconds that a job takes beyond its work, and seconds that the commands take on the
    folder of these jobs."""

    jobs: int
    seconds: float  # of work in a job
    reused: float  # ms
    fresh: float  # ms: a process for each job, as usual
    commands: dict[str, float]

    def __str__(self) -> str:
        lines = [
            (
                f"{self.jobs} jobs of {self.seconds:g} s in {SLOTS} slots; added to each job, on"
                " its slot:"
            ),
            f"  {'a process a job (it imports no torch)':40}{self.fresh:8.1f} ms",
            f"  {'workers reused':40}{self.reused:8.1f} ms",
            *(f"{name:42}{seconds:8.2f} s" for name, seconds in self.commands.items()),
        ]
        return "\n".join(lines)


def waiting(out: Path, count: int, seconds: float) -> list[Job]:
    """Independent jobs that wait."""
    jobs = []
    for number in range(count):
        name = f"wait-{number:04}"
        spec = {
            "format": 1,
            "id": name,
            "kind": "wait",
            "title": name,
            "needs": [],
            "seconds": seconds,
        }
        jobs.append(Job(name, "wait", name, out / name, spec))
    return jobs


def measure(count: int = 1000, seconds: float = 0.1, report: Report | None = None) -> Measured:
    """Run `count` jobs with reused workers, and a few with a process each; then `detco --help` and
    `detco status`.

    Raises InputError for counts or seconds out of range.
    """
    if count < 1 or seconds < 0:
        raise InputError(
            f"--jobs must be at least 1 and --seconds at least 0, they are {count} and {seconds:g}"
        )
    slots = [{"OMP_NUM_THREADS": "1"}] * SLOTS
    with TemporaryDirectory() as folder:
        out = Path(folder)

        def look(run: local.Run) -> None:
            if report:
                report("jobs", len(run.named("done")), count)

        began = time.perf_counter()
        local.run(waiting(out, count, seconds), slots, look, WORKER)
        reused = (time.perf_counter() - began) * SLOTS / count - seconds
        few = min(count, 10)
        began = time.perf_counter()
        for job in waiting(out / "fresh", few, seconds):
            local.run([job], slots[:1], lambda run: None, WORKER)
        fresh = (time.perf_counter() - began) / few - seconds
        commands = {f"detco {words}": _seconds(words, out) for words in ("--help", "status DIR")}
    return Measured(count, seconds, 1000 * reused, 1000 * fresh, commands)


def _seconds(words: str, out: Path) -> float:
    command = [
        sys.executable,
        "-m",
        "detco.benchmarks.cli.main",
        *(str(out) if word == "DIR" else word for word in words.split()),
    ]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=distributed.ROOT)
    return time.perf_counter() - began


def wait(spec: dict, folder: Path, report: Report) -> dict:
    time.sleep(spec["seconds"])
    return {}


if __name__ == "__main__":
    worker.KINDS["wait"] = wait
    sys.exit(worker.main())
