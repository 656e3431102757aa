"""README and the pages of docs/: what they tell a reader to type works.

Blocks marked `run` are run in order of the site, in one folder; training is made short by options
after the page's own. All other commands are parsed, their suites planned.
"""

import ast
import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import torchvision

import detco
from detco.benchmarks.cli import commands
from detco.benchmarks.cli import main as cli
from detco.benchmarks.run import sbatch
from detco.benchmarks.scenes.draw import draw
from detco.benchmarks.suites import files
from detco.benchmarks.suites.builtin import Data, StartingPoint, Suite, Task
from detco.common import backbone_file
from detco.pretrain.recipes import RECIPES
from detco.results import schema
from detco.transfer.protocols import PROTOCOLS
from tests.factories import ROOT, datasets

DOCS = ROOT / "docs"
# as a reader goes through them: later pages use the files of earlier ones
PAGES = ["start", "use/images", "use/checkpoint", "use/pretraining", "use/detectors"]
PAGES += [
    "use/classification",
    "use/engines",
    "use/cluster",
    "use/scale",
    "use/tables",
    "use/paper",
    "use/replication",
]
PAGES += ["reference/" + name for name in ("python", "commands", "protocols", "recipes", "suites")]
PAGES += ["reference/records", "reference/backbones"]
TEXTS = {page: (DOCS / f"{page}.md").read_text(encoding="utf-8") for page in PAGES}
TEXTS["README"] = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^ *```(\w+)( run| suite)?\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^ *(?:\.venv/bin/)?(?:detco|python -m detco|torchrun .*?-m detco) (.*)$")
LISTED = (
    "detco: (without .*: no copy of|not enough room"
    "|before it can run: .*(no such folder|pip install submitit|project DensePose))"
)
SHORT = {
    "pretrain": "--set epochs=1 --set batch=32 --set queue=32 --device cpu",
    "transfer": "--engine replay",
    "data scenes": "--images 40 --size 64",
}
TRAINED = "--engine torchvision --set iterations=1 --set images=2 --set resize.test=64"


def blocks(page: str, language: str, mark: str = "") -> list[str]:
    found = BLOCK.findall(TEXTS[page])
    return [text for kind, own, text in found if kind == language and own.strip() == mark]


def typed(text: str) -> list[list[str]]:
    """The words behind `detco` of each line of a block that calls it."""
    lines = filter(None, map(COMMAND.match, text.replace("\\\n", " ").splitlines()))
    return [shlex.split(line[1], comments=True) for line in lines]


def parsed(words: list[str]):
    return commands.parser("0").parse_args(words)


@pytest.mark.parametrize("page", TEXTS)
def test_every_command_is_one(page):
    for words in typed("\n".join(blocks(page, "sh") + blocks(page, "sh", "run"))):
        args = parsed(words)  # SystemExit for an unknown command or option
        assert getattr(args, "protocol", None) in (None, *PROTOCOLS)
        assert getattr(args, "recipe", None) in (None, *RECIPES)


@pytest.mark.parametrize("page", TEXTS)
def test_python_and_suites_are_valid(page, tmp_path):
    for text in blocks(page, "python"):
        calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)]
        used = {node.attr for node in calls if ast.unparse(node.value) == "detco"}
        assert used <= set(detco.__all__)
    for text in blocks(page, "yaml", "suite"):
        (tmp_path / "suite.yaml").write_text(text)
        suite = files.load(str(tmp_path / "suite.yaml"))
        assert suite.start and sbatch.resources(suite.slurm)  # InputError for an unknown key


def test_a_wrong_command_and_a_wrong_page_would_be_seen(capsys):
    assert typed("make x\ndetco run demo  # all\n  torchrun --n 8 -m detco pretrain 'a b'") == [
        ["run", "demo"],
        ["pretrain", "a b"],
    ]
    with pytest.raises(SystemExit):
        parsed(["table", "runs", "--basline", "random"])
    assert "basline" in capsys.readouterr().err
    written = {str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.rglob("*.md")}
    others = {path for path in written if path.startswith(("adr/", "project/"))}
    assert written - others == {"index", *PAGES}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder that a reader is in: own data under the names of the pages."""
    folder = tmp_path_factory.mktemp("reader")
    own = draw(folder / "own", images=40, seed=3, size=64, unlabelled=16, classification=16)
    (folder / "photos").symlink_to(own / "unlabelled")
    (folder / "my-data").symlink_to(own / "voc")
    (folder / "animals").symlink_to(own / "coco")
    datasets.classes(folder / "my-classes", 3, 2)
    for name in ("Annotations", "JPEGImages"):
        (folder / "unsplit").mkdir(exist_ok=True)
        (folder / "unsplit" / name).symlink_to(own / "voc" / name)
    for name in ("VOC2007", "VOC2012"):
        (folder / "datasets").mkdir(exist_ok=True)
        (folder / "datasets" / name).symlink_to(own / "voc")
    for number, image in enumerate(sorted((own / "classification").rglob("*.jpg"))):
        for copy in range(16):  # a batch of the published recipes
            link = folder / "IMAGENET/train" / image.parent.name / f"{number}-{copy}.jpg"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(image)
    torch.save(torchvision.models.resnet18().state_dict(), folder / "my_resnet.pth")
    backbone_file.write(folder / "any.safetensors", backbone_file.random_backbone("resnet50", 0))
    return folder


def test_blocks_to_run_run(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    for page in PAGES:
        for language, mark, text in BLOCK.findall(TEXTS[page]):
            if mark.strip() == "run" and language == "python":
                exec(compile(text, page, "exec"), {})
            for words in typed(text) if mark.strip() == "run" and language == "sh" else ():
                words += SHORT.get(parsed(words).command, "").split()
                if "--keep-model" in words:
                    words += TRAINED.split()
                status = cli.main(words)
                assert status == 0, f"{page}: detco {shlex.join(words)}\n{capsys.readouterr().err}"


@pytest.mark.parametrize("page", TEXTS)
def test_suites_can_be_planned(page, place, monkeypatch, capsys):
    """Data that are not here are listed by `--dry-run`; anything else would be wrong."""
    monkeypatch.chdir(place)
    for words in typed("\n".join(blocks(page, "sh"))):
        args = parsed(words)
        if args.command != "run" or Path(args.suite).suffix:
            continue
        for number, value in enumerate(words):  # backbones of which this page only says the name
            if re.fullmatch(r"\w+=\S+\.safetensors", value):
                words[number] = value.split("=")[0] + "=any.safetensors"
        status = cli.main([*words, "--dry-run"])
        said = capsys.readouterr()
        lines = [line for line in said.err.splitlines() if not re.match(LISTED, line)]
        assert status in (0, 2) and lines == []
        assert " jobs, " in said.out


def test_generated_parts_name_every_row(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    import generated

    filled = {}
    for page in PAGES:
        source = [TEXTS[page]]
        generated.fill(source)
        filled[page] = source[0]
        assert "<!-- generated" not in source[0]
    for page, rows in (("protocols", PROTOCOLS), ("recipes", RECIPES)):
        text = filled[f"reference/{page}"]
        assert [name for name in rows if f"\n## {name}\n" not in text] == []
        assert all(f"Source: {row.source}." in text for row in rows.values())
    row = filled["reference/protocols"].partition("## coco-retinanet-12k")[2].partition("##")[0]
    assert "| `schedule.lr` | 0.01 |" in row and "`schedule.momentum`" not in row  # its default
    examples = typed(filled["reference/commands"])
    assert len(examples) >= len(commands.COMMANDS) and all(map(parsed, examples))


def names_of(cls: type) -> set[str]:
    return {field.name for field in fields(cls)}


RECORD = {*schema.Record.__annotations__, *schema.Finished.__annotations__, "format"}
METADATA = {*backbone_file.REQUIRED, *sum(backbone_file.OF_VERSION.values(), ())}


@pytest.mark.parametrize(
    ("page", "after", "names"),
    [
        ("reference/records", "## Fields", RECORD),
        ("reference/backbones", "| key |", METADATA),
        ("reference/suites", "## Keys", names_of(Suite)),
        ("reference/suites", "## Starting points", names_of(StartingPoint)),
        ("reference/suites", "## Tasks", names_of(Task)),
        ("reference/suites", "## Data", names_of(Data)),
        ("use/cluster", "| setting |", names_of(sbatch.Resources)),
    ],
)
def test_tables_written_by_hand_name_every_field(page, after, names):
    described, text = set(), TEXTS[page].partition(after)[2]
    if page == "reference/suites":
        text = text.partition("\n## ")[0]
    for cell in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE):
        described |= set(re.findall(r"`(\w+)`", cell))
    assert described == names


def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    notebook = json.loads((ROOT / "examples" / "from_python.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    names: dict = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            exec("".join(cell["source"]), names)
    assert set(names["everything"]["starting_point"]) == {"mine", "random"}
    assert list(names["table"].index) == ["random", "mine"]
    assert names["features"].shape == (2, 512)
