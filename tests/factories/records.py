"""Made-up records of runs."""

import json

from detco.results.paper import numbers

DONE = {
    "format": 1,
    "kind": "transfer",
    "status": "done",
    "protocol_version": 1,
    "scaling": "1",
}


def sound_record(number=0, **changes):
    """The least that a record of a fine-tuning holds."""
    made = DONE | {
        "deviations": [],
        "id": f"{number:064x}",
        "spec": {"kind": "transfer"},
        "starting_point": "random",
        "protocol": "p",
        "protocol_hash": "h",
        "scorer": "coco",
        "engine": "torchvision",
        "seed": 0,
        "weights": {"sha256": ""},
        "data": {},
        "metrics": {"box_ap": 31.25},
    }
    return made | changes


def put(folder, content):
    folder.mkdir(parents=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "record.json").write_text(text)


ORDER = {"detco-small": 0, "supervised": 1, "random": 2, "moco": 3, "c4": 0, "retinanet": 1}


def transfer_record(start, protocol, seed, value, **changes):
    """A record as a worker writes it."""
    sha = "" if start == "random" else (start.encode().hex() * 4)[:64]
    made = DONE | {
        "deviations": [],
        "id": f"{start}/{protocol}/{seed}",
        "starting_point": start,
        "protocol": protocol,
        "protocol_hash": f"hash-{protocol}",
        "engine": "torchvision",
        "scorer": "voc2007" if protocol == "c4" else "coco",
        "seed": seed,
        "weights": {"sha256": sha},
        "data": {"layout": "voc", "train": {"fingerprint": "f1"}, "test": {"fingerprint": "f2"}},
        "metrics": {"box_ap": value, "box_ap50": value + 20, "box_ap/dog": value},
        "spec": {
            "weights": "random" if start == "random" else "file",
            "weights_identity": f"made by {start}",
            "data": {"root": "/data/pets", "identity": "plan of pets"},
            "order": [ORDER[start], ORDER[protocol]],
        },
    }
    made["id"] += str(sorted(changes.items()))
    return made | changes


def failed_record(start, protocol, seed):
    return transfer_record(
        start,
        protocol,
        seed,
        0.0,
        status="failed",
        metrics={},
        weights=None,
        data={},
        error="no memory",
    )


def planned_spec(start, protocol, seed):
    """The spec of a job that has no record yet: it knows its weights and data by the jobs
    that make them."""
    record = transfer_record(start, protocol, seed, 0.0)
    spec = record["spec"]
    kept = (
        "kind",
        "starting_point",
        "protocol",
        "protocol_version",
        "protocol_hash",
        "engine",
        "scorer",
        "scaling",
    )
    return {"id": record["id"] + "p", "seed": seed, **{key: record[key] for key in kept}, **spec}


NUMBERS = numbers.of_source(numbers.DETCO)


AT_90K = ("coco-mask-rcnn-c4-90k", "coco-mask-rcnn-fpn-90k", "coco-retinanet-90k")


IMAGES = {
    "coco": 5000,
    "voc": 4952,
    "cityscapes": 500,
    "imagenet": 50_000,
    "voc07": 4952,
    "densepose": 1508,
}
SCORERS = {"voc": "voc2007", "imagenet": "accuracy", "voc07": "class-ap", "densepose": "gps"}


def paper_record(start, protocol, seed, value, metric="box_ap", **changes):
    """A record of the published engine that nothing stands against."""
    method, _, epochs = start.partition("@")
    weights = {
        "method": method,
        "arch": "resnet50",
        "sha256": start.encode().hex().ljust(64, "0"),
        "epochs": epochs,
    }
    data = protocol.removeprefix("coco-" * ("densepose" in protocol)).split("-")[0]
    made = DONE | {
        "deviations": [],
        "id": f"{start}/{protocol}/{seed}/{metric}/{sorted(changes)}",
        "starting_point": start.replace("@", "-"),
        "protocol": protocol,
        "protocol_hash": protocol,
        "engine": "frozen" if data in ("imagenet", "voc07") else "detectron2",
        "scorer": SCORERS.get(data, data),
        "seed": seed,
        "weights": None if start == "random" else weights,
        "metrics": {metric: value},
        "data": {
            "train": {"fingerprint": "a"},
            "test": {"fingerprint": "b", "images": IMAGES.get(data)},
        },
        "spec": {
            "weights": "random" if start == "random" else "file",
            "data": {"root": f"/{data}"},
            "order": [0, 0],
        },
    }
    return made | changes


def printed(protocol, method, metric="box_ap", epochs=None):
    found = NUMBERS[
        (NUMBERS.protocol == protocol) & (NUMBERS.method == method) & (NUMBERS.metric == metric)
    ]
    found = found if epochs is None else found[found.epochs == epochs]
    assert len(found) == 1
    return float(found["value"].iloc[0])


def three_seeds(start, protocol, mean, spread=0.1, **more):
    """Three seeds around a mean with that sample standard deviation exactly."""
    return [
        paper_record(start, protocol, seed, mean + shift, **more)
        for seed, shift in enumerate((-spread, 0, spread))
    ]


def headline(*gains, spread=0.1, **more):
    records = []
    for protocol, gain in zip(AT_90K, gains, strict=True):
        base = printed(protocol, "supervised")
        records += three_seeds("supervised@90", protocol, base, spread) + three_seeds(
            "detco-aa@200", protocol, base + gain, spread, **more
        )
    return records
