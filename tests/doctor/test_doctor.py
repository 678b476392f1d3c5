import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest
import torch

from quantbench import doctor
from quantbench.__main__ import main
from quantbench.doctor import machine, services, software
from quantbench.doctor.finding import Finding


@pytest.fixture
def checks(monkeypatch):
    """Only the checks that are given, so that a test waits for nothing else."""

    def use(*chosen):
        monkeypatch.setattr(doctor, "CHECKS", chosen)

    return use


def by_name(findings):
    return {finding.name: finding for finding in findings}


def test_the_whole_examination_passes_here_where_the_tests_run(capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    found = {item["name"]: item for item in report["findings"]}
    assert report["works"]
    assert found["torch"]["detail"].startswith(torch.__version__)
    assert found["cuda"]["there"] == torch.cuda.is_available()
    assert {"embedded model", "hub", "wandb", "submitit", "pdflatex", "chromium", "memory"} <= set(found)
    for item in report["findings"]:
        assert item["there"] or item["remedy"], item
        assert "\n" not in item["detail"] + item["remedy"]


def test_a_person_reads_one_line_for_each_thing_and_how_to_get_what_is_missing(checks, capsys):
    def some() -> Iterator[Finding]:
        yield Finding("torch", True, "2.13", required=True)
        yield Finding("ray", False, "not installed", "pip install ray")

    checks(some)
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "ok  torch  2.13",
        "--  ray    not installed -> pip install ray",
        "",
        "The main job can run: python -m quantbench method=awq bits=4",
    ]


def test_the_exit_code_is_1_only_when_the_main_job_cannot_run(checks, capsys, monkeypatch):
    monkeypatch.setattr(software.metadata, "requires", lambda _: ["torch>=2.8", "no-such-thing>=1", 'x; extra == "y"'])
    checks(software.dependencies)
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert "--  no-such-thing  not installed -> pip install no-such-thing" in printed
    assert "1 of 2 installed" in printed
    assert "The main job cannot run: no-such-thing" in printed


def test_a_torch_that_cannot_be_imported_is_said_and_stops_no_other_check(checks, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    checks(machine.torch_build, machine.python)
    assert main(["doctor", "--json"]) == 1
    found = {item["name"]: item for item in json.loads(capsys.readouterr().out)["findings"]}
    assert not found["torch"]["there"]
    assert found["python"]["there"]


def test_a_check_that_fails_is_a_line(checks, capsys):
    def broken() -> Iterator[Finding]:
        raise RuntimeError("surprise\nin two lines")
        yield

    checks(broken)
    assert main(["doctor"]) == 0
    assert (
        "--  broken  the check failed: RuntimeError: surprise in two lines -> report this line"
        in capsys.readouterr().out
    )


def test_secrets_are_never_printed(tmp_path):
    """Not as they are, and not where something quotes them."""
    secrets = {"HF_TOKEN": "hf_abcdefgh12345678", "WANDB_API_KEY": "0123456789abcdef" * 2 + "01234567"}
    quoted = {
        "HF_ENDPOINT": f"http://me:{secrets['HF_TOKEN']}@localhost:9",
        "QUANTBENCH_CACHE": f"/proc/{secrets['HF_TOKEN']}",
    }
    kept = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"}
    done = subprocess.run(
        [sys.executable, "-m", "quantbench", "doctor"],
        env={**kept, **secrets, **quoted, "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1  # the cache cannot be made there
    assert "set QUANTBENCH_CACHE" in done.stdout
    assert "logged in: runs go online" in done.stdout
    for value in secrets.values():
        assert value not in done.stdout + done.stderr


def test_the_hub_is_not_asked_when_it_is_to_be_left_alone(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(services, "reachable", lambda _: pytest.fail("asked"))
    (finding,) = services.hub()
    assert not finding.there
    assert finding.remedy == "unset HF_HUB_OFFLINE"


def test_a_server_that_answers_with_an_error_is_reachable_and_a_silent_one_is_not_waited_for(monkeypatch):
    class Refusing(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(403)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    assert services.reachable(f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()
    assert not services.reachable(f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(services, "_SECONDS", 0.2)

    def silent(*_, **__):
        time.sleep(5)
        raise OSError("no answer")

    monkeypatch.setattr(services.urllib.request, "urlopen", silent)
    start = time.monotonic()
    assert not services.reachable("http://nowhere")
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    ("available", "version", "expected"),
    [
        (True, "12.8", "GPU X (80.0 GiB, compute capability 9.0)"),
        (False, "12.8", "no GPU visible to torch"),
        (False, None, "this torch has none"),
    ],
)
def test_a_gpu_is_named_and_its_absence_explained(available, version, expected):
    device = SimpleNamespace(name="GPU X", total_memory=80 * 2**30, major=9, minor=0)
    cuda = SimpleNamespace(
        is_available=lambda: available, device_count=lambda: 1, get_device_properties=lambda _: device
    )
    finding = machine._cuda(SimpleNamespace(cuda=cuda, version=SimpleNamespace(cuda=version)))
    assert (finding.there, finding.detail) == (available, expected)
    assert available or finding.remedy


def test_models_in_the_cache_are_named_with_their_size(monkeypatch, tmp_path):
    import huggingface_hub

    repositories = [SimpleNamespace(repo_id=f"org/m{i}", repo_type="model", size_on_disk=2**20) for i in range(7)]
    monkeypatch.setattr(huggingface_hub, "scan_cache_dir", lambda: SimpleNamespace(repos=repositories))
    assert by_name(services.cached_models())["cached models"].detail == (
        "org/m0, org/m1, org/m2, org/m3, org/m4 and 2 more (7.0 MiB)"
    )
