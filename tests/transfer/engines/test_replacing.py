"""Images that fail during training: replaced identically after every restart, counted and reported;
too many end the run."""

import shutil
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from detco.common.errors import InputError
from detco.transfer.data import dataset as datasets
from detco.transfer.data.inspection import Unreadable
from detco.transfer.engines.replacing import TRIES, Replaced, deviations, items_of, readable
from detco.transfer.engines.torchvision import engine as torchvision_rcnn
from detco.transfer.engines.torchvision.pictures import (
    DetectionPictures,
    Drawn,
    Wanted,
    batches,
    placed,
)
from detco.transfer.settings import Resize
from tests.factories.detectors import job_for, tiny


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def coco(tmp_path, scenes):
    shutil.copytree(scenes / "coco", tmp_path / "coco")
    return tmp_path / "coco"


def truncate(dataset, *numbers) -> list[str]:
    """Break pictures behind the header; their paths."""
    paths = [Path(dataset.images[number]["file_name"]) for number in numbers]
    for path in paths:
        path.write_bytes(path.read_bytes()[:-200])
    return [str(path) for path in paths]


# --- one picture ---------------------------------------------------------------------------------


def reader(*broken: int):
    def read(number: int) -> str:
        if number in broken:
            raise Unreadable(f"cannot read the picture /p/{number}: cut", f"/p/{number}")
        return f"item {number}"

    return read


def test_a_whole_picture_is_taken_and_nothing_is_drawn():
    assert readable(
        reader(), 3, lambda number: pytest.fail("others were asked for"), (0, 0, 0)
    ) == ("item 3", [])


def test_the_choice_depends_on_seed_batch_place_and_attempt_alone():
    def chosen(*draw, broken=(3,)):
        return readable(
            reader(*broken), 3, lambda number: [n for n in range(1000) if n != number], draw
        )

    assert chosen(7, 5, 1) == chosen(7, 5, 1)
    item, broken = chosen(7, 5, 1)
    assert broken == [("/p/3", "cannot read the picture /p/3: cut")]
    assert len({chosen(*draw)[0] for draw in ((7, 5, 1), (8, 5, 1), (7, 6, 1), (7, 5, 2))}) == 4
    second = int(item.split()[1])
    # the one drawn is broken too: another attempt
    again, both = chosen(7, 5, 1, broken=(3, second))
    assert [path for path, _ in both] == ["/p/3", f"/p/{second}"] and again not in (item, "item 3")
    counts = Counter(chosen(0, batch, 0)[0] for batch in range(400))
    assert "item 3" not in counts and len(counts) > 250  # spread over all, about 330 expected


def test_where_nothing_can_be_read_the_job_ends_and_is_not_stuck():
    everything, tried = reader(*range(50)), []
    item, broken = readable(
        everything, 0, lambda number: tried.append(number) or range(50), (0, 0, 0)
    )
    assert item is None and len(broken) == TRIES == len(tried)
    with pytest.raises(
        InputError,
        match=(
            rf"^{TRIES} training pictures in a row cannot be read: cannot read the picture"
            r" /p/0: cut"
        ),
    ):
        items_of([("item 9", []), (item, broken)])
    assert readable(everything, 4, lambda number: [], (0, 0, 0)) == (
        None,
        [("/p/4", "cannot read the picture /p/4: cut")],
    )


# --- how many there may be -----------------------------------------------------------------------


@pytest.mark.parametrize(("pictures", "limit"), [(30, 5), (5011, 5), (16_551, 16), (118_287, 118)])
def test_different_pictures_count_towards_the_limit_however_often_they_are_drawn(
    pictures, limit, coco
):
    replaced = Replaced(datasets.load("coco", coco, "train"), pictures)
    for number in range(limit):
        replaced.add(2 * [(f"/p/{number}", f"cannot read the picture /p/{number}: cut")])
    assert replaced.facts() == {
        "replaced": {
            "pictures": limit,
            "draws": 2 * limit,
            "first": "cannot read the picture /p/0: cut",
        }
    }
    later = Replaced(datasets.load("coco", coco, "train"), pictures)
    later.load_state_dict(replaced.state_dict())
    with pytest.raises(InputError) as error:
        later.add([("/p/x", "cannot read the picture /p/x: cut")])
    text = str(error.value)
    assert text.startswith(f"{limit + 1} of {pictures:,} training pictures")
    assert f"up to {limit} are replaced" in text and "/p/0: cut" in text
    assert f"detco data check coco {coco} --split train" in text
    assert len(replaced.reasons) == limit  # the state is a copy


