"""The `detco` command: calls the packages, turns bad input into one line and exit status 2."""

import json
import os
import shlex
import sys
from pathlib import Path

from . import InputError, arguments, settings
from .provenance import own_version
from .worker import INPUT_ERRORS


def main(argv: list[str] | None = None) -> int:
    """Run a command and return the exit status: 0, 1 (work failed), 2 (bad input), 130 (interrupted)."""
    argv = sys.argv[1:] if argv is None else argv
    args = arguments.parser(own_version()).parse_args(argv)
    args.again = shlex.join(["detco", *argv])
    args.json = getattr(args, "json", False)
    try:
        return CALLS[args.command](args)
    except INPUT_ERRORS as error:
        print(f"detco: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("detco: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `detco ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


# --- commands: each imports what it needs ----------------------------------------------------------------------------


def doctor(args) -> int:
    from . import doctor

    return doctor.main(args.json)


def pretrain(args) -> int:
    from pretrain.recipes import RECIPES

    from . import jobs, plan
    from .suites import StartingPoint

    changes = settings.parse_assignments(args.changes)
    start = StartingPoint(args.recipe, recipe=args.recipe, settings=changes, seed=args.seed)
    supervised = settings.find(RECIPES, args.recipe, "recipe").method == "supervised"
    pictures, out = plan.folder_of_pictures(args.images, supervised), args.out.absolute()
    job = jobs.pretrain_job(start, {}, pictures, out, jobs.Place(out, device=args.device))
    plan.refuse_other_run(job)
    failed = _work([job], args, args.recipe)
    if not failed:
        print(f"backbone: {args.out / 'backbone.safetensors'}")
    return failed


def transfer(args) -> int:
    from . import outcomes, single

    job = single.job_of(args)
    failed = _work([job], args, job.title)
    return failed if failed or job.kind == "machine" else outcomes.after_run([job], args.out, keep=False)


def run(args) -> int:
    from . import outcomes, plan, show, suites

    suite = suites.adapted(suites.load(args.suite), args.data, args.pictures, args.weights, args.start)
    out = args.out or Path(suite.name)
    launch = {"num_gpus": args.num_gpus} if args.num_gpus != 1 else {}
    missing: list[str] | None = [] if args.dry_run else None
    jobs = plan.plan(suite, out, args.engine, args.seeds, args.device, launch, missing)
    if args.dry_run:
        return show.plan(jobs, missing)
    failed = _work(jobs, args, suite.name)
    return failed if failed == 130 else outcomes.after_run(jobs, out) or failed


def _work(jobs, args, name: str) -> int:
    """Run jobs under a live view; exit status 0, 1 (some failed), 2 (bad input found on the way), 130 (interrupted)."""
    from . import executor, machine, show, view

    if getattr(args, "jobs", None) is not None and args.jobs < 1:
        raise InputError(f"--jobs must be at least 1, it is {args.jobs}")
    slots = machine.local_slots(len(jobs), getattr(args, "jobs", None), args.device, getattr(args, "num_gpus", 1))
    try:
        with view.of_run(name) as look:
            outcome = executor.run(jobs, slots, look)
    except KeyboardInterrupt:
        print(f"\nstopped; nothing finished is lost. To go on: {args.again}", file=sys.stderr)
        return 130
    return show.outcome(outcome, args.again)


def status(args) -> int:
    from . import show

    if not args.dir.is_dir():
        raise InputError(f"no folder {args.dir}")
    return show.status(args.dir, args.json)


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
    from . import pictures

    return pictures.attention(args)


def weights_show(args) -> int:
    from transfer import weights

    from . import show

    facts = weights.describe(weights.read(args.file))
    return show.facts({key: _decoded(value) for key, value in facts.items()}, args.json)


def _decoded(value: object) -> object:
    """Metadata that are JSON (the recipe) as what they say."""
    try:
        return json.loads(value) if isinstance(value, str) and value[:1] in ("{", "[") else value
    except ValueError:
        return value


def protocols(args) -> int:
    from . import show

    if getattr(args, "detectron2", False):
        return show.detectron2_config(args.name, args.weights)
    return show.protocols(getattr(args, "name", None), args.json)


def data_scenes(args) -> int:
    from . import scenes, view

    with view.of_task("scenes") as report:
        scenes.draw(args.out, images=args.images, size=args.size, seed=args.seed, report=report)
    print(f"scenes: {args.out}")
    return 0


def data_check(args) -> int:
    from . import show

    return show.data_check(args.layout, args.root, args.split, args.json)


def speed_views(args) -> int:
    from . import view
    from .speed import views

    with view.of_task("views") as report:
        measured = views.measure(args.images, args.device, args.pictures, args.repeats, report=report)
    print(measured)
    return 0


def speed_step(args) -> int:
    from . import view
    from .speed import step

    with view.of_task("step") as report:
        measured = step.measure(args.device, args.recipe, args.batch, args.repeats, report)
    print(measured)
    return 0


def speed_runner(args) -> int:
    from . import view
    from .speed import runner

    with view.of_task("runner") as report:
        measured = runner.measure(args.jobs, args.seconds, report)
    print(measured)
    return 0


def data_subset(args) -> int:
    from transfer import subsets

    out, counts = subsets.write(args.file, args.percent, args.seed, args.out)
    print(f"{out}: {counts['images']:,} of {counts['of']:,} pictures, {counts['annotations']:,} objects")
    return 0


CALLS = {
    "doctor": doctor, "pretrain": pretrain, "weights show": weights_show, "protocols": protocols,
    "protocols show": protocols, "data scenes": data_scenes, "data check": data_check,
    "data subset": data_subset, "transfer": transfer,
    "run": run, "status": status, "table": table, "compare": compare, "report": report, "attention": attention,
    "speed views": speed_views, "speed step": speed_step, "speed runner": speed_runner,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
