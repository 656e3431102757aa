"""Suites: what a YAML file means, what is refused before any work, and what a job's identity
depends on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from detco.benchmarks import config
from detco.benchmarks.plan import datasets as plan_datasets
from detco.benchmarks.plan import suite_plan
from detco.benchmarks.scenes import draw as scenes
from detco.benchmarks.suites import builtin, files
from detco.benchmarks.suites.builtin import Data, Scenes, StartingPoint, Suite, Task
from detco.common.errors import InputError
from detco.common.files import sha256_of
from detco.transfer.protocols import PROTOCOLS
from tests.factories import ROOT

REFUSED = InputError
EXAMPLE = ROOT / "examples" / "own_pictures.yaml"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A small drawn data set in all layouts."""
    return scenes.draw(
        tmp_path_factory.mktemp("drawn"), images=8, size=64, unlabelled=66, classification=66
    )


@pytest.fixture
def photos(tmp_path):
    """66 pictures: more than the recipes' batch of 64."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(66):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    return folder


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


# --- the YAML file -------------------------------------------------------------------------------


def test_short_and_long_forms_and_relative_paths(tmp_path):
    text = """
images: pics
data: {layout: voc, root: ../labelled, train: trainval, test: test}
start:
  - random
  - moco-v2-small
  - weights/mine.safetensors
  - runs/best/backbone.safetensors
  - {name: long, recipe: detco-small, settings: {epochs: 9}, seed: 3}
protocols:
  - small-faster-rcnn-c4
  - {protocol: small-retinanet, settings: {schedule.iterations: 300}}
