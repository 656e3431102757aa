"""The charts of a page as files of their own, SVG or PDF, in the page's light colours."""

import re
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

from detco.common.errors import InputError
from detco.common.files import write_atomic

from .page import Figure

FORMATS = ("svg", "pdf")


def save(figures: Sequence[Figure], folder: Path, form: str) -> list[Path]:
    """Write a file for each chart into a folder, which is made; returns them. Raises InputError as
    `converter`."""
    convert, paths = converter(form), []
    for number, figure in enumerate(figures, 1):
        name = re.sub(r"[^\w.-]+", "-", figure.name).strip("-")
        path = folder / f"{number:02d}-{name}.{form}"
        write_atomic(path, convert(standalone(figure.svg)))
        paths.append(path)
    return paths


def standalone(svg: str) -> str:
    """A chart with its style inside: few programs know variables, so their values are put in."""
    css = (resources.files(__package__) / "charts.css").read_text(encoding="utf-8")
    light = dict(re.findall(r"--([\w-]+): ([^;]+);", css[: css.index("@media")]))
    style = re.sub(
        r"var\(--([\w-]+)\)", lambda found: light[found[1]], css[css.index("svg text") :]
    )
    head = '<svg xmlns="http://www.w3.org/2000/svg" '
    return svg.replace("<svg ", head, 1).replace("<title>", f"<style>{style}</style><title>", 1)


def converter(form: str) -> Callable[[str], bytes]:
    """The function that turns an SVG text into the bytes of a file, of one of FORMATS. Raises
    InputError where PDF is asked for and CairoSVG is missing."""
    if form == "svg":
        return str.encode
    try:
        from cairosvg import svg2pdf
    except (ImportError, OSError) as error:  # OSError: without the library cairo
        raise InputError(
            f"PDF needs CairoSVG and the library cairo ({error}): pip install cairosvg, or"
            " --figure-format svg"
        ) from None
    return lambda svg: svg2pdf(bytestring=svg.encode())
