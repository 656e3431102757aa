"""Recipes that pretrain within seconds, here or in a process of their own."""

import json
import os
import subprocess
import sys
from dataclasses import replace

from detco.pretrain.recipes import RECIPES
from tests.factories import ROOT

TINY = dict(
    epochs=2,
    batch=8,
    groups=2,
    view_size=32,
    jigsaw_size=60,
    patch_size=20,
    dim=16,
    queue=20,
    precision="float32",
    warmup_epochs=0.0,
    optimizer="sgd",
    fill_queue=False,
    lr=0.12,
)


DETCO = replace(RECIPES["detco-small"], **TINY)


MOCO = replace(RECIPES["moco-v2-small"], **TINY)


CHILD = """
import json, sys
from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)
from detco.pretrain.recipes import RECIPES
from detco.pretrain.train import pretrain

def report(stage, done, total, **figures):
    print(json.dumps(dict(stage=stage, done=done, **figures)), flush=True)

settings = json.loads(sys.argv[4])
settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
recipe = replace(RECIPES[sys.argv[1]], **settings)
pretrain(recipe, Path(sys.argv[2]), Path(sys.argv[3]), device="cpu", report=report)
"""


def child(recipe, pictures, out, launcher=(), **settings):
    command = (
        [*(launcher or (sys.executable,)), "-c", CHILD]
        if not launcher
        else [*launcher, out.parent / "child.py"]
    )
    if launcher:
        (out.parent / "child.py").write_text(CHILD)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*map(str, command), recipe, str(pictures), str(out), json.dumps({**TINY, **settings})],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def losses(process):
    """The loss of each iteration that the process reported; it must have ended well."""
    lines = [json.loads(line) for line in process.stdout if line.startswith("{")]
    assert process.wait() == 0
    return [line["loss"] for line in lines if line["stage"] == "pretrain"]
