"""`detco verify`: scores finished runs again from their predictions."""

import math
from pathlib import Path

from detco.common.errors import InputError, one_line
from detco.results import store

from .. import config

SAME = 1e-6  # AP points: allows for rounding, as sums may run in another order
SHOWN = 3  # metrics that are named


def verify(args) -> int:
    """Print a line for each finished fine-tuning below a folder: equal, or what is not. Exit status
    1 where one is not equal, cannot be scored, or a record had to be left out."""
    from ..cli import outcomes, text

    if not args.dir.is_dir():
        raise InputError(f"no folder {args.dir}")
    records, problems = outcomes.read(args.dir)
    folders, rows = store.folders(args.dir), []
    for record in records:
        if record["kind"] == "transfer" and record["status"] == "done":
            folder = folders[record["id"]]
            try:
                said = difference(record, folder)
            except (InputError, OSError, LookupError, TypeError, ValueError) as error:
                said = f"cannot be scored: {one_line(error)}"
            rows.append((said or "equal", text.near(folder)))
    text.columns(rows)
    wrong = sum(said != "equal" for said, _ in rows)
    print(f"{len(rows) - wrong} of {len(rows)} runs have the metrics of their predictions")
    outcomes.left_out(problems)
    return 1 if wrong or problems else 0


def difference(record: dict, folder: Path) -> str:
    """How the metrics of a run differ from those of its `predictions.json` on its test
    data; "" where they are equal. Raises InputError for data or predictions that are
    missing or have changed."""
    from detco.transfer import finetune
    from detco.transfer.protocols import from_record
    from detco.transfer.scoring import score
    from detco.transfer.settings import Protocol

    spec = record["spec"]
    protocol = config.build(Protocol, from_record(spec["protocol_row"]), "protocol")
    _, test = finetune.load_data(protocol, spec["data"])
    if test.fingerprint != record["data"]["test"]["fingerprint"]:
        raise InputError(f"{test.root} is not any more what was tested on")
    predictions = folder / "predictions.json"
    scored = score.score_file(test, predictions, protocol.scorer, protocol.metrics)
    found = {name: value for name, value in scored.items() if math.isfinite(value)}
    texts = []
    for name in dict.fromkeys([*record["metrics"], *found]):
        claimed, anew = record["metrics"].get(name), found.get(name)
        if claimed is None or anew is None or abs(claimed - anew) > SAME:
            texts.append(f"{name} {_number(claimed)}, scored anew {_number(anew)}")
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return "; ".join(texts[:SHOWN]) + more


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"
