"""Outlines and textures of the eight categories, and of shapes that belong to none (distractors).

An outline is a polygon (n, 2) of x, y in the object's own units, about -1..1, y pointing down; a
texture maps the same coordinates to brightness in -1..1.
"""

from __future__ import annotations

import cmath
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

KEYPOINTS = (
    "head",
    "neck",
    "left_elbow",
    "right_elbow",
    "left_hand",
    "right_hand",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_foot",
    "right_foot",
)
BONES = (
    ("head", "neck"),
    ("neck", "left_elbow"),
    ("left_elbow", "left_hand"),
    ("neck", "right_elbow"),
    ("right_elbow", "right_hand"),
    ("neck", "left_hip"),
    ("left_hip", "left_knee"),
    ("left_knee", "left_foot"),
    ("neck", "right_hip"),
    ("right_hip", "right_knee"),
    ("right_knee", "right_foot"),
    ("left_hip", "right_hip"),
)
SKELETON = [[KEYPOINTS.index(a) + 1, KEYPOINTS.index(b) + 1] for a, b in BONES]

Outline = tuple[np.ndarray, np.ndarray]
Texture = Callable[[np.ndarray, np.ndarray, Generator], np.ndarray]


@dataclass(frozen=True)
class Shape:
    """A kind of thing; `sketch` gives one example's outline (n, 2) and keypoints (12, 2), or (0, 2)
    if it has none."""

    name: str
    sketch: Callable[[Generator], Outline]
    textures: tuple[Texture, ...]
    turn: float = 0.3  # rotated by up to this angle, radians, either way
    # name and id of the Cityscapes class that it is written as
    cityscapes: tuple[str, int] = (
        "static",
        4,
    )


def between(rng: Generator, low: float, high: float) -> float:
    """A uniform random number; several times faster than rng.uniform."""
    return low + (high - low) * rng.random()


def _arc(start: float, stop: float, n: int) -> np.ndarray:
    """(n, 2) points of the unit circle."""
    return np.exp(1j * (start + (stop - start) / (n - 1) * np.arange(n))).view(float).reshape(n, 2)


_NO_JOINTS = np.zeros((0, 2))
_CIRCLE = _arc(0, 2 * math.pi, 33)
_TWO_LOBES, _THREE_LOBES = (
    np.cos(k * np.linspace(0, 2 * math.pi, len(_CIRCLE)) + k) for k in (2, 3)
)
_TEN_RAYS = _arc(0, 1.8 * math.pi, 10)
_QUARTER_TURNS = [np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), k) for k in range(4)]
_SQUARE = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * 0.8


def disc(rng: Generator) -> Outline:
    return _CIRCLE, _NO_JOINTS


def square(rng: Generator) -> Outline:
    return _SQUARE, _NO_JOINTS


def ring(rng: Generator) -> Outline:
    """The hole is cut by a seam, so that the outline stays one polygon."""
    return np.concatenate((_CIRCLE, (0.45 + 0.22 * rng.random()) * _CIRCLE[::-1])), _NO_JOINTS


def star(rng: Generator) -> Outline:
    points = _TEN_RAYS.copy()
    points[1::2] *= 0.36 + 0.14 * rng.random()
    return points, _NO_JOINTS


def cross(rng: Generator) -> Outline:
    a = 0.2 + 0.15 * rng.random()
    arm = np.array([(-a, -1), (a, -1), (a, -a)])
    return np.concatenate([arm @ turn for turn in _QUARTER_TURNS]), _NO_JOINTS


def crescent(rng: Generator) -> Outline:
    """The unit disc less a disc through its points at angles +-tip and through (apex, 0)."""
    tip, apex = 0.55 + 0.4 * rng.random(), -0.5 + 0.4 * rng.random()
    x = (1 - apex**2) / (2 * (math.cos(tip) - apex))
    phi = math.atan2(math.sin(tip), math.cos(tip) - x)
    bite = _arc(2 * math.pi - phi, phi, 14) * (x - apex)
    bite[:, 0] += x
    return np.concatenate((_arc(tip, 2 * math.pi - tip, 22), bite)), _NO_JOINTS