seeds: 3
pretrain: {lr: 1e-2}
"""
    file = tmp_path / "own.yaml"
    file.write_text(text)
    suite = files.load(str(file))
    assert suite == Suite(
        "own",
        (
            StartingPoint("random", random=True),
            StartingPoint("moco-v2-small", recipe="moco-v2-small"),
            StartingPoint("mine", weights=tmp_path / "weights/mine.safetensors"),
            StartingPoint("best", weights=tmp_path / "runs/best/backbone.safetensors"),
            StartingPoint("long", recipe="detco-small", settings={"epochs": 9}, seed=3),
        ),
        (
            Task("small-faster-rcnn-c4"),
            Task("small-retinanet", settings={"schedule.iterations": 300}),
        ),
        Data(tmp_path / "../labelled", "voc", "trainval", "test"),
        tmp_path / "pics",
        seeds=3,
        pretrain={"lr": 0.01},
    )


def test_earlier_spellings_are_read(tmp_path):
    """`pictures` and `optimiser`, as before 2026-11."""
    text = "pictures: a\npictures_by_class: b\nstart: [random]\ntransfer: {schedule.%s: adamw}"
    path = tmp_path / "own.yaml"
    path.write_text(text % "optimiser")
    suite = files.load(str(path))
    assert (suite.images, suite.images_by_class) == (tmp_path / "a", tmp_path / "b")
    row = PROTOCOLS["voc-faster-rcnn-c4-24k"]
    for key in ("schedule.optimiser", "schedule.optimizer", "optimiser", "optimizer"):
        changed = config.override(row, {key: "adamw"})
        assert changed.schedule == replace(row.schedule, optimizer="adamw")
    path.write_text("images: a\npictures: b\nstart: [random]")
    with pytest.raises(InputError, match="images is given twice"):
        files.load(str(path))


@pytest.mark.parametrize(
    "text, parts",
    [
        ("imges: x\nstart: [random]", ["unknown key 'imges'", "did you mean 'images'"]),
        ("start: [random]\ndata: {rot: x}", ["unknown key 'data.rot'", "'root'"]),
        ("start: [random]\ndata: {layout: voc}", ["data.root is missing"]),
        ("start: [random]\ndata: {root: x, layout: vok}", ["data: unknown layout 'vok'", "'voc'"]),
        ("start: [random]\nseeds: three", ["seeds must be a whole number", "'three'"]),
        (
            "start: [{name: a, recipe: x, random: true}]",
            ["'a' needs exactly one of recipe, weights, random"],
        ),
        ("start: [{name: a/b, random: true}]", ["'a/b'", "names folders"]),
        ("start: 3", ["start must be a list, got 3"]),
        ("start: []", ["start: needs at least one starting point"]),
        ("start: [random, {name: random, recipe: detco-small}]", ["'random' is given twice"]),
        (
            "start: [detco-smal]",
            ["unknown starting point 'detco-smal'", "did you mean 'detco-small'"],
        ),
        (
            "start: [moco-v3-300e]",
            ["unknown starting point 'moco-v3-300e'", "did you mean 'moco-v3-300ep'"],
        ),
        ("start: [Random]", ["did you mean 'random'"]),
        ("start: [zzzzzz]", ["`detco weights list`"]),
        (
            "start: [random]\nprotocols: [{protocol: small-retinanet, start: [randm]}]",
            ["'randm'", "did you mean 'random'"],
        ),
        (
            "start: [random]\nprotocols: [{protocol: small-retinanet, seeds: 0}]",
            ["protocols[0].seeds", "at least 1, got 0"],
        ),
        ("start: [random]\namp: fp8", ["amp must be 'fp16' or 'bf16', got the text 'fp8'"]),
        ("start: [random]\namp: true", ["amp must be 'fp16' or 'bf16', got true"]),
        ("start: [random]\neval_period: -5", ["eval_period", "at least 0, got -5"]),
        ("start: [random]\nseeds: -1", ["seeds", "at least 1, got -1"]),
        ("start: [random]\nname: a/b", ["'a/b' cannot be the name of the folder"]),
        ("start: [random]\nname: ..", ["'..' cannot be the name of the folder"]),
        ("pictures: x", ["start is missing"]),
        ("just words", ["`key: value` lines"]),
        ("start: [random\nseeds: 1", ["line 2", "not valid YAML"]),
    ],
)
def test_wrong_files_are_refused_with_the_path(tmp_path, text, parts):
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        files.load(str(file))
    assert str(caught.value).startswith(str(file)) and "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_unknown_suite_and_missing_file():
    with pytest.raises(InputError, match="unknown suite 'dmeo'; did you mean 'demo'"):
        files.load("dmeo")
    with pytest.raises(InputError, match=r"cannot read the suite file nowhere.yaml: No such file"):
        files.load("nowhere.yaml")


def test_the_example_runs_after_editing_two_lines(tmp_path, drawn, photos):
    lines = EXAMPLE.read_text().splitlines()
    marked = [line for line in lines if "# EDIT" in line]
    assert len(marked) == 2
    text = EXAMPLE.read_text().replace("/path/to/my/pictures", str(photos))
    file = tmp_path / "own.yaml"
    file.write_text(text.replace("/path/to/my/labelled/pictures", str(drawn / "voc")))
    jobs = suite_plan.plan(files.load(str(file)), tmp_path / "out")
    assert [job.kind for job in jobs] == ["pretrain"] * 2 + ["transfer"] * 27
    protocols = list(dict.fromkeys(job.spec["protocol"] for job in jobs[2:]))
    assert protocols == ["small-faster-rcnn-c4", "small-faster-rcnn-fpn", "small-retinanet"]
    assert jobs[2].spec["data"] | {"identity": ""} == {
        "layout": "voc",
        "train": "trainval",
        "test": "test",
        "root": str(drawn / "voc"),
        "identity": "",
        "pictures": [6, 2],
    }


# --- what is found, what is refused --------------------------------------------------------------


@pytest.mark.parametrize(
    "layout, train, test",
    [("voc", "trainval", "test"), ("coco", "train", "val"), ("cityscapes", "train", "val")],
)
def test_layout_and_splits_are_found(drawn, layout, train, test):
    assert plan_datasets.find_splits(Data(drawn / layout)) == Data(
        drawn / layout, layout, train, test
    )


def test_masks_bring_mask_rcnn(drawn, photos):
    chosen = suite_plan.plan(
        suite_of(drawn, photos, protocols=(), data=Data(drawn / "coco")), Path("out")
    )
    names = {job.spec["protocol"] for job in chosen if job.kind == "transfer"}
    assert names == {"small-faster-rcnn-c4", "small-mask-rcnn-fpn", "small-retinanet"}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"images": Path("/nowhere")}, "/nowhere"),
        ({"images": None}, "name a folder of images under 'images'"),
        ({"data": Data(Path("/nowhere"))}, "no data set folder at /nowhere"),
        ({"data": None}, "name one under 'data'"),
        ({"protocols": (Task("small-retina"),)}, "did you mean 'small-retinanet'"),
        ({"protocols": (Task("small-mask-rcnn-fpn"),)}, "mask"),
        (
            {"protocols": (Task("small-retinanet", settings={"schedule.iters": 1}),)},
            "unknown setting 'schedule.iters'",
        ),
        ({"start": (StartingPoint("a", recipe="detco-smal"),)}, "did you mean 'detco-small'"),
        (
            {"start": (StartingPoint("a", weights=Path("/nowhere.safetensors")),)},
            "/nowhere.safetensors",
        ),
        (
            {"start": (StartingPoint("a", weights=Path("moco-v2-800e")),)},
            "did you mean 'moco-v2-800ep'",
        ),
        (
            {"start": (StartingPoint("a", random=True), StartingPoint("b", random=True))},
            "is the same run as",
        ),
        ({"pretrain": {"batch": 128}}, "66 pictures are fewer than one batch of 128"),
        ({"pretrain": {"epohcs": 1}}, "did you mean 'epochs'"),
        ({"engine": "torchvisoin"}, "unknown engine 'torchvisoin'"),
        (
            {"amp": "bf16", "eval_period": 9},
            "--amp, --eval-period: only the engine detectron2 has this, not torchvision",
        ),
        (
            {"engine": "replay", "amp": "fp16"},
            "--amp: only the engine detectron2 has this, not replay; leave it out",
        ),
    ],
)
def test_bad_suites_are_refused_before_any_work(drawn, photos, changes, words, tmp_path):
    with pytest.raises(REFUSED) as caught:
        suite_plan.plan(suite_of(drawn, photos, **changes), tmp_path / "out")
    assert words in str(caught.value) and not (tmp_path / "out").exists()


def test_bad_annotations_are_said_before_any_work(drawn, photos, tmp_path):
    broken = tmp_path / "voc"
    shutil.copytree(drawn / "voc", broken)
    victim = sorted((broken / "Annotations").glob("*.xml"))[0]
    victim.write_text("<annotation>")
    with pytest.raises(REFUSED, match=victim.name):
        suite_plan.plan(suite_of(drawn, photos, data=Data(broken)), tmp_path / "out")


# --- identity ------------------------------------------------------------------------------------


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
    with pytest.raises(InputError, match="the engine replay trains nothing that could be kept"):
        planned(engine="replay", keep_model="final")
    with pytest.raises(InputError, match=r"keep_model must be '', 'final' or 'best', got .*'bset'"):
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


def test_demo_is_a_chain_of_scenes_pretrainings_transfers():
    jobs = suite_plan.plan(builtin.SUITES["demo"], Path("out"), engine="torchvision")
    by_id = {job.id: job for job in jobs}
    assert [job.kind for job in jobs] == ["scenes"] + ["pretrain"] * 3 + ["transfer"] * 12
    drawn, *pretrainings = jobs[:4]
    assert all(job.needs == (drawn.id,) for job in pretrainings)
    for job in jobs[4:]:
        kinds = sorted(by_id[need].kind for need in job.needs)
        assert kinds == (["scenes"] if job.spec["weights"] == "random" else ["pretrain", "scenes"])
        assert job.spec["data"]["root"].startswith(str(drawn.folder))
    assert pretrainings[0].spec["images"] == str(drawn.folder / "classification")
    assert {p.spec["images"] for p in pretrainings[1:]} == {str(drawn.folder / "unlabelled")}
    other = suite_plan.plan(
        replace(builtin.SUITES["demo"], scenes=Scenes(seed=5)), Path("out"), engine="torchvision"
    )
    assert not by_id.keys() & {job.id for job in other}


def test_a_backbone_file_counts_by_its_content(drawn, photos, tmp_path):
    from safetensors.torch import save_file

    from detco.common import backbone_file

    trunk = backbone_file.random_backbone("resnet18", 0)
    metadata = {
        "format": "detco-backbone",
        "format_version": "1",
        "method": "made up",
        "arch": "resnet18",
        "channel_order": "RGB",
        "mean": json.dumps(trunk.mean),
        "std": json.dumps(trunk.std),
        "stride_in": "3x3",
    }
    save_file(trunk.tensors, tmp_path / "a.safetensors", metadata)
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


# --- the paper's suites --------------------------------------------------------------------------

OTHER_TASKS = {8, 9}  # classification, dense pose


def published_cells():
    """(protocol, method, epochs or None) of every published row of detection or segmentation."""
    from detco.results.paper import numbers

    rows = numbers.of_source(numbers.DETCO)
    rows = rows[~rows["table"].isin(OTHER_TASKS)]
    epochs = rows["epochs"].astype(object).where(rows["epochs"].notna(), None)
    return set(zip(rows["protocol"], rows["method"], epochs, strict=True))


def cells_of(suite):
    """The same of a suite. Recipes and public checkpoints say method and epochs; the paper prints
    no epochs for some rows."""
    from detco.pretrain.recipes import RECIPES
    from detco.results.paper.verdicts import method_of
    from detco.transfer.checkpoints.zoo import BY_NAME

    found = set()
    for task in suite.protocols:
        for name in task.start:
            (start,) = (row for row in suite.start if row.name == name)
            made = (
                RECIPES[start.recipe]
                if start.recipe
                else None
                if start.random
                else BY_NAME[str(start.weights)]
            )
            weights = (
                {"method": made.method, "source": f"recipe {made.name}", "epochs": made.epochs}
                if made
                else {}
            )
            spec = {"weights": "random" if start.random else "x"}
            found.add(
                (
                    task.protocol,
                    *method_of({"spec": spec, "weights": weights, "starting_point": name}),
                )
            )
    return found


def without_epochs(cells):
    """COCO's and Cityscapes' rows of the paper do not print the supervised baseline's epochs."""
    return {
        (protocol, method, None if method == "supervised" else epochs)
        for protocol, method, epochs in cells
    }


