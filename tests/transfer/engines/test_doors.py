"""An engine that comes in by its door only: a row of ENGINES and a module with `run`."""

import json
import sys
from types import ModuleType

import pytest

from detco.common.errors import InputError
from detco.transfer import engines, finetune
from detco.transfer.protocols import PROTOCOLS


@pytest.fixture
def perfect(monkeypatch):
    """Finds every object where it is."""
    module = ModuleType("detco.transfer.engines.perfect")

    def run(job, report):
        found = [
            {key: a[key] for key in ("image_id", "category_id", "bbox")} | {"score": 1.0}
            for a in job.test.annotations
        ]
        (job.out / "predictions.json").write_text(json.dumps(found))
        return engines.Outcome(job.out / "predictions.json", ("saw the answers",))

    module.run = run
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(engines.ENGINES, "perfect", engines.Engine("perfect", lacks=("retinanet",)))
    return "perfect"


def test_a_dummy_engine_runs_and_is_scored(perfect, scenes, tmp_path):
    row, data = PROTOCOLS["small-faster-rcnn-fpn"], {"layout": "voc", "root": scenes / "voc"}
    found = finetune.finetune(row, "random", data, tmp_path, perfect, device="cpu")
    assert found["engine"] == "perfect" and found["metrics"]["box_ap50"] == pytest.approx(100)
    assert "saw the answers" in found["deviations"]


def test_what_its_row_says_it_lacks_is_refused_before_it_starts(perfect, scenes, tmp_path):
    data = {"layout": "voc", "root": scenes / "voc"}
    with pytest.raises(InputError, match="needs the engine detectron2"):
        finetune.finetune(PROTOCOLS["small-retinanet"], "random", data, tmp_path, perfect)
    row = PROTOCOLS["small-faster-rcnn-fpn"]
    with pytest.raises(InputError, match=r"--amp: .*not perfect"):
        finetune.finetune(row, "random", data, tmp_path, perfect, launch=engines.Launch(amp="bf16"))
    with pytest.raises(InputError, match="perfect trains nothing"):
        finetune.finetune(row, "random", data, tmp_path, perfect, keep_model="final")


def test_an_engine_whose_package_is_missing_is_not_taken(monkeypatch):
    monkeypatch.setitem(
        engines.ENGINES, "absent", engines.Engine("absent", needs="no_such_package")
    )
    with pytest.raises(InputError, match="engine absent is not available here"):
        engines.resolve("absent")


def test_what_one_engine_alone_builds_runs_there_whichever_is_asked_for(scenes, tmp_path):
    for asked in ("torchvision", "detectron2"):
        assert engines.serving(asked, "knn") == "frozen"
        assert engines.serving(asked, "retinanet") == asked
    assert engines.serving("replay", "knn") == "replay"  # it makes up predictions of all
    data = {"layout": "voc", "root": scenes / "voc"}
    with pytest.raises(InputError, match="needs the engine"):
        finetune.finetune(PROTOCOLS["small-retinanet"], "random", data, tmp_path, "frozen")
