"""Charts as files: whole by themselves, the page's colours as values."""

import re
import sys
import xml.etree.ElementTree as ET

import pytest

from detco.common.errors import InputError
from detco.results.report import charts, figures
from detco.results.report.page import Figure

SVG = "{http://www.w3.org/2000/svg}"
BARS = [charts.Bar("random", 10.0, 1.0, [9.0, 11.0], "10.0 ± 1.0 (2)", 1)]
FIGURES = [
    Figure("c4 v1: pets, VOC07 AP box_ap", "caption", charts.bars(BARS, "box AP (percent)")),
    Figure("loss ../x", "", charts.lines([charts.Line("own", [(1, 2.0), (2, 3.0)])], "it", "loss")),
]


def test_svg_needs_nothing_else(tmp_path):
    paths = figures.save(FIGURES, tmp_path / "new" / "charts", "svg")
    assert [path.name for path in paths] == [
        "01-c4-v1-pets-VOC07-AP-box_ap.svg",
        "02-loss-..-x.svg",
    ]
    for path, figure in zip(paths, FIGURES, strict=True):
        text = path.read_text(encoding="utf-8")
        root = ET.fromstring(text)
        assert root.tag == SVG + "svg" and "var(" not in text and "@media" not in text
        # the same marks as on the page
        assert text.count("<text") == figure.svg.count("<text")
        style = root.find(SVG + "style").text
        for name in set(re.findall(r'class="([^"]*)"', figure.svg)):
            assert all(f".{one}" in style for one in name.split()), name
    style = ET.parse(paths[0]).getroot().find(SVG + "style").text
    assert ".c1 { fill: #d55e00; }" in style  # vermilion of Okabe and Ito


def test_pdf_holds_the_texts(tmp_path):
    pytest.importorskip("cairosvg")
    (path, _) = figures.save(FIGURES, tmp_path, "pdf")
    data = path.read_bytes()
    assert data.startswith(b"%PDF-") and data.rstrip().endswith(b"%%EOF") and path.suffix == ".pdf"
    # CairoSVG takes 96 pixels an inch, PDF 72 points
    box = [float(n) for n in re.search(rb"/MediaBox \[ ?([^\]]+)\]", data)[1].split()]
    assert box[2] == pytest.approx(charts.WIDTH * 0.75, abs=1)


def test_pdf_without_its_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cairosvg", None)
    with pytest.raises(InputError, match="pip install cairosvg"):
        figures.save(FIGURES, tmp_path, "pdf")
