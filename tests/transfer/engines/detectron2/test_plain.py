"""A plain DefaultTrainer with the printed config, the exported weights and the same batches: bit
for bit the engine's training."""

import pytest
import torch

from detco.common import backbone_file
from detco.transfer.backbones import export

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2")
from detectron2.config import get_cfg
from detectron2.engine import DefaultTrainer, hooks

from detco.transfer.data import dataset
from detco.transfer.engines import EngineJob
from detco.transfer.engines.detectron2 import data
from detco.transfer.engines.detectron2 import engine as detectron2_rcnn
from detco.transfer.engines.detectron2 import records as detectron2_records
from detco.transfer.engines.detectron2 import train as detectron2_train
from tests.factories.detectors import shortened

SEED = 3


class Seeded(hooks.HookBase):
    """The engine's seed of each step: what is drawn for anchors and RoIs must be the same
    on both sides."""

    def before_step(self) -> None:
        torch.manual_seed(SEED * 1_000_003 + self.trainer.iter)


@pytest.mark.parametrize(
    "name", ["coco-mask-rcnn-fpn-12k", "coco-retinanet-12k", "coco-mask-rcnn-c4-12k"]
)
def test_training_is_bit_identical_to_plain_detectron2(name, scenes, tmp_path):
    train, test = (dataset.load("coco", scenes / "coco", split) for split in ("train", "val"))
    backbone = backbone_file.random_backbone("resnet18", 7)
    job = EngineJob(shortened(name, precise_bn=0), backbone, train, test, SEED, tmp_path / "ours")
    records = detectron2_records.write(train, tmp_path / "records.json")
    cfg = detectron2_rcnn.config(job, records.mask_format)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    export.to_detectron2(backbone, tmp_path / "backbone.pkl")
    ours = detectron2_train.Trainer(cfg, job, records, lambda *_, **__: None)
    ours.train()

    class Plain(DefaultTrainer):
        @classmethod
        def build_train_loader(cls, cfg):
            return data.TrainLoader(cfg, records)

        @classmethod
        def test(cls, cfg, model):
            return {}

    plain = get_cfg()
    plain.merge_from_file(str(tmp_path / "config.yaml"))
    plain.MODEL.WEIGHTS, plain.OUTPUT_DIR = str(tmp_path / "backbone.pkl"), str(tmp_path)
    torch.manual_seed(SEED)
    theirs = Plain(plain)
    theirs.resume_or_load(resume=False)
    theirs.register_hooks([Seeded()])
    theirs.train()
    found, expected = ours.model.state_dict(), theirs.model.state_dict()
    assert found.keys() == expected.keys() and len(found) > 100
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []
    trained = [name for name, p in ours.model.named_parameters() if p.requires_grad]
    torch.manual_seed(SEED)
    fresh = detectron2_train.build(cfg, backbone).state_dict()
    assert sum(not torch.equal(found[name], fresh[name]) for name in trained) > 0.9 * len(trained)