def _limb(a: complex, b: complex, c: complex, half: float) -> list[complex]:
    """Outline of the two bones a-b-c of width 2 half, from a's one side around the tip at c to a's
    other side."""
    first, second = -1j * (b - a) / abs(b - a), -1j * (c - b) / abs(c - b)
    middle = (first + second) / abs(first + second)
    side = [half * first, half * middle, half * second]
    joints = [a, b, c]
    out = [p + s for p, s in zip(joints, side, strict=True)]
    back = [p - s for p, s in zip(joints, side, strict=True)]
    return [
        *out,
        c + half * (second + 1j * second) * 0.7,
        c + half * (1j * second - second) * 0.7,
        *back[::-1],
    ]


def _half_figure(rng: Generator) -> tuple[list[complex], list[complex]]:
    """The half at x > 0: outline from the neck to the crotch; elbow, hand, hip, knee, foot."""
    arm, bend = between(rng, -1.1, 1.15), between(rng, -0.9, 0.5)
    leg, knee_bend = between(rng, 0.05, 0.6), between(rng, -0.3, 0.25)
    shoulder, hip = 0.2 - 0.4j, 0.14 + 0.15j
    elbow = shoulder + cmath.rect(0.34, arm)
    hand = elbow + cmath.rect(0.34, arm + bend)
    knee = hip + cmath.rect(0.42, math.pi / 2 - leg)
    foot = knee + cmath.rect(0.42, math.pi / 2 - leg - knee_bend)
    outline = [
        0.08 - 0.52j,
        *_limb(shoulder, elbow, hand, 0.1),
        *_limb(hip, knee, foot, 0.115),
        0.2j,
    ]
    return outline, [elbow, hand, hip, knee, foot]


_HEAD = [cmath.rect(0.23, (0.66 + 1.68 * k / 13) * math.pi) - 0.76j for k in range(14)]


def figure(rng: Generator) -> Outline:
    """A person facing the viewer in a random pose: its left is the viewer's right."""
    (left, left_joints), (right, right_joints) = _half_figure(rng), _half_figure(rng)
    joints = [-0.76j, -0.47j]
    for a, b in zip(left_joints, right_joints, strict=True):
        joints += [a, -b.conjugate()]
    outline = np.array([*_HEAD, *left, *(-p.conjugate() for p in reversed(right))])
    return outline.view(float).reshape(-1, 2), np.array(joints).view(float).reshape(-1, 2)


def triangle(rng: Generator) -> Outline:
    return _arc(0, 4 / 3 * math.pi, 3), _NO_JOINTS


def half_disc(rng: Generator) -> Outline:
    return _arc(0, math.pi, 20), _NO_JOINTS


