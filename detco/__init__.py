"""detco: pretrains backbones, puts them through detection protocols, tables the results.

The packages lie beside this folder in a checkout (pretrain/, transfer/, ...) and inside it once
installed.
"""

from pathlib import Path

if not (
    Path(__file__).parent / "common"
).is_dir():  # a checkout: `detco.pretrain` is the folder pretrain beside this one
    __path__.append(str(Path(__file__).resolve().parents[1]))
