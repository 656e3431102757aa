"""Estimates time and disk of jobs: from speeds measured on this machine where known,
else from the model below.

The model has two devices, see GPU and CPU. Seconds for an image grow with its area and
with the backbone's operations.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from detco.pretrain.methods import METHODS
from detco.transfer.engines import ENGINES

from .jobs import Job
from .measured_speeds import STEP, by_speed, drawn, speed_key, steps

# of a 224 x 224 picture
GFLOP = {
    "resnet18": 1.8,
    "resnet34": 3.7,
    "resnet50": 4.1,
    "resnet101": 7.8,
    "resnet152": 11.5,
    # timm's
    "convnext_atto": 0.6,
    "convnext_tiny": 4.5,
    "convnext_base": 15.4,
    "swin_tiny_patch4_window7_224": 4.5,
    "swin_base_patch4_window7_224": 15.5,
    "vit_tiny_patch16_224": 1.3,
    "vit_small_patch16_224": 4.6,
    "vit_base_patch16_224": 17.6,
}
# of its float32 weights
MEGABYTES = {
    "resnet18": 45,
    "resnet34": 85,
    "resnet50": 94,
    "resnet101": 170,
    "resnet152": 233,
    "convnext_atto": 14,
    "convnext_tiny": 111,
    "convnext_base": 350,
    "swin_tiny_patch4_window7_224": 110,
    "swin_base_patch4_window7_224": 347,
    "vit_tiny_patch16_224": 22,
    "vit_small_patch16_224": 87,
    "vit_base_patch16_224": 343,
}


@dataclass(frozen=True)
class Device:
    """Seconds of training on one picture of a short side of `side` pixels, by detector, with `arch`
    as backbone."""

    name: str
    side: int
    arch: str
    detectors: Mapping[str, float]
    passes: float  # seconds of a forward pass of ResNet-18 a pixel; backward counts as two
    predict: float  # share of the seconds of a training picture


GPU = Device(
    "NVIDIA V100, float32: Detectron2's model zoo and MoCo v2's 53 hours on 8 of them",
    800,
    "resnet50",
    {
        "faster-rcnn-c4": 0.276,
        "mask-rcnn-c4": 0.292,
        "faster-rcnn-fpn": 0.105,
        "mask-rcnn-fpn": 0.131,
        "retinanet": 0.1,
        "keypoint-rcnn-fpn": 0.158,
        "densepose-rcnn-fpn": 0.154,  # the zoo's s1x_legacy; s1x: 0.18
        "fcn-16s": 0.13,  # the zoo has no FCN-16s: assumed
    },
    passes=1.3e-8,
    predict=0.4,
)
CPU = Device(
    f"a core on which a step of ResNet-18 on 4 pictures of 96 px takes {STEP} s, scaled to"
    " this one",
    128,
    "resnet18",
    {
        "faster-rcnn-c4": 0.077,
        "mask-rcnn-c4": 0.1,
        "faster-rcnn-fpn": 0.09,
        "mask-rcnn-fpn": 0.115,
        "retinanet": 0.058,
        "keypoint-rcnn-fpn": 0.12,
        "densepose-rcnn-fpn": 0.15,  # assumed, as the line below
        "fcn-16s": 0.1,
    },
    passes=4.3e-7,
    predict=0.36,
)
# Of other GPUs no speed is measured here. Training these networks moves more data than it computes:
# their time is taken to fall with the memory's bandwidth (GB/s, data sheets of the SXM modules).
BANDWIDTH = {"v100": 900, "a100": 2039, "h100": 3350}
FLOAT32 = 1.6  # times slower on a CPU where an engine does not use bfloat16
START = 2.0  # seconds to read data and weights and build the model
SCORE = 0.006  # seconds a test picture
FIT = 1e-4  # seconds of a linear SVM for each image: assumed, a core does one at a time
UPDATE = 0.001  # seconds of an update of a classifier on features that are there
SCENES = 0.0025  # seconds a drawn picture of 128 px


@dataclass(frozen=True)
class Estimate:
    """Seconds on a slot; bytes that stay, bytes more while it runs; whether the seconds come from
    measured speeds."""

    seconds: float
    stays: float
    runs: float
    measured: bool


def estimate(
    jobs: Iterable[Job], known: Mapping[str, dict], device: Device, slower: float = 1.0
) -> dict[str, Estimate]:
    """What each job costs, by its id. known: measured speeds; slower: this machine than
    the model's device."""
    return {
        job.id: _estimate(job.spec, known.get(speed_key(job.spec)), device, slower) for job in jobs
    }


