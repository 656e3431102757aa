"""Small suites and the titles of their jobs."""

from dataclasses import replace
from pathlib import Path

from detco.benchmarks.plan import suite_plan
from detco.benchmarks.suites.builtin import Data, StartingPoint, Suite, Task


def suite_of(drawn, photos, **changes):
    starts = (
        StartingPoint("random", random=True),
        StartingPoint("detco-small", recipe="detco-small"),
    )
    made = Suite(
        "mine",
        starts,
        (Task("small-retinanet"),),
        Data(drawn / "voc"),
        photos,
        engine="torchvision",
    )
    return replace(made, **changes)


def ids(suite, out=Path("out")):
    return {job.title: job.id for job in suite_plan.plan(suite, out)}
