import subprocess
import sys
from dataclasses import asdict, fields, replace

import pytest

from detco.common.errors import InputError
from detco.pretrain.recipes import LEVELS, RECIPES, RUNNING, TERMS, Recipe, recipe_hash


def test_full_size_recipes_are_the_papers():
    names = {
        "moco-v1-200ep",
        "moco-v2-200ep",
        "moco-v2-800ep",
        "detco-100ep",
        "detco-200ep",
        "detco-800ep",
        "detco-aa-100ep",
        "detco-aa-200ep",
        "supervised-90ep",
        "detco-no-hierarchy",
        "detco-no-local-local",
        "detco-no-global-local",
        "detco-global-only",
        "detco-equal-weights",
    }
    assert names <= set(RECIPES)
    for name in names:
        r = RECIPES[name]
        assert (r.arch, r.batch, r.groups, r.weight_decay, r.sgd_momentum) == (
            "resnet50",
            256,
            8,
            1e-4,
            0.9,
        )
        assert r.source and (r.view_size, r.optimizer) == (224, "sgd")
        if name.endswith("ep"):
            assert name.endswith(f"-{r.epochs}ep")
    for name in names - {"supervised-90ep"}:
        r = RECIPES[name]
        assert (r.lr, r.lr_batch, r.dim, r.queue, r.key_momentum) == (0.03, 256, 128, 65536, 0.999)
        assert (r.crop_scale, r.gray_p, r.flip_p) == ((0.2, 1.0), 0.2, 0.5)
    detco, v1 = RECIPES["detco-200ep"], RECIPES["moco-v1-200ep"]
    assert (detco.levels, detco.level_weights, detco.terms) == (LEVELS, (0.1, 0.4, 0.7, 1.0), TERMS)
    assert (detco.jigsaw_scale, detco.jigsaw_size, detco.patch_size, detco.temperature) == (
        (0.6, 1.0),
        255,
        64,
        0.2,
    )
    assert (detco.jitter, detco.jitter_p, detco.blur_p, detco.blur_sigma) == (
        (0.4, 0.4, 0.4, 0.1),
        0.8,
        0.5,
        (0.1, 2.0),
    )
    assert (v1.head, v1.temperature, v1.schedule, v1.milestones) == (
        "linear",
        0.07,
        "step",
        (120, 160),
    )
    assert (v1.jitter, v1.blur_p, v1.gray_first) == ((0.4,) * 4, 0.0, True)
    assert {"lr", "hidden", "patch_order"} <= set(detco.assumed) and (
        detco.hidden,
        detco.patch_order,
    ) == (1.0, "picture")
    supervised = RECIPES["supervised-90ep"]
    assert (supervised.lr, supervised.schedule, supervised.milestones) == (
        0.1,
        "step",
        (30, 60, 80),
    )
    assert (
        RECIPES["detco-aa-200ep"].randaugment == (2, 10)
        and "randaugment" in RECIPES["detco-aa-200ep"].assumed
    )


def changed(name, base="detco-200ep"):
    a, b = RECIPES[base], RECIPES[name]
    return {
        f.name: getattr(b, f.name)
        for f in fields(Recipe)
        if getattr(a, f.name) != getattr(b, f.name)
    } | {"name": 0}


def test_ablations_change_one_thing():
    assert changed("detco-no-hierarchy") == {
        "levels": ("res5",),
        "level_weights": (1.0,),
        "name": 0,
    }
    assert changed("detco-no-local-local") == {
        "terms": ("global-global", "global-local"),
        "name": 0,
    }
    assert changed("detco-no-global-local") == {
        "terms": ("global-global", "local-local"),
        "name": 0,
    }
    assert changed("detco-equal-weights") == {"level_weights": (1.0, 1.0, 1.0, 1.0), "name": 0}
    only = RECIPES["detco-global-only"]
    assert (only.levels, only.terms, only.local) == (("res5",), ("global-global",), False)


def test_every_recipe_keeps_its_own_name_and_knows_its_assumptions():
    config = {f.name for f in fields(Recipe)}
    for name, r in RECIPES.items():
        assert r.name == name and r.source
        assert set(r.assumed) <= config and len(set(r.assumed)) == len(r.assumed)
    for small, full in (
        ("detco-small", "detco-200ep"),
        ("moco-v2-small", "moco-v2-200ep"),
        ("supervised-small", "supervised-90ep"),
    ):
        assert set(changed(small, full)) - {"name", "assumed", "source"} <= set(
            RECIPES[small].assumed
        )


