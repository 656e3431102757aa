"""`detco logs` prints one job's log; `detco clean` deletes files that finished jobs
no longer need."""

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from detco.common.errors import InputError
from detco.common.values import printable
from detco.results import schema, store

from ..run.slurm import NUMBER
from .text import columns, near, size

# In the folder of a job that is done. A trained detector is no checkpoint: it goes with --models
# only. model_final.pth is that of runs before there was detector.safetensors.
CHECKPOINTS = (
    "checkpoint*.pt",
    "checkpoint*.tmp",
    "*.part",
    "*.safetensors.tmp",
    ".*.json.*",
    "detectron2/model_*.pth",
    "detectron2/last_checkpoint",
)
MODELS = ("detector.safetensors", "detectron2/model_final.pth")
SHOWN = 5  # jobs that a name may mean
WAIT = 0.5  # seconds between two looks at a log that is followed


def logs(args) -> int:
    """Print the log of one job, from its end with --lines; with --follow until the job is over."""
    folder = find(args.dir, args.job)
    path = folder / "log.txt"
    if not path.exists() and not (args.follow and store.is_taken(folder)):
        raise InputError(f"{near(folder)} has no log: the job has not begun yet")
    content = path.read_bytes() if path.exists() else b""
    lines = _escaped(content).splitlines(keepends=True)
    sys.stdout.write("".join(lines[-args.lines :] if args.lines else lines))
    if args.follow:
        _follow(path, folder, len(content))
    return 0


def _escaped(log: bytes) -> str:
    """Lines of a log with control characters shown as escapes. Progress
    bars end their lines with a carriage return."""
    text = log.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    return "\n".join(printable(line) for line in text.expandtabs().split("\n"))


def _follow(path: Path, folder: Path, position: int) -> None:
    with open(path, "rb") as log:
        log.seek(min(position, path.stat().st_size))
        while True:
            last = not store.is_taken(folder)
            sys.stdout.write(_escaped(log.read()))
            sys.stdout.flush()
            if last:
                return
            time.sleep(WAIT)


def find(directory: Path, name: str) -> Path:
    """The folder of the job that `name` means: its folder, the beginning of its id, or a part of
    its title. Raises InputError."""
    if not directory.is_dir():
        raise InputError(f"no folder {directory}")
    jobs = [(folder, store.read_spec(folder) or {}) for folder in store.job_folders(directory)]
    named = Path(name).absolute()
    for matches in (
        lambda folder, spec: (
            folder.absolute() in (named, (directory / name).absolute()) or folder.name == name
        ),
        lambda folder, spec: len(name) >= 4 and spec.get("id", "").startswith(name),
        lambda folder, spec: spec.get("title") == name,
        lambda folder, spec: all(word in spec.get("title", "") for word in name.split()),
    ):
        found = [(folder, spec) for folder, spec in jobs if matches(folder, spec)]
        if len(found) == 1:
            return found[0][0]
        if found:
            titles = ", ".join(
                repr(spec.get("title", folder.name)) for folder, spec in found[:SHOWN]
            )
            more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            raise InputError(
                f"{name!r} means {len(found)} jobs: {titles}{more}; say more of the title, or the"
                " folder"
            )
    raise InputError(
        f"no job {name!r} below {directory}; `detco status {directory}` lists those at work"
    )


def clean(args) -> int:
    """List what finished jobs no longer need, and sum it by kind of file; with --yes delete it."""
    if not args.dir.is_dir():
        raise InputError(f"no folder {args.dir}")
    found = list(leftovers(args.dir, args.models))
    total = sum(path.lstat().st_size for path, _ in found)
    if not found:
        print(f"nothing to delete in {near(args.dir)}")
        return 0
    counts: Counter = Counter()
    sizes: Counter = Counter()
    for path, what in found:
        counts[what] += 1
        sizes[what] += path.lstat().st_size
        print(near(path))
    columns(
        [
            (what, f"{count} file{'s' * (count > 1)}", size(sizes[what]))
            for what, count in counts.items()
        ],
        right=(1, 2),
    )
    if not args.yes:
        print(f"{size(total)} would be freed; to delete them: {args.again} --yes")
        return 0
    for path, _ in found:
        path.unlink(missing_ok=True)
    print(f"freed: {size(total)}")
    return 0


def leftovers(directory: Path, models: bool = False) -> Iterator[tuple[Path, str]]:
    """Files of jobs that are done and not at work, with what they are. No file outside of
    `directory` is listed, even where a job's links or files name one."""
    for folder in store.job_folders(directory):
        record = store.read_json(folder / "record.json") or {}
        if record.get("status") != "done" or store.is_taken(folder):
            continue
        finals = set(_files(folder, MODELS))
        for path in sorted(set(_files(folder, CHECKPOINTS)) - finals):
            yield path, f"checkpoints of {record.get('kind')} jobs"
        yield from ((path, "trained detectors") for path in sorted(finals) if models)
        yield from ((path, "files of Slurm jobs") for path in _of_slurm(folder, directory))


def _files(folder: Path, patterns: Iterable[str]) -> Iterator[Path]:
    """Files of a job's folder that no link leads to."""
    for path in (path for pattern in patterns for path in folder.glob(pattern)):
        here = folder.resolve() / path.relative_to(folder).parent
        if path.parent.resolve() == here and (path.is_file() or path.is_symlink()):
            yield path


def _of_slurm(folder: Path, directory: Path) -> list[Path]:
    """Submitit's files of a job, where they lie below `directory`."""
    queued = store.read_as(folder / NUMBER, schema.Queued)
    if queued is None or "\0" in queued["folder"]:
        return []
    where = Path(queued["folder"])
    if not Path(os.path.realpath(where)).is_relative_to(directory.resolve()):
        return []
    return sorted(_files(where, [f"{queued['number']}_*"]))
