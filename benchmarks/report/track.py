"""`detco track`: curves, settings and results of finished runs in Weights & Biases or MLflow.

Both are told where and how by their own settings (WANDB_MODE, WANDB_PROJECT, `wandb login`;
MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME). A run is sent once to each place: `tracked.json`
beside its record holds the places. To add a tracker: a function as `_wandb` and its row in
TRACKERS.
"""

import importlib.util
import json
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detco.common.errors import InputError, one_line
from detco.common.values import flatten
from detco.results import store

from ..run.progress import METRICS, read_metrics

MARK = "tracked.json"
PROJECT = "detco"  # default name of the project, or experiment
SETTINGS = ("recipe", "protocol_row", "seed", "engine", "starting_point", "data", "launch")


@dataclass(frozen=True)
class Sent:
    """What a tracker is given of one run. curves: (iteration, figures), in order."""

    id: str
    title: str
    kind: str
    settings: dict[str, object]
    curves: Sequence[tuple[int, dict[str, float]]]
    metrics: dict[str, float]


@dataclass(frozen=True)
class Tracker:
    """A row of TRACKERS. module: what it imports; package: what pip installs; place(): where runs
    go, as the mark has it; send: sends one run, `folder` is for its own files."""

    module: str
    package: str
    place: Callable[[], str]
    send: Callable[[Sent, Path], None]


def main(args) -> int:
    """`detco track`: send what is finished below a folder; exit status 1 where sending failed."""
    if not args.dir.is_dir():
        raise InputError(f"no folder {args.dir}")
    refuse(args.to)
    return send(args.dir, args.to)


def refuse(name: str | None) -> None:
    """Raises InputError if the tracker that was asked for is not installed."""
    tracker = TRACKERS.get(name or "")
    if tracker and importlib.util.find_spec(tracker.module) is None:
        raise InputError(f"{name} is not installed: pip install {tracker.package}")


def send(out: Path, name: str, ids: set[str] | None = None) -> int:
    """Send the finished runs below a folder (ids: only these) that were not sent there before. The
    first that cannot be sent ends it: exit status 1 and a line that says how to go on."""
    from ..cli import outcomes

    tracker, count, before = TRACKERS[name], 0, 0
    records, problems = outcomes.read(out)
    try:
        folders, place = store.folders(out), tracker.place()
    except Exception as error:  # somebody else's package, or its settings
        raise InputError(f"{name} cannot be used: {one_line(error)}") from None
    for record in records:
        if record["status"] != "done" or record["kind"] not in ("pretrain", "transfer"):
            continue
        folder = folders[record["id"]]
        if ids is not None and record["id"] not in ids:
            continue
        marks = store.read_json(folder / MARK) or {}
        if place in marks:
            before += 1
            continue
        try:
            tracker.send(_sent(record, folder), out.absolute())
        except Exception as error:  # of the network, of somebody else's package
            again = f"detco track {out} --to {name}"
            print(f"detco: not sent to {name} ({one_line(error)}); again: {again}", file=sys.stderr)
            return 1
        store.write_json(folder / MARK, marks | {place: True})
        count += 1
    print(f"{name}: {count} runs sent to {place}" + (f", {before} before" if before else ""))
    outcomes.left_out(problems)
    return 0


def _sent(record: dict, folder: Path) -> Sent:
    spec, path = record["spec"], folder / METRICS
    curves = [
        (line["iteration"], _numbers(line, f"{line.get('stage', 'train')}/"))
        for line in (read_metrics(path) if path.is_file() else [])
    ]
    settings = flatten({key: spec[key] for key in SETTINGS if key in spec})
    metrics = _numbers(record.get("metrics", {}), "") | {"wall_seconds": record.get("wall_seconds")}
    return Sent(
        record["id"], spec["title"], record["kind"], settings, curves, _numbers(metrics, "")
    )


def _numbers(figures: dict, prefix: str) -> dict[str, float]:
    return {
        prefix + key: float(value)
        for key, value in figures.items()
        if isinstance(value, int | float) and math.isfinite(value) and key != "iteration"
    }


def _wandb_place() -> str:
    """With all that says where a run goes: offline and online are two places."""
    if os.environ.get("WANDB_MODE") == "disabled" or os.environ.get("WANDB_DISABLED") == "true":
        raise InputError("WANDB_MODE is disabled: nothing would be sent; offline keeps runs here")
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    named = "/".join(filter(None, (os.environ.get("WANDB_ENTITY"), project)))
    server, mode = os.environ.get("WANDB_BASE_URL"), os.environ.get("WANDB_MODE", "online")
    at = f" at {server}" if server else ""
    return f"wandb project {named}{at}" + (f" ({mode})" if mode != "online" else "")


def _wandb(sent: Sent, folder: Path) -> None:
    """The job's id is the run's: what is sent twice is one run."""
    import wandb

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        id=sent.id[:32],
        name=sent.title,
        group=sent.kind,
        config=sent.settings,
        dir=folder,
        resume="allow",
        settings=wandb.Settings(silent=True, console="off"),
    )
    for iteration, figures in sent.curves:
        run.log(figures, step=iteration)
    run.summary.update(sent.metrics)
    run.finish()


def _mlflow_place() -> str:
    import mlflow

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    return f"mlflow experiment {name} at {mlflow.get_tracking_uri()}"


def _mlflow(sent: Sent, folder: Path) -> None:
    import mlflow
    from mlflow.entities import Metric, Param

    client = mlflow.MlflowClient()
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else client.create_experiment(name)
    tags = {"detco.id": sent.id, "detco.kind": sent.kind}
    for part in client.search_runs([experiment], f"tags.`detco.id` = '{sent.id}'"):
        client.delete_run(part.info.run_id)  # of a time when not all of it could be sent
    run = client.create_run(experiment, tags=tags, run_name=sent.title).info.run_id
    last = sent.curves[-1][0] if sent.curves else 0
    points = [*sent.curves, (last, sent.metrics)]
    metrics = [
        Metric(_plain(key), value, 0, step) for step, row in points for key, value in row.items()
    ]
    params = [Param(_plain(key), json.dumps(value)) for key, value in sent.settings.items()]
    for first in range(0, len(params), 100):  # most of a batch, as for metrics below
        client.log_batch(run, params=params[first : first + 100])
    for first in range(0, len(metrics), 1000):
        client.log_batch(run, metrics=metrics[first : first + 1000])
    client.set_terminated(run)


def _plain(name: str) -> str:
    """A name as MLflow takes it: classes may have any. `box_ap/dog` becomes `box_ap.dog`, as its
    folders cannot be metrics, too."""
    return re.sub(r"[^\w\-. ]", "_", name.replace("/", "."))


TRACKERS = {
    "wandb": Tracker("wandb", "wandb", _wandb_place, _wandb),
    "mlflow": Tracker("mlflow", "mlflow-skinny sqlalchemy alembic", _mlflow_place, _mlflow),
}