def test_paper_suites_are_the_papers_tables():
    everything = cells_of(builtin.SUITES["paper-all"])
    assert without_epochs(everything) == without_epochs(published_cells())
    parts = [
        suite
        for name, suite in builtin.SUITES.items()
        if name.startswith("paper-") and name != "paper-all"
    ]
    assert set.union(*(cells_of(suite) for suite in parts)) == everything
    assert sum(len(cells_of(suite)) for suite in parts) == len(everything)


def test_paper_all_has_one_pretraining_a_recipe_and_five_seeds_on_voc_only():
    missing = []
    jobs = suite_plan.plan(builtin.SUITES["paper-all"], Path("out"), missing=missing)
    assert [job.kind for job in jobs].count("pretrain") == 8
    runs = {}
    for job in jobs:
        if job.kind == "transfer":
            runs.setdefault((job.spec["protocol"], job.spec["starting_point"]), []).append(
                job.spec["seed"]
            )
    assert {len(seeds) for (protocol, _), seeds in runs.items() if protocol.startswith("voc")} == {
        5
    }
    assert {
        len(seeds) for (protocol, _), seeds in runs.items() if not protocol.startswith("voc")
    } == {1}
    assert any("VOC2007" in text for text in missing) and any(
        "--images" in text for text in missing
    )
    assert any("no copy of pirl-200ep" in text for text in missing)
    with pytest.raises(REFUSED):
        suite_plan.plan(builtin.SUITES["paper-all"], Path("out"), engine="replay")


