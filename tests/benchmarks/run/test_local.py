"""Running jobs: each once and after those it needs, also after kills; failures reported and
retried; no worker left over."""

import fcntl
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from detco.benchmarks.run import live, local, machine
from detco.results import store
from tests.factories import ROOT
from tests.factories.jobs import DRIVER, driver, grid, job, names, results_of, run, runs_of
from tests.factories.processes import alive, wait_until


def test_everything_runs_once_after_what_it_needs(tmp_path):
    jobs = grid(tmp_path, 1)
    assert set(names(run(jobs, tmp_path)).values()) == {"done"}
    records, _ = store.read(tmp_path)
    metric = {record["id"]: record["metrics"] for record in records}
    assert metric == {j.id: {"box_ap": float(int(j.id[:4], 36) % 100)} for j in jobs}
    assert all(r["warnings"] == ["left out: a.jpg"] for r in records)
    assert all(
        r["undefined"] == ["box_aps"] and r["deviations"] == ["fake"] and r["spec"]["title"]
        for r in records
    )
    began = {
        path.parent.name: float(path.read_text().split()[1]) for path in tmp_path.glob("*/ran.txt")
    }
    ended = {path.parent.name: path.stat().st_mtime for path in tmp_path.glob("*/record.json")}
    assert all(began[j.id] >= ended[need] - 0.02 for j in jobs for need in j.needs)
    assert not list(tmp_path.glob("*/progress.json"))
    again = run(jobs, tmp_path)
    assert set(names(again).values()) == {"done"} and set(runs_of(tmp_path).values()) == {1}
    assert all(state.started is None for state in again.states.values())


def test_what_was_done_under_another_name_goes_by_the_new_one(tmp_path):
    """Two rows of a suite change names: each number must follow what it was measured on."""

    def named(**names):
        planned = [job(tmp_path, id) for id in names]
        for one in planned:
            one.spec.update(
                starting_point=names[one.id], title=f"from {names[one.id]}", order=[0, 0]
            )
        return planned

    for names_now in ({"a1": "one", "b2": "two"}, {"a1": "two", "b2": "one"}):
        run(named(**names_now), tmp_path)
        records = {record["id"]: record for record in store.read(tmp_path)[0]}
        assert {key: record["starting_point"] for key, record in records.items()} == names_now
        assert all(
            store.read_json(tmp_path / key / "spec.json") == record["spec"]
            for key, record in records.items()
        )
        assert records["a1"]["spec"]["title"] == f"from {names_now['a1']}"
    assert runs_of(tmp_path) == {"a1": 1, "b2": 1}


def test_a_worker_killed_while_idle_costs_nothing(tmp_path):
    """Another runner has the second job for a while; when it is free the worker that would do
    it is gone."""
    first, second = job(tmp_path, "first"), job(tmp_path, "second")
    second.folder.mkdir()
    locks = [store.take(second.folder)]

    def view(this):
        if this.states["first"].name == "done" and locks:
            (worker,) = this.workers.values()
            worker.process.kill()
            worker.process.wait()
            store.release(locks.pop())

    outcome = run([first, second], tmp_path, slots=1, view=view)
    assert not locks and set(names(outcome).values()) == {"done"}


def test_a_look_at_a_lock_does_not_refuse_its_taking(tmp_path):
    with open(tmp_path / ".lock", "w") as looker:
        fcntl.flock(looker, fcntl.LOCK_SH)
        threading.Timer(0.03, fcntl.flock, (looker, fcntl.LOCK_UN)).start()
        lock = store.take(tmp_path)
    assert lock is not None and store.is_taken(tmp_path)
    store.release(lock)


def test_longest_chain_first(tmp_path):
    jobs = [
        job(tmp_path, "short"),
        job(tmp_path, "long", cost=5),
        job(tmp_path, "base"),
        job(tmp_path, "top", ["base"], cost=9),
    ]
    run(jobs, tmp_path, slots=1)
    began = {
        path.parent.name: float(path.read_text().split()[1]) for path in tmp_path.glob("*/ran.txt")
    }
    assert sorted(began, key=began.get) == ["base", "top", "long", "short"]


