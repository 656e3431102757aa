"""detco: pretrains backbones, fine-tunes detectors from them, and tabulates the AP.

    import detco detco.pretrain("detco-small", "photos", out="runs/detco")
    detco.evaluate("runs/detco/backbone.safetensors", "small-retinanet",
    "my-data", out="runs/a") detco.table("runs")

The packages lie beside this folder in a checkout (pretrain/, transfer/, ...) and inside it once
installed. Nothing heavy is imported before a function is called.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

__all__ = ["evaluate", "load_backbone", "pretrain", "results", "table"]

# In a checkout `detco.pretrain` is the folder pretrain beside this one.
if not (Path(__file__).parent / "common").is_dir():
    __path__.append(str(Path(__file__).resolve().parents[1]))


def pretrain(
    recipe: str,
    images: str | Path,
    out: str | Path,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
) -> Path:
    """Pretrain as `detco pretrain` does and return the path of the backbone file.

    recipe: e.g. "detco-small"; images: a folder, or a text file of paths; settings: changes to the
    recipe, e.g. {"epochs": 20}. A finished run is returned at once, an interrupted one resumes.
    Raises InputError for invalid input, TrainingError if training fails.
    """
    from detco.benchmarks import python

    words = ["pretrain", recipe, "--images", str(images), "--out", str(out), "--seed", str(seed)]
    python.run([*words, "--device", device, *_changed(settings)])
    return Path(out) / "backbone.safetensors"


def evaluate(
    backbone: str | Path | Mapping[str, Tensor] | nn.Module,
    protocol: str,
    data: str | Path | None = None,
    seeds: Sequence[int] = (0,),
    out: str | Path = "results",
    name: str | None = None,
    settings: Mapping[str, Any] | None = None,
    engine: str = "auto",
    device: str = "auto",
    **more: str,
) -> pd.DataFrame:
    """Fine-tune a detector from a backbone once for each seed, as `detco transfer` does, and return
    the metrics as `results` does, of these runs alone.

    backbone: "random"; a backbone file, a checkpoint of another project or the name of a public
        one; a state dict; or a module, whose features must be those of the ResNet that its tensors
        make;
    protocol: a row of `detco protocols`; settings: changes to it, e.g. {"iterations": 50};
    data: a data set; None: the protocol's published one; more: `layout`, `train`, `test` (names of
        the splits);
    name: the row in tables; default: from the file's name, "backbone" for what is in memory.
    Finished runs in `out` are reused. Raises InputError, TrainingError.
    """
    from detco.benchmarks import python

    weights, name = python.weights_of(backbone, name, Path(out))
    words = ["transfer", protocol, "--weights", weights, "--out", str(out), "--engine", engine]
    words += ["--device", device, *_changed(settings)]
    for option, value in {"data": data, "name": name, **more}.items():
        words += [f"--{option}", str(value)] if value is not None else []
    done = [python.run([*words, "--seed", str(seed)]) for seed in seeds]
    return python.frame(Path(out), {job.id for job in done})


def load_backbone(path: str | Path) -> nn.Module:
    """A backbone file or a checkpoint of another project as torchvision's ResNet, in evaluation
    mode; without its classifier: it gives pooled features of res5, (n, channels).

    Its attribute `preprocessing` is a module that takes RGB images (n, 3, h, w), uint8 or float 0
    to 255, and gives what the network expects. Raises InputError.
    """
    from detco.benchmarks import python

    return python.load_backbone(Path(path))


def results(directory: str | Path) -> pd.DataFrame:
    """The records below a folder, one row a run and metric: starting_point, protocol, engine, seed,
    metric, value (percent), ... An invalid record is left out with a warning."""
    from detco.benchmarks import python

    return python.frame(Path(directory))


def table(
    directory: str | Path, baseline: str | Sequence[str] = ("supervised", "random")
) -> pd.DataFrame:
    """The AP table of a folder: a row each starting point, columns by protocol and metric with
    mean, standard deviation and number of runs, then the differences to each baseline with half of
    their 95 % confidence interval."""
    from detco.results import tables

    names = (baseline,) if isinstance(baseline, str) else tuple(baseline)
    return tables.ap_table(_FUNCTIONS["detco.results"](directory), names)


class _Room(ModuleType):
    """A package that can be called: `detco.pretrain(...)` beside `detco.pretrain.recipes`."""

    def __call__(self, *args, **named):
        return _FUNCTIONS[self.__name__](*args, **named)


class _Face(ModuleType):
    """Importing the package `detco.pretrain` puts it in the place of the function."""

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, ModuleType) and value.__name__ in _FUNCTIONS:
            value.__class__ = _Room
        super().__setattr__(name, value)


_FUNCTIONS: dict[str, Callable] = {"detco.pretrain": pretrain, "detco.results": results}
sys.modules[__name__].__class__ = _Face


def _changed(settings: Mapping[str, Any] | None) -> list[str]:
    pairs = (settings or {}).items()
    return [word for key, value in pairs for word in ("--set", f"{key}={json.dumps(value)}")]
