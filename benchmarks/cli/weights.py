"""The `detco weights` commands: import, show, compare, export, push, pull, list."""

import json
import warnings
from pathlib import Path

from detco.common.errors import InputError

from .. import config
from . import text


def import_(args) -> int:
    """A checkpoint of another project, or a public one by its name, as a backbone file."""
    from detco.common import backbone_file
    from detco.transfer.checkpoints import importer

    path, row = _source(args)
    backbone, report = importer.load(
        path,
        args.forced or (row.layout if row else None),
        args.encoder,
        args.method,
        args.prefix or "",
    )
    digest = backbone_file.write(args.out, backbone)
    facts = _facts(backbone, report) | {"backbone": str(args.out), "sha256": digest}
    return text.facts(facts, args.json)


def _source(args):
    """(the file, its row in the table of public checkpoints or None)"""
    from detco.transfer.checkpoints import zoo

    if Path(args.source).exists() or "/" in args.source or "." in args.source:
        return Path(args.source), None
    row = config.find(zoo.BY_NAME, args.source, "file or public checkpoint")
    where = args.dir or zoo.folder()
    if not args.download:
        return zoo.get(row, where), row
    from ..run import live

    with live.of_task(row.name) as progress:
        return zoo.get(row, where, True, progress), row


def _facts(backbone, report) -> dict:
    """What the import prints: what was read, what was ignored, and why."""
    from detco.transfer.backbones import inspect

    meta, left = dict(backbone.metadata), ", ".join(report.others)
    return {
        "source": meta["source"],
        "source sha256": meta["source_sha256"],
        "layout": f"{report.layout.name} (learnt from {report.layout.learnt})",
        "encoder": (
            report.encoder.role
            + (f" (the file also has: {left}; --encoder takes another)" if left else "")
        ),
        "method": backbone.method + (" (--method says it)" if backbone.method == "unknown" else ""),
        "architecture": f"{backbone.arch}, all {len(backbone.tensors)} tensors there and finite",
        "dropped": report.dropped,
        "channel order": backbone.channel_order,
        "mean": list(backbone.mean),
        "std": list(backbone.std),
        **inspect.network(backbone),
    } | ({"notes": list(report.notes)} if report.notes else {})


def show_(args) -> int:
    """What a backbone file, a checkpoint or a trained detector holds, or how
    two backbones differ."""
    from detco.transfer import detector
    from detco.transfer.backbones import inspect

    from ..plan import backbones

    if not args.compare and detector.is_detector(args.file):
        return text.facts(detector.describe(detector.read(args.file)), args.json)
    backbone, *other = backbones.read(
        [args.file, *([args.compare] if args.compare else ())], backbones.how(args)
    )
    if other:
        return text.facts(inspect.compare(backbone, other[0]), args.json)
    facts = inspect.describe(backbone)
    return text.facts({key: _decoded(value) for key, value in facts.items()}, args.json)


def _decoded(value: object) -> object:
    """Metadata stored as JSON text (the recipe), parsed."""
    try:
        return json.loads(value) if isinstance(value, str) and value[:1] in ("{", "[") else value
    except (ValueError, RecursionError):
        return value


def probe(args) -> int:
    """How well a linear classifier tells the classes of objects by the features of each level."""
    from detco.common import backbone_file
    from detco.transfer.backbones import probe
    from detco.transfer.data import dataset
    from detco.transfer.data.checks import content

    from ..plan import backbones, datasets
    from ..run import live
    from ..suites.builtin import Data

    given = backbones.read(args.files, backbones.how(args))
    names = [str(path) for path in args.files]
    for backbone in {(one.arch, str(one.model_args)): one for one in given}.values():
        names.append(f"random {backbone.arch}")
        given.append(backbone_file.random_twin(backbone, 0))
    data = datasets.find_splits(Data(args.data, train=args.split))
    labelled = dataset.load(str(data.layout), data.root, str(data.train))
    with live.of_task("probe") as report:
        (labelled,) = content.with_depths([labelled], content.read([labelled], report))
        found = probe.dense_probe(given, labelled, report)
    if args.json:
        print(json.dumps(dict(zip(names, found)), indent=1))
        return 0
    levels = [level for level in probe.LEVELS if any(level in own for own in found)]
    rows = [("balanced accuracy, %", *levels)]
    for name, own in zip(names, found):
        rows.append((name, *(f"{own[level]:.1f}" if level in own else "" for level in levels)))
    text.columns(rows, right=range(1, len(rows[0])))
    print(f"\nsplit '{data.train}'; chance: {100 / (len(labelled.categories) + 1):.1f}")
    return 0