def test_failures_stop_only_what_needs_them_and_are_retried(tmp_path):
    jobs = [
        job(tmp_path, "good"),
        job(tmp_path, "fail", fate="fail"),
        job(tmp_path, "after", ["fail"]),
        job(tmp_path, "last", ["after"]),
        job(tmp_path, "input", fate="input"),
        job(tmp_path, "killed", fate="killed"),
    ]
    outcome = run(jobs, tmp_path)
    assert names(outcome) == {
        "good": "done",
        "fail": "failed",
        "after": "blocked",
        "last": "blocked",
        "input": "failed",
        "killed": "failed",
    }
    states = outcome.states
    assert (states["fail"].error, states["fail"].error_kind) == (
        "RuntimeError: loss not finite",
        "work",
    )
    assert (states["input"].error, states["input"].error_kind) == ("no such folder", "input")
    assert "SIGKILL" in states["killed"].error and "fail did not succeed" in states["after"].error
    records, problems = store.read(tmp_path)
    assert problems == [] and {
        r["id"]: r["status"] for r in records if r["id"] != "good"
    } == dict.fromkeys(("fail", "input", "killed"), "failed")
    assert "left out: a.jpg" in local.last_lines(states["killed"].job, 1)[0]
    assert any("RuntimeError: loss" in line for line in local.last_lines(states["fail"].job, 3))

    mended = [job(tmp_path, j.id, j.needs) for j in jobs]
    assert set(names(run(mended, tmp_path)).values()) == {"done"}
    assert runs_of(tmp_path) == {
        "good": 1,
        "fail": 2,
        "input": 2,
        "killed": 2,
        "after": 1,
        "last": 1,
    }


def test_a_folder_that_cannot_be_written_fails_its_job_only(tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "log.txt").mkdir()  # the log cannot be opened
    outcome = run([job(tmp_path, "bad"), job(tmp_path, "good")], tmp_path)
    assert names(outcome) == {"bad": "failed", "good": "done"}
    assert "cannot work in" in outcome.states["bad"].error


def test_kill_9_of_the_runner_and_again(tmp_path):
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    run(grid(calm), calm)
    kills, finished = 0, {}
    for moment in (1, 3):  # killed when so many jobs are done
        process = driver(rough, 6)
        wait_until(lambda n=moment: len(results_of(rough)) >= n)
        wait_until(lambda: any(row["state"] == "running" for row in store.status(rough)))
        process.kill()
        process.communicate()
        kills += 1
        for name in results_of(rough):
            finished.setdefault(name, runs_of(rough)[name])
    wait_until(lambda: not any(row["state"] == "running" for row in store.status(rough)), 10)
    workers = {
        int(line.split()[0])
        for path in rough.glob("*/ran.txt")
        for line in path.read_text().splitlines()
    }
    wait_until(lambda: not any(alive(pid) for pid in workers), 10)
    assert {row["state"] for row in store.status(rough)} <= {"done", "interrupted", "planned"}
    assert set(names(run(grid(rough), rough)).values()) == {"done"}
    assert kills == 2 and len(finished) >= 3
    assert {name: runs_of(rough)[name] for name in finished} == finished
    assert max(runs_of(rough).values()) <= 1 + kills
    assert results_of(rough) == results_of(calm)


def test_two_runners_share_the_work(tmp_path):
    both = [driver(tmp_path, 3) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert set(runs_of(tmp_path)) == {j.id for j in grid(tmp_path)} and set(
        runs_of(tmp_path).values()
    ) == {1}
    for process in both:
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_ends_the_workers_and_nothing_counts_as_failed(tmp_path, number):
    process = driver(tmp_path, 200)
    wait_until(lambda: len(runs_of(tmp_path)) == 3)
    process.send_signal(number)
    assert process.wait(20) == 130
    process.communicate()
    workers = [int(path.read_text().split()[0]) for path in tmp_path.glob("mid*/ran.txt")]
    assert len(workers) == 2 and not any(alive(pid) for pid in workers)
    assert sorted(results_of(tmp_path)) == ["root"]
    states = {row["title"]: row["state"] for row in store.status(tmp_path)}
    assert states["mid1"] == states["mid2"] == "interrupted" and states["leaf0"] == "planned"


@pytest.mark.parametrize("nohup", [True, False])
def test_the_end_of_the_terminal_ends_a_run_unless_it_was_told_not_to(tmp_path, nohup):
    """A runner on a terminal of its own, whose other end is closed: the kernel sends SIGHUP."""
    ours, theirs = os.openpty()

    def on_the_terminal():
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)

    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path / "out"), "10"],
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=on_the_terminal,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    os.close(theirs)
    wait_until(lambda: len(runs_of(tmp_path / "out")) == 3)
    os.close(ours)
    assert process.wait(60) == (0 if nohup else 130)
    count = len(results_of(tmp_path / "out"))
    # of those at work one may have ended before the signal came
    assert count == 7 if nohup else count in (1, 2)