@pytest.fixture
def datasets(drawn, tmp_path):
    """Drawn scenes where Detectron2's users have VOC, COCO and Cityscapes."""
    folder = tmp_path / "datasets"
    for name, source in (
        ("VOC2007", "voc"),
        ("VOC2012", "voc"),
        ("coco", "coco"),
        ("cityscapes", "cityscapes"),
    ):
        shutil.copytree(drawn / source, folder / name)
    for name in ("train", "val"):
        (folder / "coco" / name).rename(folder / "coco" / f"{name}2017")
        for kind in ("instances", "person_keypoints"):
            old = folder / "coco" / "annotations" / f"{kind}_{name}.json"
            if old.exists():
                old.rename(old.with_name(f"{kind}_{name}2017.json"))
    return folder


def test_published_data_are_found_joined_and_shared(datasets, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(datasets))

    def data(name):
        suite = files.adapted(builtin.SUITES[name], start="random")
        return {
            job.spec["protocol"]: job.spec["data"]
            for job in suite_plan.plan(suite, Path("out"), engine="replay")
        }

    (voc,) = data("paper-voc").values()
    assert (voc["root"], voc["train"], voc["test"]) == (
        str(datasets),
        "VOC2007/trainval+VOC2012/trainval",
        "VOC2007/test",
    )
    assert {d["root"] for d in data("paper-cityscapes").values()} == {str(datasets / "cityscapes")}
    share = datasets / "coco" / "annotations" / "instances_train2017_10pct.json"
    assert not share.exists()
    semi = data("paper-semi")
    assert semi["coco-10pct-retinanet"]["train"] == "train2017_10pct" and share.exists()
    whole = json.loads((datasets / "coco" / "annotations" / "instances_train2017.json").read_text())
    assert len(json.loads(share.read_text())["images"]) == max(1, round(len(whole["images"]) * 0.1))


