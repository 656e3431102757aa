"""What a job's identity depends on, and what it does not."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from detco.benchmarks.plan import suite_plan
from detco.benchmarks.suites import files
from detco.benchmarks.suites.builtin import Data, Scenes, StartingPoint, Task
from detco.common.errors import InputError
from detco.common.files import sha256_of
from tests.factories.suites import ids, suite_of


def changed(before, after):
    assert before.keys() == after.keys()
    return {title for title in before if before[title] != after[title]}


def test_identity_changes_with_what_determines_the_result_only(drawn, photos):
    tasks = (Task("small-retinanet"), Task("small-faster-rcnn-c4"))
    suite = suite_of(drawn, photos, protocols=tasks)
    before = ids(suite)
    assert len(set(before.values())) == len(before) == 5
    assert changed(before, ids(suite, Path("elsewhere"))) == set()
    assert (
        changed(
            before,
            ids(replace(suite, name="other", data=Data(drawn / "voc", "voc", "trainval", "test"))),
        )
        == set()
    )
    of_detco = {title for title in before if "detco" in title}
    assert (
        len(of_detco) == 3
        and changed(before, ids(replace(suite, pretrain={"epochs": 7}))) == of_detco
    )
    assert changed(before, ids(replace(suite, pretrain={"workers": 3}))) == set()
    of_retina = {title for title in before if "retinanet" in title}
    one = replace(
        suite, protocols=(Task("small-retinanet", settings={"schedule.lr": 0.5}), tasks[1])
    )
    assert changed(before, ids(one)) == of_retina
    cells = {title for title in before if not title.startswith("pretrain")}
    assert changed(before, ids(replace(suite, engine="replay"))) == cells


def test_precision_and_evaluations_of_a_suite_are_in_its_fine_tunings(drawn, photos, monkeypatch):
    monkeypatch.setattr("detco.transfer.engines.resolve", lambda name: "detectron2")
    suite = suite_of(drawn, photos)
    half = replace(suite, amp="bf16", eval_period=500)
    for job in suite_plan.plan(half, Path("out"), launches=({"num_gpus": 2}, {"num_gpus": 2})):
        wanted = {"num_gpus": 2} | (
            {"amp": "bf16", "eval_period": 500} if job.kind == "transfer" else {}
        )
        assert job.spec["launch"] == wanted
    before = ids(suite)
    cells = {title for title in before if not title.startswith("pretrain")}
    assert (
        changed(before, ids(half)) == cells
        and changed(before, ids(replace(suite, eval_period=500))) == set()
    )
    assert changed(ids(half), ids(replace(half, amp="fp16"))) == cells


def test_a_suite_keeps_detectors_that_are_asked_for_or_took_long(drawn, tmp_path):
    """It is no part of a run's identity. Nothing is kept of `replay`, which trains nothing."""
    text = {
        "start": "random",
        "data": {"root": str(drawn / "voc")},
        "protocols": "small-retinanet",
        "engine": "torchvision",
    }

    def planned(**changes):
        (job,) = suite_plan.plan(files.parse(text | changes, tmp_path / "own.yaml"), Path("out"))
        return job

    assert (
        planned().spec["keep_model"] == ""
        and planned(keep_model="final").spec["keep_model"] == "final"
    )
    assert planned().id == planned(keep_model="final").id
    long, longer = ({"transfer": {"schedule.iterations": count}} for count in (4999, 5000))
    assert (
        planned(**long).spec["keep_model"] == "" and planned(**longer).spec["keep_model"] == "final"
    )
    assert planned(**longer, engine="replay").spec["keep_model"] == ""
    with pytest.raises(InputError, match="replay trains nothing"):
        planned(engine="replay", keep_model="final")
    with pytest.raises(InputError, match=r"keep_model must be .*'bset'"):
        planned(keep_model="bset")


