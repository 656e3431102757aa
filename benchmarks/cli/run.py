"""`detco pretrain`, `transfer` and `run`: plan jobs, run them under a live view,
print the outcome."""

import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from detco.common.errors import InputError
from detco.common.progress import silent
from detco.pretrain.recipes import RECIPES
from detco.results import store

from .. import config
from .. import run as executors
from ..plan import cost, datasets, single, suite_plan
from ..plan import jobs as planning
from ..plan.jobs import Job
from ..report import track
from ..run import live, worker
from ..run.local import finished
from ..suites import files
from ..suites.builtin import StartingPoint, Suite
from . import dry_run as planned
from . import outcomes
from . import text as show


def pretrain(args) -> int:
    """`detco pretrain`: make one backbone file."""
    helper = int(os.environ.get("RANK", "0"))  # set by torchrun; only its first process prints
    if helper:
        logging.getLogger("detco.plan").setLevel(logging.ERROR)
    track.refuse(args.track)
    job, classes = pretraining_of(args)
    if helper:
        return _help(job)
    _say_assumed(job.spec["recipe"])
    if classes:
        more = ", ..." if len(classes) > 10 else ""
        print(f"{len(classes)} classes: {', '.join(classes[:10])}{more}")
    failed = work([job], args, job.folder, args.recipe)
    if not failed:
        print(f"backbone: {args.out / 'backbone.safetensors'}")
        if args.probe:
            _say_probe(job, args.probe)
        failed = _tracked([job], job.folder, args)
    return failed


def _tracked(jobs: Sequence[Job], out: Path, args) -> int:
    """Send what is finished of these jobs to the tracker that was asked for, if one was."""
    return track.send(out, args.track, {job.id for job in jobs}) if args.track else 0


def pretraining_of(args) -> tuple[Job, tuple[str, ...]]:
    """The job that the parsed arguments of `detco pretrain` describe, and the classes it learns, if
    any. Raises InputError."""
    helper = int(os.environ.get("RANK", "0")) > 0  # the first process reads the images for all
    changes = config.parse_assignments(args.changes)
    start = StartingPoint(args.recipe, recipe=args.recipe, settings=changes, seed=args.seed)
    supervised = config.find(RECIPES, args.recipe, "recipe").traits.needs_labels
    out = args.out.absolute()
    with live.of_task(args.recipe) as report:
        images = suite_plan.folder_of_images(args.images, supervised, report, not helper)
    place = planning.Place(out, device=args.device)
    job = planning.pretrain_job(start, {}, images, out, place)
    if not helper:
        suite_plan.refuse_other_run(job)
    if args.probe:
        job = replace(job, spec=job.spec | {"probe": str(args.probe.absolute())})
    return job, images.classes


def _say_probe(job: Job, folder: Path) -> None:
    record = store.read_json(job.folder / "record.json")
    if record["spec"].get("probe") != job.spec["probe"]:
        print(f"no accuracy on {folder}: the run had finished without it; a new --out measures it")
        return
    facts = record["facts"]
    knn = facts.get("knn_percent") or {k: 100 * share for k, share in facts["knn"].items()}
    # without a probe, --probe was added later
    before = f" (before training: {knn['0']:.1f}%)" if "0" in knn else ""
    print(f"k-nearest-neighbour accuracy on {folder}: {list(knn.values())[-1]:.1f}%{before}")


def _help(job: Job) -> int:
    """Take part in a pretraining as one of several processes, in silence: the first says what is
    wrong with the input."""
    try:
        if (store.read_json(job.folder / "record.json") or {}).get("status") != "done":
            worker.run_pretrain(job.spec, job.folder, silent)
    except InputError:
        return 2
    return 0


def _say_assumed(recipe: dict) -> None:
    values = ", ".join(f"{name}={recipe[name]}" for name in recipe["assumed"])
    if values:
        print(f"assumed, as the papers do not say (or to be small): {values}")


def transfer(args) -> int:
    """`detco transfer`: fine-tune and test one detector."""
    with outcomes.only_json(args.json) as stream:
        return _transfer(args, stream)


def _transfer(args, stream: TextIO | None) -> int:
    track.refuse(args.track)
    job = single.job_of(args)
    failed = work([job], args, args.out, job.title)
    if not failed and args.keep_model:
        show.kept([job], args.keep_model)
    if failed or job.kind == "machine":
        return failed
    printed = outcomes.after_run([job], args.out, keep=False, json=stream)
    return printed or _tracked([job], args.out, args)


def suite(args) -> int:
    """`detco run`: plan and run a whole comparison, print its table."""
    with outcomes.only_json(args.json) as stream:
        return _suite(args, stream)


