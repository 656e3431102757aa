"""The job of one `detco transfer`: its data, the scaled batch size, processes and machines."""

from dataclasses import replace
from pathlib import Path

from detco.common.errors import InputError

from .. import config
from ..run import live
from ..suites.builtin import Data, StartingPoint, name_of, random_name
from . import datasets, suite_plan
from .jobs import RANDOM, FineTuning, Job, Place, Source, transfer_job

IMPORTED = "imported"  # folder of what is made of other projects' checkpoints
LAUNCH = {
    "num_gpus": 1,
    "num_machines": 1,
    "machine_rank": 0,
    "dist_url": "auto",
    "amp": "",
    "eval_period": 0,
}


def job_of(args) -> Job:
    """The job that the parsed arguments of `detco transfer` describe. Raises InputError."""
    from detco.transfer import engines, finetune
    from detco.transfer.protocols import PROTOCOLS, scaled

    start = start_of(args)
    changes = config.parse_assignments(args.changes)
    row = config.find(PROTOCOLS, args.protocol, "protocol")
    protocol, scaling = config.override(row, changes, f"settings of protocol {args.protocol}"), "1"
    if args.batch is not None:
        if args.batch < 1:
            raise InputError(f"--batch must be at least 1, it is {args.batch}")
        protocol, scaling = scaled(protocol, args.batch)
    launch = {
        key: getattr(args, key) for key, default in LAUNCH.items() if getattr(args, key) != default
    }
    place = Place(
        args.out.absolute(),
        engines.serving(engines.resolve(args.engine), protocol.architecture),
        args.device,
        launch,
        keep_model=args.keep_model,
        there=suite_plan.folders(args.out),
    )
    finetune.refuse(protocol, place.engine, engines.ALONE)
    finetune.refuse_to_keep(place.engine, engines.Launch(**launch), args.keep_model)
    if start.random:
        finetune.refuse_backbone(protocol, start.arch or protocol.arch, place.engine)
    with live.of_task(start.name) as report:
        look = datasets.Look(args.verify, report)
        data, source = datasets.load(data_of(args, protocol), protocol, look)
    weights = weights_of(start, args)
    if weights.arch and not start.random:
        finetune.refuse_backbone(protocol, weights.arch, place.engine)
    run = FineTuning(start.name, weights, protocol, data, source, args.seed, scaling=scaling)
    return transfer_job(run, place)


def start_of(args) -> StartingPoint:
    """The starting point that --weights names."""
    random, _, arch = args.weights.partition(":")
    if random == RANDOM:
        return StartingPoint(args.name or random_name(arch), random=True, arch=arch)
    path = Path(args.weights)
    return StartingPoint(args.name or name_of(path), weights=path)


def weights_of(start: StartingPoint, args) -> Source:
    """Its backbone. A checkpoint of another project is imported into OUT/imported, once its data
    are known to be right. Raises InputError."""
    from . import backbones

    how = backbones.how(args)
    if start.weights is None:
        backbones.refuse(how, start.name)
    else:
        folder = args.out / IMPORTED
        start = replace(start, weights=backbones.file(start.weights, how, start.name, folder))
    return suite_plan.weights_of(start, None)


def data_of(args, protocol) -> Data:
    """The data set named, or the protocol's published one below --data or DETECTRON2_DATASETS."""
    from detco.transfer.data import official

    if args.data is not None and not official.holds(protocol, args.data):
        named = (args.data, args.layout, args.train, args.test)
        return Data(*named, args.strict, args.merge_classes)
    found = official.locate(protocol, args.data)
    return Data(
        Path(found["root"]),
        found["layout"],
        args.train or found["train"],
        args.test or found["test"],
        args.strict,
        args.merge_classes,
    )
