"""The folder of a run: checkpoints while it trains, the backbone file at the end."""

from __future__ import annotations

import logging
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from detco.common.errors import InputError

from . import checkpoints, export

log = logging.getLogger("detco.pretrain")


class RunFiles:
    """What a run leaves in ``out``.

    ``identity`` says as texts which run it is: `recipe_hash`, `seed`, `content` (of the images).
    ``keep``: how many checkpoints.
    """

    def __init__(self, out: Path, identity: dict[str, str], keep: int):
        self.out, self.identity, self.keep = out, identity, keep
        self.backbone = out / "backbone.safetensors"
        self.bad_pictures = out / "bad_pictures.txt"

    def finished(self) -> bool:
        """Whether the backbone file is there. InputError if it is not one, or another run's."""
        if not self.backbone.exists():
            return False
        try:
            with safe_open(self.backbone, "pt") as file:
                metadata = file.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{self.backbone} is not a backbone file ({error}); remove it, or use another --out"
            ) from None
        self.refuse_another(metadata)
        return True

    def refuse_another(self, identity: dict[str, str]) -> None:
        """InputError where a file of the folder is another run's."""
        names = {"recipe_hash": "recipe", "seed": "seed", "content": "set of images"}
        if "pictures" in identity:
            raise InputError(
                f"{self.out} holds a run of a version that knew images by name and size only:"
                " whether it saw these cannot be told; use another --out, or remove it"
            )
        differ = [names[key] for key, value in self.identity.items() if identity.get(key) != value]
        if differ:
            raise InputError(
                f"{self.out} holds a run with another {' and '.join(differ)}; use another --out, or"
                " remove it"
            )

    def take(self, identity: dict[str, str], fingerprint: str) -> None:
        """For a checkpoint: as `refuse_another`, but one of a version that knew images by name and
        size only goes on where those are the same (fingerprint), with a warning."""
        if identity.get("pictures") == fingerprint:
            log.warning(
                "%s: begun by a version that knew images by name and size only; that they have the"
                " same content now cannot be told",
                self.out,
            )
            others = {key: value for key, value in identity.items() if key != "pictures"}
            identity = others | {"content": self.identity["content"]}
        self.refuse_another(identity)

    def newest(self) -> dict | None:
        """The newest checkpoint that can be read: `identity`, `iteration` and
        the learner's state."""
        return checkpoints.load(self.out)

    def save(self, iteration: int, state: dict) -> None:
        """A checkpoint after so many iterations."""
        whole = {"identity": self.identity, "iteration": iteration, **state}
        checkpoints.save(self.out, iteration, whole, self.keep)

    def finish(self, trunk: nn.Module, metadata: dict[str, str]) -> None:
        """The backbone file in place of the checkpoints. A kill in between leaves
        both, see `clear`."""
        export.write(self.backbone, trunk, metadata | self.identity)
        self.clear()

    def clear(self) -> None:
        """Remove the checkpoints of a finished run."""
        checkpoints.clear(self.out)
