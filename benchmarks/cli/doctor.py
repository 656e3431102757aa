"""`detco doctor`: what is installed here, what is missing, and what that means for the user.

PyTorch takes seconds to import, and a build for another processor ends its process: it is tried in
a process of its own, while this one looks at the rest.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import platform
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import detco
from detco.common import loading
from detco.common.device import fast_bf16
from detco.common.errors import InputError

from ..run.machine import cores
from .text import wrapped

# Detectron2's main of June 2026: what the tests run against. README and Dockerfile name it too.
DETECTRON2_COMMIT = "02b5c4e295e990042a714712c21dc79b731e8833"
DETECTRON2_SOURCE = f"git+https://github.com/facebookresearch/detectron2@{DETECTRON2_COMMIT}"
NEEDED = {
    "torch": (2, 6),
    "torchvision": (0, 21),
    "numpy": (1, 26),
    "pandas": (2, 2),
    "pycocotools": (2, 0, 8),
    "fvcore": (0, 1, 5),
    "safetensors": (0, 4),
    "pydantic": (2, 7),
    "rich": (13, 7),
    "tensorboard": (2, 16),
    "scipy": (1, 11),
    "jinja2": (3, 1),
    "pillow": (10,),
    "pyyaml": (6,),
    "defusedxml": (0, 7),
    "shtab": (1, 7),
}
# These are tried in the other process, see `built_on_torch`.
BUILT = ("torch", "torchvision")
MODULES = {"pillow": "PIL", "pyyaml": "yaml"}
MEANS = {
    "torch": "nothing can be trained",
    "torchvision": "nothing can be trained",
    "numpy": "nothing works",
    "pandas": "no tables",
    "pycocotools": "COCO data cannot be read, nothing can be scored",
    "fvcore": "no PreciseBN: protocols that use it fail",
    "safetensors": "backbone files cannot be read or written",
    "pydantic": "settings and suite files cannot be read",
    "rich": "no live view",
    "tensorboard": "no training curves",
    "scipy": "no confidence intervals, so no tables",
    "jinja2": "no reports",
    "pillow": "no picture can be read",
    "pyyaml": "suite files and --set cannot be read",
    "defusedxml": "VOC data cannot be read",
    "shtab": "no completion in shells",
}
OPTIONAL = {  # module -> package, and what it is for
    "submitit": ("submitit", "--executor slurm"),
    "sklearn": ("scikit-learn", "SVMs on frozen features (voc07-svm)"),
    "cityscapesscripts": ("cityscapesscripts", "Cityscapes' AP and mean IoU"),
    "wandb": ("wandb", "--track wandb"),
    "mlflow": ("mlflow-skinny", "--track mlflow"),
    "cairosvg": ("cairosvg", "detco report --figure-format pdf"),
    "timm": ("timm", "backbones that are no ResNets: ViT, ConvNeXt, Swin"),
    "huggingface_hub": ("huggingface_hub", "detco weights push and pull with the Hugging Face hub"),
}
TIGHT = 5.0  # GB of free disk below which a run may not fit
TIGHT_SHARED = 1e9  # bytes of shared memory below which processes that load images may be too many


def main(args) -> int:
    """Print what was found; exit status 1 if something needed is missing or broken."""
    found = examine()
    if args.json:
        print(json.dumps(found, indent=1))
    else:
        for line in found["facts"]:
            print(wrapped(f"{line.get('state', 'ok'):<8} {line['name']:<17} ", line["says"]))
        for kind in ("warnings", "problems"):
            for text in found[kind]:
                print(wrapped(f"{kind[:-1]:<8} ", text))
        print(
            "all that is needed is here"
            if not found["problems"]
            else "something that is needed is missing, see above"
        )
    return 1 if found["problems"] else 0


def examine() -> dict:
    """Facts, warnings (it works with limits) and problems (it does not work)
    as JSON-ready lists."""
    other = subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import built_on_torch; built_on_torch()"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    facts = [_fact("python", f"{platform.python_version()} ({sys.executable})")]
    facts.append(
        _fact(
            "detco",
            f"{_version('detco') or 'not installed, run from its checkout'},"
            f" {Path(detco.__file__).resolve().parents[1]}",
        )
    )
    alarms: list[str] = []
    problems = [] if sys.version_info >= (3, 10) else ["python 3.10 or newer is needed"]
    for name, least in NEEDED.items():
        _library(name, least, facts, problems)
    _optional(facts)
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    facts += [_fact("cores", str(cores())), _fact("disk", f"{free:.0f} GB free here")]
    shared = loading.shared_memory()
    if shared is not None:
        facts.append(_fact("shared memory", f"{shared / 1e9:.2g} GB free in {loading.SHARED}"))
        if shared < TIGHT_SHARED:
            alarms.append(
                f"only {shared / 1e6:.0f} MB free in {loading.SHARED}: fewer processes load images;"
                f" {loading.MORE}"
            )
    if free < TIGHT:
        alarms.append(
            f"only {free:.1f} GB free on this disk: checkpoints and drawn data may not fit"
        )
    _add(other, facts, alarms, problems)
    return {"facts": facts, "warnings": alarms, "problems": problems}


def built_on_torch() -> None:
    """Print facts, alarms and problems of PyTorch and what is compiled for it, as JSON lists."""
    facts: list[dict] = []
    alarms: list[str] = []
    problems: list[str] = []
    if _version("torch"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _torch(facts, alarms)
        except Exception as error:  # a library that is missing, or one built for another system
            problems.append(f"torch cannot be imported ({_short(error)}): {MEANS['torch']}")
    _detectron2(facts, alarms)
    _densepose(facts)
    print(json.dumps([facts, alarms, problems]))


def _add(other: subprocess.Popen, *lists: list) -> None:
    """What the other process found, to facts, alarms and problems."""
    text, _ = other.communicate()
    if other.returncode:
        problem = f"torch ends Python (exit status {other.returncode}): {MEANS['torch']}"
        lists[-1].append(f"{problem}; install a build for this processor")
        return
    for found, more in zip(lists, json.loads(text.splitlines()[-1])):  # others may print, too
        found += more


def _fact(name: str, says: str, there: object = True) -> dict[str, str]:
    return {"name": name, "says": says} | ({} if there else {"state": "missing"})


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _library(name: str, least: tuple[int, ...], facts: list, problems: list) -> None:
    version, wanted = _version(name), ".".join(map(str, least))
    if version is None:
        problems.append(f"{name} is missing: {MEANS[name]} (pip install '{name}>={wanted}')")
        return
    numbers = tuple(int(part) for part in version.split("+")[0].split(".")[:3] if part.isdigit())
    if numbers < least:
        problems.append(
            f"{name} {version} is older than {wanted}: {MEANS[name]} (pip install -U {name})"
        )
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if name not in BUILT:
                importlib.import_module(MODULES.get(name, name))
    except Exception as error:  # a broken binary may raise any exception
        problems.append(f"{name} {version} cannot be imported ({_short(error)}): {MEANS[name]}")
        return
    facts.append(_fact(name, version))


def _torch(facts: list, alarms: list) -> None:
    """Its devices, and whether torchvision's operations were built for it: of torchvision that part
    alone is loaded, as all of it takes seconds."""
    import torch

    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(number).total_memory / 2**30
            facts.append(
                _fact(
                    f"GPU {number}",
                    f"{torch.cuda.get_device_name(number)}, {memory:.0f} GiB, CUDA"
                    f" {torch.version.cuda}",
                )
            )
        facts.append(
            _fact(
                "bf16",
                ("on the GPU" if fast_bf16("cuda") else "not on this GPU: float32 is used"),
            )
        )
    else:
        why = (
            "this torch is built without CUDA"
            if not torch.version.cuda
            else "no GPU that this torch can use"
        )
        facts.append(
            _fact(
                "GPU",
                f"none ({why}): work runs on the processor, fit for the small recipes and protocols"
                " only",
            )
        )
        facts.append(
            _fact(
                "bf16",
                "fast on this processor"
                if fast_bf16("cpu")
                else "not fast on this processor: float32 is used",
            )
        )
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return  # already reported
    try:
        for path in Path(spec.origin).parent.glob("_C*.so"):
            torch.ops.load_library(str(path))
        torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except Exception as error:
        alarms.append(
            f"torchvision's own operations fail ({_short(error)}): torch and torchvision do not"
            " fit; reinstall both"
        )


def _detectron2(facts: list, alarms: list) -> None:
    from detco.transfer.engines.detectron2 import version as detectron2_version

    if importlib.util.find_spec("detectron2") is None:
        text = "not here: the engine torchvision is used; rows beside published numbers need it"
        ways = (
            "conda env create --file environment.yml, or: pip install --no-build-isolation"
            f" '{DETECTRON2_SOURCE}'"
        )
        facts.append(_fact("detectron2", f"{text} ({ways}; README, Engines)", there=False))
        return
    found = detectron2_version.identify()
    if found is None:
        alarms.append(
            "a folder named detectron2 on Python's path, perhaps here, is no package: run from"
            " another folder"
        )
        return
    facts.append(_fact("detectron2", str(found).removeprefix("Detectron2 ")))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # a build for another torch fails only at this import
            importlib.import_module("detectron2._C")
    except Exception as error:
        remedy = (
            "build it again for this torch and Python (README, Engines), or use --engine"
            " torchvision"
        )
        alarms.append(f"detectron2's compiled part cannot be imported ({_short(error)}): {remedy}")


def _densepose(facts: list) -> None:
    """Whether Detectron2's project and the files that describe the body are here."""
    from detco.transfer.data import densepose

    if absent := densepose.missing_modules():
        text = f"no {', '.join(absent)}, needed for coco-densepose (how: docs/use/engines.md)"
        facts.append(_fact("densepose", text, there=False))
        return
    try:
        found = densepose.surface()
    except InputError as error:
        facts.append(_fact("densepose", f"the project is here; {error}", there=False))
        return
    facts.append(_fact("densepose", f"with {len(found)} files of the body"))


def _optional(facts: list) -> None:
    """What only some commands need. Nothing is imported: being there is all that is asked."""
    for module, (package, use) in OPTIONAL.items():
        version = _version(package) if importlib.util.find_spec(module) else None
        text = version or f"needed for {use} (pip install {package})"
        facts.append(_fact(package, text, version))
    here = shutil.which("sbatch") and shutil.which("squeue")
    text = here or "no sbatch and squeue here, needed for --executor slurm"
    facts.append(_fact("slurm", text, here))


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
