import numpy as np
import pytest
import torch
import torchvision.transforms.functional as T
from PIL import Image
from torchvision.transforms import ColorJitter, RandAugment, RandomResizedCrop

from detco.common import resnet
from detco.pretrain.data import views
from detco.pretrain.recipes import RECIPES, replace

DETCO = RECIPES["detco-200ep"]


@pytest.fixture
def batch():
    """Random pictures with the awkward colours (gray, pure, black, white) among their pixels, (6,
    3, 20, 24) in 0..1."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(6, 3, 20, 24, generator=g)
    corners = torch.tensor(
        [
            [0, 0, 0],
            [1, 1, 1],
            [1, 0, 0],
            [0, 1, 0],
            [0, 0, 1],
            [1, 1, 0],
            [0.5, 0.5, 0.5],
            [1, 0, 1.0],
        ]
    )
    x[:, :, 0, :8] = corners.T
    return x


FACTORS = torch.tensor([0.6, 0.8, 1.0, 1.2, 1.39, 0.0])


@pytest.mark.parametrize(
    "ours, theirs, factors",
    [
        (views.adjust_brightness, T.adjust_brightness, FACTORS),
        (views.adjust_contrast, T.adjust_contrast, FACTORS),
        (views.adjust_saturation, T.adjust_saturation, FACTORS),
        (views.adjust_hue, T.adjust_hue, torch.tensor([-0.5, -0.1, 0.0, 0.05, 0.1, 0.5])),
    ],
)
def test_colour_operations_are_torchvisions(batch, ours, theirs, factors):
    expected = torch.stack([theirs(x, f) for x, f in zip(batch, factors.tolist(), strict=True)])
    torch.testing.assert_close(ours(batch.clone(), factors), expected, rtol=1e-4, atol=2e-6)


def test_hue_turns_by_whole_turns_too(batch):
    shift = torch.tensor([-1.0, -0.9, -0.6, 0.7, 0.95, 1.0])
    expected = views.adjust_hue(batch.clone(), shift - shift.round())
    torch.testing.assert_close(
        views.adjust_hue(batch.clone(), shift), expected, rtol=1e-4, atol=5e-6
    )


def test_gray_is_torchvisions(batch):
    torch.testing.assert_close(views.gray(batch), T.rgb_to_grayscale(batch))


def blurred(x, sigma):
    return T.gaussian_blur(x, 2 * int(3 * sigma + 0.5) + 1, sigma)


def test_blur_is_torchvisions_with_each_its_own_sigma(batch):
    sigma = torch.tensor([0.1, 0.4, 0.8, 1.0, 1.5, 2.0])
    expected = torch.stack([blurred(x, s) for x, s in zip(batch, sigma.tolist(), strict=True)])
    torch.testing.assert_close(
        views.gaussian_blur(batch, sigma, 2.0), expected, rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(
        views.gaussian_blur(batch[:2], sigma[:2], 2.0), expected[:2], rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("size", [20, 150])  # together in one part of the batch, and each by itself
@pytest.mark.parametrize("local", [False, True])
def test_the_whole_chain_against_torchvision_one_picture_at_a_time(local, size, monkeypatch):
    recipe = replace(DETCO, patch_blur_p=0.3, patch_flip_p=0.5)
    g = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (30, 3, size, size + 4), generator=g, dtype=torch.uint8)
    draws = torch.rand(30, views.Photometric.DRAWS, generator=g)
    out = views.Photometric(recipe, local)(images, draws)
    expected = []
    for image, d in zip(images, draws.tolist(), strict=True):
        x = image.float() / 255
        if d[0] < 0.8:
            amounts = [1 + (2 * d[2 + i] - 1) * 0.4 for i in range(3)] + [(2 * d[5] - 1) * 0.1]
            adjust = (T.adjust_brightness, T.adjust_contrast, T.adjust_saturation, T.adjust_hue)
            for i in views.ORDERS[int(d[1] * 24)]:
                x = adjust[i](x, amounts[i])
        if d[6] < 0.2:
            x = T.rgb_to_grayscale(x, 3)
        blur_p = 0.3 if local else 0.5
        if d[7] < blur_p:
            x = blurred(x, 0.1 + 1.9 * d[7] / blur_p)
        if d[8] < 0.5:
            x = T.hflip(x)
        expected.append(T.normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    torch.testing.assert_close(out, torch.stack(expected), rtol=1e-4, atol=5e-5)
    assert out.is_contiguous(memory_format=torch.channels_last)
    monkeypatch.setattr(views, "_parts", lambda images, _: [slice(0, len(images))])  # as on a GPU
    torch.testing.assert_close(
        views.Photometric(recipe, local)(images, draws), out, rtol=1e-5, atol=1e-5
    )
    plain = views.Photometric(replace(recipe, channels_last=False), local)(images, draws)
    assert plain.is_contiguous()
    torch.testing.assert_close(plain, out, rtol=1e-5, atol=1e-5)


def test_jitter_ranges_are_those_of_torchvisions_color_jitter():
    jitter = ColorJitter(*DETCO.jitter)
    assert jitter.brightness == jitter.contrast == jitter.saturation == (
        0.6,
        1.4,
    ) and jitter.hue == (-0.1, 0.1)
    draws = np.random.default_rng(0).random((2000, views.Photometric.DRAWS), np.float32)
    seen = list(views.Photometric(DETCO, False).steps(draws))
    for op, (low, high) in zip(
        views.JITTER,
        (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue),
        strict=True,
    ):
        mine = [(chosen, parameter) for operation, chosen, parameter in seen if operation is op]
        values = np.concatenate([parameter[chosen] for chosen, parameter in mine])
        # each picture once, whatever the order
        assert len(values) / 2000 == pytest.approx(0.8, abs=0.03)
        assert low <= values.min() < low + 0.01 and high - 0.01 < values.max() <= high
        for chosen, _ in mine:  # at each of the four places equally often
            assert chosen.mean() == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("size", [(375, 500), (20, 300), (300, 20), (1, 1)])
def test_crop_boxes_are_drawn_as_random_resized_crop_draws_them(size):
    """The same distribution: means of the four numbers over many draws, and inside
    the picture always."""
    rng = np.random.default_rng(0)
    ours = np.array([views.crop_box(rng, *size, (0.2, 1.0), (3 / 4, 4 / 3)) for _ in range(3000)])
    torch.manual_seed(0)
    picture = torch.empty(3, *size)
    theirs = np.array(
        [RandomResizedCrop.get_params(picture, (0.2, 1.0), (3 / 4, 4 / 3)) for _ in range(3000)]
    )
    top, left, h, w = ours.T
    assert (h >= 1).all() and (w >= 1).all() and (top >= 0).all() and (left >= 0).all()
    assert (top + h <= size[0]).all() and (left + w <= size[1]).all()
    error = np.hypot(ours.std(0), theirs.std(0)) / np.sqrt(3000)
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 4 * error + 0.02).all()
    np.testing.assert_allclose(ours.std(0), theirs.std(0), rtol=0.07, atol=0.05)


def test_resized_crop_is_pillows_resize_of_the_region():
    rng = np.random.default_rng(0)
    smooth = np.asarray(
        Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize(
            (320, 240), Image.BICUBIC
        )
    )
    picture = torch.from_numpy(smooth.copy()).permute(2, 0, 1)
    ours = views.resized_crop(picture, (30, 41, 180, 223), 64).permute(1, 2, 0).numpy()
    region = Image.fromarray(smooth).crop((41, 30, 41 + 223, 30 + 180))
    theirs = np.asarray(region.resize((64, 64), Image.BILINEAR))
    difference = np.abs(ours.astype(int) - theirs.astype(int))
    assert difference.max() <= 1 and ours.std() > 10


def test_jigsaw_patches_come_one_from_each_cell_in_random_order():
    row = torch.arange(255, dtype=torch.uint8)
    region = torch.stack(
        [
            row[:, None].expand(255, 255),
            row[None].expand(255, 255),
            torch.zeros(255, 255, dtype=torch.uint8),
        ]
    )
    rng = np.random.default_rng(0)
    firsts, offsets = [], []
    for _ in range(300):
        patches = views.jigsaw(region, 64, rng)
        assert patches.shape == (9, 3, 64, 64)
        corner = patches[:, :2, 0, 0].long()  # y, x of each patch's corner
        cells = corner[:, 0] // 85 * 3 + corner[:, 1] // 85
        assert sorted(cells.tolist()) == list(range(9))
        assert (corner % 85 <= 85 - 64).all()
        for patch, (y, x) in zip(patches, corner.tolist(), strict=True):
            assert torch.equal(patch, region[:, y : y + 64, x : x + 64])
        firsts.append(cells[0].item())
        offsets += (corner % 85).flatten().tolist()
    assert len(set(firsts)) == 9 and max(np.bincount(firsts)) < 60
    assert set(offsets) == set(range(22))


def test_patches_stay_in_their_places_where_the_recipe_says_so():
    region = (
        torch.arange(9, dtype=torch.uint8)
        .view(3, 3)
        .repeat_interleave(85, 0)
        .repeat_interleave(85, 1)
        .expand(3, -1, -1)
    )
    patches = views.jigsaw(region, 64, np.random.default_rng(0), shuffle=False)
    assert patches[:, 0, 0, 0].tolist() == list(range(9))
    picture = torch.randint(0, 256, (3, 90, 120), dtype=torch.uint8)
    rngs = [np.random.default_rng(0) for _ in range(2)]
    one, other = (
        views.cut(picture, replace(DETCO, patch_order=o), g)
        for o, g in zip(("picture", "grid"), rngs, strict=True)
    )
    assert not torch.equal(one["local_query"], other["local_query"])


def test_randaugment_is_torchvisions_drawn_from_the_picture_alone():
    g = torch.Generator().manual_seed(0)
    patches = torch.randint(0, 256, (9, 3, 24, 24), generator=g, dtype=torch.uint8)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, other = (views.randaugment(patches, 2, 10, np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(one, other) and torch.equal(torch.get_rng_state(), state)
    assert one.shape == patches.shape and one.dtype == torch.uint8
    torch.manual_seed(int(np.random.default_rng(3).integers(2**62)))
    augment = RandAugment(2, 10)
    for ours, patch in zip(one, patches, strict=True):
        theirs = np.asarray(augment(Image.fromarray(patch.permute(1, 2, 0).numpy())))
        np.testing.assert_array_equal(ours.permute(1, 2, 0).numpy(), theirs)


def test_detco_aa_augments_both_kinds_of_view():
    picture = torch.randint(0, 256, (3, 90, 120), dtype=torch.uint8)
    plain, more = (
        views.cut(picture, RECIPES[name], np.random.default_rng(1))
        for name in ("detco-200ep", "detco-aa-200ep")
    )
    assert plain.keys() == more.keys()
    # the first view: the same crop, then augmented
    assert not torch.equal(plain["global_query"], more["global_query"])
    assert (
        sum(
            torch.equal(a, b)
            for a, b in zip(plain["local_query"], more["local_query"], strict=True)
        )
        < 9
    )
    assert all(
        more[name].dtype == torch.uint8 and more[name].shape == plain[name].shape for name in plain
    )


@pytest.mark.parametrize("first", [True, False])
def test_gray_comes_before_or_after_the_jitter(first):
    draws = np.full((1, views.Photometric.DRAWS), 0.1, np.float32)
    steps = list(views.Photometric(replace(DETCO, gray_first=first), False).steps(draws))
    named = [operation in views.JITTER for operation, chosen, _ in steps if chosen.any()]
    # then blur, flip
    assert named == ([False] if first else []) + [True] * 4 + ([] if first else [False]) + [
        False,
        False,
    ]


def test_views_of_a_recipe():
    rng = np.random.default_rng(0)
    picture = torch.randint(0, 256, (3, 100, 140), dtype=torch.uint8)
    shapes = {name: tuple(v.shape) for name, v in views.cut(picture, DETCO, rng).items()}
    assert shapes == {
        "global_query": (3, 224, 224),
        "global_key": (3, 224, 224),
        "local_query": (9, 3, 64, 64),
        "local_key": (9, 3, 64, 64),
    }
    assert list(views.cut(picture, RECIPES["moco-v2-200ep"], rng)) == ["global_query", "global_key"]
    assert list(views.cut(picture, RECIPES["supervised-90ep"], rng)) == ["image"]
    assert list(views.cut(picture, RECIPES["detco-global-only"], rng)) == [
        "global_query",
        "global_key",
    ]


def test_normalisation_constants_are_imagenets():
    assert np.allclose(np.array(resnet.IMAGENET_MEAN) / 255, [0.485, 0.456, 0.406])
    assert np.allclose(np.array(resnet.IMAGENET_STD) / 255, [0.229, 0.224, 0.225])


@pytest.mark.parametrize("channels_last", [True, False])
def test_views_written_over_those_of_an_earlier_batch(channels_last):
    recipe = replace(
        DETCO, view_size=40, jigsaw_size=66, patch_size=20, channels_last=channels_last
    )
    rng = np.random.default_rng(0)
    batches = []
    for _ in range(2):
        picture = torch.randint(0, 256, (3, 100, 140), dtype=torch.uint8)
        cut = {
            name: torch.stack([view] * 3) for name, view in views.cut(picture, recipe, rng).items()
        }
        drawn = [views.draw(recipe, rng) for _ in range(3)]
        batches.append(
            cut
            | {
                f"{name}_draws": torch.from_numpy(np.concatenate([d[name] for d in drawn]))
                for name in cut
            }
        )
    kept = views.finish(batches[0], recipe, torch.device("cpu"))
    expected = views.finish(batches[1], recipe, torch.device("cpu"))
    out = views.finish(batches[1], recipe, torch.device("cpu"), kept)
    for name, view in out.items():
        assert view.data_ptr() == kept[name].data_ptr() and view.shape == kept[name].shape
        torch.testing.assert_close(view, expected[name], rtol=0, atol=0)
