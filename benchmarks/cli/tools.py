"""The small commands: init, completion, protocols, recipes, data and speed. Each calls one
function and prints its result."""

import argparse
import json
import os
import shlex
from pathlib import Path

from detco.common.errors import InputError
from detco.common.files import write_atomic

from .. import documents
from ..run import live
from . import text

EXAMPLE = Path(__file__).parents[1] / "suites" / "own_images.yaml"


def init(args) -> int:
    """`detco init`: the example suite, with the user's folders in it."""
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines(keepends=True)
    for key, given in (("images", args.images), ("root", args.data)):
        if given and not given.is_dir():
            raise InputError(f"{given}: no such folder")
        if given:
            (number,) = (n for n, line in enumerate(lines) if line.strip().startswith(f"{key}: "))
            # JSON is YAML, whatever the name holds; absolute, as paths are relative to the file
            path = json.dumps(str(given.absolute()), ensure_ascii=False)
            lines[number] = f"{lines[number].partition(key)[0]}{key}: {path}\n"
    if os.path.lexists(args.file):
        raise InputError(f"{args.file} exists already and is not overwritten; name another file")
    write_atomic(args.file, "".join(lines))
    edit = "" if args.images and args.data else "edit the folders marked EDIT, then "
    print(f"{args.file}: {edit}detco run {shlex.quote(str(args.file))} --dry-run")
    return 0


def completion(args) -> int:
    """`detco completion`: a shell's script that completes commands, options and names."""
    import shtab

    from ..run.provenance import own_version
    from .commands import parser

    made = parser(own_version())
    _mark(made, shtab.FILE, shtab.DIRECTORY)
    print(shtab.complete(made, args.shell))
    return 0


def _mark(parser: argparse.ArgumentParser, file: dict, folder: dict) -> None:
    """Say which arguments are files, folders or names of rows, in this parser and those below."""
    from detco.pretrain.recipes import RECIPES
    from detco.transfer.protocols import PROTOCOLS

    from ..suites.builtin import SUITES

    rows: dict = {"PROTOCOL": PROTOCOLS, "RECIPE": RECIPES, "SUITE": SUITES}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _mark(below, file, folder)
        elif action.metavar in rows:
            action.choices = tuple(rows[action.metavar])
        elif action.metavar == "DIR":
            action.__dict__["complete"] = folder
        elif action.type is Path:
            action.__dict__["complete"] = file


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


def recipes(args) -> int:
    """`detco recipes`"""
    return text.recipes(None, args.json)


def recipe(args) -> int:
    """`detco recipes show`"""
    return text.recipes(args.name, args.json)


def scenes(args) -> int:
    """`detco data scenes`"""
    from ..scenes import draw

    with live.of_task("scenes") as report:
        draw.draw(args.out, images=args.images, size=args.size, seed=args.seed, report=report)
    print(f"scenes: {args.out}, e.g. {args.out / 'coco'} and {args.out / 'voc'}")
    return 0


def check(args) -> int:
    """`detco data check`"""
    return text.data_check(args)


def subset(args) -> int:
    """`detco data subset`"""
    from detco.transfer.data.making import subsets

    out, counts = subsets.write(args.file, args.percent, args.seed, args.out)
    print(
        f"{out}: {counts['images']:,} of {counts['of']:,} pictures, {counts['annotations']:,}"
        " objects"
    )
    return 0


def split(args) -> int:
    """`detco data split`"""
    from detco.transfer.data.making import split as making

    done = making.write(args.root, args.val, args.seed, args.group, args.test)
    for part, path in done.files.items():
        objects = f", {done.objects[part]:,} objects" if done.objects else ""
        print(f"{path}: {done.images[part]:,} images{objects}")
    return 0


def convert(args) -> int:
    """`detco data convert`"""
    written = CONVERTERS[args.format](args)
    for path, (images, objects) in written.items():
        print(f"{path}: {images:,} images, {objects:,} objects")
    return 0


def _from_yolo(args) -> dict:
    from detco.transfer.data.making import yolo

    if args.size:
        raise InputError("--size: images in YOLO's format stay as they are; leave it out")
    about = yolo.description(args.root)
    if about is None:
        raise InputError(
            f"{args.root}: no data.yaml (or obj.data, classes.txt) that names classes and splits"
        )
    if about.suffix == ".data":
        return yolo.convert(args.root, yolo.of_darknet(about), args.out.absolute())
    text = about.read_text(encoding="utf-8-sig", errors="replace")
    if about.suffix == ".txt":
        content = {"names": [line for line in text.splitlines() if line.strip()]}
    else:
        content = documents.load(text, str(about), of_settings=False)
    return yolo.convert(args.root, content, args.out.absolute())


def _from_labelme(args) -> dict:
    from detco.transfer.data.making import labelme

    if args.size:
        raise InputError("--size: labelme's images stay as they are; leave it out")
    return labelme.convert(args.root, args.out.absolute())


def _from_animal_pose(args) -> dict:
    from detco.transfer.data.making import animal_pose

    with live.of_task("convert") as report:
        return animal_pose.convert(args.root, args.out.absolute(), args.size, report)


CONVERTERS = {"yolo": _from_yolo, "labelme": _from_labelme, "animal-pose": _from_animal_pose}


def speed_views(args) -> int:
    """`detco speed views`"""
    from ..speed import views

    with live.of_task("views") as report:
        measured = views.measure(args.images, args.device, args.count, args.repeats, report=report)
    print(measured)
    return 0


def speed_step(args) -> int:
    """`detco speed step`"""
    # The ways alternate on one GPU; memory that one frees in the allocator's cache must be
    # usable by the next.
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
