"""The engine `detectron2`: the papers' protocols on Detectron2's own trainer, loader, checkpointer
and launcher."""

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from detco.common.backbone_file import Backbone
from detco.common.files import write_atomic
from detco.common.progress import Report

from ... import detector
from ...data.dataset import Dataset
from ...protocols import PROTOCOLS
from ...settings import Protocol
from .. import EngineJob, Outcome, replacing
from . import config as detectron2_config
from . import data, memory, version
from . import launch as detectron2_launch
from . import records as detectron2_records
from .detector import detect
from .export import export
from .launch import AMP
from .predict import TRIED, predict, try_out
from .records import Records
from .train import Trainer

__all__ = ["as_yaml", "detect", "export", "run"]  # what an engine has


def as_yaml(protocol: Protocol, backbone: Backbone) -> str:
    """The config of a protocol with its published data and processes."""
    return detectron2_config.resolve(protocol, backbone).dump()


def run(job: EngineJob, report: Report) -> Outcome:
    """Fine-tune, predict the test pictures, write `predictions.json`. Raises TrainingError,
    InputError.

    Machines other than the first only help: the predictions are written by that one, into the
    folder that all of them see.
    """
    detectron2_launch.check(job.protocol, job.launch, job.device)
    # several machines may share the folder
    path = folder(job) / f"records{job.launch.machine_rank or ''}.json"
    try:
        records = hand_over(job, path)
        detectron2_launch.start(partial(work, records), needed(job), report)
    finally:
        path.unlink(missing_ok=True)
    facts = {} if job.launch.machine_rank else json.loads((folder(job) / "facts.json").read_text())
    checkpoints = (*sorted(folder(job).glob("model_*.pth")), folder(job) / "last_checkpoint")
    departed = deviations(job) + replacing.deviations(facts)
    return Outcome(job.out / "predictions.json", departed, facts, checkpoints)


def hand_over(job: EngineJob, path: Path) -> Records:
    """The job's training pictures as records in a file; the job lets go of them: COCO's take over a
    GB in a process."""
    metrics = job.protocol.metrics
    records = detectron2_records.write(
        job.train, path, "semantic" in metrics, int("keypoint" in metrics), "densepose" in metrics
    )
    job.train = replace(job.train, images=(), annotations=())
    return records


def needed(job: EngineJob) -> EngineJob:
    """What the processes of a job are given: the labels of test pictures only where they
    are scored there."""
    if job.launch.processes == 1 or job.launch.eval_period:
        return job
    tried = {image["id"] for image in job.test.images[:TRIED]}
    labels = tuple(a for a in job.test.annotations if a["image_id"] in tried)
    return replace(job, test=replace(job.test, annotations=labels))


def folder(job: EngineJob) -> Path:
    """Where Detectron2 keeps config.yaml, metrics.json, curves and checkpoints of a job."""
    return job.out / "detectron2"


def config(job: EngineJob, mask_format: str):
    """The resolved config of a job; its data sets are entered into Detectron2's catalogs."""
    points = next((len(c["keypoints"]) for c in job.train.categories if c.get("keypoints")), 17)
    deep = "deep" in job.train.facts or "deep" in job.test.facts
    run = detectron2_config.RunConfig(
        classes=len(job.train.categories),
        keypoints=points,
        mask_format=mask_format,
        datasets=tuple((described(job.protocol, one),) for one in (job.train, job.test)),
        processes=job.launch.processes,
        device=job.device,
        workers=loading_processes(job),
        out=str(folder(job)),
        seed=job.seed,
        amp=bool(job.launch.amp),
        eval_period=job.launch.eval_period,
        opened_as=data.OurImages.prefix(job.train.value_range) if deep else "",
    )
    return detectron2_config.resolve(job.protocol, job.backbone, run)


