"""Which runs of a sweep are done together."""

import torch

from quantbench.config import check_command_line
from quantbench.job import Job
from quantbench.label import Label
from quantbench.models.identity import ModelIdentity
from quantbench.store.parquet import Store
from quantbench.sweep.groups import grouped

STORE = Store("unused")


def jobs(*arguments, model="embedded"):
    """The jobs of a sweep, named by their place."""
    configs = check_command_line([*arguments, "logger=none"], multirun=True)
    identity = ModelIdentity(model, "sha256:0")
    return [Job(c, Label("", "", {}), identity, torch.device("cpu"), f"{i}", STORE) for i, c in enumerate(configs)]


def names(groups):
    return ["".join(job.identifier for job in group) for group in groups]


def test_methods_bits_and_statistics_go_together_on_one_calibration_set():
    assert names(grouped(jobs("method=rtn,gptq,awq", "bits=3,4", "stats=fp,propagate")[:10])) == ["0123456789"]


def test_each_calibration_set_is_a_group_and_runs_without_one_join_the_first():
    assert names(grouped(jobs("method=fp16,rtn,gptq", "calibration.num_samples=8,16"))) == ["01234", "5"]
    assert names(grouped(jobs("method=gptq", "seed=0,1"))) == ["0", "1"]


def test_each_evaluation_and_dtype_is_a_group():
    assert names(grouped(jobs("method=rtn", "dtype=float32,bfloat16", "evaluation.max_windows=1,2"))) == list("0123")


def test_equal_rotations_go_together_and_come_last_for_their_model():
    sweep = jobs("method=hadamard_rtn,rtn,hadamard_gptq", "seed=0,1")
    assert names(grouped(sweep)) == ["23", "04", "15"]
    others = jobs("method=rtn", model="other")
    assert names(grouped([*sweep, *others])) == ["23", "04", "15", "0"]


def test_learned_rotations_are_of_what_is_quantized_at_run_time():
    sweep = jobs("method=spinquant", "activation=int4_token,int8_token", "rounding=rtn,gptq")
    assert names(grouped(sweep)) == ["01", "23"]
