"""The job of one `detco transfer`: data where they lie, the batch scaled if asked, processes and machines."""

from pathlib import Path

from . import InputError, labelled, plan, settings, view
from .jobs import Job, Place, transfer_job
from .suites import Data, StartingPoint, name_of

LAUNCH = {"num_gpus": 1, "num_machines": 1, "machine_rank": 0, "dist_url": "auto", "amp": "", "eval_period": 0}


def job_of(args) -> Job:
    """The job that the parsed arguments of `detco transfer` describe. Raises InputError."""
    from transfer import engines, finetune
    from transfer.protocols import PROTOCOLS, scaled

    random = args.weights == "random"
    name = args.name or ("random" if random else name_of(Path(args.weights)))
    start = StartingPoint(name, random=True) if random else StartingPoint(name, weights=Path(args.weights))
    changes = settings.parse_assignments(args.changes)
    row = settings.find(PROTOCOLS, args.protocol, "protocol")
    protocol, scaling = settings.override(row, changes, f"settings of protocol {args.protocol}"), "1"
    if args.batch is not None:
        if args.batch < 1:
            raise InputError(f"--batch must be at least 1, it is {args.batch}")
        protocol, scaling = scaled(protocol, args.batch)
    launch = {key: getattr(args, key) for key, default in LAUNCH.items() if getattr(args, key) != default}
    place = Place(
        args.out.absolute(), engines.resolve(args.engine), args.device, launch, keep_model=args.keep_model,
        there=plan.folders(args.out),
    )  # fmt: skip
    finetune.refuse_to_keep(place.engine, engines.Launch(**launch), args.keep_model)
    with view.pictures_checked(name, args.verify) as check:
        data, source = labelled.load(data_of(args, protocol), protocol, check)
    return transfer_job(name, plan.weights_of(start, None), protocol, data, source, args.seed, place, scaling=scaling)


def data_of(args, protocol) -> Data:
    """The data set named, or the protocol's published one below --data or DETECTRON2_DATASETS."""
    from transfer import published

    if args.data is not None and not published.holds(protocol, args.data):
        return Data(args.data, args.layout, args.train, args.test)
    found = published.locate(protocol, args.data)
    return Data(Path(found["root"]), found["layout"], args.train or found["train"], args.test or found["test"])
