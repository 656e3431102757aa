"""`detco transfer` as a job: published data, the scaled batch, processes and machines; `data
subset`, `protocols show`."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from detco.benchmarks import config
from detco.benchmarks.cli import commands
from detco.benchmarks.cli import main as cli
from detco.benchmarks.plan import jobs, measured_speeds, single
from detco.benchmarks.run import machine
from detco.benchmarks.suites.builtin import Data, Scenes, StartingPoint
from detco.common.errors import InputError
from detco.transfer import engines
from detco.transfer.protocols import PROTOCOLS


def job(scenes, tmp_path, *more, protocol="small-retinanet", data="voc"):
    words = [
        "transfer",
        protocol,
        "--weights",
        "random",
        "--out",
        tmp_path,
        "--engine",
        "replay",
        *more,
    ]
    words += ["--data", scenes / data] if data else []
    return single.job_of(commands.parser("x").parse_args(list(map(str, words))))


def test_batch_follows_the_linear_rule_and_is_a_scaling_of_its_own(scenes, tmp_path):
    plain, half = job(scenes, tmp_path), job(scenes, tmp_path, "--batch", 2)
    row, scaled = PROTOCOLS["small-retinanet"].schedule, half.spec["protocol_row"]["schedule"]
    assert (plain.spec["scaling"], half.spec["scaling"]) == ("1", "1/2") and plain.id != half.id
    assert (scaled["images"], scaled["lr"], scaled["iterations"]) == (
        2,
        row.lr / 2,
        row.iterations * 2,
    )
    with pytest.raises(InputError, match="--batch must be at least 1"):
        job(scenes, tmp_path, "--batch", 0)


def test_processes_and_precision_determine_the_run_and_evaluations_do_not(scenes, tmp_path):
    plain = job(scenes, tmp_path)
    assert (
        job(scenes, tmp_path, "--eval-period", 10).id
        == plain.id
        == job(scenes, tmp_path, "--num-gpus", 1).id
    )
    started = (["--num-gpus", 2], ["--amp"], ["--num-gpus", 2, "--amp"], ["--amp", "bf16"])
    others = {job(scenes, tmp_path, *more).id for more in started}
    assert len(others | {plain.id}) == 5
    assert job(scenes, tmp_path, "--amp", "fp16").id == job(scenes, tmp_path, "--amp").id
    found = job(scenes, tmp_path, "--num-gpus", 2, "--amp", "bf16", "--eval-period", 9).spec[
        "launch"
    ]
    assert found == {"num_gpus": 2, "amp": "bf16", "eval_period": 9}


@pytest.mark.parametrize(
    "launch, identity",
    [  # as they were when `amp` was a yes or no
        ({}, "3fcccb5797b74171b5973e8b9128349d7e453e1b9577cc7d3387190cbc870030"),
        ({"num_gpus": 2}, "577c6f32e4e75234ab56ef8fa8e66c0fed272c6a4780d98160330260c34d4169"),
        ({"amp": True}, "e2765aba9cc8884ff3a7ba48a0e92db3c519cb9334e84e0ce4f152add5d36680"),
        (
            {"amp": "fp16", "eval_period": 9},
            "e2765aba9cc8884ff3a7ba48a0e92db3c519cb9334e84e0ce4f152add5d36680",
        ),
        (
            {"amp": "fp16", "num_gpus": 2},
            "4ea7f8d16b12af4e2b9f18c18ccabaaa381c0add4f23d7c5171cbdd2d8591039",
        ),
    ],
)
def test_runs_of_earlier_versions_keep_their_identity(launch, identity):
    place, data = (
        jobs.Place(Path("out"), "detectron2", launch=launch),
        Data(Path("d"), "voc", "trainval", "test"),
    )
    source, row = jobs.Source(Path("d"), "data"), PROTOCOLS["small-retinanet"]
    run = jobs.FineTuning("random", jobs.random_source(), row, data, source)
    assert jobs.transfer_job(run, place).id == identity


def test_folders_titles_and_identities_stay_as_they_were():
    """Of every kind of job: with another identity all that is done would run again."""
    data, pictures = Data(Path("d"), "voc", "trainval", "test"), jobs.Source(Path("d"), "data")
    launch = {"num_gpus": 2, "num_machines": 2, "machine_rank": 1}
    run = jobs.FineTuning(
        "random", jobs.random_source(), PROTOCOLS["small-retinanet"], data, pictures
    )
    helper = jobs.transfer_job(run, jobs.Place(Path("out"), "detectron2", launch=launch))
    assert (helper.kind, helper.title, str(helper.folder), helper.id) == (
        "machine",
        "small-retinanet from random, seed 0, machine 1",
        "out/transfer/small-retinanet/random-seed0-432a6cd6/machine1",
        "b6f5d80b4f45025e0675a6a5766ce12c651981c4836cf7ab9840b91c3970cff8",
    )
    weights, source = (
        jobs.Source(Path("w"), "w1", ("j",)),
        jobs.Source(Path("d"), "data", ("k",), 7, 8),
    )
    row = PROTOCOLS["coco-retinanet-90k"]
    run = jobs.FineTuning("a", weights, row, data, source, 3, (1, 2), "2")
    made = jobs.transfer_job(run, jobs.Place(Path("out"), "torchvision", launch={"amp": "bf16"}))
    assert made.id == "3e6dbfc5e00ce3af22b59e0004157cabfff3f40c40ba70a9ed1c4c5a4603fe16"
    assert str(made.folder) == "out/transfer/coco-retinanet-90k/a-seed3-3e6dbfc5"
    assert made.needs == ("j", "k") and made.spec["keep_model"] == "final"
    assert (made.spec["order"], made.spec["scaling"], made.spec["data"]) == (
        [1, 2],
        "2",
        {
            "layout": "voc",
            "train": "trainval",
            "test": "test",
            "root": "d",
            "identity": "data",
            "pictures": [7, 8],
        },
    )
    start = StartingPoint("a", recipe="detco-small", settings={"lr": 2e-3}, seed=1)
    place, pictures = jobs.Place(Path("out")), jobs.Source(Path("p"), "pictures", (), 200)
    pretraining = jobs.pretrain_job(start, {"epochs": 2}, pictures, None, place)
    assert pretraining.id == "40ca7d642f751977d3b8d36ef16c34525139c807fdf1f69253ef3f2884468ad3"
    assert str(pretraining.folder) == "out/pretrain/a-40ca7d64"
    drawing = jobs.scenes_job(Scenes(images=8), place)
    assert drawing.id == "5ff9e28c2c87725ed95f00185663f67929364ff9fa8778fd7ff9be8a05b42a81"


def test_specs_of_earlier_versions_are_read():
    for amp, wanted in ((True, "fp16"), (False, ""), ("bf16", "bf16"), ("", "")):
        assert (
            config.build(engines.Launch, {"amp": amp}, "launch").amp
            == wanted
            == engines.Launch(amp=amp).amp
        )


def test_amp_alone_takes_no_other_word(scenes, tmp_path):
    def parsed(*words):
        return commands.parser("x").parse_args([*words, "--weights", "random", "--out", "x"])

    for words in (
        ["--amp", "small-retinanet"],
        ["small-retinanet", "--amp"],
        ["--amp", "fp16", "small-retinanet"],
    ):
        assert (parsed("transfer", *words).protocol, parsed("transfer", *words).amp) == (
            "small-retinanet",
            "fp16",
        )
    assert (
        parsed("transfer", "small-retinanet", "--amp", "bf16").amp == "bf16"
        and parsed("transfer", "small-retinanet").amp == ""
    )


def test_a_finished_run_is_not_done_again_for_evaluations(scenes, tmp_path, capsys):
    words = ["transfer", "small-retinanet", "--weights", "random", "--engine", "replay"]
    words += ["--data", scenes / "voc", "--out", tmp_path]
    assert cli.main(list(map(str, words))) == 0 and "evaluations" not in capsys.readouterr().out
    assert cli.main([*map(str, words), "--eval-period", "50"]) == 0
    said = (
        "no evaluations every 50 iterations: the run had finished without them; a new --out makes"
        " them\n"
    )
    assert said in capsys.readouterr().out


def test_another_name_is_no_other_job(scenes, tmp_path):
    plain = job(scenes, tmp_path)
    plain.folder.mkdir(parents=True)
    (plain.folder / "spec.json").write_text(json.dumps(plain.spec))
    other = job(scenes, tmp_path, "--name", "mine")
    assert (other.id, other.folder) == (plain.id, plain.folder) and other.spec[
        "starting_point"
    ] == "mine"


def test_other_machines_help_in_the_folder_of_the_first(scenes, tmp_path):
    url = ["--num-machines", 2, "--dist-url", "tcp://first:1234"]
    first, second = job(scenes, tmp_path, *url), job(scenes, tmp_path, *url, "--machine-rank", 1)
    assert (first.kind, second.kind) == ("transfer", "machine") and first.id != second.id
    assert second.folder == first.folder / "machine1"


def test_published_data_need_no_option(scenes, tmp_path, monkeypatch):
    (tmp_path / "cityscapes").symlink_to(scenes / "cityscapes")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    by_variable = job(scenes, tmp_path, protocol="cityscapes-instance", data=None)
    monkeypatch.delenv("DETECTRON2_DATASETS")
    by_option = job(tmp_path, tmp_path, protocol="cityscapes-instance", data=".")
    assert (
        by_variable.spec["data"]["root"]
        == str(tmp_path / "cityscapes")
        == by_option.spec["data"]["root"]
    )
    assert (by_variable.spec["data"]["train"], by_variable.spec["data"]["test"]) == ("train", "val")


def test_a_job_over_several_gpus_gets_them_all(monkeypatch):
    monkeypatch.setattr(machine, "visible_gpus", lambda: ["0", "1", "2", "3", "4"])

    def gpus(each):
        return [slot["CUDA_VISIBLE_DEVICES"] for slot in machine.local_slots(9, None, "auto", each)]

    assert (
        gpus(1) == ["0", "1", "2", "3", "4"]
        and gpus(2) == ["0,1", "2,3"]
        and gpus(8) == ["0,1,2,3,4"]
    )


def test_data_subset(scenes, tmp_path, capsys):
    out = tmp_path / "share.json"
    words = [
        "data",
        "subset",
        scenes / "coco" / "annotations" / "instances_train.json",
        "--percent",
        "10",
        "--out",
        out,
    ]
    assert cli.main(list(map(str, words))) == 0
    count = len(json.loads(out.read_text())["annotations"])
    assert capsys.readouterr().out == f"{out}: 3 of 30 pictures, {count} objects\n"


def test_a_protocol_that_detectron2_does_not_run_has_no_config(capsys):
    assert cli.main(["protocols", "show", "imagenet-knn", "--detectron2"]) == 2
    assert "imagenet-knn has no config of Detectron2" in capsys.readouterr().err


@pytest.mark.detectron2
def test_protocols_show_prints_the_detectron2_config(capsys, tmp_path):
    import yaml

    from detco.common import backbone_file

    backbone = replace(
        backbone_file.random_backbone("resnet18", 0),
        channel_order="BGR",
        mean=(1.0, 2.0, 3.0),
        std=(4.0, 5.0, 6.0),
    )
    backbone_file.write(tmp_path / "own.safetensors", backbone)
    base = ["protocols", "show", "coco-retinanet-90k", "--detectron2"]
    assert cli.main(base) == 0
    plain = yaml.safe_load(capsys.readouterr().out)
    assert cli.main([*base, "--weights", str(tmp_path / "own.safetensors")]) == 0
    own = yaml.safe_load(capsys.readouterr().out)
    assert (plain["MODEL"]["META_ARCHITECTURE"], plain["SOLVER"]["MAX_ITER"]) == (
        "RetinaNet",
        90_000,
    )
    assert (plain["INPUT"]["FORMAT"], own["INPUT"]["FORMAT"]) == ("RGB", "BGR")
    assert own["MODEL"]["PIXEL_MEAN"] == [1, 2, 3] and own["MODEL"]["RESNETS"]["DEPTH"] == 18


def test_a_pretraining_that_would_only_fill_its_queues_is_refused_in_the_plan():
    """128 keys by batches of 64 take 2 iterations; 2 epochs over 100 images have 2, over 128 4."""
    start, place = StartingPoint("a", recipe="detco-small"), jobs.Place(Path("out"))

    def planned(images, **settings):
        pictures = jobs.Source(Path("p"), "pictures", (), images)
        return jobs.pretrain_job(start, {"epochs": 2, **settings}, pictures, None, place)

    with pytest.raises(InputError, match="2 of 2 iterations would only fill the queues of 128"):
        planned(100)
    assert planned(128).id == planned(0).id  # 0: how many is not known
    assert planned(100, fill_queue=False).id != planned(128).id


def test_random_weights_are_one_run_in_other_words_and_another_network_is_another():
    source, row = jobs.Source(Path("d"), "data"), PROTOCOLS["small-retinanet"]
    data = Data(Path("d"), "voc", "trainval", "test")
    made = []
    for arch in ("", "resnet18", "convnext_atto"):
        run = jobs.FineTuning("random", jobs.random_source(arch), row, data, source)
        made.append(jobs.transfer_job(run, jobs.Place(Path("out"), "torchvision")))
    plain, same, other = made
    assert plain.id == same.id != other.id and "arch" not in plain.spec
    assert other.spec["arch"] == "convnext_atto"
    keys = {measured_speeds.speed_key(job.spec) for job in made}
    assert len(keys) == 2  # a network's speed says nothing of another's
