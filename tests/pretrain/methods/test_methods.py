"""MoCo and DetCo against code written independently, from METHOD alone, on the same
weights and views."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision

from detco.pretrain.methods.detco import DetCo
from detco.pretrain.methods.moco import MoCo
from detco.pretrain.methods.supervised import Supervised
from detco.pretrain.recipes import RECIPES

TINY = dict(
    arch="resnet18",
    batch=4,
    dim=8,
    queue=10,
    groups=2,
    view_size=48,
    jigsaw_size=60,
    patch_size=20,
    key_momentum=0.9,
)
DETCO = replace(RECIPES["detco-200ep"], **TINY)
MOCO = replace(RECIPES["moco-v2-200ep"], **TINY)
WEIGHTS = {"res2": 0.1, "res3": 0.4, "res4": 0.7, "res5": 1.0}


def model(cls, recipe, seed=0):
    torch.manual_seed(seed)
    return cls(recipe, recipe.groups)


def views(recipe, seed=0, n=4):
    g = torch.Generator().manual_seed(seed)
    batch = {
        name: torch.randn(n, 3, 48, 48, generator=g) for name in ("global_query", "global_key")
    }
    if recipe.local:
        batch |= {
            name: torch.randn(n, 9, 3, 20, 20, generator=g) for name in ("local_query", "local_key")
        }
    return batch


class Plain:
    """One encoder in the plainest form: torchvision's network run on each BN group, heads
    as matrix products."""

    def __init__(self, state, prefix, groups, levels):
        self.net = torchvision.models.resnet18()
        own = {
            k.removeprefix(f"{prefix}.trunk."): v.clone()
            for k, v in state.items()
            if k.startswith(f"{prefix}.trunk.")
        }
        assert not self.net.load_state_dict(own, strict=False).unexpected_keys
        self.heads = {
            k.removeprefix(f"{prefix}."): v.clone().requires_grad_()
            for k, v in state.items()
            if k.startswith(prefix) and "_heads." in k
        }
        self.groups, self.levels = groups, levels
        self.net.train()

    def parameters(self):
        named = {f"trunk.{k}": p for k, p in self.net.named_parameters() if not k.startswith("fc.")}
        return named | self.heads

    def __call__(self, x, kind):
        """(n, 3, h, w) or (n, 9, 3, h, w) -> level -> (n, dim)"""
        out = {level: [] for level in self.levels}
        for part in x.chunk(self.groups):
            net, h = self.net, part.flatten(0, 1) if part.dim() == 5 else part
            h = net.maxpool(net.relu(net.bn1(net.conv1(h))))
            for name, layer in zip(
                WEIGHTS, (net.layer1, net.layer2, net.layer3, net.layer4), strict=True
            ):
                h = layer(h)
                if name in out:
                    out[name].append(h.mean((2, 3)).reshape(len(part), -1))
        return {
            level: self._head(torch.cat(f), kind, i) for i, (level, f) in enumerate(out.items())
        }

    def _head(self, f, kind, i):
        p = f"{kind}_heads.{i}"
        f = (f @ self.heads[f"{p}.0.weight"].T + self.heads[f"{p}.0.bias"]).relu()
        f = f @ self.heads[f"{p}.2.weight"].T + self.heads[f"{p}.2.bias"]
        return f / f.norm(dim=1, keepdim=True)


def plain_step(query, key, queues, recipe, batch, order):
    """METHOD's step: momentum update, shuffled keys, queries, losses. Returns (loss, keys level ->
    (n, dim) by kind)."""
    with torch.no_grad():
        for name, p in key.parameters().items():
            p.copy_(recipe.key_momentum * p + (1 - recipe.key_momentum) * query.parameters()[name])
        keys = {}
        for kind in ("global", "local") if recipe.local else ("global",):
            shuffled = key(batch[f"{kind}_key"][order], kind)
            keys[kind] = {}
            for level, k in shuffled.items():
                back = torch.empty_like(k)
                back[order] = k
                keys[kind][level] = back
    queries = {kind: query(batch[f"{kind}_query"], kind) for kind in keys}
    loss = 0
    for i, level in enumerate(recipe.levels):
        for term in recipe.terms:
            key_kind, query_kind = {
                "global-global": ("global", "global"),
                "local-local": ("local", "local"),
                "global-local": ("global", "local"),
            }[term]
            q, k = queries[query_kind][level], keys[key_kind][level]
            logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queues[key_kind][i]], 1) / 0.2
            loss = loss + recipe.level_weights[i] * F.cross_entropy(
                logits, torch.zeros(len(q), dtype=torch.long)
            )
    return loss, keys


@pytest.mark.parametrize(
    "cls, recipe",
    [
        (DetCo, DETCO),
        (MoCo, MOCO),
        (
            DetCo,
            replace(
                DETCO,
                levels=("res3", "res5"),
                level_weights=(0.5, 2.0),
                terms=("global-local", "local-local"),
            ),
        ),
    ],
)
def test_three_steps_of_training_against_independent_code(cls, recipe):
    ours = model(cls, recipe)
    state = ours.state_dict()
    query, key = (Plain(state, prefix, recipe.groups, recipe.levels) for prefix in ("query", "key"))
    queues = {
        kind: state[f"queues.{kind}.keys"].clone()
        for kind in ("global", "local")
        if f"queues.{kind}.keys" in state
    }
    pointer = 0
    optimizer = torch.optim.SGD([p for p in ours.parameters() if p.requires_grad], 0.01, 0.9)
    plain_optimizer = torch.optim.SGD(query.parameters().values(), 0.01, 0.9)
    for step in range(3):
        batch = views(recipe, seed=step)
        order = torch.randperm(4, generator=torch.Generator().manual_seed(step))
        output = ours(batch, order)
        loss, keys = plain_step(query, key, queues, recipe, batch, order)
        assert output["loss"].item() == pytest.approx(loss.item(), rel=2e-5)
        for o, value in ((optimizer, output["loss"]), (plain_optimizer, loss)):
            o.zero_grad()
            value.backward()
            o.step()
        ours.enqueue(output["keys"])
        for kind, queue in queues.items():
            for i, level in enumerate(recipe.levels):
                for j in range(4):
                    queue[i, :, (pointer + j) % 10] = keys[kind][level][j]
            torch.testing.assert_close(ours.queues[kind].keys, queue, rtol=1e-3, atol=1e-4)
        pointer = (pointer + 4) % 10
        assert ours.queues["global"].pointer.item() == pointer
    for plain, own in ((query, ours.query), (key, ours.key)):
        named = dict(own.named_parameters())
        assert set(plain.parameters()) == set(named)
        for name, p in plain.parameters().items():
            torch.testing.assert_close(named[name], p, rtol=1e-3, atol=1e-4)


def test_detco_losses_on_given_features_against_naive_numpy():
    ours = model(DetCo, DETCO)
    g = torch.Generator().manual_seed(1)
    features = {
        side: {
            kind: F.normalize(torch.randn(4, 4, 8, generator=g), dim=-1)
            for kind in ("global", "local")
        }
        for side in ("query", "key")
    }
    total, figures = ours.losses(features["query"], features["key"])
    q, k = (
        {kind: f.double().numpy() for kind, f in features[side].items()}
        for side in ("query", "key")
    )
    queue = {kind: ours.queues[kind].keys.double().numpy() for kind in ("global", "local")}
    expected = 0.0
    for i, (level, weight) in enumerate(WEIGHTS.items()):
        for term, query_kind, key_kind in (
            ("global-global", "global", "global"),
            ("local-local", "local", "local"),
            ("global-local", "local", "global"),
        ):
            rows = []
            for a, b in zip(q[query_kind][i], k[key_kind][i], strict=True):
                positive = np.exp(a @ b / 0.2)
                rows.append(
                    -np.log(positive / (positive + np.exp(a @ queue[key_kind][i] / 0.2).sum()))
                )
            assert figures[f"loss/{term}/{level}"].item() == pytest.approx(np.mean(rows), rel=1e-5)
            expected += weight * np.mean(rows)
    assert total.item() == pytest.approx(expected, rel=1e-5)


def test_detco_has_eight_heads_and_eight_queues():
    ours = model(DetCo, replace(DETCO, queue=12))
    assert len(ours.query.global_heads) + len(ours.query.local_heads) == 8
    assert sum(len(queue.keys) for queue in ours.queues.values()) == 8
    assert ours.queues["local"].keys.shape == (4, 8, 12)


def test_detco_with_global_views_of_res5_alone_is_moco_v2():
    recipe = replace(RECIPES["detco-global-only"], **TINY)
    detco, moco = model(DetCo, recipe), model(MoCo, MOCO, seed=1)
    assert detco.state_dict().keys() == moco.state_dict().keys()
    moco.load_state_dict(detco.state_dict())
    batch, order = views(MOCO), torch.tensor([2, 0, 3, 1])
    one, other = detco(batch, order), moco(batch, order)
    torch.testing.assert_close(one["loss"], other["loss"], rtol=0, atol=0)
    torch.testing.assert_close(one["keys"], other["keys"], rtol=0, atol=0)


def test_keys_have_no_gradient_and_queries_do():
    ours = model(DetCo, DETCO)
    output = ours(views(DETCO), torch.arange(4))
    output["loss"].backward()
    assert all(p.grad is None for p in ours.key.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in ours.query.parameters())


def test_queue_is_untouched_until_the_keys_are_enqueued():
    ours = model(MoCo, MOCO)
    before = ours.queues["global"].keys.clone()
    output = ours(views(MOCO), torch.arange(4))
    output["loss"].backward()
    assert torch.equal(ours.queues["global"].keys, before)
    ours.enqueue(output["keys"])
    torch.testing.assert_close(ours.queues["global"].keys[0, :, :4], output["keys"]["global"][0].T)
    assert torch.equal(ours.queues["global"].keys[..., 4:], before[..., 4:])


def test_shuffling_changes_which_keys_share_statistics():
    batch = views(MOCO)
    same = model(MoCo, MOCO)(batch, torch.tensor([1, 0, 3, 2]))["keys"]["global"]
    plain = model(MoCo, MOCO)(batch, torch.arange(4))["keys"]["global"]
    other = model(MoCo, MOCO)(batch, torch.tensor([0, 2, 1, 3]))["keys"]["global"]
    torch.testing.assert_close(same, plain, rtol=1e-4, atol=1e-5)  # the same pairs
    assert (other - plain).abs().max() > 1e-2


def test_supervised_loss_is_cross_entropy_of_the_linear_classifier():
    recipe = replace(RECIPES["supervised-90ep"], arch="resnet18", batch=4, groups=1)
    torch.manual_seed(0)
    ours = Supervised(recipe, 1, classes=3)
    net = torchvision.models.resnet18(num_classes=3)
    state = {k.removeprefix("trunk."): v for k, v in ours.state_dict().items()}
    net.load_state_dict(state)
    batch = {"image": torch.randn(4, 3, 40, 40), "label": torch.tensor([0, 2, 1, 1])}
    expected = F.cross_entropy(net.train()(batch["image"]), batch["label"])
    torch.testing.assert_close(ours(batch)["loss"], expected)