def test_starting_points_replaced_added_and_chosen(datasets):
    voc = builtin.SUITES["paper-voc"]
    one = files.adapted(
        voc, datasets, None, ["detco=d.safetensors", "swav=s.safetensors"], "random,swav,detco"
    )
    assert one.start == (
        StartingPoint("random", random=True),
        StartingPoint("swav", weights=Path("s.safetensors")),
        StartingPoint("detco", weights=Path("d.safetensors")),
    )
    assert [set(task.start) for task in one.protocols] == [
        {"random", "swav", "detco"}
    ] and one.datasets == datasets
    assert files.adapted(voc, datasets / "VOC2007").data == Data(datasets / "VOC2007")
    both = files.adapted(voc, images=Path("p"))
    assert (both.images, both.images_by_class) == (Path("p"), Path("p"))
    assert [
        task.protocol
        for task in files.adapted(builtin.SUITES["paper-all"], start="detco-100ep").protocols
    ] == ["voc-faster-rcnn-c4-24k"]
    for words, more in (
        ("expected NAME=FILE", {"weights": ["x"]}),
        ("did you mean 'detco'", {"start": "random,detc"}),
        ("--data /nowhere: no such folder", {"data": Path("/nowhere")}),
    ):
        with pytest.raises(InputError, match=words):
            files.adapted(voc, **more)
    with pytest.raises(InputError, match="draws its own"):
        files.adapted(builtin.SUITES["demo"], data=datasets)


