"""Jobs in processes of their own: their GPUs (a faked count), and what happens to one that is killed."""

import os
import signal
import time
from functools import partial
from itertools import pairwise

import pytest

from quantbench.cluster import local
from quantbench.cluster.job import Job, Lost
from quantbench.cluster.options import Joblib
from quantbench.errors import InputError

pytest.importorskip("joblib")


def seen_devices():
    start = time.time()
    time.sleep(0.5)
    return os.environ["CUDA_VISIBLE_DEVICES"], start, time.time()


def killed_once(marker):
    if not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return "second try"


def run(works, options, folder):
    return dict(local.run([Job.of(work) for work in works], options, folder))


def test_each_job_has_a_gpu_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-8f")
    outcomes = run([seen_devices] * 4, Joblib(), tmp_path)
    assert sorted(outcomes) == [0, 1, 2, 3]
    assert {device for device, _, _ in outcomes.values()} == {"3", "GPU-8f"}
    for device in ("3", "GPU-8f"):
        spans = sorted((start, end) for used, start, end in outcomes.values() if used == device)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans)), spans


@pytest.mark.parametrize(
    ("options", "devices", "slots"),
    [
        (Joblib(), ["0", "1"], [["0"], ["1"]]),
        (Joblib(gpus=2), ["0", "1", "2", "3", "4"], [["0", "1"], ["2", "3"]]),
        (Joblib(jobs_at_once=1), ["0", "1"], [["0"]]),
        (Joblib(), [], [[], [], [], []]),
        (Joblib(cpus=2), [], [[], []]),
        (Joblib(cpus=8), [], [[]]),
        (Joblib(gpus=0, cpus=2), ["0"], [[], []]),
    ],
)
def test_as_many_jobs_at_once_as_gpus_or_cores_allow(options, devices, slots):
    assert local.device_slots(options, devices, cores=4) == slots


def test_more_gpus_than_there_are_is_refused():
    with pytest.raises(InputError, match=r"hydra.launcher.gpus=2: this machine has 1"):
        local.device_slots(Joblib(gpus=2), ["0"], cores=4)


def test_a_killed_process_takes_no_other_with_it_and_is_tried_again(tmp_path):
    works = [partial(killed_once, str(tmp_path / "tried")), partial(os._exit, 3), os.getpid]
    outcomes = run(works, Joblib(gpus=0, retries=1), tmp_path)
    assert outcomes[0] == "second try"
    assert isinstance(outcomes[1], Lost)
    assert "ended with exit code 3" in outcomes[1].reason
    assert isinstance(outcomes[2], int)


def test_time_and_memory_of_a_job_are_limited(tmp_path):
    options = Joblib(gpus=0, retries=0, minutes=1 / 60)
    assert "not done after" in run([partial(time.sleep, 600)], options, tmp_path)[0].reason
    options = Joblib(gpus=0, retries=0, memory_gb=2)
    assert isinstance(run([partial(bytearray, 2**32)], options, tmp_path)[0], Lost)
    assert "MemoryError" in (tmp_path / "0.log").read_text()


@pytest.mark.parametrize("setting", [{"gpus": -1}, {"runs_per_job": 0}, {"memory_gb": 0}, {"jobs_at_once": 0}])
def test_an_impossible_setting_is_named(setting):
    with pytest.raises(ValueError, match=f"hydra.launcher.{next(iter(setting))}=.*: allowed are"):
        Joblib(**setting)