def gpu_hours(jobs: Sequence[Job], gpu: str) -> dict[str, float]:
    """Hours of each job on a GPU of BANDWIDTH, those of all its GPUs together; drawing scenes takes
    none."""
    found = estimate(jobs, {}, GPU, BANDWIDTH["v100"] / BANDWIDTH[gpu])
    drawing = [job.id for job in jobs if job.spec["kind"] == "scenes"]
    hours = {job.id: found[job.id].seconds * _gpus(job.spec) / 3600 for job in jobs}
    return hours | dict.fromkeys(drawing, 0.0)


def priced(jobs: Sequence[Job], costs: Mapping[str, Estimate]) -> list[Job]:
    """The jobs with the seconds they cost: the executor starts long chains of work first, and
    guesses the time left."""
    return [replace(job, cost=max(costs[job.id].seconds, 0.1)) for job in jobs]


def _estimate(spec: dict, speed: dict | None, device: Device, slower: float) -> Estimate:
    seconds = by_speed(spec, speed) if speed else slower * _by_model(spec, device)
    return Estimate(seconds, *_bytes(spec), speed is not None)


# --- the model -----------------------------------------------------------------------------------


def _by_model(spec: dict, device: Device) -> float:
    """Seconds on the device. A job with several GPUs is that much faster."""
    if spec["kind"] == "scenes":
        return drawn(spec["settings"]) * SCENES * (spec["settings"]["size"] / 128) ** 2
    gpus = _gpus(spec)
    if spec["kind"] == "pretrain":
        return (
            START
            + steps(spec)["pretrain"]
            * spec["recipe"]["batch"]
            * _pretrain_picture(spec["recipe"], device)
            / gpus
        )
    if spec["kind"] != "transfer":
        return 1.0
    planned = steps(spec)
    score = planned["predict"] * SCORE
    engine = ENGINES[spec["engine"]]
    if not engine.trains:
        return 0.3 + score
    row = spec["protocol_row"] | ({"arch": spec["arch"]} if spec.get("arch") else {})
    if row.get("classifier"):
        return START + score + _classifier(row, planned, device) / gpus + _machines(spec, planned)
    scale = (
        GFLOP.get(row["arch"], 4.1)
        / GFLOP[device.arch]
        * (max(row["resize"]["train"]) / device.side) ** 2
    )
    picture = (
        scale
        * device.detectors[row["architecture"]]
        * (FLOAT32 if device is CPU and not engine.bfloat16_on_cpu else 1)
    )
    trained = planned["train"] + planned["precise BN"] / 3
    work = trained * row["schedule"]["images"] + planned["predict"] * device.predict
    return START + score + work * picture / gpus


def _gpus(spec: Mapping) -> int:
    launch = spec.get("launch", {})
    return launch.get("num_gpus", 1) * launch.get("num_machines", 1)


def _classifier(row: Mapping, planned: Mapping[str, float], device: Device) -> float:
    """Seconds of the forward passes, and of the updates of a layer."""
    images = planned["features"]
    if row["classifier"]["augment"]:
        images += planned["train"] * row["schedule"]["images"]
    flops = GFLOP.get(row["arch"], 4.1) / GFLOP["resnet18"]
    forward = row["resize"]["crop"] ** 2 * device.passes * flops
    return images * forward + planned["train"] * UPDATE


