"""A suite changed by `--protocols` and `--set`."""

import json
from dataclasses import replace

import pytest

from detco.benchmarks.cli.main import main
from detco.benchmarks.plan import suite_plan
from detco.benchmarks.suites import builtin, files
from detco.common.errors import InputError
from tests.factories.suites import suite_of


def test_only_some_protocols_and_what_they_start_from():
    voc = files.adapted(builtin.SUITES["paper-all"], protocols=["voc-faster-rcnn-c4-24k"])
    assert [task.protocol for task in voc.protocols] == ["voc-faster-rcnn-c4-24k"]
    assert {row.name for row in voc.start} == set(voc.protocols[0].start)
    assert "detco-aa" not in {row.name for row in voc.start}  # table 6 has no such row
    with pytest.raises(InputError, match="unknown protocol of suite smoke 'small-retinan'; did"):
        files.adapted(builtin.SUITES["smoke"], protocols=["small-retinan"])


def test_a_suite_without_protocols_takes_any(drawn, photos):
    suite = suite_of(drawn, photos, protocols=())
    made = files.adapted(suite, protocols=["small-retinanet", "small-knn"])
    assert sorted(task.protocol for task in made.protocols) == ["small-knn", "small-retinanet"]


def test_a_setting_reaches_all_that_have_it_and_wins_in_either_spelling(drawn, photos):
    tasks = (
        builtin.Task("small-retinanet", settings={"schedule.iterations": 40}),
        builtin.Task("small-faster-rcnn-fpn", settings={"iterations": 30}),
    )
    suite = suite_of(drawn, photos, protocols=tasks, transfer={"iterations": 20})
    suite = replace(suite, pretrain={"fill_queue": False})
    for key in ("iterations", "schedule.iterations", "transfer.iterations"):
        made, lines = files.changed(suite, {key: 7, "pretrain.epochs": 2})
        jobs = suite_plan.plan(made, photos / "out")
        rows = [job.spec["protocol_row"] for job in jobs if job.kind == "transfer"]
        assert [row["schedule"]["iterations"] for row in rows] == [7] * 4
        assert [job.spec["recipe"]["epochs"] for job in jobs if job.kind == "pretrain"] == [2]
        assert lines == [
            f"{key}=7 in small-faster-rcnn-fpn, small-retinanet",
            "pretrain.epochs=2 in detco-small",
        ]


def test_a_setting_of_some_protocols_leaves_the_others_as_they_are(drawn, photos):
    tasks = (builtin.Task("small-retinanet"), builtin.Task("small-linear"))
    made, lines = files.changed(
        suite_of(drawn, photos, protocols=tasks), {"classifier.augment": False}
    )
    assert [task.settings for task in made.protocols] == [{}, {"classifier.augment": False}]
    assert lines == ["classifier.augment=False in small-linear"]


@pytest.mark.parametrize(
    "key, words",
    [
        ("iteration", "nothing in suite mine has this setting; did you mean 'schedule.iterations'"),
        ("transfer.queue", "nothing in suite mine has this setting"),
        ("pretrain.iterations", "nothing in suite mine has this setting"),
        ("optimizer", "say pretrain.optimizer or transfer.optimizer"),
    ],
)
def test_wrong_keys_are_refused(drawn, photos, key, words):
    with pytest.raises(InputError, match=words):
        files.changed(suite_of(drawn, photos), {key: 1})


def test_the_command_shows_changes_and_other_settings_are_other_runs(tmp_path, capsys):
    command = ["run", "smoke", "--dry-run", "--json", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    usual = {row["title"]: row["id"] for row in json.loads(capsys.readouterr().out)}
    changes = ["--protocols", "small-retinanet", "--set", "transfer.schedule.iterations=9"]
    assert main([*command, *changes]) == 0
    shown = capsys.readouterr()
    found = {row["title"]: row["id"] for row in json.loads(shown.out)}
    assert "set: transfer.schedule.iterations=9 in small-retinanet" in shown.err
    assert {title for title in usual if "small-" in title and title not in found} == {
        title for title in usual if "small-mask" in title or "small-faster" in title
    }
    for title, key in found.items():
        assert (usual[title] == key) == ("small-retinanet" not in title)
    assert main([*command, "--set", "iteration=2"]) == 2
    assert "did you mean 'schedule.iterations'" in capsys.readouterr().err