def test_identity_follows_the_content_of_pictures_and_data(drawn, photos, tmp_path):
    suite = suite_of(drawn, photos)
    before = ids(suite)
    moved = tmp_path / "moved"
    shutil.copytree(drawn / "voc", moved)
    assert changed(before, ids(replace(suite, data=Data(moved)))) == set()
    victim = next(
        path
        for path in sorted((moved / "Annotations").glob("*.xml"))
        if "<xmin>" in path.read_text()
    )
    text = victim.read_text()
    start = text.index("<xmax>") + 6
    end = text.index("</xmax>")
    victim.write_text(text[:start] + str(int(text[start:end]) - 1) + text[end:])
    assert changed(before, ids(replace(suite, data=Data(moved)))) == {
        t for t in before if t.startswith("small")
    }
    (photos / "0.png").unlink()
    assert changed(before, ids(suite)) == {t for t in before if "detco" in t}


def test_a_backbone_file_counts_by_its_content(drawn, photos, tmp_path):
    from detco.common import backbone_file

    trunk = backbone_file.random_backbone("resnet18", 0)
    backbone_file.write(tmp_path / "a.safetensors", trunk)
    shutil.copy(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    start = (StartingPoint("x", weights=tmp_path / "a.safetensors"),)
    (first,) = suite_plan.plan(suite_of(drawn, photos, start=start), Path("out"))
    (second,) = suite_plan.plan(
        suite_of(drawn, photos, start=(replace(start[0], weights=tmp_path / "b.safetensors"),)),
        Path("out"),
    )
    assert first.id == second.id and first.spec["weights"] != second.spec["weights"]
    assert first.spec["weights_identity"] == sha256_of(tmp_path / "a.safetensors")


def test_a_folder_with_another_run_is_refused(drawn, photos, tmp_path):
    from detco.benchmarks.plan.jobs import Place, pretrain_job
    from detco.benchmarks.run.local import State, write_spec

    def one(seed):
        start = StartingPoint("detco-small", recipe="detco-small", seed=seed)
        return pretrain_job(
            start, {}, suite_plan.folder_of_images(photos), tmp_path / "x", Place(tmp_path)
        )

    suite_plan.refuse_other_run(one(0))
    write_spec(State(one(0)))
    suite_plan.refuse_other_run(one(1))  # nothing is there to lose
    (tmp_path / "x" / "checkpoint-1.pt").touch()
    suite_plan.refuse_other_run(one(0))
    with pytest.raises(InputError, match=r"holds another run .*other seed"):
        suite_plan.refuse_other_run(one(1))


def test_a_job_done_under_another_name_is_not_done_again(drawn, photos, tmp_path):
    from detco.benchmarks.run.local import State, write_spec
    from detco.results import store

    suite = suite_of(drawn, photos)
    jobs = suite_plan.plan(suite, tmp_path)
    moved = tmp_path / "elsewhere" / "deep"
    moved.mkdir(parents=True)
    store.write_json(
        moved / "record.json",
        {
            "format": 1,
            "id": jobs[0].id,
            "kind": "pretrain",
            "status": "done",
            "spec": {},
            "metrics": {},
        },
    )
    renamed = replace(suite, start=(replace(suite.start[1], name="other"), suite.start[0]))
    again = suite_plan.plan(renamed, tmp_path)
    assert again[0].id == jobs[0].id and again[0].folder == moved
    assert {job.spec["weights"] for job in again[1:]} == {
        "random",
        str(moved / "backbone.safetensors"),
    }
    # planned, perhaps begun by another runner: not begun again beside it
    write_spec(State(jobs[1]))
    (same,) = (job for job in suite_plan.plan(renamed, tmp_path) if job.id == jobs[1].id)
    assert same.folder == jobs[1].folder


def test_scenes_drawn_otherwise_are_another_data_set(monkeypatch):
    from detco.benchmarks.plan import jobs

    place = jobs.Place(Path("/out"))
    before = jobs.scenes_job(Scenes(), place)
    monkeypatch.setattr(jobs, "DRAWING", jobs.DRAWING + 1)
    assert jobs.scenes_job(Scenes(), place).id != before.id
