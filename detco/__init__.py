"""detco: pretrains backbones, fine-tunes detectors from them, and tabulates the AP.

    import detco
    file = detco.pretrain("detco-small", "photos", out="runs/detco")
    detco.evaluate(file, "small-retinanet", "my-data", out="runs")
    detco.table("runs")

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
    """Pretrain as `detco pretrain` does. A finished run is returned at once, an interrupted one
    resumes.

    Args:
        recipe: its name, e.g. `detco-small`.
        images: a folder, or a text file of paths.
        out: the folder of the run.
        seed: of weights and views.
        settings: changes to the recipe, e.g. `{"epochs": 20}`.
        device: `auto`, `cpu` or `cuda`.

    Returns:
        the path of the backbone file.

    Raises:
        InputError: for invalid input.
        TrainingError: if training fails.
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
    """Fine-tune a detector from a backbone once for each seed, as `detco transfer` does. Finished
    runs in `out` are reused.

    Args:
        backbone: `random`; a backbone file, a checkpoint of another project or the name of a public
            one; a state dict; or a module, whose features must be those of the ResNet that its
            tensors make.
        protocol: a row of `detco protocols`.
        data: a data set; None: the protocol's published one.
        seeds: one run for each.
        out: the folder that collects runs.
        name: the row in tables; default: from the file's name, `backbone` for what is in memory.
        settings: changes to the protocol, e.g. `{"iterations": 50}`.
        engine: `auto`, `torchvision`, `detectron2` or `replay`.
        device: `auto`, `cpu` or `cuda`.
        **more: `layout`, `train` and `test` (names of the splits) of the data.

    Returns:
        the metrics as `detco.results` does, of these runs alone.

    Raises:
        InputError: for invalid input.
        TrainingError: if training fails.
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
    """A backbone file or a checkpoint of another project as torchvision's ResNet, or as timm's
    network of another family, in evaluation mode and without its classifier.

    Its attribute `preprocessing` is a module that takes RGB images (n, 3, h, w), uint8 or float 0
    to 255, and gives what the network expects.

    Args:
        path: the file, or the name of a public checkpoint.

    Returns:
        a module that gives pooled features of res5 or of a vision transformer's last map,
        (n, channels).

    Raises:
        InputError: for a file that is no backbone.
    """
    from detco.benchmarks import python

    return python.load_backbone(Path(path))


def results(directory: str | Path) -> pd.DataFrame:
    """The records below a folder. An invalid one is left out with a warning.

    Args:
        directory: a folder of runs.

    Returns:
        one row a run and metric: starting_point, protocol, engine, seed, metric, value (percent),
        and more.

    Raises:
        InputError: if there is no such folder.
    """
    from detco.benchmarks import python

    return python.frame(Path(directory))


def table(
    directory: str | Path, baseline: str | Sequence[str] = ("supervised", "random")
) -> pd.DataFrame:
    """The AP table of a folder.

    Args:
        directory: a folder of runs.
        baseline: starting points that the others are compared with.

    Returns:
        a row each starting point; columns by protocol and metric with mean, standard deviation and
        number of runs, then the differences to each baseline with half of their 95 % confidence
        interval.

    Raises:
        InputError: if there is no such folder.
    """
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
