"""One job in one process: `python -m benchmarks.worker SPEC.json` does what it says and leaves a record beside it."""

import importlib.metadata
import logging
import math
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pretrain
import results
import transfer
from results import store

from . import InputError, settings

Report = Callable[..., None]
LIBRARIES = ("torch", "torchvision", "numpy", "pycocotools", "pandas", "pillow", "fvcore", "detectron2")
INPUT_ERRORS = (InputError, pretrain.InputError, transfer.InputError, results.InputError)  # the user's to mend


def run_scenes(spec: dict, folder: Path, report: Report) -> dict:
    """Draws the labelled data set into the job's folder."""
    from . import scenes

    scenes.draw(folder, **spec["settings"], report=report)
    return {}


def run_pretrain(spec: dict, folder: Path, report: Report) -> dict:
    """Makes the job's backbone file; goes on from its checkpoint."""
    from pretrain import recipes, train

    recipe = settings.build(recipes.Recipe, spec["recipe"], "recipe")
    train.pretrain(recipe, Path(spec["images"]), folder, spec["seed"], spec["device"], report)
    return {}


def run_transfer(spec: dict, folder: Path, report: Report) -> dict:
    """Fine-tunes and tests one detector; gives metrics, deviations and hashes."""
    from transfer import finetune, protocols

    protocol = settings.build(protocols.Protocol, spec["protocol_row"], "protocol")
    weights = spec["weights"] if spec["weights"] == "random" else Path(spec["weights"])
    data = {key: spec["data"][key] for key in ("layout", "root", "train", "test")}
    return finetune.finetune(
        protocol,
        weights,
        data,
        engine=spec["engine"],
        seed=spec["seed"],
        out=folder,
        device=spec["device"],
        report=report,
    )


KINDS = {"scenes": run_scenes, "pretrain": run_pretrain, "transfer": run_transfer}


class Progress:
    """A job's `report`: writes `progress.json`, at most twice a second but at every change of stage."""

    def __init__(self, folder: Path):
        self.path, self.written, self.stage, self.passed = folder / "progress.json", 0.0, "", 0
        self.state = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
        self("starting", 0, 0)

    def __call__(self, stage: str, done: int, total: int, **figures: float | str) -> None:
        now = time.time()
        if stage != self.stage:
            self.stage, self.stage_began, self.stage_from = stage, now, done
        elif now - self.written < 0.5 and done != total:
            return
        self.written = now
        seconds = now - self.stage_began
        speed = (done - self.stage_from) / seconds if seconds > 0.5 else None
        state = {"time": now, "stage": stage, "done": done, "total": total, "speed": speed, "figures": _plain(figures)}
        try:
            store.write_json(self.path, self.state | state)
        except OSError as error:  # a full disk: the work itself will say so where it matters
            print(f"progress not written: {error}", file=sys.stderr)


def _plain(figures: dict) -> dict:
    """Figures as JSON: numbers that are not finite become texts."""
    plain = {}
    for key, value in figures.items():
        number = value if isinstance(value, str) else float(value)
        plain[key] = number if isinstance(number, str) or math.isfinite(number) else str(number)
    return plain


class Warnings(logging.Handler):
    """Keeps what the packages warn of (pictures left out, ...) for the record."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def run_job(spec: dict, folder: Path, report: Report) -> dict:
    """Do one job and return its record; whatever the job raises becomes a failed record with a one-line error."""
    began, started = time.time(), datetime.now(timezone.utc).isoformat(timespec="seconds")
    warnings = Warnings()
    logging.getLogger("detco").addHandler(warnings)
    try:
        outcome, error, kind = KINDS[spec["kind"]](spec, folder, report), None, None
    except Exception as problem:
        traceback.print_exc()
        outcome, error, kind = {}, _one_line(problem), "input" if isinstance(problem, INPUT_ERRORS) else "work"
    record = record_of(spec, outcome, error, kind)
    seconds = round(time.time() - began, 3)
    return record | {"warnings": warnings.texts, "started": started, "wall_seconds": seconds}


def record_of(spec: dict, outcome: dict, error: str | None = None, error_kind: str | None = None) -> dict:
    """The record of a finished job. Metrics undefined on its data (no small object, ...) are named and left out."""
    metrics = outcome.get("metrics", {})
    identity = (
        "starting_point",
        "protocol",
        "protocol_version",
        "protocol_hash",
        "scorer",
        "engine",
        "scaling",
        "seed",
    )
    return {
        "format": store.FORMAT, "id": spec["id"], "kind": spec["kind"], "status": "failed" if error else "done",
        "spec": spec,
        **{key: spec[key] for key in identity if key in spec},
        **{key: outcome[key] for key in ("engine", "scaling") if key in outcome},
        "weights": outcome.get("weights"), "data": spec.get("data", {}) | outcome.get("data", {}),
        "metrics": {name: value for name, value in metrics.items() if math.isfinite(value)},
        "undefined": sorted(name for name, value in metrics.items() if not math.isfinite(value)),
        "facts": outcome.get("facts", {}), "deviations": list(outcome.get("deviations", ())),
        "error": error, "error_kind": error_kind,
        "versions": versions() | outcome.get("versions", {}), "hardware": hardware(), "code": code_version(),
    }  # fmt: skip


def _one_line(problem: BaseException) -> str:
    text = " ".join(str(problem).split()) or "no message"
    return text if isinstance(problem, INPUT_ERRORS) else f"{type(problem).__name__}: {text}"


def versions() -> dict[str, str]:
    """Installed versions of what a result depends on."""
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


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def code_version() -> str:
    """The commit of this checkout (`-changed` with uncommitted edits), or the installed version."""
    root = Path(__file__).resolve().parents[1]
    if (root / ".git").exists():
        try:
            git = ["git", "-C", str(root)]
            commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
            changes = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True).stdout
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


def die_with(parent: int) -> None:
    """End this process and its children within a second of the runner's end, however that came."""

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os.killpg(0, signal.SIGKILL) if os.getpgrp() == os.getpid() else os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(argv: list[str] | None = None) -> int:
    """Run the spec file named on the command line; exit status 0 when it is done, 1 when it failed."""
    path = Path((argv or sys.argv[1:])[0]).absolute()
    if parent := os.environ.get("DETCO_RUNNER"):
        die_with(int(parent))
    elif store.take(path.parent) is None:  # a runner hands its lock down
        raise SystemExit(f"another process is at work in {path.parent}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    spec = store.read_json(path)
    if spec is None:
        raise SystemExit(f"{path} is not a job's spec")
    record = run_job(spec, path.parent, Progress(path.parent))
    store.write_json(path.parent / "record.json", record)
    (path.parent / "progress.json").unlink(missing_ok=True)
    return 0 if record["status"] == "done" else 1


if __name__ == "__main__":
    sys.exit(main())
