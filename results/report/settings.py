"""What made the results: settings of protocols and recipes, data, weights, versions, machines."""

import json
from collections.abc import Mapping, Sequence

from detco.common.values import flatten

from ..cells import Cell, Grid, Group, Section

MACHINE = ("versions", "hardware", "code")


def grids(records: Sequence[dict]) -> dict[str, Grid]:
    """Title -> every setting of each protocol and recipe, data and weights by their hashes; library
    versions and machines of all records together."""
    shown: dict[str, Mapping] = {}
    for record in records:
        spec = record["spec"]
        if isinstance(row := spec.get("protocol_row"), dict):
            version = f"v{record['protocol_version']} ({record['protocol_hash']})"
            shown[f"protocol {record['protocol']} {version}"] = row
            root = (spec.get("data") or {}).get("root", "")
            shown[f"data of {record['protocol']}: {root}"] = record.get("data") or {}
        if isinstance(weights := record.get("weights"), dict) and weights.get("sha256"):
            shown[f"weights {record['starting_point']} ({weights['sha256'][:6]})"] = weights
        if isinstance(recipe := spec.get("recipe"), dict):
            of = f"{spec.get('starting_point')}, seed {spec.get('seed')}"
            shown[f"recipe {recipe.get('name')} of {of}"] = recipe
    shown |= {title: _together(records, title) for title in MACHINE}
    return {title: _grid(values) for title, values in shown.items()}


def _together(records: Sequence[dict], title: str) -> dict[str, str]:
    """Fact -> its values in all records, each once."""
    found: dict[str, list[str]] = {}
    for record in records:
        value = _versions(record) if title == "versions" else record.get(title)
        for key, text in value.items() if isinstance(value, dict) else [(title, value)]:
            seen = found.setdefault(str(key), [])
            seen += [str(text)] if str(text) not in seen else []
    return {key: ", ".join(texts) for key, texts in found.items()}


def _versions(record: dict) -> object:
    """Versions of a record's libraries; with Detectron2's files, as its version tells no two
    of it apart."""
    found, own = record.get("versions"), (record.get("facts") or {}).get("detectron2") or {}
    if not (isinstance(found, dict) and own.get("hash")):
        return found
    return found | {"detectron2 files": f"{own.get('which')} ({own['hash'][:6]})"}


def _grid(values: Mapping[str, object]) -> Grid:
    rows = [
        (key, [Cell(value if isinstance(value, str) else json.dumps(value))])
        for key, value in flatten(values).items()
    ]
    return Grid([Group("", "", ("value",), "l")], [Section("", rows)], corner="setting")