def _suite(args, stream: TextIO | None) -> int:
    track.refuse(args.track)
    if args.gpu_hours and not args.dry_run:
        raise InputError("--gpu-hours is for the plan: add --dry-run")
    wanted = _wanted(args)
    wanted, absent = files.without_absent(wanted)
    for text in absent:
        print(f"detco: without {text}", file=sys.stderr)
    out = (args.out or Path(wanted.name)).absolute()
    _check_folder(out)
    site = executors.chosen(args.executor, wanted, args)
    launches = site.launch("transfer"), site.launch("pretrain")
    missing: list[str] = []
    with live.of_task(wanted.name) as report:
        look = datasets.Look(args.verify, report)
        jobs = suite_plan.plan(
            wanted,
            out,
            args.engine,
            args.seeds,
            args.device,
            launches,
            missing if args.dry_run else None,
            look,
            None if args.yes else suite_plan.MOST_JOBS,
        )
    site.take(jobs)
    if args.dry_run:
        return _planned(jobs, site, out, missing, stream, args.gpu_hours)
    failed = work(jobs, args, out, wanted.name, site)
    if wanted.keep_model:
        show.kept(jobs, wanted.keep_model)
    if failed == 130:
        return failed
    printed = outcomes.after_run(jobs, out, json=stream)
    if wanted.about:
        print(show.wrapped("", wanted.about))
    sent = _tracked(jobs, out, args)
    return printed or failed or sent


def _wanted(args) -> Suite:
    """The suite that the parsed arguments of `detco run` describe."""
    wanted = files.load(args.suite)
    folders = args.data, args.images
    wanted = files.adapted(wanted, *folders, args.weights, args.start, args.protocols)
    changes = config.parse_assignments(args.changes)
    if changes and not wanted.protocols:
        wanted = replace(wanted, protocols=datasets.fitting(wanted))
    wanted, lines = files.changed(wanted, changes)
    for text in lines:
        print(show.wrapped("set: ", text))
    period = wanted.eval_period if args.eval_period is None else args.eval_period
    wanted = replace(
        wanted,
        amp=args.amp or wanted.amp,
        eval_period=period,
        keep_model=args.keep_model or wanted.keep_model,
    )
    return files.with_labels(wanted, args.strict, args.merge_classes)


def _say_without_evaluations(jobs: Sequence[Job]) -> None:
    """Say which runs had finished without the evaluations asked for: those change no result, so the
    run is not repeated."""
    for period in dict.fromkeys(
        filter(None, (job.spec.get("launch", {}).get("eval_period") for job in jobs))
    ):
        records = [
            finished(job) for job in jobs if job.spec.get("launch", {}).get("eval_period") == period
        ]
        count = sum(
            record["spec"].get("launch", {}).get("eval_period") != period
            for record in records
            if record
        )
        if count:
            whose = "the run" if len(jobs) == 1 else show.in_words(count)
            print(
                f"no evaluations every {period} iterations: {whose} had finished without them; a"
                " new --out makes them"
            )


def _say_without_content(jobs: Sequence[Job], out: Path) -> None:
    """Say how many jobs run anew because an earlier version made them without hashing the images:
    whether their images equal today's is unknown."""
    there = suite_plan.folders(out) if any(job.earlier for job in jobs) else {}
    count = sum(job.earlier in there and job.id not in there for job in jobs)
    if count:
        print(
            f"{show.in_words(count)} run anew: there are runs of a version that knew images by"
            " name and size only, so whether they saw these images cannot be told"
        )


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is not a folder; name a new one")


def _planned(
    jobs: Sequence[Job],
    site: executors.Runner,
    out: Path,
    missing: list[str],
    stream: TextIO | None,
    gpu: str | None,
) -> int:
    """Print the plan, its cost and what a scheduler would get; exit status 2 where something is
    missing."""
    done = {job.id for job in jobs if finished(job)}
    costs = site.costs(jobs, out, exact=True)
    planned.show(jobs, done, costs, site.room(), out, gpu)
    try:
        script = site.script([job for job in jobs if job.id not in done], out)
        if script:
            print(f"\n{script}")
    except InputError as error:
        missing.append(str(error))
    if stream:
        print(json.dumps(planned.as_rows(jobs, done, costs), indent=1), file=stream)
    for text in planned.summed(missing):
        print(f"detco: before it can run: {text}", file=sys.stderr)
    return 2 if missing else 0


def work(
    jobs: Sequence[Job], args, out: Path, name: str, site: executors.Runner | None = None
) -> int:
    """Run jobs under a live view; exit status 0, 1 (some failed), 2 (bad input found on the way),
    130 (interrupted)."""
    _check_folder(out)
    if site is None:
        site = executors.get(executors.DEFAULT, None, args)
        site.take(jobs)
    jobs = cost.priced(jobs, site.costs(jobs, out))
    _say_without_content(jobs, out)
    try:
        with live.of_run(name) as look:
            outcome = site.run(jobs, out, look)
    except KeyboardInterrupt:
        print(f"\nstopped; {site.stopped}. To go on: {args.again}", file=sys.stderr)
        return 130
    _say_without_evaluations(jobs)
    return show.outcome(outcome, args.again)
