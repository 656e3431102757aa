"""The README's block of results, made from committed records: `make readme`; with FROM=demo, from
those of a run first.

Run as `python -m detco.results.readme README.md results/demo [RUN]`.
"""

import shutil
import sys
from collections import Counter
from pathlib import Path

from detco.common.errors import InputError
from detco.common.files import write_atomic

from . import grids, render, store, tables

BEGIN, END = "<!-- results: written by `make readme`, not by hand -->", "<!-- end of results -->"
METRICS = ("box_ap", "box_ap50", "mask_ap")
NOTHING = "The demo's sizes are still being tuned, so no table of it stands here yet."


def block(directory: Path) -> str:
    """The table of the records below a folder as Markdown, and what they were made with; a plain
    sentence where there are none.

    Raises InputError for a record that cannot be trusted.
    """
    records, problems = store.read(directory)
    if problems:
        raise InputError(problems[0])
    if not records:
        return NOTHING
    runs = tables.frame(records)
    wanted = [metric for metric in METRICS if metric in set(runs["metric"])]
    table = render.render(grids.grid(tables.ap_table(runs, metrics=wanted)), "md")
    return f"{table}\n\n{_made_with(records)}"


def _made_with(records: list[dict]) -> str:
    """One sentence: runs, libraries, machine, commit."""
    versions = Counter(
        (record["versions"].get("torch", "?"), record["versions"].get("torchvision", "?"))
        for record in records
    )
    (torch, torchvision), _ = versions.most_common(1)[0]
    hardware = records[0]["hardware"]
    machine = hardware.get("gpu") or f"{hardware.get('cores')} cores of {hardware.get('processor')}"
    minutes = sum(record.get("wall_seconds") or 0 for record in records) / 60
    code = records[0]["code"].split("-")[0][:10]
    return (
        f"{len(records)} fine-tunings, {minutes:.0f} minutes of them together, on {machine}; torch"
        f" {torch}, torchvision {torchvision}, commit {code}."
    )


def updated(text: str, made: str) -> str:
    """The README with its block replaced. Raises InputError unless it holds both
    marks, in order."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise InputError(f"the README needs the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


def keep(run: Path, directory: Path) -> int:
    """Replace the records below `directory` by the finished fine-tunings of a run; paths of the
    machine are taken out."""
    records, problems = store.read(run)
    done = [
        record for record in records if record["kind"] == "transfer" and record["status"] == "done"
    ]
    if problems or not done:
        raise InputError(problems[0] if problems else f"{run} holds no finished fine-tuning")
    shutil.rmtree(directory, ignore_errors=True)
    for record in done:
        folder = directory / record["protocol"] / f"{record['starting_point']}-seed{record['seed']}"
        folder.mkdir(parents=True)
        store.write_json(folder / "record.json", _portable(record, f"{run.resolve()}/"))
    return len(done)


def _portable(value, root: str):
    """A record without the folder it was made in and the name of the machine."""
    if isinstance(value, dict):
        return {key: _portable(inside, root) for key, inside in value.items() if key != "host"}
    if isinstance(value, list):
        return [_portable(inside, root) for inside in value]
    return value.replace(root, "") if isinstance(value, str) else value


def main(words: list[str]) -> int:
    readme, directory = Path(words[0]), Path(words[1])
    try:
        if len(words) > 2:
            print(f"{directory}: {keep(Path(words[2]), directory)} records")
        text = updated(readme.read_text(encoding="utf-8"), block(directory))
    except (InputError, OSError) as error:
        print(f"readme: {error}", file=sys.stderr)
        return 2
    write_atomic(readme, text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
