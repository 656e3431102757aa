"""Objects that count for nothing, and boxes that cannot be in pixels: told before
anything is trained."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from detco.common.errors import InputError

if TYPE_CHECKING:
    from ..dataset import Dataset

LARGEST = 1e10  # pixels: COCO's evaluation leaves out what is larger
FEWEST = 100  # pixels: Cityscapes' evaluation leaves out what is smaller
SMALLEST = 2.0  # pixels: a data set of nothing but such boxes has another unit
LARGE, MANY = 300, 20  # sides of images and objects from which percentages can be told
HALF = 0.5  # share of the objects from which it is worth a footnote that they do not count


@dataclass(frozen=True)
class Reason:
    """Why an object does not count. text: about several; remedy: if they should count."""

    text: str
    remedy: str
    holds: Callable[[Mapping], bool]


# What the rows of `detco.transfer.scoring.SCORERS` name in `leaves_out`.
REASONS = {
    "crowd": Reason(
        "are groups (iscrowd, or Cityscapes ids without a number of the instance)",
        "ordinary objects have iscrowd 0, or ids of label * 1000 + number",
        lambda a: bool(a["iscrowd"]),
    ),
    "difficult": Reason(
        "are marked difficult",
        "ordinary objects have difficult 0",
        lambda a: bool(a.get("difficult")),
    ),
    "impossible area": Reason(
        "have an area below 0 or beyond 1e10",
        "leave `area` out of the file and it is computed",
        lambda a: not 0 <= a["area"] <= LARGEST,
    ),
    "few pixels": Reason(
        f"have fewer than {FEWEST} pixels",
        "only larger objects are scored",
        lambda a: not a["iscrowd"] and a["area"] < FEWEST,
    ),
}
TRAINED_WITHOUT = ("crowd",)  # in either engine


def counts(dataset: "Dataset", leaves_out: Sequence[str]) -> dict:
    """What does not count, for the record; {} if all does.

    objects, not_counted: how many; why: by reason; classes: {name: objects} of which none counts.
    """
    names = {category["id"]: category["name"] for category in dataset.categories}
    why: Counter[str] = Counter()
    there: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    for annotation in dataset.annotations:
        name = names[annotation["category_id"]]
        there[name] += 1
        reason = next((key for key in leaves_out if REASONS[key].holds(annotation)), None)
        if reason:
            why[reason] += 1
            lost[name] += 1
    if not why:
        return {}
    gone = {name: there[name] for name in there if lost[name] == there[name]}
    return {
        "objects": there.total(),
        "not_counted": lost.total(),
        "why": dict(why),
        "classes": gone,
    }


def refuse(dataset: "Dataset", leaves_out: Sequence[str], use: str) -> dict:
    """`counts`; InputError where no object counts. use: "trained on", "scored"."""
    found = counts(dataset, leaves_out)
    if found and found["not_counted"] == found["objects"]:
        raise InputError(nothing_left(dataset, found, use))
    return found


def refuse_few_images(dataset: "Dataset", least: int, use: str) -> None:
    """InputError for a class that fewer images show than it takes to learn it. least: so many;
    use: what for. Objects that are difficult, or groups, show nothing."""
    images: dict[int, set[int]] = {category["id"]: set() for category in dataset.categories}
    for a in dataset.annotations:
        if not (a.get("difficult") or a["iscrowd"]):
            images[a["category_id"]].add(a["image_id"])
    few = [(c["name"], len(images[c["id"]])) for c in dataset.categories]
    few = [(name, count) for name, count in few if count < least]
    if few:
        (name, count), more = few[0], f" (and {len(few) - 1:,} more like it)" if few[1:] else ""
        noun = "image" if count == 1 else "images"
        raise InputError(
            f"{dataset.root}: class '{name}' of split '{dataset.split}' has {count or 'no'} {noun}"
            f"{more}; {use} needs {least}: add some, or take the class out"
        )


def nothing_left(dataset: "Dataset", found: Mapping, use: str) -> str:
    """The line for a split of which no object counts."""
    remedies = "; ".join(REASONS[key].remedy for key in found["why"])
    return (
        f"{dataset.root}: none of the {found['objects']:,} objects of split '{dataset.split}' can"
        f" be {use}: {_why(found)}; {remedies}"
    )


def notable(found: Mapping) -> str:
    """The footnote where a class, or half of the objects, does not count."""
    if not found or not (found["classes"] or found["not_counted"] >= HALF * found["objects"]):
        return ""
    return in_words(found)


def in_words(found: Mapping) -> str:
    """How many test objects do not count, why, and the classes of which none does."""
    lost, total = found["not_counted"], found["objects"]
    text = f"{lost:,} of {total:,} test objects do not count: {_why(found)}"
    if not found["classes"]:
        return text
    return f"{text}; no object counts of {', '.join(list(found['classes'])[:5])}"


def _why(found: Mapping) -> str:
    return ", ".join(f"{count:,} {REASONS[key].text}" for key, count in found["why"].items())


def unit_problem(where: str, images: Sequence[Mapping], annotations: Sequence[Mapping]) -> str:
    """What is wrong with the unit of a split's boxes, 0-based [x, y, w, h]; "" if nothing. `where`
    opens the line."""
    if not annotations:
        return ""
    boxes = [annotation["bbox"] for annotation in annotations]
    widest = max(max(box[2:]) for box in boxes)
    farthest = max(max(x + w, y + h) for x, y, w, h in boxes)
    if widest <= SMALLEST:
        guess = "fractions of its width and height (0 to 1)"
        if farthest > SMALLEST:
            guess = "fractions, the corners in pixels"
        return _unit_line(where, f"no box is wider or higher than {widest:.3g} pixels", guess)
    sides = [side for image in images for side in (image["width"], image["height"])]
    if len(boxes) >= MANY and farthest <= 100 < LARGE <= min(sides) and farthest > 50:
        text = f"all {len(boxes):,} boxes end within {farthest:.3g} pixels of the top left corner"
        return _unit_line(where, text, "percentages of its width and height (0 to 100)")
    return ""


def _unit_line(where: str, found: str, guess: str) -> str:
    return (
        f"{where}: {found}: they look like {guess}, not pixels; multiply them by the width and"
        " height of their image"
    )