def _machines(spec: Mapping, planned: Mapping[str, float]) -> float:
    """Seconds of SVMs: one for each class, cost and fold, and the last on all images."""
    made = spec["protocol_row"]["classifier"]
    fits = len(made["shots"]) or len(made["costs"]) * (made["folds"] + 1)
    return planned.get("svm", 0) * fits * spec["data"].get("pictures", [0, 0])[0] * FIT


def _pretrain_picture(recipe: Mapping, device: Device) -> float:
    """Seconds of a picture: forward and backward (three passes) of the query, one more pass of the
    key, patches likewise."""
    pixels = recipe["view_size"] ** 2
    method = METHODS[recipe["method"]]
    if method.local_views and recipe["terms"] != ["global-global"]:
        pixels += 9 * recipe["patch_size"] ** 2
    passes = 4 if method.has_keys else 3
    return passes * pixels * device.passes * GFLOP.get(recipe["arch"], 4.1) / GFLOP["resnet18"]


def _bytes(spec: dict) -> tuple[float, float]:
    """Bytes that a job leaves, and that it needs besides while it runs (checkpoints)."""
    if spec["kind"] == "scenes":
        return drawn(spec["settings"]) * 1.6 * spec["settings"]["size"] ** 2, 0.0
    if spec["kind"] == "pretrain":
        recipe = spec["recipe"]
        weights = 1e6 * MEGABYTES.get(recipe["arch"], 94)
        queues = (
            4
            * recipe["dim"]
            * recipe["queue"]
            * (8 if METHODS[recipe["method"]].local_views else 1)
        )
        return weights, recipe["keep"] * (4 * weights + queues)
    if spec["kind"] != "transfer" or not ENGINES[spec["engine"]].trains:
        return 2e5, 0.0
    row, (trained, tested) = spec["protocol_row"], spec["data"].get("pictures", [0, 0])
    if row.get("classifier"):
        return 150.0 * tested, 8192.0 * (trained + tested)
    weights = 1e6 * 1.5 * MEGABYTES.get(row["arch"], 94)
    predictions = (
        tested * row["detector"]["detections"] * (300 if "mask" in row["metrics"] else 100)
    )
    kept = weights if spec.get("keep_model") else 0.0
    return predictions + kept, 3 * weights


# --- the whole -----------------------------------------------------------------------------------


def wall_seconds(
    jobs: Sequence[Job], done: set[str], costs: Mapping[str, Estimate], slots: int
) -> float:
    """How long the jobs that are not done take in so many slots, started as the executor does; jobs
    stand after their needs."""
    todo = [job for job in jobs if job.id not in done]
    chains = chain_costs(todo, {job.id: costs[job.id].seconds for job in todo})
    missing = {job.id: {need for need in job.needs if need in chains} for job in todo}
    ready = [(-chains[job.id], job.id) for job in todo if not missing[job.id]]
    heapq.heapify(ready)
    now, running = 0.0, []
    while ready or running:
        while ready and len(running) < max(1, slots):
            key = heapq.heappop(ready)[1]
            heapq.heappush(running, (now + costs[key].seconds, key))
        now, ended = heapq.heappop(running)
        for key, needs in missing.items():
            if ended in needs:
                needs.remove(ended)
                if not needs:
                    heapq.heappush(ready, (-chains[key], key))
    return now


def chain_costs(jobs: Sequence[Job], costs: Mapping[str, float]) -> dict[str, float]:
    """For each job the cost of the longest chain that begins with it; jobs stand after
    what they need."""
    chains: dict[str, float] = {}
    longest_after: dict[str, float] = {}
    for job in reversed(jobs):
        chains[job.id] = costs[job.id] + longest_after.get(job.id, 0.0)
        for need in job.needs:
            longest_after[need] = max(longest_after.get(need, 0.0), chains[job.id])
    return chains
