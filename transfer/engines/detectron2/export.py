"""A kept detector as a folder that Detectron2 loads without this project: plain config, weights,
class names."""

import json
import shutil
from pathlib import Path

import torch
import yaml

from detco.common import depth
from detco.common.errors import InputError
from detco.common.files import write_atomic
from detco.common.networks import RESNET

from ...detector import TrainedDetector
from . import config as detectron2_config
from . import heads as detectron2_heads
from .detector import build, config

HEADS = "detco_heads"  # the module that registers what plain Detectron2 lacks
REGISTERED = ("Res5ROIHeadsExtraNorm", "FCN16sHead", "RetinaNetGroupNorm")
OWN_KEYS = {  # of training only, or the default of detectron2_heads -> what they say
    "SOLVER.OPTIMIZER": "AdamW (SOLVER.OPTIMIZER)",
    "SOLVER.CLIP_GRADIENTS.ENABLED": "",
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": (
        "clipping of the norm over all gradients (SOLVER.CLIP_GRADIENTS)"
    ),
    "INPUT.SCALE_TRAIN": "training pictures scaled by a random factor (INPUT.SCALE_TRAIN)",
    "MODEL.SEM_SEG_HEAD.DILATION": "",
}
TRY = '''"""Loads this detector with Detectron2 alone. Usage: python try.py PICTURE"""

import json
import sys
from pathlib import Path

import torch
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.engine import DefaultPredictor
{imports}
HERE = Path(__file__).parent
cfg = get_cfg(){keys}
cfg.merge_from_file(str(HERE / "config.yaml"))
cfg.MODEL.WEIGHTS = str(HERE / "model_final.pth")
cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MetadataCatalog.get(cfg.DATASETS.TEST[0]).set(**json.loads((HERE / "classes.json").read_text()))

if __name__ == "__main__":
    print(DefaultPredictor(cfg)(read_image(sys.argv[1], "BGR")))
'''
README = """# {protocol}: a detector for Detectron2

Trained with detco for {iteration} iterations from a {arch} ({method}).

- `config.yaml`: what differs from Detectron2's defaults, the preprocessing of pictures included
- `model_final.pth`: the weights, as `MODEL.WEIGHTS` takes them
- `classes.json`: names of classes and keypoints for `MetadataCatalog.get({name!r})`
- `try.py`: loads all of it and detects objects on a picture: `python try.py PICTURE`
{heads}
Norms are `BN`, as for one process; to train on over several GPUs set `MODEL.RESNETS.NORM` to
`SyncBN`.{lost}
"""


def export(trained: TrainedDetector, folder: Path) -> dict:
    """Write the folder; says what is in it. Raises InputError for a folder in use, or a head that
    plain keys cannot describe."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already and not empty: name a new folder")
    if trained.backbone.family != RESNET:
        raise InputError(
            f"a detector on {trained.backbone.arch} is for `detco predict` only: plain Detectron2"
            " has no such network"
        )
    plain, heads, lost = plain_config(trained)
    state = build(trained, config(trained, "cpu")).state_dict()
    imports = f"\nimport {HEADS}  # noqa: F401 (registers {', '.join(heads)})\n" if heads else ""
    keys = ""
    if "densepose" in trained.protocol.metrics:
        imports += "\nfrom densepose import add_densepose_config\n"
        keys = "\nadd_densepose_config(cfg)"
    texts = {
        "config.yaml": yaml.safe_dump(nested(plain), sort_keys=False),
        "classes.json": json.dumps(classes(trained), indent=1) + "\n",
        "try.py": TRY.format(imports=imports, keys=keys),
        "README.md": _readme(trained, heads, lost),
    }
    for name, text in texts.items():
        write_atomic(folder / name, text)
    if heads:
        shutil.copyfile(detectron2_heads.__file__, folder / f"{HEADS}.py")
    write_atomic(folder / "model_final.pth", lambda file: torch.save({"model": state}, file))
    files = sorted(path.name for path in folder.iterdir())
    return {
        "folder": str(folder),
        "files": files,
        "registered by detco_heads": list(heads),
        "left out": list(lost),
    }


def plain_config(trained: TrainedDetector) -> tuple[dict, tuple[str, ...], tuple[str, ...]]:
    """(dotted keys that differ from Detectron2's defaults, heads of ours among their values,
    settings that have no plain key)."""
    cfg = config(trained, "cuda")
    keys = detectron2_config.differences(cfg)
    if (
        keys.get("MODEL.SEM_SEG_HEAD.DILATION", detectron2_heads.DILATION)
        != detectron2_heads.DILATION
    ):
        text = (
            f"detector.fcn_dilation {keys['MODEL.SEM_SEG_HEAD.DILATION']} has no key in plain"
            " Detectron2"
        )
        raise InputError(f"{text}; only {detectron2_heads.DILATION} can be exported")
    lost = tuple(text for key, text in OWN_KEYS.items() if text and key in keys)
    if trained.value_range:
        lost += (depth.policy(trained.value_range),)
    keys = {"VERSION": cfg.VERSION} | {
        key: value for key, value in keys.items() if key not in OWN_KEYS
    }
    if keys.get("MODEL.META_ARCHITECTURE") == "RetinaNet" and cfg.MODEL.RETINANET.NORM == "GN":
        keys["MODEL.META_ARCHITECTURE"] = "RetinaNetGroupNorm"
    keys |= {
        "MODEL.WEIGHTS": "model_final.pth",
        "DATASETS.TRAIN": [data_name(trained)],
        "DATASETS.TEST": [data_name(trained)],
    }
    return keys, tuple(head for head in REGISTERED if head in keys.values()), lost


def data_name(trained: TrainedDetector) -> str:
    """What the data set is called in Detectron2's catalog."""
    data = trained.data.get("train", {})
    return f"{data.get('name', 'data')}_{str(data.get('fingerprint', ''))[:8]}"


def nested(keys: dict) -> dict:
    """`{"A.B": 1}` -> `{"A": {"B": 1}}`"""
    tree: dict = {}
    for key, value in keys.items():
        *parents, last = key.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[last] = value
    return tree


def classes(trained: TrainedDetector) -> dict:
    """Metadata for Detectron2's catalog: names of the classes by number; of keypoints and of the
    pairs that a mirror swaps."""
    names = [category["name"] for category in trained.categories]
    if "semantic" in trained.protocol.metrics:
        return {"stuff_classes": names}
    if not trained.keypoints:
        return {"thing_classes": names}
    flips = next(
        category.get("keypoint_flip", [])
        for category in trained.categories
        if category.get("keypoints")
    )
    return {"thing_classes": names, "keypoint_names": trained.keypoints, "keypoint_flip_map": flips}


def _readme(trained: TrainedDetector, heads: tuple[str, ...], lost: tuple[str, ...]) -> str:
    registers = (
        f"- `{HEADS}.py`: to be imported first; registers {', '.join(heads)}, which Detectron2"
        " lacks\n"
        if heads
        else ""
    )
    left = (
        f"\nHow it was trained, but plain Detectron2 has no key for it: {'; '.join(lost)}."
        if lost
        else ""
    )
    return README.format(
        protocol=trained.protocol.name,
        iteration=trained.iteration,
        arch=trained.backbone.arch,
        method=trained.backbone.method,
        name=data_name(trained),
        heads=registers,
        lost=left,
    )
