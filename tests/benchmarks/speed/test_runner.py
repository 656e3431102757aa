"""The measurement of the runner's own time: jobs really run, commands really answer."""

from detco.benchmarks.speed import runner
from detco.results import store


def test_workers_reused_add_less_than_a_process_a_job(tmp_path):
    measured = runner.measure(count=20, seconds=0.01)
    assert 0 < measured.reused < measured.fresh
    assert list(measured.commands) == ["detco --help", "detco status DIR"]
    assert f"{measured.reused:.1f} ms" in str(measured)


def test_a_waiting_job_waits_and_leaves_its_record(tmp_path):
    job = runner.waiting(tmp_path, 1, 0.3)[0]
    runner.local.run([job], [{}], lambda run: None, runner.WORKER)
    record = store.read_json(job.folder / "record.json")
    assert record["status"] == "done" and record["wall_seconds"] >= 0.3
