"""One picture of a scene: background with texture and clutter, distractors, objects, light; with a
map of what each pixel shows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from .shapes import CATEGORIES, DISTRACTORS, GROUNDS, OCCLUDER, Shape, between, spline

BACKGROUND = (("sky", 23), ("building", 11), ("road", 7))


@dataclass(frozen=True)
class Pose:
    """An example of a shape, its box centred on 0, in pixels; `inverse` leads back to the shape's
    own units."""

    shape: Shape
    points: np.ndarray  # (n, 2) x, y
    joints: np.ndarray  # (12, 2) or (0, 2)
    half: tuple[float, float]  # half of the box's width and height
    inverse: tuple[float, float, float, float]  # u = a x + b y, v = c x + d y


@dataclass(frozen=True)
class Painted:
    """Something in a picture; pixel (i, j) covers x in [j, j + 1), y in [i, i + 1)."""

    shape: Shape
    # (n, 2) x, y in pixels: the whole outline, also where covered or outside the picture
    points: np.ndarray
    joints: np.ndarray  # (12, 2) x, y in pixels; (0, 2) where the shape has no keypoints
    area: int  # pixels of the whole shape


@dataclass
class Scene:
    """`ids` (h, w) uint8: 0, 1, 2 are BACKGROUND, k >= 3 is painted[k - 3]; the later painted
    covers the earlier."""

    canvas: np.ndarray  # (3, h, w) float32, 0..255
    ids: np.ndarray
    polygons: tuple[np.ndarray, ...]  # of the background, in painting order
    light: tuple[float, float]  # direction; its length is the strength of the shading
    painted: list[Painted] = field(default_factory=list)

    def pixels(self) -> np.ndarray:
        """(h, w, 3) uint8, RGB."""
        return np.ascontiguousarray(self.canvas.astype(np.uint8).transpose(1, 2, 0))


def scene(rng: Generator, size: int) -> Scene:
    """4 to 9 objects of mostly 27 to 60 pixels where the short side `size` is 128, a few
    of them smaller.

    Many objects in each image let a detector learn within a minute.
    """
    s = _begin(rng, size)
    boxes: list[tuple[float, ...]] = []
    for _ in range(rng.integers(4, 10)):
        extent = math.exp(between(rng, 3.3, 4.1)) if rng.random() < 0.95 else between(rng, 14, 27)
        pose = _pose(CATEGORIES[rng.integers(len(CATEGORIES))], extent * size / 128, rng)
        centre = _place(pose, boxes, s.ids.shape, rng)
        if centre is not None:
            _paint(s, pose, centre, rng)
    _finish(s, rng, size)
    return s


def portrait(rng: Generator, size: int, category: int) -> Scene:
    """One large object of CATEGORIES[category] in front of the same kind of background."""
    s = _begin(rng, size)
    h, w = s.ids.shape
    pose = _pose(CATEGORIES[category], size * between(rng, 0.4, 0.95), rng)
    _paint(s, pose, (w * between(rng, 0.4, 0.6), h * between(rng, 0.4, 0.6)), rng)
    _finish(s, rng, size)
    return s


def _begin(rng: Generator, size: int) -> Scene:
    """Background and distractors."""
    long = round(size * between(rng, 1, 1.4))
    s = _background(rng, *((size, long) if rng.random() < 0.75 else (long, size)))
    for _ in range(rng.integers(0, 3)):
        _paint_anywhere(
            s, DISTRACTORS[rng.integers(len(DISTRACTORS))], size * between(rng, 0.12, 0.45), rng
        )
    return s


def _background(rng: Generator, h: int, w: int) -> Scene:
    """Sky, buildings and ground, each of its own colour and texture, under smooth noise of two
    scales and clutter."""
    polygons = _regions(rng, h, w)
    plan = Image.new("L", (w, h), 0)
    for k, polygon in enumerate(polygons[1:], 1):
        ImageDraw.Draw(plan).polygon(polygon.ravel().tolist(), fill=k)
    ids = np.array(plan)
    gray, chroma = (
        rng.random(len(BACKGROUND)) * 190 + 35,
        rng.standard_normal((3, len(BACKGROUND))) * 25,
    )
    canvas = (gray + chroma).astype(np.float32).take(ids, 1)
    noise = rng.standard_normal((3, 12, 12), np.float32) * np.float32(between(rng, 4, 30))
    canvas += spline(h, 12) @ noise @ spline(w, 12).T
    canvas += _relief(rng, ids) * (0.7 + 0.3 * rng.standard_normal((3, 1, 1), np.float32))
    if rng.random() < 0.4:
        _soften(canvas, between(rng, 0.08, 0.3))
    return Scene(canvas, ids, polygons, (between(rng, -0.45, 0.45), between(rng, -0.45, 0.45)))


def _relief(rng: Generator, ids: np.ndarray) -> np.ndarray:
    """(h, w) float32 to add: fine noise, a texture in each region, clutter."""
    h, w = ids.shape
    fine = rng.standard_normal((h // 3, w // 3), np.float32) * np.float32(between(rng, 2, 30))
    relief = spline(h, h // 3) @ fine @ spline(w, w // 3).T
    x, y = np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32)[:, None]
    for k in range(len(BACKGROUND)):
        region = ids == k
        inside = region.any(1).nonzero()[0]
        if len(inside) == 0:
            continue
        rows = slice(inside[0], inside[-1] + 1)
        texture = GROUNDS[rng.integers(len(GROUNDS))]
        a, b = between(rng, 0.02, 0.08), between(rng, -0.04, 0.04)
        pattern = texture(a * x + b * y[rows], a * y[rows] - b * x, rng)
        pattern *= region[rows]
        pattern *= np.float32(between(rng, 3, 16))
        relief[rows] += pattern
    relief += _clutter(rng, h, w)
    return relief


def _regions(rng: Generator, h: int, w: int) -> tuple[np.ndarray, ...]:
    """A polygon (n, 2) in whole pixels for each of BACKGROUND: everything, a skyline, a ground with
    a slanting edge."""
    left, right = h * between(rng, 0.5, 0.85), h * between(rng, 0.5, 0.85)
    edges = [0, *np.sort(rng.random(4) * w).tolist(), w]
    roofs = (min(left, right) - h * 0.5 * rng.random(5)).tolist()
    skyline = [(x, roof) for k, roof in enumerate(roofs) for x in edges[k : k + 2]] + [
        (w, h),
        (0, h),
    ]
    everything = [(0, 0), (w, 0), (w, h), (0, h)]
    ground = [(0, left), (w, right), (w, h), (0, h)]
    return tuple(np.array(points, int) for points in (everything, skyline, ground))


def _clutter(rng: Generator, h: int, w: int) -> np.ndarray:
    """(h, w) float32 to add: short strokes and shards, lighter and darker, drawn at double size."""
    layer = Image.new("L", (2 * w, 2 * h), 128)
    draw = ImageDraw.Draw(layer)
    n = int(rng.integers(3, 16))
    at = rng.random((n, 1, 2)) * (2 * w, 2 * h) + (rng.random((n, 3, 2)) - 0.5) * (0.3 * min(h, w))
    tones = rng.integers(20, 236, n).tolist()
    for points, tone in zip(at.reshape(n, 6).tolist(), tones, strict=True):
        if tone % 3:
            draw.line(points[:4], fill=tone, width=1 + tone % 5)
        else:
            draw.polygon(points, fill=tone)
    return np.subtract(layer.reduce(2), 128, dtype=np.float32)


def _pose(shape: Shape, extent: float, rng: Generator) -> Pose:
    """Turned, stretched and sheared a little, then scaled so that the longer side of its box is
    `extent` pixels."""
    points, joints = shape.sketch(rng)
    angle, stretch = between(rng, -shape.turn, shape.turn), math.exp(between(rng, -0.16, 0.16))
    shear = between(rng, -0.15, 0.15)
    cos, sin = math.cos(angle), math.sin(angle)
    # x' = a x + b y, y' = c x + d y, determinant 1
    a, b = (
        cos * stretch,
        cos * shear - sin / stretch,
    )
    c, d = sin * stretch, sin * shear + cos / stretch
    matrix = np.array([[a, c], [b, d]])
    points, joints = points @ matrix, joints @ matrix
    (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
    scale = extent / max(right - left, bottom - top)
    middle = ((left + right) / 2, (top + bottom) / 2)
    half = (scale * (right - left) / 2, scale * (bottom - top) / 2)
    inverse = (d / scale, -b / scale, -c / scale, a / scale)
    return Pose(shape, (points - middle) * scale, (joints - middle) * scale, half, inverse)


def _place(
    pose: Pose, boxes: list[tuple[float, ...]], picture: tuple[int, int], rng: Generator
) -> tuple[float, float] | None:
    """A centre (x, y) where the object covers little of earlier ones and hardly leaves the image;
    None if not found."""
    half_w, half_h = pose.half
    h, w = picture
    for _ in range(8):
        x = between(rng, min(0.8 * half_w, w / 2), max(w - 0.8 * half_w, w / 2))
        y = between(rng, min(0.8 * half_h, h / 2), max(h - 0.8 * half_h, h / 2))
        box = (x - half_w, y - half_h, x + half_w, y + half_h)
        if all(_overlap(box, other) < 0.25 for other in boxes):
            boxes.append(box)
            return x, y
    return None


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over the area of the smaller box."""
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(
        0.0, min(a[3], b[3]) - max(a[1], b[1])
    )
    return shared / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))