def corner(rng: Generator) -> Outline:
    return (
        np.array([(-0.8, -0.8), (-0.2, -0.8), (-0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (-0.8, 0.8)]),
        _NO_JOINTS,
    )


def bar(rng: Generator) -> Outline:
    return _SQUARE * (1.25, 0.07 + 0.15 * rng.random()), _NO_JOINTS


def blob(rng: Generator) -> Outline:
    """A blob of two or three lobes; with five it would look like a star."""
    a, b = (rng.random((2, 1)) - 0.5) * 0.5
    return _CIRCLE * (0.7 + a * _TWO_LOBES + b * _THREE_LOBES)[:, None], _NO_JOINTS


@functools.lru_cache(maxsize=4096)
def spline(pixels: int, knots: int) -> np.ndarray:
    """(pixels, knots) cubic B-spline weights: spline(h, n) @ noise (n, m) @ spline(w, m).T is
    smooth noise (h, w)."""
    distance = np.abs(np.linspace(0, knots - 1, pixels)[:, None] - np.arange(knots))
    weight = np.where(
        distance < 1, 2 / 3 - distance**2 + distance**3 / 2, np.maximum(2 - distance, 0) ** 3 / 6
    )
    return (weight / weight.sum(1, keepdims=True)).astype(np.float32)


def plain(u: np.ndarray, v: np.ndarray, rng: Generator) -> np.ndarray:
    return np.zeros(u.shape, np.float32)


def bright(u: np.ndarray, v: np.ndarray, rng: Generator) -> np.ndarray:
    return np.ones(u.shape, np.float32)


def dark(u: np.ndarray, v: np.ndarray, rng: Generator) -> np.ndarray:
    return -np.ones(u.shape, np.float32)


def marble(u: np.ndarray, v: np.ndarray, rng: Generator) -> np.ndarray:
    h, w = u.shape
    return 1.3 * (spline(h, 7) @ rng.standard_normal((7, 7), np.float32) @ spline(w, 7).T)


def stripes(u: np.ndarray, v: np.ndarray, rng: Generator) -> np.ndarray:
    return (3 * np.sin(between(rng, 7, 11) * u + 6 * rng.random())).clip(-1, 1)


def layers(u: np.ndarray, v: np.ndarray, rng: Generator) -> np.ndarray:
    return stripes(v, u, rng)


def dots(u: np.ndarray, v: np.ndarray, rng: Generator) -> np.ndarray:
    f = between(rng, 10, 13)
    return (4 * (np.cos(f * u) + np.cos(f * v)) - 2.2).clip(-1, 1)


def checks(u: np.ndarray, v: np.ndarray, rng: Generator) -> np.ndarray:
    f = between(rng, 5.5, 8.5)
    return (5 * np.sin(f * u) * np.sin(f * v)).clip(-1, 1)


def clothes(u: np.ndarray, v: np.ndarray, rng: Generator) -> np.ndarray:
    """Head and shirt bright, trousers dark."""
    return (15 * (0.1 - v)).clip(-1, 1)


def waves(u: np.ndarray, v: np.ndarray, rng: Generator) -> np.ndarray:
    return (3 * np.sin(between(rng, 7, 9) * u + 2.5 * np.sin(between(rng, 6, 8) * v))).clip(-1, 1)


def sectors(u: np.ndarray, v: np.ndarray, rng: Generator) -> np.ndarray:
    """Like a lifebuoy or a parasol."""
    return (4 * np.sin(4 * np.arctan2(v, u))).clip(-1, 1)


CATEGORIES = (  # sorted by name: COCO ids 1..8 in this order
    Shape("checkered_square", square, (checks,), cityscapes=("car", 26)),
    Shape("crescent", crescent, (layers,), cityscapes=("motorcycle", 32)),
    Shape("cross", cross, (dark,), cityscapes=("truck", 27)),
    Shape("dotted_triangle", triangle, (dots,), cityscapes=("bus", 28)),
    Shape("figure", figure, (clothes,), cityscapes=("person", 24)),
    Shape("lifebuoy", ring, (sectors,), cityscapes=("bicycle", 33)),
    Shape("star", star, (bright,), cityscapes=("rider", 25)),
    Shape("striped_disc", disc, (stripes,), cityscapes=("train", 31)),
)
FIGURE = next(i for i, shape in enumerate(CATEGORIES) if shape.name == "figure")
DISTRACTORS = (  # none of these is a category, though they share shapes and textures with some
    Shape("disc", disc, (plain, marble, bright)),
    Shape("square", square, (plain, marble, dark), turn=math.pi),
    Shape("half_disc", half_disc, (plain, marble, stripes), turn=math.pi),
    Shape("corner", corner, (plain, marble, bright), turn=math.pi),
    Shape("blob", blob, (plain, marble, dark), turn=math.pi),
    Shape("bar", bar, (plain, marble, checks), turn=math.pi),
)
OCCLUDER = DISTRACTORS[-1]
GROUNDS = (plain, marble, marble, stripes, waves)  # textures of the background
