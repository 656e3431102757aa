"""Records of finished work, one JSON file a job folder: written atomically, read with
every doubt reported.

A job folder holds `spec.json` (the plan), `progress.json` (while it runs), `record.json` (how it
ended), `log.txt`.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from detco.common.files import write_atomic

from . import schema
from .schema import FORMAT


def write_json(path: Path, value: object) -> None:
    """Write strict JSON (no NaN), whole or not at all."""
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path | str) -> dict | None:
    """The object in a JSON file; None where the file is missing, truncated or holds no object."""
    try:
        if not os.path.isfile(path):  # never opens a pipe or device
            return None
        with open(path, "rb") as file:
            value = json.loads(file.read())
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_as(path: Path, *kinds: Any) -> dict | None:
    """The object in a JSON file; None also where it is not of those kinds (`schema`)."""
    value = read_json(path)
    return None if value is None or schema.misfit(value, *kinds) else value


def read_record(folder: Path) -> dict | None:
    """The record of a job's folder; None where it is missing or invalid."""
    record = read_json(folder / "record.json")
    return None if record is None or problem_of(record) else record


def read_spec(folder: Path) -> dict | None:
    """The plan of a job's folder; None where it is missing or has fields of other types."""
    return read_as(folder / "spec.json", schema.Planned, schema.Spec)


def read_progress(folder: Path) -> dict:
    """The last progress of a running job; {} where its fields are of other types."""
    return read_as(folder / "progress.json", schema.ProgressFields) or {}


def job_folders(directory: Path) -> Iterator[Path]:
    """Every folder below `directory` (itself included) that holds a job, in order of path."""
    return (Path(folder) for folder, _ in _jobs(directory))


def _jobs(directory: Path | str) -> Iterator[tuple[str, list[str]]]:
    """The same with the names of what lies in each."""
    for folder, subfolders, files in os.walk(directory):
        subfolders.sort()
        if "spec.json" in files or "record.json" in files:
            yield folder, files


def read(
    directory: Path, protocols: Mapping[tuple[str, int], str] | None = None
) -> tuple[list[dict], list[str]]:
    """All records below a folder, and one line (path: reason) for each that cannot be trusted and
    is left out.

    protocols: (name, version) -> hash, for records that claim a protocol without
    holding its settings."""
    records: list[dict] = []
    problems: list[str] = []
    seen: dict[str, str] = {}
    for folder, names in _jobs(directory):
        path = os.path.join(folder, "record.json")
        if "record.json" not in names:
            continue
        record = read_json(path)
        if record is None:
            problems.append(f"{path}: not a whole JSON object (truncated?)")
            continue
        problem = problem_of(record, protocols)
        if problem is None and record["id"] in seen:
            problem = f"a second record of run {record['id'][:8]}, also in {seen[record['id']]}"
        if problem:
            problems.append(f"{path}: {problem}")
        else:
            seen[record["id"]] = folder
            records.append(record)
    return records, problems


def folders(directory: Path) -> dict[str, Path]:
    """The job folder of each run, by the run's id."""
    found: dict[str, Path] = {}
    for folder in job_folders(directory):
        record = read_record(folder)
        if record:
            found.setdefault(record["id"], folder)
    return found


def problem_of(record: dict, protocols: Mapping[tuple[str, int], str] | None = None) -> str | None:
    """What is wrong with a record: its format, a missing or mistyped field, a metric outside
    0..100, a hash that does not fit. None: nothing."""
    form = record.get("format")
    if type(form) is not int or not 1 <= form <= FORMAT:
        return (
            f"record format {form!r}, this program reads {FORMAT}: update it"
            if form
            else "has no format number"
        )
    transfer = record.get("kind") == "transfer"
    kinds = (schema.Record, schema.Finished) if transfer else (schema.Record,)
    if problem := schema.misfit(record, *kinds):
        return problem
    return _misfit(record, protocols or {}) if transfer else None


def _misfit(record: dict, protocols: Mapping[tuple[str, int], str]) -> str | None:
    """Whether a transfer's parts contradict one another: its plan, its claims, its metrics."""
    if problem := _evaluations((record.get("facts") or {}).get("evaluations") or ()):
        return problem
    if record["status"] == "done" and not record["metrics"] and not record.get("undefined"):
        return "is done, but has no metrics"
    return _other_protocol(record, record["spec"].get("protocol_row"), protocols)


def _evaluations(found: Sequence) -> str | None:
    """An error in the order of evaluations during training (iterations must increase), or None."""
    before = 0
    for number, one in enumerate(found):
        if one["iteration"] <= before:
            return (
                f"facts.evaluations[{number}] is of iteration {one['iteration']},"
                f" not after {before}"
            )
        before = one["iteration"]
    return None