def described(protocol: Protocol, dataset: Dataset) -> str:
    """Enters a data set into Detectron2's catalog; returns its name there."""
    name = data.describe(dataset)
    if "densepose" in protocol.metrics:
        from . import densepose

        densepose.describe(name, dataset.root)
    return name


def loading_processes(job: EngineJob) -> int:
    """Of each process that trains: none on a CPU, where they would take the training's cores; else
    Detectron2's four."""
    cores = (os.cpu_count() or 1) // job.launch.num_gpus
    return 0 if job.device == "cpu" else max(1, min(4, cores))


def precision(job: EngineJob) -> str:
    return str(AMP[job.launch.amp]).removeprefix("torch.")


def deviations(job: EngineJob) -> tuple[str, ...]:
    """Where this run departs from the protocol by how it was started, and by Detectron2's
    nature."""
    schedule, d, processes = job.protocol.schedule, job.protocol.detector, job.launch.processes
    published = PROTOCOLS.get(job.protocol.name, job.protocol).schedule
    share, texts = published.images // published.devices, []
    if processes == 1 and schedule.images < share:
        texts.append(
            f"BN over {schedule.images} image{'s' * (schedule.images > 1)} (protocol: {share} a"
            " device)"
        )
    if processes > 1 and job.device == "cpu" and d.norm != "naiveSyncBN":
        texts.append(f"naiveSyncBN over {processes} processes ({d.norm} runs on GPUs only)")
    if job.launch.amp:
        texts.append(f"automatic mixed precision ({precision(job)})")
    if job.protocol.architecture == "mask-rcnn-c4" and d.mask_size != d.roi_size:
        texts.append(
            f"masks pooled with the boxes, at {d.roi_size} x {d.roi_size} (protocol:"
            f" {d.mask_size} x {d.mask_size})"
        )
    return tuple(texts)


def work(records: Records, job: EngineJob, report: Report) -> None:
    """Train and predict in this process; the first one writes facts.json and predictions.json."""
    cfg, out, trainer = config(job, records.mask_format), folder(job), None
    for name in ("detectron2", "fvcore"):
        setup_logger(distributed_rank=comm.get_rank(), name=name, color=False)
    if comm.is_main_process():
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.yaml").write_text(cfg.dump())
    comm.synchronize()
    seed_all_rng((job.seed & 0xFFFFFFFF) + comm.get_rank())
    try:
        memory.check(cfg, cfg.SOLVER.IMS_PER_BATCH // job.launch.processes)
        trainer = Trainer(cfg, job, records, report)
        trainer.resume_or_load()
        if comm.is_main_process():
            try_out(trainer.checkpointer.model, cfg, job.protocol, job.test)
        trainer.train()
        seconds = trainer.steps.seconds
        found = predict(trainer.model, cfg, job.test, report)
    except Exception as error:
        told = detectron2_launch.explained(
            error, f"at iteration {trainer.iter}" if trainer else "at the start"
        )
        if told is None:
            raise
        raise told from error
    if found is not None:
        facts = {
            "precision": precision(job),
            "processes": job.launch.processes,
            "evaluations": trainer.evaluation.found,
        }
        own = version.identify()
        facts |= trainer.replacements.replaced.facts()
        facts["detectron2"] = {"which": own.which, "hash": own.hash}
        facts |= {"mask_format": cfg.INPUT.MASK_FORMAT} if cfg.MODEL.MASK_ON else {}
        facts |= {"norm": cfg.MODEL.RESNETS.NORM, "train_seconds": round(seconds, 1)}
        write_atomic(out / "facts.json", json.dumps(facts))
        write_atomic(job.out / "predictions.json", json.dumps(found))
        if job.keep_model == "best":  # the last evaluation is the result
            trainer.evaluation.keep(cfg.SOLVER.MAX_ITER, trainer.scored(found))
        elif job.keep_model:
            detector.save(
                job, "detectron2", trainer.checkpointer.model.state_dict(), cfg.SOLVER.MAX_ITER
            )
