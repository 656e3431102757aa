"""The built-in suites: the demo's chain, the paper's tables, starting points chosen."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from detco.benchmarks.plan import suite_plan
from detco.benchmarks.suites import builtin, files
from detco.benchmarks.suites.builtin import Data, Scenes, StartingPoint, Suite, Task
from detco.common.errors import InputError


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


# of table 8, without a public checkpoint of that many epochs
NOWHERE = {("jigsaw", None), ("rotation", None), ("localagg", 200), ("byol", 1000)}


def published_cells():
    """(protocol, method, epochs or None) of every published row that can be run."""
    from detco.results.paper import numbers

    rows = numbers.of_source(numbers.DETCO)
    epochs = rows["epochs"].astype(object).where(rows["epochs"].notna(), None)
    cells = set(zip(rows["protocol"], rows["method"], epochs, strict=True))
    return {cell for cell in cells if cell[1:] not in NOWHERE}


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


@pytest.mark.parametrize("number", range(3, 14))
def test_every_table_is_printed_and_has_protocols_that_run(number, capsys):
    """The command prints each of its numbers; each column is a row of PROTOCOLS, in a suite of the
    paper and in paper-all, whose published numbers are those of its version."""
    from detco.benchmarks.cli.main import main
    from detco.results.paper import numbers, verdicts
    from detco.transfer.protocols import PROTOCOLS

    assert main(["table", "--paper", str(number), "--format", "csv"]) == 0
    printed = capsys.readouterr().out
    rows = numbers.of_table(number)
    assert len(printed.splitlines()) == len(rows) + 1
    columns = {name for _, name in numbers.PAPER[number].groups}
    assert columns == set(rows["protocol"])
    for name in columns:
        suites = [
            suite.name
            for suite in builtin.SUITES.values()
            if any(task.protocol == name for task in suite.protocols)
        ]
        assert len(suites) == 2 and suites[1] == "paper-all" and suites[0].startswith("paper-")
        row = PROTOCOLS[name]
        assert row.version == numbers.VERSION
        of_row = [found[2:] for found in verdicts.TESTS if re.match(found[0], name)]
        assert [scorer in (None, row.scorer) for scorer, _ in of_row] == [True]
        assert of_row[0][1] == row.data.images[1]


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
    assert {len(seeds) for (protocol, _), seeds in runs.items() if protocol.startswith("voc-")} == {
        5
    }
    assert {
        len(seeds) for (protocol, _), seeds in runs.items() if not protocol.startswith("voc-")
    } == {1}
    assert any("VOC2007" in text for text in missing) and any(
        "--images" in text for text in missing
    )
    assert any("no copy of pirl-200ep" in text for text in missing)
    engines = {(job.spec["protocol"], job.spec["engine"]) for job in jobs if "engine" in job.spec}
    assert {("imagenet-linear", "frozen"), ("voc07-svm", "frozen")} < engines
    assert {engine for _, engine in engines} == {"frozen", "detectron2"}
    with pytest.raises(InputError):
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
        suite = files.adapted(builtin.SUITES[name], start=["random"])
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
        voc,
        datasets,
        None,
        ["detco=d.safetensors", "swav=s.safetensors"],
        ["random", "swav", "detco"],
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
        for task in files.adapted(builtin.SUITES["paper-all"], start=["detco-100ep"]).protocols
    ] == ["voc-faster-rcnn-c4-24k"]
    for words, more in (
        ("expected NAME=FILE", {"weights": ["x"]}),
        ("did you mean 'detco'", {"start": ["random", "detc"]}),
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
    asked = files.adapted(builtin.SUITES["paper-keypoints"], start=["random", "pirl"])
    assert files.without_absent(asked) == (asked, [])
    with pytest.raises(InputError, match="no copy of pirl-200ep"):
        suite_plan.weights_of(asked.start[1], None)


def test_protocols_of_starting_points_that_are_not_chosen_do_not_fall_back_to_others():
    start = (StartingPoint("a", random=True), StartingPoint("b", recipe="detco-small"))
    suite = Suite("x", start, (Task("small-retinanet", start=("a",)),))
    with pytest.raises(InputError, match="suite x: no protocol is for b"):
        files.adapted(suite, start=["b"])
