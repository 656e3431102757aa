"""What is said of checkpoints that no other test has: the file, what is wrong, what to do."""

import io
import math
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from detco.common import backbone_file
from detco.common.errors import InputError
from detco.transfer.checkpoints import importer, zoo
from detco.transfer.checkpoints.reader import folders, formats
from tests import checkpoints

STATE = {"a": torch.arange(6.0)}


def archive(change: Callable[[str, bytes], bytes], more: tuple[str, ...] = ()) -> bytes:
    """A torch file whose entries are changed; `more`: names of further, empty ones."""
    made, changed = io.BytesIO(), io.BytesIO()
    torch.save(STATE, made)
    with zipfile.ZipFile(made) as source, zipfile.ZipFile(changed, "w") as target:
        for name in source.namelist():
            target.writestr(name, change(name, source.read(name)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of zipfile: a name twice
            for name in more:
                target.writestr(name, b"")
    return changed.getvalue()


def of_a_big_machine() -> bytes:
    def change(name, body):
        body = b"big" if name.endswith("byteorder") else body
        # our reader takes files with an object that torch does not make
        return body.replace(b"collections\nOrderedDict", b"argparse\nNamespace")

    return archive(change)


def of_an_older_big_machine() -> bytes:
    """As torch wrote files before 1.6; True is the opcode 0x88, False 0x89."""
    file = io.BytesIO()
    torch.save(STATE, file, _use_new_zipfile_serialization=False)
    return re.sub(rb"(little_endianq.)\x88", b"\\1\x89", file.getvalue())


def with_a_long_header() -> bytes:
    """The last number's entry says that more lies before its bytes than the file has."""
    data = bytearray(archive(lambda name, body: body))
    with zipfile.ZipFile(io.BytesIO(data)) as made:
        entry = next(e for e in made.infolist() if e.filename.endswith("data/0"))
    data[entry.header_offset + 28 : entry.header_offset + 30] = struct.pack("<H", 0xFFFF)
    return bytes(data)


FILES = {
    "a text": (b"hello, world\n", "not a pickle of data.*download it again"),
    "an archive of one name twice": (
        archive(lambda n, b: b, ("archive/version",)),
        "holds a name twice",
    ),
    "a big machine's": (of_a_big_machine(), "big-endian machine; save it again"),
    "an older big machine's": (of_an_older_big_machine(), "big-endian machine; save it again"),
    "half an entry": (with_a_long_header(), r"truncated.*download it again"),
}


@pytest.mark.parametrize("case", FILES)
def test_files(tmp_path, case):
    data, says = FILES[case]
    path = tmp_path / "a.pth"
    path.write_bytes(data)
    with pytest.raises(InputError, match=says) as error:
        importer.load(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def own(**changes) -> dict:
    sound = {"channel_order": "RGB", "mean": (1.0,) * 3, "std": (2.0,) * 3, "stride_in": "3x3"}
    return {"model": checkpoints.names(), "preprocessing": sound | changes}


light = checkpoints.names("backbone.") | checkpoints.linears("projection_head.layers.", 0)
CONTENTS = {
    "two names of one tensor": (
        {"state_dict": light | {"backbone.0.weight": torch.ones(64, 3, 7, 7)}},
        r"two tensors for conv1\.weight: backbone\.conv1\.weight and backbone\.0\.weight",
    ),
    "strides in two ways": (
        {"state_dict": checkpoints.names(), "cfg": {"style": "caffe", "stride_in_1x1": False}},
        r"says style caffe \(cfg/style\) and stride_in_1x1 False .*unclear",
    ),
    "a mean": (own(mean=(math.nan, 1.0, 1.0)), "says preprocessing .*finite"),
    "a std": (own(std=(0.0, 1.0, 1.0)), "says preprocessing .*above 0"),
    "an order": (own(channel_order="GBR"), "says preprocessing .*RGB or BGR"),
    "a stride": (own(stride_in="5x5"), "says preprocessing .*3x3 or 1x1"),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_contents(tmp_path, case):
    content, says = CONTENTS[case]
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(InputError, match=says) as error:
        importer.load(tmp_path / "a.pth")
    assert str(error.value).startswith(str(tmp_path / "a.pth")) and "\n" not in str(error.value)


def test_files_that_may_not_be_opened(tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    torch.save(STATE, tmp_path / "a.pth")
    monkeypatch.setattr(formats, "open", refuse, raising=False)
    with pytest.raises(InputError, match=r"cannot read .*a\.pth: Permission denied"):
        importer.load(tmp_path / "a.pth")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    monkeypatch.setattr(folders.Path, "read_bytes", refuse)
    with pytest.raises(InputError, match=r"cannot read .*index\.json: Permission denied"):
        importer.load(tmp_path / "model.safetensors.index.json")


def test_downloads_that_cannot_be_kept_or_begun(tmp_path):
    (tmp_path / "there.pth").write_bytes(b"x")
    (tmp_path / "file").touch()
    there, gone = (
        zoo.Known("mine", "moco-v2", 0, "moco-v2", (tmp_path / name).as_uri(), "MIT")
        for name in ("there.pth", "gone.pth")
    )
    with pytest.raises(InputError, match=r"file/there\.pth: .*choose a folder with --dir"):
        zoo.get(there, tmp_path / "file", download=True)
    with pytest.raises(InputError, match=r"cannot download file://.*gone\.pth: .*No such file"):
        zoo.get(gone, tmp_path / "copies", download=True)


WRONG_METADATA = {
    "no format": ({"format": None}, "not a backbone file.*weights import"),
    "some lack": ({"std": None, "method": None}, "damaged.*metadata lack method, std"),
    "newer": ({"format_version": "3"}, "format version 3, this program reads 1 and 2: update it"),
    "unknown network": ({"arch": "vgg16"}, r"b\.safetensors: unknown .* 'vgg16'; known: resnet18"),
    "order": ({"channel_order": "GBR"}, "must be RGB or BGR .*not 'GBR' and '3x3'"),
}


@pytest.mark.parametrize("case", WRONG_METADATA)
def test_backbone_files(tmp_path, case):
    changes, says = WRONG_METADATA[case]
    path = tmp_path / "b.safetensors"
    backbone_file.write(path, backbone_file.random_backbone("resnet18", 0))
    metadata, tensors = backbone_file.read_tensors(path)
    metadata = {key: value for key, value in (metadata | changes).items() if value is not None}
    backbone_file.write_tensors(path, tensors, metadata)
    with pytest.raises(InputError, match=says) as error:
        backbone_file.read(path)
    assert str(path) in str(error.value)


def test_metadata_alone(tmp_path: Path):
    (tmp_path / "a.safetensors").write_bytes(b"x" * 20)
    with pytest.raises(InputError, match=r"a\.safetensors is not a readable safetensors file"):
        backbone_file.read_metadata(tmp_path / "a.safetensors")
