"""Backbones in repositories: a folder, or a model of the Hugging Face hub, that holds
`backbone.safetensors` and its card, `README.md`."""

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from detco.common import backbone_file
from detco.common.errors import InputError
from detco.common.files import sha256_of, write_atomic
from detco.common.values import shown

from . import card

FILE, CARD = "backbone.safetensors", "README.md"
ON_THE_HUB = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]{1,40}")
LARGEST_CARD = 1 << 20  # bytes


class Repository(Protocol):
    """Where a backbone and its card lie. All functions raise InputError."""

    name: str  # owner/name, or the folder
    called: str  # what the card calls it: no folders of this machine

    def exists(self) -> bool: ...

    def get(self, file: str) -> Path | None:
        """A local copy of one file; None where the repository lacks it."""

    def put(self, files: Mapping[str, bytes | Path], private: bool) -> str:
        """Add or replace files, given by content or as another file; returns where they are."""


class Folder:
    """A local folder."""

    def __init__(self, path: Path):
        self.path, self.name = path, str(path)
        self.called = f"./{path.absolute().name}"

    def exists(self) -> bool:
        return self.path.is_dir()

    def get(self, file: str) -> Path | None:
        return self.path / file if (self.path / file).is_file() else None

    def put(self, files: Mapping[str, bytes | Path], private: bool) -> str:
        for name, content in files.items():
            write_atomic(self.path / name, _copy(content))
        return str(self.path)


class Hub:
    """A model of the Hugging Face hub."""

    def __init__(self, name: str, revision: str | None = None):
        self.name, self.called, self.revision = name, name, revision
        try:
            import huggingface_hub
        except ImportError:
            raise InputError(
                f"{name} is on the Hugging Face hub, which needs: pip install huggingface_hub (a"
                " folder is meant with ./ before it)"
            ) from None
        self.api: Any = huggingface_hub

    def exists(self) -> bool:
        with self._told():
            return bool(self.api.HfApi().repo_exists(self.name))

    def get(self, file: str) -> Path | None:
        from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError

        with self._told():
            try:
                return Path(self.api.hf_hub_download(self.name, file, revision=self.revision))
            except LocalEntryNotFoundError:  # no connection
                raise
            except EntryNotFoundError:
                return None

    def put(self, files: Mapping[str, bytes | Path], private: bool) -> str:
        with self._told(), TemporaryDirectory() as folder:
            Folder(Path(folder)).put(files, private)
            api = self.api.HfApi()
            made = api.create_repo(self.name, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=self.name,
                folder_path=folder,
                revision=self.revision,
                commit_message=f"{FILE} and its card",
            )
        return str(made)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of the hub's library, and of those it reaches the network by
            why = shown(str(error).strip() or type(error).__name__, 300)
            raise InputError(
                f"{self.name} on the Hugging Face hub: {why} (private repositories and writing need"
                " `hf auth login` or $HF_TOKEN)"
            ) from None


def repository(where: str, revision: str | None = None) -> Repository:
    """A folder if there is one of this name or if it is written as a path (./NAME, /NAME, ~/NAME,
    NAME); owner/name is a model of the hub."""
    try:
        path = Path(where).expanduser()
    except RuntimeError as error:  # no such user
        raise InputError(f"{where}: {error}") from None
    if path.is_dir() or not ON_THE_HUB.fullmatch(where):
        if revision:
            raise InputError(f"--revision: {where} is a folder, which has none")
        if path.exists() and not path.is_dir():
            raise InputError(f"{where} is a file, not a repository: name a folder or owner/name")
        return Folder(path)
    return Hub(where, revision)


def push(
    file: Path, to: Repository, licence: str = "", data: str = "", private: bool = True
) -> dict[str, str]:
    """Put a backbone file and a card made from its metadata into a repository; returns what is
    said of it. Raises InputError, also rather than replace a card of somebody's own."""
    if licence and not LICENCE.fullmatch(licence):
        raise InputError(
            f"--licence {shown(licence)}: a short name as hubs have it, e.g. apache-2.0"
        )
    backbone = backbone_file.read(file)
    there = to.get(CARD) if to.exists() else None
    if there and not card.is_ours(_text_of(there)):
        raise InputError(
            f"{to.name} has a {CARD} that `detco weights push` did not write: move it away, or push"
            " into another repository"
        )
    text = card.write(backbone, to.called, licence, data)
    where = to.put({FILE: file, CARD: text.encode()}, private)
    return {"repository": where, "sha256": backbone.sha256, "method": backbone.method}


def pull(repo: Repository, out: Path | None = None) -> dict[str, str]:
    """Copy a repository's backbone file to `out` (default NAME.safetensors here) once its format
    and the hash of its card are right. Raises InputError."""
    found = repo.get(FILE)
    if found is None:
        raise InputError(
            f"{repo.name} has no {FILE}; a checkpoint of another project is read from its folder"
            " with `detco weights import`"
        )
    backbone = backbone_file.read(found)
    there = repo.get(CARD)
    stated = card.hash_in(_text_of(there)) if there else ""
    if stated and stated != backbone.sha256:
        raise InputError(
            f"{repo.name}: its {FILE} has sha256 {backbone.sha256}, its card says {stated}: one of"
            " them is damaged or was changed; push again"
        )
    out = out or Path(Path(repo.name).absolute().name + ".safetensors")
    if out.exists() and (not out.is_file() or sha256_of(out) != backbone.sha256):
        raise InputError(f"{out} is there and holds something else: name another file")
    write_atomic(out, _copy(found))
    return {
        "file": str(out),
        "method": backbone.method,
        "architecture": backbone.arch,
        "sha256": backbone.sha256,
        "verified": "the card's hash" if stated else "the format only: its card states no hash",
    }


def _copy(content: bytes | Path):
    """What `write_atomic` writes."""
    if isinstance(content, bytes):
        return content

    def write(file) -> None:
        with open(content, "rb") as source:
            shutil.copyfileobj(source, file)

    return write


def _text_of(path: Path) -> str:
    with open(path, "rb") as file:
        return file.read(LARGEST_CARD).decode(errors="replace")
