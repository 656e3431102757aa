"""The executor slurm on a real Slurm of two nodes on this machine, started here; skipped where that
cannot be done."""

import getpass
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from detco.benchmarks.run import EXECUTORS, local, sbatch, slurm
from detco.benchmarks.run.local import last_lines
from detco.common.errors import InputError
from detco.common.settings import explained
from detco.results import store
from tests.factories import ROOT
from tests.factories.jobs import (
    WORKER,
    asks_of,
    grid,
    job,
    names,
    results_of,
    run,
    run_on_slurm,
    runs_of,
)
from tests.factories.processes import wait_until

pytest.importorskip("submitit", reason="submitit is not installed")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.socket,cred_expire=6
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=1
NodeName={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=zz NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=low Nodes={host},zz Default=YES PriorityTier=1
PartitionName=high Nodes={host},zz PriorityTier=9 PreemptMode=off
"""
CHECKPOINTED = WORKER.replace(
    '    for step in range(spec["steps"]):\n',
    "    state = folder / 'step.txt'\n"
    "    for step in range(int(state.read_text()) if state.exists() else 0, spec['steps']):\n"
    "        state.write_text(str(step + 1))\n",
)


def free_ports(count):
    holders = [socket.socket() for _ in range(count)]
    for holder in holders:
        holder.bind(("127.0.0.1", 0))
    ports = [holder.getsockname()[1] for holder in holders]
    for holder in holders:
        holder.close()
    return ports


@pytest.fixture(scope="module")
def cluster():
    """A running Slurm; its programs' logs lie in the folder."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(
            f"Slurm is not installed ({', '.join(missing)} missing; Debian: slurm-wlm, munge)"
        )
    # a short path: sockets have no room for long ones
    folder = Path(tempfile.mkdtemp(prefix="slurm"))
    facts = {
        "folder": folder,
        "host": socket.gethostname().split(".")[0],
        "user": getpass.getuser(),
        "ports": free_ports(3),
    }
    (folder / "slurm.conf").write_text(CONF.format(**facts))
    (folder / "key").write_bytes(os.urandom(1024))
    (folder / "key").chmod(0o400)
    (folder / "state").mkdir()
    started = []

    def start(*command):
        log = open(folder / f"{command[0]}.out", "ab")  # noqa: SIM115
        started.append(subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        munge = [
            f"--{key}={folder / name}"
            for key, name in (
                ("key-file", "key"),
                ("socket", "munge.socket"),
                ("pid-file", "munged.pid"),
                ("log-file", "munged.log"),
                ("seed-file", "seed"),
            )
        ]
        try:
            start("munged", "--foreground", "--force", *munge)
            wait_until(lambda: (folder / "munge.socket").exists(), 60)
            start("slurmctld", "-D", "-c")
            for node in (facts["host"], "zz"):
                start("slurmd", "-D", "-c", "-N", node)
            try:
                wait_until(lambda: idle() == 2, 90)
            except AssertionError:
                pytest.skip(f"Slurm does not start here: {tail(folder)}")
            yield folder
        finally:
            subprocess.run(["scancel", "--user", getpass.getuser()], capture_output=True)
            for process in reversed(started):
                process.terminate()
            for process in started:
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
            shutil.rmtree(folder, ignore_errors=True)


def idle():
    done = subprocess.run(
        ["sinfo", "--noheader", "--Node", "--partition", "low", "--format", "%t"],
        capture_output=True,
        text=True,
    )
    return done.stdout.split().count("idle")


def tail(folder):
    lines = [
        line
        for log in sorted(folder.glob("*.out"))
        for line in log.read_text(errors="replace").splitlines()
    ]
    return lines[-1] if lines else "it says nothing"


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(slurm, "POLL", 0.3)
    monkeypatch.setattr(slurm, "GONE", 3.0)


def numbers_of(out):
    """Folder name -> its number in the queue."""
    return {
        path.parent.name: store.read_json(path)["number"] for path in out.glob(f"*/{slurm.NUMBER}")
    }


def test_a_grid_gives_the_records_of_a_local_run(cluster, quick, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    run(grid(here, 2), here)
    assert set(names(run_on_slurm(grid(there, 2), there)).values()) == {"done"}
    assert results_of(there) == results_of(here) and set(runs_of(there).values()) == {1}
    number = {name: text.partition("_")[0] for name, text in numbers_of(there).items()}
    # an array for what waits for the same
    assert number["mid1"] == number["mid2"] != number["root"]
    assert (
        number["leaf0"] == number["leaf2"] != number["leaf1"] == number["leaf3"]
        and len(set(number.values())) == 4
    )
    began = {
        path.parent.name: float(path.read_text().split()[1]) for path in there.glob("*/ran.txt")
    }
    ended = {path.parent.name: path.stat().st_mtime for path in there.glob("*/record.json")}
    assert all(began[j.id] >= ended[need] - 0.02 for j in grid(there) for need in j.needs)
    assert set(names(run_on_slurm(grid(there, 2), there)).values()) == {"done"} and set(
        runs_of(there).values()
    ) == {1}


def test_failures_are_told_and_tried_again(cluster, quick, tmp_path):
    jobs = [
        job(tmp_path, "good"),
        job(tmp_path, "fail", fate="fail"),
        job(tmp_path, "after", ["fail"]),
        job(tmp_path, "killed", fate="killed"),
    ]
    outcome = run_on_slurm(jobs, tmp_path)
    assert names(outcome) == {
        "good": "done",
        "fail": "failed",
        "after": "blocked",
        "killed": "failed",
    }
    assert outcome.states["fail"].error == "RuntimeError: loss not finite"
    gone = outcome.states["killed"].error
    assert "left the queue without a record" in gone
    file = Path(gone.rpartition("Slurm's side of it: ")[2])
    assert file.parent == tmp_path / "slurm" and "the worker ended" in file.read_text()
    assert "about to end" in "".join(last_lines(jobs[0], 9))
    mended = [job(tmp_path, j.id, j.needs) for j in jobs]
    assert set(names(run_on_slurm(mended, tmp_path)).values()) == {"done"}
    assert runs_of(tmp_path) == {"good": 1, "fail": 2, "killed": 2, "after": 1}


DRIVER = """
import sys
from pathlib import Path
from detco.benchmarks.run import EXECUTORS, local, sbatch, slurm
from tests.factories.jobs import grid, run_on_slurm
slurm.POLL = 0.3
run_on_slurm(grid(Path(sys.argv[1]), 10), Path(sys.argv[1]))
"""


def test_the_queue_outlives_the_runner_and_nothing_is_submitted_twice(cluster, quick, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    runners = [
        subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)], env=environment)
        for _ in range(2)
    ]
    wait_until(lambda: len(runs_of(tmp_path)) >= 2, 120)
    numbers = numbers_of(tmp_path)
    for runner in runners:
        runner.kill()
        runner.wait()
    assert len(numbers) == 7
    assert set(names(run_on_slurm(grid(tmp_path, 10), tmp_path)).values()) == {"done"}
    assert numbers_of(tmp_path) == numbers and set(runs_of(tmp_path).values()) == {1}


