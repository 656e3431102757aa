"""One job in one process: `python -m detco.benchmarks.run.worker SPEC.json` runs it and
writes a record beside it."""

import json
import logging
import math
import os
import signal
import sys
import threading
import time
import traceback
from datetime import datetime, timezone
from pathlib import Path

from detco.common.errors import InputError, one_line
from detco.common.progress import Report, silent
from detco.results import store

from .. import config
from . import distributed
from .progress import Curves, Metrics, Progress, Warnings
from .provenance import code_version, hardware, versions


def run_scenes(spec: dict, folder: Path, report: Report) -> dict:
    """Draws the labelled data set into the job's folder."""
    from ..scenes import draw as scenes

    scenes.draw(folder, **spec["settings"], report=report)
    return {}


def run_pretrain(spec: dict, folder: Path, report: Report) -> dict:
    """Makes the job's backbone file; resumes from its checkpoint."""
    from detco.common import backbone_file
    from detco.pretrain import journal, recipes, train

    recipe = config.build(recipes.Recipe, spec["recipe"], "recipe")
    with distributed.joined(folder / "spec.json", spec.get("launch", {})):
        train.pretrain(
            recipe,
            Path(spec["images"]),
            folder,
            spec["seed"],
            spec["device"],
            report,
            spec.get("probe"),
        )
    metadata = backbone_file.read_metadata(folder / "backbone.safetensors")
    facts: dict = {}
    if "classes" in metadata:
        facts["classes"] = json.loads(metadata["classes"])
    if spec.get("probe"):
        facts["knn_percent"] = journal.probed(folder)
    return {"facts": facts} if facts else {}


def run_transfer(spec: dict, folder: Path, report: Report) -> dict:
    """Fine-tunes and tests one detector; gives metrics, deviations and hashes."""
    from detco.transfer import engines, finetune, protocols

    protocol = config.build(
        protocols.Protocol, protocols.from_record(spec["protocol_row"]), "protocol"
    )
    weights = spec["weights"]
    if weights == "random":  # of which architecture, its identity says
        weights = spec.get("weights_identity", weights)
    launch = config.build(engines.Launch, distributed.launch_here(spec.get("launch", {})), "launch")
    helps = spec["kind"] == "machine"  # a further machine: only the first one reports
    curves = Curves(folder / "tb", report)
    joint = protocol.architecture in engines.ENGINES[spec["engine"]].joint
    try:
        with distributed.joined(folder / "spec.json", spec["launch"] if joint else {}):
            return finetune.finetune(
                protocol,
                weights,
                spec["data"],
                engine=spec["engine"],
                seed=spec["seed"],
                out=folder.parent if helps else folder,
                device=spec["device"],
                report=curves,
                launch=launch,
                keep_model=spec.get("keep_model", ""),
            )
    finally:
        curves.close()


KINDS = {
    "scenes": run_scenes,
    "pretrain": run_pretrain,
    "transfer": run_transfer,
    "machine": run_transfer,
}


def run_job(spec: dict, folder: Path, report: Report) -> dict:
    """Do one job and return its record; an exception becomes a failed record with
    a one-line error."""
    began, started = time.time(), datetime.now(timezone.utc).isoformat(timespec="seconds")
    warnings = Warnings()
    logging.getLogger("detco").addHandler(warnings)
    try:
        work = KINDS[spec["kind"]]
        outcome, error, kind = work(spec, folder, Metrics(folder, report)), None, None
    except Exception as problem:
        traceback.print_exc()
        outcome, error, kind = (
            {},
            one_line(problem),
            "input" if isinstance(problem, InputError) else "work",
        )
    finally:
        # the next job in this process has its own
        logging.getLogger("detco").removeHandler(warnings)
    record = record_of(spec, outcome, error, kind)
    seconds = round(time.time() - began, 3)
    return record | {
        "warnings": warnings.texts,
        "started": started,
        "wall_seconds": seconds,
        "ended": time.time(),
    }


