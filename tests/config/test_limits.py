"""What a command line may not do."""

import os
import subprocess
import sys

import pytest

from quantbench.__main__ import main
from quantbench.config import check_command_line
from quantbench.errors import InputError

REFUSED = {
    "component": ["+rounding._target_=os.system"],
    "nested": ["+rounding={_target_:os.system}"],
    "launcher": ["+hydra.launcher._target_=os.system"],
    "launcher-value": ["hydra.launcher={_target_:os.system}"],
    "sampler": ["hydra.sweeper.sampler._target_=os.system"],
    "callback": ["+hydra.callbacks.x.y=z"],
    "logging": ["hydra.job_logging.handlers.console.class=os.system"],
    "logging-group": ["hydra/job_logging=none"],
    "help": ["hydra/help=none"],
    "search-path": ["hydra.searchpath=[pkg://os]"],
    "environment": ["hydra.job.env_set.LD_PRELOAD=x"],
    "environment-copy": ["hydra.job.env_copy=[SECRET]"],
    "launcher-path": ["hydra/launcher=../../evil"],
    "resolver": ["results_dir=${oc.env:SECRET}"],
    "resolver-spaces": ["results_dir=${ oc.env:SECRET,x}"],
    "resolver-nested": ["evaluation.corpus=${evaluation.${oc.env:SECRET}}"],
    "resolver-of-a-composed-name": ["save=env", "results_dir='${oc.${save}:SECRET}'"],
    "resolver-in-list": ["allocation.skip=[${oc.env:SECRET}]"],
    "resolver-in-hydra": ["hydra.sweep.dir=${oc.env:SECRET}"],
    "resolver-in-interval": ["seed=interval(0,4)", "results_dir=${oc.env:SECRET}"],
}


@pytest.mark.parametrize("multirun", [False, True])
@pytest.mark.parametrize("overrides", REFUSED.values(), ids=REFUSED.keys())
def test_overrides_that_name_code_or_read_the_environment_are_refused(overrides, multirun, monkeypatch):
    monkeypatch.setenv("SECRET", "canary-4711")
    with pytest.raises(InputError) as error:
        check_command_line(overrides, multirun=multirun)
    assert "canary-4711" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("override", ["hydra.sweep.dir=${results_dir}/x", "hydra.verbose=true", "hydra/launcher=basic"])
def test_settings_of_hydra_that_name_no_code_are_allowed(override):
    check_command_line([override], multirun=True)


def test_an_interpolation_of_another_key_is_allowed():
    (config,) = check_command_line(["results_dir=results/${bits}", "bits=3"], multirun=False)
    assert config.results_dir == "results/3"


def test_a_configuration_file_that_reads_the_environment_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "canary-4711")
    (tmp_path / "logger").mkdir()
    (tmp_path / "logger" / "mine.yaml").write_text(
        "defaults: [logger_base, _self_]\nwandb: {mode: disabled, project: '${oc.env:SECRET}'}\n"
    )
    with pytest.raises(InputError, match=r"logger\.wandb\.project.*oc\.env"):
        check_command_line(["logger=mine"], multirun=False, search_path=str(tmp_path))


@pytest.mark.parametrize("flag", ["--config-path", "--config-name", "--experimental-rerun"])
def test_flags_that_replace_the_configuration_or_unpickle_are_refused(flag, tmp_path, capfd):
    assert main([flag, str(tmp_path / "x")]) == 2
    assert f"{flag} is not allowed" in capfd.readouterr().err


def test_secrets_of_the_environment_reach_no_file_and_no_output(tmp_path):
    """A whole run with W&B and one that fails; every byte they write and print is searched."""
    canary = "canary-4711-canary"
    environment = os.environ | {
        name: f"{canary}-{name}" for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD", "PLAIN")
    }
    environment["QUANTBENCH_CACHE"] = str(tmp_path / "cache")
    (tmp_path / "short.txt").write_text("one two three")
    command = [sys.executable, "-m", "quantbench", "-m", "method=gptq", "calibration.corpus=world,short.txt"]
    command += ["calibration.num_samples=2", "evaluation.max_windows=2", "evaluation.tasks=[]"]
    command += ["logger.wandb.mode=offline", "results_dir=out"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=300)
    assert b"short.txt" in done.stderr, done.stderr
    assert done.returncode == 2
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"runs", "samples", "failures"} <= {path.parent.name for path in files}
    assert any(path.suffix == ".wandb" for path in files)
    assert canary.encode() not in done.stdout + done.stderr
    for path in files:
        assert canary.encode() not in path.read_bytes(), path
