"""The `detco` command: calls the packages, turns bad input into one line and exit status 2."""

import dataclasses
import os
import shlex
import sys
import time
from pathlib import Path

from detco.common.errors import InputError
from detco.results import store

from .. import config
from ..run.provenance import own_version
from . import commands


def main(argv: list[str] | None = None) -> int:
    """Run a command and return the exit status: 0, 1 (work failed), 2 (bad input), 130
    (interrupted)."""
    argv = sys.argv[1:] if argv is None else argv
    os.environ.setdefault(
        "THP_MEM_ALLOC_ENABLE", "1"
    )  # torch: large tensors in huge pages, far fewer page faults
    args = commands.parser(own_version()).parse_args(argv)
    args.again = shlex.join(["detco", *argv])
    args.json = getattr(args, "json", False)
    try:
        return CALLS[args.command](args)
    except InputError as error:
        print(f"detco: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("detco: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `detco ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a file in the place of a folder, no rights, a full disk
        print(f"detco: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 2


# --- commands: each imports what it needs --------------------------------------------------------


def doctor(args) -> int:
    from . import doctor

    return doctor.main(args.json)


def pretrain(args) -> int:
    from detco.pretrain.recipes import RECIPES

    from ..plan import jobs, suite_plan
    from ..suites.builtin import StartingPoint
    from . import run

    changes = config.parse_assignments(args.changes)
    start = StartingPoint(args.recipe, recipe=args.recipe, settings=changes, seed=args.seed)
    supervised = config.find(RECIPES, args.recipe, "recipe").traits.needs_labels
    images, out = suite_plan.folder_of_images(args.images, supervised), args.out.absolute()
    job = jobs.pretrain_job(start, {}, images, out, jobs.Place(out, device=args.device))
    suite_plan.refuse_other_run(job)
    if args.probe:
        job = dataclasses.replace(job, spec=job.spec | {"probe": str(args.probe.absolute())})
    if int(
        os.environ.get("RANK", "0")
    ):  # of torchrun; its first process keeps the record and shows the progress
        return _help(job)
    _say_assumed(job.spec["recipe"])
    failed = run.work([job], args, out, args.recipe)
    if not failed:
        print(f"backbone: {args.out / 'backbone.safetensors'}")
        if args.probe:
            _say_probe(job, args.probe)
    return failed


def _say_probe(job, folder: Path) -> None:
    record = store.read_json(job.folder / "record.json")
    if record["spec"].get("probe") != job.spec["probe"]:
        print(f"no accuracy on {folder}: the run had finished without it; a new --out measures it")
        return
    knn = record["facts"]["knn"]
    before = (
        f" (before training: {knn['0']:.1%})" if "0" in knn else ""
    )  # else --probe came in later
    print(f"k-nearest-neighbour accuracy on {folder}: {list(knn.values())[-1]:.1%}{before}")


def _help(job) -> int:
    """Take part in a pretraining as one of several processes, in silence: the first says what is
    wrong with the input."""
    from ..run.worker import run_pretrain

    try:
        if not store.outcome(job.folder, job.id, time.time()):
            run_pretrain(job.spec, job.folder, lambda *_, **__: None)
    except InputError:
        return 2
    return 0


def _say_assumed(recipe: dict) -> None:
    values = ", ".join(f"{name}={recipe[name]}" for name in recipe["assumed"])
    if values:
        print(f"assumed, as the papers do not say (or to be small): {values}")


def transfer(args) -> int:
    from ..plan import single
    from . import outcomes, run, text

    job = single.job_of(args)
    failed = run.work([job], args, args.out, job.title)
    if not failed and args.keep_model:
        text.kept([job], args.keep_model)
    return (
        failed
        if failed or job.kind == "machine"
        else outcomes.after_run([job], args.out, keep=False)
    )


def predict(args) -> int:
    from . import predict as predicting

    return predicting.predict(args)


def run(args) -> int:
    from . import run

    return run.suite(args)


def status(args) -> int:
    from . import status

    if not args.dir.is_dir():
        raise InputError(f"no folder {args.dir}")
    return status.show(args.dir, args.json)


def logs(args) -> int:
    from . import housekeeping

    return housekeeping.logs(args)


def clean(args) -> int:
    from . import housekeeping

    return housekeeping.clean(args)


def table(args) -> int:
    from . import outcomes

    return outcomes.table(args)


def compare(args) -> int:
    from . import outcomes

    return outcomes.compare(args)


def report(args) -> int:
    from . import outcomes

    return outcomes.report(args)


def attention(args) -> int:
    from ..report import examples

    return examples.attention(args)


def weights(action: str):
    """The commands of `detco weights`."""

    def call(args) -> int:
        from . import weights

        return getattr(weights, action)(args)

    return call


def protocols(args) -> int:
    from . import text

    if getattr(args, "detectron2", False):
        return text.detectron2_config(args.name, args.weights)
    if getattr(args, "weights", None):
        raise InputError(
            "--weights goes with --detectron2: it is the config that depends on a backbone file"
        )
    return text.protocols(getattr(args, "name", None), args.json)


def data_scenes(args) -> int:
    from ..run import live
    from ..scenes import draw as scenes

    with live.of_task("scenes") as report:
        scenes.draw(args.out, images=args.images, size=args.size, seed=args.seed, report=report)
    print(f"scenes: {args.out}")
    return 0


def data_check(args) -> int:
    from . import text

    return text.data_check(args.layout, args.root, args.split, args.json)


def speed_views(args) -> int:
    from ..run import live
    from ..speed import views

    with live.of_task("views") as report:
        measured = views.measure(args.images, args.device, args.count, args.repeats, report=report)
    print(measured)
    return 0


def speed_step(args) -> int:
    # The ways take turns on a GPU, and what one leaves free in the allocator's cache must be of use
    # to the next.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    from ..run import live
    from ..speed import step

    with live.of_task("step") as report:
        measured = step.measure(args.device, args.recipe, args.batch, args.repeats, report)
    print(measured)
    return 0


def speed_runner(args) -> int:
    from ..run import live
    from ..speed import runner

    with live.of_task("runner") as report:
        measured = runner.measure(args.jobs, args.seconds, report)
    print(measured)
    return 0


def data_subset(args) -> int:
    from detco.transfer.data import subsets

    out, counts = subsets.write(args.file, args.percent, args.seed, args.out)
    print(
        f"{out}: {counts['images']:,} of {counts['of']:,} pictures, {counts['annotations']:,}"
        " objects"
    )
    return 0


CALLS = {
    "doctor": doctor,
    "pretrain": pretrain,
    "weights import": weights("import_"),
    "weights show": weights("show_"),
    "weights export": weights("export"),
    "weights list": weights("list_"),
    "protocols": protocols,
    "protocols show": protocols,
    "data scenes": data_scenes,
    "data check": data_check,
    "data subset": data_subset,
    "transfer": transfer,
    "predict": predict,
    "run": run,
    "status": status,
    "logs": logs,
    "clean": clean,
    "table": table,
    "compare": compare,
    "report": report,
    "attention": attention,
    "speed views": speed_views,
    "speed step": speed_step,
    "speed runner": speed_runner,
}

if __name__ == "__main__":
    sys.exit(main())