def _paint_anywhere(s: Scene, shape: Shape, extent: float, rng: Generator) -> None:
    h, w = s.ids.shape
    _paint(s, _pose(shape, extent, rng), (w * rng.random(), h * rng.random()), rng)


def _paint(s: Scene, pose: Pose, centre: tuple[float, float], rng: Generator) -> None:
    """A shadow, the textured object over it, and its number in `ids` where it covers at least half
    of a pixel."""
    x0, y0 = math.floor(centre[0] - pose.half[0]), math.floor(centre[1] - pose.half[1])
    w, h = math.ceil(centre[0] + pose.half[0]) - x0, math.ceil(centre[1] + pose.half[1]) - y0
    points = pose.points + centre
    coverage = _coverage(points - (x0, y0), w, h)
    solid = coverage > 127
    number = len(BACKGROUND) + len(s.painted)
    s.painted.append(
        Painted(pose.shape, points, pose.joints + centre, int(np.count_nonzero(solid)))
    )
    if rng.random() < 0.5:
        behind, part = _window(s, x0 - round(12 * s.light[0]), y0 - round(12 * s.light[1]), h, w)
        s.canvas[:, behind[0], behind[1]] *= 1 - coverage[part] * np.float32(0.4 / 255)
    region, part = _window(s, x0, y0, h, w)
    under = s.canvas[:, region[0], region[1]]
    if under.size == 0:
        return
    s.ids[region][solid[part]] = number
    tone = _tone(s.light, pose, x0 + 0.5 - centre[0], y0 + 0.5 - centre[1], h, w, rng)[part]
    dark, bright = _colours(rng)
    colour = dark + (bright - dark) * tone
    colour -= under
    colour *= coverage[part] * np.float32(1 / 255)
    under += colour