def test_a_run_without_such_pictures_says_nothing(coco):
    assert (
        Replaced(datasets.load("coco", coco, "train"), 30).facts() == {}
        and deviations({"precision": "float32"}) == ()
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (1, "1 training picture could not be read and was replaced by others"),
        (3, "3 training pictures could not be read and were replaced by others"),
    ],
)
def test_what_a_table_says(count, text):
    assert deviations({"replaced": {"pictures": count, "draws": 9, "first": ""}}) == (text,)


# --- the engine torchvision ----------------------------------------------------------------------


def test_batches_hold_the_picture_drawn_in_its_place(coco):
    """With that picture's own boxes, at the size and under the flip of the one that
    it stands for."""
    dataset = datasets.load("coco", coco, "train")
    pictures, resize = DetectionPictures(dataset, Wanted(), 192), Resize(train=(48, 64))
    keys = list(islice(batches(pictures, resize, 2, 4, 0), 20))
    tall = [image["height"] > image["width"] for image in dataset.images]
    victim, short, flip = keys[6][1]
    (path,) = truncate(dataset, victim)
    items = [Drawn(pictures, 4)[key] for keys_of_one in placed(keys, 0) for key in keys_of_one]
    others = [n for n in pictures.trainable() if n != victim and tall[n] == tall[victim]]
    choice = others[int(np.random.default_rng((4, 6, 1, 0)).integers(len(others)))]
    (pixels, target), ((named, reason),) = items[13]
    expected = pictures[choice, short, flip]
    assert torch.equal(pixels, expected[0]) and torch.equal(target["boxes"], expected[1]["boxes"])
    assert (
        named == path
        and reason.startswith(f"cannot read the picture {path}: ")
        and "truncated" in reason
    )
    hit = [n for n, (_, broken) in enumerate(items) if broken]
    assert (
        hit
        == [n for n, key in enumerate(key for batch in keys for key in batch) if key[0] == victim]
        and hit
    )


def test_a_picture_alone_in_its_orientation_is_replaced_all_the_same(coco):
    dataset = datasets.load("coco", coco, "train")
    images = [
        image | {"height": 3 if n == 4 else 1, "width": 2} for n, image in enumerate(dataset.images)
    ]
    drawn = Drawn(DetectionPictures(replace(dataset, images=tuple(images)), Wanted(), 192), 0)
    assert drawn.others(4) == [n for n in drawn.pictures.trainable() if n != 4]
    assert drawn.others(0) == [n for n in drawn.pictures.trainable() if n not in (0, 4)]


ROW = tiny("small-retinanet", iterations=6)


class Stopped(Exception):
    pass


@pytest.fixture
def engine(monkeypatch):
    """Runs a job, in float32 and with a checkpoint at every iteration; gives losses and outcome."""
    monkeypatch.setattr(torchvision_rcnn, "CHECKPOINT_SECONDS", -1)
    monkeypatch.setattr(torchvision_rcnn, "precision_for", lambda device: None)

    def run(job, stop=None, workers=False, before=lambda iteration: None):
        monkeypatch.setattr(torchvision_rcnn, "CACHE_BYTES", 0 if workers else 1 << 30)
        losses = {}

        def report(stage, done, total, **figures):
            if stage == "train":
                losses[done] = figures["loss"]
                before(done)
                if done == stop:
                    raise Stopped

        try:
            return losses, torchvision_rcnn.run(job, report)
        except Stopped:
            return losses, None

    return run


