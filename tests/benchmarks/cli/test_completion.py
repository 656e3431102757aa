"""`detco completion`: its scripts, tried in the shells themselves."""

import shutil
import subprocess

import pytest

from detco.benchmarks.cli import commands
from detco.benchmarks.cli.main import main
from detco.pretrain.recipes import RECIPES
from detco.transfer.protocols import PROTOCOLS

# What bash does at the tab key: the function that `complete` names, on the words so far.
TAB = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
$(complete -p detco | sed 's/.*-F \\([^ ]*\\).*/\\1/') detco 2> /dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def scripts(tmp_path, capsys):
    for shell in ("bash", "zsh"):
        assert main(["completion", shell]) == 0
        (tmp_path / shell).write_text(capsys.readouterr().out)
    return tmp_path


def completed(scripts, *words):
    command = ["bash", "--norc", "-c", TAB, "bash", scripts / "bash", "detco", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=scripts, check=True)
    return set(done.stdout.split())


def test_bash_completes_commands_options_and_names(scripts):
    (scripts / "runs").mkdir()
    top = {row.name.split()[0] for row in commands.COMMANDS}
    assert completed(scripts, "") == top
    assert completed(scripts, "weights", "p") == {"probe", "push", "pull"}
    rows = {row.name: row for row in commands.COMMANDS}
    options = {name for name, _ in rows["run"].options if name.startswith("--")}
    assert completed(scripts, "run", "demo", "--") == options | {"--help"}
    assert completed(scripts, "run", "demo", "--executor", "") == {"local", "slurm"}
    assert completed(scripts, "transfer", "") == set(PROTOCOLS)
    detco = {name for name in RECIPES if name.startswith("detco-s")}
    assert completed(scripts, "recipes", "show", "detco-s") == detco
    assert completed(scripts, "pretrain", "detco-small", "--out", "r") == {"runs"}


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not here")
def test_zsh_reads_its_script(scripts):
    subprocess.run(["zsh", "-n", scripts / "zsh"], check=True)


def test_another_shell_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["completion", "fishy"])
    assert "known: bash, zsh" in capsys.readouterr().err