def export(args) -> int:
    """A backbone as a file of Detectron2 or torchvision, and what must be set beside it; a detector
    as a folder for Detectron2."""
    from detco.transfer import detector
    from detco.transfer.backbones import export

    from ..plan import backbones

    if detector.is_detector(args.file):
        return _export_detector(args)
    (backbone,) = backbones.read([args.file], backbones.how(args))
    needs = export.FORMATS[args.to](backbone, args.out)
    return text.facts({"file": str(args.out), "goes with it": needs}, args.json)


DETECTORS_TO = ("detectron2",)


def _export_detector(args) -> int:
    from detco.transfer import detector, engines

    trained = detector.read(args.file)
    if args.to not in DETECTORS_TO:
        raise InputError(f"--to {args.to}: a trained detector goes to {DETECTORS_TO[0]} only")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Detectron2 uses deprecated imports
        return text.facts(engines.get(trained.engine).export(trained, args.out), args.json)


def push(args) -> int:
    """A backbone file and its card into a folder or a model of the Hugging Face hub."""
    from detco.transfer.backbones import hub

    to = hub.repository(args.repo, args.revision)
    private = not args.public
    done = hub.push(args.file, to, args.licence or "", args.trained_on or "", private)
    return text.facts(done, args.json)


def pull(args) -> int:
    """A backbone file out of a folder or a model of the Hugging Face hub."""
    from detco.transfer.backbones import hub

    return text.facts(hub.pull(hub.repository(args.repo, args.revision), args.out), args.json)


def list_(args) -> int:
    """The table of public checkpoints, one of them, or the layouts that can be read."""
    from detco.transfer.checkpoints import zoo

    where = args.dir or zoo.folder()
    if args.layouts:
        return _layouts(args.json)
    if args.name:
        row = config.find(zoo.BY_NAME, args.name, "public checkpoint")
        return text.facts(
            _row(row, where) | {"how to get it": zoo.how_to_get(row, where)}, args.json
        )
    rows = [_row(row, where) for row in zoo.KNOWN]
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    keys = ("name", "method", "epochs", "architecture", "layout", "hash", "licence", "copy")
    table = [keys, *([str(row[key]) for key in keys] for row in rows)]
    left_out = text.columns(table, less=("hash", "layout", "licence", "architecture"))
    if left_out:
        print("`detco weights list NAME` shows the rest of one")
    return 0


def _row(row, where: Path) -> dict:
    from detco.transfer.checkpoints import zoo

    try:
        path = zoo.find(row, where)
        copy = "missing" if path is None else "verified" if row.digest else "there, no hash"
    except InputError as error:
        copy = f"wrong: {error}"
    return {
        "name": row.name,
        "method": row.method,
        "epochs": row.epochs or "",
        "architecture": row.arch,
        "layout": row.layout,
        "hash": row.digest,
        "copy": copy,
        "licence": row.licence,
        "url": row.url,
    }


def _layouts(as_json: bool) -> int:
    from detco.transfer.checkpoints.layouts import LAYOUTS

    rows = [
        {
            "layout": layout.name,
            "recognised": "only with --as" if layout.only_forced else "by itself",
            "encoders": ", ".join(dict.fromkeys(encoder.role for encoder in layout.encoders)),
            "channel order": layout.preprocessing.channel_order,
            "learnt from": layout.learnt,
        }
        for layout in LAYOUTS
    ]
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        table = [tuple(rows[0]), *(tuple(row.values()) for row in rows)]
        text.columns(table, less=("channel order", "encoders"))
    return 0
