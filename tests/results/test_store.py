"""Records on disk: written whole or not at all, read with every doubt reported, locks that die with
their owner."""

import json
import os
import subprocess
import sys

import pytest

from detco.results import schema, store
from tests.factories.records import put, sound_record

ON_THE_WAY = {"iteration": 5, "metrics": {"box_ap": 12.5}}


def evaluated(evaluations):
    return sound_record(facts={"evaluations": evaluations})


def test_write_and_read_back(tmp_path):
    value = {"a": [1, 2.5, None, "ä"], "b": {"c": True}}
    store.write_json(tmp_path / "x.json", value)
    assert store.read_json(tmp_path / "x.json") == value
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_a_failing_write_leaves_the_old_file(tmp_path):
    store.write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(ValueError):
        store.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert store.read_json(tmp_path / "x.json") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize(
    "content, reason",
    [
        (json.dumps(sound_record())[:-20], "truncated"),
        ("", "truncated"),
        ("[1, 2]", "not a whole JSON object"),
        (sound_record(format=2), "format 2"),
        (sound_record(format="1"), "format '1'"),
        (sound_record(status="running"), "neither done nor failed"),
        (sound_record(metrics={"box_ap": float("nan")}), "box_ap is nan"),
        (sound_record(metrics={"box_ap": "31"}), "box_ap is '31'"),
        (sound_record(metrics={"box_ap": True}), "box_ap is True"),
        (sound_record(metrics={"box_ap": 100.5}), "outside 0..100"),
        (sound_record(metrics={"box_ap": -1}), "outside 0..100"),
        (sound_record(seed="0"), "seed is '0'"),
        (
            {k: v for k, v in sound_record().items() if k != "protocol_hash"},
            "protocol_hash is missing",
        ),
        (sound_record(facts=[1]), "facts is [1], not a dict"),
        (sound_record(spec={"launch": "amp"}), "spec.launch is 'amp', not a dict"),
        (evaluated("often"), "facts.evaluations is 'often', not a list"),
        (evaluated([5]), "facts.evaluations[0] is 5, not a dict"),
        (
            evaluated([{"iteration": "5", "metrics": {}}]),
            "facts.evaluations[0].iteration is '5', not an int",
        ),
        (
            evaluated([{"iteration": 5, "metrics": [1]}]),
            "facts.evaluations[0].metrics is [1], not a dict",
        ),
        (
            evaluated([ON_THE_WAY, ON_THE_WAY]),
            "facts.evaluations[1] is of iteration 5, not after 5",
        ),
        (
            evaluated([ON_THE_WAY | {"iteration": 0}]),
            "facts.evaluations[0] is of iteration 0, not after 0",
        ),
        (
            evaluated([ON_THE_WAY | {"metrics": {"box_ap": 101.0}}]),
            "facts.evaluations[0].metrics.box_ap is 101.0, outside 0..100",
        ),
        (
            evaluated([ON_THE_WAY | {"metrics": {"box_ap": None}}]),
            "facts.evaluations[0].metrics.box_ap is None, not a number",
        ),
    ],
)
def test_doubtful_records_are_named_and_left_out(tmp_path, content, reason):
    put(tmp_path / "good", sound_record(1))
    put(tmp_path / "bad" / "deep", content)
    records, problems = store.read(tmp_path)
    assert [r["id"] for r in records] == [sound_record(1)["id"]]
    assert len(problems) == 1 and problems[0].startswith(
        str(tmp_path / "bad" / "deep" / "record.json")
    )
    assert reason in problems[0]


def test_sound_evaluations_on_the_way_are_read(tmp_path):
    made = evaluated([ON_THE_WAY, {"iteration": 10, "metrics": {}}])
    put(tmp_path / "run", made)
    assert store.read(tmp_path) == ([made], [])


def test_a_copied_record_counts_once(tmp_path):
    put(tmp_path / "a", sound_record(1))
    put(tmp_path / "b", sound_record(1))
    records, problems = store.read(tmp_path)
    assert (
        len(records) == 1 and "second record" in problems[0] and str(tmp_path / "b") in problems[0]
    )


def test_unfinished_are_the_planned_without_a_record(tmp_path):
    put(tmp_path / "a", sound_record(1))
    for name in "ab":
        (tmp_path / name).mkdir(exist_ok=True)
        store.write_json(tmp_path / name / "spec.json", {"id": name})
    assert store.unfinished(tmp_path) == [{"id": "b"}]