def test_rows_of_public_checkpoints_that_are_not_here_are_left_out_unless_asked_for(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("DETCO_WEIGHTS", str(tmp_path))
    suite, absent = files.without_absent(builtin.SUITES["paper-keypoints"])
    assert [start.name for start in suite.start] == [
        "random",
        "supervised",
        "moco-v1",
        "moco-v2",
        "detco",
    ]
    assert [text.partition(":")[0] for text in absent] == [
        "insdis",
        "pirl",
        "swav",
    ] and "no copy of pirl-200ep" in absent[1]
    asked = files.adapted(builtin.SUITES["paper-keypoints"], start="random,pirl")
    assert files.without_absent(asked) == (asked, [])
    with pytest.raises(InputError, match="no copy of pirl-200ep"):
        suite_plan.weights_of(asked.start[1], None)


def test_protocols_of_starting_points_that_are_not_chosen_do_not_fall_back_to_others():
    start = (StartingPoint("a", random=True), StartingPoint("b", recipe="detco-small"))
    suite = Suite("x", start, (Task("small-retinanet", start=("a",)),))
    with pytest.raises(InputError, match="suite x: no protocol is for b"):
        files.adapted(suite, start="b")


def test_a_checkpoint_of_another_project_is_imported(drawn, photos, tmp_path):
    import torch

    from detco.common import backbone_file

    trunk = backbone_file.random_backbone("resnet18", 1)
    torch.save(
        {**trunk.tensors, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)},
        tmp_path / "r18.pth.tar",
    )
    content = {
        "start": [str(tmp_path / "r18.pth.tar")],
        "data": {"root": str(drawn / "voc")},
        "protocols": "small-retinanet",
    }
    suite = files.parse(content, tmp_path / "own.yaml")
    assert suite.start[0].name == "r18"
    (dry,) = suite_plan.plan(suite, tmp_path / "out", missing=[])
    assert not (tmp_path / "out").exists()
    (job,) = suite_plan.plan(suite, tmp_path / "out")
    assert dry.id == job.id and job.spec["weights_identity"] == sha256_of(tmp_path / "r18.pth.tar")
    made = backbone_file.read(Path(job.spec["weights"]))
    assert (
        Path(job.spec["weights"]).parent == tmp_path / "out" / "imported"
        and made.arch == "resnet18"
    )
    assert all(
        torch.equal(made.tensors[key], value)
        for key, value in trunk.tensors.items()
        if key in made.tensors
    )


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
    write_spec(
        State(jobs[1])
    )  # planned, perhaps begun by another runner: not begun again beside it
    (same,) = (job for job in suite_plan.plan(renamed, tmp_path) if job.id == jobs[1].id)
    assert same.folder == jobs[1].folder


def test_scenes_drawn_otherwise_are_another_data_set(monkeypatch):
    from detco.benchmarks.plan import jobs

    place = jobs.Place(Path("/out"))
    before = jobs.scenes_job(Scenes(), place)
    monkeypatch.setattr(jobs, "DRAWING", jobs.DRAWING + 1)
    assert jobs.scenes_job(Scenes(), place).id != before.id


def test_random_of_another_depth_is_refused(drawn, photos):
    start = (
        StartingPoint("random", random=True),
        StartingPoint("deep", recipe="moco-v2-small", settings={"arch": "resnet50"}),
    )
    with pytest.raises(InputError, match=r"`random` is a resnet18, .* resnet50; add `transfer"):
        suite_plan.plan(suite_of(drawn, photos, start=start), Path("out"))


def test_drawn_data_need_no_layout_and_other_names_are_refused():
    def suite(root):
        start = (StartingPoint("random", random=True),)
        return Suite(
            "x", start, (Task("small-retinanet", Data(Path(root))),), scenes=Scenes(images=8)
        )

    job = suite_plan.plan(suite("coco"), Path("out"))[-1]
    assert [job.spec["data"][key] for key in ("layout", "train", "test")] == [
        "coco",
        "train",
        "val",
    ]
    with pytest.raises(InputError, match="there is no 'coca'"):
        suite_plan.plan(suite("coca"), Path("out"))
