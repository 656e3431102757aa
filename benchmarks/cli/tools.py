"""The small commands: each calls one function and prints what it gives; protocols, data, speed."""

import os

from detco.common.errors import InputError

from ..run import live
from . import text


def protocols(args) -> int:
    """`detco protocols`"""
    return text.protocols(None, args.json)


def protocol(args) -> int:
    """`detco protocols show`"""
    if args.detectron2:
        return text.detectron2_config(args.name, args.weights)
    if args.weights:
        raise InputError(
            "--weights goes with --detectron2: it is the config that depends on a backbone file"
        )
    return text.protocols(args.name, args.json)


def scenes(args) -> int:
    """`detco data scenes`"""
    from ..scenes import draw

    with live.of_task("scenes") as report:
        draw.draw(args.out, images=args.images, size=args.size, seed=args.seed, report=report)
    print(f"scenes: {args.out}")
    return 0


def check(args) -> int:
    """`detco data check`"""
    return text.data_check(args)


def subset(args) -> int:
    """`detco data subset`"""
    from detco.transfer.data import subsets

    out, counts = subsets.write(args.file, args.percent, args.seed, args.out)
    print(
        f"{out}: {counts['images']:,} of {counts['of']:,} pictures, {counts['annotations']:,}"
        " objects"
    )
    return 0


def speed_views(args) -> int:
    """`detco speed views`"""
    from ..speed import views

    with live.of_task("views") as report:
        measured = views.measure(args.images, args.device, args.count, args.repeats, report=report)
    print(measured)
    return 0


def speed_step(args) -> int:
    """`detco speed step`"""
    # The ways take turns on a GPU, and what one leaves free in the allocator's cache must be of use
    # to the next.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    from ..speed import step

    with live.of_task("step") as report:
        measured = step.measure(args.device, args.recipe, args.batch, args.repeats, report)
    print(measured)
    return 0


def speed_runner(args) -> int:
    """`detco speed runner`"""
    from ..speed import runner

    with live.of_task("runner") as report:
        measured = runner.measure(args.jobs, args.seconds, report)
    print(measured)
    return 0
