"""Makes checkpoints as other projects write them, from one ResNet-18 with known weights.

Tensor names come from tables of each project's own names, not from the rules in LAYOUTS. Facts
about layouts: see the rows of LAYOUTS. All tensors are views of one storage, so that a
file takes 10 MB.
"""

import argparse
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import nn

BANK = torch.linspace(0, 2, 2_400_000)


@dataclass(frozen=True)
class Part:
    """One tensor of a trunk: `stage` 0 is the stem, `what` conv1 ... bn3, downsample.0 or .1,
    `leaf` weight, bias ..."""

    stage: int
    block: int
    what: str
    leaf: str
    tensor: torch.Tensor

    @property
    def name(self) -> str:
        """torchvision's."""
        return (
            f"{self.what}.{self.leaf}"
            if not self.stage
            else f"layer{self.stage}.{self.block}.{self.what}.{self.leaf}"
        )


def parts(seed: int = 0, arch: str = "resnet18") -> list[Part]:
    """Every tensor of a trunk, counters of batches included, all different."""
    with torch.device("meta"):
        state = getattr(torchvision.models, arch)().state_dict()
    found = []
    for number, (name, like) in enumerate(
        (k, v) for k, v in state.items() if not k.startswith("fc.")
    ):
        start = 37 * number + 11 * seed
        tensor = (
            BANK[start : start + like.numel()].view(like.shape)
            if like.ndim
            else torch.tensor(100 + number)
        )
        *where, leaf = name.split(".")
        stage, block = (
            (int(where[0][5:]), int(where[1])) if where[0].startswith("layer") else (0, 0)
        )
        found.append(Part(stage, block, ".".join(where[2:] if stage else where), leaf, tensor))
    return found


def names(prefix: str = "", seed: int = 0) -> dict[str, torch.Tensor]:
    """torchvision's names behind a prefix."""
    return OrderedDict((prefix + part.name, part.tensor) for part in parts(seed))


def wrapped(tensors: dict, wrapper: str = "module.") -> dict:
    return OrderedDict((wrapper + name, tensor) for name, tensor in tensors.items())


def some(*names: str) -> dict[str, torch.Tensor]:
    """Tensors of heads and queues; their numbers do not matter."""
    return {name: torch.ones(2, 3) for name in names}


def linears(prefix: str, *numbers: int, bias: bool = True) -> dict[str, torch.Tensor]:
    return some(
        *(
            f"{prefix}{n}.{leaf}"
            for n in numbers
            for leaf in (("weight", "bias") if bias else ("weight",))
        )
    )


def norm(prefix: str) -> dict[str, torch.Tensor]:
    leaves = ("weight", "bias", "running_mean", "running_var")
    return some(*(prefix + leaf for leaf in leaves)) | {
        prefix + "num_batches_tracked": torch.tensor(5)
    }


def saved(state: dict, path: Path, **more) -> Path:
    """A file as most training loops write it."""
    torch.save({"state_dict": state, "epoch": 200, **more}, path)
    return path


def trained(arch: str, seed: int = 0) -> nn.Module:
    """A network whose normalisation is as after training, in evaluation mode."""
    torch.manual_seed(seed)
    net = getattr(torchvision.models, arch)().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net