@pytest.mark.parametrize("how", ["preempted", "told that its time is over"])
def test_a_job_thrown_out_goes_on_from_its_checkpoint(cluster, quick, tmp_path, how):
    steps, urgent = tmp_path / "long" / "step.txt", []

    def look(this):
        if urgent or not steps.exists() or int(steps.read_text() or 0) < 10:
            return
        if how == "preempted":
            urgent.append(
                [
                    "sbatch",
                    "--partition",
                    "high",
                    "--nodes",
                    "2",
                    "--ntasks-per-node",
                    "2",
                    "--output",
                    "/dev/null",
                ]
            )
            urgent[-1] += ["--wrap", "sleep 1"]
        else:
            urgent.append(["scancel", "--signal", "USR2", numbers_of(tmp_path)["long"]])
        subprocess.run(urgent[-1], check=True, stdout=subprocess.DEVNULL)

    long = job(tmp_path, "long", steps=60)
    assert names(run_on_slurm([long], tmp_path, view=look, worker=CHECKPOINTED)) == {"long": "done"}
    assert urgent and runs_of(tmp_path) == {"long": 2} and int(steps.read_text()) == 60
    assert store.read_json(long.folder / "record.json")["status"] == "done"


def test_what_slurm_does_not_take_is_one_line(cluster, quick, tmp_path):
    asks = asks_of(partition="nowhere")
    with pytest.raises(InputError, match=r"Slurm refuses the jobs: .*partition"):
        run_on_slurm([job(tmp_path, "a")], tmp_path, asks)


