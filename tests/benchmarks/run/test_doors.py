"""An executor that comes in by its door only: a row of EXECUTORS and a class."""

import importlib
import sys
from types import ModuleType

import pytest

from detco.benchmarks import run as executors
from detco.benchmarks.cli import commands
from detco.benchmarks.cli import main as cli
from detco.benchmarks.plan import cost
from detco.benchmarks.run import local, worker
from detco.results import store


class Here:
    """Does one job after another in this very process."""

    stopped = "nothing is lost"
    took: tuple[str, ...] = ()

    def __init__(self, suite, args):
        self.name = f"the {args.moon} moon"

    def launch(self, kind):
        return {}

    def take(self, jobs):
        Here.took = tuple(job.title for job in jobs)

    def room(self):
        return executors.Room(self.name, 1, {}, "a core")

    def costs(self, jobs, out, exact=False):
        return {job.id: cost.Estimate(60.0, 0, 0, False) for job in jobs}

    def script(self, jobs, out):
        return f"launch {len(jobs)}"

    def run(self, jobs, out, look):
        this = local.Run({job.id: local.State(job) for job in jobs}, [{}])
        for state in this.states.values():
            if not local.settle(state, this.began):
                local.write_spec(state)
                worker.do(state.job.folder, state.job.id, this.began)
                local.settle(state, this.began)
            look(this)
        return this


@pytest.fixture
def here(monkeypatch):
    module = ModuleType("detco.benchmarks.run.here")
    module.Here = Here
    monkeypatch.setitem(sys.modules, module.__name__, module)
    option = ("--moon", {"help": "which", "default": "full"})
    row = executors.Executor("here:Here", "this process", (option,), instead="nothing")
    monkeypatch.setattr(Here, "took", ())
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(executors.EXECUTORS, "here", row)
        importlib.reload(commands)  # a row of the file itself is there when commands is imported
        yield
    importlib.reload(commands)


@pytest.fixture
def command(scenes, tmp_path):
    file = tmp_path / "tiny.yaml"
    data = f"data: {{root: {scenes / 'voc'}}}"
    file.write_text(f"start: [random]\nprotocols: [small-retinanet]\n{data}\nengine: replay\n")
    out = ["--out", str(tmp_path / "out"), "--device", "cpu"]
    return ["run", str(file), *out, "--executor", "here"]


def test_a_dummy_executor_plans_and_runs(here, command, tmp_path, capsys):
    assert cli.main([*command, "--dry-run", "--moon", "new"]) == 0
    said = capsys.readouterr().out
    assert "time: about 1:00 on the new moon" in said and said.endswith("\nlaunch 1\n")
    assert not (tmp_path / "out").exists()
    assert cli.main(command) == 0
    (folder,) = store.job_folders(tmp_path / "out")
    assert store.read_json(folder / "record.json")["status"] == "done"
    assert Here.took == ("small-retinanet from random, seed 0",)
    assert "random" in capsys.readouterr().out


def test_options_of_others_are_refused_with_it_and_wrong_suites_everywhere(here, command, capsys):
    assert cli.main([*command, "--jobs", "2"]) == 2
    said = capsys.readouterr().err
    assert "--jobs needs --executor local" in said and "with here say nothing" in said
    assert cli.main([*command[:-1], "local", "--moon", "new"]) == 2
    assert "--moon needs --executor here" in capsys.readouterr().err
    with open(command[1], "a") as file:
        file.write("slurm: {gps: 3}\n")
    assert cli.main(command) == 2
    assert "unknown setting 'gps'" in capsys.readouterr().err


def test_options_of_local_and_slurm_do_not_mix(here, command, capsys):
    assert cli.main([*command[:-2], "--slurm", "gpus=2"]) == 2
    assert "--slurm needs --executor slurm" in capsys.readouterr().err
    assert cli.main([*command[:-1], "slurm", "--num-gpus", "2"]) == 2
    assert "say --slurm gpus=N" in capsys.readouterr().err
