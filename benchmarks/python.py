"""The functions behind `import detco`: the same jobs as the commands, started from Python."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr, suppress
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from detco.common import backbone_file
from detco.common.errors import InputError, TrainingError
from detco.common.networks import RESNET
from detco.results import store, tables
from detco.transfer.checkpoints import importer
from detco.transfer.engines.torchvision.trunks import load_resnet

from .cli import commands, outcomes
from .cli import run as running
from .plan import backbones, single
from .plan.single import IMPORTED
from .run.provenance import own_version

if TYPE_CHECKING:
    import pandas as pd

    from .plan.jobs import Job

JOBS = {"pretrain": lambda args: running.pretraining_of(args)[0], "transfer": single.job_of}
SAME = 1e-3  # largest difference of features, relative to their largest value


def run(words: list[str]) -> Job:
    """Run the job that the words of a command describe, and return
    it. Raises InputError, TrainingError."""
    args, message = None, StringIO()
    with redirect_stderr(message), suppress(SystemExit):
        args = commands.parser(own_version()).parse_args(words)
    if args is None:
        raise InputError(message.getvalue().strip().removeprefix("detco: "))
    args.again = "the same call"
    job = JOBS[args.command](args)
    status = running.work([job], args, args.out, job.title)
    if status == 130:
        raise KeyboardInterrupt
    if status:
        record = store.read_json(job.folder / "record.json") or {}
        error = record.get("error") or f"no record in {job.folder}"
        raise (InputError if record.get("error_kind") == "input" else TrainingError)(error)
    return job


def frame(directory: Path, ids: set[str] | None = None) -> pd.DataFrame:
    """The records below a folder (those with these ids) as a tidy frame."""
    if not directory.is_dir():
        raise InputError(f"no folder {directory}")
    records, problems = outcomes.read(directory)
    for problem in problems:
        warnings.warn(f"left out: {problem}", stacklevel=3)
    return tables.frame(record for record in records if ids is None or record["id"] in ids)


def weights_of(
    backbone: str | Path | Mapping[str, Tensor] | nn.Module, name: str | None, out: Path
) -> tuple[str, str | None]:
    """A backbone as `--weights` takes it, and its name. What is in memory becomes a backbone file
    in OUT/imported, as checkpoints of other projects do. Raises InputError."""
    if isinstance(backbone, nn.Module | Mapping):
        name = name or "backbone"
        return str(backbones.written(_from_memory(backbone, out), name, out / IMPORTED)), name
    return str(backbone), name


def _from_memory(backbone: Mapping[str, Tensor] | nn.Module, out: Path) -> backbone_file.Backbone:
    """A backbone from memory, imported through a file, so that it passes the same
    checks as a checkpoint."""
    state = backbone.state_dict() if isinstance(backbone, nn.Module) else dict(backbone)
    tensors = {key: value.detach().cpu() for key, value in state.items()}
    with backbones.own_folder(out / IMPORTED) as folder:
        torch.save(tensors, folder / "in-memory.pth")
        found = importer.load(folder / "in-memory.pth")[0]
    if isinstance(backbone, nn.Module):
        _refuse_another_graph(backbone, found)
    return found


def _refuse_another_graph(module: nn.Module, backbone: backbone_file.Backbone) -> None:
    """InputError where the module gives other features (res5) than the ResNet that its tensors
    make: the tensors do not say strides, pooling or activations."""
    layers = [part for name, part in module.named_modules() if name.split(".")[-1] == "layer4"]
    if not layers:
        return
    images = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    features = []
    net = load_resnet(backbone)
    for whole, layer in ((module, layers[0]), (net, net.get_submodule("layer4"))):
        handle = layer.register_forward_hook(lambda _, __, made: features.append(made))
        modes = {part: part.training for part in whole.modules()}
        try:
            whole.eval()
            device = next(whole.parameters()).device
            with torch.no_grad():
                whole(images.to(device))
        finally:
            handle.remove()
            for part, training in modes.items():
                part.training = training
    theirs, ours = (made.float().cpu() for made in features)
    if theirs.shape != ours.shape or (theirs - ours).abs().max() > SAME * ours.abs().max():
        raise InputError(
            f"the module's features are not those of a {backbone.arch} with its tensors: it has"
            " another stride, pooling or activation, which the detectors here do not build"
        )


class Normalise(nn.Module):
    """RGB images (n, 3, h, w), 0..255 -> what a backbone expects."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: backbone_file.Backbone):
        super().__init__()
        self.reverse = backbone.channel_order == "BGR"
        self.register_buffer("mean", torch.tensor(backbone.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(backbone.std).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        images = images.float()
        if self.reverse:
            images = images.flip(-3)
        return (images - self.mean) / self.std


class PooledNetwork(nn.Module):
    """Prepared images (n, 3, h, w) -> (n, channels): the last map, averaged over the image."""

    def __init__(self, backbone: backbone_file.Backbone):
        super().__init__()
        from detco.common.networks.levels import Levels

        self.maps = Levels(backbone)

    def forward(self, images: Tensor) -> Tensor:
        *_, last = self.maps(images).values()
        return last.mean((2, 3))


def load_backbone(path: Path) -> nn.Module:
    """See `detco.load_backbone`."""
    (backbone,) = backbones.read([Path(path)])
    if backbone.family != RESNET:
        pooled = PooledNetwork(backbone).eval()
        pooled.preprocessing = Normalise(backbone)
        return pooled
    net = load_resnet(backbone).eval()
    net.fc = nn.Identity()  # a new classifier would give random numbers
    net.preprocessing = Normalise(backbone)
    return net
