"""What the JSON files between processes and versions must hold: plans, progress, records, a job's
number in Slurm's queue, remembered speeds. pydantic checks them against the types here.

Version 1 (`FORMAT`). Fields may be added. A change of a field's type needs a higher version. A
field that is not named may hold anything; one that may be missing is never null unless it says so.
"""

import json
import math
import re
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import BaseModel, ConfigDict, Field, Strict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from typing_extensions import Required, TypedDict

FORMAT = 1
DEEPEST = 60  # lists and groups within one another
MANY_DIGITS = re.compile(r"[ \[]-?\d{19}")  # as many as 2**63 has
STRICT = ConfigDict(strict=True, allow_inf_nan=False)

# lists of two: JSON has no tuples
Counts = Annotated[tuple[int, int], Strict(False)]
StepsAndSeconds = Annotated[tuple[int, float], Strict(False)]
Percent = Annotated[float, Ge(-1e-9), Le(100 + 1e-9)]  # rounding may lead beyond the ends


class Fields(TypedDict):
    """The base of those that follow. Other fields may be there too."""

    __pydantic_config__ = STRICT  # type: ignore[misc]


class DataFields(Fields, total=False):
    root: str
    layout: str | None
    train: str | None
    test: str | None
    identity: str
    pictures: list[int]


class LaunchFields(Fields, total=False):
    num_gpus: int
    num_machines: int
    machine_rank: int
    dist_url: str
    amp: str | bool
    eval_period: int


class ScheduleFields(Fields, total=False):
    iterations: int
    images: int


class ProtocolRow(Fields, total=False):
    name: str
    version: int
    arch: str
    metrics: list[str]
    schedule: ScheduleFields
    detector: dict


class RecipeFields(Fields, total=False):
    name: str
    arch: str
    epochs: int
    batch: int
    assumed: list[str]


class ScenesFields(Fields, total=False):
    images: int
    size: int
    seed: int
    unlabelled: int | None
    classification: int | None


class Spec(Fields, total=False):
    """The plan of a job of any kind, as its record repeats it."""

    id: str
    kind: str
    title: str
    needs: list[str]
    starting_point: str
    protocol: str
    protocol_version: int
    protocol_hash: str
    scorer: str
    engine: str
    scaling: str
    weights: str
    weights_identity: str
    images: str
    images_identity: str
    pictures: int
    seed: int
    device: str
    order: Counts | None
    keep_model: str
    probe: str
    data: DataFields | None
    launch: LaunchFields
    protocol_row: ProtocolRow | None
    recipe: RecipeFields
    settings: ScenesFields


class Planned(Fields):
    """`spec.json` is a `Spec` with a name."""

    id: str


class Transfer(Fields):
    """What the plan and the record of a fine-tuning never lack, beside their own kind."""

    starting_point: str
    protocol: str
    protocol_version: int
    protocol_hash: str
    scorer: str
    engine: str
    scaling: str
    seed: int
    data: dict


class Finished(Transfer):
    """What the record of a fine-tuning never lacks."""

    deviations: list[str]


class Detectron2(Fields, total=False):
    hash: str
    which: str


class EvaluationFields(Fields):
    iteration: int
    metrics: dict[str, Percent]


class Facts(Fields, total=False):
    knn_percent: dict[str, Percent] | None
    knn: dict[str, float] | None  # as shares, in records of earlier versions
    evaluations: list[EvaluationFields]
    detectron2: Detectron2


class Weights(Fields, total=False):
    sha256: str
    arch: str


class Record(Fields, total=False):
    """`record.json` of a job of any kind."""

    id: Required[str]
    kind: Required[str]
    status: Required[Literal["done", "failed"]]
    spec: Required[Spec]
    metrics: Required[dict[str, Percent]]
    starting_point: str
    error: str | None
    error_kind: str | None
    warnings: list[str]
    deviations: list[str]
    undefined: list[str]
    wall_seconds: float
    started: str
    ended: float
    stages: dict[str, StepsAndSeconds]
    hardware: dict[str, str | int | None]
    versions: dict[str, str | None]
    code: str
    weights: Weights | None
    data: dict
    facts: Facts | None


