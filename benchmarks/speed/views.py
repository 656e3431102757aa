"""Pictures per second for the four DetCo views, from JPEG files to normalised batches: the usual
pipeline and ours."""

from __future__ import annotations

import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from detco.common.errors import InputError
from detco.pretrain.data import decoding, listing, views
from detco.pretrain.data.loader import Views
from detco.pretrain.recipes import RECIPES, Recipe

from .. import speed
from ..scenes import painting
from .baseline_views import UsualViews

# of the drawn stand-ins for photographs; most images of ImageNet are 500 x 375
SHORT_SIDES = (
    333,
    375,
    375,
    480,
)
DECODE, USUAL, CUT, OURS = (
    "decoding alone",
    "usual: torchvision on PIL",
    "ours, cutting alone",
    "ours",
)


@dataclass(frozen=True)
class ViewsSpeed:
    """Milliseconds a picture of each way, and how many times faster ours is than the usual one."""

    title: str
    milliseconds: dict[str, speed.Spread]
    faster: speed.Spread
    cutting: speed.Spread  # time of our workers, in units of the decoding time
    whole: speed.Spread  # time of our pipeline, in units of the decoding time

    def __str__(self) -> str:
        width = max(map(len, self.milliseconds))
        lines = [self.title, f"{'':{width}}  ms a picture  pictures/s"]
        for name, spread in self.milliseconds.items():
            lines.append(f"{name:{width}}  {spread.median:12.2f}  {1000 / spread.median:10.0f}")
        return "\n".join(
            [
                *lines,
                f"usual / ours: {self.faster} times",
                f"{CUT} / {DECODE}: {self.cutting} times",
                f"ours / {DECODE}: {self.whole} times",
            ]
        )


def measure(
    folder: Path | None,
    device: str = "auto",
    count: int = 32,
    repeats: int = 5,
    recipe: str = "detco-200ep",
    report=None,
) -> ViewsSpeed:
    """Time the ways over `count` files of `folder` (drawn stand-ins if None), alternating, on
    one core.

    On the CPU all of it is processor time of one thread. On a GPU, cropping runs on one core while
    colour, blur and flip run in batches on the GPU; the slower of the two counts.
    """
    if count < 1 or repeats < 1:
        raise InputError("--count and --repeats must be at least 1")
    place, row = speed.resolve(device), RECIPES[recipe]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _files(folder, count) as (files, kind):
            title = (
                f"the four views of {row.name} from {len(files)} {kind}, one core;"
                f" {speed.machine(place)}"
            )
            return _compare(title, files, row, place, repeats, report)
    finally:
        torch.set_num_threads(threads)


def _compare(
    title: str, files: listing.Pictures, recipe: Recipe, place: torch.device, repeats: int, report
) -> ViewsSpeed:
    usual, ours = UsualViews(recipe), Views(files, recipe, seed=0)
    ours.fits = False  # no cache: every image is decoded each time
    everything = (0, list(range(len(files))))
    ways = {
        DECODE: lambda: [decoding.decode(files.path(i)) for i in everything[1]],
        USUAL: lambda: _stacked([usual(files.path(i)) for i in everything[1]]),
        CUT: lambda: ours[everything],
    }
    if place.type == "cpu":
        kept: dict[str, torch.Tensor] = {}
        # as in training
        ways[OURS] = lambda: kept.update(views.finish(ours[everything], recipe, place, kept))
    seconds = speed.alternate(ways, repeats, time.process_time, report)
    if place.type == "cuda":
        batch = {
            name: value.pin_memory() for name, value in ours[everything].items() if name != "bad"
        }
        colour = {"colour": lambda: views.finish(batch, recipe, place)}
        seconds |= speed.alternate(colour, repeats, speed.device_clock(place), report)
        seconds[OURS] = [max(pair) for pair in zip(seconds[CUT], seconds["colour"], strict=True)]
    each = {
        name: speed.Spread.of([1000 * s / len(files) for s in values])
        for name, values in seconds.items()
    }
    ratios = [
        speed.ratio(seconds, *pair) for pair in ((USUAL, OURS), (CUT, DECODE), (OURS, DECODE))
    ]
    return ViewsSpeed(title, each, *ratios)


def _stacked(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


@contextmanager
def _files(folder: Path | None, count: int):
    """`count` JPEG files spread over a folder, or drawn ones of the sizes of photographs, and what
    they are."""
    if folder is not None:
        found = listing.find(folder)
        every = max(1, len(found) // count)
        yield found.only(range(0, len(found), every)[:count]), f"pictures of {folder}"
        return
    with tempfile.TemporaryDirectory() as temporary:
        for index in range(count):
            rng = np.random.default_rng(index)
            drawn = painting.scene(rng, SHORT_SIDES[index % len(SHORT_SIDES)])
            Image.fromarray(drawn.pixels()).save(Path(temporary) / f"{index:04}.jpg", quality=95)
        yield listing.find(Path(temporary)), "drawn JPEG pictures"
