"""The `detco` command: reads arguments, calls the packages, turns bad input into one line and exit status 2."""

import argparse
import json
import re
import shlex
import sys
from pathlib import Path
from typing import NoReturn

from . import InputError, settings
from .worker import INPUT_ERRORS

SLASH_N = argparse.RawDescriptionHelpFormatter


class Parser(argparse.ArgumentParser):
    """One line for a bad argument, with the nearest known one."""

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"invalid choice: '?([^' ]*)'? \(choose from (.*)\)", message)
        if wrong:
            known = [choice.strip("' ") for choice in wrong[2].split(",")]
            message = f"unknown {message.split(':')[0].removeprefix('argument ')} {wrong[1]!r}"
            message += settings.nearest(wrong[1], known) or f"; known: {', '.join(known)}"
        print(f"detco: {message} (see `{self.prog} --help`)", file=sys.stderr)
        raise SystemExit(2)


def main(argv: list[str] | None = None) -> int:
    """Entry point of the console script; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(argv)
    args.again = shlex.join(["detco", *argv])
    try:
        return args.call(args) or 0
    except INPUT_ERRORS as error:
        print(f"detco: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("detco: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `detco ... | head`
        sys.stderr.close()
        return 0


def parser() -> Parser:
    """All commands and options."""
    top = Parser(prog="detco", formatter_class=SLASH_N, description="Pretrain on pictures, fine-tune detectors, read the AP table.",
                 epilog="example: detco run demo        (each command has --help with an example)")  # fmt: skip
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(parent, name, call, text, example, **more):
        sub = parent.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", formatter_class=SLASH_N,
                                epilog=f"example: {example}", **more)  # fmt: skip
        sub.set_defaults(call=call)
        return sub

    def group(name, text):
        sub = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", formatter_class=SLASH_N
        )
        return sub.add_subparsers(dest="action", metavar="ACTION", required=True)

    c = command(
        commands, "doctor", doctor, "say what is installed, what is missing and what that means", "detco doctor --json"
    )
    c.add_argument("--json", action="store_true", help="as JSON")

    c = command(commands, "pretrain", pretrain, "make a backbone file from a folder of pictures; goes on by itself if interrupted",
                "detco pretrain detco-small --images photos --out runs/detco --set epochs=20")  # fmt: skip
    c.add_argument("recipe", metavar="RECIPE", help="e.g. detco-small, moco-v2-small, supervised-small, detco-200ep")
    c.add_argument("--images", metavar="DIR", type=Path, required=True,
                   help="folder tree of pictures (supervised: one folder a class)")  # fmt: skip
    c.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="where backbone.safetensors, curves and log go"
    )
    c.add_argument("--seed", type=int, default=0, help="default 0")
    _working(c)
    _settable(c, "epochs=20")

    weights = group("weights", "look at backbone files")
    c = command(
        weights,
        "show",
        weights_show,
        "what a backbone file holds",
        "detco weights show runs/detco/backbone.safetensors",
    )
    c.add_argument("file", metavar="FILE", type=Path)
    c.add_argument("--json", action="store_true", help="as JSON")

    c = command(commands, "protocols", protocols, "list the transfer protocols", "detco protocols show small-retinanet")
    c.add_argument("--json", action="store_true", help="as JSON")
    c.set_defaults(name=None)
    shows = c.add_subparsers(dest="action", metavar="[show NAME]")
    c = command(
        shows, "show", protocols, "every setting of one protocol", "detco protocols show small-retinanet --json"
    )
    c.add_argument("name", metavar="NAME")
    c.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="as JSON")

    data = group("data", "draw or check a labelled data set")
    c = command(data, "scenes", data_scenes, "draw labelled scenes in VOC, COCO and Cityscapes layout",
                "detco data scenes scenes --images 1000 --seed 0")  # fmt: skip
    c.add_argument("out", metavar="OUT", type=Path)
    c.add_argument("--images", metavar="N", type=int, default=None, help="how many")
    c.add_argument("--size", metavar="PIXELS", type=int, default=None, help="their shorter side")
    c.add_argument("--seed", metavar="S", type=int, default=0, help="default 0")
    c = command(
        data,
        "check",
        data_check,
        "sizes, fingerprint and everything wrong with a data set",
        "detco data check voc VOC2007",
    )
    c.add_argument("layout", metavar="LAYOUT", choices=("voc", "coco", "cityscapes"), help="voc, coco or cityscapes")
    c.add_argument("root", metavar="DIR", type=Path)
    c.add_argument(
        "--split", metavar="NAME", action="append", help="only this split (may be repeated); default: all found"
    )
    c.add_argument("--json", action="store_true", help="as JSON")

    c = command(commands, "transfer", transfer, "fine-tune and test one detector from one backbone file",
                "detco transfer small-retinanet --weights runs/detco/backbone.safetensors --data my-voc --out runs")  # fmt: skip
    c.add_argument("protocol", metavar="PROTOCOL", help="`detco protocols` lists them")
    c.add_argument("--weights", metavar="FILE", required=True, help="a backbone file, or `random`")
    c.add_argument(
        "--data", metavar="DIR", type=Path, required=True, help="a data set in VOC, COCO or Cityscapes layout"
    )
    c.add_argument("--layout", choices=("voc", "coco", "cityscapes"), help="default: by the folders found")
    c.add_argument("--train", metavar="SPLIT", help="default: trainval (VOC), train")
    c.add_argument("--test", metavar="SPLIT", help="default: test (VOC), val")
    c.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="collects runs; `detco table DIR` compares them"
    )
    c.add_argument("--name", help="row of the table; default: the name of the weights")
    c.add_argument("--engine", default="auto", help="auto, detectron2, torchvision or replay")
    c.add_argument("--seed", type=int, default=0, help="default 0")
    _working(c)
    _settable(c, "schedule.iterations=300")

    c = command(commands, "run", run, "run a whole comparison and print its table; goes on where it was interrupted",
                "detco run demo\n         detco run own_pictures.yaml --seeds 3")  # fmt: skip
    c.add_argument("suite", metavar="SUITE", help="demo, smoke, or a YAML file (see examples/own_pictures.yaml)")
    c.add_argument("--out", metavar="DIR", type=Path, help="default: the suite's name")
    c.add_argument("--engine", help="auto, detectron2, torchvision or replay; default: the suite's")
    c.add_argument("--executor", choices=("local",), default="local", help="where the jobs run: local, this machine")
    c.add_argument("--seeds", metavar="N", type=int, help="fine-tunings of each cell; default: the suite's")
    c.add_argument(
        "--jobs", metavar="N", type=int, help="jobs at once; default: one a GPU, or by the processor's cores"
    )
    c.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    _working(c)

    c = command(commands, "status", status, "where every job below a folder stands", "detco status demo")
    c.add_argument("dir", metavar="DIR", type=Path)
    c.add_argument("--json", action="store_true", help="as JSON")

    c = command(commands, "table", table, "the AP table of all results below a folder", "detco table demo --format md")
    c.add_argument("dir", metavar="DIR", type=Path)
    c.add_argument(
        "--format", choices=("terminal", "md", "csv", "latex", "html"), default="terminal", help="default terminal"
    )
    c.add_argument("--baseline", metavar="NAME", action="append", help="starting point to show differences to (may be repeated; "
                   "default: supervised and random)")  # fmt: skip
    c.add_argument(
        "--metrics", metavar="A,B", help="e.g. box_ap,box_aps; default: AP, AP50, AP75 of boxes, masks, keypoints"
    )
    return top


def _working(c: argparse.ArgumentParser) -> None:
    c.add_argument("--device", default="auto", help="auto, cpu or cuda")


def _settable(c: argparse.ArgumentParser, example: str) -> None:
    c.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], dest="changes",
                   help=f"change a setting, e.g. --set {example} (may be repeated)")  # fmt: skip


# --- commands: each imports what it needs ----------------------------------------------------------------------------


def doctor(args) -> int:
    from . import doctor

    return doctor.main(args.json)


def pretrain(args) -> int:
    from pretrain import recipes

    from . import plan
    from .suites import StartingPoint

    start = StartingPoint(
        args.recipe, recipe=args.recipe, settings=settings.parse_assignments(args.changes), seed=args.seed
    )
    recipe = settings.find(recipes.RECIPES, args.recipe, "recipe")
    pictures = plan.folder_of_pictures(args.images, recipe.method == "supervised")
    job = plan.pretrain_job(start, {}, pictures, args.out, args.device, args.out.absolute())
    plan.refuse_other_run(job)
    return _work([job], args, args.recipe) or print(f"backbone: {args.out / 'backbone.safetensors'}") or 0


def transfer(args) -> int:
    from . import plan, show
    from .suites import Data, StartingPoint, name_of

    name = args.name or ("random" if args.weights == "random" else name_of(Path(args.weights)))
    random = args.weights == "random"
    start = StartingPoint(name, random=True) if random else StartingPoint(name, weights=Path(args.weights))
    data, source = plan.labelled(Data(args.data, args.layout, args.train, args.test), args.protocol)
    changes = settings.parse_assignments(args.changes)
    weights, out = plan.weights_of(start, None), args.out.absolute()
    job = plan.transfer_job(
        name, weights, args.protocol, changes, data, source, args.engine, args.seed, out, args.device
    )
    failed = _work([job], args, job.title)
    return failed or show.table([job], args.out)


def run(args) -> int:
    from . import plan, show, suites

    suite = suites.load(args.suite)
    out = args.out or Path(suite.name)
    jobs = plan.plan(suite, out, args.engine, args.seeds, args.device)
    if args.dry_run:
        return show.plan(jobs)
    failed = _work(jobs, args, suite.name)
    return failed if failed in (2, 130) else show.table(jobs, out) or failed


def _work(jobs, args, name: str) -> int:
    """Run jobs under a live view; exit status 0, 1 (some failed), 2 (bad input found on the way), 130 (interrupted)."""
    from . import executor, show, view

    if getattr(args, "jobs", None) is not None and args.jobs < 1:
        raise InputError(f"--jobs must be at least 1, it is {args.jobs}")
    slots = executor.local_slots(len(jobs), getattr(args, "jobs", None), args.device)
    try:
        with view.of_run(name) as look:
            outcome = executor.run(jobs, slots, look)
    except KeyboardInterrupt:
        print(f"\nstopped; nothing finished is lost. To go on: {args.again}", file=sys.stderr)
        return 130
    return show.failures(outcome, args.again)


def status(args) -> int:
    from . import show

    return show.status(_existing(args.dir), args.json)


def table(args) -> int:
    from . import show

    return show.table_of(_existing(args.dir), args.format, args.baseline, args.metrics)


def _existing(directory: Path) -> Path:
    if not directory.is_dir():
        raise InputError(f"no folder {directory}")
    return directory


def weights_show(args) -> int:
    from transfer import weights

    from . import show

    return show.facts(weights.describe(weights.read(args.file)), args.json)


def protocols(args) -> int:
    from . import show

    return show.protocols(args.name, args.json)


def data_scenes(args) -> int:
    from . import scenes, view

    chosen = {key: value for key in ("images", "size", "seed") if (value := getattr(args, key)) is not None}
    with view.of_task("scenes") as report:
        scenes.draw(args.out, **chosen, report=report)
    print(f"scenes: {args.out}")
    return 0


def data_check(args) -> int:
    from . import show

    return show.data_check(args.layout, args.root, args.split, args.json)


if __name__ == "__main__":
    sys.exit(main())