def test_hash_covers_what_determines_the_result_only():
    base = RECIPES["detco-200ep"]
    assert recipe_hash(base) == recipe_hash(
        replace(base, name="x", source="y", assumed=(), workers=8, keep=5)
    )
    for f in fields(Recipe):
        if f.name in ("name", "source", "assumed", *RUNNING):
            continue
        value = getattr(base, f.name)
        other = {
            "method": "moco-v1",
            "arch": "resnet18",
            "head": "linear",
            "optimizer": "adamw",
            "schedule": "step",
            "precision": "fp16",
            "terms": ("local-local",),
            "milestones": (3,),
            "levels": LEVELS[::-1],
            "batch": 512,
            "groups": 4,
            "patch_order": "grid",
            "crop_scale": (0.3, 0.9),
            "jigsaw_scale": (0.5, 0.9),
            "jitter": (0.4, 0.4, 0.4, 0.2),
            "randaugment": (3, 10),
        }.get(f.name)
        if other is None:
            other = tuple(v + 0.5 for v in value) if isinstance(value, tuple) else value + 1
            if isinstance(value, bool):
                other = not value
            if isinstance(value, float) and f.name.endswith(("_p", "momentum")):
                other = 1 - value / 2
        if f.name != "method":
            assert recipe_hash(replace(base, **{f.name: other})) != recipe_hash(base), f.name
    assert recipe_hash(RECIPES["detco-global-only"]) != recipe_hash(RECIPES["moco-v2-200ep"])


@pytest.mark.parametrize(
    "change, message",
    [
        (
            dict(method="simclr"),
            "method is 'simclr'; it can be detco, moco-v1, moco-v2, supervised",
        ),
        (dict(arch="resnet152"), "arch must be .* not 'resnet152'"),
        (dict(arch="vit_tiny_patch16_224"), "stages, which a vision transformer does not have"),
        (
            dict(levels=("res5", "res6"), level_weights=(1.0, 1.0)),
            "levels must be some of res2, res3, res4, res5",
        ),
        (dict(levels=("res5",)), "4 level_weights for 1 levels"),
        (dict(terms=()), "terms must be some of"),
        (dict(batch=100), "batch 100 does not divide into groups of 8"),
        (dict(queue=0), "queue must be at least 1"),
        (dict(patch_size=86), "larger than a cell"),
        (dict(patch_size=16), "patch_size 16 must be more than 16"),
        (dict(method="moco-v2"), "moco-v2 has the level res5 .* more: method detco"),
        (
            dict(blur_sigma=(0.1, 75.0)),
            "blur_sigma goes to 75; it must stay below a third of view_size 224",
        ),
        (dict(patch_blur_p=0.5, blur_sigma=(0.1, 22.0)), "below a third of patch_size 64"),
    ],
)
def test_contradictions_are_named(change, message):
    with pytest.raises(InputError, match=message):
        replace(RECIPES["detco-200ep"], **change)


def test_the_table_imports_without_torch():
    code = (
        "import sys, detco.pretrain.recipes; sys.exit(any(m in sys.modules for m in ('torch',"
        " 'numpy', 'PIL')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0},
        {"lr": -1},
        {"crop_scale": [1, 0.2]},
        {"crop_scale": [2, 3]},
        {"jitter_p": 7},
        {"randaugment": [2, 31]},
        {"level_weights": [1, 1, 1, -1]},
    ],
)
def test_settings_out_of_range_are_refused(change):
    from detco.benchmarks import config
    from detco.common.errors import InputError as Refused

    with pytest.raises(Refused, match=next(iter(change))):
        config.override(RECIPES["detco-small"], change, "recipe")


def test_runs_of_the_replication_differ_by_what_is_compared_only():
    """Equal images, epochs, rate and views; the long MoCo v2 has other epochs, nothing else."""
    first, second = (asdict(RECIPES[name]) for name in ("detco-tiny", "moco-v2-tiny"))
    compared = {"name", "method", "source", "assumed", "levels", "level_weights", "terms"}
    assert {key for key in first if first[key] != second[key]} == compared
    longer = asdict(RECIPES["moco-v2-tiny-long"])
    assert {key for key in longer if longer[key] != second[key]} == {"name", "epochs"}
    for row in RECIPES.values():
        if row.name.startswith("detco-") and row.name.endswith("-tiny"):
            own = asdict(row)
            assert {key for key in own if own[key] != first[key]} <= compared
