"""What a row of the table of public checkpoints is, and the licences in it."""

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlparse

META, MM = "https://dl.fbaipublicfiles.com", "https://download.openmmlab.com/mmselfsup/1.x"
TORCH, LIGHTLY = (
    "https://download.pytorch.org/models",
    "https://lightly-ssl-checkpoints.s3.amazonaws.com/imagenet_resnet50",
)
NC, MIT, APACHE, BSD, BSD2 = (
    "CC-BY-NC-4.0, no commercial use",
    "MIT",
    "Apache-2.0",
    "BSD-3-Clause",
    "BSD-2-Clause",
)
ENDS = (".pth.tar", ".pth", ".pt", ".torch", ".ckpt", ".pkl", ".safetensors")
# many files' name
VAGUE = re.compile(
    r"resnet50|checkpoint(_teacher|_0099)?|model|R-\d+|model_final_checkpoint_phase\d+|epoch=.*"
)


@dataclass(frozen=True)
class Known:
    """One published file.

    `url`: the file, or the page that links to it under the name `by_hand`; `digest`: the beginning
    of its sha256 (`md5:` of that one) as far as its source publishes it; `epochs` 0: not stated;
    `layout`: how it is read.
    """

    name: str
    method: str
    epochs: int
    layout: str
    url: str
    licence: str
    digest: str = ""
    arch: str = "resnet50"
    by_hand: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """Names that a copy may have: the published one unless many files have it, and the row's.
        It is kept under the first."""
        published = self.by_hand or unquote(urlparse(self.url).path.rpartition("/")[2])
        end = next(end for end in ENDS if published.endswith(end))
        own = self.name + end
        return (own,) if VAGUE.fullmatch(published.removesuffix(end)) else (published, own)
