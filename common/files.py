"""Files written whole or not at all, their hashes, and the user's cache folder."""

import errno
import glob
import hashlib
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

SETTLED = 2.0  # seconds after which a change is sure to change the time stamp again
ABANDONED = 600  # seconds without a change after which a dead process's temporary file is removed

KINDS = (  # of what is in the place of a file
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

Content = bytes | str | Callable[[BinaryIO], object]


def write_atomic(path: Path | str, content: Content, lasting: bool = True) -> None:
    """Write a file so that a reader sees the old one or the whole new one, also after a crash.

    content: bytes, a text, or a function that writes to the open file. The folder is made; what
    killed processes left of the same file is removed. lasting=False: without waiting for the disk,
    for thousands of small files that can be made again. Raises OSError with the path in it.
    """
    path = Path(path)
    if not path.name or path.is_dir():
        raise OSError(errno.EISDIR, "cannot write: it is a folder", str(path))
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if lasting:
            remove_abandoned(path)
        with open(part, "wb") as file:
            _write(file, content)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.strerror:
            raise OSError(error.errno, f"cannot write: {error.strerror}", str(path)) from None
        raise


def _write(file: BinaryIO, content: Content) -> None:
    if isinstance(content, str):  # names of files may be no text
        content = content.encode("utf-8", errors="backslashreplace")
    if isinstance(content, bytes):
        file.write(content)
        return
    try:
        content(file)
    except RuntimeError as error:  # of torch.save, about positions, where the disk is full
        before: BaseException | None = error
        while before is not None and not isinstance(before, OSError):
            before = before.__cause__ or before.__context__
        raise before or error from None


def remove_abandoned(path: Path) -> None:
    """Remove temporary files of `path` whose process is gone and that nothing was written
    to for long."""
    for part in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
        if _abandoned(part):
            part.unlink(missing_ok=True)


def _abandoned(part: Path) -> bool:
    pid = part.name.split(".")[-2]
    if not (pid.isascii() and pid.isdigit() and len(pid) < 10):
        return False
    try:
        if time.time() - part.stat().st_mtime > ABANDONED:
            os.kill(int(pid), 0)
    except OSError as error:
        return isinstance(error, ProcessLookupError)
    return False


def refuse_special(path: Path | str) -> None:
    """OSError where `path` is a pipe, a device, a socket or a folder, or is not there; links are
    followed. Opening a named pipe would wait for ever, and devices may do anything."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kind = next((kind for test, kind in KINDS if test(mode)), "something else")
        raise OSError(errno.EINVAL, f"{kind}, not a regular file", str(path))


def open_regular(path: Path | str, mode: str = "rb", **options) -> IO[Any]:
    """`open` for files that a user names or that lie in data: regular ones only. Raises OSError."""
    refuse_special(path)
    return open(path, mode, **options)


def read_regular(path: Path | str) -> bytes:
    """The content of a regular file. Raises OSError."""
    with open_regular(path) as file:
        return file.read()


def sha256_of(path: Path | str) -> str:
    """The sha256 of a regular file's content, as hex. Raises OSError."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_settled(state: os.stat_result) -> bool:
    """Whether any later change of a file would show in its time stamp."""
    return time.time() - state.st_mtime_ns / 1e9 > SETTLED


def cache_dir() -> Path:
    """The folder for what is remembered between runs; anything in it may be deleted."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "detco"


def cache_file(kind: str, about: str, suffix: str) -> Path:
    """The file in the cache folder that remembers something of this kind about one thing."""
    digest = hashlib.sha256(os.fsencode(about)).hexdigest()[:24]
    return cache_dir() / f"{kind}-{digest}{suffix}"
