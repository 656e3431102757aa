"""`detco predict`: runs a kept detector on images; writes one COCO file and drawn images."""

import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from detco.common.errors import InputError
from detco.common.files import write_atomic

from ..run import live
from .text import near

DRAWN = "drawn"  # the folder of drawn pictures in --out


def predict(args) -> int:
    """Write predictions.json and drawn pictures; exit status 1 where pictures could not be read,
    each named on a line."""
    from detco.results.report import drawing
    from detco.transfer import detections, detector, finetune

    trained, device = detector.read(args.model), finetune.pick_device(args.device)
    _check_device(device)
    if args.out.exists() and not args.out.is_dir():
        raise InputError(f"--out {args.out} is not a folder; name a new one")
    files = images_of(args.images, args.out / DRAWN)
    images, found, problems = [], [], []
    with live.of_task("predict") as report, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Detectron2 uses deprecated imports
        for picture, results in detections.detect(trained, list(files), device, problems):
            sure = [result for result in results if result["score"] >= args.score]
            images.append(picture.image)
            found += sure
            if not args.no_draw:
                drawn = drawing.objects(picture.pixels, sure, trained.categories)
                drawing.save(drawn, args.out / DRAWN / files[Path(picture.image["file_name"])])
            report("pictures", picture.image["id"], len(files))
    for problem in problems:
        print(f"detco: {problem}", file=sys.stderr)
    if images:
        _write(args.out, detections.as_coco(trained, images, found))
        where = "" if args.no_draw else f"; drawn: {near(args.out / DRAWN)}"
        print(
            f"{len(found)} objects on {len(images)} pictures:"
            f" {near(args.out / 'predictions.json')}{where}"
        )
    return 1 if problems else 0


def _check_device(device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU here (`detco doctor` says more)")


def _write(out: Path, content: dict) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "predictions.json", json.dumps(content) + "\n")


def images_of(sources: Sequence[Path], drawn: Path) -> dict[Path, Path]:
    """The pictures of files and folders -> where each is drawn, relative to `drawn`; what was drawn
    before is passed over.

    Raises InputError for a source that is not there, or a folder without pictures.
    """
    from detco.pretrain.data import listing

    found: dict[Path, Path] = {}
    taken: set[str] = set()
    for source in sources:
        if not source.is_dir() and not source.is_file():
            raise InputError(f"no picture or folder {source}")
        names = listing.find(source).names if source.is_dir() else (source.name,)
        for name in names:
            path = (source / name if source.is_dir() else source).absolute()
            if path.is_relative_to(drawn.absolute()) or path in found:
                continue
            found[path] = _free(name, taken)
    if not found:
        raise InputError(
            f"{', '.join(map(str, sources))}: no pictures there but those drawn before"
        )
    return found


def _free(name: str, taken: set[str]) -> Path:
    """A name for the drawing of a picture: its own, as JPEG, with a number where another picture
    has it."""
    own = name if name.lower().endswith((".jpg", ".jpeg")) else f"{name}.jpg"
    free, number = own, 1
    while free.lower() in taken:
        number += 1
        free = f"{Path(own).with_suffix('')}-{number}{Path(own).suffix}"
    taken.add(free.lower())
    return Path(free)
