"""A sweep on a real Slurm that this test starts and stops."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from quantbench.cluster import slurm as backend
from quantbench.cluster.job import Job
from quantbench.cluster.options import Slurm
from tests.cluster.slurm import SlurmCluster, missing, until
from tests.cluster.sweep import assert_complete, issue, written

pytest.importorskip("submitit")
pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "Slurm is here")
OPTIONS = Slurm(gpus=0, minutes=7, memory_gb=1.5, retries=1, poll_seconds=0.5)
SLURM = ["hydra/launcher=slurm", "hydra.launcher.gpus=0", "hydra.launcher.cpus=1", "hydra.launcher.memory_gb=null"]
SLURM += ["hydra.launcher.poll_seconds=0.5", "hydra.launcher.minutes=10"]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def states(slurm):
    lines = slurm.command("squeue", "-h", "--array", "--states=all", "--format=%F_%K %T").splitlines()
    return dict(line.split() for line in lines)


def test_a_sweep_with_a_cancelled_job_and_a_restarted_node_is_whole_when_issued_again(slurm, tmp_path):
    first = issue(tmp_path, *SLURM, "hydra.launcher.runs_per_job=3", environment=slurm.environment())
    try:
        # the third job has just begun to load: it is cancelled before its first run
        until(lambda: states(slurm).get("1_2") == "RUNNING", "the third job does not start", 120)
        slurm.command("scancel", "1_2")
        slurm.restart_node()
        said, _ = first.communicate(timeout=180)
    finally:
        first.kill()
    assert first.returncode == 1
    assert "job 2 ended without a result (CANCELLED)" in said, said
    before = written(tmp_path)
    assert len(before) == 9, said

    again = issue(tmp_path, *SLURM, "hydra.launcher.runs_per_job=6", environment=slurm.environment())
    said, _ = again.communicate(timeout=180)
    assert again.returncode == 0, said
    assert_complete(tmp_path)
    assert before.items() <= written(tmp_path).items()  # what was stored has not been computed again


def first_and_second_try(marker, at_first):
    """What the first try does, and how often there was one."""
    tries = len(marker.read_text()) if marker.exists() else 0
    marker.write_text("x" * (tries + 1))
    if not tries:
        at_first()
    return tries + 1


def test_a_killed_job_and_a_preempted_one_start_again(slurm, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", str(slurm.configuration))
    works = [
        partial(first_and_second_try, tmp_path / "killed", partial(os.kill, 0, signal.SIGKILL)),
        partial(first_and_second_try, tmp_path / "preempted", partial(time.sleep, 600)),
    ]
    outcomes = {}
    running = backend.run([Job.of(work) for work in works], OPTIONS, tmp_path / "jobs")
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(lambda: outcomes.update(running))
        until((tmp_path / "preempted").exists, "the second job does not start", 120)
        preempted = next(job for job in states(slurm) if job.endswith("_1") and states(slurm)[job] == "RUNNING")
        described = slurm.command("scontrol", "show", "job", preempted)
        slurm.command("scancel", "--signal=USR2", preempted)
        ended.result(180)
    assert outcomes == {0: 2, 1: 2}
    for expected in ("Requeue=1", "TimeLimit=00:07:00", "MinMemoryNode=1.50G", "JobName=quantbench"):
        assert expected in described, described