def res5(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Features of torchvision's ResNet."""
    with torch.no_grad():
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
            x = layer(x)
    return x


# --- other words for the parts of a ResNet -------------------------------------------------------

# children of torchvision's ResNet
SEQUENCE = (
    "conv1",
    "bn1",
    "relu",
    "maxpool",
    "layer1",
    "layer2",
    "layer3",
    "layer4",
    "avgpool",
)
D2_WORDS = {
    "conv1": "conv1",
    "conv2": "conv2",
    "conv3": "conv3",
    "bn1": "conv1.norm",
    "bn2": "conv2.norm",
    "bn3": "conv3.norm",
    "downsample.0": "shortcut",
    "downsample.1": "shortcut.norm",
}
C2_WORDS = {
    "conv1": "branch2a",
    "bn1": "branch2a_bn",
    "conv2": "branch2b",
    "bn2": "branch2b_bn",
    "conv3": "branch2c",
    "bn3": "branch2c_bn",
    "downsample.0": "branch1",
    "downsample.1": "branch1_bn",
}
C2_LEAVES = {
    "bias": "beta",
    "weight": "gamma",
    "running_mean": "running_mean",
    "running_var": "running_var",
}
HF_WORDS = {
    "conv1": "layer.0.convolution",
    "bn1": "layer.0.normalization",
    "conv2": "layer.1.convolution",
    "bn2": "layer.1.normalization",
    "conv3": "layer.2.convolution",
    "bn3": "layer.2.normalization",
    "downsample.0": "shortcut.convolution",
    "downsample.1": "shortcut.normalization",
}


def sequential(prefix: str, seed: int = 0) -> dict:
    def name(part: Part) -> str:
        top = SEQUENCE.index(part.what if not part.stage else f"layer{part.stage}")
        return (
            f"{prefix}{top}.{part.leaf}"
            if not part.stage
            else f"{prefix}{top}.{part.block}.{part.what}.{part.leaf}"
        )

    return {name(part): part.tensor for part in parts(seed)}


def detectron2(prefix: str = "") -> dict:
    def name(part: Part) -> str:
        place = f"res{part.stage + 1}.{part.block}" if part.stage else "stem"
        return f"{prefix}{place}.{D2_WORDS[part.what]}.{part.leaf}"

    return {name(part): part.tensor.numpy() for part in parts()}


def our_detector() -> dict:
    """The trunk within a detector of the engine `torchvision`: stages under Detectron2's names,
    blocks under torchvision's."""

    def name(part: Part) -> str:
        place = f"stages.res{part.stage + 1}.{part.block}" if part.stage else "stem"
        return f"backbone.module.trunk.{place}.{part.what}.{part.leaf}"

    return {name(part): part.tensor for part in parts()} | some("backbone.module.fpn.w")


def caffe2(affine: bool = False) -> dict:
    """MSRA's ResNets in Detectron: `affine` has no statistics (Detectron 1)."""
    found = {}
    for part in parts():
        is_norm = "bn" in part.what or part.what == "downsample.1"
        place = (
            f"res{part.stage + 1}_{part.block}_{C2_WORDS[part.what]}"
            if part.stage
            else part.what.replace("bn1", "res_conv1_bn")
        )
        if part.leaf == "num_batches_tracked" or (affine and "running" in part.leaf):
            continue
        leaf = (
            ({"weight": "s", "bias": "b"} if affine else C2_LEAVES)[part.leaf] if is_norm else "w"
        )
        found[f"{place}_{leaf}"] = part.tensor.numpy()
    return found


def hugging_face(prefix: str) -> dict:
    def name(part: Part) -> str:
        if not part.stage:
            layer = "convolution" if part.what == "conv1" else "normalization"
            return f"{prefix}embedder.embedder.{layer}.{part.leaf}"
        block = f"encoder.stages.{part.stage - 1}.layers.{part.block}"
        return f"{prefix}{block}.{HF_WORDS[part.what]}.{part.leaf}"

    return {name(part): part.tensor for part in parts()}


# --- one file a layout ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """What a project would save, and what the import is to say of it. `seeds`: role -> whose
    numbers it has."""

    content: object
    layout: str
    method: str
    seeds: tuple[tuple[str, int], ...] = (("backbone", 0),)
    suffix: str = ".pth"
    scale: str = "imagenet"
    epochs: str = ""
    said: str | None = None


TRAINING = {
    "epoch": 200,
    "arch": "resnet18",
    "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": []},
}
LIGHTNING = {
    "epoch": 99,
    "global_step": 500,
    "pytorch-lightning_version": "2.1.0",
    "loops": {"fit_loop": {"state_dict": {}}},
    "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_path": "x"}},
    "optimizer_states": [],
    "lr_schedulers": [],
}
QUERY_KEY = (("query", 0), ("key", 1))
BASE_MOMENTUM = (("base", 0), ("momentum", 1))
ONLINE_TARGET = (("online", 0), ("target", 1))
MLP = ("fc.0.weight", "fc.0.bias", "fc.2.weight", "fc.2.bias")


def moco(*head: str) -> dict:
    both = {
        k: v
        for p, seed in (("encoder_q.", 0), ("encoder_k.", 1))
        for k, v in (names(p, seed) | some(*(p + h for h in head))).items()
    }
    return wrapped(both | some("queue", "queue_ptr"))


def detco_pytorch() -> dict:
    """The stages are registered twice: as layer1 ... layer4 and in the list `layers`."""
    state = {}
    for prefix, seed in (("encoder_q.", 0), ("encoder_k.", 1)):
        for part in parts(seed):
            state[prefix + part.name] = part.tensor
            if part.stage:
                state[f"{prefix}layers.{part.stage - 1}.{part.block}.{part.what}.{part.leaf}"] = (
                    part.tensor
                )
        state |= linears(f"{prefix}global_mlps.0.mlp.", 0, 2) | linears(
            f"{prefix}local_mlps.3.mlp.", 0, 2
        )
    return wrapped(state | some("queue", "queue_ptr"))


def swav(*prototypes: str) -> dict:
    return wrapped(
        names() | linears("projection_head.", 0, 3) | norm("projection_head.1.") | some(*prototypes)
    )


def openselfsup(**more) -> dict:
    """Query encoder and backbone are one module under two names; the key encoder beside it."""
    return (
        names("backbone.")
        | names("encoder_q.0.")
        | names("encoder_k.0.", 1)
        | linears("encoder_q.1.mlp.", 0, 2)
        | linears("encoder_k.1.mlp.", 0, 2)
        | some("queue", "queue_ptr", *more)
    )


def mmdetection() -> dict:
    """A Faster R-CNN with a pyramid."""
    return (
        names("backbone.")
        | some("neck.lateral_convs.0.conv.weight", "neck.fpn_convs.0.conv.weight")
        | some("rpn_head.rpn_conv.weight", "rpn_head.rpn_cls.weight", "rpn_head.rpn_reg.weight")
        | some("roi_head.bbox_head.fc_cls.weight", "roi_head.bbox_head.shared_fcs.0.weight")
    )


def mmselfsup() -> dict:
    return (
        names("backbone.")
        | linears("neck.mlp.", 0, 2)
        | names("target_net.module.0.", 1)
        | linears("target_net.module.1.", 0)
        | {"target_net.steps": torch.tensor(9)}
        | linears("head.predictor.", 0)
        | some("data_preprocessor.mean")
    )


def vissl() -> dict:
    heads = linears("0.clf.", 0)
    return {
        "phase_idx": 199,
        "iteration": 9,
        "loss": {},
        "type": "consolidated",
        "classy_state_dict": {
            "train": True,
            "base_model": {
                "model": {"trunk": names("_feature_blocks."), "heads": heads},
                "meta": {},
            },
            "meters": [argparse.Namespace(name="top1")],
        },
    }


def solo(backbone: str = "backbone") -> dict:
    state = (
        names(f"{backbone}.")
        | names(f"momentum_{backbone}.", 1)
        | linears("projector.", 0, 3)
        | norm("projector.1.")
    )
    # of All4One
    state |= (
        linears("momentum_projector.", 0) | linears("predictor.", 0, 3) | linears("predictor2.", 0)
    )
    state |= some("classifier.weight", "classifier.bias")
    return state | some("momentum_classifier.weight", "queue", "queue_y", "queue_ptr")


def made() -> dict[str, Made]:
    """Test's name -> file."""
    v3 = (
        names("base_encoder.")
        | names("momentum_encoder.", 1)
        | linears("base_encoder.fc.", 0, 3, bias=False)
    )
    v3 |= (
        linears("momentum_encoder.fc.", 0, 3, bias=False)
        | norm("base_encoder.fc.1.")
        | linears("predictor.", 0, 3, bias=False)
    )
    siam = (
        names("encoder.")
        | linears("encoder.fc.", 0, 3, bias=False)
        | norm("encoder.fc.1.")
        | linears("encoder.fc.", 6)
    )
    barlow = (
        names("backbone.")
        | linears("projector.", 0, 3, 6, bias=False)
        | norm("projector.1.")
        | some("bn.running_mean", "bn.running_var")
    )
    dino_head = linears("head.mlp.", 0, 2, 4) | some(
        "head.last_layer.weight_g", "head.last_layer.weight_v"
    )
    pixpro = (
        names("encoder.")
        | names("encoder_k.", 1)
        | some(
            "projector.linear1.weight",
            "projector_k.linear1.weight",
            "value_transform.weight",
            "predictor.linear1.weight",
        )
    )
    lucid = (
        names("net.")
        | some("net.fc.weight", "net.fc.bias")
        | names("online_encoder.net.")
        | names("target_encoder.net.", 1)
    )
    lucid |= some("online_encoder.net.fc.weight", "target_encoder.net.fc.weight") | linears(
        "online_encoder.projector.", 0, 3
    )
    lucid |= linears("target_encoder.projector.", 0, 3) | linears("online_predictor.", 0, 3)
    yao = (
        sequential("online_network.encoder.")
        | sequential("target_network.encoder.", 1)
        | some(
            "online_network.projetion.l1.weight",
            "target_network.projetion.l1.weight",
            "predictor.l2.bias",
        )
    )
    fc = some("fc.weight", "fc.bias")
    light = (
        names("backbone.")
        | names("key_backbone.", 1)
        | linears("projection_head.layers.", 0, 2)
        | linears("key_projection_head.layers.", 0)
        | linears("online_classifier.", 0)
        | some("criterion.memory_bank.bank")
    )
    return {
        "moco v1": Made(
            {**TRAINING, "state_dict": moco("fc.weight", "fc.bias")},
            "moco-v1",
            "moco-v1",
            QUERY_KEY,
            ".pth.tar",
            epochs="200",
        ),
        "moco v2": Made(
            {**TRAINING, "state_dict": moco(*MLP)},
            "moco-v2",
            "moco-v2",
            QUERY_KEY,
            ".pth.tar",
            epochs="200",
        ),
        "moco without its head": Made({"state_dict": moco()}, "moco", "moco", QUERY_KEY),
        "moco v3": Made(
            {**TRAINING, "state_dict": wrapped(v3), "scaler": {}},
            "moco-v3",
            "moco-v3",
            BASE_MOMENTUM,
            epochs="200",
        ),
        "simsiam": Made(
            {**TRAINING, "state_dict": wrapped(siam | linears("predictor.", 0, 3))},
            "simsiam",
            "simsiam",
            (("base", 0),),
            epochs="200",
        ),
        "swav": Made(swav("prototypes.weight"), "swav", "swav", suffix=".pth.tar"),
        "swav training": Made(
            {**TRAINING, "state_dict": swav("prototypes.weight")}, "swav", "swav", epochs="200"
        ),
        "deepcluster v2": Made(
            swav(*(f"prototypes.prototypes{n}.weight" for n in range(3))),
            "deepcluster-v2",
            "deepcluster-v2",
        ),
        "barlow twins": Made(
            {"epoch": 1000, "model": wrapped(barlow), "optimizer": {}},
            "barlow-twins",
            "barlow-twins",
            epochs="1000",
        ),
        "barlow twins final": Made(names(), "bare", "unknown"),
        "vicreg": Made(
            {
                "epoch": 1000,
                "model": wrapped(
                    names("backbone.") | linears("projector.", 0, 3) | norm("projector.1.")
                ),
            },
            "vicreg",
            "vicreg",
            epochs="1000",
        ),
        "dino": Made(
            {
                "student": wrapped(names("backbone.") | dino_head),
                "teacher": names("backbone.", 1) | dino_head,
                "epoch": 100,
                "args": argparse.Namespace(arch="resnet18"),
                "dino_loss": some("center"),
            },
            "dino",
            "dino",
            (("student", 0), ("teacher", 1)),
            epochs="100",
        ),
        "byol lucidrains": Made(lucid, "byol-pytorch", "byol", ONLINE_TARGET, ".pt"),
        "byol lucidrains in Lightning": Made(
            {**LIGHTNING, "state_dict": wrapped(lucid, "learner.")},
            "byol-pytorch",
            "byol",
            ONLINE_TARGET,
            ".ckpt",
        ),
        "byol sthalles": Made(
            {
                "online_network_state_dict": (
                    sequential("encoder.") | linears("projetion.net.", 0, 3)
                ),
                "target_network_state_dict": (
                    sequential("encoder.", 1) | linears("projetion.net.", 0, 3)
                ),
                "optimizer_state_dict": {},
            },
            "byol-sthalles",
            "byol",
            ONLINE_TARGET,
            scale="unit",
        ),
        "byol yaox12": Made(
            {"config": {"model": {}}, "epoch": 300, "steps": 4, "model": wrapped(yao), "amp": {}},
            "byol-yaox12",
            "byol",
            ONLINE_TARGET,
            ".pth.tar",
            epochs="300",
        ),
        "byol converted": Made(names() | fc, "byol-converted", "byol", said="byol-converted"),
        "simclr sthalles": Made(
            {**TRAINING, "state_dict": names("backbone.") | linears("backbone.fc.", 0, 2)},
            "simclr-sthalles",
            "simclr",
            scale="unit",
            epochs="200",
        ),
        "simclr spijkervet": Made(
            names("encoder.") | linears("projector.", 0, 2, bias=False),
            "simclr-spijkervet",
            "simclr",
            scale="unit",
        ),
        "simclr converted": Made(
            {"state_dict": names() | fc},
            "simclr-converted",
            "simclr",
            scale="unit",
            said="simclr-converted",
        ),
        "pixpro": Made(
            {
                "opt": argparse.Namespace(lr=1.0),
                "model": wrapped(pixpro),
                "scheduler": {},
                "epoch": 100,
            },
            "pixpro",
            "pixpro",
            BASE_MOMENTUM,
            epochs="100",
        ),
        "infomin": Made(
            {
                "model": wrapped(
                    names("encoder.") | linears("head.", 0, 2) | linears("head_jig.fc1.", 0)
                ),
                "model_ema": names("encoder.", 1) | linears("head.", 0, 2),
                "contrast": some("memory"),
                "epoch": 800,
            },
            "pycontrast",
            "unknown",
            BASE_MOMENTUM,
            epochs="800",
        ),
        "infomin, encoder wrapped alone": Made(
            {"model": names("encoder.module.") | linears("head.module.", 0, 2), "epoch": 800},
            "pycontrast",
            "unknown",
            (("base", 0),),
            epochs="800",
        ),
        "densecl": Made(
            {"meta": {"epoch": 200}, "state_dict": openselfsup(queue2=1, queue2_ptr=1)},
            "densecl",
            "densecl",
            QUERY_KEY,
            epochs="200",
        ),
        "densecl released": Made(
            {"state_dict": names(), "author": "DenseCL"}, "densecl-released", "densecl"
        ),
        "openselfsup moco": Made(
            {"meta": {"epoch": 200}, "state_dict": openselfsup()},
            "openselfsup",
            "unknown",
            QUERY_KEY,
            epochs="200",
        ),
        "openselfsup extracted": Made(
            {"state_dict": names(), "author": "OpenSelfSup"}, "bare", "unknown"
        ),
        "mmselfsup": Made(
            {
                "meta": {"epoch": 300, "cfg": "model = dict()"},
                "state_dict": mmselfsup(),
                "message_hub": {
                    "log_scalars": OrderedDict(loss=argparse.Namespace(_log_history=[1.0]))
                },
            },
            "openselfsup",
            "unknown",
            (("query", 0), ("target", 1)),
            epochs="300",
        ),
        "detco": Made({"state_dict": names()}, "detco", "detco", said="detco"),
        "bare in a state_dict": Made({"state_dict": names()}, "bare", "unknown"),
        "caffe under torchvision's names": Made(
            names() | fc, "caffe", "unknown", scale="msra", said="caffe"
        ),
        "torchvision detector": Made(
            names("backbone.body.")
            | some("backbone.fpn.inner_blocks.0.0.weight", "rpn.head.conv.0.0.weight"),
            "torchvision-detector",
            "unknown",
        ),
        "detr": Made(
            {"model": names("backbone.0.body.") | some("transformer.w", "class_embed.bias")},
            "torchvision-detector",
            "unknown",
        ),
        "detco.pytorch": Made(
            {**TRAINING, "state_dict": detco_pytorch()},
            "detco-pytorch",
            "detco",
            QUERY_KEY,
            ".pth.tar",
            epochs="200",
        ),
        "vissl": Made(vissl(), "vissl", "unknown", (("trunk", 0),), ".torch"),
        "vissl converted": Made(
            {"model_state_dict": names("_feature_blocks.")},
            "vissl",
            "unknown",
            (("trunk", 0),),
            ".torch",
        ),
        "solo-learn": Made(
            {**LIGHTNING, "state_dict": solo(), "hyper_parameters": {"method": "byol", "lr": 0.1}},
            "solo-learn",
            "byol",
            BASE_MOMENTUM,
            ".ckpt",
        ),
        "solo-learn of old": Made(
            {
                **LIGHTNING,
                "state_dict": solo("encoder"),
                "hyper_parameters": argparse.Namespace(method="byol"),
            },
            "solo-learn-old",
            "byol",
            BASE_MOMENTUM,
            ".ckpt",
        ),
        "lightly": Made(
            {**LIGHTNING, "state_dict": light, "hyper_parameters": argparse.Namespace(a=1)},
            "lightly",
            "unknown",
            (("base", 0), ("key", 1)),
            ".ckpt",
        ),
        "lightly dino": Made(
            {
                **LIGHTNING,
                "state_dict": (
                    names("student_backbone.") | names("backbone.", 1) | linears("student_head.", 0)
                ),
            },
            "lightly",
            "unknown",
            (("student", 0), ("base", 1)),
            ".ckpt",
        ),
        "lightly sequential": Made(
            {"state_dict": sequential("backbone.") | linears("projection_head.layers.", 0, 2)},
            "lightly",
            "unknown",
            (("base", 0),),
            ".ckpt",
        ),
        "torchvision": Made(names() | fc, "torchvision", "unknown"),
        "pytorch/examples": Made(
            {**TRAINING, "state_dict": wrapped(names() | fc), "best_acc1": torch.tensor(70.0)},
            "torchvision",
            "unknown",
            suffix=".pth.tar",
            epochs="200",
        ),
        "torch.compile": Made(
            {"state_dict": wrapped(names() | fc, "_orig_mod.")}, "torchvision", "unknown"
        ),
        "timm": Made(names() | fc, "timm", "unknown", suffix=".safetensors", said="timm"),
        "numpy": Made({k: v.numpy() for k, v in names().items()}, "bare", "unknown", suffix=".npz"),
        "mmdetection": Made(
            {"meta": {"epoch": 12, "time": "x"}, "state_dict": mmdetection()},
            "mmdetection",
            "unknown",
            epochs="12",
        ),
        "mmsegmentation": Made(
            {"state_dict": names("backbone.") | some("decode_head.a.w", "auxiliary_head.a.w")},
            "mmdetection",
            "unknown",
        ),
        "hugging face": Made(
            hugging_face("resnet.") | linears("classifier.", 1),
            "hugging-face",
            "unknown",
            suffix=".safetensors",
        ),
        "hugging face, no classifier": Made(
            hugging_face(""), "hugging-face", "unknown", suffix=".bin"
        ),
        "detectron2 of torchvision": Made(
            {
                "model": detectron2() | {"stem.fc.weight": torch.ones(2).numpy()},
                "__author__": "torchvision",
                "matching_heuristics": True,
            },
            "detectron2",
            "unknown",
            suffix=".pkl",
        ),
        "vissl to detectron2": Made(
            {
                "model": {k: torch.as_tensor(v) for k, v in detectron2().items()},
                "matching_heuristics": True,
            },
            "detectron2",
            "unknown",
            suffix=".torch",
        ),
        "detectron2 detector": Made(
            {
                "model": (
                    detectron2("backbone.bottom_up.")
                    | {"proposal_generator.w": torch.ones(2).numpy()}
                ),
                "__author__": "Detectron2 Model Zoo",
            },
            "detectron2-msra",
            "supervised",
            suffix=".pkl",
            scale="msra",
        ),
        "detectron2 c4 detector, trained": Made(
            {
                "model": {
                    name.replace("backbone.res5", "roi_heads.res5"): torch.as_tensor(value)
                    for name, value in detectron2("backbone.").items()
                }
                | some("roi_heads.box_predictor.w", "proposal_generator.w"),
                "iteration": 5,
                "optimizer": {},
            },
            "detectron2",
            "unknown",
        ),
        "our detector, in training": Made(
            {
                "model": our_detector() | some("head.regression_head.conv.module.1.1.weight"),
                "iteration": 5,
                "rate": {},
            },
            "detector-checkpoint",
            "unknown",
            suffix=".pt",
        ),
        "msra": Made(
            caffe2() | {"conv1_b": torch.zeros(64).numpy(), "fc1000_w": torch.ones(2).numpy()},
            "msra",
            "supervised",
            suffix=".pkl",
            scale="msra",
        ),
        "msra of detectron 1": Made(
            {
                "blobs": caffe2(affine=True) | {"conv1_w_momentum": torch.ones(2).numpy()},
                "cfg": "x",
            },
            "msra",
            "supervised",
            suffix=".pkl",
            scale="msra",
        ),
        "our checkpoint": Made(
            {
                "identity": {"seed": "0"},
                "iteration": 5,
                "optimizer": {},
                "scaler": {},
                "model": (
                    names("query.trunk.")
                    | names("key.trunk.", 1)
                    | linears("query.global_heads.0.", 0, 2)
                    | linears("key.global_heads.0.", 0, 2)
                    | some("queues.global.keys")
                ),
            },
            "detco-checkpoint",
            "unknown",
            QUERY_KEY,
            ".pt",
        ),
        "our supervised checkpoint": Made(
            {"identity": {"seed": "0"}, "iteration": 5, "model": names("trunk.") | fc},
            "supervised-checkpoint",
            "supervised",
            suffix=".pt",
        ),
    }
