"""Backbones as commands are given them: files of this project, other projects' checkpoints, public
checkpoints by their names."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from detco.common import backbone_file
from detco.common.backbone_file import Backbone
from detco.common.errors import InputError
from detco.transfer.checkpoints import importer, zoo
from detco.transfer.checkpoints.reader import formats

log = logging.getLogger("detco.plan")
How = Mapping[str, str]  # of a checkpoint: the options of importer.load that were given
NOTHING: How = {}


def how(args) -> dict[str, str]:
    """The options that say how a checkpoint is read, of those that were given."""
    given = {"forced": args.forced, "encoder": args.encoder, "prefix": args.prefix}
    return {key: value for key, value in given.items() if value}


def refuse(how: How, what: Path | str) -> None:
    """InputError where there is no checkpoint that `how` could be about."""
    if how:
        raise InputError(
            f"{what} is no checkpoint of another project, and --as, --encoder and --prefix say how"
            " those are read"
        )


def read(paths: Sequence[Path], how: How = NOTHING) -> list[Backbone]:
    """Backbones in memory. `how` holds for the checkpoints among them; doubts are logged. Raises
    InputError, also where there is no checkpoint that `how` could be about."""
    given = [_found(path, how) for path in paths]
    own = [formats.is_backbone_file(path) for path, _ in given]
    if own and all(own):
        refuse(how, paths[0])
    return [
        backbone_file.read(path) if is_own else _imported(path, its_how)
        for (path, its_how), is_own in zip(given, own)
    ]


def file(path: Path, how: How, name: str, folder: Path) -> Path:
    """The backbone file meant by `path`: itself, or `folder`/NAME-HASH.safetensors, which is made
    of another project's checkpoint. Raises InputError."""
    if not how and (formats.is_backbone_file(path) or not _is_there(path)):
        return path
    return written(read([path], how)[0], name, folder)


def written(backbone: Backbone, name: str, folder: Path) -> Path:
    """Write a backbone under its content's hash, so that another one of the same name gets its own
    file."""
    with own_folder(folder) as own:
        digest = backbone_file.write(own / "whole", backbone)
        return (own / "whole").replace(folder / f"{name}-{digest[:8]}.safetensors")


@contextmanager
def own_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder below `folder`, since other processes may use the same names there."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as own:
        yield Path(own)


def _is_there(path: Path) -> bool:
    return path.exists() or path.name in zoo.BY_NAME


def _found(path: Path, how: How) -> tuple[Path, How]:
    """The file meant by a path or a public checkpoint's name, and how it is read."""
    if path.exists() or path.name not in zoo.BY_NAME:
        return path, how
    row = zoo.BY_NAME[path.name]
    return zoo.get(row, zoo.folder(path.parent)), {"forced": row.layout, **how}


def _imported(path: Path, how: How) -> Backbone:
    backbone, notes = importer.open_checkpoint(path, **how)
    for note in notes:
        log.warning("detco: %s: %s", path, note)
    return backbone