def test_status_of_every_state(tmp_path):
    def job(name, **files):
        (tmp_path / name).mkdir()
        for file, content in (
            {"spec": {"id": name, "kind": "fake", "title": name}} | files
        ).items():
            store.write_json(tmp_path / name / f"{file}.json", content)

    progress = {"stage": "train", "done": 3, "total": 9, "figures": {"loss": 1.5}, "started": 0}
    job("planned")
    job("interrupted", progress=progress)
    job("done", record=sound_record(kind="fake", wall_seconds=12.5))
    job("failed", record=sound_record(kind="fake", status="failed", error="no space", metrics={}))
    job("running", progress=progress)
    lock = store.take(tmp_path / "running")
    rows = {row["title"]: row for row in store.status(tmp_path)}
    os.close(lock)
    assert {name: row["state"] for name, row in rows.items()} == {
        name: name for name in rows
    } and len(rows) == 5
    assert (rows["running"]["stage"], rows["running"]["done"], rows["running"]["total"]) == (
        "train",
        3,
        9,
    )
    assert rows["done"]["seconds"] == 12.5 and rows["failed"]["error"] == "no space"


def test_lock_is_exclusive_and_dies_with_the_process(tmp_path):
    code = f"""
import sys
from pathlib import Path
from detco.results import store
lock = store.take(Path({str(tmp_path)!r}))
print("taken" if lock is not None else "refused", flush=True)
sys.stdin.read()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "taken\n"
    assert store.take(tmp_path) is None and store.is_taken(tmp_path)
    holder.kill()
    holder.communicate()
    assert not store.is_taken(tmp_path)
    lock = store.take(tmp_path)
    assert lock is not None
    os.close(lock)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hardware": None}, "hardware is None"),
        ({"stages": "x"}, "stages is 'x'"),
        ({"stages": {"train": [1]}}, "stages.train[1] is missing"),
        ({"wall_seconds": "long"}, "wall_seconds is 'long'"),
        ({"warnings": [1]}, "warnings[0] is 1, not a str"),
        ({"spec": {"kind": "transfer", "needs": "all"}}, "spec.needs is 'all'"),
        ({"spec": {"kind": "transfer", "protocol_row": {"schedule": 3}}}, "spec.protocol_row.sch"),
        ({"versions": {"torch": [2]}}, "versions.torch is [2], not a str"),
        ({"hardware": {"gpu": [2]}}, "hardware.gpu is [2], not a str and not an int"),
        ({"wall_seconds": 10**400}, "wall_seconds is 1000"),
        ({"anything": {"else": [2**64]}}, "beyond 64 bits"),
        ({"anything": [float("inf")]}, "not finite"),
    ],
)
def test_what_does_not_fit_is_named_and_left_out(tmp_path, changes, reason):
    put(tmp_path / "good", sound_record(1))
    put(tmp_path / "odd", sound_record(2, **changes))
    records, problems = store.read(tmp_path)
    assert [found["id"] for found in records] == [f"{1:064x}"]
    assert len(problems) == 1 and reason in problems[0] and str(tmp_path / "odd") in problems[0]
    assert store.read_record(tmp_path / "odd") is None
    assert list(store.done(tmp_path)) == list(store.folders(tmp_path)) == [f"{1:064x}"]


def test_nesting_beyond_reason_is_left_out():
    deep: list = []
    for _ in range(schema.DEEPEST + 1):
        deep = [deep]
    assert "deep" in schema.misfit({"a": deep}, schema.Spec)
    assert schema.misfit({"a": deep[0][0]}, schema.Spec) is None


def test_progress_that_does_not_fit_says_nothing(tmp_path):
    good = {"stage": "train", "done": 3, "total": 9, "figures": {"loss": 1.5, "lr": "nan"}}
    store.write_json(tmp_path / "progress.json", good)
    assert store.read_progress(tmp_path) == good
    for key, value in (("done", "3"), ("figures", [1]), ("trained", [1]), ("speed", {})):
        store.write_json(tmp_path / "progress.json", good | {key: value})
        assert store.read_progress(tmp_path) == {}


def test_a_pipe_in_the_place_of_a_record_is_none(tmp_path):
    os.mkfifo(tmp_path / "record.json")
    assert store.read_json(tmp_path / "record.json") is None
    assert store.read(tmp_path)[0] == []