def _coverage(points: np.ndarray, w: int, h: int) -> np.ndarray:
    """(h, w) uint8, 0..255: how much of each pixel lies inside the polygon."""
    finer = 4 if max(w, h) < 32 else 2
    mask = Image.new("L", (w * finer, h * finer))
    ImageDraw.Draw(mask).polygon((points * finer - 0.5).ravel().tolist(), fill=255)
    return np.frombuffer(mask.reduce(finer).tobytes(), np.uint8).reshape(h, w)


def _tone(
    light: tuple[float, float], pose: Pose, left: float, top: float, h: int, w: int, rng: Generator
) -> np.ndarray:
    """Texture and shading (h, w) in 0..1; the first pixel's middle is at left, top from the
    object's centre."""
    x = np.arange(w, dtype=np.float32) + np.float32(left)
    y = (np.arange(h, dtype=np.float32) + np.float32(top))[:, None]
    a, b, c, d = pose.inverse
    textures = pose.shape.textures
    tone = textures[rng.integers(len(textures))](a * x + b * y, c * x + d * y, rng)
    tone *= np.float32(0.35)
    tone += (2 * light[0] / w) * x
    tone += (2 * light[1] / h) * y + np.float32(0.5)
    return tone.clip(0, 1, out=tone)


def _window(
    s: Scene, x: int, y: int, h: int, w: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where a tile h x w laid at x, y meets the picture: slices of the picture, slices
    of the tile."""
    limit_h, limit_w = s.ids.shape
    top, left = max(y, 0), max(x, 0)
    bottom, right = max(min(y + h, limit_h), top), max(min(x + w, limit_w), left)
    return (slice(top, bottom), slice(left, right)), (
        slice(top - y, bottom - y),
        slice(left - x, right - x),
    )


def _colours(rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """A dark and a bright colour (3, 1, 1) of any hue: a texture is seen by its brightness,
    whatever its colours."""
    dark, bright = between(rng, 15, 80), between(rng, 175, 240)
    hue = rng.standard_normal((2, 3, 1, 1), np.float32) * np.float32(35)
    return hue[0] + np.float32(dark), hue[1] + np.float32(bright)


def _finish(s: Scene, rng: Generator, size: int) -> None:
    """Sometimes a bar in front; then blur, contrast, tint, brightness, uneven light, grain."""
    if rng.random() < 0.2:
        _paint_anywhere(s, OCCLUDER, size * between(rng, 0.4, 1.0), rng)
    canvas, (h, w) = s.canvas, s.ids.shape
    if rng.random() < 0.35:
        _soften(canvas, between(rng, 0.1, 0.25))
    across, down, contrast = (
        between(rng, -0.6, 0.6),
        between(rng, -0.6, 0.6),
        between(rng, 0.55, 1.15),
    )
    light = np.arange(w, dtype=np.float32) * (across / w) + np.arange(h, dtype=np.float32)[
        :, None
    ] * (down / h)
    light += 1 - (across + down) / 2
    canvas *= light * (contrast * (0.85 + 0.3 * rng.random((3, 1, 1), np.float32)))
    grain = np.frombuffer(rng.bytes(h * w), np.int8) * np.float32(between(rng, 0, 0.14))
    grain += 128 * (1 - contrast) + between(rng, -35, 35)
    canvas += grain.reshape(h, w)
    canvas.clip(0, 255, out=canvas)


def _soften(canvas: np.ndarray, share: float) -> None:
    """In place: blur, where each pixel gives `share` of its value to each neighbour
    along rows, then along columns.

    Works on whole planes, much faster than row by row; at the borders a row's end mixes with the
    next one's start.
    """
    flat = canvas.reshape(3, -1)
    for step in (1, canvas.shape[2]):
        flow = flat[:, step:] - flat[:, :-step]
        flow *= np.float32(share)
        flat[:, :-step] += flow
        flat[:, step:] -= flow