def record_of(
    spec: dict, outcome: dict, error: str | None = None, error_kind: str | None = None
) -> dict:
    """The record of a finished job. Metrics undefined on its data (no small object, ...) are named
    and left out."""
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
        "format": store.FORMAT,
        "id": spec["id"],
        "kind": spec["kind"],
        "status": "failed" if error else "done",
        "spec": spec,
        **{key: spec[key] for key in identity if key in spec},
        **{key: outcome[key] for key in ("engine", "scaling") if key in outcome},
        "weights": outcome.get("weights"),
        "data": spec.get("data", {}) | outcome.get("data", {}),
        "metrics": {name: value for name, value in metrics.items() if math.isfinite(value)},
        "undefined": sorted(name for name, value in metrics.items() if not math.isfinite(value)),
        "facts": outcome.get("facts", {}),
        "deviations": list(outcome.get("deviations", ())),
        "error": error,
        "error_kind": error_kind,
        "versions": versions() | outcome.get("versions", {}),
        "hardware": hardware(),
        "code": code_version(),
    }


def die_with(parent: int) -> None:
    """End this process and its children within a second of the runner's end,
    even if that was killed."""

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os.killpg(0, signal.SIGKILL) if os.getpgrp() == os.getpid() else os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def serve() -> int:
    """Do jobs as a runner asks for them, in this one process: importing torch takes longer than a
    small job.

    Each line on standard input, {"folder", "id", "began"} as JSON, is answered by a line on
    standard output: that of `do`. Ends with its input, or after a failed job, so that its leftovers
    cannot affect the next job.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # standard output carries answers only, so prints go to standard error
    for line in sys.stdin:
        order = json.loads(line)
        answer = do(Path(order["folder"]), order["id"], order["began"], log=True)
        print(json.dumps(answer), file=answers)
        if answer not in ("done", "taken"):
            break
    return 0


def do(folder: Path, identity: str, began: float, log: bool = False) -> str:
    """Do the job planned in a folder and leave its record; one that is done, or failed since
    `began`, is not done again.

    Returns "done", "failed" (the record says why), "taken" (another process is at work there), or
    why there is no record.
    log: what is printed goes to the folder's log.txt.
    """
    try:
        lock = store.take(folder)
        if lock is None:
            return "taken"
        try:
            record = store.outcome(folder, identity, began) or _do(folder, identity, log)
        finally:
            store.release(lock)
    except OSError as error:  # no space, no rights
        return f"cannot work in {folder}: {error.strerror or error}"
    return record["status"] if record else f"{folder / 'spec.json'} is not the plan of this job"


def _do(folder: Path, identity: str, log: bool) -> dict | None:
    spec = store.read_json(folder / "spec.json")
    if spec is None or spec.get("id") != identity:
        return None
    for name in ("record.json", "progress.json"):
        (folder / name).unlink(missing_ok=True)
    if log:
        _log_to(folder)
    progress = Progress(folder)
    record = run_job(spec, folder, progress) | {"stages": progress.stages}
    store.write_json(folder / "record.json", record)
    (folder / "progress.json").unlink(missing_ok=True)
    sys.stdout.flush()
    return record


def help_with(spec: dict, folder: Path) -> int:
    """Take part in a job as one of its processes, in silence: the first one reports and
    keeps the record."""
    if (store.outcome(folder, spec["id"], time.time()) or {}).get("status") != "done":
        KINDS[spec["kind"]](spec, folder, silent)
    return 0


def _log_to(folder: Path) -> None:
    """From here on whatever this process prints, C libraries included, goes to the job's log."""
    with open(folder / "log.txt", "ab") as log:
        log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {command(folder)}\n".encode())
        log.flush()
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


def command(folder: Path) -> str:
    """What a person types to repeat one job by itself."""
    return f"python -m detco.benchmarks.run.worker {folder / 'spec.json'}"


def main(argv: list[str] | None = None) -> int:
    """Without arguments: serve a runner. Else do the job of the spec file named; exit status 0:
    done, 1: not."""
    arguments = sys.argv[1:] if argv is None else argv
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    if parent := os.environ.get("DETCO_RUNNER"):
        die_with(int(parent))
    if not arguments:
        return serve()
    path = Path(arguments[0]).absolute()
    spec = store.read_json(path)
    if spec is None:
        raise SystemExit(f"{path} is not a job's spec")
    if distributed.HELPER in os.environ:
        return help_with(spec, path.parent)
    answer = do(path.parent, spec["id"], time.time())
    if answer == "taken":
        raise SystemExit(f"another process is at work in {path.parent}")
    if answer != "done":
        print(
            (store.read_json(path.parent / "record.json") or {}).get("error") or answer,
            file=sys.stderr,
        )
    return 0 if answer == "done" else 1


if __name__ == "__main__":
    sys.exit(main())