def test_it_is_the_same_in_loading_processes_and_after_a_restart(coco, tmp_path, engine):
    """The count comes back from the loading processes, and from the checkpoint."""
    job = job_for(tiny("small-retinanet", iterations=6, precise_bn=1), coco, tmp_path / "whole")
    pictures = DetectionPictures(job.train, Wanted(), 192)
    keys = list(islice(batches(pictures, job.protocol.resize, 2, 4, 0), 7))
    order = list(dict.fromkeys(number for batch in keys for number, _, _ in batch))
    victims = order[1], order[6]
    paths = truncate(job.train, *victims)
    losses, outcome = engine(job)
    draws = sum(number in victims for batch in keys for number, _, _ in batch)
    facts = outcome.facts["replaced"]
    assert (facts["pictures"], facts["first"].split(": ")[0]) == (
        2,
        f"cannot read the picture {paths[0]}",
    )
    assert facts["draws"] >= draws >= 2
    assert "2 training pictures could not be read and were replaced by others" in outcome.deviations
    predictions = outcome.predictions.read_text()
    job = replace(job, out=tmp_path / "again")
    job.out.mkdir()
    first, none = engine(job, stop=3, workers=True)
    rest, again = engine(job, workers=True)
    # the checkpoint is written after the report
    assert none is None and sorted(first) == [1, 2, 3] and min(rest) == 3
    assert first | rest == losses and again.facts["replaced"] == facts
    assert again.predictions.read_text() == predictions


def test_a_checkpoint_of_before_goes_on(coco, tmp_path, engine):
    """Written when nothing was counted."""
    job = job_for(ROW, coco, tmp_path / "out")
    engine(job, stop=2)
    state = torch.load(job.out / "checkpoint.pt", weights_only=True)
    del state["replaced"]
    torch.save(state, job.out / "checkpoint.pt")
    losses, outcome = engine(job)
    assert min(losses) == 2 and "replaced" not in outcome.facts


def test_a_checkpoint_of_another_network_is_not_taken(coco, tmp_path, engine, caplog):
    """Of a version whose modules had other names."""
    job = job_for(ROW, coco, tmp_path / "out")
    engine(job, stop=2)
    path = job.out / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    state["model"] = {name.replace("trunk", "body"): t for name, t in state["model"].items()}
    torch.save(state, path)
    losses, _ = engine(job)
    assert min(losses) == 1 and f"{path} cannot be read (another version" in caplog.text


@pytest.mark.parametrize("workers", [False, True])
def test_too_many_end_the_run(workers, coco, tmp_path, engine):
    job = job_for(ROW, coco, tmp_path / "out")
    truncate(job.train, *range(0, 30, 2))
    with pytest.raises(
        InputError,
        match=r"^[6-9] of 30 .*up to 5 are replaced",
    ) as error:
        engine(job, workers=workers)
    assert "\n" not in str(error.value) and not (job.out / "predictions.json").exists()


@pytest.mark.parametrize("workers", [False, True])
def test_a_test_picture_that_breaks_ends_the_job_in_one_line(workers, coco, tmp_path, engine):
    job = job_for(ROW, coco, tmp_path / "out")
    found = []
    with pytest.raises(InputError) as error:
        engine(
            job,
            workers=workers,
            before=lambda done: found.extend(truncate(job.test, 4)) if done == 6 else None,
        )
    text = str(error.value)
    assert text.startswith(f"cannot read the picture {found[0]}: ") and "\n" not in text
    assert text.endswith("; a test picture cannot be replaced: bring it back and start again")


def test_a_picture_that_has_changed_its_size_is_replaced_too(coco):
    from PIL import Image

    dataset = datasets.load("coco", coco, "train")
    path = dataset.images[2]["file_name"]
    Image.new("RGB", (9, 7)).save(path)
    item, broken = Drawn(DetectionPictures(dataset, Wanted(), 192), 0)[(2, 64, False), 0, 0]
    assert (
        item is not None
        and broken[0][0] == path
        and "is 9 x 7 px, its annotation says" in broken[0][1]
    )
