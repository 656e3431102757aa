"""The live view on terminals of usual widths: everything needed is shown, and no line wraps."""

import io
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from detco.benchmarks.plan.jobs import Job
from detco.benchmarks.run import live, local, progress
from detco.results import store

TITLES = (
    "drawn",
    "pretrain detco-small",
    "coco-10pct-mask-rcnn-fpn from detco-aa-200ep, seed 12",
    "lost",
)
PROGRESS = {
    TITLES[1]: {
        "stage": "pretrain",
        "done": 120,
        "total": 3000,
        "speed": 0.4,
        "figures": {"loss": 12.34, "pictures/s": 25.1},
    },
    TITLES[2]: {
        "stage": "train",
        "done": 12345,
        "total": 90000,
        "speed": 1.25,
        "figures": {"loss": 1.5, "lr": 0.02},
    },
}


def drawn(monkeypatch, width):
    """What a terminal of so many columns shows of four jobs: one done, two at work, one failed."""
    from rich.console import Console

    states = {
        title: local.State(Job(title, "transfer", title, Path("x"), {}, (), 60.0))
        for title in TITLES
    }
    for title, name in zip(TITLES, ("done", "running", "running", "failed"), strict=True):
        states[title].name, states[title].started = name, time.time() - 100
    monkeypatch.setattr(live, "progress_of", lambda state: PROGRESS[state.job.title])
    console = Console(width=width, file=io.StringIO(), force_terminal=False, color_system=None)
    console.print(
        live.Terminal("paper-coco-12k", SimpleNamespace(console=console)).draw(
            local.Run(states, [{}, {}])
        )
    )
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_the_live_view_shows_it_all(monkeypatch, width):
    lines = drawn(monkeypatch, width)
    assert max(map(len, lines)) <= width and len(lines) == (3 if width == 120 else 5)
    assert all(
        text in lines[0] for text in ("paper-coco-12k", "1/4 done", "1 failed", "about ", " left")
    )
    one, two = ("\n".join(lines[1:])).split("coco-10pct")
    assert all(
        text in one
        for text in ("pretrain detco-small", "120/3000", "2.5 s each", "2:00:00 left", "loss 12.3")
    )
    assert all(
        text in two for text in ("train", "12345/90000", "1.2/s", "17:15:24 left", "loss 1.5")
    )


def test_an_evaluation_on_the_way_is_part_of_the_training(tmp_path):
    """Half of the training done: the job stays there while it evaluates, and says what it has found
    until the next one."""
    state = local.State(Job("x", "transfer", "x", tmp_path, {}))
    state.name, said, parts = "running", [], []
    store.write_json(tmp_path / "spec.json", {"id": "x", "kind": "transfer"})
    report = progress.Progress(tmp_path)

    def look(*words, **figures):
        report(*words, **figures)
        shown = live.progress_of(state)
        said.append(live.describe(state, shown))
        parts.append(live.fraction_of(state, shown))
        return store.status(tmp_path)[0]

    look("train", 500, 1000, loss=2.5)
    look("precise BN", 0, 200)
    lock = store.take(tmp_path)
    assert look("predict", 30, 60)["trained"] == [500, 1000]
    look("evaluate", 500, 1000, box_ap=12.34, **{"box_ap/dog": 1.0}, box_ap50=30.0)
    assert "trained" not in look("train", 501, 1000, loss=2.25)
    store.release(lock)
    assert said == [
        "train 500/1000, loss 2.5",
        "precise BN at 500/1000, 0/200",
        "predict at 500/1000, 30/60",
        "evaluate 500/1000, box_ap 12.3, box_ap50 30",
        "train 501/1000, loss 2.25, last box_ap 12.3",
    ]
    assert parts == pytest.approx([0.425, 0.425, 0.425, 0.425, 0.42585])
    look("train", 1000, 1000, loss=2.0)
    look("predict", 30, 60)
    assert said[-1] == "predict 30/60, last box_ap 12.3" and parts[-1] == pytest.approx(0.94)


def test_on_a_narrow_terminal_lines_are_cut_not_broken(monkeypatch):
    lines = drawn(monkeypatch, 40)
    assert len(lines) == 5 and max(map(len, lines)) <= 40


def test_a_job_that_another_process_holds_says_which(tmp_path):
    state = local.State(Job("one", "fake", "one", tmp_path / "one", {}), "elsewhere")
    state.job.folder.mkdir()
    assert live.describe(state, None) == "another runner has it"
    said = {"pid": 4321, "host": "node7", "stage": "train"}
    store.write_json(state.job.folder / "progress.json", said)
    assert live.describe(state, None) == "another runner has it (process 4321 on node7)"