def test_several_machines_pretrain_together(cluster, quick, tmp_path, scenes):
    """Two machines with two processes each end with the backbone of one process."""
    from safetensors.torch import load_file

    from detco.benchmarks.plan import suite_plan
    from detco.benchmarks.suites.builtin import Data, StartingPoint, Suite, Task

    def planned(out, launch):
        tiny = {
            "epochs": 1,
            "batch": 8,
            "queue": 8,
            "fill_queue": False,
            "groups": 4,
            "precision": "float32",
            "optimizer": "sgd",
        }
        start = (StartingPoint("moco", recipe="moco-v2-small", settings=tiny),)
        suite = Suite(
            "x",
            start,
            (Task("small-retinanet"),),
            Data(scenes / "voc"),
            scenes / "unlabelled",
            engine="replay",
        )
        return suite_plan.plan(suite, out, device="cpu", launches=({}, launch))[:1]

    together, alone = tmp_path / "together", tmp_path / "alone"
    asks = asks_of(pretrain={"nodes": 2})
    jobs = planned(together, {"num_gpus": 2, "num_machines": 2})
    assert set(names(slurm.run(jobs, asks, together, lambda run: None)).values()) == {"done"}, (
        last_lines(jobs[0], 20)
    )
    single = planned(alone, {})
    assert single[0].id == jobs[0].id
    assert set(names(local.run(single, [{"OMP_NUM_THREADS": "1"}], lambda run: None)).values()) == {
        "done"
    }
    files = [load_file(found[0].folder / "backbone.safetensors") for found in (jobs, single)]
    assert files[0].keys() == files[1].keys()
    assert max(float((files[0][key] - files[1][key]).abs().max()) for key in files[0]) < 1e-3


# --- without a Slurm -----------------------------------------------------------------------------


def test_resources_for_all_and_for_one_kind():
    asks = sbatch.resources(
        {"partition": "gpu", "pretrain": {"gpus": 8, "nodes": 2}},
        ["time=24:00:00", "transfer.gpus=4"],
    )
    assert [asks[kind].gpus for kind in local.KINDS] == [0, 8, 4] and {
        ask.partition for ask in asks.values()
    } == {"gpu"}
    assert asks["pretrain"].launch == {"num_gpus": 8, "num_machines": 2} and asks[
        "transfer"
    ].launch == {"num_gpus": 4}
    assert asks["scenes"].launch == {} and {sbatch.minutes(ask.time) for ask in asks.values()} == {
        1440
    }


@pytest.mark.parametrize(
    "text, minutes",
    [
        ("90", 90),
        ("90:30", 91),
        ("2:30:00", 150),
        ("2:30:01", 151),
        ("1-0", 1440),
        ("1-2:30", 1590),
        ("1-02:30:00", 1590),
    ],
)
def test_times_as_sbatch_takes_them(text, minutes):
    assert sbatch.minutes(text) == minutes


@pytest.mark.parametrize(
    "texts, words",
    [
        (["tme=3"], "unknown setting 'tme'; did you mean 'time'"),
        (["pretrain.gps=8"], "unknown setting 'gps'; did you mean 'gpus'"),
        (["time=soon"], "time 'soon': expected MINUTES"),
        (["nodes=0"], "at least 1"),
        (["gpus=many"], "gpus must be a whole number"),
        (["flavour=x"], "unknown setting 'flavour'; known: partition, account, .*, gres, .*, more"),
    ],
)
def test_wrong_resources_are_refused(texts, words):
    with pytest.raises(InputError, match=words):
        sbatch.resources({}, texts)