def test_a_failure_elsewhere_is_taken_over_not_repeated(tmp_path):
    """While another runner has a job this one waits, and takes its failure as the outcome."""
    bad = job(tmp_path, "bad")
    bad.folder.mkdir(parents=True)
    lock = store.take(bad.folder)

    def other_runner(this):
        nonlocal lock
        if lock is not None and this.states["bad"].name == "elsewhere":
            record = {
                "format": 1,
                "id": "bad",
                "kind": "fake",
                "status": "failed",
                "spec": {},
                "metrics": {},
                "error": "x",
            }
            record["ended"] = time.time()
            store.write_json(bad.folder / "record.json", record)
            os.close(lock)
            lock = None

    outcome = run([bad], tmp_path, view=other_runner)
    assert (
        names(outcome) == {"bad": "failed"}
        and outcome.states["bad"].error == "x"
        and runs_of(tmp_path) == {}
    )


def test_slots_share_the_cores(monkeypatch):
    def threads(cores, jobs, wanted=None):
        monkeypatch.setattr(machine, "cores", lambda: cores)
        return [int(slot["OMP_NUM_THREADS"]) for slot in machine.local_slots(jobs, wanted, "cpu")]

    assert threads(2, 10) == [1, 1]
    assert threads(4, 10) == [1] * 4
    assert threads(8, 10) == [2] * 4
    assert threads(64, 100) == [4] * 16
    assert threads(8, 1) == [8]
    assert threads(4, 10, 2) == [2, 2]
    assert threads(2, 10, 5) == [1] * 5


def test_one_slot_a_gpu(monkeypatch):
    monkeypatch.setattr(machine, "visible_gpus", lambda: ["0", "3"])
    monkeypatch.setattr(machine, "cores", lambda: 8)
    slots = machine.local_slots(10)
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["0", "3"]
    assert [slot["OMP_NUM_THREADS"] for slot in slots] == ["4", "4"]
    assert [s["CUDA_VISIBLE_DEVICES"] for s in machine.local_slots(10, 4)] == ["0", "3", "0", "3"]
    assert "CUDA_VISIBLE_DEVICES" not in machine.local_slots(10, None, "cpu")[0]


def test_plain_lines_say_start_progress_and_end(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "LINE_EVERY", 0.1)
    lines = []
    run(
        [job(tmp_path, "one", steps=30), job(tmp_path, "two", ["one"], fate="fail")],
        tmp_path,
        view=live.Plain("x", lines.append),
    )
    assert lines[0] == "[0/2 done, about 0:02 left] one: started"  # one after the other
    assert any("one: train" in line and "/30, " in line and "loss" in line for line in lines)
    assert any(line.startswith("[1/2 done") and "one: done in 0:0" in line for line in lines)
    assert lines[-1].endswith("two: failed: RuntimeError: loss not finite")


