import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision

from detco.pretrain.methods.encoder import Encoder, GroupedBatchNorm2d, Head, Trunk
from detco.pretrain.recipes import LEVELS, RECIPES, replace


def reference_maps(arch, state, x, train):
    """res2..res5 by torchvision's own network."""
    net = getattr(torchvision.models, arch)(weights=None)
    net.load_state_dict(state, strict=False)
    net.train(train)
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    maps = []
    for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
        x = layer(x)
        maps.append(x)
    return maps


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
@pytest.mark.parametrize("train", [False, True])
def test_trunk_is_torchvisions_network(arch, train):
    torch.manual_seed(0)
    trunk = Trunk(arch).train(train)
    x = torch.randn(2, 3, 65, 97)
    state = {k: v.clone() for k, v in trunk.state_dict().items()}
    for ours, theirs in zip(trunk(x), reference_maps(arch, state, x, train), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize(
    "arch, size",
    [
        ("resnet18", (17, 17)),
        ("resnet18", (20, 20)),
        ("resnet18", (64, 64)),
        ("resnet18", (20, 64)),
        ("resnet50", (64, 33)),
    ],
)
def test_small_maps_are_convolved_like_others(arch, size):
    """Small patches, where res4 or res5 is 1 x 1, 2 x 2 or a mixture: the same
    features and gradients."""
    torch.manual_seed(0)
    trunk, x = Trunk(arch).double(), torch.randn(4, 3, *size, dtype=torch.float64)
    net = getattr(torchvision.models, arch)(weights=None).double()
    net.load_state_dict({k: v.clone() for k, v in trunk.state_dict().items()}, strict=False)
    ours = trunk(x)
    assert ours[3].shape[2:] == (-(-size[0] // 32), -(-size[1] // 32))
    weights = torch.randn(4, *ours[3].shape[1:], dtype=torch.float64)
    (ours[3] * weights).sum().backward()
    h = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    h = net.layer4(net.layer3(net.layer2(net.layer1(h))))
    torch.testing.assert_close(ours[3], h)
    (h * weights).sum().backward()
    theirs = dict(net.named_parameters())
    for name, p in trunk.named_parameters():
        torch.testing.assert_close(p.grad, theirs[name].grad)


@pytest.mark.parametrize("arch", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_trunk_has_torchvisions_names_without_classifier(arch):
    with torch.device("meta"):
        trunk, net = Trunk(arch), getattr(torchvision.models, arch)(weights=None)
    ours = {name: tuple(v.shape) for name, v in trunk.state_dict().items()}
    theirs = {
        name: tuple(v.shape) for name, v in net.state_dict().items() if not name.startswith("fc.")
    }
    assert ours == theirs
    tensors = [name for name in ours if "num_batches_tracked" not in name]
    assert (
        len(tensors) == {"resnet18": 100, "resnet34": 180, "resnet50": 265, "resnet101": 520}[arch]
    )
    assert list(trunk.channels) == list(LEVELS) and trunk.channels["res5"] == net.fc.in_features


@pytest.mark.parametrize("channels_last", [False, True])
def test_grouped_batch_norm_normalises_each_group_alone(channels_last):
    torch.manual_seed(0)
    norm = GroupedBatchNorm2d(5, groups=3)
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    weight, bias = (
        norm.weight.detach().clone().requires_grad_(),
        norm.bias.detach().clone().requires_grad_(),
    )
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = (torch.randn(12, 5, 4, 6) * 3 + 1).contiguous(memory_format=layout).requires_grad_()
    y = x.detach().clone().requires_grad_()
    mean, var = torch.zeros(5), torch.ones(5)
    expected = []
    for g in range(3):
        stats = (mean, var) if g == 0 else (None, None)
        expected.append(F.batch_norm(y[4 * g : 4 * g + 4], *stats, weight, bias, training=True))
    expected = torch.cat(expected)
    out = norm(x)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, var)

    upstream = torch.randn_like(out)
    out.backward(upstream), expected.backward(upstream)
    torch.testing.assert_close(x.grad, y.grad)
    torch.testing.assert_close(norm.weight.grad, weight.grad)
    torch.testing.assert_close(norm.bias.grad, bias.grad)


def test_compiled_layers_are_the_plain_ones(monkeypatch):
    """In one piece (fullgraph), grouped normalisation written as one expression: features,
    gradients, statistics."""
    torch.manual_seed(0)
    plain = Trunk("resnet18", groups=2).layer4
    compiled = copy.deepcopy(plain)
    fusible = []
    monkeypatch.setattr(
        GroupedBatchNorm2d,
        "_fusible",
        lambda n, x, f=GroupedBatchNorm2d._fusible: fusible.append(n) or f(n, x),
    )
    compiled.compile(backend="eager", fullgraph=True, dynamic=False)
    x = torch.randn(4, 256, 3, 3)
    ours, theirs = compiled(x), plain(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert len(fusible) == 5
    weights = torch.randn_like(ours)
    (ours * weights).sum().backward(), (theirs * weights).sum().backward()
    for (name, p), q in zip(compiled.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-3, msg=name)
    for (name, p), q in zip(compiled.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5, msg=name)


def test_grouped_batch_norm_in_evaluation_uses_the_running_statistics():
    torch.manual_seed(0)
    norm = GroupedBatchNorm2d(3, groups=2)
    norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    norm.eval()
    x = torch.randn(5, 3, 2, 2)  # need not divide into groups here
    torch.testing.assert_close(
        norm(x), F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )


def test_grouped_batch_norm_refuses_a_batch_that_does_not_divide():
    with pytest.raises(ValueError, match="batch of 7 does not divide into 2 groups"):
        GroupedBatchNorm2d(3, groups=2)(torch.randn(7, 3, 2, 2))


def test_local_head_takes_the_nine_pooled_patches_side_by_side():
    torch.manual_seed(0)
    head = Head(4, 8, parts=9)
    maps = torch.randn(2, 9, 4, 3, 3)
    pooled = maps.mean((3, 4)).reshape(2, 36)
    hidden = (pooled @ head[0].weight.T + head[0].bias).clamp_min(0)
    assert hidden.shape == (2, 4)
    torch.testing.assert_close(head(maps.flatten(0, 1)), hidden @ head[2].weight.T + head[2].bias)


def test_hidden_width_is_a_setting():
    recipe = replace(RECIPES["detco-small"], hidden=2.0)
    assert [head[0].out_features for head in Encoder(recipe).local_heads] == [128, 256, 512, 1024]


def test_linear_head_is_one_layer():
    head = Head(4, 8, kind="linear")
    maps = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(head(maps), maps.mean((2, 3)) @ head[0].weight.T + head[0].bias)


def test_encoder_gives_unit_features_of_the_chosen_levels():
    torch.manual_seed(0)
    encoder = Encoder(
        replace(RECIPES["detco-small"], levels=("res3", "res5"), level_weights=(1.0, 1.0), dim=16)
    )
    out = encoder(torch.randn(2, 3, 64, 64), torch.randn(2, 9, 3, 32, 32))
    assert {kind: tuple(f.shape) for kind, f in out.items()} == {
        "global": (2, 2, 16),
        "local": (2, 2, 16),
    }
    torch.testing.assert_close(out["local"].norm(dim=-1), torch.ones(2, 2))
    assert [head[0].in_features for head in encoder.global_heads] == [128, 512]
    assert [head[0].in_features for head in encoder.local_heads] == [9 * 128, 9 * 512]
