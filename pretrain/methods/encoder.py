"""The network: torchvision's ResNet giving res2..res5, batch normalisation in groups, and the
projection heads."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from ..recipes import LEVELS, Recipe
from .stages import StagesTrunk

ARCHITECTURES = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}


class GroupedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation within ``groups`` consecutive, equal parts of the batch, as on
    that many devices.

    The running statistics follow the first group alone: with one group to a process, the first
    process' statistics are the ones saved, so one process of G groups gives what G processes of one
    group give.
    """

    def __init__(self, channels: int, groups: int = 1):
        super().__init__(channels)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.groups == 1:
            return super().forward(x)
        if len(x) % self.groups:
            raise ValueError(f"a batch of {len(x)} does not divide into {self.groups} groups")
        if torch.compiler.is_compiling():
            return self._fusible(x)
        first, *others = x.chunk(self.groups)
        running = self.running_mean, self.running_var
        parts = [
            F.batch_norm(first, *running, self.weight, self.bias, True, self.momentum, self.eps)
        ]
        parts += [
            F.batch_norm(part, None, None, self.weight, self.bias, True, 0.0, self.eps)
            for part in others
        ]
        return torch.cat(parts)

    def _fusible(self, x: Tensor) -> Tensor:
        """The same as one expression, which a compiler makes one or two kernels of."""
        grouped = x.unflatten(0, (self.groups, -1)).float()
        var, mean = torch.var_mean(grouped, (1, 3, 4), correction=0, keepdim=True)
        with torch.no_grad():
            count = grouped[0].numel() // grouped.shape[2]
            self.running_mean.lerp_(mean[0].flatten(), self.momentum)
            self.running_var.lerp_(var[0].flatten() * (count / max(1, count - 1)), self.momentum)
        scale = self.weight.view(-1, 1, 1) * (var + self.eps).rsqrt()
        return ((grouped - mean) * scale + self.bias.view(-1, 1, 1)).flatten(0, 1).to(x.dtype)


class Conv3x3(nn.Conv2d):
    """A 3 x 3 convolution (padding 1), which takes maps of up to 2 x 2, as of patches in res4 and
    res5, as a matrix product.

    Without the products with the padding, 56 % and more of all, and three to ten times as
    fast on CPUs.
    """

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        if max(h, w) > 2:
            return super().forward(x)
        rows, columns = -(-h // self.stride[0]), -(-w // self.stride[1])  # of the output
        taps = self.weight.to(x.dtype).permute(0, 2, 3, 1)
        # The input as an output pixel meets it: one row further down is one tap further up. There
        # are two only at stride 1.
        matrix = torch.stack(
            [
                taps[:, 1 - i : 1 - i + h, 1 - j : 1 - j + w]
                for i in range(rows)
                for j in range(columns)
            ]
        )
        out = F.linear(x.permute(0, 2, 3, 1).flatten(1), matrix.flatten(0, 1).flatten(1))
        return out.view(n, rows, columns, -1).permute(0, 3, 1, 2)


class Trunk(ResNet):
    """torchvision's ResNet without classifier: (n, 3, h, w) -> (res2, res3, res4, res5) at strides
    4, 8, 16, 32.

    The stride of a bottleneck is in its 3 x 3 convolution. The state dict has torchvision's names.
    """

    def __init__(self, arch: str, groups: int = 1):
        block, layers = ARCHITECTURES[arch]
        super().__init__(block, list(layers), norm_layer=partial(GroupedBatchNorm2d, groups=groups))
        del self.fc, self.avgpool
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                # torchvision's blocks make their convolutions themselves
                module.__class__ = Conv3x3
        widths = zip(LEVELS, (64, 128, 256, 512), strict=True)
        self.channels = {level: width * block.expansion for level, width in widths}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        features = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            features.append(x)
        return tuple(features)


def trunk_of(arch: str, groups: int = 1) -> Trunk | StagesTrunk:
    """The backbone that a recipe pretrains, with new weights. Raises InputError."""
    return Trunk(arch, groups) if arch in ARCHITECTURES else StagesTrunk(arch)


class Head(nn.Sequential):
    """Pooled features of the ``parts`` views of a picture, concatenated, to ``dim``
    values; no normalisation.

    kind ``mlp``: Linear - ReLU - Linear with a hidden width of ``hidden * channels``; ``linear``:
    one Linear.
    """

    def __init__(
        self, channels: int, dim: int, parts: int = 1, kind: str = "mlp", hidden: float = 1.0
    ):
        layers = [nn.Linear(parts * channels, dim)]
        if kind == "mlp":
            width = max(1, round(hidden * channels))
            layers = [
                nn.Linear(parts * channels, width),
                nn.ReLU(inplace=True),
                nn.Linear(width, dim),
            ]
        super().__init__(*layers)
        self.parts = parts

    def forward(self, feature_map: Tensor) -> Tensor:
        """(n * parts, channels, h, w) -> (n, dim)"""
        pooled = feature_map.mean((2, 3))
        return super().forward(pooled.view(len(pooled) // self.parts, -1))


class Encoder(nn.Module):
    """Trunk and one head for each level and each kind of view.

    forward takes ``images`` (n, 3, h, w) and, where the encoder has local heads, ``patches`` (n, 9,
    3, h, w); it returns a dict kind -> L2-normalised float32 features (levels, n, dim), kind being
    "global" and "local".
    """

    def __init__(self, recipe: Recipe, groups: int = 1):
        super().__init__()
        r = recipe
        self.trunk = trunk_of(r.arch, groups)
        self.levels = [LEVELS.index(level) for level in r.levels]
        channels = [self.trunk.channels[level] for level in r.levels]
        self.global_heads = nn.ModuleList(Head(c, r.dim, 1, r.head, r.hidden) for c in channels)
        self.local_heads = (
            nn.ModuleList(Head(c, r.dim, 9, r.head, r.hidden) for c in channels)
            if r.local
            else None
        )

    def forward(self, images: Tensor, patches: Tensor | None = None) -> dict[str, Tensor]:
        features = {"global": self._features(images, self.global_heads)}
        if self.local_heads is not None:
            features["local"] = self._features(patches.flatten(0, 1), self.local_heads)
        return features

    def _features(self, x: Tensor, heads: nn.ModuleList) -> Tensor:
        maps = self.trunk(x)
        out = torch.stack(
            [head(maps[level]) for head, level in zip(heads, self.levels, strict=True)]
        )
        return F.normalize(out.float(), dim=-1)