class ProgressFields(Fields, total=False):
    """`progress.json`."""

    pid: int
    host: str
    started: float
    time: float
    stage: str
    done: int
    total: int
    speed: float | None
    figures: dict[str, str | float]
    trained: Counts


class Queued(Fields):
    """`.slurm.json`: a job's number in the queue, and where submitit keeps its files."""

    number: Annotated[str, Field(pattern=r"^[0-9]+(_[0-9]+)?$")]
    folder: str


class Speed(Fields):
    """See `measured` of detco.benchmarks.plan.measured_speeds."""

    stages: dict[str, StepsAndSeconds]
    other: float
    jobs: Annotated[int, Ge(1)]


class Machine(BaseModel):
    """Of one machine: the seconds of a step, and speeds by the hash of what they depend on."""

    model_config = STRICT | ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Speed]
    step: Annotated[float, Ge(0)] = 0


Speeds = dict[str, Machine]  # `speeds.json`, by the hash of a machine

WORDS = {  # by pydantic's types of errors
    "int_type": "not an int",
    "float_type": "not a number",
    "string_type": "not a str",
    "list_type": "not a list",
    "tuple_type": "not a list",
    "dict_type": "not a dict",
    "finite_number": "not a finite number",
    "literal_error": "neither done nor failed",
    "greater_than_equal": "outside 0..100",
    "less_than_equal": "outside 0..100",
}


def misfit(value: Mapping, *kinds: Any) -> str | None:
    """The first field of a JSON object that is missing or of another type than in `kinds`, some of
    those above; or what no such file holds anywhere: numbers that are not finite or beyond 64 bits,
    endless nesting. None: all fits."""
    try:
        for kind in kinds:
            _adapter(kind).validate_python(value)
    except ValidationError as error:
        return _said(value, error.errors(include_url=False))
    return _impossible(value)


@cache
def _adapter(kind: Any) -> TypeAdapter:
    return TypeAdapter(kind)


def _said(value: Mapping, problems: list[ErrorDetails]) -> str:
    """The first finding of pydantic. Of A | B it has one for each, below the place of the value:
    both are named."""
    found, place = problems[0]["input"], problems[0]["loc"]
    missing = problems[0]["type"] == "missing"
    same = [problems[0]]
    if not missing and not _is_there(value, place):
        same = [one for one in problems if one["input"] is found and one["loc"][:-1] == place[:-1]]
        place = place[:-1]
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)[1:]
    if missing:
        return f"{text} is missing"
    wanted = [WORDS.get(one["type"], one["msg"].lower()) for one in same]
    return f"{text} is {short(found)}, {' and '.join(wanted)}"


def _is_there(value: Any, place: tuple[int | str, ...]) -> bool:
    """Whether a place is one of the value, and not a branch of its type."""
    for part in place:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def short(value: Any) -> str:
    """A value as text for a message, cut if long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _is_plain(value: Any) -> bool:
    """Whether `_impossible` need not look at each part, which takes ten times as long: a table
    reads thousands of records."""
    try:
        text = json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return False
    return text.count("{") + text.count("[") <= DEEPEST and not MANY_DIGITS.search(text)


def _impossible(value: Any) -> str | None:
    """What a value holds that JSON allows but none of these files may, in words;
    None if nothing."""
    if _is_plain(value):
        return None
    waiting: list[tuple[dict | list, int]] = [([value], 0)]
    while waiting:
        here, depth = waiting.pop()
        if depth > DEEPEST and here:
            return f"lists and groups lie more than {DEEPEST} deep in one another"
        for inner in here.values() if isinstance(here, dict) else here:
            if isinstance(inner, dict | list):
                waiting.append((inner, depth + 1))
            elif isinstance(inner, float) and not math.isfinite(inner):
                return "holds a number that is not finite"
            elif isinstance(inner, int) and not -(2**63) <= inner < 2**63:
                return "holds a whole number beyond 64 bits"
    return None
