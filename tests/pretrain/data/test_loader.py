"""Batches and views: the images of an epoch, and what random draws depend on."""

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from detco.common.errors import InputError
from detco.pretrain.data.listing import find
from detco.pretrain.data.loader import Batches, Views
from detco.pretrain.recipes import RECIPES
from detco.pretrain.train import pretrain
from tests.factories.pretraining import DETCO, MOCO, TINY


@pytest.mark.parametrize("start", [0, 2, 3, 8])
def test_an_epoch_is_a_permutation_over_all_processes(start):
    recipe = replace(MOCO, epochs=3)
    parts = [list(Batches(26, recipe, 5, start, rank, world=2)) for rank in range(2)]
    whole = list(Batches(26, recipe, 5))
    assert len(whole) == 9 and len(parts[0]) == len(parts[1]) == 9 - start
    for (epoch, both), (e0, first), (e1, second) in zip(whole[start:], *parts, strict=True):
        assert epoch == e0 == e1 and both == first + second
    for epoch in range(3):
        seen = [index for e, indices in whole if e == epoch for index in indices]
        assert len(seen) == len(set(seen)) == 24 and set(seen) <= set(range(26))
    assert whole[0][1] != whole[3][1]


def test_views_depend_on_seed_epoch_and_picture_alone(pictures):
    one, other = (Views(find(pictures), DETCO, seed=3) for _ in range(2))
    a, b = one[(1, [4, 9])], other[(1, [9, 4])]
    assert a.pop("bad") == {} and b.pop("bad") == {}
    for name in a:
        flip = a[name].unflatten(0, (2, -1)).flip(0).flatten(0, 1)
        assert torch.equal(flip, b[name])
    assert not torch.equal(a["local_query"], a["local_key"])
    assert not torch.equal(a["global_query"], one[(2, [4, 9])]["global_query"])
    assert not torch.equal(
        a["global_query"], Views(find(pictures), DETCO, seed=4)[(1, [4, 9])]["global_query"]
    )


def test_labels_are_the_folders_in_order(pictures):
    data = Views(find(pictures), replace(RECIPES["supervised-small"], **TINY), seed=0)
    assert data[(0, [0, 12, 13, 25])]["label"].tolist() == [0, 0, 1, 1]


def test_labels_of_replaced_pictures_and_bad_ones_met_on_the_way(pictures, tmp_path):
    """Where the pictures do not fit into memory, a bad one's place is taken by another, which
    brings its own label."""
    for folder in ("a", "b"):
        shutil.copytree(pictures / folder, tmp_path / folder)
    bad = sorted((tmp_path / "a").iterdir())[2]
    bad.write_bytes(bad.read_bytes()[:200])
    data = Views(find(tmp_path), replace(RECIPES["supervised-small"], **TINY, cache_gb=0.0), seed=0)
    assert not data.fits
    batch, again = data[(0, [1, 2, 20])], data[(0, [2, 1, 20])]
    assert list(batch["bad"]) == [2] and "ncat" in batch["bad"][2]
    views, _, other = data._row(0, 2, {})
    assert torch.equal(views["image"], batch["image"][1])
    assert other != 2 and batch["label"].tolist() == [0, data.labels[other], 1]
    assert torch.equal(again["image"][0], batch["image"][1])  # the same one every time
    with pytest.raises(InputError, match=r"1 of 26 pictures .*1 %"):
        pretrain(replace(MOCO, cache_gb=0.0), tmp_path, tmp_path / "out", device="cpu")


def test_pictures_that_do_not_fit_into_memory_give_the_same_weights(pictures, tmp_path):
    one = pretrain(replace(MOCO, epochs=1), pictures, tmp_path / "memory", device="cpu")
    other = pretrain(
        replace(MOCO, epochs=1, cache_gb=0.0, workers=1),
        pictures,
        tmp_path / "workers",
        device="cpu",
    )
    assert one.read_bytes() != other.read_bytes()  # the recipe within says how it was read
    one, other = load_file(one), load_file(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_text_file_of_pictures_is_the_folder_of_the_same(pictures, tmp_path):
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in pictures.rglob("*.png")))
    one = pretrain(replace(MOCO, epochs=1), pictures, tmp_path / "folder", device="cpu")
    other = pretrain(
        replace(MOCO, epochs=1), tmp_path / "list.txt", tmp_path / "list", device="cpu"
    )
    assert one.read_bytes() == other.read_bytes()
