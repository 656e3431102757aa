"""Public checkpoints: where they are published, how a copy is recognised, under which licence.

Facts from the projects' own model zoos. A copy in a folder is found by the name it is published
under (where that says enough) or by the row's name, e.g. `moco-v2-200ep.pth.tar`, and verified
where its source publishes a hash.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from detco.common.errors import InputError
from detco.common.files import write_atomic
from detco.common.progress import Report
from detco.common.values import shown

from .known import APACHE, BSD, BSD2, LIGHTLY, META, MIT, MM, NC, TORCH, Known
from .networks.zoo import OTHERS


def _lightly(method: str, name: str, run: str, steps: int = 500400) -> Known:
    url = f"{LIGHTLY}_{run}/pretrain/version_0/checkpoints/epoch%3D99-step%3D{steps}.ckpt"
    return Known(f"lightly-{name}-100ep", method, 100, "lightly", url, MIT)


def _mm(
    method: str,
    epochs: int,
    folder: str,
    stem: str,
    digest: str,
    name: str = "",
    layout: str = "openselfsup",
) -> Known:
    url = f"{MM}/{folder}/{stem}_in1k/{stem}_in1k_{digest}.pth"
    return Known(
        name or f"mmselfsup-{method}-{epochs}ep",
        method,
        epochs,
        layout,
        url,
        APACHE,
        digest.rpartition("-")[2],
    )


def _swav(name: str, method: str, epochs: int, file: str, layout: str = "swav") -> Known:
    return Known(name, method, epochs, layout, f"{META}/deepcluster/{file}_pretrain.pth.tar", NC)


def _vissl(name: str, method: str, epochs: int, run: str) -> Known:
    url = f"{META}/vissl/model_zoo/{run}/model_final_checkpoint_phase{epochs - 1}.torch"
    return Known(f"vissl-{name}", method, epochs, "vissl", url, MIT)


def _torchvision(arch: str, digest: str, version: int = 1, epochs: int = 90) -> Known:
    name = f"torchvision-{arch.replace('_', '-')}-v{version}"
    return Known(
        name, "supervised", epochs, "torchvision", f"{TORCH}/{arch}-{digest}.pth", BSD, digest, arch
    )


MOCO = "CC-BY-NC-4.0 (its README) or MIT (its LICENSE)"
DETCO, PIXPRO = (
    "https://github.com/xieenze/DetCo#download-models",
    "https://github.com/zdaxie/PixPro#main-properties",
)
PYCONTRAST = "https://github.com/HobbitLong/PyContrast/blob/master/pycontrast/docs/MODEL_ZOO.md"
SIMSIAM, DENSECL = (
    f"{META}/simsiam/models",
    "https://huggingface.co/xinlongwang/DenseCL/resolve/main",
)
KNOWN = (
    Known(
        "detco-200ep",
        "detco",
        200,
        "bare",
        DETCO,
        "BSD-2-Clause, academic use",
        by_hand="detco_200ep.pth",
    ),
    Known(
        "detco-aa-200ep",
        "detco-aa",
        200,
        "bare",
        DETCO,
        "BSD-2-Clause, academic use",
        by_hand="detco_200ep_AA.pth",
    ),
    Known(
        "moco-v1-200ep",
        "moco-v1",
        200,
        "moco-v1",
        f"{META}/moco/moco_checkpoints/moco_v1_200ep/moco_v1_200ep_pretrain.pth.tar",
        MOCO,
        "md5:b251726a",
    ),
    Known(
        "moco-v2-200ep",
        "moco-v2",
        200,
        "moco-v2",
        f"{META}/moco/moco_checkpoints/moco_v2_200ep/moco_v2_200ep_pretrain.pth.tar",
        MOCO,
        "md5:59fd9945",
    ),
    Known(
        "moco-v2-800ep",
        "moco-v2",
        800,
        "moco-v2",
        f"{META}/moco/moco_checkpoints/moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar",
        MOCO,
        "md5:a04e12f8",
    ),
    Known(
        "moco-v3-100ep",
        "moco-v3",
        100,
        "moco-v3",
        f"{META}/moco-v3/r-50-100ep/r-50-100ep.pth.tar",
        NC,
    ),
    Known(
        "moco-v3-300ep",
        "moco-v3",
        300,
        "moco-v3",
        f"{META}/moco-v3/r-50-300ep/r-50-300ep.pth.tar",
        NC,
    ),
    Known(
        "moco-v3-1000ep",
        "moco-v3",
        1000,
        "moco-v3",
        f"{META}/moco-v3/r-50-1000ep/r-50-1000ep.pth.tar",
        NC,
    ),
    Known(
        "simsiam-100ep",
        "simsiam",
        100,
        "simsiam",
        f"{SIMSIAM}/100ep/pretrain/checkpoint_0099.pth.tar",
        NC,
    ),
    Known(
        "simsiam-100ep-256bs",
        "simsiam",
        100,
        "simsiam",
        f"{SIMSIAM}/100ep-256bs/pretrain/checkpoint_0099.pth.tar",
        NC,
    ),
    _swav("swav-100ep", "swav", 100, "swav_100ep"),
    _swav("swav-200ep", "swav", 200, "swav_200ep"),
    _swav("swav-200ep-256bs", "swav", 200, "swav_200ep_bs256"),
    _swav("swav-400ep", "swav", 400, "swav_400ep"),
    _swav("swav-400ep-256bs", "swav", 400, "swav_400ep_bs256"),
    _swav("swav-400ep-2crops", "swav", 400, "swav_400ep_2x224"),
    _swav("swav-800ep", "swav", 800, "swav_800ep"),
    _swav("deepcluster-v2-400ep", "deepcluster-v2", 400, "deepclusterv2_400ep", "deepcluster-v2"),
    _swav(
        "deepcluster-v2-400ep-2crops",
        "deepcluster-v2",
        400,
        "deepclusterv2_400ep_2x224",
        "deepcluster-v2",
    ),
    _swav("deepcluster-v2-800ep", "deepcluster-v2", 800, "deepclusterv2_800ep", "deepcluster-v2"),
    Known(
        "barlow-twins-1000ep",
        "barlow-twins",
        1000,
        "bare",
        f"{META}/barlowtwins/ljng/resnet50.pth",
        MIT,
    ),
    Known(
        "barlow-twins-1000ep-full",
        "barlow-twins",
        1000,
        "barlow-twins",
        f"{META}/barlowtwins/ljng/checkpoint.pth",
        MIT,
    ),
    Known("vicreg-1000ep", "vicreg", 1000, "bare", f"{META}/vicreg/resnet50.pth", MIT),
    Known(
        "vicreg-1000ep-full", "vicreg", 1000, "vicreg", f"{META}/vicreg/resnet50_fullckpt.pth", MIT
    ),
    Known(
        "dino-800ep",
        "dino",
        800,
        "bare",
        f"{META}/dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth",
        APACHE,
    ),
    Known(
        "dino-800ep-full",
        "dino",
        800,
        "dino",
        f"{META}/dino/dino_resnet50_pretrain/dino_resnet50_pretrain_full_checkpoint.pth",
        APACHE,
    ),
    Known(
        "densecl-200ep",
        "densecl",
        200,
        "densecl-released",
        f"{DENSECL}/densecl_r50_imagenet_200ep.pth",
        "GPL-3.0",
    ),
    Known(
        "densecl-r101-200ep",
        "densecl",
        200,
        "densecl-released",
        f"{DENSECL}/densecl_r101_imagenet_200ep.pth",
        "GPL-3.0",
        arch="resnet101",
    ),
    Known(
        "densecl-coco-800ep",
        "densecl",
        800,
        "densecl-released",
        f"{DENSECL}/densecl_r50_coco_800ep.pth",
        "GPL-3.0",
    ),
    Known(
        "densecl-coco-1600ep",
        "densecl",
        1600,
        "densecl-released",
        f"{DENSECL}/densecl_r50_coco_1600ep.pth",
        "GPL-3.0",
    ),
    Known(
        "pixpro-100ep", "pixpro", 100, "pixpro", PIXPRO, MIT, by_hand="pixpro_base_r50_100ep.pth"
    ),
    Known(
        "pixpro-400ep", "pixpro", 400, "pixpro", PIXPRO, MIT, by_hand="pixpro_base_r50_400ep.pth"
    ),
    Known(
        "infomin-200ep", "infomin", 200, "pycontrast", PYCONTRAST, BSD2, by_hand="InfoMin_200.pth"
    ),
    Known(
        "infomin-800ep", "infomin", 800, "pycontrast", PYCONTRAST, BSD2, by_hand="InfoMin_800.pth"
    ),
    Known("pirl-200ep", "pirl", 200, "pycontrast", PYCONTRAST, BSD2, by_hand="PIRL.pth"),
    Known("insdis-200ep", "insdis", 200, "pycontrast", PYCONTRAST, BSD2, by_hand="InsDis.pth"),
    _mm("moco-v2", 200, "mocov2", "mocov2_resnet50_8xb32-coslr-200e", "20220825-b6d23c86"),
    _mm("moco-v3", 100, "mocov3", "mocov3_resnet50_8xb512-amp-coslr-100e", "20220927-f1144efa"),
    _mm("moco-v3", 300, "mocov3", "mocov3_resnet50_8xb512-amp-coslr-300e", "20220927-1e4f3304"),
    _mm("moco-v3", 800, "mocov3", "mocov3_resnet50_8xb512-amp-coslr-800e", "20220927-e043f51a"),
    _mm("simclr", 200, "simclr", "simclr_resnet50_16xb256-coslr-200e", "20220825-4d9cce50"),
    _mm(
        "simclr",
        200,
        "simclr",
        "simclr_resnet50_8xb32-coslr-200e",
        "20220825-15f807a4",
        "mmselfsup-simclr-200ep-256bs",
    ),
    _mm("simclr", 800, "simclr", "simclr_resnet50_16xb256-coslr-800e", "20220825-85fcc4de"),
    _mm("byol", 200, "byol", "byol_resnet50_16xb256-coslr-200e", "20220825-de817331"),
    _mm(
        "densecl",
        200,
        "densecl",
        "densecl_resnet50_8xb32-coslr-200e",
        "20220825-3078723b",
        layout="densecl",
    ),
    _mm("simsiam", 100, "simsiam", "simsiam_resnet50_8xb32-coslr-100e", "20220825-d07cb2e6"),
    _mm("simsiam", 200, "simsiam", "simsiam_resnet50_8xb32-coslr-200e", "20220825-efe91299"),
    _mm(
        "barlow-twins",
        300,
        "barlowtwins",
        "barlowtwins_resnet50_8xb256-coslr-300e",
        "20220825-57307488",
    ),
    _vissl(
        "simclr-200ep", "simclr", 200, "simclr_rn50_200ep_simclr_8node_resnet_16_07_20.a816c0ef"
    ),
    _vissl(
        "simclr-800ep", "simclr", 800, "simclr_rn50_800ep_simclr_8node_resnet_16_07_20.7e8feed1"
    ),
    _vissl(
        "simclr-1000ep", "simclr", 1000, "simclr_rn50_1000ep_simclr_8node_resnet_16_07_20.afe428c7"
    ),
    _vissl("swav-200ep", "swav", 200, "swav_in1k_rn50_200ep_swav_8node_resnet_27_07_20.bd595bb0"),
    _vissl("swav-800ep", "swav", 800, "swav_in1k_rn50_800ep_swav_8node_resnet_27_07_20.a0a6b676"),
    _vissl("moco-v2-200ep", "moco-v2", 200, "moco_v2_1node_lr.03_step_b32_zero_init"),
    _vissl(
        "pirl-800ep", "pirl", 800, "pirl_jigsaw_4node_pirl_jigsaw_4node_resnet_22_07_20.34377f59"
    ),
    _lightly("barlow-twins", "barlow-twins", "barlowtwins_2023-08-18_00-11-03"),
    _lightly("byol", "byol", "byol_2024-02-14_16-10-09"),
    _lightly("dino", "dino", "dino_2023-06-06_13-59-48", 1000900),
    _lightly("moco-v2", "moco-v2", "mocov2_2024-02-18_10-29-14"),
    _lightly("simclr", "simclr", "simclr_2023-06-22_09-11-13"),
    _lightly("swav", "swav", "swav_2023-05-25_08-29-14"),
    _lightly("vicreg", "vicreg", "vicreg_2023-09-11_10-53-08"),
    _torchvision("resnet18", "f37072fd"),
    _torchvision("resnet34", "b627a593"),
    _torchvision("resnet50", "0676ba61"),
    _torchvision("resnet50", "11ad3fa6", 2, 600),
    _torchvision("resnet101", "63fe2227"),
    _torchvision("resnet101", "cd907fc2", 2, 600),
    _torchvision("resnet152", "394f9c45"),
    _torchvision("resnet152", "f82ba261", 2, 600),
    _torchvision("wide_resnet50_2", "95faca4d"),
    _torchvision("wide_resnet101_2", "32ee1156"),
    Known(
        "timm-resnet50-a1",
        "supervised",
        600,
        "timm",
        "https://huggingface.co/timm/resnet50.a1_in1k/resolve/main/model.safetensors",
        APACHE,
    ),
    Known(
        "hugging-face-resnet50",
        "supervised",
        0,
        "hugging-face",
        "https://huggingface.co/microsoft/resnet-50/resolve/main/model.safetensors",
        APACHE,
    ),
    Known(
        "msra-resnet50",
        "supervised",
        0,
        "msra",
        f"{META}/detectron2/ImageNetPretrained/MSRA/R-50.pkl",
        "MIT (MSRA's model)",
    ),
    Known(
        "msra-resnet101",
        "supervised",
        0,
        "msra",
        f"{META}/detectron2/ImageNetPretrained/MSRA/R-101.pkl",
        "MIT (MSRA's model)",
        arch="resnet101",
    ),
    Known(
        "detectron2-torchvision-resnet50",
        "supervised",
        90,
        "detectron2",
        f"{META}/detectron2/ImageNetPretrained/torchvision/R-50.pkl",
        BSD,
    ),
    *OTHERS,
)
BY_NAME = {row.name: row for row in KNOWN}


def folder(base: Path = Path()) -> Path:
    """Where copies lie: $DETCO_WEIGHTS, else `weights` below `base`."""
    return Path(os.environ.get("DETCO_WEIGHTS") or base / "weights")


def same_file(path: Path, sha256: str) -> Known | None:
    """The published file that a file is: by its hash, or by its name where its
    source publishes none."""
    for row in KNOWN:
        if row.digest and not row.digest.startswith("md5:") and sha256.startswith(row.digest):
            return row
    named = next((row for row in KNOWN if path.name in row.files), None)
    return named if named and _begins(named, path) == named.digest.rpartition(":")[2] else None


def _begins(row: Known, path: Path) -> str:
    """As much of a file's hash as the row's source publishes."""
    kind, _, digest = row.digest.rpartition(":")
    found = hashlib.new(kind or "sha256", usedforsecurity=False)
    with open(path, "rb") as file:
        while digest and (block := file.read(1 << 22)):
            found.update(block)
    return found.hexdigest()[: len(digest)]


def verified(row: Known, path: Path) -> bool:
    """Whether a copy was compared with a published hash (False: there is none). Raises InputError
    if it is another file."""
    kind, _, digest = row.digest.rpartition(":")
    if (begins := _begins(row, path)) != digest:
        raise InputError(
            f"{path} is not the published {row.name}: its {kind or 'sha256'} begins with {begins},"
            f" not {digest}; remove it"
        )
    return bool(digest)


def find(row: Known, folder: Path) -> Path | None:
    """The local copy below a folder, verified where that can be. Raises InputError if it
    is another file."""
    found = next((folder / name for name in row.files if (folder / name).is_file()), None)
    if found:
        verified(row, found)
    return found


def how_to_get(row: Known, folder: Path) -> str:
    """What to do where there is no copy."""
    if row.by_hand:
        return f"get it by hand from {row.url} and save it as {folder / row.files[0]}"
    command = (
        f"detco weights import {row.name} --download --dir {folder} --out {row.name}.safetensors"
    )
    return f"save {row.url} as {folder / row.files[0]}, or let `{command}` do it"


def get(row: Known, folder: Path, download: bool = False, report: Report | None = None) -> Path:
    """The local copy, downloaded first only where that is allowed. Raises InputError that says how
    to get it."""
    found = find(row, folder)
    if found is None and download and not row.by_hand:
        return _download(row, folder / row.files[0], report)
    if found is None:
        raise InputError(f"no copy of {row.name} in {folder}: {how_to_get(row, folder)}")
    return found


def _download(row: Known, path: Path, report: Report | None) -> Path:
    """Fetch a file into a temporary one of this process's own; it gets its name once its size and,
    where one is published, its hash are right."""
    try:
        write_atomic(path, lambda file: _fetch(row, file, report))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; choose a folder with --dir") from None
    return path


def _fetch(row: Known, file: BinaryIO, report: Report | None) -> None:
    """Raises InputError for a broken connection, another size or another hash."""
    kind, _, digest = row.digest.rpartition(":")
    found = hashlib.new(kind or "sha256", usedforsecurity=False)
    total, done = 0, 0
    for block, total in _blocks(row.url):
        found.update(block)
        done += file.write(block)
        if report and total:
            report("download", done >> 20, max(total >> 20, 1))
    if not done or (total and done != total):
        size = f", not the {total} that it states" if total else ""
        raise InputError(f"{row.url} gave {done} bytes{size}: the connection broke; try again")
    if not found.hexdigest().startswith(digest):
        raise InputError(
            f"{row.url} gives a file that is not the published {row.name}: its {kind or 'sha256'}"
            f" begins with {found.hexdigest()[: len(digest)]}, not {digest}; nothing was kept"
        )


def _blocks(url: str) -> Iterator[tuple[bytes, int]]:
    """(bytes, the length that the server states or 0), until the end. Raises InputError."""
    from http.client import HTTPException
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=60) as source:
            total = int(source.headers.get("Content-Length") or 0)
            while block := source.read(1 << 20):
                yield block, total
    except (OSError, HTTPException, ValueError) as error:
        why = getattr(error, "reason", None) or error
        raise InputError(f"cannot download {url}: {shown(str(why), 200)}") from None