@pytest.mark.parametrize(
    "gres, gpus",
    [("gpu", 1), ("gpu:8", 8), ("gpu:a100:4", 4), ("lustre:1", 1), ("gpu:a100:2,gpu:v100:1", 3)],
)
def test_generic_resources_say_the_gpus(gres, gpus):
    asks = sbatch.resources({}, [f"gres={gres}", "pretrain.nodes=2"])
    assert asks["pretrain"].launch == {"num_gpus": gpus, "num_machines": 2} or gpus == 1
    assert asks["transfer"].gpus_each == gpus and asks["scenes"].gres is None
    asked = sbatch.parameters(asks["transfer"], "transfer", [])
    assert asked["gres"] == gres and asked.get("gpus_per_node") == (1 if "lustre" in gres else None)


def test_setup_and_other_options_of_sbatch_from_the_command_line(tmp_path):
    texts = ["setup=[module load cuda, date]", "more={mail-type: FAIL}", "transfer.cpus=3"]
    asks = sbatch.resources({"time": "2-0", "gpus": 2}, texts)
    lines = sbatch.script(asks["transfer"], "transfer", tmp_path, 5, ["7", "8_1"]).splitlines()
    wanted = ["cpus-per-task=3", "mail-type=FAIL", "gpus-per-node=2", "time=2880", "requeue"]
    wanted += ["dependency=afterok:7:8_1", "array=0-4%5", "job-name=detco-transfer"]
    assert {f"#SBATCH --{text}" for text in wanted} <= set(lines)
    assert lines.index("module load cuda") + 1 == lines.index("date")
    alone = sbatch.script(asks["scenes"], "scenes", tmp_path, 1, [])
    assert not {"--array", "--dependency", "--gpus"} & set(re.findall(r"--[a-z]+", alone))


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Stand-ins: sbatch keeps the script that it is given, squeue is empty."""
    folder = tmp_path / "programs"
    folder.mkdir()

    def write(name, text="true"):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)

    write("sbatch", f'/bin/cat "$1" >> {tmp_path}/taken; echo Submitted batch job 7')
    write("squeue")
    write("srun")
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_the_script_shown_is_the_one_that_sbatch_gets(programs, tmp_path):
    jobs = [job(tmp_path, name) for name in ("a", "b", "c")]
    site = slurm.Slurm(SimpleNamespace(slurm={"gpus": 0}), SimpleNamespace(slurm=["qos=long"]))
    site.asks["fake"] = site.asks["transfer"]
    shown = site.script(jobs, tmp_path)
    states = [local.State(job) for job in jobs]
    for state in states:
        local.write_spec(state)
    numbers = slurm.submit(states, site.asks, tmp_path / slurm.FILES, {}, ["work"])
    assert (tmp_path / "taken").read_text() == shown and "--qos=long" in shown
    assert numbers == {"a": "7_0", "b": "7_1", "c": "7_2"}


@pytest.mark.parametrize("lacking", [("squeue",), ("srun",), ("sbatch", "srun")])
def test_a_part_of_slurm_missing_is_one_line(programs, tmp_path, lacking):
    for name in lacking:
        (programs / name).unlink()
    with pytest.raises(InputError, match=f"there is no {' and no '.join(lacking)} here"):
        run_on_slurm([job(tmp_path / "out", "a")], tmp_path / "out")
    assert not (tmp_path / "out" / "a").exists()


def test_every_setting_is_in_the_help():
    (text,) = (more["help"] for option, more in EXECUTORS["slurm"].options if option == "--slurm")
    texts = explained(sbatch.Resources)
    assert all(texts.values()) and set(texts) <= set(re.findall(r"\w+", text))