def _other_protocol(
    record: dict, row: dict | None, protocols: Mapping[tuple[str, int], str]
) -> str | None:
    """Whether the protocol that ran is another than the one that is claimed. The hash is
    that of `detco.transfer.protocols`."""
    claimed, hashed = (record["protocol"], record["protocol_version"]), record["protocol_hash"]
    known = fits = protocols.get(claimed, hashed)
    if isinstance(row, dict):
        if (row.get("name"), row.get("version")) != claimed:
            return (
                f"claims protocol {claimed[0]} v{claimed[1]}, but {row.get('name')}"
                f" v{row.get('version')} ran"
            )
        fits = hashed if row == _hashed.get(hashed) else _hash(row)
    if hashed != fits:
        return f"claims protocol hash {hashed}; that of {claimed[0]} v{claimed[1]} is {fits}"
    silent = record["status"] == "done" and record["scaling"] == "1" and not record["deviations"]
    return (
        f"ran with other settings than {claimed[0]} v{claimed[1]}, and says so nowhere"
        if silent and hashed != known
        else None
    )


_hashed: dict[str, dict] = {}  # by its hash, the settings of a protocol seen last


def _hash(row: dict) -> str:
    made = hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:16]
    _hashed[made] = row
    return made


def unfinished(directory: Path) -> list[dict]:
    """The specs of jobs below a folder that were planned and have no record yet;
    incomplete specs are left out."""
    folders = (Path(job) for job, names in _jobs(directory) if "record.json" not in names)
    specs = filter(None, map(read_spec, folders))
    return [
        spec
        for spec in specs
        if spec.get("kind") != "transfer" or not schema.misfit(spec, schema.Transfer)
    ]


def take(folder: Path) -> int | None:
    """Lock a job folder; None if another process has it.

    The lock is the descriptor's, in every process that inherited it: a killed runner or worker
    never leaves one behind.
    """
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    for _ in range(5):  # `is_taken` of another process holds it for a moment
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        time.sleep(0.02)
    os.close(descriptor)
    return None


def release(lock: int) -> None:
    """Release a lock, also for processes that inherited it and are still running."""
    fcntl.flock(lock, fcntl.LOCK_UN)
    os.close(lock)


def outcome(folder: Path, identity: str, since: float) -> dict | None:
    """The record of this very run, if it is done, or failed after the time `since`: earlier
    failures are to be retried."""
    record = read_record(folder)
    if record is None or record["id"] != identity:
        return None
    return record if record["status"] == "done" or record.get("ended", 0.0) >= since else None


def done(directory: Path) -> dict[str, Path]:
    """The folder of every job done below `directory`, by the job's id."""
    records = ((folder, read_record(folder)) for folder in job_folders(directory))
    return {
        record["id"]: folder.absolute()
        for folder, record in records
        if record and record["status"] == "done"
    }


def is_taken(folder: Path) -> bool:
    """Whether some process works in a job folder at this moment."""
    if not (folder / ".lock").exists():
        return False
    # read-only and shared: works without the right to write and blocks no other reader
    descriptor = os.open(folder / ".lock", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def status(directory: Path) -> list[dict]:
    """One dict a job: folder, id, kind, title, state, stage, done, total, speed (steps a second,
    None: not known yet), figures, error, seconds (so far, or in all); trained ([iterations done,
    iterations in all]) while it evaluates during training.

    state: planned, running, interrupted, failed or done.
    """
    return [_status(folder) for folder in job_folders(directory)]


def _status(folder: Path) -> dict:
    spec, record, progress = read_spec(folder), read_record(folder), read_progress(folder)
    spec = spec or (record or {}).get("spec") or {}
    row = {
        "folder": str(folder),
        "id": spec.get("id", ""),
        "kind": spec.get("kind", "?"),
        "error": None,
        "seconds": None,
    }
    row |= {
        "title": spec.get("title", folder.name),
        "stage": "",
        "done": 0,
        "total": 0,
        "speed": None,
        "figures": {},
    }
    if is_taken(folder):
        row |= {
            k: progress[k]
            for k in ("stage", "done", "total", "speed", "figures", "trained")
            if k in progress
        }
        return row | {
            "state": "running",
            "seconds": time.time() - progress.get("started", time.time()),
        }
    if record is not None:
        row |= {"error": record.get("error"), "seconds": record.get("wall_seconds")}
        return row | {"state": record["status"]}
    if (folder / "record.json").exists():
        return row | {"state": "failed", "error": "its record cannot be read"}
    return row | {
        "state": "interrupted" if progress else "planned",
        "stage": progress.get("stage", ""),
    }
