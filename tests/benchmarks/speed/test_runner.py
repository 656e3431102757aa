"""The measurement of the runner's overhead: its jobs run and its commands succeed."""

from detco.benchmarks.speed import runner
from detco.results import store


def test_jobs_really_run_and_commands_really_answer():
    done = []
    measured = runner.measure(4, 0.01, lambda stage, count, total: done.append((count, total)))
    assert done[-1][1] == 4 and [count for count, _ in done] == sorted(count for count, _ in done)
    assert measured.jobs == 4 and list(measured.commands) == ["detco --help", "detco status DIR"]


def test_what_is_measured_is_said():
    text = str(runner.Measured(20, 0.01, 3.25, 61.04, {"detco --help": 0.5}))
    assert text.splitlines()[0].startswith("20 jobs of 0.01 s in 2 slots")
    figures = [line.split()[-2:] for line in text.splitlines()[1:]]
    assert figures == [["61.0", "ms"], ["3.2", "ms"], ["0.50", "s"]]


def test_a_waiting_job_waits_and_leaves_its_record(tmp_path):
    job = runner.waiting(tmp_path, 1, 0.3)[0]
    runner.local.run([job], [{}], lambda run: None, runner.WORKER)
    record = store.read_json(job.folder / "record.json")
    assert record["status"] == "done" and record["wall_seconds"] >= 0.3
