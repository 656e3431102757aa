"""Training curves out of the TensorBoard files that a job leaves in its folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

POINTS = 80  # of a curve that is shown


@dataclass(frozen=True)
class LossChart:
    """One chart: row -> (iteration, loss) in order; `loss` says which loss that is."""

    loss: str
    lines: Mapping[str, Sequence[tuple[float, float]]]


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Name of the figure (loss, lr, ...) -> (iteration, value) in order; empty where there
    are no files.

    What an interrupted run wrote beyond the point where it went on again is left out, as
    TensorBoard does.
    """
    if not any(folder.glob("events.out.tfevents.*")):
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def smooth(points: Sequence[tuple[float, float]], most: int = POINTS) -> list[tuple[float, float]]:
    """At most `most` points, each the mean of its neighbours: (mean iteration, mean value)
    of equal shares."""
    share = max(1, -(-len(points) // most))
    parts = (points[first : first + share] for first in range(0, len(points), share))
    return [
        (sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts
    ]