def test_time_left_by_measured_pace(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    jobs = [job(Path("x"), name, cost=10.0) for name in "abcd"]
    this = local.Run({j.id: local.State(j) for j in jobs}, [{}, {}], began=900.0)
    this.states["a"].name, this.states["a"].started, this.states["a"].seconds = "done", 900.0, 40.0
    this.states["b"].name, this.states["b"].started = "running", 980.0
    fraction, left = live.overall(this, {"b": {"stage": "work", "done": 1, "total": 2}})
    # 15 of 40 planned seconds are done, in 60 s; with 30 s as planned: 2 s for one, 25 left, two
    # slots
    assert fraction == pytest.approx(15 / 40) and left == pytest.approx(25 * 2 / 2)
    # starting up takes as long as it takes: it says little of the pace
    this.states["b"].started = 600.0
    assert live.overall(this, {})[1] == pytest.approx(30 * (440 + 30) / (10 + 30) / 2)
    assert [live.clock(s) for s in (5, 75, 3700)] == ["0:05", "1:15", "1:01:40"]


def test_the_time_left_is_never_below_that_of_the_longest_job(monkeypatch):
    """Sixteen slots and two jobs: one trains for 77 s more, by its own speed; or the plan says so;
    or a third waits for it."""
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    jobs = [job(Path("x"), "a", cost=100.0), job(Path("x"), "b", cost=5.0)]
    jobs.append(job(Path("x"), "c", ["a"], cost=40.0))
    this = local.Run({j.id: local.State(j) for j in jobs[:2]}, [{}] * 16, began=1000.0)
    this.states["a"].name, this.states["a"].started = "running", 1000.0
    slow = {"stage": "train", "done": 23, "total": 100, "speed": 1.0, "figures": {}}
    assert live.overall(this, {"a": slow})[1] == pytest.approx(77)
    slow["speed"] = 10.0
    paced = (1 - 0.85 * 0.23) * 100 * 30 / (30 + 0.85 * 23)
    assert live.overall(this, {"a": slow})[1] == pytest.approx(paced)
    slow["speed"] = 0.5
    assert live.overall(this, {})[1] == pytest.approx(100.0)
    this.states["c"] = local.State(jobs[2])
    assert live.overall(this, {"a": slow})[1] > 77 / 0.5 + 20
    assert live.overall(this, {})[1] == pytest.approx(140.0)


def test_plain_lines_are_rare_and_never_the_same_twice(tmp_path, monkeypatch):
    now, lines = [1000.0], []
    monkeypatch.setattr(time, "time", lambda: now[0])
    this = local.Run({"a": local.State(job(tmp_path, "a", cost=10.0))}, [{}], began=1000.0)
    this.states["a"].name, this.states["a"].started = "running", 1000.0
    (tmp_path / "a").mkdir()
    view = live.Plain("x", lines.append)
    for second in range(121):
        now[0] = 1000.0 + second
        step = min(second, 40)  # then it hangs
        facts = {"stage": "train", "done": step, "total": 100, "speed": 1.0, "figures": {}}
        store.write_json(tmp_path / "a" / "progress.json", facts)
        view(this)
    assert [line.rpartition("] ")[2].split(",")[0] for line in lines] == [
        "a: started",
        "a: train 30/100",
        "a: train 40/100",
    ]


def test_status_from_outside_says_what_the_view_says(tmp_path, capsys):
    from detco.benchmarks.cli import main as cli

    shown = []

    def look(this):
        if (
            not shown
            and this.states["long"].name == "running"
            and (live.progress_of(this.states["long"])["speed"] or 0) > 0
        ):
            assert cli.main(["status", str(tmp_path)]) == 0
            shown.append(
                (capsys.readouterr().out, live.rates(live.progress_of(this.states["long"])))
            )

    run(
        [
            job(tmp_path, "quick"),
            job(tmp_path, "long", ["quick"], steps=40),
            job(tmp_path, "last", ["long"]),
        ],
        tmp_path,
        view=look,
    )
    head, line = shown[0][0].splitlines()
    assert (
        head.startswith("3 jobs: ")
        and "1 done" in head
        and "1 running" in head
        and "% of the work" in head
    )
    speed, figures, _ = shown[0][1]
    assert (
        line.startswith("running  long  train ")
        and "/40, " in line
        and speed.endswith("/s")
        and "loss 0." in figures
    )
    assert line.split()[-1] == "left"
    assert cli.main(["status", str(tmp_path)]) == 0
    counts, shows = capsys.readouterr().out.splitlines()
    assert counts == "3 jobs: 3 done" and shows.startswith("all done: detco table ")


def test_status_counts_many_jobs(tmp_path, capsys):
    from detco.benchmarks.cli import main as cli

    for number in range(100):
        planned = job(tmp_path, f"job{number:04}")
        local.write_spec(local.State(planned))
        if number % 2:
            record = {
                "format": 1,
                "id": planned.id,
                "kind": "fake",
                "status": "done",
                "spec": planned.spec,
                "metrics": {},
                "wall_seconds": 1.0,
            }
            store.write_json(planned.folder / "record.json", record)
    assert cli.main(["status", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "100 jobs: 50 planned, 50 done\n"
